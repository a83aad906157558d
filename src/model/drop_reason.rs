//! Cilium's names for drop reasons (pkg/monitor/api/drop.go), by Cilium's numbers.

/// The name of a reason, also of those that only other versions give; 0 is no drop.
pub fn name(reason: u32) -> &'static str {
    match reason {
        0 => "Forwarded",
        64 => "Event lost",
        65 => "Policy denied, but only audited",
        67 => "Flow found no room in conntrack",
        70 => "Flow displaced that was over",
        71 => "Flow displaced that was not answered",
        72 => "Flow displaced that waited for an answer",
        73 => "Flow displaced that was answered",
        132 => "Invalid source ip",
        133 => "Policy denied",
        134 => "Invalid packet",
        139 => "Unsupported L3 protocol",
        140 => "Missed tail call",
        141 => "Error writing to packet",
        156 => "Invalid IPv6 extension header",
        166 => "Unsupported L2 protocol",
        175 => "First logical datagram fragment not found",
        176 => "Forbidden ICMPv6 message",
        181 => "Policy denied by denylist",
        _ => "Unknown reason",
    }
}
