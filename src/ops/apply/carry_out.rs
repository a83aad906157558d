//! Makes what differs the same, in an order in which at no moment more passes than before or after.
//!
//! Where rules change and identities do, too, no order of the two is safe: the new rules would meet an old identity. So the
//! rules first become those that are there before and after; then all else changes, and then the rules become what is asked
//! for. All of that counts as one change for flows that are up.

use std::collections::HashSet;

use anyhow::{Context as _, Result};
use log::warn;

use super::change::{Change, EndpointChange, EndpointState};
use super::plan::Plan;
use crate::kernel::netns;
use crate::model::enforcement::Grace;
use crate::model::identity::{Identity, Names};
use crate::model::origin::Origin;
use crate::model::rule::{Action, Rule};
use crate::model::rule_list::RuleList;
use crate::model::spec::EndpointSpec;
use crate::ops::attach::{self, Consent, Terms};
use crate::ops::rules::{self, Edit, Whose};
use crate::ops::{check_room, detach};
use crate::program::load::{self, Sizes};
use crate::state::generations;
use crate::state::ipcache::{Ipcache, Rewrite};
use crate::state::maps::Identities;
use crate::state::pin::Root;
use crate::state::registry::{Endpoint, Found, shared};

/// Makes the changes. If one fails those that were made are undone. The caller holds the root's lock, and somebody has
/// agreed to the plan's risks.
pub fn carry_out(root: &Root, plan: &Plan, grace: Grace) -> Result<()> {
    check_room()?;
    shared::check_all_held(root)?;
    if plan.is_empty() {
        return Ok(());
    }
    let made = load::create_maps(root, &Sizes::default()).and_then(|()| {
        generations::at_once(root, || {
            let mut steps = Steps { root, plan, grace, done: Vec::new() };
            let made = steps.make();
            if made.is_err() {
                steps.undo();
            }
            made
        })?
    });
    let made = detach::leave_nothing_of_a_failure(root, made);
    detach::remove_unused_root(root)?;
    made
}

struct Steps<'a> {
    root: &'a Root,
    plan: &'a Plan,
    grace: Grace,
    /// What has been done, the last one last.
    done: Vec<Change>,
}

/// Whose rules, before and after.
type Lists<'a> = (Owner<'a>, &'a RuleList, &'a RuleList);

#[derive(Clone, Copy)]
enum Owner<'a> {
    Identity(Identity),
    Device(&'a str),
}

impl Steps<'_> {
    fn make(&mut self) -> Result<()> {
        let changes = &self.plan.changes;
        let lists: Vec<Lists<'_>> = changes.iter().filter_map(lists).collect();
        let moves = changes.iter().any(moves_identities);
        if moves && !lists.is_empty() {
            let closed = lists.iter().filter_map(|(owner, before, after)| {
                let common = common(before, after);
                (common != **before).then_some((*owner, common))
            });
            self.set_rules(&closed.collect::<Vec<_>>())?;
            // With the last rules of an identity the maps may have gone.
            load::create_maps(self.root, &Sizes::default())?;
        }
        self.set_names()?;
        self.set_lines()?;
        let endpoints = || {
            changes.iter().filter_map(|change| match change {
                Change::Endpoint(endpoint) => Some((change, endpoint)),
                _ => None,
            })
        };
        for (change, endpoint) in endpoints().filter(|(_, it)| it.attaches) {
            self.attach(endpoint, moves)?;
            self.done.push(change.clone());
        }
        for (change, endpoint) in endpoints().filter(|(_, it)| it.after.is_none()) {
            self.detach(endpoint)?;
            self.done.push(change.clone());
        }
        let last: Vec<(Owner<'_>, RuleList)> =
            lists.iter().map(|(owner, _, after)| (*owner, (*after).clone())).collect();
        self.set_rules(&last)
    }

    /// Undoes what has been done, the last first; reports what can't be.
    fn undo(&mut self) {
        for change in self.done.iter().rev() {
            if let Err(error) = self.undo_one(&change.undone()) {
                warn!("undo what was done: {error:#}");
            }
        }
        let lists = self.plan.changes.iter().filter_map(lists);
        let before: Vec<(Owner<'_>, RuleList)> =
            lists.map(|(owner, before, _)| (owner, before.clone())).collect();
        if let Err(error) = self.set_rules(&before) {
            warn!("put the rules back: {error:#}");
        }
    }

    fn undo_one(&self, change: &Change) -> Result<()> {
        match change {
            Change::Name(identity, _, after) => self.set_name(*identity, after.as_ref()),
            Change::Line(..) => self.rewrite(&[change]),
            Change::Rules(..) => Ok(()),
            Change::Endpoint(endpoint) if endpoint.after.is_none() => self.detach(endpoint),
            Change::Endpoint(endpoint) if endpoint.attaches || endpoint.before.is_none() => {
                self.attach(endpoint, true)
            }
            Change::Endpoint(_) => Ok(()),
        }
    }

    fn set_names(&mut self) -> Result<()> {
        // A name that another identity gets has to be free first.
        let (gone, come): (Vec<&Change>, Vec<&Change>) = self
            .plan
            .changes
            .iter()
            .filter(|change| matches!(change, Change::Name(..)))
            .partition(|change| matches!(change, Change::Name(_, _, None)));
        for change in gone.into_iter().chain(come) {
            if let Change::Name(identity, _, after) = change {
                self.set_name(*identity, after.as_ref())?;
                self.done.push(change.clone());
            }
        }
        Ok(())
    }

    fn set_name(&self, identity: Identity, name: Option<&(String, Origin)>) -> Result<()> {
        let map = Identities::open(self.root)?.context("the names of identities are not pinned")?;
        match name {
            Some((name, origin)) => map.set(identity, name, *origin),
            None => map.delete(identity).map(|_| ()),
        }
    }

    fn set_lines(&mut self) -> Result<()> {
        let lines: Vec<&Change> =
            self.plan.changes.iter().filter(|change| matches!(change, Change::Line(..))).collect();
        self.rewrite(&lines)?;
        self.done.extend(lines.into_iter().cloned());
        Ok(())
    }

    fn rewrite(&self, lines: &[&Change]) -> Result<()> {
        let mut rewrite = Rewrite::default();
        for change in lines {
            match change {
                Change::Line(prefix, _, Some((identity, origin))) => {
                    rewrite.set.push((*prefix, *identity, *origin));
                }
                Change::Line(prefix, _, None) => rewrite.gone.push(*prefix),
                _ => {}
            }
        }
        if rewrite.set.is_empty() && rewrite.gone.is_empty() {
            return Ok(());
        }
        let ipcache = Ipcache::open(self.root)?.context("the ipcache is not pinned")?;
        ipcache.rewrite(&rewrite, |_| Ok(()))
    }

    /// Attaches with the rules that it is to have, or if identities move and it had some, with those that both have.
    fn attach(&self, change: &EndpointChange, moves: bool) -> Result<()> {
        let Some(after) = &change.after else { return Ok(()) };
        let rules = match &change.before {
            Some(before) if moves => common(&before.rules, &after.rules),
            Some(_) => return self.attach_with(change, after, None),
            None => after.rules.clone(),
        };
        self.attach_with(change, after, Some(&rules))
    }

    fn attach_with(
        &self,
        change: &EndpointChange,
        after: &EndpointState,
        rules: Option<&RuleList>,
    ) -> Result<()> {
        let names = Names::default();
        let files = |rules: &RuleList| -> Vec<String> {
            let files = rules.made().iter().filter(|made| made.origins.contain(after.origin));
            files.map(|made| made.rule.text(&names)).collect()
        };
        let rules = rules.filter(|_| change.before.is_none());
        let spec = EndpointSpec { rules: rules.map(files), ..after.spec.clone() };
        let terms = Terms {
            grace: if spec.policy.enforce() { self.grace } else { Grace::Permanent },
            consent: Consent::Everything,
            login_port: self.plan.login_port,
            origin: after.origin,
            ..Terms::default()
        };
        let place = self.plan.places.get(&change.device);
        let report = attach::attach(self.root, &spec, &terms).with_context(|| match place {
            Some(place) => format!("{place}: {}", change.device),
            None => change.device.clone(),
        })?;
        report.gone.iter().for_each(|gone| warn!("{gone}"));
        Ok(())
    }

    fn detach(&self, change: &EndpointChange) -> Result<()> {
        match self.endpoint(&change.device)? {
            Some(endpoint) => detach::detach(self.root, &endpoint)
                .with_context(|| format!("detach {}", change.device)),
            None => Ok(()),
        }
    }

    fn endpoint(&self, device: &str) -> Result<Option<Endpoint>> {
        let netns = netns::current()?;
        let mut found = Found::named(self.root, &[device.parse()?])?;
        found.narrow(netns);
        Ok(found.endpoints.into_iter().find(|it| it.device == device))
    }

    /// Makes these the rules of whom they are, all in one step or none.
    fn set_rules(&self, lists: &[(Owner<'_>, RuleList)]) -> Result<()> {
        let mut changes = Vec::new();
        for (owner, list) in lists {
            let whose = match owner {
                Owner::Identity(identity) => Whose::Identity(*identity),
                Owner::Device(device) => match self.endpoint(device)? {
                    Some(endpoint) if !endpoint.stale => Whose::Endpoint(endpoint.id),
                    _ => continue,
                },
            };
            let of_file = list.made().iter().filter(|made| made.origins.contain(Origin::File));
            let of_file: Vec<Rule> = of_file.map(|made| made.rule).collect();
            changes.push(rules::Change { whose, edit: Edit::Replace(Origin::File, of_file) });
        }
        if changes.is_empty() {
            return Ok(());
        }
        rules::change_each(self.root, &changes, self.grace, true).map(|_| ())
    }
}

/// The rules that a change is about, of what is there before and after.
fn lists(change: &Change) -> Option<Lists<'_>> {
    match change {
        Change::Rules(identity, before, after) => {
            (before != after).then_some((Owner::Identity(*identity), before, after))
        }
        Change::Endpoint(change) => {
            let (before, after) = change.before.as_ref().zip(change.after.as_ref())?;
            let lists = (Owner::Device(&change.device), &before.rules, &after.rules);
            (before.rules != after.rules).then_some(lists)
        }
        _ => None,
    }
}

/// Whether somebody's identity becomes another.
fn moves_identities(change: &Change) -> bool {
    match change {
        Change::Line(_, before, after) => before.map(|it| it.0) != after.map(|it| it.0),
        Change::Endpoint(change) => change.attaches || change.after.is_none(),
        Change::Name(..) | Change::Rules(..) => false,
    }
}

/// What passes before and after: what both allow, and neither denies.
fn common(before: &RuleList, after: &RuleList) -> RuleList {
    let [had, has]: [HashSet<Rule>; 2] = [before, after].map(|list| list.rules().collect());
    let counts = |rule: &Rule| match rule.action {
        Action::Allow => had.contains(rule) && has.contains(rule),
        Action::Deny => true,
    };
    let all = after.made().iter().chain(before.made().iter().filter(|it| !has.contains(&it.rule)));
    let all = all.filter(|made| counts(&made.rule));
    RuleList::of(all.copied().collect())
}
