//! How the process is, as a file: `cilmark cluster status` and `list` read it, also without the process.

use std::collections::BTreeMap;
use std::fs;
use std::io::ErrorKind;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use ipnet::IpNet;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::cilium::accept::Refusal;
use crate::cilium::range::Range;
use cilmark::model::identity::Identity;
use cilmark::ops::cluster::{files, run_directory};
use cilmark::state::pin::Root;

/// So many lines that are stale, held or refused are named, of each cluster; the others are only counted.
pub const NAMED: usize = 1000;

/// All of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    /// When this was written.
    pub written: Timestamp,
    /// The process.
    pub pid: u32,
    /// Since when it runs.
    pub started: Timestamp,
    /// What it was configured by.
    pub config: PathBuf,
    /// How many clusters the mesh may have, by which numbers of identities tell their cluster.
    pub max_clusters: u16,
    /// Why the ipcache does not have all that clusters say, and what helps.
    #[serde(default)]
    pub trouble: Option<String>,
    /// What this host says.
    pub own: Own,
    /// The own cluster first, then the others by name.
    pub clusters: Vec<Cluster>,
}

/// A cluster that is read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cluster {
    /// Its name.
    pub name: String,
    /// Its number, once its configuration was read (the own one's from the start).
    pub id: Option<u16>,
    /// Whether it is this host's.
    pub is_own: bool,
    /// Its client file.
    pub client_file: PathBuf,
    /// Whether its etcd answers.
    pub connection: Connection,
    /// Whether all that it says is in the ipcache; [`Phase::Refused`] says why not.
    pub phase: Phase,
    /// The number of its store (etcd's cluster ID).
    pub store: Option<u64>,
    /// The revision up to which it is read.
    pub revision: i64,
    /// Whether this is KVStoreMesh's copy of it.
    pub is_cached: bool,
    /// What its heartbeat says.
    pub heartbeat: Option<Timestamp>,
    /// Lines that count, those included that are stale, held or shadowed.
    pub addresses: usize,
    /// Identities with labels.
    pub identities: usize,
    /// Lines whose address another cluster claims, too, and wins.
    pub shadowed: usize,
    /// Lines whose publisher was cut off.
    pub stale: Lines<Stale>,
    /// Lines that would have gone at once, but for the guard.
    pub held: Lines<IpNet>,
    /// How many keys do not count now, by reason.
    pub refused: BTreeMap<Refusal, usize>,
    /// Some of them.
    pub refused_keys: Vec<Refused>,
}

/// Whether an etcd answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Connection {
    /// It does.
    Connected {
        /// Since when.
        since: Timestamp,
    },
    /// It does not.
    Away {
        /// Since when: the process' start, if it never did.
        since: Timestamp,
        /// Why, as far as known.
        error: String,
    },
}

/// How far the reading of a cluster is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// It waits: for what, such as a key.
    Waiting(String),
    /// It reads the first list.
    Listing,
    /// All that the cluster says is in the ipcache.
    Ready,
    /// The cluster is not read: why.
    Refused(String),
}

/// Lines of which the first are named.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lines<T> {
    /// How many there are.
    pub count: usize,
    /// At most [`NAMED`].
    pub named: Vec<T>,
}

impl<T> Default for Lines<T> {
    fn default() -> Lines<T> {
        Lines { count: 0, named: Vec::new() }
    }
}

/// A line whose publisher was cut off.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stale {
    /// The line.
    pub net: IpNet,
    /// When it goes, unless somebody says it again.
    pub until: Timestamp,
}

/// A key that does not count.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refused {
    /// The key.
    pub key: String,
    /// Why.
    pub reason: Refusal,
}

/// What this host says in its cluster's etcd.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Own {
    /// This host's name in it.
    pub node: String,
    /// Whether it publishes.
    pub is_publishing: bool,
    /// Why nothing is written now, and what helps.
    #[serde(default)]
    pub trouble: Option<String>,
    /// Addresses that are in etcd.
    pub published: Vec<Published>,
    /// Addresses that another host has there.
    pub conflicts: Vec<Conflict>,
    /// Endpoints that are not published, and why.
    pub unpublished: Vec<Unpublished>,
    /// Numbers of labels that endpoints of this host use.
    pub allocated: Vec<Allocated>,
    /// Leases of what is published.
    pub leases: Vec<Lease>,
    /// When this host wrote the heartbeat last; `None`: others do.
    pub heartbeat: Option<Timestamp>,
}

/// An address that is in etcd.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Published {
    /// The address.
    pub address: IpAddr,
    /// Whose.
    pub identity: Identity,
    /// The endpoint's device; a NIC for the host's own address.
    pub device: String,
}

/// An address that another host has in etcd, too.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Conflict {
    /// The address.
    pub address: IpAddr,
    /// This host's endpoint.
    pub device: String,
    /// The identity that the other one says.
    pub their_identity: Identity,
    /// The other host, where it says so.
    pub their_node: Option<String>,
    /// Since when.
    pub since: Timestamp,
}

/// An endpoint that is not published.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unpublished {
    /// Its device.
    pub device: String,
    /// Its identity.
    pub identity: Identity,
    /// Why, and what helps.
    pub why: String,
}

/// The number of labels.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Allocated {
    /// The labels, as people read them.
    pub labels: String,
    /// The number; `None`: not known yet.
    pub identity: Option<Identity>,
    /// How many endpoints of this host use it.
    pub endpoints: usize,
    /// Why there is no number, or why it may not be the right one.
    pub trouble: Option<String>,
}

/// A lease of what is published.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lease {
    /// Its number in etcd.
    pub id: i64,
    /// How many addresses go with it, without the keys of the host itself.
    pub keys: usize,
    /// When it ends, unless it is kept.
    pub until: Timestamp,
}

impl State {
    /// Where it is.
    pub fn file(root: &Root) -> PathBuf {
        run_directory(root).join("cluster.json")
    }

    /// `None` where no process has run since the host came up.
    pub fn read(root: &Root) -> Result<Option<State>> {
        read(&State::file(root))
    }

    /// Writes it, in one step.
    pub fn write(&self, root: &Root) -> Result<()> {
        files::write(&State::file(root), &serde_json::to_vec(self)?)
    }

    /// The own cluster.
    pub fn own_cluster(&self) -> Option<&Cluster> {
        self.clusters.iter().find(|cluster| cluster.is_own)
    }

    /// The cluster whose range an identity is in; none for those below 256, which are the same everywhere.
    pub fn cluster_of(&self, identity: Identity) -> Option<&Cluster> {
        let is_its = |id| Range::of(id, self.max_clusters).contains(identity.0);
        self.clusters.iter().find(|cluster| cluster.id.is_some_and(is_its))
    }
}

fn read(file: &Path) -> Result<Option<State>> {
    let text = match fs::read(file) {
        Ok(text) => text,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error).context(format!("read {}", file.display())),
    };
    let state = serde_json::from_slice(&text);
    state.map(Some).with_context(|| {
        format!(
            "{} is not as this cilmark-sync writes it: start the service again after an upgrade",
            file.display()
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state() -> State {
        let now: Timestamp = "2030-01-02T03:04:05Z".parse().unwrap();
        let net: IpNet = "10.1.0.0/16".parse().unwrap();
        let cluster = Cluster {
            name: "edge".into(),
            id: Some(7),
            is_own: true,
            client_file: "/etc/cilmark/etcd.config".into(),
            connection: Connection::Away { since: now, error: "refused".into() },
            phase: Phase::Refused("its number is taken".into()),
            store: Some(u64::MAX),
            revision: 5,
            is_cached: false,
            heartbeat: Some(now),
            addresses: 1,
            identities: 2,
            shadowed: 3,
            stale: Lines { count: 1, named: vec![Stale { net, until: now }] },
            held: Lines { count: 1, named: vec![net] },
            refused: [(Refusal::OtherKey, 1)].into(),
            refused_keys: vec![Refused { key: "a".into(), reason: Refusal::OtherKey }],
        };
        let own = Own { node: "n1".into(), ..Own::default() };
        let config = "/etc/cilmark/cluster.toml".into();
        let clusters = vec![cluster];
        let trouble = Some("it is full".into());
        State {
            written: now,
            pid: 1,
            started: now,
            config,
            max_clusters: 255,
            trouble,
            own,
            clusters,
        }
    }

    #[test]
    fn what_was_written_is_read_again() {
        let text = serde_json::to_string(&state()).unwrap();
        assert_eq!(serde_json::from_str::<State>(&text).unwrap(), state());
        assert!(text.contains(r#""refused":{"other_key":1}"#), "{text}");
    }

    #[test]
    fn the_own_cluster_is_found() {
        assert_eq!(state().own_cluster().unwrap().name, "edge");
    }

    #[test]
    fn a_number_tells_its_cluster() {
        let state = state();
        for (number, name) in [(7 << 16, Some("edge")), (8 << 16, None), (6, None)] {
            let found = state.cluster_of(Identity(number)).map(|it| it.name.as_str());
            assert_eq!(found, name, "{number}");
        }
    }
}
