//! Commands at the same time, and commands that die half way.

use std::cell::RefCell;
use std::process::{Child, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::common::process::{cilmark, text};
use crate::common::traffic::{any, arrives, is_lost, udp};
use crate::common::{World, machine};

fn start(arguments: &str) -> Child {
    let arguments: Vec<&str> = arguments.split(' ').collect();
    let mut command = cilmark(&arguments);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    command.spawn().expect("run cilmark")
}

fn all_succeed(commands: Vec<Child>) {
    for command in commands {
        let output = command.wait_with_output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
}

#[test]
fn attachments_at_the_same_time_get_different_numbers() {
    let Some(world) = World::new() else { return };
    for n in 0..8 {
        world.veth(&format!("red{n}"));
    }
    let attach = |n: u32| start(&format!("attach red{n} --id 30{n} --ip 10.0.0.{n}"));
    all_succeed((1..8).map(attach).chain([attach(0)]).collect());
    let all = world.cilmark_json("status");
    let mut seen: Vec<(u64, u64)> = all
        .as_array()
        .unwrap()
        .iter()
        .map(|line| (line["endpoint_id"].as_u64().unwrap(), line["identity"].as_u64().unwrap()))
        .collect();
    assert_eq!(seen.iter().map(|(id, _)| *id).collect::<Vec<_>>(), (1..=8).collect::<Vec<_>>());
    seen.sort_by_key(|(_, identity)| *identity);
    assert_eq!(
        seen.iter().map(|(_, identity)| *identity).collect::<Vec<_>>(),
        (300..308).collect::<Vec<_>>()
    );
    assert_eq!(world.cilmark_json("ipcache list").as_array().unwrap().len(), 8);
    all_succeed((0..8).map(|n| start(&format!("detach red{n}"))).collect());
    assert_eq!(world.pins(), [""; 0]);
}

#[test]
fn attach_and_detach_of_one_device_at_the_same_time_do_not_interleave() {
    let Some(world) = World::new() else { return };
    world.veth("red");
    for _ in 0..5 {
        let attach = |id: u32| start(&format!("attach red --id {id} --ip 10.0.0.1"));
        let detach = |_| start("detach red");
        let commands: Vec<Child> = (300..304).map(attach).chain((0..4).map(detach)).collect();
        for command in commands {
            // A detachment may come too early; nobody may die or find things half done.
            let output = command.wait_with_output().unwrap();
            let said = String::from_utf8_lossy(&output.stderr);
            let early = said.contains("is not attached") || said.contains("nothing is attached");
            assert!(output.status.success() || early, "{said}");
        }
        let all = world.cilmark_json("status");
        match all.as_array().unwrap().len() {
            0 => assert_eq!(world.pins(), [""; 0]),
            _ => assert_eq!(
                (&all[0]["stale"], &all[0]["ips"]),
                (&json!(false), &json!(["10.0.0.1"]))
            ),
        }
        world.cilmark("detach red");
    }
}

/// Kills `attach` at moments spread over the time that it takes, each time on what the time before
/// has left, and repairs by `repair` what the last one has left.
fn survives_kills(hook: &str, repair: &[&str]) {
    let Some(world) = World::new() else { return };
    world.veth("red");
    let attach = format!("attach red --id 300 --ip 10.0.0.1 10.0.0.2 --hook {hook}");
    let start_time = Instant::now();
    world.cilmark_ok(&attach);
    world.cilmark_ok("detach red");
    let whole = start_time.elapsed();
    for moment in 0..12 {
        let mut child = start(&attach);
        let deadline = Instant::now() + whole * moment / 12;
        while Instant::now() < deadline {
            thread::yield_now();
        }
        let _ = child.kill();
        let _ = child.wait();
        // Every other time on top of a whole endpoint, so that replacing is killed too.
        if moment % 2 == 0 {
            continue;
        }
        for command in repair {
            let command = command.replace("{attach}", &attach);
            let run = world.cilmark(&command);
            let nothing = run.stderr.contains("attached") && command.starts_with("detach");
            assert!(run.status == Some(0) || nothing, "{moment}: {command}: {run:?}");
        }
        let filters = ["ingress", "egress"]
            .map(|direction| world.sh(&format!("tc filter show dev red {direction}")));
        assert_eq!(filters, ["", ""], "moment {moment}");
        assert_eq!(world.cilmark_json("status"), json!([]), "moment {moment}");
        assert_eq!(world.cilmark_json("ipcache list"), json!([]), "moment {moment}");
        // A kill before anything was attached may leave the empty maps.
        world.cilmark_ok(&attach);
        world.cilmark_ok("detach red");
        assert_eq!(world.pins(), [""; 0], "moment {moment}");
        if moment % 4 == 1 {
            world.cilmark_ok(&attach);
        }
    }
}

#[test]
fn an_attachment_by_tcx_that_was_killed_is_repeated_and_detached() {
    if machine::has_tcx() {
        survives_kills("tcx", &["{attach}", "detach red"]);
    }
}

#[test]
fn an_attachment_by_clsact_that_was_killed_is_repeated_and_detached() {
    survives_kills("clsact", &["{attach}", "detach red"]);
}

#[test]
fn what_a_killed_attachment_left_is_detached_by_its_number() {
    machine::by_each_hook(|hook| survives_kills(hook, &["detach id:1"]));
}

/// The kernel shows programs the new rules well before it returns to who changes them.
#[test]
fn a_change_of_rules_that_was_killed_lets_no_flow_pass_that_they_do_not_allow() {
    const RULE: &str = "blue allow ingress from any udp";
    let Some(world) = World::new() else { return };
    for (name, number) in [("red", 1), ("blue", 2)] {
        world.workload(name, number);
    }
    world.cilmark_ok("attach blue --id 300 --ip 10.2.0.10 --policy enforce");
    for round in 0..60 {
        world.cilmark_ok(&format!("policy add {RULE}"));
        let [red, blue] = ["red", "blue"].map(|name| udp(&world, name, any("10.2.0.10")));
        arrives(&red, &blue, "10.2.0.10");
        let mut change = start(&format!("policy del {RULE}"));
        thread::sleep(Duration::from_micros(500) * (round % 30));
        change.kill().expect("kill");
        change.wait().expect("wait");
        if !world.cilmark_ok("policy list blue").contains(RULE.split_once(' ').unwrap().1) {
            is_lost(&red, &blue, "10.2.0.10");
        }
    }
    // And whoever changes them next ends it: verdicts count again.
    world.cilmark_ok(&format!("policy add {RULE}"));
    let [red, blue] = ["red", "blue"].map(|name| udp(&world, name, any("10.2.0.10")));
    arrives(&red, &blue, "10.2.0.10");
    let flows = world.cilmark_json("conntrack list blue");
    let port = json!(red.local_addr().unwrap().port());
    let flow = flows.as_array().unwrap().iter().find(|flow| flow["remote_port"] == port);
    assert_eq!(flow.expect("the flow")["stale"], json!(false));
}

#[test]
fn a_load_that_was_killed_can_be_repeated() {
    let Some(world) = World::new() else { return };
    let lines: String =
        (0..50_000).map(|n| format!("10.{}.{}.{} 300\n", n >> 16, n >> 8 & 255, n & 255)).collect();
    std::fs::write("/run/netns/lines", lines).unwrap();
    for _ in 0..5 {
        let mut child = start("ipcache load /run/netns/lines");
        let _ = child.kill();
        let _ = child.wait();
    }
    world.cilmark_ok("ipcache load /run/netns/lines");
    assert_eq!(world.cilmark("ipcache flush").stderr, "removed 50000 entries\n");
}

#[test]
fn a_change_that_lacks_descriptors_or_memory_is_whole_or_leaves_everything() {
    let Some(world) = World::new() else { return };
    world.veth("red");
    let binary = env!("CARGO_BIN_EXE_cilmark");
    let attach = "attach red --id 300 --ip 10.0.0.1 --policy enforce";
    let descriptors = (3..100).step_by(3).map(|number| format!("--nofile={number}"));
    let memory = [8, 12, 16, 24, 32, 48, 64].map(|mebibytes| format!("--as={}", mebibytes << 20));
    let said = RefCell::new(String::new());
    for limit in descriptors.chain(memory) {
        let limited = |arguments: &str| {
            let run = world.try_sh(&format!("prlimit {limit} {binary} {arguments}"));
            said.borrow_mut().push_str(&text(&run.stderr));
            run.status.success()
        };
        if !limited(attach) {
            assert_eq!(world.pins(), [""; 0], "{limit}");
            world.cilmark_ok(attach);
        }
        world.cilmark_ok("policy add red allow egress to any udp/53");
        let state = || {
            let mut status = world.cilmark_json("status");
            status[0]["packets"].take();
            (status, world.cilmark_json("policy list red"), world.cilmark_json("ipcache list"))
        };
        let before = state();
        for change in ["policy del red allow egress to any udp/53", "detach red"] {
            if !limited(change) {
                assert_eq!(state(), before, "{limit}: {change}");
            } else if change.starts_with("policy") {
                world.cilmark_ok("policy add red allow egress to any udp/53");
            }
        }
        world.cilmark_ok("detach --all");
    }
    for words in ["`ulimit -n` allows fewer, nothing has", "`ulimit -v` allows less, nothing has"] {
        assert!(said.borrow().contains(words), "no `{words}` in {}", said.borrow());
    }
}
