//! Fragments: what a receiver puts together is what was judged.

use super::trailers::id;
use super::{CLOSED, HOST, OPEN, Receiver, WIRE, enforce, honest, host};
use crate::common::packet::Frame;
use crate::common::wire::{fragments, with_options};

/// A datagram in two fragments; of IPv6 with so many headers of options behind the fragment header.
fn cut(ends: [&str; 2], port: u16, text: &str, options: usize, id: u16) -> [Vec<u8>; 2] {
    let whole = Frame::between(ends[0], ends[1]).datagram(4000, port, text).bytes();
    let whole = if options > 0 { with_options(&whole, options) } else { whole };
    fragments(&whole, options * 8 + 8, id)
}

#[test]
fn a_datagram_behind_options_arrives_whole_by_its_own_ports_rule() {
    let Some((world, wire)) = host() else { return };
    let receiver = Receiver::new(&world, HOST);
    enforce(&world, "--adopt 0");
    let ends = WIRE[1];
    for (headers, text) in [(0, "<none>"), (1, "<one>"), (3, "<three>")] {
        for port in [CLOSED, OPEN] {
            cut(ends, port, text, headers, id()).into_iter().for_each(|it| wire.send(it));
        }
        wire.send(honest(ends));
        assert_eq!(receiver.heard(), [text]);
    }
}

/// Two first fragments of one identification: for the open port, and for the closed one.
#[test]
fn a_second_first_fragment_takes_the_datagram_nowhere_else() {
    let Some((world, wire)) = host() else { return };
    let receiver = Receiver::new(&world, HOST);
    let cases =
        [(WIRE[0], 0, 0), (WIRE[1], 0, 0), (WIRE[1], 1, 1), (WIRE[1], 0, 2), (WIRE[1], 2, 0)];
    // The receiver gets none of the parts twice, so that it puts together what it has.
    let send = || {
        for (ends, open_options, closed_options) in cases {
            let number = id();
            let [closed, _] = cut(ends, CLOSED, "<closed>", closed_options, number);
            let [open, later] = cut(ends, OPEN, "<open>", open_options, number);
            [closed.clone(), open, closed, later].into_iter().for_each(|it| wire.send(it));
            wire.send(honest(ends));
        }
    };
    enforce(&world, "--adopt 0");
    send();
    for case in cases {
        assert_eq!(receiver.heard(), ["<open>"], "{case:?}");
    }
}

#[test]
fn a_fragment_of_what_was_dropped_tells_why_and_from_whom() {
    let Some((world, wire)) = host() else { return };
    let _receiver = Receiver::new(&world, HOST);
    enforce(&world, "--adopt 0");
    world.cilmark_ok("ipcache set 10.9.0.10 300");
    world.cilmark_ok("ipcache set fd00:9::10 300");
    world.cilmark_ok("policy add wire deny ingress from 300 udp/9000 --yes");
    let monitor = world.start("monitor --json");
    for (ends, options) in [(WIRE[0], 0), (WIRE[1], 0), (WIRE[1], 1)] {
        for (port, reason) in [(CLOSED, 181), (CLOSED + 1, 133)] {
            let [first, later] = cut(ends, port, "<text>", options, id());
            wire.send(first);
            wire.send(later);
            for _ in 0..2 {
                let event = monitor.stdout_line(|line| line.contains("\"drop\""));
                let event: serde_json::Value = serde_json::from_str(&event).expect("an event");
                assert_eq!(event["reason"]["code"], reason, "{event}");
                assert_eq!(event["source_identity"], 300, "{event}");
            }
        }
    }
}

#[test]
fn what_comes_before_its_first_fragment_drops_and_is_counted() {
    let Some((world, wire)) = host() else { return };
    let receiver = Receiver::new(&world, HOST);
    enforce(&world, "--adopt 0");
    let monitor = world.start("monitor");
    for ends in WIRE {
        let [first, later] = cut(ends, OPEN, "<last first>", 0, id());
        wire.send(later);
        wire.send(first);
        wire.send(honest(ends));
        assert_eq!(receiver.heard(), [""; 0]);
        let line = monitor.stdout_line(|line| line.contains("fragment not found, 175"));
        assert!(line.contains("comes later"), "{line}");
        assert!(!line.contains("policy add"), "{line}");
    }
    let metrics = world.cilmark_json("metrics");
    let lines = metrics.as_array().expect("a list").iter();
    let counted: Vec<_> = lines.filter(|line| line["reason"] == 175).collect();
    assert_eq!(counted.len(), 1, "{metrics}");
    assert_eq!(counted[0]["packets"], 2);
    assert_eq!(counted[0]["name"], "First logical datagram fragment not found");
}
