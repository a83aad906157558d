//! The etcd of a cluster: its members, how they fail, and who may do what there.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed};

use nix::sys::signal::Signal;

use super::lab::Lab;
use crate::common::process::Running;
use crate::common::world::wait_for;

/// A store of one or three members, each in a network namespace of its own.
pub struct Store<'lab> {
    pub lab: &'lab Lab,
    /// The cluster's name.
    pub cluster: String,
    /// The cluster's number.
    pub number: u16,
    members: Vec<Member>,
    /// How many stores there were at these addresses: a store's number comes of this.
    token: AtomicU32,
    /// Users and their roles, beside root.
    users: Mutex<Vec<(String, String)>>,
}

struct Member {
    /// Its name, and its namespace's.
    name: String,
    address: String,
    running: Mutex<Option<Running>>,
    /// Whether it runs and does not answer.
    is_away: AtomicBool,
}

impl Member {
    fn endpoint(&self) -> String {
        format!("https://{}:2379", self.address)
    }

    fn stop(&self) {
        self.running.lock().expect("not poisoned").take();
        self.is_away.store(false, Relaxed);
    }
}

impl<'lab> Store<'lab> {
    /// Starts the members and makes the users.
    pub fn start(lab: &'lab Lab, cluster: &str, number: u16, members: usize) -> Store<'lab> {
        let members = (1..=members).map(|member| Member {
            name: format!("etcd{number}-{member}"),
            address: format!("10.9.{number}.{member}"),
            running: Mutex::default(),
            is_away: AtomicBool::default(),
        });
        let store = Store {
            lab,
            cluster: cluster.to_owned(),
            number,
            members: members.collect(),
            token: AtomicU32::default(),
            users: Mutex::default(),
        };
        for member in &store.members {
            lab.namespace(&member.name, &member.address);
            lab.authority.sign_server(&member.name, std::slice::from_ref(&member.address));
        }
        store.start_all();
        store.make_users();
        store.add_user("remote", "remote");
        store
    }

    /// Where its members listen.
    pub fn all(&self) -> Vec<String> {
        self.members.iter().map(Member::endpoint).collect()
    }

    /// Where those of its members listen that run now.
    pub fn running(&self) -> Vec<String> {
        let runs = |member: &&Member| {
            member.running.lock().expect("not poisoned").is_some() && !member.is_away.load(Relaxed)
        };
        self.members.iter().filter(runs).map(Member::endpoint).collect()
    }

    /// The address of a member, the first of which is 0.
    pub fn address(&self, member: usize) -> &str {
        &self.members[member].address
    }

    /// Writes a client file, as Cilium mounts it, for a user.
    pub fn client_file(&self, user: &str, file: &Path) {
        let authority = &self.lab.authority;
        let mut text = String::from("endpoints:\n");
        for endpoint in self.all() {
            text += &format!("- {endpoint}\n");
        }
        let files = [
            ("trusted-ca-file", authority.authority_file()),
            ("cert-file", authority.certificate_file(user)),
            ("key-file", authority.key_file(user)),
        ];
        for (key, file) in files {
            text += &format!("{key}: '{}'\n", file.display());
        }
        fs::write(file, text).expect("write a client file");
    }

    /// Stops a member for the time being: its connections stay, and nobody answers.
    pub fn freeze(&self, member: usize) {
        self.signal(member, Signal::SIGSTOP);
        self.members[member].is_away.store(true, Relaxed);
    }

    /// Lets it go on.
    pub fn thaw(&self, member: usize) {
        self.signal(member, Signal::SIGCONT);
        self.members[member].is_away.store(false, Relaxed);
    }

    /// Cuts a member off from the others, not from hosts.
    pub fn isolate(&self, member: usize) {
        for other in self.others(member) {
            self.lab.cut(&self.members[member].name, &other.address);
        }
        self.members[member].is_away.store(true, Relaxed);
    }

    /// Connects it with them again, and waits until it has noticed.
    pub fn rejoin(&self, member: usize) {
        for other in self.others(member) {
            self.lab.heal(&self.members[member].name, &other.address);
        }
        let endpoint = [self.members[member].endpoint()];
        wait_for("the member", || {
            let mut command = self.etcdctl_of(&endpoint);
            command.args(["--command-timeout=1s", "get", "no such key"]);
            command.output().expect("run etcdctl").status.success()
        });
        self.members[member].is_away.store(false, Relaxed);
    }

    fn others(&self, member: usize) -> impl Iterator<Item = &Member> {
        let others = self.members.iter().enumerate().filter(move |(other, _)| *other != member);
        others.map(|(_, other)| other)
    }

    fn signal(&self, member: usize, signal: Signal) {
        self.members[member]
            .running
            .lock()
            .expect("not poisoned")
            .as_ref()
            .expect("a running member")
            .signal(signal);
    }

    /// Kills a member; its data stay.
    pub fn kill(&self, member: usize) {
        self.members[member].stop();
    }

    /// Starts a member that was killed.
    pub fn restart(&self, member: usize) {
        self.spawn(&self.members[member]);
        self.is_ready(&self.members[member]);
    }

    /// The same store without anything in it: what a lost disk leaves of a store with one member. Its number is the same,
    /// since that comes of names and addresses.
    pub fn lose_data(&self) {
        self.stop_all();
        self.forget();
        self.start_all();
        self.make_users();
    }

    /// Another store at the same addresses.
    pub fn replace(&self) {
        self.token.fetch_add(1, Relaxed);
        self.lose_data();
    }

    /// Starts all members again, which reads certificates of the authority anew.
    pub fn restart_all(&self) {
        self.stop_all();
        self.start_all();
    }

    fn stop_all(&self) {
        for member in &self.members {
            member.stop();
        }
    }

    fn forget(&self) {
        for member in &self.members {
            fs::remove_dir_all(self.data_directory(member)).expect("remove the data");
        }
    }

    fn start_all(&self) {
        for member in &self.members {
            self.spawn(member);
        }
        for member in &self.members {
            self.is_ready(member);
        }
    }

    fn data_directory(&self, member: &Member) -> PathBuf {
        self.lab.directory("data").join(&member.name)
    }

    fn spawn(&self, member: &Member) {
        let authority = &self.lab.authority;
        let peer = |member: &Member| format!("http://{}:2380", member.address);
        let peers: Vec<String> =
            self.members.iter().map(|member| format!("{}={}", member.name, peer(member))).collect();
        let client = member.endpoint();
        let running = self.lab.start(&member.name, Path::new("/usr/bin/etcd"), |command| {
            command
                .env_clear()
                .args(["--name", &member.name])
                .arg("--data-dir")
                .arg(self.data_directory(member))
                .args(["--listen-peer-urls", &peer(member)])
                .args(["--initial-advertise-peer-urls", &peer(member)])
                .args(["--initial-cluster", &peers.join(",")])
                .args(["--initial-cluster-token", &format!("store-{}", self.token.load(Relaxed))])
                .args(["--listen-client-urls", &client, "--advertise-client-urls", &client])
                .args(["--client-cert-auth", "--enable-grpc-gateway=false"])
                .arg("--trusted-ca-file")
                .arg(authority.authority_file())
                .arg("--cert-file")
                .arg(authority.certificate_file(&member.name))
                .arg("--key-file")
                .arg(authority.key_file(&member.name))
                // A leader that is lost is missed soon, and not just because the machine is busy.
                .args(["--heartbeat-interval", "50", "--election-timeout", "500"]);
        });
        *member.running.lock().expect("not poisoned") = Some(running);
    }

    fn is_ready(&self, member: &Member) {
        let running = member.running.lock().expect("not poisoned");
        let running = running.as_ref().expect("a running member");
        running.stderr_line(|line| line.contains("ready to serve client requests"));
    }

    /// Users without passwords, as Cilium makes them (pkg/kvstore/etcdinit/init.go) for those who read, and those that
    /// cilmark wants for hosts.
    fn make_users(&self) {
        let cluster = &self.cluster;
        let etcdctl = |arguments: &str| self.etcdctl_ok(arguments.split_whitespace());
        etcdctl("user add root --no-password");
        etcdctl("user grant-role root root");
        etcdctl("role add remote");
        etcdctl("role grant-permission remote read cilium/.heartbeat");
        etcdctl("role grant-permission remote read --prefix cilium/state/");
        etcdctl(&format!("role grant-permission remote read cilium/cluster-config/{cluster}"));
        etcdctl(&format!("role grant-permission remote read --prefix cilium/synced/{cluster}/"));
        etcdctl("role add host");
        etcdctl("role grant-permission host read --prefix cilium/");
        for own in ["cilium/.heartbeat", &format!("cilium/cluster-config/{cluster}")] {
            etcdctl(&format!("role grant-permission host readwrite {own}"));
        }
        for shared in
            ["cilium/state/ip/v1/default/", "cilium/state/identities/v1/", "cilium/.cilmark-"]
        {
            etcdctl(&format!("role grant-permission host readwrite --prefix {shared}"));
        }
        for (user, role) in &*self.users.lock().expect("not poisoned") {
            self.make_user(user, role);
        }
        etcdctl("auth enable");
    }

    /// The user `local` reads what KVStoreMesh has of other clusters.
    pub fn let_read_caches(&self) {
        let etcdctl = |arguments: &str| self.etcdctl_ok(arguments.split_whitespace());
        etcdctl("role add local");
        etcdctl("role grant-permission local read cilium/.heartbeat");
        for prefix in ["cilium/cache/", "cilium/cluster-config/", "cilium/synced/"] {
            etcdctl(&format!("role grant-permission local read --prefix {prefix}"));
        }
        self.add_user("local", "local");
    }

    /// A user with a role, known by its certificate.
    pub fn add_user(&self, user: &str, role: &str) {
        self.lab.authority.sign_client(user);
        self.make_user(user, role);
        self.users.lock().expect("not poisoned").push((user.to_owned(), role.to_owned()));
    }

    fn make_user(&self, user: &str, role: &str) {
        self.etcdctl_ok(["user", "add", user, "--no-password"]);
        self.etcdctl_ok(["user", "grant-role", user, role]);
    }
}

#[test]
fn users_may_do_what_cilium_lets_them() {
    let Some(lab) = Lab::new() else { return };
    let store = lab.store("c1", 1, 1);
    store.add_user("h1", "host");
    let may = |user: &str, arguments: &str| {
        let mut command = store.etcdctl();
        command
            .env("ETCDCTL_CERT", lab.authority.certificate_file(user))
            .env("ETCDCTL_KEY", lab.authority.key_file(user))
            .args(arguments.split_whitespace());
        let output = command.output().expect("run etcdctl");
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() || stderr.contains("permission denied"), "{stderr}");
        output.status.success()
    };
    let reads =
        ["get cilium/.heartbeat", "get --prefix cilium/state/", "get cilium/cluster-config/c1"];
    for arguments in reads {
        assert!(may("remote", arguments) && may("h1", arguments), "{arguments}");
    }
    // A lease is anybody's, which hurts nobody.
    assert!(may("remote", "lease grant 60") && may("h1", "lease grant 60"));
    for arguments in ["put cilium/.heartbeat now", "put cilium/state/ip/v1/default/10.1.1.1 x"] {
        assert!(!may("remote", arguments) && may("h1", arguments), "{arguments}");
    }
    for arguments in [
        "get --prefix cilium/state",
        "get cilium/cluster-config/c2",
        "put cilium/cluster-config/c2 x",
        "user list",
    ] {
        assert!(!may("remote", arguments), "{arguments}");
    }
    for arguments in
        ["put cilium/cluster-config/c2 x", "put cilium/state/nodes/v1/c1/h1 x", "user list"]
    {
        assert!(!may("h1", arguments), "{arguments}");
    }
}
