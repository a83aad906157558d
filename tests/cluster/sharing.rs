//! Hosts that share: identities of labels, addresses, policy by both with real packets.

use std::time::Instant;

use serde_json::json;

use super::checker::spoilings;
use super::edge::{Cluster, EDGE, NEWS, claim, key_of};
use super::host::{Settings, Workload};
use super::lab::Lab;
use crate::common::traffic::{any, arrives, is_lost, udp};
use crate::common::world::wait_for;

/// The number of an endpoint.
fn identity(cluster: &Cluster<'_>, host: usize, device: &str) -> u32 {
    let status = cluster.hosts[host].cilmark_ok(&format!("status {device} --json"));
    let status: serde_json::Value = serde_json::from_str(&status).expect("JSON");
    status[0]["identity"].as_u64().expect("an identity") as u32
}

#[test]
fn identities_are_allocated_once_and_policy_by_them_holds_between_hosts() {
    let Some(lab) = Lab::new() else { return };
    let cluster = Cluster::start(&lab, 3, 3, Settings::default());
    let world = &lab.world;
    let web: Vec<_> = (0..3).map(|host| cluster.attach(host, 1, "--labels app=web")).collect();
    let db: Vec<_> = (0..3)
        .map(|host| cluster.attach(host, 2, "--labels app=db,tier=back --ingress-policy enforce"))
        .collect();
    let [web_number, db_number] = [&web, &db].map(|workloads| {
        let numbers: Vec<u32> = workloads
            .iter()
            .enumerate()
            .map(|(host, workload)| identity(&cluster, host, &workload.device))
            .collect();
        assert!(numbers.iter().all(|number| *number == numbers[0]), "{numbers:?}");
        numbers[0]
    });
    assert_ne!(web_number, db_number);
    cluster.agrees();

    // db takes what web sends, and nothing else.
    for (host, db) in cluster.hosts.iter().zip(&db) {
        let device = &db.device;
        host.cilmark_ok(&format!("policy add {device} 'allow ingress from {web_number} udp'"));
    }
    for (from, to) in [(0, 1), (1, 2), (2, 0)] {
        for address in [&db[to].address, &db[to].address6] {
            let receiver = udp(world, &db[to].namespace, any(address));
            arrives(&udp(world, &web[from].namespace, any(address)), &receiver, address);
            is_lost(&udp(world, &db[from].namespace, any(address)), &receiver, address);
        }
    }

    // A reader takes all of it, and would notice each mistake.
    spoilings::finds_each(EDGE.0, &cluster.store.list("cilium/"));
    cluster.ends_well();
}

#[test]
fn workload_born_while_etcd_is_away_is_closed_until_its_number_is_known() {
    let Some(lab) = Lab::new() else { return };
    let cluster = Cluster::start(&lab, 1, 2, Settings::default());
    let [host, other] = &cluster.hosts[..] else { unreachable!() };
    cluster.store.freeze(0);
    let workload = cluster.attach(0, 1, "--labels app=web");
    let Workload { device, namespace, address, .. } = &workload;
    let modes = || {
        let status = host.cilmark_ok(&format!("status {device} --json"));
        let status: serde_json::Value = serde_json::from_str(&status).expect("JSON");
        ["identity", "ingress_policy", "egress_policy"].map(|key| status[0][key].clone())
    };
    assert_eq!(modes(), [json!(5), json!("enforce"), json!("enforce")]);
    let gateway = "10.1.1.1";
    let [sender, receiver] = [(namespace, "0.0.0.0:0"), (&host.name, "0.0.0.0:7000")]
        .map(|(namespace, any)| udp(&lab.world, namespace, any));
    is_lost(&sender, &receiver, gateway);
    // The same without a word of anybody once etcd is back; others know it then.
    cluster.store.thaw(0);
    wait_for("the number", || modes()[0] != json!(5));
    assert_eq!(modes()[1..], [json!("off"), json!("off")]);
    arrives(&sender, &receiver, gateway);
    let number = identity(&cluster, 0, device);
    wait_for("the other host", || other.number(address) == Some(number));
    cluster.ends_well();
}

#[test]
fn others_know_within_a_second_who_comes_and_who_goes() {
    let Some(lab) = Lab::new() else { return };
    let cluster = Cluster::start(&lab, 1, 3, Settings::default());
    for round in 1..=5 {
        let workload = cluster.attach(0, round, "--id 200");
        let since = Instant::now();
        for host in 1..3 {
            cluster.is_known(host, &workload, Some(200), NEWS);
        }
        let came = since.elapsed();
        cluster.detach(0, &workload);
        for host in 1..3 {
            cluster.is_known(host, &workload, None, NEWS);
        }
        eprintln!("came after {came:?}, gone after {:?}", since.elapsed() - came);
    }
    cluster.ends_well_in_time(NEWS);
}

#[test]
fn who_stops_and_starts_takes_nothing_away_and_writes_nothing_again() {
    let Some(lab) = Lab::new() else { return };
    let cluster = Cluster::start(&lab, 1, 2, Settings::default());
    cluster.attach(0, 1, "--id 200");
    cluster.attach(1, 1, "--id 201");
    cluster.store.change(&[claim("10.200.0.1", 220)]);
    cluster.agrees();
    let addresses = || cluster.store.list("cilium/state/ip/");
    let (host, before) = (&cluster.hosts[0], addresses());
    let lines = host.lines();
    host.stop();
    assert_eq!((host.lines(), addresses()), (lines.clone(), before.clone()));
    host.start();
    // What comes later has been written behind what a start writes.
    cluster.attach(0, 2, "--id 202");
    cluster.agrees();
    let (_, since): (Vec<_>, Vec<_>) =
        addresses().into_iter().partition(|entry| before.contains(entry));
    assert!(
        since
            .iter()
            .all(|entry| entry.key.contains("10.1.2.10") || entry.key.contains("fd00:1:2::10")),
        "{since:#?}"
    );
    assert_eq!(host.lines(), lines);
    cluster.ends_well();
}

#[test]
fn host_that_leaves_takes_away_what_is_its_own_and_nothing_else() {
    let Some(lab) = Lab::new() else { return };
    let cluster = Cluster::start(&lab, 1, 2, Settings::default());
    let leaving = cluster.attach(0, 1, "--labels app=web");
    let staying = cluster.attach(1, 1, "--labels app=web");
    cluster.agrees();
    for host in &cluster.hosts {
        host.cluster_json("doctor");
    }
    let list = cluster.hosts[1].cluster_json("list");
    let addresses =
        list.as_array().expect("lines").iter().filter(|line| line["labels"] == "app=web");
    assert_eq!(addresses.count(), 2, "{list:#}");
    cluster.hosts[0].cluster_json("leave");
    for address in [&leaving.address, &leaving.address6] {
        wait_for("the other host to forget", || cluster.hosts[1].number(address).is_none());
    }
    let left = cluster.store.list("cilium/state/").into_iter().map(|entry| entry.key);
    let left: Vec<String> =
        left.filter(|key| !key.starts_with("cilium/state/identities/v1/id/")).collect();
    let user =
        "cilium/state/identities/v1/value/k8s:app=web;k8s:io.cilium.k8s.policy.cluster=edge;/h2";
    assert_eq!(left, [user.to_owned(), key_of(&staying.address), key_of(&staying.address6)]);
}
