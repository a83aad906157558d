//! What a cluster says of itself (Cilium pkg/clustermesh/types/types.go): JSON, in which all that is 0 or false is left out.

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};

use super::range::Range;

/// How many clusters a mesh has unless it says more.
pub const USUAL_MAX: u16 = 255;
/// How many it may have at most.
pub const LARGEST_MAX: u16 = 511;

/// The value of `cilium/cluster-config/<cluster>`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ClusterConfig {
    /// The cluster's number.
    #[serde(skip_serializing_if = "is_default")]
    pub id: u32,
    /// What it does.
    pub capabilities: Capabilities,
}

/// What a cluster does.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Capabilities {
    /// Keys below `cilium/synced/` tell when a prefix is complete.
    #[serde(skip_serializing_if = "is_default")]
    pub synced_canaries: bool,
    /// This is a copy in KVStoreMesh's etcd: keys are below `cilium/cache/`.
    #[serde(skip_serializing_if = "is_default")]
    pub cached: bool,
    /// For how many clusters its numbers are made: 255 or 511.
    #[serde(skip_serializing_if = "is_default")]
    pub max_connected_clusters: u16,
    /// Whether it exports services; cilmark does not ask.
    #[serde(skip_serializing_if = "is_default")]
    pub service_exports_enabled: Option<bool>,
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

impl ClusterConfig {
    /// Of a cluster of cilmark's: no canaries, since no host can vouch for all others.
    pub fn of(id: u16, max_clusters: u16) -> ClusterConfig {
        let capabilities =
            Capabilities { max_connected_clusters: max_clusters, ..Default::default() };
        ClusterConfig { id: id.into(), capabilities }
    }

    /// Reads a value; what it says besides is left out.
    pub fn read(value: &[u8]) -> Result<ClusterConfig> {
        super::from_object(value).context("it is not Cilium's JSON")
    }

    /// The value.
    pub fn write(&self) -> String {
        serde_json::to_string(self).expect("numbers and booleans are always JSON")
    }

    /// The cluster's number and range, for a reader whose mesh has at most so many clusters. As Cilium does, one of 511 asks
    /// for the same of the other.
    pub fn check(&self, max_clusters: u16) -> Result<(u16, Range)> {
        let id = u16::try_from(self.id).ok().filter(|id| (1..=max_clusters).contains(id));
        let id =
            id.with_context(|| format!("its number {} is none of 1 to {max_clusters}", self.id))?;
        let theirs = self.capabilities.max_connected_clusters;
        ensure!(
            max_clusters == USUAL_MAX || theirs == max_clusters,
            "its numbers are made for {} clusters, this host's for {max_clusters}",
            if theirs == 0 { USUAL_MAX } else { theirs }
        );
        Ok((id, Range::of(id, max_clusters)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const APISERVER: &str = r#"{"id":3,"capabilities":{"syncedCanaries":true,"cached":true,"maxConnectedClusters":255,"serviceExportsEnabled":false}}"#;

    #[test]
    fn what_cilium_writes_is_read_and_written_again() {
        let read = ClusterConfig::read(APISERVER.as_bytes()).unwrap();
        let capabilities = Capabilities {
            synced_canaries: true,
            cached: true,
            max_connected_clusters: 255,
            service_exports_enabled: Some(false),
        };
        assert_eq!(read, ClusterConfig { id: 3, capabilities });
        assert_eq!(read.write(), APISERVER);
    }

    #[test]
    fn what_is_not_said_is_left_out() {
        let own = ClusterConfig::of(7, 255);
        assert_eq!(own.write(), r#"{"id":7,"capabilities":{"maxConnectedClusters":255}}"#);
        assert_eq!(ClusterConfig::default().write(), r#"{"capabilities":{}}"#);
        let old = ClusterConfig::read(br#"{"id":7,"new":1}"#).unwrap();
        assert_eq!(old.capabilities, Capabilities::default());
    }

    #[test]
    fn what_is_no_configuration_is_refused() {
        for value in ["", "3", "[]", r#"{"id":-1}"#, r#"{"id":"3"}"#, r#"{"capabilities":3}"#] {
            assert!(ClusterConfig::read(value.as_bytes()).is_err(), "{value}");
        }
    }

    #[test]
    fn a_number_is_one_of_the_mesh() {
        assert_eq!(ClusterConfig::of(3, 255).check(255).unwrap(), (3, Range::of(3, 255)));
        for id in [0, 256, 65_537] {
            let config = ClusterConfig { id, ..Default::default() };
            assert!(config.check(255).is_err(), "{id}");
        }
        assert!(ClusterConfig::of(511, 511).check(511).is_ok());
    }

    #[test]
    fn only_a_reader_of_511_asks_for_how_many_the_other_is_made() {
        assert!(ClusterConfig::of(3, 511).check(255).is_ok());
        assert!(ClusterConfig::of(3, 255).check(511).is_err());
        let silent = ClusterConfig { id: 3, ..Default::default() };
        assert!(silent.check(255).is_ok());
        assert!(silent.check(511).is_err());
    }
}
