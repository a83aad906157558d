//! Pins that somebody removed, or made of another map, while programs run on what they were.

use cilmark::kernel::sys::Hook;
use serde_json::{Value, json};

use crate::common::World;
use crate::common::third_party::ThirdParty;

const ROOT: &str = "/sys/fs/bpf/cilmark";

/// What an endpoint with a policy and local delivery shares with others.
const SHARED: [&str; 16] = [
    "cm_identities",
    "cm_ipcache",
    "cm_ipcache_cidr",
    "cm_ipcache_idx",
    "cm_endpoints",
    "cm_metrics",
    "cm_stats",
    "cm_events",
    "cm_generations",
    "cm_flows4",
    "cm_flows6",
    "cm_frags4",
    "cm_frags6",
    "cm_policy_call",
    "cm_path_flows",
    "cm_flow_table",
];

const EVERYTHING: &str = "--policy enforce --local-delivery";

fn map_id(world: &World, pin: &str) -> Option<u64> {
    let show = world.try_sh(&format!("bpftool -j map show pinned {ROOT}/{pin}"));
    let show: Value = serde_json::from_slice(&show.stdout).ok()?;
    show["id"].as_u64()
}

fn remove(world: &World, pins: &[&str]) {
    for pin in pins {
        world.sh(&format!("rm {ROOT}/{pin}"));
    }
}

/// Puts a map like the pinned one, but empty, in its place.
fn replace(world: &World, pin: &str) {
    let show = world.sh(&format!("bpftool -j map show pinned {ROOT}/{pin}"));
    let show: Value = serde_json::from_str(&show).unwrap();
    let number = |field: &str| show[field].as_u64().unwrap();
    world.sh(&format!(
        "rm {ROOT}/{pin}
         bpftool map create {ROOT}/{pin} type {} key {} value {} entries {} name {pin} flags {}",
        show["type"].as_str().unwrap(),
        number("bytes_key"),
        number("bytes_value"),
        number("max_entries"),
        number("flags"),
    ));
}

#[test]
fn a_pin_that_was_removed_is_made_again_of_the_map_that_programs_use() {
    let Some(world) = World::new() else { return };
    world.workload("red", 1);
    world.workload("blue", 2);
    world.cilmark_ok(&format!("attach red --id 300 --ip 10.1.0.10 {EVERYTHING}"));
    let before = SHARED.map(|pin| map_id(&world, pin));
    for (pin, id) in SHARED.iter().zip(before) {
        assert!(id.is_some(), "{pin}");
        world.sh(&format!("rm {ROOT}/{pin}"));
        let attach = format!("attach blue --id 301 --ip 10.2.0.10 {EVERYTHING}");
        let run = world.cilmark(&attach);
        assert_eq!(run.status, Some(0), "{run:?}");
        assert!(run.stderr.contains(&format!("{ROOT}/{pin} was gone")), "{run:?}");
        assert_eq!(map_id(&world, pin), id, "{pin}");
        world.cilmark_ok("detach blue");
    }
}

#[test]
fn every_command_that_writes_makes_pins_again_that_were_removed() {
    let Some(world) = World::new() else { return };
    world.veth("red");
    world.veth("blue");
    world.cilmark_ok("attach red --id 300 --policy enforce");
    world.cilmark_ok("attach blue --id 301");
    world.cilmark_ok("policy add red allow egress to any udp/53");
    for command in [
        "policy del red allow egress to any udp/53",
        "policy add red allow egress to any udp/53",
        "policy flush red",
        "ipcache set 10.0.0.0/8 7",
        "ipcache del 10.0.0.0/8",
        "ipcache flush",
        "identity set 300 db",
        "conntrack flush",
        "detach blue",
    ] {
        let pins = ["cm_generations", "cm_ipcache", "cm_ipcache_cidr", "cm_flows4"];
        let before = pins.map(|pin| map_id(&world, pin));
        remove(&world, &pins);
        world.cilmark_ok(command);
        assert_eq!(pins.map(|pin| map_id(&world, pin)), before, "{command}");
    }
}

#[test]
fn who_is_delivered_to_is_called_again_when_the_pin_of_the_calls_is_made_again() {
    let Some(world) = World::new() else { return };
    world.workload("red", 1);
    world.workload("blue", 2);
    world.cilmark_ok("attach red --id 300 --ip 10.1.0.10 --local-delivery");
    let calls = || world.sh(&format!("bpftool -j map dump pinned {ROOT}/cm_policy_call"));
    let before = calls();
    assert!(before.contains("value"), "{before}");
    world.sh(&format!("rm {ROOT}/cm_policy_call"));
    world.cilmark_ok("attach blue --id 301 --local-delivery");
    world.cilmark_ok("detach blue");
    assert_eq!(calls(), before);
}

#[test]
fn flows_of_an_endpoints_own_are_found_again_without_their_pins() {
    let Some(world) = World::new() else { return };
    world.veth("red");
    let attach = "attach red --id 300 --policy audit --ct local";
    world.cilmark_ok(attach);
    let pins = ["endpoints/1/cm_flows4", "endpoints/1/cm_flows6"];
    let before = pins.map(|pin| map_id(&world, pin));
    for command in ["conntrack flush red", attach] {
        remove(&world, &pins);
        world.cilmark_ok(command);
        assert_eq!(pins.map(|pin| map_id(&world, pin)), before, "{command}");
    }
}

#[test]
fn a_pin_of_another_map_is_refused_until_the_endpoints_are_attached_again() {
    let Some(world) = World::new() else { return };
    for device in ["red", "blue", "green"] {
        world.veth(device);
    }
    world.cilmark_ok("attach red --id 300 --policy enforce");
    world.cilmark_ok("attach blue --id 301 --policy enforce");
    world.cilmark_ok("policy add red allow egress to any udp/53");
    replace(&world, "cm_generations");
    let rules = world.cilmark_json("policy list red");
    let refusal = [
        "/cm_generations is another map than the one that the programs of red (endpoint 1), blue \
         (endpoint 2) use",
        "nothing has changed: attach each of these again",
    ];
    for command in [
        "policy del red allow egress to any udp/53",
        "policy flush blue",
        "ipcache set 10.0.0.0/8 7",
        "ipcache flush",
        "conntrack flush",
        "attach green --id 302",
    ] {
        world.cilmark(command).fails(1, &refusal);
    }
    assert_eq!(world.cilmark_json("policy list red"), rules);
    assert_eq!(world.cilmark_json("ipcache list"), json!([]));

    world.cilmark_ok("attach red --id 300 --policy enforce");
    world.cilmark_ok("policy del red allow egress to any udp/53");
    let rest = ["that the programs of blue (endpoint 2) use"];
    world.cilmark("ipcache set 10.0.0.0/8 7").fails(1, &rest);
    world.cilmark("detach red").fails(1, &rest);
    world.cilmark_ok("detach blue");
    world.cilmark_ok("ipcache set 10.0.0.0/8 7");
}

#[test]
fn everything_is_detached_whatever_the_pins_are() {
    let Some(world) = World::new() else { return };
    world.veth("red");
    world.veth("blue");
    world.cilmark_ok("attach red --id 300 --policy enforce");
    replace(&world, "cm_generations");
    world.cilmark_ok("attach red --id 300 --policy enforce");
    world.sh(&format!("rm {ROOT}/cm_generations"));
    world.cilmark_ok("attach blue --id 301 --policy enforce");
    replace(&world, "cm_generations");
    world.cilmark_ok("attach red --id 300 --policy enforce");
    world.sh(&format!("rm {ROOT}/cm_generations"));
    let refusal =
        ["cm_generations is gone, and the programs of endpoints 1 and 2 use different maps"];
    world.cilmark("ipcache set 10.0.0.1 7").fails(1, &refusal);
    world.cilmark_ok("detach --all");
    assert_eq!(world.pins(), [""; 0]);
}

/// Commands that write to what endpoints share, and commands that read it.
const WRITERS: [&str; 10] = [
    "attach red --id 301",
    "attach blue --id 302",
    "detach red",
    "policy add red allow egress to any udp/53",
    "policy flush red",
    "ipcache set 10.0.0.0/8 7",
    "ipcache flush",
    "identity set 300 db",
    "conntrack flush",
    "confirm red",
];
const READERS: [&str; 6] =
    ["status", "policy list red", "ipcache list", "identity list", "metrics", "conntrack list"];

#[test]
fn a_pin_of_a_newer_version_lets_commands_read_and_nothing_else() {
    let Some(world) = World::new() else { return };
    world.veth("red");
    world.veth("blue");
    world.cilmark_ok("attach red --id 300 --ip 10.0.0.1 --policy enforce");
    let make = |pin: &str| {
        let kind = "type array key 4 value 4 entries 1 name cm_newer";
        world.sh(&format!("bpftool map create {ROOT}/{pin} {kind}"));
    };
    make("cm_newer");
    make("theirs");
    READERS.iter().for_each(|command| _ = world.cilmark_ok(command));
    let state = || ["ipcache list", "identity list"].map(|command| world.cilmark_ok(command));
    let before = state();
    for command in WRITERS {
        let words = ["/cm_newer is nothing that this cilmark knows", "use that one"];
        world.cilmark(command).fails(1, &words);
    }
    assert_eq!(state(), before);
    world.sh(&format!("rm {ROOT}/cm_newer"));
    world.cilmark_ok("policy add red allow egress to any udp/53");

    make("endpoints/1/cm_newer");
    for command in ["policy flush red", "attach red --id 301"] {
        let words = ["/endpoints/1/cm_newer is nothing that this cilmark knows"];
        world.cilmark(command).fails(1, &words);
    }
    world.cilmark_ok("attach blue --id 302");
    make("cm_newer");
    world.cilmark_ok("detach --all");
    assert_eq!(world.pins(), ["cilmark", "cilmark/cm_newer", "cilmark/theirs"]);
}

/// Their maps have other layouts now, and other names; their programs see nothing of the counters that this one adds to.
#[test]
fn what_an_older_version_keeps_is_refused_until_all_is_detached() {
    let Some(world) = World::new() else { return };
    world.veth("red");
    world.veth("blue");
    world.cilmark_ok("attach red --id 300 --ip 10.0.0.1 --policy enforce");
    world.cilmark_ok("ipcache set 192.0.2.0/24 7");
    let older = ["cm_frag4", "cm_generation"];
    for pin in older {
        let kind = format!("type array key 4 value 4 entries 1 name {pin}");
        world.sh(&format!("bpftool map create {ROOT}/{pin} {kind}"));
        READERS.iter().for_each(|command| _ = world.cilmark_ok(command));
        for command in WRITERS {
            let refusal = format!("/{pin} is an older cilmark's");
            let words = [refusal.as_str(), "`cilmark detach --all` with it and then with this one"];
            world.cilmark(command).fails(1, &words);
        }
        world.cilmark_ok("detach --all");
        let pins = world.pins();
        assert!(pins.contains(&"cilmark/cm_ipcache".to_owned()), "it has a line: {pins:?}");
        for gone in [pin, "cm_flows4", "cm_flows6"] {
            assert!(!pins.contains(&format!("cilmark/{gone}")), "{pins:?}");
        }
        world.cilmark_ok("attach red --id 300 --ip 10.0.0.1 --policy enforce");
    }
    world.cilmark_ok("ipcache flush");
}

#[test]
fn a_program_that_lacks_a_map_of_this_version_sees_nothing_of_a_change() {
    let Some(world) = World::new() else { return };
    world.veth("red");
    world.veth("blue");
    world.cilmark_ok("attach red --id 300 --policy enforce");
    let pin = format!("{ROOT}/endpoints/1/egress");
    remove(&world, &["endpoints/1/egress"]);
    ThirdParty::behind("blue", Hook::Ingress).pin(&pin);
    for command in ["ipcache set 10.0.0.0/8 7", "conntrack flush", "attach blue --id 301"] {
        let words = ["another map than the one that the programs of red (endpoint 1) use"];
        world.cilmark(command).fails(1, &words);
    }
    world.cilmark_ok("detach --all");
    assert_eq!(world.pins(), [""; 0]);
}

#[test]
fn an_endpoint_of_another_version_is_not_replaced_or_cleaned_up() {
    let Some(world) = World::new() else { return };
    world.veth("red");
    world.cilmark_ok("attach red --id 300");
    let config = format!("{ROOT}/endpoints/1/config");
    world.sh(&format!(
        "rm {config}
         bpftool map create {config} type array key 4 value 900 entries 1 name x.rodata"
    ));
    let words = ["/endpoints/1/config is not as this cilmark writes it", "use that one"];
    world.cilmark("attach red --id 301").fails(1, &words);
    assert_eq!(world.status("red")["identity"], 300);
}

#[test]
fn a_map_of_somebody_else_under_our_name_is_refused_by_the_name_of_its_pin() {
    let Some(world) = World::new() else { return };
    world.veth("red");
    world.veth("blue");
    world.cilmark_ok("attach red --id 300 --policy enforce");
    // What only local delivery makes is not there.
    let pins = SHARED.iter().filter(|pin| !["cm_policy_call", "cm_path_flows"].contains(pin));
    for pin in pins {
        let before = map_id(&world, pin);
        world.sh(&format!(
            "rm {ROOT}/{pin}
             bpftool map create {ROOT}/{pin} type hash key 12 value 12 entries 1 name theirs"
        ));
        for command in WRITERS {
            world.cilmark(command).fails(1, &[&format!("{ROOT}/{pin} is a map of another layout")]);
        }
        world.sh(&format!("rm {ROOT}/{pin}"));
        world.cilmark_ok("ipcache flush");
        assert_eq!(map_id(&world, pin), before, "{pin}");
    }
    let program = world.program_id(&format!("{ROOT}/endpoints/1/ingress"));
    world.sh(&format!("rm {ROOT}/cm_events && bpftool prog pin id {program} {ROOT}/cm_events"));
    world.cilmark("ipcache flush").fails(1, &["/cm_events is no map"]);
    world.cilmark("monitor").fails(1, &["/cm_events"]);
}
