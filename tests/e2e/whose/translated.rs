//! What NAT makes of packets: answers under names that nobody here has, and workloads under the host's.

use std::net::UdpSocket;
use std::os::fd::AsRawFd;

use nix::libc::in6_pktinfo;
use nix::sys::socket::{
    AddressFamily, ControlMessage, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrIn,
    SockaddrIn6, sendmsg, sendto, setsockopt, socket, sockopt,
};

use super::{CLOSED, NIC, OPEN, before, came, device, enforce, port};
use crate::common::World;
use crate::common::packet::Frame;
use crate::common::traffic::{
    Connection, HOST, any, arrives, cannot_connect, is_lost, is_unanswered, listen, ping, tcp, udp,
};
use crate::common::wire::{Wire, has, mac, segment};
use crate::e2e::bridge::bridged;

/// Of somebody out there, by family.
const FOREIGN: [&str; 2] = ["9.9.9.9", "2001:db8::53"];
const RED: [&str; 2] = ["10.1.0.10", "fd00:1::10"];

/// A router between its network, behind the NIC `red`, and the world, behind `blue`.
fn router() -> Option<World> {
    let world = World::new()?;
    world.workload("red", 1);
    world.workload("blue", 2);
    world.sh("ip route add default via 10.2.0.10; ip -6 route add default via fd00:2::10");
    Some(world)
}

#[test]
fn what_a_redirect_takes_to_a_service_of_the_host_is_answered() {
    let Some(world) = router() else { return };
    world.sh("nft -f - <<'END'
         table inet proxy {
             chain prerouting {
                 type nat hook prerouting priority dstnat;
                 iifname red udp dport 53 redirect to :5300
                 iifname red tcp dport 80 redirect to :5300
             }
         }
END");
    world.cilmark_ok(&format!("attach red {NIC}"));
    let (proxy, resolver) = (listen(&world, HOST, 5300), port(&world, 5300));
    for foreign in FOREIGN {
        Connection::published(&world, "red", &proxy, foreign, 80).works();
        let asker = udp(&world, "red", any(foreign));
        asker.connect((foreign, 53)).expect("connect");
        asker.send(b"hello").expect("send");
        let (_, from) = resolver.recv_from(&mut [0; 16]).expect("the question arrives");
        resolver.send_to(b"hello", from).expect("answer");
        assert_eq!(asker.recv(&mut [0; 16]).expect("the answer arrives"), 5);
    }
    // What is for the host itself has no rule.
    for host in ["10.1.0.1", "fd00:1::1"] {
        cannot_connect(&world, "red", host, 5300);
        cannot_connect(&world, "red", host, 80);
    }
}

#[test]
fn what_a_router_resets_in_anothers_name_is_refused_at_once() {
    let Some(world) = router() else { return };
    world.sh("nft -f - <<'END'
         table inet refusals {
             chain forward {
                 type filter hook forward priority 0;
                 tcp dport 81 reject with tcp reset
             }
         }
END");
    world.cilmark_ok(&format!("attach red {NIC}"));
    let red = device(&world, "red", "red");
    for (own, foreign) in RED.into_iter().zip(FOREIGN) {
        ping(&world, "red", own);
        red.send(Frame::between(own, foreign).stream([4000, 81], "S", [1, 0], ""));
        red.until(|frame| segment(frame).is_some_and(|tcp| tcp.rst));
    }
}

/// A packet socket, a raw one, one that is bound to a foreign address, and one that names it for a single datagram:
/// each sends from there to `red`, from the port 53 of a resolver.
fn impersonate(world: &World, to: &str, foreign: &str) {
    let is_ipv4 = to.contains('.');
    let frame = |text: &str| Frame::between(foreign, to).datagram(53, 4000, text).bytes();
    let reset =
        |text: &str| Frame::between(foreign, to).stream([53, 4000], "R", [1, 0], text).bytes();
    let wire = Wire::open(world, HOST, "red", mac(world, "red", "eth0"));
    wire.send(frame("<packet>"));
    wire.send(reset("<packet reset>"));
    let family = if is_ipv4 { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let raw =
        socket(family, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::Raw).expect("raw");
    let send_raw = |frame: &[u8]| {
        let (packet, flags) = (&frame[14..], MsgFlags::empty());
        // What the hook drops may be told.
        let _ = match is_ipv4 {
            true => sendto(raw.as_raw_fd(), packet, &v4(to, 0), flags),
            false => sendto(raw.as_raw_fd(), packet, &v6(to, 0), flags),
        };
    };
    send_raw(&frame("<raw>"));
    send_raw(&reset("<raw reset>"));
    let datagrams = |bound: &str| {
        let kind = (SockType::Datagram, SockFlag::SOCK_CLOEXEC);
        let socket = socket(family, kind.0, kind.1, None).expect("a socket");
        // To send by IPv4 takes more than to be bound.
        setsockopt(&socket, sockopt::IpTransparent, &is_ipv4).expect("IP_TRANSPARENT");
        setsockopt(&socket, sockopt::IpFreebind, &true).expect("IP_FREEBIND");
        match is_ipv4 {
            true => nix::sys::socket::bind(socket.as_raw_fd(), &v4(bound, 53)),
            false => nix::sys::socket::bind(socket.as_raw_fd(), &v6(bound, 53)),
        }
        .expect("bind");
        UdpSocket::from(socket)
    };
    let _ = datagrams(foreign).send_to(b"<bound>", (to, 4000));
    if !is_ipv4 {
        let socket = datagrams("::");
        let from = in6_pktinfo { ipi6_addr: v6(foreign, 0).as_ref().sin6_addr, ipi6_ifindex: 0 };
        let _ = sendmsg(
            socket.as_raw_fd(),
            &[std::io::IoSlice::new(b"<named>")],
            &[ControlMessage::Ipv6PacketInfo(&from)],
            MsgFlags::empty(),
            Some(&v6(to, 4000)),
        );
    }
}

fn v4(address: &str, port: u16) -> SockaddrIn {
    std::net::SocketAddrV4::new(address.parse().unwrap(), port).into()
}

fn v6(address: &str, port: u16) -> SockaddrIn6 {
    std::net::SocketAddrV6::new(address.parse().unwrap(), port, 0, 0).into()
}

#[test]
fn who_only_sends_under_a_foreign_address_is_no_redirect() {
    let Some(world) = router() else { return };
    let red = device(&world, "red", "red");
    let names = ["<packet>", "<packet reset>", "<raw>", "<raw reset>", "<bound>", "<named>"];
    let seen = |to: &str, foreign: &str| {
        impersonate(&world, to, foreign);
        udp(&world, HOST, any(to)).send_to(b"the end", (to, OPEN)).expect("send");
        let frames = red.before("the end");
        let came = names.iter().filter(|name| frames.iter().any(|frame| has(frame, name)));
        came.copied().collect::<Vec<_>>()
    };
    let ends = || RED.into_iter().zip(FOREIGN);
    for (to, foreign) in ends() {
        ping(&world, HOST, to);
        let all = if to.contains('.') { &names[..5] } else { &names[..] };
        assert_eq!(seen(to, foreign), all, "to {to}");
    }
    world.cilmark_ok(&format!("attach red {NIC}"));
    world.cilmark_ok(&format!("policy add red allow egress to any udp/{OPEN} --yes"));
    for (to, foreign) in ends() {
        // A reset begins nothing. Of IPv4 a socket needs CAP_NET_RAW to send so, as a transparent proxy does.
        let passes: &[&str] = match to.contains('.') {
            true => &["<raw reset>", "<bound>"],
            false => &["<raw reset>"],
        };
        assert_eq!(seen(to, foreign), passes, "to {to}");
    }
}

/// `red` is the wire, behind a port of the bridge that has the host's addresses; `green` a container.
fn masquerading() -> Option<World> {
    let world = bridged()?;
    world.workload("green", 4);
    world.sh("nft -f - <<'END'
         table inet docker {
             chain prerouting {
                 type nat hook prerouting priority dstnat;
                 iifname \"bridge\" tcp dport 8080 meta nfproto ipv4 dnat ip to 10.4.0.10:80
                 iifname \"bridge\" tcp dport 8080 meta nfproto ipv6 dnat ip6 to [fd00:4::10]:80
             }
             chain postrouting {
                 type nat hook postrouting priority srcnat;
                 ip saddr 10.4.0.0/24 oifname \"bridge\" masquerade
                 ip6 saddr fd00:4::/64 oifname \"bridge\" masquerade
             }
         }
END");
    Some(world)
}

#[test]
fn masqueraded_workloads_get_their_replies_behind_a_port_of_a_bridge() {
    let Some(world) = masquerading() else { return };
    world.cilmark_ok(&format!("attach red {NIC}"));
    let server = listen(&world, "green", 80);
    for (address, host) in [("10.9.0.2", "10.9.0.1"), ("fd00:9::2", "fd00:9::1")] {
        tcp(&world, "green", "red", address);
        ping(&world, "green", address);
        let (green, red) = (udp(&world, "green", any(address)), udp(&world, "red", any(address)));
        let seen = arrives(&green, &red, address);
        assert_eq!(seen.ip().to_string(), host, "it is masqueraded");
        red.send_to(b"hello", seen).expect("answer");
        assert_eq!(green.recv(&mut [0; 16]).expect("the reply arrives"), 5);
        // The host itself may do nothing of this.
        is_lost(&udp(&world, HOST, any(address)), &red, address);
        is_unanswered(&world, "red", host);
        cannot_connect(&world, "red", host, 8080);
    }
    world.cilmark_ok("policy add red allow ingress from any tcp/8080 --yes");
    for host in ["10.9.0.1", "fd00:9::1"] {
        Connection::published(&world, "red", &server, host, 8080).works();
    }
}

/// A guest has taken the bridge's MAC and the host's address, so that what it sends looks masqueraded.
#[test]
fn a_guest_in_the_hosts_name_opens_no_port_on_which_the_host_listens() {
    let Some(world) = masquerading() else { return };
    let (red, blue) = (device(&world, "red", "bridge"), device(&world, "blue", "bridge"));
    let ports = [OPEN, CLOSED].map(|number| port(&world, number));
    let _server = listen(&world, HOST, CLOSED);
    let red_mac = mac(&world, "red", "eth0");
    enforce(&world, "red", "");
    for [own, host] in [["10.9.0.2", "10.9.0.1"], ["fd00:9::2", "fd00:9::1"]] {
        for flags in ["", "S"] {
            let spoof = Frame::between(host, own);
            let mut spoof = match flags {
                "" => spoof.datagram(CLOSED, 4000, "spoof").bytes(),
                _ => spoof.stream([CLOSED, 4000], flags, [1, 0], "spoof").bytes(),
            };
            spoof[..6].copy_from_slice(&red_mac);
            spoof[6..12].copy_from_slice(&red.to);
            blue.send_as_is(&spoof);
            red.before("spoof");
        }
        red.send(Frame::between(own, host).datagram(4000, CLOSED, "answer"));
        red.send(Frame::between(own, host).datagram(4000, OPEN, "the end"));
        assert_eq!(before(&ports[0], "the end"), [""; 0]);
        assert_eq!(came(&ports[1]), [""; 0], "from {own}");
    }
    assert!(!world.cilmark_ok("conntrack list").contains("masquerade"));
}
