//! The private copy that explains a packet: it says what the attached program would do, and leaves
//! no trace.

use cilmark::kernel::abi::{self, __sk_buff, cm_event};
use cilmark::kernel::sys::{self, Hook};
use cilmark::model::enforcement::{Failsafe, Mode};
use cilmark::program::explain::{Answer, Fate, Original, Question, explain};
use cilmark::program::load::Enforcement;
use cilmark::state::registry::Inherited;
use libbpf_rs::{MapCore, MapFlags, MapHandle, MapType};

use super::*;
use crate::common::Fixture;
use crate::common::fixture::Setup;
use crate::common::fixture::ticks;
use crate::common::packet::Frame;
use crate::common::program::{Endpoint, Verdict};
use crate::common::random::{Ingredients, Random};

const SEED: u64 = 0xe791_a14e;
const FRAMES: u64 = 20;
const RULES: [&str; 6] = [
    "allow egress to any tcp/80",
    "allow egress to 300 udp",
    "deny egress to world tcp/443",
    "allow ingress from any tcp/80-443",
    "allow ingress from any icmp6/128",
    "deny ingress from 300 udp/67",
];

fn enforcement(mode: Mode) -> Enforcement {
    Enforcement {
        ingress: mode,
        egress: mode,
        failsafe: Failsafe::standard(),
        ..Enforcement::default()
    }
}

fn maps(endpoint: &Endpoint<'_>) -> Vec<MapHandle> {
    let ids = endpoint.loaded.map_ids().expect("map ids");
    ids.into_iter().map(|id| MapHandle::from_map_id(id).expect("a map")).collect()
}

fn original(endpoint: &Endpoint<'_>) -> Original {
    let map = |name: &str| maps(endpoint).into_iter().find(|map| map.name() == name);
    let config = endpoint.loaded.config.lookup(&0u32.to_ne_bytes(), MapFlags::ANY);
    let config: abi::cm_config =
        abi::from_bytes(&config.expect("look up").expect(".rodata")).expect("a config");
    Original {
        role: endpoint.role,
        netns: config.netns,
        ifindex: config.ifindex,
        config,
        inherited: Inherited {
            counters: map("cm_counters"),
            policies: map("cm_policy_sets"),
            rule_counters: map("cm_rule_stats"),
            ..Inherited::default()
        },
    }
}

fn ask(endpoint: &Endpoint<'_>, hook: Hook, packet: &[u8], context: &__sk_buff) -> Answer {
    let question = Question {
        hook,
        packet,
        mark: context.mark,
        ingress_ifindex: context.ingress_ifindex,
        mode: None,
    };
    explain(&endpoint.fixture.world.root(), original(endpoint), &question)
        .unwrap_or_else(|error| panic!("{error:#}"))
}

fn fate(verdict: Verdict) -> Fate {
    match verdict {
        Verdict::Pass => Fate::Forward,
        Verdict::Drop => Fate::Drop,
        Verdict::Redirect => Fate::Redirect,
    }
}

/// Explains random frames, then lets the program itself have them: twice, so that the second time
/// meets what the first has left in conntrack.
fn agrees(setup: Setup<'_>, hook: Hook, seed: u64) {
    const IPV4: [[u8; 4]; 3] = [OWN4.octets(), OWN4.octets(), PEER4.octets()];
    const IPV6: [[u8; 16]; 3] = [OWN6.octets(), OWN6.octets(), PEER6.octets()];
    let endpoint = setup.address(OWN4).address(OWN6).load();
    let fixture = endpoint.fixture;
    fixture.ipcache("10.2.0.0/16", 300);
    fixture.rules(&endpoint, &RULES);
    let mut frame = Vec::new();
    let mut dropped = 0;
    for number in 0..FRAMES {
        let random = &mut Random(SEED ^ seed ^ number << 32);
        Ingredients { ethernet: true, ipv4: &IPV4, ipv6: &IPV6 }.mix(random, &mut frame);
        let mark = if random.once_in(2) { 0 } else { random.pick(&OUR_MARKS) };
        let ingress_ifindex = u32::from(random.once_in(2));
        for time in 0..2 {
            let mut context = __sk_buff { mark, ingress_ifindex, ..__sk_buff::default() };
            let answer = ask(&endpoint, hook, &frame, &context);
            fixture.events();
            let run = sys::test_run(endpoint.program(hook), &frame, &mut context, 1).expect("run");
            let real: Option<cm_event> = fixture.events().pop();
            let what = format!("frame {number} of seed {SEED:#x}, time {time}: {frame:02x?}");
            assert_eq!(answer.fate, fate(Verdict::from_action(run.action)), "{what}");
            assert_eq!(answer.mark, context.mark, "{what}");
            let said = |event: &cm_event| {
                let identities = (event.source_identity, event.destination_identity);
                (event.reason, event.rule, event.audited, identities)
            };
            assert_eq!(answer.event.as_ref().map(said), real.as_ref().map(said), "{what}");
            dropped += u64::from(answer.fate == Fate::Drop);
        }
    }
    assert!((1..2 * FRAMES).contains(&dropped), "{dropped} dropped");
}

#[test]
fn it_agrees_with_from_container() {
    let Some(fixture) = Fixture::new() else { return };
    agrees(fixture.container(ID).policy(enforcement(Mode::Enforce)), Hook::Ingress, 1);
}

#[test]
fn it_agrees_with_to_container() {
    let Some(fixture) = Fixture::new() else { return };
    agrees(fixture.container(ID).policy(enforcement(Mode::Enforce)), Hook::Egress, 2);
}

#[test]
fn it_agrees_with_from_netdev() {
    let Some(fixture) = Fixture::new() else { return };
    agrees(fixture.netdev(1).policy(enforcement(Mode::Enforce)), Hook::Ingress, 3);
}

#[test]
fn it_agrees_with_to_netdev() {
    let Some(fixture) = Fixture::new() else { return };
    agrees(fixture.netdev(1).policy(enforcement(Mode::Enforce)), Hook::Egress, 4);
}

/// Keys, and for each its value on each CPU.
type Contents = Vec<(Vec<u8>, Vec<Vec<u8>>)>;

fn contents(map: &MapHandle) -> Contents {
    let value = |key: &[u8]| match map.map_type() {
        MapType::PercpuArray => map.lookup_percpu(key, MapFlags::ANY).expect("look up"),
        _ => map.lookup(key, MapFlags::ANY).expect("look up").map(|value| vec![value]),
    };
    let mut all: Vec<_> =
        map.keys().map(|key| (key.clone(), value(&key).unwrap_or_default())).collect();
    all.sort();
    all
}

/// What the maps of an endpoint hold; the ring buffer aside.
fn everything(endpoint: &Endpoint<'_>) -> Vec<Contents> {
    let maps = maps(endpoint).into_iter().filter(|map| map.map_type() != MapType::RingBuf);
    maps.map(|map| contents(&map)).collect()
}

#[test]
fn nothing_changes_but_what_the_packet_itself_would_change() {
    let Some(fixture) = Fixture::new() else { return };
    for mode in [Mode::Audit, Mode::Enforce] {
        for setup in [fixture.container(ID), fixture.netdev(1)] {
            let endpoint = setup.policy(enforcement(mode)).address(OWN4).load();
            fixture.rules(&endpoint, &RULES);
            let frames = [
                Frame::ip(OWN4, PEER4).tcp(1000, 80),
                Frame::ip(OWN4, PEER4).segment(1000, 80, "A"),
                Frame::ip(PEER4, OWN4).segment(80, 1000, "SA"),
                Frame::ip(OWN4, PEER4).tcp(1000, 81),
                Frame::ip(OWN4, PEER4).udp(1000, 80).fragment(0, true),
            ];
            let context = __sk_buff::default();
            for frame in &frames {
                for hook in [Hook::Ingress, Hook::Egress] {
                    let bytes = frame.bytes();
                    fixture
                        .change_flows(|flow| flow.expires = flow.expires.saturating_sub(ticks(20)));
                    let before = everything(&endpoint);
                    fixture.events();
                    ask(&endpoint, hook, &bytes, &context);
                    assert!(everything(&endpoint) == before, "{mode} {hook:?} {bytes:02x?}");
                    assert!(fixture.events().is_empty(), "an event");
                    // What would have changed it, and meets the next one.
                    let mut context = context;
                    sys::test_run(endpoint.program(hook), &bytes, &mut context, 1).expect("run");
                    assert!(everything(&endpoint) != before, "{mode} {hook:?} {bytes:02x?}");
                }
            }
            fixture.flush_conntrack();
        }
    }
}

#[test]
fn a_copy_pins_nothing() {
    let Some(fixture) = Fixture::new() else { return };
    let endpoint = fixture.container(ID).load();
    let before = fixture.world.pins();
    let bytes = Frame::ip(OWN4, PEER4).tcp(1, 2).bytes();
    let question = Question {
        hook: Hook::Ingress,
        packet: &bytes,
        mark: 0,
        ingress_ifindex: 1,
        mode: Some(Mode::Enforce),
    };
    let answer = explain(&fixture.world.root(), original(&endpoint), &question).expect("explain");
    assert_eq!(answer.fate, Fate::Drop);
    assert_eq!(fixture.world.pins(), before);
}

#[test]
fn programs_that_are_attached_run_no_code_for_it() {
    let Some(fixture) = Fixture::new() else { return };
    for setup in [Fixture::container, Fixture::netdev] {
        for mode in [Mode::Off, Mode::Enforce] {
            let load = |explain: u8| {
                let setup = setup(&fixture, ID).policy(enforcement(mode)).address(OWN4);
                setup.tune(move |config| config.explain = explain).load()
            };
            let (attached, copy) = (load(0), load(1));
            assert!(maps(&attached).iter().all(|map| map.name() != "cm_steps"));
            assert!(maps(&copy).iter().any(|map| map.name() == "cm_steps"));
            for hook in [Hook::Ingress, Hook::Egress] {
                let explains = |endpoint: &Endpoint<'_>| {
                    let functions = endpoint.reachable_functions(hook);
                    let of_it = ["write_step", "step_ct", "explain_settled"];
                    of_it.into_iter().filter(|name| functions.contains_key(*name)).count()
                };
                assert_eq!(explains(&attached), 0, "{hook:?}");
                assert!(mode == Mode::Off || explains(&copy) > 0, "{hook:?}");
            }
        }
    }
}
