//! `attach --pid` and `attach --container-netns`: the device is found by what is behind it.

use cilmark::model::spec::EndpointSpec;
use cilmark::ops::attach::{self, Terms};
use serde_json::json;

use crate::common::World;
use crate::common::machine::skip;
use crate::common::process::Running;
use crate::common::world::wait_for;

/// A process in a namespace.
fn process(world: &World, namespace: &str) -> Running {
    let running = world.spawn(&format!("ip netns exec {namespace} sleep 1000"));
    wait_for("the process", || {
        world.sh(&format!("ip netns pids {namespace}")).trim() == running.pid().to_string()
    });
    running
}

fn mac(world: &World, namespace: &str, device: &str) -> String {
    world
        .sh(&format!("ip netns exec {namespace} cat /sys/class/net/{device}/address"))
        .trim()
        .into()
}

/// Fails with these words, and nothing is attached.
fn is_refused(world: &World, arguments: &str, words: &[&str]) {
    world.cilmark(&format!("attach {arguments}")).fails(1, words);
    assert_eq!(world.pins(), [""; 0], "{arguments}");
}

#[test]
fn the_device_its_addresses_and_its_mac_are_found_by_a_process_or_a_namespace() {
    let Some(world) = World::new() else { return };
    world.workload("red", 1);
    world.workload("blue", 2);
    let process = process(&world, "red");
    world.cilmark_ok(&format!("attach --pid {} --id 300 --owner c1", process.pid()));
    world.cilmark_ok("attach --container-netns blue --id 301");
    for (device, number, identity) in [("red", 1, 300), ("blue", 2, 301)] {
        let status = world.status(device);
        let ips = json!([format!("10.{number}.0.10"), format!("fd00:{number}::10")]);
        assert_eq!((&status["role"], &status["identity"]), (&json!("container"), &json!(identity)));
        assert_eq!((&status["ips"], &status["device"]), (&ips, &json!(device)));
        assert_eq!(status["workload_mac"], mac(&world, device, "eth0"));
    }
    world.sh("ip -n blue link set eth0 name net1");
    world.cilmark_ok("attach --container-netns /run/netns/blue --ifname net1 --id 302");
    assert_eq!(world.status("blue")["identity"], 302);
}

#[test]
fn what_is_named_is_not_taken_from_the_workload() {
    let Some(world) = World::new() else { return };
    world.workload("red", 1);
    let attach = |flags: &str| {
        world.cilmark_ok(&format!("attach --container-netns red {flags}"));
        let status = world.status("red");
        (status["ips"].clone(), status["workload_mac"].clone())
    };
    let all = json!(["10.1.0.10", "fd00:1::10"]);
    let own = json!(mac(&world, "red", "eth0"));
    assert_eq!(attach("--id 300 --workload-mac any"), (all.clone(), json!(null)));
    assert_eq!(attach("--id 300 --ip 10.1.0.99"), (json!(["10.1.0.99"]), own.clone()));
    // What is kept stays, too.
    assert_eq!(attach("--keep --arp-responder"), (json!(["10.1.0.99"]), own.clone()));
    assert_eq!(attach("--id 300"), (all, own));
    world.cilmark_ok("detach red");
    is_refused(&world, "--container-netns red --keep", &["red is not attached"]);
    world.cilmark_ok("attach red --id 300");
    assert_eq!(attach("--keep"), (json!([]), json!(null)), "kept without addresses");
}

#[test]
fn the_spec_that_is_kept_names_the_device() {
    let Some(world) = World::new() else { return };
    world.workload("red", 1);
    world.cilmark_ok("attach --container-netns red --id 300");
    let spec = world.cilmark_json("status red --spec");
    assert_eq!(spec["device"], "red", "{spec}");
    assert_eq!(spec["ip"], json!(["10.1.0.10", "fd00:1::10"]), "{spec}");
    assert_eq!(spec["role"], "container", "{spec}");
}

#[test]
fn an_address_that_may_be_a_duplicate_is_the_workloads_and_a_link_local_one_is_not_given() {
    let Some(world) = World::new() else { return };
    world.workload("red", 1);
    // With so many questions to ask it stays tentative.
    world.sh("ip netns exec red sysctl -qw net.ipv6.conf.eth0.accept_dad=1 \
                  net.ipv6.conf.eth0.dad_transmits=600
              ip -n red addr add fd00:1::11/64 dev eth0");
    let flags = world.sh("ip -n red -6 addr show dev eth0");
    assert!(flags.contains("tentative") && flags.contains("fe80::"), "{flags}");
    world.cilmark_ok("attach --container-netns red --id 300");
    let ips = world.status("red")["ips"].clone();
    let mut ips: Vec<_> = ips.as_array().unwrap().iter().map(|ip| ip.as_str().unwrap()).collect();
    ips.sort_unstable();
    assert_eq!(ips, ["10.1.0.10", "fd00:1::10", "fd00:1::11"]);
}

#[test]
fn what_is_no_workload_is_refused_with_the_reason() {
    let Some(world) = World::new() else { return };
    world.workload("red", 1);
    let (here, there) = (world.spawn("sleep 1000"), process(&world, "red"));
    is_refused(&world, "--pid 4194305 --id 300", &["no process 4194305", "docker inspect"]);
    is_refused(&world, "--container-netns green --id 300", &["`green`", "ip netns"]);
    is_refused(&world, "--container-netns /etc/passwd --id 300", &["/etc/passwd", "Invalid"]);
    is_refused(&world, &format!("--pid {} --id 300", here.pid()), &["host's network"]);
    is_refused(&world, &format!("--netns red --pid {} --id 300", there.pid()), &["host's network"]);
    is_refused(&world, "--container-netns red --ifname net1 --id 300", &["`net1`", "eth0"]);
    is_refused(&world, "--container-netns red --ifname lo --id 300", &["lo is no veth"]);
    world.sh("ip netns add empty");
    is_refused(&world, "--container-netns empty --id 300", &["no network device but lo"]);
    is_refused(&world, "--container-netns red --role netdev --id 300", &["red", "netdev"]);
    world.sh("ip -n red addr flush dev eth0 scope global");
    is_refused(
        &world,
        "--container-netns red --id 300",
        &["no address", "name those that it is going to have"],
    );
    world.cilmark_ok("attach --container-netns red --id 300 --ip 10.1.0.10");
}

#[test]
fn what_shares_a_nic_or_has_no_other_end_is_never_taken_for_the_nic() {
    for (kind, name, make) in [
        ("macvlan", "eth0", "ip link add eth0 link nic netns red type macvlan"),
        ("ipvlan", "eth0", "ip link add eth0 link nic netns red type ipvlan"),
        ("bridge", "eth0", "ip -n red link add eth0 type bridge"),
        ("tun", "eth0", "ip -n red tuntap add eth0 mode tap"),
        ("VLAN", "eth1", "ip link add eth1 link nic netns red type vlan id 5"),
    ] {
        let Some(world) = World::new() else { return };
        // Its index is what a macvlan names as its parent, from wherever that is.
        world.veth("nic");
        world.sh("ip netns add red");
        if !world.try_sh(make).status.success() {
            skip(&format!("this kernel has no {kind}"));
            continue;
        }
        let arguments = format!("--container-netns red --ifname {name} --id 300 --ip 10.0.0.2");
        is_refused(&world, &arguments, &["`red`", name, &kind.to_lowercase(), "veth"]);
    }
}

#[test]
fn an_index_of_another_namespace_is_no_device_here() {
    let Some(world) = World::new() else { return };
    world.workload("red", 1);
    world.sh("ip link add decoy index 77 type veth peer name decoy-peer index 78
              ip netns add blue
              ip link add far index 77 netns blue type veth peer name net1 index 88 netns red
              ip -n red link add net2 index 78 type veth peer name net3 index 77
              ip -n red addr add 10.7.0.2/24 dev net1");
    let attach = "--container-netns red --id 300 --ip 10.7.0.2 --ifname";
    is_refused(
        &world,
        &format!("{attach} net1"),
        &["net1", "another network namespace", "--netns"],
    );
    is_refused(&world, &format!("{attach} net2"), &["net2", "is there, too"]);
    world.cilmark_ok(&format!("attach {attach} net1 --netns blue"));
    assert_eq!(world.status("far")["ips"], json!(["10.7.0.2"]));
}

#[test]
fn a_device_that_has_come_in_its_place_is_not_attached() {
    let Some(world) = World::new() else { return };
    world.veth("red");
    let spec = EndpointSpec { id: Some("300".parse().unwrap()), ..EndpointSpec::new("red") };
    let terms = Terms { ifindex: Some(4711), ..Terms::default() };
    let error = attach::attach(&world.root(), &spec, &terms).map(drop).expect_err("another one");
    assert!(error.to_string().contains("red is another device now"), "{error}");
    assert_eq!(world.pins(), [""; 0]);
}

#[test]
fn a_device_is_named_once() {
    let Some(world) = World::new() else { return };
    for (arguments, word) in [
        ("--id 300", "<DEV|--pid <N>|--container-netns <NAME|PATH>>"),
        ("red --pid 1 --id 300", "cannot be used with"),
        ("--pid 1 --container-netns red --id 300", "cannot be used with"),
        ("red --ifname eth0 --id 300", "cannot be used with"),
        ("--pid 0 --id 300", "does not run"),
        ("--pid x --id 300", "not the number of a process"),
        ("--pid 1", "--id <ID>"),
    ] {
        world.cilmark(&format!("attach {arguments}")).fails(2, &[word]);
    }
}
