//! Headers behind the end of the packet. A frame may be longer than the packet in it, and what stands
//! in its trailer is nothing that the receiver sees.

use std::net::UdpSocket;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::atomic::{AtomicU16, Ordering::Relaxed};

use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, setsockopt, socket, sockopt,
};
use nix::sys::time::{TimeVal, TimeValLike};

use super::{
    CLOSED, HOST, OPEN, Receiver, TO_BLUE, WIRE, allow, answered, bridged, enforce, honest,
    honest_syn, host, inside, two_workloads,
};
use crate::common::packet::Frame;
use crate::common::process::PATIENCE;
use crate::common::traffic::{arrives, ping, udp};
use crate::common::wire::{Wire, fragments, has, payload, say_length, with_options};

/// A number that no packet of fragments has had.
pub fn id() -> u16 {
    static LAST: AtomicU16 = AtomicU16::new(0);
    LAST.fetch_add(1, Relaxed)
}

/// The first `at` bytes of a packet, and in the trailer what they would go on with in another.
fn forged(real: &[u8], fake: &[u8], at: usize) -> [Vec<u8>; 2] {
    let [mut first, mut later] = fragments(real, at, id());
    first.extend(&fake[payload(fake) + at..]);
    name_transport(real, &mut later);
    [first, later]
}

/// IPv6: lets a later fragment say what its packet's transport is. The receiver goes by the first one.
fn name_transport(packet: &[u8], later: &mut [u8]) {
    let mut headers = (packet[20], payload(packet));
    while headers.0 == 60 {
        headers = (packet[headers.1], headers.1 + 8);
    }
    if later[20] == 44 {
        later[54] = headers.0;
    }
}

/// How the ports hide: the headers of options before them, and where the first fragment ends. If it
/// ended where the ports begin, Linux would drop it (`ipv6frag_thdr_truncated()`).
const CUTS: [(usize, usize); 5] = [(2, 8), (3, 8), (3, 16), (5, 8), (5, 32)];

/// IPv6: datagrams to the closed port, one for each cut, of which the trailer says these ports.
fn hidden_datagrams(ends: [&str; 2], ports: [u16; 2]) -> Vec<[Vec<u8>; 2]> {
    let datagram = |ports: [u16; 2], headers: usize, at: usize| {
        let text = format!("<{headers},{at}>");
        let frame = Frame::between(ends[0], ends[1]).datagram(ports[0], ports[1], &text);
        with_options(&frame.bytes(), headers)
    };
    let forge = |(headers, at)| {
        forged(&datagram([4000, CLOSED], headers, at), &datagram(ports, headers, at), at)
    };
    CUTS.into_iter().map(forge).collect()
}

fn texts() -> Vec<String> {
    CUTS.iter().map(|(headers, at)| format!("<{headers},{at}>")).collect()
}

/// Sends them in order, then the other way round, and something honest.
fn send_hidden(wire: &Wire, ends: [&str; 2], ports: [u16; 2]) {
    for [first, later] in hidden_datagrams(ends, ports) {
        wire.send(first);
        wire.send(later);
    }
    for [first, later] in hidden_datagrams(ends, ports) {
        wire.send(later);
        wire.send(first);
    }
    wire.send(honest(ends));
}

fn twice(texts: Vec<String>) -> Vec<String> {
    [texts.clone(), texts].concat()
}

#[test]
fn ports_behind_the_end_of_a_first_fragment_open_none_of_the_host() {
    let Some((world, wire)) = host() else { return };
    let receiver = Receiver::new(&world, HOST);
    let own = udp(&world, HOST, "[::]:5000");
    let stranger = udp(&world, "wire", "[::]:4000");
    send_hidden(&wire, WIRE[1], [4000, OPEN]);
    assert_eq!(receiver.heard(), twice(texts()), "they arrive");
    // DHCPv6's is open by default.
    enforce(&world, "--adopt 0");
    let options = "--ingress-policy enforce --adopt 0 --yes";
    world.cilmark_ok(&format!("attach wire --role netdev {options}"));
    // The host itself has begun this flow.
    arrives(&own, &stranger, WIRE[1][0]);
    for port in [OPEN, 546, 5000] {
        send_hidden(&wire, WIRE[1], [4000, port]);
        assert_eq!(receiver.heard(), [""; 0], "{port}");
    }
}

#[test]
fn nor_do_they_begin_a_connection() {
    let Some((world, wire)) = host() else { return };
    let _receiver = Receiver::new(&world, HOST);
    let ends = WIRE[1];
    let connect = |open: u16, first: u16| {
        for (port, (headers, at)) in (first..).zip(CUTS) {
            let syn = |to: u16| {
                let syn = Frame::between(ends[0], ends[1]).stream([port, to], "S", [1, 0], "");
                with_options(&syn.bytes(), headers)
            };
            forged(&syn(CLOSED), &syn(open), at).into_iter().for_each(|it| wire.send(it));
        }
        wire.send(honest_syn(ends, first - 1));
        answered(&wire, first - 1)
    };
    assert_eq!(connect(OPEN, 2000), [2000, 2001, 2002, 2003, 2004], "they are answered");
    enforce(&world, "--adopt 0");
    assert_eq!(connect(OPEN, 3000), [0; 0]);
    // SSH's port is open by default.
    world.cilmark_ok("attach wire --role netdev --ingress-policy enforce --adopt 0 --yes");
    assert_eq!(connect(22, 4000), [0; 0]);
}

/// `red` sends to `blue` by the stack, which cuts the trailer off, so that `red`'s policy is all that there
/// is; or by local delivery past the policies of both.
fn hides_from(attached: &[&str], options: &str) {
    let Some(world) = two_workloads() else { return };
    let (red, receiver) = (inside(&world, "red"), Receiver::new(&world, "blue"));
    let ends = ["fd00:1::10", "fd00:2::10"];
    ping(&world, "red", ends[1]);
    send_hidden(&red, ends, [4000, OPEN]);
    assert_eq!(receiver.heard(), twice(texts()), "they arrive");
    let options = format!("--policy enforce {options}");
    for (name, flags, peer) in [
        ("red", "--id 1234 --ip 10.1.0.10 fd00:1::10", "egress to any"),
        ("blue", "--id 199472 --ip 10.2.0.10 fd00:2::10", "ingress from 1234"),
    ] {
        if attached.contains(&name) {
            world.cilmark_ok(&format!("attach {name} {flags} {options}"));
            allow(&world, name, peer);
        }
    }
    // Local delivery learns a MAC from what its owner sends.
    world.inside("blue", || {
        let socket = UdpSocket::bind("[::]:0").expect("bind");
        let _ = socket.send_to(b"hello", ("fd00:1::10", OPEN));
    });
    send_hidden(&red, ends, [4000, OPEN]);
    assert_eq!(receiver.heard(), [""; 0]);
    // Whole headers in a first fragment, with a trailer or without, are no attack.
    let long = "honest and long, ".repeat(9);
    let long = Frame::between(ends[0], ends[1]).datagram(4000, OPEN, &long);
    for padding in [0, 20] {
        for fragment in fragments(&long.clone().bytes(), 16, id()) {
            red.send([fragment, vec![0; padding]].concat());
        }
    }
    red.send(honest(ends));
    assert_eq!(receiver.heard().len(), 2);
}

#[test]
fn a_workload_hides_no_ports_from_its_own_policy() {
    hides_from(&["red"], "");
}

#[test]
fn nor_does_it_by_local_delivery_from_that_of_another() {
    hides_from(&["red", "blue"], "--local-delivery");
}

#[test]
fn nor_does_a_stranger_on_the_workloads_bridge() {
    let Some((world, wire)) = bridged() else { return };
    let receiver = Receiver::new(&world, "blue");
    let ends = ["fd00:9::10", "fd00:9::2"];
    send_hidden(&wire, ends, [4000, OPEN]);
    assert_eq!(receiver.heard(), twice(texts()), "they arrive");
    let options = "--ip 10.9.0.2 fd00:9::2 --role container --policy enforce";
    world.cilmark_ok(&format!("attach blue --id 199472 {options}"));
    allow(&world, "blue", "ingress from any");
    send_hidden(&wire, ends, [4000, OPEN]);
    assert_eq!(receiver.heard(), [""; 0]);
}

#[test]
fn a_first_fragment_has_the_whole_header() {
    let Some((world, wire)) = host() else { return };
    let _receiver = Receiver::new(&world, HOST);
    // How many headers of options come before TCP's, and where the first fragment ends.
    const CUTS: [(usize, usize); 6] = [(0, 8), (0, 16), (0, 24), (1, 16), (1, 24), (1, 32)];
    let connect = |ends: [&str; 2], first: u16| {
        let mut sent = Vec::new();
        let is_ipv4 = ends[0].contains('.');
        for (port, (headers, at)) in (first..).zip(CUTS) {
            let syn = Frame::between(ends[0], ends[1]).stream([port, OPEN], "S", [1, 0], "hello!");
            if !(is_ipv4 && headers > 0) {
                let syn = with_options(&syn.bytes(), headers);
                // The trailer says the truth, which makes it no part of the packet.
                forged(&syn, &syn, at).into_iter().for_each(|it| wire.send(it));
                sent.push((port, at >= headers * 8 + 20));
            }
        }
        wire.send(honest_syn(ends, first - 1));
        (sent, answered(&wire, first - 1))
    };
    let (sent, answered) = connect(WIRE[0], 2000);
    let sent: Vec<u16> = sent.into_iter().map(|(port, _)| port).collect();
    assert_eq!(answered, sent, "of IPv4 Linux takes them all");
    enforce(&world, "--adopt 0");
    for ends in WIRE {
        let (sent, answered) = connect(ends, 3000);
        let whole: Vec<u16> =
            sent.into_iter().filter_map(|(port, whole)| whole.then_some(port)).collect();
        assert_eq!(answered, whole);
    }
}

/// Packets that end before their headers do, which go on as if for the open port.
fn short_packets(ends: [&str; 2]) -> Vec<Vec<u8>> {
    let frame = || Frame::between(ends[0], ends[1]);
    let datagram = frame().datagram(4000, OPEN, "<short>").bytes();
    let syn = frame().stream([4000, OPEN], "S", [1, 0], "<short>").bytes();
    let short = |frame: &[u8], lengths: &[usize]| {
        let cut = |length: &usize| {
            let mut frame = frame.to_vec();
            say_length(&mut frame, *length);
            frame
        };
        lengths.iter().map(cut).collect::<Vec<_>>()
    };
    // Of datagrams and segments in turn, so that neither has more.
    let plain = [short(&datagram, &[0, 4, 7]), short(&syn, &[0, 4, 19])].concat();
    if ends[0].contains('.') {
        return plain;
    }
    let with_options = |frame: &[u8]| short(&with_options(frame, 1), &[8, 12]);
    [plain, with_options(&datagram), with_options(&syn)].concat()
}

fn send_short(wire: &Wire, ends: [&str; 2]) -> usize {
    let packets = short_packets(ends);
    let count = packets.len();
    packets.into_iter().for_each(|packet| wire.send(packet));
    // Padding, as of every short frame, is no attack.
    wire.send([honest(ends).bytes(), vec![0; 30]].concat());
    count
}

/// A raw socket of the host, which gets all packets of a protocol.
pub fn raw(address: &str, protocol: SockProtocol) -> OwnedFd {
    let family = if address.contains(':') { AddressFamily::Inet6 } else { AddressFamily::Inet };
    let socket = socket(family, SockType::Raw, SockFlag::SOCK_CLOEXEC, protocol).expect("raw");
    let patience = TimeVal::seconds(PATIENCE.as_secs() as i64);
    setsockopt(&socket, sockopt::ReceiveTimeout, &patience).expect("set a timeout");
    socket
}

/// How many packets a raw socket has got before an honest one.
fn received(socket: &OwnedFd) -> usize {
    let packet = || {
        let mut bytes = [0; 2048];
        let length = recv(socket.as_raw_fd(), &mut bytes, MsgFlags::empty()).expect("a packet");
        (!has(&bytes[..length], "honest")).then_some(())
    };
    std::iter::from_fn(packet).count()
}

#[test]
fn a_packet_shorter_than_its_headers_does_not_get_to_the_host() {
    let Some((world, wire)) = host() else { return };
    for ends in WIRE {
        let socket = raw(ends[1], SockProtocol::Udp);
        let sent = send_short(&wire, ends);
        assert_eq!(received(&socket), sent / 2, "all the datagrams");
    }
    enforce(&world, "--adopt 0");
    for ends in WIRE {
        let socket = raw(ends[1], SockProtocol::Udp);
        send_short(&wire, ends);
        assert_eq!(received(&socket), 0);
    }
}

#[test]
fn nor_into_a_workload() {
    let Some((world, wire)) = bridged() else { return };
    let tap = inside(&world, "blue");
    let got_in = |ends: [&str; 2]| {
        let sent = send_short(&wire, ends);
        let frames = tap.before("honest");
        (frames.iter().filter(|frame| is_datagram_or_segment(frame)).count(), sent)
    };
    for ends in TO_BLUE {
        let (got_in, sent) = got_in(ends);
        assert_eq!(got_in, sent, "a bridge hands them on");
    }
    world.cilmark_ok("attach blue --id 199472 --role container --policy enforce");
    allow(&world, "blue", "ingress from any");
    for ends in TO_BLUE {
        assert_eq!(got_in(ends).0, 0);
    }
}

#[test]
fn nor_out_of_one() {
    let Some(world) = two_workloads() else { return };
    let (red, tap) = (inside(&world, "red"), inside(&world, "blue"));
    let arrived = |ends: [&str; 2]| {
        let sent = send_short(&red, ends);
        (tap.before("honest").iter().filter(|frame| is_datagram_or_segment(frame)).count(), sent)
    };
    let both = [["10.1.0.10", "10.2.0.10"], ["fd00:1::10", "fd00:2::10"]];
    for ends in both {
        ping(&world, "red", ends[1]);
        let (arrived, sent) = arrived(ends);
        assert_eq!(arrived, sent, "a router hands them on");
    }
    world.cilmark_ok("attach red --id 1234 --ip 10.1.0.10 fd00:1::10 --policy enforce");
    allow(&world, "red", "egress to any");
    for ends in both {
        assert_eq!(arrived(ends).0, 0);
    }
}

/// By what the IP header says, whatever is left behind it.
fn is_datagram_or_segment(frame: &[u8]) -> bool {
    match frame[14] >> 4 {
        4 => [6, 17].contains(&frame[23]),
        _ => [6, 17, 60].contains(&frame[20]),
    }
}
