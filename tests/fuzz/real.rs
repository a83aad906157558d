//! Frames over real devices, to a Linux receiver: whatever a socket got, the policies on its way had allowed,
//! by those addresses, that protocol and those ports; and what they allow arrives.
//!
//! `wire` is a stranger on the segment of the host's NIC `wan`, `red` and `blue` are workloads. Received
//! packets are judged as Linux has put them together, so that nothing depends on how frames are read here.

mod network;
mod receiver;
mod topology;

use std::net::IpAddr;

use super::generate::{CALM, Generator, Taste, WILD, policy};
use super::model::rules::Rule;
use super::model::{Arrival, Direction, Judgement, Machine, Must, Program, wire};
use super::session::Session;
use receiver::{Packet, Receiver};
use topology::{Layout, Party, Topology};

/// Frames under the same rules, and between two looks at what has arrived.
const FRAMES: u64 = 1200;
const BATCH: u64 = 60;

/// Who sends, and to whom his packets get.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sender {
    Wire,
    Blue,
}

/// What each of the programs between two ends must do with a packet, in their order. `sent` is the packet as
/// it leaves its sender, `received` as it gets to a workload.
fn path(
    topology: &Topology,
    machine: &Machine,
    (sender, receiver): (Sender, Party),
    (sent, received): (&[u8], &[u8]),
) -> Vec<(Program, Judgement)> {
    let (first, program) = match sender {
        Sender::Wire => (&topology.wan, Program::FromNetdev),
        Sender::Blue => (&topology.blue, Program::FromContainer),
    };
    let sent = Arrival {
        frame: sent,
        mark: 0,
        ingress_ifindex: first.ifindex,
        is_gso: false,
        is_delivered: false,
    };
    let judgement = machine.judge(first, program, &sent);
    let mark = if sender == Sender::Blue { judgement.mark } else { 0 };
    let mut judgements = vec![(program, judgement)];
    let last = match receiver {
        Party::Host => return judgements,
        Party::Red => &topology.red,
        Party::Blue => &topology.blue,
    };
    let is_delivered = sender == Sender::Blue;
    let received = Arrival { frame: received, mark, is_delivered, ..sent };
    judgements.push((Program::ToContainer, machine.judge(last, Program::ToContainer, &received)));
    judgements
}

/// The same frame with more or fewer hops left.
fn with_hops(frame: &[u8], change: i8) -> Vec<u8> {
    let mut frame = frame.to_vec();
    if let wire::Frame::Ip(ip) = wire::read(&frame, true, false) {
        let at = ip.at + if ip.is_v6() { 7 } else { 8 };
        frame[at] = frame[at].saturating_add_signed(change);
    }
    frame
}

/// As a device's programs see it: the kernel has put the outermost tag aside.
fn untagged(frame: &[u8]) -> Vec<u8> {
    let mut frame = frame.to_vec();
    if matches!(frame.get(12..14), Some([0x81, 0] | [0x88, 0xa8])) && frame.len() >= 18 {
        frame.drain(12..16);
    }
    frame
}

struct Both {
    sent: Vec<u8>,
    received: Vec<u8>,
}

impl Both {
    fn each(&self) -> (&[u8], &[u8]) {
        (&self.sent, &self.received)
    }
}

struct Batch<'a> {
    topology: &'a Topology,
    machine: &'a mut Machine,
    sender: Sender,
    frames: Vec<(u64, Vec<u8>)>,
    /// Of the batches before, under the same rules.
    before: &'a [(Sender, u64, Vec<u8>)],
}

impl Batch<'_> {
    /// What arrived was allowed.
    fn judge(&mut self, session: &mut Session, receiver: Party, packets: &[Packet]) {
        for packet in packets {
            session.count(&format!("{:?} to {receiver:?}: received", self.sender));
            let received = self.topology.frame_of(self.sender, &packet.bytes);
            let is_routed = receiver != Party::Host && self.topology.is_routed(&received);
            let sent = with_hops(&received, i8::from(is_routed));
            let ends = (self.sender, receiver);
            let frames = (sent.as_slice(), received.as_slice());
            for (program, judgement) in path(self.topology, self.machine, ends, frames) {
                if judgement.must == Must::Drop {
                    let why = judgement.why;
                    session.found(format!("{ends:?} {program:?} lets in: {why}"), || {
                        self.describe(packet, &judgement)
                    });
                    return;
                }
                self.machine.learn(judgement, true);
            }
        }
    }

    /// A frame as it is sent, and as it is received.
    fn both(&self, frame: &[u8]) -> Both {
        let change = if self.topology.is_routed(frame) { -1 } else { 0 };
        let frame = untagged(frame);
        Both { received: with_hops(&frame, change), sent: frame }
    }

    /// What a frame leaves behind, delivered or not.
    fn expect(&mut self, frame: &[u8]) {
        for receiver in [Party::Host, Party::Red, Party::Blue] {
            let ends = (self.sender, receiver);
            for (_, judgement) in path(self.topology, self.machine, ends, self.both(frame).each()) {
                let is_over = judgement.must == Must::Drop;
                self.machine.suspect(judgement);
                if is_over {
                    break;
                }
            }
        }
    }

    /// What is allowed, and nothing but a plain packet, arrived.
    fn miss(&self, session: &mut Session, arrived: &[(Party, Vec<Packet>)]) {
        for (number, frame) in &self.frames {
            let wire::Frame::Ip(ip) = wire::read(frame, true, false) else { continue };
            let Some(receiver) = self.topology.receiver_of(self.sender, &ip, frame) else {
                continue;
            };
            let ends = (self.sender, receiver);
            let judgements = path(self.topology, self.machine, ends, self.both(frame).each());
            let passes = judgements.iter().all(|(_, judgement)| judgement.must == Must::Pass);
            let packets = arrived.iter().find(|(party, _)| *party == receiver);
            let packets = packets.map_or(&[][..], |(_, packets)| packets);
            if passes && !packets.iter().any(|packet| packet.carries(&ip, frame)) {
                session.found(
                    format!("{ends:?} loses what is allowed, protocol {}", ip.protocol),
                    || {
                        format!(
                            "  frame {number}: {}\n  {ip:?}\n  {judgements:?}\n  {}",
                            hex(frame),
                            self.setting()
                        )
                    },
                );
            }
        }
    }

    fn describe(&self, packet: &Packet, judgement: &Judgement) -> String {
        let mut text = format!(
            "  {judgement:?}\n  got {:?}\n  {}\n  {}\n",
            packet,
            hex(&packet.bytes),
            self.setting()
        );
        let own = self.frames.iter().map(|(number, frame)| (&self.sender, number, frame));
        let before = self.before.iter().map(|(sender, number, frame)| (sender, number, frame));
        for (sender, number, frame) in before.chain(own) {
            if is_between(frame, packet) {
                text += &format!("  sent: {number} by {sender:?} {}\n", hex(frame));
            }
        }
        text
    }

    fn setting(&self) -> String {
        let topology = self.topology;
        let rules = |rules: &[Rule]| rules.iter().map(Rule::to_string).collect::<Vec<_>>();
        format!(
            "wan {:?}\n  red {:?}\n  blue {:?}\n  ipcache {:?}",
            rules(&topology.wan.rules),
            rules(&topology.red.rules),
            rules(&topology.blue.rules),
            self.machine.ipcache
        )
    }
}

/// Whether a frame has a packet's addresses in it.
fn is_between(frame: &[u8], packet: &Packet) -> bool {
    let has = |address: IpAddr| match address {
        IpAddr::V4(address) => frame.windows(4).any(|bytes| bytes == address.octets()),
        IpAddr::V6(address) => frame.windows(16).any(|bytes| bytes == address.octets()),
    };
    has(packet.source) && has(packet.destination)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn run(
    session: &mut Session,
    topology: &mut Topology,
    receivers: &[(Party, Receiver)],
    seed: u64,
    taste: Taste,
) {
    let mut generator = Generator::new(seed, taste);
    let mut machine = topology.begin(&mut generator.random);
    let mut before = Vec::new();
    for first in (0..FRAMES).step_by(BATCH as usize) {
        let sender = generator.random.pick(&[Sender::Wire, Sender::Wire, Sender::Blue]);
        let frames = Vec::new();
        let mut batch = Batch { topology, machine: &mut machine, sender, frames, before: &before };
        for number in first..first + BATCH {
            let mut frame = generator.frame(topology.scene(sender), sender == Sender::Blue, number);
            topology.address(&mut generator.random, sender, &mut frame);
            if !(15..=9014).contains(&frame.len()) {
                continue;
            }
            topology.send(sender, &frame);
            session.count(&format!("{sender:?}: sent"));
            batch.expect(&frame);
            batch.frames.push((number, frame));
        }
        topology.settle();
        let arrived: Vec<(Party, Vec<Packet>)> =
            receivers.iter().map(|(party, receiver)| (*party, receiver.drain())).collect();
        for (party, packets) in &arrived {
            batch.judge(session, *party, packets);
        }
        if taste == CALM {
            batch.miss(session, &arrived);
        }
        let sent = batch.frames;
        before.extend(sent.into_iter().map(|(number, frame)| (sender, number, frame)));
    }
}

fn fuzz(name: &'static str, layout: Layout) {
    let Some(mut topology) = Topology::new(layout) else { return };
    let receivers = [
        (Party::Host, Receiver::open(&topology.world, None)),
        (Party::Red, Receiver::open(&topology.world, Some("red"))),
    ];
    let mut session = Session::new(name, 18_000);
    while let Some(seed) = session.next_round() {
        let taste = if seed.is_multiple_of(3) { CALM } else { WILD };
        run(&mut session, &mut topology, &receivers, seed, taste);
    }
    session.end();
}

#[test]
fn what_a_router_hands_on_was_allowed() {
    fuzz("routed frames", Layout::Routed);
}

#[test]
fn what_is_delivered_locally_was_allowed() {
    fuzz("delivered frames", Layout::Delivered);
}

#[test]
fn what_a_bridge_hands_on_was_allowed() {
    fuzz("bridged frames", Layout::Bridged);
}

/// The rules that one endpoint has.
fn rules(random: &mut crate::common::random::Random, direction: Direction) -> Vec<Rule> {
    let rules = policy::rules(random, &topology::PORTS);
    rules.into_iter().filter(|rule| rule.direction == direction).collect()
}
