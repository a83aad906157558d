//! `cilmark oci install`: what it writes for Docker and Podman, and takes back.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};

use super::{FILES, call, world};
use crate::common::World;
use crate::common::process::Run;

/// Where the command is installed.
const COMMAND: &str = "/usr/local/bin/cilmark";

/// A machine with the command installed, and without Docker's and Podman's files.
fn machine() -> Option<World> {
    let world = world()?;
    world.sh(&format!(
        "mount -t tmpfs bin /usr/local/bin && cp {} {COMMAND}
         mount -t tmpfs etc /etc && mount -t tmpfs share /usr/share && mount -t tmpfs opt /opt
         mkdir /opt/bin && for it in /usr/local/bin/runc /opt/bin/crun; do ln -s /bin/true $it; done",
        env!("CARGO_BIN_EXE_cilmark")
    ));
    Some(world)
}

fn install(arguments: &str) -> Run {
    call(Command::new(COMMAND).args(["oci", "install"]).args(arguments.split_whitespace()))
}

/// Succeeds, and says each of these.
fn says(arguments: &str, words: &[&str]) {
    let run = install(arguments);
    assert_eq!((run.status, run.stdout.as_str()), (Some(0), ""), "{run:?}");
    assert!(words.iter().all(|word| run.stderr.contains(word)), "{run:?}");
}

const DAEMON: &str = "/etc/docker/daemon.json";

fn runtime(real: &str) -> Value {
    let options = ["oci", "runtime", "--bpffs", "/sys/fs/bpf/cilmark", "--runtime", real, "--"];
    json!({"path": COMMAND, "runtimeArgs": options})
}

fn daemon() -> Value {
    serde_json::from_str(&fs::read_to_string(DAEMON).unwrap()).unwrap()
}

#[test]
fn docker_gets_a_runtime_and_loses_it_again() {
    let Some(_world) = machine() else { return };
    let reload = "systemctl reload docker";
    says("--docker --not-default", &[DAEMON, "--runtime cilmark", reload]);
    assert_eq!(daemon(), json!({"runtimes": {"cilmark": runtime("runc")}}));
    assert_eq!(fs::metadata(DAEMON).unwrap().mode() & 0o777, 0o644);
    says("--docker --not-default", &[DAEMON, "already"]);
    says("--docker --runtime /opt/bin/crun", &[DAEMON, reload]);
    let expected =
        json!({"runtimes": {"cilmark": runtime("/opt/bin/crun")}, "default-runtime": "cilmark"});
    assert_eq!(daemon(), expected);
    says("--docker --not-default --runtime /opt/bin/crun", &[DAEMON, reload]);
    assert_eq!(daemon().get("default-runtime"), None);
    says("--docker --undo", &["removed", DAEMON, "systemctl restart docker"]);
    assert!(!Path::new(DAEMON).exists());
    says("--docker --undo", &["there is no", DAEMON]);
}

#[test]
fn what_else_docker_is_told_stays_as_it_is_written() {
    let Some(_world) = machine() else { return };
    let before = "{\n\t\"bip\": \"172.31.0.1/16\",\n\t\"max-download-attempts\": 5.0,\n\t\"runtimes\": {\n\t\t\"kata\": {\"path\": \
                  \"/usr/bin/kata\"}\n\t}\n}\n";
    fs::create_dir("/etc/docker").unwrap();
    fs::write(format!("{FILES}/daemon.json"), before).unwrap();
    fs::set_permissions(format!("{FILES}/daemon.json"), fs::Permissions::from_mode(0o600)).unwrap();
    symlink(format!("{FILES}/daemon.json"), DAEMON).unwrap();
    says("--docker --undo", &["does not name"]);
    says("--docker", &[DAEMON]);
    assert_eq!(
        daemon()["runtimes"],
        json!({"kata": {"path": "/usr/bin/kata"}, "cilmark": runtime("runc")})
    );
    says("--docker --undo", &["any more"]);
    assert_eq!(fs::read_to_string(DAEMON).unwrap(), before);
    assert!(fs::symlink_metadata(DAEMON).unwrap().is_symlink(), "a link stays one");
    assert_eq!(fs::metadata(DAEMON).unwrap().mode() & 0o777, 0o600);
    let elsewhere = format!("--docker --daemon-json {FILES}/other.json");
    says(&elsewhere, &[&format!("{FILES}/other.json")]);
    assert_eq!(fs::read_to_string(DAEMON).unwrap(), before);
}

#[test]
fn what_is_somebody_elses_or_broken_stays_and_is_named() {
    let Some(_world) = machine() else { return };
    fs::create_dir("/etc/docker").unwrap();
    for (file, word) in [
        (r#"{"runtimes": {"cilmark": {"path": "/usr/bin/runc"}}}"#, "/usr/bin/runc"),
        ("# no JSON\n", "no JSON"),
        (r#"{"default-runtime": "nvidia"}"#, "nvidia"),
    ] {
        fs::write(DAEMON, file).unwrap();
        install("--docker").fails(1, &[DAEMON, word, "nothing has changed"]);
        assert_eq!(fs::read_to_string(DAEMON).unwrap(), file);
        assert_eq!(fs::read_dir("/etc/docker").unwrap().count(), 1);
    }
    let hooks = "/usr/share/containers/oci/hooks.d";
    fs::create_dir_all(hooks).unwrap();
    let file = format!("{hooks}/cilmark-poststop.json");
    fs::write(&file, "{}").unwrap();
    for arguments in ["--podman", "--podman --undo"] {
        install(arguments).fails(1, &[&file, "nothing has changed"]);
        assert_eq!(fs::read_dir(hooks).unwrap().count(), 1);
    }
}

#[test]
fn podman_gets_hooks_where_it_looks_and_loses_them_again() {
    let Some(_world) = machine() else { return };
    let elsewhere = "--podman --hooks-dir /etc/containers/oci/hooks.d";
    install(elsewhere).fails(1, &["no directory /etc/containers/oci/hooks.d"]);
    fs::create_dir_all("/etc/containers/oci/hooks.d").unwrap();
    for (options, folder) in [
        ("", "/usr/share/containers/oci/hooks.d"),
        (" --hooks-dir /etc/containers/oci/hooks.d", "/etc/containers/oci/hooks.d"),
    ] {
        let files =
            ["createRuntime", "poststop"].map(|stage| format!("{folder}/cilmark-{stage}.json"));
        let files: Vec<&str> = files.iter().map(String::as_str).collect();
        says(&format!("--podman{options}"), &files);
        for (stage, file) in ["createRuntime", "poststop"].iter().zip(&files) {
            let hook: Value = serde_json::from_str(&fs::read_to_string(file).unwrap()).unwrap();
            let args = ["cilmark", "oci", stage, "--bpffs", "/sys/fs/bpf/cilmark"];
            let expected = json!({"version": "1.0.0", "hook": {"path": COMMAND, "args": args, "timeout": 65},
                "when": {"always": true}, "stages": [stage]});
            assert_eq!(hook, expected);
        }
        says(&format!("--podman{options}"), &["already"]);
        says(&format!("--podman --undo{options}"), &files);
        assert_eq!(fs::read_dir(folder).unwrap().count(), 0);
        says(&format!("--podman --undo{options}"), &["there is no"]);
    }
}

#[test]
fn another_file_is_named_to_whoever_reads_it() {
    let Some(_world) = machine() else { return };
    let file = format!("{FILES}/cilmark.toml");
    says(&format!("--docker --file {file}"), &[DAEMON]);
    let args = daemon()["runtimes"]["cilmark"]["runtimeArgs"].clone();
    let expected = [
        "oci",
        "runtime",
        "--bpffs",
        "/sys/fs/bpf/cilmark",
        "--file",
        &file,
        "--runtime",
        "runc",
        "--",
    ];
    assert_eq!(args, json!(expected));
    says(&format!("--podman --file {file}"), &["createRuntime"]);
    let args = |stage: &str| {
        let path = format!("/usr/share/containers/oci/hooks.d/cilmark-{stage}.json");
        let hook: Value = serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap();
        hook["hook"]["args"].as_array().unwrap()[3..].to_vec()
    };
    assert_eq!(args("createRuntime"), ["--bpffs", "/sys/fs/bpf/cilmark", "--file", &file]);
    assert_eq!(args("poststop"), ["--bpffs", "/sys/fs/bpf/cilmark"]);
}

#[test]
fn a_command_that_may_be_gone_tomorrow_is_not_installed() {
    let Some(world) = machine() else { return };
    let is_refused = |command: &str| {
        for whom in ["--docker", "--podman"] {
            let run = call(Command::new(command).args(["oci", "install", whom]));
            run.fails(1, &[command, "/usr/local/bin", "nothing has changed"]);
        }
    };
    // Before what may be above it is hidden.
    is_refused(env!("CARGO_BIN_EXE_cilmark"));
    world.sh("mount -t tmpfs tmp /tmp && cp /usr/local/bin/cilmark /tmp/cilmark");
    is_refused("/tmp/cilmark");
    world.sh("mv /usr/local/bin/cilmark '/usr/local/bin/my cilmark'");
    let run = call(Command::new("/usr/local/bin/my cilmark").args(["oci", "install", "--docker"]));
    run.fails(1, &["my cilmark", "shell"]);
    assert_eq!(fs::read_dir("/etc").unwrap().count(), 0);
}

#[test]
fn what_would_stop_every_start_is_not_installed() {
    let Some(world) = machine() else { return };
    install("--docker --runtime crunn").fails(1, &[DAEMON, "`crunn`", "--runtime names another"]);
    let elsewhere = "--docker --daemon-json /etc/dokcer/daemon.json";
    install(elsewhere).fails(1, &["no directory /etc/dokcer", "nothing has changed"]);
    world.sh("chown 1000 /usr/local/bin/cilmark");
    for whom in ["--docker", "--podman"] {
        install(whom).fails(1, &["can be changed by users of this host", "nothing has changed"]);
    }
    assert_eq!(fs::read_dir("/etc").unwrap().count(), 0);
}

#[test]
fn it_is_said_for_whom() {
    let Some(_world) = machine() else { return };
    for (arguments, word) in [
        ("", "<--docker|--podman>"),
        ("--docker --podman", "cannot be used with"),
        ("--podman --not-default", "cannot be used with"),
        ("--podman --runtime crun", "cannot be used with"),
        ("--docker --hooks-dir /x", "cannot be used with"),
        ("--docker --undo --not-default", "cannot be used with"),
        ("--docker --undo --file /x", "cannot be used with"),
    ] {
        install(arguments).fails(2, &[word]);
    }
}
