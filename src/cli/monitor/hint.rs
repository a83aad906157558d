//! What would let a dropped packet pass: a command, if there is one that lets exactly its flow pass, else words.
//!
//! Users follow a hint without checking it. So the rule that it proposes is about the flow and not the packet. Which end
//! began the flow is known from conntrack or from the packet itself, or guessed from the ports; if it can't be guessed,
//! the hint names both possibilities.

mod words;

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::time::Instant;

use crate::cli::{Context, explain, targets};
use crate::kernel::abi::{cm_direction, cm_event, cm_reason, cm_rule_number};
use crate::kernel::sys::Hook;
use crate::kernel::{device, netns, sockets};
use crate::model::endpoint::{EndpointId, Role, Selector};
use crate::model::frame::{self, Frame, ICMP, ICMP6, SCTP, TCP, UDP};
use crate::model::identity::{Identity, Names};
use crate::model::policy::{Decision, Policy, decide};
use crate::model::rule::{Action, Direction, L4, Rule};
use crate::ops::rules;
use crate::state::conntrack::{Conntrack, Finder, Seen};
use crate::state::nics;
use crate::state::pin::Root;
use crate::state::registry::Endpoint;

const SYN: u8 = 1 << 1;
const ACK: u8 = 1 << 4;
/// The first port that the kernel picks for clients (`ip_local_port_range`).
const EPHEMERAL: u16 = 32768;
const PRIVILEGED: u16 = 1024;
/// The service of a protocol that has neither ports nor types for rules to name.
const NO_SERVICE: u16 = 0xffff;
/// What `monitor` has read about endpoints so far, and asked about flows.
#[derive(Default)]
pub struct Hints {
    known: BTreeMap<EndpointId, Option<Known>>,
    asked: HashMap<Question, Option<Began>>,
    budget: Budget,
}

/// One endpoint.
pub struct Known {
    /// As its running programs are configured.
    pub endpoint: Endpoint,
    flows: Option<Finder>,
    policy: Policy,
}

/// A flow that conntrack does not know, seen from its originator.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Question {
    id: EndpointId,
    direction: Direction,
    source: IpAddr,
    destination: IpAddr,
    protocol: u8,
    service: u16,
}

/// What the rules say about a flow, and the identity that they see at the peer.
#[derive(Debug, Clone, Copy)]
struct Began {
    peer: Identity,
    allowed: bool,
}

/// Limits how often the rules are asked: that takes 0.2 s each time, in which the ring of events may overflow.
struct Budget {
    left: f64,
    at: Instant,
}

/// Who began the flow of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Originator {
    /// The packet's sender.
    Sender,
    /// The packet's receiver: the packet is an answer.
    Receiver,
    Unknown,
}

impl Hints {
    /// Forgets what it knows of endpoints, rules and identities.
    pub fn forget(&mut self) {
        self.known.clear();
        self.asked.clear();
    }

    /// An endpoint; `None` if it can't be read.
    pub fn known(&mut self, context: &Context, id: EndpointId) -> Option<&Known> {
        self.known.entry(id).or_insert_with(|| Known::of(context, id)).as_ref()
    }

    /// The hint about a packet that was dropped, or in audit would have been.
    pub fn about(
        &mut self,
        context: &Context,
        id: EndpointId,
        event: &cm_event,
        names: &Names,
    ) -> Option<String> {
        let event = &self.known(context, id)?.with_host(event);
        if event.rule == cm_rule_number::CM_RULE_ANOTHER_NIC.0 {
            return Some(self.known(context, id)?.others(&context.root, event));
        }
        match event.reason {
            cm_reason::CM_DROP_POLICY => self.missing(&context.root, id, event, names),
            cm_reason::CM_DROP_POLICY_DENY => self.known(context, id)?.denied(event, names),
            _ => words::about(context, &self.known(context, id)?.endpoint, event),
        }
    }

    /// The hint about a packet that no rule allows.
    fn missing(
        &mut self,
        root: &Root,
        id: EndpointId,
        event: &cm_event,
        names: &Names,
    ) -> Option<String> {
        let known = self.known.get(&id)?.as_ref()?;
        let (packet, peer) = packet_of(event);
        let seen = known.seen(event);
        let add = |rule: Rule| allow_it(command("add", known, &rule, names));
        let rule = |is_answer, peer| allow(event, packet, is_answer, peer);
        match known.originator(event, seen) {
            // Audit has asked the rules of the entry's direction; those of the packet's are still to be asked.
            Originator::Sender if seen.is_some_and(|seen| seen.direction != packet) => {
                let Began { peer, allowed } = self.ask(root, id, event, false)?;
                let known = self.known.get(&id)?.as_ref()?;
                Some(match allowed {
                    true => "the rules allow it as soon as they are enforced".to_owned(),
                    false => allow_it(command("add", known, &rule(false, peer)?, names)),
                })
            }
            Originator::Sender => Some(add(rule(false, peer)?)),
            // The rules of the flow's direction were asked: the event has the peer that they are about.
            Originator::Receiver if seen.is_some_and(|seen| seen.direction != packet) => {
                Some(add(rule(true, peer)?))
            }
            Originator::Receiver => match self.ask(root, id, event, true) {
                Some(Began { allowed: true, .. }) => Some(
                    "it is an answer, and the rules allow the flow, which conntrack does not know: it passes \
                     once the other end of that flow sends again"
                        .to_owned(),
                ),
                Some(Began { peer, .. }) => {
                    let known = self.known.get(&id)?.as_ref()?;
                    let rule = rule(true, peer)?;
                    let command = command("add", known, &rule, names);
                    Some(format!("an answer; to allow its flow: {command}"))
                }
                None => Some(
                    "it looks like an answer of a flow that conntrack does not know; `cilmark explain` tells \
                     what the rules say of the other direction"
                        .to_owned(),
                ),
            },
            Originator::Unknown => {
                let answer = self.ask(root, id, event, true)?;
                let known = self.known.get(&id)?.as_ref()?;
                let begins = command("add", known, &rule(false, peer)?, names);
                let answers = match answer.allowed {
                    true => "the rules allow it, and it passes once that end sends again".to_owned(),
                    false => command("add", known, &rule(true, answer.peer)?, names),
                };
                Some(format!(
                    "its ports do not tell who began: if it is an answer, {answers}; if its flow begins \
                     with it, {begins}"
                ))
            }
        }
    }

    /// Asks the rules, as if they were enforced and conntrack had no entry, about the flow that a packet begins; with
    /// `is_answer`, about the flow that the packet would be an answer of.
    fn ask(
        &mut self,
        root: &Root,
        id: EndpointId,
        event: &cm_event,
        is_answer: bool,
    ) -> Option<Began> {
        let (packet, _) = packet_of(event);
        let service = l4_of(event, is_answer)?.range().map_or(0, |(first, _)| first);
        let (source, destination) = (event.source.to_ip()?, event.destination.to_ip()?);
        let (direction, source, destination, sport) = match is_answer {
            true => (packet.other(), destination, source, event.dport),
            false => (packet, source, destination, event.sport),
        };
        let protocol = event.protocol;
        let question = Question { id, direction, source, destination, protocol, service };
        if let Some(known) = self.asked.get(&question) {
            return *known;
        }
        let endpoint = &self.known.get(&id)?.as_ref()?.endpoint;
        let hook = match (endpoint.role()?, direction) {
            (Role::Container, Direction::Egress) | (Role::Netdev, Direction::Ingress) => {
                Hook::Ingress
            }
            _ => Hook::Egress,
        };
        let has_ports = matches!(protocol, TCP | UDP | SCTP);
        let frame = Frame {
            macs: None,
            source,
            destination,
            protocol,
            sport: u16::from_be(sport),
            dport: if has_ports { service } else { 0 },
            tcp_flags: SYN,
            icmp_type: service as u8,
        };
        if !self.budget.spend() {
            return None;
        }
        let answer = explain::verdict_on(root, endpoint, hook, &frame);
        let answer = answer.inspect_err(|error| log::debug!("ask about a flow: {error:#}"));
        let began = answer.ok().flatten().and_then(|event| {
            let peer = match direction {
                Direction::Ingress => event.source_identity,
                Direction::Egress => event.destination_identity,
            };
            let allowed = event.reason == cm_reason::CM_FORWARDED;
            let is_policys = allowed || event.reason == cm_reason::CM_DROP_POLICY;
            is_policys.then_some(Began { peer: Identity(peer), allowed })
        });
        self.asked.insert(question, began);
        began
    }
}

impl Known {
    fn of(context: &Context, id: EndpointId) -> Option<Known> {
        let endpoint = Endpoint::read(&context.root, id).ok()?;
        let owner = (endpoint.config.ct_local != 0).then_some(id);
        let flows = Conntrack::open(&context.root, owner).ok().flatten();
        let flows = flows.and_then(|flows| flows.finder().ok());
        let rules = || {
            let slot = rules::slot_in_force(endpoint.confirmation().ok()?);
            targets::policy_of(context, &endpoint).ok()?.read(slot).ok()
        };
        let policy = rules().unwrap_or_default();
        Some(Known { endpoint, flows, policy })
    }

    fn seen(&self, event: &cm_event) -> Option<Seen> {
        self.flows.as_ref()?.seen(event, self.endpoint.config.scope()).ok()?
    }

    /// Which NICs have a say in the flow of an answer.
    fn others(&self, root: &Root, event: &cm_event) -> String {
        let passed = self.seen(event).map_or(0, |seen| seen.passed);
        let all = nics::names(root).unwrap_or_default().into_iter().enumerate();
        let names: Vec<String> =
            all.filter(|(slot, _)| passed >> slot & 1 != 0).filter_map(|(_, name)| name).collect();
        match names.is_empty() {
            true => "the rules of another NIC, which its flow has passed, deny it".to_owned(),
            false => format!("its flow has passed {}, whose rules deny it", names.join(" and ")),
        }
    }

    fn originator(&self, event: &cm_event, seen: Option<Seen>) -> Originator {
        let (packet, _) = packet_of(event);
        let by_entry = |seen: Seen| match seen.direction == packet {
            true => Originator::Sender,
            false => Originator::Receiver,
        };
        // In audit a denied flow has an entry, too. Only TCP's is certain of its direction.
        match seen {
            Some(seen) if seen.allowed || event.protocol == TCP => by_entry(seen),
            _ => originator(event, || self.listens(event, packet)),
        }
    }

    /// The event with the destination identity *host* if a workload's packet is for a local address. Programs look that
    /// up only if a rule names host or world; and the rule that a hint proposes may be the first one that does.
    fn with_host(&self, event: &cm_event) -> cm_event {
        let destination = event.destination.to_ip();
        let local = || {
            let local = device::local_addresses()?;
            Ok(destination.is_some_and(|address| local.contains(&address)))
        };
        let is_egress = event.direction == cm_direction::CM_EGRESS;
        let is_here = is_egress
            && self.endpoint.role() == Some(Role::Container)
            && netns::within(self.endpoint.config.netns, local).is_ok_and(|it| it == Some(true));
        let destination_identity =
            if is_here { Identity::HOST.0 } else { event.destination_identity };
        cm_event { destination_identity, ..*event }
    }

    /// Whether a socket listens on the host's end of a TCP connection. Workloads have theirs in other namespaces.
    fn listens(&self, event: &cm_event, packet: Direction) -> bool {
        let local = if packet == Direction::Ingress { event.dport } else { event.sport };
        let listening = || Ok(sockets::listens(u16::from_be(local)));
        self.endpoint.role() == Some(Role::Netdev)
            && netns::within(self.endpoint.config.netns, listening).is_ok_and(|it| it == Some(true))
    }

    /// The hint about a packet that a rule denies: to remove the rule, unless that would let more than this flow pass.
    fn denied(&self, event: &cm_event, names: &Names) -> Option<String> {
        let number = crate::model::policy::RuleNumber(event.rule);
        let direction = self.policy.get(number)?.direction;
        let (packet, peer) = packet_of(event);
        let flow = allow(event, packet, direction != packet, peer)?;
        let service = flow.l4.range().map_or(NO_SERVICE, |(first, _)| first);
        let mut left = self.policy.clone();
        let mut commands = Vec::new();
        loop {
            let decision = decide(left.rules(), direction, flow.peer, event.protocol, service);
            match decision {
                Decision::Deny(number) => {
                    let deny = left.get(number)?;
                    if let Some(other) =
                        left.rules().iter().find(|it| opens(&deny, &it.rule, &flow))
                    {
                        return Some(format!(
                            "`{}` also denies what `{}` allows: to allow this flow alone, write the deny \
                             more narrowly",
                            deny.text(names),
                            other.rule.text(names)
                        ));
                    }
                    left.remove(&[deny]);
                    commands.push(command("del", self, &deny, names));
                }
                Decision::NoMatch => {
                    commands.push(command("add", self, &flow, names));
                    break;
                }
                Decision::Allow(_) => break,
            }
        }
        Some(allow_it(commands.join(" && ")))
    }
}

/// Whether `allow` would let more pass than `flow` if `deny` were gone.
fn opens(deny: &Rule, allow: &Rule, flow: &Rule) -> bool {
    let both = deny.meet(allow).filter(|_| allow.action == Action::Allow);
    both.is_some_and(|both| both != (flow.peer, flow.l4))
}

/// The direction of a packet, and the identity at its remote end.
fn packet_of(event: &cm_event) -> (Direction, Identity) {
    match event.direction {
        cm_direction::CM_INGRESS => (Direction::Ingress, Identity(event.source_identity)),
        _ => (Direction::Egress, Identity(event.destination_identity)),
    }
}

/// The narrowest rule that allows the flow of a packet. `None` if the peer's identity is not known: as 0 it would stand
/// for anybody.
fn allow(event: &cm_event, packet: Direction, is_answer: bool, peer: Identity) -> Option<Rule> {
    let direction = if is_answer { packet.other() } else { packet };
    let l4 = l4_of(event, is_answer)?;
    (peer != Rule::ANY).then_some(Rule { action: Action::Allow, direction, peer, l4 })
}

/// The protocol and service that rules are asked about, as `service_of()` in the datapath.
fn l4_of(event: &cm_event, is_answer: bool) -> Option<L4> {
    let service = if is_answer { event.sport } else { event.dport };
    let port = u16::from_be(service);
    let is_ipv4 = event.source.to_ip()?.is_ipv4();
    let kind = match (event.icmp_type, is_answer) {
        (0, true) if is_ipv4 => 8,
        (129, true) if !is_ipv4 => 128,
        (kind, _) => kind,
    };
    match event.protocol {
        // The ports of a later fragment are not known without its first one.
        TCP | UDP | SCTP if port == 0 && event.fragment != 0 => None,
        protocol @ (TCP | UDP | SCTP) => Some(L4::Ports { protocol, first: port, last: port }),
        // In the other family these are protocols without types.
        protocol @ (ICMP | ICMP6) if is_ipv4 == (protocol == frame::ICMP) => {
            Some(L4::IcmpType { protocol, kind })
        }
        protocol => Some(L4::Protocol(protocol)),
    }
}

/// Which end began the flow, by the packet alone. `listens` tells whether a socket listens at the local end.
fn originator(event: &cm_event, listens: impl Fn() -> bool) -> Originator {
    let (sport, dport) = (u16::from_be(event.sport), u16::from_be(event.dport));
    let answers = |is_answer| if is_answer { Originator::Receiver } else { Originator::Sender };
    let is_local_receiver = event.direction == cm_direction::CM_INGRESS;
    match (event.protocol, l4_of(event, false)) {
        (_, Some(L4::IcmpType { protocol: ICMP, kind: 0 })) => return Originator::Receiver,
        (_, Some(L4::IcmpType { protocol: ICMP6, kind: 129 })) => return Originator::Receiver,
        (TCP, _) if event.tcp_flags & SYN != 0 => return answers(event.tcp_flags & ACK != 0),
        (_, Some(L4::Ports { .. })) => {}
        _ => return Originator::Sender,
    }
    // A multicast destination can't have sent the first packet, and 0.0.0.0 can't have received one.
    if is_of_many(event.destination.to_ip()) || is_unspecified(event.source.to_ip()) {
        return Originator::Sender;
    }
    if event.protocol == TCP && listens() {
        return answers(!is_local_receiver);
    }
    let by = |limit: u16| (sport < limit, dport < limit);
    match (by(PRIVILEGED), by(EPHEMERAL)) {
        ((true, false), _) | ((false, false), (true, false)) => Originator::Receiver,
        ((false, true), _) | ((false, false), (false, true)) => Originator::Sender,
        // Both ports are services, as with DHCP and NTP: either end may begin.
        ((true, true), _) => Originator::Sender,
        _ if sport == dport => Originator::Sender,
        _ => Originator::Unknown,
    }
}

fn is_of_many(address: Option<IpAddr>) -> bool {
    match address {
        Some(IpAddr::V4(v4)) => v4.is_multicast() || v4.is_broadcast(),
        Some(IpAddr::V6(v6)) => v6.is_multicast(),
        None => false,
    }
}

fn is_unspecified(address: Option<IpAddr>) -> bool {
    address.is_some_and(|address| address.is_unspecified())
}

fn allow_it(commands: String) -> String {
    format!("to allow it: {commands}")
}

/// A shell command. A device whose name the shell could take for something else goes by its number.
fn command(verb: &str, known: &Known, rule: &Rule, names: &Names) -> String {
    let name = &known.endpoint.device;
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "._-:".contains(c);
    let device = match !name.is_empty() && !name.starts_with('-') && name.chars().all(is_plain) {
        true => name.clone(),
        false => Selector::Id(known.endpoint.id).to_string(),
    };
    format!("cilmark policy {verb} {device} '{}'", rule.text(names))
}

impl Default for Budget {
    fn default() -> Budget {
        Budget { left: Budget::MOST, at: Instant::now() }
    }
}

impl Budget {
    const MOST: f64 = 8.0;
    const PER_SECOND: f64 = 0.5;

    fn spend(&mut self) -> bool {
        let passed = self.at.elapsed().as_secs_f64();
        self.left = (self.left + passed * Budget::PER_SECOND).min(Budget::MOST);
        self.at = Instant::now();
        let may = self.left >= 1.0;
        self.left -= f64::from(u8::from(may));
        may
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(protocol: u8, source: (&str, u16), destination: (&str, u16)) -> cm_event {
        let address = |text: &str| text.parse::<IpAddr>().unwrap().into();
        cm_event {
            protocol,
            direction: cm_direction::CM_INGRESS,
            source_identity: 300,
            source: address(source.0),
            destination: address(destination.0),
            sport: source.1.to_be(),
            dport: destination.1.to_be(),
            ..cm_event::default()
        }
    }

    #[test]
    fn ports_tell_who_began_or_nobody_does() {
        use Originator::*;
        for (protocol, source, destination, flags, wanted) in [
            (UDP, ("192.0.2.1", 53), ("10.0.0.1", 40000), 0, Receiver),
            (UDP, ("192.0.2.1", 40000), ("10.0.0.1", 53), 0, Sender),
            (UDP, ("192.0.2.1", 5353), ("10.0.0.1", 40000), 0, Receiver),
            (UDP, ("192.0.2.1", 53), ("10.0.0.1", 2000), 0, Receiver),
            // A lease, from a server that knows the client's address.
            (UDP, ("192.0.2.1", 67), ("10.0.0.1", 68), 0, Sender),
            (UDP, ("0.0.0.0", 68), ("255.255.255.255", 67), 0, Sender),
            (UDP, ("192.0.2.1", 1900), ("239.255.255.250", 50000), 0, Sender),
            (UDP, ("fd00::1", 547), ("ff02::2", 50000), 0, Sender),
            (UDP, ("192.0.2.1", 51820), ("10.0.0.1", 51820), 0, Sender),
            (UDP, ("192.0.2.1", 40000), ("10.0.0.1", 51820), 0, Unknown),
            (UDP, ("192.0.2.1", 2000), ("10.0.0.1", 3000), 0, Unknown),
            (TCP, ("192.0.2.1", 443), ("10.0.0.1", 40000), SYN, Sender),
            (TCP, ("192.0.2.1", 40000), ("10.0.0.1", 443), SYN | ACK, Receiver),
            (TCP, ("192.0.2.1", 443), ("10.0.0.1", 40000), ACK, Receiver),
            (TCP, ("192.0.2.1", 40000), ("10.0.0.1", 50000), ACK, Unknown),
            (47, ("192.0.2.1", 0), ("10.0.0.1", 0), 0, Sender),
        ] {
            let event = cm_event { tcp_flags: flags, ..event(protocol, source, destination) };
            assert_eq!(originator(&event, || false), wanted, "{source:?} {destination:?}");
        }
        let to_a_server = event(TCP, ("192.0.2.1", 40000), ("10.0.0.1", 50000));
        assert_eq!(originator(&to_a_server, || true), Sender);
        let from_it = cm_event { direction: cm_direction::CM_EGRESS, ..to_a_server };
        assert_eq!(originator(&from_it, || true), Receiver);
        for (protocol, kind, address, wanted) in [
            (ICMP, 0, "192.0.2.1", Receiver),
            (ICMP, 8, "192.0.2.1", Sender),
            (ICMP, 3, "192.0.2.1", Sender),
            (ICMP6, 129, "fd00::1", Receiver),
            (ICMP6, 128, "fd00::1", Sender),
            (ICMP6, 129, "192.0.2.1", Sender),
        ] {
            let event = cm_event { icmp_type: kind, ..event(protocol, (address, 0), (address, 0)) };
            assert_eq!(originator(&event, || false), wanted, "{protocol} {kind} {address}");
        }
    }

    #[test]
    fn the_rule_is_about_the_flow_and_not_about_the_packet() {
        let (web, own) = (("192.0.2.1", 443), ("10.0.0.1", 50000));
        for (event, is_answer, rule) in [
            (event(TCP, web, own), false, "allow ingress from 300 tcp/50000"),
            (event(TCP, web, own), true, "allow egress to 300 tcp/443"),
            (event(ICMP, web, own), true, "allow egress to 300 icmp/8"),
            (event(ICMP6, web, own), false, "allow ingress from 300 icmp6"),
            (event(UDP, ("192.0.2.1", 9), ("10.0.0.1", 0)), false, "allow ingress from 300 udp/0"),
            (event(47, web, own), false, "allow ingress from 300 proto/47"),
        ] {
            let (packet, peer) = packet_of(&event);
            let missing = allow(&event, packet, is_answer, peer).unwrap();
            assert_eq!(missing.text(&Names::default()), rule);
        }
        let nobody = cm_event { source_identity: 0, ..event(TCP, web, own) };
        assert!(allow(&nobody, Direction::Ingress, false, packet_of(&nobody).1).is_none());
        let later = cm_event { fragment: 1, dport: 0, ..event(TCP, web, own) };
        assert!(l4_of(&later, false).is_none());
    }
}
