//! The change of each endpoint's rules, which is undone if another one fails.
//!
//! The order is what makes it safe to die at any point: the rules in force are kept and the clock runs
//! before the new ones count.

use anyhow::{Context, Result};
use log::warn;

use crate::kernel::sys;
use crate::model::enforcement::{Confirmation, Fallback, Mode};
use crate::model::policy::Policy;
use crate::ops::targets::policy_of;
use crate::state::pin::Root;
use crate::state::policy::{PolicyMaps, Slot};
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
    maps: PolicyMaps,
}

/// Makes the changes, by a coarse monotonic clock (ns) at which they end unless somebody confirms them. If one fails
/// all are undone.
pub fn apply(plans: &[Plan<'_>], deadline: Option<u64>) -> Result<()> {
    for (done, plan) in plans.iter().enumerate() {
        let made = plan.make(deadline);
        if let Err(error) = made.with_context(|| format!("change {}", plan.endpoint.device)) {
            plans[..=done].iter().rev().for_each(Plan::undo);
            return Err(error);
        }
    }
    Ok(())
}

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

impl Plan<'_> {
    /// Plans a change: `edit` gets the rules in force, and rules whose numbers are taken.
    pub fn new<'a>(
        root: &Root,
        endpoint: &'a Endpoint,
        edit: impl FnOnce(&mut Policy, &Policy) -> Result<()>,
    ) -> Result<Plan<'a>> {
        let maps = policy_of(root, endpoint)?;
        let confirmation = endpoint.confirmation()?;
        let before = maps.read(slot_in_force(confirmation))?;
        let kept = match confirmation {
            Confirmation::Pending(Fallback::Rules, _) => maps.read(Slot::Previous)?,
            _ => Policy::default(),
        };
        let mut after = before.clone();
        edit(&mut after, &kept)?;
        Ok(Plan { endpoint, confirmation, before, after, maps })
    }

    fn make(&self, deadline: Option<u64>) -> Result<()> {
        if self.before == self.after {
            return Ok(());
        }
        if self.confirmation == Confirmation::Over(Fallback::Rules) {
            // What nobody confirmed must not come back when the clock is reset.
            self.maps.revert()?;
            self.endpoint.confirm_by(None)?;
        }
        if let Some(until_ns) = deadline {
            match self.confirmation {
                Confirmation::Over(Fallback::Audit) => {}
                Confirmation::Pending(to, _) => self.endpoint.confirm_by(Some((until_ns, to)))?,
                Confirmation::None | Confirmation::Over(Fallback::Rules) => {
                    self.maps.keep()?;
                    if self.endpoint.config.modes().contains(&Mode::Enforce) {
                        self.endpoint.confirm_by(Some((until_ns, Fallback::Rules)))?;
                    }
                }
            }
        }
        self.maps.swap(&self.after)
    }

    /// Puts back the rules, and then the clock; reports what can't be. A clock that runs for rules that
    /// can't be put back runs on.
    fn undo(&self) {
        let device = &self.endpoint.device;
        if let Err(error) = self.maps.swap(&self.before) {
            return warn!("put the rules of {device} back: {error:#}");
        }
        let clock = match self.confirmation {
            Confirmation::Pending(to, left) => {
                Some((sys::coarse_ns().saturating_add(left.as_nanos() as u64), to))
            }
            Confirmation::Over(Fallback::Audit) => return,
            Confirmation::None | Confirmation::Over(Fallback::Rules) => None,
        };
        if let Err(error) = self.endpoint.confirm_by(clock) {
            warn!("put the clock of {device} back: {error:#}");
        }
    }
}
