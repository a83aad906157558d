//! The rules that count, and what each has decided about.

use std::collections::HashMap;

use anyhow::{Error, Result};

use super::plan::slot_in_force;
use crate::kernel::abi::cm_metrics;
use crate::model::enforcement::Confirmation;
use crate::model::policy::RuleNumber;
use crate::model::rule::Rule;
use crate::model::wire::CM_RULE_NUMBER_NAMES;
use crate::ops::targets::{Targets, policy_of};
use crate::state::pin::Root;

/// The rules of several endpoints together.
#[derive(Default)]
pub struct List {
    /// Each once, in the order in which they were met first.
    pub rules: Vec<(Rule, cm_metrics)>,
    /// What has decided in place of a rule, in words.
    pub others: Vec<(&'static str, cm_metrics)>,
    /// How each endpoint stands.
    pub endpoints: Vec<Standing>,
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

/// Reads them.
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
            if place == list.rules.len() {
                list.rules.push((listed.rule, cm_metrics::default()));
            }
            add(&mut list.rules[place].1, maps.counter(listed.number)?);
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
