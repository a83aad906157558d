//! What there is, as a file would ask for it.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::Result;
use serde::Serialize;

use super::apply::Now;
use crate::kernel::netns;
use crate::model::identity::{Identity, Names};
use crate::model::origin::Origin;
use crate::model::prefix::format_prefix;
use crate::model::rule_list::RuleList;
use crate::model::spec::{EndpointSpec, IdentityRef};
use crate::state::pin::Root;

/// A file. What others than those that were asked for have made is left out, and counted.
#[derive(Debug, Serialize)]
pub struct Export {
    version: u32,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    identities: BTreeMap<String, Identity>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    ipcache: BTreeMap<String, IdentityRef>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    rules: BTreeMap<String, Vec<String>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    endpoint: Vec<EndpointSpec>,
    /// What is left out: how many things, by who has made them.
    #[serde(skip)]
    pub left_out: BTreeMap<Origin, usize>,
}

/// Reads what these have made in this network namespace.
pub fn export(root: &Root, origins: &BTreeSet<Origin>) -> Result<Export> {
    let now = Now::of(root, netns::current()?)?;
    let mut left_out = BTreeMap::new();
    let mut is_told = |made_by: &[Origin]| {
        let is_told = made_by.iter().any(|origin| origins.contains(origin));
        if let (false, Some(origin)) = (is_told, made_by.first()) {
            *left_out.entry(*origin).or_default() += 1;
        }
        is_told
    };
    let told = now.names.iter().filter(|(_, (_, origin))| is_told(&[*origin]));
    let told: Vec<(Identity, String)> =
        told.map(|(identity, (name, _))| (*identity, name.clone())).collect();
    // A name that is left out is nobody's where the file is read.
    let names = Names::new(told.iter().cloned());
    let reference = |identity: Identity| match names.name(identity) {
        Some(name) => IdentityRef::Name(name.to_owned()),
        None => IdentityRef::Number(identity),
    };
    let ipcache = now.lines.iter().filter(|(_, (_, origin))| is_told(&[*origin]));
    let ipcache: BTreeMap<String, IdentityRef> = ipcache
        .map(|(prefix, (identity, _))| (format_prefix(prefix), reference(*identity)))
        .collect();
    let mut rules_of = |list: &RuleList| -> Vec<String> {
        let told = list.made().iter().filter(|made| {
            let made_by = Origin::ALL.iter().filter(|origin| made.origins.contain(**origin));
            is_told(&made_by.copied().collect::<Vec<_>>())
        });
        told.map(|made| made.rule.text(&names)).collect()
    };
    let mut rules = BTreeMap::new();
    for (identity, list) in &now.rules {
        let texts = rules_of(list);
        if !texts.is_empty() {
            rules.insert(reference(*identity).to_string(), texts);
        }
    }
    let (mut endpoint, mut others) = (Vec::new(), Vec::new());
    for attached in &now.endpoints {
        let state = &attached.state;
        if attached.endpoint.is_gone {
            continue;
        }
        if !origins.contains(&state.origin) {
            others.push(state.origin);
            continue;
        }
        let rules = Some(rules_of(&state.rules)).filter(|rules| !rules.is_empty());
        let named = state.spec.id.as_ref().filter(|_| !state.spec.has_identity_by_labels());
        let id = named.map(|_| reference(Identity(attached.endpoint.config.identity)));
        let device = attached.endpoint.device.clone();
        // How it came about is no wish.
        endpoint.push(EndpointSpec { device, id, rules, birth: None, ..state.spec.clone() });
    }
    others.into_iter().for_each(|origin| _ = is_told(&[origin]));
    endpoint.sort_by(|one, other| one.device.cmp(&other.device));
    Ok(Export {
        version: 1,
        identities: told.into_iter().map(|(identity, name)| (name, identity)).collect(),
        ipcache,
        rules,
        endpoint,
        left_out,
    })
}
