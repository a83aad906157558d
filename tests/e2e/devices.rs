//! Devices other than a veth, and devices that go away.

use std::net::{IpAddr, Ipv4Addr};

use cilmark::kernel::device;
use cilmark::kernel::sys::Hook;

use super::RED;
use crate::common::World;
use crate::common::third_party::ThirdParty;
use crate::common::traffic::{HOST, arrives, is_lost, ping, tcp, udp};

#[test]
fn a_machine_behind_a_tap_is_a_container() {
    let Some(world) = World::new() else { return };
    world.workload("blue", 2);
    let _machine = world.machine("vm", 1, "tap");
    world.cilmark_ok("attach vm --id 1234 --ip 10.1.0.10 fd00:1::10");
    assert_eq!(world.status("vm")["role"], "container");
    let third_party = ThirdParty::behind("vm", Hook::Ingress);
    for to in ["10.2.0.10", "fd00:2::10"] {
        ping(&world, "vm", to);
        tcp(&world, "vm", "blue", to);
    }
    assert!(third_party.packets(RED) > 10, "{:x?}", third_party.marks());
    world.sh("ip -n vm addr add 10.1.0.99 dev eth0");
    let (spoofer, blue) = (udp(&world, "vm", "10.1.0.99:0"), udp(&world, "blue", "0.0.0.0:0"));
    is_lost(&spoofer, &blue, "10.2.0.10");
}

#[test]
fn packets_of_a_tun_have_no_ethernet_header_and_are_stamped_all_the_same() {
    let Some(world) = World::new() else { return };
    world.workload("blue", 2);
    let _machine = world.machine("vpn", 1, "tun");
    world.cilmark_ok("attach vpn --id 1234 --stamp-remote");
    assert_eq!(world.status("vpn")["role"], "netdev");
    world.cilmark_ok("ipcache set 10.1.0.10 199472");
    world.cilmark_ok("ipcache set fd00:1::/64 199472");
    let sent = ThirdParty::behind("vpn", Hook::Egress);
    let received = ThirdParty::behind("vpn", Hook::Ingress);
    for to in ["10.1.0.10", "fd00:1::10"] {
        let before = (sent.packets(RED), received.packets(super::BLUE));
        world.sh(&format!("ping -qc 1 -W 20 {to}"));
        assert!(sent.packets(RED) > before.0, "{to}: {:x?}", sent.marks());
        assert!(received.packets(super::BLUE) > before.1, "{to}: {:x?}", received.marks());
    }
    for to in ["10.2.0.10", "fd00:2::10"] {
        tcp(&world, "vpn", "blue", to);
    }
    assert_eq!(world.status("vpn")["drops"], 0);
}

#[test]
fn packets_of_a_ppp_device_begin_with_the_ip_header_and_meet_its_policy() {
    let Some(world) = World::new() else { return };
    world.workload("blue", 2);
    let _machine = world.machine("ppp0", 1, "ppp");
    world.cilmark_ok("ipcache set 10.1.0.10 199472");
    world.cilmark_ok("ipcache set fd00:1::/64 199472");
    world.cilmark_ok("attach ppp0 --policy enforce --failsafe none --adopt 0 --yes");
    assert_eq!(world.status("ppp0")["role"], "netdev");
    world.cilmark_ok("policy add ppp0 allow egress to 199472 --yes");
    for to in ["10.1.0.10", "fd00:1::10"] {
        world.sh(&format!("ping -qc 1 -W 20 {to}"));
    }
    // Into the host: nothing but the answers.
    let (host, far) = (udp(&world, HOST, "[::]:0"), udp(&world, "ppp0", "[::]:0"));
    for to in ["::ffff:10.1.0.1", "fd00:1::1"] {
        is_lost(&far, &host, to);
    }
    world.cilmark_ok("policy add ppp0 allow ingress from 199472 udp --yes");
    for to in ["::ffff:10.1.0.1", "fd00:1::1"] {
        arrives(&far, &host, to);
    }
    for to in ["10.2.0.10", "fd00:2::10"] {
        tcp(&world, "ppp0", "blue", to);
    }
}

#[test]
fn a_tun_may_be_a_container_and_its_source_is_checked() {
    let Some(world) = World::new() else { return };
    world.workload("blue", 2);
    let _machine = world.machine("vpn", 1, "tun");
    world.cilmark_ok("attach vpn --role container --id 1234 --ip 10.1.0.10 fd00:1::10");
    ping(&world, "vpn", "10.2.0.10");
    ping(&world, "vpn", "fd00:2::10");
    world.sh("ip -n vpn addr add 10.1.0.99 dev eth0");
    let (spoofer, blue) = (udp(&world, "vpn", "10.1.0.99:0"), udp(&world, "blue", "0.0.0.0:0"));
    is_lost(&spoofer, &blue, "10.2.0.10");
    let own = udp(&world, "vpn", "10.1.0.10:0");
    arrives(&own, &blue, "10.2.0.10");
}

#[test]
fn status_and_attach_stand_devices_that_come_and_go_meanwhile() {
    let Some(world) = World::new() else { return };
    world.veth("blue");
    world.cilmark_ok("attach blue --id 300");
    let mut churn = world.spawn(
        "sh -c 'while ip link add red type veth peer name red-peer && ip link del red; do :; done'",
    );
    for _ in 0..60 {
        let run = world.cilmark("attach red --id 301");
        let gone = run.stderr.contains("No such device") || run.stderr.contains("attach to");
        assert!(run.status == Some(0) || gone, "{run:?}");
        let all = world.cilmark_json("status");
        let blue = all.as_array().unwrap().iter().find(|line| line["device"] == "blue");
        assert_eq!(blue.expect("blue is there")["stale"], false);
    }
    churn.signal(nix::sys::signal::Signal::SIGTERM);
    churn.wait();
    world.cilmark_ok("detach --all");
    assert_eq!(world.pins(), [""; 0]);
}

/// What is read in pieces may have moved between two of them.
#[test]
fn all_addresses_are_read_while_others_come_and_go() {
    let Some(world) = World::new() else { return };
    let batch = |lines: Vec<String>| format!("ip -batch - <<END\n{}\nEND", lines.join("\n"));
    let stay: Vec<IpAddr> =
        (0..1000u16).map(|i| Ipv4Addr::from([10, 99, (i >> 8) as u8, i as u8]).into()).collect();
    world.sh("ip link add many type veth peer name more");
    let add = stay.iter().map(|ip| format!("addr add {ip}/32 dev many")).collect();
    world.sh(&batch(add));
    // Those of a narrower scope stand before them in the kernel's list.
    let of_all = |verb: &str| -> Vec<String> {
        (0..100).map(|i| format!("addr {verb} 10.98.0.{i}/32 dev many scope host")).collect()
    };
    let come_and_go = batch([of_all("add"), of_all("del")].concat());
    std::thread::scope(|scope| {
        let flapping = scope.spawn(|| (0..20).for_each(|_| _ = world.sh(&come_and_go)));
        while !flapping.is_finished() {
            let read = device::local_addresses().expect("the addresses");
            let missing: Vec<_> = stay.iter().filter(|ip| !read.contains(*ip)).collect();
            assert!(missing.is_empty(), "{missing:?}");
        }
    });
}
