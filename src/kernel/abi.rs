//! The structs of src/bpf/abi/ as Rust sees them, and their bytes.

use std::ffi::c_char;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use anyhow::{Result, anyhow};
use ipnet::{IpNet, Ipv6Net};
use plain::Plain;

pub use crate::kernel::skel::types::*;
use crate::model::endpoint::{EndpointId, Role, Scope};
use crate::model::enforcement::{Failsafe, FailsafePort, Fallback, Mode, VerdictLog};
use crate::model::hook::Hook;
use crate::model::policy::effect::Setting;
use crate::model::{text, wire};

// SAFETY: each is `repr(C)`, made of integers, arrays of integers and transparent newtypes of
// integers, so that every bit pattern is a value; src/bpf/abi/ asserts that there is no padding.
unsafe impl Plain for cm_address {}
// SAFETY: as above.
unsafe impl Plain for cm_prefix {}
// SAFETY: as above.
unsafe impl Plain for cm_ipcache_entry {}
// SAFETY: as above.
unsafe impl Plain for cm_endpoint {}
// SAFETY: as above.
unsafe impl Plain for cm_prefix_owner {}
// SAFETY: as above.
unsafe impl Plain for cm_device {}
// SAFETY: as above.
unsafe impl Plain for cm_identity {}
// SAFETY: as above.
unsafe impl Plain for cm_id_labels {}
// SAFETY: as above.
unsafe impl Plain for cm_spec {}
// SAFETY: as above.
unsafe impl Plain for cm_metrics {}
// SAFETY: as above.
unsafe impl Plain for cm_counters {}
// SAFETY: as above.
unsafe impl Plain for cm_event {}
// SAFETY: as above.
unsafe impl Plain for cm_config {}
// SAFETY: as above.
unsafe impl Plain for u32_key {}
// SAFETY: as above.
unsafe impl Plain for cm_flow_table {}
// SAFETY: as above.
unsafe impl Plain for cm_frag4_key {}
// SAFETY: as above.
unsafe impl Plain for cm_frag6_key {}
// SAFETY: as above.
unsafe impl Plain for cm_frag_ports {}
// SAFETY: as above.
unsafe impl Plain for cm_stack_flow {}
// SAFETY: as above.
unsafe impl Plain for cm_ct4_key {}
// SAFETY: as above.
unsafe impl Plain for cm_ct6_key {}
// SAFETY: as above.
unsafe impl Plain for cm_flow {}
// SAFETY: as above.
unsafe impl Plain for cm_flows4 {}
// SAFETY: as above.
unsafe impl Plain for cm_flows6 {}
// SAFETY: as above.
unsafe impl Plain for cm_flow_edit {}
// SAFETY: as above.
unsafe impl Plain for cm_confirm {}
// SAFETY: as above.
unsafe impl Plain for cm_nic {}
// SAFETY: as above.
unsafe impl Plain for cm_nics {}
// SAFETY: as above.
unsafe impl Plain for cm_policy_key {}
// SAFETY: as above.
unsafe impl Plain for cm_policy_entry {}
// SAFETY: as above.
unsafe impl Plain for cm_port_blocks {}
// SAFETY: as above.
unsafe impl Plain for cm_id_rule_key {}
// SAFETY: as above.
unsafe impl Plain for cm_id_rules_head {}
// SAFETY: as above.
unsafe impl Plain for cm_explanation {}
// SAFETY: as above.
unsafe impl Plain for cm_index_node {}

/// A bare `__u32` as a map key, host byte order.
#[allow(non_camel_case_types)]
#[derive(Debug, Default, Clone, Copy)]
#[repr(transparent)]
pub struct u32_key(pub u32);

/// The bytes of a struct that is shared with the datapath.
pub fn bytes_of<T: Plain>(value: &T) -> &[u8] {
    // SAFETY: `Plain` is implemented above, for types without padding only.
    unsafe { plain::as_bytes(value) }
}

/// The same, for the kernel to write to.
pub fn bytes_of_mut<T: Plain>(value: &mut T) -> &mut [u8] {
    // SAFETY: `Plain` is implemented above, for types of which every bit pattern is a value.
    unsafe { plain::as_mut_bytes(value) }
}

/// A struct from the bytes that the kernel gave, however they are aligned.
pub fn from_bytes<T: Plain + Default>(bytes: &[u8]) -> Result<T> {
    let mut value = T::default();
    plain::copy_from_bytes(&mut value, bytes).map_err(|_| {
        anyhow!("the kernel gave {} bytes for a struct of {}", bytes.len(), size_of::<T>())
    })?;
    Ok(value)
}

impl From<IpAddr> for cm_address {
    fn from(address: IpAddr) -> cm_address {
        let mut bytes = [0; 16];
        match address {
            IpAddr::V4(v4) => bytes[..4].copy_from_slice(&v4.octets()),
            IpAddr::V6(v6) => bytes = v6.octets(),
        }
        let family = if address.is_ipv4() { cm_family::CM_IPV4 } else { cm_family::CM_IPV6 };
        cm_address { family, bytes }
    }
}

impl cm_address {
    /// The address; `None` if there is none.
    pub fn to_ip(self) -> Option<IpAddr> {
        match self.family {
            cm_family::CM_IPV4 => {
                let [a, b, c, d, ..] = self.bytes;
                Some(Ipv4Addr::new(a, b, c, d).into())
            }
            cm_family::CM_IPV6 => Some(Ipv6Addr::from(self.bytes).into()),
            _ => None,
        }
    }
}

/// Bits of `cm_prefix.prefixlen` that the family takes.
const FAMILY_BITS: u32 = 32;

impl From<&IpNet> for cm_prefix {
    fn from(prefix: &IpNet) -> cm_prefix {
        cm_prefix {
            prefixlen: FAMILY_BITS + u32::from(prefix.prefix_len()),
            address: prefix.network().into(),
        }
    }
}

impl cm_prefix {
    /// The prefix; `None` if the key is malformed.
    pub fn to_net(self) -> Option<IpNet> {
        let length = self.prefixlen.checked_sub(FAMILY_BITS)?;
        IpNet::new(self.address.to_ip()?, length.try_into().ok()?).ok()
    }
}

impl From<Ipv6Addr> for cm_ipv6 {
    fn from(address: Ipv6Addr) -> cm_ipv6 {
        let mut words = [0; 4];
        for (word, octets) in words.iter_mut().zip(address.octets().chunks_exact(4)) {
            *word = u32::from_ne_bytes(octets.try_into().expect("a chunk of four"));
        }
        cm_ipv6 { words }
    }
}

impl From<cm_ipv6> for Ipv6Addr {
    fn from(address: cm_ipv6) -> Ipv6Addr {
        let mut octets = [0; 16];
        for (chunk, word) in octets.chunks_exact_mut(4).zip(address.words) {
            chunk.copy_from_slice(&word.to_ne_bytes());
        }
        octets.into()
    }
}

impl From<Mode> for cm_policy_mode {
    fn from(mode: Mode) -> cm_policy_mode {
        match mode {
            Mode::Off => cm_policy_mode::CM_POLICY_OFF,
            Mode::Audit => cm_policy_mode::CM_POLICY_AUDIT,
            Mode::Enforce => cm_policy_mode::CM_POLICY_ENFORCE,
        }
    }
}

impl From<cm_policy_mode> for Mode {
    fn from(mode: cm_policy_mode) -> Mode {
        match mode {
            cm_policy_mode::CM_POLICY_ENFORCE => Mode::Enforce,
            cm_policy_mode::CM_POLICY_AUDIT => Mode::Audit,
            _ => Mode::Off,
        }
    }
}

impl From<Fallback> for cm_fallback {
    fn from(fallback: Fallback) -> cm_fallback {
        match fallback {
            Fallback::Audit => cm_fallback::CM_FALLBACK_AUDIT,
            Fallback::Rules => cm_fallback::CM_FALLBACK_RULES,
        }
    }
}

/// `cm_config.policy_verdict_log`: a bit for each direction.
pub fn verdict_log(log: VerdictLog) -> u32 {
    let ingress = 1 << cm_direction::CM_INGRESS.0;
    let egress = 1 << cm_direction::CM_EGRESS.0;
    match log {
        VerdictLog::None => 0,
        VerdictLog::Ingress => ingress,
        VerdictLog::Egress => egress,
        VerdictLog::Both => ingress | egress,
    }
}

impl From<&FailsafePort> for cm_failsafe {
    fn from(port: &FailsafePort) -> cm_failsafe {
        cm_failsafe { protocol: port.protocol, pad: 0, port: port.port.to_be() }
    }
}

impl cm_config {
    /// Whether either direction has a policy, be it for audit only.
    pub fn has_policy(&self) -> bool {
        self.policy.iter().any(|mode| *mode != cm_policy_mode::CM_POLICY_OFF)
    }

    /// Whether its programs keep anything of flows, and so have to know whose they are.
    pub fn keeps_flows(&self) -> bool {
        self.has_policy() || self.delivery != cm_delivery::CM_DELIVERY_NONE
    }

    /// Whose its flows are.
    pub fn scope(&self) -> Scope {
        Scope::of(self.scope)
    }

    /// The slot of a NIC with a policy among these; `None` for all other endpoints.
    pub fn nic_slot(&self) -> Option<u8> {
        let is_nic = self.role == cm_role::CM_ROLE_NETDEV;
        (is_nic && self.has_policy()).then_some(self.nic_slot)
    }

    /// Whether its programs remember what they have asked the routing tables: `remembers_forwarded()`
    /// of the datapath.
    pub fn remembers_forwarded(&self) -> bool {
        match self.role {
            cm_role::CM_ROLE_NETDEV => self.has_policy(),
            _ => !self.has_addresses() || self.ipv4_net_count > 0 || self.ipv6_net_count > 0,
        }
    }

    /// What its policy does to it and from it.
    pub fn modes(&self) -> [Mode; 2] {
        self.policy.map(Mode::from)
    }

    /// What the policy of the program on a hook does: of a workload, what its device receives is
    /// egress.
    pub fn mode_on(&self, hook: Hook) -> Mode {
        let is_ingress = (hook == Hook::Ingress) == (self.role == cm_role::CM_ROLE_NETDEV);
        let [ingress, egress] = self.modes();
        if is_ingress { ingress } else { egress }
    }

    /// The role; `None` in a configuration that was never written.
    pub fn role(&self) -> Option<Role> {
        match self.role {
            cm_role::CM_ROLE_CONTAINER => Some(Role::Container),
            cm_role::CM_ROLE_NETDEV => Some(Role::Netdev),
            _ => None,
        }
    }

    /// What stands before the rules; `None` without a role.
    pub fn setting(&self) -> Option<Setting> {
        let role = self.role()?;
        let ports = |ports: &[cm_failsafe], count: u32| -> Vec<FailsafePort> {
            let ports = ports.iter().take(count as usize);
            let port = |it: &cm_failsafe| FailsafePort {
                protocol: it.protocol,
                port: u16::from_be(it.port),
            };
            ports.map(port).collect()
        };
        Some(Setting {
            role,
            modes: self.modes(),
            failsafe: Failsafe {
                ingress: ports(&self.failsafe_ingress, self.failsafe_count[0]),
                egress: ports(&self.failsafe_egress, self.failsafe_count[1]),
            },
            refuses_host: role == Role::Netdev && self.accept_local == 0 && self.in_vrf == 0,
            is_router: self.router != 0,
            has_addresses: self.has_addresses(),
        })
    }

    /// The endpoint's number; `None` in a configuration that was never written.
    pub fn endpoint(&self) -> Option<EndpointId> {
        u16::try_from(self.endpoint_id).ok().and_then(EndpointId::new)
    }

    /// Whether it has any addresses or prefixes.
    pub fn has_addresses(&self) -> bool {
        let counts = [self.ipv4_count, self.ipv6_count];
        let of_prefixes = [self.ipv4_net_count, self.ipv6_net_count];
        counts.iter().any(|count| *count > 0) || of_prefixes.iter().any(|count| *count > 0)
    }

    /// The endpoint's addresses, and behind them its prefixes.
    pub fn addresses(&self) -> Vec<IpNet> {
        self.own().map(|(own, _)| own).collect()
    }

    /// Those of them that other workloads may have, too.
    pub fn shared(&self) -> Vec<IpNet> {
        self.own().filter(|(_, is_shared)| *is_shared).map(|(own, _)| own).collect()
    }

    fn own(&self) -> impl Iterator<Item = (IpNet, bool)> {
        fn marked<T>(
            own: impl Iterator<Item = T>,
            count: u32,
            shared: u8,
        ) -> impl Iterator<Item = (T, bool)> {
            let is_shared = move |index: usize| index < 8 && shared >> index & 1 != 0;
            own.take(count as usize).enumerate().map(move |(index, own)| (own, is_shared(index)))
        }
        let v4 = self.ipv4.iter().map(|word| IpNet::from(IpAddr::from(word.to_ne_bytes())));
        let v6 = self.ipv6.iter().map(|words| IpNet::from(IpAddr::from(Ipv6Addr::from(*words))));
        let net = |address: IpAddr, length: u32| IpNet::new(address, length as u8).ok();
        let nets4 = self
            .ipv4_nets
            .iter()
            .filter_map(move |it| net(it.address.to_ne_bytes().into(), it.length));
        let nets6 = self
            .ipv6_nets
            .iter()
            .filter_map(move |it| net(Ipv6Addr::from(it.address).into(), it.length));
        marked(v4, self.ipv4_count, self.shared_ipv4)
            .chain(marked(v6, self.ipv6_count, self.shared_ipv6))
            .chain(marked(nets4, self.ipv4_net_count.into(), self.shared_ipv4_nets))
            .chain(marked(nets6, self.ipv6_net_count.into(), self.shared_ipv6_nets))
    }

    /// The only MAC that a container may send from; `None` for any.
    pub fn workload_mac(&self) -> Option<[u8; 6]> {
        Some(self.source_mac).filter(|mac| *mac != [0; 6])
    }

    /// Of whose senders the flow labels are read.
    pub fn trusted_flow_labels(&self) -> Option<Ipv6Net> {
        let (prefix, mask) = (self.flow_label_prefix.into(), self.flow_label_mask.into());
        let prefix = Ipv6Net::with_netmask(prefix, mask).ok();
        prefix.filter(|_| self.trust_flow_label != 0)
    }

    /// The device's name when it was attached.
    pub fn device_name(&self) -> String {
        string_of(&self.device)
    }
}

impl cm_reason {
    /// Cilium's name for it (pkg/monitor/api/drop.go); also for what only other versions give.
    pub fn name(self) -> &'static str {
        wire::name(wire::CM_REASON_NAMES, self.0).unwrap_or("Unknown reason")
    }
}

impl cm_counter {
    /// What it counts.
    pub fn name(self) -> &'static str {
        wire::name(wire::CM_COUNTER_NAMES, self.0).unwrap_or("Unknown counter")
    }
}

/// A MAC as the datapath keeps that of a workload: `workload_mac`.
pub fn mac_word([a, b, c, d, e, f]: [u8; 6]) -> u64 {
    u64::from_ne_bytes([a, b, c, d, e, f, 0, 0])
}

/// The bytes of a text in a zero-terminated field of fixed size, cut to fit.
pub fn chars_of<const N: usize>(text: &str) -> [c_char; N] {
    let mut chars = [0; N];
    for (to, from) in chars[..N - 1].iter_mut().zip(text::to_bytes(text)) {
        *to = from as c_char;
    }
    chars
}

/// The text of the bytes in a zero-terminated field.
pub fn string_of(chars: &[c_char]) -> String {
    let bytes: Vec<u8> = chars.iter().map(|c| *c as u8).take_while(|byte| *byte != 0).collect();
    text::from_bytes(&bytes)
}
