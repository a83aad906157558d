//! Cilium's formats in etcd, without I/O: keys, values, and what Cilium accepts of them (read in Cilium 1.19).

pub mod accept;
pub mod cluster_config;
pub mod keys;
pub mod labels;
pub mod name;
pub mod pair;
pub mod range;

use serde::Deserialize;
use serde::de::Error;

/// Reads an object of JSON. A list of its fields, which serde takes as well, is none for Cilium.
fn from_object<'a, T: Deserialize<'a>>(value: &'a [u8]) -> serde_json::Result<T> {
    if !value.trim_ascii_start().starts_with(b"{") {
        return Err(serde_json::Error::custom("it is no object"));
    }
    serde_json::from_slice(value)
}
