//! Who sends what a workload receives: the mark, the device it came by, the ipcache.

use cilmark::model::endpoint::Role;
use cilmark::program::load::Features;

use super::*;
use crate::common::Fixture;
use crate::common::packet::Frame;
use crate::common::program::{Endpoint, Packet};

/// Those that say less than the ipcache may know.
const RESERVED: [u32; 6] = [0, 2, 6, 7, 9, 10];

fn mark_of(identity: u32, magic: u32) -> u32 {
    (identity & 0xffff) << 16 | magic | identity >> 16
}

fn forwarded(source: IpAddr, destination: IpAddr, mark: u32) -> Packet {
    Frame::ip(source, destination).tcp(1000, 80).mark(mark).forwarded()
}

fn trusting_proxies(fixture: &Fixture) -> Endpoint<'_> {
    fixture.container(ID).features(Features { trust_proxy: true, ..Features::default() }).load()
}

fn trusting_marks(fixture: &Fixture) -> Endpoint<'_> {
    fixture.container(ID).features(Features { trust_marks: true, ..Features::default() }).load()
}

#[test]
fn marks_of_ours_are_cleared_and_others_kept() {
    let Some(fixture) = Fixture::new() else { return };
    let workload = fixture.container(ID).load();
    for (peer, own) in PEER_TO_OWN {
        for (marks, kept) in [(OUR_MARKS.as_slice(), NOT_OURS), (&FOREIGN_MARKS, u32::MAX)] {
            for mark in marks.iter().flat_map(|mark| [*mark, mark | NOT_OURS]) {
                let local = Frame::ip(peer, own).tcp(1000, 80).mark(mark);
                workload.to_container(local).passes_unchanged().has_mark(mark & kept);
                let run = workload.to_container(forwarded(peer, own, mark));
                run.passes_unchanged().has_mark(mark & kept);
                assert_eq!((run.event().mark_in, run.event().mark_out), (mark, mark & kept));
            }
        }
    }
}

#[test]
fn marks_of_ours_are_cleared_whatever_the_packet_is() {
    let Some(fixture) = Fixture::new() else { return };
    let workload = fixture.container(ID).load();
    for frame in [
        Frame::arp_request(PEER4, OWN4),
        Frame::other(0x88cc, [0; 46]),
        Frame::ipv4(PEER4, OWN4).vlan(7).tcp(1, 2).truncate(20),
        Frame::ipv6(PEER6, OWN6).tcp(1, 2).truncate(14 + 40 + 3),
    ] {
        for mark in OUR_MARKS {
            let run = workload.to_container(frame.clone().mark(mark));
            run.passes_unchanged().has_mark(mark & NOT_OURS);
        }
    }
}

#[test]
fn what_this_host_sends_comes_from_the_host_whatever_its_mark_says() {
    let Some(fixture) = Fixture::new() else { return };
    fixture.ipcache("10.2.0.10", 300);
    fixture.ipcache("fd00:2::10", 300);
    let workload = trusting_proxies(&fixture);
    for (peer, own) in PEER_TO_OWN {
        for mark in OUR_MARKS.into_iter().chain(FOREIGN_MARKS) {
            let run = workload.to_container(Frame::ip(peer, own).tcp(1, 2).mark(mark));
            run.passes().comes_from(1).goes_to(ID);
        }
    }
}

#[test]
fn a_forwarded_packet_comes_from_the_identity_in_its_mark() {
    let Some(fixture) = Fixture::new() else { return };
    fixture.ipcache("0.0.0.0/0", 300);
    fixture.ipcache("::/0", 300);
    let workload = trusting_marks(&fixture);
    for (peer, own) in PEER_TO_OWN {
        for identity in [3, 4, 5, 8, 11, 128, 255, 1234, WIDE_ID, 0xff_ffff] {
            for kept in [0, NOT_OURS] {
                let packet = forwarded(peer, own, mark_of(identity, 0x0f00) | kept);
                workload.to_container(packet).passes().comes_from(identity).goes_to(ID);
            }
        }
    }
}

#[test]
fn a_mark_of_the_host_is_the_hosts() {
    let Some(fixture) = Fixture::new() else { return };
    fixture.ipcache("0.0.0.0/0", 300);
    fixture.ipcache("::/0", 300);
    let workload = trusting_marks(&fixture);
    for (peer, own) in PEER_TO_OWN {
        for mark in [0x0c00, 0x0b30_0c03, 0xfc00, mark_of(1, 0x0f00)] {
            workload.to_container(forwarded(peer, own, mark)).passes().comes_from(1);
        }
    }
}

#[test]
fn a_proxys_mark_counts_only_where_proxies_are_trusted() {
    let Some(fixture) = Fixture::new() else { return };
    let workload = fixture.container(ID).load();
    for (peer, own) in PEER_TO_OWN {
        for magic in [0x0a00, 0x0b00] {
            let packet = || forwarded(peer, own, mark_of(WIDE_ID, magic));
            workload.to_container(packet()).passes_with_mark(0).comes_from(2);
            let run = trusting_proxies(&fixture).to_container(packet());
            run.passes_with_mark(0).comes_from(WIDE_ID);
        }
    }
}

#[test]
fn other_marks_of_ours_and_of_others_name_nobody() {
    let Some(fixture) = Fixture::new() else { return };
    let workload = trusting_proxies(&fixture);
    for (peer, own) in PEER_TO_OWN {
        let others = [0x0200, 0x0d00, 0x0e00].map(|magic| mark_of(WIDE_ID, magic));
        for mark in others.into_iter().chain(FOREIGN_MARKS).chain([0]) {
            workload.to_container(forwarded(peer, own, mark)).passes().comes_from(2);
        }
    }
    fixture.ipcache("10.2.0.10", 300);
    fixture.ipcache("fd00:2::10", 300);
    for (peer, own) in PEER_TO_OWN {
        for mark in FOREIGN_MARKS {
            workload.to_container(forwarded(peer, own, mark)).passes().comes_from(300);
        }
    }
}

#[test]
fn the_ipcache_replaces_what_is_reserved() {
    let Some(fixture) = Fixture::new() else { return };
    let features = Features { trust_proxy: true, trust_marks: true, ..Features::default() };
    let workload = fixture.container(ID).features(features).load();
    let each = |expected: &dyn Fn(u32) -> u32| {
        for (peer, own) in PEER_TO_OWN {
            for identity in RESERVED {
                for magic in [0x0f00, 0x0a00, 0x0b00] {
                    let run = workload.to_container(forwarded(peer, own, mark_of(identity, magic)));
                    // A proxy sends in the name of somebody, or the mark is another software's.
                    let identity = if identity == 0 && magic != 0x0f00 { 2 } else { identity };
                    run.passes().comes_from(expected(identity));
                }
            }
        }
    };
    each(&|identity| identity);
    fixture.ipcache("10.2.0.0/16", 300);
    fixture.ipcache("fd00:2::/32", 300);
    each(&|_| 300);
    fixture.ipcache("10.2.0.10", 6);
    fixture.ipcache("fd00:2::10", 6);
    each(&|_| 6);
}

#[test]
fn the_ipcache_replaces_nothing_by_the_host() {
    let Some(fixture) = Fixture::new() else { return };
    let workload = trusting_marks(&fixture);
    let keeps_its_identity = || {
        for (peer, own) in PEER_TO_OWN {
            for identity in RESERVED {
                let run = workload.to_container(forwarded(peer, own, mark_of(identity, 0x0f00)));
                run.passes().comes_from(identity);
            }
        }
    };
    fixture.ipcache("10.2.0.10", 1);
    fixture.ipcache("fd00:2::10", 1);
    keeps_its_identity();
    // A NIC's own identity is the host as well.
    fixture.host_address(PEER4.into(), 5678);
    fixture.host_address(PEER6.into(), 5678);
    keeps_its_identity();
}

#[test]
fn the_ipcache_does_not_replace_what_a_mark_says_of_a_workload() {
    let Some(fixture) = Fixture::new() else { return };
    fixture.ipcache("10.2.0.10", 300);
    fixture.register(PEER4.into(), Role::Container, true);
    let workload = fixture.container(ID).load();
    // It came in by the device of its sender: nobody else can have marked it.
    let packet = forwarded(PEER4.into(), OWN4.into(), ID_MARK);
    workload.to_container(packet).passes().comes_from(ID);
}

#[test]
fn a_mark_that_nobody_of_us_has_set_names_nobody() {
    let Some(fixture) = Fixture::new() else { return };
    let workload = fixture.container(ID).load();
    for (peer, own) in PEER_TO_OWN {
        for mark in [WIDE_MARK, mark_of(1, 0x0f00), 0x0c00] {
            workload.to_container(forwarded(peer, own, mark)).passes_with_mark(0).comes_from(2);
        }
        // Not even in the name of a workload, if it comes in by another device than that one's.
        fixture.register(peer, Role::Container, true);
        let packet = || Frame::ip(peer, own).tcp(1000, 80).mark(WIDE_MARK);
        workload.to_container(packet().came_in_by(1)).passes().comes_from(WIDE_ID);
        workload.to_container(packet().came_in_by(2)).passes().comes_from(2);
        fixture.register(peer, Role::Container, false);
        workload.to_container(packet().came_in_by(1)).passes().comes_from(2);
    }
}

#[test]
fn the_address_of_an_attached_workload_alone_is_no_proof() {
    let Some(fixture) = Fixture::new() else { return };
    let workload = fixture.container(ID).load();
    let nic = fixture.netdev(1).feature(|on| on.stamp_remote = true).load();
    let neighbour = fixture.container(300).id(8).address(PEER4).address(PEER6).load();
    fixture.enter(&neighbour);
    let trusting = fixture.container(ID).feature(|on| on.by_address = true).load();
    for (peer, own) in PEER_TO_OWN {
        let received = || Frame::ip(peer, own).tcp(1, 2).mark(0).came_in_by(2);
        workload.to_container(received()).passes().comes_from(2);
        nic.from_netdev(received()).passes_with_mark(mark_of(2, 0x0f00)).comes_from(2);
        trusting.to_container(received()).passes().comes_from(300);
        // An operator's line counts by address, and so does that of a workload elsewhere.
        fixture.change_endpoint(peer, |endpoint| endpoint.netns += 1);
        workload.to_container(received()).passes().comes_from(300);
    }
}
