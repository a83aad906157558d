//! Which identity an address has.

use std::net::IpAddr;

use anyhow::{Context, Result, ensure};
use ipnet::IpNet;

use super::detach;
use crate::model::identity::Identity;
use crate::model::origin::Origin;
use crate::model::prefix::format_prefix;
use crate::program::load::{self, Sizes};
use crate::state::ipcache::{Ipcache, IpcacheLine};
use crate::state::pin::Root;
use crate::state::registry::shared;

/// Gives an address or a prefix an identity.
pub fn set(root: &Root, prefix: &IpNet, identity: Identity) -> Result<()> {
    shared::check_all_held(root)?;
    let set = make(root, &Sizes::default()).and_then(|ipcache| ipcache.set(prefix, identity));
    detach::leave_nothing_of_a_failure(root, set)
}

/// Gives prefixes identities, all or none of them. `size` is that of the maps, if this makes them. `progress` is
/// called with how many more are done, and ends it by an error.
pub fn load(
    root: &Root,
    lines: &[(IpNet, Identity)],
    size: Option<u32>,
    progress: impl FnMut(usize) -> Result<()>,
) -> Result<()> {
    shared::check_all_held(root)?;
    let loaded = make(root, &Sizes { ipcache: size, ..Sizes::default() })
        .and_then(|ipcache| ipcache.load(lines, progress));
    detach::leave_nothing_of_a_failure(root, loaded)
}

/// The line that decides for an address.
pub fn get(root: &Root, address: IpAddr) -> Result<IpcacheLine> {
    let line = Ipcache::open(root)?.map(|ipcache| ipcache.resolve(address)).transpose()?;
    line.flatten().with_context(|| format!("{address} is not in the ipcache, and so is world"))
}

/// All lines.
pub fn list(root: &Root) -> Result<Vec<IpcacheLine>> {
    let lines = Ipcache::open(root)?.map(|ipcache| ipcache.lines()).transpose()?;
    Ok(lines.unwrap_or_default())
}

/// Forgets an address or a prefix.
pub fn delete(root: &Root, prefix: &IpNet) -> Result<()> {
    shared::check_all_held(root)?;
    let ipcache = Ipcache::open(root)?;
    let there = ipcache.as_ref().map(|ipcache| ipcache.get(prefix)).transpose()?.flatten();
    ensure!(
        there.is_none_or(|line| line.owner.is_some() || line.origin != Origin::Cluster),
        "{} is a cluster's, which would bring it back; `cilmark ipcache set` says something else of it",
        format_prefix(prefix)
    );
    let was_there = ipcache.map(|ipcache| ipcache.delete(prefix)).transpose()?;
    ensure!(
        was_there == Some(true),
        "{} is not in the ipcache; `cilmark ipcache list` shows what is",
        format_prefix(prefix)
    );
    detach::remove_unused_root(root)
}

/// Forgets everything but the addresses of attached endpoints; how many lines that were. What is a cluster's comes back
/// where cilmark-sync runs.
pub fn flush(root: &Root) -> Result<usize> {
    shared::check_all_held(root)?;
    let flushed = Ipcache::open(root)?.map(|ipcache| ipcache.flush()).transpose()?;
    detach::remove_unused_root(root)?;
    Ok(flushed.unwrap_or_default())
}

fn make(root: &Root, sizes: &Sizes) -> Result<Ipcache> {
    load::create_maps(root, sizes)?;
    Ipcache::open(root)?.context("the ipcache is not pinned")
}
