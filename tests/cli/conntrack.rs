//! `conntrack list|flush`.

use serde_json::{Value, json};

use crate::common::World;

fn flows(world: &World, device: &str) -> Vec<Value> {
    let mut list = world.cilmark_json(&format!("conntrack list {device}"));
    list.as_array_mut().expect("a list").iter_mut().map(Value::take).collect()
}

/// A workload that asks its gateway for something, on TCP port 80.
fn knock(world: &World, name: &str, gateway: &str) {
    world.try_sh(&format!("ip netns exec {name} socat -u /dev/null TCP:{gateway}:80,bind=:1000"));
}

#[test]
fn a_flow_is_listed_with_exactly_these_fields() {
    let Some(world) = World::new() else { return };
    world.workload("red", 1);
    world.cilmark_ok("attach red --id 300 --policy audit");
    world.cilmark_ok("policy add red allow egress to any tcp/80");
    knock(&world, "red", "10.1.0.1");
    knock(&world, "red", "[fd00:1::1]");
    let [v4, v6] = &mut flows(&world, "red")[..] else { panic!("not one for each family") };
    for (flow, local, remote) in [(v4, "10.1.0.10", "10.1.0.1"), (v6, "fd00:1::10", "fd00:1::1")] {
        let expires = flow["expires"].take().as_u64().unwrap();
        assert!((1..=60).contains(&expires), "{expires}");
        assert_eq!(
            *flow,
            json!({
                "device": "red", "protocol": "tcp", "local": local, "local_port": 1000,
                "remote": remote, "remote_port": 80, "direction": "egress", "state": "reset",
                "allowed": true, "stale": false, "rule": "allow egress to any tcp/80",
                "adopted": false, "masqueraded": false, "gone": false, "expires": null,
            })
        );
    }
    let table = world.cilmark_ok("conntrack list");
    assert!(table.contains("[fd00:1::10]:1000  [fd00:1::1]:80"), "{table}");
    assert!(table.contains("allowed: allow egress to any tcp/80"), "{table}");
}

/// The number of a rule that is gone is given to another one.
#[test]
fn no_rule_is_named_that_has_not_decided() {
    let Some(world) = World::new() else { return };
    world.workload("red", 1);
    world.cilmark_ok("attach red --id 300 --policy audit");
    world.cilmark_ok("policy add red allow egress to any tcp/80");
    knock(&world, "red", "10.1.0.1");
    world.cilmark_ok("policy flush red");
    world.cilmark_ok("policy add red allow ingress from 9999 udp/1");
    let [flow] = &flows(&world, "red")[..] else { panic!("not one flow") };
    assert_eq!((&flow["allowed"], &flow["stale"]), (&json!(true), &json!(true)));
    assert_eq!(flow["rule"], json!(null));
    let table = world.cilmark_ok("conntrack list red");
    assert!(table.contains("allowed, to be asked again"), "{table}");
}

#[test]
fn what_a_workload_has_left_is_not_the_hosts() {
    let Some(world) = World::new() else { return };
    world.workload("red", 1);
    world.workload("nic", 2);
    world.cilmark_ok("attach red --id 300 --policy audit");
    world.cilmark_ok("attach nic --role netdev --policy audit");
    knock(&world, "red", "10.1.0.1");
    world.veth("other"); // or the maps would go with the last
    world.cilmark_ok("attach other --id 301");
    world.cilmark_ok("attach red --id 300 --policy audit --ct local");
    assert_eq!(flows(&world, "red").len(), 1, "from before it had maps of its own");
    // In an emergency, without cilmark.
    world.sh("rm -r /sys/fs/bpf/cilmark/endpoints/1");
    let left = &flows(&world, "")[0];
    assert_eq!((&left["device"], &left["gone"]), (&json!(null), &json!(true)));
    assert!(world.cilmark_ok("conntrack list").contains("\n(gone) "));
    world.cilmark("conntrack list id:1").fails(1, &["id:1", "not attached"]);
    knock(&world, "nic", "10.2.0.1");
    assert_eq!(flows(&world, "host").len(), 1);
    world.cilmark_ok("detach nic");
    assert_eq!(flows(&world, "host").len(), 1, "those of a NIC that is gone, too");
    // Another one gets its number, and not its flows.
    world.veth("green");
    world.cilmark_ok("attach green --id 300 --policy audit --endpoint-id 1");
    assert_eq!(flows(&world, "green"), [json!(null); 0]);
    assert_eq!(world.cilmark("conntrack flush green").stderr, "removed 0 entries\n");
    world.cilmark_ok("conntrack flush");
    assert_eq!(world.cilmark_json("conntrack list"), json!([]));
}

#[test]
fn flows_are_forgotten_by_endpoint_or_all() {
    let Some(world) = World::new() else { return };
    assert_eq!(world.cilmark_json("conntrack list"), json!([]));
    world.workload("red", 1);
    world.workload("blue", 2);
    world.workload("nic", 3);
    world.cilmark_ok("attach red --id 300 --policy audit");
    world.cilmark_ok("attach blue --id 301 --policy audit --ct local");
    world.cilmark_ok("attach nic --role netdev --policy audit");
    for (name, gateway) in [("red", "10.1.0.1"), ("blue", "10.2.0.1"), ("nic", "10.3.0.1")] {
        knock(&world, name, gateway);
    }
    let devices = || -> Vec<Value> {
        flows(&world, "").iter_mut().map(|flow| flow["device"].take()).collect()
    };
    assert_eq!(devices(), [json!(null), json!("red"), json!("blue")]);
    for device in ["red", "blue", "nic"] {
        assert_eq!(flows(&world, device).len(), 1, "{device}");
    }
    assert_eq!(flows(&world, "host").len(), 1);
    assert_eq!(world.cilmark("conntrack flush red").stderr, "removed 1 entry\n");
    assert_eq!(devices(), [json!(null), json!("blue")]);
    assert_eq!(world.cilmark("conntrack flush").stderr, "removed 2 entries\n");
    assert_eq!(devices(), [json!(null); 0]);
}

#[test]
fn maps_of_its_own_go_when_an_endpoint_shares_again() {
    let Some(world) = World::new() else { return };
    world.veth("red");
    let own = || world.pins().iter().filter(|pin| pin.contains("1/cm_flows")).count();
    world.cilmark_ok("attach red --id 300 --policy audit --ct local");
    assert_eq!(own(), 2);
    world.cilmark_ok("attach red --id 300 --policy audit");
    assert_eq!(own(), 0);
}

/// A workload with five flows: three of its own, one of a neighbour's and one of the host's.
fn busy() -> Option<World> {
    let world = World::new()?;
    world.workload("red", 1);
    world.workload("blue", 2);
    world.cilmark_ok("attach red --id 300 --ip 10.1.0.10 fd00:1::10 --policy audit");
    world.cilmark_ok("attach blue --id 301 --ip 10.2.0.10");
    world.cilmark_ok("ipcache set 198.51.100.0/24 400");
    world.cilmark_ok("identity set 400 db");
    knock(&world, "red", "10.1.0.1");
    knock(&world, "red", "[fd00:1::1]");
    let report = |from: &str, to: &str| {
        world.sh(&format!("echo hello | {from} socat -u - UDP:{to}"));
    };
    report("ip netns exec red", "198.51.100.7:53,bind=:4000");
    report("ip netns exec blue", "10.1.0.10:80,bind=:4000");
    report("", "10.1.0.10:53,bind=:4000");
    Some(world)
}

#[test]
fn flows_are_chosen_by_identity_address_port_state_and_direction() {
    let Some(world) = busy() else { return };
    let chosen = |options: &str| -> Vec<String> {
        let list = flows(&world, options);
        let text = |flow: &Value| {
            let word = |field: &str| flow[field].as_str().unwrap().to_owned();
            format!("{} {}", word("protocol"), word("remote"))
        };
        list.iter().map(text).collect()
    };
    let (by_host, by_host6) = ("tcp 10.1.0.1", "tcp fd00:1::1");
    let (to_db, of_blue, of_host) = ("udp 198.51.100.7", "udp 10.2.0.10", "udp 10.1.0.1");
    assert_eq!(chosen(""), [by_host, of_host, of_blue, to_db, by_host6]);
    for (options, wanted) in [
        ("--identity 400", &[to_db][..]),
        ("--identity db", &[to_db]),
        ("--identity 301", &[of_blue]),
        ("--identity host", &[by_host, of_host, by_host6]),
        ("--identity 300", &[by_host, of_host, of_blue, to_db, by_host6]),
        ("--identity world", &[]),
        ("--address 198.51.100.7", &[to_db]),
        ("--address 10.0.0.0/14", &[by_host, of_host, of_blue, to_db]),
        ("--address fd00::/16", &[by_host6]),
        ("--port 53", &[of_host, to_db]),
        ("--port tcp/53", &[]),
        ("--port udp/50-60", &[of_host, to_db]),
        ("--port 1000", &[by_host, by_host6]),
        ("--state reset", &[by_host, by_host6]),
        ("--state established", &[of_host, of_blue, to_db]),
        ("--direction ingress", &[of_host, of_blue]),
        ("--direction egress --port 53", &[to_db]),
        ("red --direction egress --state reset --address 10.1.0.1", &[by_host]),
        ("blue --port 53", &[]),
    ] {
        assert_eq!(chosen(options), wanted, "{options}");
    }
    world.cilmark("conntrack list --identity nobody").fails(1, &["`nobody`", "identity list"]);
}

#[test]
fn flows_that_are_chosen_are_forgotten_and_no_others() {
    let Some(world) = busy() else { return };
    for (options, count) in [
        ("--identity db --port 54", "0 entries"),
        ("--identity db", "1 entry"),
        ("--direction egress", "2 entries"),
        ("red --port 80", "1 entry"),
        ("host --port 53", "0 entries"),
    ] {
        let run = world.cilmark(&format!("conntrack flush {options}"));
        assert_eq!(run.stderr, format!("removed {count}\n"), "{options}");
    }
    let [left] = &flows(&world, "")[..] else { panic!("not one is left") };
    assert_eq!((&left["remote"], &left["local_port"]), (&json!("10.1.0.1"), &json!(53)));
}
