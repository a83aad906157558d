//! Lines of clusters: what is written for them, what is left, and whose verdicts that makes stale.

use std::collections::BTreeMap;

use cilmark::model::endpoint::EndpointId;
use cilmark::model::identity::Identity;
use cilmark::model::origin::Origin;
use cilmark::ops;
use cilmark::ops::cluster::lines::{ClusterChange, Lines};
use cilmark::program::load::{self, Sizes};
use cilmark::state::generations::{Generations, Remotes};
use ipnet::IpNet;

use super::*;
use crate::common::Fixture;
use crate::common::machine::repetitions;
use crate::common::packet::Frame;
use crate::common::random::Random;

fn net(text: &str) -> IpNet {
    text.parse().unwrap_or_else(|_| text.parse::<IpAddr>().expect("an address").into())
}

fn change(text: &str, identity: u32) -> ClusterChange {
    (net(text), Some(Identity(identity)))
}

fn gone(text: &str) -> ClusterChange {
    (net(text), None)
}

/// Of a prefix: the identity, and whose line it is.
fn line(fixture: &Fixture, text: &str) -> Option<(u32, Origin, Option<u16>)> {
    let line = fixture.open_ipcache().get(&net(text)).expect("read");
    line.map(|line| (line.identity.0, line.origin, line.owner.map(EndpointId::get)))
}

fn of_cluster(identity: u32) -> Option<(u32, Origin, Option<u16>)> {
    Some((identity, Origin::Cluster, None))
}

/// Grows with whatever is said of an address, and with whatever is said at all.
fn counters(fixture: &Fixture, address: IpAddr) -> (u32, u32) {
    let generations = Generations::open(&fixture.world.root()).expect("open").expect("there");
    (generations.of_flow(address, None), generations.changes())
}

#[test]
fn lines_of_others_stay_and_are_told() {
    let Some(fixture) = Fixture::new() else { return };
    let ipcache = fixture.open_ipcache();
    let owner = EndpointId::new(9).expect("9");
    ipcache.add_own(net("10.2.0.1"), Identity(300), owner, false).expect("add");
    ipcache.set(&net("10.2.0.2"), Identity(301)).expect("set");
    ipcache.set(&net("10.3.0.0/24"), Identity(302)).expect("set");
    let before = ipcache.lines().expect("read");
    let others = ["10.2.0.1", "10.2.0.2", "10.3.0.0/24"];
    let mut changes: Vec<_> = others.iter().map(|text| change(text, 400)).collect();
    changes.extend([change("10.2.0.3", 401), change("10.4.0.0/24", 402), change("fd00::1", 403)]);
    let applied = ipcache.apply_cluster(&changes).expect("apply");
    assert_eq!((applied.written, applied.deleted), (3, 0));
    let mut left = applied.left;
    left.sort();
    assert_eq!(left, others.map(net));
    assert_eq!(line(&fixture, "10.2.0.3"), of_cluster(401));
    assert_eq!(line(&fixture, "10.4.0.0/24"), of_cluster(402));
    assert_eq!(line(&fixture, "fd00::1"), of_cluster(403));
    let changes: Vec<_> = changes.iter().map(|(prefix, _)| (*prefix, None)).collect();
    let applied = ipcache.apply_cluster(&changes).expect("apply");
    assert_eq!((applied.written, applied.deleted, applied.left.len()), (0, 3, 0));
    let texts = |lines: Vec<_>| format!("{lines:?}");
    assert_eq!(texts(ipcache.lines().expect("read")), texts(before));
}

#[test]
fn whoever_says_something_of_a_clusters_address_has_it_from_then_on() {
    let Some(fixture) = Fixture::new() else { return };
    let ipcache = fixture.open_ipcache();
    let texts = ["10.2.0.1", "10.2.0.2", "10.2.0.3", "10.2.0.4", "10.2.0.5"];
    let changes = texts.map(|text| change(text, 400));
    assert_eq!(ipcache.apply_cluster(&changes).expect("apply").written, 5);
    let owner = EndpointId::new(9).expect("9");
    // Also if that is the same.
    ipcache.set(&net(texts[0]), Identity(400)).expect("set");
    ipcache.set(&net(texts[1]), Identity(300)).expect("set");
    ipcache.load(&[(net(texts[2]), Identity(400))], |_| Ok(())).expect("load");
    assert_eq!(ipcache.add_own(net(texts[3]), Identity(400), owner, false).expect("add"), None);
    let lost = ipcache.add_own(net(texts[4]), Identity(301), owner, false).expect("add");
    assert_eq!(lost, Some(Identity(400)));
    let gone = texts.map(gone);
    assert_eq!(ipcache.apply_cluster(&gone).expect("apply").deleted, 0);
    for (text, there) in texts.iter().zip([
        (400, Origin::Command, None),
        (300, Origin::Command, None),
        (400, Origin::Command, None),
        (400, Origin::Command, Some(9)),
        (301, Origin::Command, Some(9)),
    ]) {
        assert_eq!(line(&fixture, text), Some(there), "{text}");
    }
    // And gives it back.
    ipcache.delete(&net(texts[0])).expect("delete");
    ipcache.remove_own(net(texts[3]), owner).expect("remove");
    let applied = ipcache.apply_cluster(&changes).expect("apply");
    assert_eq!((applied.written, applied.left.len()), (2, 3));
    assert_eq!(line(&fixture, texts[0]), of_cluster(400));
    assert_eq!(line(&fixture, texts[3]), of_cluster(400));
}

#[test]
fn what_says_nothing_new_makes_nothing_stale() {
    let Some(fixture) = Fixture::new() else { return };
    fixture.container(ID).load();
    let ipcache = fixture.open_ipcache();
    fixture.ipcache("10.2.0.0/16", 300);
    let address = IpAddr::from(PEER4);
    let changes = [change("10.2.0.10", 300), change("fd00:2::10", 301), change("fd00::/24", 302)];
    ipcache.apply_cluster(&changes[1..]).expect("apply");
    let before = counters(&fixture, address);
    assert_eq!(ipcache.apply_cluster(&changes).expect("apply").written, 1);
    assert_eq!(counters(&fixture, address), before, "as the prefix around it says");
    let applied = ipcache.apply_cluster(&changes).expect("apply");
    assert_eq!((applied.written, applied.deleted), (0, 0));
    assert_eq!(ipcache.apply_cluster(&[gone("10.2.0.10")]).expect("apply").deleted, 1);
    assert_eq!(counters(&fixture, address), before, "as the prefix around it says");
    assert_eq!(ipcache.apply_cluster(&[change("10.2.0.10", 303)]).expect("apply").written, 1);
    assert_ne!(counters(&fixture, address).0, before.0);
}

#[test]
fn what_finds_no_room_is_told_and_all_else_is_as_it_should_be() {
    let Some(fixture) = Fixture::new() else { return };
    let sizes = Sizes { ipcache: Some(16), ..Sizes::default() };
    load::create_maps(&fixture.world.root(), &sizes).expect("create the maps");
    let ipcache = fixture.open_ipcache();
    let hosts = |range: std::ops::Range<u8>, identity: u32| -> Vec<ClusterChange> {
        range
            .map(|last| (IpAddr::from([10, 2, 0, last]).into(), Some(Identity(identity))))
            .collect()
    };
    ipcache.apply_cluster(&hosts(0..10, 300)).expect("apply");
    let mut changes = hosts(0..30, 301);
    changes.push(gone("10.2.0.0"));
    changes.remove(0);
    let prefixes = (0..20).map(|third| (net(&format!("10.{third}.0.0/16")), Some(Identity(302))));
    changes.extend(prefixes);
    let applied = ipcache.apply_cluster(&changes).expect("apply");
    // One that goes makes room for the next attempt.
    assert_eq!((applied.written, applied.deleted), (9 + 6 + 16, 1));
    assert_eq!(applied.no_room.len(), 14 + 4);
    let full = applied.full.expect("a reason");
    assert!(full.contains("takes 16 entries") && full.contains("--ipcache-entries"), "{full}");
    assert_eq!(ipcache.lines().expect("read").len(), 15 + 16);
    for last in 1..10 {
        assert_eq!(line(&fixture, &format!("10.2.0.{last}")), of_cluster(301));
    }
    let again: Vec<ClusterChange> =
        applied.no_room.iter().map(|prefix| (*prefix, Some(Identity(301)))).collect();
    let applied = ipcache.apply_cluster(&again).expect("apply");
    assert_eq!((applied.written, applied.no_room.len()), (1, 17));
    // One at a time a full trie takes no more, either, and another identity of what it has.
    let changes = [change("10.0.0.0/16", 303), change("10.30.0.0/16", 303)];
    let applied = ipcache.apply_cluster(&changes).expect("apply");
    assert_eq!((applied.written, applied.no_room), (1, vec![net("10.30.0.0/16")]));
    assert_eq!(line(&fixture, "10.0.0.0/16"), of_cluster(303));
}

#[test]
fn this_hosts_own_lines_find_room_where_clusters_lines_are() {
    let Some(fixture) = Fixture::new() else { return };
    let sizes = Sizes { ipcache: Some(16), ..Sizes::default() };
    load::create_maps(&fixture.world.root(), &sizes).expect("create the maps");
    let ipcache = fixture.open_ipcache();
    let many: Vec<_> = (0..100).map(|last| change(&format!("10.2.0.{last}"), 400)).collect();
    let prefixes: Vec<_> = (0..100).map(|it| change(&format!("10.{it}.0.0/16"), 400)).collect();
    assert!(!ipcache.apply_cluster(&many).expect("apply").no_room.is_empty());
    assert!(!ipcache.apply_cluster(&prefixes).expect("apply").no_room.is_empty());
    let owner = EndpointId::new(9).expect("9");
    for own in ["10.200.0.1", "10.200.0.2", "10.201.0.0/24", "10.202.0.0/24"] {
        ipcache.add_own(net(own), Identity(300), owner, false).expect("there is room");
    }
    for own in ["10.200.0.3", "10.203.0.0/24"] {
        ipcache.set(&net(own), Identity(301)).expect("there is room");
    }
    let lines = ipcache.lines().expect("read");
    assert_eq!(lines.iter().filter(|line| line.origin != Origin::Cluster).count(), 6);
    assert!(lines.iter().any(|line| line.origin == Origin::Cluster));
    // Without any of these there is none.
    let full = |at: u32| ipcache.set(&net(&format!("10.210.0.{at}")), Identity(301));
    let refused = (0..100).find_map(|at| full(at).err()).expect("an end");
    assert!(format!("{refused:#}").contains("takes 16 entries"), "{refused:#}");
    let lines = ipcache.lines().expect("read");
    let mut addresses = lines.iter().filter(|line| line.prefix.prefix_len() == 32);
    assert!(addresses.all(|line| line.origin != Origin::Cluster));
}

#[test]
fn commands_forget_all_lines_of_clusters_or_none() {
    let Some(fixture) = Fixture::new() else { return };
    let root = fixture.world.root();
    fixture.ipcache("10.9.0.1", 300);
    let mut lines = Lines::of(&root);
    let changes = [change("10.2.0.1", 400), change("10.3.0.0/24", 401)];
    lines.apply(&changes, None).expect("apply");
    let error = ops::ipcache::delete(&root, &net("10.2.0.1")).expect_err("a cluster's");
    assert!(error.to_string().contains("10.2.0.1 is a cluster's"), "{error:#}");
    let mut found = BTreeMap::new();
    lines.for_each(|prefix, identity| _ = found.insert(prefix, identity)).expect("read");
    assert_eq!(found.into_iter().map(|(net, id)| (net, Some(id))).collect::<Vec<_>>(), changes);
    let mut others = 0;
    lines.for_each_of_all(|_, of_cluster| others += usize::from(of_cluster.is_none())).unwrap();
    assert_eq!(others, 1);
    assert_eq!(ops::ipcache::flush(&root).expect("flush"), 3);
    assert_eq!(lines.number().expect("read"), None, "nothing is left of the root");
    // They come back, into new maps, and go with the last.
    assert_eq!(lines.apply(&changes, Some(100)).expect("apply").written, 2);
    assert!(lines.number().expect("read").is_some());
    let gone = changes.map(|(prefix, _)| (prefix, None));
    assert_eq!(lines.apply(&gone, None).expect("apply").deleted, 2);
    assert_eq!(lines.number().expect("read"), None);
    assert_eq!(lines.apply(&gone, None).expect("apply").deleted, 0);
    assert_eq!(lines.number().expect("read"), None, "to forget something makes no maps");
    root.prepare(false).expect("the root, for who comes next");
}

/// Who has made a line.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Whose {
    Endpoint,
    Command,
    Cluster,
}

type Table = BTreeMap<IpNet, (Identity, Whose)>;

fn longest(table: &Table, address: IpAddr) -> u32 {
    let matching = table.iter().filter(|(net, _)| net.contains(&address));
    matching.max_by_key(|(net, _)| net.prefix_len()).map_or(2, |(_, (identity, _))| identity.0)
}

/// Addresses and prefixes that meet.
fn random_net(random: &mut Random) -> IpNet {
    let bits = 0x0a02_0000 | (random.number() & random.number()) as u32 & 0x0303;
    let length = if random.once_in(4) { 20 + random.below(12) as u8 } else { 32 };
    let v4 = IpNet::new(Ipv4Addr::from_bits(bits).into(), length).expect("a length").trunc();
    if random.once_in(2) {
        return v4;
    }
    let v6 = Ipv6Addr::from_bits(0xfd00_0002_u128 << 96 | u128::from(bits) << 64);
    let length = if length == 32 { 128 } else { 32 + length };
    IpNet::new(v6.into(), length).expect("a length").trunc()
}

#[test]
fn after_any_changes_each_line_is_whose_it_should_be_and_each_change_is_known() {
    let Some(fixture) = Fixture::new() else { return };
    let workload = fixture.container(ID).address(OWN4).address(OWN6).load();
    let ipcache = fixture.open_ipcache().indexed_from(8);
    let owner = EndpointId::new(9).expect("9");
    let mut random = Random(19);
    let mut table = Table::new();
    for round in 0..repetitions(150) {
        // Somebody else comes or goes.
        let net = random_net(&mut random);
        let identity = Identity(256 + random.below(3) as u32);
        match (random.below(3), table.get(&net).map(|(_, whose)| *whose)) {
            (0, None | Some(Whose::Cluster)) => {
                ipcache.add_own(net, identity, owner, false).expect("add");
                table.insert(net, (identity, Whose::Endpoint));
            }
            (1, there) if there != Some(Whose::Endpoint) => {
                ipcache.set(&net, identity).expect("set");
                table.insert(net, (identity, Whose::Command));
            }
            (_, Some(Whose::Endpoint)) => {
                ipcache.remove_own(net, owner).expect("remove");
                table.remove(&net);
            }
            (_, Some(Whose::Command)) => {
                assert!(ipcache.delete(&net).expect("delete"));
                table.remove(&net);
            }
            _ => {}
        }
        let count = if random.once_in(5) { 120 } else { 1 + random.below(10) };
        let changes: BTreeMap<IpNet, Option<Identity>> = (0..count)
            .map(|_| {
                let identity = Identity(256 + random.below(3) as u32);
                (random_net(&mut random), (!random.once_in(3)).then_some(identity))
            })
            .collect();
        let before = table.clone();
        let mut left = Vec::new();
        for (net, identity) in &changes {
            match (table.get(net).map(|(_, whose)| *whose), identity) {
                (None | Some(Whose::Cluster), Some(identity)) => {
                    table.insert(*net, (*identity, Whose::Cluster));
                }
                (Some(Whose::Cluster), None) => _ = table.remove(net),
                (Some(_), Some(_)) => left.push(*net),
                _ => {}
            }
        }
        let probes: Vec<IpAddr> = before.keys().chain(table.keys()).map(IpNet::network).collect();
        let counted: Vec<_> = probes.iter().map(|it| counters(&fixture, *it).0).collect();
        let changes: Vec<ClusterChange> = changes.into_iter().collect();
        let mut applied = ipcache.apply_cluster(&changes).expect("apply");
        applied.left.sort();
        assert_eq!(applied.left, left, "round {round}");
        let lines = ipcache.lines().expect("read").into_iter().map(|line| {
            let whose = match (line.owner, line.origin) {
                (Some(_), _) => Whose::Endpoint,
                (None, Origin::Cluster) => Whose::Cluster,
                _ => Whose::Command,
            };
            (line.prefix, (line.identity, whose))
        });
        assert_eq!(lines.collect::<Table>(), table, "round {round}");
        let only_hosts = changes.iter().all(|(net, _)| net.prefix_len() == net.max_prefix_len());
        let is_changed = |address: IpAddr| longest(&before, address) != longest(&table, address);
        let slots: Vec<Remotes> =
            probes.iter().filter(|it| is_changed(**it)).map(|it| Remotes::one(*it)).collect();
        for (probe, counted) in probes.iter().zip(counted) {
            let grew = counters(&fixture, *probe).0 != counted;
            if is_changed(*probe) {
                assert!(grew, "round {round}: {probe} is somebody else's now");
            } else if only_hosts && !slots.contains(&Remotes::one(*probe)) {
                assert!(!grew, "round {round}: {probe} is whose it was");
            }
        }
        for probe in probes.iter().step_by(1 + probes.len() / 8) {
            let own: IpAddr = if probe.is_ipv4() { OWN4.into() } else { OWN6.into() };
            let run = workload.from_container(Frame::ip(own, *probe).tcp(1, 2));
            run.goes_to(longest(&table, *probe));
        }
    }
}
