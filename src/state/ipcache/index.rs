//! `cm_ipcache_idx`: the prefixes once more, for the datapath to search where they are many.
//!
//! Its layout stands at `cm_index_node` in src/bpf/abi/maps.h. Whoever changes many prefixes empties the slots first
//! and builds an index of what is there then, which comes into its slot in one step: packets meet no index or one that
//! says the same, also where the command dies in between. A single prefix is changed in place (`edit.rs`).

mod edit;

use std::os::fd::{AsFd, AsRawFd};

use anyhow::{Context, Result};
use edit::Reach;
pub(super) use edit::{Change, Said};
use ipnet::IpNet;
use libbpf_rs::{MapCore, MapFlags, MapHandle, MapType};
use libbpf_sys as bpf;
use log::{debug, warn};

use crate::kernel::abi::{
    self, cm_index_known, cm_index_line, cm_index_node, cm_index_size, cm_index_slot,
    cm_ipcache_entry, cm_prefix, u32_key,
};
use crate::kernel::sys::{self, SharedValue};
use crate::model::interval::{Interval, Known, Span, ends, intervals, is_whole, split_at};
use crate::state::pin::{self, Root};

/// Prefixes of a family below which a trie is not much slower.
pub const LEAST_PREFIXES: usize = 100_000;

const LINES: usize = cm_index_size::CM_INDEX_LINES.0 as usize;
const LEVELS: u32 = cm_index_size::CM_INDEX_LEVELS.0;
/// What no address reaches: a half of the space of IPv6, and all of IPv4.
const END: u64 = 1 << 63;

/// The slots.
pub(super) struct Index {
    slots: MapHandle,
}

/// A change that has begun. Where it is not finished, the datapath goes on asking the trie.
pub(super) struct Edit(Vec<Part>);

struct Part {
    nodes: SharedValue,
    rest: edit::Rest,
}

impl Edit {
    /// After the trie has changed.
    pub(super) fn finish(&self) {
        self.0.iter().for_each(|part| edit::finish(part.nodes.u64s(), &part.rest));
    }
}

impl Index {
    /// `None` if nobody has made it yet, as before there was such a thing.
    pub(super) fn open(root: &Root) -> Result<Option<Index>> {
        let slots = pin::open_map(&root.map("cm_ipcache_idx"))?;
        Ok(slots.map(|slots| Index { slots }))
    }

    /// Before one prefix of the trie changes: what it decides, or is going to, is asked there. An index that can't be
    /// changed goes.
    pub(super) fn begin(&self, prefix: &IpNet, change: Change) -> Result<Edit> {
        let places = places(prefix).into_iter();
        let begun =
            places.filter_map(|(slot, reach)| self.begin_in(slot, &reach, change).transpose());
        begun.collect::<Result<Vec<_>>>().map(Edit).or_else(|error| {
            warn!("the ipcache has no index until the next load, and is slower: {error:#}");
            self.clear().map(|()| Edit(Vec::new()))
        })
    }

    fn begin_in(&self, slot: cm_index_slot, reach: &Reach, change: Change) -> Result<Option<Part>> {
        let key = u32_key(slot.0);
        let id = self.slots.lookup(abi::bytes_of(&key), MapFlags::ANY);
        let Some(id) = id.context("read cm_ipcache_idx")? else { return Ok(None) };
        let id: u32_key = abi::from_bytes(&id)?;
        let array = MapHandle::from_map_id(id.0).context("open the index in cm_ipcache_idx")?;
        let nodes = SharedValue::of_all(&array).context("map the index in cm_ipcache_idx")?;
        let rest = edit::begin(nodes.u64s(), reach, change).context("the index is no tree")?;
        Ok(Some(Part { nodes, rest }))
    }

    /// Before the trie changes: the datapath asks that again.
    pub(super) fn clear(&self) -> Result<()> {
        for slot in 0..self.slots.max_entries() {
            let key = u32_key(slot);
            let key = abi::bytes_of(&key);
            let id = self.slots.lookup(key, MapFlags::ANY).context("read cm_ipcache_idx")?;
            // Emptying an empty one would wait for the datapath, too.
            let Some(id) = id else { continue };
            let id: u32_key = abi::from_bytes(&id)?;
            // Held until the kernel has waited for the datapath: before Linux 6.8, and stable kernels of
            // its time, it frees a map in a slot without (maybe_wait_bpf_programs comes after that).
            let _held = MapHandle::from_map_id(id.0).context("open the index in cm_ipcache_idx")?;
            self.slots.delete(key).context("empty cm_ipcache_idx")?;
        }
        Ok(())
    }

    /// After the trie has changed: what is in it, for each family that has `least` prefixes. Of two
    /// that are the same the later one counts. Without memory for it things are but slower.
    pub(super) fn fill<'a>(
        &self,
        prefixes: impl Iterator<Item = &'a (cm_prefix, cm_ipcache_entry)>,
        least: usize,
    ) {
        let nets = prefixes.filter_map(|(key, entry)| Some((key.to_net()?, entry)));
        let (mut v4, mut v6) = (Vec::new(), Vec::new());
        for (net, entry) in nets {
            let family = if net.addr().is_ipv4() { &mut v4 } else { &mut v6 };
            family.push(match entry.endpoint_id {
                0 => Span::new(&net, entry.identity),
                _ => Span::asking(&net),
            });
        }
        if v4.len() >= least {
            self.put(cm_index_slot::CM_INDEX_IPV4, &intervals(v4));
        }
        if v6.len() >= least {
            let (low, mut high) = split_at(&intervals(v6), END);
            high.iter_mut().for_each(|interval| interval.start -= END);
            self.put(cm_index_slot::CM_INDEX_IPV6_LOW, &low);
            self.put(cm_index_slot::CM_INDEX_IPV6_HIGH, &high);
        }
    }

    fn put(&self, slot: cm_index_slot, intervals: &[Interval]) {
        let Some(nodes) = tree(intervals) else {
            return warn!("{} intervals are too many for an index", intervals.len());
        };
        debug!("an index of {} intervals, {} nodes", intervals.len(), nodes.len());
        if let Err(error) = self.install(slot, &nodes) {
            warn!("the ipcache has no index, and its prefixes are found slowly: {error:#}");
        }
    }

    fn install(&self, slot: cm_index_slot, nodes: &[cm_index_node]) -> Result<()> {
        let options = bpf::bpf_map_create_opts {
            sz: size_of::<bpf::bpf_map_create_opts>() as _,
            map_flags: bpf::BPF_F_INNER_MAP | bpf::BPF_F_MMAPABLE,
            ..Default::default()
        };
        let array = MapHandle::create(
            MapType::Array,
            Some("cm_index"),
            size_of::<u32>() as u32,
            size_of::<cm_index_node>() as u32,
            nodes.len() as u32,
            &options,
        )
        .with_context(|| format!("make an array of {} nodes", nodes.len()))?;
        sys::fill_array(&array, nodes).context("write to cm_index")?;
        let descriptor = array.as_fd().as_raw_fd().to_ne_bytes();
        self.slots
            .update(abi::bytes_of(&u32_key(slot.0)), &descriptor, MapFlags::ANY)
            .context("write to cm_ipcache_idx")
    }
}

/// The nodes of the tree, root first; `None` if it has no room for that many intervals.
fn tree(intervals: &[Interval]) -> Option<Vec<cm_index_node>> {
    if intervals.len() > LINES.pow(LEVELS) {
        return None;
    }
    let of_interval = |interval: &Interval| (interval.start, word_of(interval.known));
    let mut levels = vec![nodes(intervals.iter().map(of_interval))];
    for _ in 1..LEVELS {
        let below = levels.last()?.iter().zip(0..);
        let above = nodes(below.map(|(node, number)| (END - node.lines[0].bound, number)));
        levels.push(above);
    }
    levels.reverse();
    // Numbers of nodes count from where their level begins.
    let mut begin = 0;
    let (_, inner) = levels.split_last_mut()?;
    for level in inner {
        begin += level.len() as u64;
        let lines = level.iter_mut().flat_map(|node| &mut node.lines);
        lines.for_each(|line| line.value += begin);
    }
    Some(levels.concat())
}

/// A level of the tree, from the lowest address and the value of each line.
fn nodes(lines: impl Iterator<Item = (u64, u64)>) -> Vec<cm_index_node> {
    let lines = lines.map(|(start, value)| cm_index_line { bound: END - start, value });
    let lines: Vec<cm_index_line> = lines.collect();
    let node = |chunk: &[cm_index_line]| {
        let mut node = cm_index_node::default();
        node.lines[..chunk.len()].copy_from_slice(chunk);
        node
    };
    lines.chunks(LINES).map(node).collect()
}

/// Where the addresses of a prefix are.
fn places(prefix: &IpNet) -> Vec<(cm_index_slot, Reach)> {
    let (first, last) = ends(prefix);
    let is_whole = is_whole(prefix);
    let reach =
        |first, last, end| Reach { first, last, end, length: prefix.prefix_len(), is_whole };
    if prefix.addr().is_ipv4() {
        return vec![(cm_index_slot::CM_INDEX_IPV4, reach(first, last, u32::MAX.into()))];
    }
    let mut places = Vec::new();
    if first < END {
        let last = last.min(END - 1);
        places.push((cm_index_slot::CM_INDEX_IPV6_LOW, reach(first, last, END - 1)));
    }
    if last >= END {
        let first = first.max(END) - END;
        places.push((cm_index_slot::CM_INDEX_IPV6_HIGH, reach(first, last - END, END - 1)));
    }
    places
}

fn word_of(known: Known) -> u64 {
    match known {
        Known::Mixed => line_word(cm_index_known::CM_INDEX_ASK_TRIE, 0),
        Known::Nobody => line_word(cm_index_known::CM_INDEX_NOBODY, 0),
        Known::Identity(identity, length) => {
            (u64::from(length) + 1) << 40 | line_word(cm_index_known::CM_INDEX_IDENTITY, identity)
        }
    }
}

/// Of a prefix whose length is not known.
fn line_word(known: cm_index_known, identity: u32) -> u64 {
    u64::from(known.0) << 32 | u64::from(identity)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// `index_search` of the datapath; `line` gives bound and value of a node's line.
    pub fn search(line: impl Fn(usize, usize) -> (u64, u64), address: u64) -> u64 {
        let mut number = 0;
        for _ in 0..LEVELS {
            let node = number as usize;
            let step = |at: usize, width: usize| {
                at + ((address + line(node, at + width).0) >> 63) as usize * width
            };
            number = line(node, [8, 4, 2, 1].into_iter().fold(0, step)).1;
        }
        number
    }

    fn check(intervals: &[Interval]) {
        let nodes = tree(intervals).expect("room");
        let line = |node: usize, line: usize| {
            let line = &nodes[node].lines[line];
            (line.bound, line.value)
        };
        for (place, interval) in intervals.iter().enumerate() {
            let last = intervals.get(place + 1).map_or(END - 1, |next| next.start - 1);
            for address in [interval.start, last, interval.start.midpoint(last)] {
                assert_eq!(search(line, address), word_of(interval.known), "{address:#x}");
            }
        }
    }

    fn numbered(starts: impl Iterator<Item = u64>) -> Vec<Interval> {
        let number =
            |(number, start)| Interval { start, known: Known::Identity(number as u32, 32) };
        starts.enumerate().map(number).collect()
    }

    #[test]
    fn trees_of_every_shape_find_every_interval() {
        for count in (1..=2 * LINES * LINES).chain([LINES.pow(3), LINES.pow(3) + 1]) {
            check(&numbered((0..count as u64).map(|number| number << 20)));
        }
        check(&numbered([0, 1, END - 2, END - 1].into_iter()));
    }

    #[test]
    fn more_intervals_than_leaves_hold_get_no_tree() {
        let interval = Interval { start: 0, known: Known::Nobody };
        assert!(tree(&vec![interval; LINES.pow(LEVELS) + 1]).is_none());
    }

    #[test]
    fn each_kind_of_answer_has_a_word_of_its_own() {
        for (known, word) in [
            (Known::Mixed, 0),
            (Known::Nobody, 1 << 32),
            (Known::Identity(u32::MAX, 0), 1 << 40 | 2 << 32 | 0xffff_ffff),
            (Known::Identity(7, 64), 65 << 40 | 2 << 32 | 7),
        ] {
            assert_eq!(word_of(known), word);
        }
    }

    proptest! {
        #[test]
        fn random_intervals_are_found(
            starts in prop::collection::btree_set(0..END, 0..2000),
        ) {
            let rest = starts.into_iter().filter(|start| *start > 0);
            check(&numbered([0].into_iter().chain(rest)));
        }
    }
}
