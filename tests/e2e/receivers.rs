//! What the receiving side sees.

use cilmark::kernel::sys::Hook;

use super::{RED, red_and_blue};
use crate::common::stranger::Stranger;
use crate::common::talk::{arrives, tcp, udp};

#[test]
fn a_workload_gets_no_mark_of_ours() {
    let Some(world) = red_and_blue("") else { return };
    let behind = Stranger::behind("blue", Hook::Egress);
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
    let stranger = world.inside("blue", || Stranger::behind("eth0", Hook::Ingress));
    let (red, blue) = (udp(&world, "red", "[::]:0"), udp(&world, "blue", "[::]:0"));
    for _ in 0..5 {
        arrives(&red, &blue, "fd00:2::10");
    }
    assert!(stranger.packets(RED) >= 5, "{:x?}", stranger.marks());
    tcp(&world, "red", "blue", "fd00:2::10");
    // Outside the trusted prefix the label says nothing.
    world.cilmark_ok(&format!("{receiver} --trust-flow-label fd00:7::/64"));
    let before = stranger.packets(RED);
    arrives(&red, &blue, "fd00:2::10");
    assert_eq!(stranger.packets(RED), before, "{:x?}", stranger.marks());
}
