//! A NIC that is a port of a bridge, which has a hardware address of its own.

use std::net::UdpSocket;

use crate::common::World;
use crate::common::process::PATIENCE;
use crate::common::traffic::{arrives, is_lost, udp};

/// The ports `red` and `blue` with a namespace behind each; the host has its addresses on the bridge.
pub fn bridged() -> Option<World> {
    let world = World::new()?;
    world.sh("sysctl -qw net.ipv6.conf.default.accept_dad=0
         ip link add bridge address 02:00:00:00:00:aa type bridge
         ip addr add 10.9.0.1/24 dev bridge
         ip addr add fd00:9::1/64 dev bridge nodad
         ip link set bridge up");
    for (name, number) in [("red", 2), ("blue", 3)] {
        world.workload(name, number);
        world.sh(&format!(
            "ip addr flush dev {name}
             ip link set {name} master bridge
             ip -n {name} addr add 10.9.0.{number}/24 dev eth0
             ip -n {name} addr add fd00:9::{number}/64 dev eth0 nodad"
        ));
    }
    Some(world)
}

#[test]
fn what_comes_for_the_bridge_itself_meets_the_hosts_policy() {
    for forwarding in [0, 1] {
        let Some(world) = bridged() else { return };
        world.sh(&format!("sysctl -qw net.ipv4.ip_forward={forwarding}"));
        world.cilmark_ok("attach red --role netdev --ingress-policy enforce --yes");
        let host = UdpSocket::bind("10.9.0.1:0").unwrap();
        host.set_read_timeout(Some(PATIENCE)).unwrap();
        let (red, blue) = (udp(&world, "red", "0.0.0.0:0"), udp(&world, "blue", "0.0.0.0:0"));
        is_lost(&red, &host, "10.9.0.1");
        // The others on the bridge are none of the host's business.
        arrives(&red, &blue, "10.9.0.3");
        world.cilmark_ok("policy add red allow ingress from any --yes");
        arrives(&red, &host, "10.9.0.1");
    }
}
