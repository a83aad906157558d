//! Where cilmark does otherwise than others, and why.

use std::net::IpAddr;

use etherparse::{
    IpNumber, Ipv4HeaderSlice, Ipv6ExtensionSlice, Ipv6HeaderSlice, NetSlice, SlicedPacket,
    TransportSlice,
};

use super::format::{PacketStep, Program, Step, Vector};
use crate::common::program::{Outcome, Verdict};

/// A property of steps, what becomes of them instead, and the reason.
pub struct Listed {
    pub reason: &'static str,
    applies: fn(&Vector, &PacketStep) -> bool,
    /// The reasons for which they are dropped; none: they pass.
    drop_reasons: &'static [u32],
}

pub const LISTED: &[Listed] = &[
    Listed {
        reason: "an ICMP error belongs to the flow whose packet it quotes (RFC 792, RFC 4443), and \
                 this one quotes none; others go by the addresses alone",
        applies: |_, step| {
            step.expect.verdict == "forward" && is_icmp_error_about_nothing(&step.packet.0)
        },
        drop_reasons: &[133],
    },
    Listed {
        reason: "a neighbour or router message counts with hop limit 255, a listener message with 1 and \
                 from a link-local address (RFC 4861, RFC 3810): receivers discard the rest, which may \
                 have come from anywhere; others let it pass",
        applies: |_, step| {
            step.expect.verdict == "forward" && is_link_message_from_afar(&step.packet.0)
        },
        drop_reasons: &[133, 176],
    },
    Listed {
        reason: "nobody on a wire is this host: a packet from there under an address of its own is forged \
                 (RFC 1812, 5.3.8), and IPv6 delivers it; Cilium takes it for the host's",
        applies: |vector, step| {
            step.program == Program::FromNetdev
                && source(&step.packet.0).is_some_and(|ip| vector.host.ips.contains(&ip))
        },
        drop_reasons: &[132],
    },
    Listed {
        reason: "behind an authentication header only who shares a key with the sender reads on (RFC 4302), \
                 Linux gives the rest to no socket, and in IPv4 Cilium takes AH for a protocol without \
                 ports, too: so it is one in IPv6, which a rule for proto/51 allows; an answer to what is \
                 behind it then belongs to no flow",
        applies: |vector, step| step.expect.verdict == "forward" && has_ah(vector),
        drop_reasons: &[133],
    },
    Listed {
        reason: "IGMP keeps a switch that snoops informed, as MLD does, which Cilium and cilmark let pass \
                 without a rule: with TTL 1 and to multicast it does not leave its link",
        applies: |_, step| step.expect.verdict == "drop" && is_igmp_of_the_link(&step.packet.0),
        drop_reasons: &[],
    },
];

impl Listed {
    /// Whether this is why a step went otherwise.
    pub fn covers(&self, vector: &Vector, step: &PacketStep, outcome: &Outcome) -> bool {
        let reason = outcome.event.as_ref().map(|event| event.reason.0);
        let does_so = match outcome.verdict {
            Verdict::Drop => reason.is_some_and(|reason| self.drop_reasons.contains(&reason)),
            _ => self.drop_reasons.is_empty(),
        };
        does_so && (self.applies)(vector, step)
    }
}

/// An ICMP error whose payload is no IP packet.
fn is_icmp_error_about_nothing(frame: &[u8]) -> bool {
    match SlicedPacket::from_ethernet(frame).ok().and_then(|packet| packet.transport) {
        Some(TransportSlice::Icmpv4(icmp)) => {
            matches!(icmp.type_u8(), 3 | 11 | 12)
                && Ipv4HeaderSlice::from_slice(icmp.payload()).is_err()
        }
        Some(TransportSlice::Icmpv6(icmp)) => {
            icmp.type_u8() < 128 && Ipv6HeaderSlice::from_slice(icmp.payload()).is_err()
        }
        _ => false,
    }
}

/// A message of neighbour discovery, or of multicast listeners, as none leaves its link.
fn is_link_message_from_afar(frame: &[u8]) -> bool {
    let Ok(packet) = SlicedPacket::from_ethernet(frame) else { return false };
    let (Some(NetSlice::Ipv6(ip)), Some(TransportSlice::Icmpv6(icmp))) =
        (packet.net, packet.transport)
    else {
        return false;
    };
    match icmp.type_u8() {
        133..=136 | 141 | 142 | 148 | 149 => ip.header().hop_limit() != 255,
        130..=132 | 143 | 151..=153 => {
            ip.header().hop_limit() != 1 || !ip.header().source_addr().is_unicast_link_local()
        }
        _ => false,
    }
}

/// Whether a scenario is about TCP behind an authentication header of IPv6.
fn has_ah(vector: &Vector) -> bool {
    let is_in = |frame: &[u8]| match SlicedPacket::from_ethernet(frame).map(|packet| packet.net) {
        Ok(Some(NetSlice::Ipv6(ip))) => ip
            .extensions()
            .clone()
            .into_iter()
            .any(|header| matches!(header, Ipv6ExtensionSlice::Authentication(_))),
        _ => false,
    };
    vector.steps.iter().any(|step| matches!(step, Step::Packet(step) if is_in(&step.packet.0)))
}

fn is_igmp_of_the_link(frame: &[u8]) -> bool {
    match SlicedPacket::from_ethernet(frame).ok().and_then(|packet| packet.net) {
        Some(NetSlice::Ipv4(ip)) => {
            let header = ip.header();
            header.protocol() == IpNumber::IGMP
                && header.ttl() == 1
                && header.destination_addr().is_multicast()
        }
        _ => false,
    }
}

fn source(frame: &[u8]) -> Option<IpAddr> {
    match SlicedPacket::from_ethernet(frame).ok()?.net? {
        NetSlice::Ipv4(ip) => Some(ip.header().source_addr().into()),
        NetSlice::Ipv6(ip) => Some(ip.header().source_addr().into()),
        NetSlice::Arp(_) => None,
    }
}
