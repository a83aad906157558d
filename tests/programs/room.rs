//! Room in conntrack: who gets it when there is none, and who gives it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use serde_json::Value;

use super::verdicts::*;
use super::*;
use crate::common::flood::Scene;
use crate::common::flow::{CLOSING, Flow, Kind, OPENING, RULES, Step};
use crate::common::machine::repetitions;
use crate::common::many::{End, Many, Numbers};
use crate::common::program::Endpoint;
use crate::common::random::Random;
use crate::common::{Fixture, World};

/// Of a flood's table, for each family. Seven in a hundred flows that it has room for are to stay.
const ENTRIES: u32 = 4096;
const OF_EACH: u16 = 16;
/// Some twenty times what there is room for. The benchmark's soak has ten times as many at the default size.
const PACKETS: u64 = 200_000;

#[test]
fn while_there_is_room_every_flow_goes_on() {
    let Some(fixture) = Fixture::new() else { return };
    let scene = Scene::new(&fixture, Some(ENTRIES), OF_EACH);
    scene.first_packets(1).ends_none().refuses_nobody();
    scene.handshakes(1).ends_none().refuses_nobody();
    assert_eq!(scene.listed(&fixture.world.cilmark_json("conntrack list")), scene.flows());
}

#[test]
fn a_flood_of_first_packets_ends_no_answered_flow() {
    let Some(fixture) = Fixture::new() else { return };
    let scene = Scene::new(&fixture, Some(ENTRIES), OF_EACH);
    scene.first_packets(repetitions(PACKETS) as usize).ends_none().refuses_nobody();
    assert_eq!(scene.listed(&fixture.world.cilmark_json("conntrack list")), scene.flows());
}

#[test]
fn a_workload_that_answers_itself_ends_no_flow_of_another() {
    let Some(fixture) = Fixture::new() else { return };
    let scene = Scene::new(&fixture, Some(ENTRIES), OF_EACH);
    scene.handshakes(repetitions(PACKETS) as usize).ends_none();
}

/// Connections that come and go while as many are up as conntrack was given entries.
struct Turnover<'a> {
    workload: &'a Endpoint<'a>,
    local: IpAddr,
    /// Those that are up.
    up: Vec<Flow>,
    begun: u32,
    /// Those that were begun and whose handshake did not get through.
    lost: u32,
}

impl Turnover<'_> {
    /// Begins so many at once.
    fn begin(&mut self, count: usize) {
        let flow = |number: u32| Flow {
            kind: Kind::Tcp,
            begun_here: number.is_multiple_of(2),
            local: self.local,
            remote: remote(self.local, number),
            port: 20_000,
        };
        let mut new: Vec<Flow> = (self.begun..).take(count).map(flow).collect();
        self.begun += count as u32;
        for step in OPENING {
            new.retain(|flow| self.workload.lets_pass(flow, step));
        }
        self.lost += (count - new.len()) as u32;
        self.up.extend(new);
    }

    /// Closes so many, any of them.
    fn close(&mut self, count: usize, random: &mut Random) {
        for _ in 0..count {
            let flow = self.up.swap_remove(random.below(self.up.len()));
            for step in CLOSING {
                self.workload.lets_pass(&flow, step);
            }
        }
    }
}

fn remote(local: IpAddr, number: u32) -> IpAddr {
    let [a, b, c, d] = number.to_be_bytes();
    match local {
        IpAddr::V4(_) => Ipv4Addr::new(100 + a, b, c, d).into(),
        IpAddr::V6(_) => {
            let [high, low] = [(number >> 16) as u16, number as u16];
            Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, high, low).into()
        }
    }
}

/// How often what has this number was counted, in both directions.
fn counted(world: &World, reason: u64) -> u64 {
    let lines = world.cilmark_json("metrics");
    let lines = lines.as_array().expect("a list").iter();
    let of_reason = lines.filter(|line| line["reason"] == reason);
    of_reason.filter_map(|line: &Value| line["packets"].as_u64()).sum()
}

/// Connections come and go, so many at once, until there have been eight times as many as there are entries, while
/// as many are up.
fn turn_over(at_once: usize, meanwhile: impl Fn(&Endpoint<'_>, IpAddr) -> Option<Many>) {
    const ENTRIES: usize = 1024;
    const TURNOVERS: u64 = 8;
    /// `CM_FLOW_FAILED`; `CM_FLOW_DISPLACED` and the classes of flows that are answered.
    const FAILED: u64 = 67;
    const DISPLACED_ANSWERED: u64 = 73;
    const DISPLACED_FAILSAFE: u64 = 74;
    let Some(fixture) = Fixture::new() else { return };
    let setup = fixture.container(ID).policy(enforcing()).conntrack_entries(ENTRIES as u32);
    let workload = setup.untraced().load();
    fixture.rules(&workload, &RULES);
    let mut random = Random(15);
    for local in [IpAddr::from(OWN4), IpAddr::from(OWN6)] {
        let flood = meanwhile(&workload, local);
        let failed_before = counted(&fixture.world, FAILED);
        let mut turnover =
            Turnover { workload: &workload, local, up: Vec::new(), begun: 0, lost: 0 };
        let batches = ENTRIES / at_once * (1 + repetitions(TURNOVERS) as usize);
        for _ in 0..batches {
            // Those that were lost are missing.
            let too_many = (turnover.up.len() + at_once).saturating_sub(ENTRIES);
            turnover.close(too_many, &mut random);
            if let Some(flood) = &flood {
                flood.run(4 * at_once as u32);
            }
            turnover.begin(at_once);
        }
        let Turnover { up, begun, lost, .. } = turnover;
        let gone = up.iter().filter(|flow| !workload.lets_go_on(flow)).count();
        // A flood's packets find no room, either.
        let failed = match flood {
            None => counted(&fixture.world, FAILED) - failed_before,
            Some(_) => 0,
        };
        let what = format!(
            "of {begun} connections over {local} {lost} were lost and {failed} found no room; \
             of {} that were up {gone} were gone",
            up.len()
        );
        assert_eq!(gone, 0, "{what}");
        assert!(lost <= begun / 1000 && failed <= u64::from(begun / 1000), "{what}");
    }
    for reason in [DISPLACED_ANSWERED, DISPLACED_FAILSAFE] {
        assert_eq!(counted(&fixture.world, reason), 0, "reason {reason}");
    }
}

#[test]
fn where_as_many_flows_are_up_as_there_are_entries_new_ones_find_room_and_answered_ones_stay() {
    turn_over(32, |_, _| None);
}

/// They are spread over the buckets as evenly as without it, though all of them are full of what it sends.
#[test]
fn in_a_flood_as_many_new_flows_find_room_as_without_it() {
    turn_over(1, |workload, local| {
        let remote = remote(local, 1 << 24);
        let flow = Flow { kind: Kind::Tcp, begun_here: false, local, remote, port: 10_000 };
        let (hook, packet) = workload.passage(false, flow.frame(Step::First));
        Some(workload.many(hook, &packet, End::Source, Numbers::from(0)))
    });
}
