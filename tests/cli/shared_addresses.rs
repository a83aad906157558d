//! `attach --shared-ip`: who may have an address together, and whose it is when one of them goes.

use serde_json::{Value, json};

use crate::common::World;

const VIP: &str = "192.0.2.100";

fn pair() -> Option<World> {
    let world = World::new()?;
    world.veth("red");
    world.veth("blue");
    Some(world)
}

fn identity(world: &World, of: &str) -> Value {
    let list = world.cilmark_json("ipcache list");
    let line = list.as_array().expect("a list").iter().find(|line| line["prefix"] == of).cloned();
    line.map_or(Value::Null, |line| line["identity"].clone())
}

/// The number of the endpoint that the line of an address belongs to, as who may not delete it is told.
fn owner(world: &World, of: &str) -> String {
    let run = world.cilmark(&format!("ipcache del {of}"));
    assert_eq!(run.status, Some(1), "{run:?}");
    run.stderr.split_whitespace().nth(5).expect("a number").trim_end_matches(',').to_owned()
}

#[test]
fn the_line_of_a_shared_address_lives_until_the_last_of_them_goes() {
    let Some(world) = pair() else { return };
    for shared in [VIP, "10.8.0.0/16", "fd00::100", "fd00:8::/64"] {
        for (first, second) in [("red", "blue"), ("blue", "red")] {
            world.cilmark_ok(&format!(
                "attach red --id 100 --endpoint-id 1 --ip 192.0.2.11 --shared-ip {shared}"
            ));
            world.cilmark_ok(&format!("attach blue --id 100 --endpoint-id 2 --shared-ip {shared}"));
            assert_eq!(world.status("red")["ips"], json!(["192.0.2.11", shared]));
            assert_eq!(world.status("red")["shared_ip"], json!([shared]));
            assert_eq!(owner(&world, shared), "1", "{shared}");
            world.cilmark_ok(&format!("detach {first}"));
            let last = if second == "red" { "1" } else { "2" };
            assert_eq!(
                (identity(&world, shared), owner(&world, shared)),
                (json!(100), last.to_owned())
            );
            world.cilmark_ok(&format!("detach {second}"));
            assert_eq!(world.pins(), [""; 0], "{shared}");
        }
    }
}

#[test]
fn it_goes_on_where_one_of_them_is_attached_again_without_it() {
    let Some(world) = pair() else { return };
    world.cilmark_ok(&format!("attach red --id 100 --ip 192.0.2.11 --shared-ip {VIP}"));
    world.cilmark_ok(&format!("attach blue --id 100 --ip 192.0.2.12 --shared-ip {VIP}"));
    let run = world.cilmark("attach red --id 100 --ip 192.0.2.11");
    assert!(run.stderr.contains(&format!("{VIP} is not among its addresses")), "{run:?}");
    assert_eq!((identity(&world, VIP), owner(&world, VIP)), (json!(100), "2".to_owned()));
    // It may come back, and the other one go.
    world.cilmark_ok(&format!("attach red --keep --shared-ip {VIP}"));
    assert_eq!(world.status("red")["ips"], json!(["192.0.2.11", VIP]));
    world.cilmark_ok("detach blue");
    assert_eq!((identity(&world, VIP), owner(&world, VIP)), (json!(100), "1".to_owned()));
    // And alone it may take it for itself.
    world.cilmark_ok(&format!("attach red --id 101 --ip {VIP}"));
    assert_eq!(identity(&world, VIP), json!(101));
}

#[test]
fn who_does_not_share_it_is_refused_and_so_is_another_identity() {
    let Some(world) = pair() else { return };
    let both = format!("--shared-ip {VIP}");
    for (first, second, words) in [
        ("--ip", "--ip", &[&format!("{VIP} is already an address of endpoint 1 (red)"), &both][..]),
        ("--ip", "--shared-ip", &[&both]),
        ("--shared-ip", "--ip", &[&both]),
    ] {
        world.cilmark_ok(&format!("attach red --id 100 {first} {VIP}"));
        let words: Vec<&str> = words.iter().map(|word| word.as_str()).collect();
        world.cilmark(&format!("attach blue --id 100 {second} {VIP}")).fails(1, &words);
    }
    world.cilmark_ok(&format!("attach red --id 100 --shared-ip {VIP}"));
    let words = ["is shared with endpoint 1 (red)", "identity is 100", "101", "give both the same"];
    world.cilmark(&format!("attach blue --id 101 --shared-ip {VIP}")).fails(1, &words);
    world.cilmark_ok(&format!("attach blue --id 100 --shared-ip {VIP}"));
    // Whichever of them the tables name.
    for device in ["red", "blue"] {
        world
            .cilmark(&format!("attach {device} --id 101 --shared-ip {VIP}"))
            .fails(1, &["is shared with"]);
        world
            .cilmark(&format!("attach {device} --id 100 --ip {VIP}"))
            .fails(1, &["is already an address"]);
        assert_eq!(world.status(device)["identity"], 100);
    }
    assert_eq!(identity(&world, VIP), json!(100));
}

#[test]
fn an_address_in_both_lists_is_shared_and_stands_once() {
    let Some(world) = pair() else { return };
    world.cilmark_ok(&format!("attach red --id 100 --ip 192.0.2.11,{VIP} --shared-ip {VIP}"));
    assert_eq!(world.status("red")["ips"], json!(["192.0.2.11", VIP]));
    world.cilmark_ok(&format!("attach blue --id 100 --ip 192.0.2.12 --shared-ip {VIP}"));
    let spec = world.cilmark_json("status red --spec");
    assert_eq!((&spec["ip"], &spec["shared_ip"]), (&json!(["192.0.2.11", VIP]), &json!([VIP])));
    let table = world.cilmark_ok("status red");
    assert!(table.contains(&format!("shared-ip={VIP}")), "{table}");
}

#[test]
fn who_is_gone_shares_nothing() {
    let Some(world) = pair() else { return };
    world.veth("green");
    world.cilmark_ok(&format!("attach red --id 100 --shared-ip {VIP}"));
    world.cilmark_ok(&format!("attach blue --id 100 --shared-ip {VIP}"));
    world.sh("ip link del red");
    // The tables name the one that is gone; the other one has it still.
    world.cilmark(&format!("attach green --id 101 --ip {VIP}")).fails(1, &["endpoint 2 (blue)"]);
    world.cilmark_ok(&format!("attach green --id 100 --shared-ip {VIP}"));
    world.cilmark_ok("detach --stale");
    assert_eq!(identity(&world, VIP), json!(100));
    world.sh("ip link del blue");
    world.cilmark_ok(&format!("attach green --id 101 --ip {VIP}"));
    assert_eq!(identity(&world, VIP), json!(101));
}

#[test]
fn a_nic_shares_none_with_a_workload() {
    let Some(world) = pair() else { return };
    world.cilmark_ok(&format!("attach red --role netdev --ip {VIP}"));
    world
        .cilmark(&format!("attach blue --id 100 --shared-ip {VIP}"))
        .fails(1, &["is already an address", "detach id:1"]);
}
