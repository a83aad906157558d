//! Rules that are said to decide about nothing, against what the programs do.

use std::collections::{BTreeSet, HashSet};

use cilmark::model::identity::Names;
use cilmark::model::policy::effect::{Void, void};
use cilmark::model::rule::Rule;
use cilmark::program::load::Features;

use super::verdicts::*;
use super::*;
use crate::common::Fixture;
use crate::common::packet::Frame;
use crate::common::program::{Endpoint, Outcome, Packet, Verdict};

const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);

/// Gives an endpoint these rules, and finds which of them are said to be void, and which decide about a
/// packet. Those that are void for a part only are both.
fn said_and_seen(
    endpoint: &Endpoint<'_>,
    rules: &[String],
    run: impl Fn(Packet) -> Outcome,
    packets: &[Packet],
) -> [BTreeSet<String>; 2] {
    let policy = endpoint.fixture.rules(endpoint, rules);
    endpoint.fixture.flush_conntrack();
    let text = |rule: &Rule| rule.text(&Names::default());
    let setting = endpoint.config.setting().expect("a role");
    let voids = void(policy.rules(), &setting).into_iter();
    let said = voids.filter(|(_, why)| *why != Void::NotOfLink).map(|(rule, _)| text(&rule));
    let deciding = packets.iter().filter_map(|packet| {
        let number = run(packet.clone()).event().rule;
        policy.rules().iter().find(|listed| listed.number.0 == number)
    });
    let seen: BTreeSet<String> = deciding.map(|listed| text(&listed.rule)).collect();
    let idle = rules.iter().filter(|rule| !seen.contains(*rule)).cloned();
    [said.collect(), idle.collect()]
}

/// A message of every type, as it would pass by itself and otherwise.
fn messages(sends: bool) -> Vec<Packet> {
    let (own, peer) = if sends { (OWN6, PEER6) } else { (PEER6, OWN6) };
    let mut all = Vec::new();
    for kind in 0..=255 {
        for hops in [255, 64, 1] {
            for (source, destination) in
                [(LINK_LOCAL, ALL_NODES), (own, peer), (own, ALL_NODES), (LINK_LOCAL, peer)]
            {
                let message = Frame::ipv6(source, destination).ttl(hops).icmp6(kind, &[0; 20]);
                all.push(if sends { Packet::from(message) } else { message.forwarded() });
            }
        }
    }
    all
}

#[test]
fn of_every_type_of_icmpv6_it_is_known_whether_a_rule_may_decide() {
    let Some(fixture) = Fixture::new() else { return };
    let router = Features { router: true, ..Features::default() };
    let setups = [
        fixture.netdev(1).address(OWN6),
        fixture.container(ID),
        fixture.container(ID).id(8).features(router),
    ];
    for setup in setups {
        let setup = setup.tune(|config| config.events_per_second = u32::MAX);
        let endpoint = setup.policy(enforcing()).load();
        let is_nic = endpoint.role == cilmark::model::endpoint::Role::Netdev;
        for (direction, sends) in [("ingress from", false), ("egress to", true)] {
            for action in ["deny", "allow"] {
                let rule = |kind| format!("{action} {direction} any icmp6/{kind}");
                let rules: Vec<String> = (0..=255).map(rule).collect();
                let run = |packet: Packet| match (is_nic, sends) {
                    (true, true) => endpoint.to_netdev(packet),
                    (true, false) => endpoint.from_netdev(packet),
                    (false, true) => endpoint.from_container(packet),
                    (false, false) => endpoint.to_container(packet),
                };
                let [said, seen] = said_and_seen(&endpoint, &rules, run, &messages(sends));
                assert_eq!(said, seen, "{action} {direction}, router {}", endpoint.config.router);
                if action == "deny" {
                    let setting = endpoint.config.setting().expect("a role");
                    let policy = fixture.rules(&endpoint, &rules);
                    let voids = void(policy.rules(), &setting).into_iter();
                    let needed =
                        voids.filter(|(_, why)| matches!(why, Void::Link | Void::NotOfLink));
                    let said: HashSet<Rule> = needed.map(|(rule, _)| rule).collect();
                    let passing = messages(sends).into_iter().enumerate();
                    let passing =
                        passing.filter(|(_, it)| run(it.clone()).verdict == Verdict::Pass);
                    let per_type = messages(sends).len() / 256;
                    let seen: HashSet<Rule> =
                        passing.map(|(at, _)| policy.rules()[at / per_type].rule).collect();
                    assert_eq!(said, seen, "what passes by itself, {direction}");
                }
            }
        }
    }
}

#[test]
fn of_every_failsafe_port_it_is_known_that_no_rule_decides() {
    let Some(fixture) = Fixture::new() else { return };
    let policy = Enforcement { failsafe: Failsafe::standard(), ..enforcing() };
    let nic = fixture.netdev(1).address(OWN4).address(OWN6).policy(policy).load();
    let ports = [21, 22, 23, 53, 67, 68, 123, 546, 547];
    for (direction, sends) in [("ingress from", false), ("egress to", true)] {
        for action in ["deny", "allow"] {
            let of = |protocol: &str| {
                ports.map(|port| format!("{action} {direction} any {protocol}/{port}"))
            };
            let rules = [of("tcp"), of("udp")].concat();
            let mut packets = Vec::new();
            for (own, peer) in OWN_TO_PEER {
                for port in ports {
                    let (from, to) = if sends { (own, peer) } else { (peer, own) };
                    let frames = [
                        Frame::ip(from, to).tcp(40_000, port),
                        Frame::ip(from, to).udp(40_000, port),
                    ];
                    packets.extend(frames.map(|frame| match sends {
                        true => Packet::from(frame),
                        false => frame.forwarded(),
                    }));
                }
            }
            let run = |packet| if sends { nic.to_netdev(packet) } else { nic.from_netdev(packet) };
            let [said, seen] = said_and_seen(&nic, &rules, run, &packets);
            assert_eq!(said, seen, "{action} {direction}");
        }
    }
}

#[test]
fn nobody_on_a_wire_is_asked_about_as_the_host() {
    let Some(fixture) = Fixture::new() else { return };
    let nic = fixture.netdev(1).address(OWN4).address(OWN6).policy(enforcing()).load();
    // The operator's word holds whatever the routing tables say.
    for address in [PEER4.to_string(), PEER6.to_string()] {
        fixture.ipcache(&address, 1);
    }
    let packets: Vec<Packet> = PEER_TO_OWN
        .iter()
        .map(|(peer, own)| Frame::ip(*peer, *own).udp(4000, 53).forwarded())
        .collect();
    for action in ["allow", "deny"] {
        let rules =
            [format!("{action} ingress from host"), format!("{action} ingress from host udp/53")];
        let [said, seen] = said_and_seen(&nic, &rules, |packet| nic.from_netdev(packet), &packets);
        assert_eq!((said.len(), &said), (2, &seen));
    }
}

#[test]
fn a_workload_without_a_router_offers_no_lease_that_a_rule_could_decide_about() {
    let Some(fixture) = Fixture::new() else { return };
    let router = Features { router: true, ..Features::default() };
    for setup in [
        fixture.container(ID).address(OWN4).address(OWN6),
        fixture.container(ID).id(8).address(OWN4).address(OWN6).features(router),
        fixture.container(ID).id(9),
    ] {
        let workload = setup.policy(enforcing()).load();
        let ports = [67, 68, 546, 547];
        let rules = ports.map(|port| format!("allow egress to any udp/{port}"));
        let packets: Vec<Packet> = OWN_TO_PEER
            .iter()
            .flat_map(|(own, peer)| {
                ports.map(|port| Frame::ip(*own, *peer).udp(port ^ 1, port).into())
            })
            .collect();
        let run = |packet| workload.from_container(packet);
        let [said, seen] = said_and_seen(&workload, &rules, run, &packets);
        assert_eq!(said, seen, "router {}", workload.config.router);
    }
}
