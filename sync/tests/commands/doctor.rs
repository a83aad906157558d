//! `doctor`: each condition, as it should be and spoilt.

use std::fs;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::time::Duration;

use cilmark::ops::cluster::number::socket;
use cilmark_sync::service::state::{Cluster, Conflict, Lines, Own, Phase, Unpublished};
use jiff::{SignedDuration, Timestamp};
use serde_json::Value;

use super::{cluster, config, on_fresh_machine, ready, root, write_state};
use crate::common::Etcd;
use crate::common::directory::Directory;

const LABELS: &str = "k8s:app=web;k8s:io.cilium.k8s.policy.cluster=edge;";

/// The findings, and whether the command failed.
pub fn findings(file: &Path, arguments: &str) -> (Vec<Value>, bool) {
    let run = cluster(file, &format!("doctor --json {arguments}"));
    let findings = serde_json::from_str(&run.stdout).unwrap_or_else(|_| panic!("{run:?}"));
    (findings, run.status != Some(0))
}

/// Those that are worse than ok.
pub fn bad(findings: &[Value]) -> Vec<&Value> {
    findings.iter().filter(|it| it["level"] != "ok").collect()
}

fn value(ip: &str, identity: u32) -> String {
    format!(r#"{{"IP":"{ip}","ID":{identity},"Metadata":"cilium-global:default:h1:1"}}"#)
}

/// Etcd and the configuration of a host of a cluster in which all is as it should be, and the service's socket.
async fn healthy() -> (Etcd, Directory, PathBuf, UnixListener) {
    let (etcd, directory) = (Etcd::start().await, Directory::new());
    let client = etcd.client();
    let lease = client.grant(Duration::from_secs(600)).await.unwrap();
    for (key, value, lease) in [
        ("cilium/.heartbeat", Timestamp::now().to_string(), Some(lease)),
        ("cilium/cluster-config/edge", r#"{"id":7,"capabilities":{}}"#.to_owned(), None),
        ("cilium/state/identities/v1/id/458753", LABELS.to_owned(), None),
        ("cilium/state/ip/v1/default/10.0.0.1", value("10.0.0.1", 458_753), Some(lease)),
        ("cilium/state/ip/v1/default/10.0.0.2", value("10.0.0.2", 6), Some(lease)),
    ] {
        client.put(key, value, lease).await.unwrap();
    }
    let file = config(&directory, &etcd, "");
    write_state(vec![Cluster { is_own: true, ..ready("edge", 7) }], Own::default());
    let listener = UnixListener::bind(socket(&root())).unwrap();
    (etcd, directory, file, listener)
}

#[test]
fn a_cluster_as_it_should_be_has_no_problem() {
    on_fresh_machine(async || {
        let (_etcd, _directory, file, _listener) = healthy().await;
        let (all, has_failed) = findings(&file, "");
        // The test's etcd has no certificates.
        assert!(matches!(bad(&all)[..], [it] if it["check"] == "encryption"), "{all:#?}");
        assert!(!has_failed);
        for check in [
            "configuration",
            "service",
            "heartbeat",
            "cluster-config",
            "identities",
            "addresses",
            "list",
            "leases",
            "permissions",
        ] {
            let is_told = |it: &Value| it["check"] == check && it["level"] == "ok";
            assert!(all.iter().any(is_told), "{check}: {all:#?}");
        }
        let table = cluster(&file, "doctor").ok();
        assert!(table.contains("ok       edge       cluster-config  number 7"), "{table}");
        let run = cluster(&file, "doctor --level warning");
        assert_eq!(run.stdout.lines().count(), 2, "{run:?}");
        let counts = format!("0 problems, 1 warning, {} ok", all.len() - 1);
        assert!(run.stderr.contains(&counts), "{run:?}");
    });
}

#[test]
fn each_condition_that_is_spoilt_is_told_with_its_cure() {
    on_fresh_machine(async || {
        let (etcd, _directory, file, _listener) = healthy().await;
        let at = |seconds| (Timestamp::now() + SignedDuration::from_secs(seconds)).to_string();
        let address = "cilium/state/ip/v1/default/10.0.0.3";
        for (key, spoilt, level, check, words) in [
            ("cilium/.heartbeat", None, "problem", "heartbeat", "there is none"),
            ("cilium/.heartbeat", Some(at(-121)), "problem", "heartbeat", "121 s old"),
            ("cilium/.heartbeat", Some("soon".into()), "problem", "heartbeat", "`soon` is no time"),
            ("cilium/.heartbeat", Some(at(60)), "warning", "clock", "s ahead"),
            ("cilium/cluster-config/edge", None, "problem", "cluster-config", "is not there"),
            (
                "cilium/cluster-config/edge",
                Some(r#"{"id":8}"#.into()),
                "problem",
                "cluster-config",
                "it says number 8, and this host's configuration 7",
            ),
            (
                "cilium/cluster-config/edge",
                Some(r#"{"id":300}"#.into()),
                "problem",
                "cluster-config",
                "300 is none of 1 to 255",
            ),
            ("cilium/cluster-config/edge", Some("x".into()), "problem", "cluster-config", "JSON"),
            (
                "cilium/cluster-config/edge",
                Some(r#"{"id":7,"capabilities":{"maxConnectedClusters":511}}"#.into()),
                "problem",
                "cluster-config",
                "made for 511 clusters",
            ),
            (
                "cilium/cluster-config/edge",
                Some(r#"{"id":7,"capabilities":{"syncedCanaries":true}}"#.into()),
                "problem",
                "canary",
                "cilium/synced/edge/cilium/state/ip/v1 is not there",
            ),
            ("cilium/state/identities/v1/id/458753", None, "warning", "labels", "458753"),
            (
                "cilium/state/identities/v1/id/458753",
                Some("k8s:app=web;".into()),
                "warning",
                "identities",
                "do not name the cluster",
            ),
            (
                "cilium/state/identities/v1/id/77",
                Some(LABELS.into()),
                "warning",
                "identities",
                "cluster's range",
            ),
            (address, Some(value("10.0.0.3", 300)), "warning", "addresses", "cluster's range"),
            (address, Some(value("10.0.0.4", 6)), "warning", "addresses", "another address"),
            (address, Some("x".into()), "warning", "addresses", "not to be read"),
            (address, Some(value("10.0.0.3", 6)), "problem", "leases", "of this host have none"),
            (
                address,
                Some(r#"{"IP":"10.0.0.3","ID":6}"#.into()),
                "warning",
                "leases",
                "of others have none",
            ),
        ] {
            let client = etcd.client();
            let (_, before) = client.get(key).await.unwrap();
            match &spoilt {
                Some(value) => _ = client.put(key, value.as_str(), None).await.unwrap(),
                None => _ = client.delete(key).await.unwrap(),
            }
            let (all, has_failed) = findings(&file, "");
            let is_told = |it: &&&Value| {
                it["check"] == check
                    && it["level"] == level
                    && it["says"].as_str().unwrap().contains(words)
                    && it["cure"].is_string()
            };
            assert!(bad(&all).iter().any(|it| is_told(&it)), "{key} {spoilt:?}: {all:#?}");
            assert_eq!(has_failed, all.iter().any(|it| it["level"] == "problem"), "{all:#?}");
            match before {
                Some(it) => _ = client.put(key, it.value, it.lease).await.unwrap(),
                None => _ = client.delete(key).await.unwrap(),
            }
        }
        let (all, _) = findings(&file, "");
        assert_eq!(bad(&all).len(), 1, "all of it was put right: {all:#?}");
    });
}

#[test]
fn nothing_is_changed() {
    on_fresh_machine(async || {
        let (etcd, _directory, file, _listener) = healthy().await;
        let before = etcd.client().header().await.unwrap();
        findings(&file, "");
        assert_eq!(etcd.client().header().await.unwrap(), before);
    });
}

#[test]
fn what_the_service_says_of_itself_is_told() {
    on_fresh_machine(async || {
        let (_etcd, _directory, file, listener) = healthy().await;
        let own = Own {
            conflicts: vec![Conflict {
                address: "10.0.0.2".parse().unwrap(),
                device: "blue".into(),
                their_identity: cilmark::model::identity::Identity(6),
                their_node: Some("h2".into()),
                since: Timestamp::now(),
            }],
            unpublished: vec![Unpublished {
                device: "green".into(),
                identity: cilmark::model::identity::Identity(1234),
                why: "take one of the cluster's range".into(),
            }],
            trouble: Some("another host is called h1 as well".into()),
            ..Own::default()
        };
        let held = Lines { count: 500, named: vec![] };
        let clusters = vec![
            Cluster { held, ..ready("edge", 7) },
            Cluster { phase: Phase::Refused("number 7 is edge's".into()), ..ready("c7", 7) },
            Cluster { phase: Phase::Waiting("its canary".into()), ..ready("c2", 2) },
        ];
        write_state(clusters, own);
        let (all, _) = findings(&file, "");
        for (check, words) in [
            ("held", "500 lines of edge"),
            ("read", "c7 is not read: number 7 is edge's"),
            ("read", "c2 is not read yet: it waits for its canary"),
            ("conflict", "10.0.0.2 of blue is h2's, too"),
            ("published", "green is not"),
            ("published", "nothing is"),
            ("ipcache", "it does not have all"),
        ] {
            let is_told =
                |it: &&Value| it["check"] == check && it["says"].as_str().unwrap().contains(words);
            assert!(bad(&all).into_iter().any(|it| is_told(&it)), "{check} {words}: {all:#?}");
        }
        drop(listener);
        let (all, has_failed) = findings(&file, "");
        let is_down = |it: &Value| it["check"] == "service" && it["level"] == "problem";
        assert!(has_failed && all.iter().any(is_down), "{all:#?}");
    });
}

#[test]
fn other_clusters_are_examined_as_readers_meet_them() {
    on_fresh_machine(async || {
        let (etcd, directory, _, _listener) = healthy().await;
        let remotes = directory.path().join("clustermesh");
        fs::create_dir(&remotes).unwrap();
        let file = config(&directory, &etcd, &format!("remotes = \"{}\"\n", remotes.display()));
        let (all, _) = findings(&file, "");
        let is_empty = |it: &&Value| it["says"].as_str().unwrap().starts_with("no client file is");
        assert!(bad(&all).into_iter().any(|it| is_empty(&it)), "{all:#?}");

        // KVStoreMesh's copy of c1, with canaries, in the same etcd; c2 has c1's number; c3 is away.
        let endpoints = format!("endpoints: ['{}']\n", etcd.url());
        for name in ["c1", "c2", "edge", "C4"] {
            fs::write(remotes.join(name), &endpoints).unwrap();
        }
        fs::write(remotes.join("c3"), "endpoints: ['http://127.0.0.9:2379']\n").unwrap();
        let labels = "k8s:app=db;k8s:io.cilium.k8s.policy.cluster=c1;";
        for (key, value) in [
            (
                "cilium/cluster-config/c1",
                r#"{"id":1,"capabilities":{"syncedCanaries":true,"cached":true}}"#,
            ),
            ("cilium/cluster-config/c2", r#"{"id":1}"#),
            ("cilium/synced/c1/cilium/cache/ip/v1", "2030-01-01T00:00:00Z"),
            ("cilium/synced/c1/cilium/cache/identities/v1", "2030-01-01T00:00:00Z"),
            ("cilium/cache/identities/v1/c1/id/65537", labels),
            ("cilium/cache/ip/v1/c1/10.1.0.1", r#"{"IP":"10.1.0.1","ID":65537}"#),
        ] {
            etcd.client().put(key, value, None).await.unwrap();
        }
        let (all, has_failed) = findings(&file, "");
        assert!(has_failed);
        let says = |of: &str, level: &str, check: &str, words: &str| {
            let is = |it: &Value| {
                it["of"] == of
                    && it["level"] == level
                    && it["check"] == check
                    && it["says"].as_str().unwrap().contains(words)
            };
            assert!(all.iter().any(is), "{of} {check} {words}: {all:#?}");
        };
        says("c1", "ok", "cluster-config", "number 1, identities 65536 to 131071");
        says("c1", "ok", "canary", "cilium/synced/c1/cilium/cache/ip/v1");
        says("c1", "ok", "identities", "1 that count");
        says("c1", "ok", "addresses", "1 that count");
        says("c2", "problem", "number", "it has number 1, as cluster c1 has");
        says("c3", "problem", "connection", "etcd does not answer");
        says("this host", "warning", "remotes", "edge is left out");
        says("this host", "warning", "remotes", "C4 is left out");

        let (only, has_failed) = findings(&file, "c1");
        assert!(!has_failed && only.iter().all(|it| it["of"] == "c1" || it["of"] == "this host"));
        cluster(&file, "doctor c9")
            .fails(1, &["cluster `c9` is not configured", "edge, c1, c2, c3"]);
    });
}
