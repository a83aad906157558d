//! One figure: a program with its packet, beside an empty program with the same one.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::rc::Rc;

use anyhow::{Context, Result, ensure};
use cilmark::kernel::abi::__sk_buff;
use cilmark::kernel::sys::{self, TestRun};
use libbpf_rs::MapHandle;
use serde::Serialize;

use super::vary::{self, Vary, Wrapper};
use crate::figures::quantile;

pub const ACTION_PASS: i32 = -1;
pub const ACTION_DROP: i32 = 2;

/// A line of the table and of the JSON, whose fields DESIGN names. Times are ns.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Line {
    pub program: &'static str,
    pub family: u8,
    pub policy: &'static str,
    pub flow: &'static str,
    /// How many entries there were.
    pub ipcache: u32,
    /// They were prefixes, not hosts.
    pub prefixes: bool,
    pub rules: u32,
    /// Of conntrack: those that the packets belonged to, or among which a new one had to find room.
    pub flows: u32,
    /// Which of its flow's the packet finds, where that is known: `full` or `second`.
    pub bucket: &'static str,
    /// `hot` or `random`.
    pub keys: &'static str,
    /// The best round's.
    pub ns: f64,
    pub median_ns: f64,
    /// Between the quartiles.
    pub spread_ns: f64,
    /// The best round's of the empty program.
    pub floor_ns: f64,
    pub floor_median_ns: f64,
    pub insns: u32,
}

impl Line {
    /// What the program costs beside the empty one: medians.
    pub fn over(&self) -> f64 {
        self.median_ns - self.floor_median_ns
    }
}

/// What is run in each round.
#[derive(Clone)]
pub struct Trial {
    pub packet: Vec<u8>,
    pub ingress_ifindex: u32,
    /// A `TC_ACT_…`.
    pub action: i32,
    /// The mark that the last packet ends with, if it tells whether all is as it should be.
    pub mark: Option<u32>,
    pub repeat: u32,
}

/// How a case's packets reach a program.
enum Way {
    Directly(Rc<OwnedFd>),
    Wrapped(Wrapper),
}

/// A line in the making.
pub struct Case {
    line: Line,
    trial: Trial,
    program: Way,
    floor: Way,
    /// Emptied before each round.
    emptied: Option<MapHandle>,
    samples: Vec<f64>,
    floor_samples: Vec<f64>,
}

impl Case {
    /// With the same packet each time.
    pub fn hot(
        line: Line,
        program: BorrowedFd<'_>,
        trial: Trial,
        empty: &Rc<OwnedFd>,
    ) -> Result<Case> {
        let wanted = Way::Directly(Rc::new(program.try_clone_to_owned()?));
        let line = Line { keys: "hot", ..line };
        Case::new(line, program, trial, [wanted, Way::Directly(Rc::clone(empty))])
    }

    /// With packets that vary.
    pub fn random(
        line: Line,
        program: BorrowedFd<'_>,
        trial: Trial,
        vary: &Vary,
        empty: &Rc<OwnedFd>,
    ) -> Result<Case> {
        Case::wrapped(Line { keys: "random", ..line }, program, trial, vary, empty)
    }

    /// With the same packet each time, unmarked: for a program that looks up only what has no mark yet.
    pub fn unmarked(
        line: Line,
        program: BorrowedFd<'_>,
        trial: Trial,
        vary: &Vary,
        empty: &Rc<OwnedFd>,
    ) -> Result<Case> {
        let same = Vary { keys: 1, ..*vary };
        Case::wrapped(Line { keys: "hot", ..line }, program, trial, &same, empty)
    }

    fn wrapped(
        line: Line,
        program: BorrowedFd<'_>,
        trial: Trial,
        vary: &Vary,
        empty: &Rc<OwnedFd>,
    ) -> Result<Case> {
        let ways = [Way::Wrapped(vary.wrap(program)?), Way::Wrapped(vary.wrap(empty.as_fd())?)];
        Case::new(line, program, trial, ways)
    }

    fn new(
        line: Line,
        program: BorrowedFd<'_>,
        trial: Trial,
        [wanted, floor]: [Way; 2],
    ) -> Result<Case> {
        let insns = sys::program_facts(program)?.instructions;
        Ok(Case {
            line: Line { insns, ..line },
            trial,
            program: wanted,
            floor,
            emptied: None,
            samples: Vec::new(),
            floor_samples: Vec::new(),
        })
    }

    /// Empties a map before each round.
    pub fn emptying(self, map: MapHandle) -> Case {
        Case { emptied: Some(map), ..self }
    }

    /// Does rounds that do not count, with twice as many packets as a map that shall be full has entries.
    pub fn warmed(mut self, entries: u32) -> Result<Case> {
        for _ in 0..(2 * entries).div_ceil(self.trial.repeat) {
            self.round()?;
        }
        self.samples.clear();
        self.floor_samples.clear();
        Ok(self)
    }

    /// Measures once.
    pub fn round(&mut self) -> Result<()> {
        if let Some(map) = &self.emptied {
            vary::empty(map)?;
        }
        let of = || format!("{:?}", self.line);
        let trial = &self.trial;
        let (floor, _) = trial.run(self.floor.program()).with_context(of)?;
        ensure!(floor.action == ACTION_PASS, "{}: its floor returned {}", of(), floor.action);
        let (run, mark) = trial.run(self.program.program()).with_context(of)?;
        ensure!(run.action == trial.action, "{} returned {}", of(), run.action);
        let is_expected = trial.mark.is_none_or(|expected| mark == expected);
        ensure!(is_expected, "{} left the mark {mark:#010x}", of());
        self.floor_samples.push(floor.duration.as_nanos() as f64);
        self.samples.push(run.duration.as_nanos() as f64);
        Ok(())
    }

    /// The line, after some rounds.
    pub fn line(&self) -> Line {
        let best = |samples: &[f64]| samples.iter().copied().fold(f64::MAX, f64::min);
        let quartile = |part| quantile(&self.samples, part);
        Line {
            ns: best(&self.samples),
            median_ns: quartile(0.5),
            spread_ns: quartile(0.75) - quartile(0.25),
            floor_ns: best(&self.floor_samples),
            floor_median_ns: quantile(&self.floor_samples, 0.5),
            ..self.line.clone()
        }
    }
}

impl Way {
    fn program(&self) -> BorrowedFd<'_> {
        match self {
            Way::Directly(program) => program.as_fd(),
            Way::Wrapped(wrapper) => wrapper.program.as_fd(),
        }
    }
}

impl Trial {
    /// What came of it, and the mark afterwards.
    pub fn run(&self, program: BorrowedFd<'_>) -> Result<(TestRun, u32)> {
        let mut context =
            __sk_buff { ingress_ifindex: self.ingress_ifindex, ..__sk_buff::default() };
        let run = sys::test_run(program, &self.packet, &mut context, self.repeat)?;
        Ok((run, context.mark))
    }
}
