//! What is held and wanted, in etcd.

use std::convert::Infallible;
use std::rc::Rc;
use std::time::Duration;

use cilmark::model::identity::Identity;
use log::{debug, info, warn};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until};

use super::{Allocator, Record};
use crate::cilium::keys;
use crate::etcd::{Change, Compare, Error, KeyValue, LeaseId, Op, Watched};
use crate::identities::obtain::{Choice, LOCK_LEASE, Outcome, Wish, assert, obtain};
use crate::publish::{random, write_record};

/// All that is held is looked at again that often, as Cilium's agents do.
const LOOKED_AT: Duration = Duration::from_secs(5 * 60);

/// As often others may be quicker, and a lock may be lost.
const ATTEMPTS: u32 = 16;

/// The pause after an attempt in vain; each is twice as long as the one before.
const PAUSES: [Duration; 2] = [Duration::from_millis(20), Duration::from_secs(1)];

impl Allocator {
    /// Until the process ends.
    pub(super) async fn follow_etcd(self: &Rc<Allocator>) {
        let mut pause = PAUSES[0];
        loop {
            let begun = Instant::now();
            let Err(error) = self.follow().await;
            debug!("numbers of labels: {error}");
            if let Error::OtherStore(store) = error {
                warn!("the cluster's etcd is another store now ({store:x}): numbers are made anew");
                self.client.accept_any_store();
                continue;
            }
            *self.away.borrow_mut() = Some(error.to_string());
            if begun.elapsed() > PAUSES[1] {
                pause = PAUSES[0];
            }
            sleep(pause).await;
            pause = (pause * 2).min(PAUSES[1]);
        }
    }

    /// As long as etcd answers.
    async fn follow(self: &Rc<Allocator>) -> Result<Infallible, Error> {
        let mut ids = Vec::new();
        let header = self.client.list(keys::IDENTITIES, |page| ids.extend(page)).await?;
        self.begin(header.store, ids).await;
        let mut watch = self.client.watch(keys::IDENTITIES, header.revision + 1).await?;
        self.keep_leases().await?;
        self.assert_all().await?;
        *self.away.borrow_mut() = None;
        // What was begun before has ended with its session.
        self.sets.borrow_mut().end_all();
        let mut jobs = JoinSet::new();
        let mut again = Instant::now() + LOOKED_AT;
        let mut lock_due = Instant::now();
        loop {
            // Whoever has gone away was told that it has failed.
            if let Some(leaver) = self.leaver.take().filter(|leaver| !leaver.is_closed()) {
                jobs.shutdown().await;
                let released = self.withdraw_all().await?;
                if leaver.send(released).is_ok() {
                    self.stays.notified().await;
                }
                self.sets.borrow_mut().end_all();
            }
            self.release().await?;
            for (key, hint) in self.sets.borrow_mut().begin() {
                let allocator = self.clone();
                jobs.spawn_local(async move { allocator.work(&key, hint).await });
            }
            self.save().await;
            let lease = self.leases.lock().await.due();
            let sets = self.sets.borrow().due().unwrap_or(again);
            let mut due = sets.min(lease).min(again);
            if !jobs.is_empty() {
                due = due.min(lock_due);
            }
            tokio::select! {
                watched = watch.next() => self.apply(watched?).await?,
                () = self.wake.notified() => {}
                Some(done) = jobs.join_next() => match done {
                    Ok(Err(error @ Error::OtherStore(_))) => return Err(error),
                    Ok(Err(error)) => debug!("a number for labels: {error}"),
                    _ => {}
                },
                () = sleep_until(due) => {}
            }
            let now = Instant::now();
            if lease <= now {
                self.keep_leases().await?;
            }
            // Who waits for a lock may wait longer than its lease lasts.
            if lock_due <= now && !jobs.is_empty() {
                self.lock_lease().await?;
                lock_due = now + LOCK_LEASE / 3;
            }
            if again <= now || self.is_cut_off.replace(false) {
                self.assert_all().await?;
                again = now + LOOKED_AT;
            }
        }
    }

    /// Keeps the leases. What goes with one that is over is written again.
    async fn keep_leases(&self) -> Result<(), Error> {
        let over = self.leases.lock().await.keep(&self.client).await?;
        if !over.is_empty() {
            info!("a lease was over, and this node uses its numbers anew");
            self.is_cut_off.set(true);
            self.wake.notify_one();
        }
        Ok(())
    }

    /// Takes a list for all there is. Leases of another store are none here.
    async fn begin(&self, store: u64, ids: Vec<KeyValue>) {
        if self.store.replace(store) != store {
            self.leases.lock().await.forget();
            *self.lock_lease.lock().await = None;
        }
        let mut known = self.known.borrow_mut();
        known.clear();
        for id in ids {
            known.apply(Change::Put(id));
        }
    }

    /// What a watch tells. A number of this node's that somebody has deleted is made again at once.
    async fn apply(&self, watched: Watched) -> Result<(), Error> {
        let mut concerned = Vec::new();
        for change in watched.changes {
            let number = self.known.borrow_mut().apply(change);
            concerned.extend(number);
        }
        concerned.sort();
        concerned.dedup();
        for number in concerned {
            let key = self.sets.borrow().by_number(number).map(str::to_owned);
            let Some(key) = key else { continue };
            let is_right = self.known.borrow().get(number).is_some_and(|id| id.labels == key);
            if !is_right {
                info!("number {number} of {key} was deleted or is for others now");
                self.assert_one(&key, number).await?;
            }
        }
        Ok(())
    }

    /// Looks at all that is held.
    async fn assert_all(&self) -> Result<(), Error> {
        let held = self.sets.borrow().users();
        for (key, (number, _)) in held {
            self.assert_one(&key, number).await?;
        }
        self.tell();
        Ok(())
    }

    async fn assert_one(&self, key: &str, number: Identity) -> Result<(), Error> {
        if !self.known.borrow().has_in_range(number) {
            self.sets.borrow_mut().lose(key);
            return Ok(());
        }
        loop {
            let wish = Wish { labels: key, node: &self.config.node, lease: self.lease().await? };
            let own: Vec<LeaseId> = self.leases.lock().await.ids().collect();
            let is_own = |lease| own.contains(&lease);
            let outcome = match assert(&self.client, &wish, number, is_own).await {
                Err(Error::NoLease) => {
                    self.keep_leases().await?;
                    continue;
                }
                outcome => outcome?,
            };
            match outcome.held {
                held @ Some(_) => self.sets.borrow_mut().hold(key, number, held),
                None => {
                    warn!("number {number} of {key} is for others now: it gets another one");
                    self.sets.borrow_mut().lose(key);
                    self.tell();
                    self.wake.notify_one();
                }
            }
            return Ok(());
        }
    }

    /// Finds a number for labels.
    async fn work(&self, key: &str, hint: Option<Identity>) -> Result<(), Error> {
        let done = self.find(key, hint).await;
        let trouble = match &done {
            Ok(Some(_)) => None,
            Ok(None) => Some("others were quicker each time; it goes on".to_owned()),
            Err(error) => Some(error.to_string()),
        };
        if let Ok(Some((number, lease))) = done {
            self.sets.borrow_mut().hold(key, number, Some(lease));
        }
        self.sets.borrow_mut().end(key, trouble);
        self.tell();
        done.map(|_| ())
    }

    async fn find(
        &self,
        key: &str,
        hint: Option<Identity>,
    ) -> Result<Option<(Identity, LeaseId)>, Error> {
        let mut pause = PAUSES[0];
        for _ in 0..ATTEMPTS {
            let tried = self.attempt(key, hint).await;
            match tried {
                Ok(None) => {
                    let why =
                        "all numbers of the cluster are taken: collect those that nobody uses";
                    return Err(Error::Other(why.to_owned()));
                }
                Ok(Some(Outcome { number, held: Some(lease), .. })) => {
                    return Ok(Some((number, lease)));
                }
                Ok(Some(Outcome { number, header, found, .. })) => {
                    self.known.borrow_mut().read(number, header.revision, found);
                }
                Err(Error::NoLease) => {
                    *self.lock_lease.lock().await = None;
                    self.keep_leases().await?;
                }
                Err(error) => return Err(error),
            }
            sleep(pause).await;
            pause = (pause * 2).min(PAUSES[1]);
        }
        Ok(None)
    }

    async fn attempt(&self, key: &str, hint: Option<Identity>) -> Result<Option<Outcome>, Error> {
        let wish = Wish { labels: key, node: &self.config.node, lease: self.lease().await? };
        let lock = self.lock_lease().await?;
        let last = self
            .sets
            .borrow()
            .iter()
            .find(|(it, _)| *it == key)
            .and_then(|(_, set)| self.memory.borrow().get(&set.labels).copied());
        let choose = |others: Option<Identity>| {
            let known = self.known.borrow();
            if let Some((number, id)) = known.of(key) {
                return Some(Choice::Known(number, id.modified));
            }
            let free = [others, hint, last].into_iter().flatten().find(|it| known.is_free(*it));
            free.or_else(|| known.free(random())).map(Choice::Free)
        };
        obtain(&self.client, &wish, lock, choose).await
    }

    /// This node uses no more what nobody has wanted for a while. The number stays for others, until it is collected.
    async fn release(&self) -> Result<(), Error> {
        let unwanted = self.sets.borrow().unwanted();
        for key in &unwanted {
            self.stop_using(key).await?;
            self.sets.borrow_mut().forget(key);
        }
        if !unwanted.is_empty() {
            self.tell();
        }
        Ok(())
    }

    /// It uses nothing any more; how much it was.
    async fn withdraw_all(&self) -> Result<usize, Error> {
        let held = self.sets.borrow().users();
        let mut released = 0;
        for key in held.keys() {
            released += usize::from(self.stop_using(key).await?);
            self.sets.borrow_mut().lose(key);
        }
        // What has no key ends by itself.
        self.leases.lock().await.forget();
        self.save().await;
        self.tell();
        Ok(released)
    }

    /// Deletes the key by which this node uses labels, if it is this node's.
    async fn stop_using(&self, key: &str) -> Result<bool, Error> {
        let own: Vec<LeaseId> = self.leases.lock().await.ids().collect();
        let user = keys::user(key, &self.config.node);
        let (_, found) = self.client.get(&user).await?;
        let lease = found.and_then(|found| found.lease);
        let Some(lease) = lease.filter(|lease| own.contains(lease)) else { return Ok(false) };
        let guard = vec![Compare::HasLease(user.clone(), lease)];
        Ok(self.client.transact(guard, vec![Op::Delete(user)], Vec::new()).await?.held)
    }

    /// A lease with room, which is remembered before anything goes with it.
    async fn lease(&self) -> Result<LeaseId, Error> {
        let mut leases = self.leases.lock().await;
        let keys = self.sets.borrow().keys_of_leases();
        let (lease, is_new) = leases.with_room(&self.client, &keys, 1).await?;
        drop(leases);
        if is_new {
            self.save().await;
        }
        Ok(lease)
    }

    async fn save(&self) {
        let record = Record {
            store: self.store.get(),
            leases: self.leases.lock().await.ids().collect(),
            users: self.sets.borrow().users(),
        };
        if record == *self.written.borrow() {
            return;
        }
        match write_record(&record, &self.file) {
            Ok(()) => *self.written.borrow_mut() = record,
            Err(error) => warn!("after a restart numbers will be held anew: {error:#}"),
        }
    }
}
