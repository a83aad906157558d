//! Address prefixes, and files that give them identities.

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;

use anyhow::{Context, Result, bail};
use ipnet::{IpNet, Ipv6Net};

use super::identity::{Identity, Names};
use super::text::lines;

/// Reads `ADDRESS` or `ADDRESS/LENGTH`. Bits beyond the length must be zero, since they tell that
/// a host was meant, or another prefix.
pub fn parse_prefix(text: &str) -> Result<IpNet> {
    if let Ok(address) = text.parse::<IpAddr>() {
        return Ok(IpNet::from(address));
    }
    let prefix: IpNet = text.parse().with_context(|| {
        format!("prefix `{text}` is not an address such as 10.0.0.1 or a prefix such as fd00::/64")
    })?;
    if prefix.trunc() != prefix {
        bail!(
            "prefix `{text}` has bits beyond its length; {} and {} are what it may mean",
            prefix.trunc(),
            prefix.addr()
        );
    }
    Ok(prefix)
}

/// Reads what an endpoint is to own: an address, a prefix, or an address with the length of its network, as `ip addr` and
/// templates have it, of which the address counts.
pub fn parse_own(text: &str) -> Result<IpNet> {
    if let Ok(address) = text.parse::<IpAddr>() {
        return Ok(IpNet::from(address));
    }
    let network: IpNet = text.parse().ok().with_context(|| {
        format!("`{text}` is neither an IP address nor a prefix such as fd00::/64")
    })?;
    if network.trunc() == network { Ok(network) } else { Ok(IpNet::from(network.addr())) }
}

/// How what [`parse_own`] reads stands in JSON and in files.
pub mod own {
    use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};

    use super::{IpNet, format_prefix, parse_own};

    /// Writes them, a host without a length.
    pub fn serialize<S: Serializer>(own: &[IpNet], to: S) -> Result<S::Ok, S::Error> {
        own.iter().map(format_prefix).collect::<Vec<String>>().serialize(to)
    }

    /// Reads them.
    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<IpNet>, D::Error> {
        let texts = Vec::<String>::deserialize(from)?;
        texts.iter().map(|text| parse_own(text).map_err(D::Error::custom)).collect()
    }
}

/// The addresses among prefixes.
pub fn hosts(prefixes: &[IpNet]) -> impl Iterator<Item = IpAddr> {
    prefixes.iter().filter(|prefix| is_host(prefix)).map(IpNet::addr)
}

/// Separated by blanks.
pub fn list(prefixes: &[IpNet]) -> String {
    prefixes.iter().map(format_prefix).collect::<Vec<_>>().join(" ")
}

/// Whether one of these has an address.
pub fn any_contains(prefixes: &[IpNet], address: IpAddr) -> bool {
    prefixes.iter().any(|prefix| prefix.contains(&address))
}

/// Reads an IPv6 prefix.
pub fn parse_ipv6_prefix(text: &str) -> Result<Ipv6Net> {
    match parse_prefix(text)? {
        IpNet::V6(prefix) => Ok(prefix),
        IpNet::V4(_) => bail!("prefix `{text}` is not an IPv6 prefix such as fd00::/64"),
    }
}

/// `10.0.0.1` for a host, `10.0.0.0/8` for a wider prefix.
pub fn format_prefix(prefix: &IpNet) -> String {
    if is_host(prefix) { prefix.addr().to_string() } else { prefix.to_string() }
}

/// A /32 or /128.
pub fn is_host(prefix: &IpNet) -> bool {
    prefix.prefix_len() == prefix.max_prefix_len()
}

/// Reads lines of `PREFIX IDENTITY`; `#` begins a comment. An error names the line, from 1.
pub fn parse_ipcache(text: &str, names: &Names) -> Result<Vec<(IpNet, Identity)>> {
    let mut entries = Vec::new();
    for (number, line) in lines(text) {
        let words: Vec<&str> = line.split_ascii_whitespace().collect();
        let entry = match words[..] {
            [prefix, identity] => {
                parse_prefix(prefix).and_then(|prefix| Ok((prefix, names.parse(identity)?)))
            }
            _ => bail!("line {number}: expected `PREFIX IDENTITY`, found `{line}`"),
        };
        entries.push(entry.with_context(|| format!("line {number}"))?);
    }
    Ok(entries)
}

/// What prefixes stand for, of which the longest counts.
#[derive(Debug)]
pub struct PrefixTable<T> {
    values: HashMap<IpNet, T>,
    /// That there are, of either family.
    lengths: BTreeSet<u8>,
}

impl<T> FromIterator<(IpNet, T)> for PrefixTable<T> {
    fn from_iter<I: IntoIterator<Item = (IpNet, T)>>(entries: I) -> PrefixTable<T> {
        let values: HashMap<IpNet, T> = entries.into_iter().collect();
        PrefixTable { lengths: values.keys().map(IpNet::prefix_len).collect(), values }
    }
}

impl<T> PrefixTable<T> {
    /// The value of the longest prefix that has an address.
    pub fn get(&self, address: IpAddr) -> Option<&T> {
        self.lengths.iter().rev().find_map(|length| {
            // A length of the other family is none of this one.
            let prefix = IpNet::new(address, *length).ok()?;
            self.values.get(&prefix.trunc())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_prefix_counts_in_either_family() {
        let entries = ["0.0.0.0/0", "10.0.0.0/8", "10.1.0.0/16", "10.1.2.3", "fd00::/64"];
        let table: PrefixTable<&str> =
            entries.into_iter().map(|text| (parse_prefix(text).unwrap(), text)).collect();
        for (address, wanted) in [
            ("10.1.2.3", Some("10.1.2.3")),
            ("10.1.2.4", Some("10.1.0.0/16")),
            ("10.2.0.1", Some("10.0.0.0/8")),
            ("192.0.2.1", Some("0.0.0.0/0")),
            ("fd00::1", Some("fd00::/64")),
            ("fd01::1", None),
        ] {
            assert_eq!(table.get(address.parse().unwrap()).copied(), wanted, "{address}");
        }
    }

    #[test]
    fn hosts_and_prefixes_of_both_families_are_read_and_written() {
        for (text, written) in [
            ("10.0.0.1", "10.0.0.1"),
            ("10.0.0.1/32", "10.0.0.1"),
            ("10.0.0.0/8", "10.0.0.0/8"),
            ("0.0.0.0/0", "0.0.0.0/0"),
            ("fd00::1", "fd00::1"),
            ("fd00::/64", "fd00::/64"),
        ] {
            assert_eq!(format_prefix(&parse_prefix(text).unwrap()), written);
        }
    }

    #[test]
    fn bits_beyond_the_length_are_an_error_with_both_readings() {
        let error = parse_prefix("10.1.2.3/8").unwrap_err().to_string();
        assert!(error.contains("10.0.0.0/8") && error.contains("10.1.2.3"), "{error}");
    }

    #[test]
    fn of_an_address_with_the_length_of_its_network_the_address_counts() {
        for (text, owned) in [
            ("10.0.0.1", "10.0.0.1"),
            ("10.0.0.1/32", "10.0.0.1"),
            ("172.17.0.2/16", "172.17.0.2"),
            ("172.17.0.0/16", "172.17.0.0/16"),
            ("10.0.0.0/31", "10.0.0.0/31"),
            ("10.0.0.1/31", "10.0.0.1"),
            ("fd00::/64", "fd00::/64"),
            ("fd00::1/64", "fd00::1"),
            ("fd00::/128", "fd00::"),
        ] {
            assert_eq!(format_prefix(&parse_own(text).unwrap()), owned);
        }
        for text in ["", "10.0.0", "10.0.0.0/33", "fd00::/129", "eth0", "10.0.0.1/", "10.0.0.1/x"] {
            assert!(parse_own(text).is_err(), "{text}");
        }
    }

    #[test]
    fn what_is_no_prefix_is_refused() {
        for text in ["", "10.0.0", "10.0.0.0/33", "fd00::/129", "eth0", "10.0.0.1/", "::ffff/x"] {
            assert!(parse_prefix(text).is_err(), "{text}");
        }
    }

    #[test]
    fn an_ipcache_file_may_have_comments_blank_lines_and_names() {
        let names = Names::new([(Identity(300), "db".to_owned())]);
        let text = "# hosts\n\n10.0.0.1 300\n10.0.0.2\tdb # the second\n  fd00::/64 world\n";
        let entries = parse_ipcache(text, &names).unwrap();
        let identities: Vec<u32> = entries.iter().map(|(_, identity)| identity.0).collect();
        assert_eq!(identities, [300, 300, 2]);
    }

    #[test]
    fn a_bad_line_is_named_by_its_number() {
        for text in ["10.0.0.1 1\n10.0.0.2", "\n10.0.0.300 1", "#\n10.0.0.1 1 2", "#\n1.2.3.4 x"] {
            let error = parse_ipcache(text, &Names::default()).unwrap_err().to_string();
            assert!(error.starts_with("line 2"), "{error}");
        }
    }
}
