//! Local delivery, as far as single packets show it: the sender's program, the destination's that it
//! calls, and when it is left to the stack. Arriving is `e2e`'s.

use std::net::IpAddr;

use cilmark::kernel::abi::{cm_delivery, cm_direction, cm_program};
use cilmark::model::endpoint::EndpointId;
use cilmark::state::delivery;

use super::verdicts::*;
use super::*;
use crate::common::Fixture;
use crate::common::fixture::{Setup, every_feature};
use crate::common::packet::{Frame, SENDER_MAC};
use crate::common::program::{Endpoint, Outcome, Packet, Verdict};

/// Of the destination's host side.
const NODE_MAC: [u8; 6] = [0x02, 0, 0, 0, 0, 0x01];
const SENDER: u16 = 7;
const DESTINATION: u16 = 8;

/// A workload that delivers, and does not report what it lets pass.
fn sender(fixture: &Fixture) -> Setup<'_> {
    let own = fixture.container(ID).id(SENDER).address(OWN4).address(OWN6);
    own.feature(|on| on.local_delivery = true).untraced()
}

/// The neighbour that it delivers to, on a device of its own.
fn neighbour(fixture: &Fixture) -> Setup<'_> {
    fixture.world.sh("ip link add blue address 02:00:00:00:00:bb type veth peer name its-end");
    let peer =
        fixture.container(WIDE_ID).id(DESTINATION).address(PEER4).address(PEER6).device("blue");
    peer.feature(|on| on.local_delivery = true)
}

/// Makes a workload one that takes local delivery, and has sent something.
fn enter(fixture: &Fixture, neighbour: &Endpoint<'_>) {
    fixture.enter(neighbour);
    neighbour.from_container(Frame::arp_request(PEER4, OWN4)).passes();
}

/// A packet as its workload's device receives it.
fn received(frame: Frame) -> Packet {
    frame.forwarded()
}

fn redirected(run: &Outcome) -> &Outcome {
    assert_eq!(run.verdict, Verdict::Redirect, "{run:?}");
    run
}

#[test]
fn a_neighbours_packet_is_routed_into_the_workload() {
    let Some(fixture) = Fixture::new() else { return };
    let (red, blue) = (sender(&fixture).load(), neighbour(&fixture).load());
    enter(&fixture, &blue);
    for (own, peer) in OWN_TO_PEER {
        let run = red.from_container(received(Frame::ip(own, peer).udp(1000, 80)));
        redirected(&run).has_mark(0).comes_from(ID).goes_to(WIDE_ID);
        assert_eq!(run.event().program, cm_program::CM_TO_CONTAINER);
        assert_eq!(run.event().endpoint_id, u32::from(DESTINATION));
        // The same packet from a router at the node's MAC, with a right checksum.
        let expected = Frame::ip(own, peer).ttl(63).udp(1000, 80).bytes();
        assert_eq!(run.bytes[..6], SENDER_MAC, "the workload's MAC, as it has shown it");
        assert_eq!(run.bytes[6..12], NODE_MAC);
        assert_eq!(run.bytes[12..], expected[12..]);
    }
}

#[test]
fn bits_that_are_not_ours_stay_in_the_mark() {
    let Some(fixture) = Fixture::new() else { return };
    let (red, blue) = (sender(&fixture).load(), neighbour(&fixture).load());
    enter(&fixture, &blue);
    for mark in OUR_MARKS.into_iter().chain(FOREIGN_MARKS) {
        let packet = received(Frame::ip(OWN4, PEER4).udp(1, 2)).mark(mark | NOT_OURS);
        redirected(&red.from_container(packet)).has_mark(NOT_OURS);
    }
}

#[test]
fn both_ends_count_the_packet_once() {
    let Some(fixture) = Fixture::new() else { return };
    let (red, blue) = (sender(&fixture).load(), neighbour(&fixture).load());
    enter(&fixture, &blue);
    let before = blue.counters();
    redirected(&red.from_container(received(Frame::ip(OWN4, PEER4).udp(1, 2))));
    let (ingress, egress) = (0, 1);
    assert_eq!(red.counters().forwarded[egress].packets, 1);
    assert_eq!(red.counters().forwarded[ingress].packets, 0);
    assert_eq!(blue.counters().forwarded[ingress].packets, 1);
    assert_eq!(blue.counters().forwarded[egress].packets, before.forwarded[egress].packets);
}

#[test]
fn the_destinations_own_rules_decide() {
    let Some(fixture) = Fixture::new() else { return };
    let ingress = Enforcement { ingress: Mode::Enforce, ..Enforcement::default() };
    let (red, blue) = (sender(&fixture).load(), neighbour(&fixture).policy(ingress).load());
    enter(&fixture, &blue);
    for (own, peer) in OWN_TO_PEER {
        let packet = |port| received(Frame::ip(own, peer).tcp(1000, port));
        fixture.rules(&blue, &["allow ingress from 1234 tcp/80", "deny ingress from any tcp/25"]);
        redirected(&red.from_container(packet(80))).comes_from(ID);
        for (port, reason) in [(443, POLICY), (25, POLICY_DENY)] {
            let run = red.from_container(packet(port));
            assert_eq!(run.verdict, Verdict::Drop, "{run:?}");
            run.comes_from(ID);
            assert_eq!(run.event().reason.0, reason, "{run:?}");
            assert_eq!(run.event().endpoint_id, u32::from(DESTINATION), "{run:?}");
        }
    }
}

#[test]
fn what_needs_a_routers_answer_is_left_to_the_stack() {
    let Some(fixture) = Fixture::new() else { return };
    let (red, blue) = (sender(&fixture).load(), neighbour(&fixture).untraced().load());
    enter(&fixture, &blue);
    let mut frames: Vec<Frame> = Vec::new();
    for (own, peer) in OWN_TO_PEER {
        frames.extend([0, 1].map(|ttl| Frame::ip(own, peer).ttl(ttl).udp(1, 2)));
        frames.push(Frame::ip(own, peer).vlan(5).udp(1, 2));
    }
    frames.push(Frame::ipv6(OWN6, PEER6).neighbour_solicitation(PEER6));
    frames.push(Frame::arp_request(OWN4, PEER4));
    for frame in frames {
        red.from_container(received(frame)).passes_unchanged().has_mark(ID_MARK);
    }
}

#[test]
fn the_destinations_mtu_counts() {
    let Some(fixture) = Fixture::new() else { return };
    let (red, blue) = (sender(&fixture).load(), neighbour(&fixture).load());
    fixture.world.sh("ip link set blue mtu 1300");
    enter(&fixture, &blue);
    for (own, peer) in OWN_TO_PEER {
        let header: usize = if own.is_ipv4() { 20 } else { 40 };
        let packet =
            |length| received(Frame::ip(own, peer).protocol(253, vec![0; length - header]));
        redirected(&red.from_container(packet(1300)));
        red.from_container(packet(1301)).passes_with_mark(ID_MARK);
    }
}

#[test]
fn frames_that_are_not_for_one_receiver_are_left_to_the_stack() {
    let Some(fixture) = Fixture::new() else { return };
    let (red, blue) = (sender(&fixture).load(), neighbour(&fixture).untraced().load());
    enter(&fixture, &blue);
    let frame = || Frame::ip(OWN4, PEER4).udp(1, 2).bytes();
    for (first, delivered) in [(0xff, false), (0x01, false), (0x06, true)] {
        let mut bytes = frame();
        bytes[0] = first;
        let run = red.from_container(Packet::from(bytes).forwarded());
        assert_eq!(run.verdict == Verdict::Redirect, delivered, "{first:#x}: {run:?}");
    }
    // A NIC that is promiscuous sees what is for other hosts.
    let nic = fixture.netdev(1).feature(|on| on.local_delivery = true).untraced().load();
    let mut foreign = frame();
    foreign[0] = 0x06;
    nic.from_netdev(Packet::from(foreign).forwarded()).passes();
    redirected(&nic.from_netdev(Packet::from(frame()).forwarded()));
}

#[test]
fn a_workload_that_has_sent_nothing_yet_is_left_to_the_stack() {
    let Some(fixture) = Fixture::new() else { return };
    let (red, blue) = (sender(&fixture).load(), neighbour(&fixture).untraced().load());
    fixture.enter(&blue);
    let packet = || received(Frame::ip(OWN4, PEER4).udp(1, 2));
    let run = red.from_container(packet());
    assert_eq!(run.passes_unchanged().has_mark(ID_MARK).cb, [0; 5], "the sign of a call");
    // Nor does it learn from what fails the source check.
    blue.from_container(Frame::ip(OWN4, PEER4).udp(1, 2));
    red.from_container(packet()).passes_unchanged().has_mark(ID_MARK);
    // Nor a MAC that nobody has.
    let mut from_a_group = Frame::ip(PEER4, OWN4).udp(1, 2).bytes();
    from_a_group[6] |= 1;
    blue.from_container(from_a_group.clone()).passes();
    red.from_container(packet()).passes_unchanged().has_mark(ID_MARK);
    blue.from_container(Frame::ip(PEER4, OWN4).udp(1, 2));
    blue.from_container(from_a_group).passes();
    let run = red.from_container(received(Frame::ip(OWN4, PEER4).udp(3, 4)));
    assert_eq!(redirected(&run).bytes[..6], SENDER_MAC);
}

#[test]
fn what_began_by_the_stack_stays_there_in_both_directions() {
    let Some(fixture) = Fixture::new() else { return };
    let (red, blue) = (sender(&fixture).load(), neighbour(&fixture).untraced().load());
    fixture.enter(&blue);
    fixture.enter(&red);
    red.from_container(Frame::arp_request(OWN4, PEER4)).passes();
    for (own, peer) in OWN_TO_PEER {
        let (icmp, request) = if own.is_ipv4() { (1, 8) } else { (58, 128) };
        let echo = |kind: u8, id: u8| vec![kind, 0, 0, 0, 0, id, 0, 1];
        let ask = |from, to, id| Frame::ip(from, to).protocol(icmp, echo(request, id));
        let reply = if own.is_ipv4() { 0 } else { 129 };
        let report = |from, to, id| Frame::ip(from, to).protocol(icmp, echo(reply, id));
        let first = |port| Frame::ip(own, peer).udp(port, 53).fragment(0, true);
        let later = |protocol| Frame::ip(own, peer).protocol(protocol, [7; 16]).fragment(16, false);
        let stack = |frame: Frame| {
            red.from_container(received(frame)).passes().has_mark(ID_MARK);
        };
        let direct = |frame: Frame| {
            redirected(&red.from_container(received(frame)));
        };
        fixture.silence(&blue);
        for frame in [
            Frame::ip(own, peer).segment(1000, 80, "S"),
            Frame::ip(own, peer).udp(1000, 53),
            ask(own, peer, 9),
        ] {
            stack(frame);
        }
        // It speaks, and by that its MAC is known.
        blue.from_container(Frame::ip(peer, own).segment(80, 1000, "SA"))
            .has_mark(WIDE_MARK)
            .passes();
        for frame in [
            Frame::ip(own, peer).segment(1000, 80, "A"),
            Frame::ip(own, peer).segment(1000, 80, "FA"),
            Frame::ip(own, peer).udp(1000, 53),
            ask(own, peer, 9),
            first(1000),
            later(17),
        ] {
            stack(frame);
        }
        for frame in [
            Frame::ip(peer, own).segment(80, 1000, "A"),
            Frame::ip(peer, own).udp(53, 1000),
            report(peer, own, 9),
        ] {
            blue.from_container(received(frame)).passes().has_mark(WIDE_MARK);
        }
        // Each for itself: what begins now goes directly.
        for frame in [
            Frame::ip(own, peer).segment(1001, 80, "S"),
            Frame::ip(own, peer).udp(1000, 54),
            ask(own, peer, 7),
            Frame::ip(own, peer).udp(1001, 53).fragment(0, true),
        ] {
            direct(frame);
        }
        redirected(&blue.from_container(received(Frame::ip(peer, own).udp(53, 1001))));
        redirected(&blue.from_container(received(report(peer, own, 7))));
    }
}

#[test]
fn a_destination_without_a_program_drops_with_140() {
    let Some(fixture) = Fixture::new() else { return };
    let (red, blue) = (sender(&fixture).load(), neighbour(&fixture).load());
    enter(&fixture, &blue);
    delivery::set_callee(&fixture.world.root(), blue.id, None).unwrap();
    for (own, peer) in OWN_TO_PEER {
        let run = red.from_container(received(Frame::ip(own, peer).udp(1, 2)).mark(0x1234));
        run.is_dropped(140).comes_from(ID);
        assert_eq!(run.event().endpoint_id, u32::from(SENDER));
    }
    let counters = red.counters();
    assert_eq!((counters.forwarded[1].packets, counters.forwarded[1].bytes), (0, 0));
    assert_eq!(counters.dropped[1].packets, 2);
    assert_eq!(fixture.metric(cm_direction::CM_EGRESS, 140).0, 2);
}

#[test]
fn a_destination_whose_device_is_gone_drops_with_140() {
    let Some(fixture) = Fixture::new() else { return };
    let (red, blue) = (sender(&fixture).load(), neighbour(&fixture).load());
    enter(&fixture, &blue);
    fixture.change_endpoint(PEER4, |endpoint| endpoint.ifindex = 4711);
    red.from_container(received(Frame::ip(OWN4, PEER4).udp(1, 2))).is_dropped(140);
}

#[test]
fn only_workloads_of_the_same_namespace_that_take_it_are_delivered_to() {
    let Some(fixture) = Fixture::new() else { return };
    let (red, blue) = (sender(&fixture).load(), neighbour(&fixture).untraced().load());
    enter(&fixture, &blue);
    let packet = || received(Frame::ip(OWN4, PEER4).udp(1, 2));
    redirected(&red.from_container(packet()));
    fixture.change_endpoint(PEER4, |endpoint| endpoint.netns += 1);
    red.from_container(packet()).passes_unchanged().has_mark(ID_MARK);
    fixture.change_endpoint(PEER4, |endpoint| endpoint.netns -= 1);
    redirected(&red.from_container(packet()));
    fixture.change_endpoint(PEER4, |endpoint| endpoint.delivery = 0);
    red.from_container(packet()).passes_unchanged().has_mark(ID_MARK);
    fixture.change_endpoint(PEER4, |endpoint| {
        endpoint.delivery = 1;
        endpoint.role = 2;
    });
    red.from_container(packet()).passes_unchanged().has_mark(ID_MARK);
    // Nor to itself, and nor does one that was not told to.
    fixture.change_endpoint(PEER4, |endpoint| {
        endpoint.role = 1;
        endpoint.endpoint_id = SENDER;
    });
    red.from_container(packet()).passes_unchanged().has_mark(ID_MARK);
    fixture.change_endpoint(PEER4, |endpoint| endpoint.endpoint_id = DESTINATION);
    let plain = fixture.container(ID).address(OWN4).load();
    plain.from_container(packet()).passes_unchanged().has_mark(ID_MARK);
}

#[test]
fn a_sender_that_has_moved_to_another_device_number_delivers_nothing() {
    let Some(fixture) = Fixture::new() else { return };
    let red = sender(&fixture).tune(|config| config.ifindex = 4711).load();
    let blue = neighbour(&fixture).untraced().load();
    enter(&fixture, &blue);
    let run = red.from_container(received(Frame::ip(OWN4, PEER4).udp(1, 2)));
    run.passes_unchanged().has_mark(ID_MARK);
}

#[test]
fn a_tap_is_left_to_its_to_container() {
    let Some(fixture) = Fixture::new() else { return };
    let ingress = Enforcement { ingress: Mode::Enforce, ..Enforcement::default() };
    let red = sender(&fixture).load();
    let tap = |config: &mut _| set_delivery(config, cm_delivery::CM_DELIVERY_EGRESS);
    let blue = neighbour(&fixture).policy(ingress).tune(tap).untraced().load();
    enter(&fixture, &blue);
    fixture.enter(&red);
    // Nothing is allowed, but that is said there, to the sender's mark.
    let run = red.from_container(received(Frame::ip(OWN4, PEER4).udp(1000, 80)));
    redirected(&run).has_mark(ID_MARK);
    assert_eq!(run.bytes[12..], Frame::ip(OWN4, PEER4).ttl(63).udp(1000, 80).bytes()[12..]);
    assert_eq!(blue.counters().forwarded[0].packets, 0);
    let run = blue.to_container(Packet::from(run.bytes).forwarded().mark(run.mark));
    assert_eq!(run.event().reason.0, POLICY);
    run.comes_from(ID);
}

fn set_delivery(config: &mut cilmark::kernel::abi::cm_config, delivery: cm_delivery) {
    config.delivery = delivery;
}

#[test]
fn only_who_is_called_delivers() {
    let Some(fixture) = Fixture::new() else { return };
    let (red, blue) = (sender(&fixture).load(), neighbour(&fixture).load());
    enter(&fixture, &blue);
    let packet = || received(Frame::ip(OWN4, PEER4).udp(1, 2));
    assert_eq!(redirected(&red.from_container(packet())).cb, [0; 5], "the sign of a call");
    // On its own hook, whatever the stack has left in the control block; and under another number.
    delivery::set_callee(&fixture.world.root(), blue.id, None).unwrap();
    let sign = red.from_container(packet()).is_dropped(140).cb;
    assert_ne!(sign, [0; 5]);
    let calling = || packet().cb(sign).on(red.ifindex);
    redirected(&blue.to_container(calling()));
    blue.to_container(calling().on(blue.ifindex)).passes_unchanged();
    blue.to_container(calling().cb([0; 5])).passes_unchanged();
}

#[test]
fn what_a_nic_receives_for_a_workload_is_delivered_too() {
    let Some(fixture) = Fixture::new() else { return };
    fixture.ipcache("10.9.0.0/16", 4242);
    let nic = fixture.netdev(1).feature(|on| on.local_delivery = true).untraced().load();
    let blue = neighbour(&fixture).load();
    enter(&fixture, &blue);
    let from = |source: [u8; 4]| {
        let source = IpAddr::from(source);
        received(Frame::ip(source, IpAddr::V4(PEER4)).udp(1, 2)).mark(ID_MARK)
    };
    redirected(&nic.from_netdev(from([10, 9, 0, 1]))).comes_from(4242).has_mark(0);
    redirected(&nic.from_netdev(from([10, 8, 0, 1]))).comes_from(2).has_mark(0);
    let strange = from([10, 8, 0, 1]).mark(FOREIGN_MARKS[0]);
    redirected(&nic.from_netdev(strange)).has_mark(FOREIGN_MARKS[0] & NOT_OURS);
    nic.from_netdev(received(Frame::ip(OWN4, OWN4).udp(1, 2))).passes();
}

#[test]
fn an_answer_passes_both_policies_without_a_rule() {
    let Some(fixture) = Fixture::new() else { return };
    let red = sender(&fixture).policy(enforcing()).load();
    let blue = neighbour(&fixture).policy(enforcing()).untraced().load();
    enter(&fixture, &blue);
    fixture.enter(&red);
    fixture.rules(&red, &["allow egress to 199472 tcp/80"]);
    fixture.rules(&blue, &["allow ingress from 1234 tcp/80"]);
    for (own, peer) in OWN_TO_PEER {
        let answer = || received(Frame::ip(peer, own).segment(80, 1000, "SA"));
        blue.from_container(answer()).is_dropped(POLICY);
        redirected(&red.from_container(received(Frame::ip(own, peer).tcp(1000, 80))));
        redirected(&blue.from_container(answer()));
    }
}

#[test]
fn it_loads_beside_every_other_feature() {
    let Some(fixture) = Fixture::new() else { return };
    let everything = |setup: Setup<'_>| {
        let policy = Enforcement {
            failsafe: Failsafe::standard(),
            adopt_until_ns: u64::MAX,
            ct_local: true,
            ..enforcing()
        };
        let features = every_feature("fd00::/16");
        let endpoint = setup.policy(policy).features(features).address(OWN4).address(OWN6);
        let id = EndpointId::new(SENDER).expect("7");
        fixture.world.root().endpoint(id).create().expect("its directory");
        endpoint.load().loaded.callee().is_some()
    };
    assert!(everything(fixture.container(ID)));
    assert!(!everything(fixture.netdev(ID)), "nobody delivers to a NIC");
}

#[test]
fn what_claims_to_come_from_this_host_is_not_delivered() {
    let Some(fixture) = Fixture::new() else { return };
    fixture.world.sh("sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1 && \
         ip link add wan type veth peer name wan-peer && ip link set wan up && \
         ip link set wan-peer up && ip addr add 192.168.7.1/24 dev wan && \
         ip -6 addr add fd00:7::1/64 dev wan nodad && \
         ip route add default via 192.168.7.2 && ip -6 route add default via fd00:7::2 dev wan");
    let blue = neighbour(&fixture).address(PEER6).load();
    enter(&fixture, &blue);
    let enforced = Enforcement { ingress: Mode::Enforce, ..Enforcement::default() };
    let nic =
        fixture.netdev(1).feature(|on| on.local_delivery = true).policy(enforced).untraced().load();
    for (host, to) in [("192.168.7.1", IpAddr::from(PEER4)), ("fd00:7::1", PEER6.into())] {
        let host: IpAddr = host.parse().expect("an address");
        let run = nic.from_netdev(received(Frame::ip(host, to).udp(1, 2)));
        match host {
            IpAddr::V4(_) => run.passes_unchanged(), // to the stack, which refuses it
            IpAddr::V6(_) => run.is_dropped(132),
        };
        let beyond = if host.is_ipv4() { "192.168.7.3" } else { "fd00:7::3" };
        let other = Frame::ip(beyond.parse::<IpAddr>().expect("an address"), to).udp(1, 2);
        redirected(&nic.from_netdev(received(other)));
    }
}

#[test]
fn no_neighbour_message_is_delivered_with_a_hop_limit_that_the_stack_would_lower() {
    let Some(fixture) = Fixture::new() else { return };
    let red = sender(&fixture).address(OWN6).load();
    let blue = neighbour(&fixture).address(PEER6).load();
    enter(&fixture, &blue);
    for kind in [133, 135, 136, 141, 142, 148, 149] {
        let message = Frame::ipv6(OWN6, PEER6).ttl(255).icmp6(kind, &OWN6.octets());
        let message = match kind {
            135 => Frame::ipv6(OWN6, PEER6).ttl(255).neighbour_solicitation(PEER6),
            136 => Frame::ipv6(OWN6, PEER6).ttl(255).neighbour_advertisement(OWN6),
            _ => message,
        };
        red.from_container(received(message)).passes_unchanged().has_mark(ID_MARK);
    }
}
