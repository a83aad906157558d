//! Hosts of a cluster, each with directories of its own, in one process.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;

use cilmark::model::identity::Identity;
use cilmark::state::pin::Root;
use cilmark_sync::cilium::accept::Limits;
use cilmark_sync::cilium::keys;
use cilmark_sync::cilium::pair::Pair;
use cilmark_sync::config::{Config, Sweep};
use cilmark_sync::etcd::{Client, KeyValue};
use cilmark_sync::publish::{Line, Publisher, Wanted};
use cilmark_sync::service::state::Own;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use tokio::task::{JoinHandle, spawn_local};

use super::machine::{alone, until};

/// Runs a test in namespaces with nothing but loopback, in which nobody has been a host before.
pub fn on_fresh_machine(test: impl AsyncFnOnce() + Send) {
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

/// What a host of the cluster `edge`, number 2, is configured as.
pub fn config(node: &str) -> Config {
    Config {
        name: "edge".to_owned(),
        id: 2,
        max_clusters: 255,
        node: node.to_owned(),
        etcd: PathBuf::new(),
        remotes: None,
        publish: true,
        publish_host: false,
        host_ip: None,
        lease: Duration::from_secs(60),
        stale: Duration::from_secs(3600),
        sweep: Sweep { share: 50, lines: 100 },
        limits: Limits { ipv4: 8, ipv6: 16 },
        ipcache_entries: None,
        collect_garbage: false,
        resolve: BTreeMap::new(),
    }
}

/// The root of a host of this name.
pub fn root(name: &str) -> Root {
    Root::new(PathBuf::from(format!("/sys/fs/bpf/{name}")))
}

/// A host that publishes. It ends at once with this guard, as if it was killed.
pub struct Host {
    pub publisher: Rc<Publisher>,
    task: JoinHandle<()>,
    wanted: Wanted,
    node: String,
}

impl Host {
    /// Publishes what it is told to want.
    pub fn start(config: &Config, client: Client) -> Host {
        Host::start_in(config, &root(&config.node), client)
    }

    /// The same with the root of another one.
    pub fn start_in(config: &Config, root: &Root, client: Client) -> Host {
        let publisher = Rc::new(Publisher::new(config, root, client).expect("a publisher"));
        let running = publisher.clone();
        let task = spawn_local(async move { running.publish().await });
        Host { publisher, task, wanted: Wanted::default(), node: config.node.clone() }
    }

    /// An endpoint with an address comes, or changes.
    pub fn comes(&mut self, address: &str, identity: u32, birth: u64) {
        let ip: IpAddr = address.parse().expect("an address");
        let metadata = format!("cilium-global:default:{}:{birth}", self.node).into();
        let pair = Pair { ip, mask: None, host_ip: None, id: identity, key: 0, metadata };
        let (identity, device) = (Identity(identity), "red".to_owned());
        let line = Line { identity, device, birth, value: pair.write() };
        self.wanted.lines.insert(ip, line);
        self.publisher.want(self.wanted.clone());
    }

    /// It goes.
    pub fn goes(&mut self, address: &str) {
        self.wanted.lines.remove(&address.parse().expect("an address"));
        self.publisher.want(self.wanted.clone());
    }

    /// How it stands.
    pub fn own(&self) -> Own {
        let mut own = Own::default();
        self.publisher.fill(&mut own);
        own
    }

    /// Ends without a word, as if it was killed. Its wishes are told to a next one.
    pub fn kill(self) -> Wanted {
        self.task.abort();
        self.wanted.clone()
    }

    /// Wants what one before it has wanted.
    pub fn resume(&mut self, wanted: Wanted) {
        self.wanted = wanted;
        self.publisher.want(self.wanted.clone());
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// The key of an address.
pub async fn key_of(client: &Client, address: &str) -> Option<KeyValue> {
    let key = keys::address(address.parse().expect("an address"));
    client.get(&key).await.expect("get").1
}

/// The identity that etcd has for an address, and the node that says so.
pub async fn said(client: &Client, address: &str) -> Option<(u32, String)> {
    let found = key_of(client, address).await?;
    let pair = Pair::read(&found.value).expect("a value");
    let node = cilmark_sync::cilium::pair::node_of(&pair.metadata).expect("a node").to_owned();
    Some((pair.id, node))
}

/// Waits until etcd has this.
pub async fn until_said(client: &Client, address: &str, by: Option<(u32, &str)>) {
    let by = by.map(|(identity, node)| (identity, node.to_owned()));
    until(&format!("{address} is {by:?}"), async || said(client, address).await == by).await;
}
