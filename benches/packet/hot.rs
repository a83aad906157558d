//! The same packet each time: what the code costs, with all that it reads in the nearest cache.

use std::net::IpAddr;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::rc::Rc;

use anyhow::{Context, Result, ensure};
use cilmark::model::endpoint::Role;
use cilmark::model::enforcement::Mode;
use cilmark::program::load::Sizes;
use cilmark::state::ipcache::Ipcache;
use cilmark::state::pin::Root;
use ipnet::IpNet;

use super::case::{ACTION_DROP, ACTION_PASS, Case, Line, Trial};
use super::keys;
use super::paths::{
    FROM_CONTAINER, FROM_NETDEV, Flags, Kind, OPEN_PORT, OTHER_PORT, PATHS, Pair, Path, TO_NETDEV,
    host, load_endpoint, local, packet, peer, rules, rules_that_name_the_host,
};

pub const REPEAT: u32 = 20_000;
pub const IPCACHE_ENTRIES: u32 = 400;
pub const RULES: u32 = 100;

/// What a packet is to conntrack and policy.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Flow {
    None,
    New,
    /// New, where a rule tells this host from the world: a route is looked up.
    NewByRoute,
    /// The same, and it goes to this host.
    NewToHost,
    Established,
    Denied,
    Forwarded,
}

/// Each program, family, mode and kind of flow.
pub fn cases(root: &Root, empty: &Rc<OwnedFd>) -> Result<Vec<Case>> {
    let mut all = Vec::new();
    let rules = rules(RULES)?;
    for (number, mode) in [(1, Mode::Off), (3, Mode::Audit), (5, Mode::Enforce)] {
        let rules = (mode != Mode::Off).then_some(&rules);
        let kind = Kind { mode, rules, stamp_remote: false, sizes: Sizes::default() };
        let pair = Pair::load(root, number, &kind)?;
        if mode == Mode::Off {
            fill_ipcache(root)?;
        }
        let flows: &[Flow] = match mode {
            Mode::Off => &[Flow::None],
            _ => &[Flow::Established, Flow::New, Flow::Denied, Flow::Forwarded],
        };
        for flow in flows {
            let paths =
                if *flow == Flow::Forwarded { &[FROM_NETDEV, TO_NETDEV][..] } else { &PATHS };
            for (family, path) in [4, 6].into_iter().flat_map(|f| paths.iter().map(move |p| (f, p)))
            {
                let line = Line { ipcache: IPCACHE_ENTRIES, ..line(path, family, mode, *flow) };
                all.push(case(
                    line,
                    [pair.program(path), pair.program(&path.back())],
                    path,
                    (mode, *flow),
                    empty,
                )?);
            }
        }
    }
    all.extend(host_verdicts(root, empty)?);
    Ok(all)
}

/// What it costs a workload's new flow that its rules tell this host from the world.
fn host_verdicts(root: &Root, empty: &Rc<OwnedFd>) -> Result<Vec<Case>> {
    let (path, mode) = (FROM_CONTAINER, Mode::Enforce);
    let rules = rules_that_name_the_host(RULES)?;
    let kind = Kind { mode, rules: Some(&rules), stamp_remote: false, sizes: Sizes::default() };
    let container = load_endpoint(root, path.role, 7, &kind)?;
    let mut all = Vec::new();
    for (family, flow) in
        [4, 6].into_iter().flat_map(|f| [Flow::NewByRoute, Flow::NewToHost].map(|flow| (f, flow)))
    {
        let line =
            Line { ipcache: IPCACHE_ENTRIES, rules: RULES + 1, ..line(&path, family, mode, flow) };
        all.push(case(line, [container.program(path.hook); 2], &path, (mode, flow), empty)?);
    }
    Ok(all)
}

/// An established flow where policy is enforced, of one family, in a root whose ipcache has so many
/// entries.
pub fn established(
    root: &Root,
    family: u8,
    entries: u32,
    empty: &Rc<OwnedFd>,
) -> Result<Vec<Case>> {
    let rules = rules(RULES)?;
    let (mode, flow) = (Mode::Enforce, Flow::Established);
    let kind = Kind { mode, rules: Some(&rules), stamp_remote: false, sizes: Sizes::default() };
    let pair = Pair::load(root, 3, &kind)?;
    let of = |path: &Path| {
        let line = Line { ipcache: entries, ..line(path, family, mode, flow) };
        case(line, [pair.program(path), pair.program(&path.back())], path, (mode, flow), empty)
    };
    PATHS.iter().map(of).collect()
}

fn line(path: &Path, family: u8, mode: Mode, flow: Flow) -> Line {
    Line {
        program: path.program,
        family,
        policy: mode_name(mode),
        flow: match flow {
            Flow::None => "none",
            Flow::New => "new",
            Flow::NewByRoute => "new, rules name host or world",
            Flow::NewToHost => "new to the host, rules name host or world",
            Flow::Established => "established",
            Flow::Denied => "denied",
            Flow::Forwarded => "forwarded",
        },
        rules: if mode == Mode::Off { 0 } else { RULES },
        flows: (flow == Flow::Established).into(),
        ..Line::default()
    }
}

/// By a program, and one that gets the answers.
fn case(
    line: Line,
    programs: [BorrowedFd<'_>; 2],
    path: &Path,
    (mode, flow): (Mode, Flow),
    empty: &Rc<OwnedFd>,
) -> Result<Case> {
    let peer = peer(line.family);
    let ends = match flow {
        // A workload's.
        Flow::Forwarded if path.sends => (local(Role::Container, line.family), peer),
        Flow::Forwarded => (peer, local(Role::Container, line.family)),
        Flow::NewToHost => path.ends(line.family, host(line.family)),
        _ => path.ends(line.family, peer),
    };
    let (ports, flags) = match flow {
        Flow::None | Flow::Established | Flow::Forwarded => ((OTHER_PORT, OPEN_PORT), Flags::Ack),
        Flow::New | Flow::NewByRoute | Flow::NewToHost => {
            ((OTHER_PORT + 1, OPEN_PORT), Flags::SynRst)
        }
        Flow::Denied => ((OTHER_PORT + 2, OPEN_PORT + 1), Flags::SynRst),
    };
    let is_dropped = flow == Flow::Denied && mode == Mode::Enforce;
    let trial = Trial {
        packet: packet(ends, ports, flags)?,
        ingress_ifindex: if flow == Flow::Forwarded { 1 } else { path.ingress_ifindex },
        action: if is_dropped { ACTION_DROP } else { ACTION_PASS },
        mark: None,
        repeat: REPEAT,
    };
    if flow == Flow::Established {
        let back = packet((ends.1, ends.0), (ports.1, ports.0), flags)?;
        answer(programs, path, &trial, back)?;
    }
    Case::hot(line, programs[0], trial, empty)
}

/// Begins the flow of a packet, answers, and goes on.
fn answer(
    [program, answering]: [BorrowedFd<'_>; 2],
    path: &Path,
    trial: &Trial,
    back: Vec<u8>,
) -> Result<()> {
    let first = Trial { repeat: 1, ..trial.clone() };
    let answered = path.back();
    let back = Trial { packet: back, ingress_ifindex: answered.ingress_ifindex, ..first.clone() };
    for (program, trial) in [(program, &first), (answering, &back), (program, &first)] {
        let (run, _) = trial.run(program)?;
        ensure!(
            run.action == trial.action,
            "{}: a flow's packet returned {}",
            path.program,
            run.action
        );
    }
    Ok(())
}

/// What lines call a mode.
pub fn mode_name(mode: Mode) -> &'static str {
    match mode {
        Mode::Off => "off",
        Mode::Audit => "audit",
        Mode::Enforce => "enforce",
    }
}

/// With the neighbours of the peer, too.
fn fill_ipcache(root: &Root) -> Result<()> {
    let network = u32::from_be_bytes([10, 0, 2, 0]);
    let address = |number: u32| IpNet::from(IpAddr::from((network + number).to_be_bytes()));
    let lines: Vec<_> =
        (0..IPCACHE_ENTRIES).map(|number| (address(number), keys::identity(number))).collect();
    Ipcache::open(root)?.context("the ipcache is not pinned")?.load(&lines, |_| Ok(()))
}
