//! A network with stores and hosts, from each other of which they can be cut off, and directories that nobody else has.
//!
//! ```text
//!        here (10.9.0.1) ── lan ─┬── etcd of a cluster: a network namespace a member, 10.9.N.M
//!                                └── hosts: a network namespace each, 10.9.100.N, fd00:9::N
//!                                      └── workloads: 10.N.W.10, fd00:N:W::10
//! ```

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::certificates::Authority;
use super::store::Store;
use crate::common::World;
use crate::common::machine;
use crate::common::process::Running;
use crate::common::world::wait_for;

/// Where all of a lab's files are: in memory, and only to be seen by its test.
const DIRECTORY: &str = "/run/lab";

/// What the stores and hosts of a test have in common.
pub struct Lab {
    pub world: World,
    pub authority: Authority,
}

/// A test's own namespaces; `None`, loudly, unless the tier is asked for.
pub fn world() -> Option<World> {
    if std::env::var("CILMARK_CLUSTER").as_deref() != Ok("1") {
        machine::skip("starts real etcds: `make test-cluster` does");
        return None;
    }
    World::new()
}

impl Lab {
    /// `None`, loudly, if the test does not run as root, or the tier is not asked for.
    pub fn new() -> Option<Lab> {
        let world = world()?;
        // What cilmark keeps there is of this test, as /sys/fs/bpf is.
        world.sh("mount -t tmpfs -o mode=755 run /run
             mount -t tmpfs -o mode=755 lib /var/lib
             mkdir -p /run/netns
             mount -t tmpfs netns /run/netns
             ip link add lan type bridge
             ip addr add 10.9.0.1/16 dev lan
             ip link set lan up");
        let authority = Authority::new(&Path::new(DIRECTORY).join("certificates"));
        authority.sign_client("root");
        Some(Lab { world, authority })
    }

    /// The etcd of a cluster with this number, by so many members, with Cilium's users and the hosts'.
    pub fn store(&self, cluster: &str, number: u16, members: usize) -> Store<'_> {
        Store::start(self, cluster, number, members)
    }

    /// A new directory.
    pub fn directory(&self, name: &str) -> PathBuf {
        let directory = Path::new(DIRECTORY).join(name);
        fs::create_dir_all(&directory).expect("create a directory of the lab");
        directory
    }

    /// A network namespace on the bridge, with `eth0` there and the port `name` here.
    pub fn namespace(&self, name: &str, address: &str) {
        self.world.sh(&format!(
            "sysctl -qw net.ipv6.conf.default.accept_dad=0
             ip netns add {name}
             ip link add {name} type veth peer name eth0 netns {name}
             ip link set {name} master lan up
             ip -n {name} link set lo up
             ip -n {name} addr add {address}/16 dev eth0
             ip -n {name} link set eth0 up"
        ));
        let ends = format!("ip -br link show dev {name}; ip -n {name} -br link show dev eth0");
        wait_for("the carrier", || self.world.sh(&ends).matches(" UP ").count() == 2);
    }

    /// Cuts a namespace off from an address: packets vanish both ways, and nobody is told.
    pub fn cut(&self, namespace: &str, address: &str) {
        let table = table_of(address);
        let chain = |hook: &str, field: &str| {
            format!(
                "add chain {table} {hook} {{ type filter hook {hook} priority 0; }}
                 add rule {table} {hook} ip {field} {address} drop\n"
            )
        };
        let (input, output) = (chain("input", "saddr"), chain("output", "daddr"));
        self.nft(namespace, &format!("add table {table}\n{input}{output}"));
    }

    /// Connects them again.
    pub fn heal(&self, namespace: &str, address: &str) {
        self.nft(namespace, &format!("delete table {}", table_of(address)));
    }

    fn nft(&self, namespace: &str, commands: &str) {
        self.world.sh(&format!("nsenter --net=/run/netns/{namespace} nft '{commands}'"));
    }

    /// Starts a command in a namespace. It ends with the guard, or with this thread.
    pub fn start(
        &self,
        namespace: &str,
        program: &Path,
        options: impl FnOnce(&mut Command),
    ) -> Running {
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "nsenter"]);
        command.arg(format!("--net=/run/netns/{namespace}")).arg(program);
        options(&mut command);
        Running::start(&mut command)
    }
}

/// What drops the packets of an address.
fn table_of(address: &str) -> String {
    format!("inet cut_{}", address.replace('.', "_"))
}
