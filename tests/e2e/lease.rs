//! What a host needs to have an address at all, under a policy that denies everything.

use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use nix::sys::signal::Signal;
use nix::sys::socket::{setsockopt, sockopt};

use crate::common::World;
use crate::common::process::Running;
use crate::common::traffic::{HOST, is_unanswered, udp};
use crate::common::world::wait_for;

const NIC: &str = "attach red --role netdev --policy enforce --adopt 0 --yes";

/// A server that has one address to lease: 10.1.0.20.
fn server(world: &World, namespace: &str, device: &str) -> Running {
    fs::write(
        "/run/netns/udhcpd.conf",
        format!("interface {device}\n")
            + "start 10.1.0.20\nend 10.1.0.20\noption subnet 255.255.255.0\n\
         lease_file /run/netns/leases\npidfile /run/netns/udhcpd.pid\n",
    )
    .unwrap();
    fs::write("/run/netns/leases", "").unwrap();
    let server =
        world.inside(namespace, || world.spawn("busybox udhcpd -f -a 50 /run/netns/udhcpd.conf"));
    server.stderr_line(|line| line.contains("started"));
    server
}

/// A client that takes the address it is given, and tells what has happened to it.
fn client(world: &World, namespace: &str, device: &str) -> Running {
    let script = "/run/netns/udhcpc.script";
    fs::write(
        script,
        "#!/bin/sh\n[ \"$1\" = deconfig ] || ip addr replace $ip/24 dev $interface\n\
         echo $1 $ip\n",
    )
    .unwrap();
    fs::set_permissions(script, PermissionsExt::from_mode(0o755)).unwrap();
    let command = format!("busybox udhcpc -f -i {device} -s {script} -T 1 -t 10");
    world.inside(namespace, || world.spawn(&command))
}

#[test]
fn a_host_gets_and_renews_its_address() {
    let Some(world) = World::new() else { return };
    world.workload("red", 1);
    world.cilmark_ok(NIC);
    let _server = server(&world, "red", "eth0");
    let client = client(&world, HOST, "red");
    client.stdout_line(|line| line == "bound 10.1.0.20");
    // Unlike the exchange before, this one is between two addresses.
    client.signal(Signal::SIGUSR1);
    client.stdout_line(|line| line == "renew 10.1.0.20");
    is_unanswered(&world, "red", "10.1.0.20");
}

#[test]
fn a_workload_gets_and_renews_its_own_from_the_host() {
    let Some(world) = World::new() else { return };
    world.workload("red", 1);
    world.sh("ip -n red addr flush dev eth0");
    world.cilmark_ok("attach red --id 1234 --ip 10.1.0.20 --policy enforce");
    world.cilmark_ok("policy add red deny ingress from any --yes");
    let _server = server(&world, HOST, "red");
    let client = client(&world, "red", "eth0");
    client.stdout_line(|line| line == "bound 10.1.0.20");
    client.signal(Signal::SIGUSR1);
    client.stdout_line(|line| line == "renew 10.1.0.20");
    is_unanswered(&world, HOST, "10.1.0.20");
}

#[test]
fn without_the_failsafe_ports_it_gets_none() {
    let Some(world) = World::new() else { return };
    world.workload("red", 1);
    world.cilmark_ok(&format!("{NIC} --failsafe none"));
    let _server = server(&world, "red", "eth0");
    let client = client(&world, HOST, "red");
    client.stdout_line(|line| line.starts_with("deconfig"));
    client.stderr_line(|line| line.contains("discover"));
    let monitor = world.start("monitor");
    monitor.stdout_line(|line| line.contains("0.0.0.0:68 -> 255.255.255.255:67"));
    assert_eq!(client.next_line(Duration::ZERO), None);
}

/// A client's raw socket would see the answers before any policy does, an ordinary one does not.
#[test]
fn all_four_messages_pass_between_ordinary_sockets() {
    let Some(world) = World::new() else { return };
    world.workload("red", 1);
    world.cilmark_ok(NIC);
    let socket = |namespace: &str, port: u16, device: &str| {
        let socket = udp(&world, namespace, &format!("0.0.0.0:{port}"));
        socket.set_broadcast(true).unwrap();
        setsockopt(&socket, sockopt::BindToDevice, &OsString::from(device)).unwrap();
        socket
    };
    let client = socket(HOST, 68, "red");
    let server = socket("red", 67, "eth0");
    for (from, to, message) in [
        (&client, &server, "discover"),
        (&server, &client, "offer"),
        (&client, &server, "request"),
        (&server, &client, "ack"),
    ] {
        let port = to.local_addr().unwrap().port();
        from.send_to(message.as_bytes(), ("255.255.255.255", port)).unwrap();
        let mut bytes = [0; 16];
        let (length, _) = to.recv_from(&mut bytes).unwrap_or_else(|_| panic!("no {message}"));
        assert_eq!(&bytes[..length], message.as_bytes());
    }
}

#[test]
fn a_router_may_advertise_itself_to_the_host() {
    let Some(world) = World::new() else { return };
    world.workload("red", 1);
    world.cilmark_ok(&format!("{NIC} --failsafe none"));
    world.sh("sysctl -qw net.ipv6.conf.red.accept_ra=2");
    let router = [0xfe, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x10];
    let all_nodes = [0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
    // Hop limit 64, router for half an hour; a prefix to make addresses of: 2001:db8::/64.
    let mut options = vec![0; 8];
    options.extend([3, 4, 64, 0xc0, 0, 0, 7, 8, 0, 0, 7, 8, 0, 0, 0, 0]);
    options.extend([0x20, 1, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    let mut frame = Vec::new();
    etherparse::PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], [0x33, 0x33, 0, 0, 0, 1])
        .ipv6(router, all_nodes, 255)
        .icmpv6_raw(134, 0, [64, 0, 7, 8])
        .write(&mut frame, &options)
        .unwrap();
    world.send_frame("red", "eth0", &frame);
    wait_for("the default route and an address", || {
        world.sh("ip -6 route show default dev red").contains("via fe80::10")
            && world.sh("ip -6 addr show dev red").contains("2001:db8::")
    });
    is_unanswered(&world, "red", "fd00:1::1");
}
