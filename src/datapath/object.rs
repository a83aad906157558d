//! The programs of the object file, loaded side by side: what loading takes is the verifier's time,
//! and for root the kernel verifies on as many CPUs as there are programs.

use std::ffi::CString;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::thread;

use anyhow::{Context, Result};
use libbpf_rs::skel::OpenSkel;
use libbpf_rs::{MapCore, MapHandle};
use log::debug;

use super::fold::{self, Code, Constants};
use super::skel::OpenCilmarkSkel;
use super::sys;

/// The maps that are found through a program, whether its instructions name them or not: its
/// configuration and its variables, what programs that replace it go on with, and a copy's steps. By
/// the shared one a filter is known for ours.
const BOUND: [&str; 7] =
    [".rodata", ".bss", "cm_counters", "cm_policy_sets", "cm_rule_stats", "cm_steps", "cm_metrics"];

/// What loading has made.
pub(super) struct Made {
    /// `.rodata`.
    pub(super) config: MapHandle,
    /// `cm_policy_call`; `None` if that was left out.
    pub(super) policy_calls: Option<MapHandle>,
    /// In the order in which they were asked for.
    pub(super) programs: Vec<OwnedFd>,
}

/// Makes an object's maps and loads these of its programs, folded over its configuration.
pub(super) fn load(mut open: OpenCilmarkSkel<'_>, names: &[&str]) -> Result<Made> {
    let constants = open.maps.rodata.initial_value().context("the object has no .rodata")?.to_vec();
    select(&mut open, names);
    let mut maps = sys::prepare_object(open.open_object_mut()).context("make its maps")?;
    let object = open.open_object();
    let map = sys::map_number(&open.maps.rodata).context("its .rodata was not made")?;
    let btf = sys::object_btf(object);
    let constants = Constants { map, bytes: &constants };
    let code = |name: &&str| {
        let found = object.progs().find(|program| program.name() == *name);
        let found = found.with_context(|| format!("the object has no program {name}"))?;
        Ok(sys::program_code(&found))
    };
    let codes = names.iter().map(code).collect::<Result<Vec<_>>>()?;
    let load = |name: &str, code: &Code| -> Result<OwnedFd> {
        let program = load_folded(name, code, &constants, btf)?;
        for map in maps.iter().filter(|map| BOUND.iter().any(|name| is_named(map, name))) {
            sys::bind_map(program.as_fd(), map.as_fd()).context("keep its maps")?;
        }
        Ok(program)
    };
    let programs = side_by_side(names.iter().zip(&codes), |(name, code)| load(name, code))?;
    let mut take = |name: &str| {
        let index = maps.iter().position(|map| is_named(map, name));
        index.map(|index| maps.swap_remove(index))
    };
    Ok(Made {
        config: take(".rodata").context("no .rodata was made")?,
        policy_calls: take("cm_policy_call"),
        programs,
    })
}

/// Of what is not in `.maps` the name begins with that of the object.
fn is_named(map: &MapHandle, name: &str) -> bool {
    map.name().to_string_lossy().ends_with(name)
}

/// Has work done in a thread each, the first of it in this one.
fn side_by_side<W: Send, D: Send>(
    works: impl IntoIterator<Item = W>,
    done: impl Fn(W) -> Result<D> + Sync,
) -> Result<Vec<D>> {
    let done = &done;
    let mut works = works.into_iter();
    let Some(first) = works.next() else { return Ok(Vec::new()) };
    thread::scope(|scope| {
        let others: Vec<_> = works.map(|work| scope.spawn(move || done(work))).collect();
        let first = done(first);
        let others = others.into_iter().map(|thread| thread.join().expect("no panic in a loader"));
        [first].into_iter().chain(others).collect()
    })
}

fn load_folded(
    name: &str,
    code: &Code,
    constants: &Constants<'_>,
    btf: Option<BorrowedFd<'_>>,
) -> Result<OwnedFd> {
    let folded = fold::fold(code, constants);
    let folded = folded.as_ref().unwrap_or_else(|| {
        debug!("{name} has instructions that are not known here; the kernel gets all of it");
        code
    });
    debug!(
        "{name}: {} of {} instructions, {} functions, {} lines",
        folded.instructions.len(),
        code.instructions.len(),
        folded.functions.len(),
        folded.lines.len()
    );
    let c_name = CString::new(name).context("a name with a zero")?;
    sys::load_program(&c_name, folded, btf).with_context(|| format!("load {name}"))
}

/// Chooses the programs that preparing the object prepares.
pub(super) fn select(open: &mut OpenCilmarkSkel<'_>, names: &[&str]) {
    for mut program in open.open_object_mut().progs_mut() {
        let chosen = names.iter().any(|name| program.name() == *name);
        program.set_autoload(chosen);
    }
}
