//! Where what lies (Cilium pkg/kvstore, pkg/ipcache/kvstore.go, pkg/kvstore/allocator).

use std::fmt::Write;
use std::net::{IpAddr, Ipv4Addr};

use super::cluster_config::Capabilities;
use cilmark::model::identity::Identity;

/// All of Cilium's keys.
pub const ALL: &str = "cilium/";
/// What a cluster is: its addresses, identities, nodes and services.
pub const STATE: &str = "cilium/state/";
/// cilmark's own keys begin like this, which Cilium does not read.
pub const OF_CILMARK: &str = "cilium/.cilmark-";
/// Written every minute, so that readers see that somebody is there; RFC 3339.
pub const HEARTBEAT: &str = "cilium/.heartbeat";
/// Addresses of a cluster in its own etcd.
pub const ADDRESSES: &str = "cilium/state/ip/v1/default/";
/// All that makes identities: numbers, users and locks.
pub const STATE_OF_IDENTITIES: &str = "cilium/state/identities/v1/";
/// Identities: a number each, and its labels.
pub const IDENTITIES: &str = "cilium/state/identities/v1/id/";
/// Who uses which: `<labels>/<node>`, and the number.
pub const USERS: &str = "cilium/state/identities/v1/value/";
/// Locks of labels: `<labels>/<lease>`.
pub const LOCKS: &str = "cilium/state/identities/v1/locks/";
/// What clusters say of themselves: `<cluster>`.
pub const CLUSTER_CONFIGS: &str = "cilium/cluster-config/";

/// cilmark's own: who collects unused identities has this lock.
pub const GARBAGE_LOCK: &str = "cilium/.cilmark-gc";
/// cilmark's own: `<node>`, and which host that is, so that no two call themselves the same.
pub const NODES_OF_CILMARK: &str = "cilium/.cilmark-node/";

/// What a cluster says of itself.
pub fn cluster_config(cluster: &str) -> String {
    format!("{CLUSTER_CONFIGS}{cluster}")
}

/// The key of an address of the own cluster.
pub fn address(address: IpAddr) -> String {
    format!("{ADDRESSES}{}", text(address))
}

/// The key of an identity: its labels.
pub fn identity(identity: Identity) -> String {
    format!("{IDENTITIES}{identity}")
}

/// The prefix of the nodes that use labels.
pub fn users(labels: &str) -> String {
    format!("{USERS}{labels}/")
}

/// The key by which a node uses labels: their number. The name of a node has no slash.
pub fn user(labels: &str, node: &str) -> String {
    format!("{USERS}{labels}/{node}")
}

/// What a mutex of labels locks, without a slash at its end.
pub fn lock(labels: &str) -> String {
    format!("{LOCKS}{labels}")
}

/// The text of an address as Go has it (net.IP.String): RFC 5952, and IPv4 in IPv6 as IPv4.
pub fn text(address: IpAddr) -> String {
    address.to_canonical().to_string()
}

/// Whether a text is what Go writes for a prefix: `address`, or `address/bits`. Without an allocation: this is asked of a
/// million at the first list.
pub fn is_text_of(text: &str, address: IpAddr, bits: Option<u8>) -> bool {
    if let (IpAddr::V4(address), None) = (address, bits) {
        // Rust reads no other form than the one it writes.
        return text.parse::<Ipv4Addr>() == Ok(address);
    }
    let mut rest = Rest(text);
    let written = match bits {
        None => write!(rest, "{address}"),
        Some(bits) => write!(rest, "{address}/{bits}"),
    };
    written.is_ok() && rest.0.is_empty()
}

/// A text that what is written has to be the beginning of.
struct Rest<'a>(&'a str);

impl Write for Rest<'_> {
    fn write_str(&mut self, piece: &str) -> std::fmt::Result {
        self.0 = self.0.strip_prefix(piece).ok_or(std::fmt::Error)?;
        Ok(())
    }
}

/// Where a reader finds a cluster: in its own etcd, or in a cache of Cilium's KVStoreMesh.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Places {
    /// The prefix of addresses, with a slash at its end.
    pub addresses: String,
    /// The prefix of identities, with a slash at its end.
    pub identities: String,
    /// The prefix of nodes, with a slash at its end. cilmark does not read them, but Cilium's agents list them.
    pub nodes: String,
    /// The prefix of services, the same.
    pub services: String,
    /// The key that is there once all addresses are, if the cluster says so.
    pub addresses_synced: Option<String>,
    /// The same of identities.
    pub identities_synced: Option<String>,
}

impl Places {
    /// Of a cluster by what its configuration says.
    pub fn of(cluster: &str, capabilities: &Capabilities) -> Places {
        let tree = if capabilities.cached { "cache" } else { "state" };
        // A cache has many clusters, an etcd of a cluster's own has one: only nodes and services name it everywhere.
        let of = |what: &str| match capabilities.cached {
            true => format!("cilium/cache/{what}/v1/{cluster}/"),
            false => format!("cilium/state/{what}/v1/"),
        };
        let synced = |what: &str| {
            let key = format!("cilium/synced/{cluster}/cilium/{tree}/{what}/v1");
            capabilities.synced_canaries.then_some(key)
        };
        let addresses = match capabilities.cached {
            true => of("ip"),
            false => ADDRESSES.to_owned(),
        };
        Places {
            addresses,
            identities: of("identities") + "id/",
            nodes: format!("cilium/{tree}/nodes/v1/{cluster}/"),
            services: format!("cilium/{tree}/services/v1/{cluster}/"),
            addresses_synced: synced("ip"),
            identities_synced: synced("identities"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_own_etcd_has_the_state_of_one_cluster() {
        let places = Places::of("c1", &Capabilities::default());
        assert_eq!(places.addresses, "cilium/state/ip/v1/default/");
        assert_eq!(places.identities, "cilium/state/identities/v1/id/");
        assert_eq!(places.nodes, "cilium/state/nodes/v1/c1/");
        assert_eq!(places.services, "cilium/state/services/v1/c1/");
        assert_eq!((places.addresses_synced, places.identities_synced), (None, None));
    }

    #[test]
    fn canaries_name_the_cluster_and_the_prefix() {
        let says = Capabilities { synced_canaries: true, ..Default::default() };
        let places = Places::of("c1", &says);
        assert_eq!(places.addresses_synced.unwrap(), "cilium/synced/c1/cilium/state/ip/v1");
        assert_eq!(
            places.identities_synced.unwrap(),
            "cilium/synced/c1/cilium/state/identities/v1"
        );
    }

    #[test]
    fn a_cache_has_a_place_for_each_cluster() {
        let says = Capabilities { synced_canaries: true, cached: true, ..Default::default() };
        let places = Places::of("c1", &says);
        assert_eq!(places.addresses, "cilium/cache/ip/v1/c1/");
        assert_eq!(places.identities, "cilium/cache/identities/v1/c1/id/");
        assert_eq!(places.nodes, "cilium/cache/nodes/v1/c1/");
        assert_eq!(places.addresses_synced.unwrap(), "cilium/synced/c1/cilium/cache/ip/v1");
        assert_eq!(
            places.identities_synced.unwrap(),
            "cilium/synced/c1/cilium/cache/identities/v1"
        );
    }

    #[test]
    fn keys_are_ciliums() {
        assert_eq!(cluster_config("edge"), "cilium/cluster-config/edge");
        assert_eq!(address("10.1.1.1".parse().unwrap()), "cilium/state/ip/v1/default/10.1.1.1");
        assert_eq!(identity(Identity(131_073)), "cilium/state/identities/v1/id/131073");
        let labels = "k8s:app=web;k8s:io.cilium.k8s.policy.cluster=edge;";
        assert_eq!(
            user(labels, "node1"),
            format!("cilium/state/identities/v1/value/{labels}/node1")
        );
        assert!(user(labels, "node1").starts_with(&users(labels)));
        assert_eq!(lock(labels), format!("cilium/state/identities/v1/locks/{labels}"));
    }

    #[test]
    fn addresses_are_written_as_go_does() {
        for (address, written) in [
            ("10.1.1.1", "10.1.1.1"),
            ("FD00:0:0:0::0010", "fd00::10"),
            ("::ffff:10.1.1.1", "10.1.1.1"),
            ("::10.1.1.1", "::a01:101"),
            ("2001:db8:0:0:1:0:0:1", "2001:db8::1:0:0:1"),
            ("2001:db8:0:1:1:1:1:1", "2001:db8:0:1:1:1:1:1"),
            ("::", "::"),
            ("::1", "::1"),
        ] {
            assert_eq!(text(address.parse().unwrap()), written);
        }
    }

    #[test]
    fn a_text_is_that_of_an_address_only_as_it_is_written() {
        let is = |text: &str, address: &str, bits| {
            is_text_of(text, address.parse::<IpAddr>().unwrap(), bits)
        };
        assert!(is("10.1.1.1", "10.1.1.1", None));
        assert!(is("10.1.0.0/16", "10.1.0.0", Some(16)));
        assert!(is("fd00::10", "fd00::10", None));
        assert!(is("fd00::/64", "fd00::", Some(64)));
        for (text, address, bits) in [
            ("10.1.1.2", "10.1.1.1", None),
            ("10.1.1.1/32", "10.1.1.1", None),
            ("10.1.1.1", "10.1.1.1", Some(32)),
            ("10.1.0.0/016", "10.1.0.0", Some(16)),
            ("10.1.0.0/1", "10.1.0.0", Some(16)),
            ("10.1.0.0/165", "10.1.0.0", Some(16)),
            ("FD00::10", "fd00::10", None),
            ("fd00:0::10", "fd00::10", None),
            ("fd00::1", "fd00::10", None),
            ("fd00::100", "fd00::10", None),
            ("", "::", None),
        ] {
            assert!(!is(text, address, bits), "{text}");
        }
    }
}
