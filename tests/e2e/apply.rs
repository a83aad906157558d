//! What packets meet while a file is applied, and where that is killed.

use std::cell::Cell;
use std::collections::BTreeSet;
use std::fs;
use std::net::UdpSocket;
use std::time::Duration;

use serde_json::{Value, json};

use crate::common::World;
use crate::common::steps::Steps;

/// Before: `red` is a web server, `blue` a database, `green` may ask it, `grey` goes, `white` comes.
const BEFORE: &str = r#"version = 1
[identities]
web = 1001
db = 1002
app = 1003
ops = 1010
[ipcache]
"10.9.0.10" = "ops"
"10.9.0.11" = 1011
"10.9.0.64/26" = "ops"
"10.9.0.128/25" = 1012
"10.9.0.192/26" = 1011
[rules]
web = ["allow ingress from ops udp/5001", "allow ingress from 1011 udp/5002", "allow egress to any udp/5001-5002"]
db = ["allow ingress from web udp/5001", "deny ingress from 1011", "allow ingress from any udp/5003"]
1020 = ["allow ingress from any udp/5001"]
[[endpoint]]
device = "red"
id = "web"
ip = ["10.1.0.10"]
policy = "enforce"
rules = ["allow egress to 1003 udp/5004"]
[[endpoint]]
device = "blue"
id = "db"
ip = ["10.2.0.10"]
policy = "enforce"
rules = ["allow ingress from app udp/5002", "allow egress to any udp/5001"]
[[endpoint]]
device = "green"
id = "app"
ip = ["10.3.0.10"]
policy = "enforce"
rules = ["allow ingress from 1006 udp/5004", "allow ingress from ops", "allow egress to any"]
[[endpoint]]
device = "grey"
id = 1020
ip = ["10.4.0.10"]
policy = "enforce"
rules = ["allow egress to db udp/5001-5002", "deny egress to app"]
"#;

/// After: peers have changed their identities, `red` and `green` have others, and everybody's rules differ.
const AFTER: &str = r#"version = 1
[identities]
web = 1001
db = 1002
app = 1004
admins = 1010
[ipcache]
"10.9.0.10" = 1011
"10.9.0.11" = "admins"
"10.9.0.64/26" = 1012
"10.9.0.128/26" = "admins"
"10.9.0.192/27" = 1012
[rules]
web = ["allow ingress from admins udp/5001", "allow ingress from 1011 udp/5003", "allow egress to any udp/5001-5002"]
db = ["allow ingress from 1006 udp/5001", "deny ingress from 1012", "allow ingress from any udp/5003"]
[[endpoint]]
device = "red"
id = 1006
ip = ["10.1.0.10"]
policy = "enforce"
rules = ["allow egress to 1003 udp/5004", "allow egress to db udp/5001", "allow ingress from any udp/5001"]
[[endpoint]]
device = "blue"
id = "db"
ip = ["10.2.0.10"]
policy = { ingress = "enforce", egress = "audit" }
rules = ["allow ingress from app udp/5002", "allow ingress from web udp/5002"]
[[endpoint]]
device = "green"
id = "app"
ip = ["10.3.0.10"]
policy = "enforce"
rules = ["allow ingress from 1006 udp/5004", "allow ingress from admins", "allow egress to db"]
[[endpoint]]
device = "white"
id = "web"
ip = ["10.5.0.10"]
policy = "enforce"
rules = ["allow ingress from 1006 udp/5001"]
"#;

const WORKLOADS: [(&str, u8); 5] =
    [("red", 1), ("blue", 2), ("green", 3), ("grey", 4), ("white", 5)];
const PORTS: [u16; 4] = [5001, 5002, 5003, 5004];

/// Addresses of `wan`, which is no endpoint.
const WAN: [&str; 6] =
    ["10.9.0.10", "10.9.0.11", "10.9.0.65", "10.9.0.129", "10.9.0.193", "10.9.0.225"];

/// A flow that is tried: from, to, port.
type Probe = (String, String, u16);

struct Watched {
    world: World,
    before: String,
    after: String,
    empty: String,
    probes: Vec<Probe>,
    servers: Vec<(String, u16, UdpSocket)>,
    /// The source port of the last flows that were tried.
    port: Cell<u16>,
}

/// A flow that is up.
struct Flow {
    probe: Probe,
    client: UdpSocket,
}

fn namespace(address: &str) -> &'static str {
    let is_its = |(_, number): &&(&str, u8)| address.starts_with(&format!("10.{number}."));
    WORKLOADS.iter().find(is_its).map_or("wan", |(name, _)| name)
}

/// Of flows that are up only these are sure to go on: both ends are endpoints before and after, or none, and who has begun
/// them keeps his identity. Who gets another one asks as that.
fn stays((from, to, _): &Probe) -> bool {
    let is = |address: &str, names: &[&str]| names.contains(&namespace(address));
    !is(from, &["red", "green", "grey", "white"]) && !is(to, &["grey", "white"])
}

impl Watched {
    fn new() -> Option<Watched> {
        let world = World::new()?;
        for (name, number) in WORKLOADS {
            world.workload(name, number);
        }
        world.workload("wan", 9);
        for address in &WAN[1..] {
            world.sh(&format!("ip -n wan addr add {address}/24 dev eth0"));
        }
        let write = |name: &str, text: &str| {
            let path = format!("/run/netns/{name}.toml");
            fs::write(&path, text).expect("write");
            path
        };
        let (before, after) = (write("before", BEFORE), write("after", AFTER));
        let empty = write("empty", "version = 1\n");
        let own: Vec<String> =
            WORKLOADS.iter().map(|(_, number)| format!("10.{number}.0.10")).collect();
        let from = own.iter().cloned().chain(WAN.map(str::to_owned));
        let mut probes = Vec::new();
        for from in from {
            for to in own.iter().filter(|to| **to != from) {
                probes.extend(PORTS.map(|port| (from.clone(), to.clone(), port)));
            }
        }
        let mut servers = Vec::new();
        for to in &own {
            for port in PORTS {
                let bind = || UdpSocket::bind((to.as_str(), port));
                let socket = world.inside(namespace(to), bind).expect("bind");
                socket.set_nonblocking(true).expect("a socket that does not wait");
                servers.push((to.clone(), port, socket));
            }
        }
        let watched =
            Watched { world, before, after, empty, probes, servers, port: Cell::new(10_000) };
        // Whoever has not asked for his neighbour yet loses more than policies say.
        watched.passing_now();
        Some(watched)
    }

    fn apply(&self, file: &str) -> String {
        format!("apply {file} --prune --yes")
    }

    /// Tries a new flow for each probe: those that pass. No two have one source port.
    fn passing_now(&self) -> BTreeSet<Probe> {
        self.port.set(self.port.get() + 1);
        self.drain();
        let senders: BTreeSet<&str> = self.probes.iter().map(|(from, ..)| from.as_str()).collect();
        for sender in senders {
            let (port, probes) = (self.port.get(), &self.probes);
            self.world.inside(namespace(sender), || {
                let socket = UdpSocket::bind((sender, port)).expect("bind");
                for (_, to, port) in probes.iter().filter(|(from, ..)| from == sender) {
                    _ = socket.send_to(b"new", (to.as_str(), *port));
                }
            });
        }
        self.drain()
    }

    /// What has come to the servers, by whom it is.
    fn drain(&self) -> BTreeSet<Probe> {
        let mut came = BTreeSet::new();
        for (to, port, server) in &self.servers {
            let mut bytes = [0; 16];
            while let Ok((length, from)) = server.recv_from(&mut bytes) {
                if &bytes[..length] == b"new" {
                    came.insert((from.ip().to_string(), to.clone(), *port));
                }
            }
        }
        came
    }

    /// Opens flows that pass.
    fn open(&self, probes: impl Iterator<Item = Probe>) -> Vec<Flow> {
        let open = |probe: Probe| {
            let bind = || UdpSocket::bind((probe.0.as_str(), 0));
            let client = self.world.inside(namespace(&probe.0), bind).expect("bind");
            client.connect((probe.1.as_str(), probe.2)).expect("connect");
            client.set_read_timeout(Some(Duration::from_millis(500))).expect("a timeout");
            Flow { probe, client }
        };
        let flows: Vec<Flow> = probes.map(open).collect();
        flows.iter().for_each(|flow| assert!(self.is_up(flow), "{:?}", flow.probe));
        flows
    }

    /// Whether a datagram arrives, and its answer.
    fn is_up(&self, flow: &Flow) -> bool {
        let (_, to, port) = &flow.probe;
        let server = self.servers.iter().find(|(ip, of, _)| ip == to && of == port);
        let server = &server.expect("a server").2;
        flow.client.send(b"old").expect("send");
        let client = flow.client.local_addr().expect("an address");
        let mut bytes = [0; 16];
        let mut patience = 1000;
        loop {
            match server.recv_from(&mut bytes) {
                Ok((_, from)) if from == client => break,
                Ok(_) => {}
                Err(_) if patience == 0 => return false,
                Err(_) => {
                    patience -= 1;
                    std::thread::yield_now();
                }
            }
        }
        server.send_to(b"answer", client).expect("answer");
        flow.client.recv(&mut bytes).is_ok()
    }

    /// What there is, but for what depends on how it has become so.
    fn state(&self) -> Value {
        let list = |command: &str| self.world.cilmark_json(command);
        let mut endpoints = list("status");
        for line in endpoints.as_array_mut().expect("a list") {
            for key in ["packets", "drops", "adopt", "endpoint_id"] {
                line[key] = Value::Null;
            }
        }
        endpoints.as_array_mut().expect("a list").sort_by_key(|line| line["device"].to_string());
        let rules = WORKLOADS.map(|(name, _)| {
            let run = self.world.cilmark(&format!("policy list {name} --json"));
            let list: Value = serde_json::from_str(&run.stdout).unwrap_or_default();
            let rules = list.as_array().into_iter().flatten();
            rules.map(|line| line["rule"].clone()).collect::<Vec<Value>>()
        });
        json!({
            "endpoints": endpoints,
            "rules": rules,
            "ipcache": list("ipcache list"),
            "names": list("identity list"),
            "export": self.world.cilmark_ok("export"),
        })
    }
}

/// A way from one file to another.
struct Way<'a> {
    file: &'a str,
    was: &'a BTreeSet<Probe>,
    is: &'a BTreeSet<Probe>,
}

impl Way<'_> {
    /// Nothing passes that passes neither before nor after, and what passes before and after goes on.
    fn is_kept(&self, watched: &Watched, flows: &[Flow], step: usize) {
        let passing = watched.passing_now();
        let open: Vec<&Probe> = passing.iter().filter(|it| !self.was.contains(it)).collect();
        let open: Vec<_> = open.into_iter().filter(|it| !self.is.contains(it)).collect();
        assert!(open.is_empty(), "{}, step {step}: {open:?} pass", self.file);
        let lost: Vec<&Probe> =
            flows.iter().filter(|flow| !watched.is_up(flow)).map(|flow| &flow.probe).collect();
        assert!(lost.is_empty(), "{}, step {step}: {lost:?} are lost", self.file);
    }
}

#[test]
fn a_file_that_is_applied_or_killed_while_it_is_opens_nothing_and_cuts_nothing() {
    let Some(watched) = Watched::new() else { return };
    let world = &watched.world;
    let [before, after] = [&watched.before, &watched.after].map(|file| {
        let empty = watched.empty.clone();
        world.cilmark_ok(&watched.apply(&empty));
        world.cilmark_ok(&watched.apply(file));
        (watched.passing_now(), watched.state())
    });
    let (to_before, to_after) = (watched.apply(&watched.before), watched.apply(&watched.after));
    let ways =
        [(&to_before, &to_after, &after.0, &before), (&to_after, &to_before, &before.0, &after)];
    for (there, back, was, (is, state)) in ways {
        let way = Way { file: there, was, is };
        let common = || was.intersection(is).filter(|it| stays(it)).cloned();
        let flows = watched.open(common());
        assert!(!flows.is_empty());
        let (mut steps, mut count) = (Steps::start(there), 0);
        while steps.go_on() {
            count += 1;
            way.is_kept(&watched, &flows, count);
        }
        steps.succeeds();
        way.is_kept(&watched, &flows, count);
        assert_eq!(watched.passing_now(), *is);
        assert_eq!(watched.state(), *state);
        world.cilmark_ok(back);
        let flows = watched.open(common());
        let mut steps = Steps::start(there);
        // At another one each time that the test runs.
        let at = std::process::id() as usize % count;
        (0..at).for_each(|_| _ = steps.go_on());
        steps.kill();
        way.is_kept(&watched, &flows, at);
        let (mut steps, mut step) = (Steps::start(there), 0);
        while steps.go_on() {
            step += 1;
            if step % 20 == 0 {
                way.is_kept(&watched, &flows, 1000 * at + step);
            }
        }
        steps.succeeds();
        way.is_kept(&watched, &flows, at);
        assert_eq!(watched.passing_now(), *is, "killed at {at}");
        assert_eq!(watched.state(), *state, "killed at {at}");
    }
}
