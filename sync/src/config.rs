//! `/etc/cilmark/cluster.toml`: which cluster this host is in, and whom it reads.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Result;

use crate::cilium::accept::Limits;
use crate::etcd::Resolve;

/// Where it is unless said otherwise.
pub const DEFAULT_FILE: &str = "/etc/cilmark/cluster.toml";

/// What it says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// The name of the own cluster: 1 to 32 of a-z, 0-9 and -.
    pub name: String,
    /// Its number, 1 to `max_clusters`.
    pub id: u16,
    /// How many clusters the mesh may have: 255 or 511.
    pub max_clusters: u16,
    /// This host's name in it; else the host's own.
    pub node: String,
    /// The client file of the own cluster's etcd.
    pub etcd: PathBuf,
    /// A directory of client files, one for each other cluster, called as that is.
    pub remotes: Option<PathBuf>,
    /// Whether to publish endpoints.
    pub publish: bool,
    /// Whether to publish the addresses of NICs, too, as remote-node (6).
    pub publish_host: bool,
    /// The node's address in what is published: with it, Cilium's nodes in tunnel mode send there. Usually none.
    pub host_ip: Option<std::net::IpAddr>,
    /// How long what nobody keeps stays until the others forget it.
    pub lease: Duration,
    /// How long a line stays whose publisher was cut off.
    pub stale: Duration,
    /// How much may go at once.
    pub sweep: Sweep,
    /// The shortest prefixes that count.
    pub limits: Limits,
    /// Whether to collect unused identities: not where Cilium's operator does it.
    pub collect_garbage: bool,
    /// Addresses of names.
    pub resolve: Resolve,
}

/// More than both may not go at once without a word from the operator.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sweep {
    /// Percents of what the cluster has.
    pub share: u8,
    /// So many lines.
    pub lines: usize,
}

impl Config {
    /// Reads a file; mistakes by line and column.
    pub fn read(file: &Path) -> Result<Config> {
        let _ = file;
        todo!()
    }
}
