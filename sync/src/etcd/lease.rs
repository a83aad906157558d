//! Leases: keys that go when nobody keeps them.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{Client, Error};

/// The number of a lease; never 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct LeaseId(pub i64);

impl Client {
    /// A lease that lasts so long, in whole seconds, unless it is kept.
    pub async fn grant(&self, ttl: Duration) -> Result<LeaseId, Error> {
        let _ = ttl;
        todo!()
    }

    /// Begins a lease's time anew; [`Error::NoLease`] if it is over.
    pub async fn keep(&self, lease: LeaseId) -> Result<Duration, Error> {
        let _ = lease;
        todo!()
    }

    /// How long a lease still lasts; `None` if it is over.
    pub async fn rest_of(&self, lease: LeaseId) -> Result<Option<Duration>, Error> {
        let _ = lease;
        todo!()
    }

    /// Ends a lease, and deletes its keys.
    pub async fn revoke(&self, lease: LeaseId) -> Result<(), Error> {
        let _ = lease;
        todo!()
    }
}
