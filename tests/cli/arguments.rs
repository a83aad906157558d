//! Wrong arguments: each is refused in words, and has changed nothing.

use serde_json::{Value, json};

use super::help::assert_snapshot;
use crate::common::World;

/// What a session on a terminal would show, for the snapshot.
fn transcript(world: &World, commands: &[&str]) -> String {
    let mut text = String::new();
    for command in commands {
        let run = world.cilmark(command);
        assert_eq!(run.stdout, "", "{command}: an error is no data");
        let status = run.status.expect("no signal");
        text.push_str(&format!("$ cilmark {command}\n{}[{status}]\n\n", run.stderr));
    }
    text
}

#[test]
fn a_command_without_its_subcommand_is_answered_with_its_help() {
    let Some(world) = World::new() else { return };
    for command in ["", "ipcache", "identity", "policy", "conntrack", "mark"] {
        world.cilmark(command).fails(2, &["Usage: cilmark", "Commands:"]);
    }
}

#[test]
fn usage_errors_are_worded_and_have_status_2() {
    let Some(world) = World::new() else { return };
    let text = transcript(
        &world,
        &[
            "attac red",
            "attach",
            "attach red --id",
            "attach red --id -1",
            "attach red --id 0",
            "attach red --id unknown",
            "attach red --role container",
            "attach red --id 7 --identity 8",
            "attach red --id 7 --role host",
            "attach red --id 7 --hook xdp",
            "attach red --id 7 --endpoint-id 0",
            "attach red --id 7 --endpoint-id 65536",
            "attach red --id 7 --ip 10.0.0",
            "attach red --id 7 --ip 10.0.0.0/33",
            "attach red --id 7 --mac 02:00:00:00:00",
            "attach red --id 7 --mac 02:00:00:00:00:0g",
            "attach red --id 7 --mac 01:00:00:00:00:01",
            "attach red --id 7 --workload-mac all",
            "attach red --id 7 --workload-mac 33:33:00:00:00:01",
            "attach red --id 7 --workload-mac 00:00:00:00:00:00",
            "attach red --id 7 --trust-flow-label 10.0.0.0/8",
            "attach red --id 7 --trust-flow-label fd00::1/64",
            "attach red --id 7 --ipcache-entries 0",
            "attach red --id 7 --policy on",
            "attach red --id 7 --policy enforce --confirm 0",
            "attach red --id 7 --policy enforce --adopt soon",
            "attach red --id 7 --failsafe 22",
            "attach red --id 7 --failsafe in:tcp/22",
            "attach red --id 7 --policy-entries 31",
            "attach red blue --id 7",
            "attach red --keep --foreground",
            "detach",
            "detach red --all",
            "detach id:0",
            "detach id:x",
            "status red blue",
            "ipcache set 10.0.0.1",
            "ipcache get 10.0.0.0/8",
            "identity set 300",
            "mark decode 0x1ffffffff",
            "policy add red",
            "policy list",
            "policy flush red --confirm -1s",
            "confirm",
            "conntrack flush red blue",
            "conntrack list --address 10.1.2.3/8",
            "conntrack list --port http",
            "conntrack flush --state open",
            "metrics --json --prometheus",
            "--json metrics --prometheus",
            "status --bpffs relative",
            "monitor --type policy",
        ],
    );
    assert!(!text.contains("[1]") && !text.contains("[0]"), "{text}");
    assert_snapshot(text, "usage-errors.txt");
    assert_eq!(world.pins(), [""; 0]);
}

#[test]
fn what_only_the_host_can_refuse_is_worded_and_has_status_1() {
    let Some(world) = World::new() else { return };
    world.veth("red");
    world.veth("nic");
    world.sh("ip addr add 10.0.0.2/24 dev nic && ip route add default via 10.0.0.1");
    world.sh("ip tuntap add tun0 mode tun");
    let text = transcript(
        &world,
        &[
            "attach green --id 7",
            "attach red",
            "attach red --id db",
            "attach red --id 16777217",
            "attach red --id 4294967296",
            "attach red --id 1048576 --flow-label",
            "attach red --id 7 --ip 0.0.0.0",
            "attach red --id 7 --ip ff02::1",
            "attach red --id 7 --ip 10.0.0.1,10.0.0.2,10.0.0.3,10.0.0.4,10.0.0.5,10.0.0.6,10.0.0.7,10.0.0.8,10.0.0.9",
            "attach red --id 7 --stamp-remote",
            "attach red --id 7 --trust-flow-label fd00::/64",
            "attach nic --id 7 --arp-responder",
            "attach nic --id 7 --flow-label",
            "attach nic --id 7 --workload-mac any",
            "attach nic --id 7 --router",
            "attach nic --id 7 --trust-marks",
            "attach tun0 --role container --id 7 --ip 10.0.0.9 --workload-mac 02:00:00:00:00:01",
            "attach red --id 7 --local-delivery",
            "attach tun0 --local-delivery",
            "attach red --id 7 --netns nowhere",
            "attach nic --policy enforce",
            "attach red --id 7 --failsafe tcp/22",
            "attach nic --failsafe tcp/22",
            "attach red --id 7 --confirm 60s",
            "detach red",
            "status red",
            "status id:7",
            "policy add red allow ingress from any tcp/x",
            "policy list red",
            "policy list host",
            "confirm red",
            "conntrack list red",
            "ipcache set 10.0.0.300 7",
            "ipcache set 10.1.2.3/8 7",
            "ipcache set 10.0.0.1 db",
            "ipcache get 10.0.0.1",
            "ipcache del 10.0.0.1",
            "ipcache load /nowhere",
            "identity set 300 Db",
            "identity set 2 everybody",
            "identity del 300",
            "monitor",
            "mark encode 16777217",
        ],
    );
    assert!(!text.contains("[2]") && !text.contains("[0]"), "{text}");
    assert_snapshot(text, "refusals.txt");
    assert_eq!(world.pins(), [""; 0], "a refusal leaves nothing");
    for device in ["red", "nic"] {
        assert!(!world.sh(&format!("tc qdisc show dev {device}")).contains("clsact"));
    }
}

#[test]
fn the_largest_identities_that_fit_are_taken() {
    let Some(world) = World::new() else { return };
    world.veth("red");
    world.cilmark_ok("attach red --id 16777215");
    assert_eq!(world.status("red")["identity"], 16_777_215);
    world.cilmark_ok("attach red --id 1048575 --flow-label");
    assert_eq!(world.status("red")["identity"], 1_048_575);
    world.cilmark_ok("ipcache set 10.0.0.1 4294967295");
    assert_eq!(world.cilmark_json("ipcache get 10.0.0.1")[0]["identity"], 4_294_967_295_u32);
}

#[test]
fn a_taken_endpoint_id_is_refused_and_the_lowest_free_one_given() {
    let Some(world) = World::new() else { return };
    for device in ["red", "blue", "green"] {
        world.veth(device);
    }
    world.cilmark_ok("attach red --id 7 --endpoint-id 2");
    world
        .cilmark("attach blue --id 8 --endpoint-id 2")
        .fails(1, &["endpoint 2 is red", "cilmark detach id:2"]);
    world
        .cilmark("attach red --id 7 --endpoint-id 3")
        .fails(1, &["red is attached as endpoint 2", "cilmark detach red"]);
    world.cilmark_ok("attach red --id 9 --endpoint-id 2");
    world.cilmark_ok("attach blue --id 8");
    world.cilmark_ok("attach green --id 8");
    assert_eq!(world.status("red")["identity"], 9);
    assert_eq!(world.status("blue")["endpoint_id"], 1);
    assert_eq!(world.status("green")["endpoint_id"], 3);
}

#[test]
fn an_address_may_stand_with_the_length_of_its_network() {
    let Some(world) = World::new() else { return };
    world.veth("red");
    world.cilmark_ok("attach red --id 7 --ip 172.17.0.2/16,fd00::2/64 --ip 10.0.0.1/32");
    assert_eq!(world.status("red")["ips"], json!(["172.17.0.2", "10.0.0.1", "fd00::2"]));
    world.cilmark("attach red --id 7 --ip 10.0.0.1/33").fails(2, &["neither an IP address nor"]);
}

#[test]
fn another_endpoints_address_is_refused_with_nothing_changed() {
    let Some(world) = World::new() else { return };
    world.veth("red");
    world.veth("blue");
    world.cilmark_ok("attach red --id 7 --ip 10.0.0.1 fd00::1");
    world.cilmark_ok("attach blue --id 8 --ip 10.0.0.2");
    let before = state(&world);
    world
        .cilmark("attach blue --id 9 --ip 10.0.0.3 fd00::1")
        .fails(1, &["fd00::1 is already an address of endpoint 1", "cilmark detach id:1"]);
    assert_eq!(state(&world), before, "a replacement that failed");
    world.cilmark_ok("detach blue");
    let before = state(&world);
    world.cilmark("attach blue --id 9 --ip 10.0.0.3 fd00::1").fails(1, &["fd00::1"]);
    assert_eq!(state(&world), before, "an attachment that failed");
}

/// Pins, endpoints and ipcache, without what traffic changes.
fn state(world: &World) -> (Vec<String>, Value, Value) {
    let mut status = world.cilmark_json("status");
    for line in status.as_array_mut().expect("a list") {
        line["packets"].take();
    }
    (world.pins(), status, world.cilmark_json("ipcache list"))
}
