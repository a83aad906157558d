//! The change of each endpoint's rules, which is undone if another one fails.
//!
//! The order is what makes it safe to die at any point: the rules in force are kept and the clock runs
//! before the new ones count.

use anyhow::{Context, Error, Result};
use log::warn;

use crate::kernel::sys;
use crate::model::enforcement::{Confirmation, Fallback};
use crate::model::policy::Policy;
use crate::model::rule_list::{IdentityRules, RuleList};
use crate::ops::targets::policy_of;
use crate::state::pin::Root;
use crate::state::policy::{PolicyMaps, Slot, put_all_previous, swap_all};
use crate::state::registry::Endpoint;

/// What is to become of one endpoint's rules.
pub struct Plan<'a> {
    /// Whose.
    pub endpoint: &'a Endpoint,
    /// Whether an earlier change waits to be confirmed.
    pub confirmation: Confirmation,
    /// The rules in force.
    pub before: Policy,
    /// Those that are to be.
    pub after: Policy,
    /// What an unconfirmed change falls back to, if that is to be another one.
    previous: Option<Policy>,
    /// What it would be without this.
    kept: Policy,
    clock: Clock,
    maps: PolicyMaps,
}

/// What becomes of an endpoint's clock.
#[derive(Clone, Copy)]
enum Clock {
    /// It runs on, or stands still.
    AsItIs,
    /// It is set to this moment of the coarse monotonic clock, in ns; also where nothing is enforced, so that the rules are
    /// the same everywhere.
    Until(u64),
    /// It stops: somebody has confirmed what it is for.
    Stops,
}

/// The rules of an endpoint's identity, before a change and behind it.
pub struct OfIdentity<'a> {
    /// Before it.
    pub before: &'a IdentityRules,
    /// Behind it.
    pub after: &'a IdentityRules,
}

/// Makes the changes, step by step at all endpoints together, since the kernel lets each wait. If one fails all are undone.
pub fn apply(plans: &[Plan<'_>]) -> Result<()> {
    let plans: Vec<&Plan<'_>> = plans.iter().filter(|plan| plan.changes()).collect();
    let made = make(&plans)
        .map_err(|(at, error)| error.context(format!("change {}", plans[at].endpoint.device)));
    if made.is_err() {
        plans.iter().rev().for_each(|plan| plan.undo());
    }
    made
}

/// The error, and at which of them it was.
fn make<'a>(plans: &[&Plan<'a>]) -> Result<(), (usize, Error)> {
    let each = |step: fn(&Plan<'a>) -> Result<()>| {
        let mut plans = plans.iter().enumerate();
        plans.try_for_each(|(at, plan)| step(plan).map_err(|error| (at, error)))
    };
    let all = |all: All, list: for<'p> fn(&'p Plan<'a>) -> Option<&'p Policy>| {
        let places: Vec<usize> = (0..plans.len()).filter(|at| list(plans[*at]).is_some()).collect();
        let lists = places.iter().filter_map(|at| Some((&plans[*at].maps, list(plans[*at])?)));
        all(&lists.collect::<Vec<_>>()).map_err(|(at, error)| (places[at], error))
    };
    each(Plan::settle)?;
    all(put_all_previous, |plan| plan.previous.as_ref())?;
    each(Plan::set_clock)?;
    all(swap_all, |plan| Some(&plan.after).filter(|after| **after != plan.before))?;
    each(|plan| match plan.clock {
        Clock::Stops => plan.endpoint.confirm_by(None),
        _ => Ok(()),
    })
}

type All = fn(&[(&PolicyMaps, &Policy)]) -> Result<(), (usize, Error)>;

/// Where the rules that count are.
pub fn slot_in_force(confirmation: Confirmation) -> Slot {
    match confirmation {
        Confirmation::Over(Fallback::Rules) => Slot::Previous,
        _ => Slot::Current,
    }
}

/// The rules of an endpoint that count, in its maps.
pub fn in_force(maps: &PolicyMaps, endpoint: &Endpoint) -> Result<Policy> {
    maps.read(slot_in_force(endpoint.confirmation()?))
}

/// Makes the rules to which an unconfirmed change has fallen back the current ones: new programs do not know of the
/// fallback.
pub fn settle(root: &Root, endpoint: &Endpoint) -> Result<()> {
    if endpoint.confirmation()? == Confirmation::Over(Fallback::Rules) {
        policy_of(root, endpoint)?.revert()?;
    }
    Ok(())
}

/// Confirms an endpoint's own change while the rules of its identity are on trial: it waits for those from now on.
pub fn wait_for_identity(root: &Root, endpoint: &Endpoint, identity: &IdentityRules) -> Result<()> {
    let maps = policy_of(root, endpoint)?;
    let now = maps.read(Slot::Current)?;
    let Some(until_ns) = identity.deadline() else { return endpoint.confirm_by(None) };
    maps.put_previous(&now.made_of(&now.own(), identity.fallback(), &now))?;
    endpoint.confirm_by(Some((until_ns, Fallback::Rules)))
}

impl Plan<'_> {
    /// Plans a change, which goes back by itself at a moment of the coarse monotonic clock (ns), if one is given: `edit`
    /// gets the endpoint's own rules in force and those that its identity has. Whatever else its identity has, and an
    /// earlier command that was killed has not brought here, comes with it.
    pub fn new<'a>(
        root: &Root,
        endpoint: &'a Endpoint,
        of_identity: &OfIdentity<'_>,
        deadline: Option<u64>,
        edit: impl FnOnce(&mut RuleList, &RuleList) -> Result<()>,
    ) -> Result<Plan<'a>> {
        let OfIdentity { before: identity_before, after: identity } = of_identity;
        let maps = policy_of(root, endpoint)?;
        let (confirmation, until_ns) = (endpoint.confirmation()?, endpoint.confirmed_by()?);
        let before = maps.read(slot_in_force(confirmation))?;
        let kept = match confirmation {
            Confirmation::Pending(Fallback::Rules, _) => maps.read(Slot::Previous)?,
            _ => Policy::default(),
        };
        let mut own = before.own();
        edit(&mut own, &identity.now)?;
        // No number may be in both lists with different rules.
        let goes_back = deadline.is_some() || identity.before.is_some();
        let numbered = [&kept, &before].into_iter().take(if goes_back { 2 } else { 1 });
        let numbered = Policy::of(numbered.flat_map(Policy::rules).copied().collect());
        let after = before.made_of(&own, &identity.now, &numbered);
        let is_change = !after.has_the_rules_of(&before);

        let waits = matches!(confirmation, Confirmation::Pending(..));
        let falls_back_to_rules = matches!(confirmation, Confirmation::Pending(Fallback::Rules, _));
        let fallback = match falls_back_to_rules {
            true => kept.made_of(&kept.own(), identity.fallback(), &after),
            false => before.made_of(&before.own(), identity.fallback(), &after),
        };
        let was_confirmed = falls_back_to_rules
            && identity_before.before.is_none()
            && identity_before.until_ns == until_ns;
        // With its identity's rules an endpoint's own go, too, at the latest.
        let identitys = identity.deadline().filter(|_| !fallback.has_the_rules_of(&after));
        let identitys =
            identitys.filter(|ns| !waits || is_change && deadline.is_some() || *ns < until_ns);
        let deadline = deadline.filter(|_| is_change);
        let earliest = identitys.into_iter().chain(deadline).min();
        let clock = match earliest {
            Some(ns) => Clock::Until(ns),
            None if was_confirmed => Clock::Stops,
            None => Clock::AsItIs,
        };
        let previous = match (falls_back_to_rules, clock) {
            (true, Clock::Stops) => None,
            (true, _) => Some(fallback).filter(|fallback| *fallback != kept),
            (false, Clock::Until(_)) => Some(fallback),
            (false, _) => None,
        };
        Ok(Plan { endpoint, confirmation, before, after, previous, kept, clock, maps })
    }

    /// Fails if it takes more entries than there are.
    pub fn check(&self) -> Result<()> {
        let after = Some(&self.after).filter(|after| **after != self.before);
        let mut lists = after.into_iter().chain(&self.previous);
        lists
            .try_for_each(|policy| self.maps.check(policy, &self.before))
            .with_context(|| format!("change {}", self.endpoint.device))
    }

    /// Whether anything becomes another.
    pub fn changes(&self) -> bool {
        self.before != self.after || self.previous.is_some() || !matches!(self.clock, Clock::AsItIs)
    }

    /// What nobody confirmed must not come back when the clock is reset.
    fn settle(&self) -> Result<()> {
        match self.confirmation {
            Confirmation::Over(Fallback::Rules) => {
                self.maps.revert()?;
                self.endpoint.confirm_by(None)
            }
            _ => Ok(()),
        }
    }

    fn set_clock(&self) -> Result<()> {
        let Clock::Until(ns) = self.clock else { return Ok(()) };
        match self.confirmation {
            Confirmation::Over(Fallback::Audit) => Ok(()),
            Confirmation::Pending(to, _) => self.endpoint.confirm_by(Some((ns, to))),
            Confirmation::None | Confirmation::Over(Fallback::Rules) => {
                self.endpoint.confirm_by(Some((ns, Fallback::Rules)))
            }
        }
    }

    /// Puts back the rules, and then the clock; reports what can't be. A clock that runs for rules that
    /// can't be put back runs on.
    fn undo(&self) {
        let device = &self.endpoint.device;
        // What has failed to change them has put them back.
        let is_back = self.maps.read(Slot::Current).is_ok_and(|now| now == self.before);
        if !is_back && let Err(error) = self.maps.swap(&self.before) {
            return warn!("put the rules of {device} back: {error:#}");
        }
        let clock = match self.confirmation {
            Confirmation::Pending(to, left) => {
                Some((sys::coarse_ns().saturating_add(left.as_nanos() as u64), to))
            }
            Confirmation::Over(Fallback::Audit) => return,
            Confirmation::None | Confirmation::Over(Fallback::Rules) => None,
        };
        if matches!(clock, Some((_, Fallback::Rules)))
            && self.previous.is_some()
            && let Err(error) = self.maps.put_previous(&self.kept)
        {
            warn!("put back what {device} falls back to: {error:#}");
        }
        if let Err(error) = self.endpoint.confirm_by(clock) {
            warn!("put the clock of {device} back: {error:#}");
        }
    }
}
