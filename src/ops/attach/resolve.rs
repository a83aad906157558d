//! What a spec comes to on this machine, decided before anything is changed.

use std::collections::BTreeSet;
use std::net::IpAddr;

use anyhow::{Context as _, Result, bail, ensure};
use ipnet::IpNet;
use log::debug;

use super::Terms;
use super::enforcement::{adopts, at_the_latest, confirmation, enforcement, text};
use crate::kernel::abi::{cm_confirm, cm_fallback};
use crate::kernel::device::{self, Device, Framing};
use crate::kernel::hooks::{HookKind, Place};
use crate::kernel::{netns, sys};
use crate::model::endpoint::{EndpointId, Role, Scope};
use crate::model::identity::{Identity, Names};
use crate::model::mac::WorkloadMac;
use crate::model::origin::Origin;
use crate::model::policy::Policy;
use crate::model::prefix::{any_contains, format_prefix, hosts, is_host};
use crate::model::rule::Rule;
use crate::model::rule_list::{IdentityRules, RuleList};
use crate::model::shell::word;
use crate::model::spec::{EndpointSpec, HookChoice, HostAddresses};
use crate::ops::{identities, placement, rules};
use crate::program::load::{self, Features, Resolved, Sizes};
use crate::state::nics;
use crate::state::pin::Root;
use crate::state::registry::Endpoint;
use crate::state::spec::Text;

/// The machine, as far as a spec is about it.
pub struct Machine {
    /// The device.
    pub device: Device,
    /// Inode of its network namespace.
    pub netns: u64,
    /// What the device is going to be.
    pub role: Role,
    /// Why, if the spec does not say it: a sentence.
    pub reason: Option<String>,
}

/// What is to be on a device, and how it gets there.
pub struct Plan {
    /// What its programs are loaded with.
    pub resolved: Resolved,
    /// Where they go.
    pub place: Place,
    /// Of maps, if this makes them.
    pub sizes: Sizes,
    /// What the programs wait for from their first packet on.
    pub confirm: cm_confirm,
    /// Flows that are up are taken over from the kernel's conntrack.
    pub adopts: bool,
    /// What is kept of the spec, with the endpoint.
    pub spec: Text,
    /// The names of identities.
    pub names: Names,
    /// The endpoint gets these rules in place of those that it has for its own, if any are given.
    pub rules: Option<Vec<Rule>>,
    /// Who gives them.
    pub origin: Origin,
    /// What its identity has, and so the endpoint, too.
    pub identity_rules: IdentityRules,
}

impl Plan {
    /// The endpoint's own rules, of those that it has had.
    pub fn own_rules(&self, before: &Policy) -> RuleList {
        let mut own = before.own();
        match (&self.rules, self.origin) {
            (None, _) => {}
            // Whoever says which rules there shall be says it of all.
            (Some(rules), origin @ (Origin::Command | Origin::Hook)) => {
                own.become_those_of(origin, rules);
            }
            (Some(rules), origin) => own.replace(origin, rules),
        }
        own
    }

    /// All its rules; `kept` has numbers that are taken.
    pub fn rules_after(&self, before: &Policy, kept: &Policy) -> Policy {
        before.made_of(&self.own_rules(before), &self.identity_rules.now, kept)
    }

    /// Whether the rules of its identity are what it has to wait for.
    pub fn waits_for_identity(&self) -> bool {
        self.confirm.fallback == cm_fallback::CM_FALLBACK_RULES
            && self.identity_rules.deadline() == Some(self.confirm.until_ns)
    }
}

impl Machine {
    /// Looks at it; an error if the device can't be what is asked for.
    pub fn of(spec: &EndpointSpec) -> Result<Machine> {
        let device = device::by_name(&spec.device)?;
        let (role, reason) = role(spec, &device)?;
        Ok(Machine { device, netns: netns::current()?, role, reason })
    }

    /// What the operator may not have thought of, and what he should be warned of.
    pub fn remarks(&self, spec: &EndpointSpec) -> Result<(Vec<String>, Vec<String>)> {
        let name = &self.device.name;
        if self.role == Role::Container {
            let own = spec.addresses();
            let takes_it = hosts(&own).any(|it| !spec.shared_ip.contains(&it.into()));
            let warning = match own.is_empty() {
                true => {
                    format!("{name} delivers to others, but without --ip nobody delivers to it")
                }
                false => format!(
                    "{name} has no use for --local-delivery: prefixes and shared addresses are left to the stack, and it \
                     has no other address"
                ),
            };
            let warning = Some(warning).filter(|_| spec.local_delivery && !takes_it);
            return Ok((Vec::new(), warning.into_iter().collect()));
        }
        let line = |it: placement::Remark| it.line(name);
        let better = placement::better_place(&self.device)?.map(line);
        let children = placement::children(&self.device, |_| false)?.map(line);
        Ok((better.into_iter().collect(), children.into_iter().collect()))
    }
}

/// Looks up all that the spec leaves to the machine.
pub fn resolve(
    root: &Root,
    spec: &EndpointSpec,
    terms: &Terms,
    machine: &Machine,
    replaced: Option<&Endpoint>,
) -> Result<Plan> {
    let Machine { device, role, netns, .. } = machine;
    let names = identities::names(root)?;
    let place = place(spec, device)?;
    let addresses = addresses(spec, device, *role)?;
    let id = endpoint_id(spec, root, replaced)?;
    let resolved = Resolved {
        id,
        role: *role,
        identity: identity(spec, *role, &names)?,
        scope: scope(*role, replaced)?,
        netns: *netns,
        mac: spec.mac.map_or(device.mac, |mac| mac.0),
        tc_priority: place.tc_priority(),
        nic_slot: nic_slot(root, id, spec, machine)?,
        features: features(spec),
        source_mac: source_mac(spec, device, *role, &addresses),
        others: others(&addresses)?,
        addresses,
        shared: spec.shared_ip.clone(),
        policy: enforcement(root, spec, terms, (*role, replaced)),
        device: device.clone(),
    };
    let identity_rules = rules::of_identity(root, resolved.identity)?;
    let rules = spec.rules.as_ref().map(|rules| {
        rules.iter().map(|rule| Rule::parse(rule, &names)).collect::<Result<Vec<_>>>()
    });
    let text = text(spec, terms, *role)?;
    let sizes = Sizes {
        ipcache: spec.ipcache_entries.map(|entries| entries.get()),
        ct: spec.ct_entries.map(|entries| entries.get()),
        policy: spec.policy_entries.map(|entries| entries.get()),
        spec: Some(text.pieces()),
    };
    Ok(Plan {
        resolved,
        place,
        sizes,
        confirm: at_the_latest(confirmation(spec, terms, replaced)?, identity_rules.deadline()),
        adopts: adopts(spec, *role, replaced),
        rules: rules.transpose()?,
        origin: terms.origin,
        identity_rules,
        spec: text,
        names,
    })
}

/// The role, and a sentence that says why it was chosen; none if the spec says it.
fn role(spec: &EndpointSpec, device: &Device) -> Result<(Role, Option<String>)> {
    let name = &device.name;
    ensure!(
        device.framing.is_some(),
        "{name} has link type {}; cilmark knows Ethernet devices, tun, WireGuard, IP tunnels and PPP",
        device.link_type
    );
    let (role, why) = match spec.role {
        Some(role) => (role, None),
        None if !(device.is_veth() || device.is_tap()) => {
            (Role::Netdev, Some("since it is neither a veth nor a tap"))
        }
        None if device::carries_default_route(device)? => {
            (Role::Netdev, Some("since a default route leaves by it"))
        }
        None => (Role::Container, Some("since it is a veth or tap without a default route")),
    };
    let reason =
        why.map(|why| format!("{name}: taken for a {role}, {why} (--role says otherwise)"));
    let kind = device.kind.as_deref().unwrap_or_default();
    ensure!(
        role == Role::Netdev || !device::shares_its_parents_hooks(kind),
        "{name} is a {kind}, whose hooks see the workload's packets the wrong way round or not \
         at all; attach to its parent device as a netdev, or connect the workload by a veth or \
         a tap"
    );
    for (given, flag, needs) in [
        (spec.arp_responder, "--arp-responder", Role::Container),
        (spec.flow_label, "--flow-label", Role::Container),
        (spec.workload_mac.is_some(), "--workload-mac", Role::Container),
        (spec.router, "--router", Role::Container),
        (!spec.shared_ip.is_empty(), "--shared-ip", Role::Container),
        (spec.trust_marks, "--trust-marks", Role::Container),
        (spec.stamp_remote, "--stamp-remote", Role::Netdev),
        (spec.trust_flow_label.is_some(), "--trust-flow-label", Role::Netdev),
        (spec.host_addresses == HostAddresses::Listed, "--host-addresses", Role::Netdev),
        (spec.failsafe.is_some(), "--failsafe", Role::Netdev),
    ] {
        ensure!(!given || role == needs, "{flag} is for the role {needs}, and {name} is a {role}");
    }
    if let Some(WorkloadMac::Only(_)) = spec.workload_mac {
        ensure!(
            device.framing == Some(Framing::Ethernet),
            "--workload-mac is for Ethernet, and packets of {name} have no such header; leave it out for \
             this device"
        );
    }
    if spec.local_delivery {
        check_local_delivery(device, role)?;
    }
    Ok((role, reason))
}

/// Local delivery redirects whole frames: it takes Ethernet on both sides, and a device to redirect into.
fn check_local_delivery(device: &Device, role: Role) -> Result<()> {
    let name = &device.name;
    ensure!(
        device.framing == Some(Framing::Ethernet),
        "--local-delivery is for Ethernet, and packets of {name} have no such header; leave it out \
         for this device"
    );
    let has_way_in = device.is_tap() || (device.is_veth() && device.parent_is_elsewhere);
    ensure!(
        role == Role::Netdev || has_way_in,
        "--local-delivery is for a tap, or a veth with its other end in another network namespace, \
         and {name} is neither; leave it out for this device"
    );
    Ok(())
}

/// How and where to attach.
fn place(spec: &EndpointSpec, device: &Device) -> Result<Place> {
    let kind = match spec.hook {
        HookChoice::Clsact => HookKind::Clsact,
        HookChoice::Tcx if !sys::has_tcx() => {
            bail!("this kernel has no TCX (Linux 6.6 has); leave out --hook, or say --hook clsact")
        }
        HookChoice::Tcx => HookKind::Tcx,
        HookChoice::Auto if sys::has_tcx() => HookKind::Tcx,
        HookChoice::Auto => HookKind::Clsact,
    };
    Ok(Place { kind, ifindex: device.ifindex, first: spec.first })
}

/// The endpoint's number: as `--endpoint-id` says, as before if it is replaced, or the lowest free one.
fn endpoint_id(
    spec: &EndpointSpec,
    root: &Root,
    replaced: Option<&Endpoint>,
) -> Result<EndpointId> {
    match (spec.endpoint_id, replaced) {
        (Some(wanted), Some(endpoint)) => {
            ensure!(
                endpoint.id == wanted,
                "{} is attached as endpoint {}; `cilmark detach {}` first, to change the number",
                endpoint.device,
                endpoint.id,
                word(&endpoint.device)
            );
            Ok(wanted)
        }
        (Some(wanted), None) => {
            if root.endpoints()?.contains(&wanted) {
                let taken = Endpoint::read(root, wanted)?;
                bail!(
                    "endpoint {wanted} is {}{}; take another number, or `cilmark detach \
                     id:{wanted}`",
                    taken.device,
                    if taken.stale { ", which is gone" } else { "" }
                );
            }
            Ok(wanted)
        }
        (None, Some(endpoint)) => Ok(endpoint.id),
        (None, None) => EndpointId::lowest_free(root.endpoints()?)
            .context("all 65535 endpoint numbers are taken"),
    }
}

/// The slot of a NIC with a policy among those of its root.
fn nic_slot(root: &Root, id: EndpointId, spec: &EndpointSpec, machine: &Machine) -> Result<u8> {
    match machine.role {
        Role::Netdev if !spec.policy.are_off() => {
            nics::slot_for(root, id, &machine.device, machine.netns)
        }
        _ => Ok(0),
    }
}

/// Whose its flows are: those of its own that it has already, or nobody's yet.
fn scope(role: Role, replaced: Option<&Endpoint>) -> Result<Scope> {
    Ok(match (role, replaced) {
        (Role::Netdev, _) => Scope::NICS,
        (Role::Container, Some(endpoint))
            if endpoint.role() == Some(role) && endpoint.has_a_program_there()? =>
        {
            endpoint.config.scope()
        }
        (Role::Container, _) => Scope::NOBODY,
    })
}

/// The identity. It must fit into the mark, and with `--flow-label` into a flow label.
pub(super) fn identity(spec: &EndpointSpec, role: Role, names: &Names) -> Result<Identity> {
    let identity = match (&spec.id, role) {
        (Some(id), _) => id.resolve(names)?,
        (None, Role::Netdev) => Identity::HOST,
        (None, Role::Container) => bail!(
            "a container needs an identity: --id ID, or --labels KEY=VALUE on a host of a cluster"
        ),
    };
    ensure!(
        role == Role::Netdev || identity != Identity::HOST,
        "--id 1 is this host, and a workload with it would pass for the host"
    );
    ensure!(
        identity <= Identity::STAMPABLE_MAX,
        "identity {identity} does not fit into a mark: {} is the largest",
        Identity::STAMPABLE_MAX
    );
    ensure!(
        !spec.flow_label || identity <= Identity::FLOW_LABEL_MAX,
        "identity {identity} does not fit into a flow label: {} is the largest; leave out --flow-label",
        Identity::FLOW_LABEL_MAX
    );
    Ok(identity)
}

/// The addresses and prefixes of `--ip` and `--shared-ip`; of a NIC without that, the addresses that it has.
fn addresses(spec: &EndpointSpec, device: &Device, role: Role) -> Result<Vec<IpNet>> {
    let mut addresses = spec.addresses();
    if role == Role::Netdev && addresses.is_empty() {
        let mut seen = BTreeSet::new();
        let own = device::addresses(device)?.into_iter();
        return Ok(own.map(IpNet::from).filter(|own| seen.insert(*own)).collect());
    }
    for own in &addresses {
        check_own(own, &device.name, role)?;
    }
    addresses.sort_by_key(|own| !is_host(own));
    let is_of =
        |own: &IpNet, is_ipv4, host| (own.addr().is_ipv4(), is_host(own)) == (is_ipv4, host);
    for (family, is_ipv4) in [("IPv4", true), ("IPv6", false)] {
        for (what, host) in [("addresses", true), ("prefixes", false)] {
            let count = addresses.iter().filter(|own| is_of(own, is_ipv4, host)).count();
            // A NIC's addresses are in the ipcache, too, so that some may not fit; a workload's source check needs all.
            ensure!(
                role == Role::Netdev || count <= load::max_addresses(),
                "{count} {family} {what} for one workload; {} are the most",
                load::max_addresses()
            );
        }
    }
    Ok(addresses)
}

/// Of nobody, loopback, multicast, and IPv4 in IPv6. The datapath leaves out all of them of wider prefixes.
const OF_NO_HOST: [&str; 6] =
    ["0.0.0.0/8", "127.0.0.0/8", "224.0.0.0/4", "::/96", "::ffff:0:0/96", "ff00::/8"];

/// Whether it can be an endpoint's.
fn check_own(own: &IpNet, device: &str, role: Role) -> Result<()> {
    let text = format_prefix(own);
    if is_host(own) {
        ensure!(is_of_a_host(&own.addr()), "--ip {text} is not an address that a host sends from");
        return Ok(());
    }
    ensure!(
        role == Role::Container,
        "--ip {text} is a prefix, and {device} is a netdev, whose addresses are named one by one; leave out --ip \
         for those that it has"
    );
    ensure!(
        own.prefix_len() > 0,
        "--ip {text} is every address; to let a workload send from any, leave out --ip"
    );
    let is_around = |range: &str| range.parse::<IpNet>().is_ok_and(|range| range.contains(own));
    ensure!(
        !OF_NO_HOST.iter().any(|range| is_around(range)),
        "--ip {text} has no address that a host sends from"
    );
    Ok(())
}

/// The host's addresses on other devices. There may be too many for the configuration: those in the workload's own
/// prefixes come first, and link-local ones last.
fn others(own: &[IpNet]) -> Result<Vec<IpAddr>> {
    let is_link_local = |ip: &IpAddr| matches!(ip, IpAddr::V6(v6) if v6.is_unicast_link_local());
    let mut others: Vec<IpAddr> = device::local_addresses()?.into_iter().collect();
    others.retain(|ip| !ip.is_loopback() && !own.contains(&IpNet::from(*ip)));
    others.sort_by_key(|ip| (!any_contains(own, *ip), is_link_local(ip), *ip));
    Ok(others)
}

/// The only MAC that a workload may send from: that of `--workload-mac`, or of its veth's other end as it is now.
/// `None` if any may be used.
fn source_mac(
    spec: &EndpointSpec,
    device: &Device,
    role: Role,
    addresses: &[IpNet],
) -> Option<[u8; 6]> {
    match spec.workload_mac {
        _ if role == Role::Netdev => None,
        Some(WorkloadMac::Any) => None,
        Some(WorkloadMac::Only(mac)) => Some(mac.0),
        None if addresses.is_empty() => None,
        None => device::peer_mac(device).unwrap_or_else(|error| {
            debug!("{}: the MAC of its other end: {error:#}", device.name);
            None
        }),
    }
}

fn is_of_a_host(address: &IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => !v4.is_broadcast() && !is_special(address),
        IpAddr::V6(v6) => v6.to_ipv4_mapped().is_none() && !is_special(address),
    }
}

fn is_special(address: &IpAddr) -> bool {
    address.is_unspecified() || address.is_multicast() || address.is_loopback()
}

fn features(spec: &EndpointSpec) -> Features {
    Features {
        arp_responder: spec.arp_responder,
        trust_proxy: spec.trust_proxy,
        flow_label: spec.flow_label,
        trust_flow_label: spec.trust_flow_label,
        stamp_remote: spec.stamp_remote,
        local_delivery: spec.local_delivery,
        router: spec.router,
        by_address: spec.by_address,
        trust_marks: spec.trust_marks,
        host_addresses_listed: spec.host_addresses == HostAddresses::Listed,
        given_addresses: !spec.addresses().is_empty(),
    }
}
