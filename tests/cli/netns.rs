//! One root may serve several network namespaces.

use serde_json::json;

use crate::common::World;
use crate::common::machine::hooks;

#[test]
fn netns_names_a_namespace_by_name_or_path() {
    let Some(world) = World::new() else { return };
    world.workload("red", 1);
    world.cilmark_ok("attach eth0 --netns red --id 300");
    assert_eq!(world.status("eth0")["role"], "netdev", "its eth0 carries the default route");
    world.cilmark_ok("detach eth0 --netns /run/netns/red");
    world.cilmark_ok("attach eth0 --id 300 --netns /run/netns/red");
    assert_eq!(world.status("eth0 --netns red")["ips"], json!(["10.1.0.10", "fd00:1::10"]));
    world.cilmark("attach red --id 7 --netns red").fails(1, &["device `red`"]);
    world.cilmark("status red --netns red").fails(1, &["`red` is not attached"]);
    world.cilmark_ok("detach eth0");
    assert_eq!(world.pins(), [""; 0]);
}

#[test]
fn a_name_that_two_namespaces_share_has_to_be_narrowed() {
    let Some(world) = World::new() else { return };
    world.workload("red", 1);
    world.workload("blue", 2);
    world.cilmark_ok("attach eth0 --netns red --id 300");
    world.cilmark_ok("attach eth0 --netns blue --id 301");
    for command in ["status eth0", "detach eth0"] {
        world.cilmark(command).fails(1, &["several devices: id:1, id:2", "--netns"]);
    }
    assert_eq!(world.status("id:1")["identity"], 300);
    assert_eq!(world.status("eth0 --netns blue")["identity"], 301);
    world.cilmark_ok("detach eth0 --netns red");
    assert_eq!(world.status("eth0")["identity"], 301, "now there is one only");
    world.cilmark_ok("detach eth0");
    assert_eq!(world.pins(), [""; 0]);
}

#[test]
fn a_name_that_a_device_got_later_is_as_good_as_the_one_that_it_was_attached_under() {
    let Some(world) = World::new() else { return };
    world.workload("red", 1);
    world.workload("blue", 2);
    world.cilmark_ok("attach red --id 300");
    world.cilmark_ok("attach eth0 --netns blue --id 301");
    world.sh("ip -n blue link set eth0 down && ip -n blue link set eth0 name red");
    for command in ["status red", "detach red"] {
        world.cilmark(command).fails(1, &["several devices: id:1, id:2", "--netns"]);
    }
    assert_eq!(world.status("red --netns blue")["identity"], 301);
    world.cilmark("status eth0").fails(1, &["`eth0` is not attached"]);
    world.cilmark_ok("detach red --netns blue");
    assert_eq!(world.status("red")["identity"], 300);
}

#[test]
fn detach_all_is_narrowed_by_netns() {
    let Some(world) = World::new() else { return };
    world.workload("red", 1);
    world.workload("blue", 2);
    world.cilmark_ok("attach eth0 --netns red --id 300 --hook clsact");
    world.cilmark_ok("attach eth0 --netns blue --id 301 --hook clsact");
    world.cilmark_ok("attach red --id 302");
    world.cilmark_ok("detach --all --netns red");
    assert_eq!(world.sh("ip netns exec red tc filter show dev eth0 egress"), "");
    assert!(world.sh("ip netns exec blue tc filter show dev eth0 egress").contains("to_netdev"));
    assert_eq!(world.cilmark_json("status").as_array().unwrap().len(), 2);
    world.cilmark_ok("detach --all");
    assert_eq!(world.sh("ip netns exec blue tc filter show dev eth0 egress"), "");
    assert_eq!(world.pins(), [""; 0]);
}

#[test]
fn a_deleted_namespace_leaves_a_stale_endpoint_that_can_be_detached() {
    let Some(world) = World::new() else { return };
    for ((name, number), hook) in [("red", 1), ("blue", 2)].into_iter().zip(hooks()) {
        world.workload(name, number);
        world.cilmark_ok(&format!("attach eth0 --netns {name} --id 300 --hook {hook}"));
        world.sh(&format!("ip netns del {name}"));
        // The kernel takes its time to remove the devices of a namespace.
        crate::common::world::wait_for("the namespace to go", || {
            !world.try_sh(&format!("ip link show {name}")).status.success()
        });
        assert_eq!(world.status("eth0")["stale"], true, "{hook}");
        world.cilmark_ok("detach eth0");
        assert_eq!(world.pins(), [""; 0], "{hook}");
    }
}

#[test]
fn an_endpoint_of_another_namespace_may_have_the_same_address() {
    let Some(world) = World::new() else { return };
    world.workload("red", 1);
    world.workload("blue", 2);
    world.cilmark_ok("attach red --id 300 --ip 10.0.0.1 --bpffs /sys/fs/bpf/a");
    world.cilmark_ok("attach eth0 --netns blue --ip 10.0.0.1 --bpffs /sys/fs/bpf/b");
    assert_eq!(world.status("red --bpffs /sys/fs/bpf/a")["ips"], json!(["10.0.0.1"]));
    assert_eq!(world.status("eth0 --bpffs /sys/fs/bpf/b")["ips"], json!(["10.0.0.1"]));
}

#[test]
fn an_address_of_another_namespace_is_refused_in_the_same_root() {
    let Some(world) = World::new() else { return };
    world.workload("red", 1);
    world.workload("blue", 2);
    world.sh("ip -n red addr add 10.9.0.1/32 dev eth0 && ip -n blue addr add 10.9.0.1/32 dev eth0");
    world.cilmark_ok("attach eth0 --netns red --id 300");
    let before = (world.pins(), world.cilmark_json("ipcache list"));
    for other in ["eth0 --netns blue", "blue --id 301 --ip 10.9.0.1"] {
        world.cilmark(&format!("attach {other}")).fails(
            1,
            &["10.9.0.1 is already an address of endpoint 1 (eth0) in another", "--bpffs DIR"],
        );
        assert_eq!((world.pins(), world.cilmark_json("ipcache list")), before, "{other}");
    }
    // The namespace of a container that was started again is another one.
    world.sh("ip netns del red");
    crate::common::world::wait_for("the namespace to go", || {
        !world.try_sh("ip link show red").status.success()
    });
    world.cilmark_ok("attach eth0 --netns blue");
    assert_eq!(world.cilmark_json("ipcache get 10.9.0.1")[0]["identity"], 1);
}
