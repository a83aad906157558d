//! Whose endpoints are: `attach --owner`, `detach --owner`, `detach --stale`.

use serde_json::{Value, json};

use crate::common::World;
use crate::common::machine::by_each_hook;

/// The devices that are attached, by their names.
fn attached(world: &World) -> Vec<String> {
    let lines = world.cilmark_json("status");
    let name = |line: &Value| line["device"].as_str().unwrap().to_owned();
    lines.as_array().unwrap().iter().map(name).collect()
}

#[test]
fn status_shows_whose_an_endpoint_is_and_attach_says_when_that_changes() {
    let Some(world) = World::new() else { return };
    world.veth("red");
    world.cilmark_ok("attach red --id 300 --owner 4f1c");
    assert_eq!(world.status("red")["owner"], "4f1c");
    assert!(world.cilmark_ok("status red").contains("owner=4f1c"));
    let run = world.cilmark("attach red --id 300 --owner 77aa");
    assert!(run.stderr.contains("red: its owner was 4f1c and is 77aa now"), "{run:?}");
    world.cilmark_ok("attach red --keep --arp-responder");
    assert_eq!(world.status("red")["owner"], "77aa");
    let run = world.cilmark("attach red --id 300");
    assert!(run.stderr.contains("red: its owner was 77aa, and it has none now"), "{run:?}");
    assert_eq!(world.status("red")["owner"], json!(null));
}

#[test]
fn an_owner_is_short_text() {
    let Some(world) = World::new() else { return };
    world.veth("red");
    let [longest, longer] = [255, 256].map(|length| "x".repeat(length));
    world.cilmark(&format!("attach red --id 300 --owner {longer}")).fails(2, &["256 bytes", "255"]);
    let run = world.cilmark("attach red --id 300 --owner a\u{1}b");
    run.fails(2, &["control character"]);
    assert_eq!(world.pins(), [""; 0]);
    world.cilmark_ok(&format!("attach red --id 300 --owner {longest}"));
    assert_eq!(world.status("red")["owner"], longest.as_str());
}

#[test]
fn an_owner_is_detached_with_all_that_is_his_also_what_is_stale() {
    by_each_hook(|hook| {
        let Some(world) = World::new() else { return };
        for device in ["red", "blue", "green", "grey"] {
            world.veth(device);
        }
        for (device, owner) in
            [("red", "--owner a"), ("blue", "--owner b"), ("green", "--owner a"), ("grey", "")]
        {
            world.cilmark_ok(&format!("attach {device} --id 300 --hook {hook} {owner}"));
        }
        world.sh("ip link del green");
        world.cilmark("detach --owner c").fails(1, &["for the owner `c`", "cilmark status"]);
        assert_eq!(attached(&world).len(), 4);
        let run = world.cilmark("detach --owner a");
        assert_eq!(run.stderr, "detached red\ndetached green\n", "{run:?}");
        assert_eq!(attached(&world), ["blue", "grey"]);
        world.cilmark_ok("detach --owner b");
        world.cilmark_ok("detach grey");
        assert_eq!(world.pins(), [""; 0]);
        world.cilmark("detach --owner a").fails(1, &["nothing is attached"]);
    });
}

#[test]
fn what_is_stale_goes_at_once_and_what_runs_stays() {
    by_each_hook(|hook| {
        let Some(world) = World::new() else { return };
        assert!(world.cilmark("detach --stale").stderr.contains("nothing is attached"));
        for device in ["red", "blue", "green"] {
            world.veth(device);
            world.cilmark_ok(&format!("attach {device} --id 300 --hook {hook}"));
        }
        let run = world.cilmark("detach --stale");
        assert_eq!((run.status, run.stderr.as_str()), (Some(0), "nothing is stale\n"));
        world.sh("ip link del red; ip link del green");
        let run = world.cilmark("detach --stale");
        assert_eq!(run.stderr, "detached red\ndetached green\n", "{run:?}");
        assert_eq!(attached(&world), ["blue"]);
    });
}

#[test]
fn of_a_containers_id_the_digits_that_are_shown_are_enough() {
    let Some(world) = World::new() else { return };
    world.veth("red");
    let id = "0123456789abcdef".repeat(4);
    world.cilmark_ok(&format!("attach red --id 300 --owner {id}"));
    assert_eq!(world.status("red")["owner"], id);
    let table = world.cilmark_ok("status");
    assert!(table.contains("owner=0123456789ab") && !table.contains(&id), "{table}");
    world.cilmark("detach --owner 0123456789a").fails(1, &["0123456789a"]);
    world.cilmark_ok("detach --owner 0123456789ab");
    assert!(world.pins().is_empty());
}
