//! From workload to workload past the stack: the verdicts are those of the way through it.

use super::red_and_blue;
use crate::common::World;
use crate::common::traffic::{
    Connection, any, cannot_connect, is_refused, is_unanswered, listen, ping, tcp, udp,
};
use crate::common::transfer::Transfer;

/// Runs `claim` on a world of its own for each way between the workloads; it gets the flags.
fn each_way(claim: fn(&World)) {
    for way in ["", "--local-delivery"] {
        let claim = move || {
            let Some(world) = red_and_blue(&format!("--policy enforce {way}")) else { return };
            let before = forwarded(&world);
            claim(&world);
            let packets = forwarded(&world) - before;
            // Until both workloads have sent something, their MACs are not known.
            assert_eq!(packets < 20, !way.is_empty(), "{packets} went through the stack");
        };
        std::thread::spawn(claim).join().unwrap_or_else(|_| panic!("with `{way}`"));
    }
}

/// Packets that the router's stack has forwarded, of both families.
fn forwarded(world: &World) -> u64 {
    let counters = world.sh("nstat -asz IpForwDatagrams Ip6OutForwDatagrams");
    let counts = counters.lines().filter(|line| line.contains("Forw"));
    counts.map(|line| line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap()).sum()
}

fn allow(world: &World) {
    world.cilmark_ok("policy add red allow egress to 199472");
    world.cilmark_ok("policy add red allow ingress from 199472");
    world.cilmark_ok("policy add blue allow egress to 1234");
    world.cilmark_ok("policy add blue allow ingress from 1234");
}

#[test]
fn what_both_policies_allow_passes_both_ways() {
    each_way(|world| {
        allow(world);
        for (from, to, number) in [("red", "blue", 2), ("blue", "red", 1)] {
            for address in [format!("10.{number}.0.10"), format!("fd00:{number}::10")] {
                tcp(world, from, to, &address);
                ping(world, from, &format!("-s 4000 {address}"));
                is_refused(&udp(world, from, any(&address)), &address, 9);
            }
        }
    });
}

#[test]
fn the_policy_of_the_destination_decides() {
    each_way(|world| {
        allow(world);
        let server = listen(world, "blue", 80);
        let back = listen(world, "red", 80);
        for (here, there) in [("10.1.0.10", "10.2.0.10"), ("fd00:1::10", "fd00:2::10")] {
            let transfer = Transfer::upload(Connection::open(world, "red", &server, there));
            transfer.goes_on();
            let before = world.status("blue")["drops"].as_u64().unwrap();
            world.cilmark_ok("policy add blue deny ingress from 1234");
            transfer.stands_still();
            cannot_connect(world, "red", there, 80);
            is_unanswered(world, "red", there);
            assert!(world.status("blue")["drops"].as_u64().unwrap() >= before + 3);
            assert_eq!(world.status("red")["drops"], 0, "red may send");
            Connection::open(world, "blue", &back, here).works();
            world.cilmark_ok("policy del blue deny ingress from 1234");
            transfer.goes_on();
            transfer.ends_complete();
        }
    });
}

#[test]
fn the_policy_of_the_sender_decides() {
    each_way(|world| {
        allow(world);
        let server = listen(world, "blue", 80);
        for there in ["10.2.0.10", "fd00:2::10"] {
            let transfer = Transfer::download(Connection::open(world, "red", &server, there));
            transfer.goes_on();
            world.cilmark_ok("policy add red deny egress to any tcp");
            transfer.stands_still();
            cannot_connect(world, "red", there, 80);
            ping(world, "red", there);
            world.cilmark_ok("policy del red deny egress to any tcp");
            transfer.goes_on();
            transfer.ends_complete();
        }
    });
}
