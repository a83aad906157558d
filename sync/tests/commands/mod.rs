//! `cilmark cluster …`: what it makes of etcd, of files and of the service's socket.

mod doctor;
mod doctor_tls;
mod guide;
mod init;
mod leave;
mod list;
mod status;
mod sweep;
mod wrong;

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::Command;
use std::thread::{self, JoinHandle};

use cilmark::model::cluster::{Answer, Request};
use cilmark::ops::cluster::number::socket;
use cilmark::ops::cluster::run_directory;
use cilmark::state::pin::Root;
use cilmark_sync::service::state::{Cluster, Connection, Lines, Own, Phase, State};
use jiff::Timestamp;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use serde_json::Value;

use crate::common::Etcd;
use crate::common::directory::Directory;
use crate::common::machine::alone;

/// Runs a test in namespaces with nothing but loopback, on which no service has run before.
fn on_fresh_machine(test: impl AsyncFnOnce() + Send) {
    alone(async || {
        unshare(CloneFlags::CLONE_NEWNS).expect("unshare");
        let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
        mount(None::<&str>, "/", None::<&str>, private, None::<&str>).expect("make / private");
        for (kind, at) in [("tmpfs", "/run"), ("tmpfs", "/var/lib"), ("bpf", "/sys/fs/bpf")] {
            mount(Some(kind), at, Some(kind), MsFlags::empty(), None::<&str>).expect("mount");
        }
        test().await;
    });
}

/// The root that commands have by default.
const ROOT: &str = "/sys/fs/bpf/cilmark";

/// What a finished command left.
#[derive(Debug)]
struct Run {
    status: Option<i32>,
    stdout: String,
    stderr: String,
}

impl Run {
    fn ok(self) -> String {
        assert_eq!(self.status, Some(0), "{self:?}");
        self.stdout
    }

    fn json(self) -> Value {
        serde_json::from_str(&self.ok()).expect("JSON")
    }

    /// It must have failed with this status, and said each of these.
    fn fails(&self, status: i32, words: &[&str]) {
        assert_eq!((self.status, self.stdout.as_str()), (Some(status), ""), "{self:?}");
        for word in words {
            assert!(self.stderr.contains(word), "no `{word}` in {}", self.stderr);
        }
    }
}

/// Runs `cilmark-sync cluster` with a configuration, and arguments that are separated by spaces.
fn cluster(config: &Path, arguments: &str) -> Run {
    let mut command = Command::new(env!("CARGO_BIN_EXE_cilmark-sync"));
    command.arg("cluster").args(arguments.split_whitespace()).arg("--config").arg(config);
    finish(command.env_clear())
}

fn finish(command: &mut Command) -> Run {
    let output = command.output().expect("run it");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("text");
    Run { status: output.status.code(), stdout: text(output.stdout), stderr: text(output.stderr) }
}

/// A client file of an etcd without TLS.
fn client_file(etcd: &Etcd) -> String {
    let text = format!("endpoints: ['{}']\n", etcd.url());
    etcd.directory.write("etcd.config", text).display().to_string()
}

/// The configuration of host h1 in cluster edge, number 7, of an etcd.
fn config(directory: &Directory, etcd: &Etcd, more: &str) -> std::path::PathBuf {
    let file = client_file(etcd);
    let text = format!("name = \"edge\"\nid = 7\nnode = \"h1\"\netcd = \"{file}\"\n{more}");
    directory.write("cluster.toml", text)
}

/// A cluster as the service says that it is, which is ready.
fn ready(name: &str, id: u16) -> Cluster {
    Cluster {
        name: name.to_owned(),
        id: Some(id),
        is_own: false,
        client_file: format!("/etc/cilmark/clustermesh/{name}").into(),
        connection: Connection::Connected { since: Timestamp::now() },
        phase: Phase::Ready,
        store: Some(1),
        revision: 5,
        is_cached: false,
        heartbeat: None,
        addresses: 2,
        identities: 1,
        shadowed: 0,
        stale: Lines::default(),
        held: Lines::default(),
        refused: Default::default(),
        refused_keys: Vec::new(),
    }
}

/// Has the service said that it is so.
fn write_state(clusters: Vec<Cluster>, own: Own) {
    let root = root();
    std::fs::create_dir_all(run_directory(&root)).expect("make a directory");
    let now = Timestamp::now();
    let config = "/etc/cilmark/cluster.toml".into();
    let state = State {
        written: now,
        pid: 1,
        started: now,
        config,
        max_clusters: 255,
        trouble: Some("there is no room".to_owned()).filter(|_| own.trouble.is_some()),
        own,
        clusters,
    };
    state.write(&root).expect("write the state");
}

fn root() -> Root {
    Root::new(ROOT.into())
}

/// In the place of the service: answers one question, and ends. Connections without a question are not counted.
fn service_that_answers(answer: Answer) -> JoinHandle<Request> {
    std::fs::create_dir_all(run_directory(&root())).expect("make a directory");
    let listener = UnixListener::bind(socket(&root())).expect("listen");
    thread::spawn(move || {
        loop {
            let (mut stream, _) = listener.accept().expect("accept");
            let mut line = String::new();
            BufReader::new(&stream).read_line(&mut line).expect("read");
            if line.is_empty() {
                continue;
            }
            let mut text = serde_json::to_string(&answer).expect("JSON");
            text.push('\n');
            stream.write_all(text.as_bytes()).expect("write");
            return serde_json::from_str(&line).expect("a request");
        }
    })
}
