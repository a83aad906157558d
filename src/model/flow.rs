//! Flows, as far as commands choose among them.

use std::net::SocketAddr;
use std::str::FromStr;

use anyhow::{Error, Result, bail};
use ipnet::IpNet;

use super::identity::Identity;
use super::protocol;
use super::rule::{Direction, L4};
use super::serial::named;

/// How far a flow has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// TCP: no more than a SYN was seen.
    Syn,
    /// Both ends may send; protocols other than TCP are so from the start.
    Established,
    /// TCP: one end has sent FIN.
    HalfClosed,
    /// TCP: both have, or the endpoint itself has sent RST.
    Closing,
    /// TCP: the other end has sent RST, or somebody in its name.
    Reset,
}

named!(
    Progress, "state":
    Syn = "syn",
    Established = "established",
    HalfClosed = "half-closed",
    Closing = "closing",
    Reset = "reset",
);

/// Ports of one protocol, or of each that has any.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ports {
    protocol: Option<u8>,
    first: u16,
    last: u16,
}

impl Ports {
    fn has(&self, protocol: u8, port: u16) -> bool {
        let is_of_it = match self.protocol {
            Some(only) => protocol == only,
            // What stands in the place of an echo's port is none.
            None => protocol::has_ports(protocol),
        };
        is_of_it && (self.first..=self.last).contains(&port)
    }
}

impl FromStr for Ports {
    type Err = Error;

    fn from_str(text: &str) -> Result<Ports> {
        let is_of_one = text.contains('/');
        let l4 = if is_of_one { text.parse() } else { format!("tcp/{text}").parse::<L4>() };
        match l4 {
            Ok(L4::Ports { protocol, first, last }) => {
                Ok(Ports { protocol: is_of_one.then_some(protocol), first, last })
            }
            Ok(_) => bail!("`{text}` has no ports; write 443, 8000-8080 or udp/53"),
            Err(error) if is_of_one => Err(error),
            Err(_) => bail!("`{text}` is no port, nor a range; write 443, 8000-8080 or udp/53"),
        }
    }
}

/// What of a flow a filter looks at, but for who is at its ends.
#[derive(Debug, Clone, Copy)]
pub struct Traits {
    /// IP protocol.
    pub protocol: u8,
    /// The endpoint's own end.
    pub local: SocketAddr,
    /// The other end.
    pub remote: SocketAddr,
    /// Of the first packet.
    pub direction: Direction,
    /// How far it has come.
    pub progress: Progress,
}

/// Which flows: those that are all that is said.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Filter {
    /// Who is at one end.
    pub identity: Option<Identity>,
    /// What the address of one end is in.
    pub address: Option<IpNet>,
    /// What the port of one end is among.
    pub ports: Option<Ports>,
    /// How far it has come.
    pub progress: Option<Progress>,
    /// Which end has begun.
    pub direction: Option<Direction>,
}

impl Filter {
    /// Whether it leaves nothing out.
    pub fn takes_all(&self) -> bool {
        *self == Filter::default()
    }

    /// Whether a flow is meant. Who is at its ends is asked last, since that is looked up.
    pub fn takes(&self, flow: &Traits, is_at_an_end: impl FnOnce(Identity) -> bool) -> bool {
        let ends = [flow.local, flow.remote];
        let any = |is_it: &dyn Fn(SocketAddr) -> bool| ends.into_iter().any(is_it);
        self.direction.is_none_or(|it| it == flow.direction)
            && self.progress.is_none_or(|it| it == flow.progress)
            && self.address.is_none_or(|prefix| any(&|end| prefix.contains(&end.ip())))
            && self.ports.is_none_or(|ports| any(&|end| ports.has(flow.protocol, end.port())))
            && self.identity.is_none_or(is_at_an_end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::prefix::parse_prefix;
    use crate::model::protocol::{ICMP, TCP};

    /// From a workload's browser to a server.
    fn flow() -> Traits {
        Traits {
            protocol: TCP,
            local: "10.0.0.2:40000".parse().unwrap(),
            remote: "198.51.100.7:443".parse().unwrap(),
            direction: Direction::Egress,
            progress: Progress::Established,
        }
    }

    fn takes(filter: &Filter, flow: &Traits) -> bool {
        filter.takes(flow, |identity| [1234, 300].contains(&identity.0))
    }

    #[test]
    fn a_flow_is_taken_by_what_it_is_at_either_end() {
        let all = Filter::default();
        let address = |text| Filter { address: Some(parse_prefix(text).unwrap()), ..all.clone() };
        let port = |text: &str| Filter { ports: Some(text.parse().unwrap()), ..all.clone() };
        let identity = |number| Filter { identity: Some(Identity(number)), ..all.clone() };
        let progress = |it| Filter { progress: Some(it), ..all.clone() };
        let direction = |it| Filter { direction: Some(it), ..all.clone() };
        for (filter, wanted) in [
            (all.clone(), true),
            (address("10.0.0.2"), true),
            (address("198.51.100.0/24"), true),
            (address("10.0.0.3"), false),
            (address("::/0"), false),
            (port("443"), true),
            (port("39000-40000"), true),
            (port("tcp/443"), true),
            (port("udp/443"), false),
            (port("80"), false),
            (identity(1234), true),
            (identity(300), true),
            (identity(2), false),
            (progress(Progress::Established), true),
            (progress(Progress::Closing), false),
            (direction(Direction::Egress), true),
            (direction(Direction::Ingress), false),
        ] {
            assert_eq!(takes(&filter, &flow()), wanted, "{filter:?}");
            assert_eq!(filter.takes_all(), filter == all);
        }
    }

    #[test]
    fn all_that_is_said_has_to_be_so() {
        let both = Filter {
            address: Some(parse_prefix("10.0.0.2").unwrap()),
            ports: Some("80".parse().unwrap()),
            ..Filter::default()
        };
        assert!(!takes(&both, &flow()));
        let not_asked = Filter { identity: Some(Identity(1234)), ..both };
        assert!(!not_asked.takes(&flow(), |_| unreachable!()));
    }

    #[test]
    fn an_echos_identifier_is_no_port() {
        let echo = Traits { protocol: ICMP, ..flow() };
        assert!(!takes(
            &Filter { ports: Some("0-65535".parse().unwrap()), ..Filter::default() },
            &echo
        ));
    }

    #[test]
    fn what_is_no_port_is_refused_with_what_is() {
        for (text, words) in [
            ("http", "`http` is no port"),
            ("", "`` is no port"),
            ("70000", "`70000` is no port"),
            ("90-80", "is no port, nor a range"),
            ("icmp/8", "has no ports"),
            ("tcp/x", "a port is a number"),
        ] {
            let error = text.parse::<Ports>().unwrap_err().to_string();
            assert!(error.contains(words), "{text}: {error}");
        }
    }
}
