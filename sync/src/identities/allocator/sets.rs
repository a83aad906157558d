//! Labels that this host has a number for, or wants one: without I/O.

use std::collections::BTreeMap;
use std::time::Duration;

use cilmark::model::identity::Identity;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use crate::etcd::LeaseId;

/// How long a number is held that no endpoint has: whoever has asked for it is about to start a workload, or one starts
/// anew.
pub const GRACE: Duration = Duration::from_secs(5 * 60);

/// The pause after an attempt in vain.
const PAUSE: Duration = Duration::from_secs(1);

/// What outlives the process, until the host goes down.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// The number of the store that has the leases.
    pub store: u64,
    /// Those under which this node uses numbers.
    pub leases: Vec<LeaseId>,
    /// What it uses, by labels as Cilium writes them: the number, and the labels as text.
    pub users: BTreeMap<String, (Identity, String)>,
}

/// Labels.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Set {
    /// As text.
    pub labels: String,
    /// The number that this node uses.
    pub number: Option<Identity>,
    /// The lease under which it does, once that was seen.
    lease: Option<LeaseId>,
    /// What its endpoints have, which it should be if etcd knows of none.
    pub hint: Option<Identity>,
    /// How many endpoints have these labels.
    pub endpoints: usize,
    /// Why there is no number.
    pub trouble: Option<String>,
    /// Until then it is held without an endpoint.
    until: Instant,
    /// Somebody is at it.
    is_worked_on: bool,
    /// Nobody is to be before that.
    not_before: Instant,
}

/// By labels as Cilium writes them.
#[derive(Debug)]
pub struct Sets {
    all: BTreeMap<String, Set>,
    grace: Duration,
}

/// By labels as Cilium writes them: as text, how many endpoints have them, and which number one of these has.
pub type Used = BTreeMap<String, (String, usize, Option<Identity>)>;

impl Sets {
    /// Those that a process before has held.
    pub fn of(record: &Record, grace: Duration) -> Sets {
        let mut sets = Sets { all: BTreeMap::new(), grace };
        for (key, (number, labels)) in &record.users {
            sets.ask(key, labels);
            sets.hold(key, *number, None);
        }
        sets
    }

    /// Each of them.
    pub fn iter(&self) -> impl Iterator<Item = (&String, &Set)> {
        self.all.iter()
    }

    /// Somebody asks for a number.
    pub fn ask(&mut self, key: &str, labels: &str) {
        let until = Instant::now() + self.grace;
        self.entry(key, labels).until = until;
    }

    fn entry(&mut self, key: &str, labels: &str) -> &mut Set {
        self.all.entry(key.to_owned()).or_insert_with(|| Set {
            labels: labels.to_owned(),
            number: None,
            lease: None,
            hint: None,
            endpoints: 0,
            trouble: None,
            until: Instant::now(),
            is_worked_on: false,
            not_before: Instant::now(),
        })
    }

    /// These have endpoints, and no others. Whether anything is to be done.
    pub fn used(&mut self, mut used: Used) -> bool {
        let mut is_news = false;
        for (key, set) in &mut self.all {
            let (endpoints, hint) = used.remove(key).map_or((0, None), |it| (it.1, it.2));
            if endpoints == 0 && set.endpoints > 0 {
                set.until = Instant::now() + self.grace;
                is_news = true;
            }
            set.endpoints = endpoints;
            set.hint = hint;
        }
        for (key, (labels, endpoints, hint)) in used {
            let set = self.entry(&key, &labels);
            (set.endpoints, set.hint) = (endpoints, hint);
            is_news = true;
        }
        is_news
    }

    /// The number that is held for labels.
    pub fn held(&self, key: &str) -> Option<Identity> {
        self.all.get(key)?.number
    }

    /// All that is held, by labels as text.
    pub fn all_held(&self) -> BTreeMap<String, Identity> {
        self.all.values().filter_map(|set| Some((set.labels.clone(), set.number?))).collect()
    }

    /// What is held, to be remembered.
    pub fn users(&self) -> BTreeMap<String, (Identity, String)> {
        let user =
            |(key, set): (&String, &Set)| Some((key.clone(), (set.number?, set.labels.clone())));
        self.all.iter().filter_map(user).collect()
    }

    /// Why labels have no number.
    pub fn trouble(&self, key: &str) -> Option<String> {
        self.all.get(key)?.trouble.clone()
    }

    /// The labels of which a number is held.
    pub fn by_number(&self, number: Identity) -> Option<&str> {
        self.all.iter().find(|(_, set)| set.number == Some(number)).map(|(key, _)| key.as_str())
    }

    /// Those that have no number and nobody at it, of whom somebody is from now on.
    pub fn begin(&mut self) -> Vec<(String, Option<Identity>)> {
        let mut begun = Vec::new();
        for (key, set) in &mut self.all {
            let may_begin = !set.is_worked_on && set.not_before <= Instant::now();
            if set.number.is_none() && may_begin && set.is_wanted() {
                set.is_worked_on = true;
                begun.push((key.clone(), set.hint));
            }
        }
        begun
    }

    /// Nobody is at it any more; why it was in vain, if it was.
    pub fn end(&mut self, key: &str, trouble: Option<String>) {
        if let Some(set) = self.all.get_mut(key) {
            if trouble.is_some() {
                set.not_before = Instant::now() + PAUSE;
            }
            (set.is_worked_on, set.trouble) = (false, trouble);
        }
    }

    /// Nobody is at anything any more.
    pub fn end_all(&mut self) {
        self.all.values_mut().for_each(|set| set.is_worked_on = false);
    }

    /// A number is held, under a lease if that is known.
    pub fn hold(&mut self, key: &str, number: Identity, lease: Option<LeaseId>) {
        if let Some(set) = self.all.get_mut(key) {
            (set.number, set.lease, set.trouble) = (Some(number), lease, None);
        }
    }

    /// How many keys each lease has.
    pub fn keys_of_leases(&self) -> BTreeMap<LeaseId, usize> {
        let mut keys = BTreeMap::new();
        for lease in self.all.values().filter_map(|set| set.lease) {
            *keys.entry(lease).or_default() += 1;
        }
        keys
    }

    /// It is held no more, and others may have it: another one is to be found.
    pub fn lose(&mut self, key: &str) {
        if let Some(set) = self.all.get_mut(key) {
            (set.number, set.lease) = (None, None);
        }
    }

    /// What nobody wants any more.
    pub fn unwanted(&self) -> Vec<String> {
        let is_unwanted = |(_, set): &(&String, &Set)| !set.is_wanted() && !set.is_worked_on;
        self.all.iter().filter(is_unwanted).map(|(key, _)| key.clone()).collect()
    }

    /// Forgets labels, unless somebody wants them again.
    pub fn forget(&mut self, key: &str) {
        if self.all.get(key).is_some_and(|set| !set.is_wanted()) {
            self.all.remove(key);
        }
    }

    /// When something may be to be done again.
    pub fn due(&self) -> Option<Instant> {
        let due = |set: &Set| match set.number {
            _ if set.is_worked_on => None,
            None => Some(set.not_before),
            Some(_) => Some(set.until).filter(|_| set.endpoints == 0),
        };
        self.all.values().filter_map(due).min()
    }
}

impl Set {
    fn is_wanted(&self) -> bool {
        self.endpoints > 0 || self.until > Instant::now()
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    const WEB: &str = "k8s:app=web;";
    const NUMBER: Identity = Identity(131_073);

    fn used(endpoints: usize) -> Used {
        match endpoints {
            0 => Used::new(),
            _ => [(WEB.to_owned(), ("app=web".to_owned(), endpoints, None))].into(),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_number_is_held_until_its_last_endpoint_has_been_gone_for_a_while() {
        let mut sets = Sets::of(&Record::default(), GRACE);
        assert!(sets.used(used(2)));
        assert_eq!(sets.begin(), [(WEB.to_owned(), None)]);
        assert_eq!(sets.begin(), []);
        sets.end(WEB, Some("in vain".to_owned()));
        assert_eq!((sets.begin(), sets.trouble(WEB).as_deref()), (vec![], Some("in vain")));
        advance(PAUSE).await;
        assert_eq!(sets.begin().len(), 1);
        sets.hold(WEB, NUMBER, None);
        sets.end(WEB, None);
        assert_eq!((sets.held(WEB), sets.by_number(NUMBER)), (Some(NUMBER), Some(WEB)));
        assert!(!sets.used(used(1)));
        advance(GRACE * 2).await;
        assert_eq!(sets.unwanted(), [""; 0]);
        assert!(sets.used(used(0)));
        advance(GRACE - Duration::from_secs(1)).await;
        assert_eq!(sets.unwanted(), [""; 0]);
        advance(Duration::from_secs(2)).await;
        assert_eq!(sets.unwanted(), [WEB]);
        sets.forget(WEB);
        assert_eq!(sets.held(WEB), None);
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_asked_for_waits_for_its_first_endpoint() {
        let mut sets = Sets::of(&Record::default(), GRACE);
        sets.ask(WEB, "app=web");
        sets.hold(WEB, NUMBER, None);
        assert!(!sets.used(used(0)));
        advance(GRACE / 2).await;
        assert_eq!(sets.unwanted(), [""; 0]);
        sets.ask(WEB, "app=web");
        advance(GRACE / 2).await;
        assert_eq!(sets.unwanted(), [""; 0]);
        sets.used(used(1));
        advance(GRACE).await;
        sets.forget(WEB);
        assert_eq!(sets.held(WEB), Some(NUMBER));
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_held_before_a_restart_is_released_like_the_rest() {
        let users = [(WEB.to_owned(), (NUMBER, "app=web".to_owned()))].into();
        let sets = Sets::of(&Record { users, ..Record::default() }, GRACE);
        assert_eq!(sets.all_held(), [("app=web".to_owned(), NUMBER)].into());
        assert_eq!(sets.unwanted(), [""; 0]);
        advance(GRACE + Duration::from_secs(1)).await;
        assert_eq!(sets.unwanted(), [WEB]);
    }
}
