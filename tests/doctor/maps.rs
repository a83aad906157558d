//! Maps that are full, or nearly so, each made small.

use std::fs;

use cilmark::model::endpoint::EndpointId;
use cilmark::model::protocol::TCP;
use cilmark::model::rule::Direction;
use cilmark::state::conntrack::{Conntrack, Existing, Originator};
use cilmark::state::registry::Endpoint;

use super::{attached, doctor};
use crate::common::World;
use crate::common::world::wait_for;

/// The line of a check that says this.
fn line(world: &World, check: &str, words: &str) -> String {
    let found = doctor(world).of(check);
    let lines: Vec<&String> = found.iter().filter(|it| it.contains(words)).collect();
    let [line] = lines[..] else { panic!("no line with `{words}` in {found:#?}") };
    line.clone()
}

/// Loads so many addresses into the ipcache, and as many prefixes.
fn load(world: &World, count: u32) {
    let lines = (0..count).map(|n| format!("10.0.0.{n} 300\n10.{n}.1.0/24 300\n"));
    fs::write("/run/netns/lines", lines.collect::<String>()).unwrap();
    world.cilmark_ok("ipcache load --ipcache-entries 10 /run/netns/lines");
}

#[test]
fn an_ipcache_that_fills_up_is_told_before_and_then_and_grows_as_the_cure_says() {
    let Some(world) = World::new() else { return };
    assert_eq!(doctor(&world).of("maps"), ["ok this host: none has been made yet; "]);
    load(&world, 7);
    doctor(&world).is_fine("ipcache");
    load(&world, 8);
    for entries in ["8 of 10 addresses", "8 of 10 prefixes"] {
        let line = line(&world, "ipcache", entries);
        assert!(line.starts_with("warning ") && line.contains("--ipcache-entries"), "{line}");
    }
    load(&world, 10);
    let found = doctor(&world);
    assert_eq!(found.status, Some(1));
    assert!(line(&world, "ipcache", "10 of 10 addresses").starts_with("problem "));
    world.cilmark_ok("ipcache flush");
    world.cilmark_ok("ipcache load --ipcache-entries 20 /run/netns/lines");
    doctor(&world).is_fine("ipcache");
}

#[test]
fn rules_that_fill_their_map_are_told_and_get_room_as_the_cure_says() {
    let Some(world) = attached("red --id 300 --policy audit --policy-entries 32") else { return };
    let add = |peers: std::ops::Range<u32>| {
        let rules: String = peers.map(|peer| format!(" allow ingress from {peer}")).collect();
        world.cilmark_ok(&format!("policy add red{rules}"));
    };
    add(300..305);
    doctor(&world).is_fine("policies");
    add(305..313);
    let cure = "`cilmark attach red --keep --policy-entries 64`";
    doctor(&world).has("policies", "warning", &["red: ", "of 32 entries of rules", cure]);
    world.cilmark_ok("attach red --keep --policy-entries 64");
    doctor(&world).is_fine("policies");
}

#[test]
fn nics_and_what_has_no_flag_are_counted() {
    let Some(world) = World::new() else { return };
    for nic in ["nic0", "nic1"] {
        world.veth(nic);
        world.cilmark_ok(&format!("attach {nic} --role netdev --policy audit"));
    }
    world.veth("red");
    world.cilmark_ok("attach red --id 300 --ip 10.0.0.1 --ip 10.1.0.0/24");
    world.cilmark_ok("identity set 300 web");
    world.cilmark_ok("policy add @web allow ingress from any tcp/80");
    let found = doctor(&world);
    found.has("nics", "ok", &["2 of 16 NICs"]);
    found.has("names", "ok", &["1 of 16384 names"]);
    found.has("endpoint list", "ok", &["3 of 16384 devices"]);
    found.has("identity rules", "ok", &["2 of 65536"]);
    for entries in ["1 of 16384 addresses", "1 of 16384 prefixes"] {
        line(&world, "addresses", entries);
    }
}

/// Enters connections of endpoint 1 that are up, as `--adopt` does.
fn enter(world: &World, count: u16) {
    let root = world.root();
    let id = EndpointId::new(1).unwrap();
    let scope = Endpoint::read(&root, id).unwrap().config.scope();
    let flow = |n: u16| Existing {
        protocol: TCP,
        local: ([10, 1, 0, 10], 40000 + n).into(),
        remote: ([192, 0, 2, 1], 443).into(),
        direction: Direction::Egress,
        originator: Originator::Known,
        masqueraded: false,
        seconds_left: None,
    };
    let flows: Vec<Existing> = (0..count).map(flow).collect();
    let conntrack = Conntrack::open(&root, None).unwrap().expect("a table of flows");
    conntrack.adopt(scope, 0, &flows).unwrap();
}

#[test]
fn a_table_of_flows_that_fills_up_is_told_and_that_flows_have_found_no_room() {
    let Some(world) = World::new() else { return };
    world.workload("red", 1);
    // Two buckets: sixteen ways, of which nine are to be taken.
    let attach = |entries| {
        world.cilmark_ok(&format!("attach red --id 300 --policy audit --ct-entries {entries}"));
    };
    attach(5);
    let send = "ip netns exec red bash -c 'echo >/dev/udp/10.1.0.1/9'";
    world.sh(send);
    wait_for("a flow that nobody has answered", || {
        let flows = doctor(&world).of("flows").concat();
        flows.contains("cm_flows4 (shared): 0 of 9 entries are answered flows; 1 unanswered")
    });
    enter(&world, 7);
    assert!(line(&world, "flows", "cm_flows4 (shared): 7 of 9 entries").starts_with("ok "));
    enter(&world, 8);
    let warning = line(&world, "flows", "cm_flows4 (shared): 8 of 9 entries");
    assert!(warning.starts_with("warning ") && warning.contains("--ct-entries 18"), "{warning}");
    enter(&world, 60);
    let full = line(&world, "flows", "cm_flows4 (shared): 16 of 9 entries");
    assert!(full.starts_with("problem "), "{full}");
    assert!(!doctor(&world).of("flows").concat().contains("no room so far"));
    world.sh(send);
    wait_for("the packet to be counted", || {
        doctor(&world).of("flows").concat().contains("have found no room so far")
    });
    assert!(line(&world, "flows", "no room so far").starts_with("problem "));
    world.cilmark_ok("detach red");
    attach(18);
    doctor(&world).is_fine("flows");
}
