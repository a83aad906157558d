//! `attach --foreground`, and `monitor`.

use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::common::World;
use crate::common::world::wait_for;

/// A packet that claims to come from 10.1.0.99.
fn spoof(world: &World) {
    world.sh("ip -n red addr replace 10.1.0.99/32 dev eth0");
    world.try_sh("ip netns exec red ping -qc 1 -W 0.1 -I 10.1.0.99 10.1.0.1");
}

fn is_drop(line: &str) -> bool {
    line.contains("\"type\":\"drop\"")
}

#[test]
fn foreground_streams_drops_and_detaches_on_either_signal() {
    for signal in [Signal::SIGINT, Signal::SIGTERM] {
        let claim = move || {
            let Some(world) = World::new() else { return };
            world.workload("red", 1);
            let mut running =
                world.start("attach red --id 300 --ip 10.1.0.10 fd00:1::10 --foreground --json");
            running.stderr_line(|line| line.starts_with("attached red"));
            let program = world.program_id("/sys/fs/bpf/cilmark/endpoints/1/ingress");
            spoof(&world);
            let line = running.stdout_line(is_drop);
            let line: Value = serde_json::from_str(&line).unwrap();
            assert_eq!(line["reason"], json!({"code": 132, "name": "Invalid source ip"}));
            running.signal(signal);
            running.stderr_line(|line| line == "detached red");
            assert_eq!(running.wait().code(), Some(0));
            assert_eq!(world.pins(), [""; 0]);
            world.program_goes(program);
        };
        std::thread::spawn(claim).join().unwrap_or_else(|_| panic!("by {signal}"));
    }
}

#[test]
fn foreground_that_finds_its_endpoint_gone_ends_all_the_same() {
    let Some(world) = World::new() else { return };
    world.workload("red", 1);
    let mut running = world.start("attach red --id 300 --foreground");
    running.stderr_line(|line| line.starts_with("attached red"));
    world.sh("ip link del red");
    running.signal(Signal::SIGINT);
    assert_eq!(running.wait().code(), Some(0));
    assert_eq!(world.pins(), [""; 0]);
}

#[test]
fn monitor_prints_each_drop_with_exactly_these_fields() {
    let Some(world) = World::new() else { return };
    world.workload("red", 1);
    world.cilmark_ok("attach red --id 300 --ip 10.1.0.10 fd00:1::10 --endpoint-id 9");
    let monitor = world.start("monitor --json");
    spoof(&world);
    let line = monitor.stdout_line(is_drop);
    let mut line: Value = serde_json::from_str(&line).unwrap();
    assert!(line["time"].take().as_str().unwrap().ends_with('Z'));
    let ifindex: u32 = world.sh("cat /sys/class/net/red/ifindex").trim().parse().unwrap();
    // What a spoofer sends first is the question for the gateway's MAC.
    let arp = line["protocol"] == "arp";
    line["length"].take();
    assert_eq!(
        line,
        json!({
            "time": null, "type": "drop", "program": "from_container", "device": "red", "endpoint_id": 9,
            "ifindex": ifindex, "reason": {"code": 132, "name": "Invalid source ip"},
            "rule": null, "audited": false,
            "source": "10.1.0.99", "destination": "10.1.0.1",
            "protocol": if arp { "arp" } else { "icmp/8" }, "sport": 0, "dport": 0,
            "source_identity": 300, "destination_identity": 0, "mark_in": "0x00000000",
            "mark_out": "0x00000000", "length": null, "lost": 0, "claimed": null,
            "hint": "if 10.1.0.99 is the workload's, attach it again with that behind --ip, beside \
                     10.1.0.10 fd00:1::10",
        })
    );
}

#[test]
fn monitor_prints_what_passes_only_if_it_is_asked_to() {
    let Some(world) = World::new() else { return };
    world.workload("red", 1);
    world.cilmark_ok("attach red --id 300 --ip 10.1.0.10 fd00:1::10");
    world.cilmark_ok("identity set 300 db");
    let ping = || world.sh("ip netns exec red ping -qc 1 -W 20 10.1.0.1");
    {
        let monitor = world.start("monitor --type trace,drop");
        wait_for("tracing to be on", || {
            ping();
            monitor.next_line(std::time::Duration::from_millis(50)).is_some()
        });
        ping();
        let line = monitor.stdout_line(|line| line.contains("from_container: pass icmp/8"));
        assert!(line.contains("10.1.0.10 [300 (db)] -> 10.1.0.1"), "{line}");
        assert!(line.contains("mark 0x00000000 -> 0x012c0f00"), "{line}");
    }
    let monitor = world.start("monitor --json");
    ping();
    spoof(&world);
    let first = monitor.stdout_line(|line| !line.contains("\"type\":\"trace\""));
    assert!(is_drop(&first), "{first}");
}

#[test]
fn events_have_one_reader_at_a_time() {
    let Some(world) = World::new() else { return };
    world.workload("red", 1);
    let running = world.start("attach red --id 300 --ip 10.1.0.10 --foreground");
    running.stderr_line(|line| line.starts_with("attached red"));
    spoof(&world);
    running.stdout_line(|line| line.contains("drop"));
    let refused = world.cilmark("monitor");
    assert!(!refused.stderr.contains("EAGAIN"), "{refused:?}");
    refused.fails(1, &["one reader at a time", "attach --foreground"]);
    assert_eq!(world.status("red")["stale"], false, "other commands are not kept out");
}

#[test]
fn monitor_ends_on_a_signal_with_status_0_and_when_nobody_reads() {
    let Some(world) = World::new() else { return };
    world.workload("red", 1);
    world.cilmark_ok("attach red --id 300 --ip 10.1.0.10");
    let mut monitor = world.start("monitor --json");
    spoof(&world);
    monitor.stdout_line(is_drop);
    monitor.signal(Signal::SIGINT);
    assert_eq!(monitor.wait().code(), Some(0));
    spoof(&world);
    spoof(&world);
    let binary = env!("CARGO_BIN_EXE_cilmark");
    let seen =
        world.sh(&format!("bash -c '{binary} monitor --json | head -n 1; exit $PIPESTATUS'"));
    assert!(is_drop(&seen), "{seen}");
}

#[test]
fn foreground_beside_a_reader_of_events_is_refused_and_changes_nothing() {
    let Some(world) = World::new() else { return };
    world.workload("red", 1);
    world.cilmark_ok("attach red --id 300 --ip 10.1.0.10");
    let monitor = world.start("monitor");
    spoof(&world);
    monitor.stdout_line(|line| line.contains("drop"));
    world.cilmark("attach red --id 301 --foreground").fails(1, &["one reader at a time"]);
    let status = world.status("red");
    assert_eq!((&status["identity"], &status["stale"]), (&json!(300), &json!(false)));
}

#[test]
fn foreground_leaves_alone_who_has_got_its_number() {
    let Some(world) = World::new() else { return };
    world.veth("red");
    world.veth("blue");
    let mut running = world.start("attach red --id 300 --foreground");
    running.stderr_line(|line| line.starts_with("attached red"));
    world.cilmark_ok("attach blue --id 301");
    world.cilmark_ok("detach red");
    world.cilmark_ok("detach blue");
    world.cilmark_ok("attach blue --id 301");
    assert_eq!(world.status("blue")["endpoint_id"], 1);
    running.signal(Signal::SIGINT);
    running.stderr_line(|line| line == "detached red by another command");
    running.wait();
    assert_eq!(world.status("blue")["stale"], false);
}

#[test]
fn monitor_ends_when_everything_is_detached() {
    let Some(world) = World::new() else { return };
    world.workload("red", 1);
    world.cilmark_ok("attach red --id 300 --ip 10.1.0.10");
    let mut monitor = world.start("monitor");
    spoof(&world);
    monitor.stdout_line(|line| line.contains("drop"));
    world.cilmark_ok("detach red");
    world.cilmark_ok("attach red --id 300 --ip 10.1.0.10");
    monitor.stderr_line(|line| line.contains("no more events"));
    assert_eq!(monitor.wait().code(), Some(1));
}

#[test]
fn what_was_lost_is_told_though_no_event_comes_after_it() {
    let Some(world) = World::new() else { return };
    world.workload("red", 1);
    world.cilmark_ok("attach red --id 300 --ip 10.1.0.10");
    world.sh("ip -n red addr replace 10.1.0.99/32 dev eth0
         ip -n red neigh replace 10.1.0.1 lladdr 02:00:00:00:00:01 dev eth0
         ip netns exec red ping -qf -c 3000 -l 3000 -W 0.1 -I 10.1.0.99 10.1.0.1 || :");
    let mut monitor = world.start("monitor --json");
    let is_lost = |line: &str| line.contains("\"type\":\"lost\"");
    let line: Value = serde_json::from_str(&monitor.stdout_line(is_lost)).unwrap();
    assert_eq!((&line["device"], &line["endpoint_id"]), (&json!("red"), &json!(1)));
    let metrics = world.cilmark_json("metrics");
    let lost = metrics.as_array().unwrap().iter().find(|line| line["reason"] == 64);
    assert_eq!(line["lost"], lost.expect("lost events")["packets"]);
    monitor.stderr_line(|text| text == format!("red: {} events were lost", line["lost"]));
    monitor.signal(Signal::SIGINT);
    monitor.wait();
}
