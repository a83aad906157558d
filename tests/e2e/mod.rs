//! Tier e2e: real packets between network namespaces, through the real stack.

mod adoption;
mod adoption_of_datagrams;
mod apply;
mod bridge;
mod confirm;
mod devices;
mod forged_marks;
mod generations;
mod hints;
mod host_firewall;
mod identity_rules;
mod inheritance;
mod lease;
mod local_delivery;
mod local_verdicts;
mod moved;
mod multicast;
mod nat;
mod neighbours;
mod nics;
mod policy;
mod policy_test;
mod prefixes;
mod receivers;
mod replacing;
mod router;
mod shared_addresses;
mod source_check;
mod transfers;
mod uplink;
mod whose;

use crate::common::World;
use crate::common::traffic::{arrives, ping, tcp, udp};

/// The marks of the two workloads.
const RED: u32 = 0x04d2_0f00;
const BLUE: u32 = 0x0b30_0f03;

/// Workloads `red` (1234) and `blue` (199472) with a router between them, both attached.
fn red_and_blue(options: &str) -> Option<World> {
    let world = World::new()?;
    world.workload("red", 1);
    world.workload("blue", 2);
    world.cilmark_ok(&format!("attach red --id 1234 --ip 10.1.0.10 fd00:1::10 {options}"));
    world.cilmark_ok(&format!("attach blue --id 199472 --ip 10.2.0.10 fd00:2::10 {options}"));
    Some(world)
}

/// How many packets were dropped for a reason.
fn drops(world: &World, reason: u32) -> u64 {
    let metrics = world.cilmark_json("metrics");
    let line = metrics.as_array().unwrap().iter().find(|line| line["reason"] == reason).cloned();
    line.map_or(0, |line| line["packets"].as_u64().unwrap())
}

/// Echoes, TCP and UDP from each of them to the other, by both families.
fn traffic_both_ways(world: &World) {
    for (from, to, number) in [("red", "blue", 2), ("blue", "red", 1)] {
        for address in [format!("10.{number}.0.10"), format!("fd00:{number}::10")] {
            ping(world, from, &format!("-s 4000 {address}"));
            tcp(world, from, to, &address);
            let (sender, receiver) = (udp(world, from, "[::]:0"), udp(world, to, "[::]:0"));
            arrives(&sender, &receiver, &address.replace("10.", "::ffff:10."));
        }
    }
}
