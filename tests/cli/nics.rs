//! NICs with a policy: each has a slot of its root, under which the others' programs find its rules, modes and
//! failsafe ports.

use std::process::Stdio;
use std::thread;
use std::time::Instant;

use cilmark::kernel::abi::{cm_fallback, cm_nic};
use cilmark::model::endpoint::Selector;
use cilmark::state::nics::{self, Nics};
use cilmark::state::registry::{Endpoint, Found};
use serde_json::{Value, json};

use crate::common::World;
use crate::common::process::cilmark;

const SLOTS: u8 = 16;

fn endpoint(world: &World, device: &str) -> Endpoint {
    let selector = [Selector::Device(device.to_owned())];
    let mut found = Found::named(&world.root(), &selector).expect("read the endpoints");
    let id = found.select(&selector[0]).expect("the endpoint").id;
    found.endpoints.retain(|endpoint| endpoint.id == id);
    found.endpoints.remove(0)
}

fn slot(world: &World, device: &str) -> Option<u8> {
    endpoint(world, device).config.nic_slot()
}

/// What other NICs know of the one in a slot.
fn known(world: &World, slot: u8) -> cm_nic {
    let nics = Nics::open(&world.root()).expect("open").expect("the maps");
    nics.get(slot).expect("read")
}

/// As text, since nothing compares the structs of C: all but the clock.
fn text(nic: &cm_nic) -> String {
    format!("{:?}", cm_nic { confirm: Default::default(), ..*nic })
}

/// Of a slot that nobody has its last device is known, and nothing else.
fn is_free(nic: &cm_nic) -> bool {
    text(&cm_nic { ifindex: 0, netns: 0, ..*nic }) == text(&cm_nic::default())
}

fn rules(world: &World, device: &str) -> Value {
    let list = world.cilmark_json(&format!("policy list {device}"));
    list.as_array().unwrap().iter().map(|line| line["rule"].clone()).collect()
}

#[test]
fn sixteen_nics_of_a_root_have_a_policy_and_the_next_one_is_told_whose_they_are() {
    let Some(world) = World::new() else { return };
    let nics = || (0..=SLOTS).map(|number| format!("nic{number}"));
    nics().for_each(|nic| world.veth(&nic));
    for (place, nic) in nics().take(SLOTS.into()).enumerate() {
        world.cilmark_ok(&format!("attach {nic} --role netdev --policy audit"));
        assert_eq!(slot(&world, &nic), Some(place as u8));
    }
    let names: Vec<String> = nics().take(SLOTS.into()).collect();
    let before = world.pins();
    let policed = "attach nic16 --role netdev --policy audit";
    let said = [&format!(
        "nic16 can't have a policy: 16 NICs of one root may, and {} have",
        names.join(", ")
    )];
    let hints =
        ["`cilmark detach`", "`attach --policy off`", "another --bpffs", "nothing has changed"];
    world.cilmark(policed).fails(1, &said.map(|it| it.as_str()));
    world.cilmark(policed).fails(1, &hints);
    assert_eq!(world.pins(), before);
    world.cilmark_ok("attach nic16 --role netdev");
    world.cilmark(policed).fails(1, &hints);
    assert_eq!(world.status("nic16")["ingress_policy"], "off", "it goes on without");
    world.cilmark_ok("attach nic3 --role netdev --yes");
    world.cilmark_ok(policed);
    assert_eq!(slot(&world, "nic16"), Some(3), "who gives his policy up makes room");
    world.cilmark_ok("detach nic0");
    world.cilmark_ok("attach nic3 --role netdev --policy audit");
    assert_eq!(slot(&world, "nic3"), Some(0));
    world.cilmark_ok("attach nic0 --role netdev --bpffs /sys/fs/bpf/other --policy audit");
}

#[test]
fn a_nic_keeps_its_slot_as_long_as_it_has_a_policy() {
    let Some(world) = World::new() else { return };
    for nic in ["red", "blue", "green"] {
        world.veth(nic);
        world.cilmark_ok(&format!("attach {nic} --role netdev --ingress-policy audit"));
    }
    world.cilmark_ok("detach red");
    world.cilmark_ok("attach blue --role netdev --egress-policy enforce --yes");
    assert_eq!(slot(&world, "blue"), Some(1));
    world.cilmark_ok("attach blue --role netdev --yes");
    assert_eq!(slot(&world, "blue"), None);
    world.cilmark_ok("attach blue --role netdev --policy audit");
    assert_eq!(slot(&world, "blue"), Some(1), "where it was");
    world.cilmark_ok("attach red --id 300 --policy enforce");
    assert_eq!(slot(&world, "red"), None, "a workload needs none");
}

#[test]
fn what_others_know_of_a_nic_is_what_its_programs_do() {
    let Some(world) = World::new() else { return };
    ["red", "blue"].iter().for_each(|nic| world.veth(nic));
    world.cilmark_ok("attach blue --role netdev --policy audit");
    for policy in [
        "--policy enforce --yes",
        "--policy enforce --failsafe tcp/2222,egress:udp/53 --yes",
        "--ingress-policy audit --failsafe none --yes",
        "--egress-policy enforce --confirm 60s --hook clsact",
    ] {
        world.cilmark_ok(&format!("attach red --role netdev {policy}"));
        let (red, blue) = (endpoint(&world, "red").config, endpoint(&world, "blue").config);
        assert_eq!(text(&known(&world, 1)), text(&nics::nic(&red)), "{policy}");
        assert_eq!(text(&known(&world, 0)), text(&nics::nic(&blue)), "{policy}");
    }
    world.cilmark_ok("attach red --role netdev --yes");
    assert!(is_free(&known(&world, 1)));
    world.cilmark_ok("attach red --role netdev --policy audit");
    assert_eq!(known(&world, 1).endpoint_id, 2);
    world.cilmark_ok("detach red");
    assert!(is_free(&known(&world, 1)));
}

#[test]
fn its_clock_is_where_others_look() {
    let Some(world) = World::new() else { return };
    ["red", "blue"].iter().for_each(|nic| world.veth(nic));
    world.cilmark_ok("attach blue --id 300");
    let pending = || known(&world, 0).confirm.fallback;
    let nic = "attach red --role netdev --policy enforce";
    world.cilmark_ok(&format!("{nic} --confirm 60s"));
    assert_eq!(pending(), cm_fallback::CM_FALLBACK_AUDIT);
    world.cilmark_ok("confirm red");
    assert_eq!(pending(), cm_fallback::CM_FALLBACK_NONE);
    world.cilmark_ok("policy add red allow ingress from 300 --confirm 60s");
    assert_eq!(pending(), cm_fallback::CM_FALLBACK_RULES);
    world.cilmark_ok(&format!("{nic} --yes"));
    assert_eq!(pending(), cm_fallback::CM_FALLBACK_NONE);
    world.cilmark_ok(&format!("{nic} --confirm 60s"));
    world.cilmark_ok("detach red");
    assert_eq!(pending(), cm_fallback::CM_FALLBACK_NONE);
}

#[test]
fn rules_go_along_with_an_endpoint_whatever_it_becomes() {
    let Some(world) = World::new() else { return };
    world.veth("red");
    world.veth("blue");
    let rule = "allow ingress from 300 tcp/80";
    world.cilmark_ok("attach blue --role netdev --policy audit");
    world.cilmark_ok("policy add blue allow egress to any");
    world.cilmark_ok("attach red --role netdev");
    world.cilmark_ok(&format!("policy add red {rule}"));
    for becomes in [
        "--role netdev --policy audit",
        "--role netdev --policy enforce --yes",
        "--role netdev --yes",
        "--role netdev --policy enforce --yes",
        "--role container --id 300 --policy enforce --yes",
        "--role netdev --policy enforce --yes",
        "--role container --id 300 --yes",
    ] {
        world.cilmark_ok(&format!("attach red {becomes}"));
        assert_eq!(rules(&world, "red"), json!([rule]), "{becomes}");
        assert_eq!(rules(&world, "blue"), json!(["allow egress to any"]), "{becomes}");
    }
}

#[test]
fn the_next_nic_of_a_slot_finds_nothing_of_the_one_before() {
    let Some(world) = World::new() else { return };
    ["red", "blue", "green"].iter().for_each(|nic| world.veth(nic));
    let attach = |nic: &str| {
        world.cilmark_ok(&format!("attach {nic} --role netdev --policy enforce --confirm 60s"));
        world.cilmark_ok("confirm host");
        assert_eq!(slot(&world, nic), Some(0));
        assert_eq!(rules(&world, nic), json!([]));
        world.cilmark_ok(&format!("policy add {nic} allow ingress from 300 --confirm 60s"));
        world.cilmark_ok(&format!("policy add {nic} allow ingress from 301 --confirm 60s"));
    };
    attach("red");
    world.cilmark_ok("detach red");
    attach("blue");
    // As in an emergency.
    world.sh("rm -r /sys/fs/bpf/cilmark/endpoints/1");
    attach("green");
    assert_eq!(world.status("green")["endpoint_id"], 1);
}

#[test]
fn an_attachment_that_fails_leaves_what_others_know() {
    let Some(world) = World::new() else { return };
    ["red", "blue", "green"].iter().for_each(|nic| world.veth(nic));
    world.cilmark_ok("attach green --id 300 --ip 10.0.0.9");
    world.cilmark_ok("attach red --role netdev --policy enforce --confirm 60s");
    let before = known(&world, 0);
    let taken = "--role netdev --policy audit --failsafe none --ip 10.0.0.9 --yes";
    for nic in ["red", "blue"] {
        world.cilmark(&format!("attach {nic} {taken}")).fails(1, &["10.0.0.9"]);
    }
    assert_eq!(format!("{:?}", known(&world, 0)), format!("{before:?}"));
    assert!(is_free(&known(&world, 1)));
    world.cilmark_ok("confirm red");
}

#[test]
fn an_attachment_that_was_killed_gives_no_two_nics_one_slot() {
    let Some(world) = World::new() else { return };
    ["red", "blue", "green"].iter().for_each(|nic| world.veth(nic));
    let rule = "allow ingress from 300";
    world.cilmark_ok("attach green --role netdev --policy audit");
    world.cilmark_ok(&format!("policy add green {rule}"));
    let modes = ["--policy audit", "", "--policy enforce"];
    let attach = |mode: &str| format!("attach red --role netdev --yes {mode}");
    let start = Instant::now();
    world.cilmark_ok(&attach(modes[0]));
    let whole = start.elapsed();
    world.cilmark_ok(&format!("policy add red {rule}"));
    for moment in 0..12 {
        let arguments = attach(modes[moment as usize % modes.len()]);
        let mut command = cilmark(&arguments.split_whitespace().collect::<Vec<_>>());
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let mut child = command.spawn().expect("run cilmark");
        let deadline = Instant::now() + whole * moment / 12;
        while Instant::now() < deadline {
            thread::yield_now();
        }
        let _ = child.kill();
        let _ = child.wait();
        world.cilmark_ok("attach blue --role netdev --policy audit");
        let used: Vec<u8> =
            ["red", "blue", "green"].iter().filter_map(|nic| slot(&world, nic)).collect();
        let mut different = used.clone();
        different.sort_unstable();
        different.dedup();
        assert_eq!(different.len(), used.len(), "moment {moment}: {used:?}");
        for nic in ["red", "green"] {
            assert_eq!(rules(&world, nic), json!([rule]), "moment {moment}");
        }
        world.cilmark_ok(&arguments);
        for nic in ["red", "blue", "green"] {
            let config = endpoint(&world, nic).config;
            if let Some(slot) = config.nic_slot() {
                assert_eq!(
                    text(&known(&world, slot)),
                    text(&nics::nic(&config)),
                    "moment {moment}"
                );
            }
        }
        let claimed = (0..SLOTS).filter(|slot| known(&world, *slot).endpoint_id != 0).count();
        assert_eq!(claimed, 2 + usize::from(slot(&world, "red").is_some()), "moment {moment}");
        world.cilmark_ok("detach blue");
    }
}

#[test]
fn pins_that_were_removed_are_made_again_of_the_maps_that_programs_use() {
    let Some(world) = World::new() else { return };
    ["red", "blue"].iter().for_each(|nic| world.veth(nic));
    world.cilmark_ok("attach red --role netdev --policy audit");
    world.cilmark_ok("policy add red allow ingress from 300");
    let id = |pin: &str| world.sh(&format!("bpftool -j map show pinned {pin} | jq .id"));
    let pins = ["cm_nics", "cm_nic_policies"].map(|name| format!("/sys/fs/bpf/cilmark/{name}"));
    let before = pins.each_ref().map(|pin| id(pin));
    for removed in [&pins[..1], &pins[1..], &pins[..]] {
        removed.iter().for_each(|pin| _ = world.sh(&format!("rm {pin}")));
        let run = world.cilmark("attach blue --role netdev --policy audit");
        assert_eq!(run.status, Some(0), "{run:?}");
        for pin in removed {
            assert!(run.stderr.contains(&format!("{pin} was gone")), "{run:?}");
        }
        assert_eq!(pins.each_ref().map(|pin| id(pin)), before);
        assert_eq!((slot(&world, "red"), slot(&world, "blue")), (Some(0), Some(1)));
        assert_eq!(rules(&world, "red"), json!(["allow ingress from 300"]));
        world.cilmark_ok("detach blue");
    }
    world.sh(&format!("rm {} {}", pins[0], pins[1]));
    world.cilmark_ok("policy add red allow ingress from 301");
    assert_eq!(pins.each_ref().map(|pin| id(pin)), before, "so does a change of rules");
}

#[test]
fn bpftool_shows_what_is_known_of_nics_with_field_names() {
    let Some(world) = World::new() else { return };
    world.veth("red");
    world.cilmark_ok("attach red --role netdev --policy audit");
    let shown = world.sh("bpftool map dump pinned /sys/fs/bpf/cilmark/cm_nics");
    for field in ["endpoint_id\": 1", "failsafe_count", "CM_POLICY_AUDIT"] {
        assert!(shown.contains(field), "no {field} in {shown}");
    }
}
