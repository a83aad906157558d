//! Thousands of lines of the ipcache change each second, of addresses that no flow has: what an established
//! packet of any flow costs meanwhile, beside what it costs at rest. Commands change lines one by one, cilmark-sync those of
//! clusters ten times a second.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use cilmark::kernel::abi::cm_config;
use cilmark::kernel::sys::Hook;
use cilmark::model::endpoint::Role;
use cilmark::model::enforcement::Mode;
use cilmark::program::load::{self, Sizes};
use cilmark::state::conntrack::Conntrack;
use cilmark::state::ipcache::Ipcache;
use cilmark::state::pin::Root;
use cilmark::state::registry::Inherited;

use crate::packet::case::{ACTION_PASS, Trial};
use crate::packet::paths::{
    FROM_CONTAINER, Flags, Kind, OPEN_PORT, OTHER_PORT, Pair, packet, peer, rules,
};
use crate::packet::vary::{Vary, Wrapper};
use crate::packet::{bare, keys};
use crate::peers::measures::{pin, processors};
use crate::samples::Samples;

const FLOWS: u32 = 10_000;
const ROUNDS: usize = 15;
const MOST_ROUNDS: usize = 4 * ROUNDS;
/// A tenth of a second.
const PACKETS: u32 = 1_000_000;
const CHANGES: f64 = 5_000.0; // a second
const FLUSHES: f64 = 10.0; // of cilmark-sync, a second
/// Of which the lines are that change.
const ADDRESSES: u32 = 4096;
const RULES: u32 = 100;

/// Adds to the samples.
pub fn measure(root: &Root, samples: &mut Samples) -> Result<()> {
    let processors = processors()?;
    let [here, elsewhere, ..] = processors[..] else { bail!("this takes two processors") };
    let root = Root::new(root.path().with_file_name("cilmark-unconcerned"));
    root.prepare(false)?;
    let rules = rules(RULES)?;
    let kind = Kind {
        mode: Mode::Enforce,
        rules: Some(&rules),
        stamp_remote: false,
        sizes: Sizes::default(),
    };
    let pair = Pair::load(&root, 1, &kind)?;
    let empty = empty_program(&root)?;
    let changes = Changes::default();
    thread::scope(|scope| {
        let changer = scope.spawn(|| {
            pin(elsewhere)?;
            changes.make(&root)
        });
        let measurer = scope.spawn(|| {
            pin(here)?;
            for family in [4, 6] {
                let flows = Flows::establish(&root, &pair, &empty, family)?;
                eprintln!("{FLOWS} flows of IPv{family} while lines of others change");
                for by in [By::Commands, By::Clusters] {
                    flows.measure(family, by, &changes, samples)?;
                }
            }
            Ok(())
        });
        let measured = measurer.join().expect("no panic in who measures");
        changes.are_over.store(true, Ordering::Relaxed);
        changer.join().expect("no panic in who changes").and(measured)
    })
}

fn empty_program(root: &Root) -> Result<OwnedFd> {
    let config = cm_config::default();
    let (sizes, inherited) = (Sizes::default(), Inherited::default());
    let loaded = load::load(root, Role::Container, &config, &sizes, &inherited)?;
    Ok(loaded.program(Hook::Ingress).try_clone_to_owned()?)
}

/// Who makes changes.
#[derive(Clone, Copy, PartialEq)]
enum By {
    Commands,
    Clusters,
}

impl By {
    /// So many packets take as long as several flushes.
    fn measurements(self) -> u32 {
        match self {
            By::Commands => 1,
            By::Clusters => 20,
        }
    }

    fn subject(self) -> &'static str {
        match self {
            By::Commands => "while 5000 lines a second change",
            By::Clusters => "while 5000 lines a second of clusters change",
        }
    }
}

/// Changes of the ipcache, on demand.
#[derive(Default)]
struct Changes {
    are_of_clusters: AtomicBool,
    are_wanted: AtomicBool,
    are_over: AtomicBool,
    count: AtomicU64,
}

impl Changes {
    /// At an even pace: those that are due, every millisecond.
    fn make(&self, root: &Root) -> Result<()> {
        let ipcache = Ipcache::open(root)?.context("the ipcache is not pinned")?;
        let (mut number, mut due, mut last) = (0_u32, 0.0, Instant::now());
        while !self.are_over.load(Ordering::Relaxed) {
            thread::sleep(Duration::from_millis(1));
            let passed = last.elapsed().as_secs_f64();
            last = Instant::now();
            due =
                if self.are_wanted.load(Ordering::Relaxed) { due + CHANGES * passed } else { 0.0 };
            let is_flush = self.are_of_clusters.load(Ordering::Relaxed);
            let least = if is_flush { CHANGES / FLUSHES } else { 1.0 };
            let mut flush = Vec::new();
            while due >= 1.0 && (due >= least || !flush.is_empty()) {
                let family = if number % 2 == 0 { 4 } else { 6 };
                // What a command has set is no cluster's.
                let first = if is_flush { FLOWS + ADDRESSES } else { FLOWS };
                let address = keys::address(family, first + number % ADDRESSES).into();
                let identity = keys::identity((number + number / ADDRESSES) % 64);
                match is_flush {
                    true => flush.push((address, Some(identity))),
                    false => ipcache.set(&address, identity)?,
                }
                self.count.fetch_add(1, Ordering::Relaxed);
                number = number.wrapping_add(1);
                due -= 1.0;
            }
            if !flush.is_empty() {
                ipcache.apply_cluster(&flush)?;
            }
        }
        Ok(())
    }

    /// What comes of it while they are made, and how many a second there have been.
    fn during<T>(&self, work: impl FnOnce() -> Result<T>) -> Result<(T, f64)> {
        self.are_wanted.store(true, Ordering::Relaxed);
        let (before, start) = (self.count.load(Ordering::Relaxed), Instant::now());
        let done = work();
        let made = self.count.load(Ordering::Relaxed) - before;
        self.are_wanted.store(false, Ordering::Relaxed);
        Ok((done?, made as f64 / start.elapsed().as_secs_f64()))
    }
}

/// Established flows to as many peers, of which each packet is of any one.
struct Flows {
    trial: Trial,
    program: Wrapper,
    empty: Wrapper,
}

impl Flows {
    fn establish(root: &Root, pair: &Pair, empty: &OwnedFd, family: u8) -> Result<Flows> {
        let path = FROM_CONTAINER;
        let vary = Vary {
            family,
            from_remote: false,
            keys: FLOWS,
            in_order: false,
            new_flows: false,
            rules: 0,
            first_port: 0,
        };
        let ends = path.ends(family, peer(family));
        let trial = Trial {
            packet: packet(ends, (OTHER_PORT, OPEN_PORT), Flags::Ack)?,
            ingress_ifindex: path.ingress_ifindex,
            action: ACTION_PASS,
            mark: None,
            repeat: PACKETS,
        };
        bare::fill(pair.program(&path), &trial, &vary)?;
        let flows = Conntrack::open(root, None)?.context("there is no conntrack")?.flows()?;
        let of_family = flows.iter().filter(|flow| flow.remote.is_ipv4() == (family == 4)).count();
        ensure!(of_family == FLOWS as usize, "conntrack has {of_family} flows of IPv{family}");
        let program = vary.wrap(pair.program(&path))?;
        Ok(Flows { trial, program, empty: vary.wrap(empty.as_fd())? })
    }

    fn measure(&self, family: u8, by: By, changes: &Changes, samples: &mut Samples) -> Result<()> {
        const MEASURE: &str = "established packet";
        let mut rounds = 0;
        changes.are_of_clusters.store(by == By::Clusters, Ordering::Relaxed);
        for _ in 0..MOST_ROUNDS {
            let at_rest = self.cost()?;
            let (meanwhile, rate) = changes.during(|| self.costs(by.measurements()))?;
            // The machine had other work to do.
            if rate < 0.9 * CHANGES {
                continue;
            }
            let size = FLOWS.into();
            samples.add(MEASURE, &format!("IPv{family}, at rest"), size, "ns", at_rest);
            let subject = format!("IPv{family}, {}", by.subject());
            samples.add(MEASURE, &subject, size, "ns", meanwhile);
            rounds += 1;
            if rounds == ROUNDS {
                return Ok(());
            }
        }
        bail!("in {rounds} rounds of {MOST_ROUNDS} only the lines changed as fast as they should")
    }

    /// The mean of several.
    fn costs(&self, times: u32) -> Result<f64> {
        let sum: f64 = (0..times).map(|_| self.cost()).sum::<Result<f64>>()?;
        Ok(sum / f64::from(times))
    }

    /// ns of a packet, over those of an empty program.
    fn cost(&self) -> Result<f64> {
        let empty = Trial { repeat: PACKETS / 10, ..self.trial.clone() };
        let (floor, _) = empty.run(self.empty.program.as_fd())?;
        let (run, _) = self.trial.run(self.program.program.as_fd())?;
        ensure!(run.action == ACTION_PASS, "a packet of an established flow gets {}", run.action);
        Ok(run.duration.as_nanos() as f64 - floor.duration.as_nanos() as f64)
    }
}
