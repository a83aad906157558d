//! Endpoints whose device or programs have gone, and status when the pins say something else.

use cilmark::kernel::sys::{self, Hook};
use serde_json::{Value, json};

use crate::common::World;
use crate::common::machine::{by_each_hook, hooks};
use crate::common::process::text;

const ENDPOINT: &str = "/sys/fs/bpf/cilmark/endpoints/1";

#[test]
fn a_deleted_device_is_shown_as_stale_and_detach_cleans_it() {
    by_each_hook(|hook| {
        let Some(world) = World::new() else { return };
        world.veth("red");
        world.cilmark_ok(&format!("attach red --id 300 --ip 10.0.0.1 --hook {hook}"));
        world.sh("ip link del red");
        let status = world.status("red");
        assert_eq!(status["stale"], true);
        assert_eq!((&status["identity"], &status["hook"]), (&json!(300), &json!(hook)));
        assert!(world.cilmark_ok("status").contains("red (stale)"));
        world.cilmark_ok("detach red");
        assert_eq!(world.pins(), [""; 0]);
    });
}

#[test]
fn a_device_of_the_same_name_is_another_one_and_replaces_the_stale_endpoint() {
    by_each_hook(|hook| {
        let Some(world) = World::new() else { return };
        world.veth("red");
        world.cilmark_ok(&format!("attach red --id 300 --ip 10.0.0.1 --hook {hook}"));
        world.sh("ip link del red");
        world.veth("red");
        assert_eq!(world.status("red")["stale"], true, "the new one is not attached");
        world.cilmark_ok(&format!("attach red --id 301 --ip 10.0.0.2 --hook {hook}"));
        let all = world.cilmark_json("status");
        assert_eq!(all.as_array().unwrap().len(), 1, "{all}");
        assert_eq!((&all[0]["stale"], &all[0]["identity"]), (&json!(false), &json!(301)));
        assert_eq!(
            world.cilmark_json("ipcache list"),
            json!([{"prefix": "10.0.0.2", "identity": 301, "name": null}])
        );
    });
}

#[test]
fn a_device_that_got_a_deleted_ones_index_is_not_taken_for_it() {
    let Some(world) = World::new() else { return };
    for hook in hooks() {
        world.sh("ip link add red index 500 type veth peer name red-peer");
        world.cilmark_ok(&format!("attach red --id 300 --hook {hook}"));
        world.sh("ip link del red
             ip link add blue index 500 type veth peer name blue-peer");
        let all = world.cilmark_json("status");
        assert_eq!(all.as_array().unwrap().len(), 1);
        assert_eq!(all[0]["stale"], true, "{hook}: {all}");
        world.cilmark_ok("attach blue --id 301");
        let all = world.cilmark_json("status");
        assert_eq!(all.as_array().unwrap().len(), 1, "{hook}: {all}");
        assert_eq!(all[0]["device"], "blue", "{hook}");
        world.cilmark_ok("detach --all");
        world.sh("ip link del blue");
    }
}

#[test]
fn a_device_that_got_the_index_of_one_in_another_namespace_is_not_taken_for_it() {
    let Some(world) = World::new() else { return };
    world.sh("ip netns add other");
    for hook in hooks() {
        world.sh("ip link add red index 500 type veth peer name red-peer");
        world.cilmark_ok(&format!("attach red --id 300 --ip 10.0.0.1 --hook {hook}"));
        world.sh("ip link set red netns other
             ip link add blue index 500 type veth peer name blue-peer");
        let red = world.status("red");
        let state = (*hook == "clsact", *hook == "tcx");
        assert_eq!((&red["stale"], &red["moved"]), (&json!(state.0), &json!(state.1)), "{hook}");
        world.cilmark_ok(&format!("attach blue --id 301 --ip 10.0.0.2 --hook {hook}"));
        let blue = world.status("blue");
        assert_eq!((&blue["stale"], &blue["identity"]), (&json!(false), &json!(301)), "{hook}");
        world.sh("ip link del blue");
        assert_eq!(world.status("blue")["stale"], true, "{hook}: it was on blue");
        world.cilmark_ok("detach --all");
        world.sh("ip -n other link del red");
    }
}

#[test]
fn a_renamed_device_is_known_by_its_new_name() {
    let Some(world) = World::new() else { return };
    world.veth("red");
    world.cilmark_ok("attach red --id 300");
    world.sh("ip link set red down && ip link set red name blue && ip link set blue up");
    assert_eq!(world.status("blue")["stale"], false);
    world.cilmark("status red").fails(1, &["`red` is not attached"]);
    world.cilmark_ok("detach blue");
    assert_eq!(world.pins(), [""; 0]);
}

#[test]
fn a_filter_that_somebody_took_off_makes_the_endpoint_stale() {
    let Some(world) = World::new() else { return };
    world.veth("red");
    world.cilmark_ok("attach red --id 300 --hook clsact");
    world.sh("tc filter del dev red egress");
    assert_eq!(world.status("red")["stale"], true);
    world.cilmark_ok("attach red --id 300 --hook clsact");
    assert_eq!(world.status("red")["stale"], false);
}

#[test]
fn a_link_that_somebody_detached_makes_the_endpoint_stale() {
    let Some(world) = World::with_tcx() else { return };
    world.veth("red");
    for hook in ["ingress", "egress"] {
        world.cilmark_ok("attach red --id 300 --ip 10.0.0.1");
        world.sh(&format!("bpftool link detach pinned {ENDPOINT}/{hook}"));
        assert_eq!(world.status("red")["stale"], true, "{hook}");
        world
            .cilmark("policy add red allow egress to any")
            .fails(1, &["is stale", "not all of its"]);
        world.cilmark_ok("attach red --keep");
        assert_eq!(world.status("red")["stale"], false, "{hook}");
        let ifindex = world.sh("cat /sys/class/net/red/ifindex").trim().parse().unwrap();
        let on = |hook| sys::on_tcx(ifindex, hook).unwrap().len();
        assert_eq!([Hook::Ingress, Hook::Egress].map(on), [1, 1], "{hook}");
    }
}

#[test]
fn status_tells_what_runs_though_the_pinned_config_is_missing_or_wrong() {
    let Some(world) = World::new() else { return };
    world.veth("red");
    world.veth("blue");
    world.cilmark_ok("attach red --id 300 --ip 10.0.0.1");
    world.cilmark_ok("attach blue --id 301 --ip 10.0.0.2");
    let without_packets = || {
        let mut status = world.status("red");
        status["packets"].take();
        status
    };
    let truth: Value = without_packets();
    world.sh(&format!("rm {ENDPOINT}/config"));
    assert_eq!(without_packets(), truth);
    let blue = "/sys/fs/bpf/cilmark/endpoints/2/config";
    let spoil = || world.sh(&format!("bpftool map pin pinned {blue} {ENDPOINT}/config"));
    spoil();
    assert_eq!(without_packets(), truth);
    let run = world.cilmark("attach red --id 300 --ip 10.0.0.1");
    assert!(run.stderr.starts_with("replaced red: endpoint 1,"), "{run:?}");
    world.sh(&format!("rm {ENDPOINT}/config"));
    spoil();
    world.cilmark_ok("detach red");
    assert_eq!(world.status("blue")["stale"], false);
    assert_eq!(
        world.cilmark_json("ipcache list"),
        json!([{"prefix": "10.0.0.2", "identity": 301, "name": null}])
    );
}

#[test]
fn half_an_endpoint_is_stale_and_can_be_attached_or_detached() {
    let Some(world) = World::new() else { return };
    world.veth("red");
    for repair in ["attach red --id 300", "detach red", "detach id:1"] {
        world.cilmark_ok("attach red --id 300 --ip 10.0.0.1");
        world.sh(&format!("rm {ENDPOINT}/egress"));
        assert_eq!(world.status("red")["stale"], hooks()[0] == "tcx", "a filter needs no pin");
        world.cilmark_ok(repair);
        let all = world.cilmark_json("status");
        let alive = repair.starts_with("attach");
        assert_eq!(all.as_array().unwrap().len(), usize::from(alive), "{repair}");
        assert!(!alive || all[0]["stale"] == false);
    }
    world.sh(&format!("mkdir -p {ENDPOINT}"));
    assert_eq!(world.status("id:1")["stale"], true, "a bare directory");
    world.cilmark_ok("detach id:1");
    assert_eq!(world.pins(), [""; 0]);
}

#[test]
fn what_can_not_be_looked_at_is_an_error_and_never_cleaned_up() {
    by_each_hook(|hook| {
        let Some(world) = World::new() else { return };
        world.veth("red");
        world.cilmark_ok(&format!("attach red --id 300 --ip 10.0.0.1 --hook {hook}"));
        let binary = env!("CARGO_BIN_EXE_cilmark");
        for descriptors in 4..16 {
            let limited = |arguments: &str| {
                world.try_sh(&format!("prlimit --nofile={descriptors} {binary} {arguments}"))
            };
            let status = limited("status --json");
            assert!(
                !status.status.success() || !text(&status.stdout).contains("\"stale\": true"),
                "{descriptors}: {status:?}"
            );
            limited("attach lo");
            assert_eq!(world.status("red")["stale"], false, "with {descriptors} descriptors");
        }
    });
}

#[test]
fn an_endpoint_that_can_not_be_read_stops_nothing_that_is_about_others() {
    let Some(world) = World::new() else { return };
    for device in ["red", "green", "blue"] {
        world.veth(device);
        world.cilmark_ok(&format!("attach {device} --id 300"));
    }
    let green = "/sys/fs/bpf/cilmark/endpoints/2";
    world.sh(&format!("rm {green}/ingress && mkdir {green}/ingress"));
    let why = format!("read endpoint 2: open {green}/ingress: ");

    let run = world.cilmark("status --json");
    assert!(run.status == Some(1) && run.stderr.contains(&why), "{run:?}");
    let readable: Value = serde_json::from_str(&run.stdout).unwrap();
    assert_eq!(readable.as_array().unwrap().len(), 2);
    assert_eq!((&readable[0]["device"], &readable[1]["device"]), (&json!("red"), &json!("blue")));

    world.cilmark_ok("attach red --id 301");
    world.veth("white");
    world.cilmark_ok("attach white --id 302");
    for nobody in ["detach green", "detach id:2", "status green"] {
        world.cilmark(nobody).fails(1, &["not among the endpoints that can be read", &why]);
    }
    world.cilmark_ok("detach red");
    world.cilmark("detach --all").fails(1, &["detached blue", "detached white", &why]);
    assert!(!world.pins().contains(&"cilmark/endpoints/3".to_owned()));
    assert!(world.pins().contains(&"cilmark/endpoints/2/egress".to_owned()));

    world.sh(&format!("rmdir {green}/ingress"));
    world.cilmark_ok("detach green");
    assert_eq!(world.pins(), [""; 0]);
}

#[test]
fn a_workload_that_comes_back_on_another_device_takes_its_address_along() {
    let Some(world) = World::new() else { return };
    world.veth("red");
    world.cilmark_ok("attach red --id 300 --ip 10.0.0.1");
    world.sh("ip link del red");
    world.veth("blue");
    world.cilmark_ok("attach blue --id 301 --ip 10.0.0.1");
    for _ in 0..2 {
        let line = json!([{"prefix": "10.0.0.1", "identity": 301, "name": null}]);
        assert_eq!(world.cilmark_json("ipcache list"), line);
        world.cilmark("detach red");
    }
    world.cilmark_ok("detach blue");
    assert_eq!(world.pins(), [""; 0]);
}

#[test]
fn an_endpoint_that_has_lost_its_pins_gets_its_rules_back() {
    by_each_hook(|hook| {
        let Some(world) = World::new() else { return };
        world.veth("red");
        world.veth("blue");
        let attach = format!("attach red --id 300 --policy enforce --endpoint-id 7 --hook {hook}");
        world.cilmark_ok("attach blue --id 301");
        world.cilmark_ok(&attach);
        world.cilmark_ok("policy add red allow egress to any udp/53 deny ingress from 9");
        let rules = world.cilmark_json("policy list red");
        let pins = "/sys/fs/bpf/cilmark/endpoints/7";
        for lost in ["ingress", "egress", "ingress egress"] {
            for pin in lost.split(' ') {
                world.sh(&format!("rm {pins}/{pin}"));
            }
            assert_eq!(world.status("id:7")["stale"], hook == "tcx", "a filter needs no pin");
            let run = world.cilmark(&attach);
            assert!(run.stderr.contains("replaced red: endpoint 7,"), "{lost}: {run:?}");
            let told = run.stderr.contains("red: its programs were not all there");
            assert_eq!(told, hook == "tcx", "{lost}: {run:?}");
            assert_eq!(world.cilmark_json("policy list red"), rules, "{lost}");
            assert_eq!(world.status("red")["stale"], false, "{lost}");
            world.sh(&format!("test -e {pins}/ingress -a -e {pins}/egress"));
        }
        world.cilmark_ok("detach --all");
        assert_eq!(world.pins(), [""; 0]);
        assert_eq!(world.sh("tc filter show dev red ingress"), "");
    });
}

#[test]
fn an_attachment_that_fails_leaves_what_an_endpoint_without_its_pins_has() {
    let Some(world) = World::with_tcx() else { return };
    world.veth("red");
    world.cilmark_ok("attach red --id 300 --policy enforce");
    world.cilmark_ok("policy add red allow egress to any udp/53");
    let rules = world.cilmark_json("policy list red");
    world.sh(&format!("rm {ENDPOINT}/ingress"));
    let too_large = "attach red --id 300 --policy enforce --ct-entries 77";
    world.cilmark(too_large).fails(1, &["cm_flows4 has 65539 entries"]);
    assert_eq!(world.cilmark_json("policy list red"), rules);
}

#[test]
fn rules_that_go_with_a_deleted_device_are_told() {
    let Some(world) = World::new() else { return };
    world.veth("red");
    world.cilmark_ok("attach red --id 300");
    world.cilmark_ok("policy add red allow egress to any udp/53");
    world.sh("ip link del red");
    world.veth("red");
    let run = world.cilmark("attach red --id 300");
    let told = "red: endpoint 1 of another device of this name is gone, and its rules (1) with it";
    assert!(run.stderr.contains(told), "{run:?}");
    assert_eq!(world.cilmark_json("policy list red"), json!([]));
}

#[test]
fn what_a_killed_attachment_left_is_in_every_namespace() {
    let Some(world) = World::new() else { return };
    world.veth("red");
    world.sh("ip netns add other");
    // As it is before the configuration is pinned.
    world.cilmark_ok("attach red --id 300 --policy audit --ct local");
    world.sh(&format!("rm {ENDPOINT}/config {ENDPOINT}/ingress {ENDPOINT}/egress"));
    world.sh(&format!("test -e {ENDPOINT}/cm_flows4"));
    assert_eq!(world.cilmark_json("--netns other status")[0]["stale"], true);
    world.cilmark_ok("--netns other detach --all");
    assert_eq!(world.pins(), [""; 0]);
}
