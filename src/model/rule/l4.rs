//! What a rule says of layer 4.

use std::fmt;
use std::str::FromStr;

use anyhow::{Context, Error, Result, bail, ensure};

use crate::model::protocol::{self, ICMP, ICMP6, SCTP, TCP, UDP};

/// What of layer 4 a rule matches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum L4 {
    /// Everything.
    Any,
    /// All of an IP protocol.
    Protocol(u8),
    /// Destination ports of TCP, UDP or SCTP.
    Ports {
        /// One that has ports.
        protocol: u8,
        /// The lowest port, host byte order.
        first: u16,
        /// The highest, which is no lower.
        last: u16,
    },
    /// One type of ICMP message.
    IcmpType {
        /// ICMP or ICMPv6.
        protocol: u8,
        /// Its number.
        kind: u8,
    },
}

/// How an L4 is written, for messages.
pub(super) const FORMS: &str =
    "tcp, tcp/80, tcp/80-90 (so udp and sctp), icmp/8, icmp6/128, proto/47, or nothing for all";

impl FromStr for L4 {
    type Err = Error;

    fn from_str(text: &str) -> Result<L4> {
        let (name, detail) = match text.split_once('/') {
            Some((name, detail)) => (name, Some(detail)),
            None => (text, None),
        };
        if name == "proto" {
            let number = detail.and_then(number::<u8>);
            return Ok(L4::Protocol(number.with_context(|| {
                format!("`{text}`: `proto/` takes the number of a protocol, 0 to 255")
            })?));
        }
        let Some(protocol) = protocol::by_name(name) else {
            bail!("{}", unknown_l4(text, detail));
        };
        match (protocol, detail) {
            (_, None) => Ok(L4::Protocol(protocol)),
            (ICMP | ICMP6, Some(detail)) => {
                let kind = number(detail).with_context(|| {
                    format!("`{text}`: `{name}/` takes one type of message, 0 to 255")
                })?;
                Ok(L4::IcmpType { protocol, kind })
            }
            (_, Some(detail)) => parse_ports(text, protocol, detail),
        }
    }
}

fn parse_ports(text: &str, protocol: u8, detail: &str) -> Result<L4> {
    let (first, last) = detail.split_once('-').unwrap_or((detail, detail));
    let (Some(first), Some(last)) = (number(first), number(last)) else {
        bail!("`{text}`: a port is a number from 0 to 65535, a range two of them: 80-90");
    };
    ensure!(first <= last, "`{text}`: the range is the wrong way round; write {last}-{first}");
    Ok(L4::Ports { protocol, first, last })
}

/// Digits only: `parse` would take a sign, too.
fn number<T: FromStr>(text: &str) -> Option<T> {
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok()).flatten()
}

/// What is wrong with an L4, and what may have been meant.
fn unknown_l4(text: &str, detail: Option<&str>) -> String {
    let hint = match detail {
        Some("tcp" | "udp" | "sctp") => {
            let (port, protocol) = text.split_once('/').unwrap_or_default();
            format!("write `{protocol}/{port}`")
        }
        _ if text.starts_with("icmpv6") => "ICMPv6 is called `icmp6`".to_owned(),
        None if number::<u16>(text).is_some() => format!("say of what: `tcp/{text}`"),
        _ => format!("write {FORMS}"),
    };
    format!("`{text}` is not a protocol or port: {hint}")
}

/// Nothing, for [`L4::Any`].
impl fmt::Display for L4 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let protocol = match *self {
            L4::Any => return Ok(()),
            L4::Protocol(protocol) | L4::Ports { protocol, .. } | L4::IcmpType { protocol, .. } => {
                protocol
            }
        };
        match protocol::name(protocol) {
            Some(name) => f.write_str(name)?,
            None => write!(f, "proto/{protocol}")?,
        }
        match *self {
            L4::Any | L4::Protocol(_) => Ok(()),
            L4::Ports { first, last, .. } if first == last => write!(f, "/{first}"),
            L4::Ports { first, last, .. } => write!(f, "/{first}-{last}"),
            L4::IcmpType { kind, .. } => write!(f, "/{kind}"),
        }
    }
}

impl L4 {
    /// Puts together what is stored of a rule; `None` if no rule has these parts. An ICMP type is
    /// a range of one.
    pub fn from_parts(protocol: Option<u8>, range: Option<(u16, u16)>) -> Option<L4> {
        match (protocol, range) {
            (None, None) => Some(L4::Any),
            (Some(protocol), None) => Some(L4::Protocol(protocol)),
            (Some(protocol @ (TCP | UDP | SCTP)), Some((first, last))) if first <= last => {
                Some(L4::Ports { protocol, first, last })
            }
            (Some(protocol @ (ICMP | ICMP6)), Some((first, last))) if first == last => {
                Some(L4::IcmpType { protocol, kind: first.try_into().ok()? })
            }
            _ => None,
        }
    }

    /// The protocol, if not all are matched.
    pub fn protocol(self) -> Option<u8> {
        match self {
            L4::Any => None,
            L4::Protocol(protocol) | L4::Ports { protocol, .. } | L4::IcmpType { protocol, .. } => {
                Some(protocol)
            }
        }
    }

    /// First and last port, or twice the ICMP type; `None` if ports do not matter.
    pub fn range(self) -> Option<(u16, u16)> {
        match self {
            L4::Any | L4::Protocol(_) => None,
            L4::Ports { first, last, .. } => Some((first, last)),
            L4::IcmpType { kind, .. } => Some((kind.into(), kind.into())),
        }
    }

    /// Whether it matches all that another one does.
    pub fn covers(self, other: L4) -> bool {
        self.meet(other) == Some(other)
    }

    /// What both match; `None` if that is nothing.
    pub fn meet(self, other: L4) -> Option<L4> {
        let protocol = match (self.protocol(), other.protocol()) {
            (None, _) => return Some(other),
            (_, None) => return Some(self),
            (Some(a), Some(b)) => Some(a).filter(|_| a == b)?,
        };
        let range = match (self.range(), other.range()) {
            (None, range) | (range, None) => range,
            (Some(a), Some(b)) => Some((a.0.max(b.0), a.1.min(b.1))),
        };
        L4::from_parts(Some(protocol), range)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_two_match_is_what_each_of_them_matches() {
        for (a, b, both) in [
            ("", "tcp/80", Some("tcp/80")),
            ("tcp", "tcp/80-90", Some("tcp/80-90")),
            ("tcp/1-80", "tcp/80-90", Some("tcp/80")),
            ("tcp/1-79", "tcp/80-90", None),
            ("tcp", "udp", None),
            ("icmp6", "icmp6/128", Some("icmp6/128")),
            ("icmp6/129", "icmp6/128", None),
            ("", "", Some("")),
            ("proto/47", "proto/47", Some("proto/47")),
        ] {
            let l4 = |text: &str| if text.is_empty() { L4::Any } else { text.parse().unwrap() };
            let both = both.map(l4);
            assert_eq!(l4(a).meet(l4(b)), both, "{a} {b}");
            assert_eq!(l4(b).meet(l4(a)), both, "{b} {a}");
            assert_eq!(l4(a).covers(l4(b)), both == Some(l4(b)), "{a} {b}");
        }
    }
}
