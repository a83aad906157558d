//! Numbers that nobody uses any more, where no Cilium operator collects them.
//!
//! By the operator's rules (Cilium operator/identitygc, pkg/allocator): a number without a user in two rounds, which
//! nobody has written in between, is deleted, and so is a lock that is the same in both. Unlike the operator this takes
//! the lock of the labels for it, so that nobody begins to use the number meanwhile. One host of the cluster does it: who
//! holds a lock.

mod marks;

use std::convert::Infallible;
use std::time::Duration;

use cilmark::model::identity::Identity;
use log::{debug, info};
use tokio::time::sleep;

use super::known::user_of;
use crate::cilium::keys;
use crate::cilium::range::Range;
use crate::config::Config;
use crate::etcd::{Client, Compare, Error, KeyValue, LeaseId, Mutex, Op};
use marks::{Marks, Unused};

/// How far rounds lie apart, as the operator's.
pub const INTERVAL: Duration = Duration::from_secs(15 * 60);

/// When the host that does it dies, another one does after that.
const LEASE: Duration = Duration::from_secs(60);

/// How long others hold the lock of labels at most.
const PATIENCE: Duration = Duration::from_secs(30);

/// The pause after a failure.
const PAUSE: Duration = Duration::from_secs(10);

/// Collects them, or waits until it is this host's turn; until it is dropped.
pub async fn collect(config: &Config, client: &Client, interval: Duration) -> Infallible {
    let range = Range::of(config.id, config.max_clusters);
    loop {
        let Err(error) = turn(client, &range, interval).await;
        debug!("collect unused numbers: {error}");
        if let Error::OtherStore(_) = error {
            client.accept_any_store();
        }
        sleep(PAUSE.min(interval)).await;
    }
}

/// As long as this host has the lock.
async fn turn(client: &Client, range: &Range, interval: Duration) -> Result<Infallible, Error> {
    let lease = client.grant(LEASE).await?;
    let rounds = async {
        let lock = loop {
            match Mutex::lock(client, keys::GARBAGE_LOCK, lease, interval).await {
                Err(Error::Unavailable(why)) => {
                    debug!("collect unused numbers: {why}");
                    // It may be over by now.
                    client.keep(lease).await?;
                }
                lock => break lock?,
            }
        };
        let mut marks = Marks::default();
        loop {
            round(client, range, lease, &lock, &mut marks).await?;
            sleep(interval).await;
        }
    };
    let kept = async {
        loop {
            sleep(LEASE / 3).await;
            client.keep(lease).await?;
        }
    };
    tokio::select! {
        ended = rounds => ended,
        ended = kept => ended,
    }
}

async fn round(
    client: &Client,
    range: &Range,
    lease: LeaseId,
    own: &Mutex,
    marks: &mut Marks,
) -> Result<(), Error> {
    // In this order: who uses a number after the first list is in the second one.
    let mut ids = Vec::new();
    let header = client.list(keys::IDENTITIES, |page| ids.extend(page)).await?;
    let mut users = Vec::new();
    client.list(keys::USERS, |page| users.extend(page)).await?;
    let mut locks = Vec::new();
    client.list(keys::LOCKS, |page| locks.extend(page)).await?;
    let due = marks.round(header.store, range, &ids, &users, &locks);
    let mut deleted = 0;
    for unused in &due.numbers {
        deleted += usize::from(delete_number(client, unused, lease, own).await?);
    }
    for lock in &due.locks {
        let guard = vec![own.is_held(), Compare::ModifiedAt(lock.key.clone(), lock.modified)];
        client.transact(guard, vec![Op::Delete(lock.key.clone())], Vec::new()).await?;
    }
    if deleted + due.locks.len() > 0 {
        info!("deleted {deleted} numbers and {} locks that nobody used", due.locks.len());
    }
    Ok(())
}

/// Whether it was still unused.
async fn delete_number(
    client: &Client,
    unused: &Unused,
    lease: LeaseId,
    own: &Mutex,
) -> Result<bool, Error> {
    let lock = match Mutex::lock(client, &keys::lock(&unused.labels), lease, PATIENCE).await {
        // Somebody is about to use it, or has died: the next round tells.
        Err(Error::Unavailable(why)) => {
            debug!("number {}: {why}", unused.number);
            return Ok(false);
        }
        lock => lock?,
    };
    let deleted = delete_under(client, unused, own, &lock).await;
    lock.unlock().await?;
    deleted
}

async fn delete_under(
    client: &Client,
    unused: &Unused,
    own: &Mutex,
    lock: &Mutex,
) -> Result<bool, Error> {
    let number = unused.number.to_string();
    let mut is_used = false;
    let each = |page: Vec<KeyValue>| {
        is_used |= page.iter().any(|it| {
            let is_of_these = user_of(&it.key).is_some_and(|(of, _)| of == unused.labels);
            is_of_these && it.value == number.as_bytes()
        });
    };
    client.list(&keys::users(&unused.labels), each).await?;
    if is_used {
        return Ok(false);
    }
    let key = keys::identity(Identity(unused.number));
    let guard =
        vec![own.is_held(), lock.is_held(), Compare::ModifiedAt(key.clone(), unused.modified)];
    Ok(client.transact(guard, vec![Op::Delete(key)], Vec::new()).await?.held)
}
