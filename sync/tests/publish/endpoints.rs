//! From an endpoint that is attached to its key.

use std::process::Command;
use std::rc::Rc;
use std::time::Duration;

use cilmark::model::spec::EndpointSpec;
use cilmark::ops::attach::{Consent, Terms, attach};
use cilmark::ops::detach::{Request, detach_all};
use cilmark::ops::prepare;
use cilmark::state::pin::Root;
use cilmark_sync::etcd::Client;
use cilmark_sync::publish::Publisher;
use tokio::task::spawn_local;
use tokio::time::Instant;

use crate::common::Etcd;
use crate::common::host::{config, on_fresh_machine, root, said, until_said};
use crate::common::machine::run;

/// How long a change takes to be in etcd, of a machine that is not busy with other tests.
const LATENCY: Duration = Duration::from_millis(300);

fn ip(arguments: &str) {
    run(Command::new("ip").args(arguments.split_whitespace()));
}

fn put_on(root: &Root, spec: &str) {
    let spec: EndpointSpec = serde_json::from_str(spec).expect("a spec");
    let _lock = prepare(root, false).expect("a root");
    let terms = Terms { consent: Consent::Everything, ..Terms::default() };
    attach(root, &spec, &terms).expect("attach");
}

/// Waits for it, and tells how long that took.
async fn time_until(client: &Client, address: &str, by: Option<(u32, &str)>) -> Duration {
    let begun = Instant::now();
    until_said(client, address, by).await;
    begun.elapsed()
}

#[test]
fn endpoints_are_in_etcd_at_once_when_they_come_and_gone_when_they_or_their_devices_go() {
    on_fresh_machine(async || {
        let etcd = Etcd::start().await;
        let client = etcd.client();
        let root = root("n1");
        let publisher = Rc::new(Publisher::new(&config("n1"), &root, etcd.client()).unwrap());
        let running = publisher.clone();
        let task = spawn_local(async move { running.run().await });
        for device in ["red", "blue"] {
            ip(&format!("link add {device} type veth peer name {device}-peer"));
            ip(&format!("link set {device} up"));
        }
        // Before the root is there.
        let mut times = Vec::new();
        put_on(&root, r#"{"device": "red", "id": 200, "ip": ["10.0.0.1", "10.8.0.0/24"]}"#);
        times.push(time_until(&client, "10.0.0.1", Some((200, "n1"))).await);
        put_on(&root, r#"{"device": "blue", "id": 201, "ip": ["10.0.0.2"]}"#);
        times.push(time_until(&client, "10.0.0.2", Some((201, "n1"))).await);
        // Another identity in its place.
        put_on(
            &root,
            r#"{"device": "blue", "id": 131080, "labels": {"app": "web"}, "ip": ["10.0.0.2"]}"#,
        );
        times.push(time_until(&client, "10.0.0.2", Some((131_080, "n1"))).await);
        // One that is nobody's elsewhere.
        put_on(&root, r#"{"device": "blue", "id": 300, "ip": ["10.0.0.2"]}"#);
        times.push(time_until(&client, "10.0.0.2", None).await);
        let mut own = cilmark_sync::service::state::Own::default();
        publisher.fill(&mut own);
        let why: Vec<&str> = own.unpublished.iter().map(|it| it.why.as_str()).collect();
        assert!(why.iter().any(|it| it.contains("10.8.0.0/24 is a prefix")), "{why:?}");
        assert!(why.iter().any(|it| it.contains("identity 300 is not the cluster's")), "{why:?}");
        put_on(&root, r#"{"device": "blue", "id": 201, "ip": ["10.0.0.2"]}"#);
        times.push(time_until(&client, "10.0.0.2", Some((201, "n1"))).await);
        ip("link del blue");
        times.push(time_until(&client, "10.0.0.2", None).await);
        assert_eq!(said(&client, "10.0.0.1").await, Some((200, "n1".to_owned())));
        detach_all(&root, &Request::All, None).unwrap();
        times.push(time_until(&client, "10.0.0.1", None).await);
        times.sort();
        let usual = times[times.len() / 2];
        assert!(usual < LATENCY, "{times:?}");
        task.abort();
    });
}
