//! A workload on a bridge of its host: each address of the host is the host, by whatever name.

use super::{CLOSED, OPEN};
use crate::common::World;
use crate::common::traffic::{Connection, HOST, cannot_connect, is_unanswered, listen, ping};
use crate::e2e::bridge::bridged;

/// Those of the bridge, and of a NIC.
const HOSTS: [&str; 4] = ["10.9.0.1", "fd00:9::1", "10.5.0.1", "fd00:5::1"];
/// A neighbour on the bridge, and the world behind the NIC.
const NEIGHBOUR: [&str; 2] = ["10.9.0.2", "fd00:9::2"];
const WORLD: [&str; 2] = ["10.5.0.10", "fd00:5::10"];

/// `blue` on the bridge of a host with the NIC `wire`, which has no policy.
fn host(forwarding: usize) -> Option<World> {
    let world = bridged()?;
    world.workload("wire", 5);
    world.sh(&format!(
        "ip -n blue addr del 10.3.0.10/24 dev eth0; ip -n blue addr del fd00:3::10/64 dev eth0
         ip -n blue route replace default via 10.9.0.1
         ip -n blue -6 route replace default via fd00:9::1
         ip route add default via 10.5.0.10; ip -6 route add default via fd00:5::10
         sysctl -qw net.ipv4.ip_forward={forwarding} net.ipv6.conf.all.forwarding={forwarding}"
    ));
    world.cilmark_ok("attach wire --role netdev");
    world.cilmark_ok("attach blue --id 1234 --ip 10.9.0.3 fd00:9::3 --policy enforce");
    Some(world)
}

#[test]
fn a_denied_host_is_denied_by_each_of_its_addresses_and_the_world_is_not() {
    for forwarding in [0, 1] {
        let Some(world) = host(forwarding) else { return };
        world.cilmark_ok(
            "policy add blue allow egress to world deny egress to host allow ingress from any",
        );
        let servers = [HOST, "red", "wire"].map(|namespace| listen(&world, namespace, CLOSED));
        for host in &HOSTS[..2 + 2 * forwarding] {
            cannot_connect(&world, "blue", host, CLOSED);
        }
        is_unanswered(&world, "blue", HOSTS[forwarding]);
        let beyond = WORLD.into_iter().filter(|_| forwarding == 1).map(|far| (&servers[2], far));
        for (server, address) in NEIGHBOUR.map(|near| (&servers[1], near)).into_iter().chain(beyond)
        {
            let connection = Connection::open(&world, "blue", server, address);
            connection.works();
            ping(&world, "blue", address);
            world.cilmark_ok("ipcache set 192.0.2.1 77");
            connection.works();
        }
        // The host itself may begin, and gets its answers.
        let server = listen(&world, "blue", OPEN);
        for address in ["10.9.0.3", "fd00:9::3"] {
            Connection::open(&world, HOST, &server, address).works();
            ping(&world, HOST, address);
        }
    }
}

#[test]
fn an_allowed_host_is_reached_by_each_of_its_addresses_and_the_world_is_not() {
    for forwarding in [0, 1] {
        let Some(world) = host(forwarding) else { return };
        world.cilmark_ok("policy add blue allow egress to host");
        let servers = [HOST, "red", "wire"].map(|namespace| listen(&world, namespace, CLOSED));
        let mut open = Vec::new();
        for host in HOSTS {
            open.push(Connection::open(&world, "blue", &servers[0], host));
            open.last().unwrap().works();
            ping(&world, "blue", host);
        }
        cannot_connect(&world, "blue", NEIGHBOUR[forwarding], CLOSED);
        cannot_connect(&world, "blue", WORLD[forwarding], CLOSED);
        world.cilmark_ok("policy add blue allow egress to world deny egress to host");
        open[forwarding].is_cut();
    }
}
