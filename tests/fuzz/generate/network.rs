//! IP headers, extension headers and fragments.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::transport::{Payload, fold, sum};
use super::{Ends, Generator};

const EXTENSIONS: [u8; 5] = [0, 60, 60, 43, 51];

impl Generator {
    /// The packet, in one piece or in several in any order; the first is to be sent now.
    pub fn packets(&mut self, ends: Ends, payload: &Payload) -> Vec<Vec<u8>> {
        let mut sealed = Payload::new(payload.protocol, payload.bytes.clone());
        sealed.seal(ends);
        let mut packets = match (ends.source, ends.destination) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                self.ipv4(source, destination, &sealed)
            }
            (IpAddr::V6(source), IpAddr::V6(destination)) => {
                self.ipv6(source, destination, &sealed)
            }
            _ => unreachable!("one family"),
        };
        if self.random.once_in(3) {
            let which = self.random.below(packets.len());
            packets.swap(0, which);
        }
        packets
    }

    /// Where it is cut, in bytes; 0 first. Pieces may be left out, come twice, and overlap.
    fn pieces(&mut self, length: usize) -> Vec<(usize, usize)> {
        let mut pieces = Vec::new();
        let mut at = 0;
        while at < length {
            let size = (1 + self.random.below(4)) * 8;
            pieces.push((at, (at + size).min(length)));
            at += size;
        }
        if self.random.once_in(6) {
            let from = self.random.below(length.div_ceil(8)) * 8;
            pieces.push((from, (from + 16).min(length)));
        }
        pieces
    }

    fn is_fragmented(&mut self) -> bool {
        let is_fragmented = self.percent(self.taste.fragments);
        self.fragment_id = self.fragment_id.wrapping_add(u16::from(!self.random.once_in(8)));
        is_fragmented
    }

    fn hops(&mut self, payload: &Payload) -> u8 {
        match payload.protocol {
            58 => self.random.pick(&[255, 255, 1, 1, 64, 2]),
            2 => self.random.pick(&[1, 1, 1, 2, 64]),
            _ => self.random.pick(&[64, 64, 64, 64, 1, 2, 255]),
        }
    }

    fn ipv4(&mut self, source: Ipv4Addr, destination: Ipv4Addr, payload: &Payload) -> Vec<Vec<u8>> {
        let options = if self.percent(8) { self.random.below(11) } else { 0 };
        let hops = self.hops(payload);
        let build = |id: u16, offset: u16, protocol: u8, bytes: &[u8]| {
            let mut packet = vec![0x45 + options as u8, 0];
            packet.extend((20 + options as u16 * 4 + bytes.len() as u16).to_be_bytes());
            packet.extend(id.to_be_bytes());
            packet.extend(offset.to_be_bytes());
            packet.extend([hops, protocol, 0, 0]);
            packet.extend(source.octets());
            packet.extend(destination.octets());
            packet.extend(vec![1; options * 4]);
            let check = !fold(sum(&packet));
            packet[10..12].copy_from_slice(&check.to_be_bytes());
            packet.extend(bytes);
            packet
        };
        if !self.is_fragmented() {
            let offset = self.random.pick(&[0, 0x4000]);
            return vec![build(self.fragment_id, offset, payload.protocol, &payload.bytes)];
        }
        let mut packets = Vec::new();
        for (from, to) in self.pieces(payload.bytes.len()) {
            let more = if to < payload.bytes.len() { 0x2000 } else { 0 };
            let protocol = if self.random.once_in(30) {
                self.random.pick(&[6, 17, 1])
            } else {
                payload.protocol
            };
            let offset = more | (from / 8) as u16;
            packets.push(build(self.fragment_id, offset, protocol, &payload.bytes[from..to]));
        }
        packets
    }

    /// Extension headers; the kind of each, before what it says is behind it.
    fn extensions(&mut self) -> Vec<(u8, Vec<u8>)> {
        let most = if self.random.once_in(20) { 10 } else { 3 };
        let count = if self.percent(15) { self.random.below(most) } else { 0 };
        let mut headers = Vec::new();
        for _ in 0..count {
            let kind = self.random.pick(&EXTENSIONS);
            let units = if self.random.once_in(10) { self.random.below(24) } else { 0 };
            let length = if kind == 51 { 12 + units * 4 } else { 8 + units * 8 };
            let mut header = vec![0; length];
            header[1] = if kind == 51 { (length / 4 - 2) as u8 } else { units as u8 };
            if matches!(kind, 0 | 60) {
                // Padding that fills the rest.
                header[2..4].copy_from_slice(&[1, (length - 4) as u8]);
            }
            headers.push((kind, header));
        }
        headers
    }

    fn ipv6(&mut self, source: Ipv6Addr, destination: Ipv6Addr, payload: &Payload) -> Vec<Vec<u8>> {
        let hops = self.hops(payload);
        let label = if self.random.once_in(4) { self.random.pick(&[1u8, 2, 200]) } else { 0 };
        let before = self.extensions();
        let is_fragmented = self.is_fragmented();
        let mut behind = self.extensions();
        if is_fragmented && self.random.once_in(3) {
            // Linux takes a first fragment that ends before an extension header.
            behind = vec![(60, vec![0, 0, 1, 4, 0, 0, 0, 0]); self.random.pick(&[1, 2, 2])];
        }
        let build = |headers: &[(u8, Vec<u8>)], last: u8, bytes: &[u8]| {
            let (first, chain) = chain(headers, last);
            let mut packet = vec![0x60, 0, 0, label];
            packet.extend(((chain.len() + bytes.len()) as u16).to_be_bytes());
            packet.extend([first, hops]);
            packet.extend(source.octets());
            packet.extend(destination.octets());
            packet.extend(chain);
            packet.extend(bytes);
            packet
        };
        let (first, mut body) = chain(&behind, payload.protocol);
        body.extend(&payload.bytes);
        let header = |id: u16, offset: u16| {
            let [high, low] = id.to_be_bytes();
            let [a, b] = offset.to_be_bytes();
            (44, vec![0, 0, a, b, 0, 0, high, low])
        };
        if !is_fragmented {
            let mut before = before;
            if self.random.once_in(30) {
                before.push(header(self.fragment_id, 0));
            }
            return vec![build(&before, first, &body)];
        }
        let mut packets = Vec::new();
        for (from, to) in self.pieces(body.len()) {
            let more = u16::from(to < body.len());
            // What the later ones say of the protocol the receiver does not read.
            let last = match self.random.below(12) {
                0 => self.random.pick(&[6, 17, 58]),
                1..7 if from > 0 => payload.protocol,
                _ => first,
            };
            let mut headers = before.clone();
            headers.push(header(self.fragment_id, from as u16 | more));
            let mut packet = build(&headers, last, &body[from..to]);
            if from == 0 && self.percent(self.taste.lengths * 3) {
                if behind.len() == 2 {
                    packet.extend([payload.protocol, 0, 1, 4, 0, 0, 0, 0]);
                }
                packet.extend(&self.lure);
            }
            packets.push(packet);
        }
        packets
    }

    /// Makes the packet end earlier than the frame, or behind it, or says that it is as long as that is.
    pub fn lie_about_length(&mut self, packet: &mut [u8]) {
        let (at, header) = if packet[0] >> 4 == 4 { (2, 0) } else { (4, 40) };
        let all = packet.len() - header;
        let length = match self.random.below(8) {
            0 => 0,
            1 => all + self.random.below(64),
            2 => self.random.below(all + 1),
            _ => self.random.below(all / 8 + 1) * 8 + all % 8 * self.random.below(2),
        };
        packet[at..at + 2].copy_from_slice(&(length as u16).to_be_bytes());
        if header == 0 {
            let end = (usize::from(packet[0] & 0xf) * 4).clamp(20, packet.len());
            packet[10..12].fill(0);
            let check = !fold(sum(&packet[..end]));
            packet[10..12].copy_from_slice(&check.to_be_bytes());
        }
    }
}

/// Links headers: the kind of the first, and the bytes of all.
fn chain(headers: &[(u8, Vec<u8>)], last: u8) -> (u8, Vec<u8>) {
    let kinds = || headers.iter().map(|(kind, _)| *kind).chain([last]);
    let mut bytes = Vec::new();
    for ((_, header), next) in headers.iter().zip(kinds().skip(1)) {
        bytes.push(next);
        bytes.extend(&header[1..]);
    }
    (kinds().next().expect("at least the last"), bytes)
}
