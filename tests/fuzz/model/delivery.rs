//! Local delivery: what goes into a workload of this host past its stack.

use super::messages::DISCOVERY;
use super::wire::{self, Frame, Transport};
use super::{Arrival, Endpoint};

/// Of Ethernet, on devices that nobody gave another.
const MTU: usize = 1500;

/// Whether a frame that passes is delivered to a neighbour that takes it, and not left to the stack.
pub fn is_delivered(from: &Endpoint, to: &Endpoint, arrival: &Arrival<'_>) -> bool {
    let Frame::Ip(ip) = wire::read(arrival.frame, from.has_ethernet, arrival.is_gso) else {
        return false;
    };
    let is_seen_only = arrival.frame[..6] != from.mac;
    // It counts on the hop limit that it was sent with.
    let discovery = ip.message().is_some_and(|(kind, _)| kind == 137 || DISCOVERY.contains(&kind));
    from.switches.local_delivery
        && to.switches.local_delivery
        && from.has_ethernet
        && from.id != to.id
        && to.addresses.contains(&ip.destination)
        // Else the answer would come by the stack.
        && (from.prefixes.is_empty() || from.addresses.contains(&ip.source))
        && ip.at == 14
        && ip.hops > 1
        && arrival.frame[0] & 1 == 0
        && !(is_seen_only && !from.is_container && from.bridge.is_none())
        && ip.transport != Transport::Unreadable
        && !(ip.is_v6() && discovery)
        && arrival.frame.len() <= 14 + MTU
}

pub fn is_later_fragment6(arrival: &Arrival<'_>) -> bool {
    let Frame::Ip(ip) = wire::read(arrival.frame, true, arrival.is_gso) else { return false };
    ip.fragment == wire::Fragment::Later && ip.is_v6()
}

/// Whether a frame has become the same from a router at `node`, for its workload at `workload`.
pub fn is_routed(before: &[u8], after: &[u8], node: [u8; 6], workload: [u8; 6]) -> bool {
    let hops = if before[14] >> 4 == 4 { 14 + 8 } else { 14 + 7 };
    let check = if before[14] >> 4 == 4 { 14 + 10..14 + 12 } else { 0..0 };
    let rest = |frame: &[u8]| {
        let mut rest = frame.to_vec();
        rest[..12].fill(0);
        rest[hops] = 0;
        rest[check.clone()].fill(0);
        rest
    };
    after.len() == before.len()
        && after[..6] == workload
        && after[6..12] == node
        && after[hops] == before[hops] - 1
        && rest(before) == rest(after)
}
