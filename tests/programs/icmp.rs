//! ICMP that is no echo: what a link needs, errors and what they quote, and the rest by type.

use super::verdicts::*;
use super::*;
use crate::common::Fixture;
use crate::common::packet::Frame;
use crate::common::program::{Endpoint, Packet};

const ROUTER4: Ipv4Addr = Ipv4Addr::new(10, 9, 9, 9);
const ROUTER6: Ipv6Addr = Ipv6Addr::new(0xfd00, 9, 0, 0, 0, 0, 0, 9);
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);

const NEIGHBOUR_MESSAGES: [u8; 8] = [133, 134, 135, 136, 141, 142, 148, 149];
const LISTENER_MESSAGES: [u8; 7] = [130, 131, 132, 143, 151, 152, 153];

fn nic(fixture: &Fixture) -> Endpoint<'_> {
    fixture.netdev(1).address(OWN4).address(OWN6).policy(enforcing()).load()
}

/// An error of this type and code from a router, about a packet. It need not quote more than eight bytes of
/// the transport header.
pub fn error(to: IpAddr, [kind, code]: [u8; 2], about: Frame) -> Frame {
    let header = if to.is_ipv4() { 20 } else { 40 };
    let quote = &about.without_ethernet().bytes()[..header + 8];
    let message = [&[kind, code, 0, 0, 0, 0, 0, 0], quote].concat();
    match to {
        IpAddr::V4(to) => Frame::ip(ROUTER4, to).protocol(1, message),
        IpAddr::V6(to) => Frame::ip(ROUTER6, to).protocol(58, message),
    }
}

/// Path MTU messages among them.
fn errors_of(family_of: IpAddr) -> &'static [[u8; 2]] {
    if family_of.is_ipv4() {
        &[[3, 1], [3, 4], [11, 0], [12, 0]]
    } else {
        &[[1, 0], [2, 0], [3, 0], [4, 0]]
    }
}

#[test]
fn an_error_passes_with_the_flow_that_it_quotes() {
    let Some(fixture) = Fixture::new() else { return };
    let workload = fixture.container(ID).policy(enforcing()).load();
    fixture.rules(&workload, &["allow egress to any udp/53", "allow egress to any tcp/80"]);
    for (own, peer) in OWN_TO_PEER {
        workload.from_container(Frame::ip(own, peer).udp(4000, 53)).passes();
        workload.from_container(Frame::ip(own, peer).tcp(4000, 80)).passes();
        for (quoted, passes) in [
            (Frame::ip(own, peer).udp(4000, 53), true),
            (Frame::ip(own, peer).udp(4001, 53), false),
            (Frame::ip(own, peer).tcp(4000, 80), true),
            (Frame::ip(own, peer).segment(4000, 81, "S"), false),
            // Somebody else's packet.
            (Frame::ip(peer, own).udp(53, 4000), false),
        ] {
            for kind in errors_of(own) {
                let run = workload.to_container(error(own, *kind, quoted.clone()).forwarded());
                if passes {
                    run.passes();
                } else {
                    run.is_dropped(POLICY);
                }
            }
        }
    }
}

/// Else whoever knows of a flow could send errors about it to all others here.
#[test]
fn an_error_passes_to_nobody_but_who_has_sent_what_it_quotes() {
    let Some(fixture) = Fixture::new() else { return };
    let workload = fixture.container(ID).policy(enforcing()).load();
    let nic = nic(&fixture);
    for endpoint in [&workload, &nic] {
        fixture.rules(endpoint, &["allow egress to any udp/53", "allow ingress from any udp/53"]);
    }
    for (own, peer) in OWN_TO_PEER {
        let sent = Frame::ip(own, peer).udp(4000, 53);
        let received = Frame::ip(peer, own).udp(4000, 53);
        workload.from_container(sent.clone()).passes();
        workload.to_container(received.clone().forwarded()).passes();
        nic.to_netdev(sent.clone()).passes();
        nic.from_netdev(received.clone().forwarded()).passes();
        let others: [IpAddr; 2] = match own {
            IpAddr::V4(_) => [Ipv4Addr::new(10, 1, 0, 11).into(), PEER4.into()],
            IpAddr::V6(_) => ["fd00:1::11".parse().unwrap(), PEER6.into()],
        };
        for other in others {
            let about_sent = || error(other, errors_of(own)[0], sent.clone());
            workload.to_container(about_sent().forwarded()).is_dropped(POLICY);
            nic.from_netdev(about_sent().forwarded()).is_dropped(POLICY);
        }
        let about_received = || error(others[0], errors_of(own)[0], received.clone());
        workload.from_container(about_received()).is_dropped(POLICY);
        nic.to_netdev(about_received()).is_dropped(POLICY);
        workload.to_container(error(own, errors_of(own)[0], sent).forwarded()).passes();
        workload.from_container(error(peer, errors_of(own)[0], received)).passes();
    }
}

/// Who sends an error need not be who the flow is with.
#[test]
fn an_error_is_judged_by_what_is_known_of_its_flows_remote_end() {
    let Some(fixture) = Fixture::new() else { return };
    let workload = fixture.container(ID).policy(enforcing()).load();
    let nic = nic(&fixture);
    for endpoint in [&workload, &nic] {
        fixture.rules(endpoint, &["allow egress to 300"]);
    }
    let say = |address: IpAddr, identity| fixture.ipcache(&address.to_string(), identity);
    for (own, peer) in OWN_TO_PEER {
        let router: IpAddr = if own.is_ipv4() { ROUTER4.into() } else { ROUTER6.into() };
        say(peer, 300);
        let sent = || Frame::ip(own, peer).udp(4000, 53);
        workload.from_container(sent()).passes();
        nic.to_netdev(sent()).passes();
        let received = || error(own, errors_of(own)[0], sent()).forwarded();
        let passes = || {
            workload.to_container(received()).passes();
            nic.from_netdev(received()).passes();
        };
        // No rule is asked as long as nothing is known to have changed, and of the router nothing counts.
        fixture.ipcache_in_silence(peer, 301);
        passes();
        say(router, 302);
        passes();
        say(peer, 303);
        workload.to_container(received()).is_dropped(POLICY);
        nic.from_netdev(received()).is_dropped(POLICY);
    }
}

#[test]
fn an_error_passes_as_long_as_its_flow_is_allowed() {
    let Some(fixture) = Fixture::new() else { return };
    let workload = fixture.container(ID).policy(enforcing()).load();
    for (own, peer) in OWN_TO_PEER {
        let echo = || match own {
            IpAddr::V4(_) => Frame::ip(own, peer).icmp(8, 0),
            IpAddr::V6(_) => Frame::ip(own, peer).icmp6(128, &[0, 1, 0, 1]),
        };
        for packet in [Frame::ip(own, peer).udp(4000, 53), echo()] {
            fixture.rules(&workload, &["allow egress to any"]);
            workload.from_container(packet.clone()).passes();
            for kind in errors_of(own) {
                let received = || error(own, *kind, packet.clone()).forwarded();
                workload.to_container(received()).passes();
                // Something else has changed.
                fixture.bump_generation();
                workload.to_container(received()).passes();
                fixture.rules(&workload, &["allow egress to any tcp"]);
                fixture.bump_generation();
                workload.to_container(received()).is_dropped(POLICY);
                fixture.rules(&workload, &["allow egress to any"]);
                fixture.bump_generation();
            }
        }
    }
}

#[test]
fn what_an_error_quotes_ends_with_the_error() {
    let Some(fixture) = Fixture::new() else { return };
    let workload = fixture.container(ID).policy(enforcing()).load();
    fixture.rules(&workload, &["allow egress to any udp/53"]);
    for (own, peer) in OWN_TO_PEER {
        let packet = Frame::ip(own, peer).udp(4000, 53);
        workload.from_container(packet.clone()).passes();
        let mut bytes = error(own, errors_of(own)[0], packet).bytes();
        let length_at = if own.is_ipv4() { 14 + 3 } else { 14 + 5 };
        workload.to_container(Packet::from(bytes.clone()).forwarded()).passes();
        // The quote's last byte is the frame's trailer now.
        bytes[length_at] -= 1;
        let run = workload.to_container(Packet::from(bytes).forwarded());
        run.is_dropped(POLICY);
    }
}

#[test]
fn an_error_in_fragments_belongs_to_no_flow() {
    let Some(fixture) = Fixture::new() else { return };
    let workload = fixture.container(ID).policy(enforcing()).load();
    fixture.rules(&workload, &["allow egress to any udp/53"]);
    for (own, peer) in OWN_TO_PEER {
        let packet = Frame::ip(own, peer).udp(4000, 53);
        workload.from_container(packet.clone()).passes();
        let first = error(own, errors_of(own)[1], packet).fragment(0, true);
        workload.to_container(first.forwarded()).is_dropped(POLICY);
    }
}

#[test]
fn at_a_host_an_error_needs_a_quote_too() {
    let Some(fixture) = Fixture::new() else { return };
    let nic = nic(&fixture);
    fixture.rules(&nic, &["allow egress to any udp/53"]);
    for (own, peer) in OWN_TO_PEER {
        nic.to_netdev(Frame::ip(own, peer).udp(4000, 53)).passes();
        for kind in errors_of(own) {
            let about = |port| error(own, *kind, Frame::ip(own, peer).udp(4000, port)).forwarded();
            nic.from_netdev(about(53)).passes();
            nic.from_netdev(about(54)).is_dropped(POLICY);
        }
    }
}

#[test]
fn an_error_about_a_failsafe_ports_answer_or_a_hosts_socket_passes() {
    let Some(fixture) = Fixture::new() else { return };
    let policy = Enforcement { failsafe: Failsafe::standard(), ..enforcing() };
    let nic = fixture.netdev(1).address(OWN4).address(OWN6).policy(policy).load();
    let socket = std::net::UdpSocket::bind("[::]:0").expect("a socket");
    let port = socket.local_addr().expect("its address").port();
    fixture.world.sh("ip addr add 10.1.0.10/32 dev lo; ip -6 addr add fd00:1::10/128 dev lo nodad");
    for (own, peer) in OWN_TO_PEER {
        for kind in errors_of(own) {
            let about = |packet| nic.from_netdev(error(own, *kind, packet).forwarded());
            about(Frame::ip(own, peer).segment(22, 4000, "A")).passes();
            about(Frame::ip(own, peer).segment(23, 4000, "A")).is_dropped(POLICY);
            about(Frame::ip(own, peer).udp(port, 4000)).passes();
            about(Frame::ip(own, peer).udp(port ^ 1, 4000)).is_dropped(POLICY);
        }
    }
}

#[test]
fn a_link_has_its_messages_whatever_the_rules_say() {
    let Some(fixture) = Fixture::new() else { return };
    let workload = fixture.container(ID).policy(enforcing()).load();
    let nic = nic(&fixture);
    fixture.rules(&workload, &["deny egress to any", "deny ingress from any"]);
    fixture.rules(&nic, &["deny egress to any", "deny ingress from any"]);
    for (types, hops) in [(&NEIGHBOUR_MESSAGES[..], 255), (&LISTENER_MESSAGES[..], 1)] {
        for kind in types {
            let message =
                |hops| Frame::ipv6(LINK_LOCAL, ALL_NODES).ttl(hops).icmp6(*kind, &[0; 20]);
            if *kind != 134 {
                workload.from_container(message(hops)).passes();
            }
            workload.to_container(message(hops).forwarded()).passes();
            nic.to_netdev(message(hops)).passes();
            nic.from_netdev(message(hops).forwarded()).passes();
            // Whoever forwards a packet takes from its hop limit.
            for other in [hops - 1, 64] {
                if *kind != 134 {
                    workload.from_container(message(other)).is_dropped(POLICY_DENY);
                }
                workload.to_container(message(other).forwarded()).is_dropped(POLICY_DENY);
                nic.to_netdev(message(other)).is_dropped(FORBIDDEN_ICMP6);
                nic.from_netdev(message(other).forwarded()).is_dropped(FORBIDDEN_ICMP6);
            }
        }
    }
}

#[test]
fn listener_messages_stay_between_link_local_and_multicast_addresses() {
    let Some(fixture) = Fixture::new() else { return };
    let workload = fixture.container(ID).policy(enforcing()).load();
    for kind in LISTENER_MESSAGES {
        for (source, destination, passes) in [
            (LINK_LOCAL, ALL_NODES, true),
            (Ipv6Addr::UNSPECIFIED, ALL_NODES, true),
            (LINK_LOCAL, LINK_LOCAL, true),
            (PEER6, ALL_NODES, false),
            (LINK_LOCAL, OWN6, false),
        ] {
            let message = Frame::ipv6(source, destination).ttl(1).icmp6(kind, &[0; 20]);
            let run = workload.to_container(message.forwarded());
            if passes {
                run.passes();
            } else {
                run.is_dropped(POLICY);
            }
        }
    }
    let advertisement = Frame::ipv6(PEER6, ALL_NODES).ttl(255).router_advertisement();
    workload.to_container(advertisement.forwarded()).is_dropped(POLICY);
}

#[test]
fn a_workloads_neighbour_messages_are_not_routed() {
    let Some(fixture) = Fixture::new() else { return };
    fixture.world.sh("sysctl -qw net.ipv6.conf.all.forwarding=1 && \
         ip link add wan type veth peer name wan-peer && ip link set wan up && \
         ip link set wan-peer up && ip -6 addr add fd00:7::1/64 dev wan nodad");
    let workload = fixture.container(ID).policy(enforcing()).load();
    let bridged =
        fixture.container(ID).policy(enforcing()).tune(|config| config.bridge_port = 1).load();
    let (host, beyond) = ("fd00:7::1".parse().unwrap(), "fd00:7::2".parse().unwrap());
    for kind in [133, 135, 136] {
        let message = |to: Ipv6Addr| Frame::ipv6(OWN6, to).ttl(255).icmp6(kind, &[0; 20]);
        workload.from_container(message(host)).passes();
        workload.from_container(message(beyond)).is_dropped(POLICY);
        // To a neighbour's MAC the bridge hands it on.
        let mut to_neighbour = message(beyond).bytes();
        to_neighbour[5] ^= 0xff;
        bridged.from_container(to_neighbour).passes();
    }
}

#[test]
fn nothing_passes_by_itself_in_fragments() {
    let Some(fixture) = Fixture::new() else { return };
    let workload = fixture.container(ID).policy(enforcing()).load();
    for (kind, hops) in [(135, 255), (143, 1)] {
        let message = Frame::ipv6(LINK_LOCAL, ALL_NODES).ttl(hops).icmp6(kind, &[0; 20]);
        workload.to_container(message.fragment(0, true).forwarded()).is_dropped(POLICY);
    }
}

#[test]
fn every_other_type_is_forbidden_to_the_host() {
    let Some(fixture) = Fixture::new() else { return };
    let nic = nic(&fixture);
    for kind in 0..=255 {
        let frame = || Frame::ip(PEER6, OWN6).icmp6(kind, &[0; 4]);
        let back = || Frame::ip(OWN6, PEER6).icmp6(kind, &[0; 4]);
        for run in [nic.from_netdev(frame().forwarded()), nic.to_netdev(back())] {
            match kind {
                1..=4 | 128 | 129 => run.is_dropped(POLICY),
                _ => run.is_dropped(FORBIDDEN_ICMP6),
            };
        }
    }
}

#[test]
fn in_the_other_family_it_is_a_protocol_without_types() {
    let Some(fixture) = Fixture::new() else { return };
    let workload = fixture.container(ID).policy(enforcing()).load();
    for (own, peer) in OWN_TO_PEER {
        let other = if own.is_ipv4() { 58 } else { 1 };
        for kind in [0, 2, 3, 8, 128, 135, 143] {
            let message =
                Frame::ip(own, peer).ttl(255).protocol(other, [kind, 4, 0, 0, 0, 0, 0, 0]);
            fixture.rules(
                &workload,
                &[
                    format!("allow egress to any icmp/{kind}"),
                    format!("allow egress to any icmp6/{kind}"),
                    "allow egress to any icmp/0".to_owned(),
                ],
            );
            workload.from_container(message.clone()).is_dropped(POLICY);
            fixture.rules(&workload, &[format!("allow egress to any proto/{other}")]);
            workload.from_container(message).passes();
            fixture.flush_conntrack();
        }
    }
}

/// Between listeners and multicast routers.
const IGMP: [u8; 8] = [0x11, 0x12, 0x16, 0x17, 0x22, 0x30, 0x31, 0x32];

fn igmp(source: Ipv4Addr, destination: Ipv4Addr, kind: u8) -> Frame {
    // With the router alert option, as it is sent.
    let frame = Frame::ipv4(source, destination).ttl(1).options(&[0x94, 4, 0, 0]);
    frame.protocol(2, [kind, 0, 0, 0, 239, 1, 2, 3])
}

const GROUP: Ipv4Addr = Ipv4Addr::new(239, 1, 2, 3);

#[test]
fn igmp_passes_within_the_link_whatever_the_rules_say() {
    let Some(fixture) = Fixture::new() else { return };
    let workload = fixture.container(ID).policy(enforcing()).load();
    let nic = fixture.netdev(1).id(8).address(OWN4).policy(enforcing()).load();
    for endpoint in [&workload, &nic] {
        fixture.rules(endpoint, &["deny ingress from any proto/2", "deny egress to any proto/2"]);
    }
    for kind in IGMP {
        for source in [OWN4, PEER4, Ipv4Addr::UNSPECIFIED] {
            let message = igmp(source, GROUP, kind);
            workload.from_container(message.clone()).passes();
            workload.to_container(message.clone().forwarded()).passes();
            nic.to_netdev(message.clone()).passes();
            // Nobody on a wire has the host's own address.
            if source != OWN4 {
                nic.from_netdev(message.forwarded()).passes();
            }
        }
    }
    assert_eq!(fixture.flows().len(), 0, "they begin none");
}

#[test]
fn other_igmp_goes_by_the_rules() {
    let Some(fixture) = Fixture::new() else { return };
    let workload = fixture.container(ID).policy(enforcing()).load();
    let nic = fixture.netdev(1).id(8).address(OWN4).policy(enforcing()).load();
    let odd = |kind: u8| {
        [
            igmp(PEER4, GROUP, kind).ttl(2),
            igmp(PEER4, GROUP, kind).ttl(64),
            igmp(PEER4, OWN4, kind),
            igmp(PEER4, Ipv4Addr::BROADCAST, kind),
            igmp(PEER4, GROUP, kind).fragment(0, true),
        ]
    };
    let short = Frame::ipv4(PEER4, GROUP).ttl(1).protocol(2, [0x16; 7]);
    // Of DVMRP, PIM and a trace; of no IGMP but IPv6.
    let others = [0, 0x13, 0x14, 0x1f, 0x40, 0x51].map(|kind| igmp(PEER4, GROUP, kind));
    let v6 = Frame::ipv6(LINK_LOCAL, ALL_NODES).ttl(1).protocol(2, [0x16; 8]);
    let odd = IGMP.into_iter().flat_map(odd);
    let frames: Vec<Frame> = odd.chain(others).chain([short, v6]).collect();
    for frame in &frames {
        workload.to_container(frame.clone().forwarded()).is_dropped(POLICY);
        nic.from_netdev(frame.clone().forwarded()).is_dropped(POLICY);
    }
    for endpoint in [&workload, &nic] {
        fixture.rules(endpoint, &["allow ingress from any proto/2"]);
    }
    fixture.bump_generation();
    for frame in &frames {
        workload.to_container(frame.clone().forwarded()).passes();
        nic.from_netdev(frame.clone().forwarded()).passes();
    }
}
