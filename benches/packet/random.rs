//! Packets whose keys are random ones of a table's: what the tables cost in earnest.

use std::os::fd::OwnedFd;
use std::rc::Rc;

use anyhow::{Context, Result, ensure};
use cilmark::model::endpoint::Role;
use cilmark::model::enforcement::Mode;
use cilmark::model::mark::Mark;
use cilmark::program::load::Sizes;
use cilmark::state::conntrack::Conntrack;
use cilmark::state::ipcache::Ipcache;
use cilmark::state::pin::Root;
use libbpf_rs::MapHandle;

use super::case::{ACTION_DROP, ACTION_PASS, Case, Line, Trial};
use super::keys::{self, Lines};
use super::paths::{
    FIRST_PORT, FROM_CONTAINER, FROM_NETDEV, Flags, Kind, OPEN_PORT, OTHER_PORT, PATHS, Pair, Path,
    TO_CONTAINER, TO_NETDEV, load_endpoint, packet, peer, rules,
};
use super::vary::Vary;
use super::{bare, hot};

const REPEAT: u32 = 20_000;
/// Often enough for what is touched to be in a cache.
const REPEAT_WARM: u32 = 200_000;
/// Of maps that nobody gave a size.
const DEFAULT_ENTRIES: u32 = 1 << 16;
const IPCACHE_SIZES: [u32; 4] = [10, 1_000, 100_000, 1_000_000];
const POLICY_SIZES: [u32; 3] = [10, 1_000, 16_000];
const FLOWS: [u32; 3] = [1, 10_000, 1_000_000];
/// Hosts that the rules are about, in turn.
const POLICY_PEERS: u32 = 1 << 14;

/// What all cases need.
pub struct Setting<'a> {
    pub root: &'a Root,
    pub empty: Rc<OwnedFd>,
}

impl Setting<'_> {
    /// A place of its own, beside the others.
    pub fn root(&self, name: &str) -> Result<Root> {
        let root = Root::new(self.root.path().with_file_name(format!("cilmark-{name}")));
        root.prepare(false)?;
        Ok(root)
    }

    /// One lookup in an ipcache of hosts or prefixes for each packet, which a NIC stamps with what it
    /// finds, of any address and of the same one; and a hot flow beside the largest ipcache of hosts.
    pub fn ipcache(&self) -> Result<Vec<Case>> {
        let mut all = Vec::new();
        for (family, entries) in [4, 6].into_iter().flat_map(|f| IPCACHE_SIZES.map(|e| (f, e))) {
            all.extend(self.lookups(family, entries, &keys::hosts(family, entries, 1), false)?);
            all.extend(self.lookups(family, entries, &keys::prefixes(family, entries)?, true)?);
        }
        Ok(all)
    }

    fn lookups(
        &self,
        family: u8,
        entries: u32,
        lines: &Lines,
        prefixes: bool,
    ) -> Result<Vec<Case>> {
        let what = if prefixes { "prefixes" } else { "hosts" };
        let root = self.root(&format!("{what}-{family}-{entries}"))?;
        let size = DEFAULT_ENTRIES.max(entries.next_power_of_two());
        let sizes = Sizes { ipcache: Some(size), ..Sizes::default() };
        let kind = Kind { mode: Mode::Off, rules: None, stamp_remote: true, sizes };
        let nic = load_endpoint(&root, Role::Netdev, 1, &kind)?;
        load_ipcache(&root, lines)?;
        let line = Line {
            program: FROM_NETDEV.program,
            family,
            policy: hot::mode_name(Mode::Off),
            flow: "none",
            ipcache: entries,
            prefixes,
            ..Line::default()
        };
        let ends = FROM_NETDEV.ends(family, peer(family));
        let trial = Trial {
            packet: packet(ends, (OTHER_PORT, OPEN_PORT), Flags::Ack)?,
            ingress_ifindex: FROM_NETDEV.ingress_ifindex,
            action: ACTION_PASS,
            mark: None,
            repeat: REPEAT,
        };
        let vary = Vary { keys: lines.numbers, ..plain(family, &FROM_NETDEV) };
        let program = nic.program(FROM_NETDEV.hook);
        let bare = bare::address(line.clone(), lines, size, trial.clone(), &vary, &self.empty)?;
        let stamped = Trial { mark: Some(Mark::encode(keys::identity(0))?.0), ..trial };
        let mut all = vec![
            bare,
            Case::random(line.clone(), program, stamped.clone(), &vary, &self.empty)?,
            Case::unmarked(line, program, stamped, &vary, &self.empty)?,
        ];
        if !prefixes && IPCACHE_SIZES.last() == Some(&entries) {
            all.extend(hot::established(&root, family, entries, &self.empty)?);
        }
        Ok(all)
    }

    /// Flows that no entry of conntrack knows, between an endpoint and peers of many identities.
    pub fn policy(&self) -> Result<Vec<Case>> {
        let mut all = Vec::new();
        for entries in POLICY_SIZES {
            let root = self.root(&format!("policy-{entries}"))?;
            let rules = rules(entries)?;
            // Of a rule both the entries that decide, and the line in the list.
            let sizes = Sizes { policy: Some(DEFAULT_ENTRIES), ..Sizes::default() };
            let kind =
                Kind { mode: Mode::Enforce, rules: Some(&rules), stamp_remote: false, sizes };
            let pair = Pair::load(&root, 1, &kind)?;
            for family in [4, 6] {
                load_ipcache(&root, &keys::hosts(family, POLICY_PEERS, entries / 2 - 1))?;
                for path in [FROM_CONTAINER, FROM_NETDEV] {
                    all.extend(self.decisions(&pair, entries, family, &path)?);
                }
            }
        }
        Ok(all)
    }

    fn decisions(&self, pair: &Pair, rules: u32, family: u8, path: &Path) -> Result<Vec<Case>> {
        let program = pair.program(path);
        let line = Line { ipcache: 2 * POLICY_PEERS, rules, ..line(path, family, "new") };
        let ends = path.ends(family, keys::address(family, 0));
        let mut all = Vec::new();
        // Denied is the port of the next peer's rule.
        for (flow, first_port, action) in
            [("new", FIRST_PORT, ACTION_PASS), ("denied", FIRST_PORT + 1, ACTION_DROP)]
        {
            let vary = Vary { rules: rules / 2 - 1, first_port, ..new_flows(family, path) };
            let trial = Trial { action, ..syn(path, family)? };
            let flows = if flow == "new" { DEFAULT_ENTRIES } else { 0 };
            let of_any = Line { flow, flows, ..line.clone() };
            let case = Case::random(of_any, program, trial.clone(), &vary, &self.empty)?;
            all.push(case.warmed(DEFAULT_ENTRIES)?);
            let same = packet(ends, (OTHER_PORT, first_port), Flags::SynRst)?;
            let trial = Trial { packet: same, ..trial };
            let of_one = Line { flow, ..line.clone() };
            all.push(Case::hot(of_one, program, trial, &self.empty)?);
        }
        Ok(all)
    }

    /// Established flows, in the direction of their first packet and in the other one.
    pub fn conntrack(&self) -> Result<Vec<Case>> {
        let mut all = Vec::new();
        let rules = rules(hot::RULES)?;
        for flows in FLOWS {
            let size = DEFAULT_ENTRIES.max(flows.next_power_of_two());
            let sizes = Sizes { ct: Some(size), ..Sizes::default() };
            let kind =
                Kind { mode: Mode::Enforce, rules: Some(&rules), stamp_remote: false, sizes };
            for (first, reply) in [(FROM_CONTAINER, TO_CONTAINER), (FROM_NETDEV, TO_NETDEV)] {
                let root = self.root(&format!("flows-{}-{flows}", first.program))?;
                let pair = Pair::load(&root, 1, &kind)?;
                load_ipcache(&root, &keys::hosts(4, hot::IPCACHE_ENTRIES, hot::IPCACHE_ENTRIES))?;
                for family in [4, 6] {
                    let vary = Vary { keys: flows, ..plain(family, &first) };
                    let opening = segment(&first, family, (OTHER_PORT, OPEN_PORT), flows)?;
                    let answer = segment(&reply, family, (OPEN_PORT, OTHER_PORT), flows)?;
                    // Each is answered, whoever has begun it.
                    for (path, trial) in [(&first, &opening), (&reply, &answer), (&first, &opening)]
                    {
                        let vary = Vary { keys: flows, ..plain(family, path) };
                        bare::fill(pair.program(path), trial, &vary)?;
                    }
                    let of = |path: &Path| Line { flows, ..line(path, family, "established") };
                    if first.role == Role::Container {
                        let line = Line { policy: "off", ipcache: 0, rules: 0, ..of(&first) };
                        let opening = opening.clone();
                        all.push(bare::flow(line, size, opening, &vary, &self.empty)?);
                    }
                    for (path, trial) in [(&first, opening), (&reply, answer)] {
                        let vary = Vary { keys: flows, ..plain(family, path) };
                        let program = pair.program(path);
                        all.push(Case::random(of(path), program, trial, &vary, &self.empty)?);
                    }
                }
                check_flows(&root, flows)?;
            }
        }
        Ok(all)
    }

    /// Flows that are new indeed, where there is room for them, and where others have to go.
    pub fn new_flows(&self) -> Result<Vec<Case>> {
        let mut all = Vec::new();
        let rules = rules(hot::RULES)?;
        for flows in [0, DEFAULT_ENTRIES] {
            let root = self.root(&format!("new-{flows}"))?;
            let sizes = Sizes { ct: Some(DEFAULT_ENTRIES), ..Sizes::default() };
            let kind =
                Kind { mode: Mode::Enforce, rules: Some(&rules), stamp_remote: false, sizes };
            let pair = Pair::load(&root, 1, &kind)?;
            load_ipcache(&root, &keys::hosts(4, hot::IPCACHE_ENTRIES, hot::IPCACHE_ENTRIES))?;
            for family in [4, 6] {
                for path in PATHS {
                    let vary = Vary { keys: hot::IPCACHE_ENTRIES, ..new_flows(family, &path) };
                    let line = Line { flows, ..line(&path, family, "new") };
                    let trial = syn(&path, family)?;
                    if path.program == FROM_CONTAINER.program {
                        let line = Line { policy: "off", ipcache: 0, rules: 0, ..line.clone() };
                        let trial = trial.clone();
                        let (vary, size) = (&vary, DEFAULT_ENTRIES);
                        all.extend(bare::new_flow(line, size, trial, vary, &self.empty)?);
                    }
                    let case = Case::random(line, pair.program(&path), trial, &vary, &self.empty)?;
                    all.push(match flows {
                        0 => case.emptying(conntrack_map(&root, family)?),
                        _ => case.warmed(DEFAULT_ENTRIES)?,
                    });
                }
            }
        }
        Ok(all)
    }
}

pub fn line(path: &Path, family: u8, flow: &'static str) -> Line {
    Line {
        program: path.program,
        family,
        policy: hot::mode_name(Mode::Enforce),
        flow,
        ipcache: hot::IPCACHE_ENTRIES,
        rules: hot::RULES,
        ..Line::default()
    }
}

/// Only the remote address varies; how many there are is left to say.
fn plain(family: u8, path: &Path) -> Vary {
    Vary {
        family,
        from_remote: !path.sends,
        keys: 1,
        in_order: false,
        new_flows: false,
        rules: 0,
        first_port: FIRST_PORT,
    }
}

pub fn new_flows(family: u8, path: &Path) -> Vary {
    Vary { keys: POLICY_PEERS, new_flows: true, ..plain(family, path) }
}

/// To a port that is open to anybody, unless it varies.
pub fn syn(path: &Path, family: u8) -> Result<Trial> {
    Ok(Trial {
        packet: packet(path.ends(family, peer(family)), (OTHER_PORT, OPEN_PORT), Flags::Syn)?,
        ingress_ifindex: path.ingress_ifindex,
        action: ACTION_PASS,
        mark: None,
        // Fewer than conntrack has room for.
        repeat: REPEAT,
    })
}

/// Of an established flow, of which there are so many.
fn segment(path: &Path, family: u8, ports: (u16, u16), flows: u32) -> Result<Trial> {
    Ok(Trial {
        packet: packet(path.ends(family, peer(family)), ports, Flags::Ack)?,
        repeat: if flows == 10_000 { REPEAT_WARM } else { REPEAT },
        ..syn(path, family)?
    })
}

fn load_ipcache(root: &Root, lines: &Lines) -> Result<()> {
    let ipcache = Ipcache::open(root)?.context("the ipcache is not pinned")?;
    ipcache.load(&lines.lines, |_| Ok(()))
}

pub fn conntrack_map(root: &Root, family: u8) -> Result<MapHandle> {
    Ok(MapHandle::from_pinned_path(root.map(&format!("cm_flows{family}")))?)
}

fn check_flows(root: &Root, flows: u32) -> Result<()> {
    let conntrack = Conntrack::open(root, None)?.context("conntrack is not pinned")?;
    for usage in conntrack.usage()? {
        let (map, entries) = (usage.map, usage.entries());
        // As many as there is room for in full buckets, with so many others.
        let missing = u64::from(flows).saturating_sub(entries);
        ensure!(missing <= u64::from(flows) / 1000, "{map} has {entries} flows instead of {flows}");
    }
    Ok(())
}
