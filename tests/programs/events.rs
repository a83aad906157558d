//! What the programs tell: events, and what they count.

use std::collections::BTreeMap;

use cilmark::kernel::abi::{cm_direction, cm_event, cm_event_type, cm_program};
use cilmark::kernel::sys::Hook;
use cilmark::program::load::Features;
use cilmark::state::events::monotonic_ns;

use super::verdicts::enforcing;
use super::*;
use crate::common::Fixture;
use crate::common::packet::Frame;
use crate::common::program::Endpoint;
use crate::common::world::wait_for;

const INGRESS: cm_direction = cm_direction::CM_INGRESS;
const EGRESS: cm_direction = cm_direction::CM_EGRESS;
const FORWARDED: u32 = 0;
const EVENT_LOST: u32 = 64;
const INVALID_SOURCE: u32 = 132;
/// Bytes of `cm_events`, and of a record there: the kernel's header and the event.
const RING: u64 = 1 << 18;
const RECORD: u64 = 8 + size_of::<cm_event>().next_multiple_of(8) as u64;
/// `CM_RULE_ICMP`.
const RULE_ICMP: u32 = 2;

fn packet() -> Frame {
    Frame::ipv4(OWN4, PEER4).tcp(1000, 80)
}

fn foreign() -> Frame {
    Frame::ipv4(PEER4, OWN4).tcp(1000, 80)
}

/// A workload of which so many events a second and CPU are sent.
fn limited(fixture: &Fixture, events_per_second: u32) -> Endpoint<'_> {
    let setup = fixture.container(ID).address(OWN4);
    setup.tune(move |config| config.events_per_second = events_per_second).load()
}

#[test]
fn what_passes_is_reported_only_while_somebody_reads() {
    let Some(fixture) = Fixture::new() else { return };
    let container = fixture.container(ID).untraced().load();
    let nic = fixture.netdev(ID).untraced().load();
    let reported = || {
        [
            container.from_container(packet()),
            container.to_container(packet()),
            nic.from_netdev(packet()),
            nic.to_netdev(packet()),
        ]
        .map(|run| run.passes().event.is_some())
    };
    assert_eq!(reported(), [false; 4]);
    // The clock that it is compared with is coarse, and lags by up to a tick.
    let past = monotonic_ns() - 1_000_000_000;
    for (until, expected) in [(u64::MAX, true), (past, false), (0, false)] {
        container.trace_until(until);
        nic.trace_until(until);
        assert_eq!(reported(), [expected; 4], "until {until}");
    }
}

#[test]
fn a_drop_is_reported_whether_somebody_traces_or_not() {
    let Some(fixture) = Fixture::new() else { return };
    let workload = fixture.container(ID).address(OWN4).untraced().load();
    workload.from_container(foreign()).is_dropped(INVALID_SOURCE);
}

#[test]
fn an_event_says_where_and_when_it_was() {
    let Some(fixture) = Fixture::new() else { return };
    let container = fixture.container(ID).load();
    let nic = fixture.netdev(ID).load();
    let frame = packet().vlan(7);
    let length = frame.bytes().len() as u32;
    let start = monotonic_ns();
    for (run, program, direction) in [
        (container.from_container(frame.clone()), cm_program::CM_FROM_CONTAINER, EGRESS),
        (container.to_container(frame.clone()), cm_program::CM_TO_CONTAINER, INGRESS),
        (nic.from_netdev(frame.clone()), cm_program::CM_FROM_NETDEV, INGRESS),
        (nic.to_netdev(frame.clone()), cm_program::CM_TO_NETDEV, EGRESS),
    ] {
        let event = run.passes().event();
        assert_eq!(event.r#type, cm_event_type::CM_EVENT_TRACE, "{run:?}");
        assert_eq!((event.program, event.direction), (program, direction), "{run:?}");
        assert_eq!((event.endpoint_id, event.ifindex), (7, 1), "{run:?}");
        assert_eq!((event.length, event.reason.0), (length, FORWARDED), "{run:?}");
        assert_eq!(u16::from_be(event.ethertype), 0x0800, "behind the tag: {run:?}");
        assert!((start..=monotonic_ns()).contains(&event.time_ns), "{run:?}");
    }
}

#[test]
fn an_event_tells_what_is_not_ip_too() {
    let Some(fixture) = Fixture::new() else { return };
    let workload = fixture.container(ID).load();
    let run = workload.from_container(Frame::other(0x88cc, [0; 46]));
    let event = run.is_dropped(139).event();
    assert_eq!(u16::from_be(event.ethertype), 0x88cc, "{run:?}");
    assert_eq!((event.source.to_ip(), event.destination.to_ip()), (None, None), "{run:?}");

    let run = workload.from_container(Frame::arp_request(OWN4, PEER4));
    let event = run.passes().event();
    assert_eq!(u16::from_be(event.ethertype), 0x0806, "{run:?}");
    assert_eq!(event.source.to_ip(), Some(OWN4.into()), "{run:?}");
    assert_eq!(event.destination.to_ip(), Some(PEER4.into()), "{run:?}");
}

#[test]
fn above_the_limit_events_are_counted_instead_of_sent() {
    let Some(fixture) = Fixture::new() else { return };
    let workload = limited(&fixture, 5);
    workload.repeat(Hook::Ingress, foreign(), 1000);
    let sent = fixture.events().len() as u64;
    // Of each CPU and second that the thousand runs have touched.
    assert!((5..500).contains(&sent), "{sent} events");
    assert_eq!(fixture.metric(EGRESS, EVENT_LOST), (1000 - sent, 0));
    assert_eq!(u64::from(workload.counters().lost), 1000 - sent);
    assert_eq!(fixture.metric(EGRESS, INVALID_SOURCE).0, 1000, "drops are counted all the same");
}

#[test]
fn the_next_event_tells_how_many_were_lost() {
    let Some(fixture) = Fixture::new() else { return };
    let workload = limited(&fixture, 5);
    workload.repeat(Hook::Ingress, foreign(), 1000);
    fixture.events();
    let mut told = 0;
    wait_for("an event after lost ones", || {
        let run = workload.from_container(foreign());
        told += run.event.map_or(0, |event| u64::from(event.lost));
        told > 0
    });
    let lost = fixture.metric(EGRESS, EVENT_LOST).0;
    assert_eq!(told + u64::from(workload.counters().lost), lost, "told and still to tell");
}

#[test]
fn a_limit_of_none_sends_none() {
    let Some(fixture) = Fixture::new() else { return };
    let workload = limited(&fixture, 0);
    workload.repeat(Hook::Ingress, foreign(), 10);
    workload.repeat(Hook::Ingress, packet(), 10);
    workload.repeat(Hook::Egress, packet(), 10);
    assert_eq!(fixture.events().len(), 0);
    assert_eq!(fixture.metric(EGRESS, EVENT_LOST).0, 20);
    assert_eq!(fixture.metric(INGRESS, EVENT_LOST).0, 10);
}

#[test]
fn events_beyond_an_endpoints_share_are_counted_as_lost() {
    let Some(fixture) = Fixture::new() else { return };
    let workload = limited(&fixture, u32::MAX);
    workload.repeat(Hook::Ingress, foreign(), 5000);
    let sent = fixture.events().len() as u64;
    assert_eq!(sent, RING / 2 / RECORD, "half of the buffer");
    assert_eq!(fixture.metric(EGRESS, EVENT_LOST).0, 5000 - sent);
    let run = workload.from_container(foreign());
    let told = u64::from(run.is_dropped(INVALID_SOURCE).event().lost);
    assert_eq!(told + u64::from(workload.counters().lost), 5000 - sent, "{run:?}");
}

#[test]
fn whoever_floods_leaves_the_next_one_half_of_what_is_free() {
    let Some(fixture) = Fixture::new() else { return };
    let unlimited = |id: u16| {
        let setup = fixture.container(ID).address(OWN4).id(id);
        setup.tune(|config| config.events_per_second = u32::MAX).load()
    };
    let flooders = [1, 2, 3].map(unlimited);
    let quiet = unlimited(4);
    for _ in 0..2 {
        for flooder in &flooders {
            flooder.repeat(Hook::Ingress, foreign(), 5000);
        }
        quiet.repeat(Hook::Ingress, foreign(), 5);
        let events = fixture.events();
        let of = |id: u32| events.iter().filter(|event| event.endpoint_id == id).count() as u64;
        for (flooder, part) in [(1, 2), (2, 4), (3, 8)] {
            let share = RING / part / RECORD;
            assert!(of(flooder).abs_diff(share) <= 1, "{flooder}: {} of {share}", of(flooder));
        }
        assert_eq!(of(4), 5, "and once everything is read, it begins anew");
    }
}

#[test]
fn what_others_send_to_an_endpoint_hides_nothing_that_it_sends() {
    let Some(fixture) = Fixture::new() else { return };
    let setup = fixture.container(ID).address(OWN4).policy(enforcing());
    let workload = setup.tune(|config| config.events_per_second = u32::MAX).load();
    workload.repeat(Hook::Egress, foreign(), 5000);
    workload.repeat(Hook::Ingress, foreign(), 5);
    let events = fixture.events();
    let sent = events.iter().filter(|event| event.direction == EGRESS).count();
    assert_eq!(sent, 5, "of {} events", events.len());
}

#[test]
fn packets_are_counted_by_direction_and_reason() {
    let Some(fixture) = Fixture::new() else { return };
    let responder = Features { arp_responder: true, ..Features::default() };
    let container = fixture.container(ID).address(OWN4).address(OWN6).features(responder).load();
    let advertisement = || Frame::ipv6(LINK_LOCAL, ALL_ROUTERS).router_advertisement();
    let no_headers = || packet().vlan(7).truncate(20);
    let mut expected = BTreeMap::<_, (u64, u64)>::new();
    for (times, hook, frame, direction, reason) in [
        (3, Hook::Ingress, packet(), EGRESS, FORWARDED),
        // Once: the answer is written over the request.
        (1, Hook::Ingress, Frame::arp_request(OWN4, PEER4), EGRESS, FORWARDED),
        (3, Hook::Egress, packet(), INGRESS, FORWARDED),
        (2, Hook::Egress, no_headers(), INGRESS, FORWARDED),
        (4, Hook::Ingress, foreign(), EGRESS, INVALID_SOURCE),
        (2, Hook::Ingress, no_headers(), EGRESS, 134),
        (2, Hook::Ingress, Frame::other(0x88cc, [0; 46]), EGRESS, 139),
        (2, Hook::Ingress, advertisement(), EGRESS, 176),
    ] {
        let sum = expected.entry((direction.0 as usize, reason)).or_default();
        sum.0 += u64::from(times);
        sum.1 += u64::from(times) * frame.bytes().len() as u64;
        container.repeat(hook, frame, times);
        assert_eq!(fixture.metric(direction, reason), *sum, "{direction:?} {reason}");
    }
    let mut forwarded = [(0, 0); 2];
    let mut dropped = [(0, 0); 2];
    for ((direction, reason), (packets, bytes)) in expected {
        let sums = if reason == FORWARDED { &mut forwarded } else { &mut dropped };
        sums[direction].0 += packets;
        sums[direction].1 += bytes;
    }
    let counters = container.counters();
    assert_eq!(counters.forwarded.map(|of| (of.packets, of.bytes)), forwarded);
    assert_eq!(counters.dropped.map(|of| (of.packets, of.bytes)), dropped);
}

#[test]
fn each_endpoint_has_counters_of_its_own() {
    let Some(fixture) = Fixture::new() else { return };
    let container = fixture.container(ID).load();
    let nic = fixture.netdev(ID).load();
    container.repeat(Hook::Egress, packet(), 3);
    nic.repeat(Hook::Ingress, packet(), 5);
    nic.repeat(Hook::Egress, packet(), 7);
    assert_eq!(container.counters().forwarded.map(|of| of.packets), [3, 0]);
    assert_eq!(nic.counters().forwarded.map(|of| of.packets), [5, 7]);
    assert_eq!(fixture.metric(INGRESS, FORWARDED).0, 8);
    assert_eq!(fixture.metric(EGRESS, FORWARDED).0, 7);
}

#[test]
fn the_verdict_on_a_message_that_always_passes_names_the_peer() {
    let Some(fixture) = Fixture::new() else { return };
    let workload = fixture.container(ID).policy(enforcing()).load();
    let near = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0x20);
    fixture.ipcache(&near.to_string(), WIDE_ID);
    let message = |from, to| Frame::ipv6(from, to).ttl(255).router_solicitation();
    let sent = workload.from_container(message(LINK_LOCAL, near));
    let received = workload.to_container(message(near, LINK_LOCAL).forwarded());
    let reported = [sent, received].map(|run| run.passes().policy_verdict.expect("a verdict"));
    assert_eq!(reported[0].destination_identity, WIDE_ID);
    assert_eq!(reported[1].source_identity, WIDE_ID);
    assert_eq!(reported.map(|verdict| verdict.rule), [RULE_ICMP; 2]);
}
