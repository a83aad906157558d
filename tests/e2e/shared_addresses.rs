//! An address that moves between workloads of one host, as keepalived moves it.

use super::bridge::bridged;
use super::drops;
use crate::common::World;
use crate::common::traffic::{arrives, is_lost, ping, udp};

const VIPS: [&str; 2] = ["10.9.0.100", "fd00:9::100"];

/// `red` and `blue` on a bridge, each with an address of its own and the shared ones.
fn pair(options: &str) -> Option<World> {
    let world = bridged()?;
    for (name, number) in [("red", 2), ("blue", 3)] {
        world.cilmark_ok(&format!(
            "attach {name} --id 100 --role container --ip 10.9.0.{number} fd00:9::{number} \
             --shared-ip {} {} {options}",
            VIPS[0], VIPS[1]
        ));
    }
    Some(world)
}

/// One of them takes the addresses, and tells the others on the link as keepalived does.
fn takes(world: &World, name: &str, from: Option<&str>) {
    for (vip, length) in VIPS.iter().zip([24, 64]) {
        if let Some(from) = from {
            world.sh(&format!("ip -n {from} addr del {vip}/{length} dev eth0"));
        }
        world.sh(&format!(
            "ip -n {name} addr add {vip}/{length} dev eth0 nodad 2>&1 ||
                           ip -n {name} addr add {vip}/{length} dev eth0"
        ));
    }
    world.sh("ip neigh flush all");
}

#[test]
fn whoever_has_a_shared_address_answers_and_sends_from_it() {
    let Some(world) = pair("") else { return };
    for (name, from) in [("red", None), ("blue", Some("red")), ("red", Some("blue"))] {
        takes(&world, name, from);
        for vip in VIPS {
            ping(&world, crate::common::traffic::HOST, vip);
        }
        let other = if name == "red" { "blue" } else { "red" };
        let number = if other == "red" { 2 } else { 3 };
        let any = udp(&world, other, "0.0.0.0:0");
        let vip = udp(&world, name, &format!("{}:0", VIPS[0]));
        assert_eq!(arrives(&vip, &any, &format!("10.9.0.{number}")).ip().to_string(), VIPS[0]);
    }
    assert_eq!(drops(&world, 132), 0);
    // Without it blue may not.
    world.cilmark_ok("attach blue --id 100 --role container --ip 10.9.0.3 fd00:9::3");
    takes(&world, "blue", Some("red"));
    let (red, vip) =
        (udp(&world, "red", "0.0.0.0:0"), udp(&world, "blue", &format!("{}:0", VIPS[0])));
    is_lost(&vip, &red, "10.9.0.2");
    assert!(drops(&world, 132) > 0);
}

/// The tables name one of them, whoever has the address now; so local delivery leaves it to the stack.
#[test]
fn a_workload_with_local_delivery_reaches_whoever_has_it() {
    let Some(world) = pair("--local-delivery") else { return };
    world.workload("green", 4);
    world.cilmark_ok("attach green --id 300 --ip 10.4.0.10 fd00:4::10 --local-delivery");
    for name in ["red", "blue"] {
        world.sh(&format!(
            "ip -n {name} route replace default via 10.9.0.1
                           ip -n {name} -6 route replace default via fd00:9::1"
        ));
    }
    for (name, from) in [("red", None), ("blue", Some("red")), ("red", Some("blue"))] {
        takes(&world, name, from);
        for vip in VIPS {
            ping(&world, "green", vip);
            let green = udp(&world, "green", "[::]:0");
            let here = udp(&world, name, "[::]:0");
            arrives(&green, &here, &vip.replace("10.9", "::ffff:10.9"));
        }
    }
}

#[test]
fn rules_about_their_identity_hold_for_the_shared_address() {
    let Some(world) = pair("") else { return };
    world.workload("green", 4);
    world.cilmark_ok("attach green --id 300 --ip 10.4.0.10 --policy enforce");
    world.cilmark_ok("policy add green allow egress to 100 udp");
    world.cilmark_ok("policy add green allow ingress from 100 udp");
    for name in ["red", "blue"] {
        world.sh(&format!("ip -n {name} route replace default via 10.9.0.1"));
    }
    for (name, from) in [("red", None), ("blue", Some("red"))] {
        takes(&world, name, from);
        let (green, here) =
            (udp(&world, "green", "0.0.0.0:0"), udp(&world, name, &format!("{}:0", VIPS[0])));
        arrives(&green, &here, VIPS[0]);
        arrives(&here, &udp(&world, "green", "0.0.0.0:0"), "10.4.0.10");
    }
    // Also when the other one is gone.
    world.cilmark_ok("detach red");
    let (green, here) =
        (udp(&world, "green", "0.0.0.0:0"), udp(&world, "blue", &format!("{}:0", VIPS[0])));
    arrives(&green, &here, VIPS[0]);
    arrives(&here, &udp(&world, "green", "0.0.0.0:0"), "10.4.0.10");
}
