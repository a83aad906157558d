//! On a bridge, a workload with `--ip` speaks for itself only: not for a neighbour's address, not as the
//! segment's router or DHCP server, and not from a neighbour's MAC.

use std::net::{Ipv4Addr, Ipv6Addr};

use super::trailers::id;
use super::{World, bridged_workloads, inside};
use crate::common::packet::Frame;
use crate::common::wire::{ETHERNET, Mac, Wire, fragments, has, mac, with_options};
use crate::common::world::wait_for;

/// `red`, who is to be himself; and the neighbour whom he would like to be.
const OWN: [&str; 2] = ["10.9.0.3", "fd00:9::3"];
const NEIGHBOUR: [&str; 2] = ["10.9.0.2", "fd00:9::2"];
const NEIGHBOURS_LINK_LOCAL: &str = "fe80::2";

const ATTACH: &str = "attach red --id 1234 --role container --ip 10.9.0.3 fd00:9::3";

/// What `red` sends to everybody, each with a name for it.
type Frames = Vec<(&'static str, Vec<u8>)>;

/// The segment, with `red`'s device and a tap at its neighbour `blue`.
fn segment() -> Option<(World, Wire, Wire)> {
    let world = bridged_workloads()?;
    let (mut red, blue) = (inside(&world, "red"), inside(&world, "blue"));
    red.to = [0xff; 6];
    Some((world, red, blue))
}

/// The names of those that have come to the neighbour.
fn came(from: &Wire, tap: &Wire, frames: &Frames) -> Vec<&'static str> {
    frames.iter().for_each(|(_, frame)| from.send_as_is(frame));
    from.send(Frame::between(OWN[0], NEIGHBOUR[0]).datagram(4000, 7000, "honest"));
    let seen = tap.before("honest");
    // The receiver has taken a tag out of the frame.
    let came = |frame: &[u8]| seen.iter().any(|seen| seen[ETHERNET..] == *behind_tag(frame));
    frames.iter().filter(|(_, frame)| came(frame)).map(|(name, _)| *name).collect()
}

/// What stands behind the Ethernet header, and behind the first tag.
fn behind_tag(frame: &[u8]) -> &[u8] {
    let tag = if matches!(frame[12..14], [0x81, 0] | [0x88, 0xa8]) { 4 } else { 0 };
    &frame[ETHERNET + tag..]
}

fn names(frames: &Frames) -> Vec<&'static str> {
    frames.iter().map(|(name, _)| *name).collect()
}

/// The link-local address that a MAC makes.
fn link_local(mac: Mac) -> String {
    let [a, b, c, d, e, f] = mac.map(u16::from);
    let word = |high: u16, low: u16| (high << 8) | low;
    Ipv6Addr::new(0xfe80, 0, 0, 0, word(a ^ 2, b), word(c, 0xff), word(0xfe, d), word(e, f))
        .to_string()
}

/// Sets the MACs: from this one, to everybody.
fn framed(from: Mac, frame: impl Into<Vec<u8>>) -> Vec<u8> {
    let mut frame = frame.into();
    frame[..6].fill(0xff);
    frame[6..12].copy_from_slice(&from);
    frame
}

const NODES: &str = "ff02::1";

/// A message of neighbour discovery about a target.
fn neighbour(mac: Mac, kind: u8, source: &str, target: &str) -> Vec<u8> {
    let octets = target.parse::<Ipv6Addr>().expect("an address").octets();
    // As a router, solicited or not, to override what is known; and the MAC to be believed.
    let flags = if kind == 136 { 0xa0 } else { 0 };
    let option = if kind == 136 { 2 } else { 1 };
    let header = [kind, 0, 0, 0, flags, 0, 0, 0];
    let link = [&[option, 1], mac.as_slice()].concat();
    // Without an address there is no option (RFC 4861, 4.3).
    let link = if source == "::" { &[][..] } else { &link };
    let body = [&header, octets.as_slice(), link].concat();
    framed(mac, Frame::between(source, NODES).ttl(255).protocol(58, body))
}

fn advertisement(mac: Mac, source: &str) -> Vec<u8> {
    framed(mac, Frame::between(source, NODES).ttl(255).router_advertisement())
}

fn arp(mac: Mac, operation: u8, sender: &str, target: &str) -> Vec<u8> {
    let address = |text: &str| text.parse::<Ipv4Addr>().expect("an address").octets();
    let header = [0, 1, 8, 0, 6, 4, 0, operation];
    let body = [&header, mac.as_slice(), &address(sender), &[0; 6], &address(target)].concat();
    framed(mac, Frame::other(0x0806, body))
}

/// What is somebody else's, whatever role `red` has.
fn for_others(mac: Mac) -> Frames {
    let (own, eui) = (OWN[1], &link_local(mac));
    let (other, theirs) = (NEIGHBOUR[1], NEIGHBOURS_LINK_LOCAL);
    vec![
        ("advertises the router", neighbour(mac, 136, theirs, theirs)),
        ("advertises a neighbour as the router", neighbour(mac, 136, theirs, other)),
        ("advertises the router as itself", neighbour(mac, 136, own, theirs)),
        ("advertises the router by its link-local", neighbour(mac, 136, eui, theirs)),
        ("advertises a neighbour by its link-local", neighbour(mac, 136, eui, other)),
        ("advertises what nobody has", neighbour(mac, 136, "fe80::99", "fe80::99")),
        ("asks as the router", neighbour(mac, 135, theirs, other)),
        ("asks as the router for itself", neighbour(mac, 135, theirs, own)),
        ("asks as a neighbour", neighbour(mac, 135, other, theirs)),
        ("denies a neighbour's address", neighbour(mac, 135, "::", other)),
        ("denies the router's", neighbour(mac, 135, "::", theirs)),
        ("denies what is free", neighbour(mac, 135, "::", "fd00:9::77")),
        ("denies with an advertisement", neighbour(mac, 136, "::", other)),
        ("is the router", advertisement(mac, theirs)),
        ("denies by ARP", arp(mac, 1, "0.0.0.0", NEIGHBOUR[0])),
        ("denies what is free by ARP", arp(mac, 1, "0.0.0.0", "10.9.0.77")),
        ("answers for a neighbour by ARP", arp(mac, 2, NEIGHBOUR[0], OWN[0])),
        ("announces a neighbour by ARP", arp(mac, 1, NEIGHBOUR[0], NEIGHBOUR[0])),
    ]
}

/// What routers and DHCP servers send.
fn as_a_router(mac: Mac) -> Frames {
    let (own, eui) = (OWN[1], &link_local(mac));
    let offer = |to: &str| Frame::between(OWN[0], to).datagram(67, 68, "offer");
    let offer6 = |source: &str, to: &str| Frame::between(source, to).datagram(547, 546, "offer");
    vec![
        ("is a router", advertisement(mac, eui)),
        ("offers a lease", framed(mac, offer("255.255.255.255"))),
        ("offers a lease to one", framed(mac, offer(NEIGHBOUR[0]))),
        ("offers a lease within a tag", framed(mac, offer("10.9.0.255").vlan(0))),
        ("offers a lease of IPv6", framed(mac, offer6(eui, NODES))),
        ("offers a lease of IPv6 by its address", framed(mac, offer6(own, NEIGHBOUR[1]))),
        (
            "offers a lease of IPv6 behind options",
            framed(mac, with_options(&offer6(own, NODES).bytes(), 1)),
        ),
    ]
}

/// The same, and what is a neighbour's, in a shape that is harder to look through.
fn in_disguise(mac: Mac) -> Frames {
    let (own, eui) = (OWN[1], &link_local(mac));
    let spoof = neighbour(mac, 136, own, NEIGHBOURS_LINK_LOCAL);
    let offer = || Frame::between(OWN[0], "10.9.0.255").datagram(67, 68, "an offer in disguise");
    let router = advertisement(mac, eui);
    let cut = |frame: &[u8], at| framed(mac, fragments(frame, at, id())[0].clone());
    let arp_in = |tags: u16| {
        let body = arp(mac, 2, NEIGHBOUR[0], OWN[0])[ETHERNET..].to_vec();
        framed(mac, (0..tags).fold(Frame::other(0x0806, body), |frame, _| frame.vlan(0)))
    };
    vec![
        ("is a router behind options", framed(mac, with_options(&router, 1))),
        ("is a router behind many options", framed(mac, with_options(&router, 7))),
        ("is a router in fragments", cut(&router, 8)),
        ("is a router in fragments behind options", cut(&with_options(&router, 2), 16)),
        ("advertises the router behind options", framed(mac, with_options(&spoof, 2))),
        ("advertises the router in fragments", cut(&spoof, 24)),
        ("advertises the router without saying so at first", cut(&spoof, 8)),
        ("offers a lease in fragments", cut(&offer().bytes(), 16)),
        ("offers a lease in small fragments", cut(&offer().bytes(), 8)),
        ("offers a lease with IPv4 options", framed(mac, offer().options(&[1; 8]))),
        ("offers a lease within two tags", framed(mac, offer().service_vlan(0).vlan(0))),
        ("offers a lease within four tags", framed(mac, offer().vlan(0).vlan(0).vlan(0).vlan(0))),
        ("answers for a neighbour by ARP within a tag", arp_in(1)),
        ("answers for a neighbour by ARP within four tags", arp_in(4)),
    ]
}

/// What anybody sends for himself.
fn for_itself(mac: Mac, link_local: &str) -> Frames {
    let own = OWN[1];
    vec![
        ("advertises itself", neighbour(mac, 136, own, own)),
        ("advertises its link-local", neighbour(mac, 136, link_local, link_local)),
        ("advertises itself by its link-local", neighbour(mac, 136, link_local, own)),
        ("advertises its link-local as itself", neighbour(mac, 136, own, link_local)),
        ("asks for a neighbour", neighbour(mac, 135, own, NEIGHBOUR[1])),
        ("asks by its link-local", neighbour(mac, 135, link_local, NEIGHBOUR[1])),
        ("looks for a duplicate", neighbour(mac, 135, "::", own)),
        ("looks for one of its link-local", neighbour(mac, 135, "::", link_local)),
        (
            "asks for routers",
            framed(mac, Frame::between(link_local, NODES).ttl(255).router_solicitation()),
        ),
        ("reports", framed(mac, Frame::between(link_local, NODES).ttl(1).listener_report())),
        (
            "asks for a lease of IPv6",
            framed(mac, Frame::between(link_local, "ff02::1:2").datagram(546, 547, "lease")),
        ),
        (
            "asks for a lease",
            framed(mac, Frame::between("0.0.0.0", "255.255.255.255").datagram(68, 67, "lease")),
        ),
        ("asks by ARP", arp(mac, 1, OWN[0], NEIGHBOUR[0])),
        ("looks for a duplicate by ARP", arp(mac, 1, "0.0.0.0", OWN[0])),
        ("announces itself by ARP", arp(mac, 1, OWN[0], OWN[0])),
    ]
}

#[test]
fn a_workload_is_neither_its_neighbour_nor_a_router() {
    let Some((world, red, blue)) = segment() else { return };
    let forbidden = [for_others(red.mac), as_a_router(red.mac), in_disguise(red.mac)].concat();
    let own = for_itself(red.mac, &link_local(red.mac));
    assert_eq!(came(&red, &blue, &forbidden), names(&forbidden), "a bridge hands them on");
    for options in ["", "--policy audit", "--workload-mac any"] {
        world.cilmark_ok(&format!("{ATTACH} {options}"));
        assert_eq!(came(&red, &blue, &forbidden), [""; 0], "with `{options}`");
        assert_eq!(came(&red, &blue, &own), names(&own), "with `{options}`");
    }
}

/// The whole segment is its own, but for what others on it have: its neighbour, and the host on its bridge.
#[test]
fn a_workload_with_a_prefix_is_nobody_else_in_it() {
    let Some((world, red, blue)) = segment() else { return };
    let mac = red.mac;
    world.cilmark_ok("attach blue --id 300 --role container --ip 10.9.0.2 fd00:9::2");
    let as_host = |name: &'static str, [four, six]: [&str; 2]| -> Frames {
        vec![
            (name, arp(mac, 1, four, four)),
            (name, arp(mac, 2, four, OWN[0])),
            (name, arp(mac, 1, "0.0.0.0", four)),
            (name, framed(mac, Frame::between(four, NEIGHBOUR[0]).datagram(1, 9, "as the host"))),
            (name, neighbour(mac, 136, OWN[1], six)),
            (name, neighbour(mac, 135, "::", six)),
            (name, framed(mac, Frame::between(six, NEIGHBOUR[1]).datagram(1, 9, "as the host"))),
        ]
    };
    let mut forbidden = [for_others(mac), as_a_router(mac), in_disguise(mac)].concat();
    let is_free = |name: &str| name.starts_with("denies what is free");
    let free: Frames = forbidden.iter().filter(|(name, _)| is_free(name)).cloned().collect();
    forbidden.retain(|(name, _)| !is_free(name));
    forbidden.extend(as_host("is the host", ["10.9.0.1", "fd00:9::1"]));
    // Two prefixes that are longer, and shorter, than the bridge's networks.
    for prefixes in ["10.9.0.0/24 fd00:9::/64", "10.9.0.0/25 fd00:9::/120", "10.0.0.0/8 fd00::/16"]
    {
        world.cilmark_ok(&format!("attach red --id 1234 --role container --ip {prefixes}"));
        assert_eq!(came(&red, &blue, &forbidden), [""; 0], "with {prefixes}");
        let own = [for_itself(mac, &link_local(mac)), free.clone()].concat();
        assert_eq!(came(&red, &blue, &own), names(&own), "with {prefixes}");
    }
    // What the host gets later is its own, too.
    let later = as_host("is the host later", ["10.9.0.50", "fd00:9::50"]);
    assert_eq!(came(&red, &blue, &later), names(&later));
    world.sh("ip addr add 10.9.0.50/24 dev bridge; ip addr add fd00:9::50/64 dev bridge nodad");
    wait_for("the host to have it", || came(&red, &blue, &later).is_empty());
}

#[test]
fn a_workload_without_addresses_of_its_own_is_no_router_either() {
    let Some((world, red, blue)) = segment() else { return };
    let mac = red.mac;
    let redirect = |source: &str| {
        let target = NEIGHBOURS_LINK_LOCAL.parse().expect("an address");
        framed(mac, Frame::between(source, NODES).ttl(255).redirect(target))
    };
    let frames: Frames = vec![
        ("is a router", advertisement(mac, &link_local(mac))),
        ("is the router", advertisement(mac, NEIGHBOURS_LINK_LOCAL)),
        ("is a router by its address", advertisement(mac, OWN[1])),
        ("redirects", redirect(&link_local(mac))),
        ("redirects as the router", redirect(NEIGHBOURS_LINK_LOCAL)),
        ("redirects by its address", redirect(OWN[1])),
    ];
    assert_eq!(came(&red, &blue, &frames), names(&frames), "a bridge hands them on");
    for attach in ["attach red --id 1234 --role container", ATTACH] {
        world.cilmark_ok(attach);
        assert_eq!(came(&red, &blue, &frames), [""; 0], "{attach}");
    }
    world.cilmark_ok("attach red --id 1234 --role container --router");
    assert_eq!(came(&red, &blue, &frames), names(&frames), "whose addresses nobody knows");
    world.cilmark_ok(&format!("{ATTACH} --router"));
    let came = came(&red, &blue, &frames);
    assert!(came.contains(&"is a router"), "{came:?}");
    assert!(!came.iter().any(|name| name.contains("the router")), "{came:?}");
}

#[test]
fn a_router_is_a_router_but_not_its_neighbour() {
    let Some((world, red, blue)) = segment() else { return };
    world.cilmark_ok(&format!("{ATTACH} --router"));
    let (foreign, allowed) = (for_others(red.mac), as_a_router(red.mac));
    let own = for_itself(red.mac, &link_local(red.mac));
    assert_eq!(came(&red, &blue, &foreign), [""; 0]);
    assert_eq!(came(&red, &blue, &allowed), names(&allowed));
    assert_eq!(came(&red, &blue, &own), names(&own));
}

#[test]
fn a_link_local_address_that_is_given_replaces_the_usual_one() {
    let Some((world, red, blue)) = segment() else { return };
    world.cilmark_ok(&format!("{ATTACH} fe80::3"));
    let own = for_itself(red.mac, "fe80::3");
    assert_eq!(came(&red, &blue, &own), names(&own));
    assert_eq!(came(&red, &blue, &for_others(red.mac)), [""; 0]);
    let usual = &link_local(red.mac);
    let usual: Frames = vec![
        ("advertises it", neighbour(red.mac, 136, usual, usual)),
        ("asks by it", neighbour(red.mac, 135, usual, NEIGHBOUR[1])),
    ];
    assert_eq!(came(&red, &blue, &usual), [""; 0]);
}

/// Frames of `red`'s under a MAC that is not his.
fn from_mac(mac: Mac) -> Frames {
    let [own4, own6] = OWN;
    vec![
        ("IPv4", framed(mac, Frame::between(own4, NEIGHBOUR[0]).datagram(1, 9, "mac"))),
        ("IPv6", framed(mac, Frame::between(own6, NEIGHBOUR[1]).datagram(1, 9, "mac"))),
        (
            "tagged",
            framed(mac, Frame::between(own4, NEIGHBOUR[0]).vlan(5).datagram(1, 9, "tagged")),
        ),
        ("ARP", arp(mac, 1, own4, NEIGHBOUR[0])),
        ("a fragment", framed(mac, later_fragment(own6))),
        ("its link-local", neighbour(mac, 135, &link_local(mac), NEIGHBOUR[1])),
        ("a lease", framed(mac, Frame::between("0.0.0.0", "255.255.255.255").datagram(68, 67, ""))),
    ]
}

fn later_fragment(source: &str) -> Vec<u8> {
    let whole = Frame::between(source, NEIGHBOUR[1]).datagram(1, 9, "a long datagram").bytes();
    fragments(&whole, 8, 7)[1].clone()
}

/// By which port the bridge sends to a MAC.
fn port_of(world: &World, mac: Mac) -> String {
    let mac = mac.map(|byte| format!("{byte:02x}")).join(":");
    let entry = world.sh(&format!("bridge fdb show br bridge | grep {mac} | grep -v permanent"));
    entry.split_whitespace().nth(2).expect("a device").to_owned()
}

#[test]
fn a_workload_takes_no_frames_by_a_neighbours_mac() {
    let Some((world, red, blue)) = segment() else { return };
    let (theirs, nobodys) = (mac(&world, "blue", "eth0"), [2, 0, 0, 0, 0, 0x99]);
    let speaks = || {
        blue.send(Frame::between(NEIGHBOUR[0], OWN[0]).datagram(1, 9, "it is here"));
        wait_for("the bridge to know", || port_of(&world, theirs) == "blue");
    };
    speaks();
    for mac in [theirs, nobodys] {
        assert_eq!(came(&red, &blue, &from_mac(mac)), names(&from_mac(mac)));
        // Blue's own questions move it back, at any time.
        wait_for("the bridge to believe red", || {
            came(&red, &blue, &from_mac(mac)[..1].to_vec());
            port_of(&world, mac) == "red"
        });
    }
    speaks();
    world.sh("bridge fdb del 02:00:00:00:00:99 dev red master");
    // The other end of the veth has a MAC, and nobody need say it.
    for options in ["", "--policy audit", "--local-delivery", "--router"] {
        world.cilmark_ok(&format!("{ATTACH} {options}"));
        for mac in [theirs, nobodys] {
            assert_eq!(came(&red, &blue, &from_mac(mac)), [""; 0], "with `{options}`");
        }
        assert_eq!(port_of(&world, theirs), "blue");
    }
    // Unless somebody does: another one, or any.
    world.cilmark_ok(&format!("{ATTACH} --workload-mac 02:00:00:00:00:99"));
    let mut other = inside(&world, "red");
    (other.mac, other.to) = (nobodys, [0xff; 6]);
    let own = from_mac(red.mac);
    assert_eq!(came(&other, &blue, &own), [""; 0]);
    let given = from_mac(nobodys);
    assert_eq!(came(&other, &blue, &given), names(&given));
    world.cilmark_ok(&format!("{ATTACH} --workload-mac any"));
    for mac in [red.mac, nobodys, theirs] {
        let frames = from_mac(mac);
        assert_eq!(came(&red, &blue, &frames), names(&frames));
    }
}

#[test]
fn a_neighbour_gets_its_address_although_a_workload_claims_it() {
    let Some((world, ..)) = segment() else { return };
    let claimed = "fd00:9::22";
    world.sh(&format!("ip -n red addr add {claimed}/64 dev eth0 nodad"));
    let add = || {
        world.sh(&format!(
            "ip netns exec blue sysctl -qw net.ipv6.neigh.eth0.retrans_time_ms=100
             ip -n blue addr add {claimed}/64 dev eth0"
        ));
        let flags = || world.sh(&format!("ip -n blue -o -6 addr show to {claimed}"));
        wait_for("duplicate address detection", || {
            flags().contains("dadfailed") || !flags().contains("tentative")
        });
        flags().contains("dadfailed")
    };
    assert!(add(), "nothing stops it");
    world.sh(&format!("ip -n blue addr del {claimed}/64 dev eth0"));
    world.cilmark_ok(ATTACH);
    assert!(!add(), "red has denied it");
}

#[test]
fn a_routers_neighbours_do_not_send_through_a_workload() {
    let Some((world, red, blue)) = segment() else { return };
    let stranger = mac(&world, "wire", "eth0");
    world.sh("ip -n wire addr flush dev eth0
              ip -n wire addr add 10.9.0.9/24 dev eth0
              ip -n wire addr add fd00:9::9/64 dev eth0 nodad
              ip netns exec blue ping -qc 1 -W 5 fd00:9::9");
    let known = || world.sh("ip -n blue neigh show fd00:9::9 dev eth0");
    let mine = red.mac.map(|byte| format!("{byte:02x}")).join(":");
    let theirs = stranger.map(|byte| format!("{byte:02x}")).join(":");
    let mut to_blue = inside(&world, "red");
    to_blue.to = blue.mac;
    let claim = || {
        for source in [OWN[1], &link_local(red.mac), "fd00:9::9"] {
            to_blue.send(neighbour(red.mac, 136, source, "fd00:9::9"));
        }
        to_blue.send(Frame::between(OWN[0], NEIGHBOUR[0]).datagram(4000, 7000, "honest"));
        assert!(blue.before("honest").iter().all(|frame| !has(frame, "honest")));
    };
    assert!(known().contains(&theirs), "{}", known());
    world.cilmark_ok(ATTACH);
    claim();
    assert!(known().contains(&theirs), "{}", known());
    world.cilmark_ok("detach red");
    claim();
    assert!(known().contains(&mine), "nothing stops it: {}", known());
}
