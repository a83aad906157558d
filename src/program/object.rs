//! The programs of the object file, loaded side by side: what loading takes is the verifier's time,
//! and for root the kernel verifies on as many CPUs as there are programs.

use std::env;
use std::ffi::CString;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use libbpf_rs::skel::OpenSkel;
use libbpf_rs::{MapCore, MapHandle};
use log::{debug, info};

use crate::kernel::abi::{self, cm_config, cm_program};
use crate::kernel::insn::Code;
use crate::kernel::skel::OpenCilmarkSkel;
use crate::kernel::sys;
use crate::program::fold::{self, Constants};
use crate::state::layout::HELD_BY_ALL;
use crate::state::spec;

/// The maps that are found through a program, whether its instructions name them or not: its
/// configuration and its variables, what programs that replace it go on with, a copy's steps, and what its
/// configuration has been taken from.
const BOUND: [&str; 9] = [
    ".rodata",
    ".bss",
    "cm_counters",
    "cm_policy_sets",
    "cm_nic_policies",
    "cm_nics",
    "cm_rule_stats",
    "cm_steps",
    "cm_flow_table",
];

/// What loading has made.
pub(super) struct Made {
    /// `.rodata`.
    pub(super) config: MapHandle,
    /// `cm_policy_call`; `None` if that was left out.
    pub(super) policy_calls: Option<MapHandle>,
    /// `cm_spec`; `None` if that was left out.
    pub(super) spec: Option<MapHandle>,
    /// In the order in which they were asked for.
    pub(super) programs: Vec<OwnedFd>,
}

/// Whether programs are folded before the kernel sees them. They do the same either way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Folding {
    /// What the endpoint does not use is removed.
    On,
    /// The kernel gets all of them, as it does where folding meets an instruction that it does not know.
    Off,
}

impl Folding {
    /// What the environment asks for: `CILMARK_FOLD=off` turns it off.
    pub fn of_environment() -> Result<Folding> {
        match env::var_os("CILMARK_FOLD") {
            None => Ok(Folding::On),
            Some(value) if value == "on" => Ok(Folding::On),
            Some(value) if value == "off" => {
                info!("CILMARK_FOLD=off: the kernel gets the programs as they were compiled");
                Ok(Folding::Off)
            }
            Some(value) => {
                bail!("CILMARK_FOLD={}: set it to `on` or `off`, or unset it", value.display())
            }
        }
    }
}

/// What the loading of each program needs of their object.
struct Common {
    config: cm_config,
    folding: Folding,
    /// How instructions name its map.
    map: i32,
    btf: Option<OwnedFd>,
}

/// Makes an object's maps and loads these of its programs, if asked for folded over its configuration.
pub(super) fn load(
    mut open: OpenCilmarkSkel<'_>,
    config: &cm_config,
    programs: &[(&'static str, cm_program)],
    folding: Folding,
) -> Result<Made> {
    let names: Vec<_> = programs.iter().map(|(name, _)| *name).collect();
    select(&mut open, &names);
    let mut maps = sys::prepare_object(open.open_object_mut()).context("make its maps")?;
    let object = open.open_object();
    let map = sys::map_number(&open.maps.rodata).context("its .rodata was not made")?;
    let btf = sys::object_btf(object).map(|btf| btf.try_clone_to_owned()).transpose()?;
    let common = Arc::new(Common { config: *config, folding, map, btf });
    let work = |(name, program): &(&'static str, cm_program)| {
        let found = object.progs().find(|program| program.name() == *name);
        let found = found.with_context(|| format!("the object has no program {name}"))?;
        let (code, common) = (sys::program_code(&found), Arc::clone(&common));
        let (name, program) = (*name, *program);
        Ok(move || load_program(name, program, &code, &common))
    };
    let programs = side_by_side(programs.iter().map(work).collect::<Result<_>>()?)?;
    let is_held =
        |map: &&MapHandle| BOUND.iter().chain(&HELD_BY_ALL).any(|name| is_named(map, name));
    for map in maps.iter().filter(is_held) {
        for program in &programs {
            sys::bind_map(program.as_fd(), map.as_fd()).context("keep its maps")?;
        }
    }
    let mut take = |name: &str| {
        let index = maps.iter().position(|map| is_named(map, name));
        index.map(|index| maps.swap_remove(index))
    };
    Ok(Made {
        config: take(".rodata").context("no .rodata was made")?,
        policy_calls: take("cm_policy_call"),
        spec: take(spec::NAME),
        programs,
    })
}

/// Of what is not in `.maps` the name begins with that of the object.
fn is_named(map: &MapHandle, name: &str) -> bool {
    map.name().to_string_lossy().ends_with(name)
}

/// Has work done in a thread each, the last of it in this one.
fn side_by_side<D: Send + 'static>(
    mut works: Vec<impl FnOnce() -> Result<D> + Send + 'static>,
) -> Result<Vec<D>> {
    let last = works.pop();
    let threads: Vec<_> = works.into_iter().map(sys::spawn_on_another_cpu).collect();
    let last = last.map(|work| work());
    // All are waited for, also if one has failed: the object's maps are closed behind this.
    let done: Vec<_> = threads.into_iter().map(|thread| thread.join()).collect();
    done.into_iter().map(|done| done.expect("no panic in a loader")).chain(last).collect()
}

fn load_program(name: &str, program: cm_program, code: &Code, common: &Common) -> Result<OwnedFd> {
    let folded = match common.folding {
        Folding::On => folded(name, program, code, common),
        Folding::Off => None,
    };
    let folded = folded.as_ref().unwrap_or(code);
    debug!(
        "{name}: {} of {} instructions, {} functions, {} lines",
        folded.instructions.len(),
        code.instructions.len(),
        folded.functions.len(),
        folded.lines.len()
    );
    let c_name = CString::new(name).context("a name with a zero")?;
    let btf = common.btf.as_ref().map(AsFd::as_fd);
    sys::load_program(&c_name, folded, btf).with_context(|| format!("load {name}"))
}

fn folded(name: &str, program: cm_program, code: &Code, common: &Common) -> Option<Code> {
    let config = cm_config { program: program.0 as u8, ..common.config };
    let folded = fold::fold(code, &Constants { map: common.map, bytes: abi::bytes_of(&config) });
    if folded.is_none() {
        debug!("{name} has instructions that are not known here; the kernel gets all of it");
    }
    folded
}

/// Chooses the programs that preparing the object prepares.
pub(super) fn select(open: &mut OpenCilmarkSkel<'_>, names: &[&str]) {
    for mut program in open.open_object_mut().progs_mut() {
        let chosen = names.iter().any(|name| program.name() == *name);
        program.set_autoload(chosen);
    }
}
