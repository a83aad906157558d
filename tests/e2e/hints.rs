//! What `monitor` advises, followed to the letter: exactly that flow passes then.

use std::io::{Read, Write};
use std::net::UdpSocket;

use serde_json::{Value, json};

use super::{drops, red_and_blue};
use crate::common::World;
use crate::common::packet::Frame;
use crate::common::process::Running;
use crate::common::traffic::{
    Connection, HOST, arrives, cannot_connect, is_lost, is_unanswered, listen, ping, udp,
};
use crate::common::wire::{Wire, fragments, mac};

const BLUE: &str = "10.2.0.10";
const NIC: &str = "attach red --role netdev --policy enforce --adopt 0 --failsafe none --yes";

/// What stands behind the facts of a line.
fn hint(line: &str) -> &str {
    let (_, behind) = line.split_once(" bytes").expect("a length");
    behind.split_once("; ").unwrap_or_else(|| panic!("no hint in {line}")).1
}

/// Does what a line says.
fn follow(world: &World, line: &str) {
    let (_, commands) = hint(line).split_once("cilmark ").expect("a command");
    for command in commands.split(" && ") {
        let command = command.trim_start_matches("cilmark ").replace('\'', "");
        let prompt = if command.starts_with("policy") { "--yes" } else { "" };
        world.cilmark_ok(&format!("{command} {prompt}"));
    }
}

/// The line about a packet, by what stands in it; a port is not the beginning of another one.
fn line(monitor: &Running, packet: &str) -> String {
    monitor.stdout_line(|line| {
        let mut behind = line.match_indices(packet).map(|(at, _)| &line[at + packet.len()..]);
        behind.any(|rest| !rest.starts_with(|c: char| c.is_ascii_digit()))
    })
}

/// A UDP socket of a namespace on a port of its IPv4 addresses.
fn on(world: &World, namespace: &str, port: u16) -> UdpSocket {
    udp(world, namespace, &format!("0.0.0.0:{port}"))
}

#[test]
fn a_missing_rule_that_is_added_lets_its_flow_pass_and_no_other() {
    let Some(world) = red_and_blue("") else { return };
    world.cilmark_ok("attach red --id 1234 --ip 10.1.0.10 --policy enforce");
    let monitor = world.start("monitor");
    let (eighty, _closed) = (listen(&world, "blue", 80), listen(&world, "blue", 81));
    // What it sends by TCP.
    cannot_connect(&world, "red", BLUE, 80);
    let told = line(&monitor, "10.2.0.10:80");
    assert_eq!(hint(&told), "to allow it: cilmark policy add red 'allow egress to 199472 tcp/80'");
    follow(&world, &told);
    Connection::open(&world, "red", &eighty, BLUE).works();
    cannot_connect(&world, "red", BLUE, 81);
    let _here = listen(&world, HOST, 80);
    cannot_connect(&world, "red", "10.1.0.1", 80);
    // What it receives by UDP.
    let (blue, red, other) = (on(&world, "blue", 0), on(&world, "red", 53), on(&world, "red", 54));
    is_lost(&blue, &red, "10.1.0.10");
    let told = line(&monitor, "10.1.0.10:53");
    follow(&world, &told);
    arrives(&blue, &red, "10.1.0.10");
    is_lost(&blue, &other, "10.1.0.10");
    is_lost(&on(&world, HOST, 0), &red, "10.1.0.10");
    // An echo, of which only requests have a rule.
    is_unanswered(&world, "blue", "10.1.0.10");
    follow(&world, &line(&monitor, "icmp/8"));
    ping(&world, "blue", "10.1.0.10");
    is_unanswered(&world, "red", BLUE);
    // Port 0 is a port, and not all of them.
    let wire = Wire::open(&world, "red", "eth0", mac(&world, HOST, "red"));
    wire.send(Frame::between("10.1.0.10", BLUE).udp(1000, 0));
    let told = line(&monitor, "udp 10.1.0.10:1000");
    assert!(hint(&told).ends_with("'allow egress to 199472 udp/0'"), "{told}");
    wire.send(Frame::between("10.1.0.10", BLUE).protocol(47, [0; 8]));
    let told = line(&monitor, "proto/47");
    assert!(hint(&told).ends_with("'allow egress to 199472 proto/47'"), "{told}");
}

#[test]
fn a_deny_that_is_taken_away_opens_what_it_was_about_or_nobody_advises_it() {
    let Some(world) = red_and_blue("") else { return };
    world.cilmark_ok("attach red --id 1234 --ip 10.1.0.10 --policy enforce");
    let monitor = world.start("monitor");
    let servers = [80, 81, 82, 90].map(|port| listen(&world, "blue", port));
    let opens = |port: u16| {
        let server = servers.iter().find(|it| it.local_addr().unwrap().port() == port).unwrap();
        Connection::open(&world, "red", server, BLUE).works();
    };
    // A deny that is about the flow alone, once with a rule that allows it and once without.
    world.cilmark_ok(
        "policy add red deny egress to 199472 tcp/80 deny egress to 199472 tcp/81 \
                      allow egress to 199472 tcp/81",
    );
    for (port, commands) in [(80, 2), (81, 1)] {
        cannot_connect(&world, "red", BLUE, port);
        let told = line(&monitor, &format!("10.2.0.10:{port}"));
        assert_eq!(hint(&told).matches("cilmark policy").count(), commands, "{told}");
        follow(&world, &told);
        opens(port);
    }
    // One of its identity, and one that both have.
    world.cilmark_ok("policy add @1234 deny egress to 199472 tcp/80 deny egress to 199472 tcp/81");
    world.cilmark_ok("policy add red deny egress to 199472 tcp/81");
    for (port, of_identity, of_red) in [(80, 1, 0), (81, 1, 1)] {
        cannot_connect(&world, "red", BLUE, port);
        let told = line(&monitor, &format!("10.2.0.10:{port}"));
        let of = |whose: &str| hint(&told).matches(&format!("policy del {whose}")).count();
        assert_eq!((of("@1234"), of("red")), (of_identity, of_red), "{told}");
        follow(&world, &told);
        opens(port);
    }
    // A broad one, behind which nothing else is allowed.
    world.cilmark_ok("policy flush red");
    world.cilmark_ok("policy add red deny egress to any tcp deny egress to any tcp/1-1000");
    cannot_connect(&world, "red", BLUE, 82);
    let told = line(&monitor, "10.2.0.10:82");
    assert_eq!(hint(&told).matches("cilmark policy del").count(), 2, "{told}");
    follow(&world, &told);
    opens(82);
    cannot_connect(&world, "red", BLUE, 90);
    // A broad one, behind which something is.
    world.cilmark_ok("policy add red deny egress to any tcp allow egress to any tcp/90-99");
    cannot_connect(&world, "red", BLUE, 82);
    let told = line(&monitor, "181) tcp");
    assert!(!hint(&told).contains("cilmark policy"), "{told}");
    for rule in ["`deny egress to any tcp`", "`allow egress to any tcp/90-99`", "narrowly"] {
        assert!(hint(&told).contains(rule), "{told}");
    }
}

/// A client that renews sends to port 67, and a server that offers sends to port 68: two flows, of which
/// audit keeps one entry.
#[test]
fn hints_of_audit_let_begin_whichever_end_does() {
    let Some(world) = World::new() else { return };
    world.workload("red", 1);
    world.cilmark_ok("attach red --id 300 --ip 10.1.0.10 --policy audit");
    let monitor = world.start("monitor");
    let (client, server) = (on(&world, "red", 168), on(&world, HOST, 167));
    arrives(&client, &server, "10.1.0.1");
    let renewal = line(&monitor, "10.1.0.1:167");
    assert!(hint(&renewal).ends_with(" udp/167'"), "{renewal}");
    follow(&world, &renewal);
    // Now the rules are asked again, and what audit has left is another flow's direction.
    world.cilmark_ok("policy flush red");
    arrives(&server, &client, "10.1.0.10");
    let offer = line(&monitor, "10.1.0.10:168");
    assert_eq!(
        hint(&offer),
        "to allow it: cilmark policy add red 'allow ingress from host udp/168'"
    );
    follow(&world, &offer);
    follow(&world, &renewal);
    world.cilmark_ok("attach red --id 300 --ip 10.1.0.10 --policy enforce");
    for first in [true, false] {
        world.cilmark_ok("conntrack flush");
        match first {
            true => arrives(&server, &client, "10.1.0.10"),
            false => arrives(&client, &server, "10.1.0.1"),
        };
    }
    is_lost(&on(&world, "red", 0), &on(&world, HOST, 53), "10.1.0.1");
}

#[test]
fn nobody_is_told_to_open_the_port_of_an_answer() {
    let Some(world) = World::new() else { return };
    world.workload("red", 1);
    world.cilmark_ok(NIC);
    world.cilmark_ok("policy add red allow egress to world udp/5353 --yes");
    let monitor = world.start("monitor");
    let (server, client) = (on(&world, "red", 5353), on(&world, HOST, 0));
    arrives(&client, &server, "10.1.0.10");
    arrives(&server, &client, "10.1.0.1");
    world.cilmark_ok("conntrack flush");
    is_lost(&server, &client, "10.1.0.1");
    let told = line(&monitor, "10.1.0.10:5353");
    assert!(!hint(&told).contains("policy add") && hint(&told).contains("sends again"), "{told}");
    arrives(&client, &server, "10.1.0.10");
    arrives(&server, &client, "10.1.0.1");
    // Of a connection that no rule allows any more, the rule is its own.
    world.cilmark_ok("policy add red allow egress to world tcp/443 --yes");
    let web = listen(&world, "red", 443);
    let connection = Connection::open(&world, HOST, &web, "10.1.0.10");
    connection.works();
    world.cilmark_ok("policy del red allow egress to world tcp/443 --yes");
    world.cilmark_ok("conntrack flush");
    (&connection.server).write_all(b"hello").unwrap();
    let told = line(&monitor, "10.1.0.10:443");
    let rule = "cilmark policy add red 'allow egress to world tcp/443'";
    assert_eq!(hint(&told), format!("an answer; to allow its flow: {rule}"));
    follow(&world, &told);
    (&connection.client).write_all(b"hello").unwrap();
    let mut bytes = [0; 5];
    (&connection.client).read_exact(&mut bytes).expect("what was lost comes again");
    cannot_connect(&world, "red", "10.1.0.1", 443);
    // A connection to a server of this host, whatever its port.
    world.cilmark_ok("policy add red allow ingress from world tcp/50000 --yes");
    let here = listen(&world, HOST, 50_000);
    let connection = Connection::open(&world, "red", &here, "10.1.0.1");
    world.cilmark_ok("policy flush red --yes");
    world.cilmark_ok("conntrack flush");
    (&connection.server).write_all(b"hello").unwrap();
    let told = line(&monitor, "10.1.0.1:50000");
    assert!(hint(&told).ends_with("'allow ingress from world tcp/50000'"), "{told}");
    follow(&world, &told);
    (&connection.client).write_all(b"hello").unwrap();
    (&connection.client).read_exact(&mut bytes).expect("what was lost comes again");
}

#[test]
fn what_nobody_can_know_is_said_to_be_so() {
    let Some(world) = World::new() else { return };
    world.workload("red", 1);
    world.cilmark_ok(NIC);
    let monitor = world.start("monitor");
    let (peer, here) = (on(&world, "red", 40_000), on(&world, HOST, 51_820));
    is_lost(&peer, &here, "10.1.0.1");
    let told = line(&monitor, "10.1.0.1:51820");
    assert!(hint(&told).starts_with("its ports do not tell who began"), "{told}");
    let rules = ["'allow egress to world udp/40000'", "'allow ingress from world udp/51820'"];
    assert!(rules.iter().all(|rule| told.contains(rule)), "{told}");
    world.cilmark_ok("policy add red allow ingress from world udp/51820 --yes");
    arrives(&peer, &here, "10.1.0.1");
}

#[test]
fn drops_that_no_rule_is_about_say_what_helps() {
    let Some(world) = World::new() else { return };
    world.workload("red", 1);
    world.workload("blue", 2);
    world.sh("ip -n red addr add 10.1.0.11/24 dev eth0");
    let attach = "attach red --id 300 --ip 10.1.0.10 fd00:1::10 --local-delivery";
    world.cilmark_ok(attach);
    world.cilmark_ok("attach blue --id 301 --ip 10.2.0.10 --local-delivery");
    world.sh("ip netns exec blue ping -qc1 10.2.0.1");
    let monitor = world.start("monitor");
    // An address that it was not given.
    let (red, here) = (udp(&world, "red", "10.1.0.11:0"), on(&world, HOST, 0));
    is_lost(&red, &here, "10.1.0.1");
    let told = line(&monitor, "(Invalid source ip, 132)");
    let advice =
        "if 10.1.0.11 is the workload's, attach it again with that behind --ip, beside 10.1.0.10";
    assert!(hint(&told).starts_with(advice), "{told}");
    world.cilmark_ok(&attach.replace("--ip", "--ip 10.1.0.11"));
    arrives(&red, &here, "10.1.0.1");
    // A router.
    let wire = Wire::open(&world, "red", "eth0", mac(&world, HOST, "red"));
    let advertisement = || Frame::between("fd00:1::10", "ff02::1").ttl(255).router_advertisement();
    wire.send(advertisement());
    let told = line(&monitor, ", 176)");
    assert!(hint(&told).ends_with("only if it is attached with --router"), "{told}");
    world.cilmark_ok(&format!("{attach} --router"));
    let before = drops(&world, 176);
    wire.send(advertisement());
    wire.send(Frame::between("10.1.0.12", "10.1.0.1").udp(1, 2));
    line(&monitor, "10.1.0.12:1");
    assert_eq!(drops(&world, 176), before, "it has passed");
    // A fragment by itself.
    world.cilmark_ok(&format!("{attach} --policy enforce"));
    let whole = Vec::from(Frame::between("10.1.0.10", BLUE).datagram(1000, 53, &"x".repeat(99)));
    let [first, second] = fragments(&whole, 64, 7);
    wire.send(second.clone());
    let told = line(&monitor, ", 175)");
    assert!(hint(&told).contains("the fragment with its ports"), "{told}");
    world.cilmark_ok("policy add red allow egress to 301 udp/53");
    let before = drops(&world, 175);
    wire.send(first);
    wire.send(second);
    // A neighbour whose device has gone.
    world.sh("ip link del blue");
    wire.send(whole);
    let told = line(&monitor, ", 140)");
    assert_eq!(drops(&world, 175), before, "both have passed");
    assert!(hint(&told).contains("10.2.0.10 belongs to endpoint 2 (blue)"), "{told}");
    let before = drops(&world, 140);
    follow(&world, &told);
    wire.send(Frame::between("10.1.0.10", BLUE).udp(1000, 53));
    wire.send(Frame::between("10.1.0.12", "10.1.0.1").udp(3, 4));
    line(&monitor, "10.1.0.12:3");
    assert_eq!(drops(&world, 140), before, "the stack has it");
}

#[test]
fn a_number_that_another_rule_has_got_is_told_as_that_one() {
    let Some(world) = red_and_blue("") else { return };
    world.cilmark_ok("attach red --id 1234 --ip 10.1.0.10 --policy enforce");
    let monitor = world.start("monitor");
    for port in [80, 81] {
        let rule = format!("deny egress to 199472 tcp/{port}");
        world.cilmark_ok(&format!("policy add red {rule}"));
        cannot_connect(&world, "red", BLUE, port);
        let told = line(&monitor, &format!("10.2.0.10:{port}"));
        assert!(told.contains(&format!(", by {rule}; ")), "{told}");
        world.cilmark_ok(&format!("policy del red {rule}"));
    }
}

#[test]
fn an_address_that_is_claimed_without_proof_is_told_with_its_owner() {
    let Some(world) = red_and_blue("") else { return };
    world.workload("wire", 9);
    world.sh("sysctl -qw net.ipv4.conf.all.rp_filter=0 net.ipv4.conf.wire.rp_filter=0");
    world.cilmark_ok("identity set 1234 web");
    world.cilmark_ok("attach blue --id 199472 --ip 10.2.0.10 --policy enforce");
    world.cilmark_ok("policy add blue allow ingress from web");
    let stranger = Wire::open(&world, "wire", "eth0", mac(&world, HOST, "wire"));
    let forged = || Frame::between("10.1.0.10", BLUE).udp(1000, 53);
    let claim = "claims the address of endpoint 1 (red, identity 1234 (web)) without proof";
    let monitor = world.start("monitor");
    stranger.send(forged());
    let told = line(&monitor, "10.2.0.10:53");
    assert!(told.contains(claim) && told.contains("--by-address"), "{told}");
    assert!(!told.contains("policy add"), "nobody lets the world in: {told}");
    // Who is nobody's neighbour claims nothing.
    stranger.send(Frame::between("10.9.0.10", BLUE).udp(1000, 54));
    let told = line(&monitor, "10.2.0.10:54");
    assert!(!told.contains("claims") && told.contains("allow ingress from world udp/54"), "{told}");
    drop(monitor);
    let monitor = world.start("monitor --json");
    stranger.send(forged());
    let told: Value = serde_json::from_str(&line(&monitor, "10.1.0.10")).unwrap();
    let claimed = json!({"endpoint_id": 1, "device": "red", "identity": 1234});
    assert_eq!(told["claimed"], claimed, "{told}");
    // Explained the same way; and as the packets of the workload itself come.
    let explain = format!("explain blue to --src 10.1.0.10 --dst {BLUE} --dport 53 --proto udp");
    let run = world.cilmark(&format!("{explain} --ingress-ifindex 1"));
    assert_eq!(run.status, Some(3), "{run:?}");
    assert!(run.stdout.contains(claim), "{}", run.stdout);
    let own = world.cilmark_ok(&explain);
    assert!(!own.contains("claims") && own.contains("1234 (web) -> 199472"), "{own}");
    // By address nobody needs a proof.
    world.cilmark_ok("attach blue --id 199472 --ip 10.2.0.10 --policy enforce --by-address");
    let receiver = on(&world, "blue", 53);
    stranger.send(forged());
    receiver.recv(&mut [0; 9]).expect("it arrives");
}
