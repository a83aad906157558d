//! `leave`: by the service, or in its place.

use std::fs;
use std::time::Duration;

use cilmark::model::cluster::{Answer, Request};
use cilmark::ops::cluster::memory::{self, Memory};
use cilmark_sync::service::state::{Lease, Own};
use jiff::Timestamp;

use super::{cluster, config, on_fresh_machine, root, service_that_answers, write_state};

use crate::common::Etcd;
use crate::common::directory::Directory;

fn remember() {
    memory::write(&root(), &Memory::new()).unwrap();
}

#[test]
fn the_service_is_asked_to_withdraw() {
    on_fresh_machine(async || {
        let (directory, service) = (Directory::new(), service_that_answers(Answer::Done(3)));
        remember();
        let run = cluster(&directory.path().join("none"), "leave");
        assert!(run.stderr.contains("systemctl disable --now cilmark-sync"), "{}", run.stderr);
        assert!(run.ok().starts_with("3 keys are withdrawn\n"));
        assert_eq!(service.join().unwrap(), Request::Leave);
        assert_eq!(memory::read(&root()).unwrap(), None);
    });
}

#[test]
fn what_the_service_cannot_withdraw_leaves_the_host_in_the_cluster() {
    on_fresh_machine(async || {
        let directory = Directory::new();
        let service = service_that_answers(Answer::Error("etcd is away".into()));
        remember();
        cluster(&directory.path().join("none"), "leave").fails(1, &["etcd is away"]);
        service.join().unwrap();
        assert!(memory::read(&root()).unwrap().is_some());
    });
}

#[test]
fn without_the_service_this_hosts_keys_go_and_nobody_elses() {
    on_fresh_machine(async || {
        let (etcd, directory) = (Etcd::start().await, Directory::new());
        let client = etcd.client();
        let lease = client.grant(Duration::from_secs(600)).await.unwrap();
        let address = |ip: &str, node: &str| {
            let metadata = format!("cilium-global:default:{node}:1");
            let value = format!(r#"{{"IP":"{ip}","ID":458753,"Metadata":"{metadata}"}}"#);
            (format!("cilium/state/ip/v1/default/{ip}"), value)
        };
        let labels = "cilium/state/identities/v1/value/k8s:app=web;";
        let kept = [
            address("10.0.0.3", "h2"),
            address("10.0.0.4", "h1:1"),
            (format!("{labels}/h2"), "458753".into()),
            (format!("{labels}/xh1"), "458753".into()),
            ("cilium/state/identities/v1/id/458753".into(), "k8s:app=web;".into()),
            ("cilium/cluster-config/edge".into(), r#"{"id":7}"#.into()),
        ];
        for (key, value) in &kept {
            client.put(key, value.as_str(), None).await.unwrap();
        }
        // One whose lease is known, and two that nobody remembers.
        for (key, value, lease) in [
            (address("10.0.0.1", "h1").0, address("10.0.0.1", "h1").1, Some(lease)),
            (address("10.0.0.2", "h1").0, address("10.0.0.2", "h1").1, None),
            (format!("{labels}/h1"), "458753".into(), None),
            ("cilium/.heartbeat".into(), "2030-01-01T00:00:00Z".into(), Some(lease)),
        ] {
            client.put(&key, value, lease).await.unwrap();
        }
        let over = Lease { id: 12345, keys: 1, until: Timestamp::now() };
        let leases = vec![Lease { id: lease.0, keys: 2, until: Timestamp::now() }, over];
        write_state(vec![], Own { leases, ..Own::default() });
        remember();

        let told = cluster(&config(&directory, &etcd, ""), "leave --json").json();
        assert_eq!((&told["withdrawn"], &told["was_running"]), (&4.into(), &false.into()));
        let mut left = Vec::new();
        client.list("", |page| left.extend(page.into_iter().map(|it| it.key))).await.unwrap();
        let mut expected: Vec<String> = kept.into_iter().map(|(key, _)| key).collect();
        expected.sort();
        assert_eq!(left, expected);
        assert_eq!(memory::read(&root()).unwrap(), None);
    });
}

#[test]
fn with_etcd_away_the_host_stays_in_the_cluster() {
    on_fresh_machine(async || {
        let (mut etcd, directory) = (Etcd::start().await, Directory::new());
        let file = config(&directory, &etcd, "");
        etcd.kill();
        remember();
        cluster(&file, "leave").fails(1, &["etcd does not answer", "when its leases end"]);
        assert!(memory::read(&root()).unwrap().is_some());
        assert!(fs::exists(&file).unwrap());
    });
}
