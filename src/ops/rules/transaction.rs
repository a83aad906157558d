//! Changes of several lists of rules at once, of which all are made or none.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use log::warn;

use super::lost;
use super::plan::{self, Plan};
use super::{Edit, OfIdentity, Report, Reports, at};
use crate::kernel::sys;
use crate::model::endpoint::EndpointId;
use crate::model::enforcement::Grace;
use crate::model::identity::Identity;
use crate::model::rule::Rule;
use crate::model::rule_list::IdentityRules;
use crate::ops::{detach, identities, targets};
use crate::program::load;
use crate::state::id_rules::{self, IdRules};
use crate::state::layout;
use crate::state::pin::Root;
use crate::state::registry::{Endpoint, shared};

/// What is to become of the rules of an identity.
struct IdentityPlan {
    before: IdentityRules,
    after: IdentityRules,
    had: Vec<Rule>,
}

/// Edits the own rules of some of these endpoints, and those of identities; all that carry one are here.
pub fn run(
    root: &Root,
    endpoints: Vec<Endpoint>,
    edits: &BTreeMap<EndpointId, &Edit>,
    of_identities: &BTreeMap<Identity, &Edit>,
    grace: Grace,
    consent: bool,
) -> Result<Reports> {
    let done = change(root, &endpoints, edits, of_identities, grace, Some(consent));
    let done = done.map(Option::unwrap_or_default);
    if of_identities.is_empty() {
        return done;
    }
    let done = detach::leave_nothing_of_a_failure(root, done)?;
    // The last rules of an identity may be the last that was here.
    detach::remove_unused_root(root)?;
    Ok(done)
}

/// Fails if the same could not be done; changes nothing.
pub fn check_all(
    root: &Root,
    endpoints: Vec<Endpoint>,
    edits: &BTreeMap<EndpointId, &Edit>,
    of_identities: &BTreeMap<Identity, &Edit>,
) -> Result<()> {
    change(root, &endpoints, edits, of_identities, Grace::Permanent, None).map(|_| ())
}

/// Makes the rules of an identity permanent that are on trial; whether there was anything to do. First there, then on all
/// that carry it: what a killed command has left their clocks say.
pub fn confirm(root: &Root, identity: Identity) -> Result<bool> {
    let before = super::of_identity(root, identity)?;
    let is_on_trial = before.before.is_some();
    let after = IdentityRules { before: None, ..before.clone() };
    let endpoints = carriers(root, identity)?;
    let mut plans = Vec::new();
    for endpoint in &endpoints {
        let of_identity = plan::OfIdentity { before: &after, after: &after };
        plans.push(Plan::new(root, endpoint, &of_identity, None, |_, _| Ok(()))?);
    }
    plans.iter().try_for_each(Plan::check)?;
    if is_on_trial {
        let map =
            IdRules::open(root)?.with_context(|| format!("{} is not pinned", id_rules::NAME))?;
        map.put(identity, &after)?;
    }
    let completes = before.until_ns != 0 && plans.iter().any(Plan::changes);
    plan::apply(&plans)?;
    Ok(is_on_trial || completes)
}

/// All that carry an identity and are not stale, if they can be changed.
fn carriers(root: &Root, identity: Identity) -> Result<Vec<Endpoint>> {
    let mut endpoints = targets::alive(root)?;
    endpoints.retain(|endpoint| endpoint.carries(identity));
    endpoints.iter().try_for_each(|endpoint| check(root, endpoint))?;
    Ok(endpoints)
}

/// Fails if this version can't change its rules.
fn check(root: &Root, endpoint: &Endpoint) -> Result<()> {
    layout::check_endpoint(root, endpoint.id)?;
    shared::check(root, endpoint)
}

/// Without an answer to whether somebody knows of NICs that enforce nothing is done.
fn change(
    root: &Root,
    endpoints: &[Endpoint],
    edits: &BTreeMap<EndpointId, &Edit>,
    of_identities: &BTreeMap<Identity, &Edit>,
    grace: Grace,
    consent: Option<bool>,
) -> Result<Option<Reports>> {
    let deadline = match grace {
        Grace::Permanent => None,
        Grace::Within(time) => Some(sys::coarse_ns().saturating_add(time.as_nanos() as u64)),
    };
    lost::restore(root, endpoints)?;
    let mut identities = BTreeMap::new();
    for (identity, edit) in of_identities {
        identities.insert(*identity, IdentityPlan::new(root, *identity, Some(edit), deadline)?);
    }
    for endpoint in endpoints {
        let identity = Identity(endpoint.config.identity);
        if let Entry::Vacant(entry) = identities.entry(identity) {
            entry.insert(IdentityPlan::new(root, identity, None, None)?);
        }
    }
    let (mut plans, mut had) = (Vec::new(), Vec::new());
    for endpoint in endpoints {
        check(root, endpoint)?;
        ensure!(
            consent != Some(false) || !endpoint.is_enforcing_nic()?,
            "{} has begun to enforce its policy meanwhile; nothing has changed",
            endpoint.device
        );
        let identity = Identity(endpoint.config.identity);
        let IdentityPlan { before, after, .. } = &identities[&identity];
        let of_identity = plan::OfIdentity { before, after };
        plans.push(Plan::new(root, endpoint, &of_identity, deadline, |own, rules| {
            had.push(match edits.get(&endpoint.id) {
                Some(edit) => edit.apply(root, &endpoint.device, own, Some((identity, rules)))?,
                None => Vec::new(),
            });
            Ok(())
        })?);
    }
    plans.iter().try_for_each(Plan::check)?;
    if consent.is_none() {
        return Ok(None);
    }
    make(root, &identities, &plans)?;

    let reports = plans.iter().zip(had).map(|(plan, had)| {
        let rules = &identities[&Identity(plan.endpoint.config.identity)].after;
        Report::of(plan, edits.get(&plan.endpoint.id).copied(), had, rules)
    });
    let reports = reports.collect::<Result<_>>()?;
    let of_identity = |identity: &Identity| identities[identity].report(*identity, endpoints);
    let identities = of_identities.keys().map(of_identity).collect();
    Ok(Some(Reports { identities, endpoints: reports }))
}

/// The rules of identities first: whoever is attached later has them, and a command that is repeated finds what it has to
/// complete.
fn make(
    root: &Root,
    identities: &BTreeMap<Identity, IdentityPlan>,
    plans: &[Plan<'_>],
) -> Result<()> {
    let changed: Vec<(&Identity, &IdentityPlan)> =
        identities.iter().filter(|(_, plan)| plan.before != plan.after).collect();
    if changed.is_empty() {
        return plan::apply(plans);
    }
    load::create_map(root, id_rules::NAME)?;
    let map = IdRules::open(root)?.with_context(|| format!("{} is not pinned", id_rules::NAME))?;
    let put = |(identity, plan): &(&Identity, &IdentityPlan)| map.put(**identity, &plan.after);
    let made = changed.iter().try_for_each(put).and_then(|()| plan::apply(plans));
    if made.is_err() {
        for (identity, plan) in changed.iter().rev() {
            if let Err(error) = map.put(**identity, &plan.before) {
                warn!("put the rules of identity {identity} back: {error:#}");
            }
        }
    }
    made
}

impl IdentityPlan {
    fn new(
        root: &Root,
        identity: Identity,
        edit: Option<&Edit>,
        deadline: Option<u64>,
    ) -> Result<IdentityPlan> {
        let before = super::of_identity(root, identity)?;
        let (mut now, mut had) = (before.now.clone(), Vec::new());
        if let Some(edit) = edit {
            let whose = at(identity, &identities::names(root)?);
            had = edit.apply(root, &whose, &mut now, None)?;
        }
        // As of an endpoint: what is on trial goes back to what was before all of it.
        let is_change = !now.rules().eq(before.now.rules());
        let after = match deadline.filter(|_| is_change) {
            Some(until_ns) => {
                IdentityRules { before: Some(before.fallback().clone()), now, until_ns }
            }
            None if before.before.is_some() || !is_change => {
                IdentityRules { now, ..before.clone() }
            }
            None => IdentityRules::permanent(now),
        };
        Ok(IdentityPlan { before, after, had })
    }

    fn report(&self, identity: Identity, endpoints: &[Endpoint]) -> OfIdentity {
        let carriers = endpoints.iter().filter(|endpoint| endpoint.carries(identity));
        let left = |until_ns: u64| Duration::from_nanos(until_ns.saturating_sub(sys::coarse_ns()));
        OfIdentity {
            identity,
            before: self.before.now.len(),
            after: self.after.now.len(),
            is_changed: !self.before.now.rules().eq(self.after.now.rules()),
            had: self.had.clone(),
            carriers: carriers.map(|endpoint| endpoint.device.clone()).collect(),
            time_left: self.after.deadline().map(left),
        }
    }
}
