//! A host with a stranger on its segment and two workloads. Nobody but the fuzzer says anything: no kernel asks
//! for neighbours, and what the host and the workloads would answer gets no further than the stranger.

use std::net::{IpAddr, UdpSocket};

use cilmark::model::identity::Identity;
use cilmark::state::ipcache::Ipcache;
use ipnet::IpNet;
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;

use super::{Sender, network};
use crate::common::World;
use crate::common::random::Random;
use crate::common::wire::Wire;
use crate::fuzz::generate::{Scene, policy};
use crate::fuzz::model::wire::{Fragment, Ip, Transport};
use crate::fuzz::model::{Direction, Endpoint, Line, Machine, Mode, Owner, Switches};

const WAN: [u8; 6] = [2, 0, 0, 0, 0, 0xb0];
const STRANGER: [u8; 6] = [2, 0, 0, 0, 0, 0xa0];
const RED_HOST: [u8; 6] = [2, 0, 0, 0, 0, 0xb1];
const RED: [u8; 6] = [2, 0, 0, 0, 0, 0xa1];
const BLUE_HOST: [u8; 6] = [2, 0, 0, 0, 0, 0xb2];
const BLUE: [u8; 6] = [2, 0, 0, 0, 0, 0xa2];
const BRIDGE: [u8; 6] = [2, 0, 0, 0, 0, 0xbf];

/// The host's; the first of each family are what attaching lists.
const HOST: [&str; 6] =
    ["10.1.0.10", "fd00:1::10", "10.1.0.11", "fd00:1::11", "10.9.0.10", "fd00:9::10"];
const RED_ADDRESSES: [&str; 2] = ["10.4.0.10", "fd00:4::10"];
const BLUE_ADDRESSES: [&str; 2] = ["10.4.0.11", "fd00:4::11"];
const STRANGERS: [&str; 4] = ["10.2.0.1", "10.2.0.2", "fd00:2::1", "fd00:2::2"];
const ODD: [&str; 13] = [
    "0.0.0.0",
    "255.255.255.255",
    "224.0.0.1",
    "127.0.0.1",
    "10.1.0.255",
    "10.4.0.1",
    "::",
    "::1",
    "ff02::1",
    "fe80::77",
    "fe80::ff:fe00:a2",
    "fe80::ff:fe00:a1",
    "fd00:4::1",
];
const PREFIXES: [&str; 6] =
    ["0.0.0.0/0", "10.2.0.0/24", "10.2.0.1/32", "::/0", "fd00:2::/64", "fd00:2::1/128"];
pub const PORTS: [u16; 7] = [22, 53, 68, 80, 443, 546, 9999];
const PROTOCOLS: [u8; 8] = [6, 6, 17, 17, 17, 1, 58, 58];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layout {
    Routed,
    /// Routed by cilmark.
    Delivered,
    /// The workloads, by a bridge; the stranger is routed to them.
    Bridged,
}

/// Who has sockets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Party {
    Host,
    Red,
    /// Only what it learns of flows counts.
    Blue,
}

pub struct Topology {
    pub world: World,
    layout: Layout,
    pub wan: Endpoint,
    pub red: Endpoint,
    pub blue: Endpoint,
    wire: Wire,
    blue_end: Wire,
    /// Each CPU has one queue for all devices: what comes out of it was put in last.
    marker: UdpSocket,
    scenes: [Scene; 2],
}

fn addresses(texts: &[&str]) -> Vec<IpAddr> {
    texts.iter().map(|text| text.parse().expect("an address")).collect()
}

fn endpoint(id: u16, mac: [u8; 6], own: &[&str]) -> Endpoint {
    Endpoint {
        is_container: true,
        id,
        identity: 1,
        ifindex: 0,
        mac,
        has_ethernet: true,
        addresses: addresses(own),
        prefixes: Vec::new(),
        ingress: Mode::Off,
        egress: Mode::Off,
        rules: Vec::new(),
        failsafe_ingress: Vec::new(),
        failsafe_egress: Vec::new(),
        workload_mac: None,
        bridge: None,
        trusted_labels: None,
        switches: Switches::default(),
    }
}

fn ifindex(world: &World, device: &str) -> u32 {
    world.sh(&format!("cat /sys/class/net/{device}/ifindex")).trim().parse().expect("a number")
}

fn attach(world: &World, layout: Layout) -> [Endpoint; 3] {
    let delivery = if layout == Layout::Delivered { "--local-delivery" } else { "" };
    world.cilmark_ok(&format!(
        "attach wan --role netdev --ip {} {} --ingress-policy enforce --failsafe tcp/22,udp/68 \
         --adopt 1h --yes --endpoint-id 9 {delivery}",
        HOST[0], HOST[1]
    ));
    let [red, blue] = [RED_ADDRESSES, BLUE_ADDRESSES].map(|own| own.join(" "));
    world.cilmark_ok(&format!(
        "attach red --id 1234 --ip {red} --ingress-policy enforce --endpoint-id 7 {delivery}"
    ));
    world.cilmark_ok(&format!(
        "attach blue --id 199472 --ip {blue} --egress-policy enforce --endpoint-id 8 {delivery}"
    ));
    let bridge = (layout == Layout::Bridged).then_some(BRIDGE);
    [
        Endpoint {
            is_container: false,
            ingress: Mode::Enforce,
            failsafe_ingress: vec![(6, 22), (17, 68)],
            ifindex: ifindex(world, "wan"),
            ..endpoint(9, WAN, &HOST[..2])
        },
        Endpoint {
            identity: 1234,
            ingress: Mode::Enforce,
            ifindex: ifindex(world, "red"),
            workload_mac: Some(RED),
            bridge,
            ..endpoint(7, RED_HOST, &RED_ADDRESSES)
        },
        Endpoint {
            identity: 199_472,
            egress: Mode::Enforce,
            ifindex: ifindex(world, "blue"),
            workload_mac: Some(BLUE),
            bridge,
            ..endpoint(8, BLUE_HOST, &BLUE_ADDRESSES)
        },
    ]
}

impl Topology {
    pub fn new(layout: Layout) -> Option<Topology> {
        let world = World::new()?;
        network::connect(&world, layout == Layout::Bridged);
        let [wan, red, blue] = attach(&world, layout);
        let wire = Wire::open(&world, "wire", "eth0", WAN);
        let blue_end = Wire::open(&world, "blue", "eth0", BLUE_HOST);
        let marker = UdpSocket::bind("127.0.0.1:0").expect("bind");
        marker.connect(marker.local_addr().expect("an address")).expect("connect");
        // Frames and marks by one CPU, or they are in different queues.
        let usual = sched_getaffinity(Pid::from_raw(0)).expect("the CPUs of this thread");
        let first = (0..CpuSet::count()).find(|cpu| usual.is_set(*cpu) == Ok(true));
        let mut one = CpuSet::new();
        one.set(first.expect("a CPU")).expect("a number of a CPU");
        sched_setaffinity(Pid::from_raw(0), &one).expect("stay on one CPU");
        let scenes = scenes(layout);
        let topology = Topology { world, layout, wan, red, blue, wire, blue_end, marker, scenes };
        topology.show_macs();
        Some(topology)
    }

    /// Each workload has sent something: so local delivery knows its MAC, and a bridge its port.
    fn show_macs(&self) {
        let red_end = Wire::open(&self.world, "red", "eth0", RED_HOST);
        for (wire, mac, own) in [(&red_end, RED, 10), (&self.blue_end, BLUE, 11)] {
            let mut frame = vec![0xff; 6];
            frame.extend(mac);
            frame.extend([8, 6, 0, 1, 8, 0, 6, 4, 0, 1]);
            frame.extend(mac);
            frame.extend([10, 4, 0, own, 0, 0, 0, 0, 0, 0, 10, 4, 0, own]);
            wire.send_as_is(&frame);
        }
    }

    pub fn scene(&self, sender: Sender) -> &Scene {
        &self.scenes[usize::from(sender == Sender::Blue)]
    }

    /// On a bridge a workload's frames go to its neighbour, or to the host.
    pub fn address(&self, random: &mut Random, sender: Sender, frame: &mut [u8]) {
        let by_bridge = self.layout == Layout::Bridged && sender == Sender::Blue;
        if by_bridge && frame[..6] == RED && random.once_in(2) {
            frame[..6].copy_from_slice(&BRIDGE);
        }
    }

    pub fn send(&self, sender: Sender, frame: &[u8]) {
        match sender {
            Sender::Wire => self.wire.send_as_is(frame),
            Sender::Blue => self.blue_end.send_as_is(frame),
        }
    }

    /// Waits until what was sent has arrived: each hop puts it into the queue once more.
    pub fn settle(&self) {
        for _ in 0..4 {
            self.marker.send(&[0]).expect("send");
            self.marker.recv(&mut [0]).expect("receive");
        }
    }

    /// Other rules and another ipcache, and no flows.
    pub fn begin(&mut self, random: &mut Random) -> Machine {
        let root = self.world.root();
        let ipcache = Ipcache::open(&root).expect("open").expect("the ipcache");
        ipcache.flush().expect("flush");
        let local = HOST.iter().chain(&ODD[4..6]).chain(&["fd00:4::1", "fe80::77"]);
        let local: Vec<&str> = local.copied().collect();
        let mut machine = Machine::new(true, addresses(&local));
        machine.has_stack = true;
        let prefixes: Vec<IpNet> = PREFIXES.iter().map(|text| text.parse().unwrap()).collect();
        machine.ipcache = policy::ipcache(random, &prefixes);
        // Nobody else is this host.
        machine.ipcache.retain(|line| line.identity != 1);
        for line in &machine.ipcache {
            ipcache.set(&line.prefix, Identity(line.identity)).expect("set");
        }
        for (endpoint, own) in [(&self.red, RED_ADDRESSES), (&self.blue, BLUE_ADDRESSES)] {
            for address in addresses(&own) {
                let (prefix, identity) = (address.into(), endpoint.identity);
                machine.ipcache.push(Line { prefix, identity, is_host: false });
                let ifindex = endpoint.ifindex;
                let id = endpoint.id;
                let owner = Owner { id, ifindex, is_container: true, is_here: true };
                machine.owners.insert(address, owner);
            }
        }
        for address in &self.wan.addresses {
            let prefix = (*address).into();
            machine.ipcache.push(Line { prefix, identity: 1, is_host: true });
        }
        self.wan.rules = self.rules(random, "wan", Direction::Ingress);
        self.red.rules = self.rules(random, "red", Direction::Ingress);
        self.blue.rules = self.rules(random, "blue", Direction::Egress);
        self.world.cilmark_ok("conntrack flush");
        machine
    }

    fn rules(
        &self,
        random: &mut Random,
        device: &str,
        direction: Direction,
    ) -> Vec<crate::fuzz::model::rules::Rule> {
        let rules = super::rules(random, direction);
        self.world.cilmark_ok(&format!("policy flush {device} --yes"));
        if !rules.is_empty() {
            let texts: Vec<String> = rules.iter().map(ToString::to_string).collect();
            self.world.cilmark_ok(&format!("policy add {device} {} --yes", texts.join(" ")));
        }
        rules
    }

    /// A packet in a frame as its sender's program would have seen it whole.
    pub fn frame_of(&self, sender: Sender, packet: &[u8]) -> Vec<u8> {
        let scene = self.scene(sender);
        let mut frame = scene.mac.to_vec();
        frame.extend(scene.sender);
        frame.extend(if packet[0] >> 4 == 4 { [8, 0] } else { [0x86, 0xdd] });
        frame.extend(packet);
        frame
    }

    /// Whether a router has taken a hop from what a workload receives.
    pub fn is_routed(&self, frame: &[u8]) -> bool {
        frame[..6] != RED
    }

    /// To whom a plain packet gets that all programs let pass.
    pub fn receiver_of(&self, sender: Sender, ip: &Ip, frame: &[u8]) -> Option<Party> {
        let is_known = match sender {
            Sender::Wire => addresses(&STRANGERS).contains(&ip.source),
            Sender::Blue => self.blue.addresses.contains(&ip.source),
        };
        let has_sockets =
            matches!(ip.transport, Transport::Ports { .. } | Transport::Message { .. })
                && matches!(ip.protocol, 1 | 6 | 17 | 58);
        if !is_known || !has_sockets || ip.fragment != Fragment::Whole || ip.at != 14 {
            return None;
        }
        let by_bridge = self.layout == Layout::Bridged && sender == Sender::Blue;
        let to_neighbour = by_bridge && frame[..6] == RED;
        let to_host = frame[..6] == if by_bridge { BRIDGE } else { self.scene(sender).mac };
        if !to_host && !to_neighbour {
            return None;
        }
        if has_extensions(ip, frame) {
            return None;
        }
        if to_host && addresses(&HOST).contains(&ip.destination) {
            return Some(Party::Host);
        }
        // A router takes no packet any further whose hops are used up.
        let is_reds = self.red.addresses.contains(&ip.destination) && (to_neighbour || ip.hops > 1);
        is_reds.then_some(Party::Red)
    }
}

/// Some of which a receiver refuses: a hop-by-hop header that is not the first, say.
fn has_extensions(ip: &Ip, frame: &[u8]) -> bool {
    if ip.is_v6() { frame[ip.at + 6] != ip.protocol } else { frame[ip.at] != 0x45 }
}

fn scenes(layout: Layout) -> [Scene; 2] {
    let odd = addresses(&[ODD.as_slice(), &HOST, &RED_ADDRESSES, &BLUE_ADDRESSES].concat());
    let scene = |mac, sender, own: &[&str], peers: &[&str]| Scene {
        mac,
        sender,
        has_ethernet: true,
        takes_jumbo: true,
        own: addresses(own),
        peers: addresses(peers),
        odd: odd.clone(),
        ports: PORTS.to_vec(),
        protocols: PROTOCOLS.to_vec(),
    };
    let targets = [HOST.as_slice(), &RED_ADDRESSES].concat();
    let to = if layout == Layout::Bridged { RED } else { BLUE_HOST };
    [
        scene(WAN, STRANGER, &targets, &STRANGERS),
        scene(to, BLUE, &BLUE_ADDRESSES, &[targets.as_slice(), &STRANGERS[..1]].concat()),
    ]
}
