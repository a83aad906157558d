//! docs/recipes/nftables.md.

use std::net::UdpSocket;

use serde_json::Value;

use super::{OUTSIDE, paste_section, twice_is_undone, uplink};
use crate::common::World;
use crate::common::traffic::{
    Connection, HOST, any, arrives, cannot_connect, is_lost, listen, udp,
};

const PAGE: &str = include_str!("../../docs/recipes/nftables.md");
const WEB: u64 = 0x04d2_0f00;
const DB: u64 = 0x0b30_0f03;

/// Both addresses of a workload.
const OF_WEB: [&str; 2] = ["10.1.0.10", "fd00:1::10"];
const OF_DB: [&str; 2] = ["10.2.0.10", "fd00:2::10"];

/// A host with the two workloads of the page and one that nobody attaches.
fn hosts() -> Option<World> {
    let world = World::new()?;
    uplink(&world);
    for (name, number) in [("veth-web", 1), ("veth-db", 2), ("veth-other", 3)] {
        world.workload(name, number);
    }
    Some(world)
}

/// The same, set up as the page says.
fn set_up() -> Option<World> {
    let world = hosts()?;
    paste_section(&world, PAGE, "## Set it up");
    Some(world)
}

/// How many packets the set has counted with a mark.
fn sent(world: &World, mark: u64) -> u64 {
    let listed = world.sh("nft -j list set inet by_identity senders");
    let listed: Value = serde_json::from_str(&listed).expect("JSON of nft");
    let sets = listed["nftables"].as_array().expect("a list").iter();
    let mut elements = sets.filter_map(|entry| entry["set"]["elem"].as_array()).flatten();
    let element = elements.find(|element| element["elem"]["val"] == mark);
    element.map_or(0, |element| element["elem"]["counter"]["packets"].as_u64().expect("a number"))
}

/// Who the server sees.
fn client(connection: &Connection) -> String {
    connection.server.peer_addr().expect("an address").ip().to_canonical().to_string()
}

#[test]
fn it_counts_filters_and_translates_by_identity_by_pasting() {
    let Some(world) = set_up() else { return };
    let database = listen(&world, "veth-db", 5432);
    let [mail, web_server] = [25, 80].map(|port| listen(&world, "outside", port));
    let _inside = listen(&world, "veth-web", 80);
    for family in [0, 1] {
        let before = [WEB, DB].map(|mark| sent(&world, mark));
        Connection::open(&world, "veth-web", &database, OF_DB[family]).works();
        let after = [WEB, DB].map(|mark| sent(&world, mark));
        assert!(after[0] >= before[0] + 3 && after[1] >= before[1] + 2, "{before:?} {after:?}");
        cannot_connect(&world, "veth-db", OF_WEB[family], 80);
        cannot_connect(&world, "veth-db", OUTSIDE[family], 80);

        let mails = Connection::open(&world, "veth-web", &mail, OUTSIDE[family]);
        mails.works();
        assert_eq!(client(&mails), ["198.51.100.7", "2001:db8:100::7"][family]);
        cannot_connect(&world, "veth-other", OUTSIDE[family], 25);
        let other = Connection::open(&world, "veth-other", &web_server, OUTSIDE[family]);
        other.works();
        assert_eq!(client(&other), ["10.3.0.10", "fd00:3::10"][family], "that has no mark");
    }
    let printed = paste_section(&world, PAGE, "## What you see");
    for shown in [
        "0x04d20f00 counter packets",
        "0x0b300f03: IDENTITY, identity 199472 (db)",
        "ct state new counter packets 4",
    ] {
        assert!(printed.contains(shown), "no `{shown}` in {printed}");
    }

    paste_section(&world, PAGE, "## To undo it");
    assert_eq!(world.sh("nft list ruleset"), "");
    assert_eq!(world.pins(), [] as [String; 0]);
    assert!(!world.sh("ip addr show dev eth0").contains("7/"));
}

#[test]
fn both_nftables_and_the_receivers_policy_have_to_let_a_packet_pass() {
    let Some(world) = set_up() else { return };
    paste_section(&world, PAGE, "## Together with cilmark's policy");
    let database = listen(&world, "veth-db", 5432);
    let _other = listen(&world, "veth-db", 80);
    for address in OF_DB {
        Connection::open(&world, "veth-web", &database, address).works();
        cannot_connect(&world, "veth-web", address, 80);
        // Nothing in nftables is against it.
        cannot_connect(&world, "veth-other", address, 5432);
    }
    world.sh("nft insert rule inet by_identity from_web tcp dport 5432 drop");
    for address in OF_DB {
        cannot_connect(&world, "veth-web", address, 5432);
    }
}

/// How many datagrams of web each of these chains has seen.
fn seen(world: &World, chains: &[&str; 7]) -> [u64; 7] {
    let listed: Value = serde_json::from_str(&world.sh("nft -j list ruleset")).expect("JSON");
    let entries = listed["nftables"].as_array().expect("a list");
    let rules = || entries.iter().map(|entry| &entry["rule"]).filter(|it| it["table"] == "look");
    let packets = |rule: &Value| {
        let expressions = rule["expr"].as_array().expect("a list").iter();
        expressions.filter_map(|it| it["counter"]["packets"].as_u64()).next()
    };
    chains.map(|chain| rules().find(|it| it["chain"] == chain).and_then(packets).expect("a rule"))
}

#[test]
fn the_mark_is_there_in_each_chain_that_is_named_and_not_in_what_the_host_sends() {
    const CHAINS: [&str; 7] =
        ["ingress", "prerouting", "input", "forward", "output", "postrouting", "egress"];
    let Some(world) = set_up() else { return };
    let look = |chain: &str| {
        let (family, device) = match chain {
            "ingress" => ("netdev", "device veth-web"),
            "egress" => ("netdev", "device eth0"),
            _ => ("inet", ""),
        };
        format!(
            "add table {family} look
             add chain {family} look {chain} {{ type filter hook {chain} {device} priority 0; }}
             add rule {family} look {chain} meta l4proto udp meta mark & 0xffff0fff == {WEB} counter
            "
        )
    };
    world.sh(&format!("nft -f - <<'END'\n{}\nEND", CHAINS.map(look).concat()));
    // What eth0 sends carries web's identity, for whoever looks behind cilmark.
    world.cilmark_ok("attach eth0 --id web");
    let sends = |from: &UdpSocket, to: &UdpSocket, address: &str| {
        let before = seen(&world, &CHAINS);
        arrives(from, to, address);
        let after = seen(&world, &CHAINS);
        std::array::from_fn::<u64, 7, _>(|chain| after[chain] - before[chain])
    };
    for family in [0, 1] {
        let to = OUTSIDE[family];
        let web = udp(&world, "veth-web", any(to));
        let (here, outside) = (udp(&world, HOST, any(to)), udp(&world, "outside", any(to)));
        assert_eq!(sends(&web, &outside, to), [1, 1, 0, 1, 0, 1, 1], "to {to}: {CHAINS:?}");
        let gateway = ["10.1.0.1", "fd00:1::1"][family];
        assert_eq!(sends(&web, &here, gateway), [1, 1, 1, 0, 0, 0, 0], "to {gateway}: {CHAINS:?}");
        assert_eq!(sends(&here, &outside, to), [0; 7], "from the host: {CHAINS:?}");
    }
}

#[test]
fn bits_12_to_15_do_not_matter_and_a_mark_of_nftables_proves_nothing() {
    let Some(world) = set_up() else { return };
    paste_section(&world, PAGE, "## Together with cilmark's policy");
    let database = udp(&world, "veth-db", "[::]:0");
    let port = database.local_addr().expect("an address").port();
    world.cilmark_ok(&format!("policy add veth-db allow ingress from web udp/{port}"));
    world.sh("nft add table inet writer
         nft 'add chain inet writer mangle { type filter hook prerouting priority mangle; }'");
    let writes = |device: &str, mark: &str| {
        let rule = format!("inet writer mangle iifname {device} meta mark set {mark}");
        world.sh(&format!("nft flush chain inet writer mangle; nft 'add rule {rule}'"));
    };
    for address in ["::ffff:10.2.0.10", "fd00:2::10"] {
        let before = sent(&world, WEB);
        writes("veth-web", "meta mark | 0x1000");
        arrives(&udp(&world, "veth-web", "[::]:0"), &database, address);
        assert_eq!(sent(&world, WEB), before + 1);
        writes("veth-other", "0x04d20f00");
        is_lost(&udp(&world, "veth-other", "[::]:0"), &database, address);
        assert_eq!(sent(&world, WEB), before + 2, "nftables believes it");
        writes("veth-web", "0x1");
        is_lost(&udp(&world, "veth-web", "[::]:0"), &database, address);
    }
}

#[test]
fn the_mark_is_there_in_chains_of_a_bridge() {
    let Some(world) = set_up() else { return };
    world.sh(
        "ip link add br0 type bridge
         ip link set br0 up
         for port in veth-web veth-other; do ip addr flush dev $port; ip link set $port master br0; done
         ip -n veth-other addr add 10.1.0.11/24 dev eth0
         ip -n veth-other addr add fd00:1::11/64 dev eth0 nodad
         nft add table bridge look
         nft 'add chain bridge look forward { type filter hook forward priority 0; }'
         nft 'add rule bridge look forward meta mark & 0xffff0fff == 0x04d20f00 udp dport 1-65535 counter'",
    );
    for address in ["10.1.0.11", "fd00:1::11"] {
        let web = udp(&world, "veth-web", any(address));
        arrives(&web, &udp(&world, "veth-other", any(address)), address);
    }
    let rules = world.sh("nft list table bridge look");
    assert!(rules.contains("counter packets 2"), "{rules}");
}

#[test]
fn pasted_twice_it_is_undone_all_the_same() {
    let Some(world) = hosts() else { return };
    twice_is_undone(&world, PAGE, &["## Set it up", "## Together with cilmark's policy"]);
}
