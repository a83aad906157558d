//! What a device is taken for, and what is said about it.

use crate::common::World;
use crate::common::machine::hooks;

/// Attaches, and returns what was said.
fn attach(world: &World, arguments: &str) -> String {
    let run = world.cilmark(&format!("attach {arguments}"));
    assert_eq!((run.status, run.stdout.as_str()), (Some(0), ""), "{run:?}");
    run.stderr
}

#[test]
fn a_veth_or_tap_is_a_container() {
    let Some(world) = World::new() else { return };
    world.veth("red");
    world.sh("ip tuntap add tap0 mode tap");
    for device in ["red", "tap0"] {
        let said = attach(&world, &format!("{device} --id 7"));
        let why = "taken for a container, since it is a veth or tap without a default route";
        assert!(said.contains(&format!("{device}: {why}")), "{said}");
        assert_eq!(world.status(device)["role"], "container");
    }
}

#[test]
fn a_veth_that_carries_a_default_route_of_either_family_is_a_netdev() {
    for default_route in [
        "ip addr add 10.0.0.2/24 dev eth0 && ip route add default via 10.0.0.1",
        "ip -6 route add default dev eth0",
        "ip route add default nexthop dev eth0 nexthop dev eth0-peer",
        "ip route add default dev eth0 table 100",
    ] {
        let thread = std::thread::spawn(move || {
            let Some(world) = World::new() else { return };
            world.veth("eth0");
            world.sh(default_route);
            let said = attach(&world, "eth0");
            assert!(said.contains("a netdev, since a default route leaves by it"), "{said}");
            assert_eq!(world.status("eth0")["role"], "netdev");
            assert_eq!(world.status("eth0")["identity"], 1);
        });
        thread.join().unwrap_or_else(|_| panic!("with `{default_route}`"));
    }
}

#[test]
fn another_device_is_a_netdev() {
    let Some(world) = World::new() else { return };
    world.sh("ip link add br0 type bridge; ip tuntap add tun0 mode tun");
    for device in ["br0", "tun0", "lo"] {
        let said = attach(&world, device);
        assert!(said.contains("a netdev, since it is neither a veth nor a tap"), "{said}");
        assert_eq!(world.status(device)["role"], "netdev");
    }
}

#[test]
fn a_role_that_is_given_is_not_explained() {
    let Some(world) = World::new() else { return };
    world.veth("red");
    let said = attach(&world, "red --role netdev");
    let hook = hooks()[0];
    assert_eq!(
        said,
        format!("attached red: endpoint 1, netdev, identity 1 (host), {hook}, no address\n")
    );
    let said = attach(&world, "red --role container --id 700 --hook clsact");
    assert_eq!(
        said,
        "replaced red: endpoint 1, container, identity 700, clsact, any source address\n\
         red: it was a netdev and is a container now\n\
         red: its identity was 1 (host) and is 700 now\n"
    );
}

#[test]
fn a_macvlan_or_macvtap_is_no_container_and_the_cure_is_named() {
    let Some(world) = World::new() else { return };
    world.veth("nic");
    for kind in ["macvlan", "macvtap"] {
        world.sh(&format!("ip link add child link nic type {kind}"));
        world.cilmark("attach child --id 7 --role container").fails(
            1,
            &[&format!("child is a {kind}"), "attach to its parent device", "veth or a tap"],
        );
        world.sh("ip link del child");
    }
    assert_eq!(world.pins(), [""; 0]);
}

#[test]
fn a_nic_with_a_macvlan_on_it_gets_a_warning() {
    let Some(world) = World::new() else { return };
    world.veth("nic");
    world.veth("other");
    world.sh("ip link add child link nic type macvlan");
    let said = attach(&world, "nic --role netdev");
    assert!(said.contains("nic carries the macvlan child"), "{said}");
    let said = attach(&world, "other --role netdev");
    assert!(!said.contains("macvlan"), "{said}");
    // As a container's is.
    world.sh("ip netns add far; ip link set child netns far");
    let said = attach(&world, "nic --role netdev");
    assert!(said.contains("nic carries the macvlan child"), "{said}");
    let said = attach(&world, "other --role netdev");
    assert!(!said.contains("macvlan"), "{said}");
}

#[test]
fn a_netdev_has_its_own_addresses_and_a_container_those_it_is_given() {
    let Some(world) = World::new() else { return };
    world.veth("nic");
    world.veth("red");
    world.sh("ip addr add 10.0.0.2/24 dev nic
         ip addr add 10.0.0.3/24 dev nic
         ip addr add fd00::2/64 dev nic nodad
         ip addr add 10.1.0.1/24 dev red");
    attach(&world, "nic --role netdev --id 300");
    attach(&world, "red --id 7 --ip fd00:1::7 10.1.0.7");
    assert_eq!(world.status("nic")["ips"], serde_json::json!(["10.0.0.2", "10.0.0.3", "fd00::2"]));
    assert_eq!(world.status("red")["ips"], serde_json::json!(["10.1.0.7", "fd00:1::7"]));
    let resolved = |address: &str| {
        world.cilmark_json(&format!("ipcache get {address}"))[0]["identity"].clone()
    };
    assert_eq!(resolved("fd00::2"), 300);
    assert_eq!(resolved("10.1.0.7"), 7);
    world.cilmark("ipcache get 10.1.0.1").fails(1, &["10.1.0.1 is not in the ipcache"]);
}
