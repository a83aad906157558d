//! Whose flows are whose, by all 24 bits of their scopes.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::verdicts::*;
use super::*;
use crate::common::Fixture;
use crate::common::packet::Frame;
use crate::common::program::Endpoint;

/// Scopes that differ in one part of a key only.
const SCOPES: [u32; 3] = [0x00_0007, 0x01_0007, 0x00_0008];

/// Workloads of one address, each of another scope, with these rules.
fn workloads<'fixture>(fixture: &'fixture Fixture, rules: &[&str]) -> [Endpoint<'fixture>; 3] {
    SCOPES.map(|scope| {
        let own = fixture.container(ID).address(OWN4).address(OWN6).address(LINK_LOCAL);
        let own = own.policy(enforcing()).tune(move |config| config.scope = scope).load();
        fixture.rules(&own, rules);
        own
    })
}

#[test]
fn an_answer_passes_to_whom_it_is_for() {
    let Some(fixture) = Fixture::new() else { return };
    let [first, others @ ..] = workloads(&fixture, &["allow egress to any"]);
    for (own, peer) in OWN_TO_PEER {
        let answer = || Frame::ip(peer, own).udp(53, 4000).forwarded();
        first.from_container(Frame::ip(own, peer).udp(4000, 53)).passes();
        for other in &others {
            other.to_container(answer()).is_dropped(POLICY);
        }
        first.to_container(answer()).passes();
    }
    assert_eq!(fixture.flows().len(), 2);
}

#[test]
fn a_later_fragment_passes_to_whom_the_first_one_was_for() {
    let Some(fixture) = Fixture::new() else { return };
    let [first, others @ ..] = workloads(&fixture, &["allow ingress from any udp/53"]);
    for (peer, own) in PEER_TO_OWN {
        let later = || Frame::ip(peer, own).protocol(17, [7; 16]).fragment(16, false).forwarded();
        first
            .to_container(Frame::ip(peer, own).udp(4000, 53).fragment(0, true).forwarded())
            .passes();
        for other in &others {
            other.to_container(later()).is_dropped(FRAGMENT_NOT_FOUND);
        }
        first.to_container(later()).passes();
    }
}

#[test]
fn a_lease_goes_to_whom_has_asked_for_it() {
    let Some(fixture) = Fixture::new() else { return };
    let [first, others @ ..] = workloads(&fixture, &[]);
    let servers = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 1, 2);
    let server = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);
    let cases: [[IpAddr; 4]; 2] = [
        [OWN4.into(), Ipv4Addr::BROADCAST.into(), PEER4.into(), OWN4.into()],
        [LINK_LOCAL.into(), servers.into(), server.into(), LINK_LOCAL.into()],
    ];
    for [client, all, server, to] in cases {
        let ports = if client.is_ipv4() { [68, 67] } else { [546, 547] };
        let answer = || Frame::ip(server, to).udp(ports[1], ports[0]).forwarded();
        first.from_container(Frame::ip(client, all).udp(ports[0], ports[1])).passes();
        for other in &others {
            other.to_container(answer()).is_dropped(POLICY);
        }
        first.to_container(answer()).passes();
    }
}

#[test]
fn what_stays_with_the_stack_is_remembered_by_scope() {
    let Some(fixture) = Fixture::new() else { return };
    fixture.world.sh("ip link add blue address 02:00:00:00:00:bb type veth peer name its-end");
    let blue = fixture.container(WIDE_ID).id(8).address(PEER4).device("blue");
    let blue = blue.feature(|on| on.local_delivery = true);
    let blue = blue.tune(|config| config.scope = 0x12_3456).untraced().load();
    let red = fixture.container(ID).address(OWN4).feature(|on| on.local_delivery = true).load();
    // Its MAC is not known yet.
    fixture.enter(&blue);
    fixture.silence(&blue);
    red.from_container(Frame::ip(OWN4, PEER4).udp(1000, 80).forwarded()).passes();
    let keys = fixture.dump("cm_path_flows", |_| String::new());
    assert!(!keys.is_empty());
    // Behind two addresses and two ports: the lower half, the upper byte.
    let scope = [0x56, 0x34, 0x12].map(|byte: u8| format!("{byte:02x}")).join(", ");
    assert!(keys.iter().all(|key| key.contains(&format!(", {scope}, "))), "{keys:?}");
}
