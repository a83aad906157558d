//! Random rules, ipcaches, marks and modes.

use ipnet::IpNet;

use crate::common::random::Random;
use crate::fuzz::model::rules::{L4, Rule};
use crate::fuzz::model::{Direction, Line, Mode};

/// Host, world, remote node, operator's own, of a cluster, of a CIDR.
pub const IDENTITIES: [u32; 7] = [1, 2, 6, 200, 1234, 70_000, 16_777_217];

const TYPES4: [u8; 4] = [0, 3, 8, 13];
const TYPES6: [u8; 6] = [1, 2, 128, 129, 135, 143];

pub fn mode(random: &mut Random) -> Mode {
    random.pick(&[Mode::Enforce, Mode::Enforce, Mode::Enforce, Mode::Audit, Mode::Off])
}

pub fn rules(random: &mut Random, ports: &[u16]) -> Vec<Rule> {
    let count = random.pick(&[0, 1, 2, 4, 8, 16]);
    (0..count).map(|_| rule(random, ports)).collect()
}

fn rule(random: &mut Random, ports: &[u16]) -> Rule {
    let protocol = random.pick(&[6, 6, 17, 17, 132]);
    let (a, b) = (random.pick(ports), random.pick(ports));
    Rule {
        allows: !random.once_in(4),
        direction: random.pick(&[Direction::Ingress, Direction::Egress]),
        peer: if random.once_in(2) { None } else { Some(random.pick(&IDENTITIES)) },
        l4: match random.below(16) {
            0 => L4::Any,
            1 => L4::Protocol(protocol),
            2 => L4::Protocol(random.pick(&[1, 58, 47, 50, 59])),
            3..5 => L4::Type(1, random.pick(&TYPES4)),
            5..7 => L4::Type(58, random.pick(&TYPES6)),
            7..9 => L4::Ports(protocol, a.min(b), a.max(b)),
            _ => L4::Ports(protocol, a, a),
        },
    }
}

pub fn ipcache(random: &mut Random, prefixes: &[IpNet]) -> Vec<Line> {
    let mut lines = Vec::new();
    for prefix in prefixes {
        if random.once_in(2) {
            let identity = random.pick(&IDENTITIES);
            // Hosts are of one address.
            let is_host = prefix.prefix_len() == prefix.max_prefix_len();
            let identity = if identity == 1 && !is_host { 2 } else { identity };
            lines.push(Line { prefix: *prefix, identity, is_host: false });
        }
    }
    lines
}

pub fn mark(random: &mut Random) -> u32 {
    let identity = random.pick(&IDENTITIES[..6]);
    let magic = random.pick(&[0x0200, 0x0a00, 0x0b00, 0x0c00, 0x0d00, 0x0e00, 0x0f00, 0x0f00]);
    match random.below(6) {
        0..3 => 0,
        3 => random.number() as u32,
        _ => (identity & 0xffff) << 16 | magic | identity >> 16 | random.number() as u32 & 0xf000,
    }
}
