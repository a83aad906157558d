//! docs/recipes/two-nic-router.md.

use super::{OUTSIDE, paste_on, paste_section, twice_is_undone};
use crate::common::World;
use crate::common::traffic::{Connection, HOST, cannot_connect, is_unanswered, listen, ping};
use crate::common::world::wait_for;

const PAGE: &str = include_str!("../../docs/recipes/two-nic-router.md");

/// Addresses of the router at wan0 and at lan0.
const WAN: [&str; 2] = ["198.51.100.2", "2001:db8:100::2"];
const LAN: [&str; 2] = ["192.168.7.1", "2001:db8:7::1"];
/// The server of the page, and a guest.
const SERVER: [&str; 2] = ["192.168.7.10", "2001:db8:7::10"];
const GUEST: [&str; 2] = ["192.168.7.200", "2001:db8:7::8000:200"];

/// A router whose LAN is a bridge with two hosts, before anything of the page.
fn router() -> Option<World> {
    let world = World::new()?;
    world.sh("mount -t tmpfs etc /etc");
    world.sh(&format!(
        "sysctl -qw net.ipv6.conf.default.accept_dad=0
         ip netns add outside
         ip link add wan0 type veth peer name eth0 netns outside
         ip link add name lan0 type bridge
         ip addr add {}/24 dev wan0; ip addr add {}/64 dev wan0 nodad
         ip addr add {}/24 dev lan0; ip addr add {}/64 dev lan0 nodad
         ip link set wan0 up; ip link set lan0 up
         ip -n outside addr add {}/24 dev eth0; ip -n outside addr add {}/64 dev eth0 nodad
         ip -n outside link set lo up; ip -n outside link set eth0 up
         ip route add default via {4}; ip -6 route add default via {5}
         ip -n outside -6 route add 2001:db8:7::/64 via {1}",
        WAN[0], WAN[1], LAN[0], LAN[1], OUTSIDE[0], OUTSIDE[1]
    ));
    for (name, [v4, v6]) in [("server", SERVER), ("guest", GUEST)] {
        world.sh(&format!(
            "ip netns add {name}
             ip link add {name} type veth peer name eth0 netns {name}
             ip link set {name} master lan0 up
             ip -n {name} addr add {v4}/24 dev eth0; ip -n {name} addr add {v6}/64 dev eth0 nodad
             ip -n {name} link set lo up; ip -n {name} link set eth0 up
             ip -n {name} route add default via {}; ip -n {name} -6 route add default via {}",
            LAN[0], LAN[1]
        ));
    }
    let ends = "ip -br link; ip -n outside -br link; ip -n server -br link; ip -n guest -br link";
    wait_for("the carrier", || world.sh(ends).matches(" UP ").count() == 7);
    Some(world)
}

#[test]
fn the_router_is_closed_outside_and_forwards_by_identity() {
    let Some(world) = router() else { return };
    paste_section(&world, PAGE, "## Set it up");
    for device in ["wan0", "lan0"] {
        let status = world.status(device);
        assert_eq!(status["ingress_policy"], "enforce", "{status}");
        assert!(status["confirm_deadline"].is_null(), "{status}");
    }
    let [ssh, dns, _other] = [22, 53, 8080].map(|port| listen(&world, HOST, port));
    let published = listen(&world, "server", 443);
    let _closed = listen(&world, "server", 22);
    let [web, mail] = [80, 25].map(|port| listen(&world, "outside", port));
    for family in [0, 1] {
        // From outside: an echo, and the published port.
        ping(&world, "outside", WAN[family]);
        for port in [22, 53, 8080] {
            cannot_connect(&world, "outside", WAN[family], port);
        }
        let at = [WAN[0], SERVER[1]][family];
        Connection::open(&world, "outside", &published, at).works();
        // The LAN itself, which only nftables keeps closed.
        cannot_connect(&world, "outside", at, 22);
        // The LAN to the router.
        Connection::open(&world, "server", &ssh, LAN[family]).works();
        Connection::open(&world, "server", &dns, LAN[family]).works();
        cannot_connect(&world, "server", LAN[family], 8080);
        Connection::open(&world, "guest", &dns, LAN[family]).works();
        cannot_connect(&world, "guest", LAN[family], 22);
        is_unanswered(&world, "guest", LAN[family]);
        // The LAN to the world.
        let asked = Connection::open(&world, "server", &mail, OUTSIDE[family]);
        asked.works();
        let seen = asked.server.peer_addr().expect("an address").ip().to_canonical().to_string();
        assert_eq!(seen, [WAN[0], SERVER[1]][family]);
        Connection::open(&world, "guest", &web, OUTSIDE[family]).works();
        cannot_connect(&world, "guest", OUTSIDE[family], 25);
        // The router itself.
        Connection::open(&world, HOST, &web, OUTSIDE[family]).works();
    }
    let seen = paste_section(&world, PAGE, "## What you see");
    assert!(seen.contains("allow ingress from world tcp/443"), "{seen}");
    assert!(world.status("wan0")["drops"].as_u64().expect("a number") > 0);
}

#[test]
fn undone_the_router_is_as_it_was() {
    let Some(world) = router() else { return };
    paste_section(&world, PAGE, "## Set it up");
    let other = listen(&world, HOST, 8080);
    cannot_connect(&world, "outside", WAN[0], 8080);
    paste_section(&world, PAGE, "## To undo it");
    assert_eq!(world.pins(), [] as [String; 0]);
    assert_eq!(world.sh("nft list ruleset"), "");
    Connection::open(&world, "outside", &other, WAN[0]).works();
}

#[test]
fn pasted_twice_it_is_undone_all_the_same() {
    let Some(world) = router() else { return };
    twice_is_undone(&world, PAGE, &["## Set it up"]);
}

#[test]
fn nothing_is_forwarded_where_nftables_does_not_filter() {
    let Some(world) = router() else { return };
    // Pages are pasted on where a line fails.
    world.sh("mount --bind /bin/false \"$(command -v nft)\"");
    paste_on(&world, PAGE, "## Set it up");
    let forwards = world.sh("sysctl -n net.ipv4.ip_forward net.ipv6.conf.all.forwarding");
    assert_eq!(forwards, "0\n0\n");
}
