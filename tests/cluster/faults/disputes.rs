//! Two who say different things of the same.

use std::time::Duration;

use jiff::Timestamp;

use super::super::client::Op;
use super::super::edge::{Cluster, claim, host_of, key_of};
use super::super::host::{Host, Settings};
use super::super::lab::Lab;
use super::super::store::Store;
use crate::common::machine::time_for;
use crate::common::world::wait_for;

const PATIENCE: Duration = Duration::from_secs(5);

#[test]
fn of_two_hosts_with_one_address_the_later_birth_has_it() {
    let Some(lab) = Lab::new() else { return };
    let cluster = Cluster::start(&lab, 1, 3, Settings::default());
    let [first, second, third] = &cluster.hosts[..] else { unreachable!() };
    let address = "10.1.1.10";
    let known = |host: &Host<'_>| host.lines().get(&host_of(address)).copied();
    let workload = first.workload(1);
    first.cilmark_ok(&format!("attach {} --id 201 --ip {address}", workload.device));
    wait_for("the first", || known(second) == Some(201) && known(third) == Some(201));
    // As a machine that moves: it comes there before it goes here.
    let moved = second.workload(1);
    second.cilmark_ok(&format!("attach {} --id 202 --ip {address}", moved.device));
    wait_for("the second", || known(third) == Some(202));
    let value = cluster.store.get(&key_of(address)).expect("the key").value;
    assert!(value.contains(":h2:"), "{value}");
    // Each believes itself, and the one that was overwritten says so, and writes no more.
    assert_eq!((known(first), known(second)), (None, None));
    wait_for("the conflict", || {
        let state = first.state().expect("a state");
        state["own"]["conflicts"].as_array().is_some_and(|conflicts| conflicts.len() == 1)
    });
    // When the second one goes, the first one has it again, at once.
    second.cilmark_ok(&format!("detach {}", moved.device));
    wait_for("the first again", || known(third) == Some(201) && known(second) == Some(201));
    first.cilmark_ok(&format!("detach {}", workload.device));
    wait_for("nobody", || known(third).is_none() && known(second).is_none());
    cluster.ends_well();
}

/// A cluster that says what it is.
fn introduced<'lab>(lab: &'lab Lab, name: &str, number: u16, id: u16) -> Store<'lab> {
    let store = lab.store(name, number, 1);
    store.put("cilium/.heartbeat", &Timestamp::now().to_string());
    store.put(
        &format!("cilium/cluster-config/{name}"),
        &format!(r#"{{"id":{id},"capabilities":{{"maxConnectedClusters":255}}}}"#),
    );
    store
}

#[test]
fn of_two_clusters_with_one_number_the_second_is_refused() {
    let Some(lab) = Lab::new() else { return };
    let own = lab.store("edge", 3, 1);
    let one = introduced(&lab, "one", 1, 1);
    let same = introduced(&lab, "same", 2, 1);
    let like_own = introduced(&lab, "like-own", 4, 3);
    one.change(&[claim("10.201.0.1", 65_600)]);
    same.change(&[claim("10.202.0.1", 65_600)]);
    like_own.change(&[claim("10.203.0.1", 196_700)]);
    let host = Host::new(&lab, 1);
    host.join(&own, Settings::default());
    host.read(&one);
    host.start();
    let first = [(host_of("10.201.0.1"), 65_600)].into();
    host.comes_to(&first, time_for(PATIENCE));
    host.read(&same);
    host.read(&like_own);
    let is_refused = |cluster: &str| {
        let state = host.state_of(cluster);
        state.is_some_and(|state| state["phase"].get("refused").is_some())
    };
    wait_for("the refusals", || is_refused("same") && is_refused("like-own"));
    assert_eq!(host.lines(), first);
    // Once it has a number of its own it is read.
    same.put("cilium/cluster-config/same", r#"{"id":2}"#);
    same.change(&[claim("10.202.0.1", 131_100)]);
    let both = [(host_of("10.201.0.1"), 65_600), (host_of("10.202.0.1"), 131_100)].into();
    host.comes_to(&both, time_for(Duration::from_secs(60)));
}

#[test]
fn of_two_clusters_with_one_address_the_own_and_then_the_lower_number_has_it() {
    let Some(lab) = Lab::new() else { return };
    let own = lab.store("edge", 3, 1);
    let (one, two) = (introduced(&lab, "one", 1, 1), introduced(&lab, "two", 2, 2));
    let address = "10.201.0.1";
    let host = Host::new(&lab, 1);
    host.join(&own, Settings::default());
    host.read(&one);
    host.read(&two);
    host.start();
    let comes_to = |number: Option<u32>| {
        let lines = number.map(|number| (host_of(address), number)).into_iter().collect();
        host.comes_to(&lines, time_for(PATIENCE));
    };
    two.change(&[claim(address, 131_100)]);
    comes_to(Some(131_100));
    one.change(&[claim(address, 65_600)]);
    comes_to(Some(65_600));
    own.change(&[claim(address, 200)]);
    comes_to(Some(200));
    // When the winner goes the next one comes in its place, and at no moment there is none.
    let observer = super::super::history::Observer::of(&host);
    own.change(&[Op::Delete(key_of(address))]);
    comes_to(Some(65_600));
    one.change(&[Op::Delete(key_of(address))]);
    comes_to(Some(131_100));
    let numbers = observer.end().steps.into_iter().map(|step| step.number);
    let numbers: Vec<_> = numbers.collect();
    assert!(!numbers.contains(&None), "{numbers:?}");
    two.change(&[Op::Delete(key_of(address))]);
    comes_to(None);
}
