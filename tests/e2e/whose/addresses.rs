//! Addresses and MACs that are not what they were when the NIC was attached.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::str::FromStr;

use super::{CLOSED, NIC, OPEN, answers_on, device, enforce, opened, port};
use crate::common::World;
use crate::common::traffic::{
    Connection, HOST, any, arrives, cannot_connect, is_lost, listen, udp,
};
use crate::common::wire::{Wire, mac};
use crate::e2e::bridge::bridged;

/// An address of the host's that a failover takes away, by family.
const VIP: [&str; 2] = ["10.1.0.100", "fd00:1::100"];

/// Now a namespace has it.
fn move_vip(world: &World, to: &str) {
    let [v4, v6] = VIP;
    world.sh(&format!(
        "ip addr del {v4}/32 dev red; ip addr del {v6}/128 dev red
         ip -n {to} addr add {v4}/32 dev eth0; ip -n {to} addr add {v6}/128 dev eth0 nodad"
    ));
}

/// Who has it now sends from it.
fn bound(world: &World, vip: &str) -> UdpSocket {
    let address = IpAddr::from_str(vip).expect("an address");
    udp(world, "red", &SocketAddr::new(address, 0).to_string())
}

fn host_with_vip(forwarding: u8) -> Option<World> {
    let world = World::new()?;
    world.workload("red", 1);
    world.sh(&format!(
        "ip addr add {}/32 dev red; ip addr add {}/128 dev red nodad
         sysctl -qw net.ipv4.ip_forward={forwarding} net.ipv6.conf.all.forwarding={forwarding}",
        VIP[0], VIP[1]
    ));
    world.cilmark_ok(&format!("attach red {NIC}"));
    Some(world)
}

#[test]
fn an_address_that_has_moved_away_is_the_worlds() {
    for forwarding in [0, 1] {
        let Some(world) = host_with_vip(forwarding) else { return };
        world.cilmark_ok("policy add red allow egress to world allow ingress from world tcp/80 deny ingress from host --yes");
        let servers = [listen(&world, HOST, 80), listen(&world, "red", 80)];
        for vip in VIP {
            Connection::open(&world, "red", &servers[0], vip).works();
            cannot_connect(&world, "red", vip, 81);
        }
        move_vip(&world, "red");
        for (vip, host) in VIP.into_iter().zip(["10.1.0.1", "fd00:1::1"]) {
            Connection::open(&world, HOST, &servers[1], vip).works();
            let (from, to) = (bound(&world, vip), port(&world, CLOSED));
            is_lost(&from, &to, host);
            world.cilmark_ok("policy add red allow ingress from world udp/9000 --yes");
            assert_eq!(arrives(&from, &to, host).ip().to_string(), mapped(vip));
            world.cilmark_ok("policy del red allow ingress from world udp/9000 --yes");
        }
    }
}

/// As a socket of both families names an address.
fn mapped(address: &str) -> String {
    if address.contains(':') { address.to_owned() } else { format!("::ffff:{address}") }
}

#[test]
fn it_has_the_identity_of_the_prefix_that_covers_it() {
    let Some(world) = host_with_vip(1) else { return };
    world.cilmark_ok("ipcache set 10.1.0.0/24 666");
    world.cilmark_ok("ipcache set fd00:1::/64 666");
    world.cilmark_ok("policy add red allow egress to 666 allow ingress from 666 udp/9000 --yes");
    move_vip(&world, "red");
    let here = port(&world, CLOSED);
    for (vip, host) in VIP.into_iter().zip(["10.1.0.1", "fd00:1::1"]) {
        let there = bound(&world, vip);
        arrives(&there, &here, host);
        let there = bound(&world, vip);
        arrives(&udp(&world, HOST, any(vip)), &there, vip);
    }
    world.cilmark_ok("policy add red deny egress to 666 deny ingress from 666 --yes");
    for (vip, host) in VIP.into_iter().zip(["10.1.0.1", "fd00:1::1"]) {
        let there = bound(&world, vip);
        is_lost(&there, &here, host);
        is_lost(&udp(&world, HOST, any(vip)), &there, vip);
    }
}

#[test]
fn what_comes_for_an_address_that_has_moved_behind_the_host_is_forwarded() {
    let Some(world) = host_with_vip(1) else { return };
    world.workload("blue", 2);
    let server = listen(&world, "blue", 80);
    for vip in VIP {
        cannot_connect(&world, "red", vip, 80);
    }
    move_vip(&world, "blue");
    world.sh("ip route add 10.1.0.100 via 10.2.0.10
              ip -6 route add fd00:1::100 via fd00:2::10
              ip -n red route add 10.1.0.100 via 10.1.0.1
              ip -n red -6 route add fd00:1::100 via fd00:1::1
              ip -n red neigh flush all");
    for vip in VIP {
        Connection::open(&world, "red", &server, vip).works();
    }
    // The host is what it was.
    for host in ["10.1.0.1", "fd00:1::1"] {
        cannot_connect(&world, "red", host, 80);
    }
}

const BRIDGE: [[&str; 2]; 2] = [["10.9.0.2", "10.9.0.1"], ["fd00:9::2", "fd00:9::1"]];

fn forwarding(world: &World, on: u8) {
    world.sh(&format!("sysctl -qw net.ipv4.ip_forward={on} net.ipv6.conf.all.forwarding={on}"));
}

#[test]
fn a_bridge_that_takes_another_mac_stays_closed() {
    for on in [0, 1] {
        let Some(world) = bridged() else { return };
        forwarding(&world, on);
        let ports = [OPEN, CLOSED].map(|number| port(&world, number));
        let mut red = device(&world, "red", "bridge");
        for ends in BRIDGE {
            assert!(opened(&red, ends, &ports));
        }
        enforce(&world, "red", "");
        world.sh("ip link set bridge address 02:00:00:00:00:ab");
        red.to[5] = 0xab;
        for ends in BRIDGE {
            assert!(!opened(&red, ends, &ports), "forwarding {on}: {ends:?}");
        }
        // And hands on what is for others.
        arrives(&udp(&world, "red", "0.0.0.0:0"), &udp(&world, "blue", "0.0.0.0:0"), "10.9.0.3");
    }
}

#[test]
fn a_nic_that_becomes_a_port_of_a_bridge_stays_closed() {
    for on in [0, 1] {
        let Some(world) = World::new() else { return };
        world.workload("red", 1);
        world.sh("ip link add bridge address 02:00:00:00:00:aa type bridge
                  ip addr add 10.9.0.1/24 dev bridge
                  ip addr add fd00:9::1/64 dev bridge nodad
                  ip -n red addr add 10.9.0.2/24 dev eth0
                  ip -n red addr add fd00:9::2/64 dev eth0 nodad
                  ip link set bridge up");
        answers_on(&world, "fd00:9::1");
        forwarding(&world, on);
        let ports = [OPEN, CLOSED].map(|number| port(&world, number));
        let red = device(&world, "red", "bridge");
        enforce(&world, "red", "");
        world.sh("ip link set red master bridge");
        for ends in BRIDGE {
            assert!(!opened(&red, ends, &ports), "forwarding {on}: {ends:?}");
        }
        world.cilmark_ok("detach red");
        for ends in BRIDGE {
            assert!(opened(&red, ends, &ports), "forwarding {on}: {ends:?}");
        }
    }
}

/// By its own MAC, which is not the NIC's; with an address that it had when the NIC was attached, or got later.
fn a_macvlan_is_closed(routes: &str, cases: &[(u8, bool)]) {
    for (on, is_later) in cases.iter().copied() {
        let Some(world) = World::new() else { return };
        world.workload("red", 1);
        world.sh("ip link add child link red type macvlan mode bridge && ip link set child up");
        world.sh(routes);
        let ports = [OPEN, CLOSED].map(|number| port(&world, number));
        let child = "ip addr add 10.1.0.7/32 dev child; ip addr add fd00:1::7/128 dev child nodad";
        let red = Wire::open(&world, "red", "eth0", mac(&world, HOST, "child"));
        let ends = [["10.1.0.10", "10.1.0.7"], ["fd00:1::10", "fd00:1::7"]];
        forwarding(&world, on);
        let add = || {
            world.sh(child);
            answers_on(&world, "fd00:1::7");
        };
        if !is_later {
            add();
        }
        enforce(&world, "red", "");
        if is_later {
            add();
        }
        for ends in ends {
            assert!(!opened(&red, ends, &ports), "forwarding {on}, later {is_later}: {ends:?}");
        }
        world.cilmark_ok("policy add red allow ingress from any --yes");
        for ends in ends {
            assert!(opened(&red, ends, &ports), "forwarding {on}, later {is_later}: {ends:?}");
        }
    }
}

const DEFAULT_ROUTE: &str = "ip route add default via 10.1.0.10";

#[test]
fn a_macvlan_of_the_hosts_own_is_behind_its_nics_policy() {
    a_macvlan_is_closed(DEFAULT_ROUTE, &[(0, false), (1, false), (1, true)]);
}
