//! Containers that share a network: `--network container:X`, and pods.

use std::fs;

use serde_json::{Value, json};

use super::{Container, FILES, id, world};

#[test]
fn they_have_one_identity_and_it_goes_with_the_last() {
    let Some(world) = world() else { return };
    world.workload("red", 1);
    let [first, second, third] =
        ["c1", "c2", "c3"].map(|name| Container::new(name, "red").with(id(300)));
    first.created();
    second.created();
    third.created();
    let status = world.status("red");
    assert_eq!(
        (&status["owner"], &status["birth"]["sharers"]),
        (&json!("c1"), &json!(["c2", "c3"]))
    );
    first.stopped();
    let status = world.status("red");
    assert_eq!((&status["owner"], &status["identity"]), (&json!("c2"), &json!(300)));
    assert_eq!(status["birth"]["sharers"], json!(["c3"]), "{status}");
    third.stopped();
    assert_eq!(world.status("red")["owner"], "c2");
    second.stopped();
    assert_eq!(world.pins(), [""; 0]);
}

#[test]
fn another_identity_is_refused_and_the_first_stays() {
    let Some(world) = world() else { return };
    world.workload("red", 1);
    let first = Container::new("c1", "red").with(id(300));
    first.created();
    let second = Container::new("c2", "red").with(id(301));
    second.create("").fails(1, &["c2", "c1", "300", "301", "one identity", "detach --owner c1"]);
    assert_eq!(world.status("red")["identity"], 300);
    second.stopped();
    assert_eq!(world.status("red")["identity"], 300);
    first.stopped();
    assert_eq!(world.pins(), [""; 0]);
}

/// A pod's containers end at any time, and those that say nothing run on with what the others have said.
#[test]
fn whoever_names_no_identity_has_that_of_the_others() {
    let Some(world) = world() else { return };
    world.workload("red", 1);
    let [first, silent] = [Container::new("c1", "red").with(id(300)), Container::new("c2", "red")];
    first.created();
    silent.created();
    silent.created();
    assert_eq!(world.status("red")["birth"]["sharers"], json!(["c2"]));
    first.stopped();
    let status = world.status("red");
    assert_eq!((&status["owner"], &status["identity"]), (&json!("c2"), &json!(300)), "{status}");
    Container::new("c3", "red").with(id(301)).create("").fails(1, &["c2", "one identity"]);
    first.created();
    silent.stopped();
    assert_eq!(world.status("red")["owner"], "c1");
    first.stopped();
    assert_eq!(world.pins(), [""; 0]);
}

/// The first container of a pod names nothing: it only keeps the network.
#[test]
fn whoever_names_an_identity_is_before_whoever_has_it_by_default() {
    let Some(world) = world() else { return };
    world.workload("red", 1);
    let file = format!("{FILES}/cilmark.toml");
    fs::write(&file, "version = 1\n[births]\ndefault = 310\n").unwrap();
    let [pod, app, other] = [
        Container::new("c1", "red"),
        Container::new("c2", "red")
            .with(json!({"cilmark.id": "300", "cilmark.rules": "allow egress to any"})),
        Container::new("c3", "red"),
    ];
    let create = |container: &Container, identity: u32| {
        let run = container.create(&format!("--file {file}"));
        assert_eq!(run.status, Some(0), "{run:?}");
        assert_eq!(world.status("red")["identity"], identity);
    };
    create(&pod, 310);
    // What runs there gives itself an address; it stays another's.
    world.sh("ip -n red addr add 10.9.9.9/32 dev eth0");
    create(&app, 300);
    assert_eq!(world.status("red")["ips"], json!(["10.1.0.10", "fd00:1::10"]));
    create(&app, 300);
    create(&other, 300);
    let status = world.status("red");
    let birth = &status["birth"];
    assert_eq!(
        (&status["owner"], &birth["sharers"]),
        (&json!("c1"), &json!(["c2", "c3"])),
        "{status}"
    );
    assert_eq!(
        (&birth["id_from"], &birth["rules_from"]),
        (&json!("annotation"), &json!("annotation"))
    );
    for (container, owner) in [(&pod, "c2"), (&app, "c3")] {
        container.stopped();
        let status = world.status("red");
        assert_eq!(
            (&status["owner"], &status["identity"]),
            (&json!(owner), &json!(300)),
            "{status}"
        );
    }
    other.stopped();
    assert_eq!(world.pins(), [""; 0]);
}

/// Else who joins would run without rules, though it has said them.
#[test]
fn rules_and_modes_are_those_of_the_first_that_says_any() {
    let Some(world) = world() else { return };
    world.workload("red", 1);
    let [first, second, third] = [
        ("c1", json!({"cilmark.id": "300"})),
        ("c2", json!({"cilmark.id": "300", "cilmark.rules": "allow egress to any"})),
        ("c3", json!({"cilmark.id": "300"})),
    ]
    .map(|(name, said)| Container::new(name, "red").with(said));
    let create = |container: &Container, modes: [&str; 2], rules_from: Value| {
        container.created();
        let status = world.status("red");
        let has = [&status["ingress_policy"], &status["egress_policy"]];
        assert_eq!(has, modes, "{status}");
        assert_eq!(status["birth"]["rules_from"], rules_from, "{status}");
    };
    create(&first, ["off", "off"], json!(null));
    for _ in 0..2 {
        create(&second, ["off", "enforce"], json!("annotation"));
        assert!(world.cilmark_ok("policy list red").contains("allow egress to any"));
    }
    create(&third, ["off", "enforce"], json!("annotation"));
    assert_eq!(world.status("red")["birth"]["sharers"], json!(["c2", "c3"]));
    assert_eq!(world.status("red")["owner"], "c1");
    [first, second, third].iter().for_each(Container::stopped);
    assert_eq!(world.pins(), [""; 0]);
}

/// A VPN in one container, which the others use by `--network container:vpn`.
#[test]
fn devices_that_the_first_has_made_keep_nobody_from_joining_it() {
    let Some(world) = world() else { return };
    world.workload("red", 1);
    let make = "ip netns exec red ip tuntap add tun0 mode tun && ip -n red link set tun0 up";
    world.sh(make);
    let [first, second] = ["c1", "c2"].map(|name| Container::new(name, "red").with(id(300)));
    first.is_refused(&world, "", &["tun0", "tun or tap"]);
    world.sh("ip -n red link del tun0");
    first.created();
    world.sh(make);
    second.created();
    assert_eq!(world.status("red")["birth"]["sharers"], json!(["c2"]));
    // Of a device that came later nobody has an endpoint.
    world.sh("ip link add later type veth peer name eth1 netns red && ip -n red link set eth1 up");
    second.create("").fails(1, &["tun0"]);
    assert_eq!(world.status("red")["identity"], 300);
    [first, second].iter().for_each(Container::stopped);
    assert_eq!(world.pins(), [""; 0]);
}
