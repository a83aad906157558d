//! How full the maps are whose entries user space writes, or programs without evicting any.

use anyhow::{Context as _, Result};
use libbpf_rs::MapCore as _;

use crate::kernel::sys;
use crate::state::pin::{self, Root};

/// Entries of one batch call, which also a trie answers in some milliseconds.
const BATCH: usize = 1 << 15;

/// How many entries a pinned map has, and how many it takes; `None` if nobody has made it. A million of a hash map are
/// counted in a tenth of a second, of a trie in one.
pub fn used(root: &Root, name: &str) -> Result<Option<(u64, u64)>> {
    let Some(map) = pin::open_map(&root.map(name))? else { return Ok(None) };
    let (mut count, key_size) = (0, map.key_size() as usize);
    sys::for_each_batch(&map, BATCH, |keys, _| count += (keys.len() / key_size) as u64)
        .with_context(|| format!("read {name}"))?;
    Ok(Some((count, map.max_entries().into())))
}
