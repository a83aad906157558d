//! The template, whose configuration nobody has written: harmless.

use cilmark::kernel::abi::{cm_config, cm_direction};
use cilmark::kernel::sys::Hook;

use super::*;
use crate::common::Fixture;
use crate::common::fixture::{Setup, every_feature};
use crate::common::packet::Frame;

fn template(setup: Setup<'_>) -> Setup<'_> {
    setup.tune(|config| *config = cm_config::default())
}

#[test]
fn it_drops_nothing_stamps_nothing_and_tells_nothing() {
    let Some(fixture) = Fixture::new() else { return };
    fixture.ipcache("0.0.0.0/0", 300);
    let container = template(fixture.container(ID)).load();
    let nic = template(fixture.netdev(ID)).load();
    for frame in [
        Frame::ipv4(OWN4, PEER4).tcp(1, 2),
        Frame::ipv6(OWN6, PEER6).tcp(1, 2),
        Frame::ipv6(LINK_LOCAL, PEER6).router_advertisement(),
        Frame::arp_request(PEER4, OWN4),
        Frame::other(0x88cc, [0; 46]),
        Frame::other(0x88cc, []),
        Frame::ipv4(OWN4, PEER4).vlan(1).tcp(1, 2).truncate(20),
        Frame::ipv6(OWN6, PEER6).destination_options(100).tcp(1, 2),
    ] {
        for mark in OUR_MARKS.into_iter().chain(FOREIGN_MARKS).chain([0]) {
            let packet = frame.clone().mark(mark);
            for run in [
                container.from_container(packet.clone()),
                container.to_container(packet.clone()),
                nic.from_netdev(packet.clone()),
                nic.to_netdev(packet.clone()),
                nic.from_netdev(packet.clone().forwarded()),
                nic.to_netdev(packet.clone().forwarded()),
            ] {
                run.passes_unchanged().has_mark(mark);
                assert!(run.event.is_none(), "{run:?}");
            }
        }
    }
    for direction in [cm_direction::CM_INGRESS, cm_direction::CM_EGRESS] {
        for reason in 0..256 {
            assert_eq!(fixture.metric(direction, reason), (0, 0), "{direction:?} {reason}");
        }
    }
}

#[test]
fn every_feature_of_it_is_harmless_without_an_endpoint_id() {
    let Some(fixture) = Fixture::new() else { return };
    let features = every_feature("::/0");
    let container = fixture.container(ID).address(OWN4).features(features.clone());
    let container = container.tune(|config| config.endpoint_id = 0).load();
    let nic = fixture.netdev(ID).features(features).tune(|config| config.endpoint_id = 0).load();
    for frame in [Frame::arp_request(OWN4, PEER4), Frame::ipv6(PEER6, OWN6).tcp(1, 2)] {
        container.from_container(frame.clone()).passes_unchanged().has_mark(0);
        container.to_container(frame.clone().mark(ID_MARK)).passes_with_mark(ID_MARK);
        nic.from_netdev(frame.clone().mark(ID_MARK)).passes_with_mark(ID_MARK);
        nic.to_netdev(frame).passes_with_mark(0);
    }
}

#[test]
fn nothing_is_left_of_it() {
    let Some(fixture) = Fixture::new() else { return };
    let container = template(fixture.container(ID)).load();
    let nic = template(fixture.netdev(ID)).load();
    for endpoint in [&container, &nic] {
        for hook in [Hook::Ingress, Hook::Egress] {
            let instructions = endpoint.instructions(hook);
            assert!(instructions <= 10, "{hook:?}: {instructions} instructions");
        }
    }
}
