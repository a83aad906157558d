//! The policy of a NIC: which packets are the host's, and what never depends on rules.

use cilmark::kernel::sys;

use super::verdicts::*;
use super::*;
use crate::common::Fixture;
use crate::common::fixture::ticks;
use crate::common::packet::Frame;
use crate::common::program::{Endpoint, Packet, Verdict};
use crate::common::world::wait_for;

/// The kernel takes an IPv6 address for its own a moment after it was added.
fn answers_on(fixture: &Fixture, address: &str) {
    let address = address.split('/').next().unwrap();
    wait_for("the address", || fixture.world.sh("ip -6 route show table local").contains(address));
}

fn nic(fixture: &Fixture) -> Endpoint<'_> {
    fixture.netdev(1).address(OWN4).address(OWN6).policy(enforcing()).load()
}

fn to_host(peer: IpAddr, own: IpAddr) -> Packet {
    Frame::ip(peer, own).tcp(4000, 80).forwarded()
}

#[test]
fn every_address_that_the_host_answers_on_is_covered() {
    let Some(fixture) = Fixture::new() else { return };
    fixture.router();
    let nic = nic(&fixture);
    fixture
        .world
        .sh("ip addr add 192.168.7.9/32 dev wan && ip -6 addr add fd00:7::9/128 dev wan nodad && \
         ip -6 addr add fe80::77/64 dev wan nodad");
    answers_on(&fixture, "fd00:7::9");
    answers_on(&fixture, "fe80::77");
    // Listed; secondary and another interface's; subnet broadcast; everybody's.
    for own in ["10.1.0.10", "192.168.7.9", "192.168.7.255", "255.255.255.255", "224.0.0.251"] {
        nic.from_netdev(to_host(PEER4.into(), own.parse().unwrap())).is_dropped(POLICY);
    }
    for own in ["fd00:1::10", "fd00:7::9", "fe80::77", "ff02::fb"] {
        nic.from_netdev(to_host(PEER6.into(), own.parse().unwrap())).is_dropped(POLICY);
    }
    let nobody = IpAddr::from([0, 0, 0, 0]);
    nic.from_netdev(to_host(nobody, nobody)).is_dropped(POLICY);
    // What the operator calls the host.
    fixture.ipcache("10.66.0.1", 1);
    nic.from_netdev(to_host(PEER4.into(), "10.66.0.1".parse().unwrap())).is_dropped(POLICY);
    // An address that came later, as by DHCP, and one that has gone.
    let later = "192.168.7.77".parse().unwrap();
    nic.from_netdev(to_host(PEER4.into(), later)).passes();
    fixture.world.sh("ip addr add 192.168.7.77/24 dev wan");
    nic.from_netdev(to_host(PEER4.into(), later)).is_dropped(POLICY);
    fixture.world.sh("ip addr del 192.168.7.77/24 dev wan");
    nic.from_netdev(to_host(PEER4.into(), later)).passes();
}

#[test]
fn what_is_forwarded_is_not_the_host_firewalls() {
    let Some(fixture) = Fixture::new() else { return };
    fixture.router();
    let nic = nic(&fixture);
    for peer in [IpAddr::from([10, 77, 0, 1]), "fd00:77::1".parse().unwrap()] {
        let other: IpAddr =
            if peer.is_ipv4() { [10, 78, 0, 1].into() } else { "fd00:78::1".parse().unwrap() };
        nic.from_netdev(to_host(peer, other)).passes();
        nic.to_netdev(Frame::ip(peer, other).tcp(1, 2).forwarded()).passes();
        nic.from_netdev(Frame::ip(peer, other).protocol(17, [7; 16]).fragment(16, false)).passes();
        nic.from_netdev(Frame::ip(peer, other).fragment(0, true).udp(1, 2)).passes();
    }
    assert!(fixture.flows().is_empty());
    assert_eq!(fixture.fragments(), 0);
}

/// What was found out about a forwarded packet has held for as long as it holds.
fn a_jiffy_later() {
    let before = sys::jiffies().unwrap();
    while sys::jiffies().unwrap() == before {}
}

#[test]
fn what_is_forwarded_is_the_hosts_a_jiffy_after_the_host_has_taken_its_address() {
    let Some(fixture) = Fixture::new() else { return };
    fixture.router();
    let nic = nic(&fixture);
    for (peer, other, add) in [
        ("10.77.0.1", "10.78.0.1", "10.78.0.1/32"),
        ("fd00:77::1", "fd00:78::1", "fd00:78::1/128 nodad"),
    ] {
        let [peer, other] = [peer, other].map(|text| text.parse::<IpAddr>().unwrap());
        let received = || Frame::ip(peer, other).segment(4000, 80, "A").forwarded();
        let sent = || Frame::ip(other, peer).segment(80, 4000, "A").forwarded();
        for _ in 0..100 {
            nic.from_netdev(received()).passes();
            nic.to_netdev(sent()).passes();
        }
        assert!(fixture.flows().is_empty());
        fixture.world.sh(&format!("ip addr add {add} dev wan"));
        if peer.is_ipv6() {
            answers_on(&fixture, add);
        }
        a_jiffy_later();
        nic.from_netdev(received()).is_dropped(POLICY);
        // Masqueraded from now on.
        nic.to_netdev(sent()).passes();
        assert_eq!(fixture.flows().len(), 1);
        nic.from_netdev(received()).passes();
        fixture.flush_conntrack();
    }
}

#[test]
fn what_is_forwarded_says_nothing_of_the_hosts_own_packets_between_the_same_addresses() {
    let Some(fixture) = Fixture::new() else { return };
    fixture.router();
    let nic = nic(&fixture);
    for (own, peer) in [("10.78.0.1", "10.77.0.1"), ("fd00:78::1", "fd00:77::1")] {
        let [own, peer] = [own, peer].map(|text| text.parse::<IpAddr>().unwrap());
        let packet = || Frame::ip(own, peer).segment(4000, 80, "A");
        nic.to_netdev(packet().forwarded()).passes();
        nic.to_netdev(packet()).is_dropped(POLICY);
        nic.to_netdev(packet().mark(0x0c00).forwarded()).is_dropped(POLICY);
    }
    // Seen only, and then sent here.
    let seen = || Frame::ip(PEER4, OWN4).segment(4000, 80, "A").forwarded();
    fixture.world.sh("ip link set lo address 02:00:00:00:00:99");
    nic.from_netdev(seen()).passes();
    fixture.world.sh("ip link set lo address 02:00:00:00:00:bb");
    nic.from_netdev(seen()).is_dropped(POLICY);
}

/// Each program asks for another end of a packet.
#[test]
fn what_a_nic_sends_for_others_says_nothing_of_what_it_receives_between_the_same_addresses() {
    let Some(fixture) = Fixture::new() else { return };
    fixture.router();
    // Listed, and routed elsewhere all the same: a virtual address.
    let virtual_ip = IpAddr::from([10, 99, 0, 1]);
    let nic = fixture.netdev(1).address(OWN4).address(virtual_ip).policy(enforcing()).load();
    fixture.ipcache("10.99.0.2", 1);
    let workload = IpAddr::from([10, 77, 0, 1]);
    for own in [virtual_ip, IpAddr::from([10, 99, 0, 2])] {
        let packet = || Frame::ip(workload, own).segment(4000, 80, "A").forwarded();
        for _ in 0..100 {
            nic.to_netdev(packet()).passes();
            nic.from_netdev(packet()).is_dropped(POLICY);
        }
    }
}

#[test]
fn what_is_received_under_the_hosts_address_says_nothing_of_what_is_masqueraded() {
    let Some(fixture) = Fixture::new() else { return };
    fixture.router();
    let nic = nic(&fixture);
    let peer = IpAddr::from([10, 77, 0, 1]);
    for port in 1..100 {
        nic.from_netdev(Frame::ip(OWN4, peer).udp(port, 80).forwarded()).passes();
        nic.to_netdev(Frame::ip(OWN4, peer).udp(port, 80).forwarded()).passes();
        nic.from_netdev(Frame::ip(peer, OWN4).udp(80, port).forwarded()).passes();
    }
}

#[test]
fn what_is_forwarded_is_the_hosts_with_the_next_packet_after_the_ipcache_says_so() {
    let Some(fixture) = Fixture::new() else { return };
    fixture.router();
    let nic = nic(&fixture);
    for number in 0..100 {
        let other = IpAddr::from([10, 78, 0, number]);
        let packet = || Frame::ip([10, 77, 0, 1], other).segment(4000, 80, "A").forwarded();
        nic.from_netdev(packet()).passes();
        fixture.ipcache(&other.to_string(), 1);
        nic.from_netdev(packet()).is_dropped(POLICY);
    }
}

#[test]
fn what_is_forwarded_is_forged_with_the_next_packet_after_the_ipcache_says_so() {
    let Some(fixture) = Fixture::new() else { return };
    fixture.router();
    let nic = nic(&fixture);
    for number in 0..100 {
        let other = IpAddr::from([10, 78, 0, number]);
        let packet = || Frame::ip(other, [10, 77, 0, 1]).segment(4000, 80, "A").forwarded();
        nic.from_netdev(packet()).passes();
        fixture.ipcache(&other.to_string(), 1);
        nic.from_netdev(packet()).is_dropped(132);
    }
}

#[test]
fn what_a_workload_sends_is_masqueraded_with_the_next_packet_after_the_ipcache_says_so() {
    let Some(fixture) = Fixture::new() else { return };
    fixture.router();
    let nic = nic(&fixture);
    for number in 0..100 {
        let other = IpAddr::from([10, 78, 0, number]);
        let sent = || Frame::ip(other, [10, 77, 0, 1]).segment(4000, 80, "A").forwarded();
        let answer = || Frame::ip([10, 77, 0, 1], other).segment(80, 4000, "A").forwarded();
        nic.to_netdev(sent()).passes();
        fixture.ipcache(&other.to_string(), 1);
        nic.from_netdev(answer()).is_dropped(POLICY);
        nic.to_netdev(sent()).passes();
        nic.from_netdev(answer()).passes();
    }
}

#[test]
fn a_host_that_does_not_forward_is_covered_whatever_the_address() {
    let Some(fixture) = Fixture::new() else { return };
    let nic = nic(&fixture);
    nic.from_netdev(to_host(PEER4.into(), [10, 78, 0, 1].into())).is_dropped(POLICY);
}

#[test]
fn frames_for_others_pass_by_unless_their_address_is_here() {
    let Some(fixture) = Fixture::new() else { return };
    fixture.router();
    fixture.world.sh("ip link set lo address 02:00:00:00:00:99 && \
         ip addr add 192.168.8.9/32 dev lo && ip -6 addr add fd00:8::9/128 dev lo nodad");
    let nic = nic(&fixture);
    for (peer, own) in PEER_TO_OWN {
        nic.from_netdev(to_host(peer, own)).passes();
    }
    // Of a macvlan of this host, or of a bridge that this device is in by now.
    for (peer, own) in [(PEER4.into(), "192.168.8.9"), (PEER6.into(), "fd00:8::9")] {
        nic.from_netdev(to_host(peer, own.parse().unwrap())).is_dropped(POLICY);
    }
    // What the routing tables don't tell, the list does.
    fixture.world.sh("sysctl -qw net.ipv4.ip_forward=0 net.ipv6.conf.all.forwarding=0");
    for (peer, own) in PEER_TO_OWN {
        nic.from_netdev(to_host(peer, own)).is_dropped(POLICY);
    }
    for other in ["10.78.0.1", "192.168.8.9"] {
        nic.from_netdev(to_host(PEER4.into(), other.parse().unwrap())).passes();
    }
}

#[test]
fn only_the_hosts_own_packets_meet_its_egress_policy() {
    let Some(fixture) = Fixture::new() else { return };
    fixture.router();
    fixture.register("10.3.0.1".parse().unwrap(), cilmark::model::endpoint::Role::Container, true);
    let nic = fixture.netdev(1).address(OWN4).policy(enforcing()).feature(|f| f.trust_proxy = true);
    let nic = nic.load();
    let frame = |source: &str| Frame::ip(source.parse::<IpAddr>().unwrap(), PEER4).tcp(4000, 80);
    nic.to_netdev(frame("10.1.0.10")).is_dropped(POLICY);
    nic.to_netdev(frame("10.1.0.10").mark(0x0c00).forwarded()).is_dropped(POLICY);
    nic.to_netdev(frame("10.3.0.1")).passes();
    nic.to_netdev(frame("10.1.0.10").mark(0x0b30_0b03)).passes();
    nic.to_netdev(frame("10.99.0.1").mark(0x04d2_0f00).forwarded()).passes();
    // A process with CAP_NET_RAW sets whatever mark it likes.
    nic.to_netdev(frame("10.1.0.10").mark(0x04d2_0f00)).is_dropped(POLICY);
}

#[test]
fn marks_from_a_wire_change_no_verdict() {
    let Some(fixture) = Fixture::new() else { return };
    let nic = nic(&fixture);
    fixture.rules(&nic, &["allow ingress from 300", "allow ingress from host"]);
    for mark in [0x0000_0c00, 0x012c_0f00, 0x012c_0a00, 0x012c_0b00] {
        for (peer, own) in PEER_TO_OWN {
            let run = nic.from_netdev(Frame::ip(peer, own).tcp(4000, 80).mark(mark).forwarded());
            assert_eq!((run.verdict, run.mark), (Verdict::Drop, 0));
            run.comes_from(2);
        }
    }
}

#[test]
fn the_answer_to_a_masqueraded_packet_passes() {
    let Some(fixture) = Fixture::new() else { return };
    fixture.router();
    let nic = nic(&fixture);
    for (own, peer) in OWN_TO_PEER {
        let answer = || Frame::ip(peer, own).segment(80, 4000, "SA").forwarded();
        nic.from_netdev(answer()).is_dropped(POLICY);
        nic.to_netdev(Frame::ip(own, peer).tcp(4000, 80).forwarded()).passes();
        nic.from_netdev(answer()).passes();
        // The kernel may know nothing of it any more, and give a new connection to the host.
        nic.from_netdev(Frame::ip(peer, own).tcp(80, 4000).forwarded()).is_dropped(POLICY);
        // What the host sends under that name is its own.
        nic.to_netdev(Frame::ip(own, peer).segment(4000, 80, "A")).is_dropped(POLICY);
        let other = Frame::ip(peer, own).segment(81, 4000, "SA").forwarded();
        nic.from_netdev(other).is_dropped(POLICY);
    }
}

#[test]
fn on_a_bridge_port_the_hosts_address_may_be_spoofed() {
    let Some(fixture) = Fixture::new() else { return };
    fixture.router();
    let port = fixture.netdev(1).address(OWN4).address(OWN6).policy(enforcing()).tune(|config| {
        config.bridge_port = 1;
        config.bridge_mac = [2, 0, 0, 0, 0, 0xbb];
    });
    let port = port.load();
    for (own, peer) in OWN_TO_PEER {
        let answer = || Frame::ip(peer, own).segment(80, 4000, "SA").forwarded();
        let from = |mac: u8| {
            let mut frame = Frame::ip(own, peer).tcp(4000, 80).bytes();
            frame[11] = mac;
            Packet::from(frame).forwarded()
        };
        port.to_netdev(from(0x99)).passes();
        port.from_netdev(answer()).is_dropped(POLICY);
        // Routed, and so under the bridge's own MAC.
        port.to_netdev(from(0xbb)).passes();
        port.from_netdev(answer()).passes();
    }
}

#[test]
fn what_is_not_ip_never_depends_on_rules() {
    let Some(fixture) = Fixture::new() else { return };
    let nic = nic(&fixture);
    for frame in [Frame::arp_request(PEER4, OWN4), Frame::other(0x88cc, [0; 46])] {
        nic.from_netdev(frame.clone().forwarded()).passes();
        nic.to_netdev(frame).passes();
    }
}

#[test]
fn failsafe_ports_stay_open_whatever_the_rules_say() {
    let Some(fixture) = Fixture::new() else { return };
    let policy = Enforcement { failsafe: Failsafe::standard(), ..enforcing() };
    let nic = fixture.netdev(1).address(OWN4).address(OWN6).policy(policy).load();
    fixture.rules(&nic, &["deny ingress from any", "deny egress to any"]);
    for (own, peer) in OWN_TO_PEER {
        nic.from_netdev(Frame::ip(peer, own).tcp(4000, 22).forwarded()).passes();
        nic.to_netdev(Frame::ip(own, peer).segment(22, 4000, "SA")).passes();
        nic.from_netdev(Frame::ip(peer, own).tcp(4000, 23).forwarded()).is_dropped(POLICY_DENY);
        nic.from_netdev(Frame::ip(peer, own).udp(67, 68).forwarded()).passes();
        nic.to_netdev(Frame::ip(own, peer).udp(4000, 53)).passes();
        nic.from_netdev(Frame::ip(peer, own).udp(53, 4000).forwarded()).passes();
        nic.to_netdev(Frame::ip(own, peer).udp(4000, 54)).is_dropped(POLICY_DENY);
        // Without conntrack, too; but no connection begins there.
        fixture.flush_conntrack();
        nic.to_netdev(Frame::ip(own, peer).segment(22, 4000, "A")).passes();
        nic.to_netdev(Frame::ip(own, peer).segment(22, 4000, "S")).is_dropped(POLICY_DENY);
        fixture.flush_conntrack();
        nic.from_netdev(Frame::ip(peer, own).segment(4000, 22, "A").forwarded()).passes();
    }
}

#[test]
fn headers_that_cannot_be_read_pass_no_policy() {
    let Some(fixture) = Fixture::new() else { return };
    fixture.router();
    let nic = nic(&fixture);
    fixture.rules(&nic, &["allow ingress from any", "allow egress to any"]);
    let cut = |source, destination| Frame::ip(source, destination).tcp(4000, 80).truncate(14 + 45);
    nic.from_netdev(cut(PEER6, OWN6).forwarded()).is_dropped(134);
    nic.to_netdev(cut(OWN6, PEER6)).is_dropped(134);
    let elsewhere = "fd00:78::1".parse().unwrap();
    nic.from_netdev(cut(PEER6, elsewhere).forwarded()).passes();
}

#[test]
fn what_is_routed_by_its_source_is_forwarded_too() {
    let Some(fixture) = Fixture::new() else { return };
    fixture.router();
    fixture.world.sh("ip route del default && ip -6 route del default dev wan && \
         ip rule add from 10.77.0.0/16 table 77 && ip -6 rule add from fd00:77::/64 table 77 && \
         ip route add default via 192.168.7.2 table 77 && \
         ip -6 route add default via fd00:7::2 dev wan table 77");
    let nic = nic(&fixture);
    for (peer, other, own) in
        [("10.77.0.1", "10.78.0.1", "192.168.7.1"), ("fd00:77::1", "fd00:78::1", "fd00:7::1")]
    {
        let [peer, other, own]: [IpAddr; 3] =
            [peer, other, own].map(|address| address.parse().unwrap());
        nic.from_netdev(to_host(peer, other)).passes();
        nic.from_netdev(to_host(peer, own)).is_dropped(POLICY);
    }
}

#[test]
fn what_comes_from_the_hosts_own_networks_is_forwarded_whatever_rules_say_of_its_nic() {
    let Some(fixture) = Fixture::new() else { return };
    fixture.router();
    let nic = nic(&fixture);
    fixture.world.sh(
        "ip -6 rule add iif lo to fd00:78::/64 lookup 100; ip -6 route add fd00:78::/64 dev wan table 100
         ip -6 rule add iif lo from fd00:7::/64 to fd00:7::/64 prohibit",
    );
    let packet = |source: &str| {
        let source: IpAddr = source.parse().expect("an address");
        nic.from_netdev(to_host(source, "fd00:78::1".parse().expect("an address")))
    };
    packet("fd00:7::2").passes();
    packet("fd00:7::1").is_dropped(132);
}

#[test]
fn a_bridge_hands_on_what_is_not_addressed_to_it() {
    let Some(fixture) = Fixture::new() else { return };
    // The frames go to ..:bb: not to the port.
    fixture.world.sh("ip link set lo address 02:00:00:00:00:99");
    let port = |bridge: u8| {
        let nic = fixture.netdev(1).address(OWN4).policy(enforcing());
        nic.tune(move |config| {
            config.bridge_port = 1;
            config.bridge_mac = [0x02, 0, 0, 0, 0, bridge];
        })
        .load()
    };
    for forwarding in [0, 1] {
        // Without a route to anywhere: nothing that is bridged needs one.
        fixture.world.sh(&format!(
            "sysctl -qw net.ipv4.ip_forward={forwarding} net.ipv6.conf.all.forwarding={forwarding}"
        ));
        for (peer, other) in [("10.77.0.1", "10.78.0.1"), ("fd00:77::1", "fd00:78::1")] {
            let frame = || to_host(peer.parse().unwrap(), other.parse().unwrap());
            port(0x98).from_netdev(frame()).passes();
            port(0xbb).from_netdev(frame()).is_dropped(POLICY);
        }
    }
}

#[test]
fn a_vlans_own_mac_hides_no_address_of_the_host() {
    let Some(fixture) = Fixture::new() else { return };
    fixture.router();
    fixture.world.sh("ip link set lo address 02:00:00:00:00:99");
    let nic = nic(&fixture);
    for (peer, own) in PEER_TO_OWN {
        let frame = |to: IpAddr| Frame::ip(peer, to).vlan(100).tcp(4000, 80).forwarded();
        let other = if own.is_ipv4() { "10.78.0.1" } else { "fd00:78::1" };
        nic.from_netdev(frame(other.parse().unwrap())).passes();
        let here = if own.is_ipv4() { "192.168.7.1" } else { "fd00:7::1" };
        nic.from_netdev(frame(here.parse().unwrap())).is_dropped(POLICY);
    }
}

/// The kernel may have forgotten it, and what the sender goes on with would be the host's.
#[test]
fn what_arrives_keeps_no_masqueraded_flow_alive() {
    let Some(fixture) = Fixture::new() else { return };
    fixture.router();
    let nic = nic(&fixture);
    for (own, peer) in OWN_TO_PEER {
        fixture.flush_conntrack();
        let leaves = || _ = nic.to_netdev(Frame::ip(own, peer).udp(4000, 53).forwarded()).passes();
        leaves();
        fixture.change_flows(|flow| flow.expires -= ticks(10));
        let before = fixture.flows()[0].expires;
        for _ in 0..2 {
            nic.from_netdev(Frame::ip(peer, own).udp(53, 4000).forwarded()).passes();
        }
        assert_eq!(fixture.flows()[0].expires, before);
        leaves();
        assert!(fixture.flows()[0].expires > before);
    }
}

#[test]
fn what_masquerade_lends_ends_before_the_kernel_forgets_it() {
    let Some(fixture) = Fixture::new() else { return };
    fixture.router();
    let nic = nic(&fixture);
    fixture.rules(&nic, &["allow egress to any udp/9"]);
    for (own, peer) in OWN_TO_PEER {
        fixture.flush_conntrack();
        nic.to_netdev(Frame::ip(own, peer).udp(4000, 53).forwarded()).passes();
        nic.from_netdev(Frame::ip(peer, own).udp(53, 4000).forwarded()).passes();
        let left =
            || fixture.flows().first().map(|flow| (flow.expires as u16).wrapping_sub(flow.born));
        let lent = left().expect("a masqueraded flow");
        fixture.flush_conntrack();
        nic.to_netdev(Frame::ip(own, peer).udp(4000, 9)).passes();
        let own_flow = left().expect("the host's own flow");
        // Of 25 seconds and 30.
        assert!((own_flow - lent).abs_diff(ticks(5) as u16) <= 3, "{own_flow} {lent}");
    }
}

#[test]
fn a_flow_of_the_hosts_that_is_over_is_no_workloads() {
    let Some(fixture) = Fixture::new() else { return };
    fixture.router();
    let nic = nic(&fixture);
    for (own, peer) in OWN_TO_PEER {
        fixture.rules(&nic, &["allow egress to any"]);
        nic.to_netdev(Frame::ip(own, peer).udp(4000, 53)).passes();
        fixture.rules(&nic, &["deny egress to any"]);
        nic.to_netdev(Frame::ip(own, peer).udp(4000, 53).forwarded()).passes();
        nic.from_netdev(Frame::ip(peer, own).udp(53, 4000).forwarded()).passes();
        nic.to_netdev(Frame::ip(own, peer).udp(4000, 53)).is_dropped(POLICY_DENY);
    }
}
