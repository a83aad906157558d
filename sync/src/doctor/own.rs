//! What a publisher needs in its own cluster's etcd.

use super::Findings;
use super::keys_of::Seen;
use crate::cilium::keys;
use crate::config::Config;
use crate::etcd::{Client, Compare, Error, Op};

/// Leases of what is there, and permissions.
pub async fn examine(findings: &mut Findings, config: &Config, client: &Client, seen: &Seen) {
    if !config.publish {
        findings.ok("published", "this host only reads, as configured");
        return;
    }
    leases(findings, seen);
    let addresses = format!("{}192.0.2.1", keys::ADDRESSES);
    let node = format!("{}{}", keys::NODES_OF_CILMARK, config.node);
    let identity = format!("{}0", keys::IDENTITIES);
    let user = format!("{}x", keys::USERS);
    let lock = format!("{}x", keys::LOCKS);
    let mut missing = Vec::new();
    for key in [&addresses, &identity, &user, &lock, keys::HEARTBEAT, &node] {
        match may_write(client, key).await {
            Ok(true) => {}
            Ok(false) => missing.push(key.to_owned()),
            Err(error) => {
                findings.problem("permissions", error.to_string(), "ask again");
                return;
            }
        }
    }
    match missing.as_slice() {
        [] => findings.ok("permissions", "this host's user may write what it publishes"),
        _ => findings.problem(
            "permissions",
            format!("this host's user may not write {}", missing.join(", ")),
            "grant its role what `cilmark cluster init` prints, or set publish = false",
        ),
    }
}

fn leases(findings: &mut Findings, seen: &Seen) {
    const CHECK: &str = "leases";
    match seen.own_without_lease.first() {
        Some(key) => findings.problem(
            CHECK,
            format!(
                "{} addresses of this host have none, such as {key}",
                seen.own_without_lease.len()
            ),
            "somebody has written them by hand: delete them, and cilmark-sync writes them again",
        ),
        None => findings.ok(CHECK, format!("{} addresses of this host have one", seen.own)),
    }
    if let Some(key) = seen.others_without_lease.first() {
        findings.warning(
            CHECK,
            format!(
                "{} addresses of others have none, such as {key}",
                seen.others_without_lease.len()
            ),
            "they stay when their publisher dies; look who writes them",
        );
    }
}

/// Asks by a transaction that does nothing: etcd looks at permissions first.
async fn may_write(client: &Client, key: &str) -> Result<bool, Error> {
    let never = Compare::CreatedAt(key.to_owned(), i64::MAX);
    let put = Op::Put(key.to_owned(), Vec::new(), None);
    match client.transact(vec![never], vec![put], vec![]).await {
        Ok(_) => Ok(true),
        Err(Error::Denied(_)) => Ok(false),
        Err(error) => Err(error),
    }
}
