//! What can be done with endpoints, for everybody who does it: functions of a root that return what has come of it. No
//! arguments are parsed here, nothing is printed and nobody asked. Who changes anything holds the root's lock.

pub mod adoption;
pub mod again;
pub mod apply;
pub mod attach;
pub mod birth;
pub mod claim;
pub mod cluster;
pub mod cni;
pub mod confirm;
pub mod conntrack;
pub mod detach;
pub mod doctor;
pub mod explain;
pub mod export;
pub mod failures;
pub mod identities;
pub mod ipcache;
pub mod marks;
pub mod metrics;
pub mod monitor;
pub mod oci;
pub mod options;
pub mod order;
mod peers;
pub mod placement;
pub mod plugin;
pub mod policy_test;
pub mod rule_names;
pub mod rules;
pub mod spec;
pub mod targets;
pub mod workload;

use std::fs::File;
use std::io;

use anyhow::{Context as _, Result};

use crate::state::layout;
use crate::state::pin::{Lock, Root};
use crate::state::registry::shared;

/// Makes a root usable and keeps other commands out.
pub fn prepare(root: &Root, mount_bpffs: bool) -> Result<Lock> {
    check_room()?;
    let is_new = !root.path().exists();
    loop {
        root.prepare(mount_bpffs)?;
        match lock(root) {
            Ok(Some(lock)) => return Ok(lock),
            Ok(None) => {}
            Err(error) => {
                if is_new {
                    root.remove_if_empty();
                }
                return Err(error);
            }
        }
    }
}

/// Keeps other commands out and pins again what has lost its pin; `None` if nothing is there, an error
/// if there is something that this version does not know.
pub fn lock(root: &Root) -> Result<Option<Lock>> {
    check_room()?;
    let lock = root.lock()?;
    if lock.is_some() {
        layout::check(root)?;
        shared::restore(root)?;
    }
    Ok(lock)
}

/// What a change takes at most beside what it is about; measured, with some to spare.
const DESCRIPTORS: usize = 64;
const MEMORY: usize = 32 << 20;

/// Fails before anything has changed if a change could stop half way for want of these.
pub fn check_room() -> Result<()> {
    let descriptors: io::Result<Vec<File>> =
        (0..DESCRIPTORS).map(|_| File::open("/proc")).collect();
    descriptors.with_context(|| {
        format!("a change takes {DESCRIPTORS} descriptors; `ulimit -n` allows fewer, nothing has changed")
    })?;
    Vec::<u8>::new().try_reserve_exact(MEMORY).with_context(|| {
        let mebibytes = MEMORY >> 20;
        format!("a change takes {mebibytes} MiB; `ulimit -v` allows less, nothing has changed")
    })
}
