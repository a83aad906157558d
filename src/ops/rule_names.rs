//! Which rule matched, by the number that events, conntrack and counters have for it.

use std::collections::{BTreeMap, HashMap};

use super::targets::policy_of;
use crate::kernel::abi::{cm_event, cm_reason, cm_rule_number};
use crate::model::endpoint::EndpointId;
use crate::model::identity::Names;
use crate::model::policy::{Policy, RuleNumber};
use crate::model::rule::Rule;
use crate::model::wire::{self, CM_RULE_NUMBER_NAMES};
use crate::state::pin::Root;
use crate::state::policy::Slot;
use crate::state::registry::Endpoint;

/// The word for what stands in place of a rule; `None` for the number of a rule.
pub fn beside_the_rules(number: u32) -> Option<&'static str> {
    wire::name(CM_RULE_NUMBER_NAMES, number)
}

/// Whether an event's verdict comes from the rules, or what stands beside them: else they have let pass
/// what something else has dropped.
pub fn names_a_rule(event: &cm_event) -> bool {
    match event.reason {
        cm_reason::CM_FORWARDED => event.rule != cm_rule_number::CM_RULE_NONE.0,
        cm_reason::CM_DROP_POLICY | cm_reason::CM_DROP_POLICY_DENY => true,
        _ => false,
    }
}

/// The rules of endpoints as they were when they were asked for last.
#[derive(Default)]
pub struct RuleNames {
    of_endpoints: BTreeMap<EndpointId, HashMap<RuleNumber, Rule>>,
}

impl RuleNames {
    /// The rule that has this number now. Both slots are looked at: no number is in both with different
    /// rules.
    fn find(&mut self, root: &Root, id: EndpointId, number: u32) -> Option<Rule> {
        let number = RuleNumber(number);
        if number < RuleNumber::FIRST {
            return None;
        }
        let known = |rules: &HashMap<RuleNumber, Rule>| rules.get(&number).copied();
        if let Some(rule) = self.of_endpoints.get(&id).and_then(known) {
            return Some(rule);
        }
        // They may have changed; what can't be read has no text.
        let rules = read(root, id).unwrap_or_default();
        let found = known(&rules);
        self.of_endpoints.insert(id, rules);
        found
    }

    /// What matched, in words; `None` if nothing did.
    pub fn words(
        &mut self,
        root: &Root,
        ids: &[EndpointId],
        number: u32,
        names: &Names,
    ) -> Option<String> {
        if number == 0 {
            return None;
        }
        if let Some(word) = beside_the_rules(number) {
            return Some(word.to_owned());
        }
        let mut rules: Vec<Rule> =
            ids.iter().filter_map(|id| self.find(root, *id, number)).collect();
        rules.dedup();
        match rules.as_slice() {
            [rule] => Some(rule.text(names)),
            _ => Some(format!("rule {number}")),
        }
    }

    /// Forgets what it knows: a number may have gone to another rule.
    pub fn forget(&mut self) {
        self.of_endpoints.clear();
    }
}

fn read(root: &Root, id: EndpointId) -> Option<HashMap<RuleNumber, Rule>> {
    let endpoint = Endpoint::read(root, id).ok()?;
    let maps = policy_of(root, &endpoint).ok()?;
    let slots = [Slot::Current, Slot::Previous].into_iter();
    let policies: Vec<Policy> = slots.filter_map(|slot| maps.read(slot).ok()).collect();
    let listed = policies.iter().flat_map(Policy::rules);
    Some(listed.map(|listed| (listed.number, listed.rule)).collect())
}
