//! The value of an address (Cilium pkg/identity/identity.go, IPIdentityPair): JSON of Go, whose field names it has.

use std::borrow::Cow;
use std::fmt;
use std::net::IpAddr;

use anyhow::{Context, Result};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::de::{self, Deserializer, Visitor};
use serde::ser::Serializer;
use serde::{Deserialize, Serialize};

use super::keys;

/// What Cilium says of an address. What is only for its display (namespace, pod, ports) is neither read nor written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Pair<'a> {
    /// The address. IPv4 in IPv6 is read as IPv4.
    #[serde(rename = "IP", deserialize_with = "read_address", serialize_with = "write_address")]
    pub ip: IpAddr,
    /// The mask of a prefix; none for an address.
    #[serde(default)]
    pub mask: Option<Mask>,
    /// The node's address: where Cilium's nodes in tunnel mode send what is for this one.
    #[serde(
        default,
        rename = "HostIP",
        deserialize_with = "read_optional_address",
        serialize_with = "write_optional_address"
    )]
    pub host_ip: Option<IpAddr>,
    /// The identity's number.
    #[serde(default, rename = "ID")]
    pub id: u32,
    /// The number of an IPsec or WireGuard key; 0 is none.
    #[serde(default)]
    pub key: u8,
    /// Who says so: see [`metadata`].
    #[serde(borrow, default)]
    pub metadata: Cow<'a, str>,
}

/// The mask of a prefix, as so many bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mask {
    /// The bits that are set.
    pub ones: u8,
    /// All bits: 32 or 128.
    pub bits: u8,
}

/// What Cilium's agents write as `Metadata`: the address space, the node, and the number of its endpoint.
pub fn metadata(node: &str, endpoint: u32) -> String {
    format!("{ORIGIN}{node}:{endpoint}")
}

/// The node of `Metadata`, if it is as agents write it; the apiserver writes none.
pub fn node_of(metadata: &str) -> Option<&str> {
    metadata.strip_prefix(ORIGIN)?.rsplit_once(':').map(|(node, _)| node)
}

const ORIGIN: &str = "cilium-global:default:";

impl Pair<'_> {
    /// Reads a value. Strings are borrowed where they are.
    pub fn read(value: &[u8]) -> Result<Pair<'_>> {
        super::from_object(value).context("it is not Cilium's JSON")
    }

    /// The value, with the fields in Cilium's order.
    pub fn write(&self) -> String {
        serde_json::to_string(self).expect("numbers and strings are always JSON")
    }
}

impl Mask {
    fn from_base64(text: &str) -> Option<Mask> {
        let mut bytes = [0; 16];
        // Of 16 bytes it wants 18: it counts what 24 digits could be.
        let mut decoded = [0; 18];
        let length = STANDARD.decode_slice(text, &mut decoded).ok()?;
        bytes.get_mut(..length)?.copy_from_slice(&decoded[..length]);
        let mask = u128::from_be_bytes(bytes);
        let ones = mask.leading_ones();
        let is_contiguous = ones == 128 || mask << ones == 0;
        (is_contiguous && matches!(length, 4 | 16))
            .then(|| Mask { ones: ones as u8, bits: length as u8 * 8 })
    }

    fn base64(self) -> String {
        let mask = !u128::MAX.checked_shr(self.ones.into()).unwrap_or(0);
        STANDARD.encode(&mask.to_be_bytes()[..usize::from(self.bits / 8)])
    }
}

impl Serialize for Mask {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.base64())
    }
}

impl<'de> Deserialize<'de> for Mask {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Mask, D::Error> {
        deserializer.deserialize_str(Text("the bytes of a mask in base64", Mask::from_base64))
    }
}

fn read_address<'de, D: Deserializer<'de>>(deserializer: D) -> Result<IpAddr, D::Error> {
    let read = |text: &str| text.parse().ok().map(|it: IpAddr| it.to_canonical());
    deserializer.deserialize_str(Text("an address", read))
}

fn read_optional_address<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<IpAddr>, D::Error> {
    let read = |text: &str| match text {
        "" => Some(None),
        _ => text.parse().ok().map(|it: IpAddr| Some(it.to_canonical())),
    };
    deserializer.deserialize_any(Text("an address or nothing", read))
}

fn write_address<S: Serializer>(address: &IpAddr, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&keys::text(*address))
}

fn write_optional_address<S: Serializer>(
    address: &Option<IpAddr>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&address.map(keys::text).unwrap_or_default())
}

/// What a text stands for, without a copy of it.
struct Text<F>(&'static str, F);

impl<T, F: Fn(&str) -> Option<T>> Visitor<'_> for Text<F> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<T, E> {
        self.1(text).ok_or_else(|| E::invalid_value(de::Unexpected::Str(text), &self))
    }

    /// `null`, where nothing is allowed.
    fn visit_unit<E: de::Error>(self) -> Result<T, E> {
        self.visit_str("")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair(ip: &str, id: u32) -> Pair<'static> {
        Pair { ip: ip.parse().unwrap(), mask: None, host_ip: None, id, key: 0, metadata: "".into() }
    }

    /// Values as Cilium writes them.
    #[test]
    fn what_cilium_writes_is_read() {
        let value = br#"{"IP":"10.1.1.1","Mask":null,"HostIP":"192.0.2.1","ID":131073,"Key":0,"Metadata":"cilium-global:default:node1:1234","K8sNamespace":"prod","K8sPodName":"web-0","NamedPorts":[{"Name":"http","Port":80,"Protocol":6}]}"#;
        let read = Pair::read(value).unwrap();
        let expected = Pair {
            host_ip: Some("192.0.2.1".parse().unwrap()),
            metadata: "cilium-global:default:node1:1234".into(),
            ..pair("10.1.1.1", 131_073)
        };
        assert_eq!(read, expected);
        assert!(matches!(read.metadata, Cow::Borrowed(_)));
        assert_eq!(node_of(&read.metadata), Some("node1"));

        let value = br#"{"IP":"fd00::10","Mask":null,"HostIP":"192.0.2.1","ID":131073,"Key":3,"Metadata":""}"#;
        let read = Pair::read(value).unwrap();
        assert_eq!((read.ip, read.id, read.key), ("fd00::10".parse().unwrap(), 131_073, 3));
        assert_eq!(node_of(&read.metadata), None);

        let value =
            br#"{"IP":"10.2.0.0","Mask":"//8AAA==","HostIP":"","ID":131080,"Key":0,"Metadata":""}"#;
        let mask = Some(Mask { ones: 16, bits: 32 });
        assert_eq!(Pair::read(value).unwrap(), Pair { mask, ..pair("10.2.0.0", 131_080) });
    }

    #[test]
    fn what_is_written_has_ciliums_fields_in_its_order() {
        let own = Pair {
            host_ip: Some("192.0.2.1".parse().unwrap()),
            metadata: metadata("node1", 1234).into(),
            ..pair("10.1.1.1", 131_073)
        };
        assert_eq!(
            own.write(),
            r#"{"IP":"10.1.1.1","Mask":null,"HostIP":"192.0.2.1","ID":131073,"Key":0,"Metadata":"cilium-global:default:node1:1234"}"#
        );
        let prefix = Pair { mask: Some(Mask { ones: 16, bits: 32 }), ..pair("10.2.0.0", 131_080) };
        assert_eq!(
            prefix.write(),
            r#"{"IP":"10.2.0.0","Mask":"//8AAA==","HostIP":"","ID":131080,"Key":0,"Metadata":""}"#
        );
    }

    #[test]
    fn what_was_written_is_read_again() {
        for ip in ["10.0.0.1", "fd00::1", "::", "255.255.255.255"] {
            for id in [0, 1, 255, 131_073, u32::MAX] {
                for metadata in ["", "a\"b\\c\n", "cilium-global:default:ä:1"] {
                    let written = Pair { metadata: metadata.into(), ..pair(ip, id) }.write();
                    let read = Pair::read(written.as_bytes()).unwrap();
                    assert_eq!(read.write(), written);
                    assert_eq!((read.ip.to_string(), read.id), (ip.to_owned(), id));
                    assert_eq!(read.metadata, metadata);
                }
            }
        }
    }

    #[test]
    fn masks_are_base64_of_their_bytes() {
        for (ones, bits, text) in [
            (24, 32, "////AA=="),
            (32, 32, "/////w=="),
            (16, 32, "//8AAA=="),
            (0, 32, "AAAAAA=="),
            (64, 128, "//////////8AAAAAAAAAAA=="),
        ] {
            assert_eq!(Mask { ones, bits }.base64(), text);
        }
        for (bits, all) in [(32, 0..=32), (128, 0..=128)] {
            for ones in all {
                let mask = Mask { ones, bits };
                assert_eq!(Mask::from_base64(&mask.base64()), Some(mask));
            }
        }
    }

    #[test]
    fn what_is_no_mask_is_refused() {
        // Holes, another length, no base64.
        for text in [
            "/wD/AA==",
            "AP///w==",
            "//8A",
            "",
            "//8AAAA=",
            "//8AAA",
            "x",
            "//////////8AAAAAAAAAAAAAAAA=",
        ] {
            assert_eq!(Mask::from_base64(text), None, "{text}");
        }
    }

    #[test]
    fn ipv4_in_ipv6_is_ipv4() {
        let read = Pair::read(br#"{"IP":"::ffff:10.1.1.1","ID":300}"#).unwrap();
        assert_eq!(read, pair("10.1.1.1", 300));
    }

    #[test]
    fn what_go_writes_for_nothing_is_nothing() {
        let read = Pair::read(br#"{"IP":"10.1.1.1","HostIP":null,"ID":300}"#).unwrap();
        assert_eq!(read.host_ip, None);
    }

    #[test]
    fn escaped_text_is_read() {
        let value = br#"{"IP":"10.1.1.1","Mask":"\/\/8AAA==","ID":300,"Metadata":"a\u003cb"}"#;
        let read = Pair::read(value).unwrap();
        assert_eq!((read.mask.unwrap().ones, &*read.metadata), (16, "a<b"));
    }

    #[test]
    fn what_is_no_pair_is_refused() {
        for value in [
            "",
            "{}",
            "null",
            "131073",
            r#"["10.1.1.1",null,"",131073,0,""]"#,
            r#"{"IP":"10.1.1.1","ID":131073"#,
            r#"{"IP":"","ID":131073}"#,
            r#"{"IP":null,"ID":131073}"#,
            r#"{"IP":"10.1.1","ID":131073}"#,
            r#"{"IP":"010.1.1.1","ID":131073}"#,
            r#"{"IP":"fe80::1%eth0","ID":131073}"#,
            r#"{"IP":"10.1.1.0/24","ID":131073}"#,
            r#"{"IP":"10.1.1.1","ID":"131073"}"#,
            r#"{"IP":"10.1.1.1","ID":-1}"#,
            r#"{"IP":"10.1.1.1","ID":4294967296}"#,
            r#"{"IP":"10.1.1.1","ID":1.5}"#,
            r#"{"IP":"10.1.1.1","ID":300,"Mask":""}"#,
            r#"{"IP":"10.1.1.1","ID":300,"Mask":24}"#,
            r#"{"IP":"10.1.1.1","ID":300,"HostIP":"node1"}"#,
            r#"{"IP":"10.1.1.1","ID":300,"Key":256}"#,
            r#"{"IP":"10.1.1.1","ID":300}x"#,
        ] {
            assert!(Pair::read(value.as_bytes()).is_err(), "{value}");
        }
        assert!(Pair::read(b"{\"IP\":\"10.1.1.1\",\"ID\":300,\"Metadata\":\"\xff\"}").is_err());
    }
}
