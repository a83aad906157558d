//! What a workload leaves behind is nobody's: the next one may get its number, its name and its addresses,
//! and rules like its own, but none of its flows.

use std::net::UdpSocket;

use super::drops;
use crate::common::World;
use crate::common::machine::by_each_hook;
use crate::common::packet::Frame;
use crate::common::traffic::{HOST, arrives, is_lost, udp};
use crate::common::wire::{Wire, fragments, mac};

/// The addresses of the first workload, as a socket of both families has them, and of its peer.
const RED: [&str; 2] = ["::ffff:10.1.0.10", "fd00:1::10"];
const PEER: [&str; 2] = ["::ffff:10.2.0.10", "fd00:2::10"];
/// Addresses of the two, by family.
const FROM_PEER: [[&str; 2]; 2] = [["10.2.0.10", "10.1.0.10"], ["fd00:2::10", "fd00:1::10"]];

const ADDRESSES: &str = "--ip 10.1.0.10 fd00:1::10";

/// How a workload ends.
#[derive(Debug, Clone, Copy)]
enum End {
    Detached,
    Killed,
}

/// A peer to which nothing is attached.
fn peer() -> Option<(World, UdpSocket)> {
    let world = World::new()?;
    world.workload("peer", 2);
    let socket = udp(&world, "peer", "[::]:7000");
    Some((world, socket))
}

/// A workload with the first's addresses, which is attached and has one rule.
fn begin(world: &World, name: &str, options: &str, rule: &str) {
    world.workload_as(name, 1, "index 500");
    world.cilmark_ok(&format!("attach {name} --id 1234 {ADDRESSES} {options}"));
    if !world.cilmark_ok(&format!("policy list {name}")).contains(rule) {
        world.cilmark_ok(&format!("policy add {name} {rule}"));
    }
}

/// Its namespace and its device go.
fn end(world: &World, name: &str, how: End) {
    if let End::Detached = how {
        world.cilmark_ok(&format!("detach {name}"));
    }
    world.sh(&format!("ip link del {name}; ip netns del {name}"));
}

#[test]
fn the_next_workload_does_not_get_the_answers_of_the_one_before() {
    let rule = "allow egress to any udp/7000";
    by_each_hook(|hook| {
        let enforce = format!("--policy enforce --hook {hook}");
        for (options, how, next) in [
            ("", End::Detached, "red"),
            ("", End::Killed, "red"),
            ("", End::Detached, "green"),
            ("--ct local", End::Killed, "red"),
        ] {
            let Some((world, peer)) = peer() else { return };
            // Without it the maps would go with the workload.
            world.veth("other");
            world.cilmark_ok("attach other --id 300 --policy audit --endpoint-id 9");
            let options = format!("{enforce} {options}");
            begin(&world, "red", &options, rule);
            let red = udp(&world, "red", "[::]:4000");
            for (red_address, peer_address) in RED.iter().zip(PEER) {
                arrives(&red, &peer, peer_address);
                arrives(&peer, &red, red_address);
            }
            // Attached again it is still the same workload.
            world.cilmark_ok(&format!("attach red --id 1234 {ADDRESSES} {options}"));
            RED.iter().for_each(|address| _ = arrives(&peer, &red, address));

            end(&world, "red", how);
            begin(&world, next, &options, rule);
            let heir = udp(&world, next, "[::]:4000");
            assert_eq!(world.status(next)["endpoint_id"], 1, "{how:?} {next}");
            for (red_address, peer_address) in RED.iter().zip(PEER) {
                is_lost(&peer, &heir, red_address);
                // What it has asked for itself it gets.
                arrives(&heir, &peer, peer_address);
                arrives(&peer, &heir, red_address);
            }
            assert_eq!(world.status(next)["drops"], 2, "{how:?} {next}");
        }
    });
}

#[test]
fn a_later_fragment_of_what_the_one_before_got_drops() {
    let rule = "allow ingress from any udp/7000";
    let Some((world, _)) = peer() else { return };
    world.veth("other");
    world.cilmark_ok("attach other --id 300 --policy audit --endpoint-id 9");
    let wire = Wire::open(&world, "peer", "eth0", mac(&world, HOST, "peer"));
    let send_and_wait = |to: &UdpSocket, frame: &[u8], ends: [&str; 2]| {
        wire.send(frame);
        wire.send(Frame::between(ends[0], ends[1]).datagram(4000, 7000, "hello"));
        to.recv(&mut [0; 16]).expect("the datagram behind it arrives");
    };
    let parts = |ends: [&str; 2]| {
        let whole = Frame::between(ends[0], ends[1]).datagram(4000, 7000, "in two fragments");
        fragments(&whole.bytes(), 16, 77)
    };
    begin(&world, "red", "--policy enforce", rule);
    let red = udp(&world, "red", "[::]:7000");
    // A path to it, on which no frame waits for an address.
    FROM_PEER.iter().for_each(|ends| send_and_wait(&red, &parts(*ends)[0], *ends));
    for ends in FROM_PEER {
        send_and_wait(&red, &parts(ends)[1], ends);
    }
    assert_eq!(world.status("red")["drops"], 0);
    end(&world, "red", End::Killed);
    begin(&world, "red", "--policy enforce", rule);
    let heir = udp(&world, "red", "[::]:7000");
    for ends in FROM_PEER {
        send_and_wait(&heir, &parts(ends)[1], ends);
    }
    assert_eq!(drops(&world, 175), 2);
}

/// A flow that the stack has translated stays with it; one of the next workload's own does not.
#[test]
fn the_path_of_a_flow_is_not_that_of_the_next_workloads() {
    let Some(world) = World::new() else { return };
    world.workload("peer", 2);
    world.cilmark_ok("attach peer --id 300 --ip 10.2.0.10 --local-delivery");
    world.sh("nft -f - <<'END'
         table ip services {
             chain prerouting {
                 type nat hook prerouting priority dstnat;
                 ip daddr 10.96.0.1 udp dport 8080 dnat to 10.1.0.10:7000
             }
         }
END");
    let peer = [4001, 4002].map(|port| udp(&world, "peer", &format!("0.0.0.0:{port}")));
    let ask = |from: &UdpSocket, to: &UdpSocket, address: &str, port: u16| {
        from.send_to(b"hello", (address, port)).expect("send");
        let (length, sender) = to.recv_from(&mut [0; 16]).expect("it arrives");
        assert_eq!((length, sender.ip().to_string().as_str()), (5, "10.2.0.10"));
    };
    let attach = |name: &str| {
        world.workload(name, 1);
        world.cilmark_ok(&format!("attach {name} --id 1234 --ip 10.1.0.10 --local-delivery"));
        let socket = udp(&world, name, "0.0.0.0:7000");
        // By what it sends others know its MAC.
        arrives(&socket, &peer[0], "10.2.0.10");
        socket
    };
    let red = attach("red");
    ask(&peer[0], &red, "10.96.0.1", 8080);
    end(&world, "red", End::Killed);
    let heir = attach("red");
    // It has such a flow of its own, so that it asks about each.
    ask(&peer[1], &heir, "10.96.0.1", 8080);
    world.sh("sysctl -qw net.ipv4.ip_forward=0");
    arrives(&heir, &peer[0], "10.2.0.10");
    is_lost(&heir, &peer[1], "10.2.0.10");
}
