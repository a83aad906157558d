//! Tier attacks: what somebody with the source at hand would try, with real frames. `wire` is a
//! stranger on the host's segment, `red` and `blue` are workloads.
//!
//! Each claim is about a path that is there: the same frames arrive while nothing is attached, or
//! something honest of the same shape does afterwards.

mod adoption;
mod big_tcp;
mod echo;
mod fragments;
mod icmp;
mod identities;
mod impersonation;
mod links;
mod nonlinear;
mod own_address;
mod path_mtu;
mod related;
mod tags;
mod trailers;
mod tunnels;

use std::io::ErrorKind;
use std::net::{TcpListener, UdpSocket};

use crate::common::World;
use crate::common::packet::Frame;
use crate::common::traffic::{HOST, listen, udp};
use crate::common::wire::{Wire, mac, segment};
use crate::common::world::wait_for;

/// What every policy here allows, over UDP and TCP, where it allows anything.
const OPEN: u16 = 7000;
/// What none allows.
const CLOSED: u16 = 9000;

/// From the stranger to the host's NIC, by family.
const WIRE: [[&str; 2]; 2] = [["10.9.0.10", "10.9.0.1"], ["fd00:9::10", "fd00:9::1"]];

/// A workload's addresses.
const RED: [&str; 2] = ["10.1.0.10", "fd00:1::10"];

/// A host with a stranger behind its NIC `wire`, to which nothing is attached yet.
fn host() -> Option<(World, Wire)> {
    let world = World::new()?;
    world.workload("wire", 9);
    let wire = stranger(&world);
    Some((world, wire))
}

/// Workloads `red` and `blue` with a router between them, to which nothing is attached yet.
fn two_workloads() -> Option<World> {
    let world = World::new()?;
    world.workload("red", 1);
    world.workload("blue", 2);
    Some(world)
}

/// A bridge with the stranger and the workload `blue` on it; frames of the stranger's go to `blue`.
fn bridged() -> Option<(World, Wire)> {
    let world = bridge_of(&["wire", "blue"])?;
    let mut wire = stranger(&world);
    wire.to = mac(&world, "blue", "eth0");
    Some((world, wire))
}

/// The same with `red` on it, too.
fn bridged_workloads() -> Option<World> {
    bridge_of(&["wire", "blue", "red"])
}

/// A bridge of the host's, 10.9.0.1, with these on it: `blue` is 10.9.0.2, `red` 10.9.0.3.
fn bridge_of(names: &[&str]) -> Option<World> {
    let world = World::new()?;
    world.sh("ip link add bridge type bridge mcast_snooping 0 && ip link set bridge up");
    // Where br_netfilter is loaded, it would cut the trailers off.
    world.try_sh(
        "sysctl -qw net.bridge.bridge-nf-call-iptables=0 net.bridge.bridge-nf-call-ip6tables=0",
    );
    for name in names {
        let number = match *name {
            "blue" => 2,
            "red" => 3,
            _ => 9,
        };
        world.workload(name, number);
        world.sh(&format!("ip addr flush dev {name}; ip link set {name} master bridge"));
        if number < 9 {
            world.sh(&format!(
                "ip -n {name} addr flush dev eth0
                 ip -n {name} addr add 10.9.0.{number}/24 dev eth0
                 ip -n {name} addr add fd00:9::{number}/64 dev eth0 nodad
                 ip -n {name} addr add fe80::{number}/64 dev eth0 nodad"
            ));
        }
    }
    world.sh("ip addr add 10.9.0.1/24 dev bridge; ip addr add fd00:9::1/64 dev bridge nodad");
    Some(world)
}

const TO_BLUE: [[&str; 2]; 2] = [["10.9.0.10", "10.9.0.2"], ["fd00:9::10", "fd00:9::2"]];

/// The stranger's device.
fn stranger(world: &World) -> Wire {
    Wire::open(world, "wire", "eth0", mac(world, HOST, "wire"))
}

/// A workload's device.
fn inside(world: &World, workload: &str) -> Wire {
    Wire::open(world, workload, "eth0", mac(world, HOST, workload))
}

/// The NIC enforces what may come in; it opens one port.
fn enforce(world: &World, options: &str) {
    let modes = "--ingress-policy enforce --failsafe none --yes";
    world.cilmark_ok(&format!("attach wire --role netdev {modes} {options}"));
    allow(world, "wire", "ingress from any");
}

/// Opens the one port of an endpoint, for this peer.
fn allow(world: &World, device: &str, peer: &str) {
    let rules = ["udp", "tcp"].map(|protocol| format!("allow {peer} {protocol}/{OPEN}")).join(" ");
    world.cilmark_ok(&format!("policy add {device} {rules} --yes"));
}

/// Whoever listens on both ports of a receiver.
struct Receiver {
    open: UdpSocket,
    closed: UdpSocket,
    servers: Vec<TcpListener>,
}

impl Receiver {
    fn new(world: &World, namespace: &str) -> Receiver {
        let servers = [OPEN, CLOSED].map(|port| listen(world, namespace, port));
        Receiver { servers: servers.into(), ..Receiver::datagrams(world, namespace) }
    }

    /// The same without the TCP servers.
    fn datagrams(world: &World, namespace: &str) -> Receiver {
        let socket = |port: u16| udp(world, namespace, &format!("[::]:{port}"));
        Receiver { open: socket(OPEN), closed: socket(CLOSED), servers: Vec::new() }
    }

    /// Sends until something comes to the open port, and then what is the last to come.
    fn wait_until_reached(&self, send: impl Fn(), send_last: impl Fn()) {
        self.open.set_nonblocking(true).expect("do not wait");
        wait_for("the first datagram", || {
            send();
            next(&self.open).is_some()
        });
        self.open.set_nonblocking(false).expect("wait");
        send_last();
        while next(&self.open).expect("the last datagram arrives") != "last" {}
    }

    /// The texts that have come, to the open port first, by the time that `honest` comes there.
    fn heard(&self) -> Vec<String> {
        let mut texts = Vec::new();
        loop {
            let text = next(&self.open).expect("the honest datagram arrives");
            if text == "honest" {
                break;
            }
            texts.push(text);
        }
        self.closed.set_nonblocking(true).expect("do not wait");
        while let Some(text) = next(&self.closed) {
            texts.push(text);
        }
        texts
    }
}

/// The text of the next datagram; `None` if there is none.
fn next(socket: &UdpSocket) -> Option<String> {
    let mut bytes = [0; 2048];
    match socket.recv(&mut bytes) {
        Ok(length) => Some(String::from_utf8_lossy(&bytes[..length]).into_owned()),
        Err(error) if error.kind() == ErrorKind::WouldBlock => None,
        Err(error) => panic!("{error}"),
    }
}

/// What is allowed everywhere, and is sent last.
fn honest([source, destination]: [&str; 2]) -> Frame {
    Frame::between(source, destination).datagram(4000, OPEN, "honest")
}

/// An honest SYN that is answered.
fn honest_syn([source, destination]: [&str; 2], port: u16) -> Frame {
    Frame::between(source, destination).stream([port, OPEN], "S", [1, 0], "")
}

/// The ports of ours that a TCP answer has come to, up to the one for `last`, which must come.
fn answered(wire: &Wire, last: u16) -> Vec<u16> {
    let frames = wire.until(|frame| segment(frame).is_some_and(|tcp| tcp.destination_port == last));
    frames.iter().filter_map(|frame| Some(segment(frame)?.destination_port)).collect()
}
