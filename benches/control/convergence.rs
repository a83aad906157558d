//! A rule goes while ten thousand flows live by it: from the moment when the command returns, none of
//! their packets passes any more, in either direction.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use cilmark::kernel::abi::__sk_buff;
use cilmark::kernel::hooks::HookKind;
use cilmark::kernel::sys::{self, Hook};
use cilmark::model::enforcement::Mode;
use cilmark::state::conntrack::Conntrack;
use cilmark::state::pin::Root;
use etherparse::PacketBuilder;

use crate::endpoints::{Wanted, attach_here, cilmark, detach_here};
use crate::samples::{Samples, timed};

const FLOWS: u16 = 10_000;
const ROUNDS: usize = 5;
const RULE: &str = "allow egress to any tcp/8080";
const ANOTHER_RULE: &str = "allow egress to any tcp/8081";
const PEER: [u8; 4] = [10, 99, 0, 1];
const FIRST_PORT: u16 = 20_000;
/// `TC_ACT_UNSPEC`.
const PASS: i32 = -1;

/// What the workload or its peer sends.
#[derive(Clone, Copy)]
enum Segment {
    Syn,
    SynAck,
    Ack,
    Reply,
}

/// What became of packets.
#[derive(Default)]
struct Outcome {
    passed: usize,
    dropped: usize,
    /// Of one packet.
    ns: f64,
}

/// Adds to the samples; fails if a packet passes that must not, or the other way round.
pub fn measure(root: &Root, samples: &mut Samples) -> Result<()> {
    let wanted = Wanted { device: 0, kind: HookKind::Clsact, mode: Mode::Enforce };
    let (id, loaded) = attach_here(root, &wanted)?;
    let traffic = Traffic {
        workload: wanted.address().octets(),
        sending: loaded.program(Hook::Ingress).try_clone_to_owned()?,
        receiving: loaded.program(Hook::Egress).try_clone_to_owned()?,
    };
    let device = wanted.device_name();
    eprintln!("policy changes with {FLOWS} live flows");
    for _ in 0..ROUNDS {
        change_at_rest(root, &device, &traffic, samples)?;
        change_under_way(root, &device, &traffic, samples)?;
    }
    detach_here(root, id)
}

/// Nothing is sent while the rules change, so that each flow's next packet is its first one after that.
fn change_at_rest(
    root: &Root,
    device: &str,
    traffic: &Traffic,
    samples: &mut Samples,
) -> Result<()> {
    cilmark(["policy", "add", device, RULE])?;
    traffic.establish(root)?;
    let size = FLOWS.into();
    let mut next = |what: &str, passes: bool| -> Result<()> {
        let sent = traffic.all(Segment::Ack)?;
        sent.check(passes)?;
        samples.add("next packet of a flow", what, size, "ns", sent.ns);
        // A reply must not fare better than what it answers.
        traffic.all(Segment::Reply)?.check(passes)
    };
    next("rules as before", true)?;
    cilmark(["policy", "add", device, ANOTHER_RULE])?;
    next("rules changed, still allowed", true)?;
    cilmark(["policy", "del", device, ANOTHER_RULE])?;
    let (ms, ()) = timed(|| cilmark(["policy", "del", device, RULE]))?;
    next("its rule removed", false)?;
    samples.add("policy change convergence", "until the command returns, at rest", size, "ms", ms);
    Ok(())
}

/// Another thread goes on sending while the rule goes.
fn change_under_way(
    root: &Root,
    device: &str,
    traffic: &Traffic,
    samples: &mut Samples,
) -> Result<()> {
    cilmark(["policy", "add", device, RULE])?;
    traffic.establish(root)?;
    let start = Instant::now();
    let (last_passed, sent) = (AtomicU64::new(0), AtomicU64::new(0));
    let stop = AtomicBool::new(false);
    let now = || start.elapsed().as_nanos() as u64;
    let (began, returned, rounds) = thread::scope(|scope| -> Result<(u64, u64, u64)> {
        let sender = scope.spawn(|| -> Result<()> {
            while !stop.load(Ordering::Relaxed) {
                for flow in 0..FLOWS {
                    for segment in [Segment::Ack, Segment::Reply] {
                        let sent_at = now();
                        if traffic.run(flow, segment)?.0 {
                            last_passed.store(sent_at, Ordering::Relaxed);
                        }
                    }
                }
                sent.fetch_add(1, Ordering::Relaxed);
            }
            Ok(())
        });
        let wait_for = |rounds: u64| {
            while sent.load(Ordering::Relaxed) < rounds && !sender.is_finished() {
                thread::yield_now();
            }
        };
        wait_for(1);
        let began = now();
        let changed = cilmark(["policy", "del", device, RULE]);
        let returned = now();
        // One that the command met half way, and a whole one.
        wait_for(sent.load(Ordering::Relaxed) + 2);
        stop.store(true, Ordering::Relaxed);
        sender.join().expect("no panic in the sender")?;
        changed.map(|()| (began, returned, sent.load(Ordering::Relaxed)))
    })?;
    let last = last_passed.load(Ordering::Relaxed);
    ensure!(rounds >= 3, "too few packets were sent to tell");
    ensure!(last > began, "no packet passed while the command ran, or before it");
    ensure!(
        last <= returned,
        "a packet passed {} ns after the command that removed its rule had returned",
        last - returned
    );
    let ms = |ns: u64| ns as f64 / 1e6;
    let size = FLOWS.into();
    let returns = "until the command returns, under way";
    samples.add("policy change convergence", returns, size, "ms", ms(returned - began));
    let passed = "until the last packet that passed, under way";
    samples.add("policy change convergence", passed, size, "ms", ms(last - began));
    Ok(())
}

struct Traffic {
    workload: [u8; 4],
    sending: OwnedFd,
    receiving: OwnedFd,
}

impl Traffic {
    /// Makes all flows, and sees them in conntrack.
    fn establish(&self, root: &Root) -> Result<()> {
        for segment in [Segment::Syn, Segment::SynAck, Segment::Ack] {
            self.all(segment)?.check(true)?;
        }
        let flows = Conntrack::open(root, None)?.context("there is no conntrack")?.flows()?.len();
        ensure!(flows == usize::from(FLOWS), "conntrack has {flows} flows");
        Ok(())
    }

    /// One of each flow.
    fn all(&self, segment: Segment) -> Result<Outcome> {
        let mut outcome = Outcome::default();
        for flow in 0..FLOWS {
            let (passed, ns) = self.run(flow, segment)?;
            *if passed { &mut outcome.passed } else { &mut outcome.dropped } += 1;
            outcome.ns += ns / f64::from(FLOWS);
        }
        Ok(outcome)
    }

    /// Whether it passed, and how many ns that took.
    fn run(&self, flow: u16, segment: Segment) -> Result<(bool, f64)> {
        let program = match segment {
            Segment::Syn | Segment::Ack => &self.sending,
            Segment::SynAck | Segment::Reply => &self.receiving,
        };
        let mut context = __sk_buff { ingress_ifindex: 1, ..__sk_buff::default() };
        let packet = self.packet(flow, segment)?;
        let run = sys::test_run(program.as_fd(), &packet, &mut context, 1)?;
        Ok((run.action == PASS, run.duration.as_nanos() as f64))
    }

    fn packet(&self, flow: u16, segment: Segment) -> Result<Vec<u8>> {
        let (workload, port) = (self.workload, FIRST_PORT + flow);
        let ethernet = PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], [0; 6]);
        let builder = match segment {
            Segment::Syn => ethernet.ipv4(workload, PEER, 64).tcp(port, 8080, 1, 64_000).syn(),
            Segment::Ack => ethernet.ipv4(workload, PEER, 64).tcp(port, 8080, 2, 64_000).ack(2),
            Segment::SynAck => {
                ethernet.ipv4(PEER, workload, 64).tcp(8080, port, 1, 64_000).syn().ack(2)
            }
            Segment::Reply => ethernet.ipv4(PEER, workload, 64).tcp(8080, port, 2, 64_000).ack(2),
        };
        let mut packet = Vec::new();
        builder.write(&mut packet, &[0; 64])?;
        Ok(packet)
    }
}

impl Outcome {
    fn check(&self, passes: bool) -> Result<()> {
        let wrong = if passes { self.dropped } else { self.passed };
        let fate = if passes { "dropped" } else { "passed" };
        ensure!(wrong == 0, "{wrong} packets of {FLOWS} flows {fate} against the rules");
        Ok(())
    }
}
