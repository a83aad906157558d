//! A NIC that is given to another network namespace takes its programs along, if they are on TCX.

use serde_json::json;

use crate::common::World;
use crate::common::traffic::{Connection, cannot_connect, listen};
use crate::common::world::wait_for;

const ENFORCE: &str = "--role netdev --policy enforce --adopt 0 --yes";

/// A NIC `red` that lets port 80 in, and the world behind it; then it is in the namespace `far`.
fn moved() -> Option<World> {
    let world = World::with_tcx()?;
    world.workload("red", 1);
    world.sh("ip netns add far");
    world.cilmark_ok(&format!("attach red {ENFORCE}"));
    world.cilmark_ok("policy add red allow ingress from any tcp/80 --yes");
    move_to_far(&world);
    Some(world)
}

fn move_to_far(world: &World) {
    world.sh("ip link set red netns far
         ip -n far addr add 10.1.0.1/24 dev red
         ip -n far link set red up");
    wait_for("the carrier", || world.sh("ip -n far -br link show dev red").contains(" UP "));
}

#[test]
fn it_filters_on_and_status_says_so_in_both_namespaces() {
    let Some(world) = moved() else { return };
    let servers = [listen(&world, "far", 80), listen(&world, "far", 81)];
    Connection::open(&world, "red", &servers[0], "10.1.0.1").works();
    cannot_connect(&world, "red", "10.1.0.1", 81);
    for narrowed in ["", "--netns far"] {
        let status = world.status(&format!("red {narrowed}"));
        assert_eq!((&status["stale"], &status["moved"]), (&json!(false), &json!(true)));
        let told = world.cilmark_ok(&format!("status {narrowed}"));
        assert!(told.contains("red (moved to another namespace, still filters)"), "{told}");
    }
    let told = world.cilmark_ok("explain red from --src 10.1.0.10 --dst 10.1.0.1 --dport 80");
    assert!(told.contains("forward") || told.contains("pass"), "{told}");
    world.cilmark_ok("policy add red allow ingress from any tcp/81 --yes");
    Connection::open(&world, "red", &servers[1], "10.1.0.1").works();
}

#[test]
fn it_is_detached_by_its_name_or_its_number_from_either_namespace() {
    for command in ["detach id:1", "detach red", "detach red --netns far", "detach --all"] {
        let test = std::thread::spawn(move || {
            let Some(world) = moved() else { return };
            world.cilmark_ok(command);
            assert_eq!(world.pins(), [""; 0]);
            let server = listen(&world, "far", 81);
            Connection::open(&world, "red", &server, "10.1.0.1").works();
        });
        test.join().unwrap_or_else(|_| panic!("after `{command}`"));
    }
}

#[test]
fn attached_in_its_new_place_it_has_new_programs_only_and_is_told_what_went() {
    let Some(world) = moved() else { return };
    let run = world.cilmark(&format!("attach red {ENFORCE} --netns far"));
    assert_eq!(run.status, Some(0), "{run:?}");
    for word in ["from another namespace", "endpoint 1, which is detached", "its rules (1)"] {
        assert!(run.stderr.contains(word), "{run:?}");
    }
    let all = world.cilmark_json("status");
    assert_eq!(all.as_array().unwrap().len(), 1, "{all}");
    assert_eq!((&all[0]["moved"], &all[0]["ips"]), (&json!(false), &json!(["10.1.0.1"])));
    world.cilmark_ok("policy add red allow ingress from any tcp/81 --yes --netns far");
    let servers = [listen(&world, "far", 80), listen(&world, "far", 81)];
    cannot_connect(&world, "red", "10.1.0.1", 80);
    Connection::open(&world, "red", &servers[1], "10.1.0.1").works();
    assert_eq!(world.cilmark_json("ipcache get 10.1.0.1")[0]["identity"], 1);
}

#[test]
fn another_device_that_gets_its_name_and_its_number_at_home_has_nothing_of_it() {
    let Some(world) = World::with_tcx() else { return };
    world.sh("ip netns add far; ip link add red index 500 type veth peer name red-peer");
    world.cilmark_ok(&format!("attach red {ENFORCE}"));
    world.cilmark_ok("policy add red allow ingress from any tcp/80 --yes");
    world.sh("ip link set red netns far; ip link add red index 500 type veth peer name peer");
    let run = world.cilmark(&format!("attach red {ENFORCE}"));
    assert!(run.stderr.contains("attached red: endpoint 2,"), "{run:?}");
    assert_eq!(world.cilmark_json("policy list id:2"), json!([]));
    assert_eq!(world.status("id:1")["moved"], true);
    assert_eq!(world.status("red --netns far")["endpoint_id"], 1);
}

#[test]
fn back_at_home_under_another_number_it_is_what_it_was() {
    let Some(world) = moved() else { return };
    world.sh("ip link add taken type dummy 2>/dev/null || ip link add taken type veth peer name t2
         ip -n far link set red netns $$ index 700");
    let status = world.status("red");
    assert_eq!((&status["moved"], &status["ifindex"]), (&json!(false), &json!(700)));
    let run = world.cilmark(&format!("attach red {ENFORCE}"));
    assert!(run.stderr.contains("replaced red: endpoint 1,"), "{run:?}");
    assert_eq!(world.cilmark_json("policy list red").as_array().unwrap().len(), 1);
}
