//! VLAN tags: Linux takes off any number with the number 0, so that what is no IP to a program may
//! be IP to the receiver.

use std::os::unix::net::UnixDatagram;

use super::{
    CLOSED, HOST, OPEN, Receiver, TO_BLUE, WIRE, World, allow, answered, bridged, enforce, honest,
    honest_syn, host, inside, mac,
};
use crate::common::machine::skip;
use crate::common::packet::Frame;
use crate::common::wire::{Wire, has};
use crate::common::world::wait_for;

/// Tags, outermost first: whether it is a service tag (802.1ad), and its number.
type Tags = &'static [(bool, u16)];

const C: (bool, u16) = (false, 0);
const S: (bool, u16) = (true, 0);

/// What Linux takes off without a VLAN device.
const PRIORITY: [Tags; 13] = [
    &[C],
    &[S],
    &[C, C],
    &[S, C],
    &[C, C, C],
    &[S, S, S],
    &[C, C, C, C],
    &[S, S, S, S],
    &[S, C, C, C],
    &[C, C, S, S],
    &[C, S, C, S],
    &[C, C, C, C, C],
    &[S, C, S, C, S],
];

/// What it takes off where there is a VLAN 5, or hands on over a bridge.
const NUMBERED: [Tags; 9] = [
    &[(false, 5)],
    &[C, (false, 5)],
    &[(false, 5), C],
    &[(false, 5), C, C],
    &[C, C, C, (false, 5)],
    &[(false, 5), C, C, C],
    &[(false, 5), S, S, S],
    &[C, (false, 5), C, C],
    &[C, C, C, C, (false, 5)],
];

/// How many tags in a frame are looked through.
const DEPTH: usize = 2;

fn tagged(frame: Frame, tags: Tags) -> Frame {
    tags.iter().fold(frame, |frame, (service, id)| match service {
        true => frame.service_vlan(*id),
        false => frame.vlan(*id),
    })
}

fn name(tags: Tags) -> String {
    let name = |(service, id): &(bool, u16)| format!("{}{id}", if *service { "s" } else { "c" });
    // In brackets, so that none is a part of another.
    format!("<{}>", tags.iter().map(name).collect::<Vec<_>>().join("."))
}

fn names(tags: &[Tags]) -> Vec<String> {
    tags.iter().map(|tags| name(tags)).collect()
}

/// Those that are looked through in what comes in: Linux has taken one out of the frame before.
fn shallow(tags: &[Tags]) -> Vec<String> {
    up_to(DEPTH + 1, tags)
}

fn up_to(depth: usize, tags: &[Tags]) -> Vec<String> {
    tags.iter().filter(|tags| tags.len() <= depth).map(|tags| name(tags)).collect()
}

/// One datagram in each stack to a port, and an honest one without any.
fn send_tagged(wire: &Wire, ends: [&str; 2], stacks: &[Tags], port: u16) {
    for tags in stacks {
        let frame = Frame::between(ends[0], ends[1]).datagram(4000, port, &name(tags));
        wire.send(tagged(frame, tags));
    }
    wire.send(honest(ends));
}

#[test]
fn no_stack_of_priority_tags_opens_a_port_of_the_host() {
    let Some((world, wire)) = host() else { return };
    let receiver = Receiver::new(&world, HOST);
    for ends in WIRE {
        send_tagged(&wire, ends, &PRIORITY, CLOSED);
        assert_eq!(receiver.heard(), names(&PRIORITY), "Linux takes them off");
    }
    enforce(&world, "--adopt 0");
    for ends in WIRE {
        send_tagged(&wire, ends, &PRIORITY, CLOSED);
        assert_eq!(receiver.heard(), [""; 0]);
        send_tagged(&wire, ends, &PRIORITY, OPEN);
        assert_eq!(receiver.heard(), shallow(&PRIORITY));
    }
}

#[test]
fn nor_does_it_begin_a_connection() {
    let Some((world, wire)) = host() else { return };
    let _receiver = Receiver::new(&world, HOST);
    let connect = |ends: [&str; 2], first: u16| {
        for (port, tags) in (first..).zip(PRIORITY) {
            let syn = Frame::between(ends[0], ends[1]).stream([port, CLOSED], "S", [1, 0], "");
            wire.send(tagged(syn, tags));
        }
        wire.send(honest_syn(ends, first - 1));
        answered(&wire, first - 1)
    };
    for ends in WIRE {
        let all: Vec<u16> = (2000..).take(PRIORITY.len()).collect();
        assert_eq!(connect(ends, 2000), all, "Linux takes them off");
    }
    enforce(&world, "--adopt 0");
    for ends in WIRE {
        assert_eq!(connect(ends, 3000), [0; 0]);
    }
}

#[test]
fn a_vlan_device_receives_nothing_more_by_tags_beside_its_own() {
    let Some((world, wire)) = host() else { return };
    if !world.try_sh("ip link add link wire name vlan5 type vlan id 5").status.success() {
        return skip("this kernel has no VLAN devices");
    }
    world.sh("ip addr add 10.5.0.1/24 dev vlan5; ip addr add fd00:5::1/64 dev vlan5 nodad
              ip link set vlan5 up");
    let receiver = Receiver::new(&world, HOST);
    let to_vlan = [["10.9.0.10", "10.5.0.1"], ["fd00:9::10", "fd00:5::1"]];
    for ends in to_vlan {
        send_tagged(&wire, ends, &NUMBERED, CLOSED);
        assert_eq!(receiver.heard(), names(&NUMBERED), "Linux takes them off");
    }
    enforce(&world, "--adopt 0");
    for ends in to_vlan {
        send_tagged(&wire, ends, &NUMBERED, CLOSED);
        assert_eq!(receiver.heard(), [""; 0]);
        send_tagged(&wire, ends, &NUMBERED, OPEN);
        assert_eq!(receiver.heard(), shallow(&NUMBERED));
    }
}

#[test]
fn no_stack_of_tags_opens_a_port_of_a_workload_on_a_bridge() {
    let Some((world, wire)) = bridged() else { return };
    let receiver = Receiver::new(&world, "blue");
    for ends in TO_BLUE {
        send_tagged(&wire, ends, &PRIORITY, CLOSED);
        assert_eq!(receiver.heard(), names(&PRIORITY), "Linux takes them off");
    }
    world.cilmark_ok(
        "attach blue --id 199472 --ip 10.9.0.2 fd00:9::2 --role container --policy enforce",
    );
    allow(&world, "blue", "ingress from any");
    for ends in TO_BLUE {
        send_tagged(&wire, ends, &PRIORITY, CLOSED);
        assert_eq!(receiver.heard(), [""; 0]);
        send_tagged(&wire, ends, &PRIORITY, OPEN);
        assert_eq!(receiver.heard(), shallow(&PRIORITY));
        // A workload may have VLAN devices: what counts is what gets in.
        let tap = inside(&world, "blue");
        for port in [CLOSED, OPEN] {
            send_tagged(&wire, ends, &NUMBERED, port);
            let frames = tap.before("honest");
            receiver.heard();
            let got_in = |name: &String| frames.iter().any(|frame| has(frame, name));
            let got_in: Vec<_> = names(&NUMBERED).into_iter().filter(got_in).collect();
            assert_eq!(got_in, if port == OPEN { shallow(&NUMBERED) } else { vec![] });
        }
    }
}

#[test]
fn what_a_bridge_hands_on_is_no_business_of_the_hosts() {
    let Some((world, wire)) = bridged() else { return };
    let receiver = Receiver::new(&world, "blue");
    enforce(&world, "--adopt 0");
    for ends in TO_BLUE {
        send_tagged(&wire, ends, &PRIORITY, CLOSED);
        assert_eq!(receiver.heard(), names(&PRIORITY));
    }
}

#[test]
fn a_workload_sends_nothing_by_tags() {
    let Some(world) = World::new() else { return };
    world.workload("red", 1);
    let (red, receiver) = (inside(&world, "red"), Receiver::new(&world, HOST));
    let [own, foreign] = [["10.1.0.10", "10.1.0.1"], ["10.1.0.99", "10.1.0.1"]];
    for ends in [own, foreign] {
        send_tagged(&red, ends, &PRIORITY, CLOSED);
        assert_eq!(receiver.heard(), names(&PRIORITY), "Linux takes them off");
    }
    world.cilmark_ok("attach red --id 1234 --ip 10.1.0.10 --policy enforce");
    allow(&world, "red", "egress to any");
    send_tagged(&red, own, &PRIORITY, CLOSED);
    assert_eq!(receiver.heard(), [""; 0], "by its policy");
    send_tagged(&red, own, &PRIORITY, OPEN);
    assert_eq!(receiver.heard(), shallow(&PRIORITY));
    send_tagged(&red, [foreign[0], own[1]], &PRIORITY, OPEN);
    red.send(honest(own));
    assert_eq!(receiver.heard(), [""; 0], "by its source");
}

#[test]
fn the_host_sends_nothing_by_tags() {
    let Some((world, wire)) = host() else { return };
    let nic = Wire::open(&world, HOST, "wire", wire.mac);
    let seen = || {
        let frames = wire.before("honest");
        let seen = |name: &String| frames.iter().any(|frame| has(frame, name));
        names(&PRIORITY).into_iter().filter(seen).collect::<Vec<_>>()
    };
    let ends = WIRE.map(|[stranger, host]| [host, stranger]);
    for ends in ends {
        send_tagged(&nic, ends, &PRIORITY, CLOSED);
        assert_eq!(seen(), names(&PRIORITY), "nothing stops them");
    }
    world.cilmark_ok(
        "attach wire --role netdev --egress-policy enforce --failsafe none --adopt 0 --yes",
    );
    allow(&world, "wire", "egress to any");
    for ends in ends {
        send_tagged(&nic, ends, &PRIORITY, CLOSED);
        assert_eq!(seen(), [""; 0]);
        send_tagged(&nic, ends, &PRIORITY, OPEN);
        assert_eq!(seen(), up_to(DEPTH, &PRIORITY));
    }
}

/// What Linux delivers to no socket that has not asked for it by name: LLDP, MPLS (both), PPPoE
/// (both), EAPOL, PTP, and what nobody has defined.
const NO_IP: [u16; 8] = [0x88cc, 0x8847, 0x8848, 0x8863, 0x8864, 0x888e, 0x88f7, 0x88b5];

#[test]
fn what_is_no_ip_goes_on_passing() {
    let Some((world, mut wire)) = bridged() else { return };
    let bridge = mac(&world, HOST, "bridge");
    let taps = [inside(&world, "blue"), Wire::open(&world, HOST, "bridge", bridge)];
    world.cilmark_ok("attach blue --id 199472 --role container --policy enforce");
    world.cilmark_ok("attach wire --role netdev --policy enforce --failsafe none --adopt 0 --yes");
    for (tap, to) in taps.iter().zip([wire.to, bridge]) {
        wire.to = to;
        for tags in [&[][..], &[(false, 5)], &[S, C]] {
            for kind in NO_IP {
                wire.send(tagged(Frame::other(kind, b"no IP".repeat(20)), tags));
                tap.before("no IP");
            }
        }
    }
}

#[test]
fn tags_on_a_device_without_ethernet_open_nothing() {
    let Some(world) = World::new() else { return };
    // What is written to it names the type of what follows.
    let path = "/run/netns/tun";
    let _tun =
        world.spawn(&format!("socat -u UNIX-RECV:{path} TUN,tun-type=tun,tun-name=tun,iff-up"));
    wait_for("the device", || {
        world.try_sh("ip link show up dev tun | grep -q UP").status.success()
    });
    wait_for("the socket", || std::fs::exists(path).expect("look for it"));
    world.sh("ip addr add 10.6.0.1/24 dev tun; ip addr add fd00:6::1/64 dev tun nodad");
    let receiver = Receiver::new(&world, HOST);
    let writer = UnixDatagram::unbound().expect("a socket");
    let write = |frame: Frame| {
        // No flags; and the type, as Ethernet has it.
        let packet = [&[0, 0], &frame.bytes()[12..]].concat();
        writer.send_to(&packet, path).expect("write");
    };
    let ends = [["10.6.0.10", "10.6.0.1"], ["fd00:6::10", "fd00:6::1"]];
    // An address that has just been added is not always delivered to at once.
    for ends in ends {
        let honest = || write(honest(ends));
        receiver.wait_until_reached(honest, || {
            write(Frame::between(ends[0], ends[1]).datagram(4000, OPEN, "last"));
        });
    }
    let heard = |ends: [&str; 2], port: u16| {
        for tags in PRIORITY {
            let frame = Frame::between(ends[0], ends[1]).datagram(4000, port, &name(tags));
            write(tagged(frame, tags));
        }
        write(honest(ends));
        receiver.heard()
    };
    for ends in ends {
        assert_eq!(heard(ends, CLOSED), names(&PRIORITY), "Linux takes them off");
    }
    world.cilmark_ok(
        "attach tun --role netdev --ingress-policy enforce --failsafe none --adopt 0 --yes",
    );
    allow(&world, "tun", "ingress from any");
    for ends in ends {
        assert_eq!(heard(ends, CLOSED), [""; 0]);
    }
}
