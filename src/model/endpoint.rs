//! Endpoints: what is attached, by number, role and direction.

use std::fmt;
use std::str::FromStr;

use anyhow::{Error, Result, bail};
use serde::{Deserialize, Deserializer, Serialize};

use super::serial::{self, named};

/// The number of an endpoint, 1 to 65535: its pin path and the source of its events.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct EndpointId(u16);

impl EndpointId {
    /// `None` for 0.
    pub fn new(number: u16) -> Option<EndpointId> {
        (number != 0).then_some(EndpointId(number))
    }

    /// The lowest that is not among `taken`; `None` if all are.
    pub fn lowest_free(taken: impl IntoIterator<Item = EndpointId>) -> Option<EndpointId> {
        let taken: std::collections::BTreeSet<_> = taken.into_iter().collect();
        (1..=u16::MAX).map(EndpointId).find(|id| !taken.contains(id))
    }

    /// The number.
    pub fn get(self) -> u16 {
        self.0
    }
}

impl FromStr for EndpointId {
    type Err = Error;

    fn from_str(text: &str) -> Result<EndpointId> {
        match text.parse().ok().and_then(EndpointId::new) {
            Some(id) => Ok(id),
            None => bail!("endpoint id `{text}` is not a number from 1 to 65535"),
        }
    }
}

impl<'de> Deserialize<'de> for EndpointId {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<EndpointId, D::Error> {
        let number = serial::number(u64::deserialize(from)?, 1, u16::MAX.into())?;
        Ok(EndpointId(number as u16))
    }
}

impl fmt::Display for EndpointId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Whose flows are meant: those of all NICs of a root, or of one container, by a serial that is new whenever a
/// device is attached for the first time. Numbers, names and addresses come again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Scope(u32);

impl Scope {
    /// All NICs, so that routes may be asymmetric.
    pub const NICS: Scope = Scope(0);
    /// Of a container that has never kept any flow.
    pub const NOBODY: Scope = Scope(0xff_ffff);

    /// By its number, of which 24 bits count.
    pub fn of(number: u32) -> Scope {
        Scope(number & 0xff_ffff)
    }

    /// By the two fields that a key has for it.
    pub fn of_key(low: u16, high: u8) -> Scope {
        Scope(u32::from(high) << 16 | u32::from(low))
    }

    /// The number.
    pub fn get(self) -> u32 {
        self.0
    }

    /// For the lower field of a key.
    pub fn low(self) -> u16 {
        self.0 as u16
    }

    /// For the upper field of a key.
    pub fn high(self) -> u8 {
        (self.0 >> 16) as u8
    }
}

/// What a device is to cilmark.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// The host side of a workload's veth or tap.
    Container,
    /// A NIC of the host.
    Netdev,
}

named!(Role, "role": Container = "container", Netdev = "netdev");

/// How the commands name an endpoint: a device, or `id:N`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Selector {
    /// By the name of its device.
    Device(String),
    /// By its number.
    Id(EndpointId),
}

impl FromStr for Selector {
    type Err = Error;

    fn from_str(text: &str) -> Result<Selector> {
        match text.strip_prefix("id:") {
            Some(number) => Ok(Selector::Id(number.parse()?)),
            None if text.is_empty() => bail!("a device name may not be empty"),
            None => Ok(Selector::Device(text.to_owned())),
        }
    }
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Selector::Device(name) => f.write_str(name),
            Selector::Id(id) => write!(f, "id:{id}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoint_ids_go_from_1_to_65535() {
        assert_eq!("65535".parse::<EndpointId>().unwrap().get(), 65535);
        for text in ["0", "65536", "-1", "", "x"] {
            assert!(text.parse::<EndpointId>().is_err(), "{text}");
        }
    }

    #[test]
    fn the_lowest_free_id_fills_gaps() {
        let ids = |numbers: &[u16]| -> Vec<_> {
            numbers.iter().filter_map(|number| EndpointId::new(*number)).collect()
        };
        assert_eq!(EndpointId::lowest_free([]).unwrap().get(), 1);
        assert_eq!(EndpointId::lowest_free(ids(&[1, 2, 4])).unwrap().get(), 3);
        assert!(EndpointId::lowest_free((1..=u16::MAX).filter_map(EndpointId::new)).is_none());
    }

    #[test]
    fn a_scope_fits_into_the_two_fields_of_a_key() {
        for scope in [Scope::NICS, Scope::NOBODY, Scope::of(0x12_3456)] {
            assert_eq!(Scope::of_key(scope.low(), scope.high()), scope);
        }
        assert_eq!((Scope::of(0x12_3456).low(), Scope::of(0x12_3456).high()), (0x3456, 0x12));
        assert_eq!(Scope::of(0x100_0007), Scope::of(7));
    }

    #[test]
    fn a_selector_is_a_device_or_an_id() {
        assert_eq!("eth0".parse::<Selector>().unwrap(), Selector::Device("eth0".into()));
        assert_eq!("id:7".parse::<Selector>().unwrap().to_string(), "id:7");
        assert!("id:0".parse::<Selector>().is_err());
    }
}
