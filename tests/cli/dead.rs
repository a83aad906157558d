//! A dead endpoint takes no change: whoever is told that a rule was added believes that it counts.

use serde_json::{Value, json};

use crate::common::World;
use crate::common::machine::by_each_hook;

/// What would change something, or tell what becomes of packets.
const COMMANDS: [&str; 5] = [
    "policy add DEV deny ingress from any",
    "policy del DEV allow egress to any udp/53",
    "policy flush DEV",
    "confirm DEV",
    "explain DEV from --src 10.0.0.1 --dst 10.0.0.2",
];

/// A workload `red` with a policy.
fn red(hook: &str) -> Option<World> {
    let world = World::new()?;
    world.veth("red");
    world.cilmark_ok(&format!("attach red --id 300 --ip 10.0.0.1 --policy enforce --hook {hook}"));
    world.cilmark_ok("policy add red allow egress to any udp/53 allow egress to any tcp/443");
    Some(world)
}

fn is_refused(world: &World, why: &str) {
    let rules = |device: &str| -> Value { world.cilmark_json(&format!("policy list {device}")) };
    let before = rules("id:1");
    assert_eq!(before.as_array().unwrap().len(), 2);
    for device in ["red", "id:1"] {
        for command in COMMANDS {
            let run = world.cilmark(&command.replace("DEV", device));
            run.fails(
                1,
                &[
                    "endpoint 1 (red) is stale",
                    why,
                    "`cilmark attach red`",
                    "`cilmark detach id:1`",
                ],
            );
        }
        let run = world.cilmark(&format!("policy list {device}"));
        assert!(run.stderr.contains("these rules count nowhere: endpoint 1 (red)"), "{run:?}");
        assert_eq!(rules(device), before);
    }
}

#[test]
fn an_endpoint_whose_device_is_gone_is_refused_also_when_there_is_another_of_its_name() {
    by_each_hook(|hook| {
        let Some(world) = red(hook) else { return };
        world.sh("ip link del red");
        is_refused(&world, "its device is gone");
        world.veth("red");
        is_refused(&world, "one that gets its name again is another one");
        world.cilmark_ok("attach red --id 300 --policy enforce");
        world.cilmark_ok("policy add red deny ingress from any");
    });
}

#[test]
fn a_device_with_the_name_and_the_number_of_one_that_is_gone_is_another_one() {
    by_each_hook(|hook| {
        let Some(world) = World::new() else { return };
        let make = || world.sh("ip link add red index 500 type veth peer name red-peer");
        make();
        world.cilmark_ok(&format!("attach red --id 300 --hook {hook}"));
        world.cilmark_ok("policy add red allow egress to any udp/53");
        world.sh("ip link del red");
        make();
        let run = world.cilmark(&format!("attach red --id 301 --hook {hook}"));
        assert_eq!(run.status, Some(0), "{run:?}");
        assert_eq!(world.status("red")["stale"], false);
        assert_eq!(world.status("red")["identity"], 301);
    });
}

#[test]
fn an_endpoint_without_one_of_its_programs_is_refused_until_it_is_attached_again() {
    let Some(world) = red("clsact") else { return };
    world.sh("tc filter del dev red egress");
    is_refused(&world, "not all of its programs are on the device's hooks");
    world.cilmark_ok("attach red --id 300 --ip 10.0.0.1 --policy enforce --hook clsact");
    world.cilmark_ok("policy add red deny ingress from any");
    assert_eq!(world.cilmark_json("policy list red").as_array().unwrap().len(), 3);
}

#[test]
fn host_means_no_dead_nic() {
    let Some(world) = World::new() else { return };
    for device in ["red", "blue"] {
        world.veth(device);
        world.cilmark_ok(&format!("attach {device} --role netdev --policy audit"));
    }
    world.sh("ip link del red");
    world.cilmark_ok("policy add host allow ingress from any tcp/80");
    assert_eq!(world.cilmark_json("policy list id:1"), json!([]));
    assert_eq!(world.cilmark_json("policy list blue").as_array().unwrap().len(), 1);
}
