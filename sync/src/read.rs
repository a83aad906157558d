//! What clusters say, into the ipcache.
//!
//! ```text
//!  etcd ──> reader, one a cluster ──> table ──> writer ──> cm_ipcache
//!                                └──> labels ──┘     └───> cm_id_labels
//! ```
//! A `reader` follows one cluster's etcd and tells the `table` what it says; the `writer` brings into the maps what has changed,
//! many at once. All of it runs in one thread, and shares [`Reading`].

mod facts;
mod known;
mod labels;
pub mod reader;
mod remotes;
mod status;
pub mod table;
pub mod writer;

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use cilmark::state::pin::Root;
use tokio::sync::Notify;

use self::facts::Facts;
use self::labels::Labels;
use self::status::Status;
use self::table::{Missing, Number, Table};
use crate::config::Config;
use crate::service::state;

/// What is read, and how far that is.
pub struct Reading {
    config: Rc<Config>,
    root: Root,
    started: Instant,
    /// There is something for the writer to do.
    changed: Notify,
    inner: RefCell<Inner>,
}

struct Inner {
    table: Table,
    labels: Labels,
    facts: Facts,
    /// By name.
    clusters: BTreeMap<String, Status>,
    /// Who has which number.
    numbers: BTreeMap<Number, String>,
    /// Lines that were in the ipcache at the start may still be anybody's.
    has_adopted: bool,
    /// Who else is to be read was found out.
    knows_remotes: bool,
    writer: writer::Status,
}

impl Reading {
    /// Of this host's cluster and all that are configured. Nothing is asked yet.
    pub fn new(config: Rc<Config>, root: &Root) -> Rc<Reading> {
        let table = Table::new(config.id, config.max_clusters, config.stale, config.sweep);
        let mut inner = Inner {
            table,
            labels: Labels::default(),
            facts: Facts::read(root),
            clusters: BTreeMap::new(),
            numbers: BTreeMap::from([(config.id, config.name.clone())]),
            has_adopted: false,
            knows_remotes: false,
            writer: writer::Status::default(),
        };
        let own = Status::new(&config.name, config.etcd.clone(), Some(config.id));
        inner.clusters.insert(config.name.clone(), own);
        Rc::new(Reading {
            config,
            root: root.clone(),
            started: Instant::now(),
            changed: Notify::new(),
            inner: RefCell::new(inner),
        })
    }

    /// How long the process runs: no clock that jumps.
    fn now(&self) -> Duration {
        self.started.elapsed()
    }

    /// How each cluster is: the own one first, then the others by name.
    pub fn clusters(&self) -> Vec<state::Cluster> {
        let inner = self.inner.borrow();
        let own = inner.clusters.get(&self.config.name);
        let others = inner.clusters.iter().filter(|(name, _)| **name != self.config.name);
        let all = own.into_iter().chain(others.map(|(_, status)| status));
        all.map(|status| status.tell(&inner, self.config.id, self.now())).collect()
    }

    /// Whether all that the own cluster says is in the ipcache.
    pub fn is_ready(&self) -> bool {
        let inner = self.inner.borrow();
        inner.clusters.get(&self.config.name).is_some_and(Status::is_ready)
            && !inner.table.has_changes()
    }

    /// Why the maps are not as they should be, if they are not.
    pub fn trouble(&self) -> Option<String> {
        self.inner.borrow().writer.trouble()
    }

    /// The operator's word: what is held of a cluster goes. How many lines that are.
    pub fn sweep(&self, cluster: &str) -> Result<usize> {
        let mut inner = self.inner.borrow_mut();
        let status = inner.clusters.get(cluster).with_context(|| {
            format!("no cluster `{cluster}` is read; `cilmark cluster list` shows those that are")
        })?;
        let number = status.number();
        let swept = number.map_or(0, |number| inner.table.sweep(number));
        self.changed.notify_one();
        Ok(swept)
    }
}

impl Inner {
    /// A cluster is read no longer.
    fn forget(&mut self, name: &str) {
        self.clusters.remove(name);
        let numbers = self.numbers.iter().filter(|(_, of)| *of == name).map(|(number, _)| *number);
        for number in numbers.collect::<Vec<_>>() {
            self.let_go(number, name);
        }
        self.facts.forget(name);
    }

    /// What a cluster has said under a number.
    fn let_go(&mut self, number: Number, name: &str) {
        if self.numbers.get(&number).is_some_and(|of| of == name) {
            self.numbers.remove(&number);
            self.table.drain(number);
            self.labels.drain(number);
            log::info!("cluster {name} has number {number} no more, and no lines of that");
        }
    }

    /// The next process is to know whether there are stale lines. Until all have listed what they have, what the last one has
    /// left may be stale.
    fn note_stale(&mut self) {
        for (number, name) in &self.numbers {
            let has_stale = self.table.has_stale(*number);
            if has_stale || !self.has_adopted {
                self.facts.set_stale(name, has_stale);
            }
        }
    }

    /// After a list: if that was the last one, what was found in the ipcache and nobody has claimed is nobody's.
    fn end_adopted(&mut self, now: Duration) {
        let knows_all = self.has_adopted && self.knows_remotes;
        if !knows_all || !self.clusters.values().all(Status::has_listed) {
            return;
        }
        self.has_adopted = false;
        let read: BTreeSet<Number> = self.numbers.keys().copied().collect();
        let is_stale = self.clusters.values().any(|status| status.first_list() == Missing::IsStale);
        let missing = if is_stale { Missing::IsStale } else { Missing::IsGone };
        self.table.end_adopted(&read, missing, now);
        self.labels.end_adopted(&read);
    }
}

/// Reads for as long as it is polled, on a [`tokio::task::LocalSet`].
pub async fn run(reading: Rc<Reading>) {
    writer::adopt(&reading).await;
    tokio::join!(remotes::run(reading.clone()), writer::run(reading));
}
