//! What a policy does with its verdicts, and what it never closes.

use std::fmt;
use std::str::FromStr;

use clap::ValueEnum;
use serde::Serialize;

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

/// A port of TCP or UDP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FailsafePort {
    /// 6 for TCP, 17 for UDP.
    pub protocol: u8,
    /// In host byte order.
    pub port: u16,
}

const TCP: u8 = 6;
const UDP: u8 = 17;

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
}
