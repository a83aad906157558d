//! What is this host's, and who sent a packet.

use std::net::{IpAddr, Ipv4Addr};

use ipnet::IpNet;

use super::rules::Rule;
use super::wire::Ip;
use super::{Arrival, Direction, Endpoint, Machine, Program};

const HOST: u32 = 1;
const WORLD: u32 = 2;

const MAGIC: u32 = 0x0f00;
const MAGIC_HOST: u32 = 0x0c00;
const MAGIC_IDENTITY: u32 = 0x0f00;
/// Bits that belong to others in every mark.
pub const NOT_OURS: u32 = 0xf000;

pub fn is_ours(mark: u32) -> bool {
    names_sender(mark) || [0x0200, 0x0d00, 0x0e00].contains(&(mark & MAGIC))
}

pub fn names_sender(mark: u32) -> bool {
    [0x0a00, 0x0b00, MAGIC_HOST, MAGIC_IDENTITY].contains(&(mark & MAGIC))
}

/// In the name of somebody: nobody's identity ends in 16 zeros.
fn is_proxy(mark: u32) -> bool {
    [0x0a00, 0x0b00].contains(&(mark & MAGIC)) && mark >> 16 != 0
}

fn identity_in(mark: u32) -> u32 {
    (mark & 0xff) << 16 | mark >> 16
}

pub fn stamp(identity: u32) -> u32 {
    (identity & 0xffff) << 16 | MAGIC_IDENTITY | identity >> 16
}

/// Says less than the address may.
fn is_reserved(identity: u32) -> bool {
    matches!(identity, 0 | 2 | 6 | 7 | 9 | 10)
}

pub fn is_from_stack(arrival: &Arrival<'_>) -> bool {
    arrival.ingress_ifindex == 0 || arrival.mark & MAGIC == MAGIC_HOST
}

pub fn is_multicast(address: IpAddr) -> bool {
    address.is_multicast() || address == IpAddr::V4(Ipv4Addr::BROADCAST)
}

pub fn is_link_local(address: IpAddr) -> bool {
    matches!(address, IpAddr::V6(address) if address.is_unicast_link_local())
}

/// The frame is unicast to another MAC than the device's, or on a bridge port than the bridge's.
pub fn is_for_another(endpoint: &Endpoint, frame: &[u8]) -> bool {
    endpoint.has_ethernet
        && frame[0] & 1 == 0
        && frame[..6] != endpoint.mac
        && endpoint.bridge.is_none_or(|mac| frame[..6] != mac)
}

impl Machine {
    fn line(&self, address: IpAddr) -> Option<&super::Line> {
        let lines = self.ipcache.iter().filter(|line| line.prefix.contains(&address));
        lines.max_by_key(|line| line.prefix.prefix_len())
    }

    pub fn identity_of(&self, address: IpAddr) -> u32 {
        self.line(address).map_or(WORLD, |line| line.identity)
    }

    /// A line of its own says that it is the host's.
    pub fn is_listed_host(&self, address: IpAddr) -> bool {
        self.ipcache.iter().any(|line| {
            line.prefix.prefix_len() == line.prefix.max_prefix_len()
                && line.prefix.addr() == address
                && (line.is_host || line.identity == HOST)
        })
    }

    /// The same, and no NIC's attachment has entered it.
    pub fn is_listed_by_operator(&self, address: IpAddr) -> bool {
        let is_nics = |line: &super::Line| line.is_host && line.prefix == address.into();
        self.is_listed_host(address) && !self.ipcache.iter().any(is_nics)
    }

    /// The longest prefix of a workload that has an address.
    pub fn prefix_owner(&self, address: IpAddr) -> Option<(&IpNet, &super::Owner)> {
        let around = self.prefix_owners.iter().filter(|(prefix, _)| prefix.contains(&address));
        around.max_by_key(|(prefix, _)| prefix.prefix_len())
    }

    /// Whether what is known of an address is known of a workload's prefix.
    fn is_known_by_prefix(&self, address: IpAddr) -> bool {
        self.line(address).is_some_and(|line| self.prefix_owners.contains_key(&line.prefix))
    }

    fn is_local_workload(&self, address: IpAddr) -> bool {
        self.owners.get(&address).is_some_and(|owner| owner.is_container && owner.is_here)
    }

    /// Whether the routing tables would send a packet on.
    pub fn is_routed_on(&self, address: IpAddr) -> bool {
        let is_loopback = address.is_loopback();
        self.forwards && !is_loopback && !self.local.contains(&address) && !is_multicast(address)
    }

    fn is_listed(&self, endpoint: &Endpoint, address: IpAddr) -> bool {
        endpoint.addresses.contains(&address) || self.is_listed_host(address)
    }

    /// Whether a NIC's host has an address; `None` where nobody has it, whatever the routing tables say.
    pub fn has_address(&self, endpoint: &Endpoint, address: IpAddr) -> Option<bool> {
        if self.is_listed(endpoint, address) || is_multicast(address) {
            return Some(true);
        }
        // Nobody forwards it, and nobody here has it.
        let is_nowhere = is_link_local(address) && !self.local.contains(&address);
        (!is_nowhere).then(|| !self.is_routed_on(address))
    }

    /// The same of what a NIC receives: by another MAC only if that is certain.
    fn is_hosts(&self, endpoint: &Endpoint, address: IpAddr, frame: &[u8]) -> Option<bool> {
        if !is_for_another(endpoint, frame) {
            return self.has_address(endpoint, address);
        }
        if is_multicast(address) {
            return Some(false);
        }
        if self.is_listed(endpoint, address) {
            return Some(!self.is_routed_on(address));
        }
        if address.is_loopback() || is_link_local(address) {
            return None;
        }
        Some(self.forwards && self.local.contains(&address))
    }

    /// Whether the policy of a NIC is asked.
    pub fn is_policed(
        &self,
        endpoint: &Endpoint,
        program: Program,
        ip: &Ip,
        arrival: &Arrival<'_>,
    ) -> Option<bool> {
        match program {
            Program::FromNetdev => {
                let is_for_another = is_for_another(endpoint, arrival.frame);
                if ip.destination == IpAddr::V4(Ipv4Addr::UNSPECIFIED) {
                    // From nobody to nobody is a broadcast (ip_route_input_slow in the kernel).
                    return (ip.source == ip.destination && !is_for_another).then_some(true);
                }
                let is_hosts = self.is_hosts(endpoint, ip.destination, arrival.frame);
                // Nobody forwards what comes from a link-local address.
                let is_nobodys = is_multicast(ip.source) || ip.source.is_loopback();
                is_hosts
                    .filter(|is_hosts| *is_hosts || !is_link_local(ip.source))
                    .filter(|_| !(is_for_another && is_nobodys))
            }
            _ => {
                // A reset may answer for an address that a redirect has taken the question away from.
                let is_foreign = self.has_address(endpoint, ip.source) != Some(true);
                let may_answer = arrival.ingress_ifindex == 0 && ip.flags().rst() && is_foreign;
                let is_hosts = self.is_host_traffic(endpoint, Some(ip.source), arrival);
                Some(is_hosts).filter(|is_hosts| !(*is_hosts && may_answer))
            }
        }
    }

    pub fn is_host_traffic(
        &self,
        endpoint: &Endpoint,
        source: Option<IpAddr>,
        arrival: &Arrival<'_>,
    ) -> bool {
        is_from_stack(arrival)
            && !(endpoint.switches.trust_proxy && is_proxy(arrival.mark))
            && !source.is_some_and(|source| self.is_local_workload(source))
    }

    /// What a packet itself says of its sender.
    pub fn claim(
        &self,
        endpoint: &Endpoint,
        program: Program,
        ip: &Ip,
        arrival: &Arrival<'_>,
    ) -> Option<u32> {
        match program {
            Program::FromNetdev => self.label(endpoint, ip),
            Program::ToContainer => Some(self.claim_by_mark(endpoint, ip, arrival)),
            _ => None,
        }
    }

    pub fn label(&self, endpoint: &Endpoint, ip: &Ip) -> Option<u32> {
        let IpAddr::V6(source) = ip.source else { return None };
        let is_trusted = endpoint.trusted_labels.is_some_and(|prefix| prefix.contains(&source));
        let says_nothing = [0, HOST, endpoint.identity].contains(&ip.flow_label);
        (is_trusted && !says_nothing).then_some(ip.flow_label)
    }

    fn claim_by_mark(&self, endpoint: &Endpoint, ip: &Ip, arrival: &Arrival<'_>) -> u32 {
        let mark = arrival.mark;
        let here = self.owners.get(&ip.source).filter(|owner| owner.is_here);
        let by_prefix = || self.prefix_owner(ip.source).map(|(_, owner)| owner);
        let is_owners = here
            .or_else(by_prefix)
            .is_some_and(|owner| owner.is_here && owner.ifindex == arrival.ingress_ifindex);
        let is_trusted = endpoint.switches.trust_marks;
        let is_proven = arrival.is_delivered || is_trusted || is_owners;
        match mark & MAGIC {
            _ if arrival.ingress_ifindex == 0 => HOST,
            MAGIC_HOST if is_trusted => HOST,
            MAGIC_IDENTITY if is_proven => identity_in(mark),
            _ if endpoint.switches.trust_proxy && is_proxy(mark) => identity_in(mark),
            _ => WORLD,
        }
    }

    /// Who is at the other end of a flow; more than one where that is open.
    pub fn peers(
        &self,
        endpoint: &Endpoint,
        direction: Direction,
        remote: IpAddr,
        claimed: Option<u32>,
        arrival: &Arrival<'_>,
    ) -> Vec<u32> {
        if direction == Direction::Egress {
            return self.receivers(endpoint, remote, arrival);
        }
        match claimed {
            Some(claimed) if !endpoint.is_container || !is_reserved(claimed) => vec![claimed],
            Some(claimed) => self.by_address(endpoint, remote, claimed),
            None => self.by_address(endpoint, remote, WORLD),
        }
    }

    /// What a workload sends may be for this host, whoever its address is listed for: that is asked where a
    /// rule could tell.
    fn receivers(&self, endpoint: &Endpoint, remote: IpAddr, arrival: &Arrival<'_>) -> Vec<u32> {
        let listed = self.identity_of(remote);
        let tells = |rule: &Rule| {
            rule.direction == Direction::Egress && [Some(HOST), Some(WORLD)].contains(&rule.peer)
        };
        let may_differ = endpoint.rules.iter().any(tells) || self.is_known_by_prefix(remote);
        if !endpoint.is_container || !may_differ {
            return vec![listed];
        }
        let is_open = !self.forwards
            || is_multicast(remote)
            || is_link_local(remote)
            || remote.is_loopback()
            || remote.is_unspecified()
            // The host may not have it, but its neighbours.
            || (!self.has_stack && endpoint.has_ethernet && arrival.frame[0] & 1 == 1);
        match self.local.contains(&remote) {
            _ if is_open => vec![listed, HOST],
            true => vec![HOST],
            false => vec![listed],
        }
    }

    fn by_address(&self, endpoint: &Endpoint, remote: IpAddr, otherwise: u32) -> Vec<u32> {
        let Some(line) = self.line(remote) else { return vec![otherwise] };
        // An address is no proof where its owner is attached here and could have stamped.
        let is_workloads = self.is_local_workload(remote) || self.is_known_by_prefix(remote);
        if is_workloads && !endpoint.switches.by_address {
            return if otherwise == WORLD { vec![WORLD] } else { vec![WORLD, otherwise] };
        }
        let says_host = line.identity == HOST || line.is_host;
        if endpoint.is_container && says_host {
            return vec![otherwise];
        }
        vec![line.identity]
    }

    /// What a NIC stamps on what it has received.
    pub fn remote_to_stamp(&self, endpoint: &Endpoint, ip: &Ip) -> Vec<u32> {
        if let Some(label) = self.label(endpoint, ip) {
            return vec![label];
        }
        match self.line(ip.source) {
            Some(line) if line.is_host || line.identity == HOST => vec![WORLD],
            _ => self.by_address(endpoint, ip.source, WORLD),
        }
    }
}
