//! What a packet costs in each program, in ns over an empty program in the same run.
//!
//! A figure comes from rounds of `BPF_PROG_TEST_RUN`, which repeats a program on one packet; in each round
//! every case has its turn, its program right after an empty one. The median counts, and the best round
//! and the distance between the quartiles stand beside it.
//!
//! Where keys are hot the packet stays the same, and so does the mark that the first repetition leaves. The
//! packet of a flow that is new each time is a SYN that is a RST, too: conntrack takes what comes after
//! a RST for another flow. What is forwarded by a NIC is a workload's. A workload's new flow is measured once
//! more with rules that tell this host from the world, for which the program looks up a route.
//!
//! Where keys are random a wrapper writes another address, and for a new flow another port, into the
//! packet before each repetition, and takes its mark off; then the empty program has the same wrapper. Measured so are
//! - the ipcache, of hosts and of prefixes, by a NIC that stamps what it receives with what it finds;
//! - the rules, by new flows and denied ones between many peers, each of which a rule is about;
//! - conntrack, by established flows, of which every packet is of any one;
//! - new flows, in a conntrack with room (`FLOWS` 0) and in a full one, where others have to go.
//!
//! For some lines conntrack is so small that the bucket of a flow is known: of new ones that find theirs full,
//! and of an established one that is in its second.
//!
//! Beside them stand programs that only look the same key up in a map of their own, as large.

pub mod bare;
mod buckets;
pub mod case;
mod hot;
pub mod keys;
pub mod paths;
mod random;
pub mod vary;

use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use cilmark::kernel::abi::cm_config;
use cilmark::kernel::sys::{self, Hook};
use cilmark::model::endpoint::Role;
use cilmark::output;
use cilmark::program::load::{self, Sizes};
use cilmark::state::pin::Root;
use cilmark::state::registry::Inherited;

use crate::world::{private_root, run};
use case::{Case, Line};
use random::Setting;

/// Fewer if all is to be done in this time, but not fewer than that.
const ROUNDS: usize = 25;
const TIME: Duration = Duration::from_secs(140);
const FEWEST_ROUNDS: usize = 5;

/// Measures, prints, and gives the lines of the table.
pub fn measure() -> Result<Vec<Line>> {
    let start = Instant::now();
    let root = private_root()?;
    route()?;

    let empty = empty_program(&root)?;
    let mut cases = hot::cases(&root, &empty)?;
    let setting = Setting { root: &root, empty };
    cases.extend(setting.ipcache()?);
    cases.extend(setting.policy()?);
    cases.extend(setting.conntrack()?);
    cases.extend(setting.new_flows()?);
    cases.extend(setting.buckets()?);
    let rounds = measure_in_turn(&mut cases, start + TIME)?;
    output::note(&format!("{} figures of {rounds} rounds each", cases.len()));
    let lines: Vec<Line> = cases.iter().map(Case::line).collect();
    print(&lines)?;
    Ok(lines)
}

/// How many rounds it has been.
fn measure_in_turn(cases: &mut [Case], end: Instant) -> Result<usize> {
    for round in 0..ROUNDS {
        if round >= FEWEST_ROUNDS && Instant::now() > end {
            return Ok(round);
        }
        for case in &mut *cases {
            case.round()?;
        }
    }
    Ok(ROUNDS)
}

/// Makes this namespace a router, with the workload and its peer behind one of its devices.
fn route() -> Result<()> {
    const ROUTES: &str = "
        ip link set lo up; ip link add veth0 type veth peer name veth1
        ip link set veth0 up; ip link set veth1 up
        sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1
        ip route add 10.0.0.0/8 dev veth0; ip route add fd00::/16 dev veth0
        ip neigh add 10.0.1.10 lladdr 02:00:00:00:00:02 dev veth0
        ip neigh add fd00:1::10 lladdr 02:00:00:00:00:02 dev veth0
        ip neigh add 10.0.2.20 lladdr 02:00:00:00:00:03 dev veth0
        ip neigh add fd00:2::20 lladdr 02:00:00:00:00:03 dev veth0
        ip address add 10.0.3.1/32 dev lo; ip address add fd00:3::1/128 dev lo nodad";
    run(ROUTES)
}

/// The template: its configuration was never written, and the verifier leaves nothing of it but the
/// look at that configuration.
fn empty_program(root: &Root) -> Result<Rc<OwnedFd>> {
    let config = cm_config::default();
    let loaded =
        load::load(root, Role::Container, &config, &Sizes::default(), &Inherited::default())?;
    let program = loaded.program(Hook::Ingress);
    let instructions = sys::program_facts(program)?.instructions;
    ensure!(instructions <= 10, "the empty program has {instructions} instructions");
    Ok(Rc::new(program.try_clone_to_owned()?))
}

fn print(lines: &[Line]) -> Result<()> {
    const HEADING: [&str; 15] = [
        "PROGRAM", "FAMILY", "POLICY", "FLOW", "KEYS", "IPCACHE", "RULES", "FLOWS", "BUCKET",
        "BEST", "MEDIAN", "SPREAD", "EMPTY", "OVER", "INSNS",
    ];
    let number = |number: f64| format!("{number:.0}");
    let rows: Vec<[String; 15]> = lines
        .iter()
        .map(|line| {
            let of = if line.prefixes { " prefixes" } else { "" };
            [
                line.program.to_owned(),
                format!("IPv{}", line.family),
                line.policy.to_owned(),
                line.flow.to_owned(),
                line.keys.to_owned(),
                format!("{}{of}", line.ipcache),
                line.rules.to_string(),
                line.flows.to_string(),
                line.bucket.to_owned(),
                number(line.ns),
                number(line.median_ns),
                number(line.spread_ns),
                number(line.floor_median_ns),
                number(line.over()),
                line.insns.to_string(),
            ]
        })
        .collect();
    output::table(HEADING, &rows)
}
