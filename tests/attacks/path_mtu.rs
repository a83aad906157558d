//! What closing the tunnels must not cost: errors about somebody's own packets still get there, and
//! path MTU discovery works.

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, TcpListener, TcpStream, UdpSocket};
use std::thread;

use nix::sys::socket::{setsockopt, sockopt};

use super::{HOST, OPEN, RED, WIRE, World, allow, host, inside, stranger};
use crate::common::packet::Frame;
use crate::common::process::PATIENCE;
use crate::common::traffic::{Connection, is_refused, listen, udp};
use crate::common::wire::Wire;
use crate::common::world::wait_for;

/// Behind the stranger, who is a router with a narrow way there.
const FAR: [&str; 2] = ["10.50.0.10", "fd00:50::10"];
const NARROW: u16 = 1300;
const MEGABYTE: usize = 1 << 20;

/// `red` and the host on one side, and `far` on the other; frames of 1300 bytes get through to it, those
/// from there may be as large as usual.
fn narrow() -> Option<World> {
    let (world, _) = host()?;
    world.workload("red", 1);
    world.sh(&format!(
        "ip netns add far
         for n in wire far; do ip netns exec $n sysctl -qw net.ipv6.conf.default.accept_dad=0; done
         ip -n wire link add out type veth peer name eth0 netns far
         ip -n wire addr add 10.50.0.1/24 dev out; ip -n wire addr add fd00:50::1/64 dev out nodad
         ip -n far addr add 10.50.0.10/24 dev eth0
         ip -n far addr add fd00:50::10/64 dev eth0 nodad
         ip -n far link set lo up; ip -n far link set eth0 up; ip -n wire link set out up
         ip -n far route add default via 10.50.0.1; ip -n far -6 route add default via fd00:50::1
         ip netns exec wire sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1
         ip -n wire route change 10.50.0.0/24 dev out mtu lock {NARROW}
         ip -n wire -6 route del fd00:50::/64 dev out
         ip -n wire -6 route add fd00:50::/64 dev out mtu {NARROW}
         ip route add 10.50.0.0/24 via 10.9.0.10; ip -6 route add fd00:50::/64 via fd00:9::10"
    ));
    for address in FAR {
        // Until the carrier is there.
        wait_for("the far end", || {
            world.try_sh(&format!("ping -qc 1 -W 0.2 {address}")).status.success()
        });
    }
    Some(world)
}

/// What a sender has learned of the way to an address: `mtu 1300`, if it is that.
fn knows(world: &World, namespace: &str, address: &str) -> bool {
    let route = world.inside(namespace, || world.sh(&format!("ip route get {address}")));
    route.contains(&format!("mtu {NARROW}"))
}

/// So many bytes from one end of a connection to the other.
pub fn upload(mut from: TcpStream, mut to: TcpStream, length: usize) {
    let bytes = vec![0x5a; length];
    to.set_read_timeout(Some(PATIENCE)).expect("set a timeout");
    from.set_write_timeout(Some(PATIENCE)).expect("set a timeout");
    let mut received = vec![0; bytes.len()];
    thread::scope(|scope| {
        scope.spawn(|| from.write_all(&bytes).expect("send"));
        to.read_exact(&mut received).expect("it arrives");
    });
    assert!(received == bytes, "what arrived is not what was sent");
}

fn connect(world: &World, from: &str, server: &TcpListener, address: &str) -> [TcpStream; 2] {
    let connection = Connection::open(world, from, server, address);
    [connection.client, connection.server]
}

/// Sends datagrams that are too large until the sender has learned that, and one has arrived in parts.
fn send_large(from: &UdpSocket, to: &UdpSocket, address: &str) {
    let address: IpAddr = address.parse().expect("an address");
    to.set_nonblocking(true).expect("do not wait");
    wait_for("a large datagram to arrive", || {
        // Too large, says the sender's own kernel at once.
        let _ = from.send_to(&[0x5a; 1400], (address, OPEN));
        match to.recv(&mut [0; 2000]) {
            Ok(length) => length == 1400,
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::WouldBlock, "{error}");
                false
            }
        }
    });
}

fn socket(world: &World, namespace: &str, address: &str) -> UdpSocket {
    let any = if address.contains(':') { "[::]" } else { "0.0.0.0" };
    udp(world, namespace, &format!("{any}:{OPEN}"))
}

const POLICE_RED: &str = "attach red --id 1234 --ip 10.1.0.10 fd00:1::10 --policy enforce";
const POLICE_NIC: &str =
    "attach wire --role netdev --policy enforce --failsafe none --adopt 0 --yes";

/// The NIC's policy opens one port each way, or to the host only.
fn police_nic(world: &World, peers: &[&str]) {
    world.cilmark_ok(POLICE_NIC);
    for peer in peers {
        allow(world, "wire", peer);
    }
}

#[test]
fn a_workload_learns_how_large_its_packets_may_be() {
    for protocol in ["tcp", "udp"] {
        let Some(world) = narrow() else { return };
        world.cilmark_ok(POLICE_RED);
        allow(&world, "red", "egress to any");
        // A NIC that allows nothing has no say in it.
        police_nic(&world, &[]);
        let server = listen(&world, "far", OPEN);
        for address in FAR {
            if protocol == "tcp" {
                let [client, server] = connect(&world, "red", &server, address);
                upload(client, server, MEGABYTE);
            } else {
                let far = socket(&world, "far", address);
                send_large(&socket(&world, "red", address), &far, address);
            }
            assert!(knows(&world, "red", address), "{protocol} to {address}");
        }
    }
}

#[test]
fn so_does_one_that_is_connected_to() {
    let Some(world) = narrow() else { return };
    world.cilmark_ok(POLICE_RED);
    allow(&world, "red", "ingress from any");
    police_nic(&world, &[]);
    let server = listen(&world, "red", OPEN);
    for (address, far) in RED.into_iter().zip(FAR) {
        let [client, server] = connect(&world, "far", &server, address);
        upload(server, client, MEGABYTE);
        assert!(knows(&world, "red", far), "to {far}");
    }
}

#[test]
fn so_does_the_host() {
    for protocol in ["tcp", "udp"] {
        let Some(world) = narrow() else { return };
        police_nic(&world, &["egress to any"]);
        let server = listen(&world, "far", OPEN);
        for address in FAR {
            if protocol == "tcp" {
                let [client, server] = connect(&world, HOST, &server, address);
                upload(client, server, MEGABYTE);
            } else {
                let far = socket(&world, "far", address);
                send_large(&socket(&world, HOST, address), &far, address);
            }
            assert!(knows(&world, HOST, address), "{protocol} to {address}");
        }
    }
}

#[test]
fn so_does_a_host_that_is_connected_to() {
    // By a rule, or by a port that no rule closes.
    for failsafe in [false, true] {
        let Some(world) = narrow() else { return };
        if failsafe {
            world.cilmark_ok(&format!(
                "attach wire --role netdev --policy enforce --failsafe tcp/{OPEN} --adopt 0 --yes"
            ));
        } else {
            police_nic(&world, &["ingress from any"]);
        }
        let server = listen(&world, HOST, OPEN);
        for ([_, address], far) in WIRE.into_iter().zip(FAR) {
            let [client, server] = connect(&world, "far", &server, address);
            upload(server, client, MEGABYTE);
            assert!(knows(&world, HOST, far), "failsafe: {failsafe}, to {far}");
        }
    }
}

/// Lets the host's own way to `red` be narrow.
fn narrow_here(world: &World) {
    world.sh(&format!(
        "ip route change 10.1.0.0/24 dev red mtu lock {NARROW}
         ip -6 route del fd00:1::/64 dev red
         ip -6 route add fd00:1::/64 dev red mtu {NARROW}"
    ));
}

#[test]
fn the_host_says_as_a_router_how_large_a_packet_may_be() {
    let Some((world, _)) = host() else { return };
    world.workload("red", 1);
    world.workload("blue", 2);
    narrow_here(&world);
    police_nic(&world, &[]);
    world.cilmark_ok("attach blue --id 199472 --ip 10.2.0.10 fd00:2::10 --policy enforce");
    allow(&world, "blue", "egress to any");
    let server = listen(&world, "red", OPEN);
    for address in RED {
        for from in ["wire", "blue"] {
            let [client, server] = connect(&world, from, &server, address);
            upload(client, server, MEGABYTE);
            assert!(knows(&world, from, address), "{from} to {address}");
        }
    }
}

/// An error that has come in, of a kind (of IPv4, or IPv6), about a datagram from this port.
fn error_comes(wire: &Wire, kinds: [u8; 2], port: u16) {
    wire.until(|frame| {
        let (kind, quoted) = match frame[14] >> 4 {
            4 if frame[23] == 1 => (frame[34] == kinds[0], 42 + 20),
            6 if frame[20] == 58 => (frame[54] == kinds[1], 62 + 40),
            _ => return false,
        };
        kind && frame.get(quoted..quoted + 2) == Some(&port.to_be_bytes())
    });
}

const TIME_EXCEEDED: [u8; 2] = [11, 3];
const UNREACHABLE: [u8; 2] = [3, 1];

#[test]
fn a_traceroute_sees_the_host_and_what_is_behind_it() {
    let Some(world) = narrow() else { return };
    let (wire, red) = (stranger(&world), inside(&world, "red"));
    world.cilmark_ok(POLICE_RED);
    allow(&world, "red", "egress to any");
    // The host may send nothing, and yet is a router that answers.
    police_nic(&world, &[]);
    for ((workload, [stranger, _]), far) in RED.into_iter().zip(WIRE).zip(FAR) {
        let probe = |source: &str, to: &str, ttl: u8| {
            Frame::between(source, to).ttl(ttl).datagram(4000 + u16::from(ttl), OPEN, "probe")
        };
        wire.send(probe(stranger, workload, 1));
        error_comes(&wire, TIME_EXCEEDED, 4001);
        for ttl in [1, 2] {
            red.send(probe(workload, far, ttl));
            error_comes(&red, TIME_EXCEEDED, 4000 + u16::from(ttl));
        }
    }
}

#[test]
fn a_router_says_that_there_is_no_way() {
    let Some((world, wire)) = host() else { return };
    world.sh("ip route add unreachable 198.51.100.0/24
              ip -6 route add unreachable 2001:db8:51::/48");
    police_nic(&world, &[]);
    for ([stranger, _], far) in WIRE.into_iter().zip(["198.51.100.9", "2001:db8:51::9"]) {
        wire.send(Frame::between(stranger, far).datagram(4000, OPEN, "probe"));
        error_comes(&wire, UNREACHABLE, 4000);
    }
}

#[test]
fn the_hosts_own_traceroute_is_answered() {
    let Some(world) = narrow() else { return };
    police_nic(&world, &["egress to any"]);
    for far in FAR {
        let socket = udp(&world, HOST, if far.contains(':') { "[::]:0" } else { "0.0.0.0:0" });
        socket.connect((far.parse::<IpAddr>().expect(far), OPEN)).expect("connect");
        if far.contains(':') {
            setsockopt(&socket, sockopt::Ipv6RecvErr, &true).expect("ask for errors");
            setsockopt(&socket, sockopt::Ipv6Ttl, &1).expect("set the hop limit");
        } else {
            setsockopt(&socket, sockopt::Ipv4RecvErr, &true).expect("ask for errors");
            socket.set_ttl(1).expect("set the TTL");
        }
        socket.send(b"probe").expect("send");
        let error = socket.recv(&mut [0; 16]).expect_err("nobody answers");
        assert_eq!(error.kind(), ErrorKind::HostUnreachable, "{error}");
    }
}

#[test]
fn a_port_that_nobody_has_open_is_refused() {
    let Some((world, _)) = host() else { return };
    world.workload("red", 1);
    world.cilmark_ok(POLICE_RED);
    for peer in ["egress to any", "ingress from any"] {
        allow(&world, "red", peer);
    }
    police_nic(&world, &["egress to any", "ingress from any"]);
    for (red, [wire, here]) in RED.into_iter().zip(WIRE) {
        for (from, to) in [("red", wire), ("wire", red), (HOST, wire), ("wire", here)] {
            let any = if to.contains(':') { "[::]:0" } else { "0.0.0.0:0" };
            is_refused(&udp(&world, from, any), to, OPEN);
        }
    }
    assert_eq!(world.status("red")["drops"], 0);
    assert_eq!(world.status("wire")["drops"], 0);
}
