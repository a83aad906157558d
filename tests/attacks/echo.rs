//! Echoes: who is pinged may not ping back, and an answer that nobody has asked for begins nothing.

use super::{HOST, RED, WIRE, World, host, inside};
use crate::common::packet::Frame;
use crate::common::traffic::ping;
use crate::common::wire::{Wire, has};

/// An echo request, or a reply, with this identifier and text.
fn echo([source, destination]: [&str; 2], is_request: bool, identifier: u16, text: &str) -> Frame {
    let is_ipv4 = source.contains('.');
    let (protocol, kind) = match (is_ipv4, is_request) {
        (true, true) => (1, 8),
        (true, false) => (1, 0),
        (false, true) => (58, 128),
        (false, false) => (58, 129),
    };
    let [high, low] = identifier.to_be_bytes();
    let header = [kind, 0, 0, 0, high, low, 0, 1];
    let body = [header.as_slice(), text.as_bytes()].concat();
    Frame::between(source, destination).protocol(protocol, body)
}

/// Those of the texts that have come up to the last one.
fn came(tap: &Wire, texts: &[&'static str]) -> Vec<&'static str> {
    let (last, others) = texts.split_last().expect("a text");
    let frames = tap.before(last);
    others.iter().filter(|text| frames.iter().any(|frame| has(frame, text))).copied().collect()
}

/// A workload that may ping anybody, and a stranger; both only see what comes, since their kernels
/// answer nothing.
fn pinging(rules: &[&str]) -> Option<(World, Wire, Wire)> {
    let (world, wire) = host()?;
    world.workload("red", 1);
    let red = inside(&world, "red");
    for [out, _] in WIRE {
        ping(&world, "red", out);
    }
    for name in ["red", "wire"] {
        world.sh(&format!(
            "ip netns exec {name} sysctl -qw net.ipv4.icmp_echo_ignore_all=1 \
                                             net.ipv6.icmp.echo_ignore_all=1"
        ));
    }
    world.cilmark_ok("attach red --id 1234 --ip 10.1.0.10 fd00:1::10 --policy enforce");
    for rule in rules {
        world.cilmark_ok(&format!("policy add red {rule}"));
    }
    Some((world, red, wire))
}

const OUT: [&str; 2] = ["allow egress to any icmp/8", "allow egress to any icmp6/128"];

/// Identifiers, that of nobody among them, which looks like that of a packet without any.
const IDENTIFIERS: [u16; 4] = [0, 1, 7, 0xffff];

#[test]
fn who_is_pinged_may_answer_and_not_ping_back() {
    let Some((_world, red, wire)) = pinging(&OUT) else { return };
    for (own, [out, _]) in RED.into_iter().zip(WIRE) {
        let (there, back) = ([own, out], [out, own]);
        for identifier in IDENTIFIERS {
            red.send(echo(there, true, identifier, "<asked>"));
            wire.before("<asked>");
            wire.send(echo(back, true, identifier, "<asked back>"));
            wire.send(echo(back, true, identifier ^ 0x5000, "<asked by another>"));
            wire.send(echo(back, false, identifier ^ 0x5000, "<answer to another>"));
            wire.send(echo(back, false, identifier, "<answer>"));
            let texts = ["<asked back>", "<asked by another>", "<answer to another>", "<answer>"];
            assert_eq!(came(&red, &texts), [""; 0], "{identifier} of {own}");
            // Nor may the workload answer what it has not been asked.
            red.send(echo(there, false, identifier, "<unasked>"));
            red.send(echo(there, true, identifier, "<asked again>"));
            assert_eq!(came(&wire, &["<unasked>", "<asked again>"]), [""; 0], "{identifier}");
        }
    }
}

#[test]
fn an_answer_that_nobody_has_asked_for_begins_no_flow() {
    // Answers may pass by themselves, and no request.
    let replies = ["allow egress to any icmp/0", "allow egress to any icmp6/129"];
    let Some((world, red, wire)) = pinging(&[replies[0], replies[1], OUT[0], OUT[1]]) else {
        return;
    };
    for (own, [out, _]) in RED.into_iter().zip(WIRE) {
        let (there, back) = ([own, out], [out, own]);
        for identifier in IDENTIFIERS {
            red.send(echo(there, false, identifier, "<unasked>"));
            wire.before("<unasked>");
            // The other way round it would be the flow's answer.
            wire.send(echo(back, true, identifier, "<asked>"));
            wire.send(echo(back, false, identifier, "<answer to nothing>"));
            red.send(echo(there, true, 99, "<honest>"));
            wire.before("<honest>");
            wire.send(echo(back, false, 99, "<answer>"));
            let texts = ["<asked>", "<answer to nothing>", "<answer>"];
            assert_eq!(came(&red, &texts), [""; 0], "{identifier} of {own}");
        }
    }
    let flows = world.cilmark_json("conntrack list");
    let echoes = flows.as_array().expect("a list").iter();
    assert_eq!(echoes.filter(|flow| flow["protocol"] != "udp").count(), 2, "{flows}");
}

#[test]
fn nor_does_a_strangers() {
    // Whoever pings the workload is answered, and may not send answers, which the workload's requests
    // would look like.
    let rules = [
        "allow ingress from any icmp/0",
        "allow ingress from any icmp6/129",
        "allow ingress from any icmp/8",
        "allow ingress from any icmp6/128",
    ];
    let Some((_world, red, wire)) = pinging(&rules) else { return };
    for (own, [out, _]) in RED.into_iter().zip(WIRE) {
        let (there, back) = ([own, out], [out, own]);
        for identifier in IDENTIFIERS {
            wire.send(echo(back, false, identifier, "<unasked>"));
            red.before("<unasked>");
            red.send(echo(there, true, identifier, "<asked>"));
            red.send(echo(there, false, identifier, "<answer to nothing>"));
            wire.send(echo(back, true, 99, "<honest>"));
            red.before("<honest>");
            red.send(echo(there, false, 99, "<answer>"));
            let texts = ["<asked>", "<answer to nothing>", "<answer>"];
            assert_eq!(came(&wire, &texts), [""; 0], "{identifier} of {own}");
        }
    }
}

#[test]
fn a_host_that_pings_is_not_pinged_back() {
    let Some((world, wire)) = host() else { return };
    let nic = Wire::open(&world, HOST, "wire", wire.mac);
    // The host's answers to a stranger whom it has pinged, and who pings back.
    let answered = |[out, here]: [&str; 2], identifier: u16| {
        nic.send(echo([here, out], true, identifier, "<asked>"));
        wire.before("<asked>");
        wire.send(echo([out, here], true, identifier, "<asked back>"));
        wire.send(echo([out, here], true, identifier ^ 0x5000, "<asked by another>"));
        nic.send(echo([here, out], true, 99, "<later>"));
        came(&wire, &["<asked back>", "<asked by another>", "<later>"])
    };
    for ends in WIRE {
        assert_eq!(answered(ends, 0), ["<asked back>", "<asked by another>"]);
    }
    let modes = "--policy enforce --failsafe none --adopt 0 --yes";
    world.cilmark_ok(&format!("attach wire --role netdev {modes}"));
    for rule in OUT {
        world.cilmark_ok(&format!("policy add wire {rule} --yes"));
    }
    for ends in WIRE {
        for identifier in IDENTIFIERS {
            assert_eq!(answered(ends, identifier), [""; 0], "{identifier} to {}", ends[1]);
        }
        // Its own are answered.
        ping(&world, HOST, ends[0]);
    }
}
