//! What was unused in the last round, and so goes in this one: without I/O.

use std::collections::{BTreeMap, BTreeSet};

use crate::cilium::range::Range;
use crate::etcd::{KeyValue, LeaseId};
use crate::identities::known::{number_of, user_of};

/// What was seen in the last round.
#[derive(Debug, Default)]
pub struct Marks {
    store: u64,
    /// Numbers without a user, each with the revision that has written it.
    unused: BTreeMap<u32, i64>,
    /// Locks, each with that revision and its lease.
    locks: BTreeMap<String, (i64, Option<LeaseId>)>,
}

/// What is to go.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Due {
    /// Numbers.
    pub numbers: Vec<Unused>,
    /// Locks.
    pub locks: Vec<KeyValue>,
}

/// A number that nobody has used in two rounds.
#[derive(Debug, PartialEq, Eq)]
pub struct Unused {
    /// The number.
    pub number: u32,
    /// Its labels.
    pub labels: String,
    /// The revision that has written it.
    pub modified: i64,
}

impl Marks {
    /// What goes in this round. Numbers out of the range are another cluster's.
    pub fn round(
        &mut self,
        store: u64,
        range: &Range,
        ids: &[KeyValue],
        users: &[KeyValue],
        locks: &[KeyValue],
    ) -> Due {
        let before = match self.store == store {
            true => std::mem::take(self),
            // The revisions of another one say nothing of this.
            false => Marks::default(),
        };
        self.store = store;
        let used: BTreeSet<(&str, &[u8])> =
            users.iter().filter_map(|it| Some((user_of(&it.key)?.0, &it.value[..]))).collect();
        let mut due = Due::default();
        for id in ids {
            let Some(number) = number_of(&id.key).filter(|it| range.contains(*it)) else {
                continue;
            };
            let labels = String::from_utf8_lossy(&id.value);
            if used.contains(&(&*labels, number.to_string().as_bytes())) {
                continue;
            }
            self.unused.insert(number, id.modified);
            if before.unused.get(&number) == Some(&id.modified) {
                let labels = labels.into_owned();
                due.numbers.push(Unused { number, labels, modified: id.modified });
            }
        }
        for lock in locks {
            let seen = (lock.modified, lock.lease);
            if before.locks.get(&lock.key) == Some(&seen) {
                due.locks.push(lock.clone());
            }
            self.locks.insert(lock.key.clone(), seen);
        }
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cilium::keys;

    const RANGE: Range = Range { first: 1000, last: 1999 };

    fn key(key: String, value: &str, modified: i64) -> KeyValue {
        KeyValue { key, value: value.into(), created: 1, modified, lease: Some(LeaseId(7)) }
    }

    fn id(number: u32, labels: &str, modified: i64) -> KeyValue {
        key(format!("{}{number}", keys::IDENTITIES), labels, modified)
    }

    fn user(labels: &str, number: u32) -> KeyValue {
        key(keys::user(labels, "n1"), &number.to_string(), 3)
    }

    fn numbers(due: &Due) -> Vec<u32> {
        due.numbers.iter().map(|it| it.number).collect()
    }

    #[test]
    fn a_number_goes_that_nobody_uses_or_writes_in_two_rounds() {
        let mut marks = Marks::default();
        let ids = [id(1001, "a;", 5), id(1002, "b;", 6), id(1003, "c;", 7), id(999, "d;", 8)];
        let mut round = |ids: &[KeyValue], users: &[KeyValue]| {
            numbers(&marks.round(1, &RANGE, ids, users, &[]))
        };
        assert_eq!(round(&ids, &[user("a;", 1001)]), [0; 0]);
        // The second one was written anew, and the third one is used by now.
        let later = [id(1001, "a;", 5), id(1002, "b;", 9), id(1003, "c;", 7), id(999, "d;", 8)];
        assert_eq!(round(&later, &[user("c;", 1003)]), [0; 0]);
        assert_eq!(round(&later, &[user("c;", 1003)]), [1001, 1002]);
    }

    #[test]
    fn a_user_of_another_number_or_of_longer_labels_uses_it_not() {
        let mut marks = Marks::default();
        let ids = [id(1001, "a;", 5)];
        let users = [user("a;", 1002), user("a;/b;", 1001)];
        assert_eq!(numbers(&marks.round(1, &RANGE, &ids, &users, &[])), [0; 0]);
        assert_eq!(numbers(&marks.round(1, &RANGE, &ids, &users, &[])), [1001]);
    }

    #[test]
    fn in_another_store_all_begins_anew() {
        let mut marks = Marks::default();
        let ids = [id(1001, "a;", 5)];
        marks.round(1, &RANGE, &ids, &[], &[]);
        assert_eq!(marks.round(2, &RANGE, &ids, &[], &[]), Due::default());
        assert_eq!(numbers(&marks.round(2, &RANGE, &ids, &[], &[])), [1001]);
    }

    #[test]
    fn a_lock_goes_that_is_the_same_in_two_rounds() {
        let mut marks = Marks::default();
        let lock = |modified| key(format!("{}a;/1f", keys::LOCKS), "", modified);
        let mut round = |lock: KeyValue| marks.round(1, &RANGE, &[], &[], &[lock]).locks.len();
        assert_eq!((round(lock(5)), round(lock(6)), round(lock(6))), (0, 0, 1));
    }
}
