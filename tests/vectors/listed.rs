//! Where cilmark does otherwise than Cilium, and why.

use etherparse::{Ipv4HeaderSlice, Ipv6HeaderSlice, SlicedPacket, TransportSlice};

use super::format::PacketStep;
use crate::common::program::{Outcome, Verdict};

/// A property of steps, what becomes of them instead, and the reason.
pub struct Listed {
    pub reason: &'static str,
    applies: fn(&PacketStep) -> bool,
    /// The reason for which they are dropped.
    drop_reason: u32,
}

pub const LISTED: &[Listed] = &[Listed {
    reason: "an ICMP error belongs to the flow whose packet it quotes (RFC 792, RFC 4443), and \
             this one quotes none; Cilium goes by the addresses alone",
    applies: |step| step.expect.verdict == "forward" && is_icmp_error_about_nothing(&step.packet.0),
    drop_reason: 133,
}];

impl Listed {
    /// Whether this is why a step went otherwise.
    pub fn covers(&self, step: &PacketStep, outcome: &Outcome) -> bool {
        let reason = outcome.event.as_ref().map(|event| event.reason.0);
        outcome.verdict == Verdict::Drop && reason == Some(self.drop_reason) && (self.applies)(step)
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
