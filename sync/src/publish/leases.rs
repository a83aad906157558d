//! Leases of what this host writes: kept as long as it runs, and taken up again after a restart.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;

use crate::etcd::{Client, Error, LeaseId};

/// The most keys of one, as Cilium has it: to end a lease with more takes etcd too long.
pub const MOST_KEYS: usize = 1000;

/// How often a lease is kept before it would end.
const KEPT: u32 = 15;

/// The leases of one writer.
#[derive(Debug)]
pub struct Leases {
    ttl: Duration,
    /// Each with when it ends unless it is kept.
    held: Vec<(LeaseId, Instant)>,
    due: Instant,
}

impl Leases {
    /// Those that were there before a restart, of which [`Leases::keep`] tells which still live.
    pub fn new(ttl: Duration, before: impl IntoIterator<Item = LeaseId>) -> Leases {
        let now = Instant::now();
        Leases { ttl, held: before.into_iter().map(|lease| (lease, now)).collect(), due: now }
    }

    /// Whether it is one of them.
    pub fn contain(&self, lease: LeaseId) -> bool {
        self.held.iter().any(|(held, _)| *held == lease)
    }

    /// All of them.
    pub fn ids(&self) -> impl Iterator<Item = LeaseId> {
        self.held.iter().map(|(lease, _)| *lease)
    }

    /// All of them, each with when it ends unless it is kept.
    pub fn until(&self) -> impl Iterator<Item = (LeaseId, Instant)> {
        self.held.iter().copied()
    }

    /// When [`Leases::keep`] is due.
    pub fn due(&self) -> Instant {
        self.due
    }

    /// One that has room for so many keys beside those that it has, made if there is none: then the second is true, and the
    /// lease is to be remembered before anything goes with it.
    pub async fn with_room(
        &mut self,
        client: &Client,
        keys: &BTreeMap<LeaseId, usize>,
        more: usize,
    ) -> Result<(LeaseId, bool), Error> {
        let has_room = |lease: &LeaseId| keys.get(lease).copied().unwrap_or(0) + more <= MOST_KEYS;
        if let Some(lease) = self.ids().find(has_room) {
            return Ok((lease, false));
        }
        let begun = Instant::now();
        let lease = client.grant(self.ttl).await?;
        self.held.push((lease, begun + self.ttl));
        if self.held.len() == 1 {
            self.due = begun + self.interval();
        }
        Ok((lease, true))
    }

    /// Has all of them last again, and tells which are over.
    pub async fn keep(&mut self, client: &Client) -> Result<Vec<LeaseId>, Error> {
        let mut over = Vec::new();
        for (lease, until) in &mut self.held {
            let begun = Instant::now();
            match client.keep(*lease).await {
                Ok(rest) => *until = begun + rest,
                Err(Error::NoLease) => over.push(*lease),
                Err(error) => return Err(error),
            }
        }
        self.held.retain(|(lease, _)| !over.contains(lease));
        self.due = Instant::now() + self.interval();
        Ok(over)
    }

    /// None is left; those that were there.
    pub fn forget(&mut self) -> Vec<LeaseId> {
        self.held.drain(..).map(|(lease, _)| lease).collect()
    }

    fn interval(&self) -> Duration {
        (self.ttl / KEPT).max(Duration::from_secs(1))
    }
}
