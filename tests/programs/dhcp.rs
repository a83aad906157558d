//! A workload's lease passes its policy, and nothing else does by the ports of DHCP.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::verdicts::{Enforcement, Mode, POLICY, POLICY_DENY, enforcing};
use super::{LINK_LOCAL, OWN4, OWN6, PEER4, PEER6};
use crate::common::Fixture;
use crate::common::packet::Frame;
use crate::common::program::{Endpoint, Packet};

const ID: u32 = 1234;
/// `CM_RULE_DHCP`.
const RULE_DHCP: u32 = 7;
const NOBODY: Ipv4Addr = Ipv4Addr::UNSPECIFIED;
const SERVERS6: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 1, 2);
const SERVER6: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);

fn workload(fixture: &Fixture) -> Endpoint<'_> {
    let workload = fixture.container(ID).address(OWN4).address(OWN6).address(LINK_LOCAL);
    let workload = workload.policy(enforcing()).load();
    fixture.rules(&workload, &["deny ingress from any", "deny egress to any"]);
    workload
}

/// From a client to servers.
fn asks(source: impl Into<IpAddr>, destination: impl Into<IpAddr>) -> Frame {
    let source = source.into();
    let (client, server) = if source.is_ipv4() { (68, 67) } else { (546, 547) };
    Frame::ip(source, destination).udp(client, server)
}

/// From a server to a client.
fn answers(source: impl Into<IpAddr>, destination: impl Into<IpAddr>) -> Packet {
    let source = source.into();
    let (client, server) = if source.is_ipv4() { (68, 67) } else { (546, 547) };
    Frame::ip(source, destination).udp(server, client).forwarded()
}

#[test]
fn a_workload_asks_its_link_and_is_answered_whatever_the_rules_say() {
    let Some(fixture) = Fixture::new() else { return };
    let workload = workload(&fixture);
    for source in [NOBODY, OWN4] {
        let asked = workload.from_container(asks(source, Ipv4Addr::BROADCAST));
        assert_eq!(asked.passes().event().rule, RULE_DHCP);
        workload.to_container(answers(PEER4, OWN4)).passes();
        workload.to_container(answers(PEER4, OWN4)).passes();
        // The request's entry is stale: no rule has a say in it.
        fixture.bump_generation();
        workload.to_container(answers(PEER4, OWN4)).passes();
        if source == NOBODY {
            workload.to_container(answers(PEER4, Ipv4Addr::BROADCAST)).passes();
        }
        assert_eq!(fixture.flows().len(), 1, "of the request alone");
        fixture.flush_conntrack();
    }
    workload.from_container(asks(LINK_LOCAL, SERVERS6)).passes();
    workload.to_container(answers(SERVER6, LINK_LOCAL)).passes();
    assert_eq!(fixture.flows().len(), 1);
}

#[test]
fn so_it_is_where_only_what_it_receives_is_enforced() {
    let Some(fixture) = Fixture::new() else { return };
    let ingress = Enforcement { ingress: Mode::Enforce, ..Enforcement::default() };
    let workload = fixture.container(ID).address(OWN4).address(LINK_LOCAL).policy(ingress).load();
    workload.from_container(asks(NOBODY, Ipv4Addr::BROADCAST)).passes();
    workload.to_container(answers(PEER4, OWN4)).passes();
    workload.from_container(asks(LINK_LOCAL, SERVERS6)).passes();
    workload.to_container(answers(SERVER6, LINK_LOCAL)).passes();
}

#[test]
fn nobody_answers_what_was_not_asked() {
    let Some(fixture) = Fixture::new() else { return };
    let workload = workload(&fixture);
    let neighbour = fixture.container(ID).id(8).address(PEER4).policy(enforcing()).load();
    fixture.rules(&neighbour, &["deny ingress from any"]);
    let is_closed = || {
        for destination in [OWN4, Ipv4Addr::BROADCAST] {
            workload.to_container(answers(PEER4, destination)).is_dropped(POLICY_DENY);
        }
        workload.to_container(answers(SERVER6, LINK_LOCAL)).is_dropped(POLICY_DENY);
    };
    is_closed();
    neighbour.from_container(asks(NOBODY, Ipv4Addr::BROADCAST)).passes();
    is_closed();
    workload.from_container(asks(NOBODY, Ipv4Addr::BROADCAST)).passes();
    workload.from_container(asks(LINK_LOCAL, SERVERS6)).passes();
    for frame in [
        Frame::ipv4(PEER4, OWN4).udp(67, 69),
        Frame::ipv4(PEER4, OWN4).udp(68, 68),
        Frame::ipv4(PEER4, OWN4).tcp(67, 68),
        Frame::ipv4(PEER4, OWN4).udp(547, 546),
        Frame::ipv6(PEER6, LINK_LOCAL).udp(547, 546),
        Frame::ipv6(SERVER6, OWN6).udp(547, 546),
        Frame::ipv6(SERVER6, LINK_LOCAL).udp(67, 68),
    ] {
        workload.to_container(frame.forwarded()).is_dropped(POLICY_DENY);
    }
    workload.to_container(answers(PEER4, OWN4)).passes();
    fixture.change_flows(|flow| flow.expires = 1);
    is_closed();
}

#[test]
fn it_asks_this_host_alone_and_no_tunnel_beyond() {
    let Some(fixture) = Fixture::new() else { return };
    fixture.world.sh("sysctl -qw net.ipv4.ip_forward=1 && \
         ip link add wan type veth peer name wan-peer && ip link set wan up && \
         ip link set wan-peer up && ip addr add 10.7.0.1/24 dev wan && ip link set lo up");
    let workload = workload(&fixture);
    let (host, beyond) = (Ipv4Addr::new(10, 7, 0, 1), Ipv4Addr::new(10, 7, 0, 2));
    workload.from_container(asks(OWN4, host)).passes();
    // The flow's own answer, also where its entry is stale.
    workload.to_container(answers(host, OWN4)).passes();
    fixture.bump_generation();
    workload.to_container(answers(host, OWN4)).passes();
    workload.from_container(asks(OWN4, beyond)).is_dropped(POLICY_DENY);
    workload.from_container(asks(OWN4, Ipv4Addr::new(239, 1, 2, 3))).is_dropped(POLICY_DENY);
    for destination in [SERVER6, PEER6, Ipv6Addr::new(0xff05, 0, 0, 0, 0, 0, 1, 3)] {
        let is_near = destination == SERVER6;
        let run = workload.from_container(asks(LINK_LOCAL, destination));
        if is_near {
            run.passes();
        } else {
            run.is_dropped(POLICY_DENY);
        }
    }
    workload.from_container(asks(OWN6, SERVERS6)).is_dropped(POLICY_DENY);
    // To another MAC on its bridge: who has it may be a router.
    let mut bridged = asks(OWN4, host).bytes();
    bridged[5] ^= 0xff;
    fixture.flush_conntrack();
    workload.from_container(bridged).is_dropped(POLICY_DENY);
}

#[test]
fn a_server_serves_by_rules() {
    let Some(fixture) = Fixture::new() else { return };
    let server = fixture.container(ID).address(OWN4).feature(|it| it.router = true);
    let server = server.policy(enforcing()).load();
    server.to_container(asks(NOBODY, Ipv4Addr::BROADCAST).forwarded()).is_dropped(POLICY);
    let offer = Frame::ipv4(OWN4, Ipv4Addr::BROADCAST).udp(67, 68);
    server.from_container(offer.clone()).is_dropped(POLICY);
    fixture.rules(&server, &["allow ingress from any udp/67", "allow egress to any udp/68"]);
    fixture.bump_generation();
    server.to_container(asks(NOBODY, Ipv4Addr::BROADCAST).forwarded()).passes();
    server.from_container(offer).passes();
}
