//! The model in Rust and the datapath in C know one and the same mark.

use std::fmt::Debug;

use cilmark::model::identity::Identity;
use cilmark::model::mark::{Magic, Mark};
use cilmark::program::load::Features;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use super::*;
use crate::common::Fixture;
use crate::common::packet::Frame;

fn for_each<S>(cases: u32, strategy: S, test: impl Fn(S::Value))
where
    S: Strategy,
    S::Value: Debug,
{
    let config = Config { cases, failure_persistence: None, ..Config::default() };
    let outcome = TestRunner::new(config).run(&strategy, |value| {
        test(value);
        Ok(())
    });
    outcome.unwrap_or_else(|error| panic!("{error}"));
}

/// Every magic with everything around it; `0xff00`, which only the model names, among them.
fn marks() -> impl Strategy<Value = u32> {
    prop_oneof![any::<u32>(), Just(0), Just(0xff00), Just(0xf000), 0u32..0x1_0000]
}

fn is_ours(mark: u32) -> bool {
    let ours = [
        Magic::ToProxy,
        Magic::ProxyIngress,
        Magic::ProxyEgress,
        Magic::Host,
        Magic::Decrypt,
        Magic::Encrypt,
        Magic::Identity,
        // What a program sees in 0xff00 is the magic IDENTITY.
        Magic::KeyMask,
    ];
    Mark(mark).magic().is_some_and(|magic| ours.contains(&magic))
}

#[test]
fn both_encode_an_identity_alike() {
    let Some(fixture) = Fixture::new() else { return };
    let nic =
        fixture.netdev(1).features(Features { stamp_remote: true, ..Features::default() }).load();
    for_each(512, prop_oneof![0u32..1 << 24, any::<u32>(), 0u32..300], |number| {
        fixture.ipcache("10.2.0.10", number);
        let run = nic.from_netdev(Frame::ipv4(PEER4, OWN4).udp(1, 2));
        // Nobody on a wire is this host.
        let number = if number == 1 { 2 } else { number };
        run.passes_with_mark(Mark::encode(Identity(number)).map_or(0, |mark| mark.0));
    });
}

#[test]
fn both_encode_the_identity_of_an_endpoint_alike() {
    let Some(fixture) = Fixture::new() else { return };
    for_each(32, (1u32..1 << 24, any::<u32>()), |(number, before)| {
        let stamp = Mark::encode(Identity(number)).expect("24 bits").0;
        let packet = Frame::ipv4(OWN4, PEER4).udp(1, 2).mark(before);
        let run = fixture.container(number).load().from_container(packet);
        run.passes_with_mark(stamp | before & Mark::NOT_OURS);
    });
}

#[test]
fn both_decode_a_mark_alike() {
    let Some(fixture) = Fixture::new() else { return };
    let features = Features { trust_proxy: true, trust_marks: true, ..Features::default() };
    let workload = fixture.container(ID).features(features).load();
    for_each(512, marks(), |mark| {
        let identity = Mark(mark).identity().unwrap_or(Identity::WORLD);
        // 0xff00 says IDENTITY, and that of nobody.
        let identity = if mark == 0xff00 { Identity::UNKNOWN } else { identity };
        let packet = Frame::ipv4(PEER4, OWN4).udp(1, 2).mark(mark).forwarded();
        workload.to_container(packet).passes().comes_from(identity.0);
    });
}

#[test]
fn both_know_whose_a_mark_is() {
    let Some(fixture) = Fixture::new() else { return };
    let workload = fixture.container(ID).load();
    let nic = fixture.netdev(ID).load();
    for_each(512, marks(), |mark| {
        let packet = Frame::ipv4(PEER4, OWN4).udp(1, 2).mark(mark);
        // What looks like ours and is not proven is all another software's.
        let (cleared, stamped) = match is_ours(mark) {
            true => (mark & Mark::NOT_OURS, ID_MARK),
            false => (mark, ID_MARK | mark & Mark::NOT_OURS),
        };
        workload.to_container(packet.clone()).passes_with_mark(cleared);
        nic.to_netdev(packet.clone()).passes_with_mark(stamped);
        let names_sender = matches!(mark & 0x0f00, 0x0a00 | 0x0b00 | 0x0c00 | 0x0f00);
        let cleared = if names_sender { cleared } else { mark };
        nic.from_netdev(packet).passes_with_mark(cleared);
    });
}
