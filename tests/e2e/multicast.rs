//! Receivers of multicast behind a switch that listens to who is in which group.

use std::net::{Ipv4Addr, Ipv6Addr, UdpSocket};

use nix::net::if_::if_nametoindex;

use crate::common::World;
use crate::common::world::wait_for;

const GROUP: Ipv4Addr = Ipv4Addr::new(239, 1, 2, 3);
const GROUP6: Ipv6Addr = Ipv6Addr::new(0xff15, 0, 0, 0, 0, 1, 2, 3);

/// A switch that asks each second, as a bridge of the namespace `namespace`, with this port.
fn switch(world: &World, namespace: &str, port: &str) {
    let ip = if namespace.is_empty() { "ip".to_owned() } else { format!("ip -n {namespace}") };
    world.sh(&format!(
        "{ip} link add switch type bridge mcast_snooping 1 mcast_querier 1 mcast_query_interval 100 \
             mcast_query_response_interval 50 mcast_membership_interval 300 \
             mcast_startup_query_interval 50 mcast_igmp_version 3 mcast_mld_version 2
         {ip} link set switch up
         {ip} link set {port} master switch"
    ));
}

/// Waits until the switch knows who is in both groups by what it was told when they were joined, and again
/// by the answer to a question of its own.
fn is_heard(world: &World, namespace: &str, port: &str) {
    let bridge = match namespace {
        "" => "bridge".to_owned(),
        namespace => format!("bridge -n {namespace}"),
    };
    let knows = |group: &str| world.sh(&format!("{bridge} mdb show dev switch")).contains(group);
    for group in ["239.1.2.3", "ff15::1:2:3"] {
        wait_for(&format!("{group} on the switch"), || knows(group));
        world.sh(&format!("{bridge} mdb del dev switch port {port} grp {group}"));
        wait_for(&format!("{group} on the switch again"), || knows(group));
    }
}

/// A socket in both groups on a device of the calling thread's namespace.
fn receiver(own: Ipv4Addr, device: &str) -> [UdpSocket; 2] {
    let sockets = ["0.0.0.0:5000", "[::]:5001"].map(|it| UdpSocket::bind(it).expect("bind"));
    sockets[0].join_multicast_v4(&GROUP, &own).expect("join");
    let index = if_nametoindex(device).expect("the device");
    sockets[1].join_multicast_v6(&GROUP6, index).expect("join");
    sockets
}

#[test]
fn an_enforcing_host_is_heard_by_its_switch() {
    let Some(world) = World::new() else { return };
    world.workload("red", 1);
    switch(&world, "red", "eth0");
    world.cilmark_ok("attach red --role netdev --policy enforce --failsafe none --adopt 0 --yes");
    let _sockets = receiver(Ipv4Addr::new(10, 1, 0, 1), "red");
    is_heard(&world, "red", "eth0");
}

#[test]
fn so_is_an_enforcing_workload() {
    let Some(world) = World::new() else { return };
    world.workload("red", 1);
    switch(&world, "", "red");
    world.cilmark_ok("attach red --id 1234 --ip 10.1.0.10 fd00:1::10 --policy enforce");
    let _sockets = world.inside("red", || receiver(Ipv4Addr::new(10, 1, 0, 10), "eth0"));
    is_heard(&world, "", "red");
}

/// Before DHCP has given it one.
#[test]
fn and_a_workload_that_has_no_address_yet() {
    let Some(world) = World::new() else { return };
    world.workload("red", 1);
    switch(&world, "", "red");
    world.sh("ip -n red -4 addr flush dev eth0; ip -n red route add 224.0.0.0/4 dev eth0");
    world.cilmark_ok("attach red --id 1234 --ip 10.1.0.10 fd00:1::10 --policy enforce");
    let _sockets = world.inside("red", || receiver(Ipv4Addr::UNSPECIFIED, "eth0"));
    is_heard(&world, "", "red");
}
