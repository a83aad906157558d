//! What an operator asks of an endpoint, complete and in his words: what commands want, and
//! what is kept with the endpoint.
//!
//! In JSON and in files its fields have the names of `attach`'s flags, with underscores, as all keys there: what it
//! does not name is as it is without the flag. A key that is not known is an error.

use std::fmt;
use std::str::FromStr;

use anyhow::{Error, Result, bail};
use ipnet::{IpNet, Ipv6Net};
use serde::de::{Error as _, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::birth::Birth;
use super::endpoint::{EndpointId, Role};
use super::enforcement::{FailsafeList, Modes, VerdictLog};
use super::identity::{Identity, Names};
use super::labels::Labels;
use super::mac::{Mac, WorkloadMac};
use super::owner::Owner;
use super::prefix::{format_prefix, own, parse_ipv6_prefix, parse_own};
use super::serial::{self, is_default, named};
use super::time::Time;

/// What an endpoint shall be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EndpointSpec {
    /// The device.
    pub device: String,
    /// Whose it is: the number of a container, say.
    #[serde(default, skip_serializing_if = "is_default")]
    pub owner: Option<Owner>,
    /// How it came about, if a runtime's hook has attached it. No file has this.
    #[serde(default, skip_serializing_if = "is_default")]
    pub birth: Option<Birth>,
    /// Labels of the workload, by which it has its identity in a cluster if `id` does not name one.
    #[serde(default, skip_serializing_if = "is_default")]
    pub labels: Labels,
    /// What the device is; `None`: what it looks like.
    #[serde(default, skip_serializing_if = "is_default")]
    pub role: Option<Role>,
    /// The identity; `None` for a NIC that has the host's.
    #[serde(default, skip_serializing_if = "is_default")]
    pub id: Option<IdentityRef>,
    /// Its number; `None`: the one that it has, or the lowest free one.
    #[serde(default, skip_serializing_if = "is_default")]
    pub endpoint_id: Option<EndpointId>,
    /// Its addresses, and prefixes of a workload; none: those that a NIC has, and of a workload any.
    #[serde(default, skip_serializing_if = "is_default")]
    pub ip: OwnAddresses,
    /// Those that a workload shares with others, whether they stand in `ip` or not.
    #[serde(default, skip_serializing_if = "is_default", with = "own")]
    pub shared_ip: Vec<IpNet>,
    /// What the ARP responder answers with, instead of the device's.
    #[serde(default, skip_serializing_if = "is_default")]
    pub mac: Option<Mac>,
    /// What it may send from; `None`: its veth's own.
    #[serde(default, skip_serializing_if = "is_default")]
    pub workload_mac: Option<WorkloadMac>,
    /// Answer a workload's ARP requests.
    #[serde(default, skip_serializing_if = "is_default")]
    pub arp_responder: bool,
    /// Believe the identity in marks of a proxy.
    #[serde(default, skip_serializing_if = "is_default")]
    pub trust_proxy: bool,
    /// Write the identity into the IPv6 flow label.
    #[serde(default, skip_serializing_if = "is_default")]
    pub flow_label: bool,
    /// Read identities from the flow labels of senders in this prefix.
    #[serde(
        default,
        skip_serializing_if = "is_default",
        serialize_with = "serial::optional_text::serialize",
        deserialize_with = "flow_label_prefix"
    )]
    pub trust_flow_label: Option<Ipv6Net>,
    /// Mark what a NIC receives with the identity of its sender.
    #[serde(default, skip_serializing_if = "is_default")]
    pub stamp_remote: bool,
    /// Deliver to workloads of this host past its stack.
    #[serde(default, skip_serializing_if = "is_default")]
    pub local_delivery: bool,
    /// Let a workload advertise routers and offer leases.
    #[serde(default, skip_serializing_if = "is_default")]
    pub router: bool,
    /// Let an address alone prove a workload of this host.
    #[serde(default, skip_serializing_if = "is_default")]
    pub by_address: bool,
    /// Believe identity marks that other programs of this host have set.
    #[serde(default, skip_serializing_if = "is_default")]
    pub trust_marks: bool,
    /// Which addresses are the host's to a NIC.
    #[serde(default, skip_serializing_if = "is_default")]
    pub host_addresses: HostAddresses,
    /// How to attach.
    #[serde(default, skip_serializing_if = "is_default")]
    pub hook: HookChoice,
    /// Run before what is on the hook already.
    #[serde(default, skip_serializing_if = "is_default")]
    pub first: bool,
    /// What the rules do.
    #[serde(default, skip_serializing_if = "is_default")]
    pub policy: Modes,
    /// For how long flows that were up when it began to ask its rules may go on; `None`: the usual time.
    #[serde(default, skip_serializing_if = "is_default")]
    pub adopt: Option<Time>,
    /// Ports of a NIC that no rule closes; `None`: the usual ones.
    #[serde(default, skip_serializing_if = "is_default")]
    pub failsafe: Option<FailsafeList>,
    /// Whose verdicts are reported.
    #[serde(default, skip_serializing_if = "is_default")]
    pub policy_verdict_log: VerdictLog,
    /// With whom it shares its flows.
    #[serde(default, skip_serializing_if = "is_default")]
    pub ct: CtScope,
    /// Size of the maps of flows, if this makes them.
    #[serde(default, skip_serializing_if = "is_default")]
    pub ct_entries: Option<Entries<1>>,
    /// How many entries the rules may come to.
    #[serde(default, skip_serializing_if = "is_default")]
    pub policy_entries: Option<Entries<32>>,
    /// Size of the ipcache's maps, if this makes them.
    #[serde(default, skip_serializing_if = "is_default")]
    pub ipcache_entries: Option<Entries<1>>,
    /// The rules that it shall have and no others, a line each; `None` leaves those that it has.
    #[serde(default, skip_serializing_if = "is_default")]
    pub rules: Option<Vec<String>>,
}

impl EndpointSpec {
    /// Of a device, with nothing else said.
    pub fn new(device: impl Into<String>) -> EndpointSpec {
        EndpointSpec {
            device: device.into(),
            owner: None,
            birth: None,
            labels: Labels::default(),
            role: None,
            id: None,
            endpoint_id: None,
            ip: OwnAddresses::default(),
            shared_ip: Vec::new(),
            mac: None,
            workload_mac: None,
            arp_responder: false,
            trust_proxy: false,
            flow_label: false,
            trust_flow_label: None,
            stamp_remote: false,
            local_delivery: false,
            router: false,
            by_address: false,
            trust_marks: false,
            host_addresses: HostAddresses::default(),
            hook: HookChoice::default(),
            first: false,
            policy: Modes::default(),
            adopt: None,
            failsafe: None,
            policy_verdict_log: VerdictLog::default(),
            ct: CtScope::default(),
            ct_entries: None,
            policy_entries: None,
            ipcache_entries: None,
            rules: None,
        }
    }

    /// Whether its labels make its identity.
    pub fn has_identity_by_labels(&self) -> bool {
        matches!(self.id, None | Some(IdentityRef::Labels(_))) && self.labels != Labels::default()
    }

    /// Whether it is a workload whose labels have no number yet: until it has one, it enforces.
    pub fn waits_for_number(&self, role: Role) -> bool {
        role == Role::Container && self.id == Some(IdentityRef::Labels(Identity::INIT))
    }

    /// All addresses and prefixes that it names, each once.
    pub fn addresses(&self) -> Vec<IpNet> {
        let mut addresses = Vec::new();
        for own in self.ip.listed.iter().chain(&self.shared_ip) {
            if !addresses.contains(own) {
                addresses.push(*own);
            }
        }
        addresses
    }
}

/// Addresses and prefixes of an endpoint. In JSON and in files a list of text, in which `from-netns` stands for those of the
/// workload's network namespace, which the hook of a runtime knows.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct OwnAddresses {
    /// Those that are named.
    pub listed: Vec<IpNet>,
    /// Those of the namespace, too.
    pub from_netns: bool,
}

/// How [`OwnAddresses::from_netns`] is written.
const FROM_NETNS: &str = "from-netns";

impl From<Vec<IpNet>> for OwnAddresses {
    fn from(listed: Vec<IpNet>) -> OwnAddresses {
        OwnAddresses { listed, from_netns: false }
    }
}

impl Serialize for OwnAddresses {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let word = self.from_netns.then(|| FROM_NETNS.to_owned());
        to.collect_seq(self.listed.iter().map(format_prefix).chain(word))
    }
}

impl<'de> Deserialize<'de> for OwnAddresses {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<OwnAddresses, D::Error> {
        let mut own = OwnAddresses::default();
        for text in Vec::<String>::deserialize(from)? {
            match text == FROM_NETNS {
                true => own.from_netns = true,
                false => own.listed.push(parse_own(&text).map_err(D::Error::custom)?),
            }
        }
        Ok(own)
    }
}

/// How to attach.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum HookChoice {
    /// TCX where the kernel has it.
    #[default]
    Auto,
    /// TCX, or not at all.
    Tcx,
    /// A clsact filter.
    Clsact,
}

named!(HookChoice, "kind of hook": Auto = "auto", Tcx = "tcx", Clsact = "clsact");

/// Which addresses are this host's to a NIC.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum HostAddresses {
    /// What the routing tables keep here.
    #[default]
    Routed,
    /// Those of its NICs, and what the ipcache calls host.
    Listed,
}

named!(HostAddresses, "kind of host addresses": Routed = "routed", Listed = "listed");

/// With whom an endpoint shares the maps of its flows.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum CtScope {
    /// With all others.
    #[default]
    Global,
    /// With nobody.
    Local,
}

named!(CtScope, "scope of flows": Global = "global", Local = "local");

/// An identity as somebody has named it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum IdentityRef {
    /// By its number.
    Number(Identity),
    /// By a name, which may be another number's by the time that it is looked up.
    Name(String),
    /// By its labels, which have this number in the cluster; 5 (init) as long as it is not known. Kept with the endpoint as
    /// `labels/<number>`.
    Labels(Identity),
}

/// How [`IdentityRef::Labels`] begins.
const BY_LABELS: &str = "labels/";

impl IdentityRef {
    /// Who that is.
    pub fn resolve(&self, names: &Names) -> Result<Identity> {
        match self {
            IdentityRef::Number(identity) | IdentityRef::Labels(identity) => Ok(*identity),
            IdentityRef::Name(name) => names.parse(name),
        }
    }

    fn number(number: u32) -> Result<IdentityRef> {
        match Identity(number) {
            Identity::UNKNOWN => bail!("it means unknown, and can't be anybody's identity"),
            identity => Ok(IdentityRef::Number(identity)),
        }
    }
}

impl FromStr for IdentityRef {
    type Err = Error;

    fn from_str(text: &str) -> Result<IdentityRef> {
        if let Some(number) = text.strip_prefix(BY_LABELS).and_then(|text| text.parse().ok()) {
            return Ok(IdentityRef::Labels(Identity(number)));
        }
        let starts_as_number = text.starts_with(|c: char| c.is_ascii_digit());
        match Identity::from_number_or_reserved(text) {
            Some(identity) if starts_as_number => IdentityRef::number(identity.0),
            Some(Identity::UNKNOWN) => IdentityRef::number(0),
            _ => Ok(IdentityRef::Name(text.to_owned())),
        }
    }
}

impl fmt::Display for IdentityRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            IdentityRef::Number(identity) => identity.fmt(f),
            IdentityRef::Name(name) => name.fmt(f),
            IdentityRef::Labels(identity) => write!(f, "{BY_LABELS}{identity}"),
        }
    }
}

impl Serialize for IdentityRef {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        match self {
            IdentityRef::Number(identity) => identity.serialize(to),
            IdentityRef::Name(name) => name.serialize(to),
            IdentityRef::Labels(_) => to.collect_str(self),
        }
    }
}

impl<'de> Deserialize<'de> for IdentityRef {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<IdentityRef, D::Error> {
        #[derive(Clone, Copy)]
        struct Reader;

        impl Visitor<'_> for Reader {
            type Value = IdentityRef;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an identity, a number or a name")
            }

            fn visit_u64<E: serde::de::Error>(self, number: u64) -> Result<IdentityRef, E> {
                IdentityRef::number(serial::number(number, 0, u32::MAX)?).map_err(E::custom)
            }

            fn visit_i64<E: serde::de::Error>(self, number: i64) -> Result<IdentityRef, E> {
                self.visit_u64(
                    number.try_into().map_err(|_| {
                        E::invalid_value(serde::de::Unexpected::Signed(number), &self)
                    })?,
                )
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<IdentityRef, E> {
                text.parse().map_err(E::custom)
            }
        }

        from.deserialize_any(Reader)
    }
}

/// How many entries a map has: `LEAST` at least, and at most [`MAX_ENTRIES`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Entries<const LEAST: u32>(u32);

/// What any map may have: gigabytes of flows, and still a size that the kernel takes.
pub const MAX_ENTRIES: u32 = 1 << 24;

impl<const LEAST: u32> Entries<LEAST> {
    /// `None` for fewer or more.
    pub fn new(entries: u32) -> Option<Entries<LEAST>> {
        (LEAST..=MAX_ENTRIES).contains(&entries).then_some(Entries(entries))
    }

    /// How many.
    pub fn get(self) -> u32 {
        self.0
    }
}

impl<'de, const LEAST: u32> Deserialize<'de> for Entries<LEAST> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Entries<LEAST>, D::Error> {
        serial::number(u64::deserialize(from)?, LEAST, MAX_ENTRIES).map(Entries)
    }
}

fn flow_label_prefix<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Ipv6Net>, D::Error> {
    let text: Option<String> = Option::deserialize(from)?;
    let prefix = text.map(|text| parse_ipv6_prefix(&text)).transpose();
    prefix.map_err(|error| D::Error::custom(format_args!("{error:#}")))
}

#[cfg(test)]
mod tests;
