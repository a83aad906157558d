//! What a policy does with its verdicts, and what it never closes.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::de::value::MapAccessDeserializer;
use serde::de::{Error, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::protocol::{TCP, UDP};
use super::rule::Direction;
use super::serial::named;
use super::wire;

/// What becomes of a policy's verdicts in one direction.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Mode {
    /// No rule is asked.
    #[default]
    Off,
    /// Rules are asked, what they would drop is reported, and everything passes.
    Audit,
    /// What no rule allows is dropped.
    Enforce,
}

named!(Mode, "mode": Off = "off", Audit = "audit", Enforce = "enforce");

/// The modes of both directions.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Modes {
    /// Of what is sent to the endpoint.
    pub ingress: Mode,
    /// Of what it sends.
    pub egress: Mode,
}

impl Modes {
    /// The same in both directions.
    pub fn both(mode: Mode) -> Modes {
        Modes { ingress: mode, egress: mode }
    }

    /// Ingress, egress.
    pub fn each(self) -> [Mode; 2] {
        [self.ingress, self.egress]
    }

    /// That of a direction.
    pub fn of_mut(&mut self, direction: Direction) -> &mut Mode {
        match direction {
            Direction::Ingress => &mut self.ingress,
            Direction::Egress => &mut self.egress,
        }
    }

    /// Of each direction the mode of these or of others that lets less pass.
    pub fn or_stricter(self, others: Modes) -> Modes {
        Modes { ingress: self.ingress.max(others.ingress), egress: self.egress.max(others.egress) }
    }

    /// Whether no rule is asked.
    pub fn are_off(self) -> bool {
        self == Modes::default()
    }

    /// Whether anything is dropped for want of a rule.
    pub fn enforce(self) -> bool {
        self.each().contains(&Mode::Enforce)
    }
}

/// `"enforce"`, or `{ingress, egress}`, of which what is not named is off.
impl Serialize for Modes {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        match self.ingress == self.egress {
            true => self.ingress.serialize(to),
            false => to.collect_map([("ingress", self.ingress), ("egress", self.egress)]),
        }
    }
}

impl<'de> Deserialize<'de> for Modes {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Modes, D::Error> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Each {
            #[serde(default)]
            ingress: Mode,
            #[serde(default)]
            egress: Mode,
        }

        struct Reader;

        impl<'de> Visitor<'de> for Reader {
            type Value = Modes;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a mode, or one of ingress and one of egress")
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Modes, E> {
                text.parse().map(Modes::both).map_err(E::custom)
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Modes, A::Error> {
                let Each { ingress, egress } = Each::deserialize(MapAccessDeserializer::new(map))?;
                Ok(Modes { ingress, egress })
            }
        }

        from.deserialize_any(Reader)
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

/// How long a change has to be confirmed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Grace {
    /// It is for good.
    #[default]
    Permanent,
    /// It goes back by itself after this time.
    Within(Duration),
}

/// Of which direction's flows a policy reports its verdicts, while somebody reads them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
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

named!(VerdictLog, "log": None = "none", Ingress = "ingress", Egress = "egress", Both = "both");

/// A port of TCP or UDP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FailsafePort {
    /// TCP or UDP.
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
pub const MAX_FAILSAFE: usize = wire::CM_MAX_FAILSAFE as usize;

/// What `--failsafe` says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FailsafeList {
    ingress: Option<Vec<FailsafePort>>,
    egress: Option<Vec<FailsafePort>>,
}

impl FailsafeList {
    /// The ports of a direction that it names.
    pub fn of(
        ingress: Option<Vec<FailsafePort>>,
        egress: Option<Vec<FailsafePort>>,
    ) -> FailsafeList {
        FailsafeList { ingress, egress }
    }

    /// With these ports open to others.
    pub fn with_ingress(self, ports: Vec<FailsafePort>) -> FailsafeList {
        FailsafeList { ingress: Some(ports), ..self }
    }

    /// Whether it says what is open to others.
    pub fn names_ingress(&self) -> bool {
        self.ingress.is_some()
    }

    /// One list over another, which counts in a direction that the first does not name.
    pub fn over(one: Option<FailsafeList>, other: Option<FailsafeList>) -> Option<FailsafeList> {
        let Some(one) = one else { return other };
        let other = other.unwrap_or_default();
        Some(FailsafeList {
            ingress: one.ingress.or(other.ingress),
            egress: one.egress.or(other.egress),
        })
    }

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

impl FailsafeList {
    /// As [`FailsafeList::from_str`] reads them, one by one.
    fn words(&self) -> Vec<String> {
        let empty = Some(Vec::new());
        if self.ingress == empty && self.egress == empty {
            return vec!["none".to_owned()];
        }
        let of = |direction: &str, ports: &Option<Vec<FailsafePort>>| -> Vec<String> {
            match ports.as_deref() {
                None => Vec::new(),
                Some([]) => vec![format!("{direction}:none")],
                Some(ports) if direction == "ingress" => {
                    ports.iter().map(FailsafePort::to_string).collect()
                }
                Some(ports) => ports.iter().map(|port| format!("{direction}:{port}")).collect(),
            }
        };
        [of("ingress", &self.ingress), of("egress", &self.egress)].concat()
    }
}

/// A list of what stands between the commas, or one text with commas.
impl Serialize for FailsafeList {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_seq(self.words())
    }
}

impl<'de> Deserialize<'de> for FailsafeList {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<FailsafeList, D::Error> {
        struct Reader;

        impl<'de> Visitor<'de> for Reader {
            type Value = FailsafeList;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("ports such as \"tcp/22\", or \"none\"")
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<FailsafeList, E> {
                text.parse().map_err(E::custom)
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<FailsafeList, A::Error> {
                let mut words: Vec<String> = Vec::new();
                while let Some(word) = list.next_element()? {
                    words.push(word);
                }
                self.visit_str(&words.join(","))
            }
        }

        from.deserialize_any(Reader)
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
