//! What `attach` finds out about a device by itself.

use cilmark::kernel::abi::cm_config;
use cilmark::model::endpoint::EndpointId;
use cilmark::state::registry::Endpoint;
use serde_json::{Value, json};

use crate::common::World;
use crate::common::machine::skip;
use crate::common::world::wait_for;

/// What the only endpoint's programs were loaded with.
fn config(world: &World) -> cm_config {
    let id = EndpointId::new(1).expect("1");
    Endpoint::read(&world.root(), id).expect("an endpoint").config
}

#[test]
fn accept_local_counts_of_the_device_and_of_all_in_its_own_namespace() {
    let Some(world) = World::new() else { return };
    world.workload("red", 1);
    let accepts = |here: &str, all: u32, own: u32| {
        world.sh(&format!(
            "sysctl -qw net.ipv4.conf.all.accept_local={here}
             ip netns exec red sysctl -qw net.ipv4.conf.all.accept_local={all} \
                 net.ipv4.conf.eth0.accept_local={own}"
        ));
        world.cilmark_ok("attach eth0 --netns red");
        config(&world).accept_local
    };
    assert_eq!(accepts("0", 0, 0), 0);
    assert_eq!(accepts("0", 0, 1), 1);
    assert_eq!(accepts("0", 1, 0), 1);
    assert_eq!(accepts("1", 0, 0), 0, "another namespace's");
}

#[test]
fn a_port_accepts_what_its_bridge_accepts() {
    let Some(world) = World::new() else { return };
    world.veth("red");
    world.sh("ip link add br0 type bridge; ip link set red master br0");
    world.cilmark_ok("attach red --role netdev");
    assert_eq!(config(&world).accept_local, 0);
    world.sh("sysctl -qw net.ipv4.conf.br0.accept_local=1");
    world.cilmark_ok("attach red --role netdev");
    assert_eq!(config(&world).accept_local, 1);
}

#[test]
fn a_device_is_in_a_vrf_also_as_a_port_of_a_bridge_in_it() {
    let Some(world) = World::new() else { return };
    if !world.try_sh("ip link add blue type vrf table 10").status.success() {
        return skip("this kernel has no VRF");
    }
    world.veth("red");
    let in_vrf = || {
        world.cilmark_ok("attach red --role netdev");
        config(&world).in_vrf
    };
    assert_eq!(in_vrf(), 0);
    world.sh("ip link set red master blue");
    assert_eq!(in_vrf(), 1);
    world.sh("ip link add br0 type bridge; ip link set red master br0");
    assert_eq!(in_vrf(), 0);
    world.sh("ip link set br0 master blue");
    assert_eq!(in_vrf(), 1);
}

const PEER: &str = "02:00:00:00:00:0a";
const OTHER: &str = "02:00:00:00:00:0b";

/// Attaches `red` anew with these flags; the MAC that `status` tells.
fn workload_mac(world: &World, flags: &str) -> Value {
    world.cilmark_ok(&format!("attach red --id 7 {flags}"));
    world.status("red")["workload_mac"].take()
}

#[test]
fn the_mac_of_a_veths_other_end_is_known_wherever_that_is() {
    let Some(world) = World::new() else { return };
    world.veth("red");
    world.sh(&format!("ip link set red-peer address {PEER}"));
    assert_eq!(workload_mac(&world, "--ip 10.0.0.2"), PEER);
    world.cilmark_ok("detach red");
    world.sh("ip link del red");
    world.workload("red", 1);
    world.sh(&format!("ip -n red link set eth0 address {OTHER}"));
    assert_eq!(workload_mac(&world, "--ip 10.1.0.10"), OTHER);
}

#[test]
fn the_mac_is_asked_anew_unless_it_is_given() {
    let Some(world) = World::new() else { return };
    world.workload("red", 1);
    world.sh(&format!("ip -n red link set eth0 address {PEER}"));
    let given = |flags: &str| workload_mac(&world, &format!("--ip 10.1.0.10 {flags}"));
    assert_eq!(given("--workload-mac 02-00-00-00-00-0C"), "02:00:00:00:00:0c");
    assert_eq!(given(""), PEER);
    world.sh(&format!("ip -n red link set eth0 address {OTHER}"));
    assert_eq!(given(""), OTHER);
    assert_eq!(given("--workload-mac any"), json!(null));
}

#[test]
fn a_mac_that_may_be_another_one_is_unknown() {
    let Some(world) = World::new() else { return };
    world.veth("red");
    let known = |flags: &str| !workload_mac(&world, flags).is_null();
    assert!(known("--ip 10.0.0.2"));
    assert!(!known(""), "without addresses nothing is checked");
    world.sh("ip link set red-peer down");
    assert!(!known("--ip 10.0.0.2"), "who makes it may still set it");
    world.sh("ip link add br0 type bridge; ip link set red-peer master br0 up");
    assert!(!known("--ip 10.0.0.2"), "the bridge sends from its own");
    world.sh("ip tuntap add tap0 mode tap; ip link set tap0 up");
    world.cilmark_ok("attach tap0 --id 8 --ip 10.0.0.3");
    assert_eq!(world.status("tap0")["workload_mac"], json!(null));
}

#[test]
fn an_address_that_may_be_a_duplicate_or_is_one_is_not_the_hosts() {
    let Some(world) = World::new() else { return };
    world.veth("nic");
    // Until there is a carrier, nobody can tell.
    world.sh("ip link set nic-peer down
         ip addr add fd00::2/64 dev nic
         ip addr add fd00::3/64 dev nic nodad
         ip addr add 10.0.0.2/24 dev nic");
    let flags = || world.sh("ip -6 addr show dev nic to fd00::2");
    assert!(flags().contains("tentative"), "{}", flags());
    let own = || {
        world.cilmark_ok("attach nic --role netdev");
        world.status("nic")["ips"].take()
    };
    assert_eq!(own(), json!(["10.0.0.2", "fd00::3"]));
    world.cilmark("ipcache get fd00::2").fails(1, &["fd00::2 is not in the ipcache"]);
    // The other end has it.
    world.sh("ip addr add fd00::2/64 dev nic-peer nodad && ip link set nic-peer up");
    wait_for("the duplicate to be found", || {
        let now = flags();
        // The question was asked before the other end listened to it.
        if !now.contains("tentative") && !now.contains("dadfailed") {
            world.sh("ip addr del fd00::2/64 dev nic && ip addr add fd00::2/64 dev nic");
        }
        now.contains("dadfailed")
    });
    assert_eq!(own(), json!(["10.0.0.2", "fd00::3"]));
}
