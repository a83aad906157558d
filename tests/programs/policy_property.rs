//! Random rules, ipcaches and packets: the programs decide as the reference in Rust does, by the same
//! rule and about the same peer.

use cilmark::model::identity::Identity;
use cilmark::model::policy::{Decision, Policy, RuleNumber, decide};
use cilmark::model::rule::Direction;
use ipnet::IpNet;

use super::verdicts::enforcing;
use super::*;
use crate::common::Fixture;
use crate::common::machine::repetitions;
use crate::common::packet::Frame;
use crate::common::program::{Endpoint, Outcome, Packet};
use crate::common::random::Random;

const RULE_SETS: u64 = 60;
const PACKETS: usize = 64;

/// Host, world, remote node, operator's own, of a cluster, of a CIDR.
const IDENTITIES: [u32; 6] = [1, 2, 6, 200, 70_000, 16_777_217];
/// Where off-by-one errors are: at the ends of prefixes of ports.
const PORTS: [u16; 9] = [0, 1, 79, 80, 1023, 1024, 32_767, 32_768, 65_535];
const PREFIXES: [&str; 10] = [
    "0.0.0.0/0",
    "10.2.0.0/24",
    "10.2.0.0/30",
    "10.2.0.1",
    "10.2.0.2",
    "::/0",
    "fd00:2::/64",
    "fd00:2::/126",
    "fd00:2::1",
    "fd00:2::2",
];
/// Policed by their type, as requests as well as unasked replies and errors about nothing.
const ICMP_TYPES: [u8; 4] = [0, 3, 8, 13];
const ICMP6_TYPES: [u8; 4] = [1, 128, 129, 200];
/// Of ICMPv6 a NIC leaves only echoes to the rules (RFC 4890).
const NIC_ICMP6_TYPES: [u8; 2] = [128, 129];

#[derive(Debug, Clone, Copy, PartialEq)]
enum Program {
    FromContainer,
    ToContainer,
    FromNetdev,
    ToNetdev,
}

use Program::*;

impl Program {
    fn direction(self) -> Direction {
        match self {
            FromContainer | ToNetdev => Direction::Egress,
            ToContainer | FromNetdev => Direction::Ingress,
        }
    }

    fn is_netdev(self) -> bool {
        matches!(self, FromNetdev | ToNetdev)
    }
}

fn port(random: &mut Random) -> u16 {
    random.pick(&PORTS).wrapping_add(random.pick(&[0, 0, 1]))
}

fn random_rule(random: &mut Random) -> String {
    let action = random.pick(&["allow", "allow", "deny"]);
    let direction = random.pick(&["ingress from", "egress to"]);
    let peer = match random.below(3) {
        0 => "any".to_owned(),
        _ => random.pick(&IDENTITIES).to_string(),
    };
    let protocol = random.pick(&["tcp", "udp", "sctp"]);
    let (a, b) = (port(random), port(random));
    let l4 = match random.below(12) {
        0 => String::new(),
        1 => protocol.to_owned(),
        2 => random.pick(&["icmp", "icmp6", "proto/47", "proto/50"]).to_owned(),
        3 => format!("icmp/{}", random.pick(&ICMP_TYPES)),
        4 => format!("icmp6/{}", random.pick(&ICMP6_TYPES)),
        5..8 => format!("{protocol}/{a}"),
        _ => format!("{protocol}/{}-{}", a.min(b), a.max(b)),
    };
    format!("{action} {direction} {peer} {l4}")
}

/// What the ipcache says.
fn resolve(ipcache: &[(IpNet, u32)], address: IpAddr) -> Option<u32> {
    let lines = ipcache.iter().filter(|(prefix, _)| prefix.contains(&address));
    lines.max_by_key(|(prefix, _)| prefix.prefix_len()).map(|(_, identity)| *identity)
}

/// Protocol, service and transport header of a packet.
fn random_transport(random: &mut Random, program: Program, is_ipv4: bool) -> (u8, u16, Vec<u8>) {
    let message = |kind: u8| (u16::from(kind), [&[kind], [0; 7].as_slice()].concat());
    match random.below(6) {
        0 => (random.pick(&[47, 50]), 0, vec![0; 16]),
        1 if is_ipv4 => {
            let (service, bytes) = message(random.pick(&ICMP_TYPES));
            (1, service, bytes)
        }
        1 => {
            let types: &[u8] = if program.is_netdev() { &NIC_ICMP6_TYPES } else { &ICMP6_TYPES };
            let (service, bytes) = message(random.pick(types));
            (58, service, bytes)
        }
        _ => {
            let service = port(random);
            let ports = [port(random).to_be_bytes(), service.to_be_bytes()].concat();
            // A SYN, if it is TCP: data offset 5.
            let rest = [0, 0, 0, 1, 0, 0, 0, 0, 0x50, 2, 0, 64, 0, 0, 0, 0];
            (random.pick(&[6, 17, 132]), service, [ports.as_slice(), &rest].concat())
        }
    }
}

/// Who the packet says it comes from, and so how it comes.
fn random_sender(random: &mut Random, packet: Packet) -> (u32, Packet) {
    let claimed = random.pick(&IDENTITIES);
    match random.below(4) {
        0 => (1, packet),
        1 => (1, packet.mark(0x0c00).forwarded()),
        2 if claimed < 1 << 24 => {
            let mark = (claimed & 0xffff) << 16 | 0x0f00 | claimed >> 16;
            (claimed, packet.mark(mark).forwarded())
        }
        _ => (2, packet.forwarded()),
    }
}

/// DESIGN's words for `to_container`.
fn sender(claimed: u32, known: Option<u32>) -> u32 {
    let is_reserved = matches!(claimed, 0 | 2 | 6 | 7 | 9 | 10);
    known.filter(|known| is_reserved && *known != 1).unwrap_or(claimed)
}

/// What a program decided, and about whom.
fn decided(outcome: &Outcome, direction: Direction) -> (Decision, u32) {
    // A drop is reported as such only.
    let report = outcome.policy_verdict.as_ref().unwrap_or_else(|| outcome.event());
    let decision = match report.reason.0 {
        0 => Decision::Allow(RuleNumber(report.rule)),
        181 => Decision::Deny(RuleNumber(report.rule)),
        133 => Decision::NoMatch,
        _ => panic!("{outcome:?}"),
    };
    match direction {
        Direction::Ingress => (decision, report.source_identity),
        Direction::Egress => (decision, report.destination_identity),
    }
}

struct Bench<'fixture> {
    workload: Endpoint<'fixture>,
    nic: Endpoint<'fixture>,
    workload_rules: Policy,
    nic_rules: Policy,
    ipcache: Vec<(IpNet, u32)>,
}

impl Bench<'_> {
    /// One packet, whose flow is told by a local address of its own.
    fn check(&self, random: &mut Random, number: u16) {
        let program = random.pick(&[FromContainer, ToContainer, FromNetdev, ToNetdev]);
        let is_ipv4 = random.once_in(2);
        let last = random.below(6) as u16;
        let [high, low] = number.to_be_bytes();
        let (local, remote): (IpAddr, IpAddr) = if is_ipv4 {
            ([10, 1, high, low].into(), [10, 2, 0, last as u8].into())
        } else {
            ([0xfd00, 1, 0, 0, 0, 0, 0, number].into(), [0xfd00, 2, 0, 0, 0, 0, 0, last].into())
        };
        let (protocol, service, transport) = random_transport(random, program, is_ipv4);
        let known = resolve(&self.ipcache, remote);
        let sent = Packet::from(Frame::ip(local, remote).protocol(protocol, transport.clone()));
        let received = Packet::from(Frame::ip(remote, local).protocol(protocol, transport));
        let world = Identity::WORLD.0;
        let (outcome, peer) = match program {
            FromContainer => (self.workload.from_container(sent), known.unwrap_or(world)),
            ToNetdev => (self.nic.to_netdev(sent), known.unwrap_or(world)),
            FromNetdev => (self.nic.from_netdev(received.forwarded()), known.unwrap_or(world)),
            ToContainer => {
                let (claimed, packet) = random_sender(random, received);
                (self.workload.to_container(packet), sender(claimed, known))
            }
        };
        // Nobody on a wire is this host.
        if matches!(program, FromNetdev) && peer == Identity::HOST.0 {
            outcome.is_dropped(132);
            return;
        }
        let rules = if program.is_netdev() { &self.nic_rules } else { &self.workload_rules };
        let direction = program.direction();
        let expected = decide(rules.rules(), direction, Identity(peer), protocol, service);
        assert_eq!(
            decided(&outcome, direction),
            (expected, peer),
            "{program:?} protocol {protocol} service {service} of {remote}\n{rules:?}\n{outcome:?}"
        );
    }
}

#[test]
fn any_rules_decide_about_any_packet_as_the_reference_does() {
    let Some(fixture) = Fixture::new() else { return };
    fixture.router();
    fixture
        .world
        .sh("ip route add local 10.1.0.0/16 dev lo && ip -6 route add local fd00:1::/64 dev lo");
    let mut bench = Bench {
        // It sends from what is the NIC's here.
        workload: fixture
            .container(ID)
            .policy(enforcing())
            .feature(|on| on.trust_marks = true)
            .tune(|config| config.accept_local = 1)
            .load(),
        nic: fixture.netdev(1).id(8).policy(enforcing()).load(),
        workload_rules: Policy::default(),
        nic_rules: Policy::default(),
        ipcache: Vec::new(),
    };
    let mut number = 0;
    for seed in 0..repetitions(RULE_SETS) {
        let mut random = Random(seed);
        let ipcache = fixture.open_ipcache();
        ipcache.flush().expect("flush the ipcache");
        bench.ipcache.clear();
        for prefix in PREFIXES {
            if random.once_in(2) {
                let identity = random.pick(&IDENTITIES);
                let prefix = prefix.parse().or_else(|_| prefix.parse().map(IpAddr::into));
                let prefix: IpNet = prefix.expect("a prefix or an address");
                ipcache.set(&prefix, Identity(identity)).expect("set");
                bench.ipcache.push((prefix, identity));
            }
        }
        let mut rules =
            || -> Vec<String> { (0..random.below(64)).map(|_| random_rule(&mut random)).collect() };
        bench.workload_rules = fixture.rules(&bench.workload, &rules());
        bench.nic_rules = fixture.rules(&bench.nic, &rules());
        for _ in 0..PACKETS {
            number += 1;
            bench.check(&mut random, number);
        }
    }
}
