//! What a real etcd says, in the ipcache.

mod faults;
mod lines;

use std::fs;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;

use cilmark::kernel::device;
use cilmark::model::identity::Identity;
use cilmark::model::origin::Origin;
use cilmark::model::prefix::format_prefix;
use cilmark::ops;
use cilmark::state::generations::Generations;
use cilmark::state::ipcache::Ipcache;
use cilmark::state::pin::Root;
use cilmark_sync::cilium::cluster_config::ClusterConfig;
use cilmark_sync::cilium::keys;
use cilmark_sync::cilium::pair::{Mask, Pair, metadata};
use cilmark_sync::config::{Config, Sweep};
use cilmark_sync::etcd::{Client, LeaseId};
use cilmark_sync::read::{self, Reading};
use cilmark_sync::service::state::{Cluster, Phase};
use ipnet::IpNet;
use tokio::task::{JoinHandle, spawn_blocking, spawn_local};

use crate::common::Etcd;
use crate::common::directory::Directory;
use crate::common::host::{config, on_fresh_machine, root};
use crate::common::machine::{run, until};

/// Numbers of cluster 2, which is this host's, and of cluster 5.
const WEB: u32 = 131_073;
const DB: u32 = 131_074;
const OTHER: u32 = 327_681;

/// A host that reads.
struct Host {
    config: Config,
    root: Root,
    files: Directory,
    reading: Rc<Reading>,
    task: Option<JoinHandle<()>>,
}

impl Host {
    /// Reads this etcd as its cluster's.
    fn start(etcd: &Etcd) -> Host {
        Host::start_with(etcd, |_| ())
    }

    fn start_with(etcd: &Etcd, change: impl FnOnce(&mut Config)) -> Host {
        let files = Directory::new();
        fs::create_dir(files.path().join("remotes")).expect("make a directory");
        let mut config = config("n1");
        config.etcd = files.write("own", client_file(etcd));
        config.remotes = Some(files.path().join("remotes"));
        config.sweep = Sweep { share: 50, lines: 10 };
        change(&mut config);
        let root = root("n1");
        let reading = Reading::new(Rc::new(config.clone()), &root);
        let mut host = Host { config, root, files, reading, task: None };
        host.start_again();
        host
    }

    /// As after a kill.
    fn start_again(&mut self) {
        self.stop();
        self.reading = Reading::new(Rc::new(self.config.clone()), &self.root);
        self.task = Some(spawn_local(read::run(self.reading.clone())));
    }

    fn stop(&mut self) {
        if let Some(task) = self.task.take() {
            task.abort();
        }
    }

    /// Reads another cluster, too.
    fn add_remote(&self, name: &str, etcd: &Etcd) -> PathBuf {
        self.files.write(&format!("remotes/{name}"), client_file(etcd))
    }

    fn cluster(&self, name: &str) -> Option<Cluster> {
        self.reading.clusters().into_iter().find(|cluster| cluster.name == name)
    }

    fn own(&self) -> Cluster {
        self.cluster("edge").expect("the own cluster")
    }

    async fn until_ready(&self) {
        until("all is read", async || self.reading.is_ready()).await;
    }

    fn ipcache(&self) -> Option<Ipcache> {
        Ipcache::open(&self.root).expect("open the ipcache")
    }

    /// Lines of clusters.
    fn lines(&self) -> Vec<(String, u32)> {
        let lines = self.ipcache().map(|ipcache| ipcache.lines().expect("read the ipcache"));
        let lines = lines.unwrap_or_default().into_iter();
        lines
            .filter(|line| line.owner.is_none() && line.origin == Origin::Cluster)
            .map(|line| (format_prefix(&line.prefix), line.identity.0))
            .collect()
    }

    fn identity(&self, prefix: &str) -> Option<u32> {
        self.lines().into_iter().find(|line| line.0 == prefix).map(|line| line.1)
    }

    async fn until_is(&self, prefix: &str, identity: Option<u32>) {
        let what = format!("{prefix} is {identity:?}");
        until(&what, async || self.identity(prefix) == identity).await;
    }

    /// What a command does, beside this thread, which waits for nobody.
    async fn command<T: Send + 'static>(
        &self,
        change: impl FnOnce(&Root) -> anyhow::Result<T> + Send + 'static,
    ) -> T {
        let root = self.root.clone();
        let done = spawn_blocking(move || {
            let _lock = ops::prepare(&root, false).expect("the lock");
            change(&root).expect("the command")
        });
        done.await.expect("no panic")
    }

    fn changes(&self) -> u32 {
        Generations::open(&self.root).expect("open").expect("the generations").changes()
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        self.stop();
    }
}

fn client_file(etcd: &Etcd) -> String {
    format!("endpoints: ['{}']\n", etcd.url())
}

/// A cluster's own etcd, as it is at the start.
struct Store {
    etcd: Etcd,
    client: Client,
    cluster: &'static str,
}

impl Store {
    /// The own cluster's.
    async fn own() -> Store {
        Store::start("edge", 2, &[]).await
    }

    async fn start(cluster: &'static str, number: u16, more: &[&str]) -> Store {
        let etcd = Etcd::start_with(more).await;
        let store = Store { client: etcd.client(), etcd, cluster };
        store.number(number).await;
        store
    }

    async fn number(&self, number: u16) {
        let config = ClusterConfig::of(number, 255).write();
        let key = keys::cluster_config(self.cluster);
        self.client.put(&key, config, None).await.expect("put");
    }

    async fn says(&self, prefix: &str, identity: u32) {
        self.says_until(prefix, identity, None).await;
    }

    async fn says_until(&self, prefix: &str, identity: u32, lease: Option<LeaseId>) {
        let value = value(prefix, identity);
        self.client.put(&key(prefix), value, lease).await.expect("put");
    }

    async fn takes_back(&self, prefix: &str) {
        assert!(self.client.delete(&key(prefix)).await.expect("delete"), "{prefix} is there");
    }
}

fn key(prefix: &str) -> String {
    format!("{}{prefix}", keys::ADDRESSES)
}

fn value(prefix: &str, id: u32) -> String {
    let net: IpNet = match prefix.parse() {
        Ok(net) => net,
        Err(_) => prefix.parse::<std::net::IpAddr>().expect("an address").into(),
    };
    let mask =
        prefix.contains('/').then(|| Mask { ones: net.prefix_len(), bits: net.max_prefix_len() });
    Pair { ip: net.addr(), mask, host_ip: None, id, key: 0, metadata: "".into() }.write()
}
