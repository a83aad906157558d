//! What a first enforcement would cut off.

use std::process::Output;

use super::doctor;
use crate::common::World;
use crate::common::machine::skip;
use crate::common::traffic::{Connection, HOST, listen};
use crate::common::world::wait_for;

const AUDIT: &str = "attach red --role netdev --policy audit --failsafe tcp/22";

/// A host with `red` as a NIC that audits.
fn audited() -> Option<World> {
    let world = World::new()?;
    world.workload("red", 1);
    world.cilmark_ok(AUDIT);
    Some(world)
}

/// What a finding of a check says to do is a command that helps: afterwards there is none of it.
fn is_cured(world: &World, check: &str) {
    let told = doctor(world).of(check);
    let [one] = &told[..] else { panic!("{check}: {told:?}") };
    let command = one.split('`').nth(1).expect("a command");
    world.cilmark_ok(command.strip_prefix("cilmark ").expect("it is ours"));
    let found = doctor(world);
    assert!(found.of(check).is_empty(), "{:?}", found.of(check));
}

#[test]
fn where_nobody_is_about_to_enforce_it_says_so() {
    let Some(world) = World::new() else { return };
    world.workload("red", 1);
    let server = listen(&world, "red", 3260);
    let _storage = Connection::open(&world, HOST, &server, "10.1.0.10");
    let fine = || {
        let found = doctor(&world);
        found.is_fine("first enforcement");
        assert!(found.of("connections").is_empty() && found.of("storage").is_empty());
    };
    fine();
    world.cilmark_ok("attach red --role netdev");
    fine();
    world.cilmark_ok("attach red --role netdev --policy enforce --yes");
    fine();
    // A policy that is off, and has rules, waits for somebody.
    world.cilmark_ok("attach red --role netdev --yes --rule allow ingress from any");
    doctor(&world).has(
        "storage",
        "warning red",
        &["this host uses iSCSI on 10.1.0.10, and no rule of red allows it"],
    );
}

#[test]
fn connections_that_the_rules_would_cut_are_counted_until_rules_allow_them() {
    let Some(world) = audited() else { return };
    let found = doctor(&world);
    found.has("connections", "ok red", &["no connection is up"]);
    found.is_fine("host traffic");
    let server = listen(&world, HOST, 5001);
    let _connection = Connection::open(&world, "red", &server, "10.1.0.1");
    let told =
        doctor(&world).has("connections", "warning red", &["1 flow is up", "1 have no rule"]);
    let command = told.split('`').nth(1).expect("a command");
    let folder = env!("CARGO_BIN_EXE_cilmark").strip_suffix("/cilmark").unwrap();
    let shown: Output = world.try_sh(&format!("PATH={folder}:$PATH; {command}"));
    let shown = String::from_utf8(shown.stdout).unwrap();
    assert!(shown.contains("allow ingress from world tcp/5001"), "{shown}");
    world.cilmark_ok("policy add red allow ingress from world tcp/5001");
    doctor(&world).has("connections", "ok red", &["the one connection that is up may go on"]);
    world.cilmark_ok("policy add red deny ingress from any tcp/5001");
    doctor(&world).has("connections", "warning red", &["deny 1"]);
}

#[test]
fn each_nic_is_told_of_what_goes_by_it() {
    let Some(world) = audited() else { return };
    world.workload("blue", 2);
    world.cilmark_ok(&AUDIT.replace("red", "blue"));
    let server = listen(&world, HOST, 5001);
    let _of_red = Connection::open(&world, "red", &server, "10.1.0.1");
    let _of_blue = [(); 2].map(|()| Connection::open(&world, "blue", &server, "10.2.0.1"));
    let found = doctor(&world).of("connections");
    let says = |words: &str| found.iter().any(|it| it.starts_with(words));
    assert!(says("warning red: 1 flow is up: the rules deny 0, and 1 have no rule"), "{found:?}");
    assert!(says("warning blue: 2 flows are up: the rules deny 0, and 2 have"), "{found:?}");
}

#[test]
fn storage_that_a_rule_denies_is_cured_by_removing_that_rule() {
    let Some(world) = audited() else { return };
    let server = listen(&world, "red", 3260);
    let _storage = Connection::open(&world, HOST, &server, "10.1.0.10");
    world.cilmark_ok("policy add red allow egress to any tcp/3260");
    world.cilmark_ok("policy add red deny egress to any tcp/3260");
    doctor(&world).has("storage", "warning red", &["and a rule of red denies it"]);
    is_cured(&world, "storage");
}

#[test]
fn storage_of_other_hosts_is_told_with_its_rule() {
    let Some(world) = audited() else { return };
    for (port, name) in [(3260, "iSCSI"), (4420, "NVMe"), (10809, "NBD"), (2049, "NFS")] {
        let server = listen(&world, "red", port);
        let _storage = Connection::open(&world, HOST, &server, "fd00:1::10");
        let rule = format!("cilmark policy add red allow egress to world tcp/{port}`");
        doctor(&world).has("storage", "warning red", &[name, "fd00:1::10", &rule]);
        is_cured(&world, "storage");
    }
    // A session that is just not connected; the kernel here knows none.
    world.sh(
        "mount -t tmpfs class /sys/class && cd /sys/class && mkdir -p iscsi_connection/connection1:0
         cd iscsi_connection/connection1:0 && echo 10.1.0.10 > persistent_address && echo 3261 > persistent_port",
    );
    doctor(&world).has("storage", "warning red", &["iSCSI on 10.1.0.10", "to world tcp/3261"]);
    // What goes by another device is none of its business.
    world.veth("other");
    world.sh("ip route add 10.1.0.10/32 dev other");
    assert!(doctor(&world).of("storage").is_empty());
}

#[test]
fn what_rules_allow_by_an_identity_is_no_trouble() {
    let Some(world) = audited() else { return };
    let server = listen(&world, "red", 3260);
    let _storage = Connection::open(&world, HOST, &server, "10.1.0.10");
    world.cilmark_ok("ipcache set 10.1.0.0/24 300");
    world.cilmark_ok("policy add red allow egress to world tcp/3260");
    doctor(&world).has("storage", "warning red", &["allow egress to 300 tcp/3260"]);
    world.cilmark_ok("policy add red allow egress to 300 tcp/3260");
    let found = doctor(&world);
    assert!(found.of("storage").is_empty(), "{:?}", found.of("storage"));
    found.is_fine("host traffic");
}

#[test]
fn routing_protocols_are_told_by_their_groups_and_sockets() {
    let Some(world) = audited() else { return };
    let vrrp = world.spawn("socat -u UDP4-RECV:9999,ip-add-membership=224.0.0.18:red STDOUT");
    wait_for("the group", || world.sh("cat /proc/net/igmp").contains("120000E0"));
    let words = ["VRRP", "cilmark policy add red allow ingress from world proto/112`"];
    doctor(&world).has("routing protocols", "warning red", &words);
    world.cilmark_ok("policy add red allow ingress from world proto/112");
    let words = ["VRRP", "cilmark policy add red allow egress to world proto/112`"];
    doctor(&world).has("routing protocols", "warning red", &words);
    is_cured(&world, "routing protocols");
    drop(vrrp);
    let _ospf = world.spawn("socat -u IP4-RECV:89 STDOUT");
    wait_for("the socket", || world.sh("cat /proc/net/raw").contains(":0059 "));
    doctor(&world).has("routing protocols", "warning red", &["OSPF", "proto/89`"]);
    world.cilmark_ok("policy add red allow ingress from any proto/89 allow egress to any proto/89");
    let server = listen(&world, HOST, 179);
    let _bgp = Connection::open(&world, "red", &server, "10.1.0.1");
    doctor(&world).has(
        "routing protocols",
        "warning red",
        &["BGP with 10.1.0.10", "ingress from world tcp/179"],
    );
    is_cured(&world, "routing protocols");
}

#[test]
fn a_cloud_that_has_given_a_route_to_its_metadata_is_asked() {
    let Some(world) = audited() else { return };
    world.sh("ip route add 169.254.0.0/16 via 10.1.0.10");
    assert!(doctor(&world).of("cloud metadata").is_empty(), "a network is no such route");
    world.sh("ip route add 169.254.169.254 via 10.1.0.10");
    let rule = "cilmark policy add red allow egress to world tcp/80`";
    doctor(&world).has("cloud metadata", "warning red", &[rule]);
    is_cured(&world, "cloud metadata");
}

#[test]
fn an_operator_who_comes_by_a_tunnel_needs_more_than_the_port_of_ssh() {
    let Some(world) = audited() else { return };
    let tunnel = "type vxlan id 3 dstport 4789";
    if !world.try_sh(&format!("ip link add vx0 {tunnel} remote 10.1.0.10")).status.success() {
        return skip("this kernel has no VXLAN");
    }
    world.sh(&format!(
        "ip addr add 10.9.0.1/24 dev vx0 && ip link set vx0 up
         ip -n red link add vx0 {tunnel} remote 10.1.0.1
         ip -n red addr add 10.9.0.2/24 dev vx0 && ip -n red link set vx0 up"
    ));
    let server = listen(&world, HOST, 22);
    let direct = Connection::open(&world, "red", &server, "10.1.0.1");
    assert!(doctor(&world).of("ssh by a tunnel").is_empty(), "a failsafe port lets that in");
    let _session = Connection::open(&world, "red", &server, "10.9.0.1");
    let words =
        ["through vx0 (vxlan)", "cilmark policy add red allow ingress from world udp/4789`"];
    doctor(&world).has("ssh by a tunnel", "warning red", &words);
    drop(direct);
    is_cured(&world, "ssh by a tunnel");
}
