//! The identity in the IPv6 flow label: written by the sender's host, believed by the receiver's.

use cilmark::program::load::Features;

use super::*;
use crate::common::Fixture;
use crate::common::packet::Frame;
use crate::common::program::Endpoint;

const LABEL: u32 = 0xf_ffff;

fn writer(fixture: &Fixture, identity: u32) -> Endpoint<'_> {
    let features = Features { flow_label: true, ..Features::default() };
    fixture.container(identity).address(OWN4).address(OWN6).features(features).load()
}

/// A NIC that stamps what it receives, and trusts labels from the peer's network.
fn reader(fixture: &Fixture) -> Endpoint<'_> {
    reader_of(fixture, 1, "fd00:2::/32")
}

fn reader_of<'a>(fixture: &'a Fixture, identity: u32, trusted: &str) -> Endpoint<'a> {
    let prefix = trusted.parse().expect("a prefix");
    let features =
        Features { trust_flow_label: Some(prefix), stamp_remote: true, ..Features::default() };
    fixture.netdev(identity).features(features).load()
}

fn from_peer(label: u32) -> Frame {
    Frame::ipv6(PEER6, OWN6).flow_label(label).tcp(1, 2)
}

#[test]
fn the_label_gets_the_identity_and_all_else_stays() {
    let Some(fixture) = Fixture::new() else { return };
    for identity in [ID, WIDE_ID, 1, LABEL] {
        let writer = writer(&fixture, identity);
        for (class, label) in [(0, 0), (0xb8, 0x12345), (0xff, LABEL)] {
            for frame in [
                Frame::ipv6(OWN6, PEER6).tcp(1000, 80),
                Frame::ipv6(OWN6, PEER6).vlan(7).udp(1000, 53),
                Frame::ipv6(OWN6, PEER6).service_vlan(7).vlan(8).icmp6(128, &[1; 4]),
                Frame::ipv6(OWN6, PEER6).hop_by_hop().fragment(4, true).tcp(1000, 80),
            ] {
                let frame = frame.traffic_class(class).flow_label(label);
                let expected = frame.clone().flow_label(identity).bytes();
                let run = writer.from_container(frame);
                run.passes();
                assert_eq!(run.bytes, expected, "{run:?}");
            }
        }
    }
}

#[test]
fn ipv4_arp_and_drops_are_not_written_to() {
    let Some(fixture) = Fixture::new() else { return };
    let writer = writer(&fixture, ID);
    writer.from_container(Frame::ipv4(OWN4, PEER4).tcp(1, 2)).passes_unchanged();
    writer.from_container(Frame::arp_request(OWN4, PEER4)).passes_unchanged();
    writer.from_container(Frame::ipv6(PEER6, OWN6).tcp(1, 2)).is_dropped(132);
}

#[test]
fn the_label_is_left_alone_unless_asked_for() {
    let Some(fixture) = Fixture::new() else { return };
    let workload = fixture.container(ID).load();
    workload.from_container(from_peer(0x54321)).passes_unchanged();
}

#[test]
fn the_label_of_a_trusted_sender_is_its_identity() {
    let Some(fixture) = Fixture::new() else { return };
    fixture.ipcache("fd00:2::/32", 300);
    let reader = reader(&fixture);
    for (label, mark) in [(ID, ID_MARK), (WIDE_ID, WIDE_MARK), (LABEL, 0xffff_0f0f)] {
        for frame in [from_peer(label), from_peer(label).vlan(7).traffic_class(0xff)] {
            let run = reader.from_netdev(frame.forwarded());
            run.passes_unchanged().has_mark(mark).comes_from(label);
        }
    }
}

#[test]
fn a_label_of_nobody_or_of_the_host_leaves_it_to_the_ipcache() {
    let Some(fixture) = Fixture::new() else { return };
    let reader = reader(&fixture);
    for label in [0, 1] {
        reader.from_netdev(from_peer(label)).passes_with_mark(0x0002_0f00).comes_from(2);
    }
    fixture.ipcache("fd00:2::/32", 300);
    for label in [0, 1] {
        reader.from_netdev(from_peer(label)).passes_with_mark(0x012c_0f00).comes_from(300);
    }
}

#[test]
fn a_label_of_the_nics_own_identity_leaves_it_to_the_ipcache() {
    let Some(fixture) = Fixture::new() else { return };
    let reader = reader_of(&fixture, WIDE_ID, "fd00:2::/32");
    reader.from_netdev(from_peer(ID)).passes_with_mark(ID_MARK);
    reader.from_netdev(from_peer(WIDE_ID)).passes_with_mark(0x0002_0f00).comes_from(2);
    fixture.ipcache("fd00:2::/32", 300);
    reader.from_netdev(from_peer(WIDE_ID)).passes_with_mark(0x012c_0f00).comes_from(300);
}

#[test]
fn the_label_of_a_stranger_means_nothing() {
    let Some(fixture) = Fixture::new() else { return };
    fixture.ipcache("::/0", 300);
    let reader = reader(&fixture);
    for source in ["fd00:3::10", "fd00:1:ffff::", "fd01:2::10", "fe80::1", "::"] {
        let source = source.parse().expect("an address");
        let frame = Frame::ipv6(source, OWN6).flow_label(ID).tcp(1, 2);
        reader.from_netdev(frame).passes_with_mark(0x012c_0f00).comes_from(300);
    }
}

#[test]
fn without_a_trusted_prefix_no_label_means_anything() {
    let Some(fixture) = Fixture::new() else { return };
    fixture.ipcache("::/0", 300);
    let features = Features { stamp_remote: true, ..Features::default() };
    let nic = fixture.netdev(1).features(features).load();
    nic.from_netdev(from_peer(ID)).passes_with_mark(0x012c_0f00).comes_from(300);
}

#[test]
fn every_length_of_trusted_prefix_is_exact() {
    let Some(fixture) = Fixture::new() else { return };
    for length in [0, 1, 31, 32, 33, 63, 64, 65, 127, 128] {
        let nic = reader_of(&fixture, 1, &format!("{PEER6}/{length}"));
        nic.from_netdev(from_peer(ID)).passes_with_mark(ID_MARK);
        if length > 0 {
            let outside = Ipv6Addr::from_bits(PEER6.to_bits() ^ 1 << (128 - length));
            let frame = Frame::ipv6(outside, OWN6).flow_label(ID).tcp(1, 2);
            nic.from_netdev(frame).passes_with_mark(0x0002_0f00);
        }
    }
}

#[test]
fn what_one_host_writes_another_reads() {
    let Some(fixture) = Fixture::new() else { return };
    let reader = reader_of(&fixture, 1, "fd00:1::/32");
    let sent = writer(&fixture, WIDE_ID).from_container(Frame::ipv6(OWN6, PEER6).tcp(1, 2));
    reader.from_netdev(sent.bytes).passes_with_mark(WIDE_MARK);
}
