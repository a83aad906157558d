//! ICMP as a tunnel: what passes by itself carries nothing that anybody likes to send.

use std::net::{Ipv6Addr, UdpSocket};
use std::os::fd::{AsRawFd, OwnedFd};

use nix::sys::socket::{MsgFlags, SockProtocol, recv};

use super::trailers::{id, raw};
use super::{OPEN, RED, WIRE, World, allow, bridged_workloads, enforce, honest, host, inside};
use crate::common::packet::Frame;
use crate::common::traffic::{ping, udp};
use crate::common::wire::{Wire, fragments, has, mac, payload};

/// A message with a name in it, by which it is known when it arrives.
pub type Message = (String, Vec<u8>);

/// Behind the name, so that a fragment may begin there.
pub const TAIL: [u8; 16] = [0; 16];

/// Errors of IPv4 by type and code: unreachable, too large, and forbidden; time exceeded; bad headers.
const ERRORS: [(u8, u8); 8] = [(3, 0), (3, 1), (3, 3), (3, 4), (3, 13), (11, 0), (11, 1), (12, 0)];
/// Those of IPv6.
const ERRORS6: [(u8, u8); 8] = [(1, 0), (1, 1), (1, 4), (2, 0), (3, 0), (3, 1), (4, 0), (4, 1)];

/// What an error may quote of a flow that nobody knows: nothing of the kind; packets of the receiver's
/// own; one of the sender's; one of others; and a fragment.
fn quotes([from, to]: [&str; 2]) -> Vec<(&'static str, Vec<u8>)> {
    let is_ipv4 = from.contains('.');
    let others = if is_ipv4 { "198.51.100.7" } else { "2001:db8::99" };
    let ping = |frame: Frame| match is_ipv4 {
        true => frame.protocol(1, [8, 0, 0, 0, 0x77, 7, 0, 1]),
        false => frame.protocol(58, [128, 0, 0, 0, 0x77, 7, 0, 1]),
    };
    let own = || Frame::between(to, from);
    let frames = [
        ("udp", own().datagram(5555, 6666, "").bytes()),
        ("tcp", own().stream([5555, 6666], "A", [1, 1], "").bytes()),
        ("echo", ping(own()).bytes()),
        ("reversed", Frame::between(from, to).datagram(5555, 6666, "").bytes()),
        ("others", Frame::between(to, others).datagram(5555, 6666, "").bytes()),
        ("later", fragments(&own().datagram(5555, 6666, "later, ").bytes(), 8, 9)[1].clone()),
    ];
    let quotes = frames.into_iter().map(|(name, frame)| (name, frame[14..].to_vec()));
    std::iter::once(("junk", vec![])).chain(quotes).collect()
}

/// Errors that quote what nobody has sent.
fn errors(ends: [&str; 2]) -> Vec<Message> {
    let is_ipv4 = ends[0].contains('.');
    let (kinds, protocol) = if is_ipv4 { (ERRORS, 1) } else { (ERRORS6, 58) };
    let error = |(kind, code): (u8, u8), (quote, bytes): (&str, Vec<u8>)| {
        let name = format!("<{protocol}: {kind}/{code} {quote} from {}>", ends[0]);
        // The next hop's MTU, where there is one: in the last two bytes.
        let header = [kind, code, 0, 0, 0, 0, 5, 0];
        let message = [&header, bytes.as_slice(), name.as_bytes(), &TAIL].concat();
        (name, Frame::between(ends[0], ends[1]).protocol(protocol, message).bytes())
    };
    let every = |kind| quotes(ends).into_iter().map(move |quote| error(kind, quote));
    kinds.into_iter().flat_map(every).collect()
}

fn message(ends: [&str; 2], protocol: u8, kind: u8, hop_limit: u8) -> Message {
    let name = format!("<{protocol}: {kind}, hop limit {hop_limit} from {}>", ends[0]);
    // ICMPv6: a target, as of neighbour discovery.
    let target: Ipv6Addr =
        if ends[1].contains(':') { ends[1].parse() } else { "::".parse() }.expect("an address");
    let header = [kind, 0, 0, 0, 0, 0, 0, 0];
    let body = [&header, target.octets().as_slice(), name.as_bytes(), &TAIL].concat();
    (name, Frame::between(ends[0], ends[1]).ttl(hop_limit).protocol(protocol, body).bytes())
}

/// Messages that are about no flow; and either protocol in the packets of the other family.
fn messages(ends: [&str; 2], hop_limits: &[u8]) -> Vec<Message> {
    let types = |protocol, types: &'static [u8]| {
        let of_type = move |kind: &u8| {
            let kind = *kind;
            hop_limits.iter().map(move |limit| message(ends, protocol, kind, *limit))
        };
        types.iter().flat_map(of_type)
    };
    if ends[0].contains('.') {
        let own = types(1, &[4, 5, 9, 10, 13, 14, 15, 16, 17, 18, 40, 42, 253]);
        return own.chain(types(58, &[1, 2, 128, 133, 135, 136, 143])).collect();
    }
    let listeners = types(58, &[130, 131, 132, 143, 151, 152, 153]);
    let neighbours = types(58, &[133, 134, 135, 136, 137, 141, 142, 148, 149]);
    let others = types(58, &[5, 100, 127, 138, 139, 140, 144, 145, 146, 147, 155, 160, 200, 255]);
    listeners.chain(neighbours).chain(others).chain(types(1, &[0, 3, 8, 11, 12])).collect()
}

/// The same in two fragments, of which this one has the name.
pub fn in_fragments(messages: &[Message], named: usize) -> Vec<Message> {
    let cut = |(name, frame): &Message| {
        let name_end = frame.len() - payload(frame) - TAIL.len();
        let at = if named == 1 { 8 } else { name_end.next_multiple_of(8) };
        let mut parts = fragments(frame, at, id()).map(|part| (String::new(), part));
        parts[named].0 = name.clone();
        parts
    };
    messages.iter().flat_map(cut).collect()
}

fn everything(ends: [&str; 2]) -> Vec<Message> {
    [errors(ends), messages(ends, &[64, 255])].concat()
}

/// Those whose names have arrived before something honest.
pub fn arrived(tap: &Wire, messages: &[Message]) -> Vec<String> {
    let frames = tap.before("honest");
    let arrived = |name: &String| frames.iter().any(|frame| has(frame, name));
    names(messages).into_iter().filter(arrived).collect()
}

/// Sends them in portions that a socket takes at once; those that have arrived.
pub fn tunnel(from: &Wire, tap: &Wire, ends: [&str; 2], messages: &[Message]) -> Vec<String> {
    let portion = |messages: &[Message]| {
        messages.iter().for_each(|(_, frame)| from.send(frame.clone()));
        from.send(honest(ends));
        arrived(tap, messages)
    };
    messages.chunks(50).flat_map(portion).collect()
}

pub fn names(messages: &[Message]) -> Vec<String> {
    let names = messages.iter().map(|(name, _)| name);
    names.filter(|name| !name.is_empty()).cloned().collect()
}

/// A workload `red` with a router between it and the stranger.
pub fn routed() -> Option<(World, Wire, Wire, [UdpSocket; 2])> {
    let (world, wire) = host()?;
    world.workload("red", 1);
    let red = inside(&world, "red");
    // Or what is honest would be answered by an error, which quotes it.
    let open = ["red", "wire"].map(|name| udp(&world, name, &format!("[::]:{OPEN}")));
    for [out, _] in WIRE {
        ping(&world, "red", out);
    }
    Some((world, red, wire, open))
}

/// Its policy allows one port, in both directions.
pub fn attach_red(world: &World) {
    world.cilmark_ok("attach red --id 1234 --ip 10.1.0.10 fd00:1::10 --policy enforce");
    allow(world, "red", "egress to any");
    allow(world, "red", "ingress from any");
}

#[test]
fn a_workload_tells_the_world_nothing_by_icmp_and_hears_nothing() {
    let Some((world, red, wire, _open)) = routed() else { return };
    for attached in [false, true] {
        for (own, [out, _]) in RED.into_iter().zip(WIRE) {
            for (from, tap, ends) in [(&red, &wire, [own, out]), (&wire, &red, [out, own])] {
                let messages = everything(ends);
                let expected = if attached { vec![] } else { names(&messages) };
                assert_eq!(tunnel(from, tap, ends, &messages), expected, "{ends:?}");
            }
        }
        if !attached {
            attach_red(&world);
        }
    }
}

#[test]
fn nor_in_fragments() {
    let Some((world, red, wire, _open)) = routed() else { return };
    for attached in [false, true] {
        for (own, [out, _]) in RED.into_iter().zip(WIRE) {
            for (from, tap, ends) in [(&red, &wire, [own, out]), (&wire, &red, [out, own])] {
                for named in [0, 1] {
                    let messages = in_fragments(&everything(ends), named);
                    let expected = if attached { vec![] } else { names(&messages) };
                    assert_eq!(tunnel(from, tap, ends, &messages), expected, "{ends:?}");
                }
            }
        }
        if !attached {
            attach_red(&world);
        }
    }
}

/// ICMP messages that a raw socket of the host has got.
pub fn got(socket: &OwnedFd, messages: &[Message], last: &str) -> Vec<String> {
    let mut packets = Vec::new();
    loop {
        let mut bytes = vec![0; 4096];
        let length = recv(socket.as_raw_fd(), &mut bytes, MsgFlags::empty()).expect("a packet");
        if has(&bytes[..length], last) {
            break;
        }
        packets.push(bytes);
    }
    let got = |name: &String| packets.iter().any(|packet| has(packet, name));
    names(messages).into_iter().filter(got).collect()
}

/// Of both protocols, whatever the family.
fn sockets(address: &str) -> [OwnedFd; 2] {
    [SockProtocol::Icmp, SockProtocol::IcmpV6].map(|protocol| raw(address, protocol))
}

#[test]
fn nobody_tells_a_host_anything_by_icmp() {
    let Some((world, wire)) = host() else { return };
    for attached in [false, true] {
        for ends in WIRE {
            let is_ipv4 = ends[0].contains('.');
            let whole = everything(ends);
            let cut = in_fragments(&everything(ends), 1);
            for messages in whole.chunks(50).chain(cut.chunks(50)) {
                let sockets = sockets(ends[1]);
                messages.iter().for_each(|(_, frame)| wire.send(frame.clone()));
                // Echoes are what the policy allows.
                for protocol in [1, 58] {
                    let kind = if is_ipv4 { 8 } else { 128 };
                    let header = [kind, 0, 0, 0, protocol, 1, 0, 1];
                    let echo = [header.as_slice(), b"honest"].concat();
                    wire.send(Frame::between(ends[0], ends[1]).protocol(protocol, echo));
                }
                let mut came = Vec::new();
                // The other family's protocol ends with nothing: its echo is no echo to anybody.
                let [own, other] =
                    if is_ipv4 { [&sockets[0], &sockets[1]] } else { [&sockets[1], &sockets[0]] };
                came.extend(got(own, messages, "honest"));
                came.extend(received_now(other, messages));
                let passing = |name: &String| messages_that_pass(name, ends);
                came.retain(|name| !attached || !passing(name));
                let mut expected = if attached { vec![] } else { names(messages) };
                // By protocol, as the sockets are.
                expected.sort();
                came.sort();
                assert_eq!(came, expected);
            }
        }
        if !attached {
            enforce(&world, "--adopt 0");
            for echo in ["icmp/8", "icmp6/128"] {
                world.cilmark_ok(&format!("policy add wire allow ingress from any {echo} --yes"));
            }
        }
    }
}

/// What the link needs, whole and with a hop limit that nobody has lowered: neighbours ask each other
/// under global addresses, too. A router advertises itself by its link-local one.
fn messages_that_pass(name: &str, ends: [&str; 2]) -> bool {
    let neighbours = [133, 135, 136, 141, 142, 148, 149];
    ends[0].contains(':')
        && neighbours
            .iter()
            .any(|kind| name == format!("<58: {kind}, hop limit 255 from {}>", ends[0]))
}

/// What a socket has by now.
fn received_now(socket: &OwnedFd, messages: &[Message]) -> Vec<String> {
    let mut packets = Vec::new();
    let mut bytes = vec![0; 4096];
    while let Ok(length) = recv(socket.as_raw_fd(), &mut bytes, MsgFlags::MSG_DONTWAIT) {
        packets.push(bytes[..length].to_vec());
    }
    let got = |name: &String| packets.iter().any(|packet| has(packet, name));
    names(messages).into_iter().filter(got).collect()
}

#[test]
fn neighbours_on_a_bridge_tell_each_other_only_what_a_link_needs() {
    let Some(world) = bridged_workloads() else { return };
    let (mut red, tap) = (inside(&world, "red"), inside(&world, "blue"));
    red.to = mac(&world, "blue", "eth0");
    let (ends, group) = (["fd00:9::3", "fd00:9::2"], "ff02::1");
    let of = |ends: [&str; 2], kinds: &[u8], hop_limit: u8| {
        kinds.iter().map(|kind| message(ends, 58, *kind, hop_limit)).collect::<Vec<_>>()
    };
    let (listeners, neighbours) = ([130, 131, 132, 143, 151, 153], [135, 136]);
    let forbidden = [
        // For others than the link, or from nobody on it.
        of(ends, &listeners, 1),
        of(["fe80::3", ends[1]], &listeners, 1),
        of(["::", ends[1]], &listeners, 1),
        of([ends[0], group], &listeners, 1),
        of([ends[0], group], &listeners, 2),
        of(["fe80::3", group], &listeners, 64),
        of(ends, &neighbours, 254),
        of(["fe80::3", "fe80::2"], &neighbours, 1),
        of(ends, &[133, 141, 142, 148, 149], 64),
        in_fragments(&of(ends, &neighbours, 255), 0),
        in_fragments(&of(ends, &neighbours, 255), 1),
        in_fragments(&of(["fe80::3", group], &listeners, 1), 0),
    ];
    for forbidden in &forbidden {
        assert_eq!(tunnel(&red, &tap, ends, forbidden), names(forbidden), "a bridge hands them on");
    }
    let attach = |name: &str| {
        let number = if name == "red" { 3 } else { 2 };
        let addresses = format!("10.9.0.{number} fd00:9::{number} fe80::{number}");
        let flags = format!("--id {number}000 --ip {addresses} --role container");
        world.cilmark_ok(&format!("attach {name} {flags} --policy enforce"));
        allow(&world, name, "egress to any");
        allow(&world, name, "ingress from any");
    };
    attach("red");
    for forbidden in &forbidden {
        assert_eq!(tunnel(&red, &tap, ends, forbidden), [""; 0], "by the sender's policy");
    }
    world.cilmark_ok("detach red");
    attach("blue");
    for forbidden in &forbidden {
        assert_eq!(tunnel(&red, &tap, ends, forbidden), [""; 0], "by the receiver's");
    }
    attach("red");
    let own_target = |ends: [&str; 2]| {
        let target = ends[0].parse::<Ipv6Addr>().expect("an address").octets();
        let body = [&[136, 0, 0, 0, 0x60, 0, 0, 0], target.as_slice(), b"<advertised>"].concat();
        let frame = Frame::between(ends[0], ends[1]).ttl(255).protocol(58, body);
        vec![("<advertised>".to_owned(), frame.bytes())]
    };
    let needed = [
        of(["fe80::3", group], &[131, 132, 143], 1),
        of(ends, &[135], 255),
        own_target(ends),
        own_target(["fe80::3", "fe80::2"]),
        own_target([ends[0], group]),
    ];
    for needed in &needed {
        assert_eq!(tunnel(&red, &tap, ends, needed), names(needed));
    }
}
