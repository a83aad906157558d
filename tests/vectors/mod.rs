//! What other datapaths do with packets, replayed: scenarios in files, one a line of JSON. The files are
//! those of `CILMARK_VECTORS`, separated by colons, or those beside this file: what Cilium 1.19 did, and
//! scenarios of the test suites of Cilium, Calico, bpfilter and the Linux kernel.

mod format;
mod listed;
mod replay;

use std::fmt::{self, Write as _};
use std::io::Write as _;
use std::path::Path;
use std::{env, fs, ptr, thread};

use cilmark::model::policy::RuleNumber;

use crate::common::program::{Outcome, Verdict};
use crate::common::{Fixture, machine};
use format::{PacketStep, Vector};
use listed::{LISTED, Listed};
use replay::{Ran, Replay};

const OWN: &str = concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/tests/vectors/cilium-1.19.jsonl:",
    env!("CARGO_MANIFEST_DIR"),
    "/tests/vectors/peers.jsonl"
);

/// Replacing rules waits for the CPUs to let go of the old ones, and several worlds wait at once.
const PER_WORLD: usize = 16;
const AT_ONCE: usize = 8;

#[test]
fn packets_fare_as_with_others() {
    if !machine::is_root() {
        return;
    }
    let given = env::var("CILMARK_VECTORS").unwrap_or_else(|_| OWN.to_owned());
    let mut findings = Vec::new();
    for path in env::split_paths(&given) {
        let Some(of_file) = replay_file(&path) else { return };
        findings.extend(of_file);
    }
    let (listed, failed): (Vec<_>, Vec<_>) =
        findings.into_iter().partition(|finding| finding.listed.is_some());
    for finding in &listed {
        // Not eprintln!, which the harness keeps to itself when a test passes.
        writeln!(std::io::stderr(), "{finding}").expect("stderr");
    }
    let mut failures: String = failed.iter().map(|finding| format!("{finding}\n")).collect();
    let is_used = |entry| listed.iter().any(|finding| ptr::eq(finding.listed.unwrap(), entry));
    for unused in LISTED.iter().filter(|entry| given == OWN && !is_used(*entry)) {
        writeln!(failures, "LISTED IN VAIN: {}", unused.reason).expect("a string");
    }
    assert!(failures.is_empty(), "\n{failures}");
}

/// A step that went otherwise.
struct Finding {
    vector: String,
    step: usize,
    about: String,
    expected: String,
    got: String,
    /// Why it may; `None`: it may not.
    listed: Option<&'static Listed>,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Finding { vector, step, about, expected, got, listed } = self;
        match listed {
            Some(_) => write!(f, "LISTED {vector}")?,
            None => write!(f, "FAILED {vector}")?,
        }
        write!(f, ", step {step} ({about}): expected {expected}; got {got}")?;
        listed.map_or(Ok(()), |listed| write!(f, "; {}", listed.reason))
    }
}

fn read(path: &Path) -> Vec<Vector> {
    let failed = |error| panic!("read {}: {error}", path.display());
    let text = fs::read_to_string(path).unwrap_or_else(failed);
    let lines = text.lines().zip(1..).filter(|(line, _)| !line.trim().is_empty());
    let parse = |(line, number): (&str, usize)| {
        let wrong = |error| panic!("{}:{number}: {error}", path.display());
        serde_json::from_str(line).unwrap_or_else(wrong)
    };
    let vectors: Vec<Vector> = lines.map(parse).collect();
    assert!(!vectors.is_empty(), "{} is empty", path.display());
    vectors
}

/// `None`, loudly, if the test does not run as root.
fn replay_file(path: &Path) -> Option<Vec<Finding>> {
    let vectors = read(path);
    let of_one_world = |a: &Vector, b: &Vector| a.endpoint == b.endpoint && a.host == b.host;
    let worlds = vectors.chunk_by(of_one_world).flat_map(|vectors| vectors.chunks(PER_WORLD));
    let worlds: Vec<&[Vector]> = worlds.collect();
    let mut findings = Vec::new();
    for worlds in worlds.chunks(AT_ONCE) {
        thread::scope(|scope| {
            let spawn = |vectors| scope.spawn(move || replay_in_one_world(vectors));
            let threads: Vec<_> = worlds.iter().map(|vectors| spawn(vectors)).collect();
            for thread in threads {
                let found = thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
                findings.extend(found?);
            }
            Some(())
        })?;
    }
    Some(findings)
}

fn replay_in_one_world(vectors: &[Vector]) -> Option<Vec<Finding>> {
    let fixture = Fixture::new()?;
    let replay = Replay::new(&fixture, &vectors[0]);
    let mut findings = Vec::new();
    for vector in vectors {
        for ran in replay.run(vector) {
            let (expected, got) = differences(&ran);
            if expected.is_empty() {
                continue;
            }
            findings.push(Finding {
                vector: vector.name.clone(),
                step: ran.number,
                about: ran.step.about.clone(),
                expected: expected.join(", "),
                got: got.join(", "),
                listed: LISTED.iter().find(|listed| listed.covers(vector, ran.step, &ran.outcome)),
            });
        }
    }
    Some(findings)
}

/// What was to be, and what was, where they differ.
fn differences(ran: &Ran<'_>) -> (Vec<String>, Vec<String>) {
    let Ran { step, outcome, may_be_news, .. } = ran;
    let mut differences = (Vec::new(), Vec::new());
    let mut compare = |expected: String, got: String| {
        if expected != got {
            differences.0.push(expected);
            differences.1.push(got);
        }
    };
    let expect = &step.expect;
    let name = match &expect.drop_reason {
        Some(reason) => format!("{} {reason}", expect.verdict),
        None => expect.verdict.clone(),
    };
    compare(name, verdict(outcome));
    if let Some(mark) = &expect.mark {
        compare(format!("mark {:#010x}", mark.number()), format!("mark {:#010x}", outcome.mark));
    }
    match expect.remote_identity {
        Some(identity) => {
            let told = told_identity(step, outcome);
            let got = told.map_or("no verdict event".to_owned(), |told| format!("{told}"));
            compare(format!("remote identity {identity}"), format!("remote identity {got}"));
        }
        // Every drop is reported, and every verdict that is news: Cilium leaves some out.
        None if outcome.verdict == Verdict::Drop || *may_be_news => {}
        None => compare("no rule asked".to_owned(), asked_rule(outcome)),
    }
    differences
}

fn verdict(outcome: &Outcome) -> String {
    match outcome.verdict {
        Verdict::Pass => "forward".to_owned(),
        Verdict::Redirect => "redirect".to_owned(),
        Verdict::Drop => format!("drop {}", outcome.event().reason.0),
    }
}

/// Who the datapath says is at the other end, where it reports a verdict.
fn told_identity(step: &PacketStep, outcome: &Outcome) -> Option<u32> {
    let event = match outcome.verdict {
        Verdict::Drop => outcome.event.as_ref(),
        _ => outcome.policy_verdict.as_ref(),
    };
    let is_ingress = step.program.is_ingress();
    event.map(|event| if is_ingress { event.source_identity } else { event.destination_identity })
}

/// Whether a rule that somebody wrote was looked for: 0 says that none was found.
fn asked_rule(outcome: &Outcome) -> String {
    match outcome.policy_verdict.as_ref().map(|event| event.rule) {
        Some(rule) if rule == 0 || rule >= RuleNumber::FIRST.0 => format!("rule {rule} asked"),
        _ => "no rule asked".to_owned(),
    }
}
