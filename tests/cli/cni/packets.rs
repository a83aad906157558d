//! Packets: a workload has its identity and its rules before it sends anything.

use serde_json::{Value, json};

use super::{Ask, config, config_in, with_red};
use crate::common::World;
use crate::common::traffic::{arrives, is_lost, udp};

/// Of identity 1234.
const RED: u32 = 0x04d2_0f00;

/// How many datagrams of `red` with the mark of identity 1234, and with any other, this host has got to route.
fn datagrams(world: &World) -> [u64; 2] {
    let list = world.sh("nft -j list chain inet t seen");
    let list: Value = serde_json::from_str(&list).expect("JSON of nft");
    let rules = list["nftables"].as_array().expect("a list").iter().filter_map(|it| it.get("rule"));
    let counts = rules.flat_map(|rule| rule["expr"].as_array().expect("expressions"));
    let counts: Vec<u64> = counts.filter_map(|it| it.get("counter")?["packets"].as_u64()).collect();
    counts.try_into().expect("two counters")
}

#[test]
fn the_first_packet_after_add_carries_the_identity_and_obeys_the_rules() {
    let Some(world) = with_red() else { return };
    world.workload("blue", 2);
    world.sh(&format!(
        "nft add table inet t
         nft add chain inet t seen '{{ type filter hook prerouting priority raw; }}'
         nft add rule inet t seen iif red meta l4proto udp meta mark {RED:#x} counter
         nft add rule inet t seen iif red meta l4proto udp meta mark != {RED:#x} counter"
    ));
    let (allowed, other) =
        (udp(&world, "blue", "10.2.0.10:5353"), udp(&world, "blue", "10.2.0.10:5354"));
    let config =
        config(json!({"id": 1234, "policy": "enforce", "rules": ["allow egress to any udp/5353"]}));
    Ask::new("ADD").succeeds(&config);
    let red = udp(&world, "red", "10.1.0.10:0");
    is_lost(&red, &other, "10.2.0.10");
    assert_eq!(datagrams(&world), [0, 0], "one against the rules");
    assert_eq!(arrives(&red, &allowed, "10.2.0.10").ip().to_string(), "10.1.0.10");
    assert_eq!(datagrams(&world), [1, 0], "the first one");
    let asked = udp(&world, "red", "10.1.0.10:0");
    is_lost(&allowed, &asked, "10.1.0.10");

    Ask::new("DEL").succeeds(&config);
    arrives(&red, &other, "10.2.0.10");
    arrives(&allowed, &asked, "10.1.0.10");
    assert_eq!(datagrams(&world), [1, 1], "nothing is left of it");
}

#[test]
fn workloads_know_each_other_by_identity_from_the_first_packet() {
    let Some(world) = with_red() else { return };
    for (name, number, keys) in [
        ("red", 1, json!({"id": 1234})),
        (
            "blue",
            2,
            json!({"id": 300, "policy": "enforce", "rules": ["allow ingress from 1234 udp/5353"]}),
        ),
        ("green", 3, json!({"id": 301})),
    ] {
        if name != "red" {
            world.workload(name, number);
        }
        Ask::of("ADD", name).succeeds(&config_in("1.1.0", number, keys));
    }
    let blue = udp(&world, "blue", "[fd00:2::10]:5353");
    is_lost(&udp(&world, "green", "[fd00:3::10]:0"), &blue, "fd00:2::10");
    arrives(&udp(&world, "red", "[fd00:1::10]:0"), &blue, "fd00:2::10");
}
