//! What a link needs works under policies that allow nothing: neighbours find each other, detect
//! duplicates, join groups, and make themselves addresses out of advertisements.

use std::net::Ipv6Addr;

use super::{HOST, RED, WIRE, World, host, inside};
use crate::common::packet::Frame;
use crate::common::traffic::udp;
use crate::common::wire::Wire;
use crate::common::world::wait_for;

const CONTAINER: &str = "--id 1234 --policy enforce";
const NIC: &str = "attach wire --role netdev --policy enforce --failsafe none --adopt 0 --yes";

/// Both on a host whose policies allow nothing; without `--ip` if `addresses` is empty.
fn closed(addresses: &str) -> Option<(World, Wire)> {
    let (world, wire) = host()?;
    world.workload("red", 1);
    let ip = if addresses.is_empty() { String::new() } else { format!("--ip {addresses}") };
    world.cilmark_ok(&format!("attach red {CONTAINER} {ip}"));
    world.cilmark_ok(NIC);
    Some((world, wire))
}

/// A device as `ip` shows it, in a namespace or here.
fn show(world: &World, namespace: &str, what: &str) -> String {
    world.inside(namespace, || world.sh(&format!("ip -o {what}")))
}

#[test]
fn neighbours_find_each_other() {
    for addresses in ["10.1.0.10 fd00:1::10", ""] {
        let Some((world, _wire)) = closed(addresses) else { return };
        let pairs = [
            ("red", RED, ["10.1.0.1", "fd00:1::1"], "eth0"),
            (HOST, ["", ""], RED, "red"),
            ("wire", ["", ""], [WIRE[0][1], WIRE[1][1]], "eth0"),
            (HOST, ["", ""], [WIRE[0][0], WIRE[1][0]], "wire"),
        ];
        for (from, _, to, device) in pairs {
            world.inside(from, || world.sh(&format!("ip neigh flush dev {device}")));
            for to in to {
                let any = if to.contains(':') { "[::]:0" } else { "0.0.0.0:0" };
                let socket = udp(&world, from, any);
                wait_for(&format!("{to}'s MAC"), || {
                    // It gets nowhere, but somebody has to ask who has the address.
                    let _ = socket.send_to(b"hello", (to, 9));
                    show(&world, from, &format!("neigh show {to} dev {device}")).contains("lladdr")
                });
            }
        }
    }
}

#[test]
fn an_address_is_found_free_or_taken() {
    let Some((world, _wire)) = closed("10.1.0.10 fd00:1::10 fd00:1::20") else { return };
    world.sh("sysctl -qw net.ipv6.conf.red.accept_dad=1 net.ipv6.conf.wire.accept_dad=1
              ip addr add fd00:1::20/64 dev red nodad
              ip -n wire addr add fd00:9::77/64 dev eth0 nodad
              ip -n red addr add fd00:1::20/64 dev eth0
              ip addr add fd00:9::77/64 dev wire
              ip addr add fd00:9::78/64 dev wire");
    let flags = |namespace: &str, address: &str| {
        show(&world, namespace, &format!("-6 addr show to {address}"))
    };
    for (namespace, address) in [("red", "fd00:1::20"), (HOST, "fd00:9::77")] {
        wait_for(&format!("{address} to be taken"), || {
            flags(namespace, address).contains("dadfailed")
        });
    }
    wait_for("fd00:9::78 to be free", || !flags(HOST, "fd00:9::78").contains("tentative"));
    assert!(!flags(HOST, "fd00:9::78").contains("dadfailed"));
}

/// A router's advertisement of a prefix that hosts make addresses in.
fn advertisement(source: Ipv6Addr, prefix: &str) -> Frame {
    let prefix: Ipv6Addr = prefix.parse().expect("a prefix");
    let header = [134, 0, 0, 0, 64, 0, 0x07, 0x08, 0, 0, 0, 0, 0, 0, 0, 0];
    // On link, autonomous; for an hour.
    let option = [3, 4, 64, 0xc0, 0, 0, 0x0e, 0x10, 0, 0, 0x0e, 0x10, 0, 0, 0, 0];
    let body = [&header, option.as_slice(), &prefix.octets()].concat();
    Frame::ipv6(source, "ff02::1".parse().expect("an address")).ttl(255).protocol(58, body)
}

#[test]
fn hosts_and_workloads_make_addresses_out_of_advertisements() {
    let router: Ipv6Addr = "fe80::99".parse().expect("an address");
    for addresses in ["10.1.0.10", ""] {
        let Some((world, wire)) = closed(addresses) else { return };
        world.sh("sysctl -qw net.ipv6.conf.wire.accept_ra=2");
        let to_red = Wire::open(&world, HOST, "red", inside(&world, "red").mac);
        to_red.send(advertisement(router, "2001:db8:1::"));
        wire.send(advertisement(router, "2001:db8:9::"));
        for (namespace, prefix) in [("red", "2001:db8:1:"), (HOST, "2001:db8:9:")] {
            wait_for(&format!("an address of {prefix}:/64"), || {
                let addresses = show(&world, namespace, "-6 addr show scope global");
                addresses.lines().any(|line| line.contains(prefix))
            });
        }
        // By its address, which it has made of the MAC, nobody else denies it.
        let own = show(&world, "red", "-6 addr show to 2001:db8:1::/64");
        assert!(!own.contains("dadfailed"), "{own}");
    }
}

#[test]
fn groups_are_joined() {
    let Some((world, wire)) = closed("10.1.0.10 fd00:1::10") else { return };
    let group: Ipv6Addr = "ff15::1234".parse().expect("an address");
    // A bridge that has heard of it sends the group's packets there.
    world.sh("ip link add bridge type bridge mcast_snooping 1 && ip link set bridge up
              ip link set red master bridge");
    let join = |namespace: &str, device: &str| {
        let index =
            world.inside(namespace, || nix::net::if_::if_nametoindex(device).expect("the device"));
        let socket = udp(&world, namespace, "[::]:0");
        socket.join_multicast_v6(&group, index).expect("join");
        socket
    };
    let _members = [join("red", "eth0"), join(HOST, "wire")];
    wait_for("the bridge to know the group", || world.sh("bridge mdb show").contains("ff15::1234"));
    // The host's report: version 2, of this group.
    let octets = group.octets();
    wire.until(|frame| {
        frame[14] >> 4 == 6 && frame.windows(16).any(|window| window == octets) && frame[20] == 0
    });
}

#[test]
fn a_workload_asks_for_routers_and_reports_its_groups() {
    let Some((world, _wire)) = closed("10.1.0.10 fd00:1::10") else { return };
    let red = inside(&world, "red");
    let own = {
        let [a, b, c, d, e, f] = red.mac.map(u16::from);
        let word = |high, low| high << 8 | low;
        Ipv6Addr::new(0xfe80, 0, 0, 0, word(a ^ 2, b), word(c, 0xff), word(0xfe, d), word(e, f))
    };
    let routers: Ipv6Addr = "ff02::2".parse().expect("an address");
    let count = |what: &str| world.status("red")[what].as_u64().expect("a number");
    let before = ["packets", "drops"].map(count);
    red.send(Frame::ipv6(own, routers).ttl(255).router_solicitation());
    red.send(Frame::ipv6(Ipv6Addr::UNSPECIFIED, routers).ttl(255).router_solicitation());
    red.send(Frame::ipv6(own, "ff02::16".parse().expect("an address")).ttl(1).listener_report());
    wait_for("the packets to be counted", || count("packets") >= before[0] + 3);
    assert_eq!(count("drops"), before[1]);
}
