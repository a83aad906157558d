//! Devices without an Ethernet header: tun, WireGuard.

use cilmark::program::load::Features;

use super::*;
use crate::common::Fixture;
use crate::common::packet::Frame;

fn packet(source: IpAddr, destination: IpAddr) -> Frame {
    Frame::ip(source, destination).without_ethernet()
}

#[test]
fn packets_are_read_from_their_first_byte() {
    let Some(fixture) = Fixture::new() else { return };
    fixture.ipcache("10.2.0.10", 300);
    fixture.ipcache("fd00:2::10", 300);
    let workload = fixture.container(ID).address(OWN4).address(OWN6).without_ethernet().load();
    for (own, peer) in OWN_TO_PEER {
        for frame in [packet(own, peer).tcp(1000, 80), packet(own, peer).udp(1000, 80)] {
            let run = workload.from_container(frame);
            run.passes_unchanged().has_mark(ID_MARK).goes_to(300);
            assert_eq!(u16::from_be(run.event().dport), 80, "{run:?}");
        }
        let fragment = packet(own, peer).fragment(3, false).tcp(1, 2);
        workload.from_container(fragment).passes_with_mark(ID_MARK);
    }
    let options = packet(OWN4.into(), PEER4.into()).options(&[1; 12]).tcp(1000, 80);
    assert_eq!(u16::from_be(workload.from_container(options).event().dport), 80);
    let chain = packet(OWN6.into(), PEER6.into()).hop_by_hop().routing().tcp(1000, 80);
    assert_eq!(u16::from_be(workload.from_container(chain).event().dport), 80);
}

#[test]
fn the_source_is_checked_there_too() {
    let Some(fixture) = Fixture::new() else { return };
    let workload = fixture.container(ID).address(OWN4).address(OWN6).without_ethernet().load();
    for (peer, own) in PEER_TO_OWN {
        workload.from_container(packet(peer, own).tcp(1, 2)).is_dropped(132);
    }
    let advertisement = packet(LINK_LOCAL.into(), ALL_ROUTERS.into()).router_advertisement();
    workload.from_container(advertisement).is_dropped(176);
    let foreign = packet(OWN6.into(), PEER6.into()).neighbour_advertisement(PEER6);
    workload.from_container(foreign).is_dropped(132);
}

#[test]
fn another_version_is_neither_ip_nor_arp() {
    let Some(fixture) = Fixture::new() else { return };
    let workload = fixture.container(ID).without_ethernet().load();
    for version in (0..16).filter(|version| ![4, 6].contains(version)) {
        let mut bytes = packet(OWN4.into(), PEER4.into()).tcp(1, 2).bytes();
        bytes[0] = version << 4 | 5;
        workload.from_container(bytes).is_dropped(139);
    }
    // An Ethernet frame says nothing there: its first nibble is part of a MAC.
    workload.from_container(Frame::ipv4(OWN4, PEER4).tcp(1, 2)).is_dropped(139);
}

#[test]
fn the_other_programs_read_such_packets_as_well() {
    let Some(fixture) = Fixture::new() else { return };
    fixture.ipcache("10.2.0.10", 300);
    fixture.ipcache("fd00:2::10", 300);
    let workload = fixture.container(ID).without_ethernet().load();
    let features = Features { stamp_remote: true, ..Features::default() };
    let nic = fixture.netdev(ID).features(features).without_ethernet().load();
    for (peer, own) in PEER_TO_OWN {
        let arriving = packet(peer, own).tcp(1, 2).forwarded();
        workload.to_container(arriving.clone()).passes_unchanged().comes_from(300);
        nic.from_netdev(arriving).passes_unchanged().has_mark(0x012c_0f00).comes_from(300);
        nic.to_netdev(packet(own, peer).tcp(1, 2)).passes_with_mark(ID_MARK).goes_to(300);
    }
}

#[test]
fn the_flow_label_is_written_and_read_there_too() {
    let Some(fixture) = Fixture::new() else { return };
    let features = Features { flow_label: true, ..Features::default() };
    let workload = fixture.container(ID).features(features).without_ethernet().load();
    let sent = packet(OWN6.into(), PEER6.into()).traffic_class(0xb8).tcp(1, 2);
    let run = workload.from_container(sent.clone());
    assert_eq!(run.bytes, sent.flow_label(ID).bytes(), "{run:?}");

    let prefix = "fd00:1::/32".parse().expect("a prefix");
    let features =
        Features { trust_flow_label: Some(prefix), stamp_remote: true, ..Features::default() };
    let nic = fixture.netdev(1).features(features).without_ethernet().load();
    nic.from_netdev(run.bytes.clone()).passes_with_mark(ID_MARK);
}

#[test]
fn headers_cut_short_are_invalid() {
    let Some(fixture) = Fixture::new() else { return };
    let workload = fixture.container(ID).without_ethernet().load();
    for (frame, headers) in [
        (packet(OWN4.into(), PEER4.into()).tcp(1, 2), 20 + 20),
        (packet(OWN6.into(), PEER6.into()).tcp(1, 2), 40 + 20),
    ] {
        for length in 14..headers {
            workload.from_container(frame.clone().truncate(length)).is_dropped(134);
        }
        workload.from_container(frame.truncate(headers)).passes_with_mark(ID_MARK);
    }
}
