//! From address to identity.

use std::collections::BTreeMap;

use anyhow::anyhow;
use cilmark::model::identity::Identity;
use cilmark::state::ipcache::LEAST_PREFIXES;
use ipnet::IpNet;
use libbpf_rs::{MapCore, MapFlags, MapHandle};

use super::*;
use crate::common::Fixture;
use crate::common::packet::Frame;
use crate::common::random::Random;

#[test]
fn who_is_not_in_the_ipcache_is_the_world() {
    let Some(fixture) = Fixture::new() else { return };
    let workload = fixture.container(ID).load();
    for (own, peer) in OWN_TO_PEER {
        workload.from_container(Frame::ip(own, peer).tcp(1, 2)).goes_to(2);
    }
}

#[test]
fn the_longest_prefix_decides_and_a_host_before_all() {
    let Some(fixture) = Fixture::new() else { return };
    let workload = fixture.container(ID).load();
    let goes_to = |identity: u32| {
        for (own, peer) in OWN_TO_PEER {
            workload.from_container(Frame::ip(own, peer).tcp(1, 2)).goes_to(identity);
        }
    };
    for (v4, v6, identity) in [
        ("0.0.0.0/0", "::/0", 300),
        ("10.0.0.0/8", "fd00::/16", 301),
        ("10.2.0.0/16", "fd00:2::/32", 302),
        ("10.2.0.0/31", "fd00:2::/127", 302),
        ("10.2.0.10/31", "fd00:2::10/127", 303),
        ("10.2.0.10", "fd00:2::10", 304),
    ] {
        fixture.ipcache(v4, identity);
        fixture.ipcache(v6, identity);
        goes_to(identity);
    }
    // Later, shorter and unrelated ones change nothing.
    for (v4, v6) in [("10.2.0.0/24", "fd00:2::/64"), ("10.2.0.11", "fd00:2::11")] {
        fixture.ipcache(v4, 305);
        fixture.ipcache(v6, 305);
        goes_to(304);
    }
}

#[test]
fn every_length_of_prefix_matches_its_own_addresses_only() {
    let Some(fixture) = Fixture::new() else { return };
    let workload = fixture.container(ID).load();
    for length in 1..=32 {
        let other = Ipv4Addr::from_bits(PEER4.to_bits() ^ 1 << (32 - length));
        fixture.ipcache(&format!("{PEER4}/{length}"), 1000 + length);
        workload.from_container(Frame::ipv4(OWN4, PEER4).udp(1, 2)).goes_to(1000 + length);
        let run = workload.from_container(Frame::ipv4(OWN4, other).udp(1, 2));
        run.goes_to(if length == 1 { 2 } else { 1000 + length - 1 });
    }
    for length in 1..=128 {
        let other = Ipv6Addr::from_bits(PEER6.to_bits() ^ 1 << (128 - length));
        fixture.ipcache(&format!("{PEER6}/{length}"), 1000 + length);
        workload.from_container(Frame::ipv6(OWN6, PEER6).udp(1, 2)).goes_to(1000 + length);
        let run = workload.from_container(Frame::ipv6(OWN6, other).udp(1, 2));
        run.goes_to(if length == 1 { 2 } else { 1000 + length - 1 });
    }
}

#[test]
fn an_address_is_not_found_in_the_other_family() {
    let Some(fixture) = Fixture::new() else { return };
    let four = Ipv4Addr::new(10, 0, 0, 1);
    let six = Ipv6Addr::new(0x0a00, 1, 0, 0, 0, 0, 0, 0);
    let workload = fixture.container(ID).load();
    let go_to = |of_four: u32, of_six: u32| {
        workload.from_container(Frame::ipv4(OWN4, four).udp(1, 2)).goes_to(of_four);
        workload.from_container(Frame::ipv6(OWN6, six).udp(1, 2)).goes_to(of_six);
    };
    go_to(2, 2);
    fixture.ipcache("0.0.0.0/0", 300);
    go_to(300, 2);
    fixture.ipcache("::/0", 400);
    go_to(300, 400);
    fixture.ipcache("10.0.0.0/24", 301);
    go_to(301, 400);
    fixture.ipcache("a00:1::/32", 401);
    go_to(301, 401);
    fixture.ipcache("10.0.0.1", 302);
    go_to(302, 401);
    fixture.ipcache("a00:1::", 402);
    go_to(302, 402);
}

#[test]
fn an_identity_that_fits_no_mark_is_found() {
    let Some(fixture) = Fixture::new() else { return };
    fixture.ipcache("10.2.0.10", 0x0100_0001);
    fixture.ipcache("fd00:2::/32", u32::MAX);
    let workload = fixture.container(ID).load();
    workload.from_container(Frame::ipv4(OWN4, PEER4).udp(1, 2)).goes_to(0x0100_0001);
    workload.from_container(Frame::ipv6(OWN6, PEER6).udp(1, 2)).goes_to(u32::MAX);
}

/// Whether an index is in one of the three slots of `cm_ipcache_idx`.
fn is_indexed(fixture: &Fixture, slot: u32) -> bool {
    let slots =
        MapHandle::from_pinned_path(fixture.world.root().map("cm_ipcache_idx")).expect("open");
    slots.lookup(&slot.to_ne_bytes(), MapFlags::ANY).expect("look up").is_some()
}

fn slots(fixture: &Fixture) -> [bool; 3] {
    [0, 1, 2].map(|slot| is_indexed(fixture, slot))
}

/// The longest prefix, by looking at each.
fn longest(lines: &[(IpNet, Identity)], address: IpAddr) -> u32 {
    let matching = lines.iter().filter(|(net, _)| net.contains(&address));
    matching.max_by_key(|(net, _)| net.prefix_len()).map_or(2, |(_, identity)| identity.0)
}

/// Prefixes of all lengths, that meet: few bits of an address differ.
fn random_lines(random: &mut Random) -> Vec<(IpNet, Identity)> {
    let mut lines: BTreeMap<IpNet, Identity> = BTreeMap::new();
    for number in 0..600 {
        let bits = random.number() & random.number();
        let net = if number % 2 == 0 {
            let address = Ipv4Addr::from_bits(bits as u32);
            IpNet::new(address.into(), random.below(33) as u8)
        } else {
            let upper = [0xfd00 << 48, 0x2001 << 48, bits][random.below(3)] ^ bits >> 20;
            let address = u128::from(upper) << 64 | u128::from(random.number());
            IpNet::new(Ipv6Addr::from_bits(address).into(), random.below(129) as u8)
        };
        lines.insert(net.expect("a length of the family").trunc(), Identity(256 + number));
    }
    lines.into_iter().collect()
}

/// The ends of a prefix, and what lies beside them.
fn around(net: &IpNet) -> Vec<IpAddr> {
    let ends = [net.network(), net.broadcast()];
    ends.into_iter()
        .flat_map(|end| match end {
            IpAddr::V4(v4) => [-1, 0, 1]
                .map(|by| Ipv4Addr::from_bits(v4.to_bits().wrapping_add_signed(by)).into()),
            IpAddr::V6(v6) => [-1, 0, 1]
                .map(|by| Ipv6Addr::from_bits(v6.to_bits().wrapping_add_signed(by)).into()),
        })
        .collect()
}

#[test]
fn an_index_says_what_the_longest_prefix_says() {
    let Some(fixture) = Fixture::new() else { return };
    let workload = fixture.container(ID).address(OWN4).address(OWN6).load();
    let mut random = Random(7);
    let lines = random_lines(&mut random);
    fixture.open_ipcache().indexed_from(100).load(&lines, |_| Ok(())).expect("load");
    assert_eq!(slots(&fixture), [true; 3]);
    for address in lines.iter().flat_map(|(net, _)| around(net)) {
        let own: IpAddr = if address.is_ipv4() { OWN4.into() } else { OWN6.into() };
        let run = workload.from_container(Frame::ip(own, address).tcp(1, 2));
        run.goes_to(longest(&lines, address));
    }
}

#[test]
fn a_change_of_prefixes_counts_at_once_where_there_is_an_index() {
    let Some(fixture) = Fixture::new() else { return };
    let workload = fixture.container(ID).load();
    let goes_to = |identity: u32| {
        for (own, peer) in OWN_TO_PEER {
            workload.from_container(Frame::ip(own, peer).tcp(1, 2)).goes_to(identity);
        }
    };
    let nets: [IpNet; 2] = ["10.2.0.0/16", "fd00:2::/32"].map(|text| text.parse().unwrap());
    let ipcache = fixture.open_ipcache().indexed_from(1);
    let set = |identity: u32| {
        nets.iter().for_each(|net| ipcache.set(net, Identity(identity)).expect("set"));
    };
    set(300);
    assert_eq!(slots(&fixture), [true; 3]);
    goes_to(300);
    set(301);
    goes_to(301);
    let narrow = ["10.2.0.8/29", "fd00:2::/64"].map(|text| (text.parse().unwrap(), Identity(302)));
    ipcache.load(&narrow, |_| Ok(())).expect("load");
    goes_to(302);
    for (net, _) in &narrow {
        assert!(ipcache.delete(net).expect("delete"));
    }
    goes_to(301);
    fixture.ipcache("10.2.0.10", 303);
    fixture.ipcache("fd00:2::10", 303);
    assert_eq!(slots(&fixture), [true; 3], "a host is no prefix");
    goes_to(303);
    ipcache.flush().expect("flush");
    assert_eq!(slots(&fixture), [false; 3]);
    goes_to(2);
}

#[test]
fn a_load_that_fails_leaves_an_index_of_what_was_there() {
    let Some(fixture) = Fixture::new() else { return };
    let workload = fixture.container(ID).load();
    let ipcache = fixture.open_ipcache().indexed_from(1);
    ipcache.set(&"10.2.0.0/16".parse().unwrap(), Identity(300)).expect("set");
    let new = [("10.2.0.0/16".parse().unwrap(), Identity(301))];
    assert!(ipcache.load(&new, |_| Err(anyhow!("interrupted"))).is_err());
    workload.from_container(Frame::ipv4(OWN4, PEER4).udp(1, 2)).goes_to(300);
    assert_eq!(slots(&fixture), [true, false, false]);
}

#[test]
fn few_prefixes_get_no_index() {
    let Some(fixture) = Fixture::new() else { return };
    let line = |number: u32| {
        let net = IpNet::new(Ipv4Addr::from_bits(0x0a00_0000 + (number << 8)).into(), 24);
        (net.expect("a length"), Identity(256 + number))
    };
    let least = LEAST_PREFIXES as u32;
    let lines: Vec<(IpNet, Identity)> = (1..least).map(line).collect();
    fixture.open_ipcache().load(&lines, |_| Ok(())).expect("load");
    assert_eq!(slots(&fixture), [false; 3]);
    fixture.open_ipcache().load(&[line(least)], |_| Ok(())).expect("load");
    assert_eq!(slots(&fixture), [true, false, false]);
    fixture.open_ipcache().delete(&line(1).0).expect("delete");
    assert_eq!(slots(&fixture), [false; 3]);
}
