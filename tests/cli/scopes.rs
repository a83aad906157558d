//! Whose flows are whose: what programs are loaded with, and what `cm_flow_table` keeps of it.

use serde_json::{Value, json};

use crate::common::World;
use crate::common::machine::by_each_hook;

const ROOT: &str = "/sys/fs/bpf/cilmark";
/// Nobody's.
const NOBODY: u64 = 0xff_ffff;
const NO_SECRET: [u64; 8] = [0; 8];

fn dump(world: &World, pin: &str) -> Value {
    let text = world.sh(&format!("bpftool -j map dump pinned {ROOT}/{pin}"));
    let mut elements: Value = serde_json::from_str(&text).unwrap();
    elements[0]["formatted"]["value"].take()
}

fn table(world: &World) -> Value {
    dump(world, "cm_flow_table")
}

/// What the programs of an endpoint were loaded with.
fn config(world: &World, id: u64) -> Value {
    dump(world, &format!("endpoints/{id}/config"))[".rodata"][0]["config"].take()
}

/// The scope of what is attached.
fn scope(world: &World, device: &str) -> u64 {
    let id = world.status(device)["endpoint_id"].as_u64().unwrap();
    config(world, id)["scope"].as_u64().unwrap()
}

/// Lets the last scope that was given be this one.
fn count_on_from(world: &World, last: u32) {
    let bytes = |value: &[u8]| -> String { value.iter().map(|byte| format!("{byte} ")).collect() };
    let seed: Vec<u64> = serde_json::from_value(table(world)["seed"].take()).unwrap();
    let seed: Vec<u8> = seed.iter().flat_map(|word| word.to_ne_bytes()).collect();
    let value = [seed.as_slice(), &last.to_ne_bytes(), &[0; 4]].concat();
    let pin = format!("pinned {ROOT}/cm_flow_table");
    world.sh(&format!("bpftool map update {pin} key 0 0 0 0 value {}", bytes(&value)));
}

fn has_table(world: &World) -> bool {
    world.pins().contains(&"cilmark/cm_flow_table".to_owned())
}

#[test]
fn a_workload_keeps_its_scope_and_another_one_gets_another() {
    by_each_hook(|hook| {
        let Some(world) = World::new() else { return };
        world.veth("red");
        world.veth("nic");
        let attach = |device: &str, options: &str| {
            world.cilmark_ok(&format!("attach {device} --id 300 --hook {hook} {options}"));
        };
        attach("nic", "--role netdev --policy audit");
        attach("red", "--policy audit");
        assert_eq!((scope(&world, "nic"), scope(&world, "red")), (0, 1));
        for options in ["--policy audit", "", "--policy enforce --ct local", "--policy audit"] {
            attach("red", options);
            assert_eq!(scope(&world, "red"), 1, "{options}");
        }
        world.sh("ip link set red down && ip link set red name pink && ip link set pink up");
        attach("pink", "--policy audit");
        assert_eq!(scope(&world, "pink"), 1, "the same device under another name");
        world.cilmark_ok("detach pink");
        attach("pink", "--policy audit");
        assert_eq!(scope(&world, "pink"), 2, "by the same number and name");
        world.sh("ip link del pink");
        world.veth("pink");
        attach("pink", "--policy audit");
        assert_eq!(scope(&world, "pink"), 3, "the endpoint was dead");
        attach("pink", "--role netdev --policy audit");
        attach("pink", "--role container --policy audit");
        assert_eq!(scope(&world, "pink"), 4, "it was a NIC meanwhile");
        assert_eq!(table(&world)["last_scope"], 4);
    });
}

/// By a filter nobody can tell it from the one that is gone.
#[test]
fn a_device_with_name_and_number_of_one_that_is_gone_gets_a_scope_of_its_own() {
    by_each_hook(|hook| {
        let Some(world) = World::new() else { return };
        let make = || world.sh("ip link add red index 500 type veth peer name red-peer");
        let attach = format!("attach red --id 300 --policy audit --hook {hook}");
        make();
        world.cilmark_ok(&attach);
        world.sh("ip link del red");
        make();
        world.cilmark_ok(&attach);
        assert_eq!(scope(&world, "red"), 2);
    });
}

#[test]
fn half_an_endpoint_keeps_its_scope() {
    let Some(world) = World::new() else { return };
    world.veth("red");
    let attach = "attach red --id 300 --policy audit --hook clsact";
    world.cilmark_ok(attach);
    world.sh("tc filter del dev red egress");
    world.cilmark_ok(attach);
    assert_eq!(scope(&world, "red"), 1);
    world.sh("tc filter del dev red ingress; tc filter del dev red egress");
    world.cilmark_ok(attach);
    assert_eq!(scope(&world, "red"), 2, "none of its programs tells that it is the same device");
}

#[test]
fn who_keeps_no_flows_takes_no_scope_and_makes_no_table() {
    let Some(world) = World::new() else { return };
    for device in ["red", "blue", "green"] {
        world.veth(device);
    }
    world.cilmark_ok("attach red --id 300");
    world.cilmark_ok("attach green --role netdev");
    assert_eq!((scope(&world, "red"), scope(&world, "green")), (NOBODY, 0));
    assert!(!has_table(&world));
    world.cilmark_ok("attach blue --id 301 --policy audit");
    assert_eq!(scope(&world, "blue"), 1);
    world.cilmark_ok("attach red --id 300 --ingress-policy audit");
    assert_eq!(scope(&world, "red"), 2);
    world.cilmark_ok("detach --all");
    assert!(!has_table(&world));
}

/// What its programs remember of flows that are the stack's has a scope, too.
#[test]
fn who_takes_local_delivery_has_a_scope_without_a_policy() {
    let Some(world) = World::new() else { return };
    world.workload("red", 1);
    world.cilmark_ok("attach red --id 300 --ip 10.1.0.10 --local-delivery");
    let config = config(&world, 1);
    assert_eq!((&config["scope"], &config["flow_seed"]), (&json!(1), &json!(NO_SECRET)));
    assert!(table(&world)["seed"] != json!(NO_SECRET));
}

#[test]
fn all_endpoints_of_a_root_have_its_secret() {
    let Some(world) = World::new() else { return };
    for device in ["red", "blue", "nic"] {
        world.veth(device);
    }
    let attach = ["red --id 300", "blue --id 301 --ct local", "nic --role netdev"]
        .map(|device| format!("attach {device} --policy audit"));
    // At once: none of them finds a table.
    std::thread::scope(|scope| {
        for command in &attach {
            scope.spawn(|| world.cilmark_ok(command));
        }
    });
    let secret = table(&world)["seed"].take();
    let words: Vec<u64> = serde_json::from_value(secret.clone()).unwrap();
    assert!(words.iter().all(|word| *word != 0), "{words:?}");
    for command in &attach {
        world.cilmark_ok(command);
    }
    for id in [1, 2, 3] {
        assert_eq!(config(&world, id)["flow_seed"], secret, "endpoint {id}");
    }
    let mut scopes = ["red", "blue", "nic"].map(|device| scope(&world, device));
    scopes.sort_unstable();
    assert_eq!(scopes, [0, 1, 2]);
    world.cilmark_ok("ipcache set 10.0.0.0/8 7");
    world.cilmark_ok("detach --all");
    world.cilmark_ok(&attach[0]);
    assert_eq!((config(&world, 1)["flow_seed"].take(), scope(&world, "red")), (secret, 3));
}

/// As an attachment leaves it that is killed between the two.
#[test]
fn a_table_without_a_secret_gets_one() {
    let Some(world) = World::new() else { return };
    world.veth("red");
    world.cilmark_ok("ipcache set 10.0.0.0/8 7");
    let kind = "type array key 4 value 72 entries 1 name cm_flow_table";
    world.sh(&format!("bpftool map create {ROOT}/cm_flow_table {kind}"));
    world.cilmark_ok("attach red --id 300 --policy audit");
    let config = config(&world, 1);
    assert!(config["flow_seed"] != json!(NO_SECRET), "{config}");
    assert_eq!(config["scope"], 1);
}

#[test]
fn scopes_come_again_only_when_all_were_given_and_what_was_left_under_them_is_forgotten() {
    let Some(world) = World::new() else { return };
    world.workload("red", 1);
    world.workload("blue", 2);
    world.workload("green", 3);
    let attach = |device: &str| {
        world.cilmark_ok(&format!("attach {device} --id 300 --policy audit"));
        scope(&world, device)
    };
    let knock = |name: &str, gateway: &str| {
        world.try_sh(&format!("ip netns exec {name} socat -u /dev/null TCP:{gateway}:80"));
    };
    let flows = || world.cilmark_json("conntrack list").as_array().unwrap().len();
    assert_eq!((attach("red"), attach("blue")), (1, 2));
    knock("red", "10.1.0.1");
    knock("blue", "10.2.0.1");
    // In an emergency, without cilmark: a detach forgets them at once.
    world.sh(&format!("rm -r {ROOT}/endpoints/2"));
    assert_eq!(flows(), 2);
    count_on_from(&world, 0xff_fffd);
    assert_eq!((attach("blue"), flows()), (0xff_fffe, 2));
    // Neither what stands for nobody, nor for NICs, nor what red has.
    assert_eq!((attach("green"), flows()), (2, 1));
    assert_eq!(world.cilmark_json("conntrack list red").as_array().unwrap().len(), 1);
    knock("green", "10.3.0.1");
    assert_eq!(flows(), 2);
    world.cilmark_ok("detach green");
    assert_eq!((flows(), attach("green")), (1, 3));
}

/// Its programs have no scope yet, and a copy that asks a policy must not take the host's for it.
#[test]
fn who_has_no_policy_is_explained_without_the_hosts_flows() {
    let Some(world) = World::new() else { return };
    world.workload("nic", 1);
    world.veth("red");
    world.cilmark_ok("attach nic --role netdev --policy audit");
    world.cilmark_ok("attach red --id 300");
    world.try_sh("socat -u /dev/null TCP:10.1.0.10:80,bind=10.1.0.1:1000");
    assert_eq!(world.cilmark_json("conntrack list host").as_array().unwrap().len(), 1);
    let packet = "--src 10.1.0.1 --sport 1000 --dst 10.1.0.10 --dport 80 --tcp-flags ack";
    let explain = |device: &str, way: &str| {
        let run = world.cilmark(&format!("explain {device} {way} {packet} --mode audit --json"));
        let answer: Value = serde_json::from_str(&run.stdout).unwrap_or_else(|_| panic!("{run:?}"));
        answer["conntrack"].as_str().unwrap().to_owned()
    };
    assert_eq!(explain("nic", "to"), "established");
    assert_eq!(explain("red", "from"), "new");
}
