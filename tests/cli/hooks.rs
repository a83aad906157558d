//! Others on the same hooks: they run, and attach, replace and detach leave them alone.

use cilmark::kernel::sys::Hook;

use serde_json::json;

use crate::common::World;
use crate::common::machine::{by_each_hook, hooks};
use crate::common::third_party::ThirdParty;

const MARK: u32 = 0x012c_0f00;

/// Sends from the workload to its gateway.
fn ping(world: &World) {
    world.sh("ip netns exec red ping -qc 1 -W 20 10.1.0.1");
}

#[test]
fn a_third_party_program_on_tcx_runs_through_attach_replace_and_detach() {
    let Some(world) = World::with_tcx() else { return };
    world.workload("red", 1);
    let third_party = ThirdParty::on_tcx("red", Hook::Ingress);
    let mut seen = 0;
    for command in
        ["attach red --id 300", "attach red --id 301", "attach red --id 300 --first", "detach red"]
    {
        world.cilmark_ok(command);
        ping(&world);
        let now: u64 = third_party.marks().iter().map(|(_, packets)| packets).sum();
        assert!(now > seen, "unreached after `{command}`");
        seen = now;
    }
}

#[test]
fn a_third_party_program_on_clsact_runs_through_attach_replace_and_detach_and_keeps_its_qdisc() {
    by_each_hook(|kind| {
        let Some(world) = World::new() else { return };
        world.workload("red", 1);
        let third_party = ThirdParty::on_clsact("red", Hook::Ingress, 100);
        let filters = || world.sh("tc filter show dev red ingress | grep third_party");
        let before = filters();
        let mut seen = 0;
        for command in [
            "attach red --id 300",
            "attach red --id 301",
            "attach red --id 300 --first",
            "attach red --id 300",
        ] {
            world.cilmark_ok(&format!("{command} --hook {kind}"));
            ping(&world);
            let now: u64 = third_party.marks().iter().map(|(_, packets)| packets).sum();
            assert!(now > seen, "unreached after `{command}`");
            seen = now;
            assert_eq!(filters(), before);
        }
        world.cilmark_ok("detach red");
        ping(&world);
        assert_eq!(filters(), before);
        assert_eq!(world.sh("tc filter show dev red egress"), "");
    });
}

#[test]
fn the_default_is_behind_what_is_there_and_first_is_before_it() {
    by_each_hook(|kind| {
        let Some(world) = World::new() else { return };
        world.workload("red", 1);
        let third_party = match kind {
            "tcx" => ThirdParty::on_tcx("red", Hook::Ingress),
            _ => ThirdParty::on_clsact("red", Hook::Ingress, 100),
        };
        world.cilmark_ok(&format!("attach red --id 300 --hook {kind}"));
        ping(&world);
        assert_eq!(third_party.packets(MARK), 0, "the third-party program comes first");
        world.cilmark_ok("detach red");
        world.cilmark_ok(&format!("attach red --id 300 --hook {kind} --first"));
        ping(&world);
        assert!(third_party.packets(MARK) > 0, "the third-party program comes second");
    });
}

#[test]
fn first_moves_what_is_attached_behind_others_before_them() {
    by_each_hook(|kind| {
        let Some(world) = World::new() else { return };
        world.workload("red", 1);
        let strangers = [Hook::Ingress, Hook::Egress].map(|hook| match kind {
            "tcx" => ThirdParty::on_tcx("red", hook),
            _ => ThirdParty::on_clsact("red", hook, 100),
        });
        let attach = format!("attach red --id 300 --hook {kind}");
        world.cilmark_ok(&attach);
        ping(&world);
        assert_eq!(strangers[0].packets(MARK), 0);
        let run = world.cilmark(&format!("{attach} --first"));
        assert!(run.stderr.starts_with("replaced red: endpoint 1,"), "{run:?}");
        assert!(!run.stderr.contains("before cilmark"), "{run:?}");
        ping(&world);
        assert!(strangers[0].packets(MARK) > 0);
        assert_eq!(world.status("red")["programs_before"], json!([]));
        let pin = "/sys/fs/bpf/cilmark/endpoints/1/ingress";
        let link = || world.sh(&format!("bpftool -j link show pinned {pin} 2>/dev/null | jq .id"));
        let before = link();
        world.cilmark_ok(&format!("{attach} --first"));
        assert_eq!(link(), before, "what is the first stays where it is");
        // Without the flag, TCX programs stay in their place.
        world.cilmark_ok(&attach);
        assert_eq!(world.status("red")["programs_before"] == json!([]), kind == "tcx");
    });
}

#[test]
fn programs_that_run_before_ours_are_named() {
    by_each_hook(|kind| {
        let Some(world) = World::new() else { return };
        world.veth("red");
        let _third_party = match kind {
            "tcx" => ThirdParty::on_tcx("red", Hook::Ingress),
            _ => ThirdParty::on_clsact("red", Hook::Ingress, 100),
        };
        let told = "red: third_party runs before cilmark on ingress: cilmark does not see packets that it drops, \
                    accepts or redirects; `attach --first` goes before it";
        let run = world.cilmark(&format!("attach red --id 300 --hook {kind}"));
        assert!(run.stderr.contains(told), "{run:?}");
        let run = world.cilmark("status red");
        assert!(run.stderr.contains(told), "{run:?}");
        let before = world.status("red")["programs_before"].take();
        assert_eq!(before.as_array().unwrap().len(), 1, "{before}");
        for (key, value) in [("hook", "ingress"), ("kind", kind), ("name", "third_party")] {
            assert_eq!(before[0][key], value, "{before}");
        }
        let number = before[0]["program_id"].as_u64().unwrap();
        assert!(world.sh(&format!("bpftool prog show id {number}")).contains("name third_party"));
    });
}

#[test]
fn filters_of_any_kind_and_tcx_programs_run_before_a_filter_of_ours() {
    let Some(world) = World::new() else { return };
    world.veth("red");
    world.sh("tc qdisc add dev red clsact
         tc filter add dev red ingress pref 10 bpf da bytecode '1,6 0 0 0'
         tc filter add dev red ingress pref 60000 bpf da bytecode '1,6 0 0 0'
         tc filter add dev red ingress pref 5 chain 7 bpf da bytecode '1,6 0 0 0'");
    let of_other_kind = "tc filter add dev red ingress pref 20 matchall action ok";
    let other_kind = world.try_sh(of_other_kind).status.success();
    let _behind = ThirdParty::on_clsact("red", Hook::Egress, 50_001);
    let names = || -> Vec<String> {
        let before = world.status("red")["programs_before"].take();
        let lines = before.as_array().unwrap().iter();
        lines.map(|it| format!("{} {}", it["kind"], it["name"]).replace('"', "")).collect()
    };
    world.cilmark_ok("attach red --id 300 --hook clsact");
    let before = ["clsact bpf", "clsact matchall"];
    assert_eq!(names(), before[..1 + usize::from(other_kind)]);
    world.cilmark_ok("attach red --id 300 --hook clsact --first");
    assert_eq!(names(), [""; 0]);
    if !hooks().contains(&"tcx") {
        return;
    }
    let _third_party = ThirdParty::on_tcx("red", Hook::Egress);
    assert_eq!(names(), ["tcx third_party"]);
    let run = world.cilmark("attach red --id 300 --hook clsact --first");
    assert!(run.stderr.contains("`attach --hook tcx --first` goes before it"), "{run:?}");
    world.cilmark_ok("attach red --id 300 --hook tcx --first");
    assert_eq!(names(), [""; 0], "filters come after TCX");
}

#[test]
fn a_third_party_program_in_our_very_place_is_not_replaced() {
    let Some(world) = World::new() else { return };
    world.workload("red", 1);
    // Another cilmark's: the same handle and priority, and yet not this root's.
    world.cilmark_ok("attach red --id 300 --hook clsact --bpffs /sys/fs/bpf/other");
    let before = world.sh("tc filter show dev red ingress; tc filter show dev red egress");
    world
        .cilmark("attach red --id 301 --hook clsact")
        .fails(1, &["attach red: ", "belongs to somebody else", "--first", "tc filter del"]);
    assert_eq!(world.sh("tc filter show dev red ingress; tc filter show dev red egress"), before);
    assert!(!world.pins().iter().any(|pin| pin.starts_with("cilmark")));
}

#[test]
fn a_foreign_clsact_qdisc_is_kept() {
    let Some(world) = World::new() else { return };
    world.veth("red");
    world.sh("tc qdisc add dev red clsact");
    let before = world.sh("tc qdisc show dev red");
    for hook in hooks() {
        world.cilmark_ok(&format!("attach red --id 300 --hook {hook}"));
        world.cilmark_ok("detach red");
        assert_eq!(world.sh("tc qdisc show dev red"), before);
    }
}

#[test]
fn an_ingress_qdisc_in_the_way_of_clsact_is_an_error_that_leaves_nothing() {
    let Some(world) = World::new() else { return };
    world.veth("red");
    world.sh("tc qdisc add dev red ingress");
    let before = world.sh("tc qdisc show dev red");
    let run = world.cilmark("attach red --id 300 --hook clsact");
    run.fails(1, &["`ingress`", "clsact"]);
    assert_eq!(world.sh("tc qdisc show dev red"), before);
    assert_eq!(world.sh("tc filter show dev red ingress"), "");
    assert_eq!(world.pins(), [""; 0]);
}

#[test]
fn an_ingress_qdisc_in_the_way_of_changing_to_clsact_leaves_what_runs() {
    let Some(world) = World::with_tcx() else { return };
    world.veth("red");
    world.sh("tc qdisc add dev red ingress");
    world.cilmark_ok("attach red --id 300 --hook tcx");
    world.cilmark("attach red --id 301 --hook clsact").fails(1, &["`ingress`"]);
    let status = world.status("red");
    assert_eq!(status["hook"], "tcx", "what ran goes on running");
    assert_eq!((&status["identity"], &status["stale"]), (&300.into(), &false.into()));
}

#[test]
fn an_attachment_that_fails_leaves_the_operators_lines_as_they_were() {
    let Some(world) = World::new() else { return };
    world.veth("red");
    world.sh("tc qdisc add dev red ingress");
    world.cilmark_ok("ipcache set 10.0.0.1 500");
    fails_and_leaves_the_line(&world);
    world.cilmark_ok("ipcache del 10.0.0.1");
    assert_eq!(world.pins(), [""; 0]);
}

#[test]
fn a_replacement_that_fails_leaves_the_operators_lines_as_they_were() {
    let Some(world) = World::with_tcx() else { return };
    world.veth("red");
    world.sh("tc qdisc add dev red ingress");
    world.cilmark_ok("ipcache set 10.0.0.1 500");
    world.cilmark_ok("attach red --id 500 --ip 10.0.0.1 --hook tcx");
    fails_and_leaves_the_line(&world);
    world.cilmark_ok("detach red");
    world.cilmark_ok("ipcache del 10.0.0.1");
    assert_eq!(world.pins(), [""; 0]);
}

/// A clsact filter finds the qdisc `ingress` in its way.
fn fails_and_leaves_the_line(world: &World) {
    world.cilmark("attach red --id 300 --ip 10.0.0.1 --hook clsact").fails(1, &["`ingress`"]);
    let line = json!([{"prefix": "10.0.0.1", "identity": 500, "name": null}]);
    assert_eq!(world.cilmark_json("ipcache list"), line);
}

#[test]
fn two_roots_on_one_device_do_not_know_each_other() {
    let Some(world) = World::new() else { return };
    world.workload("red", 1);
    // Of filters one has to give way; with TCX both come in turn.
    let first = if hooks().contains(&"tcx") { "" } else { "--first" };
    world.cilmark_ok(&format!("attach red --id 300 --bpffs /sys/fs/bpf/a {first}"));
    world.cilmark_ok("attach red --id 301 --bpffs /sys/fs/bpf/b");
    let third_party = ThirdParty::behind("red", Hook::Ingress);
    ping(&world);
    assert!(third_party.packets(0x012d_0f00) > 0, "the later one decides");
    world.cilmark_ok("detach red --bpffs /sys/fs/bpf/b");
    ping(&world);
    assert!(third_party.packets(MARK) > 0, "{:x?}", third_party.marks());
    assert_eq!(world.pins().iter().filter(|pin| pin.starts_with("b/")).count(), 0);
}
