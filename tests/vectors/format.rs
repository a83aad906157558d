//! What a line of a file of vectors says.

use std::net::IpAddr;

use serde::Deserialize;

/// A scenario, on fresh conntrack and rules.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Vector {
    pub name: String,
    pub endpoint: Workload,
    pub host: Host,
    pub ipcache: Vec<(String, u32)>,
    pub rules: Vec<String>,
    pub host_rules: Vec<String>,
    pub steps: Vec<Step>,
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Workload {
    pub identity: u32,
    pub id: u16,
    pub ips: Vec<IpAddr>,
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Host {
    pub identity: u32,
    pub ips: Vec<IpAddr>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(untagged)]
pub enum Step {
    Packet(PacketStep),
    Change(Change),
}

/// One packet through one program.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PacketStep {
    pub program: Program,
    pub mark: Hex,
    pub ingress_ifindex: u32,
    pub packet: Hex,
    #[serde(default)]
    pub about: String,
    pub expect: Expect,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Program {
    FromContainer,
    ToContainer,
    FromNetdev,
    ToNetdev,
}

impl Program {
    /// Whether its packets come to the endpoint.
    pub fn is_ingress(self) -> bool {
        matches!(self, Program::ToContainer | Program::FromNetdev)
    }
}

/// What the other datapath does.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Expect {
    pub verdict: String,
    pub drop_reason: Option<u32>,
    /// `None`: not specified.
    pub mark: Option<Hex>,
    /// `None`: no rule was asked.
    pub remote_identity: Option<u32>,
}

/// Between packets. Rules are replaced as a whole, of the ipcache only these entries.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Change {
    pub set_rules: Option<Vec<String>>,
    pub set_host_rules: Option<Vec<String>>,
    pub set_ipcache: Option<Vec<(String, u32)>>,
}

/// Bytes, highest first.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(try_from = "String")]
pub struct Hex(pub Vec<u8>);

impl TryFrom<String> for Hex {
    type Error = String;

    fn try_from(text: String) -> Result<Hex, String> {
        let digits = text.strip_prefix("0x").unwrap_or(&text).as_bytes();
        let byte = |pair: &[u8]| {
            let pair = std::str::from_utf8(pair).ok().filter(|pair| pair.len() == 2)?;
            u8::from_str_radix(pair, 16).ok()
        };
        let bytes: Option<Vec<u8>> = digits.chunks(2).map(byte).collect();
        bytes.map(Hex).ok_or_else(|| format!("`{text}` is not hexadecimal"))
    }
}

impl Hex {
    /// As one number, which has 32 bits.
    pub fn number(&self) -> u32 {
        u32::from_be_bytes(self.0.as_slice().try_into().expect("four bytes"))
    }
}
