//! Which lines of others count.

use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::pair::Pair;
use super::range::{FIRST_OF_CLUSTERS, Range};
use super::{keys, labels};
use cilmark::model::identity::Identity;

/// Why a line of a cluster does not count.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Refusal {
    /// The value is not to be read.
    Malformed,
    /// The key says another address than the value.
    OtherKey,
    /// The identity is none of the cluster's: out of its range, and not below 256.
    OutOfRange,
    /// The prefix is shorter than the limit.
    TooWide,
    /// The labels do not name the cluster.
    OtherCluster,
    /// The address is another one's on each host: of loopback, of a link, of a group.
    Local,
    /// The address is this host's, or one of its endpoints'.
    Own,
}

impl Refusal {
    /// Each.
    pub const ALL: [Refusal; 7] = [
        Refusal::Malformed,
        Refusal::OtherKey,
        Refusal::OutOfRange,
        Refusal::TooWide,
        Refusal::OtherCluster,
        Refusal::Local,
        Refusal::Own,
    ];

    /// Its name in metrics and in JSON.
    pub fn name(self) -> &'static str {
        match self {
            Refusal::Malformed => "malformed",
            Refusal::OtherKey => "other_key",
            Refusal::OutOfRange => "out_of_range",
            Refusal::TooWide => "too_wide",
            Refusal::OtherCluster => "other_cluster",
            Refusal::Local => "local",
            Refusal::Own => "own",
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Refusal::Malformed => "not to be read",
            Refusal::OtherKey => "the key says another address than the value",
            Refusal::OutOfRange => "the identity is not in the cluster's range",
            Refusal::TooWide => "the prefix is shorter than the limit",
            Refusal::OtherCluster => "the labels do not name the cluster",
            Refusal::Local => "the address means another one on each host",
            Refusal::Own => "the address is this host's own",
        })
    }
}

/// What a key below `ip/v1/` and its value say, by Cilium's rules: [`Identity::HOST`] becomes remote-node (6). `rest` is the
/// key behind the prefix. A full prefix (`10.1.1.1/32`) is the same address under another key.
pub fn address(
    rest: &str,
    value: &[u8],
    range: &Range,
    limits: &Limits,
) -> Result<(IpNet, Identity), Refusal> {
    let pair = Pair::read(value).map_err(|_| Refusal::Malformed)?;
    pair_of(rest, &pair, range, limits)
}

/// The same of a value that is read.
pub fn pair_of(
    rest: &str,
    pair: &Pair<'_>,
    range: &Range,
    limits: &Limits,
) -> Result<(IpNet, Identity), Refusal> {
    let bits = if pair.ip.is_ipv4() { 32 } else { 128 };
    let length = match pair.mask {
        None => None,
        Some(mask) if mask.bits == bits => Some(mask.ones),
        Some(_) => return Err(Refusal::Malformed),
    };
    if !keys::is_text_of(rest, pair.ip, length) {
        return Err(Refusal::OtherKey);
    }
    let net = IpNet::new(pair.ip, length.unwrap_or(bits)).map_err(|_| Refusal::Malformed)?;
    // Bits behind the prefix would make two keys of one prefix. Nobody has identity 0.
    if net != net.trunc() || pair.id == Identity::UNKNOWN.0 {
        return Err(Refusal::Malformed);
    }
    if pair.id >= FIRST_OF_CLUSTERS && !range.contains(pair.id) {
        return Err(Refusal::OutOfRange);
    }
    if net.prefix_len() < limits.of(&net) {
        return Err(Refusal::TooWide);
    }
    if is_local(net.addr()) {
        return Err(Refusal::Local);
    }
    match Identity(pair.id) {
        Identity::HOST => Ok((net, Identity::REMOTE_NODE)),
        identity => Ok((net, identity)),
    }
}

/// Whether no other host can tell whose it is, nor a prefix that begins with it.
pub fn is_local(address: IpAddr) -> bool {
    let is_of_a_link = match address {
        IpAddr::V4(v4) => v4.is_link_local() || v4.octets()[0] == 0 || v4.is_broadcast(),
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    };
    is_of_a_link || address.is_loopback() || address.is_multicast() || address.is_unspecified()
}

/// The labels of a key `id/<N>`: they carry `k8s:io.cilium.k8s.policy.cluster=<cluster>`, and N is in the range.
pub fn identity(
    rest: &str,
    value: &[u8],
    cluster: &str,
    range: &Range,
) -> Result<(Identity, String), Refusal> {
    let number: u32 = rest.parse().map_err(|_| Refusal::Malformed)?;
    let labels = str::from_utf8(value).map_err(|_| Refusal::Malformed)?;
    if !is_canonical(rest) || labels.is_empty() {
        return Err(Refusal::Malformed);
    }
    if !range.contains(number) {
        return Err(Refusal::OutOfRange);
    }
    if labels::cluster_of(labels) != Some(cluster) {
        return Err(Refusal::OtherCluster);
    }
    Ok((Identity(number), labels.to_owned()))
}

/// Whether a number is written as it always is: `007` and `+7` would be other keys of the same identity.
fn is_canonical(number: &str) -> bool {
    number.bytes().all(|it| it.is_ascii_digit()) && (number == "0" || !number.starts_with('0'))
}

/// The shortest prefixes that count, in bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Of IPv4.
    pub ipv4: u8,
    /// Of IPv6.
    pub ipv6: u8,
}

impl Limits {
    fn of(&self, net: &IpNet) -> u8 {
        match net {
            IpNet::V4(_) => self.ipv4,
            IpNet::V6(_) => self.ipv6,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits { ipv4: 8, ipv6: 16 };

    fn read(rest: &str, value: &str) -> Result<(String, u32), Refusal> {
        address(rest, value.as_bytes(), &Range::of(2, 255), &LIMITS)
            .map(|(net, identity)| (net.to_string(), identity.0))
    }

    #[test]
    fn what_cilium_writes_counts() {
        for (rest, value, net, identity) in [
            (
                "10.1.1.1",
                r#"{"IP":"10.1.1.1","Mask":null,"HostIP":"192.0.2.1","ID":131073,"Key":0,"Metadata":"cilium-global:default:node1:1234","K8sNamespace":"prod","K8sPodName":"web-0"}"#,
                "10.1.1.1/32",
                131_073,
            ),
            (
                "fd00::10",
                r#"{"IP":"fd00::10","Mask":null,"HostIP":"192.0.2.1","ID":131073,"Key":0,"Metadata":""}"#,
                "fd00::10/128",
                131_073,
            ),
            (
                "10.2.0.0/16",
                r#"{"IP":"10.2.0.0","Mask":"//8AAA==","HostIP":"","ID":131080,"Key":0,"Metadata":""}"#,
                "10.2.0.0/16",
                131_080,
            ),
            (
                "10.1.1.1/32",
                r#"{"IP":"10.1.1.1","Mask":"/////w==","ID":131073}"#,
                "10.1.1.1/32",
                131_073,
            ),
            (
                "fd00:0:0:1::/64",
                r#"{"IP":"fd00:0:0:1::","Mask":"//////////8AAAAAAAAAAA==","ID":131073}"#,
                "fd00:0:0:1::/64",
                131_073,
            ),
            ("10.1.1.1", r#"{"IP":"::ffff:10.1.1.1","ID":131073}"#, "10.1.1.1/32", 131_073),
        ] {
            assert_eq!(read(rest, value), Ok((net.to_owned(), identity)), "{value}");
        }
    }

    #[test]
    fn an_identity_is_the_clusters_or_the_same_everywhere() {
        let of = |id: u32| {
            read("10.1.1.1", &format!(r#"{{"IP":"10.1.1.1","ID":{id}}}"#)).map(|(_, it)| it)
        };
        for id in [2, 6, 100, 128, 255, 131_072, 196_607] {
            assert_eq!(of(id), Ok(id));
        }
        for id in [256, 65_536, 131_071, 196_608, 1 << 24 | 5, u32::MAX] {
            assert_eq!(of(id), Err(Refusal::OutOfRange), "{id}");
        }
        assert_eq!(of(0), Err(Refusal::Malformed));
    }

    #[test]
    fn a_host_of_others_is_a_remote_node() {
        assert_eq!(
            read("192.0.2.1", r#"{"IP":"192.0.2.1","ID":1}"#),
            Ok(("192.0.2.1/32".to_owned(), 6))
        );
    }

    #[test]
    fn the_key_says_what_the_value_says() {
        for (rest, value) in [
            ("10.1.1.2", r#"{"IP":"10.1.1.1","ID":300}"#),
            ("10.1.1.1/32", r#"{"IP":"10.1.1.1","ID":300}"#),
            ("10.1.1.1", r#"{"IP":"10.1.1.1","Mask":"/////w==","ID":300}"#),
            ("10.2.0.0/24", r#"{"IP":"10.2.0.0","Mask":"//8AAA==","ID":300}"#),
            ("10.2.0.0", r#"{"IP":"10.2.0.0","Mask":"//8AAA==","ID":300}"#),
            ("::ffff:10.1.1.1", r#"{"IP":"::ffff:10.1.1.1","ID":300}"#),
            ("FD00::1", r#"{"IP":"fd00::1","ID":300}"#),
            ("", r#"{"IP":"10.1.1.1","ID":300}"#),
            ("default/10.1.1.1", r#"{"IP":"10.1.1.1","ID":300}"#),
        ] {
            assert_eq!(read(rest, value), Err(Refusal::OtherKey), "{rest} {value}");
        }
    }

    #[test]
    fn a_prefix_that_would_rename_too_much_is_refused() {
        let of = |rest: &str, ip: &str, mask: &str| {
            read(rest, &format!(r#"{{"IP":"{ip}","Mask":"{mask}","ID":131073}}"#))
        };
        assert_eq!(of("0.0.0.0/0", "0.0.0.0", "AAAAAA=="), Err(Refusal::TooWide));
        assert_eq!(of("10.0.0.0/7", "10.0.0.0", "/gAAAA=="), Err(Refusal::TooWide));
        assert!(of("10.0.0.0/8", "10.0.0.0", "/wAAAA==").is_ok());
        assert_eq!(of("fc00::/8", "fc00::", "/wAAAAAAAAAAAAAAAAAAAA=="), Err(Refusal::TooWide));
        assert!(of("fd00::/16", "fd00::", "//8AAAAAAAAAAAAAAAAAAA==").is_ok());
    }

    #[test]
    fn an_address_that_each_host_has_for_itself_is_nobodys() {
        for ip in [
            "127.0.0.2",
            "::1",
            "::",
            "0.0.0.0",
            "0.1.2.3",
            "169.254.169.254",
            "224.0.0.1",
            "255.255.255.255",
            "fe80::1",
            "ff02::1",
        ] {
            let value = format!(r#"{{"IP":"{ip}","ID":131073}}"#);
            assert_eq!(read(ip, &value), Err(Refusal::Local), "{ip}");
        }
        for (rest, ip, mask) in [
            ("127.0.0.0/8", "127.0.0.0", "/wAAAA=="),
            ("169.254.0.0/16", "169.254.0.0", "//8AAA=="),
            ("fe80::/64", "fe80::", "//////////8AAAAAAAAAAA=="),
        ] {
            let value = format!(r#"{{"IP":"{ip}","Mask":"{mask}","ID":131073}}"#);
            assert_eq!(read(rest, &value), Err(Refusal::Local), "{rest}");
        }
        for ip in ["1.1.1.1", "192.0.2.1", "fc00::1", "2001:db8::1"] {
            assert!(read(ip, &format!(r#"{{"IP":"{ip}","ID":131073}}"#)).is_ok(), "{ip}");
        }
    }

    #[test]
    fn a_mask_is_of_the_addresss_family_and_covers_the_address() {
        for (rest, ip, mask) in [
            ("10.2.0.0/64", "10.2.0.0", "//////////8AAAAAAAAAAA=="),
            ("fd00::/16", "fd00::", "//8AAA=="),
            ("10.2.0.5/16", "10.2.0.5", "//8AAA=="),
        ] {
            let value = format!(r#"{{"IP":"{ip}","Mask":"{mask}","ID":131073}}"#);
            assert_eq!(read(rest, &value), Err(Refusal::Malformed), "{value}");
        }
    }

    #[test]
    fn what_is_not_to_be_read_is_malformed() {
        for value in ["", "{}", r#"{"IP":"10.1.1.1","ID":"web"}"#, r#"{"ID":131073}"#] {
            assert_eq!(read("10.1.1.1", value), Err(Refusal::Malformed), "{value}");
        }
    }

    fn labels(rest: &str, value: &str) -> Result<(u32, String), Refusal> {
        identity(rest, value.as_bytes(), "edge", &Range::of(2, 255))
            .map(|(identity, labels)| (identity.0, labels))
    }

    const LABELS: &str =
        "k8s:app=web;k8s:io.cilium.k8s.policy.cluster=edge;k8s:io.kubernetes.pod.namespace=prod;";

    #[test]
    fn an_identity_names_its_cluster() {
        assert_eq!(labels("131073", LABELS), Ok((131_073, LABELS.to_owned())));
        for value in [
            "k8s:app=web;",
            "k8s:app=web;k8s:io.cilium.k8s.policy.cluster=edg;",
            "k8s:app=web;k8s:io.cilium.k8s.policy.cluster=edge2;",
            "k8s:app=web;any:io.cilium.k8s.policy.cluster=edge;",
            "k8s:app=web;io.cilium.k8s.policy.cluster=edge;",
            "k8s:app=k8s:io.cilium.k8s.policy.cluster=edge;",
        ] {
            assert_eq!(labels("131073", value), Err(Refusal::OtherCluster), "{value}");
        }
    }

    #[test]
    fn an_identity_is_in_the_clusters_range() {
        for number in ["131072", "196607"] {
            assert!(labels(number, LABELS).is_ok());
        }
        for number in ["0", "5", "255", "131071", "196608"] {
            assert_eq!(labels(number, LABELS), Err(Refusal::OutOfRange), "{number}");
        }
    }

    #[test]
    fn a_number_is_one() {
        for rest in ["", "web", "0131073", "+131073", "131073/", "-1", "4294967296"] {
            assert_eq!(labels(rest, LABELS), Err(Refusal::Malformed), "{rest}");
        }
        assert_eq!(labels("131073", ""), Err(Refusal::Malformed));
    }

    #[test]
    fn refusals_have_one_name_in_json_and_in_metrics() {
        for refusal in Refusal::ALL {
            assert_eq!(serde_json::to_string(&refusal).unwrap(), format!("\"{}\"", refusal.name()));
        }
    }
}
