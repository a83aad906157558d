//! Who gets which number.

use std::collections::BTreeSet;
use std::time::Duration;

use cilmark::model::identity::Identity;
use cilmark_sync::cilium::keys;
use cilmark_sync::identities::allocator::NoNumber;
use nix::sys::signal::Signal;
use tokio::task::{JoinSet, spawn_local};
use tokio::time::Instant;

use crate::common::Etcd;
use crate::common::allocators::{Allocating, all, cilium, id, user};
use crate::common::host::on_fresh_machine;
use crate::common::machine::until;

const RANGE: std::ops::RangeInclusive<u32> = 131_072..=196_607;

#[test]
fn two_hosts_that_ask_for_the_same_labels_at_once_get_one_number() {
    on_fresh_machine(async || {
        let etcd = Etcd::start().await;
        let client = etcd.client();
        let [one, other] = ["n1", "n2"].map(|node| Allocating::start(node, etcd.client()));
        let (first, second) =
            tokio::join!(one.number("app=web,tier=front"), other.number("tier=front,app=web"));
        assert_eq!(first, second);
        assert!(RANGE.contains(&first), "{first}");
        let labels = "k8s:app=web;k8s:io.cilium.k8s.policy.cluster=edge;k8s:tier=front;";
        assert_eq!(id(&client, first).await.as_deref(), Some(labels));
        let ids = all(&client, keys::IDENTITIES).await;
        assert_eq!((ids.len(), ids[0].lease), (1, None));
        for node in ["n1", "n2"] {
            let user = user(&client, "app=web,tier=front", node).await.unwrap();
            assert_eq!(user.value, first.to_string().as_bytes());
            assert!(user.lease.is_some());
        }
        assert_eq!(all(&client, keys::LOCKS).await, []);
    });
}

#[test]
fn a_hundred_sets_of_labels_by_three_hosts_at_once_get_a_number_each() {
    on_fresh_machine(async || {
        let etcd = Etcd::start().await;
        let client = etcd.client();
        let hosts = ["n1", "n2", "n3"].map(|node| Allocating::start(node, etcd.client()));
        let all_held = || hosts.iter().all(|host| host.allocator.numbers().borrow().len() == 100);
        let mut asked = JoinSet::new();
        for set in 0..100 {
            for host in &hosts {
                let allocator = host.allocator.clone();
                // Who waits in vain has asked all the same.
                asked.spawn_local(async move {
                    let _ = allocator.allocate(&format!("app={set}").parse().unwrap()).await;
                });
            }
        }
        while asked.join_next().await.is_some() {}
        until("all have all", async || all_held()).await;
        let numbers = hosts[0].allocator.numbers().borrow().clone();
        for host in &hosts {
            assert_eq!(*host.allocator.numbers().borrow(), numbers);
        }
        let different: BTreeSet<Identity> = numbers.values().copied().collect();
        assert_eq!(different.len(), 100);
        assert_eq!(all(&client, keys::IDENTITIES).await.len(), 100);
        assert_eq!(all(&client, keys::USERS).await.len(), 300);
        assert_eq!(all(&client, keys::LOCKS).await, []);
    });
}

#[test]
fn a_number_that_cilium_has_given_is_taken_and_another_clusters_is_not() {
    on_fresh_machine(async || {
        let etcd = Etcd::start().await;
        let client = etcd.client();
        let key = |number| keys::identity(Identity(number));
        client.put(&key(140_000), cilium("app=web"), None).await.unwrap();
        client.put(&key(65_536), cilium("app=db"), None).await.unwrap();
        let host = Allocating::start("n1", etcd.client());
        assert_eq!(host.number("app=web").await, 140_000);
        let db = host.number("app=db").await;
        assert!(RANGE.contains(&db), "{db}");
        // One that is made while it runs.
        client.put(&key(150_000), cilium("app=cache"), None).await.unwrap();
        assert_eq!(host.number("app=cache").await, 150_000);
    });
}

#[test]
fn a_number_that_others_use_is_made_again_if_it_is_lost() {
    on_fresh_machine(async || {
        let etcd = Etcd::start().await;
        let client = etcd.client();
        client.put(&keys::user(&cilium("app=web"), "n9"), "140000", None).await.unwrap();
        // Labels that only begin the same.
        client
            .put(&keys::user(&format!("{}/x;", cilium("app=web")), "n9"), "131073", None)
            .await
            .unwrap();
        let host = Allocating::start("n1", etcd.client());
        assert_eq!(host.number("app=web").await, 140_000);
        assert_eq!(id(&client, 140_000).await, Some(cilium("app=web")));
    });
}

#[test]
fn a_lock_of_somebody_who_has_died_delays_no_longer_than_its_lease() {
    on_fresh_machine(async || {
        let etcd = Etcd::start().await;
        let client = etcd.client();
        let lease = client.grant(Duration::from_secs(3)).await.unwrap();
        let lock = format!("{}/{:x}", keys::lock(&cilium("app=web")), lease.0);
        client.put(&lock, "", Some(lease)).await.unwrap();
        let host = Allocating::start("n1", etcd.client());
        // Other labels are not delayed.
        host.number("app=db").await;
        assert_eq!(all(&client, keys::LOCKS).await.len(), 1);
        let begun = Instant::now();
        let _ = host.ask("app=web").await;
        until("the number", async || host.held("app=web").is_some()).await;
        assert_eq!(client.get(&lock).await.unwrap().1, None);
        assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
    });
}

#[test]
fn labels_that_cilium_would_read_as_others_get_none() {
    on_fresh_machine(async || {
        let etcd = Etcd::start().await;
        let host = Allocating::start("n1", etcd.client());
        for labels in ["path=a//b", "reserved:host=", "io.cilium.k8s.policy.cluster=other"] {
            let told = host.ask(labels).await;
            assert!(matches!(told, Err(NoNumber::Never(_))), "{labels}: {told:?}");
        }
        assert_eq!(all(&etcd.client(), keys::IDENTITIES).await, []);
    });
}

#[test]
fn who_asks_while_etcd_is_away_waits_no_longer_than_5_s_and_gets_it_later() {
    on_fresh_machine(async || {
        let etcd = Etcd::start().await;
        let host = Allocating::start("n1", etcd.client());
        let web = host.number("app=web").await;
        etcd.signal(Signal::SIGSTOP);
        let begun = Instant::now();
        let told = host.ask("app=db").await;
        assert!(matches!(told, Err(NoNumber::NotYet(_))), "{told:?}");
        assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
        // What is held needs no etcd.
        assert_eq!(host.number("app=web").await, web);
        let mut numbers = host.allocator.numbers();
        let waiter = spawn_local(async move {
            numbers.wait_for(|numbers| numbers.contains_key("app=db")).await.is_ok()
        });
        etcd.signal(Signal::SIGCONT);
        assert!(waiter.await.unwrap());
        assert_eq!(host.held("app=db"), Some(host.number("app=db").await));
    });
}
