//! Receivers of multicast behind a switch that listens to who is in which group, and questions to many.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6, UdpSocket};

use nix::net::if_::if_nametoindex;

use crate::common::World;
use crate::common::process::PATIENCE;
use crate::common::traffic::{HOST, is_lost, udp};
use crate::common::world::wait_for;

const GROUP: Ipv4Addr = Ipv4Addr::new(239, 1, 2, 3);
const GROUP6: Ipv6Addr = Ipv6Addr::new(0xff15, 0, 0, 0, 0, 1, 2, 3);

/// A switch that asks each second, as a bridge of the namespace `namespace`, with this port.
fn switch(world: &World, namespace: &str, port: &str) {
    let ip = if namespace.is_empty() { "ip".to_owned() } else { format!("ip -n {namespace}") };
    world.sh(&format!(
        "{ip} link add switch type bridge mcast_snooping 1 mcast_querier 1 mcast_query_interval 100 \
             mcast_query_response_interval 50 mcast_membership_interval 300 \
             mcast_startup_query_interval 50 mcast_igmp_version 3 mcast_mld_version 2
         {ip} link set switch up
         {ip} link set {port} master switch"
    ));
}

/// Waits until the switch knows who is in both groups by what it was told when they were joined, and again
/// by the answer to a question of its own.
fn is_heard(world: &World, namespace: &str, port: &str) {
    let bridge = match namespace {
        "" => "bridge".to_owned(),
        namespace => format!("bridge -n {namespace}"),
    };
    let knows = |group: &str| world.sh(&format!("{bridge} mdb show dev switch")).contains(group);
    for group in ["239.1.2.3", "ff15::1:2:3"] {
        wait_for(&format!("{group} on the switch"), || knows(group));
        world.sh(&format!("{bridge} mdb del dev switch port {port} grp {group}"));
        wait_for(&format!("{group} on the switch again"), || knows(group));
    }
}

/// A socket in both groups on a device of the calling thread's namespace.
fn receiver(own: Ipv4Addr, device: &str) -> [UdpSocket; 2] {
    let sockets = ["0.0.0.0:5000", "[::]:5001"].map(|it| UdpSocket::bind(it).expect("bind"));
    sockets[0].join_multicast_v4(&GROUP, &own).expect("join");
    let index = if_nametoindex(device).expect("the device");
    sockets[1].join_multicast_v6(&GROUP6, index).expect("join");
    sockets
}

#[test]
fn an_enforcing_host_is_heard_by_its_switch() {
    let Some(world) = World::new() else { return };
    world.workload("red", 1);
    switch(&world, "red", "eth0");
    world.cilmark_ok("attach red --role netdev --policy enforce --failsafe none --adopt 0 --yes");
    let _sockets = receiver(Ipv4Addr::new(10, 1, 0, 1), "red");
    is_heard(&world, "red", "eth0");
}

#[test]
fn so_is_an_enforcing_workload() {
    let Some(world) = World::new() else { return };
    world.workload("red", 1);
    switch(&world, "", "red");
    world.cilmark_ok("attach red --id 1234 --ip 10.1.0.10 fd00:1::10 --policy enforce");
    let _sockets = world.inside("red", || receiver(Ipv4Addr::new(10, 1, 0, 10), "eth0"));
    is_heard(&world, "", "red");
}

/// Before DHCP has given it one.
#[test]
fn and_a_workload_that_has_no_address_yet() {
    let Some(world) = World::new() else { return };
    world.workload("red", 1);
    switch(&world, "", "red");
    world.sh("ip -n red -4 addr flush dev eth0; ip -n red route add 224.0.0.0/4 dev eth0");
    world.cilmark_ok("attach red --id 1234 --ip 10.1.0.10 fd00:1::10 --policy enforce");
    let _sockets = world.inside("red", || receiver(Ipv4Addr::UNSPECIFIED, "eth0"));
    is_heard(&world, "", "red");
}

/// Where SSDP asks.
const SSDP: Ipv4Addr = Ipv4Addr::new(239, 255, 255, 250);
const SSDP6: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 0xc);

/// One end of the wire between this host and the workload `red`.
#[derive(Clone, Copy)]
struct End {
    namespace: &'static str,
    device: &'static str,
    address: Ipv4Addr,
    address6: &'static str,
}

const HERE: End = End {
    namespace: HOST,
    device: "red",
    address: Ipv4Addr::new(10, 1, 0, 1),
    address6: "fd00:1::1",
};
const THERE: End = End {
    namespace: "red",
    device: "eth0",
    address: Ipv4Addr::new(10, 1, 0, 10),
    address6: "fd00:1::10",
};

/// A workload and this host, each with a way to groups.
fn wire() -> Option<World> {
    let world = World::new()?;
    world.workload("red", 1);
    world.sh("ip route add 224.0.0.0/4 dev red; ip route add 255.255.255.255 dev red");
    Some(world)
}

/// What answers questions at one end, and what asks them at the other.
struct Discovery<'a> {
    world: &'a World,
    asker: End,
    asked: End,
    /// One socket for each family.
    sockets: [UdpSocket; 2],
}

impl Discovery<'_> {
    fn new(world: &World, asker: End, asked: End) -> Discovery<'_> {
        let sockets = world.inside(asked.namespace, || {
            let sockets =
                ["0.0.0.0:1900", "[::]:1901"].map(|it| UdpSocket::bind(it).expect("bind"));
            sockets[0].join_multicast_v4(&SSDP, &asked.address).expect("join");
            let index = if_nametoindex(asked.device).expect("the device");
            sockets[1].join_multicast_v6(&SSDP6, index).expect("join");
            sockets
        });
        sockets.iter().for_each(|it| it.set_read_timeout(Some(PATIENCE)).expect("set a timeout"));
        Discovery { world, asker, asked, sockets }
    }

    /// Asks whoever there is, when the next one is wanted: an answer has only so long. The socket, and those that were asked.
    fn asks(&self) -> impl Iterator<Item = (UdpSocket, &UdpSocket)> {
        let End { namespace, device, .. } = self.asker;
        let index = self.world.inside(namespace, || if_nametoindex(device)).expect("the device");
        let group6 = SocketAddrV6::new(SSDP6, 1901, 0, index);
        let broadcast = Ipv4Addr::new(10, 1, 0, 255);
        let questions = [
            (SocketAddr::from((SSDP, 1900)), &self.sockets[0]),
            (SocketAddr::from((broadcast, 1900)), &self.sockets[0]),
            (SocketAddr::from((Ipv4Addr::BROADCAST, 1900)), &self.sockets[0]),
            (group6.into(), &self.sockets[1]),
        ];
        let ask = move |(to, asked): (SocketAddr, _)| {
            // A workload with addresses of its own has nothing to say from its link-local one, which comes a while later.
            let from = match to.is_ipv4() {
                true => "0.0.0.0:0".to_owned(),
                false => format!("[{}]:0", self.asker.address6),
            };
            let socket = udp(self.world, namespace, &from);
            socket.set_broadcast(true).expect("allow broadcasts");
            socket.send_to(b"who?", to).expect("ask");
            (socket, asked)
        };
        questions.into_iter().map(ask)
    }

    /// Each question comes, and each answer.
    fn is_answered(&self) {
        for (asker, asked) in self.asks() {
            let (_, from) = asked.recv_from(&mut [0; 16]).expect("the question arrives");
            asked.send_to(b"here", from).expect("answer");
            asker.recv_from(&mut [0; 16]).expect("the answer arrives");
        }
    }

    /// What comes from where nobody has asked, or to where nobody has.
    fn lets_nothing_else_in(&self) {
        for (asker, asked) in self.asks() {
            let is_ipv4 = asked.local_addr().expect("an address").is_ipv4();
            let (any, to) = match is_ipv4 {
                true => ("0.0.0.0:0", self.asker.address.to_string()),
                false => ("[::]:0", self.asker.address6.to_owned()),
            };
            asked.recv_from(&mut [0; 16]).expect("the question arrives");
            is_lost(&udp(self.world, self.asked.namespace, any), &asker, &to);
            is_lost(asked, &udp(self.world, self.asker.namespace, any), &to);
        }
    }
}

#[test]
fn an_enforcing_host_that_asks_many_is_answered() {
    let Some(world) = wire() else { return };
    world.cilmark_ok("attach red --role netdev --policy enforce --failsafe none --adopt 0 --yes");
    world.cilmark_ok("policy add red allow egress to any udp/1900-1901 --yes");
    let discovery = Discovery::new(&world, HERE, THERE);
    discovery.is_answered();
    discovery.lets_nothing_else_in();
}

#[test]
fn commands_tell_of_a_question_that_waits_for_answers() {
    let Some(world) = wire() else { return };
    world.cilmark_ok("attach red --role netdev --policy enforce --failsafe none --adopt 0 --yes");
    world.cilmark_ok("policy add red allow egress to any udp/1900-1901 --yes");
    let discovery = Discovery::new(&world, HERE, THERE);
    let (asker, _) = discovery.asks().next().expect("a question");
    let port = asker.local_addr().expect("an address").port();
    let answer = format!("--src 10.1.0.10 --dst 10.1.0.1 --proto udp --sport 1900 --dport {port}");
    let explained = world.cilmark_json(&format!("explain red from {answer}"));
    assert_eq!(explained["conntrack"], "related", "{explained}");
    let listed = world.cilmark_json(&format!("conntrack list --port udp/{port}"));
    let remotes: Vec<&str> = (listed.as_array().unwrap().iter())
        .map(|line| {
            assert_eq!(
                (&line["protocol"], &line["stale"]),
                (&"udp".into(), &false.into()),
                "{line}"
            );
            line["remote"].as_str().unwrap()
        })
        .collect();
    assert_eq!(remotes, ["0.0.0.0", "239.255.255.250"]);
    world.cilmark_ok(&format!("conntrack flush --port udp/{port}"));
    assert_eq!(world.cilmark(&format!("explain red from {answer}")).status, Some(3));
}

#[test]
fn and_an_enforcing_workload_that_does() {
    let Some(world) = wire() else { return };
    world.cilmark_ok("attach red --id 1234 --ip 10.1.0.10 fd00:1::10 --policy enforce");
    world.cilmark_ok("policy add red allow egress to any udp/1900-1901");
    let discovery = Discovery::new(&world, THERE, HERE);
    discovery.is_answered();
    discovery.lets_nothing_else_in();
}

#[test]
fn who_is_asked_among_many_answers_whatever_he_may_send() {
    for attach in [
        "attach red --id 1234 --ip 10.1.0.10 fd00:1::10 --policy enforce",
        "attach red --role netdev --policy enforce --failsafe none --adopt 0 --yes",
    ] {
        let claim = move || {
            let Some(world) = wire() else { return };
            world.cilmark_ok(attach);
            world.cilmark_ok("policy add red allow ingress from any udp/1900-1901 --yes");
            let ends = if attach.contains("netdev") { (THERE, HERE) } else { (HERE, THERE) };
            let discovery = Discovery::new(&world, ends.0, ends.1);
            discovery.is_answered();
            discovery.lets_nothing_else_in();
        };
        std::thread::spawn(claim).join().unwrap_or_else(|_| panic!("{attach}"));
    }
}
