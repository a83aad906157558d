//! Attaching again: another program in the same place.

use std::os::fd::AsFd;
use std::path::Path;

use cilmark::kernel::device;
use cilmark::kernel::sys::{self, Hook};
use cilmark::state::pin;
use serde_json::json;

use crate::common::World;
use crate::common::machine::{by_each_hook, hooks, skip};

const ENDPOINT: &str = "/sys/fs/bpf/cilmark/endpoints/1";

#[test]
fn identity_and_addresses_change_and_old_addresses_leave_the_ipcache() {
    let Some(world) = World::new() else { return };
    world.veth("red");
    world.cilmark_ok("attach red --id 300 --ip 10.0.0.1 10.0.0.2");
    world.cilmark_ok("ipcache set 10.0.0.9 900");
    let run = world.cilmark("attach red --id 301 --ip 10.0.0.2 10.0.0.3");
    let said = format!("replaced red: endpoint 1, container, identity 301, {}, ", hooks()[0]);
    assert!(run.stderr.contains(&said), "{run:?}");
    assert_eq!(
        world.cilmark_json("ipcache list"),
        json!([
            {"prefix": "10.0.0.2", "identity": 301, "name": null},
            {"prefix": "10.0.0.3", "identity": 301, "name": null},
            {"prefix": "10.0.0.9", "identity": 900, "name": null},
        ])
    );
    let endpoints = world.sh("bpftool -j map dump pinned /sys/fs/bpf/cilmark/cm_endpoints");
    let endpoints: Vec<serde_json::Value> = serde_json::from_str(&endpoints).unwrap();
    assert_eq!(endpoints.len(), 2);
    let status = world.status("red");
    assert_eq!((&status["identity"], &status["endpoint_id"]), (&json!(301), &json!(1)));
    assert_eq!(status["ips"], json!(["10.0.0.2", "10.0.0.3"]));
}

#[test]
fn counters_survive_a_replacement_of_either_kind() {
    let Some(world) = World::new() else { return };
    world.workload("red", 1);
    world.cilmark_ok("attach red --id 300 --ip 10.1.0.10 fd00:1::10");
    world.sh("ip netns exec red ping -qfc 50 10.1.0.1");
    let counted = || world.status("red")["packets"].as_u64().unwrap();
    let mut before = counted();
    assert!(before >= 100, "{before}");
    for arguments in ["--id 301", "--id 301 --hook clsact", "--id 302 --hook clsact", "--id 303"] {
        world.cilmark_ok(&format!("attach red --ip 10.1.0.10 fd00:1::10 {arguments}"));
        let after = counted();
        assert!(after >= before, "{before} became {after} with {arguments}");
        before = after;
    }
    world.cilmark_ok("detach red");
    world.cilmark_ok("attach red --id 300");
    assert!(counted() < before, "a new endpoint counts from zero");
}

#[test]
fn the_old_programs_go() {
    by_each_hook(|hook| {
        let Some(world) = World::new() else { return };
        world.veth("red");
        let program = || world.program_id(&format!("{ENDPOINT}/ingress"));
        world.cilmark_ok(&format!("attach red --id 300 --hook {hook}"));
        let before = program();
        world.cilmark_ok(&format!("attach red --id 301 --hook {hook}"));
        assert_ne!(program(), before);
        world.program_goes(before);
    });
}

#[test]
fn the_links_stay() {
    let Some(world) = World::with_tcx() else { return };
    world.veth("red");
    world.cilmark_ok("attach red --id 300");
    let link = || world.sh(&format!("bpftool -j link show pinned {ENDPOINT}/ingress | jq .id"));
    let before = link();
    world.cilmark_ok("attach red --id 301");
    assert_eq!(link(), before);
}

#[test]
fn the_kind_of_hook_can_be_changed_both_ways() {
    let Some(world) = World::with_tcx() else { return };
    world.veth("red");
    world.cilmark_ok("attach red --id 300 --hook tcx");
    let by_tcx = world.program_id(&format!("{ENDPOINT}/egress"));
    world.cilmark_ok("attach red --id 300 --hook clsact");
    assert_eq!(world.status("red")["hook"], "clsact");
    world.program_goes(by_tcx);
    let by_clsact = world.program_id(&format!("{ENDPOINT}/egress"));
    world.cilmark_ok("attach red --id 300 --hook tcx");
    assert_eq!(world.status("red")["hook"], "tcx");
    world.program_goes(by_clsact);
    for hook in ["ingress", "egress"] {
        assert_eq!(world.sh(&format!("tc filter show dev red {hook}")), "");
    }
}

#[test]
fn clsact_keeps_its_one_filter_also_with_another_priority() {
    let Some(world) = World::new() else { return };
    world.veth("red");
    let filters = || {
        let shown = world.sh("tc filter show dev red ingress");
        let lines = shown.lines().filter(|line| line.contains("handle"));
        lines.map(str::to_owned).collect::<Vec<_>>()
    };
    for (arguments, priority) in
        [("", "pref 50000 "), ("--first", "pref 1 "), ("--first", "pref 1 "), ("", "pref 50000 ")]
    {
        world.cilmark_ok(&format!("attach red --id 300 --hook clsact {arguments}"));
        let shown = filters();
        assert_eq!(shown.len(), 1, "{shown:?}");
        assert!(shown[0].contains(priority) && shown[0].contains("direct-action"), "{shown:?}");
        assert_eq!(world.status("red")["stale"], false);
    }
}

#[test]
fn the_role_can_be_changed() {
    let Some(world) = World::new() else { return };
    world.veth("red");
    world.sh("ip addr add 10.0.0.1/24 dev red");
    world.cilmark_ok("attach red --id 300 --ip 10.0.0.7");
    world.cilmark_ok("attach red --role netdev");
    let status = world.status("red");
    assert_eq!((&status["role"], &status["identity"]), (&json!("netdev"), &json!(1)));
    assert_eq!(
        world.cilmark_json("ipcache list"),
        json!([{"prefix": "10.0.0.1", "identity": 1, "name": "host"}])
    );
}

#[test]
fn a_change_of_hooks_that_fails_half_way_leaves_what_ran() {
    let Some(world) = World::new() else { return };
    world.veth("red");
    // Nothing can be pinned where a directory is.
    let in_the_way = ["egress-new", "config-new"];
    let is_possible = |(from, to): &(&str, &str)| {
        let needs = |kind| from.contains(kind) || to.contains(kind);
        hooks().contains(&"tcx") || !needs("tcx")
    };
    let changes = [
        ("--hook tcx", "--hook clsact"),
        ("--hook clsact", "--hook tcx"),
        ("--hook clsact", "--hook clsact --first"),
        ("--hook clsact --first", "--hook clsact"),
    ];
    for (from, to) in changes.into_iter().filter(is_possible) {
        world.cilmark_ok(&format!("attach red --id 300 --ip 10.0.0.1 {from}"));
        let ran = || {
            let mut status = world.status("red");
            status["packets"].take();
            let programs =
                ["ingress", "egress"].map(|hook| world.program_id(&format!("{ENDPOINT}/{hook}")));
            let filters = ["ingress", "egress"].map(|hook| {
                world.sh(&format!("tc filter show dev red {hook} | grep -c handle || true"))
            });
            (status, programs, filters, world.cilmark_json("ipcache list"))
        };
        let before = ran();
        for name in in_the_way {
            world.sh(&format!("mkdir {ENDPOINT}/{name}"));
            let run = world.cilmark(&format!("attach red --id 301 --ip 10.0.0.2 {to}"));
            world.sh(&format!("rmdir {ENDPOINT}/{name}"));
            run.fails(1, &["pin ", ENDPOINT]);
            assert_eq!(ran(), before, "{from} to {to}, {name}");
        }
        world.cilmark_ok("detach red");
        assert_eq!(world.pins(), [""; 0]);
    }
}

#[test]
fn a_change_of_hooks_that_was_killed_half_way_is_completed_by_the_next_attachment() {
    let Some(world) = World::new() else { return };
    if !hooks().contains(&"tcx") {
        return skip("there is no TCX to change to");
    }
    for hook in ["tcx", "clsact"] {
        world.veth("red");
        world.cilmark_ok("attach red --id 300 --ip 10.0.0.1 --hook clsact");
        // One of its programs by TCX, pinned, and the other by its filter.
        let path = Path::new(ENDPOINT).join("ingress");
        let program = sys::open_pin(&path).expect("open the program");
        let ifindex = device::by_name("red").expect("the device").ifindex;
        let link = sys::create_tcx_link(program.as_fd(), ifindex, Hook::Ingress, false);
        pin::replace(link.expect("attach by TCX"), &path).expect("pin the link");
        world.cilmark_ok(&format!("attach red --id 300 --ip 10.0.0.1 --hook {hook}"));
        assert_eq!(world.status("red")["hook"], hook);
        for side in ["ingress", "egress"] {
            let filters =
                world.sh(&format!("tc filter show dev red {side} | grep -c handle || true"));
            assert_eq!(filters.trim() == "0", hook == "tcx", "{hook} {side}: {filters}");
        }
        world.cilmark_ok("detach red");
        world.sh("ip link del red");
    }
}
