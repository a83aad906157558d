//! GC: of a network only what the runtime lists stays, and what is not its own.

use serde_json::{Value, json};

use super::{Ask, attached, config_in, oci};
use crate::common::World;

/// Attachments of the network `net`: `one` and `two`, and `three` of another network; `four` is a command's.
fn with_some() -> Option<World> {
    let world = World::new()?;
    for (name, number) in [("one", 1), ("two", 2), ("three", 3), ("four", 4)] {
        world.workload(name, number);
    }
    for (name, number, network) in [("one", 1, "net"), ("two", 2, "net"), ("three", 3, "other")] {
        let mut config = config_in("1.1.0", number, json!({"id": 300}));
        config["name"] = json!(network);
        Ask::of("ADD", name).succeeds(&config);
    }
    world.cilmark_ok("attach four --id 301 --owner four");
    Some(world)
}

fn gc(key: &str, valid: Value) -> Value {
    json!({"cniVersion": "1.1.0", "name": "net", "type": "cilmark-cni", "id": 300, key: valid})
}

const KEY: &str = "cni.dev/valid-attachments";

#[test]
fn what_is_not_listed_goes_and_all_else_stays() {
    for (valid, left) in [
        (
            json!([{"containerID": "one", "ifname": "eth0"}, {"containerID": "two", "ifname": "eth0"}]),
            &["one", "two", "three", "four"][..],
        ),
        (json!([{"containerID": "one", "ifname": "eth0"}]), &["one", "three", "four"]),
        (json!([{"containerID": "one", "ifname": "net1"}]), &["three", "four"]),
        (json!([]), &["three", "four"]),
        (json!(null), &["three", "four"]),
    ] {
        let Some(world) = with_some() else { return };
        for _ in 0..2 {
            assert_eq!(Ask::new("GC").succeeds(&gc(KEY, valid.clone())), None);
            assert_eq!(attached(&world), left, "{valid}");
        }
    }
}

#[test]
fn what_has_no_device_any_more_goes_as_well_and_the_environment_names_no_container() {
    let Some(world) = with_some() else { return };
    world.sh("ip link del two");
    let mut ask = Ask::new("GC");
    ask.variables.retain(|name, _| matches!(name.as_str(), "CNI_COMMAND" | "CNI_PATH"));
    ask.succeeds(&gc("cni.dev/attachments", json!([{"containerID": "one", "ifname": "eth0"}])));
    assert_eq!(attached(&world), ["one", "three", "four"]);
}

#[test]
fn without_a_list_nothing_goes() {
    let Some(world) = with_some() else { return };
    Ask::new("GC").fails(&gc("cni.dev/x", json!([])), 7, &["network net", KEY, "missing"]);
    Ask::new("GC").fails(&gc(KEY, json!([{"containerID": "one"}])), 7, &[KEY, "ifname"]);
    assert_eq!(attached(&world), ["one", "two", "three", "four"]);
}

#[test]
fn a_mistake_in_what_a_configuration_asks_for_keeps_it_from_nothing() {
    let Some(world) = with_some() else { return };
    let mut config = gc(KEY, json!([]));
    config["rulez"] = json!(1);
    assert_eq!(Ask::new("GC").succeeds(&config), None);
    assert_eq!(attached(&world), ["three", "four"]);
}

#[test]
fn it_goes_on_past_a_failure_and_tells_it() {
    let Some(world) = with_some() else { return };
    // A directory that something is mounted on can't be removed.
    let a = "/sys/fs/bpf/cilmark/endpoints/1";
    world.sh(&format!("mount --bind {a} {a}"));
    Ask::new("GC").fails(&gc(KEY, json!([])), 102, &["network net", a]);
    let left = attached(&world);
    assert!(!left.iter().any(|it| matches!(it.as_str(), "one" | "two")), "{left:?}");
    assert!(left.ends_with(&["three".to_owned(), "four".to_owned()]), "{left:?}");
}

#[test]
fn where_nothing_is_attached_it_has_nothing_to_do() {
    let Some(_world) = World::without_bpffs() else { return };
    assert_eq!(Ask::new("GC").succeeds(&gc(KEY, json!([]))), None);
}

#[test]
fn what_an_oci_hook_has_taken_over_is_still_of_its_network() {
    let Some(world) = with_some() else { return };
    oci(&world, "createRuntime", "one", "one", &json!({"cilmark.id": "302"}));
    let birth = world.status("one")["birth"].clone();
    assert_eq!((&birth["hook"], &birth["network"]), (&json!("oci"), &json!("net")));
    let valid = json!([{"containerID": "one", "ifname": "eth0"}]);
    Ask::new("GC").succeeds(&gc(KEY, valid));
    assert_eq!(attached(&world), ["one", "three", "four"]);
    Ask::new("GC").succeeds(&gc(KEY, json!([])));
    assert_eq!(attached(&world), ["three", "four"]);
}

/// The first container of a pod has ended, and another one runs on in its network: CNI knows nothing of that.
#[test]
fn whoever_has_inherited_a_network_stays_whatever_is_listed() {
    let Some(world) = World::new() else { return };
    world.workload("one", 1);
    Ask::of("ADD", "one").succeeds(&config_in("1.1.0", 1, json!({"id": 300})));
    oci(&world, "createRuntime", "app", "one", &json!({}));
    oci(&world, "poststop", "one", "one", &json!({}));
    assert_eq!(world.status("one")["owner"], "app");
    for valid in [json!([{"containerID": "one", "ifname": "eth0"}]), json!([])] {
        Ask::new("GC").succeeds(&gc(KEY, valid));
        assert_eq!(attached(&world), ["one"]);
    }
    oci(&world, "poststop", "app", "one", &json!({}));
    assert_eq!(world.pins(), [""; 0]);
}
