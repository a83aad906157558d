//! DEL: takes off what ADD has put on, whatever else is left, and as often as it is asked.

use serde_json::{Value, json};

use super::{Ask, attached, config, config_in, is_error, with_red};
use crate::common::World;
use crate::common::steps::Steps;

fn added() -> Option<World> {
    let world = with_red()?;
    Ask::new("ADD").succeeds(&config(json!({"id": 300})));
    Some(world)
}

/// Runs DEL twice: it succeeds, prints nothing, and nothing of `red` is left.
fn ends(world: &World, ask: &Ask, config: &Value) {
    for _ in 0..2 {
        assert_eq!(ask.succeeds(config), None);
        assert_eq!(world.pins(), [""; 0]);
    }
}

#[test]
fn it_ends_what_add_began_and_again_is_no_error() {
    let Some(world) = added() else { return };
    ends(&world, &Ask::new("DEL"), &config(json!({"id": 300})));
}

#[test]
fn it_takes_no_namespace_and_no_result() {
    let config = json!({"cniVersion": "1.0.0", "name": "net", "type": "cilmark-cni"});
    for netns in [None, Some(""), Some("/run/netns/gone")] {
        let Some(world) = added() else { return };
        let ask = netns.map_or(Ask::new("DEL").without("CNI_NETNS"), |at| {
            Ask::new("DEL").with("CNI_NETNS", at)
        });
        ends(&world, &ask, &config);
    }
}

#[test]
fn it_works_when_device_and_namespace_are_gone() {
    for gone in
        ["ip link del red", "ip netns del red && while [ -e /sys/class/net/red ]; do :; done"]
    {
        let Some(world) = added() else { return };
        world.sh(gone);
        ends(&world, &Ask::new("DEL"), &config(json!({"id": 300})));
    }
}

#[test]
fn it_works_after_a_reboot_where_nothing_was_ever_pinned() {
    let Some(world) = with_red() else { return };
    ends(&world, &Ask::new("DEL"), &config(json!({"id": 300})));
    let Some(_world) = World::without_bpffs() else { return };
    let places =
        ["/nowhere/at/all", "/run/netns", "/run/netns/cilmark"].map(|at| json!({"bpffs": at}));
    for keys in [json!({"id": 300})].into_iter().chain(places) {
        let run = Ask::new("DEL").run(&config(keys));
        assert_eq!((run.status, run.stdout.as_str()), (Some(0), ""), "{run:?}");
        assert!(run.stderr.contains("not on a BPF file system"), "{run:?}");
    }
}

#[test]
fn a_mistake_in_the_configuration_keeps_it_from_nothing_and_is_told() {
    for (keys, word) in [
        (json!({"rulez": []}), "`rulez`"),
        (json!({"id": {}}), "`id`"),
        (json!({"cniVersion": "0.2.0"}), "0.2.0"),
        (json!({"name": "-"}), "`name`"),
        (json!({"bpffs": "relative"}), "`bpffs`"),
        (json!({"prevResult": "x"}), "`prevResult`"),
    ] {
        let Some(world) = added() else { return };
        let run = Ask::new("DEL").run(&config(keys));
        assert_eq!((run.status, run.stdout.as_str()), (Some(0), ""), "{run:?}");
        assert!(run.stderr.contains(word), "{run:?}");
        assert_eq!(world.pins(), [""; 0]);
    }
    // What can't be read at all may have named another place, and so it is an error, too.
    let Some(world) = added() else { return };
    is_error(&Ask::new("DEL").run_text("{"), 6, &["configuration"]);
    assert_eq!(world.pins(), [""; 0]);
}

#[test]
fn it_ends_this_attachment_and_no_other() {
    let Some(world) = added() else { return };
    world.workload("blue", 2);
    world.workload("green", 3);
    Ask::of("ADD", "blue").succeeds(&config_in("1.0.0", 2, json!({"id": 301})));
    world.cilmark_ok("attach green --id 302 --owner c1");
    for (container, ifname) in [("c2", "eth0"), ("c", "eth0"), ("c1", "net1")] {
        let ask = Ask::new("DEL").with("CNI_CONTAINERID", container).with("CNI_IFNAME", ifname);
        ask.succeeds(&config(json!({"id": 300})));
        assert_eq!(attached(&world), ["red", "blue", "green"]);
    }
    Ask::new("DEL").succeeds(&config(json!({"id": 300})));
    assert_eq!(attached(&world), ["blue", "green"], "what a command has attached stays");
}

#[test]
fn the_configuration_says_where_the_pins_lie() {
    let Some(world) = with_red() else { return };
    let config = config(json!({"id": 300, "bpffs": "/sys/fs/bpf/other"}));
    Ask::new("ADD").succeeds(&config);
    assert_eq!(attached(&world), [""; 0]);
    assert!(world.pins().contains(&"other/endpoints/1/ingress".to_owned()));
    Ask::new("CHECK").succeeds(&config);
    ends(&world, &Ask::new("DEL"), &config);
}

#[test]
fn whatever_was_killed_half_way_it_ends() {
    let Some(world) = with_red() else { return };
    let config = config(json!({"id": 300, "policy": "enforce", "rules": ["allow egress to any"]}));
    std::fs::write("/run/netns/stdin", config.to_string()).expect("write the configuration");
    let killed_after = |command: &str, changes: usize| -> bool {
        let mut steps = Steps::shell(&format!(
            "env CNI_COMMAND={command} CNI_CONTAINERID=c1 CNI_IFNAME=eth0 CNI_NETNS=/run/netns/red {} cni </run/netns/stdin",
            env!("CARGO_BIN_EXE_cilmark")
        ));
        let is_half_way = (0..changes).all(|_| steps.go_on());
        steps.kill();
        is_half_way
    };
    for (command, every) in [("ADD", 5), ("DEL", 1)] {
        let mut changes = 1;
        loop {
            if command == "DEL" {
                Ask::new("ADD").succeeds(&config);
            }
            let goes_on = killed_after(command, changes);
            assert_eq!(Ask::new("DEL").succeeds(&config), None);
            // An empty directory is nobody's, and the next ADD finds it made.
            let mut left = world.pins();
            left.retain(|pin| pin != "cilmark");
            assert_eq!(left, [""; 0], "{command} was killed after {changes} changes");
            changes += every;
            if !goes_on {
                break;
            }
        }
        assert!(changes > 10, "{command} has no more than {changes} changes");
    }
}
