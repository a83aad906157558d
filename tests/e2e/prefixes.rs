//! Workloads that make their own addresses in a prefix of theirs.

use super::drops;
use crate::common::World;
use crate::common::traffic::{arrives, is_lost, ping, tcp, udp};
use crate::common::world::wait_for;

/// `red` and `blue` with a router between them, each attached with its networks, in which the router has addresses.
fn owners(options: &str) -> Option<World> {
    let world = World::new()?;
    world.workload("red", 1);
    world.workload("blue", 2);
    world.cilmark_ok(&format!("attach red --id 1234 --ip 10.1.0.0/24 fd00:1::/64 {options}"));
    world.cilmark_ok(&format!("attach blue --id 199472 --ip 10.2.0.0/24 fd00:2::/64 {options}"));
    Some(world)
}

/// The addresses that a guest of `red` has made with privacy extensions.
fn temporary(world: &World) -> Vec<String> {
    let shown = world.sh("ip -n red -6 -o addr show dev eth0 temporary -tentative");
    let addresses = shown.lines().filter_map(|line| line.split_whitespace().nth(3));
    addresses.map(|it| it.split('/').next().unwrap().to_owned()).collect()
}

#[test]
fn a_guest_that_makes_its_own_addresses_is_held_to_its_prefix() {
    let Some(world) = owners("") else { return };
    let before = drops(&world, 132);
    // The kernel makes the address itself, and looks for a duplicate before it uses it.
    world.sh("ip netns exec red sysctl -qw net.ipv6.conf.eth0.use_tempaddr=2
         ip netns exec red sysctl -qw net.ipv6.conf.eth0.accept_dad=1 net.ipv6.conf.eth0.dad_transmits=1
         ip netns exec red sysctl -qw net.ipv6.neigh.eth0.retrans_time_ms=50
         ip -n red addr add fd00:1::5054:ff:fe12:3456/64 dev eth0 mngtmpaddr valid_lft 3600 preferred_lft 1800
         ip -n red addr add 10.1.0.77/24 dev eth0");
    wait_for("a temporary address", || !temporary(&world).is_empty());
    wait_for("all to be certain of their addresses", || {
        world.sh("ip -n red -6 addr show dev eth0 tentative").is_empty()
    });
    let mut own = temporary(&world);
    own.extend(
        ["fd00:1::5054:ff:fe12:3456", "fd00:1::10", "10.1.0.10", "10.1.0.77"].map(str::to_owned),
    );
    for own in &own {
        let (router, blue) = match own.contains(':') {
            true => ("fd00:1::1", "fd00:2::10"),
            false => ("10.1.0.1", "10.2.0.10"),
        };
        ping(&world, "red", &format!("-I {own} {router}"));
        ping(&world, "red", &format!("-I {own} -s 4000 {blue}"));
        // And back.
        ping(&world, "blue", own);
        tcp(&world, "blue", "red", own);
    }
    assert_eq!(drops(&world, 132), before);
    world.sh("ip -n red addr add fd00:1:0:1::10/64 dev eth0 nodad; ip -n red addr add 10.1.1.10/24 dev eth0");
    for (foreign, blue, any) in
        [("[fd00:1:0:1::10]:0", "fd00:2::10", "[::]:0"), ("10.1.1.10:0", "10.2.0.10", "0.0.0.0:0")]
    {
        is_lost(&udp(&world, "red", foreign), &udp(&world, "blue", any), blue);
    }
    assert!(drops(&world, 132) > before);
}

#[test]
fn what_comes_from_a_prefix_has_its_workloads_identity() {
    let Some(world) = owners("--policy enforce") else { return };
    world.sh(
        "ip -n red addr add fd00:1::77/64 dev eth0 nodad; ip -n red addr add 10.1.0.77/24 dev eth0",
    );
    world.cilmark_ok("policy add red allow egress to 199472 udp");
    world.cilmark_ok("policy add blue allow ingress from 1234 udp");
    for (own, any, address) in
        [("[fd00:1::77]:0", "[::]:0", "fd00:2::10"), ("10.1.0.77:0", "0.0.0.0:0", "10.2.0.10")]
    {
        let (red, blue) = (udp(&world, "red", own), udp(&world, "blue", any));
        arrives(&red, &blue, address);
        // The router in the middle has an address in the prefix, and is no part of what the rule is about.
        let router = udp(&world, crate::common::traffic::HOST, any);
        is_lost(&red, &router, if any.contains(':') { "fd00:2::1" } else { "10.2.0.1" });
    }
    // Who has the address alone is nobody.
    world.cilmark_ok("detach red");
    world.cilmark_ok("ipcache set 10.1.0.77 1234");
    let (red, blue) = (udp(&world, "red", "10.1.0.77:0"), udp(&world, "blue", "0.0.0.0:0"));
    arrives(&red, &blue, "10.2.0.10");
    world.cilmark_ok("ipcache del 10.1.0.77");
    is_lost(&red, &blue, "10.2.0.10");
}

/// By the stack, which sees both halves of each connection: to its conntrack nothing is out of order.
#[test]
fn local_delivery_leaves_prefixes_to_the_stack_in_both_directions() {
    let Some(world) = owners("--local-delivery") else { return };
    world.workload("green", 3);
    world.cilmark_ok("attach green --id 300 --ip 10.3.0.10 fd00:3::10 --local-delivery");
    world.sh("nft add table inet t
         nft 'add chain inet t f { type filter hook forward priority 0; policy accept; }'
         nft add rule inet t f ct state invalid counter drop");
    for (name, number) in [("red", 1), ("green", 3)] {
        let other = if name == "red" { "green" } else { "red" };
        for address in [format!("10.{number}.0.10"), format!("fd00:{number}::10")] {
            tcp(&world, other, name, &address);
            ping(&world, other, &address);
        }
    }
    assert!(world.sh("nft list table inet t").contains("packets 0"));
}
