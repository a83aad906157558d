//! A later fragment is judged as its packet's first one was.

use std::net::{IpAddr, Ipv4Addr};

use super::verdicts::{
    Enforcement, FORBIDDEN_ICMP6, FRAGMENT_NOT_FOUND, Mode, POLICY, POLICY_DENY, enforcing,
};
use super::{OWN_TO_PEER, OWN4, OWN6, PEER4, PEER6};
use crate::common::Fixture;
use crate::common::packet::Frame;
use crate::common::program::Verdict;

const ID: u32 = 1234;
const PEER: u32 = 300;

fn first(source: IpAddr, destination: IpAddr, port: u16) -> Frame {
    Frame::ip(source, destination).udp(4000, port).fragment(0, true)
}

fn later(source: IpAddr, destination: IpAddr, protocol: u8) -> Frame {
    Frame::ip(source, destination).protocol(protocol, [7; 16]).fragment(16, false)
}

/// The parts of a packet with destination options behind the fragment header, which each of them names.
fn behind_options(packet: Frame) -> [Frame; 2] {
    let first = packet.fragment(0, true).destination_options(1);
    let later = Frame::ipv6(OWN6, PEER6).protocol(60, [7; 16]).fragment(16, false);
    [first, later]
}

#[test]
fn options_behind_the_fragment_header_hide_no_ports() {
    let Some(fixture) = Fixture::new() else { return };
    let workload = fixture.container(ID).policy(enforcing()).load();
    fixture.rules(&workload, &["allow egress to any udp/53", "allow egress to any icmp6/128"]);
    let echo = Frame::ipv6(OWN6, PEER6).icmp6(128, &[0, 7, 0, 1]);
    for packet in [Frame::ipv6(OWN6, PEER6).udp(4000, 53), echo] {
        fixture.flush_conntrack();
        let [first, later] = behind_options(packet);
        workload.from_container(later.clone()).is_dropped(FRAGMENT_NOT_FOUND);
        workload.from_container(first).passes();
        workload.from_container(later.clone()).passes();
        // Its flow's entry is stale: the rules are asked once more.
        fixture.bump_generation();
        workload.from_container(later.clone()).passes();
        fixture.rules(&workload, &["allow egress to any proto/60", "allow egress to any udp/1"]);
        fixture.bump_generation();
        workload.from_container(later).is_dropped(POLICY);
        fixture.rules(&workload, &["allow egress to any udp/53", "allow egress to any icmp6/128"]);
        fixture.bump_generation();
    }
}

#[test]
fn nor_do_they_lend_another_datagrams() {
    let Some(fixture) = Fixture::new() else { return };
    let workload = fixture.container(ID).policy(enforcing()).load();
    fixture.rules(&workload, &["allow egress to any udp/53"]);
    let own = Frame::ipv6(OWN6, PEER6);
    let [allowed, later] = behind_options(own.clone().udp(4000, 53));
    let [denied, _] = behind_options(own.clone().tcp(4000, 22));
    workload.from_container(first(OWN6.into(), PEER6.into(), 53)).passes();
    workload.from_container(denied.clone()).is_dropped(POLICY);
    // Of this one only the reason is known for which the first was dropped.
    let outcome = workload.from_container(later.clone());
    let event = outcome.is_dropped(POLICY).event();
    assert_eq!((event.protocol, event.dport), (6, 22_u16.to_be()));
    workload.from_container(allowed).passes();
    workload.from_container(denied).is_dropped(POLICY);
    workload.from_container(later).passes();
}

#[test]
fn what_follows_a_dropped_fragment_drops_for_its_reason() {
    let Some(fixture) = Fixture::new() else { return };
    fixture.router();
    let workload = fixture.container(ID).policy(enforcing()).load();
    let rules =
        fixture.rules(&workload, &["allow egress to any udp/53", "deny egress to 300 udp/54"]);
    let deny = rules.rules().last().expect("a rule").number.0;
    for (own, peer) in OWN_TO_PEER {
        fixture.ipcache(&peer.to_string(), PEER);
        for (port, reason, rule) in [(99, POLICY, 0), (54, POLICY_DENY, deny)] {
            workload.from_container(first(own, peer, port)).is_dropped(reason);
            let outcome = workload.from_container(later(own, peer, 17));
            let event = outcome.is_dropped(reason).comes_from(ID).goes_to(PEER).event();
            assert_eq!((event.sport, event.dport), (4000_u16.to_be(), port.to_be()));
            assert_eq!((event.rule, event.protocol, event.fragment), (rule, 17, 1));
        }
        // Another direction's is another packet.
        workload.to_container(later(own, peer, 17).forwarded()).is_dropped(FRAGMENT_NOT_FOUND);
        // What passes counts, whatever was dropped before.
        workload.from_container(first(own, peer, 53)).passes();
        workload.from_container(later(own, peer, 17)).passes();
    }
    let [denied, later] = behind_options(Frame::ipv6(OWN6, PEER6).udp(4000, 54));
    fixture.flush_conntrack();
    workload.from_container(denied).is_dropped(POLICY_DENY);
    workload.from_container(later).is_dropped(POLICY_DENY).goes_to(PEER);
}

#[test]
fn so_it_does_at_a_nic() {
    let Some(fixture) = Fixture::new() else { return };
    let nic = fixture.netdev(1).address(OWN4).address(OWN6).policy(enforcing()).load();
    fixture.rules(&nic, &["allow ingress from any icmp6/128"]);
    let forbidden = Frame::ipv6(PEER6, OWN6).icmp6(200, &[0; 4]).fragment(0, true);
    nic.from_netdev(forbidden).is_dropped(FORBIDDEN_ICMP6);
    nic.from_netdev(later(PEER6.into(), OWN6.into(), 58)).is_dropped(FORBIDDEN_ICMP6);
    for (own, peer) in OWN_TO_PEER {
        fixture.ipcache(&peer.to_string(), PEER);
        nic.from_netdev(first(peer, own, 54)).is_dropped(POLICY);
        nic.from_netdev(later(peer, own, 17)).is_dropped(POLICY).comes_from(PEER);
    }
}

#[test]
fn audit_reports_each_fragment_alike() {
    let Some(fixture) = Fixture::new() else { return };
    let audit = Enforcement { ingress: Mode::Audit, egress: Mode::Audit, ..Enforcement::default() };
    let workload = fixture.container(ID).policy(audit).load();
    fixture.rules(&workload, &["deny egress to any udp/54"]);
    let [options, follows] = behind_options(Frame::ipv6(OWN6, PEER6).udp(4000, 54));
    let of_both = OWN_TO_PEER.map(|(own, peer)| [first(own, peer, 54), later(own, peer, 17)]);
    for [first, later] in of_both.into_iter().chain([[options, follows]]) {
        fixture.flush_conntrack();
        for fragment in [first, later.clone()] {
            let outcome = workload.from_container(fragment);
            assert_eq!(outcome.verdict, Verdict::Pass);
            let event = outcome.event.as_ref().expect("a trace");
            assert_eq!((event.audited, event.dport), (1, 54_u16.to_be()));
        }
        fixture.bump_generation();
        let outcome = workload.from_container(later);
        let verdict = outcome.policy_verdict.as_ref().expect("a verdict");
        assert_eq!((verdict.reason.0, verdict.dport), (POLICY_DENY, 54_u16.to_be()));
    }
}

#[test]
fn a_dropped_first_fragment_takes_nothing_from_one_that_has_passed() {
    let Some(fixture) = Fixture::new() else { return };
    let workload = fixture.container(ID).policy(enforcing()).load();
    fixture.rules(&workload, &["allow egress to any udp/53"]);
    for (own, peer) in OWN_TO_PEER {
        workload.from_container(first(own, peer, 53)).passes();
        workload.from_container(first(own, peer, 54)).is_dropped(POLICY);
        // The receiver has got no other first one.
        workload.from_container(later(own, peer, 17)).passes();
    }
    let kept = fixture.fragments();
    for number in 0..5000_u32 {
        let source = Ipv4Addr::from(0x0a64_0000 + number);
        workload.from_container(first(source.into(), PEER4.into(), 54)).is_dropped(POLICY);
    }
    assert_eq!(fixture.fragments(), kept);
    for (own, peer) in OWN_TO_PEER {
        workload.from_container(later(own, peer, 17)).passes();
    }
}

#[test]
fn a_message_in_fragments_is_judged_by_its_type() {
    let Some(fixture) = Fixture::new() else { return };
    let workload = fixture.container(ID).policy(enforcing()).load();
    fixture.rules(&workload, &["allow egress to any icmp/13", "allow egress to any icmp6/139"]);
    let allowed =
        [Frame::ipv4(OWN4, PEER4).icmp(13, 0), Frame::ipv6(OWN6, PEER6).icmp6(139, &[0; 4])];
    let denied =
        [Frame::ipv4(OWN4, PEER4).icmp(14, 0), Frame::ipv6(OWN6, PEER6).icmp6(140, &[0; 4])];
    for ((allowed, denied), (own, peer)) in allowed.into_iter().zip(denied).zip(OWN_TO_PEER) {
        let later = later(own, peer, if own.is_ipv4() { 1 } else { 58 });
        workload.from_container(denied.fragment(0, true)).is_dropped(POLICY);
        workload.from_container(later.clone()).is_dropped(POLICY);
        workload.from_container(allowed.fragment(0, true)).passes();
        workload.from_container(later.clone()).passes();
        fixture.bump_generation();
        workload.from_container(later).passes();
    }
    // They are no flow's.
    assert_eq!(fixture.flows().len(), 0);
}

/// What says nothing of a type to choose from: with an identifier that is one.
#[test]
fn an_echos_identifier_is_no_type() {
    let Some(fixture) = Fixture::new() else { return };
    let workload = fixture.container(ID).policy(enforcing()).load();
    let rules = ["allow egress to any icmp/13", "allow egress to any icmp6/139"];
    fixture.rules(&workload, &rules);
    let echo = |own: IpAddr, identifier: u8| match own {
        IpAddr::V4(own) => Frame::ipv4(own, PEER4).protocol(1, [8, 0, 0, 0, 0, identifier, 0, 1]),
        IpAddr::V6(own) => Frame::ipv6(own, PEER6).icmp6(128, &[0, identifier, 0, 1]),
    };
    for ((own, peer), kind) in OWN_TO_PEER.into_iter().zip([13, 139]) {
        let later = later(own, peer, if own.is_ipv4() { 1 } else { 58 });
        for identifier in [kind, kind - 1] {
            workload.from_container(echo(own, identifier).fragment(0, true)).is_dropped(POLICY);
            workload.from_container(later.clone()).is_dropped(POLICY);
        }
        fixture.rules(&workload, &["allow egress to any"]);
        workload.from_container(echo(own, kind).fragment(0, true)).passes();
        workload.from_container(later.clone()).passes();
        fixture.rules(&workload, &rules);
        fixture.bump_generation();
        workload.from_container(later).is_dropped(POLICY);
    }
}

#[test]
fn what_was_dropped_stays_so_where_a_rule_has_come_since() {
    let Some(fixture) = Fixture::new() else { return };
    let workload = fixture.container(ID).policy(enforcing()).load();
    fixture.rules(&workload, &["allow egress to any udp/53"]);
    for (own, peer) in OWN_TO_PEER {
        workload.from_container(first(own, peer, 54)).is_dropped(POLICY);
    }
    fixture.rules(&workload, &["allow egress to any udp/54"]);
    fixture.bump_generation();
    for (own, peer) in OWN_TO_PEER {
        workload.from_container(later(own, peer, 17)).is_dropped(FRAGMENT_NOT_FOUND);
        assert_eq!(fixture.flows().len(), 0);
    }
}
