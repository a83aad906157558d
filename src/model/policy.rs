//! The rules of an endpoint: a numbered list, and which of them decides.
//!
//! Of the rules that match a flow one decides, and the flow's packets count for it:
//! 1. one that denies before one that allows, however specific;
//! 2. one that names the peer before one for any;
//! 3. the narrower L4: a port or ICMP type, then a range of ports, the smaller one first, then a
//!    protocol, then none;
//! 4. the one that is listed first.
//!
//! [`decide`] says so in so many words; [`compile`](Policy::compile) says the same to the kernel.

mod compile;
pub mod effect;
pub mod live;

use std::collections::{HashMap, HashSet};
use std::fmt;

pub use compile::Entry;

use super::identity::Identity;
use super::origin::{Origin, Origins};
use super::rule::{Action, Direction, L4, Rule};
use super::rule_list::{Made, RuleList};
use super::wire::CM_RULE_FIRST;

/// What counters, events and conntrack know a rule by; the same for as long as the rule is listed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RuleNumber(pub u32);

impl RuleNumber {
    /// The lowest that a rule can have; those below have a meaning of their own.
    pub const FIRST: RuleNumber = RuleNumber(CM_RULE_FIRST);
}

impl fmt::Display for RuleNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A rule in a list, and by whom it is there: one at least.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Listed {
    /// Unique in the list.
    pub number: RuleNumber,
    /// Unique, too.
    pub rule: Rule,
    /// Who has made it for the endpoint itself; nobody, if only its identity has it.
    pub origins: Origins,
    /// The endpoint's identity has it.
    pub of_identity: bool,
}

/// The rules of an endpoint, each once: its own in the order in which they were given, then those that only its identity
/// has.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Policy {
    rules: Vec<Listed>,
}

impl Policy {
    /// A list of rules that have their numbers.
    pub fn of(rules: Vec<Listed>) -> Policy {
        Policy { rules }
    }

    /// The rules, in order.
    pub fn rules(&self) -> &[Listed] {
        &self.rules
    }

    /// The rule of a number.
    pub fn get(&self, number: RuleNumber) -> Option<Rule> {
        self.rules.iter().find(|listed| listed.number == number).map(|listed| listed.rule)
    }

    /// The endpoint's own.
    pub fn own(&self) -> RuleList {
        let own = self.rules.iter().filter(|listed| listed.origins != Origins::NONE);
        RuleList::of(own.map(|it| Made { rule: it.rule, origins: it.origins }).collect())
    }

    /// Those that the identity has.
    pub fn of_identity(&self) -> impl Iterator<Item = Rule> {
        self.rules.iter().filter(|listed| listed.of_identity).map(|listed| listed.rule)
    }

    /// Whether the rules and their numbers are the same, whoever has made them.
    pub fn has_the_rules_of(&self, other: &Policy) -> bool {
        let rules = |policy: &Policy| -> Vec<(RuleNumber, Rule)> {
            policy.rules.iter().map(|listed| (listed.number, listed.rule)).collect()
        };
        rules(self) == rules(other)
    }

    /// The list of just these rules, of a command, as [`Policy::made_of`] numbers them.
    pub fn replaced_by(&self, rules: &[Rule], kept: &Policy) -> Policy {
        let mut own = RuleList::default();
        own.add(rules, Origin::Command);
        self.made_of(&own, &RuleList::default(), kept)
    }

    /// The list of an endpoint's own rules and those of its identity. Those that are here already keep their numbers, and
    /// those that `kept` has get theirs; new ones get the lowest that are free in the new list and not taken in `kept`,
    /// another list whose counters must not be mixed with theirs.
    pub fn made_of(&self, own: &RuleList, of_identity: &RuleList, kept: &Policy) -> Policy {
        let numbers = |policy: &Policy| -> HashMap<Rule, RuleNumber> {
            policy.rules.iter().map(|listed| (listed.rule, listed.number)).collect()
        };
        let (here, there) = (numbers(self), numbers(kept));
        let identitys: HashSet<Rule> = of_identity.rules().collect();
        let owns: HashSet<Rule> = own.rules().collect();
        let only_identitys = of_identity.rules().filter(|rule| !owns.contains(rule));
        let only_identitys = only_identitys.map(|rule| (rule, Origins::NONE));
        let wanted: Vec<(Rule, Origins)> =
            own.made().iter().map(|it| (it.rule, it.origins)).chain(only_identitys).collect();

        let mut taken: HashSet<RuleNumber> =
            wanted.iter().filter_map(|(rule, _)| here.get(rule)).copied().collect();
        let known = wanted.iter().map(|(rule, _)| {
            let number = here.get(rule).copied();
            number.or_else(|| there.get(rule).copied().filter(|number| taken.insert(*number)))
        });
        let known: Vec<Option<RuleNumber>> = known.collect();
        taken.extend(kept.rules.iter().map(|listed| listed.number));
        let mut free =
            (RuleNumber::FIRST.0..).map(RuleNumber).filter(|number| !taken.contains(number));
        let numbered = wanted.into_iter().zip(known).filter_map(|((rule, origins), known)| {
            let number = known.or_else(|| free.next())?;
            Some(Listed { number, rule, origins, of_identity: identitys.contains(&rule) })
        });
        Policy { rules: numbered.collect() }
    }
}

/// What becomes of a flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// This rule allows it.
    Allow(RuleNumber),
    /// This rule denies it.
    Deny(RuleNumber),
    /// No rule matches, so that it is denied.
    NoMatch,
}

/// The semantics of a list of rules. `service` is the destination port of the flow or its ICMP type,
/// 0 where the protocol has neither. A reference: it asks every rule.
pub fn decide(
    rules: &[Listed],
    direction: Direction,
    peer: Identity,
    protocol: u8,
    service: u16,
) -> Decision {
    let matches = |rule: &Rule| {
        let peer = rule.peer == Rule::ANY || rule.peer == peer;
        let l4 = match rule.l4 {
            L4::Any => true,
            L4::Protocol(of) => of == protocol,
            L4::Ports { protocol: of, first, last } => {
                of == protocol && (first..=last).contains(&service)
            }
            L4::IcmpType { protocol: of, kind } => of == protocol && u16::from(kind) == service,
        };
        rule.direction == direction && peer && l4
    };
    let width = |l4| match l4 {
        L4::IcmpType { .. } => 1,
        L4::Ports { first, last, .. } => u32::from(last - first) + 1,
        L4::Protocol(_) => 1 << 17,
        L4::Any => 1 << 18,
    };
    // Of equals `min_by_key` takes the first.
    let matching = rules.iter().filter(|listed| matches(&listed.rule));
    let best = matching.min_by_key(|Listed { rule, .. }| {
        (rule.action == Action::Allow, rule.peer == Rule::ANY, width(rule.l4))
    });
    match best {
        None => Decision::NoMatch,
        Some(Listed { number, rule, .. }) => match rule.action {
            Action::Allow => Decision::Allow(*number),
            Action::Deny => Decision::Deny(*number),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::identity::Names;

    pub(super) fn rule(text: &str) -> Rule {
        Rule::parse(text, &Names::default()).unwrap()
    }

    fn rules(texts: &[&str]) -> Vec<Rule> {
        texts.iter().map(|text| rule(text)).collect()
    }

    pub(super) fn policy(texts: &[&str]) -> Policy {
        Policy::default().replaced_by(&rules(texts), &Policy::default())
    }

    fn numbers(policy: &Policy) -> Vec<u32> {
        policy.rules().iter().map(|listed| listed.number.0).collect()
    }

    const SOME: [&str; 3] =
        ["allow ingress from any tcp/22", "deny ingress from 9", "allow egress to any"];

    fn list(texts: &[&str], origin: Origin) -> RuleList {
        let mut list = RuleList::default();
        list.add(&rules(texts), origin);
        list
    }

    #[test]
    fn rules_keep_their_numbers_when_others_come_and_go() {
        let (none, mut policy) = (Policy::default(), policy(&SOME));
        assert_eq!(numbers(&policy), [16, 17, 18]);
        policy = policy.replaced_by(&rules(&SOME[1..]), &none);
        assert_eq!(numbers(&policy), [17, 18]);
        let new = ["allow egress to 5", "allow egress to 6"];
        policy = policy.replaced_by(&rules(&[&SOME[1..], &new].concat()), &none);
        assert_eq!(numbers(&policy), [17, 18, 16, 19]);
        assert_eq!(policy.get(RuleNumber(19)), Some(rule(new[1])));
    }

    #[test]
    fn a_number_that_another_list_still_uses_is_not_given_again() {
        let before = policy(&SOME);
        let after = before.replaced_by(&rules(&["allow egress to 5", SOME[2]]), &before);
        assert_eq!(numbers(&after), [19, 18]);
        // But to the same rule.
        let again = after.replaced_by(&rules(&["allow egress to 5", SOME[0]]), &before);
        assert_eq!(numbers(&again), [19, 16]);
    }

    #[test]
    fn a_rule_of_an_endpoint_and_its_identity_is_listed_once_and_stays_until_both_give_it_up() {
        let none = Policy::default();
        let both = none.made_of(
            &list(&SOME[..2], Origin::File),
            &list(&[SOME[2], SOME[1]], Origin::Command),
            &none,
        );
        assert_eq!(numbers(&both), [16, 17, 18]);
        let held = |policy: &Policy| -> Vec<(bool, bool)> {
            let held = |it: &Listed| (it.origins.contain(Origin::File), it.of_identity);
            policy.rules().iter().map(held).collect()
        };
        assert_eq!(held(&both), [(true, false), (true, true), (false, true)]);
        assert_eq!(both.own(), list(&SOME[..2], Origin::File));
        assert_eq!(both.of_identity().collect::<Vec<_>>(), rules(&SOME[1..]));
        let own = both.made_of(&both.own(), &RuleList::default(), &none);
        assert_eq!((numbers(&own), held(&own)), (vec![16, 17], vec![(true, false); 2]));
        let identitys = list(&SOME[1..], Origin::File);
        let identitys = both.made_of(&RuleList::default(), &identitys, &none);
        assert_eq!((numbers(&identitys), held(&identitys)), (vec![17, 18], vec![(false, true); 2]));
        assert!(!identitys.has_the_rules_of(&both) && both.has_the_rules_of(&both.clone()));
    }

    #[test]
    fn an_allow_may_stand_beside_the_same_deny() {
        let both = policy(&["allow ingress from 9 tcp/22", "deny ingress from 9 tcp/22"]);
        let decision = decide(both.rules(), Direction::Ingress, Identity(9), 6, 22);
        assert_eq!(decision, Decision::Deny(RuleNumber(17)));
    }

    #[test]
    fn a_deny_then_a_named_peer_then_the_narrower_then_the_first_decides() {
        let policy = policy(&[
            "allow ingress from any",               // 16
            "allow ingress from any tcp",           // 17
            "allow ingress from any tcp/0-65535",   // 18
            "allow ingress from any tcp/1000-2000", // 19
            "allow ingress from any tcp/1500-2500", // 20
            "allow ingress from any tcp/1800",      // 21
            "allow ingress from 9",                 // 22
            "deny ingress from any tcp/1900-2000",  // 23
            "deny ingress from 9 tcp",              // 24
            "deny ingress from any icmp/13",        // 25
        ]);
        use Decision::*;
        for (peer, protocol, service, decision) in [
            (1, 17, 53, Allow(RuleNumber(16))),
            (1, 6, 999, Allow(RuleNumber(18))),
            (1, 6, 1000, Allow(RuleNumber(19))),
            (1, 6, 1600, Allow(RuleNumber(19))),
            (1, 6, 1800, Allow(RuleNumber(21))),
            (1, 6, 2100, Allow(RuleNumber(20))),
            (1, 6, 1950, Deny(RuleNumber(23))),
            (9, 17, 53, Allow(RuleNumber(22))),
            (9, 6, 22, Deny(RuleNumber(24))),
            (9, 6, 1950, Deny(RuleNumber(24))),
            (9, 1, 13, Deny(RuleNumber(25))),
            (1, 1, 8, Allow(RuleNumber(16))),
        ] {
            let decided =
                decide(policy.rules(), Direction::Ingress, Identity(peer), protocol, service);
            assert_eq!(decided, decision, "{peer} {protocol} {service}");
        }
        let egress = decide(policy.rules(), Direction::Egress, Identity(9), 6, 22);
        assert_eq!(egress, NoMatch);
    }
}
