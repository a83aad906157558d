//! That this host and its cluster are there: its name, the cluster's configuration, and the heartbeat.

use std::time::Duration;

use jiff::{Timestamp, Unit};
use tokio::time::Instant;

use super::plan::Found;
use super::record::random;
use crate::cilium::cluster_config::ClusterConfig;
use crate::cilium::keys;
use crate::config::Config;
use crate::etcd::{Change, Client, Compare, Error, LeaseId, Op};

/// A heartbeat that is older is written anew by whoever notices first. Readers wait two minutes.
const BEAT: Duration = Duration::from_secs(50);

/// Not all hosts notice at once.
const JITTER_MS: u64 = 2_000;

/// How many keys these are.
pub const KEYS: usize = 3;

/// A key that one host writes for all, or one for itself.
struct Key {
    name: String,
    at: i64,
    now: Option<Found>,
}

/// These keys as they are in etcd.
pub struct Presence {
    host: String,
    own: ClusterConfig,
    cluster: String,
    node: Key,
    config: Key,
    heartbeat: Key,
    /// When the heartbeat is due, unless another host writes it.
    due: Instant,
    /// When this host has written it last, if nobody else has since.
    pub beaten: Option<Timestamp>,
}

impl Presence {
    /// Nothing is read yet.
    pub fn new(config: &Config, host: &str) -> Presence {
        let key = |name: String| Key { name, at: 0, now: None };
        Presence {
            host: host.to_owned(),
            own: ClusterConfig::of(config.id, config.max_clusters),
            cluster: config.name.clone(),
            node: key(format!("{}{}", keys::NODES_OF_CILMARK, config.node)),
            config: key(keys::cluster_config(&config.name)),
            heartbeat: key(keys::HEARTBEAT.to_owned()),
            due: Instant::now(),
            beaten: None,
        }
    }

    /// Prefixes to be watched: some keys beside these have them.
    pub fn prefixes(&self) -> [&str; 3] {
        [&self.node.name, &self.config.name, &self.heartbeat.name]
    }

    /// Reads all of them.
    pub async fn read(&mut self, client: &Client) -> Result<(), Error> {
        let had_heartbeat = self.heartbeat.now.clone();
        for key in [&mut self.node, &mut self.config, &mut self.heartbeat] {
            let (header, found) = client.get(&key.name).await?;
            *key = Key {
                at: header.revision,
                now: found.map(Found::from),
                name: std::mem::take(&mut key.name),
            };
        }
        match &self.heartbeat.now {
            None => self.due = Instant::now(),
            now if *now != had_heartbeat => self.seen_heartbeat(),
            _ => {}
        }
        Ok(())
    }

    /// What a watch tells.
    pub fn apply(&mut self, change: Change) {
        let revision = change.revision();
        let (name, now) = match change {
            Change::Put(put) => (put.key.clone(), Some(Found::from(put))),
            Change::Deleted { key, .. } => (key, None),
        };
        let keys = [&mut self.node, &mut self.config, &mut self.heartbeat];
        let key = keys.into_iter().find(|key| key.name == name && key.at < revision);
        let Some(key) = key else { return };
        (key.at, key.now) = (revision, now);
        if name == self.heartbeat.name {
            self.beaten = None;
            match self.heartbeat.now {
                Some(_) => self.seen_heartbeat(),
                None => self.due = Instant::now() + jitter(),
            }
        }
    }

    /// Why this host may not write anything: what stands there is another's.
    pub fn trouble(&self) -> Option<String> {
        if let Some(found) = &self.config.now {
            let there = ClusterConfig::read(&found.value);
            let id = there.as_ref().map_or(0, |config| config.id);
            if id != self.own.id {
                return Some(format!(
                    "{} says that cluster {} has number {id}, and this host's configuration says {}: make them the same, or \
                     delete that key if nobody of that number is left",
                    self.config.name, self.cluster, self.own.id
                ));
            }
        }
        let other = self.node.now.as_ref().filter(|found| found.value != self.host.as_bytes())?;
        let lease = other.lease.map(|lease| format!(", by lease {:x}", lease.0));
        Some(format!(
            "another host is called {} as well ({}{}): give each a name of its own (`node` in the configuration); what is \
             left of one that is gone goes with its lease",
            self.node.name.trim_start_matches(keys::NODES_OF_CILMARK),
            self.node.name,
            lease.unwrap_or_default()
        ))
    }

    /// When something is due if nothing else happens.
    pub fn due(&self) -> Instant {
        self.due
    }

    /// Writes what is missing or due. What somebody has written meanwhile is read instead; whether all is as it was thought.
    pub async fn settle(&mut self, client: &Client, lease: LeaseId) -> Result<bool, Error> {
        let mut is_settled = true;
        if self.config.now.is_none() {
            let value = self.own.write();
            is_settled &= self.config.write(client, value, lease).await?;
        }
        let is_host = |found: &Found| found.value == self.host.as_bytes();
        let is_own =
            self.node.now.as_ref().is_some_and(|it| is_host(it) && it.lease == Some(lease));
        let is_others = self.node.now.as_ref().is_some_and(|it| !is_host(it));
        if is_settled && !is_own && !is_others {
            is_settled &= self.node.write(client, self.host.clone(), lease).await?;
        }
        if is_settled && self.trouble().is_none() && self.due <= Instant::now() {
            let now = Timestamp::now();
            let text = now.round(Unit::Second).unwrap_or(now).to_string();
            let is_written = self.heartbeat.write(client, text, lease).await?;
            self.beaten = is_written.then_some(now);
            self.seen_heartbeat();
        }
        Ok(is_settled)
    }

    /// Deletes what this host has written, and no more; how many keys.
    pub async fn withdraw(
        &mut self,
        client: &Client,
        is_own: impl Fn(LeaseId) -> bool,
    ) -> Result<usize, Error> {
        let mut deleted = 0;
        for key in [&mut self.node, &mut self.config, &mut self.heartbeat] {
            let Some(lease) = key.now.as_ref().and_then(|it| it.lease).filter(|it| is_own(*it))
            else {
                continue;
            };
            let guard = vec![Compare::HasLease(key.name.clone(), lease)];
            let done = client.transact(guard, vec![Op::Delete(key.name.clone())], Vec::new());
            let done = done.await?;
            deleted += usize::from(done.held);
            (key.at, key.now) = (done.header.revision, None);
        }
        Ok(deleted)
    }

    fn seen_heartbeat(&mut self) {
        self.due = Instant::now() + BEAT + jitter();
    }
}

impl Key {
    /// Writes it if it is still what it was; else reads it.
    async fn write(
        &mut self,
        client: &Client,
        value: String,
        lease: LeaseId,
    ) -> Result<bool, Error> {
        let guard = match &self.now {
            None => Compare::IsAbsent(self.name.clone()),
            Some(found) => Compare::ModifiedAt(self.name.clone(), found.modified),
        };
        let value = value.into_bytes();
        let put = Op::Put(self.name.clone(), value.clone(), Some(lease));
        let done =
            client.transact(vec![guard], vec![put], vec![Op::Get(self.name.clone())]).await?;
        self.at = done.header.revision;
        self.now = match done.held {
            true => Some(Found { value, lease: Some(lease), modified: self.at }),
            false => done.found.into_iter().flatten().next().map(Found::from),
        };
        Ok(done.held)
    }
}

fn jitter() -> Duration {
    Duration::from_millis(random() % JITTER_MS)
}
