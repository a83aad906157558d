//! ADD: the device behind a container gets what is said of it, all of that or nothing, and the result goes on.

use std::process::Child;

use serde_json::{Value, json};

use super::{Ask, attached, config, config_in, result_of, with_red};
use crate::common::World;
use crate::common::process::Run;

#[test]
fn the_device_behind_the_container_is_attached_and_the_result_goes_on_as_it_came() {
    let Some(world) = with_red() else { return };
    let mut config = config(json!({
        "id": 300,
        "rules": ["allow egress to any udp/53"],
        "policy": {"egress": "enforce"},
        "labels": {"app": "web"},
    }));
    config["prevResult"]["x-of-others"] = json!({"a": [1, null, "ä"]});
    let result = Ask::new("ADD").succeeds(&config);
    assert_eq!(result.as_ref(), Some(&config["prevResult"]));
    let status = world.status("red");
    assert_eq!((&status["identity"], &status["owner"]), (&json!(300), &json!("c1")));
    assert_eq!(status["ips"], json!(["10.1.0.10", "fd00:1::10"]));
    let mac = world.sh("ip netns exec red cat /sys/class/net/eth0/address");
    assert_eq!(status["workload_mac"], mac.trim());
    let birth = json!({
        "hook": "cni", "runtime": "cni", "network": "net", "ifname": "eth0",
        "id_from": "cni-config", "rules_from": "cni-config",
    });
    assert_eq!(status["birth"], birth);
    let spec = world.cilmark_json("status red --spec");
    assert_eq!(spec["labels"], json!({"app": "web"}));
    assert_eq!(spec["policy"], json!({"ingress": "off", "egress": "enforce"}));
    assert!(world.cilmark_ok("policy list red").contains("allow egress to any udp/53"));
}

#[test]
fn the_device_is_found_by_its_other_end_whatever_the_result_says_of_it() {
    let Some(world) = with_red() else { return };
    world.workload("blue", 2);
    let mut config = config(json!({"id": 300}));
    // The bridge plugin lists the bridge first; others name nothing of the host.
    for interfaces in [
        json!([{"name": "blue"}, {"name": "eth0", "sandbox": "/run/netns/red"}]),
        json!([{"name": "red", "sandbox": "/run/netns/blue"}, {"name": "eth0", "sandbox": "/run/netns/red"}]),
    ] {
        config["prevResult"]["interfaces"] = interfaces;
        Ask::new("ADD").succeeds(&config);
        assert_eq!(attached(&world), ["red"]);
    }
}

#[test]
fn without_a_plugin_before_it_is_refused_and_a_list_is_shown() {
    let Some(world) = with_red() else { return };
    let mut config = config(json!({"id": 300}));
    for none in [None, Some(Value::Null)] {
        config.as_object_mut().unwrap().remove("prevResult");
        config.as_object_mut().unwrap().extend(none.map(|none| ("prevResult".to_owned(), none)));
        for command in ["ADD", "CHECK"] {
            Ask::new(command).fails(
                &config,
                7,
                &["`prevResult`", r#""plugins": [{"type": "bridge", …}, {"type": "cilmark-cni"}]"#],
            );
        }
    }
    config["prevResult"] = json!([]);
    Ask::new("ADD").fails(&config, 7, &["network net: `prevResult`"]);
    assert_eq!(world.pins(), [""; 0]);
}

#[test]
fn a_workload_that_nobody_gives_an_identity_is_left_alone() {
    let Some(world) = with_red() else { return };
    // What others of the network get, and an address that is not there, matters for nobody else.
    let mut config = config(json!({"policy": "enforce", "rules": ["allow egress to any"]}));
    config["prevResult"]["ips"][0]["address"] = json!("10.1.0.99/24");
    assert_eq!(Ask::new("ADD").succeeds(&config), Some(config["prevResult"].clone()));
    assert_eq!(world.pins(), [""; 0]);
    assert_eq!(Ask::new("CHECK").succeeds(&config), None);
    assert_eq!(Ask::new("DEL").succeeds(&config), None);
}

#[test]
fn a_workload_whose_identity_cannot_be_had_does_not_start() {
    let Some(world) = with_red() else { return };
    let ask = Ask::new("ADD");
    for (keys, words) in [
        (json!({"id": "web"}), &["eth0 of container c1", "web"][..]),
        (json!({"id": 2}), &["reserved"]),
        (json!({"id": 300, "rules": ["allow"]}), &["allow"]),
        (json!({"id": 300, "rules": ["allow egress to db"]}), &["db"]),
        (json!({"id": 300, "options": {"role": "netdev"}}), &["red", "netdev"]),
        (json!({"id": 300, "bpffs": "/tmp/x"}), &["not on a BPF file system"]),
    ] {
        ask.fails(&config(keys), 100, words);
        assert_eq!(world.pins(), [""; 0]);
    }
    let ask = ask.with("CNI_IFNAME", "net1");
    ask.fails(
        &config(json!({"id": 300})),
        100,
        &["net1 of container c1", "no device `net1`", "eth0"],
    );
    world.sh("ip -n red link del eth0; ip -n red link add eth0 type bridge");
    Ask::new("ADD").fails(&config(json!({"id": 300})), 100, &["eth0 is no veth"]);
    assert_eq!(world.pins(), [""; 0]);
}

#[test]
fn an_address_that_the_runtime_hears_of_and_the_workload_lacks_is_an_error() {
    let Some(world) = with_red() else { return };
    let mut config = config(json!({"id": 300}));
    config["prevResult"]["ips"][0]["address"] = json!("10.1.0.99/24");
    Ask::new("ADD").fails(&config, 100, &["eth0", "10.1.0.99", "by the runtime's word"]);
    assert_eq!(world.pins(), [""; 0]);
    // An address of another device is none of this one.
    config["prevResult"]["ips"][0]["interface"] = json!(0);
    Ask::new("ADD").succeeds(&config);
    // What the endpoint is given by hand, too.
    config["prevResult"]["ips"][0]["interface"] = json!(1);
    config["options"] = json!({"ip": ["10.1.0.0/24", "from-netns"]});
    Ask::new("ADD").succeeds(&config);
}

#[test]
fn the_namespace_is_there_and_is_the_containers_own() {
    let Some(world) = with_red() else { return };
    let config = config(json!({"id": 300}));
    for (path, words) in [
        ("/run/netns/green", &["CNI_NETNS /run/netns/green", "No such file"][..]),
        ("/etc/passwd", &["CNI_NETNS /etc/passwd"]),
        ("/proc/self/ns/net", &["CNI_NETNS /proc/self/ns/net", "of the plugin"]),
    ] {
        Ask::new("ADD").with("CNI_NETNS", path).fails(&config, 4, words);
    }
    assert_eq!(world.pins(), [""; 0]);
}

#[test]
fn another_add_gives_what_is_said_now() {
    let Some(world) = with_red() else { return };
    for (id, rule) in [(300, "allow egress to any udp/53"), (301, "allow ingress from any")] {
        let config = config(json!({"id": id, "rules": [rule]}));
        assert_eq!(Ask::new("ADD").succeeds(&config), Some(result_of("1.0.0", 1)));
        assert_eq!(world.status("red")["identity"], id);
        let rules = world.cilmark_json("policy list red");
        let text = rules.to_string();
        assert!(text.contains(rule) && text.matches("allow").count() == 1, "{text}");
    }
    assert_eq!(attached(&world), ["red"]);
}

#[test]
fn each_device_of_a_container_is_an_attachment_of_its_own() {
    let Some(world) = with_red() else { return };
    world.sh("ip link add second type veth peer name net1 netns red
              ip link set second up
              ip -n red addr add 10.9.0.10/24 dev net1
              ip -n red link set net1 up");
    Ask::new("ADD").succeeds(&config(json!({"id": 300})));
    let second = json!({
        "cniVersion": "1.0.0", "name": "other", "type": "cilmark-cni", "id": 301,
        "prevResult": {"cniVersion": "1.0.0", "ips": [{"address": "10.9.0.10/24"}]},
    });
    Ask::new("ADD").with("CNI_IFNAME", "net1").succeeds(&second);
    assert_eq!(
        (&world.status("red")["identity"], &world.status("second")["identity"]),
        (&json!(300), &json!(301))
    );
    Ask::new("DEL").with("CNI_IFNAME", "net1").succeeds(&second);
    assert_eq!(attached(&world), ["red"]);
}

#[test]
fn containers_may_come_and_go_at_the_same_time() {
    let Some(world) = World::new() else { return };
    let names: Vec<String> = (1..=8).map(|number| format!("c{number}")).collect();
    for (name, number) in names.iter().zip(1..) {
        world.workload(name, number);
    }
    let all_at_once = |command: &str| {
        let children: Vec<Child> = names
            .iter()
            .zip(1..)
            .map(|(name, number)| {
                let config = config_in("1.1.0", number, json!({"id": 300 + u32::from(number)}));
                Ask::of(command, name).start(config.to_string().as_bytes())
            })
            .collect();
        for child in children {
            let run = Run::from(child.wait_with_output().expect("wait"));
            assert_eq!(run.status, Some(0), "{run:?}");
        }
    };
    all_at_once("ADD");
    for (name, number) in names.iter().zip(1..) {
        let status = world.status(name);
        assert_eq!(status["identity"], 300 + number, "{name}");
        assert_eq!(status["ips"][0], format!("10.{number}.0.10"), "{name}");
    }
    all_at_once("DEL");
    assert_eq!(world.pins(), [""; 0]);
}
