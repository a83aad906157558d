//! Whose a packet is: the host's, whose policy a NIC enforces, or somebody's to whom the host only hands it on.

mod addresses;
mod many;
mod routes;
mod translated;
mod workload;

use std::io::ErrorKind;
use std::net::{IpAddr, UdpSocket};

use crate::common::World;
use crate::common::packet::Frame;
use crate::common::traffic::{HOST, udp};
use crate::common::wire::{Mac, Wire, mac};
use crate::common::world::wait_for;

/// What the rules of these tests open.
const OPEN: u16 = 7000;
/// What none does.
const CLOSED: u16 = 9000;

const NIC: &str = "--role netdev --policy enforce --failsafe none --adopt 0 --yes";

/// The NIC enforces, and lets this in.
fn enforce(world: &World, device: &str, options: &str) {
    world.cilmark_ok(&format!("attach {device} {NIC} {options}"));
    world.cilmark_ok(&format!("policy add {device} allow ingress from any udp/{OPEN} --yes"));
}

/// A port of the host's, by both families.
fn port(world: &World, port: u16) -> UdpSocket {
    udp(world, HOST, &format!("[::]:{port}"))
}

/// The device of a namespace, from which frames go to a MAC of the host's.
fn device(world: &World, namespace: &str, to: &str) -> Wire {
    Wire::open(world, namespace, "eth0", mac(world, HOST, to))
}

/// The kernel takes an IPv6 address for its own a moment after it was added.
fn answers_on(world: &World, address: &str) {
    let has_it = || world.sh("ip -6 route show table local").contains(address);
    wait_for("the address", has_it);
}

/// What has come to a port: all of it, if what was sent last has come to another.
fn came(socket: &UdpSocket) -> Vec<String> {
    socket.set_nonblocking(true).expect("do not wait");
    let next = || {
        let mut bytes = [0; 2048];
        match socket.recv(&mut bytes) {
            Ok(length) => Some(String::from_utf8_lossy(&bytes[..length]).into_owned()),
            Err(error) if error.kind() == ErrorKind::WouldBlock => None,
            Err(error) => panic!("{error}"),
        }
    };
    std::iter::from_fn(next).collect()
}

/// Waits for a text at a port; what came before it.
fn before(socket: &UdpSocket, text: &str) -> Vec<String> {
    let next = || {
        let mut bytes = [0; 2048];
        let length = socket.recv(&mut bytes).expect("it arrives");
        Some(String::from_utf8_lossy(&bytes[..length]).into_owned())
    };
    std::iter::from_fn(next).take_while(|came| came != text).collect()
}

/// The same datagram to the open port and to the closed one; whether it has come there.
fn opened(from: &Wire, ends: [&str; 2], ports: &[UdpSocket; 2]) -> bool {
    let frame = |port| Frame::between(ends[0], ends[1]).datagram(4000, port, ends[1]);
    from.send(frame(CLOSED));
    from.send(frame(OPEN));
    assert_eq!(before(&ports[0], ends[1]), [""; 0]);
    !came(&ports[1]).is_empty()
}

/// The MAC that frames to an address of many have.
fn mac_of_many(address: &str) -> Mac {
    match address.parse().expect("an address") {
        IpAddr::V4(v4) if v4.is_multicast() => {
            let [_, b, c, d] = v4.octets();
            [0x01, 0, 0x5e, b & 0x7f, c, d]
        }
        IpAddr::V6(v6) if v6.is_multicast() => {
            let bytes = v6.octets();
            [0x33, 0x33, bytes[12], bytes[13], bytes[14], bytes[15]]
        }
        _ => [0xff; 6],
    }
}

/// Sends a frame to all, or to those in the group of an address.
fn send_to_many(from: &Wire, address: &str, frame: Frame) {
    let mut frame = frame.bytes();
    frame[..6].copy_from_slice(&mac_of_many(address));
    frame[6..12].copy_from_slice(&from.mac);
    from.send_as_is(&frame);
}
