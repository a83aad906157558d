//! Which numbers are a cluster's (Cilium pkg/identity/numericidentity.go).

/// The numbers of a cluster: its own number above 16 bits, or above 15 where 511 clusters are connected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Range {
    /// The first.
    pub first: u32,
    /// The last.
    pub last: u32,
}

impl Range {
    /// Of a cluster's number, among at most `max_clusters`: 255 or 511.
    pub fn of(cluster: u16, max_clusters: u16) -> Range {
        let _ = (cluster, max_clusters);
        todo!()
    }

    /// Whether a number is in it.
    pub fn contains(&self, number: u32) -> bool {
        (self.first..=self.last).contains(&number)
    }
}
