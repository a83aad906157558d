//! The same frames through the same programs, folded and as they were compiled: each in a world of its own,
//! where all is made by the same numbers. What becomes of a frame, and what it leaves behind, is the same.

use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;

use cilmark::kernel::abi::{cm_counters, cm_event, cm_metrics};
use cilmark::kernel::sys;
use cilmark::program::load::Folding;
use cilmark::state::counters;

use super::*;

/// Frames of one configuration.
const FRAMES: u64 = 1000;
/// Between two looks at what they have left; then conntrack is empty again.
const FRAMES_OF_STATE: u64 = 250;

/// What can be seen of a frame's way.
#[derive(PartialEq, Debug)]
struct Seen {
    /// How it came.
    shot: String,
    verdict: Verdict,
    mark: u32,
    bytes: String,
    events: Vec<String>,
    /// Now and then: what all frames so far have left in the maps.
    left: Option<Vec<String>>,
}

/// What one world did in a round.
struct Round {
    configuration: String,
    frames: Vec<Seen>,
}

fn go(fixture: &Fixture, seed: u64, of_containers: bool, folding: Folding) -> Round {
    let mut generator = Generator::new(seed, WILD);
    let making = Making::Compared(folding);
    let mut stage = Stage::new(fixture, &mut generator.random, of_containers, making);
    fixture.events();
    let mut frames = Vec::new();
    for number in 0..FRAMES {
        if number % FRAMES_OF_STATE == 0 {
            stage.forget();
            stage.change_all(&mut generator.random);
        } else if generator.random.once_in(100) {
            stage.change(&mut generator.random);
        }
        let is_last = (number + 1) % FRAMES_OF_STATE == 0;
        let Some(shot) = Shot::next(&stage, &mut generator, number) else { continue };
        let run = run(&stage.subjects[shot.which], shot.program, &shot.arrival());
        frames.push(Seen {
            shot: describe(&shot),
            verdict: run.verdict,
            mark: run.mark,
            bytes: hex(&run.bytes),
            events: fixture.events().into_iter().map(told).collect(),
            left: is_last.then(|| left(fixture, &stage)),
        });
    }
    Round { configuration: stage.describe(), frames }
}

fn describe(shot: &Shot) -> String {
    let Shot { which, program, frame, mark, ingress_ifindex, is_gso } = shot;
    format!(
        "{program:?} of subject {which}, mark {mark:#x} ingress_ifindex {ingress_ifindex} gso \
         {is_gso} {}",
        hex(frame)
    )
}

fn told(event: cm_event) -> String {
    format!("{:?}", cm_event { time_ns: 0, ..event })
}

/// All maps that frames write.
fn left(fixture: &Fixture, stage: &Stage<'_>) -> Vec<String> {
    let now = (sys::jiffies64().expect("jiffies") >> 6) as u32;
    let mut lines = Vec::new();
    if fixture.world.root().map("cm_flows4").exists() {
        for mut known in fixture.flows() {
            known.flow.born = 0;
            lines.push(format!("{:?} {}", known.flow, lifetime(known.expires, now)));
        }
        lines.extend(fixture.dump("cm_frags4", hex));
        lines.extend(fixture.dump("cm_frags6", hex));
    }
    lines.sort();
    for subject in &stage.subjects {
        let counters = subject.loaded.counters();
        lines.push(format!("{:?}", cm_counters { window: 0, window_events: 0, ..counters }));
    }
    for line in counters::read(&fixture.world.root()).expect("read the metrics") {
        let cm_metrics { packets, bytes } = line.sum;
        lines.push(format!(
            "{} {} {packets} packets {bytes} bytes",
            line.direction,
            line.of.number()
        ));
    }
    lines
}

/// Which lifetime a flow has got, in seconds: it was a moment ago.
fn lifetime(expires: u32, now: u32) -> u32 {
    let left = expires.wrapping_sub(now) as i32;
    let of = |seconds: &&u32| left <= ((**seconds * sys::jiffies_per_second()) >> 6) as i32 + 1;
    [0, 10, 25, 30, 60, 120, 21600].iter().find(of).copied().unwrap_or(u32::MAX)
}

/// A world of its own, which goes a round for each seed.
fn world(seeds: &Receiver<u64>, rounds: &SyncSender<Round>, of_containers: bool, folding: Folding) {
    let Some(fixture) = Fixture::new() else { return };
    stage::network(&fixture);
    for seed in seeds {
        // Nobody is there any more if the other world has failed.
        if rounds.send(go(&fixture, seed, of_containers, folding)).is_err() {
            return;
        }
    }
}

fn compare(session: &mut Session, [folded, unfolded]: [Round; 2]) {
    assert_eq!(folded.frames.len(), unfolded.frames.len());
    for (folded_seen, seen) in folded.frames.iter().zip(&unfolded.frames) {
        let program = seen.shot.split(' ').next().expect("a program");
        session.count(&format!("{program} {:?}", seen.verdict));
        if folded_seen != seen {
            session.found(format!("{program} does another thing where it is folded"), || {
                format!(
                    "  folded:   {folded_seen:#?}\n  unfolded: {seen:#?}\n  {}",
                    unfolded.configuration
                )
            });
            return;
        }
    }
}

fn fold_or_not(name: &'static str, frames: u64, of_containers: bool) {
    let mut session = Session::new(name, frames);
    thread::scope(|scope| {
        let worlds = [Folding::On, Folding::Off].map(|folding| {
            let (seeds, seeds_there) = sync_channel(1);
            let (rounds_there, rounds) = sync_channel(1);
            scope.spawn(move || world(&seeds_there, &rounds_there, of_containers, folding));
            (seeds, rounds)
        });
        while let Some(seed) = session.next_round() {
            // Of whom is not root nobody answers.
            if worlds.iter().any(|(seeds, _)| seeds.send(seed).is_err()) {
                return;
            }
            let [folded, unfolded] = worlds.each_ref().map(|(_, rounds)| rounds.recv());
            let (Ok(folded), Ok(unfolded)) = (folded, unfolded) else { return };
            compare(&mut session, [folded, unfolded]);
        }
    });
    session.end();
}

#[test]
fn a_workloads_programs_do_the_same_folded_or_not() {
    fold_or_not("a workload's programs, folded or not", 8_000, true);
}

#[test]
fn a_nics_programs_do_the_same_folded_or_not() {
    fold_or_not("a NIC's programs, folded or not", 8_000, false);
}
