//! Off again: what attach added goes, and nothing else.

use std::path::Path;

use serde_json::json;

use crate::common::World;
use crate::common::machine::by_each_hook;
use crate::common::process::text;

const ENDPOINT: &str = "/sys/fs/bpf/cilmark/endpoints/1";

#[test]
fn detach_leaves_nothing_behind_by_tcx() {
    let Some(world) = World::with_tcx() else { return };
    world.veth("red");
    let before = world.sh("tc qdisc show dev red");
    world.cilmark_ok("attach red --id 300 --ip 10.0.0.1");
    let programs =
        ["ingress", "egress"].map(|hook| world.program_id(&format!("{ENDPOINT}/{hook}")));
    let run = world.cilmark("detach red");
    assert_eq!((run.status, run.stderr.as_str()), (Some(0), "detached red\n"));
    assert_eq!(world.pins(), [""; 0]);
    for program in programs {
        world.program_goes(program);
    }
    assert_eq!(world.sh("tc qdisc show dev red"), before);
}

#[test]
fn detach_takes_a_link_off_its_hook_though_somebody_still_holds_it() {
    use libbpf_rs::query::{LinkInfo, LinkTypeInfo};
    use std::os::fd::AsFd;
    let Some(world) = World::with_tcx() else { return };
    world.veth("red");
    world.cilmark_ok("attach red --id 300");
    let pin = format!("{ENDPOINT}/ingress");
    let held = cilmark::kernel::sys::open_pin(pin.as_ref()).unwrap();
    let ifindex = || match LinkInfo::from_fd(held.as_fd()).unwrap().info {
        LinkTypeInfo::Tcx(tcx) => tcx.ifindex,
        _ => panic!("another type of link"),
    };
    assert_ne!(ifindex(), 0);
    world.cilmark_ok("detach red");
    assert_eq!(ifindex(), 0);
}

#[test]
fn detach_leaves_nothing_but_an_empty_qdisc_by_clsact() {
    let Some(world) = World::new() else { return };
    world.veth("red");
    world.cilmark_ok("attach red --id 300 --ip 10.0.0.1 --hook clsact");
    let programs =
        ["ingress", "egress"].map(|hook| world.program_id(&format!("{ENDPOINT}/{hook}")));
    assert!(world.sh("tc filter show dev red ingress").contains("from_container"));
    assert!(world.sh("tc filter show dev red egress").contains("to_container"));
    world.cilmark_ok("detach red");
    assert_eq!(world.pins(), [""; 0]);
    for program in programs {
        world.program_goes(program);
    }
    for hook in ["ingress", "egress"] {
        assert_eq!(world.sh(&format!("tc filter show dev red {hook}")), "");
    }
    assert!(world.sh("tc qdisc show dev red").contains("clsact"));
}

#[test]
fn the_operators_entries_stay() {
    let Some(world) = World::new() else { return };
    world.veth("red");
    // One before and one after the endpoint took the address, and one that it never had.
    world.cilmark_ok("ipcache set 10.0.0.1 300");
    world.cilmark_ok("attach red --id 300 --ip 10.0.0.1 10.0.0.2");
    world.cilmark_ok("ipcache set 10.0.0.3 300");
    world.cilmark_ok("detach red");
    assert_eq!(
        world.cilmark_json("ipcache list"),
        json!([
            {"prefix": "10.0.0.1", "identity": 300, "name": null},
            {"prefix": "10.0.0.3", "identity": 300, "name": null},
        ])
    );
    world.cilmark_ok("ipcache flush");
    world.cilmark_ok("attach red --id 300");
    world.cilmark_ok("detach red");
    assert_eq!(world.pins(), [""; 0]);
}

#[test]
fn detach_goes_on_past_a_failure_and_reports_all_of_them() {
    let Some(world) = World::new() else { return };
    for device in ["red", "green", "blue"] {
        world.veth(device);
        world.cilmark_ok(&format!("attach {device} --id 300"));
    }
    world.cilmark("detach red nowhere green id:77").fails(
        1,
        &["detached red", "detached green", "`nowhere` is not attached", "`id:77` is not attached"],
    );
    assert_eq!(world.status("blue")["stale"], false);
    assert_eq!(world.cilmark_json("status").as_array().unwrap().len(), 1);
    world.cilmark("detach red").fails(1, &["`red` is not attached"]);
    world.cilmark_ok("detach id:3");
    assert_eq!(world.pins(), [""; 0]);
}

#[test]
fn a_device_that_is_named_twice_is_detached_once_without_an_error() {
    let Some(world) = World::new() else { return };
    world.veth("red");
    world.cilmark_ok("attach red --id 300");
    let run = world.cilmark("detach red red id:1");
    assert_eq!((run.status, run.stderr.as_str()), (Some(0), "detached red\n"));
    assert_eq!(world.pins(), [""; 0]);
}

#[test]
fn detach_all_detaches_all_of_both_kinds() {
    let Some(world) = World::new() else { return };
    world.veth("red");
    world.veth("blue");
    world.cilmark_ok("attach red --id 300");
    world.cilmark_ok("attach blue --role netdev --hook clsact");
    world.cilmark_ok("detach --all");
    assert_eq!(world.pins(), [""; 0]);
    assert_eq!(world.sh("tc filter show dev blue ingress"), "");
}

#[test]
fn removing_the_directory_and_the_filters_detaches_in_an_emergency() {
    by_each_hook(|hook| {
        let Some(world) = World::new() else { return };
        world.veth("red");
        world.cilmark_ok(&format!("attach red --id 300 --hook {hook}"));
        let program = world.program_id(&format!("{ENDPOINT}/ingress"));
        world.sh("rm -r /sys/fs/bpf/cilmark");
        if hook == "clsact" {
            world.sh("tc filter del dev red ingress; tc filter del dev red egress");
        }
        world.program_goes(program);
        assert_eq!(world.cilmark_json("status"), json!([]));
        world.cilmark_ok(&format!("attach red --id 300 --hook {hook}"));
    });
}

#[test]
fn an_address_that_two_nics_share_stays_until_both_are_detached() {
    let Some(world) = World::new() else { return };
    for nic in ["one", "two"] {
        world.veth(nic);
        world.sh(&format!("ip addr add 10.0.0.1/32 dev {nic}"));
        world.cilmark_ok(&format!("attach {nic} --role netdev"));
    }
    let is_host = || world.cilmark_json("ipcache get 10.0.0.1")[0]["identity"] == 1;
    assert!(is_host());
    world.cilmark_ok("detach one");
    assert!(is_host());
    world.cilmark_ok("detach two");
    assert_eq!(world.pins(), [""; 0]);
}

#[test]
fn the_last_detach_leaves_the_pins_of_others_alone() {
    let Some(world) = World::new() else { return };
    world.sh("ip link add veth-web type veth peer name peer; mkdir /sys/fs/bpf/others
         bpftool map create /sys/fs/bpf/foo type array key 4 value 4 entries 1 name foo");
    world.cilmark_ok("--bpffs /sys/fs/bpf attach veth-web --id 1234");
    assert!(Path::new("/sys/fs/bpf/cm_ipcache").exists());
    world.cilmark_ok("--bpffs /sys/fs/bpf detach veth-web");
    assert_eq!(world.pins(), ["foo", "others"]);
}

#[test]
fn the_root_goes_with_the_last_name_or_entry() {
    let Some(world) = World::new() else { return };
    world.sh("ip link add veth-web type veth peer name peer");
    world.cilmark_ok("attach veth-web --id 1234 --ip 10.0.1.10");
    world.cilmark_ok("identity set 1234 web");
    world.cilmark_ok("ipcache set 10.0.0.1 300");
    for (command, root_is_there) in
        [("detach veth-web", true), ("ipcache del 10.0.0.1", true), ("identity del web", false)]
    {
        world.cilmark_ok(command);
        assert_eq!(world.root().path().exists(), root_is_there, "after {command}");
    }
}

#[test]
fn no_packet_meets_the_programs_once_detach_has_returned() {
    let Some(world) = World::new() else { return };
    world.workload("web", 1);
    world.sh("nft add table inet t
         nft 'add chain inet t input { type filter hook input priority filter; }'
         nft 'add rule inet t input icmp type echo-request meta mark & 0xf00 == 0xf00 counter'
         ip netns exec web ping -qc1 -W20 10.1.0.1");
    for _ in 0..5 {
        world.cilmark_ok("attach web --id 1234");
        world.cilmark_ok("detach web");
        world.sh("ip netns exec web ping -qc1 -W20 10.1.0.1");
    }
    let rules = world.sh("nft list chain inet t input");
    assert!(rules.contains("counter packets 0 "), "{rules}");
}

#[test]
fn a_filter_that_can_not_be_taken_off_keeps_its_pins() {
    let Some(world) = World::new() else { return };
    world.veth("red");
    world.cilmark_ok("attach red --id 300 --ip 10.0.0.1 --hook clsact");
    let before = world.pins();
    let binary = env!("CARGO_BIN_EXE_cilmark");
    let run = world.try_sh(&format!(
        "setpriv --bounding-set=-net_admin --inh-caps=-net_admin {binary} detach red"
    ));
    let said = text(&run.stderr);
    assert!(said.contains("detach red: take the clsact filter off its ingress hook"), "{said}");
    assert_eq!((run.status.code(), world.pins()), (Some(1), before));
    assert_eq!(world.status("red")["stale"], false);
    assert_eq!(world.cilmark_json("ipcache list").as_array().unwrap().len(), 1);
    world.cilmark_ok("detach red");
    assert_eq!(world.pins(), [""; 0]);
}
