//! One run of a target: its seed, its end, what was counted and what was found.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::time::{Duration, Instant, SystemTime};

use crate::common::machine::repetitions;
use crate::common::random::Random;

/// Without the environment's: what `make test` runs is the same each time.
const SEED: u64 = 0xc11_4a2c;
const MOST_FINDINGS: usize = 50;

pub struct Session {
    target: &'static str,
    seed: u64,
    begin: Instant,
    limit: Limit,
    round: u64,
    frames: u64,
    tally: BTreeMap<String, u64>,
    findings: BTreeMap<String, String>,
}

enum Limit {
    Time(Duration),
    Frames(u64),
}

fn variable(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    let parsed = match text.strip_prefix("0x") {
        Some(hex) => u64::from_str_radix(hex, 16),
        None => text.parse(),
    };
    Some(parsed.unwrap_or_else(|error| panic!("{name}={text}: {error}")))
}

impl Session {
    /// Runs so many frames, or as long as `CILMARK_FUZZ_SECONDS` says.
    pub fn new(target: &'static str, frames: u64) -> Session {
        let seconds = variable("CILMARK_FUZZ_SECONDS");
        let clock = || SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("the time");
        let fresh = || if seconds.is_some() { clock().as_nanos() as u64 } else { SEED };
        let limit = match seconds {
            Some(seconds) => Limit::Time(Duration::from_secs(seconds)),
            None => Limit::Frames(repetitions(frames)),
        };
        Session {
            target,
            seed: variable("CILMARK_FUZZ_SEED").unwrap_or_else(fresh),
            begin: Instant::now(),
            limit,
            round: 0,
            frames: 0,
            tally: BTreeMap::new(),
            findings: BTreeMap::new(),
        }
    }

    /// The seed of the next round, if there is one: the first is the session's own.
    pub fn next_round(&mut self) -> Option<u64> {
        let is_over = match self.limit {
            Limit::Time(time) => self.begin.elapsed() >= time,
            Limit::Frames(frames) => self.frames >= frames,
        };
        if is_over || self.findings.len() >= MOST_FINDINGS {
            return None;
        }
        self.round += 1;
        Some(self.round_seed())
    }

    fn round_seed(&self) -> u64 {
        match self.round - 1 {
            0 => self.seed,
            later => Random(self.seed ^ later << 32).number(),
        }
    }

    /// Counts a frame, and what became of it.
    pub fn count(&mut self, what: &str) {
        self.frames += 1;
        match self.tally.get_mut(what) {
            Some(count) => *count += 1,
            None => drop(self.tally.insert(what.to_owned(), 1)),
        }
    }

    /// Notes what is wrong, once of each kind.
    pub fn found(&mut self, kind: String, details: impl FnOnce() -> String) {
        if self.findings.contains_key(&kind) {
            return;
        }
        let text = format!(
            "{}: {kind}\n  after {:.1} s, frame {}; CILMARK_FUZZ_SEED={:#x} repeats its round\n{}",
            self.target,
            self.begin.elapsed().as_secs_f64(),
            self.frames,
            self.round_seed(),
            details()
        );
        println!("{text}");
        self.findings.insert(kind, text);
    }

    /// Tells what ran, and fails if something was found.
    pub fn end(self) {
        let seconds = self.begin.elapsed().as_secs_f64();
        let mut text = format!(
            "{}: seed {:#x}, {} frames in {} rounds, {:.0} a second\n",
            self.target,
            self.seed,
            self.frames,
            self.round,
            self.frames as f64 / seconds
        );
        for (what, count) in &self.tally {
            writeln!(text, "  {count:>9} {what}").expect("write to a string");
        }
        println!("{text}");
        let kinds: Vec<&String> = self.findings.keys().collect();
        assert!(kinds.is_empty(), "{} findings, told above: {kinds:#?}", kinds.len());
    }
}
