//! Tier e2e: real packets between network namespaces, through the real stack.

mod adoption;
mod bridge;
mod confirm;
mod devices;
mod forged_marks;
mod host_firewall;
mod lease;
mod local_delivery;
mod local_verdicts;
mod nat;
mod neighbours;
mod policy;
mod receivers;
mod replacing;
mod router;
mod source_check;
mod transfers;
mod uplink;

use crate::common::World;

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
