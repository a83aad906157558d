//! The lock of etcd's own client (etcd client/v3/concurrency/mutex.go), which Cilium's agents take.

use std::time::Duration;

use super::{Client, Compare, Error, LeaseId};

/// A lock that is held: a key `<path>/<lease in hex>`.
#[derive(Debug)]
pub struct Mutex {}

impl Mutex {
    /// Waits until nobody has it who came before, so long at most: then [`Error::Unavailable`], and nothing is left behind.
    pub async fn lock(
        client: &Client,
        path: &str,
        lease: LeaseId,
        patience: Duration,
    ) -> Result<Mutex, Error> {
        let _ = (client, path, lease, patience);
        todo!()
    }

    /// What a transaction compares so that it does nothing once the lock is lost.
    pub fn is_held(&self) -> Compare {
        todo!()
    }

    /// Gives it up.
    pub async fn unlock(self) -> Result<(), Error> {
        todo!()
    }
}
