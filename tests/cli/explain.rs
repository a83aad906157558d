//! `explain`: a packet's way through the programs of an attached device, word by word.

use cilmark::model::endpoint::EndpointId;
use cilmark::model::identity::Names;
use cilmark::model::policy::Policy;
use cilmark::model::rule::Rule;
use cilmark::state::policy::PolicyMaps;
use cilmark::state::registry::Endpoint;
use serde_json::json;

use super::help::assert_snapshot;
use crate::common::World;
use crate::common::process::{Run, cilmark};
use crate::common::traffic::{Connection, HOST, arrives, listen, udp};

/// A workload and a NIC, in a namespace where devices have the same numbers each time.
fn attached(world: &World) {
    world.veth("web");
    world.veth("eth0");
    world.sh("ip addr add 192.0.2.1/24 dev eth0");
    world.cilmark_ok(
        "attach web --id 1234 --ip 10.1.0.10 fd00:1::10 --arp-responder --workload-mac any",
    );
    world.cilmark_ok("attach eth0 --role netdev");
    world.cilmark_ok("identity set 1234 web");
    world.cilmark_ok("ipcache set 10.2.0.0/16 300");
}

const TCP: &str = "--src 10.1.0.10 --dst 10.2.0.10 --dport 80";

#[test]
fn the_call_tree_shows_what_was_seen() {
    let Some(world) = World::new() else { return };
    attached(&world);
    let arp = "ffffffffffff 020000000001 0806 0001080006040001 020000000001 0a01000a \
               000000000000 0a010001";
    let questions = [
        format!("web from {TCP}"),
        format!("web from {TCP} --mode enforce"),
        format!("web from {TCP} --mode audit"),
        "web from --src 10.9.0.10 --dst 10.2.0.10 --proto udp --dport 53".to_owned(),
        "web to --src 10.2.0.10 --dst 10.1.0.10 --dport 80 --mark 0x01230c00".to_owned(),
        "web to --src fd00:2::1 --dst fd00:1::10 --mode enforce".to_owned(),
        format!("web from --packet {}", arp.replace(' ', ":")),
        "eth0 from --src 10.2.0.10 --dst 192.0.2.1 --dport 23 --mode enforce".to_owned(),
        "eth0 from --src 10.2.0.10 --dst 192.0.2.1 --icmp-type 3 --mode enforce".to_owned(),
        "eth0 to --src 192.0.2.1 --dst 10.2.0.10 --dport 80 --mark 0x0b300f03 --ingress-ifindex 4 \
         --mode enforce"
            .to_owned(),
    ];
    let mut text = String::new();
    for question in questions {
        let run = world.cilmark(&format!("explain {question}"));
        assert_eq!(run.stderr, "", "{question}");
        text.push_str(&format!("$ cilmark explain {question}\n{}", run.stdout));
        text.push_str(&format!("exit status {}\n\n", run.status.expect("a status")));
    }
    assert_snapshot(text, "explain-trees.txt");
}

#[test]
fn the_json_has_exactly_these_fields() {
    let Some(world) = World::new() else { return };
    attached(&world);
    let run = world.cilmark(&format!("explain web from {TCP} --mode enforce --json"));
    assert_eq!((run.status, run.stderr.as_str()), (Some(3), ""));
    let mut printed: serde_json::Value = serde_json::from_str(&run.stdout).expect("JSON");
    let steps = printed["steps"].take();
    assert_eq!(
        steps[3],
        json!({"depth": 1, "call": "policy_verdict", "detail": "ingress enforce, egress enforce"})
    );
    assert_eq!(
        printed,
        json!({
            "program": "from_container", "verdict": "drop",
            "drop_reason": {"code": 133, "name": "Policy denied"},
            "mark_in": "0x00000000", "mark_out": "0x00000000",
            "source_identity": 1234, "destination_identity": 300,
            "conntrack": "new", "rule": null, "audited": false, "steps": null,
        })
    );
}

#[test]
fn a_packet_that_can_not_be_built_is_refused() {
    let Some(world) = World::new() else { return };
    attached(&world);
    for (question, status, words) in [
        ("web from --src 10.1.0.10 --dst fd00::1 --dport 80", 1, "families"),
        ("web from --src 10.1.0.10 --dst 10.2.0.10 --proto udp", 1, "--dport"),
        ("web from --src 10.1.0.10 --dst 10.2.0.10 --proto icmp --dport 80", 1, "--dport is for"),
        ("web from --src 10.1.0.10 --dst 10.2.0.10 --proto 47 --sport 80", 1, "is proto/47"),
        ("web from --src 10.1.0.10 --dst 10.2.0.10 --tcp-flags ack", 1, "--tcp-flags is for tcp"),
        ("web from --src 10.1.0.10 --dst 10.2.0.10 --proto icmp6", 1, "family"),
        (
            "web from --src 10.1.0.10 --dst 10.2.0.10 --proto udp --dport 53 --icmp-type 3",
            1,
            "--icmp-type is for",
        ),
        ("web from --packet 4500", 1, "14 bytes"),
        ("web from --packet 450", 2, "half a byte"),
        ("web from --packet 45 --src 10.1.0.10 --dst 10.2.0.10", 2, "cannot be used with"),
        ("web from --src 10.1.0.10", 2, "--dst"),
        ("web from", 2, "--src"),
        ("web from --src 10.1.0.10 --dst 10.2.0.10 --dport 1 --tcp-flags syn,x", 2, "`x`"),
        ("lan from --src 10.1.0.10 --dst 10.2.0.10 --dport 1", 1, "not attached"),
    ] {
        world.cilmark(&format!("explain {question}")).fails(status, &[words]);
    }
}

#[test]
fn an_entry_of_another_sender_is_told() {
    let Some(world) = World::new() else { return };
    world.workload("red", 1);
    world.workload("blue", 2);
    world.cilmark_ok("attach red --id 300 --ip 10.1.0.10");
    world.cilmark_ok("attach blue --id 301 --ip 10.2.0.10 --policy enforce");
    world.cilmark_ok("policy add blue allow ingress from 300");
    let (red, blue) = (udp(&world, "red", "0.0.0.0:4000"), udp(&world, "blue", "0.0.0.0:53"));
    arrives(&red, &blue, "10.2.0.10");
    let explain = |more: &str| {
        let packet = "--src 10.1.0.10 --dst 10.2.0.10 --proto udp --sport 4000 --dport 53";
        world.cilmark(&format!("explain blue to {packet} {more}"))
    };
    let own = explain("");
    assert_eq!(own.status, Some(0), "{own:?}");
    assert!(own.stdout.contains("an entry: allowed"), "{own:?}");
    assert!(!own.stdout.contains("another sender"), "{own:?}");
    let other = explain("--mark 0x012d0f00");
    assert_eq!(other.status, Some(3), "{other:?}");
    assert!(other.stdout.contains("decided about another sender"), "{other:?}");
}

/// As the stack would: `red` enforces what it receives, and the host connects to it.
#[test]
fn a_packet_comes_the_way_that_its_source_address_has() {
    let Some(world) = World::new() else { return };
    world.workload("red", 1);
    world.workload("blue", 2);
    world.cilmark_ok("attach red --id 300 --ip 10.1.0.10 fd00:1::10 --ingress-policy enforce");
    world.cilmark_ok("attach blue --id 301 --ip 10.2.0.10 fd00:2::10");
    world.cilmark_ok("policy add red allow ingress from host tcp/80 allow ingress from 301 tcp/80");
    let server = listen(&world, "red", 80);
    for (red, gateway, other, blue) in [
        ("10.1.0.10", "10.1.0.1", "10.2.0.1", "10.2.0.10"),
        ("fd00:1::10", "fd00:1::1", "fd00:2::1", "fd00:2::10"),
    ] {
        Connection::open(&world, HOST, &server, red).works();
        Connection::open(&world, "blue", &server, red).works();
        let explain = |source: &str, more: &str| {
            let to = format!("--src {source} --dst {red} --dport 80");
            let run = world.cilmark(&format!("explain red to {to} {more}"));
            (run.status.expect("a status"), run.stdout)
        };
        for (source, from, because) in [
            (gateway, "1 (host) -> 300", "is an address of this host"),
            (other, "1 (host) -> 300", "is an address of this host"),
            (blue, "301 -> 300", "is an address of endpoint 2"),
        ] {
            let (status, told) = explain(source, "");
            assert_eq!(status, 0, "{told}");
            assert!(told.contains(from) && told.contains(because), "{told}");
        }
        // What somebody says is not assumed, and the mark goes with the way.
        for source in [gateway, blue] {
            let (status, told) = explain(source, "--ingress-ifindex 1");
            assert_eq!(status, 3, "{told}");
            assert!(told.contains("2 (world) -> 300") && !told.contains("assumed"), "{told}");
        }
        assert_eq!(explain(blue, "--mark 0").0, 3, "without the mark");
        let stranger = if red.contains(':') { "2001:db8::1" } else { "192.0.2.1" };
        assert!(explain(stranger, "").1.contains("is not an address of this host"));
    }
}

#[test]
fn a_frame_without_addresses_is_told_as_one() {
    let Some(world) = World::new() else { return };
    attached(&world);
    let told = world.cilmark_ok("explain eth0 from --packet 0a0b0c0d0e0f02c11a0000020806");
    assert!(told.contains("no address: nothing claimed"), "{told}");
}

#[test]
fn a_stale_endpoint_has_nothing_to_explain_and_the_cure_is_told() {
    let Some(world) = World::new() else { return };
    attached(&world);
    world.sh("ip link del web");
    world
        .cilmark(&format!("explain web from {TCP}"))
        .fails(1, &["endpoint 1 (web) is stale", "cilmark detach id:1"]);
}

#[test]
fn the_device_may_be_in_another_namespace() {
    let Some(world) = World::new() else { return };
    world.sh("ip netns add far && ip -n far link set lo up");
    world.sh("ip -n far link add web type veth peer name web-peer");
    world.cilmark_ok("attach web --id 1234 --netns far");
    world.sh("ip netns add other");
    for netns in ["", "--netns far"] {
        let arguments = format!("explain web from {TCP} {netns}");
        let arguments: Vec<&str> = arguments.split_whitespace().collect();
        let run: Run = cilmark(&arguments).output().expect("run cilmark").into();
        assert_eq!(run.status, Some(0), "{}", run.stderr);
        assert!(run.stdout.contains("-> 0x04d20f00"), "{}", run.stdout);
    }
}

#[test]
fn the_rule_that_decides_is_named() {
    let Some(world) = World::new() else { return };
    world.workload("web", 1);
    world.cilmark_ok("attach web --id 1234 --ip 10.1.0.10");
    world.cilmark_ok("ipcache set 10.2.0.0/16 300");
    let root = world.root();
    let endpoint = Endpoint::read(&root, EndpointId::new(1).unwrap()).expect("the endpoint");
    let maps = PolicyMaps::of(&root, endpoint.id, endpoint.map_ids()).expect("the policy maps");
    let rules = ["allow egress to 300 tcp/80", "deny egress to any tcp/81"]
        .map(|text| Rule::parse(text, &Names::default()).expect("a rule"));
    maps.swap(&Policy::default().replaced_by(&rules, &Policy::default())).expect("swap");
    for (port, verdict, rule) in
        [(80, "forward", "allow egress to 300 tcp/80"), (81, "drop", "deny egress to any tcp/81")]
    {
        let packet = format!("--src 10.1.0.10 --dst 10.2.0.10 --dport {port}");
        let run = world.cilmark(&format!("explain web from {packet} --mode enforce --json"));
        let printed: serde_json::Value = serde_json::from_str(&run.stdout).expect("JSON");
        assert_eq!((&printed["verdict"], &printed["rule"]), (&json!(verdict), &json!(rule)));
        let run = world.cilmark(&format!("explain web from {packet} --mode enforce"));
        assert!(run.stdout.contains(&format!(", rule: {rule}, 1234 -> 300")), "{}", run.stdout);
    }
}

#[test]
fn local_delivery_is_followed_into_a_copy_of_the_destination() {
    let Some(world) = World::new() else { return };
    for (name, number) in [("red", 1), ("blue", 2)] {
        world.workload(name, number);
        let address = format!("10.{number}.0.10");
        world
            .cilmark_ok(&format!("attach {name} --id 100{number} --ip {address} --local-delivery"));
    }
    // So that its MAC is known.
    world.sh("ip netns exec blue ping -qc1 10.2.0.1");
    let before = [world.status("red"), world.status("blue")].map(|line| line["drops"].clone());
    let question = "explain red from --src 10.1.0.10 --dst 10.2.0.10 --dport 80";
    let printed = world.cilmark_json(question);
    assert_eq!(printed["verdict"], "redirect", "{printed}");
    assert_eq!(
        (&printed["source_identity"], &printed["destination_identity"]),
        (&json!(1001), &json!(1002))
    );
    let text = world.cilmark_ok(question);
    assert!(text.contains("to_container       tail call into endpoint 2"), "{text}");
    let after = [world.status("red"), world.status("blue")].map(|line| line["drops"].clone());
    assert_eq!(before, after);
}

const DELIVERED_RULE: &str = "allow ingress from 1001 tcp/80";

/// Red, of which nothing is enforced, and blue, which enforces one rule, and whose MAC is known.
fn attach_delivering(world: &World) {
    for (name, number, mode) in [("red", 1, "off"), ("blue", 2, "enforce")] {
        world.cilmark_ok(&format!(
            "attach {name} --id 100{number} --ip 10.{number}.0.10 --local-delivery \
             --ingress-policy {mode}"
        ));
    }
    world.cilmark_ok(&format!("policy add blue {DELIVERED_RULE}"));
    world.sh("ip netns exec blue ping -qc1 10.2.0.1");
}

/// The same, with workloads at both ends.
fn delivering() -> Option<World> {
    let world = World::new()?;
    world.workload("red", 1);
    world.workload("blue", 2);
    attach_delivering(&world);
    Some(world)
}

fn to_port(port: u16) -> String {
    format!("explain red from --src 10.1.0.10 --dst 10.2.0.10 --dport {port}")
}

/// What is told of a packet to a port that is dropped.
fn dropped(world: &World, port: u16) -> String {
    let run = world.cilmark(&to_port(port));
    assert_eq!(run.status, Some(3), "{run:?}");
    run.stdout
}

#[test]
fn whom_it_is_delivered_to_tells_of_its_own_policy() {
    let Some(world) = delivering() else { return };
    let passed = world.cilmark_json(&to_port(80));
    assert_eq!((&passed["verdict"], &passed["rule"]), (&json!("redirect"), &json!(DELIVERED_RULE)));
    let text = world.cilmark_ok(&to_port(80));
    assert!(text.contains("ingress enforce, egress off"), "{text}");
    assert!(text.contains(&format!("passes, rule: {DELIVERED_RULE}")), "{text}");
    let text = dropped(&world, 81);
    assert!(text.contains("drop (Policy denied, 133), 1001 -> 1002"), "{text}");
    // In audit it is told at the end, too.
    world
        .cilmark_ok("attach blue --id 1002 --ip 10.2.0.10 --local-delivery --ingress-policy audit");
    let audited = world.cilmark_ok(&to_port(81));
    assert!(audited.contains("\nredirect (audited), 1001 -> 1002"), "{audited}");
    // And of the sender as well.
    let red = "attach red --id 1001 --ip 10.1.0.10 --local-delivery --egress-policy audit";
    world.cilmark_ok(red);
    let audited = world.cilmark_json(&to_port(80));
    assert_eq!((&audited["audited"], &audited["rule"]), (&json!(true), &json!(DELIVERED_RULE)));
    // What nobody can take is dropped, and that is the answer.
    world.cilmark_ok("policy add red allow egress to any");
    world.sh("ip link del blue");
    let text = dropped(&world, 80);
    assert!(text.contains("\ndrop (Missed tail call, 140), 1001 -> 1002"), "no rule did: {text}");
}

/// Its other program is not asked.
#[test]
fn half_a_destination_takes_what_is_delivered() {
    let Some(world) = delivering() else { return };
    world.cilmark_ok("attach blue --id 1002 --ip 10.2.0.10 --local-delivery --hook clsact");
    world.sh("tc filter del dev blue ingress");
    assert_eq!(world.status("blue")["stale"], true);
    assert_eq!(world.cilmark_json(&to_port(81))["verdict"], "redirect");
}

#[test]
fn a_tap_that_it_is_delivered_to_asks_its_policy_on_its_hook() {
    let Some(world) = World::new() else { return };
    world.workload("red", 1);
    let _machine = world.machine("blue", 2, "tap");
    attach_delivering(&world);
    let passed = world.cilmark_json(&to_port(80));
    assert_eq!((&passed["verdict"], &passed["rule"]), (&json!("forward"), &json!(DELIVERED_RULE)));
    let text = dropped(&world, 81);
    let calls =
        ["tail call into endpoint 2", "on the hook of endpoint 2", "dropped: Policy denied"];
    let told = calls.map(|call| text.find(call));
    assert!(told.is_sorted() && told[0].is_some(), "{text}");
    assert!(text.contains("drop (Policy denied, 133), 1001 -> 1002"), "{text}");
}
