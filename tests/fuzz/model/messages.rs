//! ICMP that is no echo: what keeps a network up, errors about known flows, and what the rules say.

use std::net::IpAddr;

use super::flows::{self, Key, Ports};
use super::host::{is_link_local, is_multicast};
use super::rules::{Service, allow};
use super::wire::{Fragment, ICMP6, Ip, TCP, Transport, read_quoted};
use super::{Arrival, Direction, Endpoint, Judgement, Machine, Mode, Must, Program};

/// Of neighbours and routers.
pub const DISCOVERY: [u8; 8] = [133, 134, 135, 136, 141, 142, 148, 149];
const LISTENERS: [u8; 7] = [130, 131, 132, 143, 151, 152, 153];

fn is_error(ip: &Ip, kind: u8) -> bool {
    if ip.is_v6() { (1..=4).contains(&kind) } else { [3, 11, 12].contains(&kind) }
}

/// As their receivers demand it (RFC 4861, 3810): only by the hop limit do they know a neighbour.
fn keeps_network_up(ip: &Ip, kind: u8) -> bool {
    if !ip.is_v6() || ip.fragment != Fragment::Whole {
        return false;
    }
    let is_local = |address: IpAddr| is_link_local(address) || is_multicast(address);
    let from_here = is_link_local(ip.source) || ip.source.is_unspecified();
    let is_from_router = kind != 134 || is_link_local(ip.source);
    (DISCOVERY.contains(&kind) && ip.hops == 255 && is_from_router)
        || (LISTENERS.contains(&kind) && ip.hops == 1 && from_here && is_local(ip.destination))
}

impl Machine {
    pub fn judge_message(
        &self,
        endpoint: &Endpoint,
        program: Program,
        ip: &Ip,
        arrival: &Arrival<'_>,
    ) -> Judgement {
        let direction = program.direction();
        let is_enforced = endpoint.enforces(direction);
        if ip.igmp.is_some() {
            let claimed = self.claim(endpoint, program, ip, arrival);
            let service = flows::service(ip, Ports::None, false);
            return match ip.hops == 1 && ip.destination.is_multicast() {
                true => Judgement::pass("tells of groups within its link"),
                false => self.ask(endpoint, (direction, direction), ip, arrival, claimed, service),
            };
        }
        let (kind, _) = ip.message().expect("a message");
        let is_routable = !is_link_local(ip.destination) && !is_multicast(ip.destination);
        if keeps_network_up(ip, kind) {
            return match program {
                // To a neighbour, but not for the router to hand on.
                Program::FromContainer if is_routable => Judgement::either("discovery, global"),
                _ => Judgement::pass("keeps the network up"),
            };
        }
        let forbidden = "ICMPv6 that the host does not take";
        if is_error(ip, kind) {
            if let Some(related) = self.related(endpoint, program, ip, arrival) {
                return related;
            }
        } else if !endpoint.is_container && ip.is_v6() {
            return Judgement::drop_if(is_enforced, forbidden);
        }
        let claimed = self.claim(endpoint, program, ip, arrival);
        let service = flows::service(ip, Ports::None, false);
        self.ask(endpoint, (direction, direction), ip, arrival, claimed, service)
    }

    /// Whether an error is about a packet that its addressee has sent, of a flow that is allowed.
    fn related(
        &self,
        endpoint: &Endpoint,
        program: Program,
        error: &Ip,
        arrival: &Arrival<'_>,
    ) -> Option<Judgement> {
        if error.fragment != Fragment::Whole {
            return None;
        }
        let quoted = read_quoted(error)?;
        let is_unreadable = quoted.transport == Transport::Unreadable;
        if quoted.source != error.destination || is_unreadable || quoted.fragment == Fragment::Later
        {
            return None;
        }
        if !has_eight_bytes(error, &quoted) {
            return Some(Judgement::either("an error that quotes too little"));
        }
        let direction = program.direction();
        let is_netdev = !endpoint.is_container;
        if is_netdev && direction == Direction::Egress {
            match self.has_address(endpoint, quoted.destination) {
                Some(true) => {}
                None => return Some(Judgement::either("about what may be this host's")),
                _ if !flows::has_flow(&quoted) || stays_on_link(quoted.source) => {
                    return Some(Judgement::either("about what nobody reports, or forwards"));
                }
                _ => return Some(Judgement::pass("about what was forwarded")),
            }
        }
        if !flows::has_flow(&quoted) {
            return None;
        }
        let key = Key::of(endpoint, direction == Direction::Ingress, &quoted, Ports::of(&quoted));
        let is_answer =
            is_netdev && direction == Direction::Ingress && left_from_failsafe(endpoint, &quoted);
        let of_no_flow = is_answer.then(|| Judgement::pass("about a failsafe port's answer"));
        let Some(flow) = self.flows.get(&key) else { return of_no_flow };
        if !flow.is_certain {
            return Some(Judgement::either("an error about an uncertain flow"));
        }
        let related = Judgement::pass("an error about a flow that is allowed");
        if flow.is_masqueraded || flow.epoch == self.epoch {
            // What audit has left of a denied one is nothing.
            return if flow.is_audited(endpoint) { of_no_flow } else { Some(related) };
        }
        if is_netdev && flow.direction == Direction::Ingress && self.is_listed_host(key.remote) {
            return Some(Judgement::either("about a flow with whom the ipcache calls the host"));
        }
        // Asked anew, as a reply would.
        let is_reply = flow.direction == direction;
        let service = flows::service(&quoted, Ports::of(&quoted), is_reply);
        let of = flow.direction;
        let mut flow = flow.clone();
        let others = self.ask_others(endpoint, key.remote, &mut flow, arrival, service);
        let is_failsafe = self.is_failsafe(endpoint, of, service);
        let own = if is_failsafe || !flow.has_passed(endpoint) {
            Must::Pass
        } else {
            let claims = flow.claims().into_iter();
            let peers =
                claims.flat_map(|claimed| self.peers(endpoint, of, key.remote, claimed, arrival));
            merge(peers.map(|peer| allow(&endpoint.rules, endpoint.mode(of), of, peer, service)))
        };
        let both = match (own, others) {
            (Must::Pass, says) | (says, Must::Pass) => says,
            (Must::Drop, _) | (_, Must::Drop) => Must::Drop,
            _ => Must::Either,
        };
        match both {
            Must::Pass => Some(related),
            Must::Drop if endpoint.enforces(of) => None,
            Must::Drop => of_no_flow,
            _ => Some(Judgement::either("an error about a flow of an open identity")),
        }
    }

    /// What the rules say about a flow of a direction, of which `ip` is a packet.
    pub fn ask(
        &self,
        endpoint: &Endpoint,
        (of, packets): (Direction, Direction),
        ip: &Ip,
        arrival: &Arrival<'_>,
        claimed: Option<u32>,
        service: Service,
    ) -> Judgement {
        let remote = if packets == Direction::Egress { ip.destination } else { ip.source };
        let answers = self
            .peers(endpoint, of, remote, claimed, arrival)
            .into_iter()
            .map(|peer| allow(&endpoint.rules, endpoint.mode(of), of, peer, service));
        let is_of_host =
            !endpoint.is_container && of == Direction::Ingress && self.is_listed_host(remote);
        match merge(answers) {
            Must::Pass if is_of_host => Judgement::either("from whom the ipcache calls the host"),
            Must::Pass => Judgement::pass("allowed by the rules"),
            Must::Drop if endpoint.mode(of) == Mode::Audit => Judgement::pass("audited"),
            Must::Drop => Judgement::new(Must::Drop, denied(ip)),
            _ => Judgement::either("of an open identity"),
        }
    }
}

/// No router hands on what comes from there.
fn stays_on_link(source: IpAddr) -> bool {
    is_link_local(source) || is_multicast(source) || source.is_unspecified() || source.is_loopback()
}

fn merge(mut answers: impl Iterator<Item = bool>) -> Must {
    let first = answers.next().expect("at least one peer");
    match (first, answers.all(|answer| answer == first)) {
        (_, false) => Must::Either,
        (true, true) => Must::Pass,
        (false, true) => Must::Drop,
    }
}

/// In words that tell one hole from another.
fn denied(ip: &Ip) -> &'static str {
    let kind = ip.message().map(|(kind, _)| kind);
    match (ip.protocol, kind) {
        (ICMP6, None) if !ip.is_v6() => "ICMPv6 in IPv4 that no rule allows",
        (_, Some(2)) if ip.is_v6() => "a path MTU message about nothing known",
        (_, Some(3)) if !ip.is_v6() => "an unreachable about nothing known",
        (_, Some(kind)) if ip.is_v6() && DISCOVERY.contains(&kind) => "discovery from afar",
        (_, Some(kind)) if ip.is_v6() && LISTENERS.contains(&kind) => "listeners from afar",
        (_, Some(kind)) if is_error(ip, kind) => "an error about nothing known",
        (_, Some(_)) => "a message that no rule allows",
        (TCP, _) if flows::is_midstream(ip) => "TCP in mid-stream that no rule allows",
        _ if ip.fragment != Fragment::Whole => "a fragment that no rule allows",
        _ => "no rule allows it",
    }
}

fn left_from_failsafe(endpoint: &Endpoint, quoted: &Ip) -> bool {
    let Transport::Ports { source, .. } = quoted.transport else { return false };
    quoted.protocol == TCP && endpoint.failsafe_ingress.contains(&(TCP, source))
}

/// Within the error, whatever the quoted packet says of its own length.
fn has_eight_bytes(error: &Ip, quoted: &Ip) -> bool {
    let Transport::Message { body, .. } = &error.transport else { return false };
    let length = |at: usize| usize::from(u16::from_be_bytes([body[at], body[at + 1]]));
    let (all, header) = if quoted.is_v6() {
        (length(4) + 40, 40)
    } else {
        (length(2), usize::from(body[0] & 0xf) * 4)
    };
    all >= header + 8 && !matches!(quoted.transport, Transport::Portless if body.len() < header + 8)
}
