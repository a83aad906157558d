//! Replacing, detaching and attaching under traffic.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use cilmark::kernel::device;
use cilmark::kernel::sys::{self, Hook};

use super::red_and_blue;
use crate::common::World;
use crate::common::machine::{by_each_hook, has_tcx, repetitions};
use crate::common::third_party::ThirdParty;
use crate::common::traffic::{Connection, HOST, cannot_connect, listen, udp};

/// How long to wait between requests, so that what is tested gets its share of the CPUs: some 8,000 a second.
const PACE: Duration = Duration::from_micros(50);

/// Sends numbered requests from red to blue while `change` runs; each must be answered. How many were.
pub fn every_request_is_answered(world: &World, change: impl FnOnce()) -> u64 {
    let (red, blue) = (udp(world, "red", "0.0.0.0:0"), udp(world, "blue", "0.0.0.0:0"));
    let port = blue.local_addr().unwrap().port();
    red.connect(("10.2.0.10", port)).unwrap();
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            let mut bytes = [0; 8];
            // An empty datagram is the end.
            while let Ok((8, from)) = blue.recv_from(&mut bytes) {
                blue.send_to(&bytes, from).unwrap();
            }
        });
        let asking = scope.spawn(|| {
            let mut number = 0_u64;
            while !done.load(Ordering::Relaxed) {
                red.send(&number.to_ne_bytes()).unwrap();
                let mut answer = [0; 8];
                let received = red.recv(&mut answer);
                assert!(received.is_ok(), "request {number} was lost");
                assert_eq!(u64::from_ne_bytes(answer), number);
                number += 1;
                thread::sleep(PACE);
            }
            red.send(&[]).unwrap();
            number
        });
        change();
        done.store(true, Ordering::Relaxed);
        asking.join().expect("nothing is lost")
    })
}

#[test]
fn replacing_loses_no_packet() {
    by_each_hook(|hook| {
        let Some(world) = red_and_blue(&format!("--hook {hook}")) else { return };
        let answered = every_request_is_answered(&world, || {
            let many = if hook == "tcx" { 160 } else { 60 };
            for round in 0..repetitions(many) {
                let identity = 300 + round % 2;
                world.cilmark_ok(&format!(
                    "attach red --id {identity} --ip 10.1.0.10 fd00:1::10 --hook {hook}"
                ));
            }
        });
        assert!(answered > 100, "{answered}");
        assert_eq!(world.status("red")["drops"], 0);
    });
}

#[test]
fn rules_that_come_with_an_attachment_count_from_its_first_packet_on() {
    let Some(world) = red_and_blue("") else { return };
    // Both ways: an answer to what was asked before there was a program has no flow.
    let allow = "--rule allow egress to 199472 udp allow ingress from 199472 udp";
    let attach = "attach red --id 1234 --ip 10.1.0.10 fd00:1::10 --policy";
    every_request_is_answered(&world, || {
        for _ in 0..repetitions(10) {
            world.cilmark_ok("detach red");
            world.cilmark_ok(&format!("{attach} enforce {allow} allow egress to any tcp"));
            world.cilmark_ok(&format!("{attach} enforce {allow}"));
            world.cilmark_ok(&format!("{attach} off --rules /dev/null"));
            world.cilmark_ok(&format!("{attach} enforce {allow}"));
        }
    });
    assert_eq!(world.status("red")["drops"], 0);
}

#[test]
fn a_flood_of_pings_is_answered_through_replacements() {
    let Some(world) = red_and_blue("") else { return };
    let count = repetitions(5_000);
    let mut replaced = 0;
    while replaced < repetitions(15) {
        let ping = world.spawn(&format!("ip netns exec red ping -qfc {count} -W 5 10.2.0.10"));
        let summary = loop {
            world.cilmark_ok("attach red --id 300 --ip 10.1.0.10 fd00:1::10");
            replaced += 1;
            match ping.next_line(Duration::ZERO) {
                Some(line) if line.contains("transmitted") => break line,
                _ => {}
            }
        };
        let all = format!("{count} packets transmitted, {count} received");
        assert!(summary.starts_with(&all), "{summary}");
    }
}

#[test]
fn detaching_and_attaching_loses_no_packet() {
    by_each_hook(|hook| {
        // The first attachment by clsact makes the qdisc, which loses packets.
        let Some(world) = red_and_blue(&format!("--hook {hook}")) else { return };
        every_request_is_answered(&world, || {
            for _ in 0..12 {
                world.cilmark_ok("detach red");
                world.cilmark_ok(&format!("attach red --id 300 --ip 10.1.0.10 --hook {hook}"));
            }
        });
    });
}

#[test]
fn changing_the_kind_of_hook_loses_no_packet() {
    let Some(world) = red_and_blue("--hook clsact") else { return };
    if !has_tcx() {
        return;
    }
    every_request_is_answered(&world, || {
        for _ in 0..12 {
            for hook in ["tcx", "clsact"] {
                world.cilmark_ok(&format!(
                    "attach red --id 1234 --ip 10.1.0.10 fd00:1::10 --hook {hook}"
                ));
            }
        }
    });
}

/// Puts a program of somebody else before red's own on both hooks, and red's before that, over and over.
/// What was wrong, if anything.
fn take_turns(world: &World, attach: &str) -> Result<(), String> {
    let hooks = [Hook::Ingress, Hook::Egress];
    let ifindex = device::by_name("red").unwrap().ifindex;
    for _ in 0..repetitions(12) {
        let _strangers = hooks.map(|hook| ThirdParty::first_on_tcx("red", hook));
        let run = world.cilmark(&format!("{attach} --first"));
        let there = hooks.map(|hook| sys::on_tcx(ifindex, hook).unwrap().len());
        // The old programs are off at once.
        if run.status != Some(0) || there != [2, 2] {
            return Err(format!("{there:?} programs after {run:?}"));
        }
    }
    Ok(())
}

#[test]
fn moving_to_the_front_loses_no_packet() {
    let Some(world) = has_tcx().then(|| red_and_blue("")).flatten() else { return };
    let mut moved = Ok(());
    every_request_is_answered(&world, || {
        moved = take_turns(&world, "attach red --id 1234 --ip 10.1.0.10 fd00:1::10");
    });
    assert_eq!(moved, Ok(()));
    assert_eq!(world.status("red")["drops"], 0);
}

#[test]
fn moving_to_the_front_lets_nothing_through_that_is_denied() {
    let Some(world) = has_tcx().then(|| red_and_blue("")).flatten() else { return };
    let attach = "attach red --id 1234 --ip 10.1.0.10 --policy enforce";
    world.cilmark_ok(attach);
    let (red, blue) = (udp(&world, "red", "0.0.0.0:0"), udp(&world, "blue", "0.0.0.0:0"));
    let port = blue.local_addr().unwrap().port();
    let moved = thread::scope(|scope| {
        let moving = scope.spawn(|| take_turns(&world, attach));
        while !moving.is_finished() {
            let _ = red.send_to(b"hello", ("10.2.0.10", port));
        }
        moving.join().unwrap()
    });
    assert_eq!(moved, Ok(()));
    blue.set_nonblocking(true).unwrap();
    assert!(blue.recv(&mut [0; 8]).is_err(), "a packet met no program");
    assert!(world.status("red")["drops"].as_u64().unwrap() > 10);
}

#[test]
fn what_a_filter_before_it_accepts_it_polices_once_it_is_the_first() {
    let Some(world) = World::new() else { return };
    world.workload("red", 1);
    world.sh("tc qdisc add dev red clsact
         tc filter add dev red ingress pref 10 bpf da bytecode '1,6 0 0 0'");
    let attach = "attach red --role netdev --hook clsact --ingress-policy enforce --adopt 0 --yes";
    world.cilmark_ok(attach);
    let server = listen(&world, HOST, 80);
    Connection::open(&world, "red", &server, "10.1.0.1").works();
    world.cilmark_ok(&format!("{attach} --first"));
    cannot_connect(&world, "red", "10.1.0.1", 80);
}
