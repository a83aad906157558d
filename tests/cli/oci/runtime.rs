//! The runtime in the place of runc: with a stand-in that tells how it was called and what it found, and with runc.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};

use super::{Container, FILES, call, id, process, world};
use crate::common::World;
use crate::common::machine::skip;
use crate::common::process::Run;
use crate::common::world::wait_for;

/// Keeps the arguments, the configuration as it is at `create` and the limit of descriptors, and answers `state`.
const STAND_IN: &str = r#"#!/bin/sh
printf '%s\n' "$@" >/mnt/called
ulimit -n >/mnt/descriptors
for argument; do
	case $argument in
	create | run) cat config.json >/mnt/config.json 2>/dev/null || : ;;
	state) cat /mnt/state.json; exit ;;
	esac
done
echo out; echo err >&2; exit 7
"#;

/// A world with the stand-in at /mnt/runc.
fn with_stand_in() -> Option<World> {
    let world = world()?;
    fs::write(format!("{FILES}/runc"), STAND_IN).unwrap();
    fs::set_permissions(format!("{FILES}/runc"), fs::Permissions::from_mode(0o755)).unwrap();
    Some(world)
}

/// Runs the wrapper in a directory, as containerd does.
fn wrapped(directory: &Path, runtime: &str, arguments: &[&str]) -> Run {
    let mut command = Command::new(env!("CARGO_BIN_EXE_cilmark"));
    command.args(["oci", "runtime", "--runtime", runtime, "--"]).args(arguments);
    call(command.current_dir(directory))
}

fn called() -> Vec<String> {
    let called = fs::read_to_string(format!("{FILES}/called")).expect("it was called");
    called.lines().map(str::to_owned).collect()
}

fn read(path: impl AsRef<Path>) -> Value {
    serde_json::from_str(&fs::read_to_string(path).expect("read it")).expect("JSON")
}

fn own_hook(stage: &str, options: &[&str]) -> Value {
    let args = [&["cilmark", "oci", stage, "--bpffs", "/sys/fs/bpf/cilmark"], options].concat();
    json!({"path": env!("CARGO_BIN_EXE_cilmark"), "args": args, "timeout": 65})
}

#[test]
fn it_becomes_the_runtime_with_the_same_arguments() {
    let Some(_world) = with_stand_in() else { return };
    let runtime = format!("{FILES}/runc");
    for arguments in [
        &["--version"][..],
        &["--root", "/run/r", "features"],
        &["delete", "--force", "a b"],
        &["kill", "c1", ""],
        &["--", "--json", "-v", "--bpffs", "x"],
        &["exec", "--bundle", "/nowhere", "c1", "create", "\u{1}", "ü"],
        &[],
    ] {
        let run = wrapped(Path::new("/"), &runtime, arguments);
        assert_eq!(
            (run.status, run.stdout.as_str(), run.stderr.as_str()),
            (Some(7), "out\n", "err\n")
        );
        let expected = if arguments.is_empty() { vec![""] } else { arguments.to_vec() };
        assert_eq!(called(), expected);
    }
}

#[test]
fn it_leaves_the_runtime_as_many_descriptors_as_it_had() {
    let Some(_world) = with_stand_in() else { return };
    let command = format!(
        "ulimit -Sn 123; exec {} oci runtime --runtime {FILES}/runc -- list",
        env!("CARGO_BIN_EXE_cilmark")
    );
    call(Command::new("sh").args(["-c", &command]));
    assert_eq!(fs::read_to_string(format!("{FILES}/descriptors")).unwrap(), "123\n");
}

#[test]
fn it_adds_the_hooks_that_the_container_needs_and_nothing_else() {
    let Some(_world) = with_stand_in() else { return };
    let mut container = Container::new("c1", "red");
    let other = json!({"path": "/proc/7/exe", "args": ["libnetwork-setkey"]});
    container.config["hooks"] = json!({"prestart": [other], "poststop": [other]});
    container.config["process"] = json!({"args": ["sh"], "x": [1, 2.5, null]});
    let path = container.bundle.join("config.json");
    let file = ["--file", "/etc/cilmark/cilmark.toml"];
    let (create, poststop) = (own_hook("createRuntime", &file), own_hook("poststop", &[]));
    for (arguments, expected) in [
        // At the start of what was created the wrapper does it itself.
        (
            &["--root", "/run/r", "--log-format", "json", "create", "--pid-file", "/p", "c1"][..],
            json!({"prestart": [other], "poststop": [other, poststop]}),
        ),
        (
            &["run", "--bundle", container.bundle.to_str().unwrap(), "c1"],
            json!({"prestart": [other], "createRuntime": [create], "poststop": [other, poststop]}),
        ),
    ] {
        container.write_config();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        chown(&path, Some(7), Some(8)).unwrap();
        for time in ["once", "twice"] {
            let run = wrapped(&container.bundle, &format!("{FILES}/runc"), arguments);
            assert_eq!(run.status, Some(7), "{run:?}");
            assert_eq!(called(), arguments);
            let mut wanted = container.config.clone();
            wanted["hooks"] = expected.clone();
            assert_eq!(read(format!("{FILES}/config.json")), wanted, "{time}");
        }
        let file = fs::metadata(&path).unwrap();
        assert_eq!((file.mode() & 0o7777, file.uid(), file.gid()), (0o640, 7, 8));
        assert_eq!(fs::read_dir(&container.bundle).unwrap().count(), 1, "and no other file");
    }
}

#[test]
fn a_bundle_that_it_does_not_understand_is_not_started() {
    let Some(_world) = with_stand_in() else { return };
    let container = Container::new("c1", "red");
    let runtime = format!("{FILES}/runc");
    let log = format!("{FILES}/log.json");
    let path = container.bundle.join("config.json");
    fs::create_dir_all(&container.bundle).unwrap();
    for (config, words) in [
        (None, ["config.json", "No such file"]),
        (Some("{"), ["config.json", "EOF"]),
        (Some(r#"{"hooks": {"poststop": 7}}"#), ["config.json", "`poststop` is no list"]),
    ] {
        if let Some(config) = config {
            fs::write(&path, config).unwrap();
        }
        let arguments = ["--log", &log, "--log-format", "json", "create", "c1"];
        wrapped(&container.bundle, &runtime, &arguments).fails(1, &words);
        let told = fs::read_to_string(&log).unwrap();
        let told: Value = serde_json::from_str(told.lines().last().unwrap()).unwrap();
        assert_eq!(told["level"], "error");
        assert!(words.iter().all(|word| told["msg"].as_str().unwrap().contains(word)), "{told}");
        assert!(!Path::new(&format!("{FILES}/called")).exists(), "the runtime was called");
        assert_eq!(config.map(str::to_owned), fs::read_to_string(&path).ok(), "it is as it was");
    }
    let run = wrapped(&container.bundle, &runtime, &["create", "--config", "/x", "c1"]);
    run.fails(1, &["/x", "--config"]);
}

#[test]
fn the_real_runtime_is_found_and_is_never_itself() {
    let Some(world) = with_stand_in() else { return };
    let own = env!("CARGO_BIN_EXE_cilmark");
    symlink(own, format!("{FILES}/link")).unwrap();
    for runtime in [own.to_owned(), format!("{FILES}/link")] {
        wrapped(Path::new("/"), &runtime, &["list"])
            .fails(1, &[&runtime, "cilmark itself", "--runtime"]);
    }
    let nobody = ["no runtime `no-such-runtime`", "PATH", "/usr/sbin"];
    wrapped(Path::new("/"), "no-such-runtime", &["list"]).fails(1, &nobody);
    wrapped(Path::new("/"), "/nowhere/runc", &["list"]).fails(1, &["/nowhere/runc"]);
    // It need not be on PATH.
    world.sh("mount -t tmpfs sbin /usr/local/sbin && cp /mnt/runc /usr/local/sbin/stand-in");
    let mut command = Command::new(own);
    command.args(["oci", "runtime", "--runtime", "stand-in", "--", "list"]).env_clear();
    for path in [None, Some("/usr/bin:/bin"), Some("")] {
        path.map(|path| command.env("PATH", path));
        assert_eq!(command.output().unwrap().status.code(), Some(7), "{path:?}");
    }
}

/// As with Docker from 28 on: the network comes between `create` and `start`.
#[test]
fn what_is_created_has_its_identity_before_it_starts() {
    let Some(world) = with_stand_in() else { return };
    let container = Container::new("c1", "red").with(id(300));
    container.write_config();
    let runtime = format!("{FILES}/runc");
    let create = wrapped(&container.bundle, &runtime, &["create", "c1"]);
    assert_eq!(create.status, Some(7), "{create:?}");
    assert_eq!(world.pins(), [""; 0]);
    world.workload("red", 1);
    fs::write(format!("{FILES}/state.json"), container.state("created")).unwrap();
    let start = ["--root", "/run/r", "start", "c1"];
    let run = wrapped(Path::new("/"), &runtime, &start);
    assert_eq!((run.status, run.stderr.as_str()), (Some(7), "err\n"), "{run:?}");
    assert_eq!(called(), start);
    assert_eq!(world.status("red")["identity"], 300);
    let stopped = read(format!("{FILES}/config.json"))["hooks"]["poststop"][0].clone();
    assert_eq!(stopped, own_hook("poststop", &[]));
    container.stopped();
    assert_eq!(world.pins(), [""; 0]);
    // Nothing is done with what runs, or has run.
    for status in ["running", "stopped", "paused"] {
        fs::write(format!("{FILES}/state.json"), container.state(status)).unwrap();
        assert_eq!(wrapped(Path::new("/"), &runtime, &start).status, Some(7));
        assert_eq!(world.pins(), [""; 0], "{status}");
    }
}

/// `/proc/PID/ns/net` of a container that is joined may be another process's by then.
#[test]
fn at_the_start_the_network_is_that_of_the_process() {
    let Some(world) = with_stand_in() else { return };
    world.workload("red", 1);
    world.workload("blue", 2);
    let process = process(&world, "red");
    let named = json!([{"type": "network", "path": "/run/netns/blue"}]);
    let container = Container::new("c1", "blue").of(process.pid(), named).with(id(300));
    container.write_config();
    fs::write(format!("{FILES}/state.json"), container.state("created")).unwrap();
    let run = wrapped(Path::new("/"), &format!("{FILES}/runc"), &["start", "c1"]);
    assert_eq!(run.status, Some(7), "{run:?}");
    assert_eq!(world.status("red")["owner"], "c1");
    assert_eq!(world.cilmark_json("status").as_array().unwrap().len(), 1);
}

#[test]
fn what_can_not_have_its_identity_is_not_started() {
    let Some(world) = with_stand_in() else { return };
    world.sh("ip netns add red");
    let container = Container::new("c1", "red").with(id(300));
    container.write_config();
    let (runtime, log) = (format!("{FILES}/runc"), format!("{FILES}/log.json"));
    let start = ["--log", &log, "--log-format=json", "start", "c1"];
    fs::write(format!("{FILES}/state.json"), container.state("created")).unwrap();
    wrapped(Path::new("/"), &runtime, &start).fails(1, &["c1", "no network device"]);
    assert_eq!(called().last().unwrap(), "c1");
    assert_eq!(called()[called().len() - 2], "state", "and not start");
    assert!(fs::read_to_string(&log).unwrap().contains("no network device"));
    fs::write(format!("{FILES}/state.json"), "").unwrap();
    wrapped(Path::new("/"), &runtime, &start).fails(1, &["state c1"]);
    wrapped(Path::new("/"), "/bin/false", &start).fails(1, &["/bin/false", "the state of c1"]);
    assert_eq!(world.pins(), [""; 0]);
}

/// The root of a container with one program, and a bundle whose network namespace runc opens.
fn bundle_for_runc(container: &mut Container, annotations: Value) {
    let root = container.bundle.join("rootfs");
    fs::create_dir_all(root.join("proc")).unwrap();
    fs::copy("/bin/busybox", root.join("busybox")).unwrap();
    let cgroup = format!("/cilmark-{}", std::process::id());
    container.config = json!({
        "ociVersion": "1.0.2",
        "root": {"path": "rootfs"},
        "annotations": annotations,
        "mounts": [{"destination": "/proc", "type": "proc", "source": "proc"}],
        "process": {
            "args": ["/busybox", "sleep", "1000"], "cwd": "/", "user": {"uid": 0, "gid": 0},
            "env": ["PATH=/"], "noNewPrivileges": true
        },
        "linux": {"cgroupsPath": cgroup, "namespaces": [{"type": "pid"}, {"type": "mount"}, {"type": "network"}]},
    });
    container.write_config();
}

#[test]
fn runc_starts_what_has_its_identity_and_nothing_else() {
    let Some(world) = world() else { return };
    if !world.try_sh("command -v runc && test -x /bin/busybox").status.success() {
        return skip("runc and busybox are not installed");
    }
    world.sh("mount -t cgroup2 cgroup2 /sys/fs/cgroup");
    let mut container = Container::new("c1", "none");
    bundle_for_runc(&mut container, id(300));
    let run = |arguments: &[&str]| {
        let arguments = [&["--root", "/mnt/run"], arguments].concat();
        let mut command = Command::new("timeout");
        command.args(["60", env!("CARGO_BIN_EXE_cilmark"), "oci", "runtime", "--"]).args(arguments);
        // What a container writes to is open as long as it runs.
        let log = fs::File::create("/mnt/log").unwrap();
        command.stdout(log.try_clone().unwrap()).stderr(log).stdin(std::process::Stdio::null());
        let status = command.status().expect("run it").code();
        (status, fs::read_to_string("/mnt/log").unwrap())
    };
    let bundle = container.bundle.to_str().unwrap().to_owned();
    let (status, log) = run(&["create", "--bundle", &bundle, "c1"]);
    if status != Some(0) {
        return skip(&format!("runc does not work here: {log}"));
    }
    let delete = || run(&["delete", "--force", "c1"]);
    let (status, log) = run(&["start", "c1"]);
    assert!(status == Some(1) && log.contains("no network device"), "{log}");
    let state = read_state(&run(&["state", "c1"]).1);
    assert_eq!(state["status"], "created", "it did not start");
    let pid = state["pid"].as_u64().unwrap();
    world.sh(&format!(
        "ip link add red type veth peer name eth0 netns {pid}
         ip link set red up
         nsenter -n -t {pid} sh -c 'ip addr add 10.1.0.10/24 dev eth0; ip link set eth0 up'"
    ));
    assert_eq!(run(&["start", "c1"]), (Some(0), String::new()));
    assert_eq!(read_state(&run(&["state", "c1"]).1)["status"], "running");
    assert_eq!(world.status("red")["identity"], 300);
    assert_eq!(world.status("red")["owner"], "c1");
    assert_eq!(delete().0, Some(0));
    wait_for("the end", || world.pins().is_empty());
    // Both at once: the hook finds no network, and runc says why it stops.
    let (status, log) = run(&["run", "--detach", "--bundle", &bundle, "c2"]);
    assert!(status == Some(1) && log.contains("no network device"), "{log}");
    assert_eq!(world.pins(), [""; 0]);
}

fn read_state(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))
}
