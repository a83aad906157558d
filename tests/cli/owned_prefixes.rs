//! `attach --ip PREFIX`: what it leaves in the ipcache, and what it refuses.

use serde_json::{Value, json};

use crate::common::World;

fn lines(world: &World) -> Value {
    let list = world.cilmark_json("ipcache list");
    let line = |line: &Value| json!([line["prefix"], line["identity"]]);
    list.as_array().expect("a list").iter().map(line).collect()
}

#[test]
fn a_workload_has_prefixes_and_addresses_of_both_families() {
    let Some(world) = World::new() else { return };
    world.veth("red");
    let run = world.cilmark("attach red --id 1234 --ip 10.8.0.0/16,fd00:8::/64,192.0.2.1 fd00::1");
    assert!(run.stderr.contains("192.0.2.1 fd00::1 10.8.0.0/16 fd00:8::/64"), "{run:?}");
    let ips = json!(["192.0.2.1", "fd00::1", "10.8.0.0/16", "fd00:8::/64"]);
    assert_eq!(world.status("red")["ips"], ips);
    let spec = world.cilmark_json("status red --spec");
    assert_eq!(spec["ip"], json!(["10.8.0.0/16", "fd00:8::/64", "192.0.2.1", "fd00::1"]));
    assert_eq!(
        lines(&world),
        json!([
            ["10.8.0.0/16", 1234],
            ["192.0.2.1", 1234],
            ["fd00::1", 1234],
            ["fd00:8::/64", 1234]
        ])
    );
    assert_eq!(world.cilmark_json("ipcache get 10.8.3.4")[0]["identity"], 1234);
    // Kept, and gone where it is left out.
    world.cilmark_ok("attach red --keep --policy audit");
    assert_eq!(world.status("red")["ips"], ips);
    let run = world.cilmark("attach red --id 1234 --ip fd00:8::1 192.0.2.1");
    assert!(run.stderr.contains("red: fd00::1 10.8.0.0/16 fd00:8::/64 are not among"), "{run:?}");
    assert_eq!(lines(&world), json!([["192.0.2.1", 1234], ["fd00:8::1", 1234]]));
    world.cilmark_ok("detach red");
    assert_eq!(world.pins(), [""; 0]);
}

/// Else it would be as if the address had been lost that a wider prefix still has.
#[test]
fn an_address_that_a_prefix_takes_in_is_no_loss() {
    let Some(world) = World::new() else { return };
    world.veth("red");
    world.cilmark_ok("attach red --id 7 --ip 10.8.3.4 10.9.0.1");
    let run = world.cilmark("attach red --id 7 --ip 10.8.0.0/16");
    assert!(run.stderr.contains("red: 10.9.0.1 is not among its addresses"), "{run:?}");
}

#[test]
fn an_endpoints_prefix_is_its_own() {
    let Some(world) = World::new() else { return };
    world.veth("red");
    world.cilmark_ok("attach red --id 300 --ip 10.8.0.0/16 fd00::/64");
    world.cilmark_ok("ipcache set 10.8.0.0/16 300");
    world
        .cilmark("ipcache set 10.8.0.0/16 301")
        .fails(1, &["a prefix of endpoint 1", "identity 300"]);
    world.cilmark("ipcache del fd00::/64").fails(1, &["fd00::/64", "belongs to endpoint 1"]);
    let load = world.cilmark_with_input("ipcache load -", "10.9.0.0/16 301\nfd00::/64 301\n");
    load.fails(1, &["fd00::/64 is a prefix of endpoint 1"]);
    world.cilmark_with_input("ipcache load -", "10.9.0.0/16 301\nfd00::/64 300\n");
    for line in ["10.8.4.0/24 302", "10.0.0.0/8 303", "10.8.0.1 304"] {
        world.cilmark_ok(&format!("ipcache set {line}"));
    }
    world.cilmark("ipcache del 10.8.0.0/20").fails(1, &["not in the ipcache"]);
    world.cilmark_ok("ipcache del 10.8.4.0/24");
    assert_eq!(world.cilmark("ipcache flush").stderr, "removed 3 entries\n");
    assert_eq!(lines(&world), json!([["10.8.0.0/16", 300], ["fd00::/64", 300]]));
    // Another identity is the whole prefix's.
    world.cilmark_ok("attach red --id 305 --ip 10.8.0.0/16");
    assert_eq!(lines(&world), json!([["10.8.0.0/16", 305]]));
    world.cilmark_ok("detach red");
    assert_eq!(world.pins(), [""; 0]);
}

#[test]
fn an_operators_line_of_the_prefix_stays_his_if_it_says_the_same_and_else_gives_way() {
    let Some(world) = World::new() else { return };
    world.veth("red");
    world.cilmark_ok("ipcache set 10.8.0.0/16 300");
    world.cilmark_ok("ipcache set fd00::/64 301");
    let run = world.cilmark("attach red --id 300 --ip 10.8.0.0/16 fd00::/64");
    assert!(run.stderr.contains("fd00::/64 had identity 301 in the ipcache"), "{run:?}");
    assert!(!run.stderr.contains("10.8.0.0/16 had"), "{run:?}");
    world.cilmark_ok("detach red");
    assert_eq!(lines(&world), json!([["10.8.0.0/16", 300]]));
}

#[test]
fn a_prefix_of_another_is_refused_and_one_in_it_or_around_it_is_not() {
    let Some(world) = World::new() else { return };
    world.veth("red");
    world.veth("blue");
    world.cilmark_ok("attach red --id 300 --ip 10.8.0.0/16");
    let before = lines(&world);
    world.cilmark("attach blue --id 300 --ip 10.9.0.1 10.8.0.0/16").fails(
        1,
        &[
            "10.8.0.0/16 is already a prefix of endpoint 1 (red)",
            "detach id:1",
            "--shared-ip 10.8.0.0/16",
        ],
    );
    assert_eq!(lines(&world), before);
    world.cilmark_ok("attach blue --id 301 --ip 10.8.4.0/24 10.0.0.0/8 10.8.0.1");
    let of = |address: &str| {
        world.cilmark_json(&format!("ipcache get {address}"))[0]["identity"].clone()
    };
    for (address, identity) in
        [("10.8.0.2", 300), ("10.8.4.4", 301), ("10.8.0.1", 301), ("10.9.9.9", 301)]
    {
        assert_eq!(of(address), identity, "{address}");
    }
    world.cilmark_ok("detach blue");
    assert_eq!(lines(&world), before);
    // What has gone without being detached owns nothing.
    world.sh("ip link del red");
    world.cilmark_ok("attach blue --id 301 --ip 10.8.0.0/16");
    assert_eq!(lines(&world), json!([["10.8.0.0/16", 301]]));
    world.cilmark_ok("detach --stale");
    assert_eq!(lines(&world), json!([["10.8.0.0/16", 301]]));
}

#[test]
fn prefixes_that_nobody_can_have_are_refused_with_nothing_changed() {
    let Some(world) = World::new() else { return };
    world.veth("red");
    let many =
        |of: &str| (0..9).map(|it| of.replace('N', &it.to_string())).collect::<Vec<_>>().join(",");
    for (prefix, words) in [
        ("0.0.0.0/0", &["0.0.0.0/0 is every address", "leave out --ip"][..]),
        ("::/0", &["::/0 is every address"]),
        ("224.0.0.0/4", &["224.0.0.0/4 has no address that a host sends from"]),
        ("239.0.0.0/8", &["has no address"]),
        ("ff00::/8", &["has no address"]),
        ("ff02::/16", &["has no address"]),
        ("127.0.0.0/8", &["has no address"]),
        ("127.1.0.0/24", &["has no address"]),
        ("::ffff:0:0/96", &["has no address"]),
        ("::ffff:10.0.0.0/104", &["has no address"]),
        (&many("10.N.0.0/16"), &["9 IPv4 prefixes for one workload; 8 are the most"]),
        (&many("fd00:N::/64"), &["9 IPv6 prefixes for one workload; 8 are the most"]),
    ] {
        world.cilmark(&format!("attach red --id 7 --ip {prefix}")).fails(1, words);
        world.cilmark(&format!("attach red --id 7 --shared-ip {prefix}")).fails(1, words);
        assert_eq!(world.pins(), [""; 0], "{prefix}");
    }
    for (flags, status, words) in [
        (
            "--role netdev --ip 10.8.0.0/16",
            1,
            &["10.8.0.0/16 is a prefix", "netdev", "leave out --ip"][..],
        ),
        ("--role netdev --shared-ip 10.8.0.1", 1, &["--shared-ip is for the role container"]),
        ("--id 7 --ip 10.8.0.0/33", 2, &["`10.8.0.0/33` is neither an IP address nor a prefix"]),
        ("--id 7 --ip 10.8.0.0/", 2, &["`10.8.0.0/`"]),
        ("--id 7 --ip fd00::/129", 2, &["`fd00::/129`"]),
        ("--id 7 --ip 10.8/16", 2, &["`10.8/16`"]),
        ("--id 7 --shared-ip vip", 2, &["`vip` is neither an IP address"]),
    ] {
        world.cilmark(&format!("attach red {flags}")).fails(status, words);
        assert_eq!(world.pins(), [""; 0], "{flags}");
    }
    for prefix in ["0.0.0.0/1", "8000::/1", "240.0.0.0/4", "fe80::/64"] {
        world.cilmark_ok(&format!("attach red --id 7 --ip {prefix}"));
    }
}

#[test]
fn local_delivery_for_prefixes_alone_is_said_to_be_of_no_use() {
    let Some(world) = World::new() else { return };
    world.workload("red", 1);
    let run = world.cilmark("attach red --id 7 --ip 10.1.0.0/24 --local-delivery");
    assert_eq!(run.status, Some(0), "{run:?}");
    assert!(run.stderr.contains("red has no use for --local-delivery"), "{run:?}");
    let run = world.cilmark("attach red --id 7 --ip 10.1.0.0/24 10.1.0.10 --local-delivery");
    assert!(!run.stderr.contains("no use"), "{run:?}");
}

#[test]
fn a_command_that_fails_leaves_the_prefixes_as_they_were() {
    let Some(world) = World::new() else { return };
    world.veth("red");
    world.veth("blue");
    world.cilmark_ok("ipcache set 10.9.0.0/16 400");
    world.cilmark_ok("attach red --id 300 --ip 10.8.0.0/16 10.1.0.1");
    world.cilmark_ok("attach blue --id 301 --ip 10.2.0.1");
    let before = lines(&world);
    world
        .cilmark("attach red --id 302 --ip 10.9.0.0/16 10.8.0.0/16 10.2.0.1")
        .fails(1, &["10.2.0.1 is already"]);
    assert_eq!(lines(&world), before);
    assert_eq!(world.status("red")["ips"], json!(["10.1.0.1", "10.8.0.0/16"]));
}
