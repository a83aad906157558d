//! Rules as they were given, each once and with who has given it: an endpoint's own, or those of an identity.

use std::collections::{HashMap, HashSet};

use super::origin::{Origin, Origins};
use super::rule::Rule;

/// A rule, and who has made it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Made {
    /// The rule.
    pub rule: Rule,
    /// One at least.
    pub origins: Origins,
}

/// Rules in the order in which they were given, each once.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RuleList {
    rules: Vec<Made>,
}

impl RuleList {
    /// Of rules that stand there once.
    pub fn of(rules: Vec<Made>) -> RuleList {
        RuleList { rules }
    }

    /// The rules with who has made them, in order.
    pub fn made(&self) -> &[Made] {
        &self.rules
    }

    /// The rules, in order.
    pub fn rules(&self) -> impl Iterator<Item = Rule> {
        self.rules.iter().map(|made| made.rule)
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.rules.len()
    }

    /// Adds rules at the end, and tells which of them were there already: they have one more who has made them.
    pub fn add(&mut self, new: &[Rule], origin: Origin) -> Vec<Rule> {
        let places = self.rules.iter().enumerate().map(|(place, made)| (made.rule, place));
        let mut places: HashMap<Rule, usize> = places.collect();
        let mut there = Vec::new();
        for rule in new {
            match places.get(rule) {
                Some(place) => {
                    let made = &mut self.rules[*place];
                    made.origins = made.origins.with(origin);
                    there.push(*rule);
                }
                None => {
                    places.insert(*rule, self.rules.len());
                    self.rules.push(Made { rule: *rule, origins: origin.into() });
                }
            }
        }
        there
    }

    /// Removes rules, whoever has made them, and tells which of them were not there.
    pub fn remove(&mut self, gone: &[Rule]) -> Vec<Rule> {
        let here: HashSet<Rule> = self.rules().collect();
        let set: HashSet<Rule> = gone.iter().copied().collect();
        self.rules.retain(|made| !set.contains(&made.rule));
        gone.iter().filter(|rule| !here.contains(rule)).copied().collect()
    }

    /// Leaves these rules and no others, whoever has made those; those that are new he has made.
    pub fn become_those_of(&mut self, origin: Origin, rules: &[Rule]) {
        let mut all = RuleList::default();
        all.add(rules, origin);
        let before: HashMap<Rule, Origins> =
            self.rules.iter().map(|made| (made.rule, made.origins)).collect();
        for made in &mut all.rules {
            let origins = before.get(&made.rule).copied().unwrap_or_default();
            made.origins = origins.with(origin);
        }
        *self = all;
    }

    /// Makes these the rules of one who makes rules, and leaves those of others. His come first, in his order, unless they
    /// are these already. What a command has made before is the file's alone once it names it.
    pub fn replace(&mut self, origin: Origin, rules: &[Rule]) {
        let mut seen = HashSet::new();
        let rules: Vec<Rule> = rules.iter().filter(|rule| seen.insert(**rule)).copied().collect();
        let his = self.rules.iter().filter(|made| made.origins.contain(origin));
        let gives_up =
            |made: &&Made| origin == Origin::File && made.origins.contain(Origin::Command);
        if his.clone().map(|made| made.rule).eq(rules.iter().copied())
            && !his.clone().any(|made| gives_up(&made))
        {
            return;
        }
        let before: HashMap<Rule, Origins> =
            self.rules.iter().map(|made| (made.rule, made.origins)).collect();
        let origins = |rule: &Rule| {
            let origins = before.get(rule).copied().unwrap_or_default().with(origin);
            if origin == Origin::File { origins.without(Origin::Command) } else { origins }
        };
        let first = rules.iter().map(|rule| Made { rule: *rule, origins: origins(rule) });
        let others = self.rules.iter().filter(|made| !seen.contains(&made.rule));
        let others = others.map(|made| Made { origins: made.origins.without(origin), ..*made });
        self.rules = first.chain(others).filter(|made| made.origins != Origins::NONE).collect();
    }
}

/// The rules of an identity.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct IdentityRules {
    /// What counts.
    pub now: RuleList,
    /// What counts again if nobody confirms in time.
    pub before: Option<RuleList>,
    /// By then, in ns of the coarse monotonic clock. Of rules that are for good: when they would have gone, if somebody has
    /// confirmed them; else 0.
    pub until_ns: u64,
}

impl IdentityRules {
    /// For good.
    pub fn permanent(now: RuleList) -> IdentityRules {
        IdentityRules { now, before: None, until_ns: 0 }
    }

    /// When they go, if nobody confirms them; `None` if they are for good.
    pub fn deadline(&self) -> Option<u64> {
        self.before.as_ref().map(|_| self.until_ns)
    }

    /// What counts if nobody confirms: the rules before, or these.
    pub fn fallback(&self) -> &RuleList {
        self.before.as_ref().unwrap_or(&self.now)
    }

    /// As they are at this moment.
    pub fn at(self, now_ns: u64) -> IdentityRules {
        match self.before {
            Some(before) if self.until_ns <= now_ns => IdentityRules::permanent(before),
            _ => self,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::identity::Names;

    fn rules(texts: &[&str]) -> Vec<Rule> {
        texts.iter().map(|text| Rule::parse(text, &Names::default()).unwrap()).collect()
    }

    fn list(texts: &[&str], origin: Origin) -> RuleList {
        let mut list = RuleList::default();
        list.add(&rules(texts), origin);
        list
    }

    fn shown(list: &RuleList) -> Vec<(String, Vec<Origin>)> {
        let text = |made: &Made| made.rule.text(&Names::default());
        list.made().iter().map(|made| (text(made), made.origins.iter().collect())).collect()
    }

    const A: &str = "allow ingress from 500";
    const B: &str = "allow ingress from 600";
    const C: &str = "deny egress to 700";

    #[test]
    fn what_is_there_already_is_reported_and_stays_once() {
        let mut list = list(&[A, B], Origin::Command);
        assert_eq!(list.add(&rules(&[C, B, C]), Origin::Command), rules(&[B, C]));
        assert_eq!(list.rules().collect::<Vec<_>>(), rules(&[A, B, C]));
        assert_eq!(list.remove(&rules(&[B, B])), []);
        assert_eq!(list.remove(&rules(&[B])), rules(&[B]));
        assert_eq!(list.rules().collect::<Vec<_>>(), rules(&[A, C]));
    }

    #[test]
    fn a_rule_of_two_stays_until_both_have_given_it_up() {
        use Origin::{File, Hook};
        let mut list = list(&[A, B], File);
        list.add(&rules(&[B, C]), Hook);
        list.replace(File, &rules(&[C]));
        assert_eq!(shown(&list), [(C.to_owned(), vec![File, Hook]), (B.to_owned(), vec![Hook])]);
        list.replace(Hook, &[]);
        assert_eq!(shown(&list), [(C.to_owned(), vec![File])]);
        list.replace(File, &[]);
        assert!(list.is_empty());
    }

    #[test]
    fn what_a_command_has_made_is_the_files_once_it_names_it() {
        let mut list = list(&[A, B], Origin::Command);
        list.replace(Origin::File, &rules(&[B]));
        let taken = [(B.to_owned(), vec![Origin::File]), (A.to_owned(), vec![Origin::Command])];
        assert_eq!(shown(&list), taken);
        list.add(&rules(&[B]), Origin::Command);
        list.replace(Origin::File, &rules(&[B]));
        assert_eq!(shown(&list), taken);
    }

    #[test]
    fn replacing_by_the_same_changes_nothing() {
        let mut list = list(&[A, B], Origin::File);
        list.add(&rules(&[C]), Origin::Command);
        list.add(&rules(&[B]), Origin::Hook);
        let before = list.clone();
        list.replace(Origin::File, &rules(&[A, B, A]));
        assert_eq!(list, before);
        list.replace(Origin::Hook, &rules(&[B]));
        assert_eq!(list, before);
        list.replace(Origin::File, &rules(&[B, A]));
        assert_eq!(list.rules().collect::<Vec<_>>(), rules(&[B, A, C]));
    }

    #[test]
    fn rules_on_trial_go_when_their_time_is_over() {
        let [old, new] = [A, B].map(|text| list(&[text], Origin::Command));
        let trial = IdentityRules { now: new.clone(), before: Some(old.clone()), until_ns: 10 };
        assert_eq!((trial.clone().at(9), trial.deadline()), (trial.clone(), Some(10)));
        assert_eq!(trial.at(10), IdentityRules::permanent(old));
        let confirmed = IdentityRules { until_ns: 10, ..IdentityRules::permanent(new) };
        assert_eq!((confirmed.clone().at(11), confirmed.deadline()), (confirmed, None));
    }
}
