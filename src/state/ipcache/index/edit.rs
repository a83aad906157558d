//! One prefix more, another one or one less in an index that packets search meanwhile.
//!
//! Only values of leaves change, each in one store. First all that the prefix decides, or is going to, become *ask the
//! trie*; then the trie changes; then they become what it says now. So a packet finds in the index what was true before
//! or after, or asks the trie, also after a command that died in between. An interval of which the prefix has a part only
//! goes on asking the trie, until the next `load`.

use std::sync::atomic::{AtomicU64, Ordering};

use super::{END, LEVELS, LINES, line_word, word_of};
use crate::kernel::abi::cm_index_known;
use crate::model::interval::Known;

/// Words of a line, bound and value.
const WORDS: usize = 2;

/// What becomes of a prefix of some length.
#[derive(Debug, Clone, Copy)]
pub(in crate::state::ipcache) enum Change {
    /// It is there, and this is said of it.
    Set(Said),
    /// It is gone, and this is said of the prefix around it.
    Gone(Said),
}

/// What is said of a prefix.
#[derive(Debug, Clone, Copy)]
pub(in crate::state::ipcache) enum Said {
    /// It has this identity.
    Identity(u32),
    /// The trie knows more of it.
    AskTrie,
    /// There is none.
    Nobody,
}

/// The addresses of a prefix in one tree.
#[derive(Debug, Clone, Copy)]
pub(super) struct Reach {
    pub first: u64,
    pub last: u64,
    /// The last address that there is.
    pub end: u64,
    /// Of the prefix.
    pub length: u8,
    /// Whether it has all of these addresses, and not a part of what each stands for.
    pub is_whole: bool,
}

/// Values that are going to be written, by where they stand.
pub(super) type Rest = Vec<(usize, u64)>;

/// Before the trie changes: what it decides asks that. The answer is for `finish`; `None` if these are no nodes of a tree.
pub(super) fn begin(nodes: &[AtomicU64], reach: &Reach, change: Change) -> Option<Rest> {
    let leaves = Leaves::of(nodes)?;
    let mut rest = Rest::new();
    let mut line = leaves.covering(reach.first)?;
    while line < leaves.count && leaves.start(line) <= reach.last {
        let last = leaves.start(line + 1).wrapping_sub(1).min(reach.end);
        let is_covered = reach.is_whole && reach.first <= leaves.start(line) && last <= reach.last;
        let at = leaves.value_at(line);
        let before = nodes[at].load(Ordering::Relaxed);
        if let Some(after) = after(before, reach.length, change, is_covered)
            && after != before
        {
            nodes[at].store(word_of(Known::Mixed), Ordering::SeqCst);
            if after != word_of(Known::Mixed) {
                rest.push((at, after));
            }
        }
        line += 1;
    }
    Some(rest)
}

/// When the trie has changed.
pub(super) fn finish(nodes: &[AtomicU64], rest: &Rest) {
    for (at, after) in rest {
        nodes[*at].store(*after, Ordering::SeqCst);
    }
}

/// What an interval says after a change of a prefix of this length that it has to do with; `None` if another prefix
/// decides there.
fn after(before: u64, length: u8, change: Change, is_covered: bool) -> Option<u64> {
    let kind = cm_index_known((before >> 32 & 0xff) as u32);
    // One more than the length, or 0.
    let decides = u8::try_from(before >> 40).ok()?.checked_sub(1);
    let is_known = decides.is_some() || kind == cm_index_known::CM_INDEX_NOBODY;
    let concerns = match (kind, change) {
        (cm_index_known::CM_INDEX_NOBODY, Change::Set(_)) => true,
        (cm_index_known::CM_INDEX_IDENTITY, Change::Set(_)) => {
            decides.is_none_or(|it| it <= length)
        }
        (cm_index_known::CM_INDEX_IDENTITY, Change::Gone(_)) => {
            decides.is_none_or(|it| it == length)
        }
        _ => false,
    };
    concerns.then(|| match change {
        _ if !is_covered || !is_known => word_of(Known::Mixed),
        Change::Set(Said::Identity(identity)) => word_of(Known::Identity(identity, length)),
        // Of which length is not known: a later change there asks the trie.
        Change::Gone(Said::Identity(identity)) => {
            line_word(cm_index_known::CM_INDEX_IDENTITY, identity)
        }
        Change::Set(Said::AskTrie) | Change::Gone(Said::AskTrie) => word_of(Known::Mixed),
        Change::Set(Said::Nobody) | Change::Gone(Said::Nobody) => word_of(Known::Nobody),
    })
}

/// The lines of the last level.
struct Leaves<'a> {
    nodes: &'a [AtomicU64],
    /// The words before them.
    from: usize,
    count: usize,
}

impl Leaves<'_> {
    fn of(nodes: &[AtomicU64]) -> Option<Leaves<'_>> {
        let mut node = 0;
        for _ in 1..LEVELS {
            let first = nodes.get(node * LINES * WORDS + 1)?;
            node = usize::try_from(first.load(Ordering::Relaxed)).ok()?;
        }
        let from = node.checked_mul(LINES * WORDS)?;
        let count = nodes.len().checked_sub(from)? / WORDS;
        Some(Leaves { nodes, from, count })
    }

    /// Of an unused line, and of one behind the last, it is above all addresses.
    fn start(&self, line: usize) -> u64 {
        let bound = self.nodes.get(self.from + line * WORDS);
        END - bound.map_or(0, |bound| bound.load(Ordering::Relaxed))
    }

    fn value_at(&self, line: usize) -> usize {
        self.from + line * WORDS + 1
    }

    /// The line of the interval that an address is in.
    fn covering(&self, address: u64) -> Option<usize> {
        let (mut low, mut high) = (0, self.count);
        while low < high {
            let middle = low.midpoint(high);
            if self.start(middle) <= address {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        low.checked_sub(1)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::net::{IpAddr, Ipv4Addr};

    use ipnet::IpNet;
    use proptest::prelude::*;

    use super::*;
    use crate::model::interval::{Span, ends, intervals};
    use crate::state::ipcache::index::{tests::search, tree};

    type Table = BTreeMap<IpNet, u32>;

    /// The identity of prefixes that endpoints own.
    const OWNED: u32 = 9;

    fn said(identity: u32) -> Said {
        if identity == OWNED { Said::AskTrie } else { Said::Identity(identity) }
    }

    fn words(table: &Table) -> Vec<AtomicU64> {
        let span = |(net, identity): (&IpNet, &u32)| match *identity {
            OWNED => Span::asking(net),
            identity => Span::new(net, identity),
        };
        let spans = table.iter().map(span).collect();
        let nodes = tree(&intervals(spans)).expect("room");
        let lines = nodes.iter().flat_map(|node| node.lines);
        lines.flat_map(|line| [line.bound, line.value]).map(AtomicU64::new).collect()
    }

    fn find(words: &[AtomicU64], address: u32) -> u64 {
        let load = |word: &AtomicU64| word.load(Ordering::Relaxed);
        search(
            |node, line| {
                let at = (node * LINES + line) * WORDS;
                (load(&words[at]), load(&words[at + 1]))
            },
            address.into(),
        )
    }

    fn longest(table: &Table, net: impl Fn(&IpNet) -> bool) -> Option<u32> {
        let nets = table.iter().filter(|(other, _)| net(other));
        nets.max_by_key(|(net, _)| net.prefix_len()).map(|(_, identity)| *identity)
    }

    fn reach(net: &IpNet) -> Reach {
        let (first, last) = ends(net);
        Reach { first, last, end: u32::MAX.into(), length: net.prefix_len(), is_whole: true }
    }

    /// Sets a prefix, or removes it, and has packets look at each step.
    fn change(
        words: &[AtomicU64],
        table: &mut Table,
        net: IpNet,
        to: Option<u32>,
        look: impl Fn(&Table),
    ) {
        let mut after = table.clone();
        let change = match to {
            Some(identity) => {
                after.insert(net, identity);
                Change::Set(said(identity))
            }
            None => {
                after.remove(&net);
                let around = longest(table, |other| {
                    other.contains(&net) && other.prefix_len() < net.prefix_len()
                });
                Change::Gone(around.map_or(Said::Nobody, said))
            }
        };
        let rest = begin(words, &reach(&net), change).expect("a tree");
        look(table);
        // What is not before is after now: what differs has to ask.
        look(&after);
        *table = after;
        finish(words, &rest);
        look(table);
    }

    /// Whether the index says of an address what the table says, or to ask the trie.
    fn agrees(words: &[AtomicU64], table: &Table, address: u32) -> bool {
        let word = find(words, address) & 0xff_ffff_ffff;
        let address = IpAddr::from(Ipv4Addr::from_bits(address));
        let identity = longest(table, |net| net.contains(&address));
        let known = match identity {
            Some(OWNED) => word_of(Known::Mixed),
            Some(identity) => line_word(cm_index_known::CM_INDEX_IDENTITY, identity),
            None => word_of(Known::Nobody),
        };
        word == known || word == word_of(Known::Mixed)
    }

    fn asks(words: &[AtomicU64], address: [u8; 4]) -> bool {
        find(words, u32::from_be_bytes(address)) == word_of(Known::Mixed)
    }

    fn table(lines: &[(&str, u32)]) -> Table {
        lines.iter().map(|(net, identity)| (net.parse().expect("a prefix"), *identity)).collect()
    }

    #[test]
    fn what_has_intervals_of_its_own_asks_nobody_afterwards() {
        let mut table = table(&[("10.0.0.0/8", 1), ("10.1.0.0/16", 2), ("10.1.1.0/24", 3)]);
        let words = words(&table);
        for (net, to) in [("10.1.0.0/16", Some(4)), ("10.0.0.0/8", Some(5)), ("10.1.1.0/24", None)]
        {
            change(&words, &mut table, net.parse().expect("a prefix"), to, |_| {});
            for address in [[10, 0, 0, 1], [10, 1, 0, 1], [10, 1, 1, 1], [10, 255, 0, 1]] {
                assert!(!asks(&words, address), "{address:?} after {net}");
                assert!(
                    agrees(&words, &table, u32::from_be_bytes(address)),
                    "{address:?} after {net}"
                );
            }
        }
        change(&words, &mut table, "0.0.0.0/0".parse().expect("a prefix"), Some(6), |_| {});
        assert!(!asks(&words, [9, 0, 0, 1]) && !asks(&words, [255, 255, 255, 255]));
        assert!(agrees(&words, &table, 0x0900_0001) && agrees(&words, &table, u32::MAX));
    }

    #[test]
    fn only_the_interval_that_a_new_prefix_parts_asks_the_trie() {
        let mut table = table(&[("10.0.0.0/8", 1), ("10.1.0.0/16", 2), ("11.0.0.0/8", 3)]);
        let words = words(&table);
        change(&words, &mut table, "10.1.1.0/24".parse().expect("a prefix"), Some(4), |_| {});
        assert!(asks(&words, [10, 1, 1, 1]) && asks(&words, [10, 1, 0, 1]));
        assert!(
            !asks(&words, [10, 0, 0, 1])
                && !asks(&words, [10, 2, 0, 1])
                && !asks(&words, [11, 0, 0, 1])
        );
    }

    fn net() -> impl Strategy<Value = IpNet> {
        let bits = prop_oneof![Just(0u32), Just(u32::MAX), any::<u32>()];
        let spread =
            prop_oneof![Just(0x0300_0000u32), Just(0x0303_0000), Just(0x0000_0303), Just(u32::MAX)];
        (bits, spread, 0..=32u8).prop_map(|(bits, spread, length)| {
            IpNet::new(Ipv4Addr::from_bits(0x0a00_0000 ^ (bits & spread)).into(), length)
                .expect("a length")
                .trunc()
        })
    }

    fn identity() -> impl Strategy<Value = u32> {
        prop_oneof![1..5u32, 1..5u32, Just(OWNED)]
    }

    proptest! {
        #[test]
        fn at_each_step_of_each_change_an_address_has_an_answer_of_before_or_of_after(
            first in prop::collection::vec((net(), identity()), 0..60),
            changes in prop::collection::vec((net(), prop::option::of(identity()), any::<prop::sample::Index>(), any::<bool>()), 1..30),
            random in any::<u32>(),
        ) {
            let mut table: Table = first.into_iter().collect();
            let words = words(&table);
            let mut probes: Vec<u32> = vec![random];
            let mut around = |net: &IpNet| {
                let (first, last) = ends(net);
                for end in [first as u32, last as u32] {
                    probes.extend([end.wrapping_sub(1), end, end.wrapping_add(1)]);
                }
            };
            table.keys().for_each(&mut around);
            changes.iter().for_each(|(net, ..)| around(net));
            for (net, to, index, is_known) in changes {
                let known = table.keys().nth(index.index(table.len().max(1))).copied();
                let net = known.filter(|_| is_known).unwrap_or(net);
                if to.is_none() && !table.contains_key(&net) {
                    continue;
                }
                change(&words, &mut table, net, to, |table| {
                    for probe in &probes {
                        assert!(agrees(&words, table, *probe), "{probe:#x} with {net} to {to:?}");
                    }
                });
            }
        }
    }
}
