//! What a store held, by revision, and what hosts had of it in their ipcaches, at each moment; and whether the one comes of
//! the other.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use cilmark::state::pin::Root;
use ipnet::IpNet;
use serde_json::Value;

use super::checker::{self, Range};
use super::client::{self, ETCDCTL};
use super::host::{Host, Lines, lines};
use super::store::Store;
use crate::common::process::Running;
use crate::common::world::wait_for;

/// How often ipcaches are read.
const PERIOD: Duration = Duration::from_millis(2);
/// How long `etcdctl watch` may say nothing.
const SILENCE: Duration = Duration::from_secs(3);
/// The key whose coming tells that all before it has come.
const END: &str = "the end of the history";

/// What an address had from a moment on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Step {
    pub at: Instant,
    pub prefix: IpNet,
    /// `None`: no number.
    pub number: Option<u32>,
}

/// The addresses of a store, from now on.
pub struct History {
    steps: Arc<Mutex<Vec<Step>>>,
    is_over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl History {
    /// Follows a store from its first revision on.
    pub fn of(store: &Store<'_>) -> History {
        let range = Range::of(store.number, 255);
        let (steps, is_over) = (Arc::default(), Arc::default());
        let watch = Watch::of(store);
        let follow = {
            let (steps, is_over) = (Arc::clone(&steps), Arc::clone(&is_over));
            move || follow(watch, range, &steps, &is_over)
        };
        History { steps, is_over, thread: Some(thread::spawn(follow)) }
    }

    /// All until now.
    pub fn end(mut self, store: &Store<'_>) -> Vec<Step> {
        store.put(END, "");
        let thread = self.thread.take().expect("a thread");
        wait_for("the end of the history", || thread.is_finished());
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        std::mem::take(&mut *self.steps.lock().expect("the steps"))
    }

    /// What has come until now: of a store that is gone.
    pub fn steps(self) -> Vec<Step> {
        std::mem::take(&mut *self.steps.lock().expect("the steps"))
    }
}

impl Drop for History {
    fn drop(&mut self) {
        self.is_over.store(true, Relaxed);
    }
}

/// The addresses that a store says, as a reader takes them.
pub fn said(store: &Store<'_>, range: &Range) -> Lines {
    let entries = store.list(PREFIX).into_iter();
    let accepted = entries.filter_map(|entry| {
        checker::address(entry.key.strip_prefix(PREFIX)?, &entry.value, range).ok()
    });
    accepted.collect()
}

const PREFIX: &str = "cilium/state/ip/v1/default/";

/// `etcdctl watch`, again and again: it ends when its member has no leader, waits for one that is cut off, and takes
/// certificates but once.
struct Watch {
    environment: Vec<(OsString, OsString)>,
    running: Running,
    /// The last revision that it has told.
    revision: i64,
    heard: Instant,
}

impl Watch {
    fn of(store: &Store<'_>) -> Watch {
        let command = store.etcdctl_of(&store.all());
        let environment = command.get_envs();
        let environment: Vec<(OsString, OsString)> = environment
            .filter_map(|(name, value)| Some((name.to_owned(), value?.to_owned())))
            .collect();
        let running = Watch::start(&environment, 1);
        Watch { environment, running, revision: 0, heard: Instant::now() }
    }

    fn start(environment: &[(OsString, OsString)], revision: i64) -> Running {
        let mut command = Command::new(ETCDCTL);
        command.env_clear().envs(environment.iter().cloned());
        command.args(["-w", "json", "watch", "--prefix", &format!("--rev={revision}"), ""]);
        Running::start(&mut command)
    }

    /// What it says next, if it does soon.
    fn next(&mut self) -> Option<Value> {
        let Some(line) = self.running.next_line(Duration::from_millis(100)) else {
            if self.running.ended().is_some() || self.heard.elapsed() > SILENCE {
                self.running = Watch::start(&self.environment, self.revision + 1);
                self.heard = Instant::now();
            }
            return None;
        };
        self.heard = Instant::now();
        let answer: Value = serde_json::from_str(&line).expect("JSON of etcdctl");
        assert!(answer["CompactRevision"].as_i64().unwrap_or(0) == 0, "the history is compacted");
        let revisions = answer["Events"].as_array().into_iter().flatten();
        let revisions = revisions.filter_map(|event| event["kv"]["mod_revision"].as_i64());
        self.revision = revisions.max().unwrap_or(0).max(self.revision);
        Some(answer)
    }
}

/// Reads what it says.
fn follow(mut watch: Watch, range: Range, steps: &Mutex<Vec<Step>>, is_over: &AtomicBool) {
    while !is_over.load(Relaxed) {
        let Some(answer) = watch.next() else { continue };
        let at = Instant::now();
        for event in answer["Events"].as_array().into_iter().flatten() {
            let entry = client::entry(&event["kv"]);
            if entry.key == END {
                return;
            }
            let Some(rest) = entry.key.strip_prefix(PREFIX) else { continue };
            let is_put = event["type"].as_i64().unwrap_or(0) == 0;
            let said = checker::address(rest, &entry.value, &range).ok().filter(|_| is_put);
            let prefix = match said {
                Some((prefix, _)) => Some(prefix),
                // A key that counts says its prefix by itself.
                None => rest
                    .parse()
                    .ok()
                    .or_else(|| Some(IpNet::from(rest.parse::<std::net::IpAddr>().ok()?))),
            };
            let number = said.map(|(_, number)| number);
            let step = prefix.map(|prefix| Step { at, prefix, number });
            steps.lock().expect("the steps").extend(step);
        }
    }
}

/// The lines of clusters of a host, from now on.
pub struct Observer {
    name: String,
    is_over: Arc<AtomicBool>,
    thread: Option<JoinHandle<Vec<Step>>>,
}

impl Observer {
    /// Observes a host.
    pub fn of(host: &Host<'_>) -> Observer {
        let is_over = Arc::new(AtomicBool::new(false));
        let root = host.root();
        let observe = {
            let is_over = Arc::clone(&is_over);
            move || observe(&root, &is_over)
        };
        Observer { name: host.name.clone(), is_over, thread: Some(thread::spawn(observe)) }
    }

    /// What it has seen until now.
    pub fn end(mut self) -> Observed {
        self.is_over.store(true, Relaxed);
        let thread = self.thread.take().expect("a thread");
        let steps = thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        Observed { host: self.name.clone(), steps, end: Instant::now() }
    }
}

impl Drop for Observer {
    fn drop(&mut self) {
        self.is_over.store(true, Relaxed);
    }
}

fn observe(root: &Root, is_over: &AtomicBool) -> Vec<Step> {
    let mut steps = Vec::new();
    let mut before = Lines::new();
    while !is_over.load(Relaxed) {
        let now = lines(root);
        let at = Instant::now();
        let gone = before.keys().filter(|prefix| !now.contains_key(prefix));
        steps.extend(gone.map(|prefix| Step { at, prefix: *prefix, number: None }));
        let changed = now.iter().filter(|(prefix, number)| before.get(prefix) != Some(number));
        let step =
            |(prefix, number): (&IpNet, &u32)| Step { at, prefix: *prefix, number: Some(*number) };
        steps.extend(changed.map(step));
        before = now;
        thread::sleep(PERIOD);
    }
    steps
}

/// What was seen of a host.
#[derive(Debug)]
pub struct Observed {
    pub host: String,
    pub steps: Vec<Step>,
    pub end: Instant,
}

impl Observed {
    /// What is wrong with it, given what the store held: a number that the store never held for the address, or no longer when
    /// the host had already seen what came after it; a line that went and still held.
    pub fn against(&self, history: &[Step]) -> Vec<String> {
        let held = by_prefix(history);
        let complaint = |(prefix, had): (&IpNet, &Vec<&Step>)| {
            let held = held.get(prefix).map_or(&[][..], Vec::as_slice);
            Some(format!("{}: {prefix} {}", self.host, order(held, had).err()?))
        };
        by_prefix(&self.steps).iter().filter_map(complaint).collect()
    }

    /// What it had later than `lag` after the store, for addresses that `is_meant` takes.
    pub fn late(
        &self,
        history: &[Step],
        lag: Duration,
        is_meant: impl Fn(&IpNet) -> bool,
    ) -> Vec<String> {
        let had = by_prefix(&self.steps);
        let complaint = |(prefix, held): (&IpNet, &Vec<&Step>)| {
            let had = had.get(prefix).map_or(&[][..], Vec::as_slice);
            let complaint = lateness(held, had, self.end, lag)?;
            Some(format!("{}: {prefix} {complaint}", self.host))
        };
        by_prefix(history)
            .iter()
            .filter(|(prefix, _)| is_meant(prefix))
            .filter_map(complaint)
            .collect()
    }
}

fn by_prefix(steps: &[Step]) -> BTreeMap<IpNet, Vec<&Step>> {
    let mut lists: BTreeMap<IpNet, Vec<&Step>> = BTreeMap::new();
    for step in steps {
        lists.entry(step.prefix).or_default().push(step);
    }
    lists
}

/// For each number that an address had, which one of the held ones it was at the earliest. Before the first of both it had
/// none.
fn order(held: &[&Step], had: &[&Step]) -> Result<Vec<usize>, String> {
    let held: Vec<Option<u32>> =
        [None].into_iter().chain(held.iter().map(|step| step.number)).collect();
    let mut reached = 0;
    let mut order = vec![reached];
    for step in had {
        let next = held[reached..].iter().position(|number| *number == step.number);
        reached += next.ok_or_else(|| match (step.number, held.contains(&step.number)) {
            (Some(number), true) => format!("was {number} again, of {held:?}"),
            (Some(number), false) => format!("was {number}, never in {held:?}"),
            (None, _) => format!("was lost, and holds: {held:?}"),
        })?;
        order.push(reached);
    }
    Ok(order)
}

/// The first number that an address still had too long after it was no longer held.
fn lateness(held: &[&Step], had: &[&Step], end: Instant, lag: Duration) -> Option<String> {
    let order = order(held, had).ok()?;
    let number = |at: usize| at.checked_sub(1).and_then(|at| held[at].number);
    // Held from when it came until what came behind it.
    let from = |at: usize| at.checked_sub(1).map(|at| held[at].at);
    let until = |at: usize| held.get(at).map(|next| next.at);
    order.iter().enumerate().find_map(|(nth, earliest)| {
        let had_until = had.get(nth).map_or(end, |next| next.at);
        let is_same = |at: &usize| {
            number(*at) == number(*earliest) && from(*at).is_none_or(|from| from <= had_until)
        };
        let same = (*earliest..=held.len()).filter(is_same);
        let excused = |at: usize| until(at).is_none_or(|until| until + lag >= had_until);
        let last = same.clone().next_back().and_then(until);
        match same.into_iter().any(excused) {
            true => None,
            false => Some(format!(
                "was {:?} for {:?} after that was over",
                number(*earliest),
                had_until - last.unwrap_or(had_until)
            )),
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn steps(start: Instant, list: &[(u64, Option<u32>)]) -> Vec<Step> {
        let prefix = "10.1.1.1/32".parse().expect("a prefix");
        let step = |(at, number): &(u64, Option<u32>)| Step {
            at: start + Duration::from_millis(*at),
            prefix,
            number: *number,
        };
        list.iter().map(step).collect()
    }

    fn observed(start: Instant, list: &[(u64, Option<u32>)]) -> Observed {
        let end = start + Duration::from_secs(10);
        Observed { host: "h1".to_owned(), steps: steps(start, list), end }
    }

    #[test]
    fn what_a_host_had_comes_of_what_the_store_held_in_its_order() {
        let start = Instant::now();
        let history = steps(start, &[(0, Some(5)), (100, Some(7)), (200, None), (300, Some(5))]);
        let complaints =
            |list: &[(u64, Option<u32>)]| observed(start, list).against(&history).concat();
        for right in [
            &[(10, Some(5)), (110, Some(7)), (210, None), (310, Some(5))][..],
            &[(110, Some(7)), (310, Some(5))],
            &[(310, Some(5))],
        ] {
            assert_eq!(complaints(right), "", "{right:?}");
        }
        let never = complaints(&[(10, Some(6))]);
        assert!(never.contains("never"), "{never}");
        let again = complaints(&[(110, Some(7)), (310, Some(5)), (320, Some(7))]);
        assert!(again.contains("again"), "{again}");
        let lost = complaints(&[(10, Some(5)), (310, None), (320, Some(5)), (330, None)]);
        assert!(lost.contains("lost"), "{lost}");
    }

    #[test]
    fn what_a_host_has_too_long_is_late() {
        let start = Instant::now();
        let lag = Duration::from_millis(50);
        let late = |held: &[(u64, Option<u32>)], had: &[(u64, Option<u32>)]| {
            let history = steps(start, held);
            observed(start, had).late(&history, lag, |_| true).len()
        };
        let held = [(100, Some(5)), (200, Some(7)), (300, None), (400, Some(5))];
        assert_eq!(late(&held, &[(120, Some(5)), (220, Some(7)), (320, None), (420, Some(5))]), 0);
        assert_eq!(late(&held, &[(90, Some(5)), (220, Some(7)), (340, None), (440, Some(5))]), 0);
        assert_eq!(late(&held, &[(120, Some(5)), (260, Some(7)), (320, None), (420, Some(5))]), 1);
        assert_eq!(late(&held, &[(120, Some(5)), (220, Some(7))]), 1);
        assert_eq!(late(&held, &[]), 1);
        assert_eq!(late(&held[..1], &[(120, Some(5))]), 0);
    }
}
