//! While a NIC adopts connections that are older than its policy, it believes the kernel and nobody
//! else.

use std::net::TcpListener;

use serde_json::Value;

use super::{
    CLOSED, HOST, Receiver, WIRE, answered, enforce, honest, honest_syn, host, two_workloads,
};
use crate::common::World;
use crate::common::packet::Frame;
use crate::common::traffic::{Connection, cannot_connect, listen};
use crate::common::wire::{Wire, fragments, payload, segment, with_options};

const ADOPTING: &str = "--adopt 60s";

/// What adopted entries there are of TCP, by the port of the other end.
fn adopted(world: &World) -> Vec<u64> {
    let flows = world.cilmark_json("conntrack list");
    let flows = flows.as_array().expect("a list").iter();
    flows.filter(|flow| flow["protocol"] == "tcp").map(port).collect()
}

fn port(flow: &Value) -> u64 {
    flow["remote_port"].as_u64().expect("a port")
}

/// A SYN in two fragments: the first one ends before the flags, and its trailer says others.
fn forged_syn(ends: [&str; 2], port: u16, flags: &str) -> [Vec<u8>; 2] {
    let segment =
        |flags| Frame::between(ends[0], ends[1]).stream([port, CLOSED], flags, [1000, 1], "");
    let (real, fake) = (segment("S").bytes(), segment(flags).bytes());
    let [mut first, later] = fragments(&real, 8, port);
    first.extend(&fake[payload(&fake) + 8..]);
    [first, later]
}

/// The same of IPv6, whose first fragment may not end within a header that Linux knows: here it ends
/// within the chain.
fn hidden_syn(ends: [&str; 2], port: u16, flags: &str) -> [Vec<u8>; 2] {
    let segment = |flags| {
        let frame = Frame::between(ends[0], ends[1]);
        with_options(&frame.stream([port, CLOSED], flags, [1000, 1], "").bytes(), 2)
    };
    let (real, fake) = (segment("S"), segment(flags));
    let [mut first, mut later] = fragments(&real, 8, port);
    first.extend(&fake[payload(&fake) + 8..]);
    later[54] = 6;
    [first, later]
}

#[test]
fn a_syn_in_fragments_is_no_old_connection() {
    let Some((world, wire)) = host() else { return };
    let _receiver = Receiver::new(&world, HOST);
    let connect = |first: u16| {
        let mut answers = Vec::new();
        for ends in WIRE {
            let forge = if ends[0].contains(':') { hidden_syn } else { forged_syn };
            for (port, flags) in (first..).zip(["A", "FA", "R", "RA", ""]) {
                forge(ends, port, flags).into_iter().for_each(|it| wire.send(it));
            }
            wire.send(honest_syn(ends, first - 1));
            answers.push(answered(&wire, first - 1));
        }
        answers
    };
    assert_eq!(connect(2000), [[2000, 2001, 2002, 2003, 2004]; 2], "Linux puts them together");
    enforce(&world, ADOPTING);
    assert_eq!(connect(3000), [[0; 0]; 2]);
}

/// Segments of a connection that nobody has, from this port on: their flags and numbers.
fn send_midstream(wire: &Wire, ends: [&str; 2], first: u16, to: u16) -> Vec<u16> {
    let kinds = [("A", ""), ("A", "data"), ("FA", ""), ("SA", ""), ("F", ""), ("", "data")];
    for (port, (flags, text)) in (first..).zip(kinds) {
        wire.send(Frame::between(ends[0], ends[1]).stream([port, to], flags, [1000, 2000], text));
    }
    (first..).take(kinds.len()).collect()
}

#[test]
fn a_segment_that_the_host_knows_nothing_of_is_none_of_an_old_connection() {
    let Some((world, wire)) = host() else { return };
    let receiver = Receiver::new(&world, HOST);
    let resets = |ends: [&str; 2], first: u16, to: u16| {
        let sent = send_midstream(&wire, ends, first, to);
        wire.send(honest_syn(ends, first - 1));
        (answered(&wire, first - 1), sent)
    };
    // Nobody listens on 9001.
    for to in [CLOSED + 1, CLOSED] {
        for ends in WIRE {
            let (answers, sent) = resets(ends, 2000, to);
            // A listener ignores a FIN, and what has no flags.
            let expected = if to == CLOSED { &sent[..4] } else { &sent[..] };
            assert_eq!(answers, expected, "Linux answers with a reset");
        }
    }
    enforce(&world, ADOPTING);
    for to in [CLOSED + 1, CLOSED] {
        for ends in WIRE {
            assert_eq!(resets(ends, 3000, to).0, [0; 0], "{to}");
        }
    }
    // Nor is there an entry that another packet may use.
    let left: Vec<_> = adopted(&world).into_iter().filter(|port| *port != 2999).collect();
    assert_eq!(left, [0; 0]);
    drop(receiver);
}

#[test]
fn a_handshake_that_has_begun_is_no_old_connection() {
    begins_a_handshake("");
}

#[test]
fn nor_is_it_where_the_kernel_tracks_connections() {
    begins_a_handshake(
        "nft 'add table inet t
            add chain inet t i { type filter hook input priority 0; }
            add rule inet t i ct state new counter'",
    );
}

fn begins_a_handshake(setup: &str) {
    let Some((world, wire)) = host() else { return };
    world.sh(setup);
    let server: TcpListener = listen(&world, HOST, CLOSED);
    // The stranger's kernel would end it, knowing nothing of it.
    world.sh("ip netns exec wire nft 'add table inet t
        add chain inet t o { type filter hook output priority 0; }
        add rule inet t o tcp flags & rst == rst drop'");
    let _receiver = listen(&world, HOST, super::OPEN);
    let datagrams = Receiver::datagrams(&world, HOST);
    let mut begun = Vec::new();
    for ends in WIRE {
        let frame = || Frame::between(ends[0], ends[1]);
        // Nobody has answered this one.
        wire.send(frame().datagram(2000, CLOSED, "unanswered"));
        wire.send(frame().stream([2000, CLOSED], "S", [1000, 0], ""));
        let answer = loop {
            if let Some(answer) = segment(&wire.receive()).filter(|tcp| tcp.syn && tcp.ack) {
                break answer;
            }
        };
        begun.push((ends, answer.sequence.wrapping_add(1)));
    }
    enforce(&world, ADOPTING);
    for (ends, number) in begun {
        wire.send(Frame::between(ends[0], ends[1]).stream([2000, CLOSED], "A", [1001, number], ""));
        wire.send(honest_syn(ends, 1999));
        answered(&wire, 1999);
        wire.send(Frame::between(ends[0], ends[1]).datagram(2000, CLOSED, "again"));
        wire.send(honest(ends));
        assert!(!datagrams.heard().contains(&"again".to_owned()));
    }
    server.set_nonblocking(true).expect("do not wait");
    assert!(server.accept().is_err(), "the handshake has been finished");
}

#[test]
fn what_the_host_has_goes_on_and_nothing_beside_it() {
    let Some((world, wire)) = host() else { return };
    let (here, there) = (listen(&world, HOST, 5001), listen(&world, "wire", 5001));
    let _receiver = Receiver::new(&world, HOST);
    let mut connections = Vec::new();
    for ends in WIRE {
        connections.push(Connection::open(&world, "wire", &here, ends[1]));
        connections.push(Connection::open(&world, HOST, &there, ends[0]));
    }
    enforce(&world, ADOPTING);
    // A fragment tells nothing, also one of a connection that there is.
    for (ends, connection) in WIRE.into_iter().zip([&connections[0], &connections[2]]) {
        let port = connection.client.local_addr().expect("an address").port();
        let segment = Frame::between(ends[0], ends[1]).stream([port, 5001], "A", [1, 1], "hello");
        fragments(&segment.bytes(), 24, 1).into_iter().for_each(|it| wire.send(it));
        wire.send(honest_syn(ends, 2998));
        answered(&wire, 2998);
        assert!(!adopted(&world).contains(&port.into()), "{port}");
    }
    for ends in WIRE {
        // The same server, another port of the stranger's.
        send_midstream(&wire, ends, 3000, 5001);
        wire.send(honest_syn(ends, 2999));
        answered(&wire, 2999);
    }
    assert_eq!(adopted(&world).iter().filter(|port| (3000..3100).contains(*port)).count(), 0);
    connections.iter().for_each(Connection::works);
    for [_, address] in WIRE {
        cannot_connect(&world, "wire", address, 5001);
    }
    // Taken over: it no longer depends on the window.
    world.cilmark_ok(
        "attach wire --role netdev --ingress-policy enforce --failsafe none --adopt 0 --yes",
    );
    connections.iter().for_each(Connection::works);
}

#[test]
fn what_the_host_masquerades_goes_on() {
    let Some(world) = two_workloads() else { return };
    world.sh("ip -n red route del default; ip -n red -6 route del default
        nft 'add table inet t
            add chain inet t post { type nat hook postrouting priority srcnat; }
            add rule inet t post oifname red masquerade'");
    let server = listen(&world, "red", 5001);
    let addresses = ["10.1.0.10", "fd00:1::10"];
    let open = |address| Connection::open(&world, "blue", &server, address);
    let connections = addresses.map(open);
    for connection in &connections {
        connection.works();
    }
    world.cilmark_ok("attach red --role netdev --policy enforce --failsafe none --adopt 60s --yes");
    // Whoever speaks first: here it is the world.
    for connection in &connections {
        let reversed = Connection {
            client: connection.server.try_clone().expect("a socket"),
            server: connection.client.try_clone().expect("a socket"),
        };
        reversed.works();
        connection.works();
    }
    assert_eq!(world.status("red")["drops"], 0);
}

#[test]
fn a_workload_adopts_nothing_at_run_time() {
    let Some(world) = two_workloads() else { return };
    let server = listen(&world, "blue", 5001);
    let connections = ["10.2.0.10", "fd00:2::10"]
        .map(|address| Connection::open(&world, "red", &server, address));
    world.cilmark_ok("attach blue --id 199472 --ip 10.2.0.10 fd00:2::10 --policy enforce");
    connections.iter().for_each(Connection::is_cut);
}
