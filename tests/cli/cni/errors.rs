//! Errors: an object on stdout and nothing beside it, with the codes of the specification.

use std::fs::File;
use std::os::unix::process::CommandExt as _;
use std::process::Child;

use serde_json::{Value, json};

use super::{Ask, config, is_error, with_red};
use crate::common::process::{Run, cilmark};
use crate::common::world::wait_for;

#[test]
fn what_the_environment_lacks_is_named() {
    let Some(world) = with_red() else { return };
    for (command, names) in [
        ("ADD", &["CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME"][..]),
        ("DEL", &["CNI_CONTAINERID", "CNI_IFNAME"]),
        ("GC", &["CNI_COMMAND"]),
    ] {
        for name in names {
            Ask::new(command).without(name).fails(
                &config(json!({"id": 300})),
                4,
                &[&format!("{name} is missing")],
            );
        }
    }
    let both = Ask::new("ADD").with("CNI_CONTAINERID", "/c1").with("CNI_IFNAME", "a/b");
    both.fails(&config(json!({"id": 300})), 4, &["CNI_CONTAINERID: `/c1`", "CNI_IFNAME: `a/b`"]);
    Ask::new("UPDATE").fails(&config(json!({"id": 300})), 4, &["CNI_COMMAND: `UPDATE`"]);
    let misspelt = Ask::new("ADD").with("CNI_ARGS", "cilmark.ids=300");
    misspelt.fails(&config(json!({"id": 300})), 4, &["CNI_ARGS", "cilmark.ids", "no such key"]);
    // What CNI_PATH says is for plugins that call others.
    Ask::new("ADD").without("CNI_PATH").succeeds(&config(json!({"id": 300})));
    Ask::new("DEL").without("CNI_PATH").succeeds(&config(json!({"id": 300})));
    assert_eq!(world.pins(), [""; 0]);
}

#[test]
fn what_is_no_configuration_is_an_error() {
    let Some(world) = with_red() else { return };
    for text in ["", "{", "[]", "null", "{\"cniVersion\": \"1.0.0\"} x", "\u{0}"] {
        for command in ["ADD", "CHECK", "DEL", "GC", "STATUS"] {
            is_error(&Ask::new(command).run_text(text), 6, &["the configuration of the network"]);
        }
    }
    for (key, value) in [
        ("name", json!(null)),
        ("name", json!("")),
        ("name", json!("a/b")),
        ("name", json!(3)),
        ("type", json!(null)),
    ] {
        let mut config = config(json!({"id": 300}));
        config[key] = value;
        Ask::new("ADD").fails(&config, 7, &[&format!("the configuration's `{key}`")]);
    }
    assert_eq!(world.pins(), [""; 0]);
}

#[test]
fn a_configuration_that_cannot_be_read_is_an_error_of_its_own() {
    let Some(_world) = with_red() else { return };
    let run: Run = cilmark(&[])
        .arg0("cilmark-cni")
        .envs(&Ask::new("ADD").variables)
        .stdin(File::open("/").expect("open a directory"))
        .output()
        .expect("run the plugin")
        .into();
    is_error(&run, 5, &["read stdin", "directory"]);
}

#[test]
fn a_key_that_nobody_knows_is_named_with_its_value() {
    let Some(world) = with_red() else { return };
    for (key, value) in [
        ("rulez", json!(["allow"])),
        ("ID", json!(300)),
        ("device", json!("red")),
        ("ip", json!([])),
    ] {
        let config = config(json!({"id": 300, key: value}));
        let error = Ask::new("ADD").fails(&config, 2, &["network net", "no such key"]);
        let msg = error["msg"].as_str().unwrap();
        assert!(msg.contains(&format!("`{key}`")) && msg.contains(&value.to_string()), "{msg}");
    }
    assert_eq!(world.pins(), [""; 0]);
}

#[test]
fn keys_of_cni_are_not_ours() {
    let Some(_world) = with_red() else { return };
    let theirs = json!({
        "id": 300,
        "cniVersions": ["1.0.0"],
        "capabilities": {"portMappings": true},
        "runtimeConfig": {"portMappings": []},
        "args": {"cni": {"ips": ["10.1.0.10"]}, "org.mesos": 1},
        "ipMasq": true,
        "ipam": {},
        "dns": {"nameservers": []},
        "disableCheck": true,
        "disableGC": false,
        "cni.dev/valid-attachments": [],
        "cni.dev/what-comes-next": 1,
    });
    Ask::new("ADD").succeeds(&config(theirs));
}

#[test]
fn a_key_of_ours_that_says_what_cannot_be_is_an_error() {
    let Some(world) = with_red() else { return };
    for (keys, words) in [
        (json!({"id": {}}), &["`id`"][..]),
        (json!({"id": 0}), &["`id`", "unknown"]),
        (json!({"id": 300, "rules": "allow egress to any"}), &["`rules`", "write a list"]),
        (json!({"id": 300, "policy": "on"}), &["`policy`", "enforce"]),
        (json!({"id": 300, "policy": {"forward": "enforce"}}), &["`policy`", "forward"]),
        (json!({"id": 300, "labels": ["app"]}), &["`labels`"]),
        (json!({"id": 300, "bpffs": "cilmark"}), &["`bpffs`", "absolute"]),
        (json!({"id": 300, "file": "cilmark.toml"}), &["`file`", "absolute"]),
        (json!({"id": 300, "options": {"hooks": "tcx"}}), &["`options`", "hooks"]),
        (
            json!({"id": 300, "options": {"device": "red"}}),
            &["`options`", "`device`", "take it out"],
        ),
        (json!({"id": 300, "options": {"owner": "c1"}}), &["`options`", "`owner`"]),
    ] {
        Ask::new("ADD").fails(&config(keys), 7, &[&["network net"], words].concat());
    }
    assert_eq!(world.pins(), [""; 0]);
}

#[test]
fn an_error_is_told_in_the_version_of_the_configuration() {
    let Some(_world) = with_red() else { return };
    for version in super::VERSIONS {
        let config = super::config_in(version, 1, json!({"id": "nobody"}));
        assert_eq!(Ask::new("ADD").fails(&config, 100, &["nobody"])["cniVersion"], version);
    }
}

#[test]
fn while_another_command_is_at_work_it_is_to_be_tried_later() {
    let Some(world) = with_red() else { return };
    world.veth("other");
    world.cilmark_ok("attach other --id 299");
    let root = "/sys/fs/bpf/cilmark";
    let _holder = world.spawn(&format!("flock --no-fork {root} sleep 1000"));
    wait_for("the lock", || !world.try_sh(&format!("flock -n {root} true")).status.success());
    let config = super::config_in("1.1.0", 1, json!({"id": 300, "cni.dev/valid-attachments": []}));
    let start = |command: &str| -> (String, Child) {
        (command.to_owned(), Ask::new(command).start(config.to_string().as_bytes()))
    };
    for (command, child) in ["ADD", "DEL", "GC"].map(start) {
        let run = Run::from(child.wait_with_output().expect("wait"));
        let error: Value = is_error(&run, 11, &["other commands", "nothing has changed"]);
        assert_eq!(error["cniVersion"], "1.1.0", "{command}");
    }
    // Who changes nothing waits for nobody.
    Ask::new("STATUS").succeeds(&config);
    Ask::new("CHECK").fails(&config, 101, &["no endpoint"]);
}

#[test]
fn what_nobody_hears_has_failed_whether_it_worked_or_not() {
    let Some(world) = with_red() else { return };
    for id in [json!(300), json!("nobody")] {
        let mut child = Ask::new("ADD").start(config(json!({"id": id})).to_string().as_bytes());
        drop(child.stdout.take());
        let run = Run::from(child.wait_with_output().expect("wait"));
        assert_eq!(run.status, Some(1), "{run:?}");
        assert!(run.stderr.contains("write to stdout"), "{run:?}");
    }
    Ask::new("DEL").succeeds(&config(json!({"id": 300})));
    assert_eq!(world.pins(), [""; 0]);
}
