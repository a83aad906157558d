//! Rules by their documented meaning: a deny of any kind beats every allow, and nothing is allowed that
//! no rule allows.

use std::fmt;

use super::{Direction, Mode};

#[derive(Debug, Clone, PartialEq)]
pub struct Rule {
    pub allows: bool,
    pub direction: Direction,
    /// `None` for any.
    pub peer: Option<u32>,
    pub l4: L4,
}

#[derive(Debug, Clone, PartialEq)]
pub enum L4 {
    Any,
    Protocol(u8),
    Ports(u8, u16, u16),
    /// A type of ICMP or ICMPv6.
    Type(u8, u8),
}

/// What a flow is for: the responder's port, or a message's type.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Service {
    pub protocol: u8,
    pub number: Option<u16>,
}

impl Rule {
    pub fn matches(&self, direction: Direction, peer: u32, service: Service) -> bool {
        self.direction == direction
            && self.peer.is_none_or(|named| named == peer)
            && match self.l4 {
                L4::Any => true,
                L4::Protocol(protocol) => protocol == service.protocol,
                L4::Ports(protocol, first, last) => {
                    protocol == service.protocol
                        && service.number.is_some_and(|port| (first..=last).contains(&port))
                }
                L4::Type(protocol, kind) => {
                    protocol == service.protocol && service.number == Some(kind.into())
                }
            }
    }
}

/// Whether the rules allow a flow; without a policy everything is.
pub fn allow(rules: &[Rule], mode: Mode, direction: Direction, peer: u32, to: Service) -> bool {
    let matching = || rules.iter().filter(|rule| rule.matches(direction, peer, to));
    mode == Mode::Off || (matching().next().is_some() && matching().all(|rule| rule.allows))
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.allows { "allow " } else { "deny " })?;
        f.write_str(match self.direction {
            Direction::Ingress => "ingress from ",
            Direction::Egress => "egress to ",
        })?;
        match self.peer {
            Some(peer) => write!(f, "{peer}")?,
            None => write!(f, "any")?,
        }
        match self.l4 {
            L4::Any => Ok(()),
            L4::Protocol(protocol) => write!(f, " {}", name(protocol)),
            L4::Ports(protocol, first, last) if first == last => {
                write!(f, " {}/{first}", name(protocol))
            }
            L4::Ports(protocol, first, last) => write!(f, " {}/{first}-{last}", name(protocol)),
            L4::Type(protocol, kind) => write!(f, " {}/{kind}", name(protocol)),
        }
    }
}

fn name(protocol: u8) -> String {
    match protocol {
        1 => "icmp".to_owned(),
        6 => "tcp".to_owned(),
        17 => "udp".to_owned(),
        58 => "icmp6".to_owned(),
        132 => "sctp".to_owned(),
        other => format!("proto/{other}"),
    }
}
