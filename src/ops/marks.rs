//! Who else uses the mark of packets in a network namespace, and what that does to identities.

use std::collections::HashSet;

use anyhow::Result;

use crate::kernel::device;
use crate::kernel::filters::{self, Unread};
use crate::kernel::ip_rules::{self, IpRule};
use crate::kernel::tool::Tools;
use crate::model::endpoint::Role;
use crate::model::identity::{Identity, Names};
use crate::model::mark::Mark;
use crate::model::marks::ruleset::{Chain, Rule, Ruleset};
use crate::model::marks::walk::{self, Does, Hit, Packet};
use crate::model::rule_list::RuleList;
use crate::ops::targets;
use crate::state::id_rules::IdRules;
use crate::state::ipcache::Ipcache;
use crate::state::pin::Root;
use crate::state::policy::Slot;
use crate::state::registry::Found;

/// Those that an operator chooses by himself: 128 to 255, and the local ones.
const CHOICE: std::ops::RangeInclusive<u32> = 128..=65535;

/// How many of them are looked at: those behind an identity, and then so many from everywhere.
const CANDIDATES: usize = 1024;

/// At least so many are, if there are very many rules,
const FEWEST_CANDIDATES: usize = 16;

/// for so many rules are asked altogether: a tenth of a second.
const MOST_ASKED: usize = 200_000;

/// How long the text of a rule may be.
const LONGEST: usize = 200;

/// The rules of others that are about marks.
#[derive(Debug, Default)]
pub struct Others {
    /// Of `ip rule`.
    pub ip_rules: Vec<IpRule>,
    /// Of nftables and iptables.
    pub ruleset: Ruleset,
    /// What could not be read.
    pub unread: Vec<Unread>,
}

/// Where packets with an identity's mark come from, and where they go.
#[derive(Debug, Clone)]
pub struct Way {
    /// The device with the program that writes the mark.
    pub device: String,
    /// Which devices rules of IP know them to come from.
    pub from: Vec<String>,
    /// The mark is written where the host has done with its packets: rules of nftables never see it.
    pub is_out: bool,
}

impl Others {
    /// Those of the current namespace.
    pub fn read(tools: &Tools) -> Others {
        let filters = filters::read(tools);
        Others {
            ip_rules: ip_rules::with_marks(),
            ruleset: filters.ruleset,
            unread: filters.unread,
        }
    }

    /// The rules of nftables and iptables that do something to an identity's mark, or by it.
    pub fn hits(&self, identity: Identity, way: &Way, to: &[String]) -> Vec<Hit<'_>> {
        match Mark::encode(identity) {
            Ok(mark) if !way.is_out => {
                let packet = Packet { mark, device: &way.device, from: &way.from, to };
                walk::hits(&self.ruleset, packet)
            }
            _ => Vec::new(),
        }
    }

    /// The rules of `ip rule` that treat an identity's packets otherwise than those without a mark.
    pub fn routing(&self, identity: Identity) -> Vec<&IpRule> {
        let Ok(mark) = Mark::encode(identity) else { return Vec::new() };
        self.ip_rules.iter().filter(|rule| rule.tells_apart(mark)).collect()
    }

    /// The next identity that no rule knows, and that is not taken.
    pub fn free(
        &self,
        taken: &HashSet<Identity>,
        identity: Identity,
        way: &Way,
        names: &Names,
    ) -> Option<Identity> {
        let is_free = |it: &Identity| {
            self.routing(*it).is_empty() && !taken.contains(it) && names.name(*it).is_none()
        };
        let choice = || {
            let behind = CHOICE.filter(|number| *number > identity.0);
            behind.chain(CHOICE).map(Identity).filter(is_free)
        };
        let keeps = |it: &Identity| match Mark::encode(*it) {
            Ok(mark) if !way.is_out => walk::keeps(
                &self.ruleset,
                Packet { mark, device: &way.device, from: &way.from, to: &[] },
            ),
            _ => true,
        };
        let candidates = self.samples(CANDIDATES);
        let near = choice().take(candidates);
        let far = choice().skip(candidates).step_by(CHOICE.count() / candidates);
        near.chain(far).find(keeps)
    }

    /// So many identities are asked for one after the other: fewer, if each meets many rules.
    pub fn samples(&self, most: usize) -> usize {
        (MOST_ASKED / self.ruleset.size().max(1)).clamp(FEWEST_CANDIDATES, most)
    }

    /// The rule of which no identity is free, as far as a sample of them tells; `None` if it takes several to that.
    pub fn spoiler(&self, way: &Way) -> Option<String> {
        let mut left: Option<Vec<String>> = None;
        for identity in CHOICE.step_by(CHOICE.count() / self.samples(CANDIDATES)).map(Identity) {
            let hits = self.hits(identity, way, &[]).into_iter();
            let hits = hits.filter(|hit| !matches!(hit.does, Does::Saves { .. }));
            let hits = hits.map(|hit| shown(hit.chain, hit.rule));
            let routing = self.routing(identity).into_iter().map(IpRule::to_string);
            let met: Vec<String> = routing.chain(hits).collect();
            let all = match left {
                None => met,
                Some(left) => left.into_iter().filter(|rule| met.contains(rule)).collect(),
            };
            if all.is_empty() {
                return None;
            }
            left = Some(all);
        }
        left?.into_iter().next()
    }
}

/// The identities that somebody has, by whatever tells so, and those that rules are of or speak of.
pub fn taken(root: &Root) -> Result<HashSet<Identity>> {
    let mut taken = HashSet::new();
    for endpoint in Found::all(root)?.endpoints {
        taken.insert(Identity(endpoint.config.identity));
        // Of one that can't be read somebody else tells.
        let Ok(maps) = targets::policy_of(root, &endpoint) else { continue };
        let policies =
            [Slot::Current, Slot::Previous].into_iter().filter_map(|it| maps.read(it).ok());
        for policy in policies {
            taken.extend(policy.rules().iter().map(|it| it.rule.peer));
        }
    }
    if let Some(of_identities) = IdRules::open(root)? {
        for (identity, rules) in of_identities.all()? {
            taken.insert(identity);
            let lists = [&rules.now].into_iter().chain(&rules.before);
            taken.extend(lists.flat_map(RuleList::rules).map(|rule| rule.peer));
        }
    }
    if let Some(ipcache) = Ipcache::open(root)? {
        taken.extend(ipcache.identities()?);
    }
    Ok(taken)
}

/// A rule of nftables or iptables, with where it is.
pub fn shown(chain: &Chain, rule: &Rule) -> String {
    let text = match rule.text.char_indices().nth(LONGEST) {
        Some((at, _)) => format!("{}…", &rule.text[..at]),
        None => rule.text.clone(),
    };
    match chain.table.family.is_empty() {
        true => format!("`{} {text}`", chain.table),
        false => format!("`{text}` of {}", chain.table),
    }
}

/// What to say where another rule has spoilt all identities.
pub fn because_of(spoiler: &str) -> String {
    format!("no identity is free of all rules here, because of {spoiler}; mend that one first")
}

impl Way {
    /// Of an endpoint's device in the current namespace.
    pub fn of(device: &str, role: Role, stamps: bool) -> Way {
        let masters = device::find(device).ok().flatten().and_then(|it| it.masters().ok());
        let masters = masters.unwrap_or_default();
        let is_bridge = masters.first().is_some_and(|it| it.kind.as_deref() == Some("bridge"));
        let names = masters.into_iter().map(|it| it.name);
        // What a bridge's port receives is the bridge's when it comes to rules of IP.
        let own = (!is_bridge).then(|| device.to_owned());
        Way {
            device: device.to_owned(),
            from: own.into_iter().chain(names).collect(),
            is_out: role == Role::Netdev && !stamps,
        }
    }
}
