use std::net::{IpAddr, Ipv6Addr};

use proptest::prelude::*;

use super::*;

const SWEEP: Sweep = Sweep { share: 30, lines: 3 };
const STALE: Duration = Duration::from_secs(3600);
const OWN: Number = 3;

fn table() -> Table {
    Table::new(OWN, 255, STALE, SWEEP)
}

fn net(last: u8) -> IpNet {
    IpAddr::from([10, 0, 0, last]).into()
}

fn identity(cluster: Number, number: u32) -> Identity {
    Identity((u32::from(cluster) << 16) + number)
}

fn at(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// What has changed, sorted.
fn changes(table: &mut Table) -> Vec<(IpNet, Option<u32>)> {
    let mut changes = table.take_changes(usize::MAX);
    changes.extend(table.take_net_changes(usize::MAX));
    assert!(!table.has_changes());
    let mut changes: Vec<_> =
        changes.into_iter().map(|(net, identity)| (net, identity.map(|it| it.0))).collect();
    changes.sort();
    changes
}

fn list(table: &mut Table, cluster: Number, lines: impl IntoIterator<Item = (IpNet, Identity)>) {
    table.begin(cluster);
    lines.into_iter().for_each(|(net, identity)| table.upsert(cluster, net, identity));
}

#[test]
fn a_restart_without_a_change_changes_nothing() {
    let mut table = table();
    let lines = [(net(1), identity(OWN, 1)), (net(2), identity(5, 1)), (net(3), Identity(6))];
    lines.iter().for_each(|(net, identity)| table.adopt(*net, *identity));
    list(&mut table, 5, [lines[1]]);
    table.end(5, Missing::IsGone, at(1));
    list(&mut table, OWN, [lines[0], lines[2]]);
    table.end(OWN, Missing::IsGone, at(1));
    table.end_adopted(&BTreeSet::from([OWN, 5]), Missing::IsGone, at(1));
    table.settle(at(2));
    assert_eq!(changes(&mut table), []);
    assert_eq!(table.counts(OWN).lines, 2);
    assert_eq!(table.get(&net(3)), Some((OWN, Identity(6))));
}

#[test]
fn what_was_found_and_is_claimed_by_nobody_goes_when_whoever_could_has_listed() {
    let mut table = table();
    table.adopt(net(1), identity(OWN, 1));
    table.adopt(net(2), identity(5, 1));
    table.adopt(net(3), identity(9, 1));
    table.adopt(net(4), Identity(6));
    list(&mut table, OWN, []);
    table.end(OWN, Missing::IsGone, at(1));
    assert_eq!(changes(&mut table), [(net(1), None)]);
    list(&mut table, 5, []);
    table.end(5, Missing::IsGone, at(1));
    assert_eq!(changes(&mut table), [(net(2), None)]);
    table.end_adopted(&BTreeSet::from([OWN, 5]), Missing::IsGone, at(1));
    assert_eq!(changes(&mut table), [(net(3), None), (net(4), None)]);
}

#[test]
fn the_own_cluster_wins_and_then_the_lower_number() {
    let mut table = table();
    table.upsert(7, net(1), identity(7, 1));
    assert_eq!(changes(&mut table), [(net(1), Some(identity(7, 1).0))]);
    table.upsert(5, net(1), identity(5, 1));
    assert_eq!(changes(&mut table), [(net(1), Some(identity(5, 1).0))]);
    table.upsert(OWN, net(1), identity(OWN, 1));
    assert_eq!(changes(&mut table), [(net(1), Some(identity(OWN, 1).0))]);
    table.upsert(1, net(1), identity(1, 1));
    table.upsert(7, net(1), identity(7, 2));
    assert_eq!(changes(&mut table), []);
    assert_eq!([1, 5, 7].map(|cluster| table.counts(cluster).shadowed), [1, 1, 1]);
    // The next one comes in the same write.
    table.delete(OWN, net(1), How::OnPurpose, at(1));
    assert_eq!(changes(&mut table), []);
    table.settle(at(1));
    assert_eq!(changes(&mut table), [(net(1), Some(identity(1, 1).0))]);
    table.delete(1, net(1), How::CutOff, at(1));
    assert_eq!(changes(&mut table), [(net(1), Some(identity(5, 1).0))], "others claim it");
    assert_eq!(table.counts(1).stale, 0);
    table.drain(5);
    assert_eq!(changes(&mut table), [(net(1), Some(identity(7, 2).0))]);
}

#[test]
fn what_was_cut_off_stays_for_an_hour_unless_somebody_claims_it() {
    let mut table = table();
    for last in 1..=3 {
        table.upsert(OWN, net(last), identity(OWN, last.into()));
    }
    changes(&mut table);
    for last in 1..=3 {
        table.delete(OWN, net(last), How::CutOff, at(10));
    }
    table.settle(at(10));
    assert_eq!(changes(&mut table), []);
    assert_eq!(table.counts(OWN), Counts { lines: 3, stale: 3, ..Counts::default() });
    assert_eq!(table.stale_lines(OWN).count(), 3);
    table.upsert(5, net(1), identity(5, 1));
    assert_eq!(changes(&mut table), [(net(1), Some(identity(5, 1).0))]);
    table.upsert(OWN, net(2), identity(OWN, 2));
    assert_eq!(changes(&mut table), []);
    assert_eq!(table.stale_lines(OWN).map(|(net, _)| net).collect::<Vec<_>>(), [net(3)]);
    table.settle(at(3610));
    assert_eq!(changes(&mut table), []);
    assert_eq!(table.next_due(), Some(at(3611)));
    table.settle(at(3611));
    assert_eq!(changes(&mut table), [(net(3), None)]);
    assert_eq!(table.counts(OWN), Counts { lines: 1, ..Counts::default() });
}

#[test]
fn what_is_stale_again_has_an_hour_from_then_on() {
    let mut table = table();
    table.upsert(OWN, net(1), identity(OWN, 1));
    table.delete(OWN, net(1), How::CutOff, at(0));
    table.upsert(OWN, net(1), identity(OWN, 1));
    table.delete(OWN, net(1), How::CutOff, at(3000));
    changes(&mut table);
    table.settle(at(3601));
    assert_eq!(changes(&mut table), []);
    table.settle(at(6601));
    assert_eq!(changes(&mut table), [(net(1), None)]);
}

#[test]
fn too_much_at_once_is_held_until_it_comes_back_or_the_operator_says_so() {
    let mut table = table();
    let all = || (1..=10).map(|last| (net(last), identity(OWN, last.into())));
    list(&mut table, OWN, all());
    table.end(OWN, Missing::IsGone, at(1));
    changes(&mut table);
    // Three of ten are not too much.
    for last in 1..=3 {
        table.delete(OWN, net(last), How::OnPurpose, at(2));
    }
    table.settle(at(2));
    assert_eq!(changes(&mut table), [1, 2, 3].map(|last| (net(last), None)));
    // Four of seven are.
    list(&mut table, OWN, all().skip(7));
    table.end(OWN, Missing::IsGone, at(3));
    table.settle(at(3));
    assert_eq!(changes(&mut table), []);
    assert_eq!(table.counts(OWN), Counts { lines: 7, held: 4, ..Counts::default() });
    table.upsert(OWN, net(4), identity(OWN, 4));
    table.upsert(5, net(5), identity(5, 5));
    assert_eq!(changes(&mut table), [(net(5), Some(identity(5, 5).0))], "who is there wins");
    assert_eq!(table.held_lines(OWN).collect::<BTreeSet<_>>(), [5, 6, 7].map(net).into());
    assert_eq!(table.sweep(OWN), 3);
    assert_eq!(changes(&mut table), [(net(6), None), (net(7), None)]);
    assert_eq!(table.counts(OWN), Counts { lines: 4, ..Counts::default() });
}

#[test]
fn the_deletes_of_one_flush_are_held_together_or_go_together() {
    let mut table = table();
    for last in 1..=10 {
        table.upsert(OWN, net(last), identity(OWN, last.into()));
    }
    changes(&mut table);
    for last in 1..=5 {
        table.delete(OWN, net(last), How::OnPurpose, at(2));
    }
    // One is there again before the flush, and is none of them.
    table.upsert(OWN, net(5), identity(OWN, 5));
    table.settle(at(2));
    assert_eq!(changes(&mut table), []);
    assert_eq!(table.counts(OWN).held, 4);
}

#[test]
fn what_another_store_lacks_becomes_stale() {
    let mut table = table();
    for last in 1..=10 {
        table.upsert(OWN, net(last), identity(OWN, last.into()));
    }
    changes(&mut table);
    list(&mut table, OWN, [(net(1), identity(OWN, 11))]);
    table.end(OWN, Missing::IsStale, at(2));
    assert_eq!(changes(&mut table), [(net(1), Some(identity(OWN, 11).0))]);
    assert_eq!(table.counts(OWN), Counts { lines: 10, stale: 9, ..Counts::default() });
    // A list of the new store leaves them their hour.
    list(&mut table, OWN, []);
    table.end(OWN, Missing::IsGone, at(3));
    assert_eq!(changes(&mut table), [(net(1), None)]);
    assert_eq!(table.counts(OWN).stale, 9);
}

#[test]
fn what_was_not_written_is_told_again() {
    let mut table = table();
    table.upsert(OWN, net(1), identity(OWN, 1));
    table.upsert(OWN, net(2), identity(OWN, 2));
    changes(&mut table);
    table.delete(OWN, net(2), How::OnPurpose, at(1));
    table.settle(at(1));
    assert_eq!(changes(&mut table), [(net(2), None)]);
    [1, 2].iter().for_each(|last| table.tell_again(&net(*last)));
    assert_eq!(changes(&mut table), [(net(1), Some(identity(OWN, 1).0)), (net(2), None)]);
    table.tell_all_again();
    assert_eq!(changes(&mut table), [(net(1), Some(identity(OWN, 1).0))]);
    table.tell_again_within(&"10.0.0.0/30".parse().unwrap());
    table.tell_again_within(&"10.0.1.0/24".parse().unwrap());
    assert_eq!(changes(&mut table), [(net(1), Some(identity(OWN, 1).0))]);
}

#[test]
fn so_many_changes_are_told_at_a_time_as_are_wanted() {
    let mut table = table();
    for last in 0..100 {
        table.upsert(OWN, net(last), identity(OWN, 1));
        let v6 = Ipv6Addr::from_bits(0xfd00 << 112 | u128::from(last));
        table.upsert(OWN, IpAddr::from(v6).into(), identity(OWN, 1));
    }
    table.upsert(OWN, "10.1.0.0/16".parse().unwrap(), identity(OWN, 1));
    assert_eq!(table.changed_nets(), 1);
    let mut all = BTreeSet::new();
    while table.has_changes() {
        let mut some = table.take_changes(30);
        if some.is_empty() {
            some = table.take_net_changes(30);
        }
        assert!(!some.is_empty() && some.len() <= 30);
        all.extend(some.into_iter().map(|(net, _)| net));
    }
    assert_eq!(all.len(), 201);
}

/// The same by looking at all of it each time.
#[derive(Default)]
struct Model {
    claims: BTreeMap<(IpNet, Number), (u32, State, u64)>,
    listed: BTreeSet<IpNet>,
    now: u64,
}

impl Model {
    fn winner(&self, net: IpNet) -> Option<u32> {
        let of_net = self.claims.iter().filter(|((it, _), _)| *it == net);
        let rank = |state: State| match state {
            State::Live | State::Going => 0,
            State::Held => 1,
            _ => 2,
        };
        of_net
            .min_by_key(|((_, cluster), (_, state, _))| (rank(*state), *cluster != OWN, *cluster))
            .map(|(_, (identity, ..))| *identity)
    }

    fn upsert(&mut self, cluster: Number, net: IpNet, identity: u32) {
        self.claims.retain(|(it, _), (_, state, _)| *it != net || *state != State::Stale);
        self.claims.insert((net, cluster), (identity, State::Live, 0));
        self.listed.insert(net);
    }

    fn cut_off(&mut self, cluster: Number, net: IpNet) {
        let others = self
            .claims
            .iter()
            .any(|((it, of), (_, state, _))| *it == net && *of != cluster && *state == State::Live);
        let until = self.now + STALE.as_secs() + 1;
        match self.claims.get_mut(&(net, cluster)) {
            Some((_, State::Live | State::Going, _)) if others => {
                self.claims.remove(&(net, cluster));
            }
            Some((_, state @ (State::Live | State::Going), at)) => {
                (*state, *at) = (State::Stale, until);
            }
            _ => {}
        }
    }

    fn delete(&mut self, cluster: Number, net: IpNet) {
        if let Some((_, state @ State::Live, _)) = self.claims.get_mut(&(net, cluster)) {
            *state = State::Going;
        }
    }

    fn go_or_hold(&mut self, cluster: Number, going: Vec<IpNet>) {
        let lines = self.claims.keys().filter(|(_, of)| *of == cluster).count();
        let is_held = going.len() > SWEEP.lines && going.len() * 100 > lines * 30;
        for net in going {
            match is_held {
                true => self.claims.get_mut(&(net, cluster)).unwrap().1 = State::Held,
                false => _ = self.claims.remove(&(net, cluster)),
            }
        }
    }

    fn end(&mut self, cluster: Number, missing: Missing) {
        let lines = self.claims.iter().filter(|((net, of), (_, state, _))| {
            let counts = matches!(state, State::Live | State::Going);
            *of == cluster && counts && !self.listed.contains(net)
        });
        let lines: Vec<IpNet> = lines.map(|((net, _), _)| *net).collect();
        match missing {
            Missing::IsGone => self.go_or_hold(cluster, lines),
            Missing::IsStale => lines.into_iter().for_each(|net| self.cut_off(cluster, net)),
        }
    }

    fn settle(&mut self) {
        for cluster in [1, OWN, 5] {
            let going = self
                .claims
                .iter()
                .filter(|((_, of), (_, state, _))| *of == cluster && *state == State::Going);
            let going = going.map(|((net, _), _)| *net).collect();
            self.go_or_hold(cluster, going);
        }
        let now = self.now;
        self.claims.retain(|_, (_, state, until)| *state != State::Stale || *until > now);
    }

    fn sweep(&mut self, cluster: Number) {
        self.claims.retain(|(_, of), (_, state, _)| *of != cluster || *state != State::Held);
    }
}

#[derive(Debug, Clone)]
enum Step {
    Upsert(Number, IpNet, u32),
    Delete(Number, IpNet),
    CutOff(Number, IpNet),
    List(Number, Vec<(IpNet, u32)>, bool),
    Flush,
    Sweep(Number),
    Drain(Number),
    Wait(u64),
}

fn any_net() -> impl Strategy<Value = IpNet> {
    (0..3u8, 0..12u8).prop_map(|(kind, last)| match kind {
        0 => net(last),
        1 => IpAddr::from(Ipv6Addr::from_bits(0xfd00 << 112 | u128::from(last))).into(),
        _ => IpNet::new(IpAddr::from([10, last, 0, 0]), 16).unwrap(),
    })
}

fn step() -> impl Strategy<Value = Step> {
    let cluster = || prop_oneof![Just(1), Just(OWN), Just(5)];
    let line = || (any_net(), 1..4u32);
    prop_oneof![
        8 => (cluster(), line()).prop_map(|(of, (net, id))| Step::Upsert(of, net, id)),
        5 => (cluster(), any_net()).prop_map(|(of, net)| Step::Delete(of, net)),
        3 => (cluster(), any_net()).prop_map(|(of, net)| Step::CutOff(of, net)),
        2 => (cluster(), prop::collection::vec(line(), 0..30), any::<bool>())
            .prop_map(|(of, lines, same)| Step::List(of, lines, same)),
        4 => Just(Step::Flush),
        1 => cluster().prop_map(Step::Sweep),
        1 => cluster().prop_map(Step::Drain),
        2 => (1..2500u64).prop_map(Step::Wait),
    ]
}

proptest! {
    #[test]
    fn the_ipcache_is_told_what_a_table_without_shortcuts_says(
        steps in prop::collection::vec(step(), 1..150),
    ) {
        let (mut table, mut model) = (table(), Model::default());
        let mut ipcache: BTreeMap<IpNet, u32> = BTreeMap::new();
        for step in steps {
            let now = at(model.now);
            match step {
                Step::Upsert(cluster, net, id) => {
                    table.upsert(cluster, net, identity(cluster, id));
                    model.upsert(cluster, net, identity(cluster, id).0);
                }
                Step::Delete(cluster, net) => {
                    table.delete(cluster, net, How::OnPurpose, now);
                    model.delete(cluster, net);
                }
                Step::CutOff(cluster, net) => {
                    table.delete(cluster, net, How::CutOff, now);
                    model.cut_off(cluster, net);
                }
                Step::List(cluster, lines, is_same) => {
                    let missing = if is_same { Missing::IsGone } else { Missing::IsStale };
                    table.begin(cluster);
                    model.listed.clear();
                    for (net, id) in lines {
                        table.upsert(cluster, net, identity(cluster, id));
                        model.upsert(cluster, net, identity(cluster, id).0);
                    }
                    table.end(cluster, missing, now);
                    model.end(cluster, missing);
                }
                Step::Flush => {
                    table.settle(now);
                    model.settle();
                    for (net, identity) in changes(&mut table) {
                        match identity {
                            Some(identity) => _ = ipcache.insert(net, identity),
                            None => _ = ipcache.remove(&net),
                        }
                    }
                    let nets: BTreeSet<IpNet> = model.claims.keys().map(|(net, _)| *net).collect();
                    let expected: BTreeMap<IpNet, u32> = nets
                        .into_iter()
                        .filter_map(|net| Some((net, model.winner(net)?)))
                        .collect();
                    prop_assert_eq!(&ipcache, &expected);
                }
                Step::Sweep(cluster) => {
                    table.sweep(cluster);
                    model.sweep(cluster);
                }
                Step::Drain(cluster) => {
                    table.drain(cluster);
                    model.claims.retain(|(_, of), _| *of != cluster);
                }
                Step::Wait(seconds) => model.now += seconds,
            }
            for cluster in [1, OWN, 5] {
                let of = || model.claims.iter().filter(|((_, of), _)| *of == cluster);
                let count = |wanted: State| of().filter(|(_, (_, state, _))| *state == wanted).count();
                let counts = table.counts(cluster);
                prop_assert_eq!(
                    (counts.lines, counts.stale, counts.held),
                    (of().count(), count(State::Stale), count(State::Held))
                );
                prop_assert_eq!(table.stale_lines(cluster).count(), count(State::Stale));
                let held: BTreeSet<IpNet> = table.held_lines(cluster).collect();
                prop_assert_eq!(held.len(), count(State::Held));
            }
        }
    }
}
