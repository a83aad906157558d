//! What would let a dropped packet pass: a command, if there is one that lets exactly its flow pass, else words.
//!
//! Users follow a hint without checking it. So the rule that it proposes is about the flow and not the packet. Which end
//! began the flow is known from conntrack or from the packet itself, or guessed from the ports; if it can't be guessed,
//! the hint names both possibilities.

mod words;

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::time::Instant;

use super::flow::{Originator, SYN, allow, l4_of, originator, packet_of};
use crate::kernel::abi::{cm_direction, cm_event, cm_reason, cm_rule_number};
use crate::kernel::sys::Hook;
use crate::kernel::{device, netns, sockets};
use crate::model::endpoint::{EndpointId, Role, Selector};
use crate::model::frame::Frame;
use crate::model::identity::{Identity, Names};
use crate::model::origin::Origins;
use crate::model::policy::{Decision, Policy, RuleNumber, decide};
use crate::model::protocol::{self, TCP};
use crate::model::rule::{Action, Direction, Rule};
use crate::ops::explain;
use crate::ops::rules::{at, in_force};
use crate::ops::targets::policy_of;
use crate::state::conntrack::{Conntrack, Finder, Seen};
use crate::state::nics;
use crate::state::pin::Root;
use crate::state::registry::Endpoint;

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

impl Hints {
    /// Forgets what it knows of endpoints, rules and identities.
    pub fn forget(&mut self) {
        self.known.clear();
        self.asked.clear();
    }

    /// An endpoint; `None` if it can't be read.
    pub fn known(&mut self, root: &Root, id: EndpointId) -> Option<&Known> {
        self.known.entry(id).or_insert_with(|| Known::of(root, id)).as_ref()
    }

    /// The hint about a packet that was dropped, or in audit would have been.
    pub fn about(
        &mut self,
        root: &Root,
        id: EndpointId,
        event: &cm_event,
        names: &Names,
    ) -> Option<String> {
        let event = &self.known(root, id)?.with_host(event);
        if event.rule == cm_rule_number::CM_RULE_ANOTHER_NIC.0 {
            return Some(self.known(root, id)?.others(root, event));
        }
        match event.reason {
            cm_reason::CM_DROP_POLICY => self.missing(root, id, event, names),
            cm_reason::CM_DROP_POLICY_DENY => self.known(root, id)?.denied(event, names),
            _ => words::about(root, &self.known(root, id)?.endpoint, event),
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
        let add = |rule: Rule| allow_it(command("add", &known.device(), &rule, names));
        let rule = |is_answer, peer| allow(event, packet, is_answer, peer);
        match known.originator(event, seen) {
            // Audit has asked the rules of the entry's direction; those of the packet's are still to be asked.
            Originator::Sender if seen.is_some_and(|seen| seen.direction != packet) => {
                let Began { peer, allowed } = self.ask(root, id, event, false)?;
                let known = self.known.get(&id)?.as_ref()?;
                Some(match allowed {
                    true => "the rules allow it as soon as they are enforced".to_owned(),
                    false => allow_it(command("add", &known.device(), &rule(false, peer)?, names)),
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
                    let command = command("add", &known.device(), &rule, names);
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
                let begins = command("add", &known.device(), &rule(false, peer)?, names);
                let answers = match answer.allowed {
                    true => "the rules allow it, and it passes once that end sends again".to_owned(),
                    false => command("add", &known.device(), &rule(true, answer.peer)?, names),
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
        let has_ports = protocol::has_ports(protocol);
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
    /// As commands take it: where the shell could take its name for something else, its number.
    fn device(&self) -> String {
        let name = &self.endpoint.device;
        let is_plain = |c: char| c.is_ascii_alphanumeric() || "._-:".contains(c);
        match !name.is_empty() && !name.starts_with('-') && name.chars().all(is_plain) {
            true => name.clone(),
            false => Selector::Id(self.endpoint.id).to_string(),
        }
    }

    fn of(root: &Root, id: EndpointId) -> Option<Known> {
        let endpoint = Endpoint::read(root, id).ok()?;
        let flows = Conntrack::open(root, endpoint.owns_flows()).ok().flatten();
        let flows = flows.and_then(|flows| flows.finder().ok());
        let rules = policy_of(root, &endpoint).and_then(|maps| in_force(&maps, &endpoint));
        let policy = rules.unwrap_or_default();
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
        let number = RuleNumber(event.rule);
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
                    let listed = left.rules().iter().find(|it| it.number == number).copied()?;
                    let deny = listed.rule;
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
                    left = Policy::of(
                        left.rules().iter().filter(|it| it.number != number).copied().collect(),
                    );
                    if listed.origins != Origins::NONE {
                        commands.push(command("del", &self.device(), &deny, names));
                    }
                    if listed.of_identity {
                        let identity = Identity(self.endpoint.config.identity);
                        commands.push(command("del", &at(identity, names), &deny, names));
                    }
                }
                Decision::NoMatch => {
                    commands.push(command("add", &self.device(), &flow, names));
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

fn allow_it(commands: String) -> String {
    format!("to allow it: {commands}")
}

/// A shell command.
fn command(verb: &str, whose: &str, rule: &Rule, names: &Names) -> String {
    format!("cilmark policy {verb} {whose} '{}'", rule.text(names))
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
