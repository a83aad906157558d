//! What is collected.

use std::time::Duration;

use cilmark::model::identity::Identity;
use cilmark_sync::cilium::keys;
use cilmark_sync::etcd::{Client, Mutex};
use cilmark_sync::identities::garbage::collect;
use tokio::task::{JoinHandle, spawn_local};

use crate::common::Etcd;
use crate::common::allocators::{Allocating, all, cilium, id};
use crate::common::host::{config, on_fresh_machine};
use crate::common::machine::until;

const INTERVAL: Duration = Duration::from_millis(500);

fn collector(client: Client) -> JoinHandle<()> {
    spawn_local(async move {
        collect(&config("n1"), &client, INTERVAL).await;
    })
}

async fn make(client: &Client, number: u32, labels: &str) {
    client.put(&keys::identity(Identity(number)), cilium(labels), None).await.unwrap();
}

#[test]
fn what_nobody_uses_goes_and_what_somebody_uses_or_another_cluster_has_stays() {
    on_fresh_machine(async || {
        let etcd = Etcd::start().await;
        let client = etcd.client();
        let host = Allocating::start("n1", etcd.client());
        let web = host.number("app=web").await;
        make(&client, 65_536, "app=theirs").await;
        make(&client, 140_000, "app=left").await;
        make(&client, 140_001, "app=wrong").await;
        client.put(&keys::user(&cilium("app=wrong"), "n9"), "140002", None).await.unwrap();
        let collector = collector(etcd.client());
        until("what is left goes", async || {
            id(&client, 140_000).await.is_none() && id(&client, 140_001).await.is_none()
        })
        .await;
        assert_eq!(id(&client, web).await, Some(cilium("app=web")));
        assert!(id(&client, 65_536).await.is_some());
        collector.abort();
    });
}

#[test]
fn what_somebody_begins_to_use_between_the_rounds_stays() {
    on_fresh_machine(async || {
        let etcd = Etcd::start().await;
        let client = etcd.client();
        make(&client, 140_000, "app=web").await;
        make(&client, 140_001, "app=left").await;
        // The collector waits for this lock when it is about to delete the number.
        let lease = client.grant(Duration::from_secs(60)).await.unwrap();
        let path = keys::lock(&cilium("app=web"));
        let lock = Mutex::lock(&client, &path, lease, INTERVAL).await.unwrap();
        let collector = collector(etcd.client());
        until("it is about to", async || all(&client, &format!("{path}/")).await.len() == 2).await;
        client.put(&keys::user(&cilium("app=web"), "n9"), "140000", Some(lease)).await.unwrap();
        lock.unlock().await.unwrap();
        until("the other one goes", async || id(&client, 140_001).await.is_none()).await;
        assert_eq!(id(&client, 140_000).await, Some(cilium("app=web")));
        collector.abort();
    });
}

#[test]
fn one_host_collects_and_another_one_when_that_is_gone() {
    on_fresh_machine(async || {
        let etcd = Etcd::start().await;
        let client = etcd.client();
        let first = collector(etcd.client());
        let prefix = format!("{}/", keys::GARBAGE_LOCK);
        let owner = async || {
            let mut locks = all(&client, &prefix).await;
            locks.sort_by_key(|lock| lock.created);
            locks.into_iter().next()
        };
        until("it has the lock", async || owner().await.is_some()).await;
        let lease = owner().await.unwrap().lease.unwrap();
        let second = collector(etcd.client());
        until("both want it", async || all(&client, &prefix).await.len() == 2).await;
        assert_eq!(owner().await.unwrap().lease, Some(lease));
        first.abort();
        client.revoke(lease).await.unwrap();
        make(&client, 140_000, "app=left").await;
        until("the second one collects", async || id(&client, 140_000).await.is_none()).await;
        second.abort();
    });
}
