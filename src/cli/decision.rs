//! What decided about a packet, in words: a rule, or what stands beside the rules.

use std::collections::BTreeMap;

use super::{Context, targets};
use crate::datapath::policy::Slot;
use crate::datapath::registry::Endpoint;
use crate::model::endpoint::EndpointId;
use crate::model::identity::Names;
use crate::model::policy::{Policy, RuleNumber};
use crate::model::rule::Rule;

/// `enum cm_rule_number`, as far as no rule has decided.
pub const NOT_BY_A_RULE: [(u32, &str); 6] = [
    (0, "no rule"),
    (1, "failsafe"),
    (2, "icmp"),
    (3, "related"),
    (4, "adopted"),
    (5, "masqueraded"),
];

/// The rules of endpoints as they were when they were asked for last.
#[derive(Default)]
pub struct Rules {
    of_endpoints: BTreeMap<EndpointId, Vec<Policy>>,
}

impl Rules {
    /// The rule that has this number now. Both slots are looked at: no number is in both with different
    /// rules.
    pub fn find(&mut self, context: &Context, id: EndpointId, number: u32) -> Option<Rule> {
        let number = RuleNumber(number);
        if number < RuleNumber::FIRST {
            return None;
        }
        let look = |policies: &[Policy]| policies.iter().find_map(|policy| policy.get(number));
        if let Some(rule) = self.of_endpoints.get(&id).and_then(|policies| look(policies)) {
            return Some(rule);
        }
        // They may have changed; what can't be read has no text.
        let policies = read(context, id).unwrap_or_default();
        let found = look(&policies);
        self.of_endpoints.insert(id, policies);
        found
    }

    /// What decided, in words; `None` if nothing did.
    pub fn words(
        &mut self,
        context: &Context,
        ids: &[EndpointId],
        number: u32,
        names: &Names,
    ) -> Option<String> {
        if number == 0 {
            return None;
        }
        if let Some((_, words)) = NOT_BY_A_RULE.iter().find(|(known, _)| *known == number) {
            return Some((*words).to_owned());
        }
        let mut rules: Vec<Rule> =
            ids.iter().filter_map(|id| self.find(context, *id, number)).collect();
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

fn read(context: &Context, id: EndpointId) -> Option<Vec<Policy>> {
    let endpoint = Endpoint::read(&context.root, id).ok()?;
    let maps = targets::policy_of(context, &endpoint).ok()?;
    Some([Slot::Current, Slot::Previous].iter().filter_map(|slot| maps.read(*slot).ok()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_numbers_are_those_of_the_header() {
        let header = include_str!("../bpf/abi.h");
        let names = ["NONE", "FAILSAFE", "ICMP", "RELATED", "ADOPTED", "MASQUERADED"];
        for (name, (number, _)) in names.iter().zip(NOT_BY_A_RULE) {
            assert!(header.contains(&format!("\tCM_RULE_{name} = {number},")), "{name}");
        }
    }
}
