//! A host whose NIC enforces its policy: `red` is the NIC, and the namespace behind it is the world.

use std::net::Ipv4Addr;

use serde_json::Value;

use crate::common::World;
use crate::common::packet::Frame;
use crate::common::traffic::{
    Connection, HOST, any, cannot_connect, is_lost, is_refused, is_unanswered, listen, ping, udp,
};
use crate::common::world::wait_for;

const NIC: &str = "attach red --role netdev --policy enforce --adopt 0 --yes";

fn host(flags: &str, rules: &str) -> Option<World> {
    let world = World::new()?;
    world.workload("red", 1);
    world.cilmark_ok(&format!("{NIC} {flags}"));
    if !rules.is_empty() {
        world.cilmark_ok(&format!("policy add red {rules} --yes"));
    }
    Some(world)
}

#[test]
fn by_default_the_host_neither_takes_nor_sends_anything() {
    let Some(world) = host("--failsafe none", "") else { return };
    let _servers = [listen(&world, HOST, 80), listen(&world, "red", 80)];
    for (from, to, addresses) in
        [("red", HOST, ["10.1.0.1", "fd00:1::1"]), (HOST, "red", ["10.1.0.10", "fd00:1::10"])]
    {
        for address in addresses {
            cannot_connect(&world, from, address, 80);
            is_unanswered(&world, from, address);
            let (sender, receiver) = (udp(&world, from, "[::]:0"), udp(&world, to, "[::]:0"));
            is_lost(&sender, &receiver, &address.replace("10.", "::ffff:10."));
        }
    }
}

#[test]
fn rules_open_it_with_replies_and_errors() {
    let Some(world) = host(
        "--failsafe none",
        "allow ingress from any tcp/80 allow ingress from any udp allow ingress from any icmp/8 \
         allow ingress from any icmp6/128 allow egress to world tcp/443 allow egress to world udp \
         allow egress to world icmp/8 allow egress to world icmp6/128",
    ) else {
        return;
    };
    let (here, there) = (listen(&world, HOST, 80), listen(&world, "red", 443));
    for (from, server, addresses) in
        [("red", &here, ["10.1.0.1", "fd00:1::1"]), (HOST, &there, ["10.1.0.10", "fd00:1::10"])]
    {
        for address in addresses {
            Connection::open(&world, from, server, address).works();
            ping(&world, from, &format!("-s 4000 {address}"));
            is_refused(&udp(&world, from, any(address)), address, 9);
        }
    }
    assert_eq!(world.status("red")["drops"], 0);
    cannot_connect(&world, "red", "10.1.0.1", 443);
    cannot_connect(&world, HOST, "fd00:1::10", 80);
}

/// As at boot: the programs are there before the network is configured.
#[test]
fn rules_count_for_addresses_that_the_nic_gets_after_it_was_attached() {
    for forwarding in [0, 1] {
        let Some(world) = World::new() else { return };
        world.workload("red", 1);
        world.sh(&format!("ip -4 addr flush dev red; ip -6 addr flush dev red scope global
             sysctl -qw net.ipv4.conf.all.forwarding={forwarding} net.ipv6.conf.all.forwarding={forwarding}"));
        world.cilmark_ok(NIC);
        world.cilmark_ok(
            "policy add red allow ingress from world tcp/80 allow egress to world tcp/443 --yes",
        );
        world.sh("ip addr add 10.1.0.1/24 dev red; ip addr add fd00:1::1/64 dev red nodad");
        assert_eq!(world.status("red")["attach_again"], Value::Array(Vec::new()));
        let (here, there) = (listen(&world, HOST, 80), listen(&world, "red", 443));
        let _closed = [listen(&world, HOST, 81), listen(&world, "red", 444)];
        for (own, peer) in [("10.1.0.1", "10.1.0.10"), ("fd00:1::1", "fd00:1::10")] {
            Connection::open(&world, "red", &here, own).works();
            Connection::open(&world, HOST, &there, peer).works();
            cannot_connect(&world, "red", own, 81);
            cannot_connect(&world, HOST, peer, 444);
        }
    }
}

#[test]
fn ssh_stays_open_whatever_the_rules_say() {
    let Some(world) = host("", "deny ingress from any deny egress to any") else { return };
    let server = listen(&world, HOST, 22);
    for address in ["10.1.0.1", "fd00:1::1"] {
        let session = Connection::open(&world, "red", &server, address);
        session.works();
        world.cilmark_ok("conntrack flush");
        session.works();
        world.cilmark_ok("policy add red deny ingress from world tcp/22 --yes");
        session.works();
        Connection::open(&world, "red", &server, address).works();
        is_unanswered(&world, "red", address);
        cannot_connect(&world, "red", address, 23);
        world.cilmark_ok("policy del red deny ingress from world tcp/22 --yes");
    }
}

/// As who bans attackers does: the ban of SSH is void, and is told so.
#[test]
fn a_ban_from_a_failsafe_port_counts_once_that_is_off_the_list() {
    let Some(world) = host("", "allow ingress from any tcp/80") else {
        return;
    };
    world.cilmark_ok("ipcache set 10.1.0.10 666");
    world.cilmark_ok("ipcache set fd00:1::10 666");
    let [web, ssh] = [80, 22].map(|port| listen(&world, HOST, port));
    let hosts = ["10.1.0.1", "fd00:1::1"];
    for host in hosts {
        Connection::open(&world, "red", &web, host).works();
    }
    let run =
        world.cilmark("policy add red deny ingress from 666 deny ingress from 666 tcp/22 --yes");
    assert_eq!(run.status, Some(0), "{run:?}");
    assert!(
        run.stderr.contains(
            "`deny ingress from 666 tcp/22` has no effect: tcp/22 is on the failsafe list"
        )
    );
    for host in hosts {
        cannot_connect(&world, "red", host, 80);
        Connection::open(&world, "red", &ssh, host).works();
    }
    let run = world.cilmark(&format!("{NIC} --failsafe udp/68,udp/546"));
    assert!(run.status == Some(0) && !run.stderr.contains("has no effect"), "{run:?}");
    for host in hosts {
        cannot_connect(&world, "red", host, 22);
    }
    // Back on the list, it is void again.
    let run = world.cilmark(NIC);
    assert!(run.stderr.contains("tcp/22` has no effect"), "{run:?}");
}

#[test]
fn a_flood_ends_no_ssh_session_and_keeps_out_no_new_one() {
    let Some(world) = host("--ct-entries 64", "allow ingress from any udp") else { return };
    let server = listen(&world, HOST, 22);
    let is_known = |address: &str| {
        let flows = world.cilmark_json("conntrack list");
        let is_session = |flow: &Value| flow["local_port"] == 22 && flow["local"] == address;
        flows.as_array().unwrap().iter().any(is_session)
    };
    for address in ["10.1.0.1", "fd00:1::1"] {
        let session = Connection::open(&world, "red", &server, address);
        session.works();
        assert!(is_known(address));
        let flooder = udp(&world, "red", any(address));
        let flood = || {
            for port in 1000..2000 {
                flooder.send_to(b"hello", (address, port)).expect("send");
            }
        };
        for _ in 0..3 {
            flood();
            assert!(is_known(address));
            session.works();
            Connection::open(&world, "red", &server, address).works();
        }
        // Nor does it need its entry.
        world.cilmark_ok("conntrack flush");
        session.works();
    }
}

#[test]
fn each_address_of_the_host_is_covered() {
    // What is sent to many is answered from another address, which is a flow of its own.
    let Some(world) = host("--failsafe none --egress-policy off", "") else { return };
    world.workload("blue", 2);
    world.sh("ip addr add 192.0.2.7/32 dev lo
              ip addr add 2001:db8::7/128 dev lo
              ip addr add 10.1.0.2/24 dev red
              ip addr add fe80::1/64 dev red nodad
              ip -n red addr add fe80::10/64 dev eth0 nodad
              sysctl -qw net.ipv4.icmp_echo_ignore_broadcasts=0");
    let addresses = [
        "10.1.0.2",
        "10.2.0.1",
        "fd00:2::1",
        "192.0.2.7",
        "2001:db8::7",
        "-b 10.1.0.255",
        "-I eth0 -b 255.255.255.255",
        "-I eth0 224.0.0.1",
        "ff02::2%eth0",
        "fe80::1%eth0",
    ];
    for address in addresses {
        let before = world.status("red")["drops"].as_u64().unwrap();
        is_unanswered(&world, "red", address);
        assert_eq!(world.status("red")["drops"], before + 1, "{address}");
    }
    world.cilmark_ok("policy add red allow ingress from any icmp/8 --yes");
    world.cilmark_ok("policy add red allow ingress from any icmp6/128 --yes");
    for address in addresses {
        ping(&world, "red", address);
    }
}

/// What a NIC's programs have found out about forwarded packets, as text.
fn known_forwarded(world: &World) -> String {
    let id = world.program_id("/sys/fs/bpf/cilmark/endpoints/1/ingress");
    let program = world.sh(&format!("bpftool -j prog show id {id}"));
    let program: Value = serde_json::from_str(&program).expect("JSON of bpftool");
    let maps = program["map_ids"].as_array().expect("its maps").iter().map(|id| {
        let map = world.sh(&format!("bpftool -j map show id {id}"));
        (id.clone(), map)
    });
    let (id, _) = maps.into_iter().find(|(_, map)| map.contains("cm_forwarded")).expect("the map");
    world.sh(&format!("bpftool map dump id {id}"))
}

#[test]
fn a_tagged_packet_says_nothing_of_one_without_a_tag() {
    let Some(world) = World::new() else { return };
    world.workload("wire", 1);
    world.workload("blue", 2);
    world.cilmark_ok("attach wire --role netdev --policy enforce --failsafe none --yes");
    let mac = world.sh("cat /sys/class/net/wire/address");
    let macs = mac.trim().split(':').map(|byte| u8::from_str_radix(byte, 16).unwrap());
    let macs: Vec<u8> = macs.collect();
    let send = |frame: Frame| {
        let before = world.status("wire")["packets"].as_u64();
        let mut bytes = frame.bytes();
        bytes[..6].copy_from_slice(&macs);
        world.send_frame("wire", "eth0", &bytes);
        wait_for("the frame", || world.status("wire")["packets"].as_u64() > before);
    };
    let [from, to] = [[10, 1, 0, 77], [10, 2, 0, 77]].map(Ipv4Addr::from);
    let frame = || Frame::ip(from, to).udp(1, 2);
    // The kernel takes the tag out of the frame before it comes to the hook.
    for _ in 0..3 {
        send(frame().vlan(5));
    }
    let is_known = || known_forwarded(&world).contains("[10,1,0,77");
    assert!(!is_known());
    send(frame());
    wait_for("the answer to be known", is_known);
}
