//! Each key that Cilium has, as it writes it, and what must become of it: in the ipcache what Cilium would make of it.

mod keys;

use std::time::Duration;

use jiff::Timestamp;
use serde_json::Value;

use keys::{Fixture, Ignored, Line, OF_CACHE, OF_STATE, Refused};

use super::checker::{self, Range, Why};
use super::client::Op;
use super::host::{Host, Lines, Settings};
use super::lab::Lab;
use super::store::Store;
use crate::common::machine::time_for;
use crate::common::world::wait_for;

/// What the ipcache is to say of them.
fn lines(fixtures: &[Fixture]) -> Lines {
    let line = |(_, _, is): &Fixture| match is {
        Line(prefix, number) => Some((prefix.parse().expect("a prefix"), *number)),
        _ => None,
    };
    fixtures.iter().filter_map(line).collect()
}

/// Which keys are refused, and why. Those that are this host's own are only counted.
fn refused(fixtures: &[Fixture]) -> Vec<(String, String)> {
    let reason = |(key, _, is): &Fixture| match is {
        Refused("own") => None,
        Refused(reason) => Some((format!("cilium/{key}"), (*reason).to_owned())),
        _ => None,
    };
    let mut list: Vec<(String, String)> = fixtures.iter().filter_map(reason).collect();
    list.sort();
    list
}

/// What a host says that it has refused of a cluster.
fn said_refused(host: &Host<'_>, cluster: &str) -> Vec<(String, String)> {
    let state = host.state_of(cluster).unwrap_or_default();
    let text = |value: &Value| value.as_str().expect("a text").to_owned();
    let keys = state["refused_keys"].as_array().into_iter().flatten();
    let mut list: Vec<(String, String)> =
        keys.map(|refused| (text(&refused["key"]), text(&refused["reason"]))).collect();
    list.sort();
    list
}

/// Waits until a host says that it has refused just these.
fn refuses(host: &Host<'_>, cluster: &str, fixtures: &[Fixture]) {
    super::within(time_for(Duration::from_secs(5)), "the refusals", || {
        let (said, expected) = (said_refused(host, cluster), refused(fixtures));
        let without = |these: &[(String, String)], those: &[(String, String)]| {
            these.iter().filter(|it| !those.contains(it)).cloned().collect::<Vec<_>>()
        };
        let (missing, more) = (without(&expected, &said), without(&said, &expected));
        match missing.is_empty() && more.is_empty() {
            true => Ok(()),
            false => Err(format!("{cluster}: not {missing:#?}, but {more:#?}")),
        }
    });
}

fn put(store: &Store<'_>, fixtures: &[Fixture]) {
    let put = |(key, value, _): &Fixture| Op::Put(format!("cilium/{key}"), (*value).to_owned());
    store.change(&fixtures.iter().map(put).collect::<Vec<_>>());
}

/// A cluster says what it is: with canaries, once everything is there.
fn introduce(store: &Store<'_>, cluster: &str, id: u16, is_cached: bool) {
    let config = format!(
        r#"{{"id":{id},"capabilities":{{"syncedCanaries":true,"cached":{is_cached},"maxConnectedClusters":255}}}}"#
    );
    store.put("cilium/.heartbeat", &Timestamp::now().to_string());
    store.put(&format!("cilium/cluster-config/{cluster}"), &config);
}

fn say_that_all_is_there(store: &Store<'_>, cluster: &str, tree: &str) {
    let now = Timestamp::now().to_string();
    let canary = |what: &str| {
        let key = format!("cilium/synced/{cluster}/cilium/{tree}/{what}/v1");
        Op::Put(key, now.clone())
    };
    store.change(&["nodes", "services", "ip", "identities"].map(canary));
}

/// The checker and the fixtures were written by themselves: they agree, but for what cilmark alone refuses.
#[test]
fn checker_takes_of_the_fixtures_what_they_say() {
    let range = Range::of(1, 255);
    for (key, value, is) in OF_STATE {
        if let Some(rest) = key.strip_prefix("state/ip/v1/default/") {
            let taken = checker::address(rest, value, &range);
            match is {
                Line(prefix, number) => {
                    assert_eq!(taken, Ok((prefix.parse().expect("a prefix"), *number)), "{key}");
                }
                Refused("too_wide" | "own") => assert!(taken.is_ok(), "{key}"),
                Refused("other_key") => assert_eq!(taken, Err(Why::OtherKey), "{key}"),
                Refused("out_of_range") => assert_eq!(taken, Err(Why::OutOfRange), "{key}"),
                Refused(_) => {
                    let is_malformed = matches!(taken, Err(Why::Pair | Why::NoAddress));
                    assert!(is_malformed, "{key}: {taken:?}");
                }
                Ignored => panic!("{key} is an address"),
            }
        } else if let Some(rest) = key.strip_prefix("state/identities/v1/id/") {
            let taken = checker::identity(rest, value, "c1", &range);
            match is {
                Refused("other_cluster") => assert_eq!(taken, Err(Why::ClusterLabel), "{key}"),
                Refused("out_of_range") => assert_eq!(taken, Err(Why::OutOfRange), "{key}"),
                Refused(_) => assert_eq!(taken, Err(Why::NoNumber), "{key}"),
                _ => assert!(taken.is_ok(), "{key}"),
            }
        }
    }
}

#[test]
fn clusters_are_read_as_cilium_reads_them() {
    let Some(lab) = Lab::new() else { return };
    let own = lab.store("edge", 3, 1);
    let mesh = lab.store("c1", 1, 1);
    mesh.let_read_caches();
    let host = Host::new(&lab, 1);
    host.join(&own, Settings::default());
    let workload = host.workload(1);
    host.cilmark_ok(&format!("attach {} --id 200 --ip {}", workload.device, workload.address));

    introduce(&mesh, "c1", 1, false);
    introduce(&mesh, "c2", 2, true);
    put(&mesh, OF_STATE);
    put(&mesh, OF_CACHE);
    say_that_all_is_there(&mesh, "c1", "state");
    host.read(&mesh);
    host.read_cache(&mesh, "c2");
    host.start();

    // A cluster that says that it will say when all is there is waited for.
    let patience = time_for(Duration::from_secs(5));
    let mut expected = lines(OF_STATE);
    host.comes_to(&expected, patience);
    refuses(&host, "c1", OF_STATE);
    // The host's address and the endpoint's are claimed by c1. What this host says itself is nobody's claim.
    let own = |cluster: &str| host.state_of(cluster).expect("a cluster")["refused"]["own"].clone();
    wait_for("what is refused as own", || own("c1") == 2 && own("edge").is_null());
    assert_eq!(host.state_of("c2").expect("c2")["phase"].as_str(), None, "it waits");
    say_that_all_is_there(&mesh, "c2", "cache");
    expected.extend(lines(OF_CACHE));
    host.comes_to(&expected, patience);
    refuses(&host, "c2", OF_CACHE);

    // Commands tell the same.
    let status = host.cluster_json("status");
    let cluster = status["clusters"].as_array().expect("clusters").iter();
    let c1 = cluster.clone().find(|cluster| cluster["name"] == "c1").expect("c1");
    assert_eq!(c1["refused"]["out_of_range"], 6, "{c1}");

    // The same, one after the other: what was refused comes to count, and what counted does no longer.
    let key = "cilium/state/ip/v1/default/10.71.2.4";
    mesh.put(key, r#"{"IP":"10.71.2.4","ID":70000}"#);
    expected.insert("10.71.2.4/32".parse().expect("a prefix"), 70_000);
    host.comes_to(&expected, patience);
    mesh.put(key, r#"{"IP":"10.71.2.4","ID":170000}"#);
    expected.remove(&"10.71.2.4/32".parse().expect("a prefix"));
    host.comes_to(&expected, patience);
    mesh.delete("cilium/state/ip/v1/default/10.72.0.0/16");
    expected.remove(&"10.72.0.0/16".parse().expect("a prefix"));
    host.comes_to(&expected, patience);

    // A cluster that is read no longer leaves nothing.
    host.read_no_longer("c1");
    host.comes_to(&lines(OF_CACHE), patience);
}
