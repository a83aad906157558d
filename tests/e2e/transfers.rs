//! Running transfers that nothing must disturb: what happens has nothing to do with them.

use super::red_and_blue;
use crate::common::World;
use crate::common::machine::repetitions;
use crate::common::traffic::{Connection, HOST, listen};
use crate::common::transfer::Transfer;

const TIMES: u64 = 80;

/// One transfer from `red` over IPv4, and one to it over IPv6.
fn transfers(world: &World, to: &str, addresses: [&str; 2]) -> Vec<Transfer> {
    let server = listen(world, to, 5001);
    let [connection4, connection6] =
        addresses.map(|address| Connection::open(world, "red", &server, address));
    let transfers = vec![Transfer::upload(connection4), Transfer::download(connection6)];
    transfers.iter().for_each(Transfer::goes_on);
    transfers
}

/// They go on, have lost no byte, and no packet was dropped.
fn end(world: &World, transfers: Vec<Transfer>) {
    transfers.iter().for_each(Transfer::goes_on);
    transfers.into_iter().for_each(Transfer::ends_complete);
    for line in world.cilmark_json("status").as_array().unwrap() {
        assert_eq!(line["drops"], 0, "{line}");
    }
}

/// Rules come and go that say nothing about the transfers; `yes` is what a NIC wants to hear.
fn change_other_rules(world: &World, device: &str, yes: &str) {
    for round in 0..repetitions(TIMES / 2) {
        let rule = format!("{device} deny ingress from {} tcp/80", 300 + round % 7);
        world.cilmark_ok(&format!("policy add {rule} {yes}"));
        world.cilmark_ok(&format!("policy del {rule} {yes}"));
    }
}

const RED: &str = "attach red --id 1234 --ip 10.1.0.10 fd00:1::10 --policy enforce";

fn workloads() -> Option<(World, Vec<Transfer>)> {
    let world = red_and_blue("--policy audit")?;
    world.cilmark_ok("policy add red allow egress to 199472 tcp/5001");
    world.cilmark_ok("policy add blue allow ingress from 1234 tcp/5001");
    let transfers = transfers(&world, "blue", ["10.2.0.10", "fd00:2::10"]);
    world.cilmark_ok(RED);
    world.cilmark_ok("attach blue --id 199472 --ip 10.2.0.10 fd00:2::10 --policy enforce");
    transfers.iter().for_each(Transfer::goes_on);
    Some((world, transfers))
}

const NIC: &str = "attach red --role netdev --failsafe none --adopt 0";

fn host() -> Option<(World, Vec<Transfer>)> {
    let world = World::new()?;
    world.workload("red", 1);
    world.cilmark_ok(&format!("{NIC} --policy audit"));
    world.cilmark_ok("policy add red allow ingress from any tcp/5001");
    let transfers = transfers(&world, HOST, ["10.1.0.1", "fd00:1::1"]);
    world.cilmark_ok(&format!("{NIC} --policy enforce --yes"));
    transfers.iter().for_each(Transfer::goes_on);
    Some((world, transfers))
}

#[test]
fn a_workloads_survives_enforcement_and_other_rules() {
    let Some((world, transfers)) = workloads() else { return };
    change_other_rules(&world, "red", "");
    end(&world, transfers);
}

#[test]
fn a_workloads_survives_attaching_again() {
    let Some((world, transfers)) = workloads() else { return };
    for _ in 0..repetitions(TIMES) {
        world.cilmark_ok(RED);
    }
    end(&world, transfers);
}

#[test]
fn a_hosts_survives_enforcement_and_other_rules() {
    let Some((world, transfers)) = host() else { return };
    change_other_rules(&world, "red", "--yes");
    end(&world, transfers);
}

#[test]
fn a_hosts_survives_attaching_again() {
    let Some((world, transfers)) = host() else { return };
    for _ in 0..repetitions(TIMES) {
        world.cilmark_ok(&format!("{NIC} --policy enforce --yes"));
    }
    end(&world, transfers);
}
