//! `--confirm` runs out when nobody is left who could put anything back.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

use cilmark::kernel::netns;

use crate::common::World;
use crate::common::machine::time_for;
use crate::common::traffic::{Connection, HOST, cannot_connect, listen};
use crate::common::transfer::Transfer;

const NIC: &str = "attach red --role netdev --failsafe none --adopt 0 --policy enforce";

/// Long enough to look at what is cut, and short enough for TCP not to give up: what its own host drops
/// it takes for congestion there, probes every 500 ms, and gives up after `tcp_retries2`, 15, probes.
fn for_a_while() -> String {
    let time = time_for(Duration::from_millis(1200)).min(Duration::from_secs(6));
    format!("{}ms", time.as_millis())
}

/// How many processes of ours are in this namespace, but this test itself.
fn processes() -> usize {
    let own = netns::current().unwrap();
    let binary = Path::new(env!("CARGO_BIN_EXE_cilmark"));
    let is_ours = |process: &Path| {
        fs::metadata(process.join("ns/net")).is_ok_and(|namespace| namespace.ino() == own)
            && fs::read_link(process.join("exe")).is_ok_and(|exe| exe == binary)
    };
    let processes = fs::read_dir("/proc").unwrap();
    processes.filter(|process| is_ours(&process.as_ref().unwrap().path())).count()
}

#[test]
fn what_an_unconfirmed_enforcement_has_cut_goes_on_by_itself() {
    let Some(world) = World::new() else { return };
    world.workload("red", 1);
    let server = listen(&world, HOST, 5001);
    for address in ["10.1.0.1", "fd00:1::1"] {
        let open = || Connection::open(&world, "red", &server, address);
        let transfers = [Transfer::upload(open()), Transfer::download(open())];
        transfers.iter().for_each(Transfer::goes_on);
        world.cilmark_ok(&format!("{NIC} --confirm {}", for_a_while()));
        transfers.iter().for_each(Transfer::stands_still);
        assert_eq!(processes(), 0);
        transfers.iter().for_each(Transfer::goes_on);
        assert_eq!(world.status("red")["ingress_policy"], "audit");
        transfers.into_iter().for_each(Transfer::ends_complete);
        world.cilmark_ok("detach red");
    }
}

#[test]
fn rules_that_nobody_confirms_cut_nothing_for_long() {
    let Some(world) = World::new() else { return };
    world.workload("red", 1);
    let server = listen(&world, HOST, 5001);
    world.cilmark_ok(&format!("{NIC} --yes"));
    world.cilmark_ok("policy add red allow ingress from any tcp/5001 --yes");
    let open = || Connection::open(&world, "red", &server, "10.1.0.1");
    let transfer = Transfer::upload(open());
    transfer.goes_on();
    let rule = "deny ingress from world tcp/5001-5010";
    world.cilmark_ok(&format!("policy add red {rule} --confirm {}", for_a_while()));
    transfer.stands_still();
    assert_eq!(processes(), 0);
    transfer.goes_on();
    transfer.ends_complete();
    assert_eq!(world.status("red")["ingress_policy"], "enforce");
    cannot_connect(&world, "red", "10.1.0.1", 5002);
}
