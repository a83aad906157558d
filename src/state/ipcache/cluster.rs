//! Lines of clusters: thousands change each second in a table of a million, so that only what changes is read.
//!
//! A line of an endpoint, a command or the file stays as it is; what a cluster says of its prefix waits until it is gone.
//! Without that, addresses come first and go last, as in [`Ipcache::rewrite`], so that none gets in between what a prefix
//! around it says.

use std::collections::HashMap;

use anyhow::Result;
use ipnet::IpNet;
use plain::Plain;

use super::{FEW_PREFIXES, Index, Ipcache, SIZE_FLAG, answer_the_same, by_key, entry, inner_first};
use crate::kernel::abi::{self, cm_address, cm_ipcache_entry, cm_prefix};
use crate::model::identity::Identity;
use crate::model::origin::Origin;
use crate::model::prefix::{format_prefix, is_host};
use crate::state::generations::Remotes;

/// So many addresses are written at a time: a few milliseconds, in which some have changed and verdicts of before count.
const CHUNK: usize = 4096;

/// A prefix with the identity that a cluster gives it now, or `None` if it gives it none any more.
pub type ClusterChange = (IpNet, Option<Identity>);

/// What has come of changes of clusters' lines.
#[derive(Debug, Default)]
pub struct Applied {
    /// Lines that are there now, or have another identity.
    pub written: usize,
    /// Lines that are gone.
    pub deleted: usize,
    /// Prefixes that have somebody else's line, which stays.
    pub left: Vec<IpNet>,
    /// Prefixes for which there was no room.
    pub no_room: Vec<IpNet>,
    /// Why, and what helps.
    pub full: Option<String>,
}

/// What becomes of one line.
enum Fate {
    /// It is as it should be, or was never there.
    Same,
    /// It is somebody else's.
    Left,
    /// It is written, or deleted.
    Changed,
}

impl Ipcache {
    /// Writes and deletes lines in the name of clusters. Each prefix is there once. Verdicts about an address are stale only
    /// if what is known of it becomes something else. Where there is no room for a line, all others are as they should be.
    pub fn apply_cluster(&self, changes: &[ClusterChange]) -> Result<Applied> {
        let mut applied = Applied::default();
        let (hosts, prefixes): (Vec<&ClusterChange>, Vec<&ClusterChange>) =
            changes.iter().partition(|(prefix, _)| is_host(prefix));
        let (set, gone): (Vec<_>, Vec<_>) =
            hosts.into_iter().partition(|(_, identity)| identity.is_some());
        self.hosts.settle();
        // Whoever looks for the prefix around each of a million addresses asks first if there is any.
        let mut has_prefixes = !self.prefixes.is_empty();
        for chunk in set.chunks(CHUNK) {
            self.set_cluster_hosts(chunk, has_prefixes, &mut applied)?;
        }
        if !prefixes.is_empty() {
            self.change_cluster_prefixes(prefixes, &mut applied)?;
            has_prefixes = !self.prefixes.is_empty();
        }
        for chunk in gone.chunks(CHUNK) {
            self.delete_cluster_hosts(chunk, has_prefixes, &mut applied)?;
        }
        if let Some(first) = applied.no_room.first() {
            let room = if is_host(first) { self.hosts.room() } else { self.prefixes.room() };
            applied.full = Some(format!(
                "the ipcache takes {room} entries and is full: {} lines of clusters are not in it, such as {}; its size counts \
                 when it is made ({SIZE_FLAG})",
                applied.no_room.len(),
                format_prefix(first)
            ));
        }
        Ok(applied)
    }

    /// Each line that clusters have made.
    pub fn for_each_of_cluster(&self, mut each: impl FnMut(IpNet, Identity)) -> Result<()> {
        self.for_each_of_all(|prefix, identity| {
            if let Some(identity) = identity {
                each(prefix, identity);
            }
        })
    }

    /// The same of others' lines, too: `None` for these in place of the identity.
    pub fn for_each_of_all(&self, mut each: impl FnMut(IpNet, Option<Identity>)) -> Result<()> {
        let mut tell = |prefix: Option<IpNet>, entry: cm_ipcache_entry| {
            if let Some(prefix) = prefix {
                each(prefix, is_clusters(&entry).then_some(Identity(entry.identity)));
            }
        };
        self.hosts.for_each(CHUNK, |key, entry| tell(key.to_ip().map(IpNet::from), entry))?;
        self.prefixes.for_each(CHUNK, |key, entry| tell(key.to_net(), entry))
    }

    /// Takes any cluster's line away, of an address or of a prefix; whether there was one. cilmark-sync finds it missing, and
    /// says that it has no room for it.
    pub(super) fn drop_a_clusters(&self, is_host: bool) -> Result<bool> {
        let mut found = None;
        match is_host {
            true => self.hosts.for_each(CHUNK, |key, entry| {
                if is_clusters(&entry) {
                    found = key.to_ip().map(IpNet::from);
                }
            })?,
            false => self.prefixes.for_each(CHUNK, |key, entry| {
                if is_clusters(&entry) {
                    found = key.to_net();
                }
            })?,
        }
        found.map_or(Ok(false), |prefix| self.erase(&prefix))
    }

    /// The kernel's number of the map of addresses: of another one nothing is known.
    pub fn number(&self) -> Result<u32> {
        self.hosts.number()
    }

    /// Whoever wrote to it may have died before he could say whom that concerns: what was decided before is stale then.
    pub fn settle(&self) {
        self.hosts.settle();
    }

    fn set_cluster_hosts(
        &self,
        chunk: &[&ClusterChange],
        has_prefixes: bool,
        applied: &mut Applied,
    ) -> Result<()> {
        let mut entries: Vec<(cm_address, cm_ipcache_entry)> = Vec::with_capacity(chunk.len());
        let mut concerned = Vec::new();
        for (prefix, identity) in chunk {
            let Some(identity) = identity else { continue };
            let key = cm_address::from(prefix.addr());
            let new = of_cluster(*identity);
            let before = self.hosts.get(&key)?;
            match fate(before.as_ref(), Some(&new)) {
                Fate::Same => continue,
                Fate::Left => applied.left.push(*prefix),
                Fate::Changed => {
                    if self.tells_something_else(&key, before, Some(new), has_prefixes)? {
                        concerned.push(key);
                    }
                    entries.push((key, new));
                }
            }
        }
        if entries.is_empty() {
            return Ok(());
        }
        let refused =
            self.hosts.change(&Remotes::of(concerned), |map| map.set_what_fits(&entries))?;
        applied.written += entries.len() - refused.len();
        let refused = refused.into_iter().filter_map(|at| entries[at].0.to_ip());
        applied.no_room.extend(refused.map(IpNet::from));
        Ok(())
    }

    fn delete_cluster_hosts(
        &self,
        chunk: &[&ClusterChange],
        has_prefixes: bool,
        applied: &mut Applied,
    ) -> Result<()> {
        let (mut keys, mut concerned) = (Vec::new(), Vec::new());
        for (prefix, _) in chunk {
            let key = cm_address::from(prefix.addr());
            let before = self.hosts.get(&key)?;
            if matches!(fate(before.as_ref(), None), Fate::Changed) {
                if self.tells_something_else(&key, before, None, has_prefixes)? {
                    concerned.push(key);
                }
                keys.push(key);
            }
        }
        if keys.is_empty() {
            return Ok(());
        }
        self.hosts.change(&Remotes::of(concerned), |map| map.delete_each(&keys))?;
        applied.deleted += keys.len();
        Ok(())
    }

    /// Whether packets meet another answer: where one of the lines is not there, the prefix around says it.
    fn tells_something_else(
        &self,
        key: &cm_address,
        before: Option<cm_ipcache_entry>,
        after: Option<cm_ipcache_entry>,
        has_prefixes: bool,
    ) -> Result<bool> {
        let around = || match key.to_ip().filter(|_| has_prefixes) {
            Some(address) => self.prefix_of(address),
            None => Ok(None),
        };
        let before = before.map_or_else(around, |entry| Ok(Some(entry)))?;
        let after = after.map_or_else(around, |entry| Ok(Some(entry)))?;
        Ok(match (before, after) {
            (Some(before), Some(after)) => !answer_the_same(&before, &after),
            (before, after) => before.is_some() != after.is_some(),
        })
    }

    fn change_cluster_prefixes(
        &self,
        mut changes: Vec<&ClusterChange>,
        applied: &mut Applied,
    ) -> Result<()> {
        // New ones from the inside out, old ones from the outside in.
        changes.sort_by_cached_key(|(prefix, identity)| {
            let outer_first = identity.is_none().then(|| prefix.prefix_len());
            (outer_first, identity.is_some().then(|| inner_first(prefix)))
        });
        match changes.len() > FEW_PREFIXES {
            true => self.change_many_prefixes(&changes, applied),
            false => changes.iter().try_for_each(|change| self.change_one_prefix(change, applied)),
        }
    }

    fn change_one_prefix(&self, change: &ClusterChange, applied: &mut Applied) -> Result<()> {
        let (prefix, identity) = change;
        let before = self.prefixes.get_exactly(&cm_prefix::from(prefix))?;
        let new = identity.map(of_cluster);
        match (fate(before.as_ref(), new.as_ref()), new) {
            (Fate::Same, _) => {}
            (Fate::Left, Some(_)) => applied.left.push(*prefix),
            (Fate::Left, None) => {}
            (Fate::Changed, None) => applied.deleted += usize::from(self.erase(prefix)?),
            (Fate::Changed, Some(new)) => match self.write(prefix, &new) {
                Ok(()) => applied.written += 1,
                Err(_) if self.has_no_room_for_a_prefix()? => applied.no_room.push(*prefix),
                Err(error) => return Err(error),
            },
        }
        Ok(())
    }

    fn has_no_room_for_a_prefix(&self) -> Result<bool> {
        let mut count = 0;
        self.prefixes.for_each(CHUNK, |_, _| count += 1)?;
        Ok(count >= self.prefixes.room())
    }

    /// All are read, and the index is made anew.
    fn change_many_prefixes(
        &self,
        changes: &[&ClusterChange],
        applied: &mut Applied,
    ) -> Result<()> {
        let entries = self.prefixes.entries()?;
        let known: HashMap<&[u8], cm_ipcache_entry> = by_key(&entries);
        let (mut set, mut gone, mut concerns) = (Vec::new(), Vec::new(), false);
        for (prefix, identity) in changes {
            let key = cm_prefix::from(prefix);
            let before = known.get(abi::bytes_of(&key));
            let new = identity.map(of_cluster);
            match (fate(before, new.as_ref()), new) {
                (Fate::Same, _) | (Fate::Left, None) => {}
                (Fate::Left, Some(_)) => applied.left.push(*prefix),
                (Fate::Changed, Some(new)) => {
                    concerns |= !before.is_some_and(|before| answer_the_same(before, &new));
                    set.push((key, new));
                }
                (Fate::Changed, None) => {
                    concerns = true;
                    gone.push(key);
                }
            }
        }
        if set.is_empty() && gone.is_empty() {
            return Ok(());
        }
        let all = if concerns { Remotes::all() } else { Remotes::none() };
        self.index.as_ref().map_or(Ok(()), Index::clear)?;
        let changed = self.prefixes.change(&all, |map| {
            let refused = map.set_what_fits(&set)?;
            map.delete_each(&gone)?;
            Ok::<_, anyhow::Error>(refused)
        });
        if let Some(index) = &self.index {
            index.fill(self.prefixes.entries()?.iter(), self.least_prefixes);
        }
        let refused = changed?;
        applied.written += set.len() - refused.len();
        applied.deleted += gone.len();
        applied.no_room.extend(refused.into_iter().filter_map(|at| set[at].0.to_net()));
        Ok(())
    }
}

fn fate(before: Option<&cm_ipcache_entry>, new: Option<&cm_ipcache_entry>) -> Fate {
    match (before, new) {
        (None, None) => Fate::Same,
        (None, Some(_)) => Fate::Changed,
        (Some(before), _) if !is_clusters(before) => Fate::Left,
        (Some(before), Some(new)) if same(before, new) => Fate::Same,
        (Some(_), _) => Fate::Changed,
    }
}

fn same<T: Plain>(one: &T, other: &T) -> bool {
    abi::bytes_of(one) == abi::bytes_of(other)
}

fn is_clusters(entry: &cm_ipcache_entry) -> bool {
    entry.endpoint_id == 0 && Origin::of_number(entry.origin) == Origin::Cluster
}

fn of_cluster(identity: Identity) -> cm_ipcache_entry {
    entry(identity, None, Origin::Cluster)
}
