//! What a flow's numbers stand for.

use std::collections::HashMap;

use anyhow::Result;

use super::Report;
use super::owners::Owner;
use crate::model::endpoint::{EndpointId, Scope};
use crate::model::identity::Names;
use crate::ops::rule_names::RuleNames;
use crate::state::conntrack::{Epoch, Flow};
use crate::state::generations::Generations;
use crate::state::nics::Nics;
use crate::state::pin::Root;

/// What flows are reported by.
pub struct Lister<'a> {
    root: &'a Root,
    names: &'a Names,
    generations: Option<Generations>,
    /// By their slots.
    nics: Vec<Option<EndpointId>>,
    nics_fallen_back: u32,
    rules: RuleNames,
}

/// Whose flows they are.
pub struct Whose<'a> {
    /// `None` of what NICs share, and of what is gone.
    device: Option<&'a str>,
    is_gone: bool,
    /// From what nobody has confirmed.
    fell_back: bool,
    /// Whose rules have decided; of NICs each numbers its own, and a flow tells which.
    ids: Option<Vec<EndpointId>>,
    /// The NICs that share them, and their slots.
    nics: Vec<(u8, &'a str)>,
    /// What rules' numbers mean, by the slot of the NIC whose rule it is.
    words: HashMap<(u8, u32), Option<String>>,
}

impl<'a> Lister<'a> {
    /// Reads what all flows are about.
    pub fn new(root: &'a Root, names: &'a Names) -> Result<Lister<'a>> {
        let nics = Nics::open(root)?;
        Ok(Lister {
            nics_fallen_back: nics.as_ref().map_or(0, Nics::fallen_back),
            nics: nics.map(|nics| nics.owners()).transpose()?.unwrap_or_default(),
            root,
            names,
            generations: Generations::open(root)?,
            rules: RuleNames::default(),
        })
    }

    /// Of a scope and these owners, in the maps that all share or not.
    pub fn of<'o>(&self, whose: &[&'o Owner], scope: Scope, is_in_shared: bool) -> Whose<'o> {
        let is_nics = scope == Scope::NICS;
        // A NIC with maps of its own has no neighbours there.
        let is_shared = is_nics && is_in_shared;
        let device = whose.first().filter(|_| !is_shared).map(|owner| owner.device.as_str());
        let slot = |owner: &Owner| self.nics.iter().position(|nic| *nic == Some(owner.id));
        Whose {
            device,
            is_gone: device.is_none() && !is_shared,
            fell_back: whose.iter().any(|owner| owner.fell_back),
            ids: (!is_nics).then(|| whose.iter().map(|owner| owner.id).collect()),
            nics: (whose.iter())
                .filter_map(|owner| Some((slot(owner)? as u8, owner.device.as_str())))
                .collect(),
            words: HashMap::new(),
        }
    }

    /// What its verdict has to be of to count; `None` of what is gone.
    fn epoch(&self, flow: &Flow, of: &Whose<'_>) -> Option<Epoch> {
        let generation =
            |workload| self.generations.as_ref().map(|it| it.of_flow(flow.remote, workload));
        match &of.ids {
            None => Some(Epoch::of_nics(generation(None)?, self.nics_fallen_back)),
            Some(ids) => Some(Epoch::of_workload(generation(Some(*ids.first()?))?, of.fell_back)),
        }
    }

    /// A flow of theirs.
    pub fn report<'l>(&mut self, flow: &'l Flow, of: &'l mut Whose<'_>) -> Report<'l> {
        let stale = self.epoch(flow, of).is_none_or(|epoch| flow.is_stale(epoch));
        let key = (flow.nic, flow.rule);
        if !stale && !of.words.contains_key(&key) {
            let words = self.read_words(flow, of);
            of.words.insert(key, words);
        }
        let has_passed = |nic: &&(u8, &'l str)| flow.passed >> nic.0 & 1 != 0;
        let nics = of.nics.iter().filter(has_passed).map(|nic| nic.1);
        Report {
            flow,
            device: of.device,
            gone: of.is_gone,
            nics: of.ids.is_none().then(|| nics.collect()),
            stale,
            // The number of a stale one may be another rule's by now.
            rule: of.words.get(&key).and_then(Option::as_deref).filter(|_| !stale),
        }
    }

    /// What a rule's number means.
    fn read_words(&mut self, flow: &Flow, of: &Whose<'_>) -> Option<String> {
        let nic = self.nics.get(usize::from(flow.nic)).copied().flatten();
        let ids = of.ids.clone().unwrap_or_else(|| Vec::from_iter(nic));
        self.rules.words(self.root, &ids, flow.rule, self.names)
    }
}
