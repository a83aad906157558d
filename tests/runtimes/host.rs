//! A host of its own for each test, which `host.sh` makes: it has its own network, mounts, processes and cgroups, and
//! goes with the test, whatever runs there. Its uplink eth0 leads to 198.51.100.1, where what arrives is noted.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{BufRead, BufReader};
use std::panic::resume_unwind;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc;
use std::thread::{self, Builder};

use serde_json::Value;

use super::Workload;
use super::docker::Docker;
use crate::common::machine;
use crate::common::process::{Run, Running, text};
use crate::common::world::wait_for;

const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/runtimes/host.sh");
const WORKLOAD: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/runtimes/workload.c");
const PATH: &str = "/usr/sbin:/usr/bin:/sbin:/bin";

/// The kinds of namespaces that a host has of its own.
const NAMESPACES: [&str; 5] = ["cgroup", "mnt", "net", "pid", "uts"];

/// Joins the host's cgroup before its namespaces, which a process outside cannot leave.
const ENTER: &str = r#"echo 0 >"$1/init/cgroup.procs"
first=$2
shift 2
exec nsenter --target "$first" --mount --net --pid --uts --cgroup -- "$@""#;

pub struct Host {
    script: Child,
    first: String,
    cgroup: String,
}

/// A datagram of a workload as the host sees it first, behind the hook.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seen {
    pub mark: u32,
    pub port: u32,
    pub number: u32,
}

impl Host {
    /// `None`, loudly, unless the tier is asked for. /var/host/image is the root file system of workloads: busybox and
    /// `/bin/workload`. What goes to /var/host/log is shown if the test fails.
    pub fn new() -> Option<Host> {
        if std::env::var("CILMARK_RUNTIMES").as_deref() != Ok("1") {
            machine::skip("starts real runtimes: `make test-runtimes` does");
            return None;
        }
        if !machine::is_root() {
            return None;
        }
        let mut script = Command::new(SCRIPT)
            .arg(env!("CARGO_BIN_EXE_cilmark"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("run host.sh");
        let mut line = String::new();
        BufReader::new(script.stdout.take().expect("a pipe")).read_line(&mut line).expect("read");
        let words: Vec<&str> = line.split_whitespace().collect();
        let ["host", first, cgroup] = words[..] else { panic!("host.sh said `{line}`") };
        let host = Host { script, first: first.to_owned(), cgroup: cgroup.to_owned() };
        host.sh(&format!(
            "mkdir -p /var/host/image/bin /var/host/image/dev /var/host/image/proc /var/host/image/sys /var/host/image/etc
             cp /bin/busybox /var/host/image/bin
             for name in sh ip sleep; do ln -s busybox /var/host/image/bin/$name; done
             cc -static -O1 -o /var/host/image/bin/workload {WORKLOAD}"
        ));
        Some(host)
    }

    /// A command in the host.
    pub fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new("sh");
        command.args(["-ec", ENTER, "sh", &self.cgroup, &self.first]).args(words);
        command.env_clear().env("PATH", PATH).env("HOME", "/root");
        command
    }

    /// Runs a shell command that must succeed; its stdout.
    pub fn sh(&self, command: &str) -> String {
        let run = self.try_sh(command);
        assert_eq!(run.status, Some(0), "`{command}` failed: {}{}", run.stdout, run.stderr);
        run.stdout
    }

    /// Runs a shell command.
    pub fn try_sh(&self, command: &str) -> Run {
        let output = self.command(&["sh", "-ec", command]).stdin(Stdio::null()).output();
        output.expect("run sh").into()
    }

    /// Starts a shell command and leaves it running. What it starts goes with the host.
    pub fn spawn(&self, command: &str) -> Running {
        Running::start(&mut self.command(&["sh", "-ec", &format!("exec {command}")]))
    }

    /// Starts a daemon, whose output goes to a file of its name in /var/host/log, and waits until `answers` succeeds.
    pub fn daemon(&self, command: &str, answers: &str) {
        let name = command.split_whitespace().next().expect("a command");
        self.sh(&format!("setsid {command} >>/var/host/log/{name} 2>&1 </dev/null &"));
        wait_for(name, || self.try_sh(answers).status == Some(0));
    }

    /// Kills the processes whose numbers a shell command prints, in this order. The end of one may be that of the next.
    pub fn kill(&self, victims: &str) {
        self.sh(&format!(
            "pids=$({victims}); test -n \"$pids\"; kill -KILL $pids 2>/dev/null || true"
        ));
    }

    /// Writes a file, in directories that need not be there.
    pub fn write(&self, path: &str, content: &str) {
        let write = r#"mkdir -p "$(dirname "$1")" && printf %s "$2" >"$1""#;
        let output = self.command(&["sh", "-ec", write, "sh", path, content]).output();
        let output: Output = output.expect("run sh");
        assert!(output.status.success(), "write {path}: {}", text(&output.stderr));
    }

    /// What `cilmark status` says of every endpoint.
    pub fn status(&self) -> Vec<Value> {
        let stdout = self.sh("cilmark status --json");
        serde_json::from_str(&stdout).unwrap_or_else(|error| panic!("{error} in {stdout}"))
    }

    /// Waits until cilmark has no endpoint and no pin, as before the first workload.
    pub fn nothing_is_left(&self) {
        // Runtimes clean up behind the back of whoever stopped a workload.
        wait_for("endpoints and pins to go", || {
            self.status().is_empty()
                && self.sh("find /sys/fs/bpf -mindepth 1 ! -name '*.debug'").is_empty()
        });
    }

    /// Waits until there is one endpoint, of this owner, on a device that is there.
    pub fn one_endpoint_of(&self, owner: &str) {
        wait_for("one endpoint", || {
            let status = self.status();
            status.len() == 1 && status[0]["owner"] == *owner && status[0]["stale"] != true
        });
    }

    /// All processes die, and with them all that the kernel, /run and bpffs know. The disk stays.
    pub fn reboot(&self) {
        // Whoever waits for it in there would die, too.
        let run: Run = self.command(&[SCRIPT, "--reboot"]).output().expect("run host.sh").into();
        assert_eq!(run.status, Some(0), "{run:?}");
        assert!(self.status().is_empty(), "after a reboot");
    }

    /// The datagrams that came out of workloads since the last [`Host::forget`].
    pub fn seen(&self) -> Vec<Seen> {
        let datagram = |words: &[u32]| Seen { mark: words[0], port: words[1], number: words[2] };
        self.set("", "seen").iter().map(|words| datagram(words)).collect()
    }

    /// Those that arrived outside: port and number.
    pub fn arrived(&self) -> Vec<(u32, u32)> {
        let datagrams = self.set("nsenter --net=/var/host/outside", "arrived");
        datagrams.iter().map(|words| (words[0], words[1])).collect()
    }

    /// Forgets what was seen and what arrived.
    pub fn forget(&self) {
        self.sh("nft flush set inet claims seen
                 nsenter --net=/var/host/outside nft flush set inet claims arrived");
    }

    fn set(&self, prefix: &str, name: &str) -> Vec<Vec<u32>> {
        let stdout = self.sh(&format!("{prefix} nft -j list set inet claims {name}"));
        let answer: Value = serde_json::from_str(&stdout).expect("JSON of nft");
        let sets = answer["nftables"].as_array().expect("a list");
        let set = sets.iter().find_map(|entry| entry.get("set")).expect("the set");
        let elements = set["elem"].as_array().map_or(&[][..], Vec::as_slice);
        let number = |word: &Value| word.as_u64().expect("a number") as u32;
        let words = |element: &Value| {
            element["concat"].as_array().expect("fields").iter().map(number).collect()
        };
        elements.iter().map(words).collect()
    }
}

/// What a test that fails wants to know: of each mark and port the numbers.
fn show(what: &str, datagrams: impl Iterator<Item = ((u32, u32), u32)>) {
    let mut numbers: BTreeMap<(u32, u32), BTreeSet<u32>> = BTreeMap::new();
    for (of, number) in datagrams {
        numbers.entry(of).or_default().insert(number);
    }
    for ((mark, port), numbers) in numbers {
        let first: Vec<u32> = numbers.iter().copied().take(8).collect();
        eprintln!("{what}: mark {mark:#x}, port {port}: {} from {first:?} on", numbers.len());
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        if thread::panicking() {
            let state = "tail -n 20 /var/host/log/* | cut -c 1-300; find /sys/fs/bpf; cilmark status; cilmark metrics; ip -br link";
            eprintln!("{}", self.try_sh(state).stdout);
            show("seen", self.seen().iter().map(|it| ((it.mark, it.port), it.number)));
            show("arrived", self.arrived().iter().map(|it| ((0, it.0), it.1)));
        }
        // Its end is that of the host.
        drop(self.script.stdin.take());
        let ended = self.script.wait();
        if !thread::panicking() {
            assert!(ended.is_ok_and(|status| status.success()), "host.sh did not clean up");
        }
    }
}

/// Where runtimes write, and what is mounted on this machine.
fn machine_state() -> String {
    let state = "cat /proc/self/mounts; ls -lA --time-style=full-iso \
        /dev/shm /etc/docker /etc/containers /etc/cni /etc/lxc /etc/libvirt /opt /usr/share/containers /var/cache \
        /var/lib/docker /var/lib/containerd /var/lib/containers /var/lib/cni /var/lib/lxc /var/lib/libvirt 2>&1";
    text(&Command::new("sh").args(["-c", state]).output().expect("run sh").stdout)
}

/// Which processes are in a namespace, of any kind.
fn processes_in(namespaces: &[PathBuf]) -> Vec<PathBuf> {
    let is_process = |path: &PathBuf| path.join("ns").exists();
    let processes = fs::read_dir("/proc").expect("/proc").flatten().map(|entry| entry.path());
    let is_in = |process: &PathBuf| {
        let links = NAMESPACES.iter().map(|kind| fs::read_link(process.join("ns").join(kind)));
        links.flatten().any(|link| namespaces.contains(&link))
    };
    processes.filter(is_process).filter(is_in).collect()
}

#[test]
fn nothing_of_a_host_outlives_a_test_that_fails() {
    let before = machine_state();
    let (sender, receiver) = mpsc::channel();
    let test = move || {
        let Some(docker) = Docker::new() else { return };
        docker.run(&Workload::new(1), "--restart always");
        let Host { first, cgroup, .. } = &docker.host;
        let link = |kind: &&str| fs::read_link(format!("/proc/{first}/ns/{kind}")).expect("a link");
        let namespaces: Vec<PathBuf> = NAMESPACES.iter().map(link).collect();
        let inside = processes_in(&namespaces).len();
        sender.send((namespaces, inside, cgroup.clone())).expect("send");
        panic!("as a test fails");
    };
    let name = thread::current().name().unwrap_or("a test").to_owned();
    let failed = Builder::new().name(name).spawn(test).expect("start a thread").join();
    let Ok((namespaces, inside, cgroup)) = receiver.recv() else {
        return failed.unwrap_or_else(|panic| resume_unwind(panic));
    };
    assert!(inside >= 4, "the first process, dockerd, containerd, a shim and a workload");
    assert_eq!(processes_in(&namespaces), [] as [PathBuf; 0]);
    assert!(!Path::new(&cgroup).exists(), "{cgroup}");
    assert_eq!(machine_state(), before);
}
