//! One attempt to have a number for labels, under the lock of the labels.

use std::time::Duration;

use cilmark::model::identity::Identity;

use super::known::user_of;
use crate::cilium::keys;
use crate::etcd::{Client, Compare, Done, Error, Header, KeyValue, LeaseId, Mutex, Op};

/// How long a lock of somebody who has died delays others: as Cilium's.
pub const LOCK_LEASE: Duration = Duration::from_secs(25);

/// How long a lock is waited for: until one that was left is over.
const PATIENCE: Duration = Duration::from_secs(30);

/// Who asks, and for what.
pub struct Wish<'a> {
    /// The labels, as Cilium writes them.
    pub labels: &'a str,
    /// Who uses them: the last part of its key.
    pub node: &'a str,
    /// The lease of that key.
    pub lease: LeaseId,
}

/// A number to be tried.
pub enum Choice {
    /// It is for these labels, by what that revision has written.
    Known(Identity, i64),
    /// Nobody has it.
    Free(Identity),
}

/// What has come of an attempt.
#[derive(Debug)]
pub struct Outcome {
    /// The number that was tried.
    pub number: Identity,
    /// Where etcd was then.
    pub header: Header,
    /// The lease under which this node uses it, if it does.
    pub held: Option<LeaseId>,
    /// What `id/` has for it, if it does not.
    pub found: Option<KeyValue>,
}

/// Tries under the lock. `choose` gets the number under which others use the labels, where nothing else tells it.
pub async fn obtain(
    client: &Client,
    wish: &Wish<'_>,
    lock_lease: LeaseId,
    choose: impl Fn(Option<Identity>) -> Option<Choice>,
) -> Result<Option<Outcome>, Error> {
    let path = keys::lock(wish.labels);
    let lock = Mutex::lock(client, &path, lock_lease, PATIENCE).await?;
    let tried = attempt(client, wish, &lock, choose).await;
    // A lock that is not given up goes with its lease, and what was written counts.
    let unlocked = lock.unlock().await;
    if let Err(error) = unlocked {
        log::debug!("give up the lock of {}: {error}", wish.labels);
    }
    tried
}

async fn attempt(
    client: &Client,
    wish: &Wish<'_>,
    lock: &Mutex,
    choose: impl Fn(Option<Identity>) -> Option<Choice>,
) -> Result<Option<Outcome>, Error> {
    let choice = match choose(None) {
        known @ Some(Choice::Known(..)) => known,
        _ => choose(used_by_others(client, wish.labels).await?),
    };
    let Some(choice) = choice else { return Ok(None) };
    let (number, guard, is_new) = match choice {
        Choice::Known(number, modified) => {
            (number, Compare::ModifiedAt(keys::identity(number), modified), false)
        }
        Choice::Free(number) => (number, Compare::IsAbsent(keys::identity(number)), true),
    };
    let make = Op::Put(keys::identity(number), wish.labels.into(), None);
    let make = is_new.then_some(make);
    let then = make.into_iter().chain([wish.put(number)]).collect();
    let otherwise = vec![Op::Get(keys::identity(number))];
    let done = client.transact(vec![lock.is_held(), guard], then, otherwise).await?;
    Ok(Some(outcome(number, wish.lease, done)))
}

/// Sees to it that a number that this node has is there, with its labels and this node as a user, without the lock: where
/// somebody has deleted it, others could take it meanwhile. It is not held if it is for others now. A key under one of its
/// own leases stays there.
pub async fn assert(
    client: &Client,
    wish: &Wish<'_>,
    number: Identity,
    is_own: impl Fn(LeaseId) -> bool,
) -> Result<Outcome, Error> {
    let key = keys::identity(number);
    let user = keys::user(wish.labels, wish.node);
    let make = vec![Op::Put(key.clone(), wish.labels.into(), None), wish.put(number)];
    let look = vec![Op::Get(key.clone()), Op::Get(user)];
    let done = client.transact(vec![Compare::IsAbsent(key.clone())], make, look).await?;
    if done.held {
        return Ok(outcome(number, wish.lease, done));
    }
    let mut found = done.found.into_iter().map(|found| found.into_iter().next());
    let (id, user) = (found.next().flatten(), found.next().flatten());
    let Some(id) = id.filter(|id| id.value == wish.labels.as_bytes()) else {
        return Ok(Outcome { number, header: done.header, held: None, found: None });
    };
    let text = number.to_string();
    let user = user.filter(|user| user.value == text.as_bytes());
    let held = user.and_then(|user| user.lease).filter(|lease| is_own(*lease));
    if held.is_some() {
        return Ok(Outcome { number, header: done.header, held, found: Some(id) });
    }
    let guard = vec![Compare::ModifiedAt(key.clone(), id.modified)];
    let done = client.transact(guard, vec![wish.put(number)], vec![Op::Get(key)]).await?;
    Ok(outcome(number, wish.lease, done))
}

/// The number that other nodes use for labels, whatever `id/` says: the lowest, should there be two.
async fn used_by_others(client: &Client, labels: &str) -> Result<Option<Identity>, Error> {
    let mut numbers = Vec::new();
    let each = |page: Vec<KeyValue>| {
        // Labels with a slash may begin like these.
        let is_same = |it: &&KeyValue| user_of(&it.key).is_some_and(|(of, _)| of == labels);
        let number = |it: &KeyValue| std::str::from_utf8(&it.value).ok()?.parse::<u32>().ok();
        numbers.extend(page.iter().filter(is_same).filter_map(number));
    };
    client.list(&keys::users(labels), each).await?;
    Ok(numbers.into_iter().min().map(Identity))
}

fn outcome(number: Identity, lease: LeaseId, done: Done) -> Outcome {
    let Done { header, held, found } = done;
    let found = if held { None } else { found.into_iter().flatten().next() };
    Outcome { number, header, held: held.then_some(lease), found }
}

impl Wish<'_> {
    fn put(&self, number: Identity) -> Op {
        let value = number.to_string().into_bytes();
        Op::Put(keys::user(self.labels, self.node), value, Some(self.lease))
    }
}
