//! Which lines of others count.

use ipnet::IpNet;

use super::range::Range;
use cilmark::model::identity::Identity;

/// Why a line of a cluster does not count.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Refusal {
    /// The value is not to be read.
    Malformed,
    /// The key says another address than the value.
    OtherKey,
    /// The identity is none of the cluster's: out of its range, and not below 256.
    OutOfRange,
    /// The prefix is shorter than the limit.
    TooWide,
    /// The labels do not name the cluster.
    OtherCluster,
    /// The address is this host's, or one of its endpoints'.
    Own,
}

/// What a key below `ip/v1/` and its value say, by Cilium's rules: [`Identity::HOST`] becomes remote-node (6). `rest` is the
/// key behind the prefix.
pub fn address(
    rest: &str,
    value: &[u8],
    range: &Range,
    limits: &Limits,
) -> Result<(IpNet, Identity), Refusal> {
    let _ = (rest, value, range, limits);
    todo!()
}

/// The labels of a key `id/<N>`: they carry `k8s:io.cilium.k8s.policy.cluster=<cluster>`, and N is in the range.
pub fn identity(
    rest: &str,
    value: &[u8],
    cluster: &str,
    range: &Range,
) -> Result<(Identity, String), Refusal> {
    let _ = (rest, value, cluster, range);
    todo!()
}

/// The shortest prefixes that count, in bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Of IPv4.
    pub ipv4: u8,
    /// Of IPv6.
    pub ipv6: u8,
}
