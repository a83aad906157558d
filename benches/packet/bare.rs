//! What to compare with: a program that does nothing but the one lookup, of the same key over as many
//! entries, in maps of its own.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::rc::Rc;

use anyhow::{Result, ensure};
use cilmark::kernel::abi::{self, cm_address, cm_ipcache_entry, cm_prefix};
use ipnet::IpNet;
use libbpf_rs::{MapCore, MapFlags};

use super::case::{Case, Line, Trial};
use super::keys::Lines;
use super::vary::{Store, Vary};

/// A lookup of the addresses that an ipcache of these lines has.
pub fn address(
    line: Line,
    lines: &Lines,
    entries: u32,
    trial: Trial,
    vary: &Vary,
    empty: &Rc<OwnedFd>,
) -> Result<Case> {
    let (program, map, bare) = match line.prefixes {
        false => ("bare hash lookup", "hosts", "bare_host"),
        true => ("bare trie lookup", "prefixes", "bare_prefix"),
    };
    let bare = vary.bare(bare, map, Store::New(entries))?;
    let host = |prefix: &IpNet| abi::bytes_of(&cm_address::from(prefix.addr())).to_vec();
    let network = |prefix: &IpNet| abi::bytes_of(&cm_prefix::from(prefix)).to_vec();
    for some in lines.lines.chunks(1 << 15) {
        let keys: Vec<u8> = some
            .iter()
            .flat_map(|(prefix, _)| if line.prefixes { network(prefix) } else { host(prefix) })
            .collect();
        let values = abi::bytes_of(&cm_ipcache_entry::default()).repeat(some.len());
        let count = some.len() as u32;
        bare.map.update_batch(&keys, &values, count, MapFlags::ANY, MapFlags::ANY)?;
    }
    Case::random(Line { program, ..line }, bare.program.as_fd(), trial, vary, empty)
}

/// The programs of a family's flows, and their map.
fn flow_names(family: u8) -> [&'static str; 3] {
    match family {
        4 => ["bare_flow4", "bare_new_flow4", "flows4"],
        _ => ["bare_flow6", "bare_new_flow6", "flows6"],
    }
}

/// A lookup of the flows that packets belong to.
pub fn flow(
    line: Line,
    entries: u32,
    trial: Trial,
    vary: &Vary,
    empty: &Rc<OwnedFd>,
) -> Result<Case> {
    let [lookup, update, map] = flow_names(line.family);
    let bare = vary.bare(lookup, map, Store::New(entries))?;
    let writer = vary.bare(update, map, Store::Shared(&bare.map))?;
    fill(writer.program.as_fd(), &trial, vary)?;
    let line = Line { program: "bare LRU lookup", ..line };
    Case::random(line, bare.program.as_fd(), trial, vary, empty)
}

/// An entry for a flow that is new each time: in a full map; or in one that is emptied before each round,
/// and then in the place of the same flow's, too.
pub fn new_flow(
    line: Line,
    entries: u32,
    trial: Trial,
    vary: &Vary,
    empty: &Rc<OwnedFd>,
) -> Result<Vec<Case>> {
    let [_, update, map] = flow_names(line.family);
    let is_full = line.flows > 0;
    let line = Line { program: "bare LRU update", ..line };
    let bare = vary.bare(update, map, Store::New(entries))?;
    let program = bare.program.as_fd();
    let random = Case::random(line.clone(), program, trial.clone(), vary, empty)?;
    if is_full {
        return Ok(vec![random.warmed(entries)?]);
    }
    let hot = Case::hot(line, program, trial, empty)?;
    Ok(vec![random.emptying(bare.map), hot])
}

/// Runs a program on each of the packets once.
pub fn fill(program: BorrowedFd<'_>, trial: &Trial, vary: &Vary) -> Result<()> {
    let in_order = Vary { in_order: true, ..*vary }.wrap(program)?;
    let once = Trial { repeat: vary.keys, ..trial.clone() };
    let (run, _) = once.run(in_order.program.as_fd())?;
    ensure!(run.action == trial.action, "the program that fills a map returned {}", run.action);
    Ok(())
}
