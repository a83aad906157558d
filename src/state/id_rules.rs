//! `cm_id_rules`: the rules of identities, which every endpoint that carries one has beside its own. Its policy is made of
//! both; no program reads this map.
//!
//! Of each identity it keeps a list, and while that is on trial the one before. A new list is written where none counts,
//! and counts as soon as the head says so: whoever is killed leaves the old rules or the new ones.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result, ensure};

use crate::kernel::abi::{self, cm_id_rule_key, cm_id_rules_head, cm_policy_entry};
use crate::kernel::sys;
use crate::model::identity::Identity;
use crate::model::rule_list::{IdentityRules, Made, RuleList};
use crate::model::wire::{CM_ID_RULES_HEAD, CM_ID_RULES_LISTS};
use crate::state::maps::TypedMap;
use crate::state::pin::Root;
use crate::state::policy::{of_made, to_made};

/// Its name.
pub const NAME: &str = "cm_id_rules";

const HEAD: u8 = CM_ID_RULES_HEAD as u8;
const LISTS: u8 = CM_ID_RULES_LISTS as u8;

/// The most rules of an identity.
pub const MOST: usize = u16::MAX as usize;

/// The map. Who changes it holds the root's lock.
pub struct IdRules {
    map: TypedMap<cm_id_rule_key, cm_policy_entry>,
}

/// A list that counts, and where it is.
struct Kept {
    list: u8,
    rules: RuleList,
}

impl IdRules {
    /// `None` if nobody has made it yet.
    pub fn open(root: &Root) -> Result<Option<IdRules>> {
        Ok(TypedMap::open(root, NAME)?.map(|map| IdRules { map }))
    }

    /// The rules of an identity as they are now.
    pub fn get(&self, identity: Identity) -> Result<IdentityRules> {
        let Some(head) = self.head(identity)? else { return Ok(IdentityRules::default()) };
        let (now, before) = self.lists(identity, &head)?;
        let before = before.map(|before| before.rules);
        let rules = IdentityRules { now: now.rules, before, until_ns: head.until_ns };
        Ok(rules.at(sys::coarse_ns()))
    }

    /// All that have some, or have had some on trial.
    pub fn all(&self) -> Result<BTreeMap<Identity, IdentityRules>> {
        let heads = self.map.entries()?.into_iter().filter(|(key, _)| key.list == HEAD);
        let identities = heads.map(|(key, _)| Identity(key.identity));
        identities.map(|identity| Ok((identity, self.get(identity)?))).collect()
    }

    /// Whether no identity has any.
    pub fn is_empty(&self) -> Result<bool> {
        let is_empty = |rules: &IdentityRules| rules.now.is_empty() && rules.before.is_none();
        Ok(self.all()?.values().all(is_empty))
    }

    /// Replaces the rules of an identity in one step. What fails has changed nothing.
    pub fn put(&self, identity: Identity, rules: &IdentityRules) -> Result<()> {
        let before = self.head(identity)?;
        let put = self.put_beside(identity, rules, before.as_ref());
        let put = put.with_context(|| format!("change the rules of identity {identity}"));
        let counting = match &put {
            Ok(head) => head.as_ref(),
            Err(_) => before.as_ref(),
        };
        let counting: BTreeSet<u8> =
            counting.iter().flat_map(|head| [head.current, head.previous]).collect();
        for list in (0..LISTS).filter(|list| !counting.contains(list)) {
            self.clear(identity, list)?;
        }
        put.map(drop)
    }

    /// What counts then, if anything does.
    fn put_beside(
        &self,
        identity: Identity,
        rules: &IdentityRules,
        before: Option<&cm_id_rules_head>,
    ) -> Result<Option<cm_id_rules_head>> {
        let kept = before.map(|head| self.lists(identity, head)).transpose()?;
        let kept: Vec<Kept> =
            kept.into_iter().flat_map(|(now, old)| [now].into_iter().chain(old)).collect();
        if rules.now.is_empty() && rules.before.is_none() && rules.until_ns == 0 {
            self.map.delete(&key(identity, HEAD, 0))?;
            return Ok(None);
        }
        let mut free = (0..LISTS).filter(|list| kept.iter().all(|kept| kept.list != *list));
        let mut place = |rules: &RuleList| -> Result<(u8, u16)> {
            let count = rules.len();
            ensure!(
                count <= MOST,
                "{count} rules are too many for one identity; {MOST} are the most"
            );
            let list = match kept.iter().find(|kept| kept.rules == *rules) {
                Some(kept) => kept.list,
                None => {
                    let list = free.next().context("no place for a list")?;
                    self.write(identity, list, rules)?;
                    list
                }
            };
            Ok((list, count as u16))
        };
        let (current, current_count) = place(&rules.now)?;
        let previous = rules.before.as_ref().map(place).transpose()?;
        let (previous, previous_count) = previous.unwrap_or((HEAD, 0));
        let head = cm_id_rules_head {
            until_ns: rules.until_ns,
            current_count,
            previous_count,
            current,
            previous,
            pad: 0,
        };
        self.map.set(&key(identity, HEAD, 0), &abi::from_bytes(abi::bytes_of(&head))?)?;
        Ok(Some(head))
    }

    fn write(&self, identity: Identity, list: u8, rules: &RuleList) -> Result<()> {
        // Upwards, and cleared downwards: what a killed command leaves has no gaps.
        let rules = rules.made().iter().enumerate();
        let entry =
            |(place, made): (usize, &Made)| (key(identity, list, place as u16), of_made(made));
        self.map.set_all(&rules.map(entry).collect::<Vec<_>>(), |_| Ok(()))
    }

    fn clear(&self, identity: Identity, list: u8) -> Result<()> {
        let mut count = 0;
        while count < MOST && self.map.get(&key(identity, list, count as u16))?.is_some() {
            count += 1;
        }
        for place in (0..count).rev() {
            self.map.delete(&key(identity, list, place as u16))?;
        }
        Ok(())
    }

    fn head(&self, identity: Identity) -> Result<Option<cm_id_rules_head>> {
        let head = self.map.get(&key(identity, HEAD, 0))?;
        head.map(|head| abi::from_bytes(abi::bytes_of(&head))).transpose()
    }

    fn lists(&self, identity: Identity, head: &cm_id_rules_head) -> Result<(Kept, Option<Kept>)> {
        let read = |list: u8, count: u16| -> Result<Kept> {
            let rules = (0..count).map(|place| {
                let entry = self.map.get(&key(identity, list, place))?;
                entry.as_ref().and_then(to_made).with_context(|| {
                    format!(
                        "the rules of identity {identity} in {NAME} are malformed; another version of cilmark has \
                         written there, or another program: remove its pin, and give the identities their rules again"
                    )
                })
            });
            Ok(Kept { list, rules: RuleList::of(rules.collect::<Result<_>>()?) })
        };
        let previous = (head.previous < LISTS).then(|| read(head.previous, head.previous_count));
        Ok((read(head.current, head.current_count)?, previous.transpose()?))
    }
}

fn key(identity: Identity, list: u8, place: u16) -> cm_id_rule_key {
    cm_id_rule_key { identity: identity.0, place, list, pad: 0 }
}
