//! Allocators of hosts, in one process.

use std::net::IpAddr;
use std::rc::Rc;
use std::time::Duration;

use cilmark::model::endpoint::{EndpointId, Role};
use cilmark::model::identity::Identity;
use cilmark::model::labels::Labels;
use cilmark::ops::cluster::endpoints::{LocalEndpoint, OwnAddresses};
use cilmark_sync::cilium::keys;
use cilmark_sync::etcd::{Client, KeyValue};
use cilmark_sync::identities::allocator::{Allocator, NoNumber};
use cilmark_sync::publish::{Here, Local};
use cilmark_sync::service::state::{Allocated, Own};
use tokio::sync::watch;
use tokio::task::{JoinHandle, spawn_local};

use super::host::{config, root};

/// Long enough for no test to wait for its end.
const LONG: Duration = Duration::from_secs(600);

/// The allocator of a host. It ends at once with this guard, as if it was killed.
pub struct Allocating {
    pub allocator: Rc<Allocator>,
    task: JoinHandle<()>,
    here: watch::Sender<Rc<Here>>,
}

impl Allocating {
    pub fn start(node: &str, client: Client) -> Allocating {
        Allocating::with_grace(node, client, LONG)
    }

    /// It holds a number for so long without an endpoint.
    pub fn with_grace(node: &str, client: Client, grace: Duration) -> Allocating {
        let allocator = Allocator::with_grace(&config(node), &root(node), client, grace);
        let allocator = Rc::new(allocator.expect("an allocator"));
        let (here, told) = watch::channel(Rc::default());
        let running = allocator.clone();
        let task = spawn_local(async move { running.run(told).await });
        Allocating { allocator, task, here }
    }

    /// The number of labels.
    pub async fn number(&self, labels: &str) -> u32 {
        self.ask(labels).await.expect("a number").0
    }

    pub async fn ask(&self, labels: &str) -> Result<Identity, NoNumber> {
        self.allocator.allocate(&labels.parse::<Labels>().expect("labels")).await
    }

    /// The number that is held for labels now.
    pub fn held(&self, labels: &str) -> Option<u32> {
        self.allocator.numbers().borrow().get(labels).map(|number| number.0)
    }

    /// These are the endpoints of the host now: labels, and the number that each has.
    pub fn has_endpoints(&self, endpoints: &[(&str, u32)]) {
        let endpoint = |(index, (labels, number)): (usize, &(&str, u32))| LocalEndpoint {
            id: EndpointId::new(index as u16 + 1).expect("a number"),
            birth: 1,
            device: format!("ve-{index}"),
            role: Role::Container,
            identity: Identity(*number),
            hosts: Vec::new(),
            prefixes: Vec::new(),
            labels: labels.parse().expect("labels"),
            is_by_labels: true,
            on_device: vec![IpAddr::from([127, 0, 0, 1])],
            netns: 0,
            ifindex: 7,
        };
        let endpoints: Vec<LocalEndpoint> = endpoints.iter().enumerate().map(endpoint).collect();
        let own = OwnAddresses::of(&endpoints).expect("addresses");
        let local = Local { endpoints, ..Local::default() };
        self.here.send_replace(Rc::new(Here { local, own }));
    }

    /// How it stands.
    pub fn allocated(&self) -> Vec<Allocated> {
        let mut own = Own::default();
        self.allocator.fill(&mut own);
        own.allocated
    }
}

impl Drop for Allocating {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Labels as Cilium writes them.
pub fn cilium(labels: &str) -> String {
    cilmark_sync::cilium::labels::to_cilium(&labels.parse().expect("labels"), "edge")
        .expect("labels")
}

pub async fn all(client: &Client, prefix: &str) -> Vec<KeyValue> {
    let mut all = Vec::new();
    client.list(prefix, |page| all.extend(page)).await.expect("list");
    all
}

/// What `id/` has for a number.
pub async fn id(client: &Client, number: u32) -> Option<String> {
    let (_, found) = client.get(&keys::identity(Identity(number))).await.expect("get");
    found.map(|found| String::from_utf8(found.value).expect("text"))
}

/// The key by which a node uses labels.
pub async fn user(client: &Client, labels: &str, node: &str) -> Option<KeyValue> {
    client.get(&keys::user(&cilium(labels), node)).await.expect("get").1
}
