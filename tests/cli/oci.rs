//! `cilmark oci`: hooks and a runtime for containers, which are namespaces of the test with a bundle each.

mod docker;
mod hooks;
mod install;
mod podman;
mod runtime;
mod shared;

use std::fs;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use crate::common::World;
use crate::common::machine::skip;
use crate::common::process::{Run, Running, cilmark};
use crate::common::world::wait_for;

/// Where a test keeps its files, which nobody else sees.
const FILES: &str = "/mnt";

/// A world with room for files.
fn world() -> Option<World> {
    let world = World::new()?;
    world.sh(&format!("mount -t tmpfs files {FILES}"));
    Some(world)
}

/// A container as its runtime knows it.
struct Container {
    id: String,
    bundle: PathBuf,
    config: Value,
    annotations: Value,
    pid: u32,
}

impl Container {
    /// In the network namespace `netns`, by its path.
    fn new(id: &str, netns: &str) -> Container {
        let bundle = PathBuf::from(format!("{FILES}/bundles/{id}"));
        let namespaces = json!([
            {"type": "pid"},
            {"type": "network", "path": format!("/run/netns/{netns}")},
        ]);
        let config = json!({"ociVersion": "1.0.2", "linux": {"namespaces": namespaces}});
        Container { id: id.to_owned(), bundle, config, annotations: json!({}), pid: 0 }
    }

    /// The same with annotations.
    fn with(mut self, annotations: Value) -> Container {
        self.annotations = annotations;
        self
    }

    /// The same with other namespaces, by its first process.
    fn of(mut self, pid: u32, namespaces: Value) -> Container {
        self.pid = pid;
        self.config["linux"]["namespaces"] = namespaces;
        self
    }

    fn state(&self, status: &str) -> String {
        let Container { id, bundle, annotations, pid, .. } = self;
        let state = json!({"ociVersion": "1.0.2", "id": id, "status": status, "pid": pid, "bundle": bundle,
            "annotations": annotations});
        state.to_string()
    }

    fn write_config(&self) {
        fs::create_dir_all(&self.bundle).expect("make the bundle");
        fs::write(self.bundle.join("config.json"), self.config.to_string()).expect("write it");
    }

    /// Calls the hook createRuntime.
    fn create(&self, options: &str) -> Run {
        self.write_config();
        hook(&format!("createRuntime {options}"), &self.state("creating"))
    }

    /// The same by a runtime that is not root: status and stderr. `None` where there are no user namespaces.
    fn create_rootless(&self) -> Option<(Option<i32>, String)> {
        self.write_config();
        let state = format!("{FILES}/state");
        fs::write(&state, self.state("creating")).expect("write the state");
        let mut command = Command::new("unshare");
        command.args(["--user", "--map-root-user", env!("CARGO_BIN_EXE_cilmark")]);
        command.args(["oci", "createRuntime"]).arg0("unshare");
        command.stdin(fs::File::open(state).expect("open the state"));
        let output = command.output().expect("run unshare");
        let stderr = String::from_utf8(output.stderr).expect("text");
        if stderr.starts_with("unshare: ") {
            skip("user namespaces are not allowed here");
            return None;
        }
        Some((output.status.code(), stderr))
    }

    /// Calls it, and it succeeds without a word.
    fn created(&self) {
        let run = self.create("");
        assert_eq!((run.status, run.stdout.as_str(), run.stderr.as_str()), (Some(0), "", ""));
    }

    /// Calls it, and it fails with one line, and leaves nothing.
    fn is_refused(&self, world: &World, options: &str, words: &[&str]) {
        let run = self.create(options);
        run.fails(1, words);
        assert!(run.stderr.contains(&self.id), "which container: {run:?}");
        assert_eq!(run.stderr.lines().count(), 1, "{run:?}");
        assert_eq!(world.pins(), [""; 0], "{run:?}");
    }

    /// Calls the hook poststop, when nothing is left of it.
    fn stopped(&self) {
        let _ = fs::remove_dir_all(&self.bundle);
        let state = json!({"ociVersion": "1.0.2", "id": self.id, "status": "stopped", "bundle": self.bundle});
        let run = hook("poststop", &state.to_string());
        assert_eq!((run.status, run.stdout.as_str(), run.stderr.as_str()), (Some(0), "", ""));
    }
}

/// Calls a hook, in the bare environment that runtimes give to hooks.
fn hook(arguments: &str, state: &str) -> Run {
    let arguments = format!("oci {arguments}");
    let arguments: Vec<&str> = arguments.split_whitespace().collect();
    let input = PathBuf::from(format!("{FILES}/state-{:?}", std::thread::current().id()));
    fs::write(&input, state).expect("write the state");
    let input = fs::File::open(input).expect("open the state");
    let mut command = cilmark(&arguments);
    command.stdin(input).stdout(Stdio::piped()).stderr(Stdio::piped());
    command.output().expect("run the hook").into()
}

/// A process in a namespace.
fn process(world: &World, namespace: &str) -> Running {
    let running = world.spawn(&format!("ip netns exec {namespace} sleep 1000"));
    wait_for("the process", || {
        world.sh(&format!("ip netns pids {namespace}")).trim() == running.pid().to_string()
    });
    running
}

/// Annotations, or labels, of an identity.
fn id(identity: u32) -> Value {
    json!({"cilmark.id": identity.to_string()})
}

/// Runs a command with its arguments, in an environment of which only `PATH` is left.
fn call(command: &mut Command) -> Run {
    command.env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
    command.output().expect("run it").into()
}
