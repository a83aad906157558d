//! A host whose uplink has an identity: what it sends carries it, what it forwards does not.

use cilmark::kernel::sys::Hook;

use nix::sys::socket::{setsockopt, sockopt};

use super::RED;
use crate::common::World;
use crate::common::machine::by_each_hook;
use crate::common::third_party::ThirdParty;
use crate::common::traffic::{HOST, arrives, ping, tcp, udp};

#[test]
fn what_a_namespace_sends_by_its_eth0_carries_the_identity_at_a_later_program() {
    by_each_hook(|later| {
        let Some(world) = World::new() else { return };
        world.workload("red", 1);
        world.workload("blue", 2);
        let said = world.cilmark("attach eth0 --id 1234 --netns red").stderr;
        assert!(said.contains("netdev, since a default route leaves by it"), "{said}");
        let third_party = world.inside("red", || match later {
            "tcx" => ThirdParty::on_tcx("eth0", Hook::Egress),
            _ => ThirdParty::on_clsact("eth0", Hook::Egress, 60_000),
        });
        for to in ["10.2.0.10", "fd00:2::10"] {
            ping(&world, "red", to);
            tcp(&world, "red", "blue", to);
            let bind = if to.contains(':') { "[::]:0" } else { "0.0.0.0:0" };
            let before = third_party.packets(RED);
            let (red, blue) = (udp(&world, "red", bind), udp(&world, "blue", bind));
            for _ in 0..5 {
                arrives(&red, &blue, to);
            }
            assert!(third_party.packets(RED) >= before + 5, "{:x?}", third_party.marks());
        }
        assert_eq!(third_party.packets(0), 0, "nothing goes unmarked");
        assert_eq!(world.cilmark_json("ipcache get 10.1.0.10")[0]["identity"], 1234);
        assert_eq!(world.cilmark_json("ipcache get fd00:1::10")[0]["identity"], 1234);
    });
}

/// Of wg-quick, of mwan3, and of a firewall.
#[test]
fn what_the_host_sends_with_another_softwares_mark_carries_the_identity_and_nothing_else() {
    let Some(world) = World::new() else { return };
    world.workload("blue", 2);
    world.cilmark_ok("attach blue --role netdev --id 1234");
    let third_party = ThirdParty::behind("blue", Hook::Egress);
    for (any, address) in [("0.0.0.0:0", "10.2.0.10"), ("[::]:0", "fd00:2::10")] {
        let (here, blue) = (udp(&world, HOST, any), udp(&world, "blue", any));
        for mark in [0xca6c, 0x100, 0x200, 0x3f00, 1] {
            setsockopt(&here, sockopt::Mark, &mark).expect("set SO_MARK");
            let before = third_party.packets(RED);
            for _ in 0..3 {
                arrives(&here, &blue, address);
            }
            assert!(third_party.packets(RED) >= before + 3, "{mark:x}: {:x?}", third_party.marks());
        }
    }
}

#[test]
fn clsact_stamps_for_a_later_filter_too() {
    let Some(world) = World::new() else { return };
    world.workload("red", 1);
    world.cilmark_ok("attach eth0 --id 1234 --netns red --hook clsact");
    let third_party = world.inside("red", || ThirdParty::on_clsact("eth0", Hook::Egress, 60_000));
    ping(&world, "red", "10.1.0.1");
    assert!(third_party.packets(RED) > 0);
    assert_eq!(third_party.packets(0), 0);
}

#[test]
fn what_is_only_forwarded_is_not_stamped_with_the_hosts_identity() {
    let Some(world) = World::new() else { return };
    world.workload("red", 1);
    world.workload("blue", 2);
    world.cilmark_ok("attach blue --role netdev --id 1234");
    let third_party = ThirdParty::behind("blue", Hook::Egress);
    world.sh("ping -qc 1 -W 20 10.2.0.10");
    let of_the_host = third_party.packets(RED);
    assert!(of_the_host > 0);
    let (red, blue) = (udp(&world, "red", "0.0.0.0:0"), udp(&world, "blue", "0.0.0.0:0"));
    for _ in 0..5 {
        arrives(&red, &blue, "10.2.0.10");
    }
    assert!(third_party.packets(0) >= 5, "{:x?}", third_party.marks());
}

#[test]
fn an_uplink_of_identity_host_stamps_nothing() {
    let Some(world) = World::new() else { return };
    world.workload("red", 1);
    world.cilmark_ok("attach eth0 --netns red");
    let third_party = world.inside("red", || ThirdParty::behind("eth0", Hook::Egress));
    ping(&world, "red", "10.1.0.1");
    assert!(third_party.packets(0) > 0);
    assert!(third_party.marks().iter().all(|(mark, _)| mark & 0x0f00 != 0x0f00));
}

#[test]
fn a_workloads_mark_leaves_by_the_uplink_as_it_is() {
    let Some(world) = World::new() else { return };
    world.workload("red", 1);
    world.workload("blue", 2);
    world.cilmark_ok("attach red --id 1234 --ip 10.1.0.10");
    world.cilmark_ok("attach blue --role netdev --id 300");
    let third_party = ThirdParty::behind("blue", Hook::Egress);
    let (red, blue) = (udp(&world, "red", "0.0.0.0:0"), udp(&world, "blue", "0.0.0.0:0"));
    for _ in 0..5 {
        arrives(&red, &blue, "10.2.0.10");
    }
    assert_eq!(third_party.packets(RED), 5, "{:x?}", third_party.marks());
}
