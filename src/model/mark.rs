//! The layout of `skb->mark`, both ways.
//!
//! ```text
//!  31 ................ 16 15 .. 12 11 ... 8 7 .......... 0
//!  identity, low 16 bits   not ours  magic   identity, high 8
//! ```
//! The numbers are Cilium's (`MARK_MAGIC_*` in bpf/lib/common.h).

use std::fmt;
use std::str::FromStr;

use anyhow::{Context, Error, Result, ensure};
use serde::{Serialize, Serializer};

use super::identity::Identity;

/// `skb->mark`, host byte order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mark(pub u32);

/// What a mark says it is, by bits 8 to 11 (and 12, for the older number of `SnatDone`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Magic {
    /// To a proxy; the port is in the upper 16 bits, network byte order.
    ToProxy,
    /// Network address translation is done: 0x0300, or 0x1500 as older Ciliums have it.
    SnatDone,
    /// From the ingress proxy, in the name of an identity.
    ProxyIngress,
    /// From the egress proxy, in the name of an identity.
    ProxyEgress,
    /// From the host itself.
    Host,
    /// To be decrypted.
    Decrypt,
    /// To be encrypted, with the key in bits 12 to 15.
    Encrypt,
    /// From a workload with an identity.
    Identity,
    /// The mask of the key index itself, 0xf000.
    KeyId,
    /// The mask of key index and magic, 0xff00.
    KeyMask,
}

impl Mark {
    /// The bits that are never written: IPsec key indices, Kubernetes.
    pub const NOT_OURS: u32 = 0xf000;
    /// The bits of the magic, all of which the mark of an identity has.
    pub const MAGIC_OF_IDENTITY: u32 = 0x0f00;

    /// The mark of an identity; 24 bits are the most.
    pub fn encode(identity: Identity) -> Result<Mark> {
        ensure!(
            identity <= Identity::STAMPABLE_MAX,
            "identity {identity} does not fit into a mark: {} is the largest",
            Identity::STAMPABLE_MAX
        );
        Ok(Mark((identity.0 & 0xffff) << 16 | 0x0f00 | identity.0 >> 16))
    }

    /// What the mark says it is; `None` if it is somebody else's, or no mark.
    pub fn magic(self) -> Option<Magic> {
        match (self.0, self.0 & 0x0f00) {
            (0xf000, _) => Some(Magic::KeyId),
            (0xff00, _) => Some(Magic::KeyMask),
            (_, 0x0200) => Some(Magic::ToProxy),
            (_, 0x0300) => Some(Magic::SnatDone),
            (mark, 0x0500) if mark & 0xf000 == 0x1000 => Some(Magic::SnatDone),
            (_, 0x0a00) => Some(Magic::ProxyIngress),
            (_, 0x0b00) => Some(Magic::ProxyEgress),
            (_, 0x0c00) => Some(Magic::Host),
            (_, 0x0d00) => Some(Magic::Decrypt),
            (_, 0x0e00) => Some(Magic::Encrypt),
            (_, 0x0f00) => Some(Magic::Identity),
            _ => None,
        }
    }

    /// The identity that the mark names.
    pub fn identity(self) -> Option<Identity> {
        match self.magic()? {
            // Nobody's identity ends in 16 zeros: that is another software's mark (wg-quick's 0xca6c).
            Magic::ProxyIngress | Magic::ProxyEgress if self.0 >> 16 == 0 => None,
            Magic::Identity | Magic::ProxyIngress | Magic::ProxyEgress => {
                Some(Identity((self.0 & 0xff) << 16 | self.0 >> 16))
            }
            Magic::Host => Some(Identity::HOST),
            _ => None,
        }
    }

    /// The proxy port of a `ToProxy` mark, host byte order.
    pub fn proxy_port(self) -> Option<u16> {
        (self.magic()? == Magic::ToProxy).then(|| u16::from_be((self.0 >> 16) as u16))
    }

    /// The IPsec key index, of marks that have one.
    pub fn key(self) -> Option<u8> {
        let key = (self.0 >> 12 & 0xf) as u8;
        match self.magic()? {
            Magic::Encrypt | Magic::Decrypt if key != 0 => Some(key),
            _ => None,
        }
    }
}

impl FromStr for Mark {
    type Err = Error;

    fn from_str(text: &str) -> Result<Mark> {
        let number = match text.strip_prefix("0x") {
            Some(hex) => u32::from_str_radix(hex, 16),
            None => text.parse(),
        };
        number.map(Mark).with_context(|| {
            format!("mark `{text}` is not a number of 32 bits, such as 0x04d20f00")
        })
    }
}

impl fmt::Display for Mark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#010x}", self.0)
    }
}

impl Serialize for Mark {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl fmt::Display for Magic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.serialize(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn marks_have_ciliums_numbers() {
        for (identity, mark) in [
            (1234, 0x04d2_0f00),
            (199_472, 0x0b30_0f03),
            (1, 0x0001_0f00),
            (0xff_ffff, 0xffff_0fff),
        ] {
            assert_eq!(Mark::encode(Identity(identity)).unwrap(), Mark(mark));
        }
    }

    #[test]
    fn an_identity_of_25_bits_is_refused() {
        let error = Mark::encode(Identity(16_777_217)).unwrap_err().to_string();
        assert!(error.contains("16777217") && error.contains("16777215"), "{error}");
    }

    #[test]
    fn every_magic_is_named() {
        for (mark, name) in [
            (0x1f90_0200, "TO_PROXY"),
            (0x0000_0300, "SNAT_DONE"),
            (0x0000_1500, "SNAT_DONE"),
            (0x04d2_0a00, "PROXY_INGRESS"),
            (0x04d2_0b00, "PROXY_EGRESS"),
            (0x0000_0c00, "HOST"),
            (0x0000_0d00, "DECRYPT"),
            (0x0000_3e00, "ENCRYPT"),
            (0x04d2_0f00, "IDENTITY"),
            (0x0000_f000, "KEY_ID"),
            (0x0000_ff00, "KEY_MASK"),
        ] {
            assert_eq!(Mark(mark).magic().unwrap().to_string(), name);
        }
        for mark in [0, 0xd4, 0x80000, 0x4000, 0x0500, 0x2500] {
            assert_eq!(Mark(mark).magic(), None, "{mark:#x}");
        }
    }

    #[test]
    fn port_key_and_identity_are_read_where_the_magic_has_them() {
        assert_eq!(Mark(0x901f_0200).proxy_port(), Some(8080));
        assert_eq!(Mark(0x0000_3e00).key(), Some(3));
        assert_eq!(Mark(0x0000_0c00).identity(), Some(Identity::HOST));
        assert_eq!(Mark(0x0b30_0a03).identity(), Some(Identity(199_472)));
        assert_eq!(Mark(0x04d2_0e00).identity(), None);
    }

    #[test]
    fn marks_are_read_in_hex_and_decimal() {
        assert_eq!("0x04d20f00".parse::<Mark>().unwrap(), Mark(0x04d2_0f00));
        assert_eq!("80875264".parse::<Mark>().unwrap(), Mark(0x04d2_0f00));
        assert!("0x1ffffffff".parse::<Mark>().is_err());
        assert!("mark".parse::<Mark>().is_err());
    }

    proptest! {
        #[test]
        fn decoding_gives_back_what_was_encoded(number in 0u32..1 << 24) {
            let mark = Mark::encode(Identity(number)).unwrap();
            prop_assert_eq!(mark.identity(), Some(Identity(number)));
            prop_assert_eq!(mark.0 & Mark::NOT_OURS, 0);
            prop_assert_eq!(mark.to_string().parse::<Mark>().unwrap(), mark);
        }
    }
}
