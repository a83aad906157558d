//! Routes that depend on more than the destination: what goes on by one is not the host's.

use super::{CLOSED, NIC, OPEN, before, came, device, port};
use crate::common::World;
use crate::common::packet::Frame;
use crate::common::traffic::{HOST, cannot_connect, listen};
use crate::common::wire::{Wire, has};

/// From the router's network to an address that is far away by one route, and the host's by the other.
const ENDS: [[&str; 2]; 2] = [["10.1.0.10", "198.51.100.9"], ["fd00:1::10", "2001:db8:51::9"]];
/// For the host by each route, and allowed.
const LAST: u16 = 7001;

/// The NIC `red` has the router's network behind it, `blue` the world. What this selector of a rule says goes to the
/// world; all else to the host.
fn router(selector: &str) -> Option<World> {
    let world = World::new()?;
    world.workload("red", 1);
    world.workload("blue", 2);
    for (ip, far, gateway) in [("ip", ENDS[0][1], "10.2.0.10"), ("ip -6", ENDS[1][1], "fd00:2::10")]
    {
        world.sh(&format!(
            "{ip} route add default via {gateway} table 100
             {ip} rule add pref 90 ipproto udp dport {LAST} lookup 200
             {ip} rule add pref 100 {selector} lookup 100
             {ip} rule add pref 110 to {far} lookup 200
             {ip} route add local {far} dev lo table 200
             ping -qc 1 -W 20 {gateway}"
        ));
    }
    Some(world)
}

/// Sends one that goes on and one for the host, fifty times; how many have gone on, and come to the host.
fn alternate(
    world: &World,
    red: &Wire,
    blue: &Wire,
    pair: impl Fn([&str; 2]) -> [Frame; 2],
) -> [usize; 2] {
    let ports = [LAST, CLOSED, OPEN].map(|number| port(world, number));
    let mut counts = [0; 2];
    for (ends, gateway) in ENDS.into_iter().zip(["10.2.0.10", "fd00:2::10"]) {
        for _ in 0..50 {
            pair(ends).into_iter().for_each(|frame| red.send(frame));
        }
        red.send(Frame::between(ends[0], ends[1]).datagram(4000, LAST, "the end"));
        red.send(Frame::between(ends[0], gateway).datagram(4000, OPEN, "the end"));
        assert_eq!(before(&ports[0], "the end"), [""; 0]);
        counts[0] += blue.before("the end").iter().filter(|frame| has(frame, "to go on")).count();
        counts[1] += ports[1..].iter().map(|port| came(port).len()).sum::<usize>();
    }
    counts
}

/// By each of these rules, with each of the two first.
#[test]
fn what_goes_on_by_a_route_of_its_port_or_class_opens_nothing_of_the_host() {
    for (selector, ports, classes) in [
        (format!("ipproto udp dport {OPEN}"), [OPEN, CLOSED], [0, 0]),
        ("tos 0x10".to_owned(), [CLOSED, CLOSED], [0x10, 0]),
    ] {
        for first in [0, 1] {
            let Some(world) = router(&selector) else { return };
            let (red, blue) = (device(&world, "red", "red"), device(&world, "blue", "blue"));
            let pair = |ends: [&str; 2]| {
                let texts = ["to go on", "for the host"];
                [first, 1 - first].map(|kind| {
                    let frame = Frame::between(ends[0], ends[1]).traffic_class(classes[kind]);
                    frame.datagram(4000, ports[kind], texts[kind])
                })
            };
            assert_eq!(alternate(&world, &red, &blue, pair), [100, 100], "by {selector}");
            world.cilmark_ok(&format!("attach red {NIC}"));
            world.cilmark_ok(&format!("policy add red allow ingress from any udp/{LAST} --yes"));
            assert_eq!(alternate(&world, &red, &blue, pair), [100, 0], "by {selector}");
        }
    }
}

/// The mark is set behind the NIC's programs: nobody can ask the routing tables by it.
#[test]
fn what_goes_on_by_a_route_of_a_mark_does_where_the_hosts_addresses_are_listed() {
    let Some(world) = World::new() else { return };
    world.workload("red", 1);
    world.workload("blue", 2);
    world.sh("nft -f - <<'END'
         table inet marks {
             chain prerouting {
                 type filter hook prerouting priority mangle;
                 iifname red meta mark set 1
             }
         }
END
         ip rule add fwmark 1 lookup 100; ip -6 rule add fwmark 1 lookup 100
         ip route add default via 10.2.0.10 table 100
         ip -6 route add default via fd00:2::10 table 100
         for address in 10.2.0.10 fd00:2::10; do ping -qc 1 -W 20 $address; done");
    let (red, blue) = (device(&world, "red", "red"), device(&world, "blue", "blue"));
    world.cilmark_ok(&format!("attach red {NIC} --host-addresses listed"));
    for ([own, far], gateway) in ENDS.into_iter().zip(["10.2.0.10", "fd00:2::10"]) {
        red.send(Frame::between(own, far).datagram(4000, CLOSED, "to go on"));
        red.send(Frame::between(own, gateway).datagram(4000, OPEN, "the end"));
        assert!(blue.before("the end").iter().any(|frame| has(frame, "to go on")), "to {far}");
    }
    let _server = listen(&world, HOST, 80);
    for host in ["10.1.0.1", "fd00:1::1"] {
        cannot_connect(&world, "red", host, 80);
    }
    world.sh("ip -n red route replace 10.2.0.1 via 10.1.0.1");
    cannot_connect(&world, "red", "10.2.0.1", 80);
    cannot_connect(&world, "red", "fd00:2::1", 80);
}
