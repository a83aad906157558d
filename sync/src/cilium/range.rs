//! Which numbers are a cluster's (Cilium pkg/identity/numericidentity.go).

/// The numbers of a cluster: its own number above 16 bits, or above 15 where 511 clusters are connected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Range {
    /// The first.
    pub first: u32,
    /// The last.
    pub last: u32,
}

/// What is below is the same in all clusters.
pub const FIRST_OF_CLUSTERS: u32 = 256;

impl Range {
    /// Of a cluster's number, among at most `max_clusters`: 255 or 511.
    pub fn of(cluster: u16, max_clusters: u16) -> Range {
        let bits = if max_clusters > 255 { 15 } else { 16 };
        let first = u32::from(cluster) << bits;
        Range { first: first.max(FIRST_OF_CLUSTERS), last: first | ((1 << bits) - 1) }
    }

    /// Whether a number is in it.
    pub fn contains(&self, number: u32) -> bool {
        (self.first..=self.last).contains(&number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cluster_has_16_bits_of_numbers() {
        assert_eq!(Range::of(2, 255), Range { first: 131_072, last: 196_607 });
        assert_eq!(Range::of(255, 255), Range { first: 0xff_0000, last: 0xff_ffff });
    }

    #[test]
    fn a_cluster_of_511_has_15_bits_of_numbers() {
        assert_eq!(Range::of(3, 511), Range { first: 3 << 15, last: (4 << 15) - 1 });
        assert_eq!(Range::of(511, 511).last, 0xff_ffff);
    }

    #[test]
    fn a_cluster_without_a_number_begins_behind_the_reserved_ones() {
        assert_eq!(Range::of(0, 255), Range { first: 256, last: 65_535 });
    }

    #[test]
    fn ranges_do_not_overlap_and_leave_no_gap() {
        for most in [255, 511] {
            for cluster in 0..most {
                let (one, next) = (Range::of(cluster, most), Range::of(cluster + 1, most));
                assert_eq!(one.last + 1, next.first);
                assert!(one.contains(one.last) && !one.contains(next.first));
            }
        }
    }
}
