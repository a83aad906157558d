//! Which flows ask their rules again when something changes: those that it may concern, and not their neighbours.

use std::net::IpAddr;

use cilmark::state::generations::Remotes;
use serde_json::Value;

use super::red_and_blue;
use crate::common::World;
use crate::common::traffic::{any, arrives, udp};

/// Of each flow its device, its remote end, and whether it asks its rules again.
fn flows(world: &World) -> Vec<(String, IpAddr, bool)> {
    let text = |value: &Value| value.as_str().unwrap_or("host").to_owned();
    let line = |flow: &Value| {
        let remote = text(&flow["remote"]).parse().unwrap();
        (text(&flow["device"]), remote, flow["stale"].as_bool().unwrap())
    };
    world.cilmark_json("conntrack list").as_array().unwrap().iter().map(line).collect()
}

/// An address of which nothing is said that concerns one of these.
fn apart_from(others: &[IpAddr]) -> IpAddr {
    let counters: Vec<Remotes> = others.iter().map(|other| Remotes::one(*other)).collect();
    let mut free = (10..250).map(|last| IpAddr::from([10, 3, 0, last]));
    free.find(|address| !counters.contains(&Remotes::one(*address))).expect("an address")
}

#[test]
fn who_comes_changes_and_goes_concerns_the_flows_that_are_with_it() {
    let Some(world) = red_and_blue("--policy enforce") else { return };
    for device in ["red", "blue"] {
        world
            .cilmark_ok(&format!("policy add {device} allow egress to any allow ingress from any"));
    }
    world.veth("green");
    world.workload("wan", 4);
    let ends = ["10.1.0.10", "10.2.0.10", "fd00:1::10", "fd00:2::10"].map(|it| it.parse().unwrap());
    let other = apart_from(&ends);
    let elsewhere = apart_from(&[ends.as_slice(), &[other]].concat());
    let talk = || {
        for address in ["10.2.0.10", "fd00:2::10"] {
            let (red, blue) = (udp(&world, "red", any(address)), udp(&world, "blue", any(address)));
            arrives(&red, &blue, address);
        }
    };
    let concerned = |change: &str| -> Vec<String> {
        world.cilmark_ok("conntrack flush");
        talk();
        assert_eq!(flows(&world).len(), 4);
        world.cilmark_ok(change);
        let mut stale = flows(&world).into_iter().filter(|(_, _, is_stale)| *is_stale);
        let mut devices: Vec<String> = stale.by_ref().map(|(device, ..)| device).collect();
        devices.dedup();
        devices
    };
    for change in [
        &format!("attach green --id 300 --ip {other} --policy audit"),
        &format!("attach green --id 301 --ip {other} --policy enforce"),
        "policy add green allow egress to any",
        &format!("ipcache set {elsewhere} 300"),
        "ipcache flush",
        "identity set 300 db",
        "detach green",
    ] {
        assert_eq!(concerned(change), [""; 0], "{change}");
    }
    for (change, devices) in [
        ("policy add red deny egress to any tcp/1", ["red"]),
        ("policy add blue deny egress to any tcp/1", ["blue"]),
    ] {
        assert_eq!(concerned(change), devices, "{change}");
    }
    let red = "attach red --id 1234 --ip 10.1.0.10 fd00:1::10 --policy enforce";
    for change in [
        // Its own flows, and those of others with it.
        red,
        // Who it will send as nobody knows, or knew.
        "attach green --id 300",
        &format!("attach green --id 300 --ip {other}"),
        "attach wan --role netdev",
        "detach wan",
        "ipcache set 192.0.2.0/24 300",
        "ipcache del 192.0.2.0/24",
    ] {
        assert_eq!(concerned(change), ["red", "blue"], "{change}");
    }
    // Its own are forgotten.
    assert_eq!(concerned("detach red"), ["blue"]);
}
