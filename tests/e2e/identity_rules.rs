//! Rules of identities, and what becomes of the packets of those that carry them.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use super::red_and_blue;
use super::replacing::every_request_is_answered;
use crate::common::World;
use crate::common::machine::{repetitions, time_for};
use crate::common::traffic::{
    Connection, HOST, any, arrives, cannot_connect, is_lost, listen, udp,
};
use crate::common::world::wait_for;

const RED: &str = "attach red --ip 10.1.0.10 fd00:1::10 --policy enforce";

#[test]
fn they_count_from_the_first_packet_of_whoever_is_attached() {
    let Some(world) = red_and_blue("") else { return };
    // Both ways: an answer to what was asked before there was a program has no flow.
    world.cilmark_ok("policy add @1234 allow egress to 199472 udp allow ingress from 199472 udp");
    world.cilmark_ok("policy add @1235 allow egress to any udp allow ingress from 199472 udp");
    every_request_is_answered(&world, || {
        for _ in 0..repetitions(8) {
            world.cilmark_ok("detach red");
            world.cilmark_ok(&format!("{RED} --id 1234"));
            world.cilmark_ok(&format!("{RED} --id 1234 --rule allow egress to any tcp"));
        }
    });
    assert_eq!(world.status("red")["drops"], 0);
    let (red, blue) = (udp(&world, "red", any("10.2.0.10")), udp(&world, "blue", any("10.2.0.10")));
    world.cilmark_ok("policy add @1236 deny egress to any");
    world.cilmark_ok(&format!("{RED} --id 1236 --rule allow egress to any"));
    is_lost(&red, &blue, "10.2.0.10");
    world.cilmark_ok(&format!("{RED} --id 1235 --rules /dev/null"));
    arrives(&red, &blue, "10.2.0.10");
}

#[test]
fn a_change_is_one_for_all_that_carry_the_identity() {
    let Some(world) = red_and_blue("") else { return };
    world.workload("green", 3);
    world.cilmark_ok("attach green --id 1234 --ip 10.3.0.10 --policy enforce");
    world.cilmark_ok(&format!("{RED} --id 1234"));
    let servers = [listen(&world, "red", 80), listen(&world, "green", 80)];
    let addresses = ["10.1.0.10", "10.3.0.10"];
    for address in addresses {
        cannot_connect(&world, "blue", address, 80);
    }
    world.cilmark_ok("policy add @1234 allow ingress from 199472 tcp/80");
    let open = |(server, address): (&_, &&str)| Connection::open(&world, "blue", server, address);
    let connections: Vec<Connection> = servers.iter().zip(&addresses).map(open).collect();
    connections.iter().for_each(Connection::works);
    let lists = ["@1234", "red", "green"].map(|whose| {
        let list = world.cilmark_json(&format!("policy list {whose}"));
        list[0]["packets"].as_u64().expect("packets")
    });
    assert_eq!(lists[0], lists[1] + lists[2]);
    assert!(lists[1] >= 5 && lists[2] >= 5, "{lists:?}");
    let told = world.cilmark_ok(
        "explain red to --src 10.2.0.10 --dst 10.1.0.10 --proto tcp --sport 9 --dport 80",
    );
    assert!(told.contains("allow ingress from 199472 tcp/80"), "{told}");
    world.cilmark_ok("policy del @1234 allow ingress from 199472 tcp/80");
    for address in addresses {
        cannot_connect(&world, "blue", address, 80);
    }
}

#[test]
fn what_nobody_confirms_is_cut_by_itself() {
    let Some(world) = red_and_blue("") else { return };
    world.cilmark_ok(&format!("{RED} --id 1234"));
    world.workload("green", 3);
    let time = time_for(Duration::from_millis(2500)).as_millis();
    let (red, blue) = (udp(&world, "red", any("10.1.0.10")), udp(&world, "blue", any("10.1.0.10")));
    is_lost(&blue, &red, "10.1.0.10");
    world.cilmark_ok(&format!("policy add @1234 allow ingress from any --confirm {time}ms"));
    arrives(&blue, &red, "10.1.0.10");
    // Also where the identity has come later.
    world.cilmark_ok("attach green --id 1234 --ip 10.3.0.10 --policy enforce");
    let green = udp(&world, "green", any("10.3.0.10"));
    for device in ["red", "green"] {
        let waits = || world.status(device)["confirm_deadline"].as_u64() > Some(0);
        wait_for("the fallback", || !waits());
    }
    is_lost(&blue, &red, "10.1.0.10");
    is_lost(&blue, &green, "10.3.0.10");
    world.cilmark_ok("policy add @1234 allow ingress from any --confirm 60s");
    world.cilmark_ok("confirm @1234");
    arrives(&blue, &red, "10.1.0.10");
    arrives(&blue, &green, "10.3.0.10");
}

/// Blue takes packets of 1234 alone, and 1234 may send it none; 1235 may, whose packets it does not take.
#[test]
fn another_identity_opens_nothing_for_a_moment_that_neither_opens() {
    let Some(world) = red_and_blue("") else { return };
    world.cilmark_ok("attach blue --id 199472 --ip 10.2.0.10 --ingress-policy enforce");
    world.cilmark_ok("policy add blue allow ingress from 1234");
    world.cilmark_ok("policy add @1235 allow egress to any");
    world.cilmark_ok(&format!("{RED} --id 1234"));
    let blue = udp(&world, "blue", "0.0.0.0:0");
    blue.set_read_timeout(Some(Duration::from_millis(1))).expect("set a timeout");
    let port = blue.local_addr().expect("an address").port();
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let flood = scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                // A flow of its own each: no verdict that was given before counts.
                let red = udp(&world, "red", "0.0.0.0:0");
                for _ in 0..20 {
                    let _ = red.send_to(b"hello", ("10.2.0.10", port));
                }
            }
        });
        let mut arrived = 0;
        for _ in 0..repetitions(15) {
            for id in [1235, 1234] {
                world.cilmark_ok(&format!("{RED} --id {id}"));
                while blue.recv(&mut [0; 8]).is_ok() {
                    arrived += 1;
                }
            }
        }
        done.store(true, Ordering::Relaxed);
        flood.join().expect("the flood");
        assert_eq!(arrived, 0);
    });
    world.cilmark_ok("policy add @1234 allow egress to any");
    world.cilmark_ok(&format!("{RED} --id 1234"));
    let red = udp(&world, "red", "0.0.0.0:0");
    arrives(&red, &blue, "10.2.0.10");
}

#[test]
fn those_of_this_host_are_those_of_all_its_nics() {
    let Some(world) = World::new() else { return };
    for (nic, number) in [("red", 1), ("blue", 2)] {
        world.workload(nic, number);
        world.cilmark_ok(&format!("attach {nic} --role netdev --policy enforce --yes"));
    }
    let server = listen(&world, HOST, 8080);
    let all = [("red", "10.1.0.1"), ("blue", "10.2.0.1")];
    for (from, address) in all {
        cannot_connect(&world, from, address, 8080);
    }
    world.cilmark_ok("policy add @host allow ingress from any tcp/8080 --yes");
    for (from, address) in all {
        Connection::open(&world, from, &server, address).works();
    }
    world.cilmark_ok("detach red");
    world.cilmark_ok("attach red --role netdev --policy enforce --yes");
    Connection::open(&world, "red", &server, "10.1.0.1").works();
    world.cilmark_ok("policy flush @host --yes");
    for (from, address) in all {
        cannot_connect(&world, from, address, 8080);
    }
}
