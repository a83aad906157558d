//! The pinned maps that user space fills and reads, but for the ipcache.

use std::collections::{HashMap, HashSet};
use std::io;
use std::marker::PhantomData;
use std::num::NonZero;
use std::path::Path;
use std::thread;

use anyhow::{Context, Result, ensure};
use libbpf_rs::{MapCore, MapFlags, MapHandle};
use nix::errno::Errno;
use plain::Plain;

use crate::kernel::abi::{self, cm_identity, cm_prefix, u32_key};
use crate::kernel::sys;
use crate::model::identity::{Identity, Names};
use crate::model::origin::Origin;
use crate::state::pin::{self, Root};

/// Entries of one batch call; more than a hash bucket ever holds, as the kernel wants it.
const BATCH: usize = 1 << 15;

/// More threads than these get into each other's way.
const MOST_WRITERS: usize = 4;

/// A hash map or trie whose keys and values are structs of the ABI.
pub(super) struct TypedMap<K, V> {
    handle: MapHandle,
    /// Its pin, or its name.
    label: String,
    types: PhantomData<(K, V)>,
}

impl<K: Plain + Default, V: Plain + Default> TypedMap<K, V> {
    /// `None` if nobody has made the map yet.
    pub(super) fn open(root: &Root, name: &str) -> Result<Option<TypedMap<K, V>>> {
        TypedMap::open_at(&root.map(name))
    }

    /// The same wherever it is pinned.
    pub(super) fn open_at(path: &Path) -> Result<Option<TypedMap<K, V>>> {
        let Some(handle) = pin::open_map(path)? else { return Ok(None) };
        ensure!(
            handle.key_size() as usize == size_of::<K>()
                && handle.value_size() as usize == size_of::<V>(),
            "{} is a map of another layout; another version of cilmark made it",
            path.display()
        );
        let label = path.display().to_string();
        Ok(Some(TypedMap { label, ..TypedMap::of(handle) }))
    }

    /// A map that has these types for certain.
    pub(super) fn of(handle: MapHandle) -> TypedMap<K, V> {
        let label = handle.name().to_string_lossy().into_owned();
        TypedMap { handle, label, types: PhantomData }
    }

    pub(super) fn handle(&self) -> &MapHandle {
        &self.handle
    }

    pub(super) fn get(&self, key: &K) -> Result<Option<V>> {
        let mut value = V::default();
        let is_there =
            sys::read_element(&self.handle, abi::bytes_of(key), abi::bytes_of_mut(&mut value));
        Ok(is_there.with_context(|| format!("read {}", self.label))?.then_some(value))
    }

    pub(super) fn set(&self, key: &K, value: &V) -> Result<()> {
        self.handle.update(abi::bytes_of(key), abi::bytes_of(value), MapFlags::ANY).with_context(
            || {
                format!(
                    "write to {}, which takes {} entries",
                    self.label,
                    self.handle.max_entries()
                )
            },
        )
    }

    /// Whether there was anything to delete.
    pub(super) fn delete(&self, key: &K) -> Result<bool> {
        match self.handle.delete(abi::bytes_of(key)) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == libbpf_rs::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error).context(format!("delete from {}", self.label)),
        }
    }

    /// Deletes what is wanted, and tells how much that was.
    pub(super) fn delete_all(&self, wanted: impl Fn(&K, &V) -> bool) -> Result<usize> {
        let mut count = 0;
        for (key, value) in self.entries()? {
            count += usize::from(wanted(&key, &value) && self.delete(&key)?);
        }
        Ok(count)
    }

    pub(super) fn entries(&self) -> Result<Vec<(K, V)>> {
        let mut entries = Vec::new();
        self.for_each(BATCH, |key, value| entries.push((key, value)))?;
        Ok(entries)
    }

    /// The same one by one, of which so many at most are in memory at a time.
    pub(super) fn for_each(&self, most: usize, mut each: impl FnMut(K, V)) -> Result<()> {
        let mut malformed = Ok(());
        sys::for_each_batch(&self.handle, most, |keys, values| {
            let keys = keys.chunks_exact(size_of::<K>());
            for (key, value) in keys.zip(values.chunks_exact(size_of::<V>())) {
                match (abi::from_bytes(key), abi::from_bytes(value)) {
                    (Ok(key), Ok(value)) => each(key, value),
                    (Err(error), _) | (_, Err(error)) => malformed = Err(error),
                }
            }
        })
        .with_context(|| format!("read {}", self.label))?;
        malformed
    }

    /// Writes all that there is room for; the places of the others.
    pub(super) fn set_what_fits(&self, entries: &[(K, V)]) -> Result<Vec<usize>> {
        let mut keys = Vec::with_capacity(size_of_val(entries));
        let mut values = Vec::with_capacity(entries.len() * size_of::<V>());
        for (key, value) in entries {
            keys.extend_from_slice(abi::bytes_of(key));
            values.extend_from_slice(abi::bytes_of(value));
        }
        let write = |from: usize| {
            let (keys, values) = (&keys[from * size_of::<K>()..], &values[from * size_of::<V>()..]);
            sys::write_elements(&self.handle, keys, values, (entries.len() - from) as u32)
        };
        each_refused(entries.len(), write, has_no_room)
            .with_context(|| format!("write to {}", self.label))
    }

    /// Deletes keys; those that are not there are left out.
    pub(super) fn delete_each(&self, keys: &[K]) -> Result<()> {
        let bytes: Vec<u8> =
            keys.iter().flat_map(|key| abi::bytes_of(key).iter().copied()).collect();
        let delete = |from: usize| {
            let count = (keys.len() - from) as u32;
            sys::delete_elements(&self.handle, &bytes[from * size_of::<K>()..], count)
        };
        let is_absent = |error: &io::Error| error.raw_os_error() == Some(Errno::ENOENT as i32);
        each_refused(keys.len(), delete, is_absent)
            .map(drop)
            .with_context(|| format!("delete from {}", self.label))
    }

    /// The kernel's number of the map.
    pub(super) fn number(&self) -> Result<u32> {
        let info = self.handle.info().with_context(|| format!("look at {}", self.label))?;
        Ok(info.info.id)
    }

    /// How many entries it takes.
    pub(super) fn room(&self) -> u32 {
        self.handle.max_entries()
    }

    pub(super) fn set_all(
        &self,
        entries: &[(K, V)],
        mut progress: impl FnMut(usize) -> Result<()>,
    ) -> Result<()> {
        for chunk in entries.chunks(BATCH) {
            self.set_batch(chunk.iter())?;
            progress(chunk.len())?;
        }
        Ok(())
    }

    /// The same by a few threads, for a hash map, whose buckets have locks of their own. Equal keys go
    /// to the same thread, so that the last of their values counts.
    pub(super) fn set_all_at_once(
        &self,
        entries: &[(K, V)],
        mut progress: impl FnMut(usize) -> Result<()>,
    ) -> Result<()>
    where
        K: Sync,
        V: Sync,
    {
        let threads = thread::available_parallelism().map_or(1, NonZero::get).min(MOST_WRITERS);
        for chunk in entries.chunks(BATCH * threads) {
            thread::scope(|scope| {
                let write = |writer| {
                    let mine =
                        move |(key, _): &&(K, V)| share(abi::bytes_of(key), threads) == writer;
                    scope.spawn(move || self.set_batch(chunk.iter().filter(mine)))
                };
                let writers: Vec<_> = (0..threads).map(write).collect();
                let done = writers.into_iter().map(|writer| writer.join().expect("no panic"));
                // All of them, so that none writes on after a failure.
                done.collect::<Vec<Result<()>>>().into_iter().collect::<Result<()>>()
            })?;
            progress(chunk.len())?;
        }
        Ok(())
    }

    fn set_batch<'a>(&self, entries: impl Iterator<Item = &'a (K, V)>) -> Result<()>
    where
        K: 'a,
        V: 'a,
    {
        let (mut keys, mut values, mut count) = (Vec::new(), Vec::new(), 0);
        for (key, value) in entries {
            keys.extend_from_slice(abi::bytes_of(key));
            values.extend_from_slice(abi::bytes_of(value));
            count += 1;
        }
        if count == 0 {
            return Ok(());
        }
        self.handle
            .update_batch(&keys, &values, count, MapFlags::ANY, MapFlags::ANY)
            .with_context(|| format!("write to {}", self.label))
    }

    pub(super) fn is_empty(&self) -> bool {
        self.handle.keys().next().is_none()
    }

    /// Fails if `new` does not fit in beside what was there `before`.
    pub(super) fn check_room(
        &self,
        new: &[(K, V)],
        before: &[(K, V)],
        size_flag: &str,
    ) -> Result<()> {
        let most = self.handle.max_entries() as usize;
        if before.len() + new.len() <= most {
            return Ok(());
        }
        let mut all: HashSet<&[u8]> = before.iter().map(|(key, _)| abi::bytes_of(key)).collect();
        all.extend(new.iter().map(|(key, _)| abi::bytes_of(key)));
        ensure!(
            all.len() <= most,
            "{} takes {most} entries: {} are there and {} would be; its size counts when it is \
             made ({size_flag})",
            self.label,
            before.len(),
            all.len()
        );
        Ok(())
    }

    /// Puts back what was there before `new` was written, the last one first.
    pub(super) fn restore(&self, new: &[(K, V)], before: &[(K, V)]) -> Result<()> {
        let before: HashMap<&[u8], &V> =
            before.iter().map(|(key, value)| (abi::bytes_of(key), value)).collect();
        for (key, _) in new.iter().rev() {
            match before.get(abi::bytes_of(key)) {
                Some(value) => self.set(key, value)?,
                None => _ = self.delete(key)?,
            }
        }
        Ok(())
    }
}

impl<V: Plain + Default> TypedMap<cm_prefix, V> {
    /// The entry of exactly this prefix; `get` answers with the longest one around it.
    pub(super) fn get_exactly(&self, key: &cm_prefix) -> Result<Option<V>> {
        let Some(found) = self.get(key)? else { return Ok(None) };
        // Whatever differs from what the next shorter one has is its own.
        let shorter = cm_prefix { prefixlen: key.prefixlen.saturating_sub(1), ..*key };
        let around = self.get(&shorter)?;
        if around.is_none_or(|around| abi::bytes_of(&around) != abi::bytes_of(&found)) {
            return Ok(Some(found));
        }
        let mut entries = self.entries()?.into_iter();
        let own = entries.find(|(other, _)| abi::bytes_of(other) == abi::bytes_of(key));
        Ok(own.map(|(_, value)| value))
    }
}

/// Does something with many, from one on; what it refuses for a reason that concerns that one alone is left out. The places
/// of these.
fn each_refused(
    count: usize,
    mut from: impl FnMut(usize) -> (u32, io::Result<()>),
    is_its_own: impl Fn(&io::Error) -> bool,
) -> io::Result<Vec<usize>> {
    let (mut at, mut refused) = (0, Vec::new());
    while at < count {
        match from(at) {
            (_, Ok(())) => break,
            // The kernel says how many it has done, unless it has not even begun.
            (done, Err(error)) if is_its_own(&error) && (done as usize) < count - at => {
                refused.push(at + done as usize);
                at += done as usize + 1;
            }
            (_, Err(error)) => return Err(error),
        }
    }
    Ok(refused)
}

/// Hash maps say E2BIG, tries ENOSPC.
fn has_no_room(error: &io::Error) -> bool {
    [Errno::E2BIG, Errno::ENOSPC].iter().any(|errno| error.raw_os_error() == Some(*errno as i32))
}

/// Which of so many writers writes a key: FNV-1a, as good as any.
fn share(key: &[u8], writers: usize) -> usize {
    let mix = |hash: u32, byte: &u8| (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193);
    (key.iter().fold(0x811c_9dc5, mix) >> 8) as usize % writers
}

/// `cm_identities`: the operator's names.
pub struct Identities {
    map: TypedMap<u32_key, cm_identity>,
}

impl Identities {
    /// `None` if nobody has made the map yet.
    pub fn open(root: &Root) -> Result<Option<Identities>> {
        Ok(TypedMap::open(root, "cm_identities")?.map(|map| Identities { map }))
    }

    /// All of them.
    pub fn names(&self) -> Result<Names> {
        let names = self.map.entries()?.into_iter();
        Ok(Names::new(names.map(|(key, value)| (Identity(key.0), abi::string_of(&value.name)))))
    }

    /// Declares a name, which has been checked.
    pub fn set(&self, identity: Identity, name: &str, origin: Origin) -> Result<()> {
        let origin = origin.number();
        self.map.set(&u32_key(identity.0), &cm_identity { name: abi::chars_of(name), origin })
    }

    /// Who has declared each of them.
    pub fn origins(&self) -> Result<HashMap<Identity, Origin>> {
        let entries = self.map.entries()?.into_iter();
        Ok(entries.map(|(key, value)| (Identity(key.0), Origin::of_number(value.origin))).collect())
    }

    /// Whether there was a name to delete.
    pub fn delete(&self, identity: Identity) -> Result<bool> {
        self.map.delete(&u32_key(identity.0))
    }
}

/// The names of identities; only the reserved ones where nobody has declared any.
pub fn names(root: &Root) -> Result<Names> {
    let names = Identities::open(root)?.map(|identities| identities.names()).transpose()?;
    Ok(names.unwrap_or_default())
}

/// The map whose name ends so among those of a program, if it is there. The youngest first: those of an
/// endpoint's own were made after the shared ones.
pub fn of_program(map_ids: &[u32], suffix: &str) -> Result<Option<MapHandle>> {
    for id in map_ids {
        let map = MapHandle::from_map_id(*id).with_context(|| format!("open map {id}"))?;
        if map.name().to_string_lossy().ends_with(suffix) {
            return Ok(Some(map));
        }
    }
    Ok(None)
}
