//! docs/recipes/ip-rule.md.

use std::net::UdpSocket;

use super::{paste_section, twice_is_undone, uplink};
use crate::common::World;
use crate::common::process::{Running, text};
use crate::common::traffic::{HOST, any, arrives, is_lost, ping, tcp, udp};
use crate::common::world::wait_for;

const PAGE: &str = include_str!("../../docs/recipes/ip-rule.md");

/// An address that is reached by both ways, and so tells by which.
const FAR: [&str; 2] = ["203.0.113.9", "2001:db8:9::9"];

/// A host with strict reverse path filtering. The other end of wg0, which is a tun, is the namespace `wg0`, and knows no
/// workload.
fn host() -> Option<(World, [Running; 2])> {
    let world = World::new()?;
    uplink(&world);
    for (name, number) in [("veth-web", 1), ("veth-db", 2)] {
        world.workload(name, number);
    }
    let tunnel = world.machine("wg0", 3, "tun");
    world.sh("sysctl -qw net.ipv4.conf.all.rp_filter=1
         for way in outside wg0; do
             ip -n $way addr add 203.0.113.9/32 dev lo
             ip -n $way addr add 2001:db8:9::9/128 dev lo nodad
         done
         ip -n wg0 route del default; ip -n wg0 -6 route del default");
    Some((world, tunnel))
}

/// The same, whose workload web is set up as the page says.
fn set_up() -> Option<(World, [Running; 2])> {
    let (world, tunnel) = host()?;
    paste_section(&world, PAGE, "## Set it up");
    Some((world, tunnel))
}

/// The far address, at the end of each way.
fn ends(world: &World, address: &str) -> [UdpSocket; 2] {
    let bound =
        if address.contains(':') { format!("[{address}]:9") } else { format!("{address}:9") };
    ["wg0", "outside"].map(|way| udp(world, way, &bound))
}

#[test]
fn one_identity_leaves_by_the_vpn_and_gets_its_answers_and_all_else_by_the_nic_by_pasting() {
    let Some((world, _tunnel)) = set_up() else { return };
    for family in [0, 1] {
        let far = FAR[family];
        let [by_vpn, by_nic] = ends(&world, far);
        let web = udp(&world, "veth-web", any(far));
        let seen = arrives(&web, &by_vpn, far);
        assert_eq!(seen.ip().to_string(), ["10.3.0.1", "fd00:3::1"][family]);
        by_vpn.send_to(b"hello", seen).expect("answer");
        assert_eq!(web.recv(&mut [0; 16]).expect("the answer arrives"), 5);
        tcp(&world, "veth-web", "wg0", far);
        for other in ["veth-db", HOST] {
            arrives(&udp(&world, other, any(far)), &by_nic, far);
        }
        // Other workloads and this host are where they were.
        ping(&world, "veth-web", ["10.2.0.10", "fd00:2::10"][family]);
        ping(&world, "veth-web", ["10.1.0.1", "fd00:1::1"][family]);
        tcp(&world, "veth-db", "veth-web", ["10.1.0.10", "fd00:1::10"][family]);
    }
    let printed = paste_section(&world, PAGE, "## What you see");
    assert_eq!(printed.matches("dev wg0 table 100").count(), 2, "{printed}");
    assert_eq!(printed.matches("via 198.51.100.1 dev eth0").count(), 1, "{printed}");

    paste_section(&world, PAGE, "## To undo it");
    assert_eq!(world.sh("nft list ruleset; ip rule show pref 1001; ip -6 rule show pref 1001"), "");
    assert_eq!(world.pins(), [] as [String; 0]);
    for far in FAR {
        let [_, by_nic] = ends(&world, far);
        arrives(&udp(&world, "veth-web", any(far)), &by_nic, far);
    }
}

#[test]
fn while_the_vpn_is_down_or_gone_nothing_of_the_identity_leaves() {
    let Some((world, tunnel)) = set_up() else { return };
    let leaks_nothing = || {
        for far in FAR {
            let [_, by_nic] = ends(&world, far);
            is_lost(&udp(&world, "veth-web", any(far)), &by_nic, far);
            arrives(&udp(&world, "veth-db", any(far)), &by_nic, far);
        }
    };
    world.sh("ip link set wg0 down");
    for far in FAR {
        let ping = || world.try_sh(&format!("ping -c 1 -W 20 {far}")).stdout;
        let told = text(&world.inside("veth-web", ping)).to_lowercase();
        assert!(told.contains("unreachable") || told.contains("no route"), "{told}");
    }
    leaks_nothing();
    drop(tunnel);
    wait_for("the device to go", || !world.try_sh("ip link show dev wg0").status.success());
    leaks_nothing();
}

#[test]
fn a_host_whose_reverse_path_filter_asks_by_the_mark_lets_the_workload_send() {
    let Some((world, _tunnel)) = set_up() else { return };
    world.sh("sysctl -qw net.ipv4.conf.all.src_valid_mark=1");
    let (web, [by_vpn, _]) = (udp(&world, "veth-web", "0.0.0.0:0"), ends(&world, FAR[0]));
    arrives(&web, &by_vpn, FAR[0]);
    world.sh("ip rule del pref 1000");
    is_lost(&web, &by_vpn, FAR[0]);
    world.sh("ip route add 10.1.0.0/24 dev veth-web table 100");
    arrives(&web, &by_vpn, FAR[0]);
}

#[test]
fn pasted_twice_it_is_undone_all_the_same() {
    let Some((world, _tunnel)) = host() else { return };
    twice_is_undone(&world, PAGE, &["## Set it up"]);
}
