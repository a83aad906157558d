//! Devices whose packets are seen better, or only, on another one.

use super::doctor;
use crate::common::World;
use crate::common::machine::skip;
use crate::common::process::{Running, text};
use crate::common::traffic::{Connection, HOST, listen};
use crate::common::world::wait_for;

/// A NIC that enforces.
const NIC: &str = "attach nic --role netdev --policy enforce --yes";

/// The device `nic` and another one, of a kind that not every kernel has.
fn nic(other: &str, more: &str) -> Option<World> {
    let world = World::new()?;
    world.veth("nic");
    let made = world.try_sh(&format!("ip link add name {other}"));
    if text(&made.stderr).contains("Unknown device type") {
        skip(&format!("this kernel has no {other}"));
        return None;
    }
    assert!(made.status.success(), "{made:?}");
    world.sh(more);
    Some(world)
}

/// `attach` must say it, and `doctor` too.
fn is_told(world: &World, check: &str, words: &[&str]) {
    let run = world.cilmark(NIC);
    assert_eq!(run.status, Some(0), "{run:?}");
    let found = doctor(world).has(check, "warning", words);
    let (_, says) = found.split_once("nic: ").expect("of nic");
    assert!(run.stderr.contains(&format!("nic {says}")), "{says} is not in {}", run.stderr);
}

#[test]
fn a_port_that_is_attached_in_place_of_its_bridge() {
    let Some(world) = nic("br0 type bridge", "ip link set nic master br0") else { return };
    let words = [
        "is a port of the bridge br0, which is the better place",
        "host's side of a workload",
        "attach br0",
    ];
    is_told(&world, "better place", &words);
    world.cilmark_ok("attach nic --role netdev --yes");
    assert_eq!(doctor(&world).of("better place"), [""; 0], "without a policy nothing is missed");
    world.cilmark_ok("attach br0 --policy enforce --yes");
    world.cilmark_ok(NIC);
    let words = ["is attached with a policy, and so is br0", "`cilmark detach nic`"];
    doctor(&world).has("better place", "warning", &words);
    world.cilmark_ok("detach nic");
    doctor(&world).is_fine("devices");
}

#[test]
fn a_port_that_is_attached_as_a_workloads_is_in_its_place() {
    let Some(world) = nic("br0 type bridge", "ip link set nic master br0") else { return };
    world.cilmark_ok("attach nic --role container --id 300 --policy enforce");
    doctor(&world).is_fine("devices");
}

#[test]
fn a_member_that_is_attached_in_place_of_its_bond() {
    let join = "ip link set nic down; ip link set nic master b0";
    let Some(world) = nic("b0 type bond", join) else { return };
    is_told(&world, "better place", &["is a member of the bond b0", "attach b0"]);
    world.cilmark_ok("detach nic");
    world.cilmark_ok("attach b0 --policy enforce --yes");
    doctor(&world).is_fine("devices");
}

#[test]
fn children_that_pass_for_the_host_until_they_are_attached() {
    let Some(world) = nic("m0 link nic type macvlan", "ip link set m0 up") else { return };
    is_told(
        &world,
        "macvlan",
        &["carries the macvlan m0: what that sends looks as if", "attach it, too"],
    );
    world.sh("ip link add m1 link nic type macvtap");
    doctor(&world).has("macvlan", "warning", &["the macvlan m0, the macvtap m1", "attach them"]);
    world.sh("ip link del m1");
    world.cilmark_ok("attach m0 --policy enforce --yes");
    assert_eq!(doctor(&world).of("macvlan"), [""; 0]);
    world.cilmark_ok("detach m0");
    world.sh("ip netns add far; ip link set m0 netns far");
    doctor(&world).has("macvlan", "warning", &["the macvlan m0"]);
}

#[test]
fn vlans_on_a_nic_are_no_concern_and_told() {
    let Some(world) = nic("nic.5 link nic type vlan id 5", "") else { return };
    world.cilmark_ok(NIC);
    doctor(&world).has("VLAN", "ok", &["nic: its policy counts for what goes by nic.5, too"]);
    world.cilmark_ok("attach nic.5 --policy enforce --yes");
    doctor(&world).has("VLAN", "ok", &["nic: nic.5 is on it and has a policy, too"]);
}

#[test]
fn a_nic_that_is_attached_as_a_container_until_it_is_one() {
    let Some(world) = nic("other type veth", "ip addr add 10.0.0.2/24 dev nic") else { return };
    world.cilmark_ok("attach nic --id 300");
    doctor(&world).is_fine("devices");
    world.sh("ip route add default via 10.0.0.1");
    let words = [
        "a default route leaves by it",
        "`cilmark status nic --spec` shows, since its policy and rules go with `cilmark detach nic`",
        "`cilmark attach nic --role netdev`",
    ];
    doctor(&world).has("role", "warning", &words);
    world.cilmark_ok("detach nic");
    world.cilmark_ok("attach nic --role netdev");
    assert_eq!(doctor(&world).of("role"), [""; 0]);
}

#[test]
fn what_is_no_host_side_of_a_container() {
    let Some(world) = nic("br0 type bridge", "") else { return };
    world.cilmark_ok("attach br0 --role container --id 300");
    doctor(&world).has("role", "warning", &["no host side of one (bridge, neither veth nor tap)"]);
}

fn sees_little(world: &World, device: &str, word: &str) {
    world.cilmark_ok(&format!("attach {device} --policy audit"));
    doctor(world).has("sees little", "warning", &[device, word]);
    world.cilmark_ok(&format!("attach {device}"));
    assert_eq!(doctor(world).of("sees little"), [""; 0], "without a policy");
}

#[test]
fn the_loopback_sees_what_the_host_says_to_itself() {
    let Some(world) = World::new() else { return };
    sees_little(&world, "lo", "only traffic between programs of this host");
}

#[test]
fn a_dummy_sees_next_to_nothing() {
    let Some(world) = nic("d0 type dummy", "ip link set d0 up") else { return };
    sees_little(&world, "d0", "receives nothing");
}

#[test]
fn a_vrf_sees_next_to_nothing() {
    let Some(world) = nic("blue type vrf table 10", "ip link set blue up") else {
        return;
    };
    sees_little(&world, "blue", "is a VRF");
}

/// A NIC that enforces and lets in tcp/443; a tunnel `vpn`, whose other end is a namespace.
fn with_tunnel() -> Option<(World, [Running; 2])> {
    let world = World::new()?;
    world.veth("nic");
    world.sh("ip addr add 198.51.100.2/24 dev nic; ip route add default via 198.51.100.1");
    world.cilmark_ok("attach nic --policy enforce --yes");
    world.cilmark_ok("policy add nic allow ingress from world tcp/443 --yes");
    let tunnel = world.machine("vpn", 2, "tun");
    Some((world, tunnel))
}

#[test]
fn a_tunnel_by_which_others_get_to_what_the_nic_closes() {
    let Some((world, _tunnel)) = with_tunnel() else { return };
    let says_nothing_listens =
        ["vpn: is not attached, and nothing listens there that nic would close"];
    // One that is a failsafe port, one that a rule opens, and one that others than this host don't reach.
    let _open = [22, 443].map(|port| listen(&world, HOST, port));
    let _own = std::net::TcpListener::bind("127.0.0.1:5433").expect("bind");
    doctor(&world).has("door", "ok", &says_nothing_listens);
    let closed = listen(&world, HOST, 5432);
    // It is what doctor says that it is.
    Connection::open(&world, "vpn", &closed, "10.2.0.1").works();
    let words = [
        "warning vpn: is not attached, while nic enforces: hosts behind it reach tcp/5432, which nic closes",
        "nic sees only the outer packets of this tunnel",
        "`cilmark attach vpn`",
    ];
    doctor(&world).has("door", "warning", &words);
    world.cilmark_ok("attach vpn");
    assert_eq!(doctor(&world).of("door"), [""; 0], "it is meant so");
    world.cilmark_ok("detach vpn");
    world.cilmark_ok("attach nic --policy audit --yes");
    assert_eq!(doctor(&world).of("door"), [""; 0], "nobody enforces");
}

#[test]
fn a_second_way_out_is_a_door_until_it_is_attached() {
    let Some((world, _tunnel)) = with_tunnel() else { return };
    world.sh("ip route add default via 10.2.0.10 dev vpn metric 9 table 7");
    doctor(&world).has("door", "warning", &["vpn: carries a default route and is not attached"]);
    world.cilmark_ok("attach vpn --policy enforce --yes");
    assert_eq!(doctor(&world).of("door"), [""; 0]);
}

#[test]
fn bridges_of_workloads_and_their_devices_are_no_doors() {
    let Some((world, tunnel)) = with_tunnel() else { return };
    drop(tunnel);
    world.workload("red", 3);
    world.workload("blue", 4);
    world.sh("ip link add name docker0 type bridge; ip link set docker0 up; ip link set blue master docker0
         ip addr add 172.17.0.1/16 dev docker0");
    let _closed = listen(&world, HOST, 5432);
    wait_for("the tunnel to go", || !world.try_sh("ip link show vpn").status.success());
    assert_eq!(doctor(&world).of("door"), [""; 0]);
    // What comes from outside comes by that bridge, too.
    world.sh("ip link add vx0 type vxlan id 7 dstport 4789 local 198.51.100.2; ip link set vx0 master docker0");
    doctor(&world).has("door", "warning", &["docker0: is not attached", "tcp/5432"]);
}
