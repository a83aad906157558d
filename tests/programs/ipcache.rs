//! From address to identity.

use super::*;
use crate::common::Fixture;
use crate::common::packet::Frame;

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
