//! Prefixes that contain each other as intervals that do not, so that what one search finds is what
//! the longest prefix says.

use ipnet::IpNet;

/// Where prefixes of IPv6 end for an interval, which has the upper half of an address.
const MOST_BITS: u8 = 64;

/// What is known of the addresses of an interval.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Known {
    /// No prefix has them.
    Nobody,
    /// The longest prefix of all of them has this identity, and this length.
    Identity(u32, u8),
    /// IPv6 prefixes longer than 64 bits begin like this, or more than an identity is to be known.
    Mixed,
}

/// Addresses from `start` up to the next interval's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Interval {
    /// An IPv4 address, or the upper 64 bits of an IPv6 address.
    pub start: u64,
    /// What they have in common.
    pub known: Known,
}

/// A prefix on its way to being intervals.
#[derive(Debug, Clone, Copy)]
pub struct Span {
    first: u64,
    last: u64,
    depth: u8,
    known: Known,
}

impl Span {
    /// Of a prefix with an identity.
    pub fn new(prefix: &IpNet, identity: u32) -> Span {
        let length = prefix.prefix_len();
        let (first, last) = ends(prefix);
        let is_whole = length <= MOST_BITS;
        let known = if is_whole { Known::Identity(identity, length) } else { Known::Mixed };
        Span { first, last, depth: length.min(MOST_BITS + 1), known }
    }

    /// Of a prefix of which intervals can't say all.
    pub fn asking(prefix: &IpNet) -> Span {
        Span { known: Known::Mixed, ..Span::new(prefix, 0) }
    }
}

/// The first and the last address of a prefix, as intervals have them: of IPv6 the upper halves.
pub fn ends(prefix: &IpNet) -> (u64, u64) {
    match prefix {
        IpNet::V4(net) => (net.network().to_bits().into(), net.broadcast().to_bits().into()),
        IpNet::V6(net) => {
            let upper = |bits: u128| (bits >> 64) as u64;
            (upper(net.network().to_bits()), upper(net.broadcast().to_bits()))
        }
    }
}

/// Whether a prefix is one of whole addresses, as intervals have them.
pub fn is_whole(prefix: &IpNet) -> bool {
    prefix.prefix_len() <= MOST_BITS
}

/// The intervals of the prefixes of one family: sorted, the first from 0 on, neighbours different. Of
/// two that are the same prefix the later one counts.
pub fn intervals(mut spans: Vec<Span>) -> Vec<Interval> {
    // Whoever contains another comes before it.
    spans.sort_by_key(|span| (span.first, span.depth));
    let mut sweep = Sweep { open: Vec::new(), intervals: Vec::with_capacity(2 * spans.len() + 1) };
    sweep.change_at(0, Known::Nobody);
    for span in spans {
        sweep.close_before(span.first);
        sweep.change_at(span.first, span.known);
        sweep.open.push(span);
    }
    sweep.close_all();
    sweep.intervals
}

/// A walk from the lowest address to the highest.
struct Sweep {
    /// The prefixes that the walk is in, each within the one before.
    open: Vec<Span>,
    intervals: Vec<Interval>,
}

impl Sweep {
    fn close_before(&mut self, address: u64) {
        while self.open.last().is_some_and(|span| span.last < address) {
            self.close();
        }
    }

    fn close_all(&mut self) {
        while !self.open.is_empty() {
            self.close();
        }
    }

    fn close(&mut self) {
        let span = self.open.pop();
        let outer = self.open.last().map_or(Known::Nobody, |outer| outer.known);
        if let Some(next) = span.and_then(|span| span.last.checked_add(1)) {
            self.change_at(next, outer);
        }
    }

    fn change_at(&mut self, start: u64, known: Known) {
        self.intervals.pop_if(|last| last.start == start);
        if self.intervals.last().is_none_or(|last| last.known != known) {
            self.intervals.push(Interval { start, known });
        }
    }
}

/// Those below an address, and those from it on, which then begin there.
pub fn split_at(intervals: &[Interval], address: u64) -> (Vec<Interval>, Vec<Interval>) {
    let place = intervals.partition_point(|interval| interval.start < address);
    let (below, rest) = intervals.split_at(place);
    let mut above = rest.to_vec();
    if let Some(before) = below.last()
        && rest.first().is_none_or(|first| first.start != address)
    {
        above.insert(0, Interval { start: address, known: before.known });
    }
    (below.to_vec(), above)
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

    use proptest::prelude::*;

    use super::*;

    type Line = (IpNet, u32);

    fn lines(texts: &[(&str, u32)]) -> Vec<Line> {
        texts.iter().map(|(text, identity)| (text.parse().unwrap(), *identity)).collect()
    }

    fn of(lines: &[Line]) -> Vec<Interval> {
        intervals(lines.iter().map(|(prefix, identity)| Span::new(prefix, *identity)).collect())
    }

    fn starts(lines: &[Line]) -> Vec<(u64, Known)> {
        of(lines).iter().map(|interval| (interval.start, interval.known)).collect()
    }

    fn find(intervals: &[Interval], address: IpAddr) -> Known {
        let key = match address {
            IpAddr::V4(v4) => v4.to_bits().into(),
            IpAddr::V6(v6) => (v6.to_bits() >> 64) as u64,
        };
        let place = intervals.partition_point(|interval| interval.start <= key);
        intervals[place - 1].known
    }

    /// By looking at each prefix.
    fn longest(lines: &[Line], address: IpAddr) -> Known {
        let begins_like = |net: &IpNet| match (net, address) {
            (IpNet::V6(net), IpAddr::V6(v6)) if net.prefix_len() > MOST_BITS => {
                net.network().to_bits() >> 64 == v6.to_bits() >> 64
            }
            _ => false,
        };
        if lines.iter().any(|(net, _)| begins_like(net)) {
            return Known::Mixed;
        }
        let matching = lines.iter().filter(|(net, _)| net.contains(&address));
        let longest = matching.max_by_key(|(net, _)| net.prefix_len());
        longest
            .map_or(Known::Nobody, |(net, identity)| Known::Identity(*identity, net.prefix_len()))
    }

    #[test]
    fn nested_adjacent_and_equal_prefixes_part_where_the_answer_changes() {
        let at = |a: u8, b: u8, c: u8, d: u8| u64::from(Ipv4Addr::new(a, b, c, d).to_bits());
        let nobody = Known::Nobody;
        let (one, two) = (Known::Identity(1, 8), Known::Identity(2, 16));
        let nested = lines(&[("10.0.0.0/8", 1), ("10.1.0.0/16", 2)]);
        assert_eq!(
            starts(&nested),
            [
                (0, nobody),
                (at(10, 0, 0, 0), one),
                (at(10, 1, 0, 0), two),
                (at(10, 2, 0, 0), one),
                (at(11, 0, 0, 0), nobody)
            ]
        );
        let adjacent = lines(&[("10.0.1.0/24", 1), ("10.0.0.0/24", 1)]);
        assert_eq!(
            starts(&adjacent),
            [(0, nobody), (at(10, 0, 0, 0), Known::Identity(1, 24)), (at(10, 0, 2, 0), nobody)]
        );
        assert_eq!(
            starts(&lines(&[("10.0.0.0/8", 1), ("10.0.0.0/8", 2)])),
            [(0, nobody), (at(10, 0, 0, 0), Known::Identity(2, 8)), (at(11, 0, 0, 0), nobody)]
        );
        assert_eq!(starts(&[]), [(0, nobody)]);
    }

    #[test]
    fn the_ends_of_the_address_space_belong_to_whoever_has_them() {
        let everything = lines(&[("::/0", 1), ("::/64", 2), ("ffff:ffff:ffff:ffff::/64", 3)]);
        assert_eq!(
            starts(&everything),
            [
                (0, Known::Identity(2, 64)),
                (1, Known::Identity(1, 0)),
                (u64::MAX, Known::Identity(3, 64))
            ]
        );
        assert_eq!(starts(&lines(&[("0.0.0.0/0", 1)]))[0], (0, Known::Identity(1, 0)));
    }

    #[test]
    fn what_is_longer_than_an_interval_can_say_is_mixed() {
        let lines = lines(&[("fd00::/64", 1), ("fd00::/65", 2), ("fd00:0:0:1::/127", 3)]);
        let upper = 0xfd00 << 48;
        assert_eq!(
            starts(&lines),
            [(0, Known::Nobody), (upper, Known::Mixed), (upper + 2, Known::Nobody)]
        );
    }

    #[test]
    fn a_half_begins_at_its_first_address() {
        let half = 1 << 63;
        let (below, above) = split_at(&of(&lines(&[("::/0", 1), ("fd00::/8", 2)])), half);
        assert_eq!(below, [Interval { start: 0, known: Known::Identity(1, 0) }]);
        assert_eq!(above[0], Interval { start: half, known: Known::Identity(1, 0) });
        assert_eq!(above[1], Interval { start: 0xfd00 << 48, known: Known::Identity(2, 8) });
        let (below, above) = split_at(&of(&lines(&[("8000::/1", 1)])), half);
        assert_eq!(below, [Interval { start: 0, known: Known::Nobody }]);
        assert_eq!(above, [Interval { start: half, known: Known::Identity(1, 1) }]);
    }

    /// Few bits that differ, so that prefixes meet.
    fn some_lines(is_v4: bool) -> impl Strategy<Value = Vec<Line>> {
        let address = prop_oneof![Just(0), Just(u128::MAX), any::<u128>()];
        let spread = prop_oneof![Just(0u128), Just(0xf << 60), Just(0xff << 120), Just(u128::MAX)];
        let line = (any::<u128>(), address, spread, 0..=128u8, 0..6u32);
        let common = 0xfd00_0000_0000_0000_0000_0000_0000_0000_u128;
        prop::collection::vec(line, 0..40).prop_map(move |lines| {
            let line = |(bits, whole, spread, length, identity): (u128, u128, u128, u8, u32)| {
                let bits = if spread == u128::MAX { whole } else { common ^ (bits & spread) };
                let net = if is_v4 {
                    let address = Ipv4Addr::from_bits((bits >> 96) as u32 ^ (bits >> 48) as u32);
                    IpNet::new(address.into(), length / 4)
                } else {
                    IpNet::new(Ipv6Addr::from_bits(bits).into(), length)
                };
                (net.expect("a length of the family").trunc(), identity)
            };
            let mut lines: Vec<Line> = lines.into_iter().map(line).collect();
            lines.sort();
            lines.dedup_by_key(|(net, _)| *net);
            lines
        })
    }

    /// The ends of each prefix and their neighbours.
    fn probes(lines: &[Line]) -> Vec<IpAddr> {
        let ends = lines.iter().flat_map(|(net, _)| [net.network(), net.broadcast()]);
        let around = |end| match end {
            IpAddr::V4(v4) => [-1i32, 0, 1]
                .map(|by| Ipv4Addr::from_bits(v4.to_bits().wrapping_add_signed(by)).into()),
            IpAddr::V6(v6) => [-1i128, 0, 1]
                .map(|by| Ipv6Addr::from_bits(v6.to_bits().wrapping_add_signed(by)).into()),
        };
        ends.flat_map(around).collect()
    }

    proptest! {
        #[test]
        fn intervals_say_what_the_longest_prefix_says(
            lines in any::<bool>().prop_flat_map(some_lines),
            random in any::<u128>(),
        ) {
            let intervals = of(&lines);
            prop_assert_eq!(intervals[0].start, 0);
            prop_assert!(intervals.windows(2).all(|two| two[0].start < two[1].start));
            prop_assert!(intervals.windows(2).all(|two| two[0].known != two[1].known));
            let random = match lines.first() {
                Some((IpNet::V4(_), _)) => Ipv4Addr::from_bits(random as u32).into(),
                _ => Ipv6Addr::from_bits(random).into(),
            };
            for address in probes(&lines).into_iter().chain([random]) {
                let found = find(&intervals, address);
                prop_assert_eq!(found, longest(&lines, address), "{}", address);
            }
        }
    }
}
