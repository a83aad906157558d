//! VERSION, and which commands a version has.

use serde_json::{Value, json};

use super::{Ask, VERSIONS, attached, config, config_in, is_error, result_of, with_red};
use crate::common::World;
use crate::common::machine::is_root;

#[test]
fn version_tells_all_that_are_spoken_and_names_the_inputs() {
    if !is_root() {
        return;
    }
    let version = Ask::new("VERSION");
    for (input, named) in [
        (r#"{"cniVersion": "0.4.0"}"#, "0.4.0"),
        (r#"{"cniVersion": "0.2.0"}"#, "0.2.0"),
        ("", "1.1.0"),
    ] {
        let run = version.run_text(input);
        assert_eq!(run.status, Some(0), "{run:?}");
        let answer: Value = serde_json::from_str(&run.stdout).unwrap();
        assert_eq!(answer, json!({"cniVersion": named, "supportedVersions": VERSIONS}), "{input}");
    }
    // It takes nothing of the environment but its command.
    let mut bare = Ask::new("VERSION");
    bare.variables.retain(|name, _| name == "CNI_COMMAND");
    assert!(bare.succeeds(&json!({"cniVersion": "1.0.0"})).is_some());
}

#[test]
fn every_version_attaches_checks_and_detaches() {
    let Some(world) = with_red() else { return };
    for version in VERSIONS {
        let config = config_in(version, 1, json!({"id": 300}));
        assert_eq!(Ask::new("ADD").succeeds(&config), Some(result_of(version, 1)), "{version}");
        assert_eq!(world.status("red")["identity"], 300, "{version}");
        if version != "0.3.1" {
            assert_eq!(Ask::new("CHECK").succeeds(&config), None, "{version}");
        }
        assert_eq!(Ask::new("DEL").succeeds(&config), None, "{version}");
        assert_eq!(attached(&world), [""; 0], "{version}");
    }
}

#[test]
fn a_version_that_is_not_spoken_is_told_with_those_that_are() {
    let Some(world) = with_red() else { return };
    for version in ["0.1.0", "0.2.0", "0.3.0", "1.2.0", "2", ""] {
        let config = config_in(version, 1, json!({"id": 300}));
        let error =
            Ask::new("ADD").fails(&config, 1, &["`cniVersion`", "0.3.1, 0.4.0, 1.0.0, 1.1.0"]);
        assert_eq!(error["cniVersion"], "1.1.0");
    }
    let mut config = config(json!({"id": 300}));
    config.as_object_mut().unwrap().remove("cniVersion");
    Ask::new("ADD").fails(&config, 1, &["missing", "0.1.0"]);
    config["cniVersion"] = json!(1.0);
    Ask::new("ADD").fails(&config, 6, &["`cniVersion`", "no text"]);
    assert_eq!(world.pins(), [""; 0]);
}

#[test]
fn a_version_has_the_commands_that_it_came_with() {
    let Some(_world) = with_red() else { return };
    let old = |version| config_in(version, 1, json!({"id": 300, "cni.dev/valid-attachments": []}));
    Ask::new("CHECK").fails(&old("0.3.1"), 1, &["CHECK", "0.4.0"]);
    for version in &VERSIONS[..3] {
        for command in ["GC", "STATUS"] {
            let error = Ask::new(command).fails(&old(version), 1, &[command, "1.1.0"]);
            assert_eq!(error["cniVersion"], *version);
        }
    }
}

#[test]
fn a_result_of_another_version_is_put_into_the_configurations() {
    let Some(_world) = with_red() else { return };
    for (of, into) in
        [("0.4.0", "1.1.0"), ("1.1.0", "0.4.0"), ("1.0.0", "1.1.0"), ("0.3.1", "0.4.0")]
    {
        let mut config = config_in(into, 1, json!({"id": 300}));
        config["prevResult"] = result_of(of, 1);
        assert_eq!(Ask::new("ADD").succeeds(&config), Some(result_of(into, 1)), "{of} into {into}");
    }
}

#[test]
fn the_plugin_is_a_command_too_and_is_called_so_by_the_name_of_its_file() {
    let Some(world) = World::new() else { return };
    let run = world.cilmark_with_input("cni", "{}");
    is_error(&run, 4, &["CNI_COMMAND is missing", "cilmark cni install"]);
    world.sh(&format!(
        "mkdir /run/netns/bin && ln -s {} /run/netns/bin/cilmark-cni",
        env!("CARGO_BIN_EXE_cilmark")
    ));
    let answer = world.sh("CNI_COMMAND=VERSION /run/netns/bin/cilmark-cni </dev/null");
    assert!(answer.contains("supportedVersions"), "{answer}");
}
