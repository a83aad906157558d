//! What docs/cluster.md says to paste does what it says: two hosts and an etcd of three members.

use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;

use super::lab::world;
use crate::common::World;
use crate::common::pages::blocks;
use crate::common::process::{Run, Running};
use crate::common::world::wait_for;

/// Where the certificates are made.
const CA: &str = "/run/ca";

/// A machine: a network namespace on the bridge, with an /etc, a root and directories of its own.
struct Machine {
    name: &'static str,
    /// Holds its namespaces.
    init: Running,
}

impl Machine {
    fn new(world: &World, name: &'static str, address: &str) -> Machine {
        world.sh(&format!(
            "ip netns add {name}
             ip link add {name} type veth peer name eth0 netns {name}
             ip link set {name} master lan up
             nsenter --net=/run/netns/{name} sh -ec '
                ip link set lo up
                ip link add br0 type bridge
                ip link set eth0 master br0 up
                ip link set br0 up
                ip addr add {address}/24 dev br0'"
        ));
        let own = format!(
            "mkdir -p /run/{name}/data
             cp -a /etc /run/{name}
             mount --bind /run/{name}/etc /etc
             mkdir -p /etc/cilmark /etc/etcd /run/cilmark /var/lib/cilmark
             mount -t tmpfs run /run/cilmark
             mount -t tmpfs lib /var/lib/cilmark
             mount -t bpf bpf /sys/fs/bpf
             echo up
             exec sleep infinity"
        );
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "nsenter"]).arg(format!("--net=/run/netns/{name}"));
        command.args(["unshare", "-m", "--propagation", "private", "sh", "-ec", &own]);
        let init = Running::start(&mut command);
        init.stdout_line(|line| line == "up");
        Machine { name, init }
    }

    fn command(&self, shell: &str) -> Command {
        let folder = Path::new(env!("CARGO_BIN_EXE_cilmark")).parent().expect("its folder");
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "nsenter", "-n", "-m", "-t"]);
        command.arg(self.init.pid().to_string());
        command.args(["bash", "-ec", &format!("PATH={}:$PATH\n{shell}", folder.display())]);
        command
    }

    fn try_sh(&self, shell: &str) -> Output {
        self.command(shell).output().expect("run a shell")
    }

    fn sh(&self, shell: &str) -> String {
        let run = Run::from(self.try_sh(shell));
        assert_eq!(run.status, Some(0), "{} on {}: {run:?}", shell, self.name);
        run.stdout
    }

    fn start(&self, shell: &str) -> Running {
        Running::start(&mut self.command(&format!("exec {shell}")))
    }

    fn json(&self, arguments: &str) -> Value {
        serde_json::from_str(&self.sh(&format!("cilmark {arguments} --json"))).expect("JSON")
    }

    /// A workload on its bridge, as a container would be.
    fn workload(&self, world: &World, name: &str, address: &str) {
        world.sh(&format!(
            "ip netns add {name}
             ip -n {of} link add veth-{name} type veth peer name eth0 netns {name}
             ip -n {of} link set veth-{name} master br0 up
             ip -n {name} link set lo up
             ip -n {name} addr add {address}/24 dev eth0
             ip -n {name} link set eth0 up",
            of = self.name
        ));
    }
}

/// Without what is the package manager's and systemd's.
fn pasted(block: &str) -> String {
    let is_here = |line: &&str| !line.starts_with("apt-get") && !line.starts_with("systemctl");
    block.lines().filter(is_here).map(|line| format!("{line}\n")).collect()
}

fn connects(from: &str, to: &str, port: u16) -> bool {
    let socat = format!("socat -u OPEN:/dev/null TCP:{to}:{port},connect-timeout=1");
    let mut command = Command::new("nsenter");
    command.arg(format!("--net=/run/netns/{from}")).args(socat.split(' '));
    command.output().expect("run socat").status.success()
}

#[test]
fn two_hosts_come_to_policy_by_identity_by_pasting() {
    let Some(world) = world() else { return };
    world.sh(&format!(
        "mount -t tmpfs -o mode=755 run /run
         mount -t tmpfs -o mode=755 lib /var/lib
         mkdir -p /run/netns {CA}
         mount -t tmpfs netns /run/netns
         ip link add lan type bridge
         ip link set lan up"
    ));
    let page = include_str!("../../docs/cluster.md");
    let all = blocks(page, "## Two hosts, twenty commands", "sh");
    let [_install, certificates, member, init, users, services, attach, rule] = &all[..] else {
        panic!("{} blocks", all.len());
    };

    world.sh(&format!("cd {CA}; bash -ec '{certificates}'"));
    let names = [("e1", "192.0.2.11"), ("e2", "192.0.2.12"), ("e3", "192.0.2.13")];
    let members = names.map(|(name, address)| Machine::new(&world, name, address));
    let _etcd = [1, 2, 3].map(|n: usize| {
        let it = &members[n - 1];
        it.sh(&format!("cp {CA}/ca.crt {CA}/e{n}.* /etc/etcd; n={n}\n{}", pasted(member)));
        it.start(&format!("env $(cat /etc/default/etcd) etcd --data-dir=/run/e{n}/data/etcd"))
    });
    let root = |commands: &str| format!("cd {CA}\n{commands}");
    let health =
        "--endpoints=https://192.0.2.11:2379 --cacert=ca.crt --cert=root.crt --key=root.key";
    let healthy = root(&format!("ETCDCTL_API=3 etcdctl {health} endpoint health"));
    wait_for("etcd", || members[0].try_sh(&healthy).status.success());

    let h1 = Machine::new(&world, "h1", "192.0.2.21");
    let h2 = Machine::new(&world, "h2", "192.0.2.22");
    let join = |host: &Machine| {
        let name = host.name;
        host.sh(&format!("cp {CA}/ca.crt {CA}/host-{name}.* /etc/cilmark"));
        host.sh(&init
            .replace("host-h1", &format!("host-{name}"))
            .replace("--node h1", &format!("--node {name}")))
    };
    let told = join(&h1);
    let printed: Vec<&str> = told.lines().filter(|line| line.starts_with("etcdctl")).collect();
    assert!(printed.len() > 10, "{told}");
    let (exports, others) = users.split_once('\n').expect("lines");
    let (wanted, others) = others.split_once('\n').expect("lines");
    assert!(wanted.starts_with("etcdctl … "), "{wanted}");
    members[0].sh(&root(&[exports, &printed.join("\n"), others].join("\n")));
    join(&h2);

    let syncs = [&h1, &h2].map(|host| host.start("cilmark-sync"));
    for host in [&h1, &h2] {
        let doctor = pasted(services);
        wait_for("the doctor to be content", || host.try_sh(&doctor).status.success());
    }
    h1.workload(&world, "web", "192.0.2.100");
    h2.workload(&world, "db", "192.0.2.200");
    let (on_h1, on_h2) = attach.split_once('\n').expect("two lines");
    h1.sh(on_h1);
    h2.sh(on_h2);

    let web = || {
        let list = h2.json("cluster list");
        list.as_array().expect("a list").iter().find(|it| it["prefix"] == "192.0.2.100").cloned()
    };
    wait_for("h2 to know of web", || web().is_some());
    let number = web().expect("it is known")["identity"].to_string();
    assert_eq!(web().expect("it is known")["labels"], "app=web");
    h2.sh(&rule.replace("458753", &number));

    let mut listener = Command::new("nsenter");
    listener.args(["--net=/run/netns/db", "socat", "TCP-LISTEN:5432,fork", "OPEN:/dev/null"]);
    let _listener = Running::start(&mut listener);
    wait_for("web to reach db", || connects("web", "192.0.2.200", 5432));
    assert!(!connects("h1", "192.0.2.200", 5432), "nobody else reaches it");
    let drops = || h2.json("status")[0]["drops"].as_u64().expect("a number");
    assert!(drops() > 0, "that was db's policy");

    h1.sh("cilmark detach veth-web");
    wait_for("h2 to know of web no more", || web().is_none());
    assert!(!connects("web", "192.0.2.200", 5432));
    drop(syncs);
}
