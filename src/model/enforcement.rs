//! What a policy does with its verdicts, and what it never closes.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use clap::ValueEnum;
use serde::Serialize;

use super::frame::{TCP, UDP};

/// What becomes of a policy's verdicts in one direction.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// No rule is asked.
    #[default]
    Off,
    /// Rules are asked, what they would drop is reported, and everything passes.
    Audit,
    /// What no rule allows is dropped.
    Enforce,
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Mode::Off => "off",
            Mode::Audit => "audit",
            Mode::Enforce => "enforce",
        })
    }
}

/// What an endpoint goes back to by itself if nobody confirms a change in time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fallback {
    /// What enforces only audits.
    Audit,
    /// The rules before the change.
    Rules,
}

/// How an endpoint's last change stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Confirmation {
    /// For good.
    None,
    /// It waits for somebody to confirm it.
    Pending(Fallback, Duration),
    /// Nobody did in time, and the endpoint went back.
    Over(Fallback),
}

impl Confirmation {
    /// What a direction really does.
    pub fn in_force(self, mode: Mode) -> Mode {
        match (self, mode) {
            (Confirmation::Over(Fallback::Audit), Mode::Enforce) => Mode::Audit,
            _ => mode,
        }
    }
}

/// Of which direction's flows a policy reports its verdicts, while somebody reads them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum VerdictLog {
    /// Of none; drops, and what audit would drop, are reported all the same.
    None,
    /// To the endpoint.
    Ingress,
    /// From the endpoint.
    Egress,
    /// Of both.
    #[default]
    Both,
}

/// A port of TCP or UDP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FailsafePort {
    /// 6 for TCP, 17 for UDP.
    pub protocol: u8,
    /// In host byte order.
    pub port: u16,
}

impl fmt::Display for FailsafePort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let protocol = if self.protocol == TCP { "tcp" } else { "udp" };
        write!(f, "{protocol}/{}", self.port)
    }
}

impl FromStr for FailsafePort {
    type Err = String;

    fn from_str(text: &str) -> Result<FailsafePort, String> {
        let parsed = text.split_once('/').and_then(|(protocol, port)| {
            let protocol = match protocol {
                "tcp" => TCP,
                "udp" => UDP,
                _ => return None,
            };
            Some(FailsafePort { protocol, port: port.parse().ok()? })
        });
        parsed.ok_or_else(|| format!("`{text}` is no port; write tcp/22 or udp/68"))
    }
}

/// Ports of a NIC that no policy closes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Failsafe {
    /// Of this host, for others.
    pub ingress: Vec<FailsafePort>,
    /// Of others, for this host.
    pub egress: Vec<FailsafePort>,
}

/// The most ports of one direction.
pub const MAX_FAILSAFE: usize = 16;

/// What `--failsafe` says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FailsafeList {
    ingress: Option<Vec<FailsafePort>>,
    egress: Option<Vec<FailsafePort>>,
}

impl FailsafeList {
    /// With the standard ports in a direction that the list does not name.
    pub fn or(self, standard: Failsafe) -> Failsafe {
        Failsafe {
            ingress: self.ingress.unwrap_or(standard.ingress),
            egress: self.egress.unwrap_or(standard.egress),
        }
    }
}

/// `none`, or ports such as `tcp/22`, separated by commas. `ingress:` or `egress:` before a port, or
/// before `none`, says of which direction; ingress if nothing does.
impl FromStr for FailsafeList {
    type Err = String;

    fn from_str(text: &str) -> Result<FailsafeList, String> {
        if text == "none" {
            return Ok(FailsafeList { ingress: Some(Vec::new()), egress: Some(Vec::new()) });
        }
        let mut list = FailsafeList::default();
        for item in text.split(',') {
            let (direction, port) = item.split_once(':').unwrap_or(("ingress", item));
            let ports = match direction {
                "ingress" => &mut list.ingress,
                "egress" => &mut list.egress,
                _ => return Err(format!("`{direction}` is neither `ingress` nor `egress`")),
            };
            let after_none = ports.as_ref().is_some_and(Vec::is_empty);
            let ports = ports.get_or_insert_default();
            match port {
                "none" if ports.is_empty() => {}
                port if port != "none" && !after_none => ports.push(port.parse()?),
                _ => return Err(format!("`none` stands alone, and {direction} has ports as well")),
            }
            if ports.len() > MAX_FAILSAFE {
                return Err(format!("{MAX_FAILSAFE} ports are the most of one direction"));
            }
        }
        Ok(list)
    }
}

impl Failsafe {
    /// What a host needs to be reached, to get its addresses and its time, and to resolve names.
    pub fn standard() -> Failsafe {
        let port = |protocol, port| FailsafePort { protocol, port };
        Failsafe {
            ingress: vec![port(TCP, 22), port(UDP, 68), port(UDP, 546)],
            egress: vec![
                port(UDP, 53),
                port(TCP, 53),
                port(UDP, 67),
                port(UDP, 547),
                port(UDP, 123),
            ],
        }
    }

    /// Adds a port of TCP of this host.
    pub fn open_tcp(&mut self, port: u16) {
        let port = FailsafePort { protocol: TCP, port };
        if !self.ingress.contains(&port) {
            self.ingress.push(port);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ports(ports: &[FailsafePort]) -> String {
        ports.iter().map(FailsafePort::to_string).collect::<Vec<_>>().join(",")
    }

    #[test]
    fn a_failsafe_list_replaces_the_directions_that_it_names() {
        let standard = Failsafe::standard();
        let [ingress, egress] = [ports(&standard.ingress), ports(&standard.egress)];
        for (text, wanted) in [
            ("none", ["", ""]),
            ("tcp/2222", ["tcp/2222", &egress]),
            ("ingress:none", ["", &egress]),
            ("egress:udp/53", [&ingress, "udp/53"]),
            ("tcp/22,egress:udp/53,udp/68", ["tcp/22,udp/68", "udp/53"]),
        ] {
            let list = text.parse::<FailsafeList>().unwrap().or(Failsafe::standard());
            assert_eq!([ports(&list.ingress), ports(&list.egress)], wanted, "{text}");
        }
    }

    #[test]
    fn what_is_no_failsafe_port_is_named() {
        let bad = ["", "22", "tcp", "icmp/8", "tcp/65536", "in:tcp/22", "tcp/22,,", "tcp/22, "];
        let contradictory = ["none,tcp/5", "tcp/5,none", "egress:udp/53,egress:none"];
        for text in bad.into_iter().chain(contradictory) {
            assert!(text.parse::<FailsafeList>().is_err(), "{text}");
        }
        let many: Vec<String> = (1..=17).map(|port| format!("tcp/{port}")).collect();
        assert!(many.join(",").parse::<FailsafeList>().is_err());
    }

    #[test]
    fn only_a_fallback_to_audit_that_is_over_relaxes_what_enforces() {
        use Confirmation::*;
        let pending = Pending(Fallback::Audit, Duration::from_secs(1));
        assert_eq!(pending.in_force(Mode::Enforce), Mode::Enforce);
        assert_eq!(Over(Fallback::Audit).in_force(Mode::Enforce), Mode::Audit);
        assert_eq!(Over(Fallback::Audit).in_force(Mode::Off), Mode::Off);
        assert_eq!(Over(Fallback::Rules).in_force(Mode::Enforce), Mode::Enforce);
    }
}
