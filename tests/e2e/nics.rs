//! A host with several NICs whose policies differ: routes that are not the same both ways, devices on top of others, and
//! one that is enforced before another.

use std::time::Duration;

use serde_json::{Value, json};

use crate::common::World;
use crate::common::machine::{self, time_for};
use crate::common::traffic::{
    Connection, HOST, any, arrives, cannot_connect, is_lost, listen, ping, udp,
};
use crate::common::world::wait_for;

const ENFORCE: &str = "--role netdev --policy enforce --failsafe none --adopt 0 --yes";
const AUDIT: &str = "--role netdev --policy audit --failsafe none --yes";

/// The other end's addresses, to which the host's answers go by `back`.
const FAR: [&str; 2] = ["203.0.113.9", "fd00:9::9"];
/// The host's, to which packets come by `there`.
const NEAR: [&str; 2] = ["192.0.2.1", "fd00:1::1"];

/// A host that is reached by `there` and answers by `back`, and the namespace `net` at the other end of both.
fn asymmetric() -> Option<World> {
    let world = World::new()?;
    world.sh("sysctl -qw net.ipv6.conf.default.accept_dad=0 net.ipv4.conf.all.rp_filter=0 \
              net.ipv4.conf.default.rp_filter=0
         ip netns add net
         ip -n net link set lo up
         ip netns exec net sysctl -qw net.ipv4.conf.all.rp_filter=0 net.ipv4.conf.default.rp_filter=0 \
              net.ipv6.conf.default.accept_dad=0
         ip link add there type veth peer name t0 netns net
         ip link add back type veth peer name b0 netns net
         ip link set there up; ip link set back up
         ip -n net link set t0 up; ip -n net link set b0 up
         ip addr add 192.0.2.1/24 dev there; ip addr add fd00:1::1/64 dev there nodad
         ip addr add 198.51.100.1/24 dev back; ip addr add fd00:2::1/64 dev back nodad
         ip -n net addr add 192.0.2.2/24 dev t0; ip -n net addr add fd00:1::2/64 dev t0 nodad
         ip -n net addr add 198.51.100.2/24 dev b0; ip -n net addr add fd00:2::2/64 dev b0 nodad
         ip -n net addr add 203.0.113.9/32 dev lo; ip -n net addr add fd00:9::9/128 dev lo nodad
         ip route add default via 198.51.100.2 src 192.0.2.1
         ip -6 route add default via fd00:2::2 src fd00:1::1
         ip -n net route replace 192.0.2.0/24 dev t0 src 203.0.113.9
         ip -n net -6 route replace fd00:1::/64 dev t0 src fd00:9::9 metric 1");
    let up = "ip -br link show there; ip -br link show back; ip -n net -br link show t0; ip -n net -br link show b0";
    wait_for("the carriers", || world.sh(up).matches(" UP ").count() == 4);
    Some(world)
}

/// What a rule of a NIC has counted; 0 for what it does not list.
fn counted(world: &World, nic: &str, rule: &str) -> u64 {
    let list = world.cilmark_json(&format!("policy list {nic}"));
    let line = list.as_array().unwrap().iter().find(|line| line["rule"] == rule).cloned();
    line.map_or(0, |line| line["packets"].as_u64().unwrap())
}

fn add(world: &World, nic: &str, rule: &str) {
    world.cilmark_ok(&format!("policy add {nic} {rule} --yes"));
}

fn del(world: &World, nic: &str, rule: &str) {
    world.cilmark_ok(&format!("policy del {nic} {rule} --yes"));
}

fn flows(world: &World) -> Vec<Value> {
    world.cilmark_json("conntrack list host").as_array().unwrap().clone()
}

#[test]
fn what_comes_by_one_is_answered_by_the_other_and_counts_where_it_was_decided() {
    let Some(world) = asymmetric() else { return };
    for nic in ["there", "back"] {
        world.cilmark_ok(&format!("attach {nic} {ENFORCE}"));
    }
    // Rules of the same numbers, which have nothing to do with it.
    let others = ["allow ingress from any tcp/7000", "allow ingress from any tcp/7001"];
    others.iter().for_each(|rule| add(&world, "back", rule));
    add(&world, "there", "allow ingress from any udp/5");
    let web = "allow ingress from any tcp/9000";
    add(&world, "there", web);
    let server = listen(&world, HOST, 9000);
    // One that ends would be gone before a slow machine looks at it.
    let connections = NEAR.map(|near| Connection::open(&world, "net", &server, near));
    for (connection, near) in connections.iter().zip(NEAR) {
        connection.works();
        cannot_connect(&world, "net", near, 9001);
    }
    assert!(counted(&world, "there", web) >= 6);
    for rule in others {
        assert_eq!(counted(&world, "back", rule), 0, "{rule}");
    }
    let table = world.cilmark_ok("policy list back");
    assert!(table.contains("(another NIC)"), "{table}");
    for flow in flows(&world) {
        assert_eq!((&flow["rule"], &flow["nics"]), (&json!(web), &json!(["there"])), "{flow}");
    }
    let flow = flows(&world)[0].clone();
    let told = world.cilmark_ok(&format!(
        "explain back to --src {} --sport 9000 --dst {} --dport {} --tcp-flags ack",
        flow["local"].as_str().unwrap(),
        flow["remote"].as_str().unwrap(),
        flow["remote_port"]
    ));
    assert!(told.contains("allowed by there") && told.contains("rule: another NIC"), "{told}");
    assert!(!others.iter().any(|rule| told.contains(rule)), "{told}");
}

#[test]
fn without_its_rule_on_the_nic_it_came_by_a_connection_ends_both_ways() {
    for near in NEAR {
        let Some(world) = asymmetric() else { return };
        for nic in ["there", "back"] {
            world.cilmark_ok(&format!("attach {nic} {ENFORCE}"));
        }
        add(&world, "there", "allow ingress from any tcp/9000");
        let server = listen(&world, HOST, 9000);
        let connection = Connection::open(&world, "net", &server, near);
        connection.works();
        // Changes of what it does not depend on.
        add(&world, "back", "allow ingress from any tcp/9");
        del(&world, "back", "allow ingress from any tcp/9");
        world.cilmark_ok("ipcache set 10.9.9.9 300");
        connection.works();
        let monitor = world.start("monitor");
        del(&world, "there", "allow ingress from any tcp/9000");
        connection.is_cut();
        let told = monitor.stdout_line(|line| line.contains(" back to_netdev: drop"));
        let why = ["by another NIC", "its flow has passed there, whose rules deny it"];
        assert!(why.iter().all(|words| told.contains(words)), "{told}");
    }
}

#[test]
fn an_answer_ends_when_who_asked_becomes_somebody_else() {
    let Some(world) = asymmetric() else { return };
    for nic in ["there", "back"] {
        world.cilmark_ok(&format!("attach {nic} {ENFORCE}"));
    }
    add(&world, "there", "allow ingress from 300 udp");
    for (near, far) in NEAR.into_iter().zip(FAR) {
        world.cilmark_ok(&format!("ipcache set {far} 300"));
        let (host, net) = (udp(&world, HOST, any(near)), udp(&world, "net", any(near)));
        arrives(&net, &host, near);
        arrives(&host, &net, far);
        world.cilmark_ok(&format!("ipcache set {far} 301"));
        is_lost(&host, &net, far);
        is_lost(&net, &host, near);
        world.cilmark_ok(&format!("ipcache set {far} 300"));
        arrives(&host, &net, far);
    }
}

#[test]
fn rules_that_nobody_confirms_take_answers_elsewhere_along() {
    let Some(world) = asymmetric() else { return };
    for nic in ["there", "back"] {
        world.cilmark_ok(&format!("attach {nic} {ENFORCE}"));
    }
    let trial = format!("{}ms", time_for(Duration::from_millis(1500)).as_millis());
    // One after the other, so that each clock has to count.
    for round in 0..2 {
        let (near, far) = (NEAR[round], FAR[round]);
        let (host, net) = (udp(&world, HOST, any(near)), udp(&world, "net", any(near)));
        let rule = "policy add there allow ingress from any udp";
        world.cilmark_ok(&format!("{rule} --confirm {trial}"));
        arrives(&net, &host, near);
        arrives(&host, &net, far);
        let fell_back = || world.status("there")["confirm_deadline"] == 0;
        wait_for("the fallback", fell_back);
        is_lost(&host, &net, far);
        is_lost(&net, &host, near);
        // And so does an enforcement, which lets them pass again.
        world.cilmark_ok(&format!(
            "attach there --role netdev --policy enforce --failsafe none --adopt 0 --confirm {trial}"
        ));
        is_lost(&net, &host, near);
        wait_for("the fallback", fell_back);
        arrives(&net, &host, near);
        arrives(&host, &net, far);
        world.cilmark_ok(&format!("attach there {ENFORCE}"));
        is_lost(&host, &net, far);
        is_lost(&net, &host, near);
    }
}

#[test]
fn a_nic_that_goes_takes_what_it_has_let_pass_along_until_it_comes_back() {
    let Some(world) = asymmetric() else { return };
    for nic in ["there", "back"] {
        world.cilmark_ok(&format!("attach {nic} {ENFORCE}"));
    }
    world.veth("third");
    add(&world, "there", "allow ingress from any udp");
    for (near, far) in NEAR.into_iter().zip(FAR) {
        let (host, net) = (udp(&world, HOST, any(near)), udp(&world, "net", any(near)));
        arrives(&net, &host, near);
        arrives(&host, &net, far);
        world.cilmark_ok("detach there");
        is_lost(&host, &net, far);
        world.cilmark_ok(&format!("attach there {ENFORCE}"));
        add(&world, "there", "allow ingress from any udp");
        arrives(&host, &net, far);
        world.cilmark_ok("detach there");
        // In its slot, and open for everything.
        world.cilmark_ok(&format!("attach third {ENFORCE}"));
        add(&world, "third", "allow ingress from any");
        is_lost(&host, &net, far);
        world.cilmark_ok("detach third");
        world.cilmark_ok(&format!("attach there {ENFORCE}"));
        add(&world, "there", "allow ingress from any udp");
    }
}

#[test]
fn while_one_audits_the_other_is_enforced() {
    let Some(world) = asymmetric() else { return };
    let server = listen(&world, HOST, 9000);
    let elsewhere = listen(&world, "net", 9100);
    // What comes by the one that audits is answered by the one that enforces.
    world.cilmark_ok(&format!("attach there {AUDIT}"));
    world.cilmark_ok(&format!("attach back {ENFORCE}"));
    for (near, far) in NEAR.into_iter().zip(FAR) {
        Connection::open(&world, "net", &server, near).works();
        cannot_connect(&world, HOST, far, 9100);
    }
    // And the other way round: what leaves by the one that audits is answered by the one that enforces.
    world.cilmark_ok(&format!("attach there {ENFORCE}"));
    world.cilmark_ok(&format!("attach back {AUDIT}"));
    for (near, far) in NEAR.into_iter().zip(FAR) {
        Connection::open(&world, HOST, &elsewhere, far).works();
        cannot_connect(&world, "net", near, 9000);
    }
    // Once both are enforced, what only audit let pass does not.
    let connections = FAR.map(|far| Connection::open(&world, HOST, &elsewhere, far));
    connections.iter().for_each(Connection::works);
    world.cilmark_ok(&format!("attach back {ENFORCE}"));
    connections.iter().for_each(Connection::is_cut);
}

/// The bridge `br0` with the host's addresses, its port `eth0`, and behind that the namespace `lan`.
fn bridged() -> Option<World> {
    stacked(
        "ip link add br0 type bridge
         ip link set eth0 master br0
         ip link set br0 up",
        "br0",
        "l0",
    )
}

/// The VLAN device `eth0.7` with the host's addresses, and its parent `eth0`; `None` if the kernel has no such devices.
fn tagged() -> Option<World> {
    let world = World::new()?;
    if !world.try_sh("ip link add link lo name lo.7 type vlan id 7").status.success() {
        machine::skip("this kernel has no VLAN devices");
        return None;
    }
    stacked(
        "ip link add link eth0 name eth0.7 type vlan id 7
         ip link set eth0.7 up
         ip -n lan link add link l0 name l0.7 type vlan id 7
         ip -n lan link set l0.7 up",
        "eth0.7",
        "l0.7",
    )
}

/// The macvlan device `m0` with the host's addresses and a MAC of its own, and its parent `eth0`.
fn with_a_mac_of_its_own() -> Option<World> {
    stacked("ip link add link eth0 name m0 type macvlan mode bridge; ip link set m0 up", "m0", "l0")
}

fn stacked(stack: &str, here: &str, there: &str) -> Option<World> {
    let world = World::new()?;
    world.sh(&format!(
        // The parent of a macvlan device would answer for its address, with a MAC of its own.
        "sysctl -qw net.ipv6.conf.default.accept_dad=0 net.ipv4.conf.all.arp_ignore=1
         ip netns add lan
         ip netns exec lan sysctl -qw net.ipv6.conf.default.accept_dad=0
         ip link add eth0 type veth peer name l0 netns lan
         ip link set eth0 up; ip -n lan link set l0 up; ip -n lan link set lo up
         {stack}
         ip addr add 192.0.2.1/24 dev {here}; ip addr add fd00:1::1/64 dev {here} nodad
         ip -n lan addr add 192.0.2.50/24 dev {there}; ip -n lan addr add fd00:1::50/64 dev {there} nodad
         ip route add default via 192.0.2.50; ip -6 route add default via fd00:1::50"
    ));
    let reaches = || {
        let ping = |address| format!("ip netns exec lan ping -qc 1 -W 0.2 {address}");
        NEAR.iter().all(|near| world.try_sh(&ping(near)).status.success())
    };
    wait_for("the devices", reaches);
    Some(world)
}

const LAN: [&str; 2] = ["192.0.2.50", "fd00:1::50"];

/// The rules of each of two devices, one on top of the other, count for what comes by both.
fn each_counts(world: &World, [below, above]: [&str; 2]) {
    for nic in [below, above] {
        world.cilmark_ok(&format!("attach {nic} {ENFORCE}"));
    }
    let web = "allow ingress from any tcp/9000";
    let add_all = |nic: &str, rules: &[&str]| rules.iter().for_each(|rule| add(world, nic, rule));
    add_all(below, &["allow ingress from any tcp/9000-9001", "allow egress to any"]);
    add_all(above, &[web, "deny ingress from any tcp/9001"]);
    add_all(above, &["deny egress to any tcp/9100", "allow egress to any"]);
    let servers = [9000, 9001, 9002].map(|port| listen(world, HOST, port));
    let [open, closed] = [9101, 9100].map(|port| listen(world, "lan", port));
    for (near, far) in NEAR.into_iter().zip(LAN) {
        Connection::open(world, "lan", &servers[0], near).works();
        cannot_connect(world, "lan", near, 9001);
        cannot_connect(world, "lan", near, 9002);
        Connection::open(world, HOST, &open, far).works();
        cannot_connect(world, HOST, far, 9100);
    }
    drop(closed);
    // Each its own, and all packets that have passed.
    let [at_below, at_above] =
        [counted(world, below, "allow ingress from any tcp/9000-9001"), counted(world, above, web)];
    assert!(at_above >= 8, "{at_above}");
    assert!(at_below > at_above, "what was denied above has passed below, too");
    assert!(counted(world, above, "deny ingress from any tcp/9001") >= 2);
    for nic in [below, above] {
        let table = world.cilmark_ok(&format!("policy list {nic}"));
        assert!(!table.contains("another NIC"), "{table}");
    }
    // Either of them ends a connection.
    for near in NEAR {
        for nic in [below, above] {
            let rule = "deny ingress from any tcp/9000";
            let connection = Connection::open(world, "lan", &servers[0], near);
            connection.works();
            add(world, nic, rule);
            connection.is_cut();
            del(world, nic, rule);
        }
    }
}

/// One of the two enforces, the other only tells.
fn one_enforces(world: &World, [below, above]: [&str; 2]) {
    let server = listen(world, HOST, 9000);
    let mut connections = Vec::new();
    for [audits, enforces] in [[below, above], [above, below]] {
        world.cilmark_ok(&format!("attach {audits} {AUDIT}"));
        world.cilmark_ok(&format!("attach {enforces} {ENFORCE}"));
        add(world, enforces, "allow ingress from any tcp/9000");
        for near in NEAR {
            let connection = Connection::open(world, "lan", &server, near);
            connection.works();
            cannot_connect(world, "lan", near, 9001);
            connections.push(connection);
        }
        let drops = |nic: &str| world.status(nic)["drops"].as_u64().unwrap();
        assert_eq!(drops(audits), 0, "who audits");
        assert!(drops(enforces) > 0);
        connections.iter().for_each(Connection::works);
        world.cilmark_ok("detach --all");
    }
}

#[test]
fn the_rules_of_a_bridge_and_of_its_port_both_count() {
    let Some(world) = bridged() else { return };
    each_counts(&world, ["eth0", "br0"]);
}

#[test]
fn the_rules_of_a_vlan_device_and_of_its_parent_both_count() {
    let Some(world) = tagged() else { return };
    each_counts(&world, ["eth0", "eth0.7"]);
}

#[test]
fn the_rules_of_a_macvlan_device_and_of_its_parent_both_count() {
    let Some(world) = with_a_mac_of_its_own() else { return };
    each_counts(&world, ["eth0", "m0"]);
}

#[test]
fn of_a_bridge_and_its_port_one_may_be_enforced() {
    let Some(world) = bridged() else { return };
    one_enforces(&world, ["eth0", "br0"]);
}

#[test]
fn of_a_vlan_device_and_its_parent_one_may_be_enforced() {
    let Some(world) = tagged() else { return };
    one_enforces(&world, ["eth0", "eth0.7"]);
}

#[test]
fn an_echo_that_left_by_one_is_answered_by_the_other() {
    let Some(world) = asymmetric() else { return };
    for nic in ["there", "back"] {
        world.cilmark_ok(&format!("attach {nic} {ENFORCE}"));
    }
    for rule in ["allow egress to any icmp/8", "allow egress to any icmp6/128"] {
        add(&world, "back", rule);
    }
    for far in FAR {
        ping(&world, HOST, far);
    }
}

/// So that the kernel's conntrack knows of flows.
const TRACKED: &str = "nft 'table inet tracking { chain input { type filter hook input priority 0;
                       ct state established counter; }; }'";
const ENFORCE_AND_ADOPT: &str = "--role netdev --policy enforce --failsafe none --yes";

/// By the kernel's conntrack, or by their sockets.
#[test]
fn what_one_of_a_stack_has_seen_begin_goes_on_when_the_other_begins_to_enforce() {
    for tracks in [true, false] {
        let Some(world) = bridged() else { return };
        if tracks {
            world.sh(TRACKED);
        }
        world.cilmark_ok(&format!("attach br0 {ENFORCE}"));
        add(&world, "br0", "allow ingress from any tcp/9000");
        let server = listen(&world, HOST, 9000);
        let connections = NEAR.map(|near| Connection::open(&world, "lan", &server, near));
        connections.iter().for_each(Connection::works);
        world.cilmark_ok(&format!("attach eth0 {ENFORCE_AND_ADOPT}"));
        connections.iter().for_each(Connection::works);
        cannot_connect(&world, "lan", NEAR[0], 9000);
        let deny = "deny ingress from any tcp/9000";
        add(&world, "eth0", deny);
        connections[0].is_cut();
        del(&world, "eth0", deny);
        connections[1].works();
        // To the other one they are no older than its policy.
        del(&world, "br0", "allow ingress from any tcp/9000");
        connections[1].is_cut();
    }
}

#[test]
fn what_one_takes_over_is_still_asked_about_where_it_began() {
    let Some(world) = bridged() else { return };
    world.sh(TRACKED);
    let web = "allow ingress from any tcp/9000";
    world.cilmark_ok(&format!("attach br0 {ENFORCE_AND_ADOPT}"));
    world.cilmark_ok(&format!("attach eth0 {AUDIT}"));
    add(&world, "br0", web);
    let server = listen(&world, HOST, 9000);
    let connections = NEAR.map(|near| Connection::open(&world, "lan", &server, near));
    connections.iter().for_each(Connection::works);
    // Until now it has denied them.
    world.cilmark_ok(&format!("attach eth0 {ENFORCE_AND_ADOPT}"));
    connections.iter().for_each(Connection::works);
    del(&world, "br0", web);
    connections[0].is_cut();
    add(&world, "br0", web);
    connections[1].works();
    // Nothing is left of that where another device gets its slot.
    world.cilmark_ok("detach eth0");
    world.veth("third");
    world.cilmark_ok(&format!("attach third {ENFORCE}"));
    for flow in flows(&world) {
        assert_eq!((&flow["nics"], &flow["adopted"]), (&json!(["br0"]), &json!(false)), "{flow}");
    }
}
