//! Withdraws what this host has published, in the place of a process that does not run.

use anyhow::{Context, Result};

use crate::cilium::keys;
use crate::cilium::pair::{Pair, node_of};
use crate::config::Config;
use crate::etcd::{Client, Compare, Error, KeyValue, LeaseId, Op};
use crate::service::state::Lease;

/// Deletes what this host has written, and ends its leases; how many keys are gone. Of a lease that is over there is nothing
/// left.
pub async fn withdraw(config: &Config, leases: &[Lease]) -> Result<usize> {
    let client = Client::new(&config.etcd, &config.resolve)?;
    let own = own_keys(&client, &config.node).await?;
    // While their leases live: readers take keys that go with a lease for those of a host that was cut off. Whoever has
    // written one anew since keeps it.
    for key in &own {
        let is_same = Compare::ModifiedAt(key.key.clone(), key.modified);
        let delete = Op::Delete(key.key.clone());
        let done = client.transact(vec![is_same], vec![delete], vec![]).await;
        done.with_context(|| format!("delete {}", key.key))?;
    }
    for lease in leases {
        match client.revoke(LeaseId(lease.id)).await {
            Ok(()) | Err(Error::NoLease) => {}
            Err(error) => return Err(error).context("end a lease"),
        }
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
