//! From workload to workload of one host past its stack. Forwarding is off where that has to show.

use std::net::UdpSocket;
use std::time::Duration;

use serde_json::Value;

use super::{red_and_blue, traffic_both_ways};
use crate::common::World;
use crate::common::machine::{by_each_hook, hooks};
use crate::common::process::PATIENCE;
use crate::common::traffic::{Connection, arrives, is_lost, listen, ping, tcp, udp};
use crate::common::world::wait_for;

/// Without forwarding nothing passes the host but by local delivery.
fn stop_forwarding(world: &World) {
    world.sh("sysctl -qw net.ipv4.ip_forward=0 net.ipv6.conf.all.forwarding=0");
}

/// A workload is delivered to once it has sent something.
fn speak(world: &World, workload: &str, number: u8) {
    ping(world, workload, &format!("10.{number}.0.1"));
}

/// `red` and `blue` with local delivery only.
fn neighbours(options: &str) -> Option<World> {
    let world = red_and_blue(&format!("--local-delivery {options}"))?;
    stop_forwarding(&world);
    speak(&world, "red", 1);
    speak(&world, "blue", 2);
    Some(world)
}

#[test]
fn ping_tcp_and_udp_pass_without_the_hosts_stack() {
    by_each_hook(|hook| {
        let Some(world) = neighbours(&format!("--hook {hook}")) else { return };
        traffic_both_ways(&world);
        for device in ["red", "blue"] {
            assert_eq!(world.status(device)["drops"], 0, "{device}");
        }
    });
}

#[test]
fn a_workload_sees_one_router_and_no_mark() {
    let Some(world) = neighbours("") else { return };
    let chain = "chain inet test in { type filter hook prerouting priority 0; }";
    world.sh(&format!(
        "ip netns exec blue nft 'add table inet test; add {chain}
            add rule inet test in meta mark != 0 counter comment \"marked\"
            add rule inet test in udp dport != 0 meta mark 0 ip ttl 63 counter comment \"routed\"'"
    ));
    let (red, blue) = (udp(&world, "red", "0.0.0.0:0"), udp(&world, "blue", "0.0.0.0:0"));
    for _ in 0..3 {
        arrives(&red, &blue, "10.2.0.10");
    }
    let rules = world.sh("ip netns exec blue nft list chain inet test in");
    assert!(rules.contains("counter packets 0 bytes 0 comment \"marked\""), "{rules}");
    assert!(rules.contains("counter packets 3 bytes 99 comment \"routed\""), "{rules}");
}

#[test]
fn a_ping_that_may_not_go_further_is_answered() {
    let Some(world) = red_and_blue("--local-delivery") else { return };
    speak(&world, "blue", 2);
    for (address, gateway) in [("10.2.0.10", "10.1.0.1"), ("fd00:2::10", "fd00:1::1")] {
        let run = world.try_sh(&format!("ip netns exec red ping -c 1 -W 5 -t 1 {address}"));
        let text = String::from_utf8_lossy(&run.stdout);
        let answer = text.lines().find(|line| line.contains(gateway));
        assert!(answer.is_some_and(|line| line.contains("exceeded")), "{text}");
        ping(&world, "red", &format!("-t 2 {address}"));
    }
}

#[test]
fn a_destination_that_vanished_drops_with_140_until_it_is_detached() {
    let Some(world) = neighbours("") else { return };
    world.cilmark_ok(
        "attach red --id 1234 --ip 10.1.0.10 fd00:1::10 --local-delivery --egress-policy audit",
    );
    world.cilmark_ok("policy add red allow egress to any");
    let (red, blue) = (udp(&world, "red", "0.0.0.0:0"), udp(&world, "blue", "0.0.0.0:0"));
    arrives(&red, &blue, "10.2.0.10");
    world.sh("ip link del blue");
    is_lost(&red, &blue, "10.2.0.10");
    let monitor = world.start("monitor");
    let line = monitor.stdout_line(|line| line.contains("10.2.0.10"));
    assert!(line.contains("Missed tail call"), "{line}");
    assert!(!line.contains("allow egress"), "no rule has dropped it: {line}");
    let dead = "10.2.0.10 belongs to endpoint 2 (blue), whose device or program is gone";
    assert!(line.contains(dead) && line.contains("cilmark detach id:2"), "{line}");
    assert_eq!(world.status("red")["drops"], 1);
    world.cilmark_ok("detach blue");
    is_lost(&red, &blue, "10.2.0.10");
    assert_eq!(world.status("red")["drops"], 1, "the stack's, which has no route");
}

#[test]
fn a_destination_that_was_detached_is_reached_through_the_stack() {
    let Some(world) = neighbours("") else { return };
    let (red, blue) = (udp(&world, "red", "0.0.0.0:0"), udp(&world, "blue", "0.0.0.0:0"));
    arrives(&red, &blue, "10.2.0.10");
    world.cilmark_ok("detach blue");
    is_lost(&red, &blue, "10.2.0.10");
    world.sh("sysctl -qw net.ipv4.ip_forward=1");
    arrives(&red, &blue, "10.2.0.10");
    world.cilmark_ok("attach blue --id 199472 --ip 10.2.0.10 fd00:2::10 --local-delivery");
    world.cilmark_ok("attach blue --id 199472 --ip 10.2.0.10 fd00:2::10");
    arrives(&red, &blue, "10.2.0.10");
    stop_forwarding(&world);
    is_lost(&red, &blue, "10.2.0.10");
    assert_eq!(world.status("red")["drops"], 0);
}

#[test]
fn replacing_a_destination_that_keeps_silent_loses_nothing() {
    let Some(world) = neighbours("") else { return };
    let (red, blue) = (udp(&world, "red", "0.0.0.0:0"), udp(&world, "blue", "0.0.0.0:0"));
    for hook in ["clsact"].iter().chain(hooks()).chain(hooks()) {
        let options = "--ip 10.2.0.10 fd00:2::10 --local-delivery";
        world.cilmark_ok(&format!("attach blue --id 300 --hook {hook} {options}"));
        arrives(&red, &blue, "10.2.0.10");
    }
}

#[test]
fn an_attachment_that_fails_leaves_the_calls_as_they_were() {
    let Some(world) = neighbours("") else { return };
    let (red, blue) = (udp(&world, "red", "0.0.0.0:0"), udp(&world, "blue", "0.0.0.0:0"));
    let calls = || world.sh("bpftool map dump pinned /sys/fs/bpf/cilmark/cm_policy_call");
    let before = calls();
    // The address is red's.
    world.cilmark("attach blue --id 300 --ip 10.1.0.10 --local-delivery").fails(1, &["10.1.0.10"]);
    assert_eq!(calls(), before);
    arrives(&red, &blue, "10.2.0.10");
    world.workload("green", 3);
    world.cilmark("attach green --id 300 --ip 10.1.0.10 --local-delivery").fails(1, &["10.1.0.10"]);
    assert_eq!(calls(), before);
    world.cilmark_ok("detach --all");
    assert_eq!(world.pins(), [""; 0]);
}

#[test]
fn a_machine_behind_a_tap_is_delivered_to_and_polices_once() {
    let Some(world) = World::new() else { return };
    world.workload("blue", 2);
    let _machine = world.machine("vm", 1, "tap");
    world.cilmark_ok("attach vm --id 1234 --ip 10.1.0.10 fd00:1::10 --local-delivery");
    world.cilmark_ok("attach blue --id 199472 --ip 10.2.0.10 fd00:2::10 --local-delivery");
    stop_forwarding(&world);
    speak(&world, "vm", 1);
    speak(&world, "blue", 2);
    for (from, to, address) in [
        ("vm", "blue", "10.2.0.10"),
        ("blue", "vm", "10.1.0.10"),
        ("vm", "blue", "fd00:2::10"),
        ("blue", "vm", "fd00:1::10"),
    ] {
        ping(&world, from, address);
        tcp(&world, from, to, address);
    }
    let socket = |workload| udp(&world, workload, "0.0.0.0:0");
    let (blue, vm, marker) = (socket("blue"), socket("vm"), socket("vm"));
    let monitor = world.start("monitor --type trace --json");
    wait_for("tracing to be on", || {
        arrives(&blue, &marker, "10.1.0.10");
        monitor.next_line(Duration::from_millis(50)).is_some()
    });
    arrives(&blue, &vm, "10.1.0.10");
    arrives(&blue, &marker, "10.1.0.10");
    let to = |socket: &UdpSocket, line: &str| {
        line.contains(&format!("\"dport\":{},", socket.local_addr().unwrap().port()))
    };
    let mut programs = Vec::new();
    while let Some(line) = monitor.next_line(PATIENCE) {
        if to(&vm, &line) {
            let line: Value = serde_json::from_str(&line).unwrap();
            assert_eq!(line["source_identity"], 199_472);
            programs.push(line["program"].as_str().unwrap().to_owned());
        } else if !programs.is_empty() && to(&marker, &line) {
            break;
        }
    }
    assert_eq!(programs, ["from_container", "to_container"]);
}

#[test]
fn a_nic_delivers_to_workloads() {
    let Some(world) = World::new() else { return };
    world.workload("wire", 1);
    world.workload("blue", 2);
    world.cilmark_ok("attach wire --role netdev --local-delivery");
    world.cilmark_ok("attach blue --id 199472 --ip 10.2.0.10 fd00:2::10 --local-delivery");
    stop_forwarding(&world);
    speak(&world, "blue", 2);
    let (wire, blue) = (udp(&world, "wire", "[::]:0"), udp(&world, "blue", "[::]:0"));
    for address in ["::ffff:10.2.0.10", "fd00:2::10"] {
        arrives(&wire, &blue, address);
    }
    ping(&world, "wire", "10.1.0.1");
    ping(&world, "wire", "fd00:1::1");
}

#[test]
fn workloads_on_one_bridge_are_delivered_to_as_well() {
    let Some(world) = World::new() else { return };
    world.sh("ip link add br0 type bridge && ip link set br0 up");
    for (name, number) in [("red", 1), ("blue", 2)] {
        world.sh(&format!(
            "ip netns add {name}
             ip link add {name} type veth peer name eth0 netns {name}
             ip link set {name} master br0 up
             ip -n {name} addr add 10.0.0.{number}/24 dev eth0
             ip -n {name} addr add fd00::{number}/64 dev eth0 nodad
             ip -n {name} link set eth0 up"
        ));
        world.cilmark_ok(&format!(
            "attach {name} --id 100{number} --ip 10.0.0.{number} fd00::{number} --local-delivery"
        ));
    }
    // Neighbour discovery and the first packets go by the bridge.
    for (from, number) in [("red", 2), ("blue", 1), ("red", 2)] {
        for address in [format!("10.0.0.{number}"), format!("fd00::{number}")] {
            ping(&world, from, &address);
        }
    }
    let ttl = world.sh("ip netns exec red ping -c 1 -W 5 10.0.0.2 | grep -o ttl=[0-9]*");
    assert_eq!(ttl, "ttl=63\n", "its answer was delivered, not bridged");
    for (from, to, address) in [("red", "blue", "10.0.0.2"), ("blue", "red", "fd00::1")] {
        tcp(&world, from, to, address);
    }
    world.sh("ip -n red neigh flush dev eth0
         ip netns exec red ping -qc 1 -W 5 fd00::2");
    for device in ["red", "blue"] {
        let drops = &world.status(device)["drops"];
        assert_eq!(drops, 0, "{device}: {}", world.cilmark_ok("metrics"));
    }
}

/// What a container engine does to whatever leaves the network of `red`: `blue` sees the router.
fn masquerade_red(world: &World) {
    world.sh("nft -f - <<'END'
         table inet engine {
             chain postrouting {
                 type nat hook postrouting priority srcnat;
                 ip saddr 10.1.0.0/24 masquerade
                 ip6 saddr fd00:1::/64 masquerade
             }
         }
END");
}

#[test]
fn the_first_connection_to_a_workload_that_has_sent_nothing_stays_on_its_path() {
    let Some(world) = red_and_blue("--local-delivery") else { return };
    masquerade_red(&world);
    for address in ["10.2.0.10", "fd00:2::10"] {
        let listener = listen(&world, "blue", 80);
        let connection = Connection::open(&world, "red", &listener, address);
        connection.works();
    }
}

/// Both ends of a connection that the stack translates: neither leaves it out.
#[test]
fn a_service_address_that_the_stack_translates_is_answered_by_the_same_way() {
    let Some(world) = red_and_blue("--local-delivery") else { return };
    world.sh("nft -f - <<'END'
         table inet services {
             chain prerouting {
                 type nat hook prerouting priority dstnat;
                 ip daddr 10.96.0.1 tcp dport 8080 dnat ip to 10.2.0.10:80
                 ip6 daddr fd00:96::1 tcp dport 8080 dnat ip6 to [fd00:2::10]:80
             }
         }
END");
    let listener = listen(&world, "blue", 80);
    for service in ["10.96.0.1", "fd00:96::1"] {
        Connection::published(&world, "red", &listener, service, 8080).works();
    }
    // Directly, beside it.
    stop_forwarding(&world);
    for address in ["10.2.0.10", "fd00:2::10"] {
        Connection::open(&world, "red", &listener, address).works();
    }
}

#[test]
fn a_machine_of_an_unknown_mac_is_masqueraded_for_a_whole_connection() {
    let Some(world) = World::new() else { return };
    world.workload("red", 1);
    let _machine = world.machine("vm", 2, "tap");
    world.cilmark_ok("attach red --id 1234 --ip 10.1.0.10 fd00:1::10 --local-delivery");
    world.cilmark_ok("attach vm --id 199472 --ip 10.2.0.10 fd00:2::10 --local-delivery");
    masquerade_red(&world);
    let listener = listen(&world, "vm", 80);
    for address in ["10.2.0.10", "fd00:2::10"] {
        Connection::open(&world, "red", &listener, address).works();
    }
    world.cilmark_ok("attach vm --id 300 --ip 10.2.0.10 fd00:2::10 --local-delivery");
}
