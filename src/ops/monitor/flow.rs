//! Which flow a packet belongs to, as far as the packet itself tells.

use std::net::IpAddr;

use crate::kernel::abi::{cm_direction, cm_event};
use crate::model::identity::Identity;
use crate::model::protocol::{self, EPHEMERAL, ICMP, PRIVILEGED, SCTP, TCP, UDP};
use crate::model::rule::{Action, Direction, L4, Rule};

/// The flag of TCP that begins a flow.
pub const SYN: u8 = 1 << 1;
const ACK: u8 = 1 << 4;

/// Who began the flow of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Originator {
    /// The packet's sender.
    Sender,
    /// The packet's receiver: the packet is an answer.
    Receiver,
    /// Nobody can tell.
    Unknown,
}

/// The direction of a packet, and the identity at its remote end.
pub fn packet_of(event: &cm_event) -> (Direction, Identity) {
    match event.direction {
        cm_direction::CM_INGRESS => (Direction::Ingress, Identity(event.source_identity)),
        _ => (Direction::Egress, Identity(event.destination_identity)),
    }
}

/// The narrowest rule that allows the flow of a packet. `None` if the peer's identity is not known: as 0 it would stand
/// for anybody.
pub fn allow(event: &cm_event, packet: Direction, is_answer: bool, peer: Identity) -> Option<Rule> {
    let direction = if is_answer { packet.other() } else { packet };
    let l4 = l4_of(event, is_answer)?;
    (peer != Rule::ANY).then_some(Rule { action: Action::Allow, direction, peer, l4 })
}

/// The protocol and service that rules are asked about, as `service_of()` in the datapath.
pub fn l4_of(event: &cm_event, is_answer: bool) -> Option<L4> {
    let service = if is_answer { event.sport } else { event.dport };
    let port = u16::from_be(service);
    let is_ipv4 = event.source.to_ip()?.is_ipv4();
    let (request, reply) = protocol::echo_of(is_ipv4);
    let kind = if is_answer && event.icmp_type == reply { request } else { event.icmp_type };
    match event.protocol {
        // The ports of a later fragment are not known without its first one.
        TCP | UDP | SCTP if port == 0 && event.fragment != 0 => None,
        protocol @ (TCP | UDP | SCTP) => Some(L4::Ports { protocol, first: port, last: port }),
        // In the other family these are protocols without types.
        protocol if protocol == protocol::icmp_of(is_ipv4) => Some(L4::IcmpType { protocol, kind }),
        protocol => Some(L4::Protocol(protocol)),
    }
}

/// Which end began the flow, by the packet alone. `listens` tells whether a socket listens at the local end.
pub fn originator(event: &cm_event, listens: impl Fn() -> bool) -> Originator {
    let (sport, dport) = (u16::from_be(event.sport), u16::from_be(event.dport));
    let answers = |is_answer| if is_answer { Originator::Receiver } else { Originator::Sender };
    let is_local_receiver = event.direction == cm_direction::CM_INGRESS;
    match (event.protocol, l4_of(event, false)) {
        (_, Some(L4::IcmpType { protocol, kind }))
            if kind == protocol::echo_of(protocol == ICMP).1 =>
        {
            return Originator::Receiver;
        }
        (TCP, _) if event.tcp_flags & SYN != 0 => return answers(event.tcp_flags & ACK != 0),
        (_, Some(L4::Ports { .. })) => {}
        _ => return Originator::Sender,
    }
    // A multicast destination can't have sent the first packet, and 0.0.0.0 can't have received one.
    if is_of_many(event.destination.to_ip()) || is_unspecified(event.source.to_ip()) {
        return Originator::Sender;
    }
    if event.protocol == TCP && listens() {
        return answers(!is_local_receiver);
    }
    let by = |limit: u16| (sport < limit, dport < limit);
    match (by(PRIVILEGED), by(EPHEMERAL)) {
        ((true, false), _) | ((false, false), (true, false)) => Originator::Receiver,
        ((false, true), _) | ((false, false), (false, true)) => Originator::Sender,
        // Both ports are services, as with DHCP and NTP: either end may begin.
        ((true, true), _) => Originator::Sender,
        _ if sport == dport => Originator::Sender,
        _ => Originator::Unknown,
    }
}

fn is_of_many(address: Option<IpAddr>) -> bool {
    match address {
        Some(IpAddr::V4(v4)) => v4.is_multicast() || v4.is_broadcast(),
        Some(IpAddr::V6(v6)) => v6.is_multicast(),
        None => false,
    }
}

fn is_unspecified(address: Option<IpAddr>) -> bool {
    address.is_some_and(|address| address.is_unspecified())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::identity::Names;
    use crate::model::protocol::ICMP6;

    fn event(protocol: u8, source: (&str, u16), destination: (&str, u16)) -> cm_event {
        let address = |text: &str| text.parse::<IpAddr>().unwrap().into();
        cm_event {
            protocol,
            direction: cm_direction::CM_INGRESS,
            source_identity: 300,
            source: address(source.0),
            destination: address(destination.0),
            sport: source.1.to_be(),
            dport: destination.1.to_be(),
            ..cm_event::default()
        }
    }

    #[test]
    fn ports_tell_who_began_or_nobody_does() {
        use Originator::*;
        for (protocol, source, destination, flags, wanted) in [
            (UDP, ("192.0.2.1", 53), ("10.0.0.1", 40000), 0, Receiver),
            (UDP, ("192.0.2.1", 40000), ("10.0.0.1", 53), 0, Sender),
            (UDP, ("192.0.2.1", 5353), ("10.0.0.1", 40000), 0, Receiver),
            (UDP, ("192.0.2.1", 53), ("10.0.0.1", 2000), 0, Receiver),
            // A lease, from a server that knows the client's address.
            (UDP, ("192.0.2.1", 67), ("10.0.0.1", 68), 0, Sender),
            (UDP, ("0.0.0.0", 68), ("255.255.255.255", 67), 0, Sender),
            (UDP, ("192.0.2.1", 1900), ("239.255.255.250", 50000), 0, Sender),
            (UDP, ("fd00::1", 547), ("ff02::2", 50000), 0, Sender),
            (UDP, ("192.0.2.1", 51820), ("10.0.0.1", 51820), 0, Sender),
            (UDP, ("192.0.2.1", 40000), ("10.0.0.1", 51820), 0, Unknown),
            (UDP, ("192.0.2.1", 2000), ("10.0.0.1", 3000), 0, Unknown),
            (TCP, ("192.0.2.1", 443), ("10.0.0.1", 40000), SYN, Sender),
            (TCP, ("192.0.2.1", 40000), ("10.0.0.1", 443), SYN | ACK, Receiver),
            (TCP, ("192.0.2.1", 443), ("10.0.0.1", 40000), ACK, Receiver),
            (TCP, ("192.0.2.1", 40000), ("10.0.0.1", 50000), ACK, Unknown),
            (47, ("192.0.2.1", 0), ("10.0.0.1", 0), 0, Sender),
        ] {
            let event = cm_event { tcp_flags: flags, ..event(protocol, source, destination) };
            assert_eq!(originator(&event, || false), wanted, "{source:?} {destination:?}");
        }
        let to_a_server = event(TCP, ("192.0.2.1", 40000), ("10.0.0.1", 50000));
        assert_eq!(originator(&to_a_server, || true), Sender);
        let from_it = cm_event { direction: cm_direction::CM_EGRESS, ..to_a_server };
        assert_eq!(originator(&from_it, || true), Receiver);
        for (protocol, kind, address, wanted) in [
            (ICMP, 0, "192.0.2.1", Receiver),
            (ICMP, 8, "192.0.2.1", Sender),
            (ICMP, 3, "192.0.2.1", Sender),
            (ICMP6, 129, "fd00::1", Receiver),
            (ICMP6, 128, "fd00::1", Sender),
            (ICMP6, 129, "192.0.2.1", Sender),
        ] {
            let event = cm_event { icmp_type: kind, ..event(protocol, (address, 0), (address, 0)) };
            assert_eq!(originator(&event, || false), wanted, "{protocol} {kind} {address}");
        }
    }

    #[test]
    fn the_rule_is_about_the_flow_and_not_about_the_packet() {
        let (web, own) = (("192.0.2.1", 443), ("10.0.0.1", 50000));
        for (event, is_answer, rule) in [
            (event(TCP, web, own), false, "allow ingress from 300 tcp/50000"),
            (event(TCP, web, own), true, "allow egress to 300 tcp/443"),
            (event(ICMP, web, own), true, "allow egress to 300 icmp/8"),
            (event(ICMP6, web, own), false, "allow ingress from 300 icmp6"),
            (event(UDP, ("192.0.2.1", 9), ("10.0.0.1", 0)), false, "allow ingress from 300 udp/0"),
            (event(47, web, own), false, "allow ingress from 300 proto/47"),
        ] {
            let (packet, peer) = packet_of(&event);
            let missing = allow(&event, packet, is_answer, peer).unwrap();
            assert_eq!(missing.text(&Names::default()), rule);
        }
        let nobody = cm_event { source_identity: 0, ..event(TCP, web, own) };
        assert!(allow(&nobody, Direction::Ingress, false, packet_of(&nobody).1).is_none());
        let later = cm_event { fragment: 1, dport: 0, ..event(TCP, web, own) };
        assert!(l4_of(&later, false).is_none());
    }
}
