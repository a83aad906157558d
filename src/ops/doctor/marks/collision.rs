//! What a user of the mark does to identities that are in use.

use std::collections::{BTreeMap, HashMap, HashSet};

use anyhow::Result;

use super::here::{Here, Sender};
use super::users::User;
use crate::model::identity::{Identity, Names};
use crate::model::mark::Mark;
use crate::model::marks::outcome::Becomes;
use crate::model::marks::ruleset::Rule;
use crate::model::marks::walk::{self, Does, Hit, Of};
use crate::ops::marks::{Others, Way, because_of, shown};

/// How many rules are named, and how many identities of each.
const NAMED: usize = 3;

/// A rule that does something to the marks of identities.
pub struct Collision {
    rule: String,
    kind: Kind,
    /// What each of them becomes.
    identities: BTreeMap<Identity, Option<Becomes>>,
    /// Where the first of them comes from.
    way: Way,
    /// It takes the sender from every packet on its way to a workload that enforces rules about senders.
    pub breaks: bool,
}

/// What the rule does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    /// Writes marks.
    Sets,
    /// Writes what the connection has kept, which is nothing.
    Wipes,
    /// Writes what it does where the connection has a mark.
    SetsOfSome,
    /// Takes the marks for its own.
    Takes,
    /// Leaves them out, since they are marks.
    LeavesOut,
    /// Gives answers the mark of who has begun the connection.
    Answers,
}

/// All that a user does, by `met`, which rules each sender's packets meet, and what is `restored`.
pub fn of(
    here: &Here<'_>,
    others: &Others,
    user: &User<'_>,
    met: &[Vec<Hit<'_>>],
    restored: &HashMap<u32, Vec<Hit<'_>>>,
) -> Vec<Collision> {
    let mut found: BTreeMap<(Kind, String), Collision> = BTreeMap::new();
    let mut add = |sender: &Sender, rule: String, kind, becomes, breaks| {
        let collision = found.entry((kind, rule.clone())).or_insert_with(|| Collision {
            rule,
            kind,
            identities: BTreeMap::new(),
            way: sender.way.clone(),
            breaks: false,
        });
        collision.identities.insert(sender.identity, becomes);
        collision.breaks |= breaks;
    };
    let knows_identities = user.layout.is_some_and(|it| it.knows_identities);
    let own: HashSet<*const Rule> =
        user.rules.iter().map(|(_, rule)| *rule as *const Rule).collect();
    for (sender, hits) in here.senders.iter().zip(met) {
        for rule in others.routing(sender.identity).into_iter().filter(|_| !knows_identities) {
            let is_own = user.ip_rules.iter().any(|it| std::ptr::eq(*it, rule));
            if is_own && !rule.is_meant() {
                add(sender, rule.to_string(), Kind::Takes, None, false);
            }
        }
        for hit in hits.iter().filter(|hit| !knows_identities || is_strange(hit)) {
            let is_own = own.contains(&(hit.rule as *const Rule));
            let rule = || shown(hit.chain, hit.rule);
            match hit.does {
                Does::TellsApart { is_meant: false, is_taken } if is_own => {
                    let kind = if is_taken { Kind::Takes } else { Kind::LeavesOut };
                    add(sender, rule(), kind, None, false);
                }
                Does::Sets { of, .. } if is_own => {
                    let kind = match of {
                        Of::All => Kind::Sets,
                        Of::Unmarked => Kind::Wipes,
                        Of::Marked => Kind::SetsOfSome,
                    };
                    let becomes = Becomes::of(hit.does);
                    add(sender, rule(), kind, becomes, breaks(here, sender, hit, becomes));
                }
                Does::Saves { connmark } => {
                    for hit in restored.get(&connmark).into_iter().flatten() {
                        if own.contains(&(hit.rule as *const Rule)) {
                            add(sender, shown(hit.chain, hit.rule), Kind::Answers, None, false);
                        }
                    }
                }
                _ => {}
            }
        }
    }
    // What wipes a mark before it is saved brings none back.
    let wiping: Vec<String> = found
        .keys()
        .filter(|(kind, _)| *kind == Kind::Wipes)
        .map(|(_, rule)| rule.clone())
        .collect();
    found.retain(|(kind, rule), _| *kind != Kind::Answers || !wiping.contains(rule));
    found.into_values().collect()
}

/// Whether a rule does what none does of one who knows identities, whatever its chain is called: it writes a mark
/// without a magic or an identity's, or writes one on every packet.
fn is_strange(hit: &Hit<'_>) -> bool {
    let Does::Sets { value, known, .. } = hit.does else { return false };
    let has_magic = known & value & Mark::MAGIC_OF_IDENTITY != 0;
    hit.is_certain || !has_magic || matches!(Becomes::of(hit.does), Some(Becomes::Identity(_)))
}

/// By each mark that rules save with connections, the rules that bring back an identity's mark from there. What this host sends
/// is the host's, whatever its mark says.
pub fn restored<'o>(others: &'o Others, met: &[Vec<Hit<'_>>]) -> HashMap<u32, Vec<Hit<'o>>> {
    let mut restored = HashMap::new();
    for hit in met.iter().flatten() {
        let Does::Saves { connmark } = hit.does else { continue };
        restored.entry(connmark).or_insert_with(|| {
            let mut hits = walk::restoring(&others.ruleset, connmark);
            hits.retain(|hit| matches!(Becomes::of(hit.does), Some(Becomes::Identity(_))));
            hits
        });
    }
    restored
}

/// Whether workloads that enforce their rules meet packets of the sender under another identity, always.
fn breaks(here: &Here<'_>, sender: &Sender, hit: &Hit<'_>, becomes: Option<Becomes>) -> bool {
    let is_fooled = |by_address: bool| match becomes {
        // Then the address counts, if it may: that of a workload proves nothing by itself.
        Some(Becomes::Nobody) => sender.is_workload && !by_address,
        _ => true,
    };
    let mut others = here.receivers.iter().filter(|it| it.device != sender.way.device);
    hit.is_certain
        && hit.is_before_workloads
        && others.any(|it| it.enforces && is_fooled(it.by_address))
}

/// What they come to.
pub fn in_words(collisions: &[Collision], names: &Names) -> String {
    let mut words: Vec<String> =
        collisions.iter().take(NAMED).map(|it| it.in_words(names)).collect();
    if let Some(more) = collisions.len().checked_sub(NAMED).filter(|more| *more > 0) {
        words.push(format!("and {more} more rules"));
    }
    let all = |becomes: fn(Becomes) -> bool| {
        let of = collisions.iter().flat_map(|it| it.identities.values().flatten());
        of.copied().any(becomes)
    };
    if all(|it| it != Becomes::Nobody) {
        words.push(
            "whom a mark names is the sender to rules of workloads, nftables and `ip rule`"
                .to_owned(),
        );
    }
    if all(|it| it == Becomes::Nobody) {
        words.push(
            "without a mark such packets are the world's to rules of workloads, and nobody's to nftables and `ip rule`"
                .to_owned(),
        );
    }
    if collisions.iter().any(|it| it.kind == Kind::Answers) {
        words.push("nftables and `ip rule` take these answers for the other end's".to_owned());
    }
    words.join("; ")
}

impl Collision {
    fn in_words(&self, names: &Names) -> String {
        let rule = &self.rule;
        match self.kind {
            Kind::Takes => {
                format!("{rule} also matches the mark of {}", self.whose(names))
            }
            Kind::LeavesOut => {
                format!("{rule} leaves out what has the mark of {}", self.whose(names))
            }
            Kind::SetsOfSome => {
                format!("{rule}, by the mark of some connections, {}", self.does(names))
            }
            Kind::Answers => format!(
                "{rule} gives answers the mark of who has begun their connection, such as {}",
                self.whose(names)
            ),
            Kind::Sets => format!("{rule} {}", self.does(names)),
            Kind::Wipes => format!(
                "{rule} gives packets the mark of their connection, and where nobody has set one it {}",
                self.does(names)
            ),
        }
    }

    fn whose(&self, names: &Names) -> String {
        list(self.identities.keys().map(|identity| names.label(*identity)))
    }

    /// What it makes of them.
    fn does(&self, names: &Names) -> String {
        let (mut removed, mut turned) = (Vec::new(), Vec::new());
        for (identity, becomes) in &self.identities {
            let identity = names.label(*identity);
            match becomes {
                Some(Becomes::Identity(becomes)) => {
                    turned.push(format!("{identity} into {}", names.label(*becomes)));
                }
                Some(Becomes::Something) => {
                    turned.push(format!("{identity} into {}", Becomes::Something))
                }
                Some(Becomes::Nobody) | None => removed.push(identity),
            }
        }
        let mut clauses = Vec::new();
        if !removed.is_empty() {
            let identities = if removed.len() == 1 { "identity" } else { "identities" };
            clauses.push(format!("removes the {identities} {}", list(removed.into_iter())));
        }
        if !turned.is_empty() {
            clauses.push(format!("turns {}", list(turned.into_iter())));
        }
        clauses.join(", and ")
    }
}

/// The first of them, and how many more there are.
fn list(all: impl ExactSizeIterator<Item = String>) -> String {
    let more = all.len().saturating_sub(NAMED);
    let mut words: Vec<String> = all.take(NAMED).collect();
    if more > 0 {
        words.push(format!("{more} more"));
    }
    match words.pop() {
        Some(last) if !words.is_empty() => format!("{} and {last}", words.join(", ")),
        last => last.unwrap_or_default(),
    }
}

/// What helps against all of them.
pub fn cure(
    here: &Here<'_>,
    others: &Others,
    user: &User<'_>,
    collisions: &[Collision],
) -> Result<String> {
    let mut cures = Vec::new();
    let sets =
        collisions.iter().any(|it| matches!(it.kind, Kind::Sets | Kind::Wipes | Kind::SetsOfSome));
    let answers = collisions.iter().any(|it| it.kind == Kind::Answers);
    let first = collisions.iter().find(|it| it.kind != Kind::Answers);
    if let Some((identity, way)) =
        first.and_then(|it| Some((*it.identities.keys().next()?, &it.way)))
    {
        let whose = here.names.label(identity);
        if let Some(free) = others.free(here.taken()?, identity, way, here.names) {
            cures.push(format!("take another identity for {whose}: {free} is free of it"));
        }
    }
    match user.layout.and_then(|it| it.cure) {
        Some(cure) => cures.push(cure.to_owned()),
        None if user.layout.is_none() && sets => cures.push(
            "let it write only bits 12 to 15, as `meta mark set meta mark & 0xffff0fff | 0x1000` and \
             `-j MARK --set-xmark 0x1000/0xf000` do"
                .to_owned(),
        ),
        None => {}
    }
    if answers {
        cures.push("let it save and restore only bits 12 to 15, by a mask".to_owned());
    }
    let loses = collisions.iter().flat_map(|it| it.identities.values());
    let is_lost = loses.flatten().any(|it| *it == Becomes::Nobody);
    if is_lost && here.receivers.iter().any(|it| !it.by_address) {
        cures.push(
            "attach the receiving workloads with --by-address, which believes addresses".to_owned(),
        );
    }
    if cures.is_empty() {
        let spoiler = first.and_then(|it| others.spoiler(&it.way));
        cures.push(match spoiler.filter(|rule| collisions.iter().all(|it| it.rule != *rule)) {
            Some(rule) => because_of(&rule),
            None => {
                "no identity is free of it: keep its rules off what comes in by the devices of workloads".to_owned()
            }
        });
    }
    Ok(cures.join("; or "))
}
