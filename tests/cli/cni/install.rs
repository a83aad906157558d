//! `cilmark cni install`: a link where the runtime looks, and never in the place of what is somebody else's.

use std::process::Command;

use serde_json::{Value, json};

use super::{Ask, result_of};
use crate::common::World;
use crate::common::process::Run;

/// A world with a directory of plugins, and cilmark in a place of root's.
fn with_plugins() -> Option<World> {
    let world = World::new()?;
    world.sh(&format!(
        "mkdir /run/netns/bin /run/netns/plugins && chmod 755 /run/netns/bin && cp {} /run/netns/bin/cilmark && \
         chown root:root /run/netns/bin/cilmark && chmod 755 /run/netns/bin/cilmark",
        env!("CARGO_BIN_EXE_cilmark")
    ));
    Some(world)
}

fn install(flags: &str) -> Run {
    let mut command = Command::new("/run/netns/bin/cilmark");
    command
        .env_clear()
        .args(["cni", "install", "--dir", "/run/netns/plugins"])
        .args(flags.split_whitespace());
    command.output().expect("run cilmark").into()
}

const LINK: &str = "/run/netns/plugins/cilmark-cni";

#[test]
fn it_links_the_command_prints_a_list_and_undoes_that() {
    let Some(world) = with_plugins() else { return };
    for words in ["linked", "before"] {
        let run = install("");
        assert_eq!(run.status, Some(0), "{run:?}");
        assert!(run.stderr.contains(words) && run.stderr.contains(LINK), "{run:?}");
        assert_eq!(world.sh(&format!("readlink {LINK}")).trim(), "/run/netns/bin/cilmark");
        let list: Value = serde_json::from_str(&run.stdout).unwrap();
        let types: Vec<&Value> =
            list["plugins"].as_array().unwrap().iter().map(|it| &it["type"]).collect();
        assert_eq!(types, ["bridge", "cilmark-cni"]);
    }
    assert!(
        world.sh(&format!("CNI_COMMAND=VERSION {LINK} </dev/null")).contains("supportedVersions")
    );
    for words in ["removed", "there is no"] {
        let run = install("--undo");
        assert_eq!((run.status, run.stdout.as_str()), (Some(0), ""), "{run:?}");
        assert!(run.stderr.contains(words), "{run:?}");
        assert_eq!(world.sh("ls /run/netns/plugins"), "");
    }
}

#[test]
fn the_list_that_it_prints_is_one_that_works() {
    let Some(world) = with_plugins() else { return };
    world.workload("red", 1);
    let list: Value = serde_json::from_str(&install("").stdout).unwrap();
    let mut config = list["plugins"][1].clone();
    for key in ["name", "cniVersion"] {
        config[key] = list[key].clone();
    }
    config["prevResult"] = result_of(config["cniVersion"].as_str().unwrap(), 1);
    config["runtimeConfig"] = json!({"io.kubernetes.cri.pod-annotations": {"cilmark.id": "300"}});
    Ask::new("ADD").succeeds(&config);
    let status = world.status("red");
    assert_eq!(
        (&status["identity"], &status["birth"]["id_from"]),
        (&json!(300), &json!("annotation"))
    );
}

#[test]
fn a_link_to_a_cilmark_that_was_elsewhere_is_renewed() {
    let Some(world) = with_plugins() else { return };
    world.sh(&format!(
        "ln -s /usr/local/gone/cilmark {LINK}; touch /run/netns/plugins/cilmark-cni.new"
    ));
    assert_eq!(install("").status, Some(0));
    assert_eq!(world.sh(&format!("readlink {LINK}")).trim(), "/run/netns/bin/cilmark");
    assert_eq!(world.sh("ls /run/netns/plugins"), "cilmark-cni\n");
}

#[test]
fn what_is_somebody_elses_stays() {
    for (make, words) in [
        (format!("echo x >{LINK}"), "no link of cilmark's"),
        (format!("ln -s /bin/true {LINK}"), "leads to /bin/true"),
        (format!("mkdir {LINK}"), "no link of cilmark's"),
    ] {
        let Some(world) = with_plugins() else { return };
        world.sh(&make);
        let before = world.sh("ls -l /run/netns/plugins");
        for flags in ["", "--undo"] {
            install(flags).fails(1, &[LINK, words, "move it away"]);
        }
        assert_eq!(world.sh("ls -l /run/netns/plugins"), before);
    }
}

#[test]
fn a_place_that_is_not_there_or_a_command_that_others_could_change_is_refused() {
    let Some(world) = with_plugins() else { return };
    install("--dir /run/netns/nowhere").fails(2, &["--dir"]);
    world.sh("rmdir /run/netns/plugins");
    install("").fails(1, &["/run/netns/plugins is no directory", "/usr/lib/cni"]);
    world.sh("mkdir /run/netns/plugins; chmod 777 /run/netns/bin");
    install("").fails(1, &["/run/netns/bin can be changed by users of this host"]);
    world.sh("chmod 755 /run/netns/bin; chown 1000 /run/netns/bin/cilmark");
    install("").fails(
        1,
        &["/run/netns/bin/cilmark can be changed by users of this host", "/usr/local/bin"],
    );
    assert_eq!(world.sh("ls /run/netns/plugins"), "");
    // Who is in a group that may write there is so by root's will.
    world.sh("chown root /run/netns/bin/cilmark; chmod 775 /run/netns/bin");
    assert_eq!(install("").status, Some(0));
}
