//! What is known of keys and leases of one etcd.

use std::collections::{BTreeMap, HashMap, HashSet};

use crate::cilium::accept::Refusal;
use crate::etcd::{Client, Error, KeyValue, LeaseId};
use crate::read::table::How;

/// More refused keys than these are only counted, until the next list, and so are longer ones.
const MOST_REFUSED: usize = 100_000;
/// In bytes. An address has 45 at most; etcd takes keys of a megabyte.
const LONGEST_REFUSED: usize = 256;
/// Leases that are over and are remembered so.
const MOST_LEASES: usize = 10_000;

/// Keys that do not count.
#[derive(Default)]
pub(super) struct RefusedKeys {
    keys: HashMap<Box<str>, Refusal>,
    others: BTreeMap<Refusal, usize>,
}

impl RefusedKeys {
    pub(super) fn insert(&mut self, key: &str, why: Refusal) {
        let has_room = self.keys.len() < MOST_REFUSED && key.len() <= LONGEST_REFUSED;
        if has_room || self.keys.contains_key(key) {
            self.keys.insert(key.into(), why);
        } else {
            *self.others.entry(why).or_default() += 1;
        }
    }

    pub(super) fn remove(&mut self, key: &str) {
        if !self.keys.is_empty() {
            self.keys.remove(key);
        }
    }

    /// All that begin so: a list begins.
    pub(super) fn forget(&mut self, prefix: &str) {
        self.keys.retain(|key, _| !key.starts_with(prefix));
        self.others.clear();
    }

    pub(super) fn counts(&self) -> BTreeMap<Refusal, usize> {
        let mut counts = self.others.clone();
        self.keys.values().for_each(|why| *counts.entry(*why).or_default() += 1);
        counts
    }

    pub(super) fn named(&self, most: usize) -> impl Iterator<Item = (&str, Refusal)> {
        self.keys.iter().take(most).map(|(key, why)| (&**key, *why))
    }
}

/// Leases that are over: none of them lives again.
#[derive(Default)]
pub(super) struct Leases {
    over: HashSet<LeaseId>,
}

impl Leases {
    /// How keys have ended, of which this is what they were before. A key whose lease lives was deleted, and so was one
    /// that had none; of one about which nobody may say more it is assumed.
    pub(super) async fn how_ended<'a>(
        &mut self,
        client: &Client,
        before: impl Iterator<Item = Option<&'a KeyValue>>,
    ) -> Result<Vec<How>, Error> {
        // A lease that lives now may be over with the next deletion.
        let mut living = HashSet::new();
        let mut how = Vec::new();
        for before in before {
            how.push(match before.and_then(|before| before.lease) {
                Some(lease) if self.is_over(client, lease, &mut living).await? => How::CutOff,
                _ => How::OnPurpose,
            });
        }
        Ok(how)
    }

    async fn is_over(
        &mut self,
        client: &Client,
        lease: LeaseId,
        living: &mut HashSet<LeaseId>,
    ) -> Result<bool, Error> {
        if self.over.contains(&lease) {
            return Ok(true);
        }
        if living.contains(&lease) {
            return Ok(false);
        }
        let is_over = match client.rest_of(lease).await {
            Ok(rest) => rest.is_none(),
            Err(Error::Denied(_)) => false,
            Err(error) => return Err(error),
        };
        if !is_over {
            living.insert(lease);
            return Ok(false);
        }
        if self.over.len() >= MOST_LEASES {
            self.over.clear();
        }
        self.over.insert(lease);
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_refused_for_its_last_reason_until_it_counts() {
        let mut refused = RefusedKeys::default();
        refused.insert("a/1", Refusal::Malformed);
        refused.insert("a/1", Refusal::OtherKey);
        refused.insert("b/1", Refusal::OutOfRange);
        assert_eq!(refused.counts(), [(Refusal::OtherKey, 1), (Refusal::OutOfRange, 1)].into());
        refused.remove("a/1");
        refused.remove("a/2");
        assert_eq!(refused.counts(), [(Refusal::OutOfRange, 1)].into());
        refused.forget("b/");
        assert_eq!(refused.named(10).count(), 0);
    }

    #[test]
    fn keys_that_nobody_could_read_are_counted_only() {
        let mut refused = RefusedKeys::default();
        refused.insert(&"9".repeat(1 << 20), Refusal::OtherKey);
        assert_eq!(refused.counts(), [(Refusal::OtherKey, 1)].into());
        assert_eq!(refused.named(10).count(), 0);
    }
}
