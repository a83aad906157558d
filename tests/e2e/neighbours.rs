//! Neighbours find each other, but nobody speaks for others: ARP, neighbour discovery, duplicate
//! address detection, and the ARP responder.

use super::{drops, red_and_blue};
use crate::common::World;
use crate::common::traffic::ping;
use crate::common::world::wait_for;

/// The flags of an IPv6 address, as `ip` shows them.
fn flags(world: &World, namespace: &str, address: &str) -> String {
    let ip = if namespace.is_empty() { "ip".to_owned() } else { format!("ip -n {namespace}") };
    world.sh(&format!("{ip} -o -6 addr show to {address}"))
}

#[test]
fn both_sides_resolve_each_other_from_scratch() {
    let Some(world) = red_and_blue("") else { return };
    for to in ["10.2.0.10", "fd00:2::10"] {
        world.sh("for n in red blue; do ip -n $n neigh flush all; done
             ip neigh flush all; ip -6 neigh flush all");
        ping(&world, "red", to);
        // From the router, whose questions the workload answers.
        world.sh("ip neigh flush all; ip -6 neigh flush all");
        ping(&world, "blue", &to.replace("10.2.", "10.1.").replace("00:2", "00:1"));
    }
}

#[test]
fn a_new_address_of_the_workload_passes_duplicate_address_detection() {
    let Some(world) = red_and_blue("") else { return };
    world.cilmark_ok("attach red --id 1234 --ip 10.1.0.10 fd00:1::10 fd00:1::20");
    world.sh("ip -n red addr add fd00:1::20/64 dev eth0");
    wait_for("the address", || !flags(&world, "red", "fd00:1::20").contains("tentative"));
    ping(&world, "red", "-I fd00:1::20 fd00:2::10");
}

#[test]
fn duplicates_of_its_own_addresses_are_detected() {
    let Some(world) = red_and_blue("") else { return };
    world.sh("sysctl -qw net.ipv6.conf.red.accept_dad=1; ip addr add fd00:1::10/64 dev red");
    wait_for("fd00:1::10 to be found taken", || {
        flags(&world, "", "fd00:1::10").contains("dadfailed")
    });
    // Nor may it deny others theirs, by asking for them.
    let before = drops(&world, 132);
    world.sh("ip -n red addr add fd00:1::1/64 dev eth0");
    wait_for("the drop", || drops(&world, 132) > before);
}

#[test]
fn a_workload_does_not_answer_for_addresses_that_are_not_its_own() {
    let Some(world) = red_and_blue("") else { return };
    world.sh("ip -n red addr add 10.1.0.77/24 dev eth0
         ip -n red addr add fd00:1::77/64 dev eth0 nodad
         sysctl -qw net.ipv4.neigh.red.retrans_time_ms=50 net.ipv6.neigh.red.retrans_time_ms=50");
    for address in ["10.1.0.77", "fd00:1::77"] {
        assert!(!world.try_sh(&format!("ping -qc 1 -W 1 {address}")).status.success());
        let neighbour = world.sh(&format!("ip neigh show {address}"));
        assert!(!neighbour.contains("lladdr"), "{neighbour}");
    }
    for address in ["10.1.0.10", "fd00:1::10"] {
        world.sh(&format!("ping -qc 1 -W 5 {address}"));
    }
}

#[test]
fn the_arp_responder_answers_for_all_but_the_workload() {
    let Some(world) = red_and_blue("") else { return };
    let mac = world.sh("cat /sys/class/net/red/address");
    // Everything is on the link, as the workload sees it.
    world.sh("ip -n red route replace default dev eth0");
    let resolved = |address: &str| {
        world.sh("ip -n red neigh flush all");
        world.try_sh(&format!("ip netns exec red ping -qc 1 -W 1 {address}"));
        world.sh(&format!("ip -n red neigh show {address}"))
    };
    world.sh("sysctl -qw net.ipv4.conf.all.proxy_arp=0 net.ipv4.conf.red.proxy_arp=0");
    assert!(!resolved("10.2.0.10").contains("lladdr"));
    let attach = "attach red --id 1234 --ip 10.1.0.10 fd00:1::10 --arp-responder";
    world.cilmark_ok(attach);
    assert!(resolved("10.2.0.10").contains(mac.trim()));
    ping(&world, "red", "10.2.0.10");
    assert!(resolved("192.0.2.1").contains(mac.trim()), "also for what is nowhere");
    world.cilmark_ok(&format!("{attach} --mac 02:00:00:00:00:07"));
    assert!(resolved("10.2.0.10").contains("02:00:00:00:00:07"));
    // Who asks whether its own address is taken hears nothing, or it would give it up.
    assert!(!resolved("10.1.0.10").contains("lladdr"));
    assert!(world.try_sh("ip netns exec red ping -qc 1 -W 1 10.1.0.10").status.success());
}
