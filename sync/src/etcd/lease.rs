//! Leases: keys that go when nobody keeps them.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::call::Method;
use super::messages::{
    LeaseGrantRequest, LeaseGrantResponse, LeaseKeepAliveRequest, LeaseKeepAliveResponse,
    LeaseRevokeRequest, LeaseRevokeResponse, LeaseTimeToLiveRequest, LeaseTimeToLiveResponse,
};
use super::{Client, Error};

/// The number of a lease; never 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct LeaseId(pub i64);

const GRANT: Method = Method::once("/etcdserverpb.Lease/LeaseGrant");
const REVOKE: Method = Method::once("/etcdserverpb.Lease/LeaseRevoke");
const KEEP: Method = Method::repeatable("/etcdserverpb.Lease/LeaseKeepAlive");
const REST: Method = Method::repeatable("/etcdserverpb.Lease/LeaseTimeToLive");

impl Client {
    /// A lease that lasts so long, in whole seconds, unless it is kept.
    pub async fn grant(&self, ttl: Duration) -> Result<LeaseId, Error> {
        let ttl = ttl.as_millis().div_ceil(1000).clamp(1, i64::MAX as u128) as i64;
        let (_, answer): (_, LeaseGrantResponse) =
            self.call(&GRANT, LeaseGrantRequest { ttl }).await?;
        Ok(LeaseId(answer.id))
    }

    /// Begins a lease's time anew; [`Error::NoLease`] if it is over.
    pub async fn keep(&self, lease: LeaseId) -> Result<Duration, Error> {
        let question = LeaseKeepAliveRequest { id: lease.0 };
        let (_, answer): (_, LeaseKeepAliveResponse) = self.call(&KEEP, question).await?;
        time(answer.ttl).ok_or(Error::NoLease)
    }

    /// How long a lease still lasts, in whole seconds; `None` if it is over, or will be within a second.
    pub async fn rest_of(&self, lease: LeaseId) -> Result<Option<Duration>, Error> {
        let question = LeaseTimeToLiveRequest { id: lease.0 };
        // The member that answers may be behind the one that has told that the lease's keys are gone: 0 is over, too.
        match self.call(&REST, question).await {
            Ok((_, LeaseTimeToLiveResponse { ttl, .. })) => Ok(time(ttl)),
            Err(Error::NoLease) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Ends a lease, and deletes its keys.
    pub async fn revoke(&self, lease: LeaseId) -> Result<(), Error> {
        let question = LeaseRevokeRequest { id: lease.0 };
        let _: (_, LeaseRevokeResponse) = self.call(&REVOKE, question).await?;
        Ok(())
    }
}

/// A time of etcd's; `None` if there is none left.
fn time(seconds: i64) -> Option<Duration> {
    u64::try_from(seconds).ok().filter(|seconds| *seconds > 0).map(Duration::from_secs)
}
