//! Protocols without ports: a rule for ports opens none of them, whatever they carry.

use super::{HOST, OPEN, Receiver, WIRE, allow, honest, host, inside, two_workloads};
use crate::common::packet::Frame;
use crate::common::traffic::ping;
use crate::common::wire::has;

/// GRE, ESP and AH.
const PROTOCOLS: [u8; 3] = [47, 50, 51];

const RED_TO_BLUE: [[&str; 2]; 2] = [["10.1.0.10", "10.2.0.10"], ["fd00:1::10", "fd00:2::10"]];

/// A packet that carries a datagram to the open port: behind AH's header, or where that of the others is.
fn tunnelled([source, destination]: [&str; 2], protocol: u8, text: &str) -> Frame {
    let frame = Frame::between(source, destination);
    let datagram = |frame: Frame| frame.datagram(4000, OPEN, text);
    if protocol == 51 {
        return datagram(frame.authentication(12));
    }
    // Its ports stand where a parser that has lost its way would read them.
    let ports = [4000_u16.to_be_bytes(), OPEN.to_be_bytes()].concat();
    frame.protocol(protocol, [&ports, [0, 17, 0, 0].as_slice(), text.as_bytes()].concat())
}

#[test]
fn a_tunnel_passes_by_its_own_rule_in_both_families() {
    let Some(world) = two_workloads() else { return };
    let (red, blue) = (inside(&world, "red"), inside(&world, "blue"));
    for [_, to] in RED_TO_BLUE {
        ping(&world, "red", to);
    }
    let options = "--id 199472 --ip 10.2.0.10 fd00:2::10 --policy enforce";
    world.cilmark_ok(&format!("attach blue {options}"));
    allow(&world, "blue", "ingress from any");
    let came = |ends: [&str; 2]| {
        for protocol in PROTOCOLS {
            red.send(tunnelled(ends, protocol, &format!("<{protocol}>")));
        }
        red.send(honest(ends));
        let frames = blue.before("honest");
        let is_there = |protocol: &u8| frames.iter().any(|it| has(it, &format!("<{protocol}>")));
        PROTOCOLS.into_iter().filter(is_there).collect::<Vec<_>>()
    };
    for ends in RED_TO_BLUE {
        assert_eq!(came(ends), [0; 0], "{ends:?}");
        blue.send(tunnelled([ends[1], ends[0]], 51, "<unasked>"));
    }
    for protocol in PROTOCOLS {
        world.cilmark_ok(&format!("policy add blue allow ingress from any proto/{protocol} --yes"));
    }
    for ends in RED_TO_BLUE {
        assert_eq!(came(ends), PROTOCOLS, "{ends:?}");
        // The answers need no rule, and nothing of this has come before.
        for protocol in PROTOCOLS {
            blue.send(tunnelled([ends[1], ends[0]], protocol, &format!("<answer {protocol}>")));
            let before = red.before(&format!("<answer {protocol}>"));
            assert!(!before.iter().any(|frame| has(frame, "<unasked>")));
        }
    }
}

/// What the verdict relies on where a rule allows AH, or nobody has a policy.
#[test]
fn linux_gives_no_socket_what_is_behind_an_authentication_header() {
    let Some((world, wire)) = host() else { return };
    let receiver = Receiver::new(&world, HOST);
    for ends in WIRE {
        wire.send(tunnelled(ends, 51, "<hidden>"));
        wire.send(honest(ends));
        assert_eq!(receiver.heard(), [""; 0], "{ends:?}");
    }
}
