//! `status` tells when what a NIC's programs know of the device is no longer so.

use serde_json::json;

use crate::common::World;
use crate::common::machine::skip;

const ATTACH: &str = "attach nic --role netdev";

/// A NIC that was attached with this address, or none, and is a port of `bridge` if that is said.
fn nic(address: &str, bridge: bool) -> Option<World> {
    let world = World::new()?;
    world.veth("nic");
    world.sh("ip link add bridge address 02:00:00:00:00:aa type bridge && ip link set bridge up");
    if !address.is_empty() {
        world.sh(&format!("ip addr add {address} dev nic nodad"));
    }
    if bridge {
        world.sh("ip link set nic master bridge");
    }
    world.cilmark_ok(ATTACH);
    is_up_to_date(&world);
    Some(world)
}

fn is_up_to_date(world: &World) {
    assert_eq!(world.status("nic")["attach_again"], json!([]));
    assert!(!world.cilmark("status").stderr.contains("again"));
}

/// It says so, and once the device is attached again no more.
fn is_due(world: &World, why: &str) {
    is_due_by(world, ATTACH, why);
}

fn is_due_by(world: &World, attach: &str, why: &str) {
    assert_eq!(world.status("nic")["attach_again"], json!([why]));
    let run = world.cilmark("status nic");
    let told = format!("nic: it has to be attached again, since {why}");
    assert!(run.stderr.contains(&told), "{run:?}");
    world.cilmark_ok(attach);
    is_up_to_date(world);
}

#[test]
fn a_bridge_that_takes_another_mac() {
    let Some(world) = nic("", true) else { return };
    world.sh("ip link set bridge address 02:00:00:00:00:ab");
    is_due(&world, "its bridge has got another MAC, 02:00:00:00:00:ab");
}

#[test]
fn a_bridge_that_it_joins_or_leaves() {
    let Some(world) = nic("", false) else { return };
    world.sh("ip link set nic master bridge");
    is_due(&world, "it has become a port of a bridge");
    world.sh("ip link set nic nomaster");
    is_due(&world, "it is no longer a port of a bridge");
}

#[test]
fn a_vrf_that_it_comes_into_and_accept_local() {
    let Some(world) = nic("", false) else { return };
    world.sh("sysctl -qw net.ipv4.conf.nic.accept_local=1");
    is_due(&world, "accept_local has been switched on");
    if !world.try_sh("ip link add blue type vrf table 10").status.success() {
        return skip("this kernel has no VRF");
    }
    world.sh("ip link set nic master blue");
    is_due(&world, "it has come into a VRF");
}

#[test]
fn addresses_that_it_gets_and_loses_where_verdicts_hang_on_them() {
    for (flags, bridge) in [(" --host-addresses listed", false), (" --id 300", false), ("", true)] {
        let Some(world) = nic("", bridge) else { return };
        let attach = format!("{ATTACH}{flags}");
        world.cilmark_ok(&attach);
        world.sh("ip addr add 10.0.0.2/24 dev nic; ip addr add fd00::2/64 dev nic nodad");
        is_due_by(&world, &attach, "it has got 10.0.0.2 fd00::2");
        assert_eq!(world.status("nic")["ips"], json!(["10.0.0.2", "fd00::2"]));
        world.sh("ip addr del 10.0.0.2/24 dev nic");
        is_due_by(&world, &attach, "it has lost 10.0.0.2");
        // As a temporary one does, while the network stays.
        world.sh("ip addr add fd00::3/64 dev nic nodad");
        world.cilmark_ok(&attach);
        world.sh("ip addr del fd00::3/64 dev nic");
        is_up_to_date(&world);
    }
}

#[test]
fn addresses_that_the_routing_tables_know_are_nobodys_concern() {
    let Some(world) = nic("10.0.0.3/24", false) else { return };
    world.sh("ip addr add 10.0.0.2/24 dev nic; ip addr add fd00::2/64 dev nic nodad");
    world.sh("ip addr del 10.0.0.3/24 dev nic");
    is_up_to_date(&world);
}

#[test]
fn addresses_that_were_given_or_do_not_fit_are_nobodys_concern() {
    let Some(world) = nic("10.0.0.2/24", false) else { return };
    let listed = format!("{ATTACH} --host-addresses listed");
    world.cilmark_ok(&format!("{listed} --ip 10.0.0.7"));
    is_up_to_date(&world);
    for number in 10..20 {
        world.sh(&format!("ip addr add 10.0.1.{number}/24 dev nic"));
    }
    world.cilmark_ok(&listed);
    is_up_to_date(&world);
}

#[test]
fn who_attaches_a_port_as_a_nic_hears_of_the_better_place() {
    let Some(world) = nic("", true) else { return };
    let told = "nic is a port of the bridge bridge, which is the better place";
    let run = world.cilmark(ATTACH);
    assert!(run.stderr.contains(told), "{run:?}");
    let run = world.cilmark("attach nic --role container --id 300");
    assert!(!run.stderr.contains(told), "{run:?}");
    let run = world.cilmark("attach bridge");
    assert!(run.status == Some(0) && !run.stderr.contains(told), "{run:?}");
}
