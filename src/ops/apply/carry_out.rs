//! Makes what differs the same, in an order in which at no moment more passes than before or after.
//!
//! Where rules change and identities do, too, no order of the two is safe: the new rules would meet an old identity. So the
//! rules first become those that are there before and after. Then come identities, and endpoints that enforce more, with the
//! stricter of two modes; then those that enforce less, and others go; and last the rules become what is asked for. All of
//! that counts as one change for flows that are up.

use std::collections::HashSet;

use anyhow::{Context as _, Error, Result};
use log::warn;

use super::change::{Change, EndpointChange, EndpointState};
use super::plan::Plan;
use crate::kernel::netns;
use crate::model::enforcement::Grace;
use crate::model::identity::{Identity, Names};
use crate::model::origin::Origin;
use crate::model::rule::{Action, Direction, L4, Rule};
use crate::model::rule_list::RuleList;
use crate::model::spec::EndpointSpec;
use crate::ops::attach::{self, Consent, Terms};
use crate::ops::birth;
use crate::ops::rules::{self, Edit, Whose};
use crate::ops::{check_room, detach};
use crate::program::load::{self, Sizes};
use crate::state::generations;
use crate::state::ipcache::{Ipcache, Rewrite};
use crate::state::maps::Identities;
use crate::state::pin::Root;
use crate::state::registry::{Endpoint, Found, shared};

/// Makes the changes. If one fails those that were made are undone. The caller holds the root's lock, and somebody has
/// agreed to the plan's risks. If the plan goes on past devices that fail, these are returned.
pub fn carry_out(root: &Root, plan: &Plan, grace: Grace) -> Result<Vec<(String, Error)>> {
    check_room()?;
    shared::check_all_held(root)?;
    if plan.is_empty() {
        birth::finish_removals(root)?;
        return Ok(Vec::new());
    }
    let made = load::create_maps(root, &Sizes::default()).and_then(|()| {
        generations::at_once(root, || {
            let (lists, done, failed) = (lists(plan), Vec::new(), Vec::new());
            let mut steps = Steps { root, plan, grace, lists, done, failed };
            let made = steps.make();
            if made.is_err() {
                steps.undo();
            }
            made.map(|()| steps.failed)
        })?
    });
    // Last, as others are taken off: before, rules may still be there that their addresses must not meet as somebody else's.
    let made = made.and_then(|failed| birth::finish_removals(root).map(|()| failed));
    let made = detach::leave_nothing_of_a_failure(root, made);
    detach::remove_unused_root(root)?;
    made
}

struct Steps<'a> {
    root: &'a Root,
    plan: &'a Plan,
    grace: Grace,
    /// Whose rules change.
    lists: Vec<Lists<'a>>,
    /// What has been done, the last one last.
    done: Vec<Change>,
    /// Devices that could not be attached, if that keeps nobody from the rest.
    failed: Vec<(String, Error)>,
}

/// Whose rules change, before and after, and meanwhile.
struct Lists<'a> {
    owner: Owner<'a>,
    before: RuleList,
    meanwhile: RuleList,
    after: &'a RuleList,
}

#[derive(Clone, Copy)]
enum Owner<'a> {
    Identity(Identity),
    Device(&'a str),
}

impl Steps<'_> {
    fn make(&mut self) -> Result<()> {
        let changes = &self.plan.changes;
        self.set_rules(|list| (list.meanwhile != list.before).then_some(&list.meanwhile))?;
        // With the last rules of an identity the maps may have gone.
        load::create_maps(self.root, &Sizes::default())?;
        self.set_names()?;
        self.set_lines()?;
        let endpoints = || {
            changes.iter().filter_map(|change| match change {
                Change::Endpoint(endpoint) => Some((change, &**endpoint)),
                _ => None,
            })
        };
        let attached = || endpoints().filter(|(_, it)| it.attaches);
        // Nobody relaxes before all have come that are to enforce.
        for (change, endpoint) in attached() {
            if let Some(at_first) = endpoint.at_first()
                && self.attach_or_go_on(endpoint, &at_first)?
            {
                self.done.push(change.clone());
            }
        }
        for (change, endpoint) in attached() {
            if let Some(after) = endpoint.after.as_ref().filter(|_| endpoint.relaxes())
                && self.attach_or_go_on(endpoint, after)?
            {
                self.done.push(change.clone());
            }
        }
        // What is off comes back only as another one.
        rules::check_each(self.root, &self.changes_of_rules(|list| Some(list.after))?)?;
        for (change, endpoint) in endpoints().filter(|(_, it)| it.after.is_none()) {
            self.detach(endpoint)?;
            self.done.push(change.clone());
        }
        self.set_rules(|list| Some(list.after))
    }

    /// Whether it is attached now; if it is not, that is an error unless the plan goes on.
    fn attach_or_go_on(&mut self, change: &EndpointChange, after: &EndpointState) -> Result<bool> {
        match self.attach(change, after) {
            Err(error) if self.plan.goes_on => {
                self.failed.push((change.device.clone(), error));
                Ok(false)
            }
            attached => attached.map(|()| true),
        }
    }

    /// Undoes what has been done, the last first; reports what can't be.
    fn undo(&mut self) {
        let tell = |what: &str, done: Result<()>| {
            if let Err(error) = done {
                warn!("{what}: {error:#}");
            }
        };
        // Names say which identity endpoints had.
        let (names, others): (Vec<&Change>, Vec<&Change>) =
            self.done.iter().rev().partition(|change| matches!(change, Change::Name(..)));
        tell("close what is undone", self.set_rules(|list| Some(&list.meanwhile)));
        for change in names.into_iter().chain(others) {
            tell("undo what was done", self.undo_one(&change.undone()));
        }
        tell("put the rules back", self.set_rules(|list| Some(&list.before)));
    }

    fn undo_one(&self, change: &Change) -> Result<()> {
        match change {
            Change::Name(identity, _, after) => self.set_name(*identity, after.as_ref()),
            Change::Line(..) => self.rewrite(&[change]),
            Change::Rules(..) => Ok(()),
            Change::Endpoint(endpoint) => match &endpoint.after {
                None => self.detach(endpoint),
                Some(after) => {
                    self.attach(endpoint, after)?;
                    self.add_rules_of_others(endpoint, after)
                }
            },
        }
    }

    /// What others had given an endpoint that was detached, and is there again.
    fn add_rules_of_others(&self, endpoint: &EndpointChange, state: &EndpointState) -> Result<()> {
        let others = Origin::ALL.iter().copied().filter(|origin| *origin != state.origin);
        for origin in others.filter(|_| endpoint.before.is_none()) {
            let rules = rules_of(&state.rules, origin);
            if let (false, Some(endpoint)) = (rules.is_empty(), self.endpoint(&endpoint.device)?) {
                let whose = Whose::Endpoint(endpoint.id);
                rules::replace_of(self.root, whose, origin, rules, Grace::Permanent, true)?;
            }
        }
        Ok(())
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

    /// Attaches. One that is new has the rules of its identity from the first packet on, too.
    fn attach(&self, change: &EndpointChange, after: &EndpointState) -> Result<()> {
        let names = Names::default();
        let rules = || -> Vec<String> {
            let rules = first_rules(self.plan, after);
            rules_of(&rules, after.origin).iter().map(|rule| rule.text(&names)).collect()
        };
        let spec =
            EndpointSpec { rules: change.before.is_none().then(rules), ..after.spec.clone() };
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

    /// Gives their rules to those for whom this tells some, all in one step or none.
    fn set_rules<'b>(
        &'b self,
        which: impl Fn(&'b Lists<'b>) -> Option<&'b RuleList>,
    ) -> Result<()> {
        match self.changes_of_rules(which)? {
            changes if changes.is_empty() => Ok(()),
            changes => rules::change_each(self.root, &changes, self.grace, true).map(|_| ()),
        }
    }

    fn changes_of_rules<'b>(
        &'b self,
        which: impl Fn(&'b Lists<'b>) -> Option<&'b RuleList>,
    ) -> Result<Vec<rules::Change>> {
        let mut changes = Vec::new();
        for list in &self.lists {
            let Some(rules) = which(list) else { continue };
            let whose = match list.owner {
                Owner::Identity(identity) => Whose::Identity(identity),
                Owner::Device(device) => match self.endpoint(device)? {
                    Some(endpoint) if !endpoint.stale => Whose::Endpoint(endpoint.id),
                    _ => continue,
                },
            };
            let edit = Edit::Replace(Origin::File, rules_of(rules, Origin::File));
            changes.push(rules::Change { whose, edit });
        }
        Ok(changes)
    }
}

/// The rules that change. Where identities do, too, an endpoint lets in and out meanwhile what it does before and after;
/// one that gets another identity itself, beside others that do, nothing: what both lists allow may be about others than
/// before and after.
fn lists(plan: &Plan) -> Vec<Lists<'_>> {
    let moves = plan.changes.iter().filter(|change| moves_identities(change)).count();
    let lists = plan.changes.iter().filter_map(|change| lists_of(plan, change, moves));
    lists.filter(|it| it.before != *it.after || it.meanwhile != it.before).collect()
}

fn lists_of<'a>(plan: &Plan, change: &'a Change, moves: usize) -> Option<Lists<'a>> {
    let meanwhile = |before: &RuleList, after: &RuleList| match moves {
        0 => before.clone(),
        _ => common(before, after),
    };
    match change {
        Change::Rules(identity, before, after) => Some(Lists {
            owner: Owner::Identity(*identity),
            before: before.clone(),
            meanwhile: meanwhile(before, after),
            after,
        }),
        Change::Endpoint(change) => {
            let after = change.after.as_ref()?;
            let owner = Owner::Device(&change.device);
            let Some(before) = &change.before else {
                let before = first_rules(plan, after);
                return Some(Lists {
                    owner,
                    meanwhile: before.clone(),
                    before,
                    after: &after.rules,
                });
            };
            let mut meanwhile = meanwhile(&before.rules, &after.rules);
            if before.identity != after.identity && moves > 1 {
                meanwhile.add(&NOTHING, Origin::File);
            }
            Some(Lists { owner, before: before.rules.clone(), meanwhile, after: &after.rules })
        }
        _ => None,
    }
}

/// What an endpoint that is attached anew has at first: its own rules, and those that its identity is going to have.
fn first_rules(plan: &Plan, state: &EndpointState) -> RuleList {
    let mut rules = state.rules.clone();
    for change in &plan.changes {
        match change {
            Change::Rules(identity, _, after) if *identity == state.identity => {
                rules.add(&after.rules().collect::<Vec<_>>(), state.origin);
            }
            _ => {}
        }
    }
    rules
}

fn rules_of(list: &RuleList, origin: Origin) -> Vec<Rule> {
    let made = list.made().iter().filter(|made| made.origins.contain(origin));
    made.map(|made| made.rule).collect()
}

/// Lets nobody in or out.
const NOTHING: [Rule; 2] = [nothing(Direction::Ingress), nothing(Direction::Egress)];

const fn nothing(direction: Direction) -> Rule {
    Rule { action: Action::Deny, direction, peer: Rule::ANY, l4: L4::Any }
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
