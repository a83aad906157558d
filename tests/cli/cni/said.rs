//! What counts of what is said: the nearest to the workload, each of identity, rules, modes and labels by itself.

use serde_json::{Value, json};

use super::{Ask, config, with_red};
use crate::common::World;

const POD: &str = "io.kubernetes.cri.pod-annotations";

/// As a file says it, which none of the tests finds in /etc.
const FILE: &str = "/run/netns/cilmark.toml";

fn annotated(annotations: Value, keys: Value) -> Value {
    let mut config = config(keys);
    config["runtimeConfig"] = json!({ POD: annotations });
    config["file"] = json!(FILE);
    config
}

/// Identity, and who has said it and the rules.
fn who(world: &World) -> [Value; 3] {
    let mut status = world.status("red");
    [
        status["identity"].take(),
        status["birth"]["id_from"].take(),
        status["birth"]["rules_from"].take(),
    ]
}

#[test]
fn the_nearest_counts() {
    let Some(world) = with_red() else { return };
    let file = "version = 1\n[births]\ndefault = 305\n[[endpoint]]\ndevice = \"re*\"\nid = 304\n";
    std::fs::write(FILE, file).expect("write the file");
    let labels = json!({"cni": {"labels": [{"key": "app", "value": "x"}, {"key": "cilmark.id", "value": "301"}]}});
    let mut config = annotated(
        json!({"cilmark.id": "302", "app": "x"}),
        json!({"id": 303, "options": {"id": 306}, "args": labels}),
    );
    let ask = Ask::new("ADD").with("CNI_ARGS", "IgnoreUnknown=1;K8S_POD_NAME=web;cilmark.id=300");
    ask.succeeds(&config);
    assert_eq!(who(&world), [json!(300), json!("cni-args"), json!(null)]);
    let mut next = |key: &str, identity: u32, by: &str| {
        Ask::new("ADD").succeeds(&config);
        assert_eq!(who(&world), [json!(identity), json!(by), json!(null)]);
        config.as_object_mut().unwrap().remove(key);
    };
    next("args", 301, "label");
    next("runtimeConfig", 302, "annotation");
    next("id", 303, "cni-config");
    next("options", 306, "config");
    next("", 304, &format!("{FILE}:5:10"));
    std::fs::write(FILE, "version = 1\n[births]\ndefault = 305\n").expect("write the file");
    next("", 305, "births");
}

#[test]
fn each_thing_counts_from_the_first_that_says_it() {
    let Some(world) = with_red() else { return };
    let annotations =
        json!({"cilmark.rules": "allow egress to any udp/53", "cilmark.labels": "app=web"});
    let keys = json!({"id": 303, "rules": ["deny egress to any"], "labels": {"app": "db"}, "policy": "audit"});
    let ask = Ask::new("ADD").with("CNI_ARGS", "CILMARK_POLICY=ingress=enforce,egress=audit");
    ask.succeeds(&annotated(annotations, keys));
    assert_eq!(who(&world), [json!(303), json!("cni-config"), json!("annotation")]);
    let spec = world.cilmark_json("status red --spec");
    assert_eq!(spec["policy"], json!({"ingress": "enforce", "egress": "audit"}));
    assert_eq!(spec["labels"], json!({"app": "web"}));
    assert!(world.cilmark_ok("policy list red").contains("udp/53"));
}

#[test]
fn options_are_an_endpoint_of_the_file() {
    let Some(world) = with_red() else { return };
    let options =
        json!({"flow_label": true, "ip": ["10.1.0.10", "10.8.0.0/24"], "policy_entries": 64});
    let mut config = config(json!({"id": 300, "options": options}));
    // The result has an address that the options leave out.
    Ask::new("ADD").fails(&config, 100, &["fd00:1::10", "`ip`"]);
    config["options"]["ip"] = json!(["10.8.0.0/24", "from-netns"]);
    Ask::new("ADD").succeeds(&config);
    let spec = world.cilmark_json("status red --spec");
    assert_eq!((&spec["flow_label"], &spec["policy_entries"]), (&json!(true), &json!(64)));
    assert_eq!(
        (&spec["ip"], &spec["shared_ip"]),
        (&json!(["10.1.0.10", "fd00:1::10"]), &json!(["10.8.0.0/24"]))
    );
}

#[test]
fn names_are_those_of_the_host_and_of_its_file() {
    let Some(world) = with_red() else { return };
    world.cilmark_ok("identity set 300 web");
    std::fs::write(FILE, "version = 1\n[identities]\ndb = 301\n").expect("write the file");
    for (name, identity) in [("web", 300), ("db", 301)] {
        let keys = json!({"id": name, "rules": ["allow egress to db", "allow egress to web"]});
        Ask::new("ADD").succeeds(&annotated(json!({}), keys));
        assert_eq!(world.status("red")["identity"], identity);
    }
}

#[test]
fn a_workload_that_asks_for_anything_and_has_no_identity_does_not_start() {
    let Some(world) = with_red() else { return };
    let asks = annotated(json!({"cilmark.policy": "enforce"}), json!({}));
    Ask::new("ADD").fails(&asks, 100, &["annotation", "cilmark.id"]);
    let ask = Ask::new("ADD").with("CNI_ARGS", "CILMARK_RULES=allow egress to any");
    ask.fails(&annotated(json!({}), json!({})), 100, &["cni-args", "cilmark.id"]);
    assert_eq!(world.pins(), [""; 0]);
}

#[test]
fn an_annotation_or_label_of_ours_that_is_misspelt_is_an_error() {
    let Some(world) = with_red() else { return };
    for (key, value, words) in [
        ("cilmark.identity", json!("web"), &["cilmark.identity", "no such key"][..]),
        ("cilmark.id", json!(300), &["cilmark.id", "no text"]),
        ("cilmark.policy", json!("on"), &["cilmark.policy", "enforce"]),
        ("cilmark.rules", json!(""), &["cilmark.rules", "empty"]),
    ] {
        let annotated = annotated(json!({ key: value }), json!({"id": 300}));
        Ask::new("ADD").fails(&annotated, 7, &[&["network net: `runtimeConfig`"], words].concat());
        let labels = json!({"cni": {"labels": [{"key": key, "value": value}]}});
        Ask::new("ADD").fails(
            &config(json!({"id": 300, "args": labels})),
            7,
            &[&["network net: `args`"], words].concat(),
        );
    }
    assert_eq!(world.pins(), [""; 0]);
}
