//! What has become of the packet, as data.

use std::net::IpAddr;

use anyhow::{Context, Result};
use serde::Serialize;

use super::steps::in_order_of_calls;
use crate::kernel::abi::{
    cm_call, cm_config, cm_ct_seen, cm_direction, cm_event, cm_rule_number, cm_step,
};
use crate::model::identity::{Identity, Names};
use crate::model::mark::Mark;
use crate::model::policy::{Policy, RuleNumber};
use crate::ops::claim::{Claim, Owners};
use crate::ops::rule_names::{beside_the_rules, names_a_rule};
use crate::ops::{identities, targets};
use crate::program::explain::{self, Answer, Fate};
use crate::state::conntrack;
use crate::state::nics;
use crate::state::pin::Root;
use crate::state::policy::Slot;
use crate::state::registry::Endpoint;

/// What has become of a packet, and why.
pub struct Report {
    /// How it came.
    pub arrival: Arrival,
    /// The verdict.
    pub fate: Fate,
    /// The mark that it has now.
    pub mark: Mark,
    /// Who sent it, as far as the programs asked.
    pub source_identity: Option<Identity>,
    /// For whom it is, as far as the programs asked.
    pub destination_identity: Option<Identity>,
    /// What it is to its flow.
    pub conntrack: Conntrack,
    /// The rule that matched, or what stands in its place.
    pub rule: Option<String>,
    /// The rules deny it, and a policy that only audits lets it pass.
    pub audited: bool,
    /// What the program would have reported.
    pub event: Option<cm_event>,
    /// What ran: the program that was asked for; with local delivery the destination's that it called; and if that is
    /// a tap's, the same again, on its hook.
    pub parts: Vec<Part>,
}

/// How a packet comes to a program.
pub struct Arrival {
    /// Which program.
    pub program: &'static str,
    /// Its mark.
    pub mark: Mark,
    /// Its bytes.
    pub length: usize,
    /// The device that it came in by; 0: this host sends it.
    pub ingress_ifindex: u32,
    /// From what that follows, if nobody has said it.
    pub because: Option<String>,
}

/// What a packet is to its flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Conntrack {
    /// Its first one, also if nothing is kept of it since it is dropped.
    New,
    /// One more of its originator's.
    Established,
    /// An answer.
    Reply,
    /// An ICMP error about it.
    Related,
    /// It belongs to none, or nobody has asked.
    None,
}

/// What one program did.
pub struct Part {
    /// What it was loaded with.
    pub config: cm_config,
    /// What it called, each call before its callees.
    pub steps: Vec<Step>,
}

/// A call, and what stands behind its numbers.
pub struct Step {
    /// As the program has written it.
    pub step: cm_step,
    /// The address that it was about.
    pub address: Option<IpAddr>,
    /// The rule of its number.
    pub rule: Option<String>,
    /// The NIC of its slot.
    pub nic: Option<String>,
    /// Whose address the sender has used without proof.
    pub claim: Option<Claim>,
}

impl Report {
    /// What a copy of an endpoint's programs has answered.
    pub fn of(
        root: &Root,
        endpoint: &Endpoint,
        arrival: Arrival,
        answer: Answer,
    ) -> Result<Report> {
        let names = identities::names(root)?;
        let mut known = vec![Known::of(root, endpoint, &answer.parts[0].config, &names)?];
        if let Some(explain::Part { config, .. }) = answer.parts.get(1) {
            let id = config.endpoint().context("a destination without a number")?;
            known.push(Known::of(root, &Endpoint::read(root, id)?, config, &names)?);
        }
        let reports = |known: &&Known<'_>| {
            let id = answer.event.as_ref().map(|event| event.endpoint_id);
            id == Some(known.config.endpoint_id)
        };
        let reporter = known.iter().find(reports).unwrap_or(&known[0]);
        let event = answer.event.as_ref();
        let rule = event.filter(|event| names_a_rule(event)).map(|event| event.rule);
        let is_audited = |step: &cm_step| {
            let [reason, _, is_enforced] = step.values;
            step.call == cm_call::CM_CALL_FINISH_VERDICT && reason != 0 && is_enforced == 0
        };
        let [source_identity, destination_identity] = identities_of(&answer, reporter.config);
        let parts = answer.parts.iter().enumerate().map(|(index, part)| {
            let known = &known[index.min(known.len() - 1)];
            let steps = in_order_of_calls(&part.steps).into_iter();
            Part { config: part.config, steps: steps.map(|step| known.step(root, step)).collect() }
        });
        Ok(Report {
            arrival,
            fate: answer.fate,
            mark: Mark(answer.mark),
            source_identity,
            destination_identity,
            conntrack: conntrack_of(&answer),
            rule: rule.and_then(|rule| reporter.rule(rule)),
            // By any of them: enforcement would have ended its way there.
            audited: answer.fate != Fate::Drop && steps_of(&answer).any(is_audited),
            event: answer.event,
            parts: parts.collect(),
        })
    }
}

fn steps_of(answer: &Answer) -> impl Iterator<Item = &cm_step> {
    answer.parts.iter().flat_map(|part| &part.steps)
}

/// Of both ends, as far as the program asked for them. What a policy drops is the endpoint's own at
/// the end that nobody asked about.
fn identities_of(answer: &Answer, reporter: &cm_config) -> [Option<Identity>; 2] {
    let Some(event) = &answer.event else { return [None; 2] };
    let has_verdict = steps_of(answer).any(|step| step.call == cm_call::CM_CALL_FINISH_VERDICT);
    let mut identities = [event.source_identity, event.destination_identity];
    let own = usize::from(event.direction == cm_direction::CM_INGRESS);
    if has_verdict && identities[own] == 0 {
        identities[own] = reporter.identity;
    }
    identities.map(|identity| (identity != 0).then_some(Identity(identity)))
}

fn conntrack_of(answer: &Answer) -> Conntrack {
    let called = |call: cm_call| steps_of(answer).filter(|step| step.call == call).last();
    let rule = answer.event.as_ref().map(|event| event.rule);
    if rule == Some(cm_rule_number::CM_RULE_RELATED.0) {
        return Conntrack::Related;
    }
    let Some(lookup) = called(cm_call::CM_CALL_CT_LOOKUP) else { return Conntrack::None };
    let seen = |flag: cm_ct_seen| lookup.values[1] & u64::from(flag.0) != 0;
    if seen(cm_ct_seen::CM_CT_SEEN_VALID) {
        return match seen(cm_ct_seen::CM_CT_SEEN_REPLY) {
            true => Conntrack::Reply,
            false => Conntrack::Established,
        };
    }
    let refused = called(cm_call::CM_CALL_FINISH_VERDICT).is_some_and(|step| step.values[0] != 0);
    match called(cm_call::CM_CALL_CT_CREATE).is_some() || refused {
        true => Conntrack::New,
        false => Conntrack::None,
    }
}

/// What the numbers in an endpoint's steps stand for.
struct Known<'a> {
    /// Who has which address.
    owners: Option<Owners>,
    /// What its program was loaded with.
    config: &'a cm_config,
    names: &'a Names,
    /// The rules in force, and those that an unconfirmed change falls back to.
    policies: [Policy; 2],
    /// The names of NICs, by their slots.
    nics: Vec<Option<String>>,
}

impl<'a> Known<'a> {
    fn of(
        root: &Root,
        endpoint: &Endpoint,
        config: &'a cm_config,
        names: &'a Names,
    ) -> Result<Known<'a>> {
        let maps = targets::policy_of(root, endpoint)?;
        let policies = [maps.read(Slot::Current)?, maps.read(Slot::Previous)?];
        Ok(Known { owners: Owners::open(root), config, names, policies, nics: nics::names(root)? })
    }

    /// A rule by its number; `None` if none matched.
    fn rule(&self, number: u32) -> Option<String> {
        if number == cm_rule_number::CM_RULE_NONE.0 {
            return None;
        }
        if let Some(word) = beside_the_rules(number) {
            return Some(word.to_owned());
        }
        let number = RuleNumber(number);
        Some(match self.policies.iter().find_map(|policy| policy.get(number)) {
            Some(rule) => rule.text(self.names),
            None => format!("rule {number}, which is gone"),
        })
    }

    fn step(&self, root: &Root, step: cm_step) -> Step {
        let address = step.address.to_ip();
        let nic = |slot: u8| {
            let name = self.nics.get(usize::from(slot)).cloned().flatten();
            name.unwrap_or_else(|| format!("slot {slot}"))
        };
        let mut known = Step { step, address, rule: None, nic: None, claim: None };
        let [a, b, _] = step.values;
        match step.call {
            cm_call::CM_CALL_FINISH_VERDICT => known.rule = self.rule(b as u32),
            // Of another NIC's rule only that NIC knows the words.
            cm_call::CM_CALL_CT_LOOKUP => {
                match (conntrack::split_rule(a as u32), self.config.nic_slot()) {
                    ((slot, _), Some(own)) if own != slot => known.nic = Some(nic(slot)),
                    ((_, number), _) => known.rule = self.rule(number),
                }
            }
            cm_call::CM_CALL_POLICY_CHECK => {
                let slot = u8::try_from(b).ok().and_then(|slot| slot.checked_sub(1));
                known.nic = slot.map(nic);
            }
            cm_call::CM_CALL_RESOLVE_SRCID => {
                known.claim = self.owners.as_ref().zip(address).and_then(|(owners, source)| {
                    owners.unproven(root, self.config, source, Identity(b as u32))
                });
            }
            _ => {}
        }
        known
    }
}
