//! Whose identity it is: a workload's own packets have it, whatever way they take through the host, and
//! nobody has it by its address alone or by a mark.

use std::net::SocketAddrV4;
use std::os::fd::AsRawFd;

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrIn, sendto, setsockopt,
    socket, sockopt,
};

use super::trailers::id;
use super::{
    HOST, OPEN, Receiver, WIRE, World, allow, bridged_workloads, enforce, honest, inside, stranger,
    two_workloads,
};
use crate::common::machine::skip;
use crate::common::packet::Frame;
use crate::common::traffic::{Connection, arrives, ping, udp};
use crate::common::wire::{Wire, fragments, mac};

/// The workloads' addresses, by family: from `red` to `blue`.
const ENDS: [[&str; 2]; 2] = [["10.1.0.10", "10.2.0.10"], ["fd00:1::10", "fd00:2::10"]];

/// The mark of `red`'s identity, 1234.
const RED: u32 = 0x04d2_0f00;

const RED_FLAGS: &str = "--id 1234 --ip 10.1.0.10 fd00:1::10";
const BLUE_FLAGS: &str = "--id 199472 --ip 10.2.0.10 fd00:2::10 --ingress-policy enforce";

/// `blue` takes packets from 1234 only, and `red` is that.
fn attach(world: &World, red: &str, blue: &str) {
    world.cilmark_ok(&format!("attach red {red}"));
    world.cilmark_ok(&format!("attach blue {blue}"));
    allow(world, "blue", "ingress from 1234");
}

/// Both workloads, a stranger on the wire, and a receiver in `blue`.
struct Scene {
    world: World,
    red: Wire,
    wire: Wire,
    receiver: Receiver,
}

impl Scene {
    fn new() -> Option<Scene> {
        let world = two_workloads()?;
        world.workload("wire", 9);
        // Where it is on, IPv4 has some protection of its own.
        world.sh("for file in /proc/sys/net/ipv4/conf/*/rp_filter; do echo 0 > $file; done");
        let (red, wire) = (inside(&world, "red"), stranger(&world));
        let receiver = Receiver::new(&world, "blue");
        for [_, to] in ENDS {
            ping(&world, "red", to);
            ping(&world, "wire", to);
        }
        Some(Scene { world, red, wire, receiver })
    }

    /// What of this has come to `blue` by the time that `red`'s own comes.
    fn heard(&self, ends: [&str; 2]) -> Vec<String> {
        self.red.send(honest(ends));
        self.receiver.heard()
    }
}

/// A datagram to the port that 1234 may use, of another flow than the honest ones: an established one is
/// not asked for its identity again.
fn datagram(source: &str, destination: &str, text: &str) -> Frame {
    Frame::between(source, destination).datagram(4001, OPEN, text)
}

#[test]
fn a_stranger_with_a_workloads_address_is_not_that_workload() {
    let delivered = format!("{BLUE_FLAGS} --local-delivery");
    for (nic, blue) in [
        ("", BLUE_FLAGS),
        ("--role netdev", BLUE_FLAGS),
        ("--role netdev --stamp-remote", BLUE_FLAGS),
        ("--role netdev --local-delivery", &delivered),
        ("--role netdev --stamp-remote --local-delivery", &delivered),
    ] {
        let Some(scene) = Scene::new() else { return };
        attach(&scene.world, RED_FLAGS, blue);
        if !nic.is_empty() {
            scene.world.cilmark_ok(&format!("attach wire {nic}"));
        }
        for ([red, to], [remote, _]) in ENDS.into_iter().zip(WIRE) {
            scene.wire.send(datagram(red, to, "forged"));
            assert_eq!(scene.heard([red, to]), [""; 0], "with `{nic}`");
            // The ipcache may well say that somebody on the wire has the same identity.
            scene.world.cilmark_ok(&format!("ipcache set {remote} 1234"));
            scene.wire.send(datagram(remote, to, "remote"));
            assert_eq!(scene.heard([red, to]), ["remote"], "with `{nic}`");
        }
    }
}

#[test]
fn nor_is_it_to_the_host() {
    let Some(scene) = Scene::new() else { return };
    let receiver = Receiver::new(&scene.world, HOST);
    attach(&scene.world, RED_FLAGS, BLUE_FLAGS);
    for options in ["", "--stamp-remote"] {
        enforce(&scene.world, &format!("--adopt 0 {options}"));
        scene.world.cilmark_ok("policy flush wire --yes");
        allow(&scene.world, "wire", "ingress from 1234");
        for ([red, _], [remote, host]) in ENDS.into_iter().zip(WIRE) {
            scene.wire.send(datagram(red, host, "forged"));
            scene.world.cilmark_ok(&format!("ipcache set {remote} 1234"));
            scene.wire.send(honest([remote, host]));
            assert_eq!(receiver.heard(), [""; 0], "with `{options}`");
        }
    }
}

#[test]
fn a_container_with_a_workloads_address_is_not_that_workload() {
    let Some(scene) = Scene::new() else { return };
    scene.world.workload("green", 3);
    let green = inside(&scene.world, "green");
    attach(&scene.world, RED_FLAGS, BLUE_FLAGS);
    // Unattached; then as somebody else, without an address of its own.
    for attached in [false, true] {
        if attached {
            scene.world.cilmark_ok("attach green --id 777");
        }
        for [red, to] in ENDS {
            green.send(datagram(red, to, "forged"));
            assert_eq!(scene.heard([red, to]), [""; 0], "attached: {attached}");
        }
    }
    scene.world.cilmark_ok("attach green --id 1234");
    for ([red, to], own) in ENDS.into_iter().zip(["10.3.0.10", "fd00:3::10"]) {
        green.send(datagram(own, to, "the same identity"));
        assert_eq!(scene.heard([red, to]), ["the same identity"]);
    }
}

/// Ways into this host that it has both ends of, so that a mark survives, and what comes by them looks
/// received.
fn ways_in(world: &World) -> Vec<(&'static str, Wire)> {
    world.sh("ip link add pa type veth peer name pb && ip link set pa up && ip link set pb up
              ip link add lower type veth peer name lower-peer
              ip link set lower up; ip link set lower-peer up
              ip link add m1 link lower type macvlan mode bridge && ip link set m1 up
              ip link add m2 link lower type macvlan mode bridge && ip link set m2 up
              for file in /proc/sys/net/ipv4/conf/*/rp_filter; do echo 0 > $file; done
              ip addr add 10.66.0.1/24 dev pb; ip addr add fd00:66::1/64 dev pb nodad
              ip addr add 10.67.0.1/24 dev m2; ip addr add fd00:67::1/64 dev m2 nodad");
    let way = |from: &str, to: &str| Wire::open(world, HOST, from, mac(world, HOST, to));
    vec![
        ("a veth", way("pa", "pb")),
        ("loopback", Wire::open(world, HOST, "lo", [0; 6])),
        ("macvlans", way("m1", "m2")),
    ]
}

/// Sources that no one of ours has, and the workload's own.
const FORGED: [[&str; 2]; 2] = [["10.66.0.9", "10.1.0.10"], ["fd00:66::9", "fd00:1::10"]];

#[test]
fn a_mark_makes_no_process_of_the_host_a_workload() {
    let Some(scene) = Scene::new() else { return };
    let ways = ways_in(&scene.world);
    for ([_, to], sources) in ENDS.into_iter().zip(FORGED) {
        for (name, way) in &ways {
            for source in sources {
                way.send(datagram(source, to, "a way"));
                assert_eq!(scene.heard([ENDS[0][0], ENDS[0][1]]), ["a way"], "by {name}");
            }
        }
    }
    attach(&scene.world, RED_FLAGS, BLUE_FLAGS);
    for forged in [RED, 0x0c00, 0x04d2_0a00, 0x04d2_0b00, 0x04d2_cf00] {
        for ([red, to], sources) in ENDS.into_iter().zip(FORGED) {
            for (name, way) in &ways {
                way.mark(forged);
                for source in sources {
                    way.send(datagram(source, to, source));
                }
                assert_eq!(scene.heard([red, to]), [""; 0], "{forged:x} by {name}");
            }
        }
    }
}

#[test]
fn nor_does_a_source_that_a_process_of_the_host_makes_up() {
    let Some(scene) = Scene::new() else { return };
    attach(&scene.world, RED_FLAGS, BLUE_FLAGS);
    let raw = AddressFamily::Inet;
    let raw = socket(raw, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::Raw).expect("raw");
    let [red, to] = ENDS[0];
    let send = |mark: u32, text: &str| {
        setsockopt(&raw, sockopt::Mark, &mark).expect("set SO_MARK");
        let packet = datagram(red, to, text).without_ethernet().bytes();
        let address = SockaddrIn::from(SocketAddrV4::new(to.parse().expect(to), 0));
        let sent = sendto(raw.as_raw_fd(), &packet, &address, MsgFlags::empty());
        // Its device's hook says no.
        assert!(matches!(sent, Ok(_) | Err(Errno::ENOBUFS)), "{sent:?}");
    };
    for mark in [0, RED, 0x0c00] {
        send(mark, "made up");
        assert_eq!(scene.heard([red, to]), [""; 0], "{mark:x}");
    }
    scene.world.cilmark_ok(&format!("policy add blue allow ingress from host udp/{OPEN}"));
    send(RED, "as the host");
    assert_eq!(scene.heard([red, to]), ["as the host"]);
}

#[test]
fn a_mark_counts_where_the_operator_says_so() {
    let Some(scene) = Scene::new() else { return };
    attach(&scene.world, RED_FLAGS, &format!("{BLUE_FLAGS} --trust-marks"));
    for (port, (name, way)) in (5000..).zip(ways_in(&scene.world)) {
        for ([red, to], [source, _]) in ENDS.into_iter().zip(FORGED) {
            let datagram = |text| Frame::between(source, to).datagram(port, OPEN, text);
            way.mark(0);
            way.send(datagram("unmarked"));
            assert_eq!(scene.heard([red, to]), [""; 0], "by {name}");
            way.mark(RED);
            way.send(datagram("marked"));
            assert_eq!(scene.heard([red, to]), ["marked"], "by {name}");
        }
    }
}

#[test]
fn an_address_counts_where_the_operator_says_so() {
    let Some(scene) = Scene::new() else { return };
    attach(&scene.world, RED_FLAGS, &format!("{BLUE_FLAGS} --by-address"));
    for ([red, to], [remote, _]) in ENDS.into_iter().zip(WIRE) {
        scene.wire.send(datagram(red, to, "by its address"));
        scene.wire.send(datagram(remote, to, "by another"));
        assert_eq!(scene.heard([red, to]), ["by its address"]);
    }
}

/// `red` is 1234 to `blue`, over both families, whole and in fragments, and the stranger is not.
fn red_is_itself(world: &World, receiver: &Receiver, ends: [[&str; 2]; 2]) {
    let red = udp(world, "red", "[::]:0");
    let wire = stranger(world);
    for ([_, to], [other, _]) in ends.into_iter().zip(WIRE) {
        wire.send(datagram(other, to, "the world"));
        let mapped = if to.contains('.') { format!("::ffff:{to}") } else { to.to_owned() };
        arrives(&red, &receiver.open, &mapped);
        let long = "honest ".repeat(500);
        red.send_to(long.as_bytes(), (mapped.parse::<std::net::IpAddr>().expect(to), OPEN))
            .expect("send");
        let mut bytes = vec![0; 8192];
        assert_eq!(receiver.open.recv(&mut bytes).expect("the long one arrives"), long.len());
        let connection = Connection::open(world, "red", &receiver.servers[0], to);
        connection.works();
    }
}

/// With `--ip` for `red` and without.
const NAMED_OR_NOT: [&str; 2] = [RED_FLAGS, "--id 1234"];

#[test]
fn a_workload_is_itself_through_the_router() {
    for red in NAMED_OR_NOT {
        let Some(scene) = Scene::new() else { return };
        attach(&scene.world, red, BLUE_FLAGS);
        red_is_itself(&scene.world, &scene.receiver, ENDS);
    }
}

#[test]
fn a_workload_is_itself_by_local_delivery() {
    for red in NAMED_OR_NOT {
        let Some(scene) = Scene::new() else { return };
        let delivered = |flags: &str| format!("{flags} --local-delivery");
        attach(&scene.world, &delivered(red), &delivered(BLUE_FLAGS));
        // It is learned from `blue`'s own packets where it is.
        ping(&scene.world, "blue", "10.2.0.1");
        red_is_itself(&scene.world, &scene.receiver, ENDS);
    }
}

#[test]
fn a_workload_is_itself_behind_a_stateful_firewall_of_the_host() {
    let Some(scene) = Scene::new() else { return };
    // It puts fragments together, and cuts the packet again.
    scene.world.sh("nft 'add table inet t
        add chain inet t f { type filter hook forward priority 0; policy drop; }
        add rule inet t f ct state established,related accept
        add rule inet t f ct state new counter accept
        add rule inet t f meta l4proto ipv6-icmp accept'");
    attach(&scene.world, RED_FLAGS, BLUE_FLAGS);
    red_is_itself(&scene.world, &scene.receiver, ENDS);
}

#[test]
fn a_workload_is_itself_on_one_bridge() {
    for red in ["--id 1234 --ip 10.9.0.3 fd00:9::3", "--id 1234"] {
        for firewall in [0, 1] {
            let Some(world) = bridged_workloads() else { return };
            // IP firewalls on a bridge, where the kernel has them, see what it hands on.
            world.try_sh(&format!(
                "sysctl -qw net.bridge.bridge-nf-call-iptables={firewall} \
                            net.bridge.bridge-nf-call-ip6tables={firewall}"
            ));
            world.sh("nft 'add table inet t
                add chain inet t f { type filter hook forward priority 0; policy accept; }
                add rule inet t f ct state new counter'");
            let blue = "--id 199472 --ip 10.9.0.2 fd00:9::2 --ingress-policy enforce";
            attach(&world, &format!("{red} --role container"), &format!("{blue} --role container"));
            let ends = [["10.9.0.3", "10.9.0.2"], ["fd00:9::3", "fd00:9::2"]];
            red_is_itself(&world, &Receiver::new(&world, "blue"), ends);
        }
    }
}

#[test]
fn a_workload_is_itself_from_one_bridge_to_another() {
    for red in NAMED_OR_NOT {
        let Some(scene) = Scene::new() else { return };
        for (name, number) in [("red", 1), ("blue", 2)] {
            scene.world.sh(&format!(
                "ip link add br{number} type bridge && ip link set br{number} up
                 ip addr flush dev {name}
                 ip link set {name} master br{number}
                 ip addr add 10.{number}.0.1/24 dev br{number}
                 ip addr add fd00:{number}::1/64 dev br{number} nodad
                 ip -n {name} neigh flush dev eth0"
            ));
        }
        attach(&scene.world, red, BLUE_FLAGS);
        red_is_itself(&scene.world, &scene.receiver, ENDS);
    }
}

#[test]
fn a_workload_is_itself_within_a_vrf() {
    let Some(scene) = Scene::new() else { return };
    if !scene.world.try_sh("ip link add tenant type vrf table 10").status.success() {
        return skip("this kernel has no VRF");
    }
    scene.world.sh("ip link set tenant up");
    for (device, number) in [("red", 1), ("blue", 2), ("wire", 9)] {
        // Changing tables takes IPv6 addresses away.
        scene.world.sh(&format!(
            "ip link set {device} master tenant
             ip -6 addr replace fd00:{number}::1/64 dev {device} nodad"
        ));
    }
    attach(&scene.world, RED_FLAGS, BLUE_FLAGS);
    red_is_itself(&scene.world, &scene.receiver, ENDS);
}

#[test]
fn what_the_host_puts_together_and_parts_again_is_not_its_own() {
    let Some(world) = World::new() else { return };
    world.workload("wire", 9);
    world.workload("red", 1);
    let wire = stranger(&world);
    // A port with little room for headers, so that fragments are made anew on their way to `red`.
    let bridge = "ip link add br0 type bridge && ip link set br0 up &&
         ip link add vx0 type vxlan id 7 remote fd00:9::10 dstport 4789 dev wire &&
         ip link set vx0 up master br0";
    if !world.try_sh(bridge).status.success() {
        return skip("this kernel has no VXLAN");
    }
    world.sh("ip addr flush dev red; ip link set red master br0
         ip addr add 10.1.0.1/24 dev br0; ip addr add fd00:1::1/64 dev br0 nodad
         nft 'add table inet x; add chain inet x f { type filter hook forward priority 0; }
              add rule inet x f ct state new counter'");
    let ends = [["10.9.0.10", "10.1.0.10"], ["fd00:9::10", "fd00:1::10"]];
    let (receiver, host) = (Receiver::datagrams(&world, "red"), udp(&world, HOST, "[::]:0"));
    let send = |[from, to]: [&str; 2]| {
        let datagram = Frame::between(from, to).datagram(4000, OPEN, &"stranger".repeat(170));
        let [first, later] = fragments(&datagram.bytes(), 800, id());
        wire.send(first);
        wire.send(later);
        let to = to.parse::<std::net::IpAddr>().expect("an address");
        let to = match to {
            std::net::IpAddr::V4(v4) => v4.to_ipv6_mapped(),
            std::net::IpAddr::V6(v6) => v6,
        };
        host.send_to(b"honest", (to, OPEN)).expect("send");
        receiver.heard().iter().map(|text| text[..8].to_owned()).collect::<Vec<_>>()
    };
    for ends in ends {
        ping(&world, HOST, ends[1]);
        assert_eq!(send(ends), ["stranger"], "Linux delivers it");
    }
    world.cilmark_ok(
        "attach red --role container --id 1234 --ip 10.1.0.10 fd00:1::10 --ingress-policy enforce",
    );
    allow(&world, "red", "ingress from host");
    for ends in ends {
        assert_eq!(send(ends), [""; 0]);
    }
    world.cilmark_ok("policy flush red");
    allow(&world, "red", "ingress from world");
    allow(&world, "red", "ingress from host");
    for ends in ends {
        assert_eq!(send(ends), ["stranger"], "it is a stranger's");
    }
}
