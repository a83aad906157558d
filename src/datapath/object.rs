//! The programs of the object file, loaded side by side: what loading takes is the verifier's time,
//! and for root the kernel verifies on as many CPUs as there are programs.

use std::collections::HashMap;
use std::ffi::OsString;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver};
use std::thread;

use anyhow::{Context, Result};
use libbpf_rs::MapHandle;
use libbpf_rs::skel::{OpenSkel, Skel, SkelBuilder};

use super::calls;
use super::skel::{CilmarkSkelBuilder, OpenCilmarkSkel};
use super::sys;

/// The maps that an object has made or taken, by their names in it.
type Maps = HashMap<OsString, OwnedFd>;

/// What loading has made.
pub(super) struct Made {
    /// `.rodata`.
    pub(super) config: MapHandle,
    /// `cm_policy_call`; `None` if that was left out.
    pub(super) policy_calls: Option<MapHandle>,
    /// In the order in which they were asked for.
    pub(super) programs: Vec<OwnedFd>,
}

/// Makes an object's maps and loads these of its programs, without the functions that they never
/// call: the first one from the object itself, each other from another one over the same maps.
pub(super) fn load(
    mut open: OpenCilmarkSkel<'_>,
    programs: &[&str],
    never: &[&str],
) -> Result<Made> {
    let (first, others) = programs.split_first().context("no program to load")?;
    thread::scope(|scope| {
        let load_other = |name| {
            let (send, receive) = mpsc::channel();
            (send, scope.spawn(move || load_over(&receive, name, never)))
        };
        let others: Vec<_> = others.iter().copied().map(load_other).collect();
        select(&mut open, Some(first), never)?;
        let maps = sys::prepare_object(open.open_object_mut()).context("make its maps")?;
        let maps = Arc::new(maps.into_iter().collect());
        for (send, _) in &others {
            // Who has failed already says so at the end.
            let _ = send.send(Arc::clone(&maps));
        }
        let skel = open.load()?;
        let mut programs = vec![program(&skel, first)?];
        // Rules stay with an endpoint whose policy is off, whose programs don't name them.
        for map in [&skel.maps.cm_policies, &skel.maps.cm_rule_stats] {
            sys::bind_map(programs[0].as_fd(), map.as_fd()).context("keep the rules")?;
        }
        for (_, thread) in others {
            programs.push(thread.join().expect("no panic in a loader")?);
        }
        let calls = skel.maps.cm_policy_call.autocreate();
        let calls = calls.then(|| MapHandle::try_from(&skel.maps.cm_policy_call));
        Ok(Made {
            config: MapHandle::try_from(&skel.maps.rodata)?,
            policy_calls: calls.transpose()?,
            programs,
        })
    })
}

/// Opens the object again, which takes as long as making maps does, and loads one program of it.
fn load_over(maps: &Receiver<Arc<Maps>>, name: &str, never: &[&str]) -> Result<OwnedFd> {
    let mut storage = MaybeUninit::uninit();
    let mut open = CilmarkSkelBuilder::default().open(&mut storage).context("open the object")?;
    select(&mut open, Some(name), never)?;
    let maps = maps.recv().context("the object that makes the maps has failed")?;
    for mut map in open.open_object_mut().maps_mut() {
        match maps.get(map.name()) {
            Some(made) => map.reuse_fd(made.as_fd())?,
            None => map.set_autocreate(false)?,
        }
    }
    program(&open.load()?, name)
}

/// Chooses the one program that loading the object loads, or none.
pub(super) fn select(
    open: &mut OpenCilmarkSkel<'_>,
    name: Option<&str>,
    never: &[&str],
) -> Result<()> {
    for mut program in open.open_object_mut().progs_mut() {
        let chosen = name.is_some_and(|name| program.name() == name);
        program.set_autoload(chosen);
        if chosen {
            calls::leave_out(&mut program, never)?;
        }
    }
    Ok(())
}

fn program<'obj>(skel: &impl Skel<'obj>, name: &str) -> Result<OwnedFd> {
    let found = skel.object().progs().find(|program| program.name() == name);
    let program = found.with_context(|| format!("the object has no program {name}"))?;
    Ok(program.as_fd().try_clone_to_owned()?)
}
