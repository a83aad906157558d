//! Where what lies (Cilium pkg/kvstore, pkg/ipcache/kvstore.go, pkg/kvstore/allocator).

/// Written every minute, so that readers see that somebody is there; RFC 3339.
pub const HEARTBEAT: &str = "cilium/.heartbeat";
/// Addresses of a cluster in its own etcd.
pub const ADDRESSES: &str = "cilium/state/ip/v1/default/";
/// Identities: a number each, and its labels.
pub const IDENTITIES: &str = "cilium/state/identities/v1/id/";
/// Who uses which: `<labels>/<node>`, and the number.
pub const USERS: &str = "cilium/state/identities/v1/value/";
/// Locks of labels: `<labels>/<lease>`.
pub const LOCKS: &str = "cilium/state/identities/v1/locks/";

/// What a cluster says of itself.
pub fn cluster_config(cluster: &str) -> String {
    format!("cilium/cluster-config/{cluster}")
}

/// Where a reader finds a cluster: in its own etcd, or in a cache of Cilium's KVStoreMesh.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Places {
    /// The prefix of addresses, with a slash at its end.
    pub addresses: String,
    /// The prefix of identities, with a slash at its end.
    pub identities: String,
    /// The key that is there once all addresses are, if the cluster says so.
    pub addresses_synced: Option<String>,
    /// The same of identities.
    pub identities_synced: Option<String>,
}
