//! Others that use the mark of packets, with the rules of each.

use std::collections::{BTreeMap, BTreeSet};

use crate::kernel::ip_rules::IpRule;
use crate::model::mark::Mark;
use crate::model::marks::layouts::{LAYOUTS, Layout, Routing};
use crate::model::marks::outcome::identities_with;
use crate::model::marks::ruleset::{Chain, Rule, Test};
use crate::ops::marks::Others;

/// A software that is known, a table of another, or other rules of `ip rule`.
pub struct User<'a> {
    name: String,
    /// If it is known.
    pub layout: Option<&'static Layout>,
    /// Its rules of nftables and iptables that are about marks.
    pub rules: Vec<(&'a Chain, &'a Rule)>,
    /// Its rules of `ip rule` that are.
    pub ip_rules: Vec<&'a IpRule>,
}

/// Users by their names, those that are known first.
struct Users<'a> {
    known: Vec<&'static Layout>,
    all: BTreeMap<(usize, String), User<'a>>,
}

/// All of them.
pub fn of(others: &Others) -> Vec<User<'_>> {
    let routing: Vec<Routing> = others.ip_rules.iter().map(IpRule::routing).collect();
    let chains = others.ruleset.chains();
    let known = LAYOUTS.iter().filter(|it| it.is_here(chains, &routing)).collect();
    let mut users = Users { known, all: BTreeMap::new() };
    for chain in chains {
        for rule in chain.rules.iter().filter(|rule| rule.is_about_marks()) {
            let layout = Layout::of_rule(&users.known, chain, rule);
            users.get(layout, &chain.table.to_string()).rules.push((chain, rule));
        }
    }
    for rule in &others.ip_rules {
        let layout = users.known.iter().copied().find(|it| it.has_ip_rule_here(rule.routing()));
        users.get(layout, "`ip rule`").ip_rules.push(rule);
    }
    users.all.into_values().collect()
}

impl<'a> Users<'a> {
    fn get(&mut self, layout: Option<&'static Layout>, name: &str) -> &mut User<'a> {
        let name = layout.map_or(name, |it| it.name).to_owned();
        let place = self.known.iter().position(|it| it.name == name).unwrap_or(self.known.len());
        let user = || User { name: name.clone(), layout, rules: Vec::new(), ip_rules: Vec::new() };
        self.all.entry((place, name.clone())).or_insert_with(user)
    }
}

impl User<'_> {
    /// Who it is, and which bits are its own, of one that is known.
    pub fn what(&self) -> Option<String> {
        self.layout.map(|it| format!("{} uses {}", self.name, it.uses))
    }

    /// Of one with which no identity collides.
    pub fn is_no_trouble(&self) -> String {
        let no_trouble = match self.what() {
            Some(what) => format!("{what}; that is no trouble to identities in use"),
            None => {
                let does = if self.rules.is_empty() { "matches" } else { "matches or sets" };
                format!("{} {does} marks, but none of an identity in use", self.name)
            }
        };
        let avoid: Vec<String> = self.identities_to_avoid().into_iter().collect();
        let avoid = match avoid.is_empty() {
            true => String::new(),
            false => format!("; identities to avoid: {}", avoid.join(", ")),
        };
        format!("{no_trouble}{avoid}")
    }

    /// Whose marks it would take for its own.
    fn identities_to_avoid(&self) -> BTreeSet<String> {
        let tests = self.rules.iter().flat_map(|(_, rule)| rule.tests());
        let of_tests = tests.filter_map(|test| match test {
            Test::Number { value, ranges, is_inverted: false } if value.reads_mark() => {
                let [(low, high)] = ranges[..] else { return None };
                (low == high).then_some((low, value.looked_at()))
            }
            _ => None,
        });
        let of_ip_rules =
            self.ip_rules.iter().map(|rule| (rule.routing().mark, rule.routing().mask));
        // What asks for the magic of identities is about them.
        let is_by_chance = |(mark, mask): &(u32, u32)| {
            mark & mask & Mark::MAGIC_OF_IDENTITY != Mark::MAGIC_OF_IDENTITY
        };
        let all = of_tests.chain(of_ip_rules).filter(is_by_chance);
        all.filter_map(|(mark, mask)| identities_with(mark, mask)).collect()
    }
}
