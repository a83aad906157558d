//! A NIC: what arrives is not believed, what the host sends is stamped.

use cilmark::model::endpoint::Role;
use cilmark::program::load::Features;

use super::*;
use crate::common::Fixture;
use crate::common::packet::Frame;
use crate::common::program::Endpoint;

/// Those that name a sender, which nobody on a wire may do.
const SENDER_MARKS: [u32; 5] = [0x0b30_0a03, 0x0b30_0b03, 0x0000_0c00, 0x0b30_0f03, ID_MARK];
const OTHER_MARKS: [u32; 3] = [0x1f90_0200, 0x0000_0d00, 0x0b30_0e03];

fn stamping_remotes(fixture: &Fixture) -> Endpoint<'_> {
    fixture.netdev(1).features(Features { stamp_remote: true, ..Features::default() }).load()
}

fn trusting_proxies(fixture: &Fixture) -> Endpoint<'_> {
    fixture.netdev(ID).features(Features { trust_proxy: true, ..Features::default() }).load()
}

#[test]
fn marks_that_name_a_sender_are_cleared_on_arrival() {
    let Some(fixture) = Fixture::new() else { return };
    let nic = fixture.netdev(1).load();
    for (peer, own) in PEER_TO_OWN {
        for mark in SENDER_MARKS.into_iter().flat_map(|mark| [mark, mark | NOT_OURS]) {
            let packet = Frame::ip(peer, own).tcp(1, 2).mark(mark);
            nic.from_netdev(packet.clone()).passes_unchanged().has_mark(mark & NOT_OURS);
            nic.from_netdev(packet.forwarded()).passes_unchanged().has_mark(mark & NOT_OURS);
        }
    }
    for frame in [
        Frame::arp_request(PEER4, OWN4),
        Frame::other(0x88cc, [0; 46]),
        Frame::ipv4(PEER4, OWN4).vlan(7).tcp(1, 2).truncate(20),
    ] {
        nic.from_netdev(frame.mark(ID_MARK)).passes_unchanged().has_mark(0);
    }
}

#[test]
fn other_marks_are_left_alone_on_arrival() {
    let Some(fixture) = Fixture::new() else { return };
    fixture.ipcache("0.0.0.0/0", 300);
    fixture.ipcache("::/0", 300);
    for nic in [fixture.netdev(1).load(), stamping_remotes(&fixture)] {
        for (peer, own) in PEER_TO_OWN {
            let foreign = FOREIGN_MARKS.into_iter().filter(|mark| mark & !NOT_OURS != 0);
            for mark in OTHER_MARKS.into_iter().chain(foreign) {
                let run = nic.from_netdev(Frame::ip(peer, own).tcp(1, 2).mark(mark));
                run.passes_unchanged().has_mark(mark).comes_from(300);
            }
        }
    }
}

#[test]
fn what_arrives_comes_from_whom_the_ipcache_says_whatever_its_mark() {
    let Some(fixture) = Fixture::new() else { return };
    fixture.ipcache("10.2.0.0/16", 300);
    fixture.ipcache("fd00:2::10", 300);
    fixture.ipcache("10.1.0.10", 1);
    fixture.ipcache("fd00:1::/32", 1);
    let nic = trusting_proxies(&fixture);
    for (peer, own) in PEER_TO_OWN {
        for mark in OUR_MARKS.into_iter().chain([0]) {
            let run = nic.from_netdev(Frame::ip(peer, own).tcp(1, 2).mark(mark).forwarded());
            run.passes().comes_from(300).goes_to(1);
        }
    }
}

#[test]
fn nobody_on_a_wire_is_this_host() {
    let Some(fixture) = Fixture::new() else { return };
    let nic = stamping_remotes(&fixture);
    let each = || {
        for (peer, own) in PEER_TO_OWN {
            let run = nic.from_netdev(Frame::ip(peer, own).tcp(1, 2).forwarded());
            run.passes_with_mark(0x0002_0f00);
        }
    };
    fixture.ipcache("10.2.0.10", 1);
    fixture.ipcache("fd00:2::10", 1);
    each();
    // A NIC's own identity is the host as well.
    fixture.host_address(PEER4.into(), 5678);
    fixture.host_address(PEER6.into(), 5678);
    each();
}

#[test]
fn without_stamp_remote_nothing_is_stamped_on_arrival() {
    let Some(fixture) = Fixture::new() else { return };
    fixture.ipcache("0.0.0.0/0", 300);
    let run = fixture.netdev(ID).load().from_netdev(Frame::ipv4(PEER4, OWN4).tcp(1, 2));
    run.passes_with_mark(0).comes_from(300);
}

#[test]
fn stamp_remote_stamps_the_identity_of_the_sender() {
    let Some(fixture) = Fixture::new() else { return };
    let nic = stamping_remotes(&fixture);
    let each = |mark: u32| {
        for (peer, own) in PEER_TO_OWN {
            for before in [0, 0x5000, ID_MARK, 0x0000_fc00] {
                let packet = Frame::ip(peer, own).tcp(1, 2).mark(before).forwarded();
                nic.from_netdev(packet).passes_unchanged().has_mark(mark | before & NOT_OURS);
            }
        }
    };
    each(0x0002_0f00);
    for (identity, mark) in [(ID, ID_MARK), (WIDE_ID, WIDE_MARK), (0xff_ffff, 0xffff_0fff)] {
        fixture.ipcache("10.2.0.10", identity);
        fixture.ipcache("fd00:2::10", identity);
        each(mark);
    }
}

#[test]
fn an_identity_that_does_not_fit_is_not_stamped() {
    let Some(fixture) = Fixture::new() else { return };
    let nic = stamping_remotes(&fixture);
    for identity in [0x0100_0000, 0x0100_0001, 0x0200_04d2, u32::MAX] {
        fixture.ipcache("10.2.0.10", identity);
        fixture.ipcache("fd00:2::10", identity);
        for (peer, own) in PEER_TO_OWN {
            let run = nic.from_netdev(Frame::ip(peer, own).tcp(1, 2).mark(0x3000));
            run.passes_unchanged().has_mark(0x3000).comes_from(identity);
        }
    }
}

#[test]
fn stamp_remote_stamps_ip_only() {
    let Some(fixture) = Fixture::new() else { return };
    let nic = stamping_remotes(&fixture);
    for frame in [
        Frame::arp_request(PEER4, OWN4),
        Frame::other(0x88cc, [0; 46]),
        Frame::ipv4(PEER4, OWN4).vlan(7).tcp(1, 2).truncate(20),
    ] {
        nic.from_netdev(frame).passes_unchanged().has_mark(0);
    }
}

#[test]
fn what_the_host_sends_is_stamped_with_the_nics_identity() {
    let Some(fixture) = Fixture::new() else { return };
    let nic = fixture.netdev(WIDE_ID).address(OWN4).address(OWN6).load();
    for (own, peer) in OWN_TO_PEER {
        for bits in [0, 0x1000, 0xf000] {
            let run = nic.to_netdev(Frame::ip(own, peer).tcp(1, 2).mark(bits));
            run.passes_unchanged().has_mark(WIDE_MARK | bits).comes_from(WIDE_ID);
        }
    }
    nic.to_netdev(Frame::arp_request(OWN4, PEER4)).passes_unchanged().has_mark(WIDE_MARK);
    nic.to_netdev(Frame::other(0x88cc, [0; 46])).passes_unchanged().has_mark(WIDE_MARK);
}

#[test]
fn a_strangers_mark_on_what_the_host_sends_gives_way() {
    let Some(fixture) = Fixture::new() else { return };
    let nic = fixture.netdev(ID).load();
    for (own, peer) in OWN_TO_PEER {
        for mark in FOREIGN_MARKS {
            let run = nic.to_netdev(Frame::ip(own, peer).tcp(1, 2).mark(mark));
            run.passes_with_mark(ID_MARK | mark & NOT_OURS);
        }
    }
}

#[test]
fn a_nic_that_is_the_host_stamps_nothing() {
    let Some(fixture) = Fixture::new() else { return };
    let nic = fixture.netdev(1).load();
    for (own, peer) in OWN_TO_PEER {
        for mark in OUR_MARKS.into_iter().chain(FOREIGN_MARKS).chain([0]) {
            let run = nic.to_netdev(Frame::ip(own, peer).tcp(1, 2).mark(mark));
            run.passes_unchanged().has_mark(mark).comes_from(1);
        }
    }
}

#[test]
fn what_the_host_forwards_is_not_stamped() {
    let Some(fixture) = Fixture::new() else { return };
    fixture.ipcache("10.2.0.10", 300);
    fixture.ipcache("fd00:2::10", 300);
    let nic = fixture.netdev(ID).load();
    for (peer, own) in PEER_TO_OWN {
        for mark in FOREIGN_MARKS.into_iter().chain([0]) {
            let packet = Frame::ip(peer, own).tcp(1, 2).mark(mark).forwarded();
            nic.to_netdev(packet).passes_unchanged().has_mark(mark).comes_from(300);
        }
    }
}

#[test]
fn marks_of_ours_leave_as_they_are_on_what_is_forwarded() {
    let Some(fixture) = Fixture::new() else { return };
    for nic in [fixture.netdev(ID).load(), trusting_proxies(&fixture)] {
        for (own, peer) in OWN_TO_PEER {
            for mark in OUR_MARKS.into_iter().flat_map(|mark| [mark, mark | NOT_OURS]) {
                let packet = Frame::ip(own, peer).tcp(1, 2).mark(mark);
                nic.to_netdev(packet.forwarded()).passes_unchanged().has_mark(mark);
            }
        }
    }
}

#[test]
fn a_mark_of_another_software_that_looks_like_ours_gives_way_on_what_the_host_sends() {
    let Some(fixture) = Fixture::new() else { return };
    for (own, peer) in OWN_TO_PEER {
        // wg-quick's; mwan3's, of its second WAN, its tenth and its default; one in the host's own name.
        for mark in [0xca6c, 0x0200, 0x0a00, 0x3f00, 0x0c00] {
            for nic in [fixture.netdev(ID).load(), trusting_proxies(&fixture)] {
                let run = nic.to_netdev(Frame::ip(own, peer).tcp(1, 2).mark(mark));
                run.passes_with_mark(ID_MARK).comes_from(ID);
            }
        }
        // Kubernetes' bits beside no mark at all stay.
        let nic = fixture.netdev(ID).load();
        let run = nic.to_netdev(Frame::ip(own, peer).tcp(1, 2).mark(0x4000));
        run.passes_with_mark(ID_MARK | 0x4000);
    }
}

#[test]
fn a_forwarded_packet_is_the_hosts_if_its_mark_says_so() {
    let Some(fixture) = Fixture::new() else { return };
    let nic = fixture.netdev(ID).load();
    for (peer, own) in PEER_TO_OWN {
        let packet = || Frame::ip(peer, own).tcp(1, 2);
        nic.to_netdev(packet().mark(0x0c00).forwarded()).comes_from(ID);
        nic.to_netdev(packet().mark(WIDE_MARK).forwarded()).comes_from(WIDE_ID);
        nic.to_netdev(packet().mark(0x0b30_0a03).forwarded()).comes_from(2);
    }
}

#[test]
fn a_workloads_packet_that_looks_generated_here_is_not_the_hosts() {
    let Some(fixture) = Fixture::new() else { return };
    fixture.ipcache("10.2.0.10", 300);
    fixture.ipcache("fd00:2::10", 300);
    let nic = fixture.netdev(ID).load();
    for (peer, own) in PEER_TO_OWN {
        let run = || nic.to_netdev(Frame::ip(peer, own).tcp(1, 2));
        run().passes_with_mark(ID_MARK).comes_from(ID);
        // Another NIC's address is the host's, and other namespaces have addresses of their own.
        fixture.register(peer, Role::Netdev, true);
        run().passes_with_mark(ID_MARK).comes_from(ID);
        fixture.register(peer, Role::Container, false);
        run().passes_with_mark(ID_MARK).comes_from(ID);
        fixture.register(peer, Role::Container, true);
        run().passes_with_mark(0).comes_from(300);
        nic.to_netdev(Frame::ip(peer, own).tcp(1, 2).mark(0x0c00)).comes_from(300);
    }
}

#[test]
fn a_trusted_proxy_sends_in_the_name_of_an_identity() {
    let Some(fixture) = Fixture::new() else { return };
    for (own, peer) in OWN_TO_PEER {
        for mark in [0x0b30_0a03, 0x0b30_0b03] {
            let packet = Frame::ip(own, peer).tcp(1, 2).mark(mark);
            let run = trusting_proxies(&fixture).to_netdev(packet.clone());
            run.passes_with_mark(mark).comes_from(WIDE_ID);
            let run = trusting_proxies(&fixture).to_netdev(packet.clone().forwarded());
            run.passes_with_mark(mark).comes_from(WIDE_ID);
            let run = fixture.netdev(ID).load().to_netdev(packet);
            run.passes_with_mark(ID_MARK).comes_from(ID);
        }
    }
}

#[test]
fn what_leaves_goes_to_whom_the_ipcache_says() {
    let Some(fixture) = Fixture::new() else { return };
    fixture.ipcache("10.2.0.0/16", 300);
    fixture.ipcache("fd00:2::10", 300);
    let nic = fixture.netdev(1).load();
    for (own, peer) in OWN_TO_PEER {
        nic.to_netdev(Frame::ip(own, peer).tcp(1, 2)).goes_to(300);
        nic.to_netdev(Frame::ip(peer, own).tcp(1, 2).forwarded()).goes_to(2);
    }
}
