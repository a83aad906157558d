//! The ARP responder.

use std::net::Ipv4Addr;

use cilmark::program::load::Features;

use super::*;
use crate::common::Fixture;
use crate::common::packet::{Frame, SENDER_MAC};
use crate::common::program::{Endpoint, Verdict};

const NODE_MAC: [u8; 6] = [0x02, 0xc1, 0x1a, 0x12, 0x34, 0x56];

fn responder(fixture: &Fixture) -> Endpoint<'_> {
    let features = Features { arp_responder: true, ..Features::default() };
    fixture.container(ID).address(OWN4).mac(NODE_MAC).features(features).load()
}

/// The fields of an ARP packet at an offset: operation, sender and target.
fn arp_at(bytes: &[u8], at: usize) -> (u16, [u8; 10], [u8; 10]) {
    let field = |from: usize| bytes[at + from..at + from + 10].try_into().expect("ten bytes");
    (u16::from_be_bytes([bytes[at + 6], bytes[at + 7]]), field(8), field(18))
}

fn party(mac: [u8; 6], address: Ipv4Addr) -> [u8; 10] {
    [mac.as_slice(), &address.octets()].concat().try_into().expect("ten bytes")
}

#[test]
fn a_request_for_a_neighbour_is_answered_with_the_node_mac() {
    let Some(fixture) = Fixture::new() else { return };
    let responder = responder(&fixture);
    for (frame, at) in [
        (Frame::arp_request(OWN4, PEER4), 14),
        (Frame::arp_request(OWN4, PEER4).vlan(7), 18),
        (Frame::arp_request(OWN4, PEER4).service_vlan(7).vlan(8), 22),
    ] {
        let request = frame.bytes();
        let run = responder.from_container(frame.mark(0x0008_1000));
        assert_eq!(run.verdict, Verdict::Redirect, "{run:?}");
        run.has_mark(0x0008_1000);
        assert_eq!(run.bytes.len(), request.len(), "{run:?}");
        assert_eq!(run.bytes[..6], SENDER_MAC, "to whom it asked: {run:?}");
        assert_eq!(run.bytes[6..12], NODE_MAC, "from the node: {run:?}");
        assert_eq!(run.bytes[12..at], request[12..at], "tags as they were: {run:?}");
        assert_eq!(
            arp_at(&run.bytes, at),
            (2, party(NODE_MAC, PEER4), party(SENDER_MAC, OWN4)),
            "{run:?}"
        );
    }
}

#[test]
fn a_probe_is_not_answered_or_the_workload_would_give_up_its_address() {
    let Some(fixture) = Fixture::new() else { return };
    let responder = responder(&fixture);
    let probe = |target| Frame::arp_request(Ipv4Addr::UNSPECIFIED, target);
    responder.from_container(probe(OWN4)).passes_unchanged().has_mark(ID_MARK);
    responder.from_container(probe(PEER4)).is_dropped(132);
}

#[test]
fn requests_for_its_own_address_and_announcements_are_not_answered() {
    let Some(fixture) = Fixture::new() else { return };
    let announcement = Frame::arp_request(OWN4, OWN4);
    responder(&fixture).from_container(announcement).passes_unchanged().has_mark(ID_MARK);

    let second = Ipv4Addr::new(10, 1, 0, 11);
    let features = Features { arp_responder: true, ..Features::default() };
    let two = fixture.container(ID).address(OWN4).address(second).features(features.clone()).load();
    two.from_container(Frame::arp_request(OWN4, second)).passes_unchanged();

    // Without addresses nothing but the packet says that it is an announcement.
    let any = fixture.container(ID).features(features).load();
    any.from_container(Frame::arp_request(OWN4, OWN4)).passes_unchanged();
}

#[test]
fn replies_are_not_answered() {
    let Some(fixture) = Fixture::new() else { return };
    let reply = Frame::arp_reply(OWN4, PEER4);
    responder(&fixture).from_container(reply).passes_unchanged().has_mark(ID_MARK);
}

#[test]
fn a_request_from_a_foreign_address_is_dropped_and_not_answered() {
    let Some(fixture) = Fixture::new() else { return };
    responder(&fixture).from_container(Frame::arp_request(PEER4, OWN4)).is_dropped(132);
    let third = Ipv4Addr::new(10, 3, 0, 10);
    responder(&fixture).from_container(Frame::arp_request(PEER4, third)).is_dropped(132);
}

#[test]
fn without_the_responder_requests_go_their_way() {
    let Some(fixture) = Fixture::new() else { return };
    let workload = fixture.container(ID).address(OWN4).load();
    workload.from_container(Frame::arp_request(OWN4, PEER4)).passes_unchanged().has_mark(ID_MARK);
}

#[test]
fn arp_to_a_workload_passes() {
    let Some(fixture) = Fixture::new() else { return };
    let responder = responder(&fixture);
    responder.to_container(Frame::arp_request(PEER4, OWN4)).passes_unchanged();
    responder.to_container(Frame::arp_reply(PEER4, OWN4)).passes_unchanged();
}
