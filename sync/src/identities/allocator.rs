//! A number for a set of labels, held as long as an endpoint of this host has them.

mod session;
mod sets;

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;

use anyhow::{Context as _, Error, Result};
use cilmark::model::identity::Identity;
use cilmark::model::labels::Labels;
use cilmark::ops::cluster::memory::{self, Memory};
use cilmark::ops::cluster::run_directory;
use cilmark::state::pin::Root;
use log::warn;
use tokio::sync::{Mutex, Notify, oneshot, watch};
use tokio::time::timeout;

use super::known::Known;
use super::obtain::LOCK_LEASE;
use crate::cilium::labels;
use crate::cilium::range::Range;
use crate::config::Config;
use crate::etcd::{self, Client, LeaseId};
use crate::publish::{Here, Leases, read_record};
use crate::service::state::{Allocated, Own};
use sets::{GRACE, Record, Sets};

/// How long whoever asks for a number waits; who starts a workload gives up after 5 s.
const PATIENCE: Duration = Duration::from_millis(4500);

/// The same where etcd has been away before.
const PATIENCE_AWAY: Duration = Duration::from_secs(1);

/// How long to let go of all may take.
const PATIENCE_LEAVING: Duration = Duration::from_secs(10);

/// Of more labels only those are remembered that are held.
const MOST_REMEMBERED: usize = 10_000;

/// Has numbers for the labels of this host's endpoints. To be run on a [`tokio::task::LocalSet`].
pub struct Allocator {
    config: Config,
    root: Root,
    client: Client,
    file: PathBuf,
    known: RefCell<Known>,
    sets: RefCell<Sets>,
    leases: Mutex<Leases>,
    lock_lease: Mutex<Option<(LeaseId, tokio::time::Instant)>>,
    memory: RefCell<Memory>,
    /// Why etcd does not answer.
    away: RefCell<Option<String>>,
    store: Cell<u64>,
    written: RefCell<Record>,
    /// A lease was over: all that is held is to be looked at.
    is_cut_off: Cell<bool>,
    /// Who wants nothing to be held any more.
    leaver: RefCell<Option<oneshot::Sender<usize>>>,
    stays: Notify,
    /// There is something to do.
    wake: Notify,
    /// What is held has changed.
    numbers: watch::Sender<Rc<BTreeMap<String, Identity>>>,
}

/// Why labels have no number.
#[derive(Debug)]
pub enum NoNumber {
    /// They never get one: what is wrong with them.
    Never(Error),
    /// Not now: etcd does not answer, or not in time.
    NotYet(String),
}

impl fmt::Display for NoNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            NoNumber::Never(error) => write!(f, "{error:#}"),
            NoNumber::NotYet(why) => f.write_str(why),
        }
    }
}

impl std::error::Error for NoNumber {}

impl Allocator {
    /// Of a host. Nobody is asked yet; what its labels had last is known from now on, also to commands.
    pub fn new(config: &Config, root: &Root, client: Client) -> Result<Allocator> {
        Allocator::with_grace(config, root, client, GRACE)
    }

    /// The same, which holds a number for so long without an endpoint.
    pub fn with_grace(
        config: &Config,
        root: &Root,
        client: Client,
        grace: Duration,
    ) -> Result<Allocator> {
        let file = run_directory(root).join("users.json");
        let record: Record = read_record(&file);
        let memory = match memory::read(root) {
            Ok(Some(memory)) => memory,
            none => {
                if let Err(error) = none {
                    warn!("which numbers labels had is forgotten: {error:#}");
                }
                // Its file tells commands that this host is in a cluster.
                memory::write(root, &Memory::new())?;
                Memory::new()
            }
        };
        Ok(Allocator {
            known: RefCell::new(Known::new(Range::of(config.id, config.max_clusters))),
            sets: RefCell::new(Sets::of(&record, grace)),
            leases: Mutex::new(Leases::new(config.lease, record.leases.clone())),
            lock_lease: Mutex::default(),
            memory: RefCell::new(memory),
            away: RefCell::default(),
            store: Cell::new(record.store),
            written: RefCell::new(record),
            is_cut_off: Cell::new(false),
            leaver: RefCell::default(),
            stays: Notify::new(),
            wake: Notify::new(),
            numbers: watch::Sender::default(),
            config: config.clone(),
            root: root.clone(),
            client,
            file,
        })
    }

    /// Holds the numbers of what there is on this host, until it is dropped.
    pub async fn run(self: &Rc<Allocator>, here: watch::Receiver<Rc<Here>>) {
        tokio::join!(self.follow_endpoints(here), self.follow_etcd());
    }

    /// The number of labels, which this host holds from then on: for some minutes, and as long as an endpoint has them.
    pub async fn allocate(&self, labels: &Labels) -> Result<Identity, NoNumber> {
        let key = labels::to_cilium(labels, &self.config.name).map_err(NoNumber::Never)?;
        let mut numbers = self.numbers.subscribe();
        self.sets.borrow_mut().ask(&key, &labels.to_string());
        self.wake.notify_one();
        let held = async {
            loop {
                numbers.borrow_and_update();
                if let Some(number) = self.sets.borrow().held(&key) {
                    return number;
                }
                if numbers.changed().await.is_err() {
                    std::future::pending::<()>().await;
                }
            }
        };
        let patience = match *self.away.borrow() {
            Some(_) => PATIENCE_AWAY,
            None => PATIENCE,
        };
        timeout(patience, held).await.map_err(|_| {
            let sets = self.sets.borrow();
            let why = self.away.borrow().clone().or_else(|| sets.trouble(&key));
            NoNumber::NotYet(why.unwrap_or_else(|| "etcd has not answered in time".to_owned()))
        })
    }

    /// The number that labels had last on this host, whatever etcd says.
    pub fn last(&self, labels: &Labels) -> Option<Identity> {
        self.memory.borrow().get(&labels.to_string()).copied()
    }

    /// The numbers that are held, by labels as text (`app=web,tier=front`), as they change: endpoints that have another
    /// one, as they got it while etcd was away, are to be attached again.
    pub fn numbers(&self) -> watch::Receiver<Rc<BTreeMap<String, Identity>>> {
        self.numbers.subscribe()
    }

    /// Uses no number any more, and none from now on; how many it was. If etcd does not answer, they go with their leases.
    pub async fn withdraw(&self) -> Result<usize> {
        let (leaver, left) = oneshot::channel();
        *self.leaver.borrow_mut() = Some(leaver);
        self.wake.notify_one();
        let left = timeout(PATIENCE_LEAVING, left).await;
        left.context("let go of the numbers of labels: etcd does not answer")?
            .context("let go of the numbers of labels: etcd has not answered to the end")
    }

    /// What was withdrawn is used again: the host has not left.
    pub fn stay(&self) {
        self.stays.notify_waiters();
    }

    /// Adds how it stands.
    pub fn fill(&self, own: &mut Own) {
        let away = self.away.borrow().clone();
        let allocated = |(key, set): (&String, &sets::Set)| Allocated {
            labels: labels::readable(key),
            identity: set.number,
            endpoints: set.endpoints,
            trouble: set.trouble.clone().or_else(|| away.clone().filter(|_| set.number.is_none())),
        };
        own.allocated = self.sets.borrow().iter().map(allocated).collect();
    }

    /// Takes what the endpoints of this host have for its wishes.
    async fn follow_endpoints(&self, mut here: watch::Receiver<Rc<Here>>) {
        loop {
            let now = here.borrow_and_update().clone();
            // Not before the first look: what is held would seem to be nobody's.
            if *now != Here::default() {
                self.use_by(&now);
            }
            if here.changed().await.is_err() {
                return std::future::pending().await;
            }
        }
    }

    fn use_by(&self, here: &Here) {
        let mut used = BTreeMap::new();
        for endpoint in here.local.endpoints.iter().filter(|it| it.is_by_labels) {
            let Ok(key) = labels::to_cilium(&endpoint.labels, &self.config.name) else { continue };
            let entry = used.entry(key).or_insert((endpoint.labels.to_string(), 0, None));
            entry.1 += 1;
            entry.2 = entry.2.or(Some(endpoint.identity));
        }
        let changed = self.sets.borrow_mut().used(used);
        if changed {
            self.wake.notify_one();
        }
    }

    /// Remembers and tells what is held.
    fn tell(&self) {
        let held = self.sets.borrow().all_held();
        let is_new = {
            let mut memory = self.memory.borrow_mut();
            let before = memory.clone();
            memory.extend(held.iter().map(|(labels, number)| (labels.clone(), *number)));
            if memory.len() > MOST_REMEMBERED {
                memory.retain(|labels, _| held.contains_key(labels));
            }
            *memory != before
        };
        if is_new && let Err(error) = memory::write(&self.root, &self.memory.borrow()) {
            warn!("{error:#}");
        }
        self.numbers.send_if_modified(|before| {
            let is_other = **before != held;
            *before = Rc::new(held);
            is_other
        });
    }

    /// The lease of locks, which outlives none of them by long.
    async fn lock_lease(&self) -> Result<LeaseId, etcd::Error> {
        let mut held = self.lock_lease.lock().await;
        let now = tokio::time::Instant::now();
        if let Some((lease, until)) = *held {
            if until > now + LOCK_LEASE / 2 {
                return Ok(lease);
            }
            match self.client.keep(lease).await {
                Ok(rest) => {
                    *held = Some((lease, now + rest));
                    return Ok(lease);
                }
                Err(etcd::Error::NoLease) => {}
                Err(error) => return Err(error),
            }
        }
        let lease = self.client.grant(LOCK_LEASE).await?;
        *held = Some((lease, now + LOCK_LEASE));
        Ok(lease)
    }
}
