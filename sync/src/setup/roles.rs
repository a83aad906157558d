//! Roles and users of etcd: who may do what.

use serde::Serialize;

use crate::cilium::keys;

/// The role of a cluster's hosts.
pub const HOST: &str = "cilmark-host";
/// The role of whoever reads a cluster, as Cilium calls it.
pub const READER: &str = "remote";

/// What etcd's root runs.
#[derive(Debug, Serialize)]
pub struct Commands {
    /// Once for a cluster.
    pub cluster: Vec<String>,
    /// For this host.
    pub host: Vec<String>,
}

/// Of a cluster and a host. etcd's permissions are by ranges of keys, so that each host may write every host's addresses.
pub fn commands(cluster: &str, node: &str) -> Commands {
    let config = keys::cluster_config(cluster);
    let synced = format!("cilium/synced/{cluster}/");
    let mut commands = Commands { cluster: Vec::new(), host: Vec::new() };
    let mut run = |command: String| commands.cluster.push(format!("etcdctl {command}"));
    run(format!("role add {HOST}"));
    run(format!("role grant-permission --prefix {HOST} read {}", keys::ALL));
    for prefix in [keys::ADDRESSES, keys::STATE_OF_IDENTITIES, keys::OF_CILMARK] {
        run(format!("role grant-permission --prefix {HOST} readwrite {prefix}"));
    }
    for key in [keys::HEARTBEAT, &config] {
        run(format!("role grant-permission {HOST} readwrite {key}"));
    }
    run(format!("role add {READER}"));
    for prefix in [keys::STATE, &synced] {
        run(format!("role grant-permission --prefix {READER} read {prefix}"));
    }
    for key in [keys::HEARTBEAT, &config] {
        run(format!("role grant-permission {READER} read {key}"));
    }
    for (user, role) in [(READER, READER), ("root", "root")] {
        run(format!("user add --no-password {user}"));
        run(format!("user grant-role {user} {role}"));
    }
    run("auth enable".to_owned());
    commands.host = vec![
        format!("etcdctl user add --no-password host-{node}"),
        format!("etcdctl user grant-role host-{node} {HOST}"),
    ];
    commands
}
