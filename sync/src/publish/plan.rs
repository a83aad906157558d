//! What is to be written, from what is wanted and what etcd has: without I/O.
//!
//! The newest birth wins: an endpoint that this host has not claimed an address for yet overwrites another host's key.
//! Who was overwritten waits until that key goes.

use std::collections::BTreeMap;
use std::net::IpAddr;

use super::wanted::Line;
use crate::cilium::keys;
use crate::etcd::{Change, Compare, Done, KeyValue, LeaseId, Op};

/// For which birth this host has written each address that it has, or had until another one took it.
pub type Claims = BTreeMap<IpAddr, u64>;

/// What is known of addresses in etcd.
#[derive(Debug, Default)]
pub struct View(BTreeMap<IpAddr, Seen>);

/// What an address had in etcd.
#[derive(Debug)]
struct Seen {
    /// The revision of the store then: what has happened before says nothing new.
    at: i64,
    key: Option<Found>,
}

/// The key of an address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// Its value.
    pub value: Vec<u8>,
    /// Its lease.
    pub lease: Option<LeaseId>,
    /// The revision that has written it.
    pub modified: i64,
}

impl From<KeyValue> for Found {
    fn from(of: KeyValue) -> Found {
        Found { value: of.value, lease: of.lease, modified: of.modified }
    }
}

/// What is to be done.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// To be written and deleted.
    pub steps: Vec<Step>,
    /// Addresses that are this host's, and another one's in etcd.
    pub conflicts: Vec<IpAddr>,
    /// What is right as it is.
    pub confirmed: Vec<IpAddr>,
    /// What this host has nothing to do with any more.
    pub forgotten: Vec<IpAddr>,
}

/// Something to be done with one key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Writes it.
    Put {
        /// The address.
        address: IpAddr,
        /// The birth that claims it.
        birth: u64,
        /// The value.
        value: String,
        /// The lease that it has; `None`: any with room.
        lease: Option<LeaseId>,
        /// Unless this holds, it is looked at again.
        guard: Compare,
    },
    /// Deletes it.
    Delete {
        /// The address.
        address: IpAddr,
        /// The lease that makes it this host's.
        lease: LeaseId,
    },
}

/// What is to be done; `is_own` tells this host's leases. Of an address that nobody has looked at it is taken that it is not
/// there: the guard tells.
pub fn plan(
    wanted: &BTreeMap<IpAddr, Line>,
    view: &View,
    claims: &Claims,
    is_own: impl Fn(LeaseId) -> bool,
) -> Plan {
    let mut plan = Plan::default();
    let own = |found: &Found| found.lease.filter(|lease| is_own(*lease));
    for (address, line) in wanted {
        let (address, birth) = (*address, line.birth);
        let key = keys::address(address);
        let is_claimed = claims.get(&address) == Some(&birth);
        let (lease, guard) = match view.get(address) {
            None => (None, Compare::IsAbsent(key)),
            Some(found) => match own(found) {
                // Of a birth that is new the view may be old: another one's key may stand there by now.
                Some(_) if is_claimed && found.value == line.value.as_bytes() => {
                    plan.confirmed.push(address);
                    continue;
                }
                Some(lease) => (Some(lease), Compare::HasLease(key, lease)),
                None if is_claimed => {
                    plan.conflicts.push(address);
                    continue;
                }
                None => (None, Compare::ModifiedAt(key, found.modified)),
            },
        };
        plan.steps.push(Step::Put { address, birth, value: line.value.clone(), lease, guard });
    }
    for address in claims.keys().filter(|address| !wanted.contains_key(address)) {
        match view.get(*address).and_then(own) {
            Some(lease) => plan.steps.push(Step::Delete { address: *address, lease }),
            None => plan.forgotten.push(*address),
        }
    }
    plan
}

impl Step {
    /// The address.
    pub fn address(&self) -> IpAddr {
        match self {
            Step::Put { address, .. } | Step::Delete { address, .. } => *address,
        }
    }

    /// What has to hold.
    pub fn guard(&self) -> Compare {
        match self {
            Step::Put { guard, .. } => guard.clone(),
            Step::Delete { address, lease } => Compare::HasLease(keys::address(*address), *lease),
        }
    }

    /// What is done, with a lease for a key that has none yet.
    pub fn op(&self, lease: LeaseId) -> Op {
        match self {
            Step::Put { address, value, lease: had, .. } => {
                let lease = had.unwrap_or(lease);
                Op::Put(keys::address(*address), value.clone().into(), Some(lease))
            }
            Step::Delete { address, .. } => Op::Delete(keys::address(*address)),
        }
    }
}

impl View {
    /// The key of an address, as far as known.
    pub fn get(&self, address: IpAddr) -> Option<&Found> {
        self.0.get(&address)?.key.as_ref()
    }

    /// How many keys each lease has.
    pub fn keys_of_leases(&self) -> BTreeMap<LeaseId, usize> {
        let mut keys = BTreeMap::new();
        for lease in self.0.values().filter_map(|seen| seen.key.as_ref()?.lease) {
            *keys.entry(lease).or_default() += 1;
        }
        keys
    }

    /// What was read at a revision.
    pub fn read(&mut self, address: IpAddr, at: i64, key: Option<Found>) {
        let is_old = self.0.get(&address).is_some_and(|seen| seen.at > at);
        if !is_old {
            self.0.insert(address, Seen { at, key });
        }
    }

    /// What a watch tells. Whether it is about an address that was looked at, and news.
    pub fn apply(&mut self, change: Change) -> bool {
        let revision = change.revision();
        let (key, now) = match change {
            Change::Put(put) => (put.key.clone(), Some(put.into())),
            Change::Deleted { key, .. } => (key, None),
        };
        let address = key.strip_prefix(keys::ADDRESSES).and_then(|text| text.parse().ok());
        let seen = address.and_then(|address: IpAddr| self.0.get_mut(&address));
        match seen.filter(|seen| seen.at < revision) {
            Some(seen) => {
                *seen = Seen { at: revision, key: now };
                true
            }
            None => false,
        }
    }

    /// What has come of steps that were done together: all of them, or none and what is there instead.
    pub fn done(&mut self, steps: &[Step], lease: LeaseId, done: Done) {
        let at = done.header.revision;
        if !done.held {
            for (step, found) in steps.iter().zip(done.found) {
                self.read(step.address(), at, found.into_iter().next().map(Found::from));
            }
            return;
        }
        for step in steps {
            let now = match step {
                Step::Put { value, lease: had, .. } => {
                    let (value, lease) = (value.clone().into_bytes(), Some(had.unwrap_or(lease)));
                    Some(Found { value, lease, modified: at })
                }
                Step::Delete { .. } => None,
            };
            self.read(step.address(), at, now);
        }
    }

    /// A lease is over, and its keys with it.
    pub fn lose(&mut self, lease: LeaseId) {
        self.0.retain(|_, seen| seen.key.as_ref().is_none_or(|key| key.lease != Some(lease)));
    }

    /// Only these matter.
    pub fn keep(&mut self, matters: impl Fn(IpAddr) -> bool) {
        self.0.retain(|address, _| matters(*address));
    }

    /// Nothing is known any more.
    pub fn clear(&mut self) {
        self.0.clear();
    }
}

#[cfg(test)]
mod tests;
