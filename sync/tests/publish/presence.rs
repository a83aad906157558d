//! The cluster's configuration, its heartbeat, and names of hosts.

use std::fs;

use cilmark::ops::cluster::run_directory;
use cilmark_sync::cilium::keys;
use cilmark_sync::etcd::Client;
use jiff::Timestamp;

use crate::common::Etcd;
use crate::common::host::{Host, config, key_of, on_fresh_machine, root, until_said};
use crate::common::machine::until;

const A: &str = "10.0.0.1";
const B: &str = "10.0.0.2";
const WEB: u32 = 131_073;

fn config_key() -> String {
    keys::cluster_config("edge")
}

async fn text(client: &Client, key: &str) -> Option<String> {
    let (_, found) = client.get(key).await.expect("get");
    found.map(|found| String::from_utf8(found.value).expect("text"))
}

#[test]
fn the_cluster_says_its_number_and_says_it_again_when_that_goes() {
    on_fresh_machine(async || {
        let etcd = Etcd::start().await;
        let client = etcd.client();
        let _host = Host::start(&config("n1"), etcd.client());
        let is_there = async || {
            let wanted = r#"{"id":2,"capabilities":{"maxConnectedClusters":255}}"#;
            text(&client, &config_key()).await.as_deref() == Some(wanted)
        };
        until("the configuration", is_there).await;
        client.delete(&config_key()).await.unwrap();
        until("the configuration", is_there).await;
        let (_, found) = client.get(&config_key()).await.unwrap();
        assert!(found.unwrap().lease.is_some());
    });
}

#[test]
fn when_the_host_that_says_the_number_leaves_another_one_says_it() {
    on_fresh_machine(async || {
        let etcd = Etcd::start().await;
        let client = etcd.client();
        let host = Host::start(&config("n1"), etcd.client());
        until("the configuration", async || text(&client, &config_key()).await.is_some()).await;
        let first = client.get(&config_key()).await.unwrap().1.unwrap();
        let mut other = Host::start(&config("n2"), etcd.client());
        other.comes(A, WEB, 7);
        until_said(&client, A, Some((WEB, "n2"))).await;
        assert_eq!(client.get(&config_key()).await.unwrap().1.as_ref(), Some(&first));
        host.publisher.withdraw().await.unwrap();
        until("the configuration", async || text(&client, &config_key()).await.is_some()).await;
        let lease = client.get(&config_key()).await.unwrap().1.unwrap().lease;
        assert_eq!(lease, key_of(&client, A).await.unwrap().lease);
    });
}

#[test]
fn nothing_is_published_where_the_cluster_has_another_number() {
    on_fresh_machine(async || {
        let etcd = Etcd::start().await;
        let client = etcd.client();
        client.put(&config_key(), r#"{"id":9}"#, None).await.unwrap();
        let mut host = Host::start(&config("n1"), etcd.client());
        host.comes(A, WEB, 7);
        until("it says why", async || host.own().trouble.is_some()).await;
        let why = host.own().trouble.unwrap();
        assert!(why.contains("has number 9") && why.contains("says 2"), "{why}");
        assert_eq!(key_of(&client, A).await, None);
        assert_eq!(text(&client, keys::HEARTBEAT).await, None);
        client.delete(&config_key()).await.unwrap();
        until_said(&client, A, Some((WEB, "n1"))).await;
        until("it says so", async || host.own().trouble.is_none()).await;
    });
}

#[test]
fn the_heartbeat_beats_again_when_it_is_gone() {
    on_fresh_machine(async || {
        let etcd = Etcd::start().await;
        let client = etcd.client();
        let host = Host::start(&config("n1"), etcd.client());
        let _other = Host::start(&config("n2"), etcd.client());
        let beats = async || text(&client, keys::HEARTBEAT).await.is_some();
        until("the heartbeat", beats).await;
        client.delete(keys::HEARTBEAT).await.unwrap();
        until("the heartbeat", beats).await;
        let time: Timestamp = text(&client, keys::HEARTBEAT).await.unwrap().parse().unwrap();
        assert!(Timestamp::now().duration_since(time).as_secs() < 60);
        until("who has written it says so", async || {
            [&host, &_other].iter().filter(|it| it.own().heartbeat.is_some()).count() == 1
        })
        .await;
    });
}

#[test]
fn of_two_hosts_that_are_called_the_same_the_second_is_refused_until_the_first_leaves() {
    on_fresh_machine(async || {
        let etcd = Etcd::start().await;
        let client = etcd.client();
        let mut first = Host::start(&config("n1"), etcd.client());
        first.comes(A, WEB, 7);
        until_said(&client, A, Some((WEB, "n1"))).await;
        let mut second = Host::start_in(&config("n1"), &root("another"), etcd.client());
        second.comes(B, WEB, 7);
        until("it says why", async || second.own().trouble.is_some()).await;
        let why = second.own().trouble.unwrap();
        assert!(why.contains("another host is called n1"), "{why}");
        assert_eq!(key_of(&client, B).await, None);
        assert_eq!(first.own().trouble, None);
        first.publisher.withdraw().await.unwrap();
        until_said(&client, B, Some((WEB, "n1"))).await;
        until("it says so", async || second.own().trouble.is_none()).await;
    });
}

#[test]
fn a_host_that_has_gone_down_is_not_taken_for_another_one_when_it_is_back() {
    on_fresh_machine(async || {
        let etcd = Etcd::start().await;
        let client = etcd.client();
        let mut host = Host::start(&config("n1"), etcd.client());
        host.comes(A, WEB, 7);
        until_said(&client, A, Some((WEB, "n1"))).await;
        let before = key_of(&client, A).await.unwrap();
        host.kill();
        fs::remove_dir_all(run_directory(&root("n1"))).unwrap();
        let mut host = Host::start(&config("n1"), etcd.client());
        host.comes(A, WEB, 3);
        until("it is published under a lease of this life", async || {
            key_of(&client, A).await.is_some_and(|now| now.lease != before.lease)
        })
        .await;
        assert_eq!(host.own().trouble, None);
    });
}
