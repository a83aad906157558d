//! Those who publish and read: killed, cut off until their leases end, and with another time.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;
use std::time::Duration;

use super::super::client::Op;
use super::super::edge::{Cluster, NEWS, claim, host_of, key_of, pair, seconds};
use super::super::host::{Host, Settings};
use super::super::lab::Lab;
use crate::common::machine::{repetitions, time_for};
use crate::common::random::Random;
use crate::common::world::wait_for;

#[test]
fn host_that_dies_is_forgotten_when_its_leases_and_then_its_lines_end() {
    let Some(lab) = Lab::new() else { return };
    let cluster =
        Cluster::start(&lab, 1, 2, Settings { stale: &seconds(4), ..Settings::default() });
    let mortal = cluster.attach(1, 1, "--id 201");
    let moved = cluster.attach(1, 2, "--id 202");
    cluster.agrees();
    cluster.hosts[1].kill();
    // Its lease of 10 s ends first, and that is no news: it may be the network.
    let reader = &cluster.hosts[0];
    wait_for("the end of the lease", || is_stale(reader, 4));
    assert!(cluster.store.get(&key_of(&mortal.address)).is_none());
    assert_eq!(reader.lines().get(&host_of(&mortal.address)), Some(&201));
    // Somebody else has one of its addresses now.
    cluster.store.change(&[claim(&moved.address, 230)]);
    let known = |address: &str| reader.lines().get(&host_of(address)).copied();
    wait_for("the new owner", || known(&moved.address) == Some(230));
    wait_for("the end", || known(&mortal.address).is_none() && known(&mortal.address6).is_none());
    // It comes back with what it has, and the one that has taken its address is not its own.
    cluster.store.delete(&key_of(&moved.address));
    cluster.hosts[1].start();
    cluster.ends_well();
}

#[test]
fn what_is_deleted_goes_at_once_and_what_nobody_keeps_when_it_is_stale() {
    let Some(lab) = Lab::new() else { return };
    let settings = Settings { stale: &seconds(3), ..Settings::default() };
    let cluster = Cluster::start(&lab, 1, 1, settings);
    let [host] = &cluster.hosts[..] else { unreachable!() };
    let claimed = |address: &str, lease: u32| {
        let lease = cluster.store.grant(lease);
        cluster.store.put_with_lease(&key_of(address), &pair(address, 220), lease);
        wait_for("the line", || host.number(address) == Some(220));
        lease
    };
    claimed("10.200.0.1", 60);
    cluster.store.delete(&key_of("10.200.0.1"));
    super::super::within(time_for(NEWS), "its end", || match host.number("10.200.0.1") {
        Some(_) => Err("it is there".to_owned()),
        None => Ok(()),
    });
    // One whose lease ends by itself, and one whose lease is ended.
    let goes_when_stale = |address: &str| {
        wait_for("the stale line", || is_stale(host, 1));
        assert!(cluster.store.get(&key_of(address)).is_none());
        assert_eq!(host.number(address), Some(220));
        wait_for("its end", || host.number(address).is_none());
    };
    claimed("10.200.0.2", 2);
    goes_when_stale("10.200.0.2");
    cluster.store.revoke(claimed("10.200.0.3", 60));
    goes_when_stale("10.200.0.3");
    cluster.ends_well();
}

/// Whether so many lines of its cluster stay for a while that nobody keeps.
fn is_stale(host: &Host<'_>, lines: u64) -> bool {
    host.state_of("edge").is_some_and(|state| state["stale"]["count"] == lines)
}

#[test]
fn cilmark_sync_killed_at_random_loses_nothing_and_tells_nothing_that_is_not() {
    let Some(lab) = Lab::new() else { return };
    let cluster = Cluster::start(&lab, 1, 2, Settings::default());
    cluster.attach(0, 1, "--id 200");
    cluster.attach(1, 1, "--id 201");
    let changing = cluster.attach(0, 2, "--id 202");
    let claims: Vec<Op> = (1..=20).map(|n| claim(&format!("10.200.0.{n}"), 220)).collect();
    cluster.store.change(&claims);
    cluster.agrees();
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        // What others say changes all the time, and so does what there is on the host.
        scope.spawn(|| {
            let mut random = Random(7);
            while !is_over.load(Relaxed) {
                let address = format!("10.200.0.{}", 1 + random.below(20));
                match random.below(3) {
                    0 => cluster.store.change(&[Op::Delete(key_of(&address))]),
                    _ => cluster.store.change(&[claim(&address, 220 + random.below(10) as u32)]),
                }
            }
        });
        scope.spawn(|| {
            while !is_over.load(Relaxed) {
                cluster.detach(0, &changing);
                cluster.attach_again(0, &changing, "--id 202");
            }
        });
        let mut random = Random(19);
        for _ in 0..repetitions(100) {
            for host in &cluster.hosts {
                host.kill();
            }
            let sockets: Vec<_> = cluster.hosts.iter().map(Host::start_unready).collect();
            // Before, while or after it reads and writes.
            thread::sleep(Duration::from_millis(random.below(120) as u64));
            drop(sockets);
        }
        is_over.store(true, Relaxed);
    });
    for host in &cluster.hosts {
        host.kill();
        host.start();
    }
    cluster.ends_well();
}

#[test]
fn clock_that_jumps_takes_nothing_away() {
    let Some(lab) = Lab::new() else { return };
    let settings = Settings { has_own_clock: true, ..Settings::default() };
    let cluster = Cluster::start(&lab, 1, 2, settings);
    cluster.attach(0, 1, "--id 200");
    cluster.attach(1, 1, "--id 201");
    cluster.agrees();
    let workload = cluster.attach(0, 2, "--id 210");
    // There and back: each time more than any lease, and than what is stale for good.
    for jump in [7200, -7200, 0] {
        for host in &cluster.hosts {
            host.set_clock(jump);
        }
        cluster.detach(0, &workload);
        cluster.is_known(1, &workload, None, NEWS);
        cluster.attach_again(0, &workload, "--id 210");
        cluster.is_known(1, &workload, Some(210), NEWS);
        cluster.agrees();
    }
    cluster.ends_well();
}
