//! A flow as the two programs of one of its ends see it.

use std::net::IpAddr;

use cilmark::kernel::sys::Hook;
use cilmark::model::endpoint::Role;

use super::packet::Frame;
use super::program::{Endpoint, Packet, Verdict};

/// What ports stand for here: [`RULES`] open them to anybody in one direction and not in the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Tcp,
    Udp,
    Echo,
}

pub const KINDS: [Kind; 3] = [Kind::Tcp, Kind::Udp, Kind::Echo];

pub const RULES: [&str; 8] = [
    "allow egress to any tcp/443",
    "allow egress to any udp/4433",
    "allow egress to any icmp/8",
    "allow egress to any icmp6/128",
    "allow ingress from any tcp/80",
    "allow ingress from any udp/8080",
    "allow ingress from any icmp/8",
    "allow ingress from any icmp6/128",
];

/// A flow between an endpoint and somebody far away.
#[derive(Debug, Clone)]
pub struct Flow {
    pub kind: Kind,
    /// The endpoint began it.
    pub begun_here: bool,
    pub local: IpAddr,
    pub remote: IpAddr,
    /// Of who began; of an echo its identifier.
    pub port: u16,
}

/// An end of a flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum By {
    Originator,
    Other,
}

/// What a packet is to its flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    First,
    Answer,
    /// Of a flow that is under way.
    Next(By),
    /// The end of a TCP stream.
    Fin(By),
}

/// The packets behind which a TCP connection is up.
pub const OPENING: [Step; 3] = [Step::First, Step::Answer, Step::Next(By::Originator)];

/// The packets behind which a TCP connection is over.
pub const CLOSING: [Step; 3] =
    [Step::Fin(By::Originator), Step::Fin(By::Other), Step::Next(By::Originator)];

impl Step {
    fn by(self) -> By {
        match self {
            Step::First => By::Originator,
            Step::Answer => By::Other,
            Step::Next(by) | Step::Fin(by) => by,
        }
    }

    fn flags(self) -> &'static str {
        match self {
            Step::First => "S",
            Step::Answer => "SA",
            Step::Next(_) => "A",
            Step::Fin(_) => "FA",
        }
    }
}

impl Flow {
    /// The port of who was asked.
    fn service(&self) -> u16 {
        match (self.kind, self.begun_here) {
            (Kind::Tcp, true) => 443,
            (Kind::Tcp, false) => 80,
            (Kind::Udp, true) => 4433,
            (Kind::Udp, false) => 8080,
            (Kind::Echo, _) => 0,
        }
    }

    /// The packets behind which it counts as answered. Who begins from afar has to go on: his address may be
    /// a lie.
    pub fn opening(&self) -> &'static [Step] {
        match self.kind {
            Kind::Udp | Kind::Echo if self.begun_here => &OPENING[..2],
            _ => &OPENING,
        }
    }

    /// Whether the endpoint sends a packet.
    pub fn is_sent(&self, step: Step) -> bool {
        self.begun_here == (step.by() == By::Originator)
    }

    /// A packet.
    pub fn frame(&self, step: Step) -> Frame {
        let (from, to) = match self.is_sent(step) {
            true => (self.local, self.remote),
            false => (self.remote, self.local),
        };
        let by_originator = step.by() == By::Originator;
        let (source, destination) = match by_originator {
            true => (self.port, self.service()),
            false => (self.service(), self.port),
        };
        let frame = Frame::ip(from, to);
        match self.kind {
            Kind::Tcp => frame.segment(source, destination, step.flags()),
            Kind::Udp => frame.udp(source, destination),
            Kind::Echo => echo(frame, from, by_originator, self.port),
        }
    }
}

fn echo(frame: Frame, from: IpAddr, is_request: bool, identifier: u16) -> Frame {
    let [high, low] = identifier.to_be_bytes();
    match (from, is_request) {
        (IpAddr::V4(_), true) => frame.protocol(1, [8, 0, 0, 0, high, low, 0, 1]),
        (IpAddr::V4(_), false) => frame.protocol(1, [0, 0, 0, 0, high, low, 0, 1]),
        (IpAddr::V6(_), true) => frame.icmp6(128, &[high, low, 0, 1]),
        (IpAddr::V6(_), false) => frame.icmp6(129, &[high, low, 0, 1]),
    }
}

impl Endpoint<'_> {
    /// The program that a packet meets which the endpoint sends or gets, and the packet as it comes there.
    pub fn passage(&self, is_sent: bool, frame: Frame) -> (Hook, Packet) {
        let hook = match (self.role, is_sent) {
            (Role::Container, true) | (Role::Netdev, false) => Hook::Ingress,
            (Role::Container, false) | (Role::Netdev, true) => Hook::Egress,
        };
        (hook, if is_sent { frame.into() } else { frame.forwarded() })
    }

    /// Whether it lets a flow's packet pass.
    pub fn lets_pass(&self, flow: &Flow, step: Step) -> bool {
        let (hook, packet) = self.passage(flow.is_sent(step), flow.frame(step));
        self.verdict(hook, packet) == Verdict::Pass
    }

    /// Whether a flow is there: first the packet passes that nothing but its entry lets pass, since rules
    /// allow nobody to begin in that direction.
    pub fn lets_go_on(&self, flow: &Flow) -> bool {
        [By::Other, By::Originator].into_iter().all(|by| self.lets_pass(flow, Step::Next(by)))
    }
}
