//! What clusters say of addresses, in the ipcache.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use ipnet::IpNet;

use crate::model::identity::Identity;
use crate::ops::detach;
use crate::program::load::{self, Sizes};
use crate::state::generations::Generations;
use crate::state::ipcache::Ipcache;
pub use crate::state::ipcache::{Applied, ClusterChange};
use crate::state::pin::Root;
use crate::state::registry::shared;

/// Whether programs use the maps that are pinned is looked at so often, since all programs are read for that.
const BETWEEN_CHECKS: Duration = Duration::from_secs(10);

/// The lines of clusters in a root.
pub struct Lines {
    root: Root,
    checked: Option<Instant>,
}

impl Lines {
    /// Nothing has to be there yet.
    pub fn of(root: &Root) -> Lines {
        Lines { root: root.clone(), checked: None }
    }

    /// The kernel's number of the ipcache; `None` if there is none. Of one with another number nothing is known.
    pub fn number(&self) -> Result<Option<u32>> {
        Ipcache::open(&self.root)?.map(|ipcache| ipcache.number()).transpose()
    }

    /// Each line that clusters have made.
    pub fn for_each(&self, each: impl FnMut(IpNet, Identity)) -> Result<()> {
        let ipcache = Ipcache::open(&self.root)?;
        ipcache.map_or(Ok(()), |ipcache| ipcache.for_each_of_cluster(each))
    }

    /// The same of others' lines, too: `None` for these in place of the identity.
    pub fn for_each_of_all(&self, each: impl FnMut(IpNet, Option<Identity>)) -> Result<()> {
        let ipcache = Ipcache::open(&self.root)?;
        ipcache.map_or(Ok(()), |ipcache| ipcache.for_each_of_all(each))
    }

    /// Grows with whatever verdicts follow from, whoever has changed it; `None` if there is nothing yet.
    pub fn changes(&self) -> Result<Option<u32>> {
        Ok(Generations::open(&self.root)?.map(|generations| generations.changes()))
    }

    /// What somebody who died has begun is over; the caller holds the root's lock.
    pub fn settle(&self) -> Result<()> {
        if let Some(ipcache) = Ipcache::open(&self.root)? {
            ipcache.settle();
        }
        Ok(())
    }

    /// Writes and deletes lines, each prefix once; the caller holds the root's lock. Lines of endpoints, commands and the
    /// file stay, and are told. `size` is that of the maps, if this makes them.
    pub fn apply(&mut self, changes: &[ClusterChange], size: Option<u32>) -> Result<Applied> {
        if self.checked.is_none_or(|checked| checked.elapsed() > BETWEEN_CHECKS) {
            shared::check_all_held(&self.root)?;
            self.checked = Some(Instant::now());
        }
        let applied = self.apply_now(changes, size);
        detach::leave_nothing_of_a_failure(&self.root, applied)
    }

    fn apply_now(&self, changes: &[ClusterChange], size: Option<u32>) -> Result<Applied> {
        let mut ipcache = Ipcache::open(&self.root)?;
        if ipcache.is_none() {
            if changes.iter().all(|(_, identity)| identity.is_none()) {
                return Ok(Applied::default());
            }
            load::create_maps(&self.root, &Sizes { ipcache: size, ..Sizes::default() })?;
            ipcache = Ipcache::open(&self.root)?;
        }
        let ipcache = ipcache.context("the ipcache is not pinned")?;
        let applied = ipcache.apply_cluster(changes)?;
        if applied.deleted > 0 && ipcache.is_empty() {
            detach::remove_unused_root(&self.root)?;
        }
        Ok(applied)
    }
}
