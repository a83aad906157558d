//! What is wanted, brought into etcd, and kept there.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;

use log::{debug, info, warn};
use tokio::time::{Instant, sleep, sleep_until};

use super::leases::{Leases, MOST_KEYS};
use super::plan::{Claims, Found, Plan, Step, View, plan};
use super::presence::{self, Presence};
use super::record::{self, Record};
use super::wanted::Wanted;
use super::{Publisher, Standing};
use crate::cilium::keys;
use crate::etcd::{Client, Error, LeaseId, Op, Watched};

/// How many keys are written or read at once; etcd takes 128.
const AT_ONCE: usize = 64;

/// All of what this host has written is looked at again that often, as Cilium's agents do.
const LOOKED_AT: Duration = Duration::from_secs(5 * 60);

/// How often in a row what was found is not what a plan was made for.
const ROUNDS: usize = 16;

/// Pauses after a failure: each is twice as long as the one before.
const PAUSES: [Duration; 2] = [Duration::from_millis(50), Duration::from_secs(1)];

/// What a process knows of etcd.
pub(super) struct Session<'a> {
    publisher: &'a Publisher,
    client: Client,
    file: PathBuf,
    record: Record,
    written: Record,
    view: View,
    leases: Leases,
    presence: Presence,
}

impl<'a> Session<'a> {
    /// Goes on where the process before has ended.
    pub fn new(publisher: &'a Publisher) -> Session<'a> {
        let file = publisher.run_directory.join("published.json");
        let record: Record = record::read(&file);
        let leases = Leases::new(publisher.config.lease, record.leases.clone());
        Session {
            publisher,
            client: publisher.client.clone(),
            file,
            written: record.clone(),
            record,
            view: View::default(),
            leases,
            presence: Presence::new(&publisher.config, &publisher.host),
        }
    }

    /// Until the process ends.
    pub async fn run(mut self) -> Infallible {
        let mut pause = PAUSES[0];
        loop {
            let begun = Instant::now();
            let Err(error) = self.follow().await;
            debug!("publish: {error}");
            if let Error::OtherStore(store) = error {
                warn!("the cluster's etcd is another store now ({store:x}): all is written anew");
                self.client.accept_any_store();
                continue;
            }
            self.publisher.change(|standing| standing.away = Some(error.to_string()));
            if begun.elapsed() > PAUSES[1] {
                pause = PAUSES[0];
            }
            sleep(pause).await;
            pause = (pause * 2).min(PAUSES[1]);
        }
    }

    /// As long as etcd answers.
    async fn follow(&mut self) -> Result<Infallible, Error> {
        let header = self.client.header().await?;
        self.begin(header.store);
        for lease in self.leases.keep(&self.client).await? {
            debug!("lease {:x} is over", lease.0);
        }
        let from = header.revision + 1;
        let mut addresses = self.client.watch(keys::ADDRESSES, from).await?;
        let [node, config, heartbeat] = self.presence.prefixes();
        let mut node = self.client.watch(node, from).await?;
        let mut config = self.client.watch(config, from).await?;
        let mut heartbeat = self.client.watch(heartbeat, from).await?;
        self.presence.read(&self.client).await?;
        self.view.clear();
        self.look().await?;
        let mut wanted = self.publisher.wanted.subscribe();
        let mut again = Instant::now() + LOOKED_AT;
        let mut is_news = true;
        loop {
            if std::mem::take(&mut is_news) {
                // What is borrowed of the channel holds up who sends, which is on this thread.
                let now = wanted.borrow_and_update().clone();
                self.settle(&now).await?;
            }
            let quiet = self.leases.due().min(again).min(self.presence.due());
            tokio::select! {
                watched = addresses.next() => is_news = self.apply(watched?),
                watched = node.next() => is_news = self.note(watched?),
                watched = config.next() => is_news = self.note(watched?),
                watched = heartbeat.next() => is_news = self.note(watched?),
                changed = wanted.changed() => is_news = changed.is_ok(),
                leaver = self.publisher.leaver() => {
                    let deleted = self.withdraw().await?;
                    // Whoever has gone away does not make the process end.
                    if leaver.send(deleted).is_ok() {
                        self.publisher.stays.notified().await;
                    }
                    self.view.clear();
                    self.look().await?;
                    self.presence.read(&self.client).await?;
                    is_news = true;
                }
                () = sleep_until(quiet) => is_news = true,
            }
            let now = Instant::now();
            if self.leases.due() <= now {
                is_news |= self.keep().await?;
                self.tell(None);
            }
            if again <= now {
                self.look().await?;
                self.presence.read(&self.client).await?;
                again = now + LOOKED_AT;
                is_news = true;
            }
        }
    }

    /// Leases of another store are none here. What this host has claimed there, it claims here, too.
    fn begin(&mut self, store: u64) {
        if self.record.store != store {
            self.leases.forget();
            self.record.store = store;
        }
    }

    fn apply(&mut self, watched: Watched) -> bool {
        let mut is_news = false;
        for change in watched.changes {
            is_news |= self.view.apply(change);
        }
        is_news
    }

    fn note(&mut self, watched: Watched) -> bool {
        let is_news = !watched.changes.is_empty();
        watched.changes.into_iter().for_each(|change| self.presence.apply(change));
        is_news
    }

    /// Keeps the leases; whether one was over.
    async fn keep(&mut self) -> Result<bool, Error> {
        let over = self.leases.keep(&self.client).await?;
        for lease in &over {
            info!("lease {:x} was over, and its keys are written again", lease.0);
            self.view.lose(*lease);
        }
        if !over.is_empty() {
            self.presence.read(&self.client).await?;
        }
        Ok(!over.is_empty())
    }

    /// Reads all keys that are wanted or were written.
    async fn look(&mut self) -> Result<(), Error> {
        let wanted = self.publisher.wanted.borrow().clone();
        let known = wanted.lines.keys().chain(self.record.claims.keys());
        let mut addresses: Vec<_> = known.copied().collect();
        addresses.sort();
        addresses.dedup();
        for some in addresses.chunks(AT_ONCE) {
            let gets = some.iter().map(|address| Op::Get(keys::address(*address))).collect();
            let done = self.client.transact(Vec::new(), gets, Vec::new()).await?;
            for (address, found) in some.iter().zip(done.found) {
                let found = found.into_iter().next().map(Found::from);
                self.view.read(*address, done.header.revision, found);
            }
        }
        Ok(())
    }

    /// Writes what differs from what is wanted.
    async fn settle(&mut self, wanted: &Rc<Wanted>) -> Result<(), Error> {
        for _ in 0..ROUNDS {
            let lease = self.lease(0).await?;
            if !self.settle_presence(lease).await? {
                continue;
            }
            if self.presence.trouble().is_some() {
                self.tell(None);
                return Ok(());
            }
            let plan = plan(&wanted.lines, &self.view, &self.record.claims, |lease| {
                self.leases.contain(lease)
            });
            self.take(&plan);
            if plan.steps.is_empty() {
                let Record { claims, .. } = &self.record;
                self.view.keep(|it| wanted.lines.contains_key(&it) || claims.contains_key(&it));
                self.save();
                self.tell(Some((wanted, &plan)));
                return Ok(());
            }
            let mut steps = &plan.steps[..];
            while !steps.is_empty() {
                steps = &steps[self.carry_out(steps).await?..];
            }
        }
        Err(Error::Other("what it has changes all the time".to_owned()))
    }

    async fn settle_presence(&mut self, lease: LeaseId) -> Result<bool, Error> {
        match self.presence.settle(&self.client, lease).await {
            Err(Error::NoLease) => {
                self.keep().await?;
                Ok(false)
            }
            settled => settled,
        }
    }

    /// A lease with room for so many keys more, which is remembered.
    async fn lease(&mut self, more: usize) -> Result<LeaseId, Error> {
        let keys = self.keys();
        let (lease, is_new) = self.leases.with_room(&self.client, &keys, more).await?;
        if is_new {
            self.save();
        }
        Ok(lease)
    }

    /// How many keys each lease has.
    fn keys(&self) -> BTreeMap<LeaseId, usize> {
        let mut keys = self.view.keys_of_leases();
        // Those of the presence are in the first one.
        if let Some(first) = self.leases.ids().next() {
            *keys.entry(first).or_default() += presence::KEYS;
        }
        keys
    }

    fn take(&mut self, plan: &Plan) {
        plan.forgotten.iter().for_each(|address| _ = self.record.claims.remove(address));
    }

    /// Does the first of these together, or reads what is there instead; how many.
    async fn carry_out(&mut self, steps: &[Step]) -> Result<usize, Error> {
        let lease = self.lease(1).await?;
        let has = self.keys().get(&lease).copied().unwrap_or(0);
        let room = MOST_KEYS.saturating_sub(has).max(1);
        let some = &steps[..steps.len().min(AT_ONCE).min(room)];
        let get = |step: &Step| Op::Get(keys::address(step.address()));
        let done = self.client.transact(
            some.iter().map(Step::guard).collect(),
            some.iter().map(|step| step.op(lease)).collect(),
            some.iter().map(get).collect(),
        );
        match done.await {
            Ok(done) => {
                if done.held {
                    self.claim(some);
                }
                self.view.done(some, lease, done);
            }
            Err(Error::NoLease) => _ = self.keep().await?,
            Err(error) => return Err(error),
        }
        Ok(some.len())
    }

    fn claim(&mut self, steps: &[Step]) {
        let claims: &mut Claims = &mut self.record.claims;
        for step in steps {
            match step {
                Step::Put { address, birth, .. } => _ = claims.insert(*address, *birth),
                Step::Delete { address, .. } => _ = claims.remove(address),
            }
        }
    }

    /// Deletes all that this host has written; how many keys. The leases are left to end by themselves: a key that goes
    /// while its lease lives was deleted on purpose, and readers let it go at once.
    async fn withdraw(&mut self) -> Result<usize, Error> {
        let mut deleted = 0;
        for _ in 0..ROUNDS {
            let leases = &self.leases;
            let nothing = BTreeMap::new();
            let plan =
                plan(&nothing, &self.view, &self.record.claims, |lease| leases.contain(lease));
            self.take(&plan);
            if plan.steps.is_empty() {
                break;
            }
            for some in plan.steps.chunks(AT_ONCE) {
                let before = self.record.claims.len();
                self.carry_out(some).await?;
                deleted += before - self.record.claims.len();
            }
        }
        let leases = &self.leases;
        deleted += self.presence.withdraw(&self.client, |lease| leases.contain(lease)).await?;
        self.leases.forget();
        self.save();
        self.tell(None);
        Ok(deleted)
    }

    fn save(&mut self) {
        self.record.leases = self.leases.ids().collect();
        if self.record == self.written {
            return;
        }
        match record::write(&self.record, &self.file) {
            Ok(()) => self.written = self.record.clone(),
            Err(error) => {
                warn!("after a restart all will be written anew, under new leases: {error:#}");
            }
        }
    }

    /// Tells how it stands.
    fn tell(&self, settled: Option<(&Wanted, &Plan)>) {
        let keys = self.view.keys_of_leases();
        let leases: Vec<_> = self.leases.until().collect();
        self.publisher.change(|standing: &mut Standing| {
            standing.away = None;
            standing.trouble = self.presence.trouble();
            standing.heartbeat = self.presence.beaten;
            standing.set_leases(&leases, &keys);
            match settled {
                Some((wanted, plan)) => {
                    standing.published.clone_from(&plan.confirmed);
                    standing.set_conflicts(wanted, plan, &self.view);
                }
                None if standing.trouble.is_some() || leases.is_empty() => standing.forget(),
                None => {}
            }
        });
    }
}
