//! The addresses that packets vary by: each follows from its number, here as in vary.bpf.c.

use std::collections::HashSet;
use std::net::{IpAddr, Ipv6Addr};

use anyhow::Result;
use cilmark::model::identity::Identity;
use ipnet::IpNet;

use super::paths::PEER_IPV6;

/// One to one, and as good as random: the end of MurmurHash3.
fn mix(number: u32) -> u32 {
    let number = (number ^ number >> 16).wrapping_mul(0x85eb_ca6b);
    let number = (number ^ number >> 13).wrapping_mul(0xc2b2_ae35);
    number ^ number >> 16
}

/// The address with a number. Of IPv6 the first word is that of the packets' peer.
pub fn address(family: u8, number: u32) -> IpAddr {
    let first = mix(number.wrapping_add(1));
    if family == 4 {
        return IpAddr::from(first.to_ne_bytes());
    }
    let mut octets = PEER_IPV6.octets();
    for (place, word) in [first, mix(!number), number].into_iter().enumerate() {
        octets[4 * (place + 1)..][..4].copy_from_slice(&word.to_ne_bytes());
    }
    Ipv6Addr::from(octets).into()
}

/// Lines of an ipcache, and the numbers below which every address has one.
pub struct Lines {
    pub lines: Vec<(IpNet, Identity)>,
    pub numbers: u32,
}

/// So many hosts, whose identities are those of as many rules in turn.
pub fn hosts(family: u8, count: u32, identities: u32) -> Lines {
    let line = |number| (address(family, number).into(), identity(number % identities));
    Lines { lines: (0..count).map(line).collect(), numbers: count }
}

/// So many different prefixes of all lengths that networks have between a provider's and a host's,
/// each around the address with its number.
pub fn prefixes(family: u8, count: u32) -> Result<Lines> {
    let (shortest, lengths) = if family == 4 { (16, 13) } else { (36, 25) };
    let mut seen = HashSet::new();
    let mut lines = Vec::new();
    let mut numbers = 0;
    while lines.len() < count as usize {
        let length = shortest + (mix(!numbers) % lengths) as u8;
        let prefix = IpNet::new(address(family, numbers), length)?.trunc();
        if seen.insert(prefix) {
            lines.push((prefix, identity(0)));
        }
        numbers += 1;
    }
    Ok(Lines { lines, numbers })
}

/// The identity of the peers that the rule with this place in a list is about.
pub fn identity(place: u32) -> Identity {
    Identity(256 + place)
}
