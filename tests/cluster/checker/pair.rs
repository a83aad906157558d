//! The value of an address: Cilium's `IPIdentityPair` (pkg/identity/identity.go).

use std::net::IpAddr;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use ipnet::IpNet;
use serde_json::Value;

use super::Why;

/// Its fields in the order in which Go writes them; the last ones only if they say something.
const FIELDS: [&str; 10] = [
    "IP",
    "Mask",
    "HostIP",
    "ID",
    "Key",
    "Metadata",
    "K8sNamespace",
    "K8sPodName",
    "K8sServiceAccount",
    "NamedPorts",
];
/// How many of them are always there.
const ALWAYS: usize = 6;

/// What counts of it.
pub struct Pair {
    /// What the key has to say behind its prefix.
    pub key: String,
    pub prefix: IpNet,
    pub number: u32,
}

/// Reads it.
pub fn read(value: &str) -> Result<Pair, Why> {
    let fields: Value = serde_json::from_str(value).map_err(|_| Why::Pair)?;
    let fields = fields.as_object().ok_or(Why::Pair)?;
    let number_below = |name: &str, limit: u64| match fields.get(name) {
        None | Some(Value::Null) => Ok(0),
        Some(number) => number.as_u64().filter(|number| *number < limit).ok_or(Why::Pair),
    };
    let number = number_below("ID", 1 << 32)?;
    number_below("Key", 1 << 8)?;
    for text in ["HostIP", "Metadata", "K8sNamespace", "K8sPodName"] {
        if !fields.get(text).is_none_or(|text| text.is_string() || text.is_null()) {
            return Err(Why::Pair);
        }
    }
    let address = match fields.get("IP") {
        None | Some(Value::Null) => return Err(Why::NoAddress),
        Some(Value::String(text)) if text.is_empty() => return Err(Why::NoAddress),
        Some(text) => {
            text.as_str().and_then(|text| text.parse::<IpAddr>().ok()).ok_or(Why::Pair)?
        }
    };
    // As Go has it, which knows no IPv4 in IPv6.
    let address = address.to_canonical();
    let bits = match fields.get("Mask") {
        None | Some(Value::Null) => None,
        Some(mask) => Some(ones(mask).ok_or(Why::Pair)?),
    };
    let whole = IpNet::from(address).prefix_len();
    let prefix = IpNet::new(address, bits.unwrap_or(whole)).map_err(|_| Why::Pair)?;
    let key = match bits {
        None => address.to_string(),
        Some(bits) => format!("{address}/{bits}"),
    };
    Ok(Pair { key, prefix: prefix.trunc(), number: number as u32 })
}

/// The length of a mask, which has no holes.
fn ones(mask: &Value) -> Option<u8> {
    let bytes = BASE64_STANDARD.decode(mask.as_str()?).ok()?;
    let bits: String = bytes.iter().map(|byte| format!("{byte:08b}")).collect();
    let ones = bits.find('0').unwrap_or(bits.len());
    let is_whole = matches!(bytes.len(), 4 | 16) && !bits[ones..].contains('1');
    is_whole.then_some(ones as u8)
}

/// Whether a readable pair has Cilium's fields, in its order.
pub fn is_in_order(value: &str) -> bool {
    let positions = FIELDS.map(|field| value.find(&format!("\"{field}\":")));
    positions[..ALWAYS].iter().all(Option::is_some)
        && positions.iter().flatten().is_sorted()
        && value.starts_with("{\"IP\":")
}

/// Whether a readable pair says which node's endpoint it is: `cilium-global:<address space>:<node>:<endpoint>`.
pub fn has_metadata(value: &str) -> bool {
    let fields: Value = serde_json::from_str(value).unwrap_or_default();
    let text = fields["Metadata"].as_str().unwrap_or_default();
    match text.split(':').collect::<Vec<_>>()[..] {
        ["cilium-global", "default", node, endpoint] => {
            !node.is_empty() && endpoint.parse::<u16>().is_ok()
        }
        _ => false,
    }
}
