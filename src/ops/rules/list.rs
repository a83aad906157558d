//! The rules that count, and what each has decided about.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use anyhow::{Error, Result};

use super::plan::slot_in_force;
use crate::kernel::abi::cm_metrics;
use crate::kernel::sys;
use crate::model::enforcement::Confirmation;
use crate::model::identity::Identity;
use crate::model::origin::Origins;
use crate::model::policy::RuleNumber;
use crate::model::rule::Rule;
use crate::model::wire::CM_RULE_NUMBER_NAMES;
use crate::ops::targets::{self, Targets, policy_of};
use crate::state::pin::Root;

/// The rules of several endpoints together.
#[derive(Default)]
pub struct List {
    /// Each once, in the order in which they were met first.
    pub rules: Vec<Line>,
    /// What has decided in place of a rule, in words.
    pub others: Vec<(&'static str, cm_metrics)>,
    /// How each endpoint stands.
    pub endpoints: Vec<Standing>,
}

/// A rule.
pub struct Line {
    /// The rule.
    pub rule: Rule,
    /// The identity that has it, if no endpoint here has it for its own.
    pub identity: Option<Identity>,
    /// What it has decided about.
    pub counted: cm_metrics,
}

/// Whether an endpoint's rules count.
pub struct Standing {
    /// Its device.
    pub device: String,
    /// Why they count nowhere.
    pub dead: Option<Error>,
    /// How its last change stands.
    pub confirmation: Confirmation,
}

/// The rules of an identity.
pub struct OfIdentity {
    /// As they are now, each with what it has decided about on all that carry the identity.
    pub rules: Vec<Line>,
    /// How long somebody has to confirm them, if they are on trial.
    pub time_left: Option<Duration>,
    /// The devices of endpoints that carry it, and have not got all of these rules: a change was interrupted.
    pub lacking: Vec<String>,
}

/// Reads those of an identity.
pub fn of_identity(root: &Root, identity: Identity) -> Result<OfIdentity> {
    let its = super::of_identity(root, identity)?;
    let line = |rule: Rule| Line { rule, identity: None, counted: cm_metrics::default() };
    let mut lines: Vec<Line> = its.now.rules().map(line).collect();
    let places = lines.iter().enumerate().map(|(place, line)| (line.rule, place));
    let places: HashMap<Rule, usize> = places.collect();
    let mut lacking = Vec::new();
    for endpoint in targets::alive(root)?.iter().filter(|it| it.carries(identity)) {
        let maps = policy_of(root, endpoint)?;
        let policy = maps.read(slot_in_force(endpoint.confirmation()?))?;
        for listed in policy.rules() {
            if let Some(place) = places.get(&listed.rule) {
                add(&mut lines[*place].counted, maps.counter(listed.number)?);
            }
        }
        if !policy.of_identity().collect::<HashSet<_>>().is_superset(&its.now.rules().collect()) {
            lacking.push(endpoint.device.clone());
        }
    }
    let left = |until_ns: u64| Duration::from_nanos(until_ns.saturating_sub(sys::coarse_ns()));
    Ok(OfIdentity { rules: lines, time_left: its.deadline().map(left), lacking })
}

/// Reads those of endpoints.
pub fn list(root: &Root, targets: &Targets, netns: Option<u64>) -> Result<List> {
    let mut list = List {
        others: CM_RULE_NUMBER_NAMES
            .iter()
            .map(|(_, name)| (*name, cm_metrics::default()))
            .collect(),
        ..List::default()
    };
    let mut places = HashMap::new();
    for endpoint in targets.select(root, netns)? {
        let (dead, confirmation) = (endpoint.check_alive().err(), endpoint.confirmation()?);
        let maps = policy_of(root, &endpoint)?;
        for listed in maps.read(slot_in_force(confirmation))?.rules() {
            let place = *places.entry(listed.rule).or_insert(list.rules.len());
            let identity = Some(Identity(endpoint.config.identity));
            let identity = identity.filter(|_| listed.origins == Origins::NONE);
            if place == list.rules.len() {
                let counted = cm_metrics::default();
                list.rules.push(Line { rule: listed.rule, identity, counted });
            }
            let line = &mut list.rules[place];
            line.identity = line.identity.and(identity);
            add(&mut line.counted, maps.counter(listed.number)?);
        }
        for ((number, _), other) in CM_RULE_NUMBER_NAMES.iter().zip(&mut list.others) {
            add(&mut other.1, maps.counter(RuleNumber(*number))?);
        }
        list.endpoints.push(Standing { device: endpoint.device, dead, confirmation });
    }
    Ok(list)
}

fn add(sum: &mut cm_metrics, counted: cm_metrics) {
    sum.packets += counted.packets;
    sum.bytes += counted.bytes;
}
