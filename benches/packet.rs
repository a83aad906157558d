//! What a packet costs in each program, in ns over an empty program in the same run.
//!
//! Each figure is the best of interleaved rounds of `BPF_PROG_TEST_RUN`, which repeats a program on one packet:
//! keys are hot, and the mark that the first repetition leaves is there for the others. The packet
//! of a flow that is new each time is a SYN that is a RST, too: conntrack takes what comes after a
//! RST for another flow. What is forwarded by a NIC is a workload's.

use std::net::IpAddr;
use std::os::fd::{AsFd, OwnedFd};

use anyhow::{Context, Result, bail, ensure};
use cilmark::datapath::abi::{__sk_buff, cm_config};
use cilmark::datapath::ipcache::Ipcache;
use cilmark::datapath::load::{self, Features, Inherited, Loaded, Policing, Sizes, Spec};
use cilmark::datapath::pin::Root;
use cilmark::datapath::policy::PolicyMaps;
use cilmark::datapath::sys::{self, Hook};
use cilmark::datapath::{device, netns};
use cilmark::model::endpoint::{EndpointId, Role};
use cilmark::model::identity::{Identity, Names};
use cilmark::model::policing::{Failsafe, Mode};
use cilmark::model::policy::Policy;
use cilmark::model::rule::Rule;
use cilmark::output;
use etherparse::PacketBuilder;
use ipnet::IpNet;
use serde::Serialize;

use crate::world::{private_root, run};

const ROUNDS: usize = 40;
const REPEAT: u32 = 50_000;
const IPCACHE_ENTRIES: u32 = 400;
const RULES: u32 = 100;
const WORKLOAD: [&str; 2] = ["10.0.1.10", "fd00:1::10"];
const NIC: [&str; 2] = ["192.0.2.1", "2001:db8::1"];
const PEER: [&str; 2] = ["10.0.2.20", "fd00:2::20"];

/// A line of the table and of the JSON, whose fields DESIGN names.
#[derive(Serialize)]
pub struct Line {
    program: &'static str,
    family: u8,
    policy: &'static str,
    flow: &'static str,
    ipcache: u32,
    rules: u32,
    flows: u32,
    ns: f64,
    floor_ns: f64,
    insns: u32,
}

/// A program with the packet that it is run on.
struct Case {
    program: OwnedFd,
    packet: Vec<u8>,
    ingress_ifindex: u32,
    /// A `TC_ACT_…`.
    action: i32,
    best_ns: f64,
}

/// What a packet is to conntrack and policy.
#[derive(Clone, Copy, PartialEq)]
enum Flow {
    None,
    New,
    Established,
    Denied,
    Forwarded,
}

impl Flow {
    fn name(self) -> &'static str {
        match self {
            Flow::None => "none",
            Flow::New => "new",
            Flow::Established => "established",
            Flow::Denied => "denied",
            Flow::Forwarded => "forwarded",
        }
    }
}

const ACTION_PASS: i32 = -1;
const ACTION_DROP: i32 = 2;

/// Measures, prints, and gives the lines of the table.
pub fn measure() -> Result<Vec<Line>> {
    let root = private_root()?;
    route()?;

    let mut floor = empty_program(&root)?;
    let (mut lines, mut cases): (Vec<Line>, Vec<Case>) = endpoints(&root)?.into_iter().unzip();
    for _ in 0..ROUNDS {
        floor.run()?;
        for case in &mut cases {
            case.run()?;
        }
    }
    for (line, case) in lines.iter_mut().zip(&cases) {
        line.ns = case.best_ns;
        line.floor_ns = floor.best_ns;
    }
    print(&lines)?;
    Ok(lines)
}

/// Makes this namespace a router, with the workload behind one of its devices.
fn route() -> Result<()> {
    const ROUTES: &str = "
        ip link set lo up; ip link add veth0 type veth peer name veth1
        ip link set veth0 up; ip link set veth1 up
        sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1
        ip route add 10.0.0.0/8 dev veth0; ip route add fd00::/16 dev veth0
        ip neigh add 10.0.1.10 lladdr 02:00:00:00:00:02 dev veth0
        ip neigh add fd00:1::10 lladdr 02:00:00:00:00:02 dev veth0";
    run(ROUTES)
}

impl Case {
    fn run(&mut self) -> Result<()> {
        let mut context =
            __sk_buff { ingress_ifindex: self.ingress_ifindex, ..__sk_buff::default() };
        let run = sys::test_run(self.program.as_fd(), &self.packet, &mut context, REPEAT)?;
        ensure!(run.action == self.action, "the program returned {}", run.action);
        self.best_ns = self.best_ns.min(run.duration.as_nanos() as f64);
        Ok(())
    }
}

/// The template: its configuration was never written, and the verifier leaves nothing of it but the
/// look at that configuration.
fn empty_program(root: &Root) -> Result<Case> {
    let config = cm_config::default();
    let loaded =
        load::load(root, Role::Container, &config, &Sizes::default(), &Inherited::default())?;
    let program = loaded.program(Hook::Ingress);
    let instructions = sys::program_facts(program)?.instructions;
    ensure!(instructions <= 10, "the empty program has {instructions} instructions");
    let packet = packet(PEER[0], NIC[0], Flow::None)?;
    let program = program.try_clone_to_owned()?;
    Ok(Case { program, packet, ingress_ifindex: 0, action: ACTION_PASS, best_ns: f64::MAX })
}

fn endpoints(root: &Root) -> Result<Vec<(Line, Case)>> {
    let mut all = Vec::new();
    for (number, mode) in [(1, Mode::Off), (3, Mode::Audit), (5, Mode::Enforce)] {
        let container = load_endpoint(root, Role::Container, number, mode, &WORKLOAD)?;
        let nic = load_endpoint(root, Role::Netdev, number + 1, mode, &NIC)?;
        if mode == Mode::Off {
            fill_ipcache(root)?;
        }
        let flows: &[Flow] = match mode {
            Mode::Off => &[Flow::None],
            _ => &[Flow::Established, Flow::New, Flow::Denied, Flow::Forwarded],
        };
        for flow in flows {
            all.extend(cases(&container, &nic, mode, *flow)?);
        }
    }
    Ok(all)
}

fn cases(container: &Loaded, nic: &Loaded, mode: Mode, flow: Flow) -> Result<Vec<(Line, Case)>> {
    let mut all = Vec::new();
    for family in [0, 1] {
        let (workload, host, peer) = (WORKLOAD[family], NIC[family], PEER[family]);
        let forwarded = [
            ("from_netdev", nic, Hook::Ingress, peer, workload, 1),
            ("to_netdev", nic, Hook::Egress, workload, peer, 1),
        ];
        let ends = [
            ("from_container", container, Hook::Ingress, workload, peer, 1),
            ("to_container", container, Hook::Egress, peer, workload, 1),
            ("from_netdev", nic, Hook::Ingress, peer, host, 1),
            ("to_netdev", nic, Hook::Egress, host, peer, 0),
        ];
        let runs = if flow == Flow::Forwarded { &forwarded[..] } else { &ends };
        for &(name, loaded, hook, source, destination, ingress_ifindex) in runs {
            let line = Line {
                program: name,
                family: [4, 6][family],
                policy: match mode {
                    Mode::Off => "off",
                    Mode::Audit => "audit",
                    Mode::Enforce => "enforce",
                },
                flow: flow.name(),
                ipcache: IPCACHE_ENTRIES,
                rules: if mode == Mode::Off { 0 } else { RULES },
                flows: 0,
                ns: 0.0,
                floor_ns: 0.0,
                insns: sys::program_facts(loaded.program(hook))?.instructions,
            };
            let dropped = flow == Flow::Denied && mode == Mode::Enforce;
            let case = Case {
                program: loaded.program(hook).try_clone_to_owned()?,
                packet: packet(source, destination, flow)?,
                ingress_ifindex,
                action: if dropped { ACTION_DROP } else { ACTION_PASS },
                best_ns: f64::MAX,
            };
            all.push((line, case));
        }
    }
    Ok(all)
}

/// The identity is not 1, so that to_netdev has to find out what is the host's own traffic.
fn load_endpoint(
    root: &Root,
    role: Role,
    number: u16,
    mode: Mode,
    addresses: &[&str],
) -> Result<Loaded> {
    let device = device::by_name("lo")?;
    let failsafe = Failsafe::standard();
    let spec = Spec {
        id: EndpointId::new(number).context("no endpoint number")?,
        role,
        identity: Identity(1234),
        netns: netns::current()?,
        mac: device.mac,
        addresses: addresses.iter().map(|text| text.parse()).collect::<Result<_, _>>()?,
        tc_priority: 0,
        features: Features::default(),
        policy: Policing { ingress: mode, egress: mode, failsafe, ..Policing::default() },
        device,
    };
    let config = spec.config();
    let loaded = load::load(root, role, &config, &Sizes::default(), &Inherited::default())?;
    if mode != Mode::Off {
        root.endpoint(spec.id).create()?;
        PolicyMaps::of(root, spec.id, loaded.map_ids()?)?.swap(&rules()?)?;
    }
    Ok(loaded)
}

/// Of each direction half; the last ones allow the flows that are measured.
fn rules() -> Result<Policy> {
    let others = (0..(RULES - 2) / 2).flat_map(|number| {
        let (identity, port) = (256 + number, 1000 + number);
        [
            format!("allow ingress from {identity} tcp/{port}"),
            format!("allow egress to {identity} tcp/{port}"),
        ]
    });
    let measured = ["allow ingress from any tcp/8080", "allow egress to any tcp/8080"];
    let texts = others.chain(measured.map(str::to_owned));
    let rules = texts.map(|text| Rule::parse(&text, &Names::default()));
    let rules: Vec<Rule> = rules.collect::<Result<_>>()?;
    Ok(Policy::default().replaced_by(&rules, &Policy::default()))
}

fn fill_ipcache(root: &Root) -> Result<()> {
    let lines: Vec<(IpNet, Identity)> = (0..IPCACHE_ENTRIES)
        .map(|number| {
            let address = IpAddr::from((0x0a00_0200 + number).to_be_bytes());
            (IpNet::from(address), Identity(256 + number))
        })
        .collect();
    Ipcache::open(root)?.context("the ipcache is not pinned")?.load(&lines, |_| Ok(()))
}

/// To the loopback device's own address, on which test runs are.
fn packet(source: &str, destination: &str, flow: Flow) -> Result<Vec<u8>> {
    let builder = PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], [0; 6]);
    let builder = match (source.parse()?, destination.parse()?) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            builder.ipv4(source.octets(), destination.octets(), 64)
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            builder.ipv6(source.octets(), destination.octets(), 64)
        }
        _ => bail!("{source} and {destination} are of two families"),
    };
    let builder = match flow {
        Flow::None | Flow::Established | Flow::Forwarded => {
            builder.tcp(40000, 8080, 1, 64000).ack(1)
        }
        Flow::New => builder.tcp(40001, 8080, 1, 64000).syn().rst(),
        Flow::Denied => builder.tcp(40002, 8081, 1, 64000).syn().rst(),
    };
    let mut packet = Vec::new();
    builder.write(&mut packet, &[0; 64])?;
    Ok(packet)
}

fn print(lines: &[Line]) -> Result<()> {
    let rows: Vec<[String; 8]> = lines
        .iter()
        .map(|line| {
            [
                line.program.to_owned(),
                format!("IPv{}", line.family),
                line.policy.to_owned(),
                line.flow.to_owned(),
                format!("{:.0}", line.ns),
                format!("{:.0}", line.floor_ns),
                format!("{:.0}", line.ns - line.floor_ns),
                line.insns.to_string(),
            ]
        })
        .collect();
    output::table(["PROGRAM", "FAMILY", "POLICY", "FLOW", "NS", "EMPTY", "OVER", "INSNS"], &rows)
}
