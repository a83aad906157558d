//! What a workload may send as.

use std::net::{Ipv4Addr, Ipv6Addr};

use super::*;
use crate::common::Fixture;
use crate::common::packet::{Frame, SENDER_MAC};
use crate::common::program::Endpoint;
use crate::common::world::wait_for;

const ANY4: Ipv4Addr = Ipv4Addr::UNSPECIFIED;
const ANY6: Ipv6Addr = Ipv6Addr::UNSPECIFIED;
const BROADCAST: Ipv4Addr = Ipv4Addr::BROADCAST;
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);

/// Made of the MAC that frames come from.
const OWN_LINK_LOCAL: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0xff, 0xfe00, 0xaa);

fn workload(fixture: &Fixture) -> Endpoint<'_> {
    fixture.container(ID).address(OWN4).address(OWN6).load()
}

#[test]
fn a_workload_may_not_send_from_foreign_addresses() {
    let Some(fixture) = Fixture::new() else { return };
    let workload = workload(&fixture);
    for (peer, own) in PEER_TO_OWN {
        for frame in [
            Frame::ip(peer, own).tcp(1000, 80),
            Frame::ip(peer, own).udp(1000, 53),
            Frame::ip(peer, own).protocol(47, []),
            Frame::ip(peer, own).fragment(7, false).tcp(1000, 80),
            Frame::ip(peer, own).vlan(7).tcp(1000, 80),
            Frame::ip(peer, own).service_vlan(7).vlan(8).tcp(1000, 80),
        ] {
            workload.from_container(frame).is_dropped(132).comes_from(ID);
        }
    }
}

/// What is for another MAC the host does not route, so that nobody asks whether its source is the host's.
#[test]
fn a_frame_to_another_mac_vouches_for_none_to_the_hosts() {
    let Some(fixture) = Fixture::new() else { return };
    fixture.world.sh("sysctl -qw net.ipv6.conf.all.forwarding=1
         ip link add wan type veth peer name wan-peer
         ip link set wan up; ip link set wan-peer up
         ip -6 addr add fd00:7::1/64 dev wan nodad
         ip -6 route add default via fd00:7::2 dev wan");
    wait_for("the address", || {
        fixture.world.sh("ip -6 route show table local").contains("fd00:7::1")
    });
    let workload = fixture.container(ID).load();
    let frame = Frame::ip("fd00:7::1".parse::<IpAddr>().unwrap(), PEER6).udp(1, 2);
    let mut to_another = frame.bytes();
    to_another[5] = 0xcc;
    for _ in 0..20 {
        workload.from_container(to_another.clone()).passes();
        workload.from_container(frame.clone()).is_dropped(132);
    }
}

#[test]
fn an_address_that_differs_in_one_bit_is_foreign() {
    let Some(fixture) = Fixture::new() else { return };
    let workload = workload(&fixture);
    for bit in 0..32 {
        let near = Ipv4Addr::from_bits(OWN4.to_bits() ^ 1 << bit);
        workload.from_container(Frame::ipv4(near, PEER4).udp(1, 2)).is_dropped(132);
    }
    for bit in 0..128 {
        let near = Ipv6Addr::from_bits(OWN6.to_bits() ^ 1 << bit);
        workload.from_container(Frame::ipv6(near, PEER6).udp(1, 2)).is_dropped(132);
    }
}

#[test]
fn all_eight_addresses_of_a_family_are_its_own() {
    let Some(fixture) = Fixture::new() else { return };
    let own4: Vec<_> = (0..8).map(|n| Ipv4Addr::from_bits(OWN4.to_bits() + n)).collect();
    let own6: Vec<_> = (0..8).map(|n| Ipv6Addr::from_bits(OWN6.to_bits() + n)).collect();
    let mut setup = fixture.container(ID);
    for (v4, v6) in own4.iter().zip(&own6) {
        setup = setup.address(*v4).address(*v6);
    }
    let workload = setup.load();
    for (v4, v6) in own4.iter().zip(&own6) {
        workload.from_container(Frame::ipv4(*v4, PEER4).udp(1, 2)).passes_with_mark(ID_MARK);
        workload.from_container(Frame::ipv6(*v6, PEER6).udp(1, 2)).passes_with_mark(ID_MARK);
    }
    let ninth = Ipv4Addr::from_bits(OWN4.to_bits() + 8);
    workload.from_container(Frame::ipv4(ninth, PEER4).udp(1, 2)).is_dropped(132);
    workload.from_container(Frame::ipv4(ANY4, PEER4).udp(1, 2)).is_dropped(132);
    workload.from_container(Frame::ipv6(ANY6, PEER6).udp(1, 2)).is_dropped(132);
}

#[test]
fn a_workload_without_an_address_of_a_family_may_not_send_in_it() {
    let Some(fixture) = Fixture::new() else { return };
    let v4_only = fixture.container(ID).address(OWN4).load();
    v4_only.from_container(Frame::ipv6(OWN6, PEER6).udp(1, 2)).is_dropped(132);
    v4_only.from_container(Frame::ipv4(OWN4, PEER4).udp(1, 2)).passes();
    let v6_only = fixture.container(ID).address(OWN6).load();
    v6_only.from_container(Frame::ipv4(OWN4, PEER4).udp(1, 2)).is_dropped(132);
    v6_only.from_container(Frame::arp_request(OWN4, PEER4)).is_dropped(132);
    v6_only.from_container(Frame::ipv6(OWN6, PEER6).udp(1, 2)).passes();
}

#[test]
fn the_same_bytes_in_the_other_family_are_another_address() {
    let Some(fixture) = Fixture::new() else { return };
    let four = Ipv4Addr::new(10, 0, 0, 1);
    let six = Ipv6Addr::new(0x0a00, 1, 0, 0, 0, 0, 0, 0);
    let workload = fixture.container(ID).address(four).load();
    workload.from_container(Frame::ipv4(four, PEER4).udp(1, 2)).passes();
    workload.from_container(Frame::ipv6(six, PEER6).udp(1, 2)).is_dropped(132);
    let workload = fixture.container(ID).address(six).load();
    workload.from_container(Frame::ipv6(six, PEER6).udp(1, 2)).passes();
    workload.from_container(Frame::ipv4(four, PEER4).udp(1, 2)).is_dropped(132);
}

#[test]
fn without_addresses_nothing_is_checked_but_the_role_of_a_router() {
    let Some(fixture) = Fixture::new() else { return };
    let workload = fixture.container(ID).load();
    for (peer, own) in PEER_TO_OWN {
        workload.from_container(Frame::ip(peer, own).tcp(1, 2)).passes_with_mark(ID_MARK);
    }
    for frame in [
        Frame::arp_request(PEER4, OWN4),
        Frame::arp_reply(PEER4, OWN4),
        Frame::ipv6(OWN_LINK_LOCAL, ALL_NODES).neighbour_advertisement(PEER6),
        Frame::ipv6(OWN_LINK_LOCAL, ALL_NODES).udp(1, 2),
    ] {
        workload.from_container(frame).passes_with_mark(ID_MARK);
    }
    let advertisement = Frame::ipv6(OWN_LINK_LOCAL, ALL_NODES).router_advertisement();
    workload.from_container(advertisement).is_dropped(176);
}

#[test]
fn dhcp_passes_before_there_is_an_address() {
    let Some(fixture) = Fixture::new() else { return };
    let workload = workload(&fixture);
    let discover = Frame::ipv4(ANY4, BROADCAST).udp(68, 67);
    workload.from_container(discover.clone()).passes_unchanged().has_mark(ID_MARK);
    workload.from_container(discover.vlan(7)).passes_with_mark(ID_MARK);
    for source in [OWN_LINK_LOCAL, ANY6] {
        let solicit = Frame::ipv6(source, ALL_ROUTERS).udp(546, 547);
        workload.from_container(solicit).passes_unchanged().has_mark(ID_MARK);
    }
}

#[test]
fn nothing_but_dhcp_comes_from_nowhere() {
    let Some(fixture) = Fixture::new() else { return };
    let workload = workload(&fixture);
    for frame in [
        Frame::ipv4(ANY4, BROADCAST).udp(67, 68),
        Frame::ipv4(ANY4, BROADCAST).udp(68, 68),
        Frame::ipv4(ANY4, BROADCAST).udp(1068, 67),
        Frame::ipv4(ANY4, BROADCAST).tcp(68, 67),
        Frame::ipv4(ANY4, BROADCAST).icmp(8, 0),
        Frame::ipv4(ANY4, BROADCAST).fragment(3, false).udp(68, 67),
        Frame::ipv4(PEER4, BROADCAST).udp(68, 67),
        Frame::ipv6(ANY6, ALL_ROUTERS).udp(547, 546),
        Frame::ipv6(ANY6, ALL_ROUTERS).udp(68, 67),
        Frame::ipv6(ANY6, ALL_ROUTERS).tcp(546, 547),
        Frame::ipv6(PEER6, ALL_ROUTERS).udp(546, 547),
    ] {
        workload.from_container(frame).is_dropped(132);
    }
}

#[test]
fn link_local_addresses_are_for_neighbour_and_listener_discovery_only() {
    let Some(fixture) = Fixture::new() else { return };
    let workload = workload(&fixture);
    for source in [OWN_LINK_LOCAL, ANY6] {
        let from = || Frame::ipv6(source, ALL_ROUTERS);
        for frame in [
            from().router_solicitation(),
            from().neighbour_solicitation(OWN6),
            from().neighbour_advertisement(OWN6),
            from().listener_report(),
            from().hop_by_hop().listener_report(),
            from().icmp6(130, &[0; 20]),
            from().icmp6(131, &[0; 20]),
            from().icmp6(132, &[0; 20]),
        ] {
            workload.from_container(frame).passes_unchanged().has_mark(ID_MARK);
        }
        for frame in [
            from().icmp6(128, &[0; 4]),
            from().icmp6(129, &[0; 4]),
            from().icmp6(1, &[0; 4]),
            from().tcp(1, 2),
            from().udp(1, 2),
            from().fragment(3, false).neighbour_solicitation(PEER6),
        ] {
            workload.from_container(frame).is_dropped(132);
        }
    }
    let solicitation = Frame::ipv6(OWN_LINK_LOCAL, ALL_NODES).neighbour_solicitation(PEER6);
    workload.from_container(solicitation).passes_unchanged();
    let bits = OWN_LINK_LOCAL.to_bits();
    for source in (0..128).map(|bit| Ipv6Addr::from_bits(bits ^ 1 << bit)) {
        let solicitation = Frame::ipv6(source, ALL_ROUTERS).neighbour_solicitation(PEER6);
        workload.from_container(solicitation).is_dropped(132);
    }
}

#[test]
fn duplicate_address_detection_passes() {
    let Some(fixture) = Fixture::new() else { return };
    let workload = workload(&fixture);
    let probe = |target| Frame::arp_request(ANY4, target);
    workload.from_container(probe(OWN4)).passes_unchanged().has_mark(ID_MARK);
    // Of a neighbour's it would tell that neighbour that the address is taken.
    workload.from_container(probe(PEER4)).is_dropped(132);
    for target in [PEER6, LINK_LOCAL] {
        let solicitation = Frame::ipv6(ANY6, ALL_NODES).neighbour_solicitation(target);
        workload.from_container(solicitation.clone()).is_dropped(132);
        workload.from_container(solicitation.hop_by_hop().vlan(7)).is_dropped(132);
    }
    for target in [OWN6, OWN_LINK_LOCAL] {
        let solicitation = Frame::ipv6(ANY6, ALL_NODES).neighbour_solicitation(target);
        workload.from_container(solicitation).passes_unchanged().has_mark(ID_MARK);
    }
}

#[test]
fn a_workload_may_not_send_router_advertisements() {
    let Some(fixture) = Fixture::new() else { return };
    let workload = workload(&fixture);
    for source in [OWN6, OWN_LINK_LOCAL, ANY6, PEER6] {
        let from = || Frame::ipv6(source, ALL_NODES);
        for frame in [
            from().router_advertisement(),
            from().vlan(7).router_advertisement(),
            from().hop_by_hop().destination_options(2).router_advertisement(),
            from().fragment(0, true).router_advertisement(),
            from().fragment(0, false).router_advertisement(),
        ] {
            workload.from_container(frame).is_dropped(176);
        }
    }
}

/// Which only who shares a key with the sender reads (RFC 4302).
#[test]
fn behind_an_authentication_header_it_may_from_its_own_address() {
    let Some(fixture) = Fixture::new() else { return };
    let workload = workload(&fixture);
    let hidden = |from| Frame::ipv6(from, ALL_NODES).authentication(12).router_advertisement();
    workload.from_container(hidden(OWN6)).passes_unchanged().has_mark(ID_MARK);
    for source in [OWN_LINK_LOCAL, ANY6, PEER6] {
        workload.from_container(hidden(source)).is_dropped(132);
    }
}

#[test]
fn a_router_advertisement_can_not_hide_behind_the_first_fragment() {
    let Some(fixture) = Fixture::new() else { return };
    let workload = workload(&fixture);
    // RFC 7113: the first fragment ends before the ICMPv6 header, a second one brings it.
    let headers = 14 + 40 + 8 + 8;
    for source in [OWN6, OWN_LINK_LOCAL] {
        let first = Frame::ipv6(source, ALL_NODES).fragment(0, true).destination_options(1);
        let first = first.router_advertisement().truncate(headers);
        workload.from_container(first).is_dropped(134);
    }
}

#[test]
fn a_workload_may_not_send_redirects() {
    let Some(fixture) = Fixture::new() else { return };
    let workload = workload(&fixture);
    for source in [OWN6, OWN_LINK_LOCAL, PEER6] {
        let redirect = Frame::ipv6(source, ALL_NODES).redirect(PEER6);
        workload.from_container(redirect).is_dropped(176);
    }
}

#[test]
fn a_workload_may_advertise_no_addresses_but_its_own() {
    let Some(fixture) = Fixture::new() else { return };
    let workload = workload(&fixture);
    let other_link_local = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0x11);
    for (source, target) in [
        (OWN6, OWN6),
        (OWN_LINK_LOCAL, OWN6),
        (OWN_LINK_LOCAL, OWN_LINK_LOCAL),
        (OWN6, OWN_LINK_LOCAL),
    ] {
        let advertisement = Frame::ipv6(source, ALL_NODES).neighbour_advertisement(target);
        workload.from_container(advertisement.clone()).passes_unchanged();
        workload.from_container(advertisement.hop_by_hop().vlan(7)).passes_unchanged();
    }
    for (source, target) in [
        (OWN6, PEER6),
        (OWN_LINK_LOCAL, PEER6),
        (OWN_LINK_LOCAL, other_link_local),
        (OWN6, LINK_LOCAL),
        (PEER6, PEER6),
        (PEER6, OWN6),
    ] {
        let advertisement = Frame::ipv6(source, ALL_NODES).neighbour_advertisement(target);
        workload.from_container(advertisement.clone()).is_dropped(132);
        workload.from_container(advertisement.destination_options(1)).is_dropped(132);
    }
}

#[test]
fn an_advertisement_without_its_target_is_dropped() {
    let Some(fixture) = Fixture::new() else { return };
    let advertisement = Frame::ipv6(OWN6, ALL_NODES).neighbour_advertisement(OWN6);
    let whole = advertisement.bytes().len();
    workload(&fixture).from_container(advertisement.truncate(whole - 1)).is_dropped(132);
}

#[test]
fn a_workload_may_not_answer_arp_for_others() {
    let Some(fixture) = Fixture::new() else { return };
    let workload = workload(&fixture);
    for frame in [
        Frame::arp_request(PEER4, OWN4),
        Frame::arp_reply(PEER4, OWN4),
        Frame::arp_request(PEER4, PEER4),
        Frame::arp_reply(ANY4, PEER4),
    ] {
        workload.from_container(frame.clone()).is_dropped(132);
        workload.from_container(frame.vlan(7)).is_dropped(132);
    }
    for frame in [
        Frame::arp_request(OWN4, PEER4),
        Frame::arp_reply(OWN4, PEER4),
        Frame::arp_request(OWN4, OWN4),
    ] {
        workload.from_container(frame).passes_unchanged().has_mark(ID_MARK);
    }
}

#[test]
fn what_is_neither_ip_nor_arp_is_dropped() {
    let Some(fixture) = Fixture::new() else { return };
    for workload in [workload(&fixture), fixture.container(ID).load()] {
        for frame in [
            Frame::other(0x88cc, [0; 46]),
            Frame::other(0x8847, [0; 46]),
            Frame::other(0x8864, [0; 46]),
            Frame::other(0x8035, [0; 46]),
            Frame::other(0x0026, [0x42; 46]),
            Frame::other(0x88cc, []),
            Frame::other(0x88cc, [0; 46]).vlan(7),
            Frame::ipv4(OWN4, PEER4).vlan(1).vlan(2).vlan(3).udp(1, 2),
        ] {
            workload.from_container(frame).is_dropped(139);
        }
    }
}

#[test]
fn the_source_of_what_a_workload_receives_is_not_checked() {
    let Some(fixture) = Fixture::new() else { return };
    let workload = workload(&fixture);
    for (peer, own) in PEER_TO_OWN {
        workload.to_container(Frame::ip(peer, own).tcp(1, 2)).passes_unchanged();
    }
    let advertisement = Frame::ipv6(OWN_LINK_LOCAL, ALL_NODES).router_advertisement();
    workload.to_container(advertisement).passes_unchanged();
    workload.to_container(Frame::other(0x88cc, [0; 46])).passes_unchanged();
}

#[test]
fn a_link_local_address_that_is_given_replaces_the_one_of_the_mac() {
    let Some(fixture) = Fixture::new() else { return };
    let workload = fixture.container(ID).address(OWN6).address(LINK_LOCAL).load();
    let from = |source| Frame::ipv6(source, ALL_ROUTERS).neighbour_solicitation(PEER6);
    workload.from_container(from(LINK_LOCAL)).passes_unchanged();
    workload.from_container(from(OWN_LINK_LOCAL)).is_dropped(132);
    let advertisement = |target| Frame::ipv6(OWN6, ALL_NODES).neighbour_advertisement(target);
    workload.from_container(advertisement(LINK_LOCAL)).passes_unchanged();
    workload.from_container(advertisement(OWN_LINK_LOCAL)).is_dropped(132);
}

#[test]
fn a_workload_whose_mac_is_known_sends_from_no_other() {
    let Some(fixture) = Fixture::new() else { return };
    let with = |mac| fixture.container(ID).address(OWN4).address(OWN6).source_mac(mac).load();
    let [own, other] = [SENDER_MAC, [0x02, 0, 0, 0, 0, 0xab]].map(with);
    for frame in [
        Frame::ipv4(OWN4, PEER4).udp(1, 2),
        Frame::ipv6(OWN6, PEER6).tcp(1, 2),
        Frame::arp_request(OWN4, PEER4),
        Frame::ipv6(OWN_LINK_LOCAL, ALL_ROUTERS).router_solicitation(),
    ] {
        own.from_container(frame.clone()).passes_unchanged();
        other.from_container(frame).is_dropped(132);
    }
}

#[test]
fn a_workload_whose_addresses_nobody_knows_is_held_to_its_mac_all_the_same() {
    let Some(fixture) = Fixture::new() else { return };
    let with = |mac| fixture.container(ID).source_mac(mac).load();
    let [own, other] = [SENDER_MAC, [0x02, 0, 0, 0, 0, 0xab]].map(with);
    for frame in [
        Frame::ipv4(OWN4, PEER4).udp(1, 2),
        Frame::ipv6(OWN6, PEER6).tcp(1, 2),
        Frame::arp_request(OWN4, PEER4),
        Frame::ipv6(OWN_LINK_LOCAL, ALL_ROUTERS).router_solicitation(),
    ] {
        own.from_container(frame.clone()).passes_unchanged();
        other.from_container(frame).is_dropped(132);
    }
}

#[test]
fn only_a_router_offers_leases_and_advertises_itself() {
    let Some(fixture) = Fixture::new() else { return };
    let router = fixture.container(ID).address(OWN4).address(OWN6).feature(|on| on.router = true);
    let (workload, router) = (workload(&fixture), router.load());
    let offers = [
        Frame::ipv4(OWN4, BROADCAST).udp(67, 68),
        Frame::ipv4(OWN4, PEER4).udp(67, 68),
        // Clients don't mind where it comes from.
        Frame::ipv4(OWN4, BROADCAST).udp(1067, 68),
        Frame::ipv6(OWN6, PEER6).udp(1547, 546),
        Frame::ipv6(OWN_LINK_LOCAL, LINK_LOCAL).udp(547, 546),
        Frame::ipv6(OWN6, PEER6).udp(547, 546),
    ];
    for frame in offers {
        workload.from_container(frame.clone()).is_dropped(132);
        router.from_container(frame).passes_unchanged();
    }
    let advertisement = Frame::ipv6(OWN_LINK_LOCAL, ALL_NODES).router_advertisement();
    router.from_container(advertisement).passes_unchanged();
    for source in [OWN6, OWN_LINK_LOCAL] {
        router.from_container(Frame::ipv6(source, ALL_NODES).redirect(PEER6)).passes_unchanged();
    }
    router.from_container(Frame::ipv6(ANY6, ALL_NODES).redirect(PEER6)).is_dropped(132);
    router.from_container(Frame::ipv6(ANY6, PEER6).udp(547, 546)).is_dropped(132);
    // To a server it may talk without being one.
    workload.from_container(Frame::ipv4(OWN4, PEER4).udp(68, 67)).passes_unchanged();
    workload.from_container(Frame::ipv4(OWN4, PEER4).tcp(1, 68)).passes_unchanged();
}

#[test]
fn the_target_of_an_advertisement_ends_with_the_packet() {
    let Some(fixture) = Fixture::new() else { return };
    let advertisement = Frame::ipv6(OWN6, ALL_NODES).neighbour_advertisement(OWN6);
    let mut bytes = advertisement.bytes();
    workload(&fixture).from_container(bytes.clone()).passes_unchanged();
    bytes[14 + 5] -= 1;
    workload(&fixture).from_container(bytes).is_dropped(132);
}

#[test]
fn what_no_neighbour_learns_from_comes_from_any_link_local_address() {
    let Some(fixture) = Fixture::new() else { return };
    let workload = workload(&fixture);
    let from = || Frame::ipv6(LINK_LOCAL, ALL_ROUTERS);
    for frame in [
        from().hop_by_hop().listener_report(),
        from().icmp6(131, &[0; 20]),
        from().icmp6(132, &[0; 20]),
        from().udp(546, 547),
        from().router_solicitation(),
    ] {
        workload.from_container(frame).passes_unchanged();
    }
    for frame in [
        from().icmp6(130, &[0; 20]),
        from().neighbour_solicitation(PEER6),
        from().neighbour_advertisement(OWN6),
        // With the MAC of the sender.
        from().icmp6(133, &[0, 0, 0, 0, 1, 1, 2, 0, 0, 0, 0, 0xaa]),
        from().udp(546, 548),
    ] {
        workload.from_container(frame).is_dropped(132);
    }
}

/// As with MLD: what IPv6 sends from `::`, or a link-local address.
#[test]
fn a_listener_without_an_address_reports_from_nobody() {
    let Some(fixture) = Fixture::new() else { return };
    let workload = workload(&fixture);
    let group = Ipv4Addr::new(239, 1, 2, 3);
    let igmp = |source: Ipv4Addr, kind: u8| {
        Frame::ipv4(source, group).ttl(1).protocol(2, [kind, 0, 0, 0, 239, 1, 2, 3])
    };
    for kind in [0x11, 0x12, 0x16, 0x17, 0x22] {
        let from = |source| workload.from_container(igmp(source, kind));
        from(Ipv4Addr::UNSPECIFIED).passes_unchanged().has_mark(ID_MARK);
        from(OWN4).passes_unchanged().has_mark(ID_MARK);
        from(PEER4).is_dropped(132);
    }
}
