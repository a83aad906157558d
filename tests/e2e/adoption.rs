//! Connections that are older than the first enforcement.

use crate::common::World;
use crate::common::traffic::{Connection, HOST, cannot_connect, listen};
use crate::common::transfer::Transfer;

const NIC: &str = "attach red --role netdev --failsafe none --yes";

/// A host whose NIC is `red`, or which is its router; and four pairs of connections, with a transfer in
/// each direction: those of the host and those of `red`, over both families.
fn transfers(world: &World) -> Vec<Transfer> {
    world.workload("red", 1);
    let (here, there) = (listen(world, HOST, 5001), listen(world, "red", 5001));
    let mut transfers = Vec::new();
    for (from, server, address) in [
        ("red", &here, "10.1.0.1"),
        ("red", &here, "fd00:1::1"),
        (HOST, &there, "10.1.0.10"),
        (HOST, &there, "fd00:1::10"),
    ] {
        transfers.push(Transfer::upload(Connection::open(world, from, server, address)));
        transfers.push(Transfer::download(Connection::open(world, from, server, address)));
    }
    transfers.iter().for_each(Transfer::goes_on);
    transfers
}

#[test]
fn transfers_go_on_when_their_nic_begins_to_enforce() {
    let Some(world) = World::new() else { return };
    let transfers = transfers(&world);
    let _again = [listen(&world, HOST, 5002), listen(&world, "red", 5002)];
    world.cilmark_ok(&format!("{NIC} --policy enforce"));
    transfers.iter().for_each(Transfer::goes_on);
    // What begins now is none of them.
    cannot_connect(&world, "red", "10.1.0.1", 5002);
    cannot_connect(&world, HOST, "fd00:1::10", 5002);
    world.cilmark_ok("policy add red allow ingress from 909 --yes");
    transfers.iter().for_each(Transfer::goes_on);
    world.cilmark_ok("policy add red deny ingress from any tcp --yes");
    world.cilmark_ok("policy add red deny egress to any tcp --yes");
    transfers.iter().for_each(Transfer::stands_still);
    world.cilmark_ok("policy flush red --yes");
    transfers.iter().for_each(Transfer::goes_on);
    transfers.into_iter().for_each(Transfer::ends_complete);
}

#[test]
fn audit_before_it_takes_no_connection_away() {
    let Some(world) = World::new() else { return };
    let transfers = transfers(&world);
    world.cilmark_ok(&format!("{NIC} --policy audit"));
    transfers.iter().for_each(Transfer::goes_on);
    world.cilmark_ok(&format!("{NIC} --policy enforce"));
    transfers.iter().for_each(Transfer::goes_on);
    transfers.into_iter().for_each(Transfer::ends_complete);
}

#[test]
fn audit_finds_the_rule_of_a_workloads_connection_whoever_speaks_first() {
    let Some(world) = World::new() else { return };
    let transfers = transfers(&world);
    let attach = "attach red --id 1234 --ip 10.1.0.10 fd00:1::10";
    world.cilmark_ok(&format!("{attach} --policy audit"));
    world.cilmark_ok("policy add red allow egress to any tcp/5001");
    world.cilmark_ok("policy add red allow ingress from host tcp/5001");
    transfers.iter().for_each(Transfer::goes_on);
    world.cilmark_ok(&format!("{attach} --policy enforce"));
    transfers.iter().for_each(Transfer::goes_on);
    world.cilmark_ok("policy flush red");
    transfers.iter().for_each(Transfer::stands_still);
}

#[test]
fn without_adoption_they_need_a_rule() {
    let Some(world) = World::new() else { return };
    let transfers = transfers(&world);
    world.cilmark_ok(&format!("{NIC} --policy enforce --adopt 0"));
    transfers.iter().for_each(Transfer::stands_still);
}

#[test]
fn a_connection_that_was_adopted_stays_when_others_no_longer_are() {
    let Some(world) = World::new() else { return };
    world.workload("red", 1);
    let server = listen(&world, HOST, 5001);
    let [early, late] = [(); 2].map(|()| Connection::open(&world, "red", &server, "10.1.0.1"));
    world.cilmark_ok(&format!("{NIC} --policy enforce --adopt 60s"));
    early.works();
    world.cilmark_ok(&format!("{NIC} --policy enforce --adopt 0"));
    early.works();
    late.is_cut();
}
