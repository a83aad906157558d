//! MAC addresses.

use std::fmt;
use std::str::FromStr;

use anyhow::{Context, Error, Result, ensure};

use super::serial::as_text;

/// Of one device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mac(pub [u8; 6]);

impl FromStr for Mac {
    type Err = Error;

    fn from_str(text: &str) -> Result<Mac> {
        let hint = || format!("MAC `{text}` is not six octets such as 02:00:00:00:00:01");
        let octets = text.split([':', '-']).map(|octet| u8::from_str_radix(octet, 16));
        let octets: Vec<u8> = octets.collect::<Result<_, _>>().with_context(hint)?;
        let mac: [u8; 6] = octets.try_into().ok().with_context(hint)?;
        ensure!(mac[0] & 1 == 0, "MAC `{text}` is a multicast address");
        Ok(Mac(mac))
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.map(|octet| format!("{octet:02x}")).join(":"))
    }
}

as_text!(Mac);

/// What a workload may send from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WorkloadMac {
    /// Whatever it likes.
    Any,
    /// This one.
    Only(Mac),
}

impl FromStr for WorkloadMac {
    type Err = Error;

    fn from_str(text: &str) -> Result<WorkloadMac> {
        if text == "any" {
            return Ok(WorkloadMac::Any);
        }
        let mac: Mac = text.parse()?;
        ensure!(mac != Mac([0; 6]), "MAC `{text}` is nobody's; `any` turns the check off");
        Ok(WorkloadMac::Only(mac))
    }
}

impl fmt::Display for WorkloadMac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            WorkloadMac::Any => f.write_str("any"),
            WorkloadMac::Only(mac) => mac.fmt(f),
        }
    }
}

as_text!(WorkloadMac);
