//! The lock of etcd's own client (etcd client/v3/concurrency/mutex.go), which Cilium's agents take.

use std::time::Duration;

use tokio::time::timeout;

use super::list::RANGE;
use super::messages::{RangeRequest, RangeResponse, SortOrder, SortTarget};
use super::{Change, Client, Compare, Error, KeyValue, LeaseId, Op, end_of};

/// A lock that is held: a key `<path>/<lease in hex>`. Whose key was made first has it.
pub struct Mutex {
    client: Client,
    key: String,
    created: i64,
}

impl Mutex {
    /// Waits until nobody has it who came before, so long at most: then [`Error::Unavailable`], and nothing is left behind.
    /// A lease has a lock once: it gets one that it has already.
    pub async fn lock(
        client: &Client,
        path: &str,
        lease: LeaseId,
        patience: Duration,
    ) -> Result<Mutex, Error> {
        let key = format!("{path}/{:x}", lease.0);
        let waited = timeout(patience, Mutex::wait(client, path, &key, lease)).await;
        match waited {
            Ok(Ok(created)) => Ok(Mutex { client: client.clone(), key, created }),
            Ok(Err(Error::NoLease)) => Err(Error::NoLease),
            Ok(Err(error)) => {
                // If this fails, too, the key goes with its lease.
                let _ = client.delete(&key).await;
                Err(error)
            }
            Err(_) => {
                let _ = client.delete(&key).await;
                let why = format!("others have the lock {path} for {} s", patience.as_secs());
                Err(Error::Unavailable(why))
            }
        }
    }

    /// The revision that has made the key, when it is the first one.
    async fn wait(client: &Client, path: &str, key: &str, lease: LeaseId) -> Result<i64, Error> {
        let prefix = format!("{path}/");
        let owner = || Op::FirstCreated(prefix.clone());
        let put = Op::Put(key.to_owned(), Vec::new(), Some(lease));
        let done = client
            .transact(
                vec![Compare::IsAbsent(key.to_owned())],
                vec![put, owner()],
                vec![Op::Get(key.to_owned()), owner()],
            )
            .await?;
        let first = |found: &[KeyValue]| found.first().map(|found| found.created);
        let mine = match done.held {
            true => done.header.revision,
            false => done.found.first().and_then(|found| first(found)).ok_or(Error::NoLease)?,
        };
        // An owner that is not there was mine.
        if done.found.last().and_then(|found| first(found)).is_none_or(|owner| owner == mine) {
            return Ok(mine);
        }
        while let Some((before, revision)) = Mutex::before(client, &prefix, mine).await? {
            wait_for_end(client, &before, revision + 1).await?;
        }
        let (_, still) = client.get(key).await?;
        still.filter(|still| still.created == mine).map(|_| mine).ok_or(Error::NoLease)
    }

    /// Whose key was made last before this revision, and when that was so.
    async fn before(
        client: &Client,
        prefix: &str,
        mine: i64,
    ) -> Result<Option<(String, i64)>, Error> {
        let question = RangeRequest {
            key: prefix.into(),
            range_end: end_of(prefix.as_bytes()),
            limit: 1,
            sort_order: SortOrder::Descend as i32,
            sort_target: SortTarget::Create as i32,
            max_create_revision: mine - 1,
            ..Default::default()
        };
        let (header, found): (_, RangeResponse) = client.call(&RANGE, question).await?;
        let last = found.kvs.into_iter().next();
        Ok(last.map(|last| (KeyValue::from(last).key, header.revision)))
    }

    /// What a transaction compares so that it does nothing once the lock is lost.
    pub fn is_held(&self) -> Compare {
        Compare::CreatedAt(self.key.clone(), self.created)
    }

    /// Gives it up. If that fails it goes with its lease.
    pub async fn unlock(self) -> Result<(), Error> {
        self.client.delete(&self.key).await.map(drop)
    }
}

/// Waits until a key is deleted, from a revision on at which it was there.
async fn wait_for_end(client: &Client, key: &str, mut from: i64) -> Result<(), Error> {
    'watches: loop {
        let mut watch = client.watch(key, from).await?;
        loop {
            match watch.next().await {
                Ok(watched) => {
                    let is_end = |change: &Change| matches!(change, Change::Deleted { key: one, .. } if one == key);
                    if watched.changes.iter().any(is_end) {
                        return Ok(());
                    }
                    from = watched.header.revision + 1;
                }
                // Who waits has time.
                Err(Error::Unavailable(_)) => continue 'watches,
                // The caller looks whether it is there.
                Err(Error::Compacted) => return Ok(()),
                Err(error) => return Err(error),
            }
        }
    }
}
