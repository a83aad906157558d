//! From rules to the entries of the kernel's table (`cm_policy`).
//!
//! A rule covers some prefixes of a key: a range of ports is up to 104 of them, since the lengths of
//! prefixes differ by four bits, for the kernel asks for one length after the other. It finds the longest
//! prefix that anybody covers. All rules that match a packet cover this prefix or a shorter one of it, and
//! nobody covers a longer one; so its entry names the one of them that decides, and no order of the rules,
//! no overlap and no deny needs further entries.
//!
//! Since a prefix has but one identity, the kernel looks for two, with the peer's identity and with 0 for
//! any, and takes the first that there is of: a deny of the peer's own, a deny of any's, an allow of the
//! peer's own, an allow of any's. That is the precedence of the module above: denies first, then a named
//! peer before any.

use std::cmp::Reverse;

use super::{Listed, Policy};
use crate::model::identity::Identity;
use crate::model::rule::{Action, Direction};
use crate::model::wire::CM_PORT_BLOCK_16;

/// An entry of the table: under this prefix the rule decides, among those for the same identity.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry {
    /// How many ports from this one on: a power of 16, and 2^16 for a protocol, 2^24 for all.
    pub block: u32,
    /// The peer; 0 for any.
    pub identity: Identity,
    /// The direction.
    pub direction: Direction,
    /// 0 where it does not count.
    pub protocol: u8,
    /// Port or ICMP type, host byte order; 0 in bits that do not count.
    pub port: u16,
    /// Who decides.
    pub decides: Listed,
}

/// A prefix of a key, in the order of its bits: identity, direction, protocol, port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Prefix {
    bits: u64,
    length: u32,
}

const KEY_BITS: u32 = 64;
/// The number of bits by which one block of ports differs from the next.
const PORT_BLOCK_STEP: u32 = CM_PORT_BLOCK_16.trailing_zeros();
const PORT_BITS: u32 = 16;
const PROTOCOL_BITS: u32 = 8;

impl Policy {
    /// The entries of the table, without those that say what the next shorter one says already.
    pub fn compile(&self) -> Vec<Entry> {
        let mut by_precedence: Vec<&Listed> = self.rules().iter().collect();
        by_precedence.sort_by_key(|listed| precedence(listed));
        let mut covered: Vec<(Prefix, usize)> = Vec::with_capacity(by_precedence.len());
        for (rank, listed) in by_precedence.iter().enumerate() {
            cover(listed, |prefix| covered.push((prefix, rank)));
        }
        // A prefix comes before all that are within it, and the best of its rules first.
        covered.sort_unstable();
        covered.dedup_by_key(|(prefix, _)| *prefix);

        let mut entries = Vec::with_capacity(covered.len());
        let mut around: Vec<(Prefix, usize)> = Vec::new();
        for (prefix, rank) in covered {
            while around.pop_if(|(outer, _)| !outer.contains(prefix)).is_some() {}
            let outer = around.last().map(|(_, rank)| *rank);
            if outer.is_none_or(|outer| rank < outer) {
                entries.push(prefix.entry(*by_precedence[rank]));
                around.push((prefix, rank));
            }
        }
        entries
    }
}

/// The lower one decides, among rules for the same peer; the sort keeps the order of equals.
fn precedence(listed: &Listed) -> impl Ord + use<> {
    let l4 = listed.rule.l4;
    let block = l4.range().map(|(first, last)| last - first);
    let unspecific = (Reverse(l4.protocol().is_some()), Reverse(block.is_some()), block);
    (listed.rule.action == Action::Allow, unspecific)
}

/// Every prefix that a rule covers.
fn cover(Listed { rule, .. }: &Listed, mut take: impl FnMut(Prefix)) {
    let direction = match rule.direction {
        Direction::Ingress => 0,
        Direction::Egress => 1,
    };
    let above = u64::from(rule.peer.0) << 8 | direction;
    let protocol = rule.l4.protocol().unwrap_or(0);
    let bits = (above << PROTOCOL_BITS | u64::from(protocol)) << PORT_BITS;
    match (rule.l4.protocol(), rule.l4.range()) {
        (None, _) => take(Prefix { bits, length: KEY_BITS - PORT_BITS - PROTOCOL_BITS }),
        (_, None) => take(Prefix { bits, length: KEY_BITS - PORT_BITS }),
        (_, Some((first, last))) => {
            let (mut first, end) = (u32::from(first), u32::from(last) + 1);
            while first < end {
                // The largest block that begins here and ends in time.
                let size = PORT_BITS.min(first.trailing_zeros()).min((end - first).ilog2());
                let size = size / PORT_BLOCK_STEP * PORT_BLOCK_STEP;
                take(Prefix { bits: bits | u64::from(first), length: KEY_BITS - size });
                first += 1 << size;
            }
        }
    }
}

impl Prefix {
    fn contains(self, other: Prefix) -> bool {
        self.length <= other.length && (self.bits ^ other.bits) >> (KEY_BITS - self.length) == 0
    }

    fn entry(self, decides: Listed) -> Entry {
        Entry {
            block: 1 << (KEY_BITS - self.length),
            identity: decides.rule.peer,
            direction: decides.rule.direction,
            protocol: (self.bits >> PORT_BITS) as u8,
            port: self.bits as u16,
            decides,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::tests::policy;
    use super::super::{Decision, decide};
    use super::*;
    use crate::model::rule::Rule;
    use crate::model::rule::tests::any_rule;

    fn key(identity: Identity, direction: Direction, protocol: u8, port: u16) -> u64 {
        let direction = u64::from(direction == Direction::Egress);
        u64::from(identity.0) << 32 | direction << 24 | u64::from(protocol) << 16 | u64::from(port)
    }

    /// What the kernel finds for an identity.
    fn longest_match(entries: &[Entry], key_of_packet: u64) -> Option<&Entry> {
        let matching = entries.iter().filter(|entry| {
            let of_entry = key(entry.identity, entry.direction, entry.protocol, entry.port);
            of_entry == key_of_packet & !(u64::from(entry.block) - 1)
        });
        matching.min_by_key(|entry| entry.block)
    }

    /// The two lookups of src/bpf/lib/policy.h.
    fn two_lookups(
        entries: &[Entry],
        direction: Direction,
        peer: Identity,
        protocol: u8,
        port: u16,
    ) -> Decision {
        let denies = |entry: &Entry| entry.decides.rule.action == Action::Deny;
        let own = longest_match(entries, key(peer, direction, protocol, port));
        let any = longest_match(entries, key(Rule::ANY, direction, protocol, port));
        let decides = match (own, any) {
            (Some(own), Some(any)) if denies(any) && !denies(own) => any,
            (Some(own), _) => own,
            (None, Some(any)) => any,
            (None, None) => return Decision::NoMatch,
        };
        match decides.decides.rule.action {
            Action::Allow => Decision::Allow(decides.decides.number),
            Action::Deny => Decision::Deny(decides.decides.number),
        }
    }

    /// Spans in bits, ports and rules.
    fn prefixes(texts: &[&str]) -> Vec<(u32, u16, u32)> {
        let entries = policy(texts).compile();
        entries.iter().map(|e| (e.block.ilog2(), e.port, e.decides.number.0)).collect()
    }

    #[test]
    fn parts_of_a_rule_become_port_blocks() {
        assert_eq!(prefixes(&["allow ingress from 9"]), [(24, 0, 16)]);
        assert_eq!(prefixes(&["allow ingress from 9 proto/47"]), [(16, 0, 16)]);
        assert_eq!(prefixes(&["allow ingress from 9 tcp/443"]), [(0, 443, 16)]);
        assert_eq!(prefixes(&["allow ingress from 9 icmp/8"]), [(0, 8, 16)]);
        assert_eq!(prefixes(&["allow ingress from 9 tcp/0-65535"]), [(16, 0, 16)]);
        let range = prefixes(&["allow ingress from 9 tcp/80-97"]);
        assert_eq!(range, [(4, 80, 16), (0, 96, 16), (0, 97, 16)]);
        let blocks = |range| prefixes(&[range]).iter().map(|(block, ..)| *block).max();
        assert_eq!(blocks("allow ingress from 9 tcp/4096-8191"), Some(12));
        assert_eq!(prefixes(&["allow ingress from 9 tcp/1-65534"]).len(), 104);
    }

    #[test]
    fn what_the_prefix_around_it_says_already_takes_no_entry() {
        let under_deny =
            ["allow ingress from 9 tcp/80", "allow ingress from 9 tcp", "deny ingress from 9"];
        assert_eq!(prefixes(&under_deny), [(24, 0, 18)]);
        let within_range = ["deny ingress from 9 tcp/256-511", "deny ingress from 9 tcp/0-65535"];
        assert_eq!(prefixes(&within_range), [(16, 0, 17), (8, 256, 16)]);
        let other_peer = ["deny ingress from any", "deny ingress from 9"];
        assert_eq!(prefixes(&other_peer).len(), 2);
    }

    #[test]
    fn a_hole_in_a_range_costs_one_entry() {
        let range = "allow ingress from 9 tcp/1-65534";
        assert_eq!(prefixes(&[range, "deny ingress from 9 tcp/4711"]).len(), 105);
    }

    /// The ends of all ranges, and what lies just outside of them.
    fn services(rules: &[Listed]) -> Vec<u16> {
        let ranges = rules.iter().filter_map(|listed| listed.rule.l4.range());
        let edges = ranges.flat_map(|(first, last)| {
            [first.wrapping_sub(1), first, first.midpoint(last), last, last.wrapping_add(1)]
        });
        edges.chain([0, 8, 65535]).collect()
    }

    /// Few starts and few lengths, so that ranges overlap, and as often as not are equally long.
    fn ranges() -> impl Strategy<Value = (u16, u16)> {
        let start = prop_oneof![0..20_u16, 1000..1040_u16, 65500..=u16::MAX];
        let block = prop::sample::select(vec![0, 1, 7, 7, 7, 16, u16::MAX]);
        (start, block).prop_map(|(start, block)| (start, start.saturating_add(block)))
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(512))]

        #[test]
        fn the_kernels_two_lookups_find_the_rule_that_decides(
            rules in prop::collection::vec(any_rule(&[0, 0, 1, 9], ranges()), 0..24)
        ) {
            let policy = Policy::default().replaced_by(&rules, &Policy::default());
            let entries = policy.compile();
            for direction in [Direction::Ingress, Direction::Egress] {
                for peer in [0, 1, 9, 10].map(Identity) {
                    for protocol in [1, 6, 17, 47, 58, 132] {
                        for service in services(policy.rules()) {
                            prop_assert_eq!(
                                two_lookups(&entries, direction, peer, protocol, service),
                                decide(policy.rules(), direction, peer, protocol, service),
                                "{} {:?} {} {}", peer, direction, protocol, service
                            );
                        }
                    }
                }
            }
        }
    }
}
