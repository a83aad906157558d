//! Segments, datagrams and messages, and the packets that errors quote.

use std::net::IpAddr;

use super::{Ends, Generator, Scene, Talk};

/// What an IP packet carries.
pub struct Payload {
    pub protocol: u8,
    pub bytes: Vec<u8>,
}

impl Payload {
    pub fn new(protocol: u8, bytes: Vec<u8>) -> Payload {
        Payload { protocol, bytes }
    }

    /// Fills in the checksum, where the protocol has one.
    pub fn seal(&mut self, ends: Ends) {
        let at = match self.protocol {
            6 => 16,
            17 => 6,
            1 | 58 => 2,
            _ => return,
        };
        if self.bytes.len() < at + 2 {
            return;
        }
        self.bytes[at..at + 2].fill(0);
        let mut sum = sum(&self.bytes);
        if self.protocol != 1 {
            sum += match (ends.source, ends.destination) {
                (IpAddr::V4(a), IpAddr::V4(b)) => sum_of(&[&a.octets(), &b.octets()]),
                (IpAddr::V6(a), IpAddr::V6(b)) => sum_of(&[&a.octets(), &b.octets()]),
                _ => unreachable!("one family"),
            };
            sum += u32::from(self.protocol) + self.bytes.len() as u32;
        }
        let field = match !fold(sum) {
            0 if self.protocol == 17 => 0xffff,
            field => field,
        };
        self.bytes[at..at + 2].copy_from_slice(&field.to_be_bytes());
    }
}

fn sum_of(parts: &[&[u8]]) -> u32 {
    parts.iter().map(|part| sum(part)).sum()
}

pub fn sum(bytes: &[u8]) -> u32 {
    let word = |pair: &[u8]| u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0));
    bytes.chunks(2).map(word).sum()
}

pub fn fold(mut sum: u32) -> u16 {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

const FLAGS: [u8; 10] = [0x02, 0x02, 0x02, 0x12, 0x10, 0x10, 0x18, 0x11, 0x04, 0x00];
const ERRORS4: [(u8, u8); 5] = [(3, 4), (3, 1), (3, 3), (11, 0), (12, 0)];
const ERRORS6: [(u8, u8); 5] = [(2, 0), (2, 0), (1, 4), (3, 0), (4, 1)];
const OTHERS4: [u8; 4] = [5, 10, 13, 17];
const OTHERS6: [u8; 16] =
    [130, 131, 132, 133, 134, 135, 135, 136, 136, 137, 141, 143, 143, 148, 151, 200];

impl Generator {
    pub fn segment(&mut self, ends: Ends, number: u64) -> Vec<u8> {
        let mut bytes = [ends.sport.to_be_bytes(), ends.dport.to_be_bytes()].concat();
        bytes.extend((number as u32).to_be_bytes());
        bytes.extend([0, 0, 0, 1, 0x50, self.random.pick(&FLAGS), 0xff, 0xff, 0, 0, 0, 0]);
        if self.random.once_in(3) {
            bytes.extend(number.to_be_bytes());
            bytes.extend(number.to_be_bytes());
        }
        bytes
    }

    pub fn datagram(&mut self, ends: Ends, number: u64) -> Vec<u8> {
        let filling = self.random.below(4) * 8;
        let length = 16 + filling as u16;
        let mut bytes = [ends.sport.to_be_bytes(), ends.dport.to_be_bytes()].concat();
        bytes.extend(length.to_be_bytes());
        bytes.extend([0; 2]);
        bytes.extend(number.to_be_bytes());
        bytes.extend(std::iter::repeat_n(0x5a, filling));
        bytes
    }

    pub fn group_message(&mut self) -> Vec<u8> {
        let kind = self.random.pick(&[0x11, 0x12, 0x16, 0x17, 0x22, 0x30, 0x13, 0x14, 0x1f, 0x51]);
        let length = self.random.pick(&[8, 8, 8, 16, 7]);
        [kind, 0, 0, 0, 239, 1, 2, 3, 0, 0, 0, 0, 0, 0, 0, 0][..length].to_vec()
    }

    pub fn message(&mut self, scene: &Scene, ends: Ends, talk: &Talk, is_v6: bool) -> Vec<u8> {
        let identifier = self.random.pick(&[0, 1, talk.own_port]);
        let echo = |kind: u8| {
            let [high, low] = u16::to_be_bytes(identifier);
            [[kind, 0, 0, 0, high, low, 0, 1], [0x65; 8]].concat()
        };
        match self.random.below(10) {
            0..3 => echo(if is_v6 { 128 } else { 8 }),
            3..5 => echo(if is_v6 { 129 } else { 0 }),
            5..8 => {
                let (kind, code) = self.random.pick(if is_v6 { &ERRORS6 } else { &ERRORS4 });
                let quoted = self.quoted(scene, ends, talk);
                [[kind, code, 0, 0, 0, 0, 5, 0].as_slice(), &quoted].concat()
            }
            _ if is_v6 => {
                let targets = if self.random.once_in(2) { &scene.own } else { &scene.odd };
                let target = match self.random.pick(targets) {
                    IpAddr::V6(target) => target.octets(),
                    IpAddr::V4(_) => [0xfd; 16],
                };
                let kind = self.random.pick(&OTHERS6);
                [[kind, 0, 0, 0, 0, 0, 0, 0].as_slice(), &target].concat()
            }
            _ => [[self.random.pick(&OTHERS4), 0, 0, 0, 0, 0, 0, 0], [0; 8]].concat(),
        }
    }

    /// What an error is about: a packet that its receiver has sent, or may have, or can't.
    fn quoted(&mut self, scene: &Scene, error: Ends, talk: &Talk) -> Vec<u8> {
        let family = error.source.is_ipv4();
        let talks = self.talks.iter().filter(|other| other.own.is_ipv4() == family);
        let talks: Vec<Talk> = talks.copied().collect();
        let about = if talks.is_empty() { *talk } else { self.random.pick(&talks) };
        let is_of_own = error.destination == about.own || self.random.once_in(8);
        let mut ends = if is_of_own {
            let (sport, dport) = (about.own_port, about.peer_port);
            Ends { source: about.own, destination: about.peer, sport, dport }
        } else {
            let (sport, dport) = (about.peer_port, about.own_port);
            Ends { source: about.peer, destination: about.own, sport, dport }
        };
        if self.random.once_in(8) {
            ends.dport = self.random.pick(&scene.ports);
        }
        if !self.random.once_in(8) {
            ends.source = error.destination;
        }
        let protocol = match about.protocol {
            1 | 58 if family => 1,
            1 | 58 => 58,
            other => other,
        };
        let bytes = match protocol {
            1 | 58 => {
                let kinds = if family { [8, 0, 3] } else { [128, 129, 1] };
                let [high, low] = about.own_port.to_be_bytes();
                vec![self.random.pick(&kinds), 0, 0, 0, high, low, 0, 1]
            }
            6 => self.segment(ends, 0),
            _ => self.datagram(ends, 0),
        };
        let mut packet = self.packets(ends, &Payload::new(protocol, bytes)).swap_remove(0);
        if self.random.once_in(4) {
            packet.truncate(self.random.below(packet.len() + 1));
        }
        packet
    }
}
