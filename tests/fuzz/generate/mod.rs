//! Frames by structure: conversations between a few ends, in all the wrappings that IP has, and in some
//! that it has not.

mod network;
pub mod policy;
mod transport;

use std::net::IpAddr;

use crate::common::random::Random;
use transport::Payload;

/// That a frame comes from now and then.
const FOREIGN_MAC: [u8; 6] = [2, 0, 0, 0, 0, 0x66];

/// Who talks to whom, on which device.
pub struct Scene {
    /// The device's, which frames are for.
    pub mac: [u8; 6],
    /// Who sends the frames; the link-local address that it makes is among the ends.
    pub sender: [u8; 6],
    pub has_ethernet: bool,
    /// Whether frames may be larger than a page.
    pub takes_jumbo: bool,
    /// The endpoint's own ends.
    pub own: Vec<IpAddr>,
    pub peers: Vec<IpAddr>,
    /// What is nobody's, everybody's or somebody else's.
    pub odd: Vec<IpAddr>,
    pub ports: Vec<u16>,
    pub protocols: Vec<u8>,
}

/// Both ends, as the endpoint sees them.
#[derive(Debug, Clone, Copy)]
pub struct Talk {
    pub own: IpAddr,
    pub peer: IpAddr,
    pub protocol: u8,
    pub own_port: u16,
    pub peer_port: u16,
}

/// A packet's ends, from who sends it to who receives it.
#[derive(Debug, Clone, Copy)]
pub struct Ends {
    pub source: IpAddr,
    pub destination: IpAddr,
    pub sport: u16,
    pub dport: u16,
}

/// How wild the frames are, in times of a hundred.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Taste {
    pub tags: usize,
    pub fragments: usize,
    pub lengths: usize,
    pub damage: usize,
    pub odd_ends: usize,
}

pub const WILD: Taste = Taste { tags: 10, fragments: 20, lengths: 12, damage: 4, odd_ends: 12 };

/// Nothing that a receiver would not take.
pub const CALM: Taste = Taste { tags: 0, fragments: 0, lengths: 0, damage: 0, odd_ends: 0 };

pub struct Generator {
    pub random: Random,
    taste: Taste,
    talks: Vec<Talk>,
    /// Fragments that wait for their turn, each with the direction that it goes.
    waiting: Vec<(bool, Vec<u8>)>,
    fragment_id: u16,
    /// What a careless parser takes for the transport header.
    lure: Vec<u8>,
}

impl Generator {
    pub fn new(seed: u64, taste: Taste) -> Generator {
        let mut random = Random(seed);
        // A receiver may have parts of another generator's packets.
        let fragment_id = random.number() as u16;
        let (talks, waiting, lure) = (Vec::new(), Vec::new(), Vec::new());
        Generator { random, taste, talks, waiting, fragment_id, lure }
    }

    /// True in so many of a hundred cases.
    fn percent(&mut self, of: usize) -> bool {
        self.random.below(100) < of
    }

    /// The next frame that the endpoint sends, or receives. `number` goes into its payload.
    pub fn frame(&mut self, scene: &Scene, sent: bool, number: u64) -> Vec<u8> {
        if !self.waiting.is_empty() && self.percent(60) {
            let which = self.random.below(self.waiting.len());
            let (direction, _) = self.waiting[which];
            if direction == sent {
                let packet = self.waiting.swap_remove(which).1;
                return self.wrap(scene, sent, packet);
            }
        }
        let talk = self.talk(scene);
        let mut ends = self.ends(scene, &talk, sent);
        if talk.protocol == 2 && ends.destination.is_ipv4() && self.random.once_in(2) {
            ends.destination = IpAddr::from([224, 0, 0, 22]);
        }
        if talk.protocol == 17 && self.percent(self.taste.odd_ends) {
            let of_v4 = [[224, 0, 0, 251], [255; 4], [10, 2, 0, 255]];
            ends.destination = match ends.source {
                IpAddr::V4(_) => self.random.pick(&of_v4).into(),
                IpAddr::V6(_) => IpAddr::from([0xff02, 0, 0, 0, 0, 0, 0, 0xfb]),
            };
        }
        if scene.has_ethernet && ends.source.is_ipv4() && self.percent(3) {
            return self.arp(scene, ends, sent);
        }
        self.lure = self.lure(scene);
        let payload = self.payload(scene, &talk, ends, number);
        let mut packets = self.packets(ends, &payload);
        let packet = packets.remove(0);
        self.waiting.extend(packets.into_iter().map(|packet| (sent, packet)));
        self.wrap(scene, sent, packet)
    }

    fn talk(&mut self, scene: &Scene) -> Talk {
        if !self.talks.is_empty() && self.percent(60) {
            return self.talks[self.random.below(self.talks.len())];
        }
        let own = self.random.pick(&scene.own);
        let peer = loop {
            let peer = self.random.pick(&scene.peers);
            if peer.is_ipv4() == own.is_ipv4() {
                break peer;
            }
        };
        let talk = Talk {
            own,
            peer,
            protocol: self.random.pick(&scene.protocols),
            own_port: self.random.pick(&scene.ports),
            peer_port: self.random.pick(&scene.ports),
        };
        if self.talks.len() == 24 {
            self.talks.remove(0);
        }
        self.talks.push(talk);
        talk
    }

    fn ends(&mut self, scene: &Scene, talk: &Talk, sent: bool) -> Ends {
        let own = (talk.own, talk.own_port);
        let peer = (talk.peer, talk.peer_port);
        let (from, to) = if sent { (own, peer) } else { (peer, own) };
        let mut ends = Ends { source: from.0, destination: to.0, sport: from.1, dport: to.1 };
        if self.percent(self.taste.odd_ends) {
            let pool = match self.random.below(3) {
                0 => &scene.own,
                1 => &scene.peers,
                _ => &scene.odd,
            };
            let other = self.random.pick(pool);
            if other.is_ipv4() == ends.source.is_ipv4() {
                match self.random.below(4) {
                    0 | 1 => ends.source = other,
                    2 => ends.destination = other,
                    _ => (ends.source, ends.destination) = (ends.destination, ends.source),
                }
            }
        }
        ends
    }

    /// Puts a packet into a frame, and damages that now and then.
    fn wrap(&mut self, scene: &Scene, sent: bool, mut packet: Vec<u8>) -> Vec<u8> {
        if self.percent(self.taste.lengths) {
            self.lie_about_length(&mut packet);
        }
        if self.percent(self.taste.lengths) {
            self.add_trailer(scene, &mut packet);
        }
        let ethertype = if packet[0] >> 4 == 4 { 0x0800 } else { 0x86dd };
        let mut frame =
            if scene.has_ethernet { self.link(scene, sent, ethertype) } else { Vec::new() };
        frame.extend(packet);
        if self.percent(self.taste.damage) {
            let length = 15 + self.random.below(frame.len() - 14);
            frame.truncate(length);
        }
        if self.percent(self.taste.damage) {
            let at = self.random.below(frame.len());
            frame[at] = self.random.number() as u8;
        }
        frame
    }

    /// Ports that rules know, and the flags of a segment.
    fn lure(&mut self, scene: &Scene) -> Vec<u8> {
        let ports = [self.random.pick(&scene.ports), self.random.pick(&scene.ports)];
        let mut lure: Vec<u8> = ports.into_iter().flat_map(u16::to_be_bytes).collect();
        lure.extend([0, 0, 0, 1, 0, 0, 0, 1, 0x50, self.random.pick(&[2, 0x10]), 0, 0, 0, 0, 0, 0]);
        lure
    }

    /// A lure, or so much that a packet socket leaves the headers out of the linear part.
    fn add_trailer(&mut self, scene: &Scene, packet: &mut Vec<u8>) {
        if self.random.once_in(2) {
            packet.extend(&self.lure);
        }
        let is_long = scene.takes_jumbo && self.random.once_in(6);
        let length = if is_long { 4200 } else { self.random.below(40) };
        for _ in 0..length {
            packet.push(self.random.number() as u8);
        }
    }

    /// Addresses, tags and ethertype.
    fn link(&mut self, scene: &Scene, sent: bool, ethertype: u16) -> Vec<u8> {
        let mut frame = Vec::new();
        let destination = if self.percent(self.taste.damage) {
            let others = [[0xff; 6], [0x33, 0x33, 0, 0, 0, 1], [2, 0, 0, 0, 0, 0x77]];
            self.random.pick(&others[..if sent { 2 } else { 3 }])
        } else {
            scene.mac
        };
        frame.extend(destination);
        let is_foreign = self.percent(self.taste.damage);
        frame.extend(if is_foreign { FOREIGN_MAC } else { scene.sender });
        if self.percent(self.taste.tags) {
            for _ in 0..self.random.below(6) {
                frame.extend(self.random.pick(&[[0x81u8, 0], [0x81, 0], [0x88, 0xa8]]));
                frame.extend(self.random.pick(&[[0u8, 0], [0, 0], [0xe0, 0], [0, 5]]));
            }
        }
        let ethertype = if self.percent(self.taste.damage / 4) { 0x88cc } else { ethertype };
        frame.extend(ethertype.to_be_bytes());
        frame
    }

    fn arp(&mut self, scene: &Scene, ends: Ends, sent: bool) -> Vec<u8> {
        let (IpAddr::V4(source), IpAddr::V4(destination)) = (ends.source, ends.destination) else {
            unreachable!("both are IPv4")
        };
        let mut frame = self.link(scene, sent, 0x0806);
        frame.extend([0, 1, 8, 0, 6, 4, 0, self.random.pick(&[1, 1, 2])]);
        frame.extend(scene.sender);
        frame.extend(if self.random.once_in(6) { [0; 4] } else { source.octets() });
        frame.extend([0; 6]);
        frame.extend(destination.octets());
        frame
    }

    fn payload(&mut self, scene: &Scene, talk: &Talk, ends: Ends, number: u64) -> Payload {
        let is_v6 = ends.source.is_ipv6();
        let own_icmp = if is_v6 { 58 } else { 1 };
        match talk.protocol {
            1 | 58 if self.random.once_in(12) => {
                let foreign = if is_v6 { 1 } else { 58 };
                Payload::new(foreign, self.message(scene, ends, talk, is_v6))
            }
            1 | 58 => Payload::new(own_icmp, self.message(scene, ends, talk, is_v6)),
            2 => Payload::new(2, self.group_message()),
            6 => Payload::new(6, self.segment(ends, number)),
            protocol => Payload::new(protocol, self.datagram(ends, number)),
        }
    }
}
