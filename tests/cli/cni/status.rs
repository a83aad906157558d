//! STATUS: whether ADD would work.

use std::process::Command;

use serde_json::{Value, json};

use super::{Ask, config_in, is_error, with_red};
use crate::common::World;
use crate::common::process::Run;

fn config(keys: Value) -> Value {
    let mut config = config_in("1.1.0", 1, keys);
    // A runtime asks before there is a workload.
    config.as_object_mut().unwrap().remove("prevResult");
    config
}

#[test]
fn where_add_would_work_it_succeeds_prints_nothing_and_changes_nothing() {
    let Some(world) = World::new() else { return };
    let mut ask = Ask::new("STATUS");
    ask.variables.retain(|name, _| name == "CNI_COMMAND");
    let ready =
        config(json!({"id": 300, "rules": ["allow egress to any"], "options": {"id": 301}}));
    assert_eq!(ask.succeeds(&ready), None);
    assert_eq!(world.pins(), [""; 0]);
    world.veth("other");
    world.cilmark_ok("attach other --id 299");
    assert_eq!(ask.succeeds(&ready), None);
}

#[test]
fn without_a_place_for_the_pins_it_fails() {
    let Some(world) = World::without_bpffs() else { return };
    Ask::new("STATUS").fails(
        &config(json!({"id": 300})),
        50,
        &["network net", "not on a BPF file system", "mount"],
    );
    assert_eq!(world.sh("ls /sys/fs/bpf"), "");
    let Some(_world) = World::new() else { return };
    let elsewhere = config(json!({"id": 300, "bpffs": "/run/netns/x"}));
    Ask::new("STATUS").fails(&elsewhere, 50, &["/run/netns/x"]);
}

#[test]
fn without_the_rights_that_it_takes_it_fails() {
    let Some(_world) = World::new() else { return };
    let output = Command::new("setpriv")
        .args(["--bounding-set=-all", "--inh-caps=-all", env!("CARGO_BIN_EXE_cilmark"), "cni"])
        .env_clear()
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        .env("CNI_COMMAND", "STATUS")
        .stdin(input(&config(json!({"id": 300}))))
        .output();
    is_error(
        &Run::from(output.expect("run setpriv")),
        50,
        &["network net", "sched_cls", "CAP_BPF"],
    );
}

/// A file that holds this.
fn input(config: &Value) -> std::fs::File {
    std::fs::write("/run/netns/stdin", config.to_string()).expect("write the configuration");
    std::fs::File::open("/run/netns/stdin").expect("open it")
}

#[test]
fn what_no_workload_could_get_is_told_before_one_asks() {
    let Some(world) = with_red() else { return };
    for (keys, words) in [
        (json!({"id": "nobody"}), &["nobody"][..]),
        (json!({"id": 2}), &["reserved"]),
        (json!({"rules": ["allow egress to nobody"]}), &["nobody"]),
        (json!({"options": {"id": "nobody"}}), &["nobody"]),
        (json!({"options": {"rules": ["allow"]}}), &["allow"]),
    ] {
        Ask::new("STATUS").fails(&config(keys), 50, words);
    }
    std::fs::write("/run/netns/bad.toml", "version = 1\n[identity]\n").expect("write a file");
    Ask::new("STATUS").fails(&config(json!({"file": "/run/netns/bad.toml"})), 50, &["bad.toml:2"]);
    Ask::new("STATUS").fails(&config(json!({"rulez": 1})), 2, &["rulez"]);
    // It keeps nobody from anything.
    Ask::new("ADD").succeeds(&config_in("1.1.0", 1, json!({"id": 300})));
    assert_eq!(world.status("red")["identity"], 300);
}

#[test]
fn pins_of_another_version_are_told() {
    let Some(world) = World::new() else { return };
    world.veth("other");
    world.cilmark_ok("attach other --id 299");
    world.sh("bpftool map create /sys/fs/bpf/cilmark/cm_newer type array key 4 value 4 entries 1 name cm_newer");
    Ask::new("STATUS").fails(&config(json!({"id": 300})), 50, &["cm_newer", "newer"]);
}
