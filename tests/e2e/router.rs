//! What a router between two workloads sees: their identities, with its own tools.

use super::{BLUE, RED, red_and_blue, traffic_both_ways};
use crate::common::World;
use crate::common::machine::by_each_hook;
use crate::common::traffic::{arrives, is_lost, udp};

#[test]
fn ping_tcp_and_udp_pass_both_ways_over_both_families() {
    by_each_hook(|hook| {
        let Some(world) = red_and_blue(&format!("--hook {hook}")) else { return };
        traffic_both_ways(&world);
        for device in ["red", "blue"] {
            let status = world.status(device);
            assert_eq!(status["drops"], 0, "{device}");
            assert!(status["packets"].as_u64().unwrap() > 50, "{device}");
        }
    });
}

/// What an nftables counter on a mark has counted.
fn counted(world: &World, mark: u32) -> u64 {
    let rules = world.sh(&format!(
        "nft -j list chain inet test forward |
         jq '[.nftables[].rule | select(. and (.expr | tostring | contains(\"{mark}\"))) |
              .expr[] | .counter.packets // empty] | add'"
    ));
    rules.trim().parse().unwrap_or_else(|_| panic!("no rule for {mark:#x}: {rules}"))
}

#[test]
fn nftables_counts_by_identity() {
    let Some(world) = red_and_blue("") else { return };
    world.sh(&format!(
        "nft add table inet test
         nft add chain inet test forward '{{ type filter hook forward priority 0; }}'
         nft add rule inet test forward 'meta mark & 0xffff0fff == {RED:#010x} counter'
         nft add rule inet test forward 'meta mark & 0xffff0fff == {BLUE:#010x} counter'"
    ));
    for (from, to, address, mark, other) in [
        ("red", "blue", "10.2.0.10", RED, BLUE),
        ("blue", "red", "10.1.0.10", BLUE, RED),
        ("red", "blue", "fd00:2::10", RED, BLUE),
        ("blue", "red", "fd00:1::10", BLUE, RED),
    ] {
        let any = if address.contains(':') { "[::]:0" } else { "0.0.0.0:0" };
        let (sender, receiver) = (udp(&world, from, any), udp(&world, to, any));
        let before = (counted(&world, mark), counted(&world, other));
        for _ in 0..5 {
            arrives(&sender, &receiver, address);
        }
        let after = (counted(&world, mark), counted(&world, other));
        assert_eq!(after, (before.0 + 5, before.1), "{from} to {address}");
    }
}

#[test]
fn ip_rule_routes_by_identity() {
    let Some(world) = red_and_blue("") else { return };
    let red = udp(&world, "red", "0.0.0.0:0");
    let blue = udp(&world, "blue", "0.0.0.0:0");
    arrives(&red, &blue, "10.2.0.10");
    world.sh(&format!(
        "ip rule add fwmark {RED:#010x}/0xffff0fff table 100
         ip route add blackhole default table 100"
    ));
    is_lost(&red, &blue, "10.2.0.10");
    arrives(&blue, &red, "10.1.0.10");
    world.cilmark_ok("attach red --id 1235 --ip 10.1.0.10 fd00:1::10");
    arrives(&red, &blue, "10.2.0.10");
}

#[test]
fn a_remote_senders_identity_is_stamped_for_nftables() {
    let Some(world) = World::new() else { return };
    world.workload("red", 1);
    world.workload("blue", 2);
    world.cilmark_ok("attach red --role netdev --stamp-remote");
    world.cilmark_ok("ipcache set 10.1.0.0/24 199472");
    world.cilmark_ok("ipcache set 10.1.0.10 1234");
    world.sh(&format!(
        "nft add table inet test
         nft add chain inet test forward '{{ type filter hook forward priority 0; }}'
         nft add rule inet test forward 'meta mark == {RED:#010x} counter'
         nft add rule inet test forward 'meta mark == {BLUE:#010x} counter'"
    ));
    let (red, blue) = (udp(&world, "red", "0.0.0.0:0"), udp(&world, "blue", "0.0.0.0:0"));
    arrives(&red, &blue, "10.2.0.10");
    assert_eq!((counted(&world, RED), counted(&world, BLUE)), (1, 0));
    world.cilmark_ok("ipcache del 10.1.0.10");
    arrives(&red, &blue, "10.2.0.10");
    assert_eq!((counted(&world, RED), counted(&world, BLUE)), (1, 1));
}
