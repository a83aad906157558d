//! The store: stopped, killed, cut off, compacted, emptied, lost, replaced.

use std::thread;
use std::time::Duration;

use nix::sys::signal::Signal;

use super::super::client::Op;
use super::super::edge::{AGREEMENT, Cluster, claim, host_of, key_of, seconds};
use super::super::host::{Host, Lines, Settings};
use super::super::lab::Lab;
use crate::common::machine::time_for;
use crate::common::world::wait_for;

/// What a member was asked before it lost its leader is not answered. After 5 s another one is asked, which may wait for a
/// leader as well.
const WITHOUT_LEADER: Duration = Duration::from_secs(15);

/// Something of every kind: endpoints of both hosts, and what another node says.
fn populated<'lab>(
    lab: &'lab Lab,
    members: usize,
    hosts: u8,
    settings: Settings<'_>,
) -> Cluster<'lab> {
    let cluster = Cluster::start(lab, members, hosts, settings);
    for host in 0..cluster.hosts.len() {
        cluster.attach(host, 1, &format!("--id {}", 200 + host));
    }
    let claims: Vec<Op> = (1..=20).map(|n| claim(&format!("10.200.0.{n}"), 220)).collect();
    cluster.store.change(&claims);
    cluster.agrees();
    cluster
}

/// Endpoints come, go and change while nobody is told.
fn endpoints_change(cluster: &Cluster<'_>) {
    let gone = cluster.attach(0, 2, "--id 210");
    cluster.attach(0, 3, "--id 211");
    cluster.detach(0, &gone);
}

/// The state file says that the cluster's etcd does not answer.
fn says_that_etcd_is_away(host: &Host<'_>) -> bool {
    let state = host.state_of("edge").expect("its cluster");
    state["connection"].get("away").is_some()
}

/// Lets so much time go by, which is what is tested.
fn lasts(time: Duration) {
    thread::sleep(time);
}

#[test]
fn store_that_stops_for_a_while_takes_nothing_away() {
    let Some(lab) = Lab::new() else { return };
    let cluster = populated(&lab, 1, 2, Settings::default());
    let before = cluster.hosts.each_lines();
    cluster.store.freeze(0);
    endpoints_change(&cluster);
    lasts(Duration::from_secs(3));
    assert_eq!(cluster.hosts.each_lines(), before);
    cluster.store.thaw(0);
    cluster.ends_well();
}

#[test]
fn store_that_stops_for_a_minute_takes_nothing_away() {
    let Some(lab) = Lab::new() else { return };
    let cluster = populated(&lab, 1, 2, Settings::default());
    let before = cluster.hosts.each_lines();
    cluster.store.freeze(0);
    // Much longer than a lease of 10 s, and than a client waits for an answer.
    lasts(Duration::from_secs(60));
    wait_for("the state", || cluster.hosts.iter().all(says_that_etcd_is_away));
    assert_eq!(cluster.hosts.each_lines(), before);
    cluster.store.thaw(0);
    cluster.ends_well();
}

#[test]
fn store_that_is_killed_comes_back_to_hosts_that_have_changed() {
    let Some(lab) = Lab::new() else { return };
    let cluster = populated(&lab, 1, 2, Settings::default());
    let before = cluster.hosts.each_lines();
    cluster.store.kill(0);
    endpoints_change(&cluster);
    wait_for("the state", || cluster.hosts.iter().all(says_that_etcd_is_away));
    assert_eq!(cluster.hosts.each_lines(), before);
    cluster.store.restart(0);
    cluster.ends_well();
}

#[test]
fn host_that_is_cut_off_keeps_what_it_knew_and_catches_up() {
    let Some(lab) = Lab::new() else { return };
    let cluster = populated(&lab, 1, 3, Settings::default());
    let cut_off = &cluster.hosts[2];
    let before = cut_off.lines();
    let address = cluster.store.address(0).to_owned();
    lab.cut(&cut_off.name, &address);
    endpoints_change(&cluster);
    cluster.store.change(&[
        claim("10.200.0.1", 221),
        claim("10.200.1.1", 222),
        Op::Delete(key_of("10.200.0.2")),
    ]);
    cluster.agree(&cluster.hosts[..2], time_for(AGREEMENT));
    assert_eq!(cut_off.lines(), before);
    lab.heal(&cut_off.name, &address);
    cluster.ends_well();
}

#[test]
fn two_members_of_three_are_enough() {
    let Some(lab) = Lab::new() else { return };
    let cluster = populated(&lab, 3, 2, Settings::default());
    for lost in 0..3 {
        cluster.store.kill(lost);
        cluster.attach(0, 10 + lost as u8, "--id 212");
        cluster.agrees_within(WITHOUT_LEADER);
        cluster.store.restart(lost);
    }
    // One that hosts reach, and the other members do not, has no say.
    cluster.store.isolate(0);
    cluster.attach(0, 20, "--id 213");
    cluster.agrees_within(WITHOUT_LEADER);
    cluster.store.rejoin(0);
    cluster.ends_well();
}

#[test]
fn what_is_compacted_behind_a_stopped_host_is_not_missed() {
    let Some(lab) = Lab::new() else { return };
    let cluster = populated(&lab, 1, 2, Settings::default());
    cluster.hosts[1].signal(Signal::SIGSTOP);
    cluster.attach(0, 2, "--id 210");
    for round in 0..3 {
        let address = format!("10.200.2.{round}");
        cluster.store.change(&[
            claim(&address, 223),
            Op::Delete(key_of(&format!("10.200.0.{}", round + 1))),
        ]);
        cluster.store.change(&[claim("10.200.0.20", 230 + round), claim(&address, 224)]);
    }
    cluster.store.compact();
    cluster.hosts[1].signal(Signal::SIGCONT);
    cluster.ends_well();
}

#[test]
fn hosts_fill_a_store_that_was_emptied_and_keep_what_goes_by_mistake() {
    let Some(lab) = Lab::new() else { return };
    let cluster =
        populated(&lab, 1, 2, Settings { more: "sweep_lines = 10", ..Settings::default() });
    let known = cluster.hosts.each_lines();
    cluster.store.empty("cilium/");
    // Whoever is there says again what is its own. What nobody says any more was too much to go at once.
    cluster.own_is_said();
    wait_for("the guard", || cluster.hosts.iter().all(|host| held(host) == 20));
    assert_eq!(cluster.hosts.each_lines(), known);
    for host in &cluster.hosts {
        host.cilmark_ok("cluster sweep edge");
    }
    cluster.ends_well();
}

/// How many lines the guard keeps.
fn held(host: &Host<'_>) -> u64 {
    let state = host.state_of("edge").expect("its cluster");
    state["held"]["count"].as_u64().expect("a number")
}

/// How many lines stay for a while that nobody says any more.
fn stale(host: &Host<'_>) -> u64 {
    let state = host.state_of("edge").expect("its cluster");
    state["stale"]["count"].as_u64().expect("a number")
}

#[test]
fn what_another_store_does_not_say_stays_until_it_is_stale() {
    let Some(lab) = Lab::new() else { return };
    let cluster = populated(&lab, 1, 2, Settings { stale: &seconds(4), ..Settings::default() });
    let known = cluster.hosts.each_lines();
    let number = cluster.store.number_of_store();
    let before = cluster.begin_anew_with(|store| store.replace());
    assert_ne!(cluster.store.number_of_store(), number);
    cluster.own_is_said();
    wait_for("the stale lines", || cluster.hosts.iter().all(|host| stale(host) == 20));
    // One that starts does not know how lines got lost.
    cluster.hosts[0].kill();
    cluster.hosts[0].start();
    assert_eq!(cluster.hosts.each_lines(), known);
    // Somebody says one of them again, and another number for another one.
    cluster.store.change(&[claim("10.200.0.1", 220), claim("10.200.0.2", 225)]);
    let number = |host: &Host<'_>| host.lines().get(&host_of("10.200.0.2")).copied();
    wait_for("the new number", || cluster.hosts.iter().all(|host| number(host) == Some(225)));
    wait_for("the end of the others", || cluster.hosts.iter().all(|host| stale(host) == 0));
    cluster.ends_well_but(before, "was lost");
}

#[test]
fn what_a_store_set_back_does_not_say_stays_until_it_is_stale() {
    let Some(lab) = Lab::new() else { return };
    let cluster = populated(&lab, 1, 2, Settings { stale: &seconds(3), ..Settings::default() });
    let number = cluster.store.number_of_store();
    let before = cluster.begin_anew_with(|store| store.lose_data());
    assert_eq!(cluster.store.number_of_store(), number);
    cluster.own_is_said();
    wait_for("the stale lines", || cluster.hosts.iter().all(|host| stale(host) == 20));
    wait_for("their end", || cluster.hosts.iter().all(|host| stale(host) == 0));
    cluster.ends_well_but(before, "was lost");
}

#[test]
fn certificates_are_rotated_without_a_restart() {
    let Some(lab) = Lab::new() else { return };
    let cluster = populated(&lab, 1, 2, Settings::default());
    lab.authority.rotate();
    cluster.store.restart_all();
    endpoints_change(&cluster);
    cluster.ends_well();
}

/// What hosts have.
trait EachLines {
    fn each_lines(&self) -> Vec<Lines>;
}

impl EachLines for Vec<Host<'_>> {
    fn each_lines(&self) -> Vec<Lines> {
        self.iter().map(Host::lines).collect()
    }
}
