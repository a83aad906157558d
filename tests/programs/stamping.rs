//! What a workload sends carries its identity.

use cilmark::kernel::abi::cm_program;

use super::*;
use crate::common::Fixture;
use crate::common::packet::Frame;

#[test]
fn what_a_workload_sends_carries_its_identity() {
    let Some(fixture) = Fixture::new() else { return };
    for (identity, mark) in [(ID, ID_MARK), (WIDE_ID, WIDE_MARK), (0xff_ffff, 0xffff_0fff)] {
        let workload = fixture.container(identity).address(OWN4).address(OWN6).load();
        for (own, peer) in OWN_TO_PEER {
            let run = workload.from_container(Frame::ip(own, peer).tcp(1000, 80));
            run.passes_unchanged().has_mark(mark).comes_from(identity);
            assert_eq!(run.event().program, cm_program::CM_FROM_CONTAINER, "{run:?}");
            assert_eq!((run.event().mark_in, run.event().mark_out), (0, mark), "{run:?}");
        }
    }
}

#[test]
fn every_protocol_is_stamped() {
    let Some(fixture) = Fixture::new() else { return };
    let workload = fixture.container(ID).address(OWN4).address(OWN6).load();
    for (own, peer) in OWN_TO_PEER {
        for frame in [
            Frame::ip(own, peer).udp(1000, 53),
            Frame::ip(own, peer).sctp(1000, 38412),
            Frame::ip(own, peer).protocol(47, [0; 8]),
            Frame::ip(own, peer).protocol(59, []),
        ] {
            workload.from_container(frame).passes_unchanged().has_mark(ID_MARK);
        }
    }
    workload.from_container(Frame::ipv4(OWN4, PEER4).icmp(8, 0)).passes_with_mark(ID_MARK);
    workload.from_container(Frame::ipv6(OWN6, PEER6).icmp6(128, &[0; 4])).passes_with_mark(ID_MARK);
    workload.from_container(Frame::arp_request(OWN4, PEER4)).passes_with_mark(ID_MARK);
}

#[test]
fn the_mark_that_a_packet_brings_is_not_trusted() {
    let Some(fixture) = Fixture::new() else { return };
    let workload = fixture.container(ID).load();
    for (own, peer) in OWN_TO_PEER {
        for mark in OUR_MARKS.into_iter().chain(FOREIGN_MARKS) {
            let kept = mark & NOT_OURS;
            let packet = Frame::ip(own, peer).tcp(1000, 80).mark(mark);
            workload.from_container(packet.clone()).passes_with_mark(ID_MARK | kept);
            workload.from_container(packet.forwarded()).passes_with_mark(ID_MARK | kept);
        }
    }
}

#[test]
fn bits_that_are_not_ours_survive_the_stamp() {
    let Some(fixture) = Fixture::new() else { return };
    let workload = fixture.container(0xff_ffff).load();
    for bits in (0..16).map(|nibble| nibble << 12) {
        let packet = Frame::ipv4(OWN4, PEER4).udp(1, 2).mark(bits);
        workload.from_container(packet).passes_with_mark(0xffff_0fff | bits);
    }
}

#[test]
fn a_dropped_packet_keeps_its_mark() {
    let Some(fixture) = Fixture::new() else { return };
    let workload = fixture.container(ID).address(OWN4).address(OWN6).load();
    for (peer, own) in PEER_TO_OWN {
        for mark in OUR_MARKS.into_iter().chain(FOREIGN_MARKS) {
            let foreign = Frame::ip(peer, own).tcp(1000, 80).mark(mark);
            let run = workload.from_container(foreign);
            run.is_dropped(132).has_mark(mark);
            assert_eq!((run.event().mark_in, run.event().mark_out), (mark, mark), "{run:?}");
        }
    }
}

#[test]
fn the_control_block_is_left_alone_by_a_workloads_programs() {
    let Some(fixture) = Fixture::new() else { return };
    let workload = fixture.container(ID).load();
    let cb = [1, 2, 3, 4, 5];
    let packet = || Frame::ipv4(OWN4, PEER4).udp(1, 2).mark(0).cb(cb);
    assert_eq!(workload.from_container(packet()).cb, cb);
    assert_eq!(workload.to_container(packet()).cb, cb);
}
