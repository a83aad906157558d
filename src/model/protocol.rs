//! Numbers of IP protocols and of ICMP messages, as IANA has them, and what rules and output call the protocols.

/// ICMP, of IPv4.
pub const ICMP: u8 = 1;
/// TCP.
pub const TCP: u8 = 6;
/// UDP.
pub const UDP: u8 = 17;
/// ICMPv6.
pub const ICMP6: u8 = 58;
/// SCTP.
pub const SCTP: u8 = 132;

/// Those that have a name.
const NAMES: [(u8, &str); 5] =
    [(TCP, "tcp"), (UDP, "udp"), (SCTP, "sctp"), (ICMP, "icmp"), (ICMP6, "icmp6")];

/// What a protocol is called; `None` for those that go by their number.
pub fn name(protocol: u8) -> Option<&'static str> {
    NAMES.into_iter().find(|(known, _)| *known == protocol).map(|(_, name)| name)
}

/// The names.
pub fn names() -> Vec<&'static str> {
    NAMES.iter().map(|(_, name)| *name).collect()
}

/// The protocol that is called so.
pub fn by_name(name: &str) -> Option<u8> {
    NAMES.into_iter().find(|(_, known)| *known == name).map(|(protocol, _)| protocol)
}

/// Whether a protocol has ports that rules can name.
pub fn has_ports(protocol: u8) -> bool {
    matches!(protocol, TCP | UDP | SCTP)
}

/// Whether a protocol has types that rules can name.
pub fn has_types(protocol: u8) -> bool {
    matches!(protocol, ICMP | ICMP6)
}

/// The protocol of echoes and errors.
pub fn icmp_of(is_ipv4: bool) -> u8 {
    if is_ipv4 { ICMP } else { ICMP6 }
}

/// Types of an echo, of the request and of the reply.
pub fn echo_of(is_ipv4: bool) -> (u8, u8) {
    if is_ipv4 { (8, 0) } else { (icmp6::ECHO_REQUEST, icmp6::ECHO_REPLY) }
}

/// The first port that the kernel picks for clients (`ip_local_port_range`).
pub const EPHEMERAL: u16 = 32768;
/// Below it are the ports that only root may take.
pub const PRIVILEGED: u16 = 1024;

/// Types of ICMPv6.
pub mod icmp6 {
    #![allow(missing_docs)]

    /// The errors: destination unreachable is the first, parameter problem the last.
    pub const UNREACHABLE: u8 = 1;
    pub const PARAMETER_PROBLEM: u8 = 4;
    pub const ECHO_REQUEST: u8 = 128;
    pub const ECHO_REPLY: u8 = 129;
    /// MLD (RFC 2710).
    pub const LISTENER_QUERY: u8 = 130;
    pub const ROUTER_ADVERTISEMENT: u8 = 134;
    /// Neighbour discovery (RFC 4861).
    pub const NEIGHBOUR_SOLICITATION: u8 = 135;
    pub const NEIGHBOUR_ADVERTISEMENT: u8 = 136;
    pub const REDIRECT: u8 = 137;
    /// RFC 3122.
    pub const INVERSE_SOLICITATION: u8 = 141;
    /// MLDv2 (RFC 9777).
    pub const LISTENER_REPORT: u8 = 143;
    /// SEND (RFC 3971).
    pub const PATH_SOLICITATION: u8 = 148;
    pub const PATH_ADVERTISEMENT: u8 = 149;
    /// Multicast routers (RFC 4286).
    pub const MULTICAST_ADVERTISEMENT: u8 = 151;
    pub const MULTICAST_TERMINATION: u8 = 153;
}
