//! The four programs on single frames (PROG_TEST_RUN): configurations, rules, ipcaches and frames are
//! random, and rules and ipcache change between the frames.

mod folding;
mod stage;

use std::fmt::Write;
use std::net::IpAddr;

use cilmark::kernel::abi::__sk_buff;
use cilmark::kernel::sys::{self, Hook};

use super::generate::{Generator, WILD, policy};
use super::model::{Arrival, Judgement, Must, Program, UNREADABLE, delivery, wire};
use super::session::Session;
use crate::common::Fixture;
use crate::common::program::Verdict;
use stage::{Making, Stage, Subject};

/// Frames between two configurations, and between two states of conntrack.
const FRAMES: u64 = 6000;
const FRAMES_OF_STATE: u64 = 600;

/// The frames since conntrack was last empty, for a finding to tell those between the same ends.
#[derive(Default)]
struct History(Vec<Passed>);

struct Passed {
    has_ethernet: bool,
    frame: Vec<u8>,
    text: String,
}

impl History {
    fn note(&mut self, subject: &Subject<'_>, arrival: &Arrival<'_>, text: String) {
        let has_ethernet = subject.model.has_ethernet;
        self.0.push(Passed { has_ethernet, frame: arrival.frame.to_vec(), text });
    }

    fn between(&self, ends: [IpAddr; 2]) -> String {
        let mut text = String::new();
        for passed in &self.0 {
            let seen = wire::read(&passed.frame, passed.has_ethernet, false);
            if let wire::Frame::Ip(ip) = seen
                && ends.contains(&ip.source)
                && ends.contains(&ip.destination)
            {
                writeln!(text, "  before: {} {}", passed.text, hex(&passed.frame)).unwrap();
            }
        }
        text
    }
}

/// What became of a frame.
struct Run {
    verdict: Verdict,
    mark: u32,
    bytes: Vec<u8>,
}

fn run(subject: &Subject<'_>, program: Program, arrival: &Arrival<'_>) -> Run {
    let hook = match program {
        Program::FromContainer | Program::FromNetdev => Hook::Ingress,
        Program::ToContainer | Program::ToNetdev => Hook::Egress,
    };
    let mut context = __sk_buff {
        mark: arrival.mark,
        ingress_ifindex: arrival.ingress_ifindex,
        ifindex: subject.model.ifindex,
        gso_size: if arrival.is_gso { 1000 } else { 0 },
        ..__sk_buff::default()
    };
    let run = sys::test_run(subject.loaded.program(hook), arrival.frame, &mut context, 1)
        .unwrap_or_else(|error| panic!("{error}: {:02x?}", arrival.frame));
    Run { verdict: Verdict::from_action(run.action), mark: context.mark, bytes: run.packet }
}

/// The kernel refuses a test run with an IP header cut short right behind the Ethernet header.
fn is_acceptable(frame: &[u8]) -> bool {
    let least = match frame.get(12..14) {
        Some([0x08, 0x00]) => 14 + 20,
        Some([0x86, 0xdd]) => 14 + 40,
        _ => 14,
    };
    (least..3000).contains(&frame.len())
}

/// What is wrong with a run, if anything is: in few words, by which findings are told apart.
fn objection(
    stage: &Stage<'_>,
    (subject, program): (&Subject<'_>, Program),
    (arrival, judgement, delivered): (&Arrival<'_>, &Judgement, Option<&Judgement>),
    run: &Run,
) -> Option<String> {
    let must = delivered.map_or(judgement.must, |delivered| delivered.must);
    let why = delivered.map_or(judgement.why, |delivered| delivered.why);
    let wrong = |what: &str| Some(format!("{what}: {why}"));
    match (run.verdict, must) {
        (Verdict::Pass, Must::Drop) => return wrong("passes"),
        (Verdict::Drop, Must::Pass) => return wrong("drops"),
        (Verdict::Drop, Must::Redirect) => return wrong("drops instead of being redirected"),
        (Verdict::Redirect, Must::Pass | Must::Drop) => return wrong("is redirected"),
        (Verdict::Pass, Must::Redirect) => return wrong("is not redirected"),
        _ => {}
    }
    // The label is the sender's identity, and checked elsewhere.
    let is_unchanged = run.bytes == arrival.frame || subject.model.switches.flow_label;
    match run.verdict {
        Verdict::Drop if !is_unchanged => wrong("drops, and changes the frame"),
        Verdict::Pass => {
            let marks = match program {
                Program::FromNetdev => {
                    stage.machine.stamps(&subject.model, arrival, judgement.mark)
                }
                _ => vec![judgement.mark],
            };
            if !marks.contains(&run.mark) && judgement.why != UNREADABLE {
                return Some("has a mark that is not its own".to_owned());
            }
            (!is_unchanged).then(|| format!("passes, and changes the frame: {why}"))
        }
        Verdict::Redirect if delivered.is_some() => {
            // Whatever MAC has passed the source check last.
            let is_routed = stage
                .macs
                .iter()
                .any(|mac| delivery::is_routed(arrival.frame, &run.bytes, stage::NODE_MAC, *mac));
            let is_the_same = is_routed || subject.model.switches.flow_label;
            (!is_the_same).then(|| format!("is delivered, and is not the same: {why}"))
        }
        _ => None,
    }
}

/// A frame, and which program it is for.
struct Shot {
    which: usize,
    program: Program,
    frame: Vec<u8>,
    mark: u32,
    ingress_ifindex: u32,
    is_gso: bool,
}

impl Shot {
    /// The next one; `None` if it is none that a test run takes.
    fn next(stage: &Stage<'_>, generator: &mut Generator, number: u64) -> Option<Shot> {
        let which = generator.random.below(stage.subjects.len());
        let subject = &stage.subjects[which];
        let sent = generator.random.once_in(2);
        let program = match (subject.model.is_container, sent) {
            (true, true) => Program::FromContainer,
            (true, false) => Program::ToContainer,
            (false, true) => Program::ToNetdev,
            (false, false) => Program::FromNetdev,
        };
        let frame = generator.frame(&subject.scene, sent, number);
        if !is_acceptable(&frame) {
            return None;
        }
        let random = &mut generator.random;
        let mark = policy::mark(random);
        let mut ingress_ifindex = random.pick(&subject.ingress_ifindexes);
        if matches!(program, Program::FromContainer | Program::FromNetdev) {
            ingress_ifindex = subject.model.ifindex;
        }
        Some(Shot { which, program, frame, mark, ingress_ifindex, is_gso: random.once_in(40) })
    }

    fn arrival(&self) -> Arrival<'_> {
        Arrival {
            frame: &self.frame,
            mark: self.mark,
            ingress_ifindex: self.ingress_ifindex,
            is_gso: self.is_gso,
            is_delivered: false,
        }
    }
}

/// One frame; whether model and program still agree.
fn check(
    session: &mut Session,
    stage: &mut Stage<'_>,
    generator: &mut Generator,
    history: &mut History,
    number: u64,
) -> bool {
    let Some(shot) = Shot::next(stage, generator, number) else { return true };
    let (which, program, frame, arrival) = (shot.which, shot.program, &shot.frame, shot.arrival());
    if program == Program::FromContainer {
        stage.macs.insert(frame[6..12].try_into().expect("six bytes"));
    }
    let subject = &stage.subjects[which];
    let judgement = stage.machine.judge(&subject.model, program, &arrival);
    let delivered = stage.deliver(subject, program, &arrival, &judgement);
    let run = run(subject, program, &arrival);
    let must = delivered.as_ref().map_or(judgement.must, |delivered| delivered.must);
    let freedom = if must == Must::Either { ", and might do else" } else { "" };
    session.count(&format!("{program:?} {:?}{freedom}", run.verdict));
    let wrong =
        objection(stage, (subject, program), (&arrival, &judgement, delivered.as_ref()), &run);
    if let Some(wrong) = &wrong {
        session.found(format!("{program:?} {wrong}"), || {
            let seen = wire::read(frame, subject.model.has_ethernet, arrival.is_gso);
            let before = match &seen {
                wire::Frame::Ip(ip) => history.between([ip.source, ip.destination]),
                _ => String::new(),
            };
            format!(
                "  number {number}, {:?} to {:?}, mark {:#010x} to {:#010x}, ingress_ifindex {}, \
                 gso {}\n  {}\n  {seen:?}\n  {}\n  {}\n{before}",
                judgement,
                run.verdict,
                arrival.mark,
                run.mark,
                arrival.ingress_ifindex,
                arrival.is_gso,
                hex(frame),
                subject.describe(),
                stage.describe(),
            )
        });
        return false;
    }
    let (id, from) = (subject.model.id, arrival.ingress_ifindex);
    history.note(
        subject,
        &arrival,
        format!(
            "{number} {program:?} of {id}, mark {:#x} ingress_ifindex {from}: {:?}, {:?} {}",
            arrival.mark, run.verdict, judgement.must, judgement.why
        ),
    );
    let has_passed = run.verdict != Verdict::Drop || delivered.is_some();
    match judgement.must {
        // Its neighbour may have dropped it.
        Must::Either if !has_passed && program == Program::FromContainer => {
            stage.machine.suspect(judgement);
        }
        _ => stage.machine.learn(judgement, has_passed),
    }
    if let Some(delivered) = delivered {
        stage.machine.learn(delivered, run.verdict != Verdict::Drop);
    }
    true
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn fuzz(name: &'static str, frames: u64, of_containers: bool) {
    let Some(fixture) = Fixture::new() else { return };
    stage::network(&fixture);
    let mut session = Session::new(name, frames);
    while let Some(seed) = session.next_round() {
        let mut generator = Generator::new(seed, WILD);
        let mut stage =
            Stage::new(&fixture, &mut generator.random, of_containers, Making::Modelled);
        let mut history = History::default();
        let mut is_agreed = true;
        for number in 0..FRAMES {
            let is_over = number % FRAMES_OF_STATE == 0;
            if is_over || !is_agreed {
                stage.forget();
                history.0.clear();
            }
            if is_over {
                stage.change_all(&mut generator.random);
            } else if generator.random.once_in(150) {
                stage.change(&mut generator.random);
            }
            is_agreed = check(&mut session, &mut stage, &mut generator, &mut history, number);
        }
    }
    session.end();
}

#[test]
fn a_workloads_programs_do_what_is_documented() {
    fuzz("single frames at workloads", 50_000, true);
}

#[test]
fn a_nics_programs_do_what_is_documented() {
    fuzz("single frames at NICs", 50_000, false);
}
