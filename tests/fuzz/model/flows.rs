//! What packets leave behind: flows, and the ports of first fragments.

use std::collections::BTreeMap;
use std::net::IpAddr;

use super::wire::{Fragment, Ip, Transport, UDP, is_extension};
use super::{Direction, Endpoint, rules::Service};

/// The ports of a packet, or what stands in their place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Ports {
    None,
    Pair { source: u16, destination: u16 },
    Echo { identifier: u16, is_request: bool },
}

/// A flow, as its endpoint sees it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Key {
    /// A container's number; 0 for all NICs, which share them.
    scope: u16,
    protocol: u8,
    pub local: IpAddr,
    pub remote: IpAddr,
    ends: Ends,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Ends {
    None,
    Pair {
        local: u16,
        remote: u16,
    },
    /// Whose end sends the requests.
    Echo {
        identifier: u16,
        by_local: bool,
    },
}

#[derive(Debug, Clone)]
pub struct Flow {
    /// Of its first packet.
    pub direction: Direction,
    pub epoch: u32,
    /// By the numbers of those that it has passed in that direction.
    pub said: BTreeMap<u16, Said>,
    pub is_masqueraded: bool,
    /// Of a request for a lease.
    pub is_lease: bool,
    /// Whether it is known to be there, and in this state.
    pub is_certain: bool,
    is_established: bool,
    fins: [bool; 2],
    has_reset: bool,
    /// And this host has sent that.
    is_ended: bool,
}

/// What an endpoint says about a flow that it has let pass.
#[derive(Debug, Clone)]
pub struct Said {
    /// By the rules, and not because they are only audited.
    pub is_allowed: bool,
    /// What its originator's packet said there about its identity.
    pub claimed: Option<u32>,
}

/// What names the packet that a fragment is of.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct FragmentKey {
    scope: u16,
    direction: Direction,
    source: IpAddr,
    destination: IpAddr,
    id: u32,
    protocol: u8,
}

/// What is known of a packet from its first fragment, if that has passed.
#[derive(Debug, Clone)]
pub struct Kept {
    pub protocol: u8,
    pub transport: Transport,
    pub is_certain: bool,
}

pub fn scope(endpoint: &Endpoint) -> u16 {
    if endpoint.is_container { endpoint.id } else { 0 }
}

impl Ports {
    pub fn of(ip: &Ip) -> Ports {
        match (&ip.transport, ip.echo()) {
            (_, Some((identifier, is_request))) => Ports::Echo { identifier, is_request },
            (Transport::Ports { source, destination, .. }, _) => {
                Ports::Pair { source: *source, destination: *destination }
            }
            _ => Ports::None,
        }
    }
}

impl Key {
    pub fn of(endpoint: &Endpoint, sent: bool, ip: &Ip, ports: Ports) -> Key {
        let (local, remote) =
            if sent { (ip.source, ip.destination) } else { (ip.destination, ip.source) };
        let ends = match ports {
            Ports::None => Ends::None,
            Ports::Pair { source, destination } if sent => {
                Ends::Pair { local: source, remote: destination }
            }
            Ports::Pair { source, destination } => {
                Ends::Pair { local: destination, remote: source }
            }
            Ports::Echo { identifier, is_request } => {
                Ends::Echo { identifier, by_local: is_request == sent }
            }
        };
        Key { scope: scope(endpoint), protocol: ip.protocol, local, remote, ends }
    }
}

impl Key {
    /// Of what a client of DHCP asks all of its link, under an address.
    pub fn of_request(endpoint: &Endpoint, local: IpAddr) -> Key {
        let (remote, ports) = match local {
            IpAddr::V4(_) => (IpAddr::from([255; 4]), (68, 67)),
            IpAddr::V6(_) => (IpAddr::from([0xff02, 0, 0, 0, 0, 0, 1, 2]), (546, 547)),
        };
        let ends = Ends::Pair { local: ports.0, remote: ports.1 };
        Key { scope: scope(endpoint), protocol: UDP, local, remote, ends }
    }
}

impl FragmentKey {
    pub fn of(endpoint: &Endpoint, direction: Direction, ip: &Ip, protocol: u8) -> FragmentKey {
        FragmentKey {
            scope: scope(endpoint),
            direction,
            source: ip.source,
            destination: ip.destination,
            id: ip.fragment_id,
            protocol,
        }
    }
}

impl Kept {
    /// Of flags, and of what is behind a message's header, nobody is asked again.
    fn of(ip: &Ip) -> Kept {
        let transport = match ip.transport.clone() {
            Transport::Ports { source, destination, .. } => {
                Transport::Ports { source, destination, flags: Default::default() }
            }
            Transport::Message { kind, code, identifier, .. } => {
                Transport::Message { kind, code, identifier, body: Vec::new(), body_at: 0 }
            }
            other => other,
        };
        Kept { protocol: ip.protocol, transport, is_certain: true }
    }

    /// What a first fragment leaves: under what later ones may know of its protocol.
    pub fn from_first(
        endpoint: &Endpoint,
        direction: Direction,
        ip: &Ip,
    ) -> Vec<(FragmentKey, Kept)> {
        let key = |protocol| FragmentKey::of(endpoint, direction, ip, protocol);
        let mut all = vec![(key(ip.protocol), Kept::of(ip))];
        if is_extension(ip.behind_fragment) && ip.is_v6() {
            all.push((key(ip.behind_fragment), Kept::of(ip)));
        }
        all
    }
}

impl Flow {
    pub fn new(direction: Direction, epoch: u32) -> Flow {
        Flow {
            direction,
            epoch,
            said: BTreeMap::new(),
            is_masqueraded: false,
            is_lease: false,
            is_certain: true,
            is_established: false,
            fins: [false; 2],
            has_reset: false,
            is_ended: false,
        }
    }

    /// The same flow, let pass by an endpoint.
    pub fn passing(mut self, endpoint: &Endpoint, is_allowed: bool, claimed: Option<u32>) -> Flow {
        self.said.insert(endpoint.id, Said { is_allowed, claimed });
        self
    }

    pub fn has_passed(&self, endpoint: &Endpoint) -> bool {
        self.said.contains_key(&endpoint.id)
    }

    /// What an endpoint's rules deny, and only audit lets pass.
    pub fn is_audited(&self, endpoint: &Endpoint) -> bool {
        self.said.get(&endpoint.id).is_some_and(|said| !said.is_allowed)
    }

    /// Whatever its packets have said about who sends them.
    pub fn claims(&self) -> Vec<Option<u32>> {
        let mut claims: Vec<Option<u32>> = self.said.values().map(|said| said.claimed).collect();
        claims.sort();
        claims.dedup();
        claims
    }

    /// Both ends have sent a FIN, or the last packet was a RST.
    fn is_closing(&self) -> bool {
        self.fins == [true; 2] || self.has_reset
    }

    /// Whether a SYN is a new flow's under the same name.
    pub fn is_replaced_by(&self, ip: &Ip, direction: Direction) -> bool {
        let opens = ip.protocol == super::wire::TCP && ip.flags().opens();
        opens
            && (self.is_closing()
                || (direction != self.direction && (self.is_established || self.is_masqueraded)))
    }

    /// Whether it goes on by others than a NIC: a packet that this one only audits does not take its place.
    pub fn is_in_use(&self, endpoint: &Endpoint) -> bool {
        let mut others = self.said.iter().filter(|(id, _)| **id != endpoint.id);
        let is_over = self.fins == [true; 2] || self.is_ended;
        !endpoint.is_container
            && !is_over
            && (self.is_masqueraded || others.any(|(_, said)| said.is_allowed))
    }

    /// What a packet tells of its progress.
    pub fn advance(&mut self, ip: &Ip, direction: Direction) {
        let is_reply = direction != self.direction;
        let flags = ip.flags();
        self.is_established |= !flags.syn() && !is_reply;
        self.fins[usize::from(is_reply)] |= flags.fin();
        self.has_reset = flags.rst();
        self.is_ended = flags.rst() && direction == Direction::Egress;
    }
}

/// What a flow is for, seen from one of its packets.
pub fn service(ip: &Ip, ports: Ports, is_reply: bool) -> Service {
    let number = match ports {
        Ports::None => ip.message().map(|(kind, _)| kind.into()),
        Ports::Pair { source, destination } => Some(if is_reply { source } else { destination }),
        Ports::Echo { is_request, .. } => {
            let [request, reply] = if ip.is_v6() { [128, 129] } else { [8, 0] };
            Some(if is_request || is_reply { request } else { reply })
        }
    };
    Service { protocol: ip.protocol, number }
}

/// Types of IGMP between those who listen to groups and multicast routers.
pub fn is_of_groups(igmp: u8) -> bool {
    [0x11, 0x12, 0x16, 0x17, 0x22, 0x30, 0x31, 0x32].contains(&igmp)
}

/// A packet of its own, with a place in a flow.
pub fn has_flow(ip: &Ip) -> bool {
    match ip.transport {
        Transport::Unreadable => false,
        Transport::Message { .. } => ip.echo().is_some(),
        _ => !ip.igmp.is_some_and(is_of_groups),
    }
}

/// Whether it says nothing of who began its connection.
pub fn is_midstream(ip: &Ip) -> bool {
    ip.protocol == super::wire::TCP && !ip.flags().opens()
}

/// Whether it answers who opens a connection, resets one, or continues a first fragment. Where that was not seen, it begins
/// nothing.
pub fn begins_nothing(ip: &Ip) -> bool {
    let flags = ip.flags();
    ip.fragment == Fragment::Later
        || ip.protocol == super::wire::TCP && (flags.rst() || flags.syn() && !flags.opens())
}

/// A first fragment, with the ports that those behind it have.
pub fn is_readable_first(ip: &Ip) -> bool {
    ip.fragment == Fragment::First && ip.transport != Transport::Unreadable
}
