//! Ten thousand TCP connections a second from one workload to another, half of them over IPv6, while
//! the programs and the rules of both are replaced twice a second.
//!
//! Each connection has a handshake, a byte each way and an orderly end, and makes two entries of
//! conntrack, one of each workload. The maps hold less than a second's connections, so that they are
//! full nearly all the time.
//!
//! After that come floods, of single packets that programs are run on.

mod flood;
mod generator;

use std::fs;
use std::process::{Command, Stdio};
use std::sync::atomic::Ordering::Relaxed;
use std::thread::{self, ScopedJoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail, ensure};
use cilmark::kernel::abi::{cm_counter, cm_reason};
use cilmark::kernel::netns;
use cilmark::model::wire::{CM_COUNTER_DISPLACED_OVER, CM_FLOW_CLASSES};
use cilmark::state::conntrack::Conntrack;
use cilmark::state::counters::{self, Counted};
use cilmark::state::pin::Root;

use crate::figures::{self, Figure};
use crate::world::{private_root, run};
use generator::{Generator, Progress};

/// A little more than ten thousand: a batch that ends just after its second counts in the next one.
const PER_SECOND: f64 = 10_100.0;
const CT_ENTRIES: u32 = 8192;
const PORT: u16 = 5001;
/// Of a replacement of one workload's programs, and of one change of its rules.
const EVERY: Duration = Duration::from_millis(500);
const RED: &str = "red --id 1234 --ip 10.1.0.10 fd00:1::10";
const BLUE: &str = "blue --id 199472 --ip 10.2.0.10 fd00:2::10";
const DESTINATIONS: [&str; 2] = ["10.2.0.10", "fd00:2::10"];

/// What was read once a second.
#[derive(Default)]
struct Samples {
    rates: Vec<f64>,
    /// Of `cm_flows4` and `cm_flows6`.
    entries: [Vec<f64>; 2],
}

/// Measures, prints, and gives the figures; fails if a connection was lost.
pub fn measure(seconds: u64) -> Result<Vec<Figure>> {
    let root = private_root()?;
    prepare()?;
    let before = Counters::read(&root)?;
    let progress = Progress::default();
    let (samples, replaced) = thread::scope(|scope| {
        let generators = DESTINATIONS.map(|to| scope.spawn(|| generator(to, &progress)?.run()));
        let replacer = scope.spawn(|| replace(&progress));
        let samples = sample(&root, &progress, seconds);
        progress.stop.store(true, Relaxed);
        generators.into_iter().try_for_each(joined)?;
        anyhow::Ok((samples?, joined(replacer)?))
    })?;
    let counted = Counters::read(&root)?.since(&before);
    let mut figures = figures(&samples, &progress, replaced, &counted);
    figures.extend(flood::measure()?);
    figures::print(&figures)?;
    judge(&progress, &counted)?;
    flood::judge(&figures)?;
    Ok(figures)
}

fn joined<T>(thread: ScopedJoinHandle<Result<T>>) -> Result<T> {
    thread.join().map_err(|_| anyhow!("a thread has panicked"))?
}

fn generator<'a>(to: &str, progress: &'a Progress) -> Result<Generator<'a>> {
    let per_second = PER_SECOND / DESTINATIONS.len() as f64;
    let address = to.parse()?;
    Ok(Generator { from: "red", to: "blue", address, port: PORT, per_second, progress })
}

/// Two workloads, a router between them, and their rules.
fn prepare() -> Result<()> {
    // A router whose own link-local address may still be a duplicate asks for no neighbour.
    run("sysctl -qw net.ipv6.conf.default.accept_dad=0")?;
    for (name, number) in [("red", 1), ("blue", 2)] {
        workload(name, number)?;
    }
    // A client's end that waits for what may be late keeps its port from the next; and a connection
    // that is lost is to be known as such before the measurement is over.
    run("
        sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1
        ip netns exec red sysctl -qw net.ipv4.tcp_max_tw_buckets=0 \\
            net.ipv4.tcp_syn_retries=3 net.ipv4.ip_local_port_range='1024 65535'")?;
    for workload in [RED, BLUE] {
        attach(workload)?;
    }
    cilmark(&format!("policy add red allow egress to 199472 tcp/{PORT}"))?;
    cilmark(&format!("policy add blue allow ingress from 1234 tcp/{PORT}"))
}

fn workload(name: &str, number: u8) -> Result<()> {
    run(&format!(
        "ip netns add {name}
         ip link add {name} type veth peer name eth0 netns {name}
         ip addr add 10.{number}.0.1/24 dev {name}
         ip addr add fd00:{number}::1/64 dev {name} nodad
         ip link set {name} up
         ip -n {name} addr add 10.{number}.0.10/24 dev eth0
         ip -n {name} addr add fd00:{number}::10/64 dev eth0 nodad
         ip -n {name} link set eth0 up
         ip -n {name} route add default via 10.{number}.0.1
         ip -n {name} -6 route add default via fd00:{number}::1
         # Until the kernel has noticed the carrier, both ends lose what they send.
         timeout 10 sh -c 'until ip -br link show dev {name} | grep -q \" UP \"; do :; done'
         timeout 10 sh -c 'until ip -n {name} -br link show dev eth0 | grep -q \" UP \"; do :; done'"
    ))
}

fn attach(workload: &str) -> Result<()> {
    cilmark(&format!("attach {workload} --policy enforce --ct-entries {CT_ENTRIES}"))
}

/// Runs the command with arguments that are separated by spaces.
fn cilmark(arguments: &str) -> Result<()> {
    let output = Command::new(env!("CARGO_BIN_EXE_cilmark"))
        .args(arguments.split_whitespace())
        .stdout(Stdio::null())
        .output()
        .context("run cilmark")?;
    let stderr = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "cilmark {arguments}: {stderr}");
    Ok(())
}

/// Attaches again, and adds or removes a rule that is not about the connections, of one workload and
/// the other by turns. How often it came to that.
fn replace(progress: &Progress) -> Result<usize> {
    let (started, mut times) = (Instant::now(), 0);
    while !progress.stop.load(Relaxed) {
        let (workload, device) = [(RED, "red"), (BLUE, "blue")][times % 2];
        let change = ["add", "del"][times / 2 % 2];
        attach(workload)?;
        cilmark(&format!("policy {change} {device} deny ingress from 300 tcp/80"))?;
        times += 1;
        thread::sleep((EVERY * times as u32).saturating_sub(started.elapsed()));
    }
    Ok(times)
}

fn sample(root: &Root, progress: &Progress, seconds: u64) -> Result<Samples> {
    let mut samples = Samples::default();
    let started = Instant::now();
    let mut last = (Duration::ZERO, 0);
    for second in 1..=seconds {
        thread::sleep(Duration::from_secs(second).saturating_sub(started.elapsed()));
        let now = (started.elapsed(), progress.served.load(Relaxed));
        samples.rates.push((now.1 - last.1) as f64 / (now.0 - last.0).as_secs_f64());
        last = now;
        for (samples, entries) in samples.entries.iter_mut().zip(entries(root)?) {
            samples.push(entries as f64);
        }
    }
    Ok(samples)
}

/// How many flows `cm_flows4` and `cm_flows6` have.
fn entries(root: &Root) -> Result<[u64; 2]> {
    let conntrack = Conntrack::open(root, None)?.context("there is no conntrack")?;
    Ok(conntrack.usage()?.map(|usage| usage.entries()))
}

/// What else is counted.
struct Counters {
    displaced: u64,
    not_created: u64,
    dropped: u64,
    resent: u64,
}

impl Counters {
    fn read(root: &Root) -> Result<Counters> {
        let metrics = counters::read(root)?;
        let sum = |wanted: &dyn Fn(Counted) -> bool| -> u64 {
            let lines = metrics.iter().filter(|line| wanted(line.of));
            lines.map(|line| line.sum.packets).sum()
        };
        let displaced = CM_COUNTER_DISPLACED_OVER..CM_COUNTER_DISPLACED_OVER + CM_FLOW_CLASSES;
        let failed = Counted::Counter(cm_counter::CM_COUNTER_FLOW_FAILED);
        let forwarded = Counted::Fate(cm_reason::CM_FORWARDED);
        Ok(Counters {
            displaced: sum(&|of| displaced.contains(&of.number())),
            not_created: sum(&|of| of == failed),
            dropped: sum(&|of| matches!(of, Counted::Fate(_)) && of != forwarded),
            resent: resent("red")? + resent("blue")?,
        })
    }

    fn since(&self, before: &Counters) -> Counters {
        Counters {
            displaced: self.displaced - before.displaced,
            not_created: self.not_created - before.not_created,
            dropped: self.dropped - before.dropped,
            resent: self.resent - before.resent,
        }
    }
}

/// How many TCP segments a namespace has sent again.
fn resent(namespace: &str) -> Result<u64> {
    let read = || -> Result<String> {
        netns::enter(namespace)?;
        fs::read_to_string("/proc/thread-self/net/snmp").context("read /proc/thread-self/net/snmp")
    };
    let text = thread::scope(|scope| joined(scope.spawn(read)))?;
    let mut lines = text.lines().filter_map(|line| line.strip_prefix("Tcp:"));
    let (Some(names), Some(values)) = (lines.next(), lines.next()) else {
        bail!("/proc/net/snmp has no lines about TCP");
    };
    let mut fields = names.split_whitespace().zip(values.split_whitespace());
    let (_, value) = fields.find(|(name, _)| *name == "RetransSegs").context("no RetransSegs")?;
    value.parse().with_context(|| format!("RetransSegs is {value}"))
}

fn figures(
    samples: &Samples,
    progress: &Progress,
    replaced: usize,
    counted: &Counters,
) -> Vec<Figure> {
    let size = u64::from(CT_ENTRIES);
    let count =
        |measure, unit, count: u64| Figure::of(measure, "cilmark", size, unit, &[count as f64]);
    let mut figures = vec![
        Figure::of("rate", "cilmark", size, "connections/s", &samples.rates),
        count("opened", "connections", progress.served.load(Relaxed)),
        count("lost", "connections", progress.lost.load(Relaxed)),
        count("dropped", "packets", counted.dropped),
        count("sent again", "segments", counted.resent),
        count("programs replaced", "times", replaced as u64),
        count("rules replaced", "times", replaced as u64),
        count("conntrack entries displaced", "entries", counted.displaced),
        count("conntrack entries not made", "entries", counted.not_created),
    ];
    for (map, entries) in ["cm_flows4", "cm_flows6"].into_iter().zip(&samples.entries) {
        let most = entries.iter().copied().fold(0.0, f64::max);
        figures.push(Figure::of("conntrack entries", map, size, "entries", entries));
        figures.push(Figure::of("conntrack entries, most", map, size, "entries", &[most]));
    }
    figures
}

/// What must not be.
fn judge(progress: &Progress, counted: &Counters) -> Result<()> {
    let lost = progress.lost.load(Relaxed);
    let first = progress.first_loss.lock().expect("no holder has panicked").take();
    ensure!(lost == 0, "{lost} connections were lost; the first: {}", first.unwrap_or_default());
    ensure!(counted.dropped == 0, "cilmark dropped {} packets", counted.dropped);
    Ok(())
}
