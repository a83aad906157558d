//! Withdraws what this host has published, in the place of a process that does not run.

use anyhow::{Context, Result};

use crate::cilium::keys;
use crate::cilium::pair::{Pair, node_of};
use crate::config::Config;
use crate::etcd::{Client, Compare, KeyValue, LeaseId, Op};
use crate::service::state::Lease;

/// Deletes what this host has written; how many keys are gone. Its leases end by themselves: readers take keys that go with a
/// lease, or whose lease is over when they look, for those of a host that was cut off.
pub async fn withdraw(config: &Config, leases: &[Lease]) -> Result<usize> {
    let client = Client::new(&config.etcd, &config.resolve)?;
    let mut own = own_keys(&client, &config.node).await?;
    let of_hosts = [
        keys::HEARTBEAT.to_owned(),
        keys::cluster_config(&config.name),
        format!("{}{}", keys::NODES_OF_CILMARK, config.node),
    ];
    for key in of_hosts {
        let (_, found) = client.get(&key).await.with_context(|| format!("read {key}"))?;
        let is_own = |found: &KeyValue| leases.iter().any(|it| found.lease == Some(LeaseId(it.id)));
        own.extend(found.filter(is_own));
    }
    // Whoever has written one anew since keeps it.
    for key in &own {
        let is_same = Compare::ModifiedAt(key.key.clone(), key.modified);
        let delete = Op::Delete(key.key.clone());
        let done = client.transact(vec![is_same], vec![delete], vec![]).await;
        done.with_context(|| format!("delete {}", key.key))?;
    }
    Ok(own.len())
}

/// Addresses that this host says, and its uses of identities.
async fn own_keys(client: &Client, node: &str) -> Result<Vec<KeyValue>> {
    let mut own = Vec::new();
    let is_own =
        |value: &[u8]| Pair::read(value).is_ok_and(|pair| node_of(&pair.metadata) == Some(node));
    let addresses = client.list(keys::ADDRESSES, |page| {
        own.extend(page.into_iter().filter(|it| is_own(&it.value)));
    });
    addresses.await.context("list addresses")?;
    let uses = |key: &str| key.rsplit_once('/').is_some_and(|(_, last)| last == node);
    let users = client.list(keys::USERS, |page| {
        own.extend(page.into_iter().filter(|it| uses(&it.key)));
    });
    users.await.context("list who uses identities")?;
    Ok(own)
}
