//! Two CPUs at the flows of the same few places: one of them gives these to others all the time.

use std::collections::HashSet;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use cilmark::kernel::sys::Hook;
use cilmark::model::identity::Identity;
use serde_json::Value;

use super::verdicts::*;
use super::*;
use crate::common::Fixture;
use crate::common::flow::{By, Flow, Kind, OPENING, Step};
use crate::common::machine::repetitions;
use crate::common::many::{End, Many, Numbers, OnCpu};
use crate::common::packet::Frame;
use crate::common::program::{Endpoint, Packet};

/// As few places as there can be.
const ENTRIES: u32 = 8;
/// Flows that want them. Every other one is denied.
const FLOWS: u32 = 32;
const ROUND: u32 = 1000;
const TIME: Duration = Duration::from_millis(500);

/// The first of many.
const PEERS: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::new(100, 0, 0, 0)),
    IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb9, 0, 0, 0, 0, 0, 1)),
];

/// Peers with an even number are allowed.
fn name_peers(fixture: &Fixture) {
    let prefix = |text: String| (text.parse().expect("a prefix"), Identity(400));
    let lines: Vec<_> = (0..=255)
        .step_by(2)
        .flat_map(|n| [format!("100.{n}.0.0/16"), format!("2001:db9:{n:x}00::/40")].map(prefix))
        .collect();
    fixture.open_ipcache().load(&lines, |_| Ok(())).expect("load");
}

/// A workload whose policy is in this mode. All of them are one to conntrack, and have the same rules.
fn workload<'fixture>(fixture: &'fixture Fixture, mode: Mode) -> Endpoint<'fixture> {
    let policy = Enforcement { ingress: mode, egress: mode, ..Enforcement::default() };
    let setup = fixture.container(ID).policy(policy).conntrack_entries(ENTRIES);
    let workload = setup.untraced().load();
    fixture.rules(&workload, &["allow egress to 400"]);
    workload
}

/// Datagrams of it to peers of these numbers; a datagram's flow is under way with its first packet.
fn datagrams(workload: &Endpoint<'_>, family: usize, numbers: Numbers) -> Many {
    let own = [IpAddr::from(OWN4), IpAddr::from(OWN6)][family];
    let packet = Packet::from(Frame::ip(own, PEERS[family]).udp(4000, 53));
    workload.many(Hook::Ingress, &packet, End::Destination, numbers)
}

/// Runs `read` again and again on one CPU, while flows of all peers replace each other on another one.
fn while_places_change_hands(writer: &Many, mut read: impl FnMut()) {
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            let _stay = OnCpu::number(1);
            while !stop.load(Relaxed) {
                writer.run(ROUND);
            }
        });
        let _stay = OnCpu::number(0);
        let end = Instant::now() + TIME;
        while Instant::now() < end {
            read();
        }
        stop.store(true, Relaxed);
    });
}

/// Audit keeps what it has found out of denied flows, too: these are there, and not allowed.
#[test]
fn no_packet_of_a_denied_flow_passes_by_the_verdict_of_another_that_takes_its_place() {
    let Some(fixture) = Fixture::new() else { return };
    let audited = workload(&fixture, Mode::Audit);
    let enforced = workload(&fixture, Mode::Enforce);
    name_peers(&fixture);
    for family in [0, 1] {
        let all = Numbers { count: FLOWS, ..Numbers::from(0) };
        let denied = Numbers { first: 1, step: 2, count: FLOWS / 2, each: 1 };
        let writer = datagrams(&audited, family, all);
        let reader = datagrams(&enforced, family, denied);
        while_places_change_hands(&writer, || reader.run(ROUND));
        let [_, egress] = enforced.counters().forwarded;
        let [_, dropped] = enforced.counters().dropped;

        assert!(dropped.packets > 0, "no packet was tried");
        assert_eq!(egress.packets, 0, "of {} in {:?}", dropped.packets, PEERS[family]);
    }
}

#[test]
fn no_packet_of_an_answered_flow_drops_while_others_take_the_places_around_it() {
    let Some(fixture) = Fixture::new() else { return };
    let audited = workload(&fixture, Mode::Audit);
    let enforced = workload(&fixture, Mode::Enforce);
    name_peers(&fixture);
    for (family, (local, remote)) in [0, 1].into_iter().zip([
        (IpAddr::from(OWN4), IpAddr::from([100, 254, 0, 0])),
        (IpAddr::from(OWN6), "2001:db9:fe00::1".parse().expect("an address")),
    ]) {
        let writer = datagrams(&audited, family, Numbers { count: FLOWS, ..Numbers::from(0) });
        let flow = Flow { kind: Kind::Tcp, begun_here: true, local, remote, port: 5000 };
        for step in OPENING {
            assert!(enforced.lets_pass(&flow, step), "{step:?} of {flow:?}");
        }
        // No rule allows it.
        let (hook, answer) = enforced.passage(false, flow.frame(Step::Next(By::Other)));
        while_places_change_hands(&writer, || enforced.repeat(hook, answer.clone(), ROUND));
        let [passed, _] = enforced.counters().forwarded;
        let [dropped, _] = enforced.counters().dropped;

        assert!(passed.packets > 0, "no packet was tried");
        assert_eq!(dropped.packets, 0, "of {} of {flow:?}", passed.packets);
    }
}

#[test]
fn two_cpus_that_begin_the_same_flows_at_once_leave_one_entry_of_each() {
    const COUNT: u64 = 1024;
    const AT_ONCE: u32 = 16;
    let Some(fixture) = Fixture::new() else { return };
    let setup = fixture.container(ID).policy(enforcing()).conntrack_entries(4 * COUNT as u32);
    let workload = setup.untraced().load();
    fixture.rules(&workload, &["allow egress to any"]);
    let rounds = repetitions(COUNT / u64::from(AT_ONCE));
    let barrier = Barrier::new(2);
    for family in [0, 1] {
        let writers = [0, 1].map(|_| datagrams(&workload, family, Numbers::from(0)));
        thread::scope(|scope| {
            for (cpu, writer) in writers.iter().enumerate() {
                let barrier = &barrier;
                scope.spawn(move || {
                    let _stay = OnCpu::number(cpu);
                    for _ in 0..rounds {
                        barrier.wait();
                        writer.run(AT_ONCE);
                    }
                });
            }
        });
    }
    let list = fixture.world.cilmark_json("conntrack list");
    let list: Vec<&Value> = list.as_array().expect("a list").iter().collect();
    let remotes: HashSet<&str> = list.iter().filter_map(|line| line["remote"].as_str()).collect();
    let begun = 2 * rounds as usize * AT_ONCE as usize;
    assert_eq!((list.len(), remotes.len()), (begun, begun));
}
