//! What may be a packet's source: of a workload its own addresses, of what comes from a wire none of this
//! host's.

use std::net::{IpAddr, Ipv6Addr};

use ipnet::IpNet;

use super::host::{is_for_another, is_link_local, is_multicast};
use super::programs::FORGED;
use super::wire::{Arp, Fragment, IGMP, Ip, Transport, UDP};
use super::{Arrival, Endpoint, Judgement, Machine, Must};

/// `None` if there is nothing against it.
type Objection = Option<Judgement>;

fn refuse(why: &'static str) -> Objection {
    Some(Judgement::new(Must::Drop, why))
}

/// What a MAC makes of fe80::/64 (RFC 4291, appendix A).
fn by_mac(mac: &[u8]) -> Ipv6Addr {
    let half = [mac[0] ^ 2, mac[1], mac[2], 0xff, 0xfe, mac[3], mac[4], mac[5]];
    let mut bytes = [0; 16];
    bytes[0] = 0xfe;
    bytes[1] = 0x80;
    bytes[8..].copy_from_slice(&half);
    bytes.into()
}

fn is_udp(ip: &Ip, from: u16, to: u16) -> bool {
    let ports = Transport::Ports { source: from, destination: to, flags: Default::default() };
    ip.protocol == UDP && ip.transport == ports
}

/// To a client of DHCP, from whatever port.
fn is_lease(ip: &Ip) -> bool {
    let Transport::Ports { destination, .. } = ip.transport else { return false };
    ip.protocol == UDP && matches!(destination, 68 | 546)
}

/// What no neighbour learns from, of multicast listeners, clients of DHCP, and who asks for a router.
fn speaks_for_nobody(ip: &Ip) -> bool {
    match &ip.transport {
        Transport::Message { kind: 131 | 132 | 143, .. } => true,
        Transport::Message { kind: 133, body, .. } => body.is_empty(),
        _ => is_udp(ip, 546, 547),
    }
}

/// Of a network of this host: all of them are of 24 bits.
fn is_broadcast(address: IpAddr) -> bool {
    matches!(address, IpAddr::V4(address) if address.octets()[3] == 255)
}

fn target(ip: &Ip) -> Option<IpAddr> {
    let Transport::Message { body, .. } = &ip.transport else { return None };
    let bytes: [u8; 16] = body.get(..16)?.try_into().ok()?;
    Some(IpAddr::from(bytes))
}

impl Machine {
    /// One of its addresses, or of its prefixes that is nobody else's.
    pub fn is_given(&self, endpoint: &Endpoint, address: IpAddr) -> bool {
        endpoint.addresses.contains(&address) || self.is_own_by_prefix(endpoint, address)
    }

    fn is_own_by_prefix(&self, endpoint: &Endpoint, address: IpAddr) -> bool {
        let around = endpoint.prefixes.iter().filter(|prefix| prefix.contains(&address));
        let Some(own) = around.map(IpNet::prefix_len).max() else { return false };
        let is_no_hosts = match address {
            IpAddr::V4(v4) => v4.is_loopback() || v4.is_broadcast() || v4.is_unspecified(),
            IpAddr::V6(v6) => {
                v6.segments()[..4] == [0; 4] && matches!(v6.segments()[4..6], [0, 0 | 0xffff])
            }
        };
        let is_meant = !is_link_local(address) || own >= 10;
        let has_another = self.owners.get(&address).is_some_and(|owner| owner.id != endpoint.id);
        let longest = self.prefix_owner(address).map_or(0, |(prefix, _)| prefix.prefix_len());
        let is_hosts = match (self.forwards, self.is_routed_on(address)) {
            (true, true) => self.is_listed_by_operator(address),
            (true, false) => true,
            // The routing tables tell nothing.
            (false, _) => self.is_listed_host(address),
        };
        !is_no_hosts
            && is_meant
            && !is_multicast(address)
            && !has_another
            && longest <= own
            && !is_hosts
    }

    /// A workload's own link-local address: the given ones, else what its MAC makes.
    fn is_own(&self, endpoint: &Endpoint, address: IpAddr, frame: &[u8]) -> bool {
        let is_given = endpoint.addresses.iter().any(|own| is_link_local(*own));
        self.is_given(endpoint, address)
            || (!is_given && endpoint.has_ethernet && address == IpAddr::V6(by_mac(&frame[6..12])))
    }

    pub fn object_to_workload(
        &self,
        endpoint: &Endpoint,
        ip: &Ip,
        arrival: &Arrival<'_>,
    ) -> Objection {
        let kind = ip.message().map(|(kind, _)| kind).filter(|_| ip.is_v6());
        let is_router = endpoint.switches.router;
        if matches!(kind, Some(134 | 137)) && !is_router {
            if ip.fragment == Fragment::First {
                return Some(Judgement::either("a router's message in fragments"));
            }
            return refuse("a router's message from a workload");
        }
        if !endpoint.is_bound() {
            return self.object_to_host_address(endpoint, ip, arrival.frame);
        }
        let own = |address| self.is_own(endpoint, address, arrival.frame);
        if !is_router && is_lease(ip) {
            return refuse("a lease from a workload");
        }
        if kind == Some(136) && !target(ip).is_some_and(own) {
            return refuse("an advertisement for a foreign target");
        }
        let is_link = |address: IpAddr| is_link_local(address) && own(address);
        match ip.source {
            source if self.is_given(endpoint, source) => None,
            source if source.is_unspecified() && ip.is_v6() => match kind {
                Some(135) if target(ip).is_some_and(own) => None,
                Some(135) => refuse("a probe for a foreign target"),
                Some(130..=133 | 136 | 143) => None,
                _ if is_udp(ip, 546, 547) => None,
                _ => refuse("from nobody"),
            },
            source if source.is_unspecified() && is_udp(ip, 68, 67) => None,
            source if source.is_unspecified() && ip.protocol == IGMP => None,
            source if is_link(source) => match kind {
                Some(130..=133 | 135 | 136 | 143) => None,
                _ if is_udp(ip, 546, 547) => None,
                _ => Some(Judgement::either("from its link-local address")),
            },
            source if ip.is_v6() && is_link_local(source) && speaks_for_nobody(ip) => None,
            _ => refuse("from a foreign address"),
        }
    }

    /// Nobody has told its addresses, but this host's are none of them.
    fn object_to_host_address(&self, endpoint: &Endpoint, ip: &Ip, frame: &[u8]) -> Objection {
        let is_stacks = !ip.is_v6() && !self.has_stack && !endpoint.switches.local_delivery;
        let says_nothing = ip.source.is_unspecified()
            || is_stacks
            // No stack here routes it, and so it never looks masqueraded.
            || is_for_another(endpoint, frame)
            || is_broadcast(ip.source)
            || ip.source.is_loopback()
            || ip.destination.is_loopback()
            // Nor is that routed.
            || is_multicast(ip.destination)
            || is_multicast(ip.source)
            || is_link_local(ip.source)
            || !self.forwards;
        match self.is_routed_on(ip.source) {
            _ if says_nothing => Some(Judgement::either("from no workload's address")),
            false => refuse("from this host's address"),
            true => None,
        }
    }

    pub fn object_to_arp(
        &self,
        endpoint: &Endpoint,
        arp: &Arp,
        arrival: &Arrival<'_>,
    ) -> Objection {
        let own = |address| self.is_own(endpoint, IpAddr::V4(address), arrival.frame);
        if !endpoint.is_bound() {
            return self
                .is_routed_on(arp.sender.into())
                .then_some(())
                .map_or_else(|| Some(Judgement::either("ARP in this host's name")), |()| None);
        }
        if own(arp.sender) {
            return None;
        }
        if arp.sender.is_unspecified() && arp.is_request {
            return if own(arp.target) { None } else { refuse("a probe for a foreign address") };
        }
        refuse("ARP for a foreign address")
    }

    /// What a NIC receives from one of this host's own addresses.
    pub fn object_to_received(
        &self,
        endpoint: &Endpoint,
        ip: &Ip,
        frame: &[u8],
        is_policed: Option<bool>,
        is_known: bool,
    ) -> Objection {
        let is_listed = endpoint.addresses.contains(&ip.source) || self.is_listed_host(ip.source);
        let is_forwarded = is_policed == Some(false);
        let is_local = !self.is_routed_on(ip.source);
        let is_suspect = is_listed || (is_forwarded && is_local);
        if !is_suspect {
            return None;
        }
        // What comes from ::1 the stack refuses by itself.
        let is_open = ip.source.is_unspecified()
            || ip.source.is_loopback()
            || is_multicast(ip.source)
            || is_broadcast(ip.source)
            || self.label(endpoint, ip).is_some()
            || (!is_listed && !self.forwards)
            // Which refuses it by itself, if it gets it.
            || (is_forwarded && !ip.is_v6() && !self.has_stack && !endpoint.switches.local_delivery)
            || is_known
            || (ip.message().is_some() && ip.echo().is_none())
            || ip.igmp.is_some()
            || is_for_another(endpoint, frame)
            || is_policed.is_none();
        match endpoint.enforces(super::Direction::Ingress) {
            true if !is_open => refuse(FORGED),
            _ => Some(Judgement::either("from this host's own address, but")),
        }
    }
}
