//! What the table has changed, into the maps: the first change at once, and then at most ten times a second.
//!
//! Lines of others stay, and so do addresses of this host. Whoever has changed anything in the root may have taken a line over,
//! have given one back or have emptied the ipcache: all of it is compared with the table then.

use std::collections::{BTreeSet, HashSet};
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use cilmark::model::identity::Identity;
use cilmark::ops;
use cilmark::ops::cluster::endpoints::OwnAddresses;
use cilmark::ops::cluster::labels;
use cilmark::ops::cluster::lines::{ClusterChange, Lines};
use cilmark::state::pin::Root;
use ipnet::IpNet;
use log::{info, warn};
use tokio::sync::mpsc;
use tokio::task::{spawn_blocking, yield_now};
use tokio::time::{sleep, timeout};

use super::Reading;
use super::table::{Number, Table};

/// Between two flushes.
const BETWEEN_FLUSHES: Duration = Duration::from_millis(100);
/// The same while all of a cluster is read: that many go into one flush.
const WHILE_LISTING: Duration = Duration::from_millis(400);
/// What needs no flush is looked at so often.
const TICK: Duration = Duration::from_secs(1);
/// After a failure.
const BETWEEN_ATTEMPTS: Duration = Duration::from_secs(1);
/// How long other commands may have the root's lock before that is told; it is waited for anyway.
const PATIENCE: Duration = Duration::from_secs(2);
/// Changes that are written before others have their turn: some ten milliseconds.
const AT_A_TIME: usize = 8192;
/// So many times that, until commands have their turn, too.
const BATCHES: usize = 2;
/// Few prefixes are changed one by one; more of them make the index anew, which is done so often at most.
const FEW_NETS: usize = 32;
const BETWEEN_MANY_NETS: Duration = Duration::from_secs(2);
/// A comparison of all lines may take that part of the time.
const COMPARISONS: u32 = 100;
/// Nobody has changed anything, as far as counters tell.
const BETWEEN_COMPARISONS: Duration = Duration::from_secs(60);
/// How often this host's addresses are looked at.
const BETWEEN_OWN: Duration = Duration::from_secs(5);
/// Lines that found no room are tried again.
const BETWEEN_FULL: Duration = Duration::from_secs(5);

/// How the maps are.
#[derive(Default)]
pub(super) struct Status {
    error: Option<String>,
    full: Option<String>,
    /// Prefixes that have somebody else's line.
    left: HashSet<IpNet>,
    no_room: HashSet<IpNet>,
    /// Addresses of this host that clusters claim.
    hidden: BTreeSet<IpNet>,
}

impl Status {
    pub(super) fn trouble(&self) -> Option<String> {
        let full =
            || self.full.as_ref().map(|full| format!("{full}; {} in all", self.no_room.len()));
        self.error.clone().or_else(full)
    }

    /// How many lines of a cluster are about this host's own addresses.
    pub(super) fn hidden_of(&self, table: &Table, cluster: Number) -> usize {
        let is_its = |prefix: &&IpNet| table.get(prefix).is_some_and(|(of, _)| of == cluster);
        self.hidden.iter().filter(is_its).count()
    }

    fn failed(&mut self, error: &anyhow::Error) {
        let error = format!("{error:#}");
        if self.error.as_ref() != Some(&error) {
            warn!("clusters' lines are not in the ipcache as they should be: {error}");
        }
        self.error = Some(error);
    }
}

/// What was in the maps before this process, into the table.
pub(super) async fn adopt(reading: &Rc<Reading>) {
    let root = reading.root.clone();
    let mut count = 0;
    let all = for_each_line(&root, |prefix, identity| {
        if let Some(identity) = identity {
            reading.inner.borrow_mut().table.adopt(prefix, identity);
            count += 1;
        }
    })
    .await;
    let inner = &mut *reading.inner.borrow_mut();
    let labels = labels::for_each(&root, |identity, text| {
        let cluster = inner.table.cluster_of(identity);
        inner.labels.adopt(cluster, identity, text);
    });
    if let Err(error) = all.and(labels) {
        inner.writer.failed(&error);
    }
    inner.has_adopted = true;
    if count > 0 {
        info!("{count} lines of clusters are in the ipcache from before");
    }
}

/// Reads the ipcache beside the thread that serves everything else.
async fn for_each_line(root: &Root, mut each: impl FnMut(IpNet, Option<Identity>)) -> Result<()> {
    let (sender, mut receiver) = mpsc::channel::<Vec<(IpNet, Option<Identity>)>>(2);
    let lines = Lines::of(root);
    let read = spawn_blocking(move || {
        let mut batch = Vec::with_capacity(AT_A_TIME);
        let read = lines.for_each_of_all(|prefix, identity| {
            batch.push((prefix, identity));
            if batch.len() == AT_A_TIME {
                let next = Vec::with_capacity(AT_A_TIME);
                // Nobody listens any more where the process ends.
                let _ = sender.blocking_send(std::mem::replace(&mut batch, next));
            }
        });
        let _ = sender.blocking_send(batch);
        read
    });
    while let Some(batch) = receiver.recv().await {
        batch.into_iter().for_each(|(prefix, identity)| each(prefix, identity));
    }
    read.await.context("read the ipcache")?
}

/// Writes for as long as it is polled.
pub(super) async fn run(reading: Rc<Reading>) {
    let lines = Lines::of(&reading.root);
    Writer {
        lines,
        own: OwnAddresses::default(),
        own_read: None,
        own_changes: None,
        map: None,
        changes: None,
        compared: None,
        comparison_took: Duration::ZERO,
        looked_again: None,
        many_nets: None,
        full: None,
        is_settled: false,
        reading,
    }
    .run()
    .await;
}

struct Writer {
    reading: Rc<Reading>,
    lines: Lines,
    own: OwnAddresses,
    own_read: Option<Instant>,
    own_changes: Option<u32>,
    /// The ipcache that was written to.
    map: Option<u32>,
    /// What changes of verdicts were counted when nobody else had changed anything.
    changes: Option<u32>,
    compared: Option<Instant>,
    comparison_took: Duration,
    looked_again: Option<Instant>,
    many_nets: Option<Instant>,
    full: Option<Instant>,
    is_settled: bool,
}

impl Writer {
    async fn run(mut self) {
        loop {
            let begin = Instant::now();
            let done = self.look().await;
            let wait = {
                let inner = &mut *self.reading.inner.borrow_mut();
                match &done {
                    Ok(()) => inner.writer.error = None,
                    Err(error) => inner.writer.failed(error),
                }
                inner.note_stale();
                match done {
                    Ok(()) => {
                        let is_listing = inner.clusters.values().any(|it| it.is_listing());
                        let between = if is_listing { WHILE_LISTING } else { BETWEEN_FLUSHES };
                        between.saturating_sub(begin.elapsed())
                    }
                    Err(_) => BETWEEN_ATTEMPTS,
                }
            };
            sleep(wait).await;
            let _ = timeout(TICK, self.reading.changed.notified()).await;
        }
    }

    /// Whatever is to be done now.
    async fn look(&mut self) -> Result<()> {
        self.look_at_own()?;
        self.look_at_map().await?;
        self.retry_full();
        let is_needed = {
            let inner = &mut *self.reading.inner.borrow_mut();
            // Before lines of a store are in the ipcache it is known of which.
            inner.facts.write();
            inner.table.settle(self.reading.now());
            inner.table.has_changes() || inner.labels.has_changes()
        };
        if is_needed { self.flush().await } else { Ok(()) }
    }

    /// This host's addresses: what clusters say of them does not count.
    fn look_at_own(&mut self) -> Result<()> {
        let changes = self.lines.changes()?;
        // Whoever attaches counts as a change; an address of a device does not.
        let is_changed = self.own_changes != changes;
        let wanted = is_changed || is_due(self.own_read, BETWEEN_OWN);
        if !wanted || !is_due(self.own_read, TICK) {
            return Ok(());
        }
        self.own_changes = changes;
        self.own_read = Some(Instant::now());
        let own = OwnAddresses::read(&self.reading.root)?;
        if own == self.own {
            return Ok(());
        }
        let before = std::mem::replace(&mut self.own, own);
        let inner = &mut *self.reading.inner.borrow_mut();
        let table = &mut inner.table;
        let hosts = before.hosts().symmetric_difference(self.own.hosts());
        for address in hosts {
            let prefix = IpNet::from(*address);
            if table.get(&prefix).is_some() {
                table.tell_again(&prefix);
            }
        }
        let of_both = [(&before, &self.own), (&self.own, &before)];
        for (one, other) in of_both {
            for prefix in one.prefixes().iter().filter(|it| !other.prefixes().contains(it)) {
                table.tell_again_within(prefix);
            }
        }
        Ok(())
    }

    /// Whether it is still the same, and what others have done to it.
    async fn look_at_map(&mut self) -> Result<()> {
        let map = self.lines.number()?;
        if map != self.map {
            match self.map {
                // It was read a moment ago.
                None => {
                    self.compared = Some(Instant::now());
                    self.changes = self.lines.changes()?;
                }
                Some(_) => {
                    info!("the ipcache is another map now, and is filled again");
                    self.tell_all_again();
                    self.changes = None;
                }
            }
            self.map = map;
        }
        if map.is_none() {
            return Ok(());
        }
        if !self.is_settled {
            // Whoever was killed while he wrote, maybe this process before, has told nobody.
            let _lock = self.lock().await?;
            self.lines.settle()?;
            self.is_settled = true;
        }
        let changes = self.lines.changes()?;
        if self.changes != changes && is_due(self.looked_again, TICK) {
            self.looked_again = Some(Instant::now());
            self.look_again();
        }
        let least = (self.comparison_took * COMPARISONS).max(TICK);
        let is_changed = self.changes != changes;
        let wait = if is_changed { least } else { least.max(BETWEEN_COMPARISONS) };
        if is_due(self.compared, wait) && !self.reading.inner.borrow().table.is_empty() {
            self.changes = changes;
            self.compare().await?;
        }
        Ok(())
    }

    /// Whose line stood in place of a cluster's may have gone. Of very many the comparison of all tells.
    fn look_again(&self) {
        let inner = &mut *self.reading.inner.borrow_mut();
        if inner.writer.left.len() <= AT_A_TIME {
            for prefix in &inner.writer.left {
                if inner.table.get(prefix).is_some() {
                    inner.table.tell_again(prefix);
                }
            }
        }
    }

    /// Reads all lines. Those that differ are told again, which reads them once more under the lock.
    async fn compare(&mut self) -> Result<()> {
        let begin = Instant::now();
        let (mut found, mut left) = (0, HashSet::new());
        let reading = self.reading.clone();
        for_each_line(&self.reading.root, |prefix, identity| {
            let inner = &mut *reading.inner.borrow_mut();
            let said = inner.table.get(&prefix).map(|(_, identity)| identity);
            match (said, identity) {
                _ if inner.writer.hidden.contains(&prefix) => {
                    if identity.is_some() {
                        inner.table.tell_again(&prefix);
                    }
                }
                (None, None) => {}
                (Some(said), Some(there)) if said == there => found += 1,
                (Some(_), Some(_)) | (None, Some(_)) => {
                    inner.table.tell_again(&prefix);
                    found += usize::from(said.is_some());
                }
                (Some(_), None) => {
                    found += 1;
                    left.insert(prefix);
                }
            }
        })
        .await?;
        self.compared = Some(Instant::now());
        self.comparison_took = begin.elapsed();
        let inner = &mut *self.reading.inner.borrow_mut();
        let given_back: Vec<IpNet> = inner.writer.left.difference(&left).copied().collect();
        for prefix in given_back {
            if inner.table.get(&prefix).is_some() {
                inner.table.tell_again(&prefix);
            }
        }
        inner.writer.left = left;
        let changed = inner.table.changed();
        if changed > 0 {
            // Which of them are there is not known.
            self.changes = None;
        }
        let absent = inner.writer.no_room.len() + inner.writer.hidden.len() + changed;
        if found + absent < inner.table.len() {
            info!("lines of clusters are not in the ipcache any more, and are written again");
            inner.table.tell_all_again();
            inner.labels.tell_all_again();
        }
        Ok(())
    }

    fn tell_all_again(&self) {
        let inner = &mut *self.reading.inner.borrow_mut();
        inner.table.tell_all_again();
        inner.labels.tell_all_again();
        inner.writer.left.clear();
        inner.writer.no_room.clear();
    }

    fn retry_full(&mut self) {
        let inner = &mut *self.reading.inner.borrow_mut();
        if !inner.writer.no_room.is_empty() && is_due(self.full, BETWEEN_FULL) {
            self.full = Some(Instant::now());
            let again = std::mem::take(&mut inner.writer.no_room);
            again.iter().for_each(|prefix| inner.table.tell_again(prefix));
        }
    }

    /// Keeps commands out. The loop goes on meanwhile.
    async fn lock(&self) -> Result<impl Sized + use<>> {
        let root = self.reading.root.with_patience(PATIENCE);
        spawn_blocking(move || ops::prepare(&root, false)).await.context("lock the root")?
    }

    async fn flush(&mut self) -> Result<()> {
        while self.write_some().await? {
            yield_now().await;
        }
        // Not before all were tried: each attempt would be news in the log.
        let writer = &mut self.reading.inner.borrow_mut().writer;
        if writer.no_room.is_empty() {
            writer.full = None;
        }
        Ok(())
    }

    /// Whether there is more. Nobody waits for this thread while the lock is held.
    async fn write_some(&mut self) -> Result<bool> {
        let _lock = self.lock().await?;
        let before = self.lines.changes()?;
        let is_untouched = self.changes == before;
        let written = self.write();
        if is_untouched {
            self.changes = self.lines.changes()?;
        }
        self.map = self.lines.number()?;
        written
    }

    fn write(&mut self) -> Result<bool> {
        for _ in 0..BATCHES {
            let changes = self.take();
            let labels = self.reading.inner.borrow_mut().labels.take_changes(AT_A_TIME);
            if changes.is_empty() && labels.is_empty() {
                return Ok(false);
            }
            let written = self.write_lines(&changes);
            let written = written.and_then(|()| labels::apply(&self.reading.root, &labels));
            match written {
                Ok(0) => {}
                Ok(count) => warn!("the labels of {count} identities have found no room"),
                Err(error) => {
                    let inner = &mut *self.reading.inner.borrow_mut();
                    changes.iter().for_each(|(prefix, _)| inner.table.tell_again(prefix));
                    inner.labels.tell_again(labels.iter().map(|(identity, _)| *identity));
                    return Err(error);
                }
            }
        }
        Ok(true)
    }

    /// What is to be written next.
    fn take(&mut self) -> Vec<ClusterChange> {
        let inner = &mut *self.reading.inner.borrow_mut();
        inner.table.settle(self.reading.now());
        let mut changes = inner.table.take_changes(AT_A_TIME);
        let nets = inner.table.changed_nets();
        if nets > FEW_NETS && is_due(self.many_nets, BETWEEN_MANY_NETS) {
            self.many_nets = Some(Instant::now());
            changes.extend(inner.table.take_net_changes(usize::MAX));
        } else if nets <= FEW_NETS {
            changes.extend(inner.table.take_net_changes(FEW_NETS));
        }
        for (prefix, identity) in &mut changes {
            if identity.is_some() && self.own.contain(prefix) {
                *identity = None;
                inner.writer.hidden.insert(*prefix);
            } else {
                inner.writer.hidden.remove(prefix);
            }
        }
        changes
    }

    fn write_lines(&mut self, changes: &[ClusterChange]) -> Result<()> {
        if changes.is_empty() {
            return Ok(());
        }
        let applied = self.lines.apply(changes, self.reading.config.ipcache_entries)?;
        let inner = &mut *self.reading.inner.borrow_mut();
        let writer = &mut inner.writer;
        for (prefix, _) in changes {
            writer.left.remove(prefix);
            writer.no_room.remove(prefix);
        }
        writer.left.extend(applied.left);
        writer.no_room.extend(&applied.no_room);
        if let Some(full) = applied.full {
            if writer.full.is_none() {
                warn!("{full}");
            }
            writer.full = Some(full);
        }
        Ok(())
    }
}

fn is_due(last: Option<Instant>, wait: Duration) -> bool {
    last.is_none_or(|last| last.elapsed() >= wait)
}
