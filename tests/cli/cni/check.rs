//! CHECK: a workload has what ADD would give it now, and the addresses of the result.

use serde_json::{Value, json};

use super::{Ask, config, oci, with_red};
use crate::common::World;
use crate::common::machine::by_each_hook;

fn usual() -> Value {
    config(json!({
        "id": 300,
        "rules": ["allow egress to any udp/53", "allow ingress from 301 tcp/80"],
        "policy": {"ingress": "enforce", "egress": "audit"},
        "options": {"shared_ip": ["10.9.0.0/24"]},
    }))
}

fn added() -> Option<World> {
    let world = with_red()?;
    Ask::new("ADD").succeeds(&usual());
    Ask::new("CHECK").succeeds(&usual());
    Some(world)
}

/// After this it fails with these words.
fn is_noticed(change: &str, words: &[&str]) {
    let Some(world) = added() else { return };
    match change.strip_prefix("cilmark ") {
        Some(arguments) => _ = world.cilmark_ok(arguments),
        None => _ = world.sh(change),
    }
    Ask::new("CHECK").fails(&usual(), 101, &[&["eth0 of container c1"], words].concat());
}

#[test]
fn what_is_as_add_has_left_it_passes_and_nothing_is_printed_or_changed() {
    let Some(world) = added() else { return };
    let before = (world.pins(), world.cilmark_json("status red --spec"));
    for _ in 0..2 {
        assert_eq!(Ask::new("CHECK").succeeds(&usual()), None);
    }
    assert_eq!((world.pins(), world.cilmark_json("status red --spec")), before);
}

#[test]
fn an_endpoint_that_is_gone_or_somebody_elses_is_noticed() {
    is_noticed("cilmark detach red", &["red", "no endpoint"]);
    is_noticed("cilmark attach red --id 300", &["red", "no endpoint of a hook"]);
    is_noticed("rm -r /sys/fs/bpf/cilmark", &["red", "no endpoint"]);
    let Some(_world) = added() else { return };
    Ask::new("CHECK").with("CNI_CONTAINERID", "c2").fails(&usual(), 101, &["is c1's, not c2's"]);
}

#[test]
fn a_program_that_is_missing_is_noticed() {
    by_each_hook(|hook| {
        let Some(world) = with_red() else { return };
        let mut config = usual();
        config["options"]["hook"] = json!(hook);
        Ask::new("ADD").succeeds(&config);
        Ask::new("CHECK").succeeds(&config);
        world.sh(match hook {
            "tcx" => "rm /sys/fs/bpf/cilmark/endpoints/1/egress",
            _ => "tc filter del dev red egress",
        });
        Ask::new("CHECK").fails(&config, 101, &["red", "lacks one of its two programs"]);
    });
}

#[test]
fn rules_and_modes_that_differ_are_noticed() {
    is_noticed(
        "cilmark policy del red allow egress to any udp/53",
        &["rules of endpoint 1", "missing: `allow"],
    );
    let Some(world) = added() else { return };
    world.cilmark_ok("policy add red allow ingress from any");
    let run = Ask::new("CHECK").run(&usual());
    assert!(run.stdout.contains("there and not wanted: `allow ingress from any`"), "{run:?}");
}

#[test]
fn what_is_said_otherwise_now_is_noticed() {
    let Some(_world) = added() else { return };
    for (key, value, words) in [
        ("id", json!(301), &["has identity 300", "301"][..]),
        ("policy", json!("enforce"), &["modes", "audit", "enforce"]),
        (
            "rules",
            json!(["allow egress to any udp/53"]),
            &["there and not wanted: `allow ingress from 301 tcp/80`"],
        ),
        ("options", json!({}), &["addresses", "10.9.0.0/24"]),
        ("id", json!("nobody"), &["nobody"]),
    ] {
        let mut config = usual();
        config[key] = value;
        Ask::new("CHECK").fails(&config, 101, words);
    }
}

#[test]
fn an_address_of_the_result_that_is_gone_is_noticed_and_so_is_the_device() {
    is_noticed("ip -n red addr del 10.1.0.10/24 dev eth0", &["10.1.0.10"]);
    is_noticed(
        "ip -n red addr add 10.1.0.11/24 dev eth0",
        &["addresses of endpoint 1", "missing: `10.1.0.11/32`"],
    );
    is_noticed("ip -n red link set eth0 name eth1", &["no device `eth0`"]);
    is_noticed("ip -n red link del eth0", &["no network device"]);
}

#[test]
fn what_a_later_plugin_does_to_routes_is_its_own() {
    let Some(world) = added() else { return };
    world.sh("ip -n red route replace default via 10.1.0.7
              ip -n red link set eth0 mtu 1400");
    Ask::new("CHECK").succeeds(&usual());
}

#[test]
fn the_parameters_are_those_of_add() {
    let Some(_world) = added() else { return };
    for name in ["CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME"] {
        Ask::new("CHECK").without(name).fails(&usual(), 4, &[&format!("{name} is missing")]);
    }
    let said = Ask::new("CHECK").with("CNI_ARGS", "cilmark.id=301");
    said.fails(&usual(), 101, &["has identity 300", "301"]);
}

#[test]
fn a_container_of_a_pod_takes_nothing_from_it_and_outlives_its_end() {
    let Some(world) = added() else { return };
    for annotations in [json!({}), json!({"cilmark.id": "300"})] {
        oci(&world, "createRuntime", "c2", "red", &annotations);
        Ask::new("CHECK").succeeds(&usual());
    }
    Ask::new("DEL").succeeds(&usual());
    assert_eq!(
        (&world.status("red")["identity"], &world.status("red")["owner"]),
        (&json!(300), &json!("c2"))
    );
    oci(&world, "poststop", "c2", "red", &json!({}));
    assert_eq!(world.pins(), [""; 0]);
}

#[test]
fn what_a_container_of_a_pod_names_counts_for_one_that_has_its_identity_by_default() {
    let Some(world) = with_red() else { return };
    std::fs::write("/run/netns/cilmark.toml", "version = 1\n[births]\ndefault = 305\n")
        .expect("write the file");
    let config = config(json!({"file": "/run/netns/cilmark.toml"}));
    Ask::new("ADD").succeeds(&config);
    Ask::new("CHECK").succeeds(&config);
    oci(
        &world,
        "createRuntime",
        "c2",
        "red",
        &json!({"cilmark.id": "300", "cilmark.rules": "allow egress to any"}),
    );
    assert_eq!(world.status("red")["identity"], 300);
    Ask::new("CHECK").succeeds(&config);
    world.cilmark_ok("detach red");
    Ask::new("CHECK").fails(&config, 101, &["no endpoint"]);
}
