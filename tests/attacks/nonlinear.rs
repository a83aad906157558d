//! Headers outside the linear part: of a frame of more than a page a packet socket puts no more there than
//! the Ethernet header (`packet_alloc_skb()`), and a veth hands it on like that.

use super::{CLOSED, HOST, OPEN, Receiver, WIRE, enforce, honest, host, inside};
use super::{TO_BLUE, allow, two_workloads};
use crate::common::packet::Frame;
use crate::common::traffic::ping;
use crate::common::wire::{Wire, with_options};

/// A datagram of more than a page; of IPv6 also behind headers of options.
fn large([source, destination]: [&str; 2], port: u16, options: usize) -> Vec<u8> {
    let text = format!("<{port}>").repeat(800);
    let frame = Frame::between(source, destination).datagram(4000, port, &text).bytes();
    assert!(frame.len() > 4096);
    if options > 0 { with_options(&frame, options) } else { frame }
}

/// Sends them to both ports; the ports, in the texts that have come.
fn came(wire: &Wire, ends: [&str; 2], receiver: &Receiver) -> Vec<u16> {
    let headers: &[usize] = if ends[0].contains(':') { &[0, 1, 8] } else { &[0] };
    for options in headers {
        wire.send(large(ends, OPEN, *options));
        wire.send(large(ends, CLOSED, *options));
    }
    wire.send(honest(ends));
    let port = |text: &String| text[1..5].parse().expect("a port");
    let mut ports: Vec<u16> = receiver.heard().iter().map(port).collect();
    assert_eq!(ports.len() % headers.len(), 0, "as many of each");
    ports.dedup();
    ports
}

#[test]
fn headers_outside_the_linear_part_are_read_at_a_nic() {
    let Some((world, wire)) = host() else { return };
    world.sh("ip link set wire mtu 9000; ip -n wire link set eth0 mtu 9000");
    let receiver = Receiver::new(&world, HOST);
    for ends in WIRE {
        assert_eq!(came(&wire, ends, &receiver), [OPEN, CLOSED], "they arrive");
    }
    enforce(&world, "--adopt 0");
    for ends in WIRE {
        assert_eq!(came(&wire, ends, &receiver), [OPEN]);
    }
}

#[test]
fn and_of_what_a_workload_sends() {
    let Some(world) = two_workloads() else { return };
    for name in ["red", "blue"] {
        world.sh(&format!("ip link set {name} mtu 9000; ip -n {name} link set eth0 mtu 9000"));
    }
    let (red, receiver) = (inside(&world, "red"), Receiver::new(&world, "blue"));
    let ends = [["10.1.0.10", "10.2.0.10"], ["fd00:1::10", "fd00:2::10"]];
    for [_, to] in ends {
        ping(&world, "red", to);
    }
    world.cilmark_ok("attach red --id 1234 --ip 10.1.0.10 fd00:1::10 --policy enforce");
    allow(&world, "red", "egress to any");
    for [own, to] in ends {
        assert_eq!(came(&red, [own, to], &receiver), [OPEN]);
        // Nor does a foreign source hide there.
        let foreign = TO_BLUE.into_iter().find(|it| it[0].contains(':') == own.contains(':'));
        red.send(large([foreign.expect("one of its family")[0], to], OPEN, 0));
        red.send(honest([own, to]));
        assert_eq!(receiver.heard(), [""; 0]);
    }
}
