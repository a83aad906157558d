//! What the programs read in a packet, as their events tell it.

use std::net::IpAddr;

use cilmark::kernel::abi::cm_event;

use super::*;
use crate::common::Fixture;
use crate::common::packet::Frame;
use crate::common::program::{Endpoint, Outcome};

const TCP: u8 = 6;
const UDP: u8 = 17;

/// Protocol, ports in host order, and whether it is a fragment.
type Transport = (u8, u16, u16, bool);

fn addresses(event: &cm_event) -> (Option<IpAddr>, Option<IpAddr>) {
    (event.source.to_ip(), event.destination.to_ip())
}

#[track_caller]
fn has_transport(run: &Outcome, expected: Transport) {
    let event = run.passes_unchanged().event();
    let ports = (u16::from_be(event.sport), u16::from_be(event.dport));
    let seen = (event.protocol, ports.0, ports.1, event.fragment == 1);
    assert_eq!(seen, expected, "{run:?}");
}

/// Runs a frame through three programs, which must read the same.
#[track_caller]
fn is_read_as(fixture: &Fixture, frame: &Frame, expected: Transport) {
    let container = fixture.container(ID).load();
    has_transport(&container.from_container(frame.clone()), expected);
    has_transport(&container.to_container(frame.clone()), expected);
    has_transport(&fixture.netdev(1).load().from_netdev(frame.clone()), expected);
}

fn without_check(fixture: &Fixture) -> Endpoint<'_> {
    fixture.container(ID).load()
}

#[test]
fn addresses_and_ports_are_read_in_both_families() {
    let Some(fixture) = Fixture::new() else { return };
    let workload = without_check(&fixture);
    for (own, peer) in OWN_TO_PEER {
        let ip = || Frame::ip(own, peer);
        let run = workload.from_container(ip().tcp(1000, 443));
        has_transport(&run, (TCP, 1000, 443, false));
        assert_eq!(addresses(run.event()), (Some(own), Some(peer)), "{run:?}");
        assert_eq!(run.event().tcp_flags, 0x02, "a SYN: {run:?}");
        has_transport(&workload.from_container(ip().udp(53, 5353)), (UDP, 53, 5353, false));
        has_transport(&workload.from_container(ip().sctp(7, 38412)), (132, 7, 38412, false));
        has_transport(&workload.from_container(ip().protocol(47, [1; 8])), (47, 0, 0, false));
    }
}

/// The bytes where TCP has its ports and flags.
#[test]
fn nothing_but_tcp_has_flags_and_what_has_no_ports_gets_none() {
    let Some(fixture) = Fixture::new() else { return };
    for (own, peer) in OWN_TO_PEER {
        let ip = || Frame::ip(own, peer);
        for length in [8, 40] {
            is_read_as(&fixture, &ip().protocol(47, vec![0xff; length]), (47, 0, 0, false));
            let datagram = [&[0, 53, 0x14, 0xe9][..], &vec![0xff; length - 4]].concat();
            let frame = ip().protocol(UDP, datagram);
            is_read_as(&fixture, &frame, (UDP, 53, 5353, false));
            let run = without_check(&fixture).from_container(frame);
            assert_eq!(run.event().tcp_flags, 0, "{run:?}");
        }
    }
    let error = Frame::ipv4(OWN4, PEER4).protocol(1, [&[11, 0, 0, 0][..], &[0xff; 36]].concat());
    is_read_as(&fixture, &error, (1, 0, 0, false));
    let error = Frame::ipv6(OWN6, PEER6).icmp6(1, &[0xff; 36]);
    is_read_as(&fixture, &error, (58, 0, 0, false));
}

#[test]
fn icmp_types_and_codes_are_read() {
    let Some(fixture) = Fixture::new() else { return };
    let workload = without_check(&fixture);
    let run = workload.from_container(Frame::ipv4(OWN4, PEER4).icmp(3, 4));
    has_transport(&run, (1, 0, 0, false));
    assert_eq!((run.event().icmp_type, run.event().icmp_code), (3, 4), "{run:?}");
    let run = workload.from_container(Frame::ipv6(OWN6, PEER6).icmp6(128, &[0; 4]));
    has_transport(&run, (58, 0, 0, false));
    assert_eq!((run.event().icmp_type, run.event().icmp_code), (128, 0), "{run:?}");
}

#[test]
fn options_of_every_length_are_skipped() {
    let Some(fixture) = Fixture::new() else { return };
    for words in 0..=10 {
        let frame = Frame::ipv4(OWN4, PEER4).options(&vec![1; words * 4]).tcp(1000, 80);
        is_read_as(&fixture, &frame, (TCP, 1000, 80, false));
    }
}

#[test]
fn up_to_two_vlan_tags_are_skipped() {
    let Some(fixture) = Fixture::new() else { return };
    for (own, peer) in OWN_TO_PEER {
        for frame in [
            Frame::ip(own, peer).vlan(1),
            Frame::ip(own, peer).service_vlan(4094),
            Frame::ip(own, peer).vlan(1).vlan(2),
            Frame::ip(own, peer).service_vlan(1).vlan(2),
        ] {
            is_read_as(&fixture, &frame.tcp(1000, 80), (TCP, 1000, 80, false));
        }
    }
}

#[test]
fn a_nic_passes_what_it_can_not_read() {
    let Some(fixture) = Fixture::new() else { return };
    let nic = fixture.netdev(ID).load();
    for frame in [
        Frame::ipv4(OWN4, PEER4).vlan(1).vlan(2).vlan(3).udp(1, 2),
        Frame::other(0x88cc, [0; 46]),
        Frame::other(0x888e, []),
        Frame::other(0x8809, [1; 46]),
        Frame::other(0x8847, [0; 46]),
        Frame::ipv4(OWN4, PEER4).tcp(1, 2).truncate(14 + 20 + 19),
        Frame::ipv6(OWN6, PEER6).vlan(1).tcp(1, 2).truncate(14 + 4 + 39),
    ] {
        nic.from_netdev(frame.clone().forwarded()).passes_unchanged().has_mark(0);
        nic.to_netdev(frame.forwarded()).passes_unchanged().has_mark(0);
    }
}

#[test]
fn extension_headers_are_skipped_whatever_their_length() {
    let Some(fixture) = Fixture::new() else { return };
    let ip = || Frame::ipv6(OWN6, PEER6);
    for frame in [
        ip().hop_by_hop(),
        ip().routing(),
        ip().destination_options(1),
        ip().destination_options(20),
        ip().hop_by_hop().destination_options(1).routing(),
        ip().vlan(7).hop_by_hop().routing(),
    ] {
        is_read_as(&fixture, &frame.tcp(1000, 80), (TCP, 1000, 80, false));
    }
}

#[test]
fn an_authentication_header_is_the_transport_in_both_families() {
    let Some(fixture) = Fixture::new() else { return };
    const AH: u8 = 51;
    let ah = [[6, 4], [17, 4], [51, 255], [0, 0]].map(|next| [&next[..], &[0; 6]].concat());
    for bytes in ah {
        is_read_as(
            &fixture,
            &Frame::ipv4(OWN4, PEER4).protocol(AH, bytes.clone()),
            (AH, 0, 0, false),
        );
        is_read_as(&fixture, &Frame::ipv6(OWN6, PEER6).protocol(AH, bytes), (AH, 0, 0, false));
    }
    for frame in [
        Frame::ipv6(OWN6, PEER6).authentication(12),
        Frame::ipv6(OWN6, PEER6).hop_by_hop().destination_options(1).routing().authentication(4),
    ] {
        is_read_as(&fixture, &frame.tcp(1000, 80), (AH, 0, 0, false));
    }
    let first = Frame::ipv6(OWN6, PEER6).fragment(0, true).authentication(12);
    is_read_as(&fixture, &first.tcp(1000, 80), (AH, 0, 0, true));
}

#[test]
fn eight_extension_headers_are_the_most() {
    let Some(fixture) = Fixture::new() else { return };
    let chain = |length: usize| {
        (0..length).fold(Frame::ipv6(OWN6, PEER6), |frame, _| frame.destination_options(1))
    };
    is_read_as(&fixture, &chain(8).tcp(1000, 80), (TCP, 1000, 80, false));
    is_read_as(&fixture, &chain(7).fragment(0, true).udp(1, 2), (UDP, 1, 2, true));
    is_read_as(&fixture, &chain(8).protocol(59, []), (59, 0, 0, false));

    let workload = without_check(&fixture);
    for frame in [chain(9).tcp(1000, 80), chain(40).udp(1, 2)] {
        workload.from_container(frame.clone()).is_dropped(156);
        workload.to_container(frame.clone()).passes_unchanged();
        fixture.netdev(1).load().from_netdev(frame).passes_unchanged();
    }
}

#[test]
fn headers_end_within_the_first_512_bytes() {
    let Some(fixture) = Fixture::new() else { return };
    let behind = |bytes: usize| {
        let units = (bytes - 14 - 40) / 8;
        Frame::ipv6(OWN6, PEER6).destination_options(units).tcp(1000, 80)
    };
    is_read_as(&fixture, &behind(486), (TCP, 1000, 80, false));
    let workload = without_check(&fixture);
    workload.from_container(behind(494)).is_dropped(134);
    workload.from_container(behind(1494)).is_dropped(134);
}

#[test]
fn ports_are_read_in_first_fragments_only() {
    let Some(fixture) = Fixture::new() else { return };
    for (own, peer) in OWN_TO_PEER {
        let ip = || Frame::ip(own, peer);
        is_read_as(&fixture, &ip().fragment(0, true).tcp(1000, 80), (TCP, 1000, 80, true));
        for (offset, more) in [(1, true), (1, false), (0x1fff, false), (0x1000, true)] {
            let later = ip().fragment(offset, more).tcp(1000, 80);
            is_read_as(&fixture, &later, (TCP, 0, 0, true));
        }
        is_read_as(&fixture, &ip().vlan(7).fragment(3, false).udp(1, 2), (UDP, 0, 0, true));
    }
}

#[test]
fn an_atomic_fragment_is_a_whole_packet() {
    let Some(fixture) = Fixture::new() else { return };
    for (own, peer) in OWN_TO_PEER {
        let atomic = Frame::ip(own, peer).fragment(0, false).tcp(1000, 80);
        is_read_as(&fixture, &atomic, (TCP, 1000, 80, false));
    }
}

#[test]
fn nothing_is_read_behind_the_header_of_a_later_fragment() {
    let Some(fixture) = Fixture::new() else { return };
    let workload = without_check(&fixture);
    // The rest of a datagram, whose first bytes are no header, whatever the last header says.
    let later = Frame::ipv6(OWN6, PEER6).fragment(9, false).destination_options(1).tcp(1, 2);
    has_transport(&workload.from_container(later), (60, 0, 0, true));
    for protocol in [TCP, UDP, 58, 132] {
        let empty = Frame::ipv6(OWN6, PEER6).fragment(9, false).protocol(protocol, []);
        has_transport(&workload.from_container(empty), (protocol, 0, 0, true));
    }
    let advertisement = Frame::ipv6(OWN6, PEER6).fragment(9, false).router_advertisement();
    let run = workload.from_container(advertisement);
    has_transport(&run, (58, 0, 0, true));
    assert_eq!(run.event().icmp_type, 0, "{run:?}");
}

#[test]
fn a_packet_that_ends_inside_its_headers_is_invalid() {
    let Some(fixture) = Fixture::new() else { return };
    let workload = fixture.container(ID).address(OWN4).address(OWN6).load();
    // Behind a VLAN tag the kernel does not look at the packet before the program does.
    let v4 = || Frame::ipv4(OWN4, PEER4).vlan(7);
    let v6 = || Frame::ipv6(OWN6, PEER6).vlan(7);
    for (frame, headers) in [
        (v4().tcp(1, 2), 18 + 20 + 20),
        (v4().udp(1, 2), 18 + 20 + 8),
        (v4().sctp(1, 2), 18 + 20 + 8),
        (v4().icmp(8, 0), 18 + 20 + 8),
        (v4().options(&[1; 8]).udp(1, 2), 18 + 28 + 8),
        (v4().fragment(0, true).udp(1, 2), 18 + 20 + 8),
        (v6().tcp(1, 2), 18 + 40 + 20),
        (v6().udp(1, 2), 18 + 40 + 8),
        (v6().icmp6(128, &[0; 4]), 18 + 40 + 8),
        (v6().hop_by_hop().fragment(0, true).udp(1, 2), 18 + 40 + 16 + 8),
        (v6().routing().destination_options(3).udp(1, 2), 18 + 40 + 16 + 24 + 8),
        (Frame::arp_request(OWN4, PEER4).vlan(7), 18 + 28),
    ] {
        for length in 14..headers {
            workload.from_container(frame.clone().truncate(length)).is_dropped(134);
        }
        workload.from_container(frame.clone().truncate(headers)).passes_with_mark(ID_MARK);
        workload.from_container(frame.clone()).passes_with_mark(ID_MARK);
    }
}

#[test]
fn a_header_that_contradicts_itself_is_invalid() {
    let Some(fixture) = Fixture::new() else { return };
    let workload = without_check(&fixture);
    let patched = |frame: Frame, at: usize, byte: u8| {
        let mut bytes = frame.bytes();
        bytes[at] = byte;
        bytes
    };
    let v4 = || Frame::ipv4(OWN4, PEER4).udp(1, 2);
    let v6 = || Frame::ipv6(OWN6, PEER6).udp(1, 2);
    for version_and_length in [0x44, 0x40, 0x65, 0x05, 0x55] {
        workload.from_container(patched(v4(), 14, version_and_length)).is_dropped(134);
    }
    for version in [0x40, 0x45, 0x00, 0x70, 0xe0] {
        workload.from_container(patched(v6(), 14, version)).is_dropped(134);
    }
    // ARP for another kind of hardware, another protocol, and addresses of other lengths.
    for (at, byte) in [(15, 6), (16, 0x86), (18, 8), (19, 16)] {
        let arp = patched(Frame::arp_request(OWN4, PEER4), at, byte);
        workload.from_container(arp).is_dropped(134);
    }
}
