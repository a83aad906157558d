//! What other tools see: bpftool reads the pinned maps with the names of their fields.

use serde_json::{Value, json};

use crate::common::World;

fn dump(world: &World, pin: &str) -> Vec<Value> {
    let text = world.sh(&format!("bpftool -j map dump pinned /sys/fs/bpf/cilmark/{pin}"));
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{pin}: {error} in {text}"))
}

/// The names of a struct's fields; bpftool shows a value by BTF under "formatted".
fn fields(value: &Value) -> Vec<&str> {
    let object = value.as_object().unwrap_or_else(|| panic!("no struct: {value}"));
    object.keys().map(String::as_str).collect()
}

#[test]
fn bpftool_shows_the_ipcache_and_the_endpoints_with_field_names() {
    let Some(world) = World::new() else { return };
    world.veth("red");
    world.cilmark_ok("attach red --id 300 --ip 10.0.0.1 --endpoint-id 9");
    world.cilmark_ok("ipcache set 10.0.0.0/8 301");
    let ipcache = dump(&world, "cm_ipcache");
    let entry = &ipcache[0]["formatted"];
    assert_eq!(fields(&entry["key"]), ["bytes", "family"]);
    assert_eq!(
        entry["value"],
        json!({"identity": 300, "endpoint_id": 9, "is_host": 0, "origin": 0})
    );
    assert_eq!(entry["key"]["bytes"].as_array().unwrap()[..4], [10, 0, 0, 1]);
    let cidr = &dump(&world, "cm_ipcache_cidr")[0]["formatted"];
    assert_eq!(cidr["key"]["prefixlen"], 40);
    assert_eq!(fields(&cidr["key"]), ["address", "prefixlen"]);
    assert_eq!(cidr["value"]["identity"], 301);
    let endpoint = &dump(&world, "cm_endpoints")[0]["formatted"]["value"];
    assert_eq!(fields(endpoint), ["delivery", "endpoint_id", "ifindex", "netns", "role"]);
    assert_eq!(endpoint["endpoint_id"], 9);
    let device = &dump(&world, "cm_devices")[0]["formatted"];
    assert_eq!((&device["key"], &device["value"]["name"]), (&json!(9), &json!("red")));
}

#[test]
fn bpftool_shows_names_counters_and_the_configuration_with_field_names() {
    let Some(world) = World::new() else { return };
    world.veth("red");
    world.cilmark_ok("attach red --id 300 --ip 10.0.0.1");
    world.cilmark_ok("identity set 300 db");
    let named = &dump(&world, "cm_identities")[0]["formatted"];
    assert_eq!((&named["key"], fields(&named["value"])), (&json!(300), vec!["name", "origin"]));
    let metrics = &dump(&world, "cm_metrics")[0]["formatted"];
    assert_eq!(fields(&metrics["values"][0]["value"]), ["bytes", "packets"]);
    let config = dump(&world, "endpoints/1/config").remove(0);
    let config = &config["formatted"]["value"][".rodata"][0]["config"];
    assert_eq!(config["identity"], 300);
    assert_eq!(config["identity_nb"], 300_u32.to_be());
    assert_eq!(config["ipv4"][0], u32::from_ne_bytes([10, 0, 0, 1]));
    assert_eq!(config["device"], "red");
}

#[test]
fn the_configuration_is_frozen() {
    let Some(world) = World::new() else { return };
    world.veth("red");
    world.cilmark_ok("attach red --id 300");
    let show = world.sh("bpftool -j map show pinned /sys/fs/bpf/cilmark/endpoints/1/config");
    let show: Value = serde_json::from_str(&show).unwrap();
    assert_eq!(show["frozen"], 1, "{show}");
}

#[test]
fn a_pin_has_its_maps_name() {
    let Some(world) = World::new() else { return };
    world.cilmark_ok("ipcache set 10.0.0.1 7");
    for pin in world.pins().iter().filter_map(|pin| pin.strip_prefix("cilmark/cm_")) {
        let show = world.sh(&format!("bpftool -j map show pinned /sys/fs/bpf/cilmark/cm_{pin}"));
        let show: Value = serde_json::from_str(&show).unwrap();
        assert_eq!(show["name"], format!("cm_{pin}"));
        assert!(show["name"].as_str().unwrap().len() <= 15);
    }
}
