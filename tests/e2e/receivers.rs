//! What the receiving side sees.

use cilmark::kernel::sys::Hook;

use super::{RED, red_and_blue};
use crate::common::third_party::ThirdParty;
use crate::common::traffic::{arrives, tcp, udp};

#[test]
fn a_workload_gets_no_mark_of_ours() {
    let Some(world) = red_and_blue("") else { return };
    let behind = ThirdParty::behind("blue", Hook::Egress);
    let (red, blue) = (udp(&world, "red", "[::]:0"), udp(&world, "blue", "[::]:0"));
    for _ in 0..5 {
        arrives(&red, &blue, "fd00:2::10");
    }
    assert!(behind.packets(0) >= 5, "{:x?}", behind.marks());
    assert_eq!(behind.packets(RED), 0);
}

#[test]
fn an_identity_crosses_the_wire_in_the_flow_label() {
    let Some(world) = red_and_blue("") else { return };
    world.cilmark_ok("attach red --id 1234 --ip 10.1.0.10 fd00:1::10 --flow-label");
    // A root of the receiver's own, as on a machine of its own: no ipcache knows the sender.
    let receiver = "attach eth0 --netns blue --bpffs /sys/fs/bpf/blue --stamp-remote";
    world.cilmark_ok(&format!("{receiver} --trust-flow-label fd00:1::/64"));
    let third_party = world.inside("blue", || ThirdParty::behind("eth0", Hook::Ingress));
    let (red, blue) = (udp(&world, "red", "[::]:0"), udp(&world, "blue", "[::]:0"));
    for _ in 0..5 {
        arrives(&red, &blue, "fd00:2::10");
    }
    assert!(third_party.packets(RED) >= 5, "{:x?}", third_party.marks());
    tcp(&world, "red", "blue", "fd00:2::10");
    // Outside the trusted prefix the label says nothing.
    world.cilmark_ok(&format!("{receiver} --trust-flow-label fd00:7::/64"));
    let before = third_party.packets(RED);
    arrives(&red, &blue, "fd00:2::10");
    assert_eq!(third_party.packets(RED), before, "{:x?}", third_party.marks());
}
