//! Rules on their way into the kernel and back, and what the programs make of them.

use std::path::PathBuf;
use std::process::Command;

use cilmark::model::endpoint::EndpointId;
use cilmark::model::enforcement::Mode;
use cilmark::model::identity::{Identity, Names};
use cilmark::model::origin::Origin;
use cilmark::model::policy::{Decision, Policy, RuleNumber, decide};
use cilmark::model::rule::{Action, Direction, L4, Rule};
use cilmark::model::rule_list::RuleList;
use cilmark::program::load::Enforcement;
use cilmark::state::pin::Root;
use cilmark::state::policy;
use cilmark::state::policy::{PolicyMaps, Slot};
use serde_json::Value;

use super::*;
use crate::common::Fixture;
use crate::common::packet::Frame;
use crate::common::program::{Endpoint, Outcome};
use crate::common::random::Random;

fn load(fixture: &Fixture) -> (Endpoint<'_>, PolicyMaps) {
    load_with(fixture, Mode::Enforce)
}

fn load_with(fixture: &Fixture, mode: Mode) -> (Endpoint<'_>, PolicyMaps) {
    let enforcement = Enforcement { ingress: mode, egress: mode, ..Enforcement::default() };
    let workload = fixture.container(ID).policy(enforcement).load();
    let id = EndpointId::new(7).expect("7");
    let root = Root::new(PathBuf::from("/sys/fs/bpf/cilmark"));
    root.endpoint(id).create().expect("create the endpoint's directory");
    let maps = PolicyMaps::of(&root, id, workload.loaded.map_ids().expect("map ids"));
    (workload, maps.unwrap_or_else(|error| panic!("{error:#}")))
}

fn rules(texts: &[&str]) -> Vec<Rule> {
    texts.iter().map(|text| Rule::parse(text, &Names::default()).expect(text)).collect()
}

fn policy(texts: &[&str]) -> Policy {
    Policy::default().replaced_by(&rules(texts), &Policy::default())
}

#[track_caller]
/// Without a rule, and with others behind the rest.
fn changed(policy: &Policy, gone: &str, new: &[&str]) -> Policy {
    let mut own = policy.own();
    own.remove(&rules(&[gone]));
    own.add(&rules(new), Origin::Command);
    policy.made_of(&own, &RuleList::default(), &Policy::default())
}

fn swap(maps: &PolicyMaps, policy: &Policy) {
    maps.swap(policy).unwrap_or_else(|error| panic!("{error:#}"));
}

fn packets(maps: &PolicyMaps, number: u32) -> u64 {
    maps.counter(RuleNumber(number)).expect("read a counter").packets
}

#[test]
fn rules_are_read_back_in_order_and_with_their_numbers() {
    let Some(fixture) = Fixture::new() else { return };
    let (_workload, maps) = load(&fixture);
    assert_eq!(maps.read(Slot::Current).unwrap(), Policy::default());
    let mut policy = policy(&[
        "deny ingress from any icmp/13",
        "allow egress to any",
        "allow ingress from 4294967295 sctp/5-700",
        "allow egress to world proto/0",
    ]);
    swap(&maps, &policy);
    assert_eq!(maps.read(Slot::Current).unwrap(), policy);
    let new = ["allow ingress from 5", "deny ingress from 5"];
    policy = changed(&policy, "allow egress to any", &new);
    swap(&maps, &policy);
    assert_eq!(maps.read(Slot::Current).unwrap(), policy);
    swap(&maps, &Policy::default());
    assert_eq!(maps.read(Slot::Current).unwrap(), Policy::default());
}

#[test]
fn an_endpoint_whose_policy_is_off_keeps_rules_too() {
    let Some(fixture) = Fixture::new() else { return };
    let (_workload, maps) = load_with(&fixture, Mode::Off);
    let policy = policy(&["deny ingress from 9", "allow ingress from any tcp/1-65534"]);
    swap(&maps, &policy);
    assert_eq!(maps.read(Slot::Current).unwrap(), policy);
    assert_eq!(packets(&maps, 16), 0);
}

/// What a program decided, as the reference puts it.
fn decided(outcome: &Outcome) -> Decision {
    // A drop is reported as such only.
    let report = outcome.policy_verdict.as_ref().unwrap_or_else(|| outcome.event());
    match report.reason.0 {
        0 => Decision::Allow(RuleNumber(report.rule)),
        181 => Decision::Deny(RuleNumber(report.rule)),
        133 => Decision::NoMatch,
        _ => panic!("{outcome:?}"),
    }
}

const PEERS: [u32; 4] = [0, 0, 2, 9];

fn random_rule(random: &mut Random) -> Rule {
    // Narrow ones that meet each other, and some that have entries of every block.
    let first = random.below(24) as u16 + random.pick(&[0, 0, 0, 240, 4090]);
    let last = first + random.pick(&[0, 0, 1, 7, 7, 16, 300, 5000]);
    let protocol = random.pick(&[6, 17, 132]);
    let l4 = match random.below(10) {
        0 => L4::Any,
        1 => L4::Protocol(random.pick(&[1, 6, 17, 47])),
        2 => L4::IcmpType { protocol: 1, kind: random.pick(&[8, 13]) },
        _ => L4::Ports { protocol, first, last },
    };
    Rule {
        action: if random.once_in(3) { Action::Deny } else { Action::Allow },
        direction: Direction::Egress,
        peer: Identity(random.pick(&PEERS)),
        l4,
    }
}

#[test]
fn the_programs_decide_as_the_reference_does() {
    let Some(fixture) = Fixture::new() else { return };
    fixture.router();
    let (workload, maps) = load(&fixture);
    fixture.ipcache(&PEER4.to_string(), 9);
    let unknown = Ipv4Addr::new(10, 2, 0, 11);
    fixture.ipcache(&unknown.to_string(), 0);
    let mut random = Random(1);
    let mut source_port = 1000;
    for _ in 0..40 {
        let rules: Vec<Rule> = (0..random.below(20)).map(|_| random_rule(&mut random)).collect();
        let policy = Policy::default().replaced_by(&rules, &Policy::default());
        swap(&maps, &policy);
        let check = |identity: u32, frame: Frame, protocol: u8, service: u16| {
            let expected =
                decide(policy.rules(), Direction::Egress, Identity(identity), protocol, service);
            let outcome = workload.from_container(frame);
            assert_eq!(decided(&outcome), expected, "{policy:?}: {outcome:?}");
        };
        // One peer is known; another one is the world's, and of one it is known that it is unknown.
        for (own, peer, identity) in [
            (IpAddr::from(OWN4), IpAddr::from(PEER4), 9),
            (OWN6.into(), PEER6.into(), 2),
            (OWN4.into(), unknown.into(), 0),
        ] {
            for _ in 0..10 {
                let port = random.below(44) as u16 + random.pick(&[0, 0, 0, 240, 530, 4090, 9080]);
                source_port += 1;
                let frame = Frame::ip(own, peer);
                match random.below(3) {
                    0 => check(identity, frame.tcp(source_port, port), 6, port),
                    1 => check(identity, frame.udp(source_port, port), 17, port),
                    _ => check(identity, frame.sctp(source_port, port), 132, port),
                }
            }
            check(identity, Frame::ip(own, peer).protocol(47, [0; 16]), 47, 0);
        }
        for kind in [8, 13] {
            check(9, Frame::ipv4(OWN4, PEER4).icmp(kind, 0), 1, kind.into());
        }
    }
}

#[test]
fn counters_stay_with_a_rule_and_begin_at_zero_with_another() {
    let Some(fixture) = Fixture::new() else { return };
    let (workload, maps) = load(&fixture);
    let mut policy = policy(&["allow egress to any tcp/80", "allow egress to any tcp/81"]);
    swap(&maps, &policy);
    for port in [80, 81] {
        workload.from_container(Frame::ip(OWN4, PEER4).tcp(1000, port)).passes();
    }
    assert_eq!((packets(&maps, 16), packets(&maps, 17)), (1, 1));
    policy = changed(&policy, "allow egress to any tcp/80", &["deny egress to any tcp/80"]);
    swap(&maps, &policy);
    assert_eq!((packets(&maps, 16), packets(&maps, 17)), (0, 1));
    workload.from_container(Frame::ip(OWN4, PEER4).tcp(1000, 80)).is_dropped(181);
    assert_eq!((packets(&maps, 16), packets(&maps, 17)), (1, 1));
}

#[test]
fn a_change_counts_for_flows_that_are_up() {
    let Some(fixture) = Fixture::new() else { return };
    let (workload, maps) = load(&fixture);
    let frame = || Frame::ip(OWN4, PEER4).udp(1000, 53);
    swap(&maps, &policy(&["allow egress to any udp/53"]));
    workload.from_container(frame()).passes();
    workload.from_container(frame()).passes();
    swap(&maps, &policy(&["allow egress to any udp/54"]));
    workload.from_container(frame()).is_dropped(133);
}

#[test]
fn what_does_not_fit_is_refused_and_changes_nothing() {
    let Some(fixture) = Fixture::new() else { return };
    let (_workload, maps) = load(&fixture);
    let before = policy(&["allow egress to any"]);
    swap(&maps, &before);
    let wide = (2..200).map(|peer| Rule {
        peer: Identity(peer),
        ..rules(&["allow ingress from any tcp/1-65534"])[0]
    });
    let too_many = Policy::default().replaced_by(&wide.collect::<Vec<_>>(), &Policy::default());
    let error = format!("{:#}", maps.swap(&too_many).unwrap_err());
    // 104 entries and a place in the list for each, and a line for each direction.
    let free = policy::ENTRIES - 4;
    for part in ["need 20792 entries", &format!("{free} are free"), "--policy-entries 20792"] {
        assert!(error.contains(part), "{error}");
    }
    assert_eq!(maps.read(Slot::Current).unwrap(), before);
}

#[test]
fn previous_rules_are_kept_brought_back_and_given_up() {
    let Some(fixture) = Fixture::new() else { return };
    let (workload, maps) = load(&fixture);
    let send = |port| workload.from_container(Frame::ip(OWN4, PEER4).udp(1000, port));
    let old = policy(&["allow egress to any udp/53"]);
    swap(&maps, &old);
    maps.keep().unwrap();
    let new = old.replaced_by(&rules(&["allow egress to any udp/54"]), &old);
    swap(&maps, &new);
    send(54).passes();
    send(53).is_dropped(133);
    assert_eq!(maps.read(Slot::Previous).unwrap(), old);
    maps.revert().unwrap();
    send(53).passes();
    assert_eq!(maps.read(Slot::Current).unwrap(), old);
    maps.forget().unwrap();
    maps.forget().unwrap();
    assert_eq!(maps.read(Slot::Previous).unwrap(), Policy::default());
    assert_eq!(maps.read(Slot::Current).unwrap(), old);
}

#[test]
fn bpftool_shows_the_pinned_rules_with_field_names() {
    let Some(fixture) = Fixture::new() else { return };
    let (_workload, maps) = load(&fixture);
    for text in ["allow ingress from 9 tcp/443", "deny ingress from 9 tcp/80"] {
        swap(&maps, &policy(&[text]));
    }
    let pin = "/sys/fs/bpf/cilmark/endpoints/7/cm_policy";
    let dump = Command::new("bpftool").args(["-j", "map", "dump", "pinned", pin]).output();
    let dump: Value = serde_json::from_slice(&dump.expect("run bpftool").stdout).expect("JSON");
    let entries: Vec<&Value> =
        dump.as_array().expect("entries").iter().map(|entry| &entry["formatted"]).collect();
    let compiled = entries.iter().find(|entry| entry["key"]["direction"] == 0).expect("an entry");
    assert_eq!(compiled["key"]["block"], "CM_PORT_BLOCK_PORT");
    assert_eq!(compiled["key"]["port"], 80);
    assert_eq!(compiled["value"]["flags"], 1 | 4);
    assert_eq!(compiled["value"]["rule"], 16);
    // It, the list of it, and the blocks of two directions.
    assert_eq!(entries.len(), 4, "{entries:?}");
}
