//! Which change makes which verdicts stale: all that could be others by now, and no more than it must.

use std::mem::offset_of;
use std::sync::atomic::Ordering::SeqCst;

use cilmark::kernel::abi::{cm_confirm, cm_fallback, cm_generations, cm_nic};
use cilmark::kernel::sys::SharedValue;
use cilmark::model::endpoint::{EndpointId, Role, Scope};
use cilmark::model::identity::Identity;
use cilmark::model::policy::Policy;
use cilmark::state::conntrack::{Conntrack, Epoch, Flow};
use cilmark::state::endpoints::Endpoints;
use cilmark::state::generations::{Generations, Remotes};
use cilmark::state::nics::Nics;
use cilmark::state::policy::PolicyMaps;
use ipnet::IpNet;
use libbpf_rs::MapHandle;

use super::verdicts::*;
use super::*;
use crate::common::Fixture;
use crate::common::machine::repetitions;
use crate::common::packet::Frame;
use crate::common::program::{Endpoint, Verdict};
use crate::common::random::Random;

const OWNER: u16 = 9;

/// The flows with this remote end that ask the rules with their next packet, and how many there are: of a workload, or of
/// NICs.
fn stale(fixture: &Fixture, workload: Option<u16>, remote: IpAddr) -> (usize, usize) {
    let root = fixture.world.root();
    let generations = Generations::open(&root).expect("open").expect("the counters");
    let flows = Conntrack::open(&root, None).expect("open").expect("the maps").flows().unwrap();
    let scope = workload.map_or(Scope::NICS, |id| Scope::of(id.into()));
    let own = flows.iter().filter(|flow| flow.scope == scope && flow.remote == remote);
    let generation = generations.of_flow(remote, workload.and_then(EndpointId::new));
    let epoch = match workload {
        Some(_) => Epoch::of_workload(generation, false),
        None => Epoch::of_nics(generation, 0),
    };
    let stale = |flow: &&Flow| flow.is_stale(epoch);
    (own.clone().filter(stale).count(), own.count())
}

/// One of the same family with another counter.
fn another(address: IpAddr) -> IpAddr {
    let mut others = (1..=255).map(|last| match address {
        IpAddr::V4(_) => IpAddr::from([10, 3, 0, last]),
        IpAddr::V6(_) => IpAddr::from([0xfd00, 3, 0, 0, 0, 0, 0, last.into()]),
    });
    others.find(|other| Remotes::one(*other) != Remotes::one(address)).expect("another counter")
}

#[test]
fn programs_and_commands_give_an_address_the_same_counter() {
    let Some(fixture) = Fixture::new() else { return };
    let workload = fixture.container(ID).policy(enforcing()).conntrack_entries(1024).load();
    fixture.rules(&workload, &["allow egress to any"]);
    let mut random = Random(0x5eed);
    let mut address = || match random.below(4) {
        0 => IpAddr::from((random.number() as u32).to_be_bytes()),
        // Neighbours.
        1 => IpAddr::from([10, 0, random.below(4) as u8, random.below(256) as u8]),
        2 => IpAddr::from([0xfd00, 0, 0, 0, 0, 0, 0, random.below(4096) as u16]),
        _ => {
            let half = u128::from(random.number()) << 64;
            IpAddr::from((half | u128::from(random.number())).to_be_bytes())
        }
    };
    let generations = Generations::open(&fixture.world.root()).unwrap().unwrap();
    // So that they differ from each other.
    for _ in 0..3000 {
        generations.bump_remotes(&Remotes::one(address()));
    }
    let odd = [
        "fe80::1",
        "fe80::2",
        "fe80:0:1::1",
        "fe90::1",
        "::1",
        "::",
        "::ffff:10.0.0.1",
        "0.0.0.0",
        "254.128.0.0",
    ];
    let odd = odd.map(|text| text.parse().unwrap());
    for remote in (0..400).map(|_| address()).chain(odd) {
        let own = if remote.is_ipv4() { IpAddr::from(OWN4) } else { OWN6.into() };
        workload.from_container(Frame::ip(own, remote).sctp(1000, 53)).passes();
        assert_eq!(stale(&fixture, Some(7), remote), (0, 1), "{remote}");
        generations.bump_remotes(&Remotes::one(remote));
        assert_eq!(stale(&fixture, Some(7), remote), (1, 1), "{remote}");
    }
}

/// What changes what is known of an address, and of no other.
type Change = (&'static str, fn(&Fixture, IpAddr));

const CHANGES: [Change; 9] = [
    ("a new line", |fixture, address| fixture.ipcache(&address.to_string(), 300)),
    ("another identity", |fixture, address| fixture.ipcache(&address.to_string(), 301)),
    ("a line that goes", |fixture, address| {
        assert!(fixture.open_ipcache().delete(&address.into()).expect("delete"));
    }),
    ("a file of hosts", |fixture, address| {
        let lines = [(address.into(), Identity(302))];
        fixture.open_ipcache().load(&lines, |_| Ok(())).expect("load");
    }),
    ("a file that is taken back", |fixture, address| {
        let lines = [(address.into(), Identity(303))];
        let load = fixture.open_ipcache().load(&lines, |_| anyhow::bail!("interrupted"));
        load.expect_err("an interruption");
    }),
    ("a table of hosts that is emptied", |fixture, _| {
        _ = fixture.open_ipcache().flush().expect("flush")
    }),
    ("a workload that comes", |fixture, address| fixture.register(address, Role::Container, true)),
    ("a workload that goes", |fixture, address| {
        let endpoints = Endpoints::open(&fixture.world.root()).unwrap().unwrap();
        endpoints.remove(address).expect("remove");
    }),
    ("an attachment's line", |fixture, address| {
        let owner = EndpointId::new(OWNER).unwrap();
        let ipcache = fixture.open_ipcache();
        ipcache.add_own(address, Identity(304), owner, false).expect("add");
        ipcache.remove_own(address, owner).expect("remove");
    }),
];

#[test]
fn what_is_said_of_an_address_concerns_no_flow_of_another() {
    let Some(fixture) = Fixture::new() else { return };
    let workload = fixture.container(ID).policy(enforcing()).load();
    let nic = fixture.netdev(1).id(8).policy(enforcing()).load();
    for endpoint in [&workload, &nic] {
        fixture.rules(endpoint, &["allow egress to any", "allow ingress from any"]);
    }
    for (own, peer) in OWN_TO_PEER {
        let other = another(peer);
        let send = || {
            workload.from_container(Frame::ip(own, peer).udp(1000, 53)).passes();
            workload.to_container(Frame::ip(peer, own).udp(1000, 53).forwarded()).passes();
            nic.to_netdev(Frame::ip(own, peer).udp(1000, 53)).passes();
            // From whom the ipcache calls a workload, to whom it calls the host's.
            nic.from_netdev(Frame::ip(peer, own).udp(1000, 53).forwarded()).passes();
        };
        for (what, change) in CHANGES {
            send();
            change(&fixture, other);
            // The local end is no part of what its own flows were decided by.
            if !what.contains("workload") {
                change(&fixture, own);
            }
            assert_eq!(stale(&fixture, Some(7), peer), (0, 2), "{what}: of another");
            assert_eq!(stale(&fixture, None, peer), (0, 2), "{what}: of another");
        }
        for (what, change) in CHANGES {
            send();
            change(&fixture, peer);
            assert_eq!(stale(&fixture, Some(7), peer), (2, 2), "{what}");
            assert_eq!(stale(&fixture, None, peer), (2, 2), "{what}");
        }
    }
}

#[test]
fn a_prefix_concerns_every_flow() {
    let Some(fixture) = Fixture::new() else { return };
    let workload = fixture.container(ID).policy(enforcing()).load();
    fixture.rules(&workload, &["allow egress to any"]);
    let prefix: IpNet = "192.0.2.0/24".parse().unwrap();
    let changes: [Change; 8] = [
        ("set", |fixture, _| fixture.ipcache("192.0.2.0/24", 300)),
        ("deleted", |fixture, _| {
            fixture.open_ipcache().delete(&"192.0.2.0/24".parse().unwrap()).unwrap();
        }),
        ("loaded", |fixture, _| {
            let lines = [("192.0.2.0/24".parse().unwrap(), Identity(300))];
            fixture.open_ipcache().load(&lines, |_| Ok(())).unwrap();
        }),
        ("loaded, with an index", |fixture, _| {
            let lines = [("192.0.2.0/24".parse().unwrap(), Identity(301))];
            fixture.open_ipcache().indexed_from(1).load(&lines, |_| Ok(())).unwrap();
        }),
        ("set again, in the index", |fixture, _| fixture.ipcache("192.0.2.0/24", 302)),
        ("deleted, in the index", |fixture, _| {
            fixture.open_ipcache().delete(&"192.0.2.0/24".parse().unwrap()).unwrap();
        }),
        ("set for the rest", |fixture, _| fixture.ipcache("192.0.2.0/24", 303)),
        ("flushed", |fixture, _| _ = fixture.open_ipcache().flush().unwrap()),
    ];
    for (own, peer) in OWN_TO_PEER {
        assert!(!prefix.contains(&peer));
        for (what, change) in changes {
            workload.from_container(Frame::ip(own, peer).udp(1000, 53)).passes();
            assert_eq!(stale(&fixture, Some(7), peer), (0, 1));
            change(&fixture, peer);
            assert_eq!(stale(&fixture, Some(7), peer), (1, 1), "{what}");
        }
    }
}

/// The epoch of a remote end's flows, and what grows with any of them.
fn counters(fixture: &Fixture, workload: Option<u16>, remote: IpAddr) -> (u32, u32) {
    let generations = Generations::open(&fixture.world.root()).expect("open");
    let generations = generations.expect("the counters");
    (generations.of_flow(remote, workload.and_then(EndpointId::new)), generations.changes())
}

#[test]
fn a_write_that_leaves_every_identity_as_it_is_makes_nothing_stale() {
    let Some(fixture) = Fixture::new() else { return };
    fixture.container(ID).policy(enforcing()).load();
    let ipcache = fixture.open_ipcache();
    let (address, prefix) = (IpAddr::from(PEER4), "10.2.0.0/16");
    let owner = EndpointId::new(OWNER).expect("9");
    fixture.ipcache("10.0.0.0/8", 300);
    fixture.ipcache("10.2.0.11", 301);
    fixture.register(address, Role::Container, true);
    let own = IpAddr::from([10, 2, 0, 12]);
    ipcache.add_own(own, Identity(302), owner, false).expect("add");
    let changes: [Change; 10] = [
        ("the same prefix", |fixture, _| fixture.ipcache("10.0.0.0/8", 300)),
        ("the same host", |fixture, _| fixture.ipcache("10.2.0.11", 301)),
        ("a prefix like the one around it", |fixture, _| fixture.ipcache("10.2.0.0/16", 300)),
        ("a host like its prefix", |fixture, address| fixture.ipcache(&address.to_string(), 300)),
        ("which goes", |fixture, address| {
            assert!(fixture.open_ipcache().delete(&address.into()).expect("delete"));
        }),
        ("a prefix that goes", |fixture, _| {
            let prefix = "10.2.0.0/16".parse().expect("a prefix");
            assert!(fixture.open_ipcache().delete(&prefix).expect("delete"));
        }),
        ("what is not there", |fixture, address| {
            let prefix = "10.2.0.0/16".parse().expect("a prefix");
            assert!(!fixture.open_ipcache().delete(&prefix).expect("delete"));
            assert!(!fixture.open_ipcache().delete(&address.into()).expect("delete"));
        }),
        ("the same endpoint", |fixture, address| fixture.register(address, Role::Container, true)),
        ("nobody's address", |fixture, _| {
            let endpoints = Endpoints::open(&fixture.world.root()).unwrap().unwrap();
            endpoints.remove(IpAddr::from(PEER6)).expect("remove");
        }),
        ("an attachment's line again", |fixture, _| {
            let (owner, own) = (EndpointId::new(OWNER).expect("9"), IpAddr::from([10, 2, 0, 12]));
            fixture.open_ipcache().add_own(own, Identity(302), owner, false).expect("add");
            fixture.open_ipcache().remove_own(own, EndpointId::new(OWNER + 1).unwrap()).unwrap();
        }),
    ];
    for (what, change) in changes {
        let before = counters(&fixture, Some(7), address);
        change(&fixture, address);
        assert_eq!(counters(&fixture, Some(7), address), before, "{what}");
    }
    // And what differs from the one around it does.
    let before = counters(&fixture, Some(7), address);
    fixture.ipcache(prefix, 303);
    assert_ne!(counters(&fixture, Some(7), address).0, before.0);
}

/// Its line is there, and nobody has said whom it concerns.
#[test]
fn after_a_writer_that_died_the_next_one_makes_everything_stale() {
    let Some(fixture) = Fixture::new() else { return };
    fixture.container(ID).policy(enforcing()).load();
    fixture.ipcache("10.2.0.11", 301);
    fixture.register(PEER4.into(), Role::Container, true);
    let map = MapHandle::from_pinned_path(fixture.world.root().map("cm_generations"));
    let memory = SharedValue::of(&map.expect("open")).expect("map it");
    let writing = memory.u32_at(offset_of!(cm_generations, writing));
    let remote = IpAddr::from(PEER6);
    let next: [Change; 4] = [
        ("the same line", |fixture, _| fixture.ipcache("10.2.0.11", 301)),
        ("another line", |fixture, _| fixture.ipcache("10.2.0.11", 302)),
        ("a line that is not there", |fixture, _| {
            assert!(!fixture.open_ipcache().delete(&"10.2.0.12/32".parse().unwrap()).unwrap());
        }),
        ("the same endpoint", |fixture, _| {
            fixture.register(PEER4.into(), Role::Container, true);
        }),
    ];
    for (what, change) in next {
        assert_eq!(writing.load(SeqCst), 0, "{what}");
        writing.store(1, SeqCst);
        let before = counters(&fixture, Some(7), remote).0;
        change(&fixture, remote);
        assert_eq!(counters(&fixture, Some(7), remote).0, before + 1, "{what}");
    }
    assert_eq!(writing.load(SeqCst), 0);
}

/// What writes the rules of an endpoint, or what NICs know of each other.
type PolicyWrite = (&'static str, fn(&PolicyMaps, &Nics, &Endpoint<'_>));

const POLICY_WRITES: [PolicyWrite; 4] = [
    ("swap", |maps, _, _| maps.swap(&Policy::default()).expect("swap")),
    ("keep", |maps, _, _| maps.keep().expect("keep")),
    ("revert", |maps, _, _| maps.revert().expect("revert")),
    ("forget", |maps, _, _| maps.forget().expect("forget")),
];

const NIC_WRITES: [PolicyWrite; 5] = [
    ("enter", |_, nics, nic| {
        nics.enter(&nic.config, cm_confirm::default(), true).expect("enter");
    }),
    ("settle", |_, nics, nic| {
        nics.settle(nic.id, &nic.config, cm_confirm::default()).expect("settle");
    }),
    ("restore", |_, nics, nic| {
        let there = nics.get(nic.config.nic_slot().expect("a slot")).expect("get");
        nics.restore(nic.config.nic_slot().expect("a slot"), &there).expect("restore");
    }),
    ("leave", |_, nics, nic| nics.leave(nic.id, None).expect("leave")),
    ("restore, to nobody", |_, nics, nic| {
        let slot = nic.config.nic_slot().expect("a slot");
        nics.restore(slot, &cm_nic::default()).expect("restore");
    }),
];

#[test]
fn every_write_of_rules_or_nics_makes_the_policy_stale() {
    let Some(fixture) = Fixture::new() else { return };
    let workload = fixture.container(ID).id(7).policy(enforcing()).load();
    let nic = fixture.netdev(1).id(9).policy(enforcing()).load();
    let nics = Nics::open(&fixture.world.root()).expect("open").expect("the NICs");
    for (endpoint, of) in [(&workload, Some(7)), (&nic, None)] {
        fixture.rules(endpoint, &["allow egress to any"]);
        let map_ids = endpoint.loaded.map_ids().expect("the programs' maps");
        let maps = PolicyMaps::of(&fixture.world.root(), endpoint.id, map_ids).expect("the maps");
        let of_nic = if of.is_none() { NIC_WRITES.as_slice() } else { &[] };
        for (what, write) in POLICY_WRITES.iter().chain(of_nic) {
            let before = counters(&fixture, of, PEER4.into());
            write(&maps, &nics, endpoint);
            let after = counters(&fixture, of, PEER4.into());
            assert!(after.0 > before.0 && after.1 > before.1, "{what} of {of:?}");
        }
    }
}

#[test]
fn rules_concern_the_flows_of_their_workload_or_those_of_all_nics() {
    let Some(fixture) = Fixture::new() else { return };
    let workload = |id| fixture.container(ID).id(id).policy(enforcing()).load();
    let nic = |id, slot| fixture.netdev(1).id(id).slot(slot).policy(enforcing()).load();
    let (red, blue, wan, lan) = (workload(7), workload(8), nic(9, 0), nic(10, 1));
    let all = [&red, &blue, &wan, &lan];
    all.iter().for_each(|endpoint| _ = fixture.rules(endpoint, &["allow egress to any"]));
    for (own, peer) in OWN_TO_PEER {
        let packet = || Frame::ip(own, peer).udp(1000, 53);
        let send = |endpoint: &Endpoint<'_>| match endpoint.role {
            Role::Container => _ = endpoint.from_container(packet()).passes(),
            Role::Netdev => _ = endpoint.to_netdev(packet()).passes(),
        };
        let changes = [(&red, [1, 0, 0]), (&blue, [0, 1, 0]), (&wan, [0, 0, 1]), (&lan, [0, 0, 1])];
        for (changed, concerned) in changes {
            // By one of the NICs, also where the rules of the other are changed.
            [&red, &blue, &wan].iter().for_each(|endpoint| send(endpoint));
            fixture.rules(changed, &["allow egress to any", "allow ingress from any tcp/80"]);
            let stale = [Some(7), Some(8), None].map(|of| stale(&fixture, of, peer).0);
            assert_eq!(stale, concerned, "rules of endpoint {}", changed.id);
        }
    }
}

#[test]
fn a_fallback_of_one_nic_brings_no_verdict_back_that_was_given_in_anothers() {
    let Some(fixture) = Fixture::new() else { return };
    let nic = |id, slot| fixture.netdev(1).id(id).slot(slot).policy(enforcing()).load();
    let (wan, lan) = (nic(9, 0), nic(10, 1));
    let nics = Nics::open(&fixture.world.root()).expect("open").expect("the NICs");
    let set = |nic: &Endpoint<'_>, fallback| {
        let confirm = cm_confirm { until_ns: 1, fallback, ..cm_confirm::default() };
        nics.settle(nic.id, &nic.config, confirm).expect("settle");
    };
    fixture.rules(&wan, &["allow egress to any"]);
    let map_ids = wan.loaded.map_ids().expect("the programs' maps");
    PolicyMaps::of(&fixture.world.root(), wan.id, map_ids).expect("the maps").keep().expect("keep");
    fixture.rules(&wan, &["deny egress to any"]);
    for (own, peer) in OWN_TO_PEER {
        let sent = || Frame::ip(own, peer).udp(1000, 53);
        wan.to_netdev(sent()).is_dropped(POLICY_DENY);
        set(&wan, cm_fallback::CM_FALLBACK_RULES);
        wan.to_netdev(sent()).passes();
        set(&wan, cm_fallback::CM_FALLBACK_NONE);
        set(&lan, cm_fallback::CM_FALLBACK_AUDIT);
        wan.to_netdev(sent()).is_dropped(POLICY_DENY);
        set(&lan, cm_fallback::CM_FALLBACK_NONE);
    }
}

/// A cached verdict is one that the rules would give again.
#[test]
fn what_is_not_stale_would_be_decided_the_same() {
    let Some(fixture) = Fixture::new() else { return };
    let workload = |id| fixture.container(ID).id(id).policy(enforcing()).load();
    let endpoints = [workload(7), workload(8), fixture.netdev(1).id(10).policy(enforcing()).load()];
    let rules = |random: &mut Random| -> Vec<String> {
        let peers = ["any", "1", "2", "300", "301", "302"];
        let mut rule = |verb| {
            let (direction, peer) =
                (random.pick(&["ingress from", "egress to"]), random.pick(&peers));
            format!("{verb} {direction} {peer}")
        };
        ["allow", "allow", "allow", "deny"].map(&mut rule).into()
    };
    let hosts = |number: u8| -> [IpAddr; 2] {
        [[10, 2, 0, number].into(), [0xfd00, 2, 0, 0, 0, 0, 0, number.into()].into()]
    };
    let prefixes = ["10.2.0.0/30", "10.2.0.0/24", "fd00:2::/126", "fd00:2::/64"];
    let mut random = Random(0x9e4e);
    for round in 0..repetitions(400) {
        let of = |random: &mut Random| hosts(1 + random.below(6) as u8)[random.below(2)];
        let (host, prefix) = (of(&mut random), random.pick(&prefixes));
        let identity = random.pick(&[1, 2, 300, 301, 302]);
        match random.below(10) {
            // Refused where an attachment has the line.
            0..3 => _ = fixture.open_ipcache().set(&host.into(), Identity(identity)),
            3 => _ = fixture.open_ipcache().delete(&host.into()),
            4 => fixture.ipcache(prefix, identity),
            5 => _ = fixture.open_ipcache().delete(&prefix.parse().unwrap()),
            6 => fixture.register(host, random.pick(&[Role::Container, Role::Netdev]), true),
            7 => {
                let there = Endpoints::open(&fixture.world.root()).unwrap();
                there.iter().for_each(|endpoints| endpoints.remove(host).expect("remove"));
            }
            8 if random.once_in(8) => _ = fixture.open_ipcache().flush().expect("flush"),
            8 => fixture.host_address(host, 1),
            _ => {
                let endpoint = &endpoints[random.below(endpoints.len())];
                fixture.rules(endpoint, &rules(&mut random));
            }
        }
        let verdicts = || -> Vec<Verdict> {
            let pairs = (1..=6)
                .flat_map(|number| std::iter::zip([OWN4.into(), OWN6.into()], hosts(number)));
            let run = |(own, peer): (IpAddr, IpAddr)| {
                let sent = Frame::ip(own, peer).udp(1000, 53);
                let received = || Frame::ip(peer, own).udp(1001, 53).forwarded();
                endpoints.each_ref().map(|endpoint| match endpoint.role {
                    Role::Container => {
                        [endpoint.from_container(sent.clone()), endpoint.to_container(received())]
                    }
                    Role::Netdev => {
                        [endpoint.to_netdev(sent.clone()), endpoint.from_netdev(received())]
                    }
                })
            };
            pairs.flat_map(run).flatten().map(|run| run.verdict).collect()
        };
        let cached = verdicts();
        fixture.bump_generation();
        assert_eq!(cached, verdicts(), "round {round}");
    }
}
