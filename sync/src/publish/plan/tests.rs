use cilmark::model::identity::Identity;
use proptest::prelude::*;

use super::*;
use crate::etcd::Header;

const STORE: u64 = 1;

fn line(birth: u64, value: &str) -> Line {
    let (identity, device) = (Identity(131_073), "red".to_owned());
    Line { identity, device, birth, value: value.to_owned() }
}

fn address(last: u8) -> IpAddr {
    IpAddr::from([10, 0, 0, last])
}

fn found(value: &str, lease: i64) -> Found {
    Found { value: value.into(), lease: Some(LeaseId(lease)), modified: 5 }
}

fn plan_of(lines: &[(u8, Line)], there: &[(u8, Found)], claims: &[(u8, u64)]) -> Plan {
    let wanted = lines.iter().map(|(last, line)| (address(*last), line.clone())).collect();
    let mut view = View::default();
    for (last, found) in there {
        view.read(address(*last), 9, Some(found.clone()));
    }
    let claims = claims.iter().map(|(last, birth)| (address(*last), *birth)).collect();
    plan(&wanted, &view, &claims, |lease| lease.0 < 10)
}

fn put(last: u8, birth: u64, value: &str, lease: Option<i64>, guard: Compare) -> Step {
    let (address, value, lease) = (address(last), value.to_owned(), lease.map(LeaseId));
    Step::Put { address, birth, value, lease, guard }
}

#[test]
fn what_is_missing_is_made_and_what_differs_is_written_under_its_lease() {
    let key = || keys::address(address(1));
    let plan = plan_of(&[(1, line(7, "a"))], &[], &[]);
    assert_eq!(plan.steps, [put(1, 7, "a", None, Compare::IsAbsent(key()))]);
    let plan = plan_of(&[(1, line(7, "a"))], &[(1, found("b", 3))], &[]);
    assert_eq!(plan.steps, [put(1, 7, "a", Some(3), Compare::HasLease(key(), LeaseId(3)))]);
    let plan = plan_of(&[(1, line(7, "a"))], &[(1, found("a", 3))], &[(1, 7)]);
    assert_eq!((plan.steps, plan.confirmed), (vec![], vec![address(1)]));
}

#[test]
fn a_new_birth_writes_also_what_seems_to_be_there_already() {
    let there = [(1, found("a", 3))];
    let steps = plan_of(&[(1, line(8, "a"))], &there, &[(1, 7)]).steps;
    let guard = Compare::HasLease(keys::address(address(1)), LeaseId(3));
    assert_eq!(steps, [put(1, 8, "a", Some(3), guard)]);
}

#[test]
fn the_newest_birth_takes_an_address_and_one_that_was_there_before_waits() {
    let there = [(1, found("theirs", 30))];
    let steps = plan_of(&[(1, line(7, "a"))], &there, &[(1, 6)]).steps;
    assert_eq!(steps, [put(1, 7, "a", None, Compare::ModifiedAt(keys::address(address(1)), 5))]);
    let waits = plan_of(&[(1, line(7, "a"))], &there, &[(1, 7)]);
    assert_eq!((waits.steps, waits.conflicts), (vec![], vec![address(1)]));
    let is_gone = plan_of(&[(1, line(7, "a"))], &[], &[(1, 7)]);
    assert_eq!(is_gone.steps.len(), 1);
}

#[test]
fn a_key_without_a_lease_is_anothers() {
    let there = [(1, Found { lease: None, ..found("a", 0) })];
    assert_eq!(plan_of(&[(1, line(7, "a"))], &there, &[(1, 7)]).conflicts, [address(1)]);
    assert_eq!(plan_of(&[], &there, &[(1, 7)]).forgotten, [address(1)]);
}

#[test]
fn what_is_not_wanted_any_more_is_deleted_only_if_it_is_own() {
    let claims = [(1, 7), (2, 7), (3, 7)];
    let plan = plan_of(&[], &[(1, found("a", 3)), (2, found("theirs", 30))], &claims);
    assert_eq!(plan.steps, [Step::Delete { address: address(1), lease: LeaseId(3) }]);
    assert_eq!(plan.forgotten, [address(2), address(3)]);
}

#[test]
fn what_a_watch_tells_late_is_no_news() {
    let mut view = View::default();
    let key = keys::address(address(1));
    let told = |modified, value: &str| {
        let value = value.into();
        Change::Put(KeyValue { key: key.clone(), value, created: 1, modified, lease: None })
    };
    assert!(!view.apply(told(3, "nobody has asked")));
    view.read(address(1), 9, Some(found("now", 3)));
    assert!(!view.apply(told(9, "before")));
    assert_eq!(view.get(address(1)), Some(&found("now", 3)));
    assert!(view.apply(told(10, "later")));
    assert_eq!(view.get(address(1)).unwrap().value, b"later");
    let deleted = Change::Deleted { key: key.clone(), before: None, revision: 11 };
    assert!(view.apply(deleted.clone()) && !view.apply(deleted));
    assert_eq!(view.get(address(1)), None);
}

#[test]
fn the_keys_of_a_lease_that_is_over_are_gone() {
    let mut view = View::default();
    view.read(address(1), 9, Some(found("a", 3)));
    view.read(address(2), 9, Some(found("b", 4)));
    view.lose(LeaseId(3));
    assert_eq!(view.keys_of_leases(), BTreeMap::from([(LeaseId(4), 1)]));
}

/// A store as far as a plan can tell.
#[derive(Default)]
struct Store {
    revision: i64,
    keys: BTreeMap<String, KeyValue>,
}

impl Store {
    fn holds(&self, compare: &Compare) -> bool {
        match compare {
            Compare::IsAbsent(key) => !self.keys.contains_key(key),
            Compare::CreatedAt(key, at) => self.keys.get(key).is_some_and(|it| it.created == *at),
            Compare::ModifiedAt(key, at) => self.keys.get(key).is_some_and(|it| it.modified == *at),
            Compare::HasLease(key, lease) => {
                self.keys.get(key).is_some_and(|it| it.lease == Some(*lease))
            }
        }
    }

    /// Whose lease each key that was overwritten or deleted had.
    fn transact(&mut self, steps: &[Step], lease: LeaseId) -> (Done, Vec<(Step, LeaseId)>) {
        let header = |revision| Header { store: STORE, revision };
        if !steps.iter().all(|step| self.holds(&step.guard())) {
            let get = |step: &Step| self.keys.get(&keys::address(step.address())).cloned();
            let found = steps.iter().map(|step| get(step).into_iter().collect()).collect();
            return (Done { header: header(self.revision), held: false, found }, Vec::new());
        }
        self.revision += 1;
        let mut lost = Vec::new();
        for step in steps {
            let before = match step.op(lease) {
                Op::Put(key, value, lease) => {
                    let modified = self.revision;
                    let value = KeyValue { key: key.clone(), value, created: 1, modified, lease };
                    self.keys.insert(key, value)
                }
                Op::Delete(key) => self.keys.remove(&key),
                _ => None,
            };
            lost.extend(before.and_then(|it| Some((step.clone(), it.lease?))));
        }
        (Done { header: header(self.revision), held: true, found: Vec::new() }, lost)
    }
}

#[derive(Default)]
struct Host {
    lease: i64,
    wanted: BTreeMap<IpAddr, Line>,
    view: View,
    claims: Claims,
}

impl Host {
    fn settle(&mut self, store: &mut Store) {
        for _ in 0..8 {
            let own = self.lease;
            let plan = plan(&self.wanted, &self.view, &self.claims, |lease| lease.0 == own);
            plan.forgotten.iter().for_each(|it| _ = self.claims.remove(it));
            for step in &plan.steps {
                let (done, lost) = store.transact(std::slice::from_ref(step), LeaseId(own));
                for (step, whose) in lost {
                    let is_delete = matches!(step, Step::Delete { .. });
                    assert!(!is_delete || whose.0 == own, "deletes another's key: {step:?}");
                }
                if done.held {
                    match step {
                        Step::Put { address, birth, .. } => {
                            _ = self.claims.insert(*address, *birth)
                        }
                        Step::Delete { address, .. } => _ = self.claims.remove(address),
                    }
                }
                self.view.done(std::slice::from_ref(step), LeaseId(own), done);
            }
            if plan.steps.is_empty() {
                return;
            }
        }
        panic!("it never comes to an end");
    }

    /// What a watch would have told by now.
    fn catch_up(&mut self, store: &Store) {
        let addresses: Vec<IpAddr> =
            self.wanted.keys().chain(self.claims.keys()).copied().collect();
        for address in addresses {
            let now = store.keys.get(&keys::address(address)).cloned().map(Found::from);
            self.view.read(address, store.revision, now);
        }
    }
}

#[derive(Debug, Clone)]
enum Event {
    Comes(usize, u8),
    Changes(usize, u8),
    Goes(usize, u8),
    CatchesUp(usize),
    LosesLease(usize),
    Restarts(usize),
}

fn event() -> impl Strategy<Value = Event> {
    let place = || (0..3_usize, 1..4_u8);
    prop_oneof![
        3 => place().prop_map(|(host, last)| Event::Comes(host, last)),
        1 => place().prop_map(|(host, last)| Event::Changes(host, last)),
        2 => place().prop_map(|(host, last)| Event::Goes(host, last)),
        4 => (0..3_usize).prop_map(Event::CatchesUp),
        1 => (0..3_usize).prop_map(Event::LosesLease),
        1 => (0..3_usize).prop_map(Event::Restarts),
    ]
}

proptest! {
    /// Three hosts that claim the same addresses in any order, with watches that are late, leases that end and processes
    /// that start again.
    #[test]
    fn hosts_agree_on_the_newest_birth_and_delete_nothing_of_another(
        events in prop::collection::vec(event(), 1..60),
    ) {
        let mut store = Store::default();
        let mut hosts = [1, 2, 3].map(|lease| Host { lease, ..Host::default() });
        let mut births = 0;
        let mut newest: BTreeMap<IpAddr, usize> = BTreeMap::new();
        // Whose lease was over is no longer the newest: others may have written meanwhile.
        let is_cut_off = events.iter().any(|event| matches!(event, Event::LosesLease(_)));
        for event in events {
            match event {
                Event::Comes(host, last) => {
                    births += 1;
                    newest.insert(address(last), host);
                    hosts[host].wanted.insert(address(last), line(births, &format!("{host}")));
                    hosts[host].settle(&mut store);
                }
                Event::Changes(host, last) => {
                    if let Some(line) = hosts[host].wanted.get_mut(&address(last)) {
                        line.value.push('+');
                    }
                    hosts[host].settle(&mut store);
                }
                Event::Goes(host, last) => {
                    hosts[host].wanted.remove(&address(last));
                    hosts[host].settle(&mut store);
                }
                Event::CatchesUp(host) => {
                    hosts[host].catch_up(&store);
                    hosts[host].settle(&mut store);
                }
                Event::LosesLease(host) => {
                    let lease = LeaseId(hosts[host].lease);
                    store.keys.retain(|_, it| it.lease != Some(lease));
                    store.revision += 1;
                    hosts[host].view.lose(lease);
                    hosts[host].lease += 3;
                }
                Event::Restarts(host) => {
                    hosts[host].view.clear();
                    hosts[host].catch_up(&store);
                    hosts[host].settle(&mut store);
                }
            }
        }
        for _ in 0..2 {
            for host in &mut hosts {
                host.catch_up(&store);
                host.settle(&mut store);
            }
        }
        for last in 1..4 {
            let address = address(last);
            let wants: Vec<usize> =
                (0..3).filter(|it| hosts[*it].wanted.contains_key(&address)).collect();
            let key = store.keys.get(&keys::address(address));
            prop_assert_eq!(key.is_some(), !wants.is_empty(), "{}", address);
            let Some(key) = key else { continue };
            let owner = wants.iter().find(|it| hosts[**it].lease == key.lease.unwrap().0);
            prop_assert!(owner.is_some(), "{} has the key of nobody who wants it", address);
            if let Some(newest) = newest.get(&address).filter(|it| wants.contains(it) && !is_cut_off) {
                prop_assert_eq!(owner, Some(newest), "{}", address);
            }
            let line = &hosts[*owner.unwrap()].wanted[&address];
            prop_assert_eq!(key.value.as_slice(), line.value.as_bytes());
        }
    }
}
