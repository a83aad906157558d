//! A host of a cluster: a network namespace with a root of its own, workloads behind it, and cilmark-sync.

use std::collections::BTreeMap;
use std::fs;
use std::io::ErrorKind;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::Duration;

use cilmark::model::origin::Origin;
use cilmark::ops::cluster::run_directory;
use cilmark::state::ipcache::Ipcache;
use cilmark::state::pin::Root;
use ipnet::IpNet;
use nix::sys::signal::Signal;
use serde_json::Value;

use super::lab::Lab;
use super::store::Store;
use crate::common::process::{Run, Running};
use crate::common::world::wait_for;

/// Puts the time of day that a file says in the place of the machine's.
fn libfaketime() -> String {
    format!("/usr/lib/{}-linux-gnu/faketime/libfaketime.so.1", std::env::consts::ARCH)
}

/// Those that its unit leaves it, as setpriv takes them.
fn capabilities() -> String {
    let unit = include_str!("../../packaging/systemd/cilmark-sync.service");
    let line = unit.lines().find_map(|line| line.strip_prefix("CapabilityBoundingSet="));
    let names = line.expect("the unit has a bounding set").split(' ');
    let added = names.map(|name| format!("+{}", name.trim_start_matches("CAP_").to_lowercase()));
    added.collect::<Vec<_>>().join(",")
}

/// What is asked of a host's cilmark-sync, beside which cluster it is in.
#[derive(Debug, Clone, Copy)]
pub struct Settings<'a> {
    pub lease: &'a str,
    pub stale: &'a str,
    /// Further lines of the configuration.
    pub more: &'a str,
    /// Whether its clock is what [`Host::set_clock`] says, and not the machine's.
    pub has_own_clock: bool,
}

impl Default for Settings<'_> {
    fn default() -> Self {
        Settings { lease: "10s", stale: "1h", more: "", has_own_clock: false }
    }
}

/// A host. Its cilmark-sync runs between [`Host::start`] and [`Host::kill`].
pub struct Host<'lab> {
    lab: &'lab Lab,
    /// Its name, its namespace's, its device's on the bridge, and its user's in etcd.
    pub name: String,
    number: u8,
    sync: Mutex<Option<Running>>,
}

impl<'lab> Host<'lab> {
    /// A host that shares nothing yet: 10.9.100.N and fd00:9::N, N from 1 to 9.
    pub fn new(lab: &'lab Lab, number: u8) -> Host<'lab> {
        let name = format!("h{number}");
        lab.namespace(&name, &format!("10.9.100.{number}"));
        lab.world.sh(&format!(
            "ip -n {name} addr add fd00:9::{number}/64 dev eth0 nodad
             nsenter --net=/run/netns/{name} sysctl -qw \
                net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1"
        ));
        Host { lab, name, number, sync: Mutex::default() }
    }

    /// The routes to the workloads of others.
    pub fn route_to(&self, others: &[Host<'_>]) {
        for other in others.iter().filter(|other| other.number != self.number) {
            let (name, number) = (&self.name, other.number);
            self.lab.world.sh(&format!(
                "ip -n {name} route add 10.{number}.0.0/16 via 10.9.100.{number}
                 ip -n {name} -6 route add fd00:{number}::/32 via fd00:9::{number}"
            ));
        }
    }

    /// Where its pins are.
    pub fn root(&self) -> Root {
        Root::new(PathBuf::from(format!("/sys/fs/bpf/{}", self.name)))
    }

    /// Whether an address is one of its own workloads'.
    pub fn is_home_of(&self, prefix: &IpNet) -> bool {
        let networks = [format!("10.{}.0.0/16", self.number), format!("fd00:{}::/32", self.number)];
        networks.iter().any(|network| network.parse::<IpNet>().expect("a network").contains(prefix))
    }

    fn file(&self, name: &str) -> PathBuf {
        self.lab.directory(&self.name).join(name)
    }

    /// Makes it a host of a store's cluster, and a user there.
    pub fn join(&self, store: &Store<'_>, settings: Settings<'_>) {
        store.add_user(&self.name, "host");
        self.configure(store, settings);
    }

    /// The same of a host that the store knows already.
    pub fn configure(&self, store: &Store<'_>, settings: Settings<'_>) {
        store.client_file(&self.name, &self.file("etcd"));
        fs::create_dir_all(self.file("remotes")).expect("create the remotes' directory");
        let Settings { lease, stale, more, has_own_clock } = settings;
        if has_own_clock {
            self.set_clock(0);
        }
        let (cluster, id, name) = (&store.cluster, store.number, &self.name);
        let config = format!(
            "name = '{cluster}'
             id = {id}
             node = '{name}'
             etcd = 'etcd'
             remotes = 'remotes'
             publish = true
             lease = '{lease}'
             stale = '{stale}'
             {more}\n"
        );
        fs::write(self.file("cluster.toml"), config).expect("write the configuration");
    }

    /// Sets the clock of its cilmark-sync so many seconds before or behind the machine's. What runs on goes on, as where an
    /// operator or NTP sets the clock: only the time of day jumps.
    pub fn set_clock(&self, seconds: i64) {
        fs::write(self.file("clock"), format!("{seconds:+}s")).expect("write the clock");
    }

    /// Makes it read another cluster, as the user `remote` there.
    pub fn read(&self, store: &Store<'_>) {
        store.client_file("remote", &self.file("remotes").join(&store.cluster));
    }

    /// Makes it read what the KVStoreMesh of a cluster has of another one.
    pub fn read_cache(&self, store: &Store<'_>, cluster: &str) {
        store.client_file("local", &self.file("remotes").join(cluster));
    }

    /// Makes it read that no longer.
    pub fn read_no_longer(&self, cluster: &str) {
        fs::remove_file(self.file("remotes").join(cluster)).expect("remove a client file");
    }

    /// Starts its cilmark-sync, and waits until that says that it is ready.
    pub fn start(&self) {
        self.is_ready(&self.start_unready());
    }

    /// Waits until it says that it is ready.
    pub fn is_ready(&self, socket: &UnixDatagram) {
        socket.set_nonblocking(true).expect("make the socket non-blocking");
        let mut message = [0; 4096];
        wait_for("cilmark-sync to be ready", || {
            let ended = self.sync.lock().expect("not poisoned").as_mut().and_then(Running::ended);
            assert_eq!(ended, None, "cilmark-sync of {} ends", self.name);
            let Ok(length) = socket.recv(&mut message) else { return false };
            String::from_utf8_lossy(&message[..length]).lines().any(|line| line == "READY=1")
        });
    }

    /// Starts it, and does not wait. It says by this socket how it is.
    pub fn start_unready(&self) -> UnixDatagram {
        let path = self.file("notify");
        match fs::remove_file(&path) {
            Err(error) if error.kind() != ErrorKind::NotFound => panic!("{error}"),
            _ => {}
        }
        let socket = UnixDatagram::bind(&path).expect("bind the socket of systemd");
        let binary = Path::new(env!("CARGO_BIN_EXE_cilmark")).with_file_name("cilmark-sync");
        let clock = self.file("clock");
        let running = self.lab.start(&self.name, Path::new("setpriv"), |command| {
            let log = std::env::var_os("RUST_LOG");
            command.env_clear().env("NOTIFY_SOCKET", &path);
            command.envs(log.map(|log| ("RUST_LOG", log)));
            if clock.exists() {
                command
                    .env("LD_PRELOAD", libfaketime())
                    .env("FAKETIME_TIMESTAMP_FILE", &clock)
                    .env("FAKETIME_NO_CACHE", "1")
                    .env("FAKETIME_DONT_FAKE_MONOTONIC", "1");
            }
            command
                .args(["--no-new-privs", "--inh-caps=-all"])
                .arg(format!("--bounding-set=-all,{}", capabilities()))
                .arg(&binary)
                .arg("--config")
                .arg(self.file("cluster.toml"))
                .arg("--bpffs")
                .arg(self.root().path());
        });
        *self.sync.lock().expect("not poisoned") = Some(running);
        socket
    }

    /// Kills its cilmark-sync.
    pub fn kill(&self) {
        drop(self.sync.lock().expect("not poisoned").take().expect("cilmark-sync runs"));
    }

    /// Sends its cilmark-sync a signal.
    pub fn signal(&self, signal: Signal) {
        self.sync.lock().expect("not poisoned").as_ref().expect("cilmark-sync runs").signal(signal);
    }

    /// Asks it to end, and waits until it has.
    pub fn stop(&self) {
        let mut running =
            self.sync.lock().expect("not poisoned").take().expect("cilmark-sync runs");
        running.signal(Signal::SIGTERM);
        assert!(running.wait().success(), "cilmark-sync fails at its end");
    }

    /// What it says of itself, if it has said anything yet.
    pub fn state(&self) -> Option<Value> {
        let file = run_directory(&self.root()).join("cluster.json");
        let text = fs::read_to_string(file).ok()?;
        Some(serde_json::from_str(&text).expect("JSON in cluster.json"))
    }

    /// What it says of a cluster, if it knows it.
    pub fn state_of(&self, cluster: &str) -> Option<Value> {
        let mut state = self.state()?;
        let clusters = state["clusters"].as_array_mut()?;
        clusters.iter_mut().find(|it| it["name"] == cluster).map(Value::take)
    }

    /// Runs cilmark on it, with arguments that are separated by spaces.
    pub fn cilmark(&self, arguments: &str) -> Run {
        let binary = env!("CARGO_BIN_EXE_cilmark");
        let root = self.root();
        let output = self.lab.world.try_sh(&format!(
            "exec nsenter --net=/run/netns/{} {binary} --bpffs {} {arguments}",
            self.name,
            root.path().display(),
        ));
        output.into()
    }

    /// The same, which must succeed; its stdout.
    pub fn cilmark_ok(&self, arguments: &str) -> String {
        let run = self.cilmark(arguments);
        assert_eq!(run.status, Some(0), "`cilmark {arguments}` on {}: {}", self.name, run.stderr);
        run.stdout
    }

    /// What `cilmark cluster` says, as JSON.
    pub fn cluster_json(&self, arguments: &str) -> Value {
        let config = self.file("cluster.toml");
        let arguments = format!("cluster --config {} --json {arguments}", config.display());
        let stdout = self.cilmark_ok(&arguments);
        serde_json::from_str(&stdout).unwrap_or_else(|error| panic!("{error} in {stdout}"))
    }

    /// A workload behind it: the namespace `hN-wM`, and here the veth `wM`, with 10.N.M.10 and fd00:N:M::10.
    pub fn workload(&self, number: u8) -> Workload {
        let (host, of) = (&self.name, self.number);
        let namespace = format!("{host}-w{number}");
        let device = format!("w{number}");
        self.lab.world.sh(&format!(
            "ip netns add {namespace}
             ip -n {host} link add {device} type veth peer name eth0 netns {namespace}
             ip -n {host} addr add 10.{of}.{number}.1/24 dev {device}
             ip -n {host} addr add fd00:{of}:{number}::1/64 dev {device} nodad
             ip -n {host} link set {device} up
             ip -n {namespace} link set lo up
             ip -n {namespace} addr add 10.{of}.{number}.10/24 dev eth0
             ip -n {namespace} addr add fd00:{of}:{number}::10/64 dev eth0 nodad
             ip -n {namespace} link set eth0 up
             ip -n {namespace} route add default via 10.{of}.{number}.1
             ip -n {namespace} -6 route add default via fd00:{of}:{number}::1"
        ));
        let ends = format!(
            "ip -n {host} -br link show dev {device}; ip -n {namespace} -br link show dev eth0"
        );
        wait_for("the carrier", || self.lab.world.sh(&ends).matches(" UP ").count() == 2);
        Workload {
            address: format!("10.{of}.{number}.10"),
            address6: format!("fd00:{of}:{number}::10"),
            namespace,
            device,
        }
    }

    /// What clusters have made of its ipcache.
    pub fn lines(&self) -> Lines {
        lines(&self.root())
    }

    /// The number of an address there, whoever has said it.
    pub fn number(&self, address: &str) -> Option<u32> {
        let ipcache = Ipcache::open(&self.root()).ok()??;
        let known = ipcache.known(address.parse().expect("an address"));
        known.expect("ask the ipcache").map(|(identity, _)| identity.0)
    }

    /// Waits, so long at most, until clusters have made just this of its ipcache.
    pub fn comes_to(&self, expected: &Lines, within: Duration) {
        super::within(within, "the ipcache", || self.has(expected));
    }

    /// Whether clusters have made just this of its ipcache; what differs.
    pub fn has(&self, expected: &Lines) -> Result<(), String> {
        let lines = self.lines();
        match lines == *expected {
            true => Ok(()),
            false => Err(format!("{}: {:#?}", self.name, Difference(&lines, expected))),
        }
    }
}

impl Drop for Host<'_> {
    fn drop(&mut self) {
        if let Some(running) =
            self.sync.get_mut().expect("not poisoned").take().filter(|_| std::thread::panicking())
        {
            eprintln!("cilmark-sync of {} said:\n{}", self.name, running.said().join("\n"));
        }
    }
}

/// A workload behind a host.
pub struct Workload {
    pub namespace: String,
    /// The host's end.
    pub device: String,
    pub address: String,
    pub address6: String,
}

/// Numbers of prefixes.
pub type Lines = BTreeMap<IpNet, u32>;

/// What clusters have made of a root's ipcache, whose maps come with the first line or endpoint, and go with the last.
pub fn lines(root: &Root) -> Lines {
    // They may go between the look for them and the opening.
    let Ok(Some(ipcache)) = Ipcache::open(root) else { return Lines::new() };
    let lines = ipcache.lines().expect("read the ipcache").into_iter();
    let of_clusters = lines.filter(|line| line.origin == Origin::Cluster && line.owner.is_none());
    of_clusters.map(|line| (line.prefix, line.identity.0)).collect()
}

/// Of lines and those that were expected.
struct Difference<'a>(&'a Lines, &'a Lines);

impl std::fmt::Debug for Difference<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Difference(lines, expected) = self;
        let without = |these: &Lines, those: &Lines| {
            let differs = |(prefix, number): &(&IpNet, &u32)| those.get(prefix) != Some(number);
            let list =
                these.iter().filter(differs).map(|(prefix, number)| format!("{prefix} {number}"));
            list.collect::<Vec<_>>()
        };
        f.debug_struct("lines")
            .field("missing", &without(expected, lines))
            .field("too many", &without(lines, expected))
            .finish()
    }
}
