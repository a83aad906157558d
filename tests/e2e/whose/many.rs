//! Frames for many: who else is on the bridge gets them, whatever the host may hear.

use std::net::UdpSocket;

use nix::net::if_::if_nametoindex;

use super::{CLOSED, OPEN, before, came, device, enforce, port, send_to_many};
use crate::common::World;
use crate::common::packet::Frame;
use crate::common::wire::{Wire, has};
use crate::e2e::bridge::bridged;

const VRRP: u8 = 112;
const HOSTS: [&str; 2] = ["10.9.0.1", "fd00:9::1"];

/// By sender, address and port: DHCP of both families, mDNS, a broadcast of the network.
const MANY: [([&str; 2], u16); 5] = [
    (["0.0.0.0", "255.255.255.255"], 67),
    (["10.9.0.2", "224.0.0.251"], 5353),
    (["10.9.0.2", "10.9.0.255"], CLOSED),
    (["fe80::2", "ff02::1:2"], 547),
    (["fe80::2", "ff02::fb"], 5353),
];

/// The host listens to all of it.
fn listeners(world: &World) -> Vec<UdpSocket> {
    let sockets = [5353, 67, 547, CLOSED].map(|number| port(world, number));
    let bridge = if_nametoindex("bridge").expect("the bridge");
    for group in ["224.0.0.251", "224.0.0.18"] {
        let own = "10.9.0.1".parse().unwrap();
        sockets[0].join_multicast_v4(&group.parse().unwrap(), &own).expect("join");
    }
    for group in ["ff02::1:2", "ff02::fb", "ff02::12"] {
        sockets[0].join_multicast_v6(&group.parse().unwrap(), bridge).expect("join");
    }
    sockets.into()
}

/// Sends all of it, and to each what tells that it was all; what the guest has seen, and the host heard.
fn send(red: &Wire, blue: &Wire, open: &UdpSocket, host: &[UdpSocket]) -> [Vec<String>; 2] {
    let mut names = Vec::new();
    for (ends, port) in MANY {
        let name = format!("<{} {port}>", ends[1]);
        let frame = Frame::between(ends[0], ends[1]).datagram(port ^ 1, port, &name);
        send_to_many(red, ends[1], frame);
        names.push(name);
    }
    for ends in [["10.9.0.2", "224.0.0.18"], ["fe80::2", "ff02::12"]] {
        let name = format!("<{} VRRP>", ends[1]);
        let body = [b"\x31\x01\x64\x01\0\x64\0\0", name.as_bytes()].concat();
        send_to_many(red, ends[1], Frame::between(ends[0], ends[1]).ttl(255).protocol(VRRP, body));
        names.push(name);
    }
    for (from, host) in ["10.9.0.2", "fd00:9::2"].into_iter().zip(HOSTS) {
        let name = format!("<{host} in a frame for all>");
        let frame = Frame::between(from, host).datagram(4000, CLOSED, &name);
        send_to_many(red, "255.255.255.255", frame);
        names.push(name);
    }
    send_to_many(red, "10.9.0.3", Frame::between("10.9.0.2", "10.9.0.3").datagram(1, 1, "the end"));
    red.send(Frame::between("10.9.0.2", HOSTS[0]).datagram(4000, OPEN, "the end"));
    let frames = blue.before("the end");
    assert_eq!(before(open, "the end"), [""; 0]);
    let seen = names.into_iter().filter(|name| frames.iter().any(|frame| has(frame, name)));
    [seen.collect(), host.iter().flat_map(came).collect()]
}

#[test]
fn guests_behind_a_policed_port_get_what_is_for_many_and_the_host_what_its_rules_allow() {
    let Some(world) = bridged() else { return };
    let (red, blue) = (device(&world, "red", "bridge"), device(&world, "blue", "bridge"));
    let (open, host) = (port(&world, OPEN), listeners(&world));
    let [all, heard] = send(&red, &blue, &open, &host);
    // The host has no program for VRRP.
    assert_eq!((all.len(), heard.len()), (9, 7), "{all:?}, {heard:?}");
    enforce(&world, "red", "");
    let before = world.status("red")["drops"].as_u64().unwrap();
    assert_eq!(send(&red, &blue, &open, &host), [all.clone(), Vec::new()]);
    assert_eq!(world.status("red")["drops"], before + 9);
    world.cilmark_ok("policy add red allow ingress from any udp/5353 --yes");
    let of_rule = ["<224.0.0.251 5353>", "<ff02::fb 5353>"].map(str::to_owned).into();
    assert_eq!(send(&red, &blue, &open, &host), [all, of_rule]);
}

/// A workload sends to the host's addresses by frames for all, for a neighbour and for the host; what has come to
/// its closed port.
fn send_to_host(red: &Wire, blue: &mut Wire, ports: &[UdpSocket; 2]) -> Vec<String> {
    let bridge = blue.to;
    for (own, host) in ["10.9.0.3", "fd00:9::3"].into_iter().zip(HOSTS) {
        let frame = |port, text| Frame::between(own, host).datagram(4000, port, text);
        for text in ["for all", "for all again"] {
            send_to_many(blue, "255.255.255.255", frame(CLOSED, text));
        }
        blue.to = red.mac;
        blue.send(frame(CLOSED, "for another"));
        blue.to = bridge;
        blue.send(frame(CLOSED, "for the host"));
        blue.send(frame(OPEN, "the end"));
        assert_eq!(before(&ports[0], "the end"), [""; 0]);
        send_to_many(blue, "255.255.255.255", frame(OPEN, "the end"));
        let frames = red.before("the end");
        for text in ["for all", "for all again"] {
            assert!(frames.iter().any(|frame| has(frame, text)), "{text} to {host}");
        }
        assert_eq!(before(&ports[0], "the end"), [""; 0]);
    }
    came(&ports[1])
}

const ATTACH_BLUE: &str = "attach blue --id 1234 --ip 10.9.0.3 fd00:9::3 --policy";
const NOT_THE_HOST: &str = "policy add blue allow egress to any deny egress to host udp/9000";

fn a_denied_host_is_denied_by_every_frame(world: &World) {
    let (red, mut blue) = (device(world, "red", "bridge"), device(world, "blue", "bridge"));
    let ports = [OPEN, CLOSED].map(|number| port(world, number));
    let all = ["for all", "for all again", "for the host"].repeat(2);
    assert_eq!(send_to_host(&red, &mut blue, &ports), all);
    world.cilmark_ok(&format!("{ATTACH_BLUE} audit"));
    world.cilmark_ok(NOT_THE_HOST);
    assert_eq!(send_to_host(&red, &mut blue, &ports), all, "it is audited only");
    world.cilmark_ok(&format!("{ATTACH_BLUE} enforce"));
    assert_eq!(send_to_host(&red, &mut blue, &ports), [""; 0]);
}

#[test]
fn a_workload_reaches_a_host_that_it_is_denied_by_no_frame_and_its_neighbours_by_one_for_all() {
    let Some(world) = bridged() else { return };
    world.sh("ip route add default via 10.9.0.9");
    a_denied_host_is_denied_by_every_frame(&world);
}

#[test]
fn nor_where_it_does_not_forward() {
    let Some(world) = bridged() else { return };
    world.sh("ip route add default via 10.9.0.9
              sysctl -qw net.ipv4.ip_forward=0 net.ipv6.conf.all.forwarding=0");
    a_denied_host_is_denied_by_every_frame(&world);
}

#[test]
fn nor_where_it_has_no_default_route() {
    let Some(world) = bridged() else { return };
    a_denied_host_is_denied_by_every_frame(&world);
}

#[test]
fn a_frame_for_the_host_opens_no_way_to_a_neighbour_where_nothing_is_forwarded() {
    for forwarding in [1, 0] {
        let Some(world) = bridged() else { return };
        world.sh(&format!(
            "ip route add default via 10.9.0.9
             sysctl -qw net.ipv4.ip_forward={forwarding} net.ipv6.conf.all.forwarding={forwarding}"
        ));
        let (red, mut blue) = (device(&world, "red", "bridge"), device(&world, "blue", "bridge"));
        world.cilmark_ok(&format!("{ATTACH_BLUE} enforce"));
        world.cilmark_ok(&format!(
            "policy add blue allow egress to host allow egress to any udp/{OPEN}"
        ));
        let bridge = blue.to;
        for ends in [["10.9.0.3", "10.9.0.2"], ["fd00:9::3", "fd00:9::2"]] {
            let frame = |port, text| Frame::between(ends[0], ends[1]).datagram(4000, port, text);
            blue.to = bridge;
            blue.send(frame(CLOSED, "for the host"));
            blue.to = red.mac;
            blue.send(frame(CLOSED, "for the neighbour"));
            blue.send(frame(OPEN, "the end"));
            let frames = red.before("the end");
            let came = frames.iter().any(|frame| has(frame, "for the neighbour"));
            assert!(!came, "forwarding {forwarding}: to {}", ends[1]);
        }
    }
}
