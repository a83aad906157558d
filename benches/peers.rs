//! cilmark beside what a user would pick instead: the same two workloads, the same router between
//! them, the same policy, the same traffic.
//!
//! Every setup has namespaces of its own, and every round goes over all of them, each time in another
//! order. So what changes on the machine meanwhile hits all alike, and what is compared
//! with `nothing` or nftables is compared within each round.

pub mod measures;
mod report;
mod setups;
mod statistics;
mod topology;

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::unistd::gettid;

use crate::figures::Figure;
use crate::random::Random;
use crate::world::{private_root, run};
use measures::{connections, latency, packets, pin, processors, throughput};
use report::Samples;
use setups::Setup;
use topology::Topology;

/// Of the order within each round, the same in every run.
const SEED: u64 = 7;
const SIZES: [u32; 2] = [10, 10_000];

/// Names of what is sampled by one kind of packets: a rate, and time of the processor.
struct Packets {
    family: usize,
    many: bool,
    rounds: usize,
    names: [&'static str; 2],
}

const PACKETS: [Packets; 3] = [
    Packets { family: 0, many: false, rounds: 60, names: ["packet rate", "cpu per packet"] },
    Packets {
        family: 1,
        many: false,
        rounds: 40,
        names: ["packet rate, IPv6", "cpu per packet, IPv6"],
    },
    Packets {
        family: 0,
        many: true,
        rounds: 40,
        names: ["packet rate, 500 flows", "cpu per packet, 500 flows"],
    },
];

/// How the devices hand on what one TCP connection sends: whole, in packets of the MTU, or in packets
/// that the receiving devices put together again. What ethtool says stays until it says otherwise.
/// Behind it the number of rounds: what goes whole spreads most.
const TCP: [(&str, &str, usize); 3] = [
    ("tcp throughput", "tso on", 28),
    ("tcp throughput without GSO", "tso off gso off", 16),
    ("tcp throughput with GRO", "gro on", 12),
];

/// How long a sample of anything takes: many short ones say more than a few long ones, since the
/// machine seldom disturbs as much as half of them.
const A_MOMENT: Duration = Duration::from_millis(40);
/// Of latency and connections.
const ROUNDS: usize = 24;
/// TCP begins slowly.
const TCP_MOMENT: Duration = Duration::from_millis(100);

/// Measures, prints, and gives the figures.
pub fn measure() -> Result<Vec<Figure>> {
    let processors = processors()?;
    let &[first, second, ..] = processors.as_slice() else {
        bail!("the benchmark needs two processors");
    };
    let started = Instant::now();
    let _root = private_root()?;
    raise_limit()?;
    say(started, "set up");
    let topologies = topologies()?;
    pin(first)?;
    be_first();

    let mut all = Vec::new();
    for kind in &PACKETS {
        say(started, kind.names[0]);
        all.extend(rates(&topologies, kind)?);
    }
    say(started, "latency");
    all.extend(rounds(
        &topologies,
        ROUNDS,
        [("latency p50", "us"), ("latency p99", "us")],
        |topology| latency(topology, A_MOMENT),
    )?);
    say(started, "connections");
    all.extend(rounds(&topologies, ROUNDS, [("connections", "1000/s")], |topology| {
        Ok([connections(topology, A_MOMENT)?])
    })?);
    for (name, offloads, tcp_rounds) in TCP {
        say(started, name);
        offload(&topologies, offloads)?;
        let processors = [first, second];
        all.extend(rounds(&topologies, tcp_rounds, [(name, "Gbit/s")], |topology| {
            Ok([throughput(topology, TCP_MOMENT, processors)?])
        })?);
    }
    say(started, "done");
    let figures = report::figures(&topologies, &all);
    report::print(&figures)?;
    Ok(figures)
}

/// The phase that begins, on stderr.
fn say(started: Instant, phase: &str) {
    eprintln!("peers: {:3} s: {phase}", started.elapsed().as_secs());
}

/// Many flows are many sockets.
fn raise_limit() -> Result<()> {
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, most, most).context("raise the limit of open files")
}

/// Has this thread, and those that it starts from now on, run before all that is not of real time: what
/// else the machine does widens the spread less. Without it the figures are right too, so a
/// machine that refuses is not an error.
fn be_first() {
    let own = gettid().to_string();
    let mut chrt = Command::new("chrt");
    chrt.args(["-f", "-p", "1", &own]).stdout(Stdio::null()).stderr(Stdio::null());
    if !chrt.status().is_ok_and(|status| status.success()) {
        eprintln!("peers: not run at real-time priority: chrt could not give it");
    }
}

/// Leaves the processor to others after a sample, before the kernel takes it from a thread of real
/// time that never does, amid a sample.
fn rest(sample: Duration) {
    std::thread::sleep(sample / 10);
}

/// All setups with all sizes. A setup of others that this machine cannot have is named, and left out.
fn topologies() -> Result<Vec<Topology>> {
    let mut topologies = Vec::new();
    let setups = SIZES.iter().flat_map(|&size| Setup::ALL.map(|setup| (setup, size)));
    for (number, (setup, size)) in setups.enumerate() {
        match Topology::new(number, setup, size) {
            Ok(topology) => topologies.push(topology),
            Err(error) if setup.is_of_others() => {
                let error = format!("{error:#}");
                let error = error.lines().next().unwrap_or_default();
                eprintln!("peers: not measured: {}: {error}", setup.name());
            }
            Err(error) => return Err(error),
        }
    }
    Ok(topologies)
}

/// Rates and times of one kind of packets. The first round warms up.
fn rates(topologies: &[Topology], kind: &Packets) -> Result<Vec<Samples>> {
    let streams = topologies.iter().map(|topology| topology.stream(kind.family, kind.many));
    let mut streams = streams.collect::<Result<Vec<_>>>()?;
    let mut taken = vec![Vec::new(); topologies.len()];
    let mut random = Random::new(SEED);
    let mut lossy = 0;
    for round in 0..=kind.rounds {
        for number in random.order(topologies.len()) {
            let (sample, arrived) = packets(&mut streams[number], A_MOMENT)
                .with_context(|| format!("{}: {}", kind.names[0], topologies[number].name()))?;
            rest(A_MOMENT);
            if round > 0 {
                taken[number].push(sample);
                lossy += usize::from(arrived < 0.9);
            }
        }
    }
    if lossy > 0 {
        eprintln!("peers: in {lossy} samples more than a tenth of the packets was lost");
    }
    Ok(transpose([(kind.names[0], "1000/s"), (kind.names[1], "ns")], &taken))
}

/// Samples of each topology in rounds. The first round warms up.
fn rounds<const N: usize>(
    topologies: &[Topology],
    rounds: usize,
    measures: [(&'static str, &'static str); N],
    measure: impl Fn(&Topology) -> Result<[f64; N]>,
) -> Result<Vec<Samples>> {
    let mut taken = vec![Vec::new(); topologies.len()];
    let mut random = Random::new(SEED);
    for round in 0..=rounds {
        for number in random.order(topologies.len()) {
            let sample = measure(&topologies[number])
                .with_context(|| format!("{}: {}", measures[0].0, topologies[number].name()))?;
            rest(A_MOMENT);
            if round > 0 {
                taken[number].push(sample);
            }
        }
    }
    Ok(transpose(measures, &taken))
}

/// From samples of several measures at once to the samples of each.
fn transpose<const N: usize>(
    measures: [(&'static str, &'static str); N],
    taken: &[Vec<[f64; N]>],
) -> Vec<Samples> {
    let measures = measures.into_iter().enumerate();
    let of = |place: usize| {
        taken.iter().map(|topology| topology.iter().map(|sample| sample[place]).collect()).collect()
    };
    measures.map(|(place, (name, unit))| Samples { name, unit, topologies: of(place) }).collect()
}

/// Has every veth offload so, by ethtool; what was said before stays.
fn offload(topologies: &[Topology], offloads: &str) -> Result<()> {
    let ends = topologies.iter().flat_map(|topology| {
        [
            (&topology.a, "eth0"),
            (&topology.b, "eth0"),
            (&topology.router, "va"),
            (&topology.router, "vb"),
        ]
    });
    let lines = ends.map(|(netns, device)| {
        format!("ip netns exec {netns} ethtool -K {device} {offloads} >/dev/null\n")
    });
    run(&lines.collect::<String>())
}
