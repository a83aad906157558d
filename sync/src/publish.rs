//! What this host says in its cluster's etcd: its endpoints' addresses, who it is, and that it is there.
//!
//! `watcher` notices endpoints, `wanted` makes lines of them, `plan` compares these with what etcd has, and `session`
//! writes what differs under `leases`. `presence` has the few other keys, `record` what outlives the process.

mod leases;
mod plan;
mod presence;
mod record;
mod session;
mod wanted;
mod watcher;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;

use anyhow::{Context, Result};
use cilmark::model::identity::Identity;
use cilmark::ops::cluster::endpoints::{self, OwnAddresses, Reader};
use cilmark::ops::cluster::{run_directory, state_directory};
use cilmark::state::pin::Root;
use jiff::Timestamp;
use log::warn;
use tokio::sync::{Mutex, Notify, mpsc, oneshot, watch};
use tokio::time::{Instant, timeout};

pub use leases::{Leases, MOST_KEYS};
use plan::{Plan, View};
pub use record::{random, read as read_record, write as write_record};
use session::Session;
pub use wanted::{Line, Local, Wanted};
use watcher::Watcher;

use crate::cilium::pair::{Pair, node_of};
use crate::config::Config;
use crate::etcd::{Client, LeaseId};
use crate::service::state::{Conflict, Lease, Own, Published};

/// So many endpoints are read before others have their turn.
const READ_AT_ONCE: usize = 8;

/// How long a withdrawal may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// Publishes what there is on this host. To be run on a [`tokio::task::LocalSet`].
pub struct Publisher {
    config: Config,
    client: Client,
    root: Root,
    run_directory: PathBuf,
    /// What tells this host from another one of its name.
    host: String,
    local: watch::Sender<Rc<Here>>,
    wanted: watch::Sender<Rc<Wanted>>,
    leave: mpsc::Sender<oneshot::Sender<usize>>,
    leavers: Mutex<mpsc::Receiver<oneshot::Sender<usize>>>,
    stays: Notify,
    standing: RefCell<Standing>,
}

/// What there is on this host, and which addresses are its own.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Here {
    /// What others may know.
    pub local: Local,
    /// About these no cluster is believed.
    pub own: OwnAddresses,
}

/// How it stands.
#[derive(Default)]
struct Standing {
    /// Why etcd does not answer.
    away: Option<String>,
    /// Why nothing may be written.
    trouble: Option<String>,
    published: Vec<IpAddr>,
    conflicts: BTreeMap<IpAddr, Conflict>,
    leases: Vec<Lease>,
    heartbeat: Option<Timestamp>,
}

impl Publisher {
    /// Of a host; nobody is asked yet.
    pub fn new(config: &Config, root: &Root, client: Client) -> Result<Publisher> {
        let host = record::host(&state_directory(root).join("host.json"))
            .context("remember which host this is")?;
        let (leave, leavers) = mpsc::channel(1);
        Ok(Publisher {
            config: config.clone(),
            client,
            root: root.clone(),
            run_directory: run_directory(root),
            host,
            local: watch::Sender::default(),
            wanted: watch::Sender::default(),
            leave,
            leavers: Mutex::new(leavers),
            stays: Notify::new(),
            standing: RefCell::default(),
        })
    }

    /// Looks at this host and publishes what there is, until it is dropped.
    pub async fn run(&self) {
        tokio::join!(self.look(), self.publish());
    }

    /// Only publishes what [`Publisher::want`] says.
    pub async fn publish(&self) {
        if self.config.publish {
            let _never = Session::new(self).run().await;
        }
    }

    /// What there is on this host, as it changes.
    pub fn here(&self) -> watch::Receiver<Rc<Here>> {
        self.local.subscribe()
    }

    /// This is to be published, and nothing else.
    pub fn want(&self, wanted: Wanted) {
        self.wanted.send_if_modified(|before| {
            let is_other = **before != wanted;
            *before = Rc::new(wanted);
            is_other
        });
    }

    /// Deletes all that this host has published, and publishes no more; how many keys. If etcd does not answer they go
    /// with their leases.
    pub async fn withdraw(&self) -> Result<usize> {
        if !self.config.publish {
            return Ok(0);
        }
        let (leaver, left) = oneshot::channel();
        let all = async {
            self.leave.send(leaver).await.context("it is withdrawn already")?;
            left.await
                .context("take back what this host publishes: etcd has not answered to the end")
        };
        let minutes = self.config.lease.as_secs().div_ceil(60);
        timeout(PATIENCE, all).await.with_context(|| {
            format!(
                "withdraw what this host publishes: etcd does not answer; it goes within {minutes} min once cilmark-sync has \
                 stopped"
            )
        })?
    }

    /// What was withdrawn is published again: the host has not left.
    pub fn stay(&self) {
        self.stays.notify_waiters();
    }

    /// Adds how it stands.
    pub fn fill(&self, own: &mut Own) {
        let standing = self.standing.borrow();
        let wanted = self.wanted.borrow();
        own.node.clone_from(&self.config.node);
        own.is_publishing = self.config.publish;
        own.trouble = standing.trouble.clone().or_else(|| standing.away.clone());
        let published = standing.published.iter().filter_map(|address| {
            let line = wanted.lines.get(address)?;
            let (identity, device) = (line.identity, line.device.clone());
            Some(Published { address: *address, identity, device })
        });
        own.published = published.collect();
        own.conflicts = standing.conflicts.values().cloned().collect();
        own.unpublished.clone_from(&wanted.unpublished);
        own.leases.clone_from(&standing.leases);
        own.heartbeat = standing.heartbeat;
    }

    /// Reads endpoints whenever they may have changed.
    async fn look(&self) {
        let mut watcher = Watcher::new(self.root.path());
        let mut reader = Reader::default();
        let mut everything = true;
        loop {
            let local = self.read(&mut reader, everything).await;
            match OwnAddresses::of(&local.endpoints) {
                Ok(own) => {
                    let wanted = Wanted::of(&local, &self.config);
                    let here = Here { local, own };
                    self.local.send_if_modified(|before| {
                        let is_other = **before != here;
                        *before = Rc::new(here);
                        is_other
                    });
                    self.want(wanted);
                }
                Err(error) => warn!("what there is on this host: {error:#}"),
            }
            everything = !watcher.changed().await;
        }
    }

    async fn read(&self, reader: &mut Reader, everything: bool) -> Local {
        let ids = reader.begin(&self.root, everything).unwrap_or_else(|error| {
            warn!("endpoints: {error:#}");
            Vec::new()
        });
        let mut endpoints = Vec::new();
        for some in ids.chunks(READ_AT_ONCE) {
            endpoints.extend(some.iter().filter_map(|id| reader.read(&self.root, *id)));
            tokio::task::yield_now().await;
        }
        let nics = match self.config.publish_host {
            true => endpoints::of_nics(&endpoints).unwrap_or_else(|error| {
                warn!("addresses of NICs: {error:#}");
                self.local.borrow().local.nics.clone()
            }),
            false => BTreeMap::new(),
        };
        Local { endpoints, nics }
    }

    /// Waits for somebody who wants all to be withdrawn, and who waits for that still: others were told that it has failed.
    async fn leaver(&self) -> oneshot::Sender<usize> {
        let mut leavers = self.leavers.lock().await;
        while let Some(leaver) = leavers.recv().await {
            if !leaver.is_closed() {
                return leaver;
            }
        }
        std::future::pending().await
    }

    fn change(&self, change: impl FnOnce(&mut Standing)) {
        change(&mut self.standing.borrow_mut());
    }
}

impl Standing {
    fn set_leases(&mut self, leases: &[(LeaseId, Instant)], keys: &BTreeMap<LeaseId, usize>) {
        let until = |until: Instant| {
            let rest = until.saturating_duration_since(Instant::now());
            Timestamp::now().checked_add(rest).unwrap_or(Timestamp::MAX)
        };
        let lease = |(lease, end): &(LeaseId, Instant)| Lease {
            id: lease.0,
            keys: keys.get(lease).copied().unwrap_or(0),
            until: until(*end),
        };
        self.leases = leases.iter().map(lease).collect();
    }

    fn set_conflicts(&mut self, wanted: &Wanted, plan: &Plan, view: &View) {
        let before = std::mem::take(&mut self.conflicts);
        for address in &plan.conflicts {
            let (Some(line), Some(found)) = (wanted.lines.get(address), view.get(*address)) else {
                continue;
            };
            let pair = Pair::read(&found.value).ok();
            let since = before.get(address).map_or_else(Timestamp::now, |it| it.since);
            let conflict = Conflict {
                address: *address,
                device: line.device.clone(),
                their_identity: Identity(pair.as_ref().map_or(0, |pair| pair.id)),
                their_node: pair.and_then(|pair| node_of(&pair.metadata).map(str::to_owned)),
                since,
            };
            self.conflicts.insert(*address, conflict);
        }
    }

    fn forget(&mut self) {
        self.published.clear();
        self.conflicts.clear();
    }
}
