//! Who claims the host's own address from outside is a liar: as the host, as a masqueraded workload, or
//! as a sender whose packet the host would send back out.

use std::net::UdpSocket;

use super::{
    CLOSED, HOST, OPEN, Receiver, WIRE, World, allow, answered, enforce, honest, honest_syn, host,
    inside, two_workloads,
};
use crate::common::machine::skip;
use crate::common::packet::Frame;
use crate::common::traffic::{arrives, ping, udp};
use crate::common::wire::{Wire, has};

/// Of another device, which is not attached, and of the loopback device; by family.
const OTHERS: [[&str; 2]; 2] = [["10.2.0.1", "192.0.2.7"], ["fd00:2::1", "2001:db8::7"]];

/// A host with a second device and an address that no wire leads to.
fn host_with_others() -> Option<(World, Wire)> {
    let (world, wire) = host()?;
    world.workload("blue", 2);
    world.sh("ip addr add 192.0.2.7/32 dev lo; ip addr add 2001:db8::7/128 dev lo");
    Some((world, wire))
}

/// Every address of the host's that one of this family could claim, and the NIC's first.
fn claimed(family: usize) -> Vec<&'static str> {
    let others = OTHERS[family];
    vec![WIRE[family][1], others[0], others[1]]
}

/// Sends a SYN and a datagram from each closed port of the host, under its address, to a stranger's
/// port, so that the host would send it back.
fn hairpin(from: &Wire, own: &str, back_to: &str, port: u16) {
    let frame = || Frame::between(own, back_to);
    from.send(frame().stream([CLOSED, port], "S", [1, 0], ""));
    from.send(frame().datagram(CLOSED, port, "hairpin"));
}

/// What comes through to the closed port of one of the host's addresses from that port.
fn follow(wire: &Wire, receiver: &Receiver, ends: [&str; 2], to: &str, port: u16) -> Vec<String> {
    let frame = || Frame::between(ends[0], to);
    wire.send(frame().datagram(port, CLOSED, "followed"));
    wire.send(frame().stream([port, CLOSED], "S", [1, 0], ""));
    wire.send(honest(ends));
    wire.send(honest_syn(ends, port + 1));
    let mut came = receiver.heard();
    came.extend(answered(wire, port + 1).iter().map(|port| format!("SYN to {port}")));
    came
}

#[test]
fn what_the_host_would_send_back_opens_no_port() {
    let Some((world, wire)) = host_with_others() else { return };
    let receiver = Receiver::new(&world, HOST);
    enforce(&world, "--adopt 0");
    for (family, ends) in WIRE.into_iter().enumerate() {
        for (port, own) in (2000..).step_by(10).zip(claimed(family)) {
            assert_eq!(follow(&wire, &receiver, ends, own, port), [""; 0], "{own} is closed");
            hairpin(&wire, own, ends[0], port);
            assert_eq!(follow(&wire, &receiver, ends, own, port), [""; 0], "{own}");
        }
    }
    assert_eq!(masqueraded(&world), 0);
}

/// How many flows pass for a workload's under the host's address.
fn masqueraded(world: &World) -> usize {
    world.cilmark_ok("conntrack list").matches("masquerade").count()
}

#[test]
fn nor_does_what_a_workload_sends_for_the_stranger() {
    // Without an address it is not checked for being its own.
    for policy in ["", "--policy audit"] {
        let Some((world, wire)) = host_with_others() else { return };
        world.workload("red", 1);
        let (red, receiver) = (inside(&world, "red"), Receiver::new(&world, HOST));
        world.cilmark_ok(&format!("attach red --id 1234 {policy}"));
        enforce(&world, "--adopt 0");
        for (family, [out, _]) in WIRE.into_iter().enumerate() {
            ping(&world, "red", out);
            for (port, own) in (2000..).step_by(10).zip(claimed(family)) {
                hairpin(&red, own, out, port);
                // Its own source gets through, after the others: they have all been looked at.
                let red_address = ["10.1.0.10", "fd00:1::10"][family];
                red.send(Frame::between(red_address, out).datagram(4000, port, "own"));
                let seen = wire.before("own");
                assert!(!seen.iter().any(|frame| has(frame, "hairpin")), "{own}");
                assert_eq!(follow(&wire, &receiver, WIRE[family], own, port), [""; 0], "{own}");
            }
        }
        assert_eq!(masqueraded(&world), 0);
    }
}

#[test]
fn nor_does_what_comes_in_by_a_device_that_nobody_has_attached() {
    let Some((world, wire)) = host() else { return };
    world.workload("blue", 2);
    let (blue, receiver) = (inside(&world, "blue"), Receiver::new(&world, HOST));
    enforce(&world, "--adopt 0");
    for (family, ends) in WIRE.into_iter().enumerate() {
        for (port, own) in (2000..).step_by(10).zip([ends[1], OTHERS[family][0]]) {
            hairpin(&blue, own, ends[0], port);
            // IPv6 forwards it: it is no secret that it comes out, but the host's port stays closed.
            let blue_address = ["10.2.0.10", "fd00:2::10"][family];
            blue.send(Frame::between(blue_address, ends[0]).datagram(4000, port, "own"));
            wire.before("own");
            assert_eq!(follow(&wire, &receiver, ends, own, port), [""; 0], "{own}");
        }
    }
    assert_eq!(masqueraded(&world), 0);
}

#[test]
fn nor_does_what_comes_in_by_another_nic() {
    let Some((world, wire)) = host() else { return };
    world.workload("blue", 2);
    let (blue, receiver) = (inside(&world, "blue"), Receiver::new(&world, HOST));
    enforce(&world, "--adopt 0");
    let options = "--ingress-policy enforce --failsafe none --adopt 0 --yes";
    world.cilmark_ok(&format!("attach blue --role netdev {options}"));
    for (family, ends) in WIRE.into_iter().enumerate() {
        for (port, own) in (2000..).step_by(10).zip([ends[1], OTHERS[family][0]]) {
            hairpin(&blue, own, ends[0], port);
            assert_eq!(follow(&wire, &receiver, ends, own, port), [""; 0], "{own}");
        }
    }
    assert_eq!(masqueraded(&world), 0);
}

#[test]
fn a_workload_is_not_the_host_to_another() {
    let Some(world) = two_workloads() else { return };
    world.sh("ip addr add 192.0.2.7/32 dev lo; ip addr add 2001:db8::7/128 dev lo");
    let (red, receiver) = (inside(&world, "red"), Receiver::new(&world, "blue"));
    let addresses = [
        ("10.1.0.10", "10.2.0.10", ["10.1.0.1", "10.2.0.1", "192.0.2.7"]),
        ("fd00:1::10", "fd00:2::10", ["fd00:1::1", "fd00:2::1", "2001:db8::7"]),
    ];
    world.cilmark_ok("attach red --id 1234");
    world.cilmark_ok("attach blue --id 199472 --policy enforce");
    world.cilmark_ok(&format!("policy add blue allow ingress from host udp/{CLOSED}"));
    allow(&world, "blue", "ingress from 1234");
    for (own, to, claimed) in addresses {
        ping(&world, "red", &to.replace(".2.0.10", ".1.0.1").replace(":2::10", ":1::1"));
        for claimed in claimed {
            red.send(Frame::between(claimed, to).datagram(4000, CLOSED, claimed));
            red.send(Frame::between(claimed, to).datagram(4000, OPEN, claimed));
        }
        red.send(honest([own, to]));
        assert_eq!(receiver.heard(), [""; 0]);
        // The host itself is let in.
        let host = udp(&world, HOST, if own.contains(':') { "[::]:0" } else { "0.0.0.0:0" });
        let back = UdpSocket::try_clone(&receiver.closed).expect("a socket");
        back.set_nonblocking(false).expect("wait");
        arrives(&host, &back, to);
    }
}

/// Datagrams to the host under one of its own addresses; what has come of them.
fn claim(wire: &Wire, receiver: &Receiver, ends: [&str; 2], own: &str) -> Vec<String> {
    for to in [ends[1], own] {
        for (port, text) in [(OPEN, "as anybody"), (CLOSED, "as the host")] {
            wire.send(Frame::between(own, to).datagram(4000, port, text));
        }
    }
    wire.send(honest(ends));
    receiver.heard()
}

#[test]
fn nobody_on_the_wire_is_the_host() {
    let Some((world, wire)) = host_with_others() else { return };
    world.sh("ip addr add fe80::1/64 dev wire nodad
              ip -n wire addr add fe80::10/64 dev eth0 nodad");
    let receiver = Receiver::new(&world, HOST);
    let link_local = (["fe80::10", "fe80::1"], "fe80::1");
    // IPv4 has martians already. IPv6 believes anybody.
    for own in claimed(1) {
        assert_eq!(claim(&wire, &receiver, WIRE[1], own).len(), 4, "{own} arrives");
    }
    assert_eq!(claim(&wire, &receiver, link_local.0, link_local.1).len(), 4, "it arrives");
    enforce(&world, "--adopt 0");
    let closed = format!("allow ingress from host udp/{CLOSED}");
    world.cilmark_ok(&format!("policy add wire {closed} --yes"));
    let addresses =
        (0..2).flat_map(|family| claimed(family).into_iter().map(move |own| (WIRE[family], own)));
    for (ends, own) in addresses.chain([link_local]) {
        let came = claim(&wire, &receiver, ends, own);
        assert!(!came.contains(&"as the host".to_owned()), "{own}: {came:?}");
        // One of the NIC's own has no business on its wire at all.
        assert!(own != ends[1] || own == link_local.1 || came.is_empty(), "{own}: {came:?}");
    }
}

#[test]
fn nor_by_the_address_of_another_nic() {
    let Some((world, wire)) = host() else { return };
    world.workload("blue", 2);
    let receiver = Receiver::new(&world, HOST);
    let own = OTHERS[1][0];
    assert_eq!(claim(&wire, &receiver, WIRE[1], own).len(), 4, "it arrives");
    enforce(&world, "--adopt 0");
    // Its identity is the host's as well, which the rule names.
    world.cilmark_ok("attach blue --role netdev");
    let closed = format!("allow ingress from host udp/{CLOSED}");
    world.cilmark_ok(&format!("policy add wire {closed} --yes"));
    assert_eq!(claim(&wire, &receiver, WIRE[1], own), [""; 0]);
}

#[test]
fn nor_is_a_workload() {
    let Some(world) = two_workloads() else { return };
    let (red, receiver) = (inside(&world, "red"), Receiver::new(&world, HOST));
    let (own, ends) = ("fd00:2::1", ["fd00:1::10", "fd00:1::1"]);
    for own in [own, ends[1]] {
        assert_eq!(claim(&red, &receiver, ends, own).len(), 4, "{own} arrives");
    }
    for options in ["", "--ip 10.1.0.10 fd00:1::10"] {
        world.cilmark_ok(&format!("attach red --id 1234 {options}"));
        for own in [own, ends[1]] {
            assert_eq!(claim(&red, &receiver, ends, own), [""; 0], "{own} with `{options}`");
        }
    }
}

#[test]
fn a_host_that_accepts_its_own_address_does_so_still() {
    let Some((world, wire)) = host() else { return };
    // Another wire leads back to the host, as when it tests its own cabling.
    world.sh("sysctl -qw net.ipv4.conf.wire.accept_local=1");
    let receiver = Receiver::new(&world, HOST);
    let own = WIRE[0][1];
    let send = || {
        wire.send(Frame::between(own, own).datagram(4000, OPEN, "to itself"));
        wire.send(honest(WIRE[0]));
        receiver.heard()
    };
    assert_eq!(send(), ["to itself"]);
    enforce(&world, "--adopt 0");
    assert_eq!(send(), ["to itself"]);
}

#[test]
fn a_path_between_two_vrfs_of_the_host_stays_open() {
    let Some(world) = World::new() else { return };
    if !world.try_sh("ip link add left type vrf table 10").status.success() {
        return skip("this kernel has no VRF");
    }
    world.sh("ip link add right type vrf table 20
              ip link set left up; ip link set right up
              ip link add eth1 type veth peer name eth2
              ip link set eth1 master left up; ip link set eth2 master right up
              ip addr add 10.7.0.1/24 dev eth1; ip addr add fd00:7::1/64 dev eth1 nodad
              ip addr add 10.7.0.2/24 dev eth2; ip addr add fd00:7::2/64 dev eth2 nodad");
    world.cilmark_ok("attach eth2 --role netdev --ingress-policy enforce --failsafe none --yes");
    allow(&world, "eth2", "ingress from any");
    for (source, destination) in [("10.7.0.1", "10.7.0.2"), ("fd00:7::1", "fd00:7::2")] {
        let address = |address: &str, port: u16| match address.contains(':') {
            true => format!("UDP6:[{address}]:{port}"),
            false => format!("UDP4:{address}:{port}"),
        };
        let family = if source.contains(':') { "UDP6" } else { "UDP4" };
        let server = world.spawn(&format!(
            "socat -u {family}-RECV:{OPEN},so-bindtodevice=right,reuseaddr STDOUT"
        ));
        let send = || {
            world.sh(&format!(
                "echo across | socat -u - {},so-bindtodevice=left",
                address(destination, OPEN)
            ))
        };
        crate::common::world::wait_for("the datagram", || {
            send();
            server.next_line(std::time::Duration::from_millis(50)).is_some()
        });
    }
}

#[test]
fn a_stranger_who_is_forwarded_meets_no_more_than_before() {
    let Some((world, wire)) = host_with_others() else { return };
    world.sh("ip route add default via 10.9.0.10; ip -6 route add default via fd00:9::10");
    let receiver = Receiver::new(&world, "blue");
    enforce(&world, "--adopt 0");
    for (sources, destination) in [
        (["10.9.0.10", "198.51.100.1"], "10.2.0.10"),
        (["fd00:9::10", "2001:db8:99::1"], "fd00:2::10"),
    ] {
        for source in sources {
            wire.send(Frame::between(source, destination).datagram(4000, CLOSED, source));
            wire.send(honest([source, destination]));
            assert_eq!(receiver.heard(), [source]);
        }
    }
}
