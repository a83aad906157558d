//! The index of prefixes: that it says what the longest prefix says, whatever changes, and while it does.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;

use anyhow::anyhow;
use cilmark::kernel::sys::Hook;
use cilmark::model::endpoint::EndpointId;
use cilmark::model::identity::Identity;
use cilmark::program::load::{self, Sizes};
use cilmark::state::ipcache::LEAST_PREFIXES;
use ipnet::IpNet;
use libbpf_rs::{MapCore, MapFlags, MapHandle};

use super::verdicts::*;
use super::*;
use crate::common::many::{End, Numbers, OnCpu};
use crate::common::packet::Frame;
use crate::common::program::{Endpoint, Packet};
use crate::common::random::Random;
use crate::common::{Fixture, machine};

/// Whether an index is in one of the three slots of `cm_ipcache_idx`.
fn is_indexed(fixture: &Fixture, slot: u32) -> bool {
    let slots =
        MapHandle::from_pinned_path(fixture.world.root().map("cm_ipcache_idx")).expect("open");
    slots.lookup(&slot.to_ne_bytes(), MapFlags::ANY).expect("look up").is_some()
}

fn slots(fixture: &Fixture) -> [bool; 3] {
    [0, 1, 2].map(|slot| is_indexed(fixture, slot))
}

/// The longest prefix, by looking at each.
fn longest(lines: &[(IpNet, Identity)], address: IpAddr) -> u32 {
    let matching = lines.iter().filter(|(net, _)| net.contains(&address));
    matching.max_by_key(|(net, _)| net.prefix_len()).map_or(2, |(_, identity)| identity.0)
}

/// Prefixes of all lengths, that meet: few bits of an address differ.
fn random_lines(random: &mut Random) -> Vec<(IpNet, Identity)> {
    let mut lines: BTreeMap<IpNet, Identity> = BTreeMap::new();
    for number in 0..600 {
        let bits = random.number() & random.number();
        let net = if number % 2 == 0 {
            let address = Ipv4Addr::from_bits(bits as u32);
            IpNet::new(address.into(), random.below(33) as u8)
        } else {
            let upper = [0xfd00 << 48, 0x2001 << 48, bits][random.below(3)] ^ bits >> 20;
            let address = u128::from(upper) << 64 | u128::from(random.number());
            IpNet::new(Ipv6Addr::from_bits(address).into(), random.below(129) as u8)
        };
        lines.insert(net.expect("a length of the family").trunc(), Identity(256 + number));
    }
    lines.into_iter().collect()
}

/// The ends of a prefix, and what lies beside them.
fn around(net: &IpNet) -> Vec<IpAddr> {
    let ends = [net.network(), net.broadcast()];
    ends.into_iter()
        .flat_map(|end| match end {
            IpAddr::V4(v4) => [-1, 0, 1]
                .map(|by| Ipv4Addr::from_bits(v4.to_bits().wrapping_add_signed(by)).into()),
            IpAddr::V6(v6) => [-1, 0, 1]
                .map(|by| Ipv6Addr::from_bits(v6.to_bits().wrapping_add_signed(by)).into()),
        })
        .collect()
}

#[test]
fn an_index_says_what_the_longest_prefix_says() {
    let Some(fixture) = Fixture::new() else { return };
    let workload = fixture.container(ID).address(OWN4).address(OWN6).load();
    let mut random = Random(7);
    let lines = random_lines(&mut random);
    fixture.open_ipcache().indexed_from(100).load(&lines, |_| Ok(())).expect("load");
    assert_eq!(slots(&fixture), [true; 3]);
    for address in lines.iter().flat_map(|(net, _)| around(net)) {
        let own: IpAddr = if address.is_ipv4() { OWN4.into() } else { OWN6.into() };
        let run = workload.from_container(Frame::ip(own, address).tcp(1, 2));
        run.goes_to(longest(&lines, address));
    }
}

#[test]
fn a_change_of_prefixes_counts_at_once_where_there_is_an_index() {
    let Some(fixture) = Fixture::new() else { return };
    let workload = fixture.container(ID).load();
    let goes_to = |identity: u32| {
        for (own, peer) in OWN_TO_PEER {
            workload.from_container(Frame::ip(own, peer).tcp(1, 2)).goes_to(identity);
        }
    };
    let nets: [IpNet; 2] = ["10.2.0.0/16", "fd00:2::/32"].map(|text| text.parse().unwrap());
    let ipcache = fixture.open_ipcache().indexed_from(1);
    let set = |identity: u32| {
        nets.iter().for_each(|net| ipcache.set(net, Identity(identity)).expect("set"));
    };
    set(299);
    assert_eq!(slots(&fixture), [false; 3], "one by one they are not many");
    goes_to(299);
    ipcache.load(&nets.map(|net| (net, Identity(300))), |_| Ok(())).expect("load");
    assert_eq!(slots(&fixture), [true; 3]);
    goes_to(300);
    set(301);
    goes_to(301);
    let narrow = ["10.2.0.8/29", "fd00:2::/64"].map(|text| (text.parse().unwrap(), Identity(302)));
    ipcache.load(&narrow, |_| Ok(())).expect("load");
    goes_to(302);
    for (net, _) in &narrow {
        assert!(ipcache.delete(net).expect("delete"));
    }
    goes_to(301);
    fixture.ipcache("10.2.0.10", 303);
    fixture.ipcache("fd00:2::10", 303);
    assert_eq!(slots(&fixture), [true; 3], "a host is no prefix");
    goes_to(303);
    ipcache.flush().expect("flush");
    assert_eq!(slots(&fixture), [false; 3]);
    goes_to(2);
}

#[test]
fn a_load_that_fails_leaves_an_index_of_what_was_there() {
    let Some(fixture) = Fixture::new() else { return };
    let workload = fixture.container(ID).load();
    let ipcache = fixture.open_ipcache().indexed_from(1);
    let line = |identity| ("10.2.0.0/16".parse().unwrap(), Identity(identity));
    ipcache.load(&[line(300)], |_| Ok(())).expect("load");
    let new = [line(301)];
    assert!(ipcache.load(&new, |_| Err(anyhow!("interrupted"))).is_err());
    workload.from_container(Frame::ipv4(OWN4, PEER4).udp(1, 2)).goes_to(300);
    assert_eq!(slots(&fixture), [true, false, false]);
}

#[test]
fn few_prefixes_get_no_index() {
    let Some(fixture) = Fixture::new() else { return };
    let line = |number: u32| {
        let net = IpNet::new(Ipv4Addr::from_bits(0x0a00_0000 + (number << 8)).into(), 24);
        (net.expect("a length"), Identity(256 + number))
    };
    let least = LEAST_PREFIXES as u32;
    let sizes = Sizes { ipcache: Some(2 * least), ..Sizes::default() };
    load::create_maps(&fixture.world.root(), &sizes).expect("create the maps");
    let lines: Vec<(IpNet, Identity)> = (1..least).map(line).collect();
    let ipcache = fixture.open_ipcache();
    ipcache.load(&lines, |_| Ok(())).expect("load");
    ipcache.set(&line(0).0, line(0).1).expect("set");
    assert_eq!(slots(&fixture), [false; 3]);
    ipcache.load(&[line(least)], |_| Ok(())).expect("load");
    assert_eq!(slots(&fixture), [true, false, false]);
    ipcache.delete(&line(1).0).expect("delete");
    assert_eq!(slots(&fixture), [true, false, false]);
}

/// One that may be in the table, or close to one that is.
fn random_net(random: &mut Random, lines: &[(IpNet, Identity)]) -> IpNet {
    let (net, _) = random.pick(lines);
    let longest = net.max_prefix_len();
    let length = match random.below(6) {
        0 => random.below(usize::from(longest)) as u8,
        1 => net.prefix_len().saturating_sub(1),
        2 => (net.prefix_len() + 1).min(longest - 1),
        _ => net.prefix_len(),
    };
    IpNet::new(net.addr(), length).expect("a length of the family").trunc()
}

#[test]
fn after_any_changes_each_address_has_the_identity_of_its_longest_prefix() {
    const CHANGES: u64 = 300;
    let Some(fixture) = Fixture::new() else { return };
    let workload = fixture.container(ID).address(OWN4).address(OWN6).load();
    let ipcache = fixture.open_ipcache().indexed_from(100);
    let mut random = Random(11);
    let pool = random_lines(&mut random);
    let mut table: BTreeMap<IpNet, Identity> = BTreeMap::new();
    // What an endpoint has; the others leave it alone.
    let (owner, mut owned) = (EndpointId::new(9).expect("9"), BTreeSet::new());
    for _ in 0..machine::repetitions(CHANGES) {
        let mut changed = Vec::new();
        match random.below(100) {
            0 => {
                let before = table.len();
                table.retain(|net, _| owned.contains(net));
                assert_eq!(ipcache.flush().expect("flush"), before - table.len());
            }
            1..6 => {
                let from = random.below(pool.len() / 2);
                let mut lines = pool[from..][..random.below(pool.len() / 2)].to_vec();
                lines.retain(|(net, _)| !owned.contains(net));
                ipcache.load(&lines, |_| Ok(())).expect("load");
                table.extend(lines.iter().copied());
                changed.extend(lines.iter().step_by(50).map(|(net, _)| *net));
            }
            6..18 => {
                let net = random_net(&mut random, &pool);
                if owned.contains(&net) || !table.contains_key(&net) {
                    let identity = Identity(256 + random.below(5) as u32);
                    ipcache.add_own(net, identity, owner, false).expect("add");
                    table.insert(net, identity);
                    owned.insert(net);
                    changed.push(net);
                }
            }
            18..24 => {
                if let Some(net) = owned.pop_first() {
                    ipcache.remove_own(net, owner).expect("remove");
                    table.remove(&net);
                    changed.push(net);
                }
            }
            24..58 => {
                let net = random_net(&mut random, &pool);
                if owned.contains(&net) {
                    ipcache.delete(&net).expect_err("an endpoint's");
                    continue;
                }
                let deleted = ipcache.delete(&net).expect("delete");
                assert_eq!(deleted, table.remove(&net).is_some(), "{net}");
                changed.push(net);
            }
            _ => {
                let net = random_net(&mut random, &pool);
                let identity = Identity(256 + random.below(5) as u32);
                if owned.contains(&net) {
                    let done = ipcache.set(&net, identity);
                    assert_eq!(done.is_ok(), table.get(&net) == Some(&identity), "{net}");
                    continue;
                }
                ipcache.set(&net, identity).expect("set");
                table.insert(net, identity);
                changed.push(net);
            }
        }
        // And some of the others.
        changed.extend((0..3).map(|_| random.pick(&pool).0));
        let lines: Vec<_> = table.iter().map(|(net, identity)| (*net, *identity)).collect();
        for address in changed.iter().flat_map(around) {
            let own: IpAddr = if address.is_ipv4() { OWN4.into() } else { OWN6.into() };
            let run = workload.from_container(Frame::ip(own, address).tcp(1, 2));
            run.goes_to(longest(&lines, address));
            let known = ipcache.known(address).expect("look up").map(|(_, owner)| owner);
            let deciding = lines.iter().filter(|(net, _)| net.contains(&address));
            let deciding = deciding.max_by_key(|(net, _)| net.prefix_len()).map(|(net, _)| net);
            assert_eq!(known, deciding.map(|net| owned.contains(net).then_some(owner)));
        }
    }
}

/// Prefixes of the same family: /16 or /40 each, of one number, around what changes.
fn neighbours(identity: u32) -> Vec<(IpNet, Identity)> {
    (0..=255)
        .flat_map(|n| [format!("100.{n}.0.0/16"), format!("2001:db9:{n:x}00::/40")])
        .map(|text| (text.parse().expect("a prefix"), Identity(identity)))
        .collect()
}

#[test]
fn while_prefixes_change_a_packet_sees_what_was_before_or_what_is_after_and_nothing_else() {
    const CHANGES: u64 = 2000;
    // With number 7 behind the first byte, or the first four.
    const FIRST: u32 = 7;
    let Some(fixture) = Fixture::new() else { return };
    let policy = || {
        let setup = fixture.container(ID).policy(enforcing()).conntrack_entries(64);
        let workload = setup.untraced().load();
        fixture.rules(&workload, &["allow egress to 400", "allow egress to 401"]);
        workload
    };
    let (inside, beside) = (policy(), policy());
    let ipcache = fixture.open_ipcache().indexed_from(1);
    let allowed = |text: &str| (text.parse::<IpNet>().expect("a prefix"), Identity(400));
    // What changes lies in one that is always there, since without any it would be the world. Each of these stands after
    // a line of the neighbours' identity in what is loaded, which must never count.
    let changing = [
        "100.7.0.0/16",
        "100.7.64.0/18",
        "100.7.64.0/24",
        "100.7.0.0/17",
        "2001:db9:700::/40",
        "2001:db9:740::/42",
        "2001:db9:700::/41",
        "2001:db9:700::/72",
    ]
    .map(allowed);
    let always = ["100.0.0.0/8", "2001:db9::/32", "0.0.0.0/0", "::/0"].map(allowed);
    let mut lines = neighbours(402);
    lines.extend(changing.iter().chain(&always).copied());
    let stop = AtomicBool::new(false);
    let peers =
        ["100.0.0.0", "2001:db9::1"].map(|text| text.parse::<IpAddr>().expect("an address"));
    for (family, peer) in peers.into_iter().enumerate() {
        ipcache.load(&lines, |_| Ok(())).expect("load");
        stop.store(false, Relaxed);
        let own = [IpAddr::from(OWN4), IpAddr::from(OWN6)][family];
        let packets = |workload: &Endpoint<'_>, first| {
            let numbers = Numbers { first, step: 256, count: 1 << 16, each: 1 };
            let packet = Packet::from(Frame::ip(own, peer).udp(4000, 53));
            workload.many(Hook::Ingress, &packet, End::Destination, numbers)
        };
        let readers = [packets(&inside, FIRST), packets(&beside, FIRST + 1)];
        thread::scope(|scope| {
            scope.spawn(|| {
                let _stay = OnCpu::number(1);
                while !stop.load(Relaxed) {
                    readers.iter().for_each(|reader| reader.run(1000));
                }
            });
            let _stay = OnCpu::number(0);
            let mut random = Random(3 + family as u64);
            for _ in 0..machine::repetitions(CHANGES) {
                let (net, _) = random.pick(&changing);
                let around = random.pick(&always).0;
                match random.below(5) {
                    0 => ipcache.set(&around, Identity(400 + random.below(2) as u32)).expect("set"),
                    1 | 2 => _ = ipcache.delete(&net).expect("delete"),
                    _ => ipcache.set(&net, Identity(400 + random.below(2) as u32)).expect("set"),
                }
                if random.once_in(500) {
                    ipcache.load(&lines, |_| Ok(())).expect("load");
                }
                if random.once_in(500) {
                    ipcache.load(&lines, |_| Err(anyhow!("interrupted"))).expect_err("interrupted");
                }
            }
            stop.store(true, Relaxed);
        });
    }
    let [of_inside, of_beside] = [&inside, &beside].map(|workload| {
        let counters = workload.counters();
        (counters.forwarded[1].packets, counters.dropped[1].packets)
    });
    assert!(of_inside.0 > 0 && of_inside.1 == 0, "always allowed: passed, dropped {of_inside:?}");
    assert!(of_beside.0 == 0 && of_beside.1 > 0, "never allowed: passed, dropped {of_beside:?}");
}

/// A prefix of another identity lies around all that is loaded and forgotten.
#[test]
fn while_tables_come_and_go_no_address_has_what_only_a_prefix_around_its_own_says() {
    const ROUNDS: u64 = 60;
    let Some(fixture) = Fixture::new() else { return };
    fixture.router();
    let setup = fixture.container(ID).policy(enforcing()).conntrack_entries(64);
    let workload = setup.untraced().load();
    // To the world, too: so are all while nothing is loaded.
    fixture.rules(&workload, &["allow egress to 400", "allow egress to 2"]);
    let of = |identity: u32, texts: &[&str]| -> Vec<(IpNet, Identity)> {
        let line = |text: &&str| (text.parse().expect("a prefix"), Identity(identity));
        texts.iter().map(line).collect()
    };
    let around = of(402, &["100.0.0.0/8", "100.6.0.0/15", "2001:db9::/32", "2001:db9:600::/39"]);
    let own = of(400, &["100.7.0.0/16", "100.7.0.0/17", "2001:db9:700::/40", "2001:db9:700::/41"]);
    let lines = [around, own].concat();
    for least in [1, usize::MAX] {
        let ipcache = fixture.open_ipcache().indexed_from(least);
        for (own, peer) in [
            (IpAddr::from(OWN4), IpAddr::from([100, 0, 0, 0])),
            (OWN6.into(), "2001:db9::1".parse().expect("an address")),
        ] {
            let numbers = Numbers { first: 7, step: 256, count: 1 << 16, each: 1 };
            let packet = Packet::from(Frame::ip(own, peer).udp(4000, 53));
            let reader = workload.many(Hook::Ingress, &packet, End::Destination, numbers);
            let stop = AtomicBool::new(false);
            thread::scope(|scope| {
                scope.spawn(|| {
                    let _stay = OnCpu::number(1);
                    while !stop.load(Relaxed) {
                        reader.run(1000);
                    }
                });
                let _stay = OnCpu::number(0);
                for _ in 0..machine::repetitions(ROUNDS) {
                    ipcache.load(&lines, |_| Err(anyhow!("interrupted"))).expect_err("interrupted");
                    ipcache.load(&lines, |_| Ok(())).expect("load");
                    ipcache.flush().expect("flush");
                }
                stop.store(true, Relaxed);
            });
        }
    }
    let counters = workload.counters();
    let (passed, dropped) = (counters.forwarded[1].packets, counters.dropped[1].packets);
    assert!(passed > 0 && dropped == 0, "passed {passed}, dropped {dropped}");
}
