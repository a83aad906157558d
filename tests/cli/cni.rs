//! `cilmark cni` as a runtime calls it: by the plugin's name, with its environment, a configuration on stdin, and a network
//! namespace as another plugin has left it.

mod add;
mod check;
mod del;
mod errors;
mod gc;
mod install;
mod packets;
mod said;
mod status;
mod versions;

use std::collections::BTreeMap;
use std::io::Write as _;
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Stdio};

use serde_json::{Value, json};

use crate::common::World;
use crate::common::process::{Run, cilmark};

/// All that are spoken.
const VERSIONS: [&str; 4] = ["0.3.1", "0.4.0", "1.0.0", "1.1.0"];

/// A call of the plugin, which ends with [`Ask::run`].
struct Ask {
    variables: BTreeMap<String, String>,
}

impl Ask {
    /// For `eth0` of the container `c1`, which is in the namespace `red`.
    fn new(command: &str) -> Ask {
        let variables = [
            ("CNI_COMMAND", command),
            ("CNI_CONTAINERID", "c1"),
            ("CNI_IFNAME", "eth0"),
            ("CNI_NETNS", "/run/netns/red"),
            ("CNI_PATH", "/opt/cni/bin"),
        ];
        Ask { variables: variables.map(|(name, value)| (name.to_owned(), value.to_owned())).into() }
    }

    /// For `eth0` of a container whose name is that of its namespace.
    fn of(command: &str, container: &str) -> Ask {
        let netns = format!("/run/netns/{container}");
        Ask::new(command).with("CNI_CONTAINERID", container).with("CNI_NETNS", &netns)
    }

    fn with(mut self, name: &str, value: &str) -> Ask {
        self.variables.insert(name.to_owned(), value.to_owned());
        self
    }

    fn without(mut self, name: &str) -> Ask {
        self.variables.remove(name);
        self
    }

    /// Starts it with this on stdin.
    fn start(&self, config: &[u8]) -> Child {
        let mut child = cilmark(&[])
            .arg0("/opt/cni/bin/cilmark-cni")
            .envs(&self.variables)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("run the plugin");
        child.stdin.take().expect("a pipe").write_all(config).expect("write the configuration");
        child
    }

    fn run(&self, config: &Value) -> Run {
        self.run_text(&config.to_string())
    }

    fn run_text(&self, config: &str) -> Run {
        self.start(config.as_bytes()).wait_with_output().expect("wait").into()
    }

    /// Runs it, which must succeed; what it prints, if that is anything.
    fn succeeds(&self, config: &Value) -> Option<Value> {
        let run = self.run(config);
        assert_eq!(run.status, Some(0), "{run:?}");
        (!run.stdout.is_empty()).then(|| serde_json::from_str(&run.stdout).expect("JSON"))
    }

    /// Runs it, which must fail with an error object of this code that has these words.
    fn fails(&self, config: &Value, code: u32, words: &[&str]) -> Value {
        is_error(&self.run(config), code, words)
    }
}

/// An error object, alone on stdout, of this code and with these words.
fn is_error(run: &Run, code: u32, words: &[&str]) -> Value {
    assert_eq!(run.status, Some(1), "{run:?}");
    let error: Value =
        serde_json::from_str(&run.stdout).unwrap_or_else(|error| panic!("{error}: {run:?}"));
    let keys: Vec<&String> = error.as_object().expect("an object").keys().collect();
    assert_eq!(keys, ["cniVersion", "code", "details", "msg"], "{error}");
    assert_eq!(error["code"], code, "{error}");
    let text =
        format!("{}; {}", error["msg"].as_str().unwrap(), error["details"].as_str().unwrap());
    for word in words {
        assert!(text.contains(word), "no `{word}` in: {text}");
    }
    error
}

/// What a plugin like ptp answers for `eth0` of a workload of this number.
fn result_of(version: &str, number: u8) -> Value {
    let mut result = json!({
        "cniVersion": version,
        "interfaces": [{"name": "vethX"}, {"name": "eth0", "sandbox": "/run/netns/x"}],
        "ips": [
            {"address": format!("10.{number}.0.10/24"), "interface": 1, "gateway": format!("10.{number}.0.1")},
            {"address": format!("fd00:{number}::10/64"), "interface": 1},
        ],
        "routes": [{"dst": "0.0.0.0/0"}],
        "dns": {},
    });
    if version.starts_with("0.") {
        (result["ips"][0]["version"], result["ips"][1]["version"]) = (json!("4"), json!("6"));
    }
    result
}

/// The configuration of the network `net` behind that, in a version, with these keys of ours.
fn config_in(version: &str, number: u8, keys: Value) -> Value {
    let mut config = json!({
        "cniVersion": version,
        "name": "net",
        "type": "cilmark-cni",
        "prevResult": result_of(version, number),
    });
    let keys = keys.as_object().expect("an object").clone();
    config.as_object_mut().expect("an object").extend(keys);
    config
}

/// The same for the workload 1, in a usual version.
fn config(keys: Value) -> Value {
    config_in("1.0.0", 1, keys)
}

/// The devices that are attached, by their names.
fn attached(world: &World) -> Vec<String> {
    let lines = world.cilmark_json("status");
    let name = |line: &Value| line["device"].as_str().unwrap().to_owned();
    lines.as_array().unwrap().iter().map(name).collect()
}

/// A world with the workload `red`, of number 1.
fn with_red() -> Option<World> {
    let world = World::new()?;
    world.workload("red", 1);
    Some(world)
}

/// Calls the OCI hook of a stage for a container in a network namespace.
fn oci(world: &World, stage: &str, container: &str, netns: &str, annotations: &Value) {
    let namespaces = json!([{"type": "network", "path": format!("/run/netns/{netns}")}]);
    let config = json!({"ociVersion": "1.0.2", "linux": {"namespaces": namespaces}});
    std::fs::create_dir_all("/run/netns/bundle").expect("make the bundle");
    std::fs::write("/run/netns/bundle/config.json", config.to_string()).expect("write it");
    let state = json!({"ociVersion": "1.0.2", "id": container, "status": "creating", "pid": 0,
        "bundle": "/run/netns/bundle", "annotations": annotations});
    let run = world.cilmark_with_input(&format!("oci {stage}"), &state.to_string());
    assert_eq!(run.status, Some(0), "{run:?}");
}
