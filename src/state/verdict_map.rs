//! Maps that verdicts follow from: whoever writes to one has to say whose verdicts are stale then.

use anyhow::Result;
use plain::Plain;

use crate::kernel::abi::cm_prefix;
use crate::state::generations::{Generations, Remotes};
use crate::state::maps::TypedMap;
use crate::state::pin::Root;

/// A map whose lines are about addresses. It can be read, and written to by `change` alone.
pub(super) struct VerdictMap<K, V> {
    /// `None` where no program decides anything.
    generations: Option<Generations>,
    map: TypedMap<K, V>,
}

impl<K: Plain + Default, V: Plain + Default> VerdictMap<K, V> {
    /// `None` if nobody has made the map yet.
    pub(super) fn open(root: &Root, name: &str) -> Result<Option<VerdictMap<K, V>>> {
        let generations = Generations::open(root)?;
        Ok(TypedMap::open(root, name)?.map(|map| VerdictMap { generations, map }))
    }

    /// Writes to the map, also where it fails half way; what was decided about these addresses is stale then. The caller
    /// holds the root's lock.
    pub(super) fn change<T>(
        &self,
        concerned: &Remotes,
        write: impl FnOnce(&TypedMap<K, V>) -> T,
    ) -> T {
        let Some(generations) = &self.generations else { return write(&self.map) };
        generations.begin_remotes();
        let written = write(&self.map);
        generations.end_remotes(concerned);
        written
    }

    /// In place of a change that would leave the map as it is: whoever wrote that may have died before he could say whom
    /// it concerns.
    pub(super) fn settle(&self) {
        if let Some(generations) = &self.generations {
            generations.settle_remotes();
        }
    }

    pub(super) fn get(&self, key: &K) -> Result<Option<V>> {
        self.map.get(key)
    }

    pub(super) fn entries(&self) -> Result<Vec<(K, V)>> {
        self.map.entries()
    }

    /// Each entry, of which so many at most are in memory at a time.
    pub(super) fn for_each(&self, most: usize, each: impl FnMut(K, V)) -> Result<()> {
        self.map.for_each(most, each)
    }

    pub(super) fn number(&self) -> Result<u32> {
        self.map.number()
    }

    /// How many entries it takes.
    pub(super) fn room(&self) -> u32 {
        self.map.room()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.map.is_empty()
    }

    /// Fails if `new` does not fit in beside what was there `before`.
    pub(super) fn check_room(
        &self,
        new: &[(K, V)],
        before: &[(K, V)],
        size_flag: &str,
    ) -> Result<()> {
        self.map.check_room(new, before, size_flag)
    }
}

impl<V: Plain + Default> VerdictMap<cm_prefix, V> {
    /// The entry of exactly this prefix.
    pub(super) fn get_exactly(&self, key: &cm_prefix) -> Result<Option<V>> {
        self.map.get_exactly(key)
    }
}
