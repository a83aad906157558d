//! Which labels each number of the cluster is for, as `id/` says: without I/O.

use std::collections::{BTreeMap, BTreeSet};

use cilmark::model::identity::Identity;

use crate::cilium::keys;
use crate::cilium::labels::LONGEST;
use crate::cilium::range::Range;
use crate::etcd::{Change, KeyValue};

/// Numbers and labels, both ways.
#[derive(Debug)]
pub struct Known {
    range: Range,
    numbers: BTreeMap<u32, Id>,
    by_labels: BTreeMap<String, BTreeSet<u32>>,
}

/// What `id/<number>` says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Id {
    /// The labels, as Cilium writes them.
    pub labels: String,
    /// The revision that has written it.
    pub modified: i64,
}

impl Known {
    /// Of a cluster whose numbers are these; nothing is known yet.
    pub fn new(range: Range) -> Known {
        Known { range, numbers: BTreeMap::new(), by_labels: BTreeMap::new() }
    }

    /// What a number is for.
    pub fn get(&self, number: Identity) -> Option<&Id> {
        self.numbers.get(&number.0)
    }

    /// The number of labels; the lowest, should they have two.
    pub fn of(&self, labels: &str) -> Option<(Identity, &Id)> {
        let number = self.by_labels.get(labels)?.first()?;
        self.numbers.get(number).map(|id| (Identity(*number), id))
    }

    /// A number that is free, as random as `random`; `None` if there is none.
    pub fn free(&self, random: u64) -> Option<Identity> {
        let Range { first, last } = self.range;
        let count = u64::from(last - first) + 1 - self.numbers.len() as u64;
        let mut skip = random.checked_rem(count)?;
        let mut begin = first;
        // Between two that are taken as many are free as lie between them.
        for taken in self.numbers.keys() {
            let free = u64::from(taken - begin);
            if skip < free {
                break;
            }
            skip -= free;
            begin = taken + 1;
        }
        Some(Identity(begin + skip as u32))
    }

    /// Whether a number is the cluster's and nobody's.
    pub fn is_free(&self, number: Identity) -> bool {
        self.range.contains(number.0) && !self.numbers.contains_key(&number.0)
    }

    /// Whether a number is the cluster's.
    pub fn has_in_range(&self, number: Identity) -> bool {
        self.range.contains(number.0)
    }

    /// What was read; `None`: nothing is there at that revision.
    pub fn read(&mut self, number: Identity, at: i64, found: Option<KeyValue>) {
        match found {
            Some(found) => self.put(found),
            None => self.delete(number.0, at),
        }
    }

    /// What a list or a watch tells. The number that it is about, if that is the cluster's.
    pub fn apply(&mut self, change: Change) -> Option<Identity> {
        match change {
            Change::Put(put) => {
                let number = self.number(&put.key)?;
                self.put(put);
                Some(Identity(number))
            }
            Change::Deleted { key, revision, .. } => {
                let number = self.number(&key)?;
                self.delete(number, revision);
                Some(Identity(number))
            }
        }
    }

    /// Nothing is known any more.
    pub fn clear(&mut self) {
        self.numbers.clear();
        self.by_labels.clear();
    }

    fn number(&self, key: &str) -> Option<u32> {
        number_of(key).filter(|number| self.range.contains(*number))
    }

    fn put(&mut self, put: KeyValue) {
        let Some(number) = self.number(&put.key) else { return };
        if self.numbers.get(&number).is_some_and(|id| id.modified > put.modified) {
            return;
        }
        // Longer ones are none that are ever asked for, and stay so.
        let length = put.value.len().min(LONGEST + 1);
        let labels = String::from_utf8_lossy(&put.value[..length]).into_owned();
        let id = Id { labels: labels.clone(), modified: put.modified };
        if let Some(before) = self.numbers.insert(number, id) {
            self.unlist(number, &before.labels);
        }
        self.by_labels.entry(labels).or_default().insert(number);
    }

    fn delete(&mut self, number: u32, at: i64) {
        // Somebody has made it again since.
        if self.numbers.get(&number).is_some_and(|id| id.modified > at) {
            return;
        }
        if let Some(before) = self.numbers.remove(&number) {
            self.unlist(number, &before.labels);
        }
    }

    fn unlist(&mut self, number: u32, labels: &str) {
        if let Some(numbers) = self.by_labels.get_mut(labels) {
            numbers.remove(&number);
            if numbers.is_empty() {
                self.by_labels.remove(labels);
            }
        }
    }
}

/// The number of a key `id/<number>`, if it is written as Cilium does.
pub fn number_of(key: &str) -> Option<u32> {
    let text = key.strip_prefix(keys::IDENTITIES)?;
    text.parse().ok().filter(|number: &u32| number.to_string() == text)
}

/// The labels and the node of a key `value/<labels>/<node>`.
pub fn user_of(key: &str) -> Option<(&str, &str)> {
    key.strip_prefix(keys::USERS)?.rsplit_once('/')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(number: u32, labels: &str, modified: i64) -> Change {
        let (key, value) = (keys::identity(Identity(number)), labels.into());
        Change::Put(KeyValue { key, value, created: 1, modified, lease: None })
    }

    fn deleted(number: u32, revision: i64) -> Change {
        Change::Deleted { key: keys::identity(Identity(number)), before: None, revision }
    }

    fn known(first: u32, last: u32) -> Known {
        Known::new(Range { first, last })
    }

    #[test]
    fn labels_have_the_number_that_was_told_last() {
        let mut known = known(1000, 1009);
        assert_eq!(known.apply(put(1003, "a", 5)), Some(Identity(1003)));
        assert_eq!(known.of("a").map(|(number, id)| (number.0, id.modified)), Some((1003, 5)));
        known.apply(put(1003, "b", 6));
        assert_eq!(known.of("a"), None);
        assert_eq!(known.of("b").unwrap().0, Identity(1003));
        known.apply(put(1001, "b", 7));
        assert_eq!(known.of("b").unwrap().0, Identity(1001));
        known.apply(deleted(1001, 8));
        assert_eq!(known.of("b").unwrap().0, Identity(1003));
        known.apply(deleted(1003, 9));
        assert_eq!(known.of("b"), None);
    }

    #[test]
    fn labels_that_nobody_can_ask_for_are_not_kept_whole() {
        let mut known = known(1000, 1009);
        known.apply(put(1003, &"a".repeat(1 << 20), 5));
        assert_eq!(known.get(Identity(1003)).unwrap().labels.len(), LONGEST + 1);
        assert_eq!(known.of(&"a".repeat(LONGEST)), None);
        assert!(!known.is_free(Identity(1003)));
    }

    #[test]
    fn what_is_told_late_says_nothing() {
        let mut known = known(1000, 1009);
        known.apply(put(1003, "b", 9));
        known.apply(put(1003, "a", 5));
        known.apply(deleted(1003, 7));
        assert_eq!(known.get(Identity(1003)).unwrap().labels, "b");
        known.read(Identity(1003), 12, None);
        assert_eq!(known.get(Identity(1003)), None);
    }

    #[test]
    fn other_numbers_and_other_texts_of_numbers_are_none() {
        let mut known = known(1000, 1009);
        assert_eq!(known.apply(put(999, "a", 5)), None);
        assert_eq!(known.apply(put(1010, "a", 5)), None);
        for key in ["01003", "+1003", "1003/x", "", "x"] {
            assert_eq!(number_of(&format!("{}{key}", keys::IDENTITIES)), None, "{key}");
        }
        assert_eq!(known.of("a"), None);
    }

    #[test]
    fn each_free_number_is_found_and_no_other() {
        let mut known = known(1000, 1009);
        for number in [1000, 1004, 1005, 1009] {
            known.apply(put(number, "a", 5));
        }
        let found: Vec<u32> = (0..6).map(|random| known.free(random).unwrap().0).collect();
        assert_eq!(found, [1001, 1002, 1003, 1006, 1007, 1008]);
        assert_eq!(known.free(6), Some(Identity(1001)));
        for number in 1000..=1009 {
            known.apply(put(number, "a", 6));
        }
        assert_eq!(known.free(7), None);
    }

    #[test]
    fn the_last_slash_ends_the_labels_of_a_user() {
        let key = format!("{}k8s:path=a/b;/n1", keys::USERS);
        assert_eq!(user_of(&key), Some(("k8s:path=a/b;", "n1")));
        assert_eq!(user_of(keys::IDENTITIES), None);
    }
}
