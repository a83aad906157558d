//! A change of rules: of all endpoints or of none, and on a NIC that enforces them only with a way back.
//!
//! The order is what makes it safe to die at any point: the rules in force are kept and the clock runs
//! before the new ones count.

use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use log::warn;

use super::slot_in_force;
use crate::cli::Context;
use crate::cli::consent::{self, Consent};
use crate::cli::targets::{self, Targets};
use crate::datapath::layout;
use crate::datapath::policy::{PolicyMaps, Slot};
use crate::datapath::registry::{Endpoint, shared};
use crate::datapath::sys;
use crate::model::policing::{Confirmation, Fallback, Mode};
use crate::model::policy::Policy;
use crate::output;

/// What is to become of one endpoint's rules.
struct Plan<'a> {
    endpoint: &'a Endpoint,
    maps: PolicyMaps,
    confirmation: Confirmation,
    before: Policy,
    after: Policy,
}

/// Changes the rules of endpoints: `edit` gets the endpoint, the rules in force, and rules whose
/// numbers are taken.
pub fn run(
    context: &Context,
    targets: &Targets,
    consent: &Consent,
    edit: impl Fn(&Endpoint, &mut Policy, &Policy) -> Result<()>,
) -> Result<()> {
    // Nobody else shall have to wait for the answer.
    let asked = ask(&targets.select(context)?, consent)?;
    let _lock = context.lock()?;
    let endpoints = targets.select(context)?;
    targets::check_alive(&endpoints)?;
    let mut plans = Vec::new();
    for endpoint in &endpoints {
        layout::check_endpoint(&context.root, endpoint.id)?;
        shared::check(&context.root, endpoint)?;
        ensure!(
            asked || !consent::is_enforcing_nic(endpoint)?,
            "{} has begun to enforce its policy meanwhile; nothing has changed",
            endpoint.device
        );
        plans.push(Plan::new(context, endpoint, &edit)?);
    }
    let deadline = consent.deadline();
    for (done, plan) in plans.iter().enumerate() {
        let changed = plan.apply(deadline);
        if let Err(error) = changed.with_context(|| format!("change {}", plan.endpoint.device)) {
            for plan in plans[..=done].iter().rev() {
                plan.undo();
            }
            return Err(error);
        }
    }
    plans.iter().try_for_each(|plan| plan.tell(consent.confirm))
}

/// Whether the user was asked, or had answered before.
fn ask(endpoints: &[Endpoint], consent: &Consent) -> Result<bool> {
    targets::check_alive(endpoints)?;
    let (mut nics, mut enforces) = (Vec::new(), false);
    for endpoint in endpoints {
        enforces |= consent::enforces(endpoint)?;
        if consent::is_enforcing_nic(endpoint)? {
            nics.push(endpoint.device.as_str());
        }
    }
    ensure!(
        enforces || consent.confirm.is_none(),
        "--confirm is for rules that are enforced, and {} enforces none",
        endpoints[0].device
    );
    if let Some(first) = nics.first() {
        let risk = format!("{} drops what no rule allows", nics.join(" and "));
        consent.obtain(&risk, if nics.len() == 1 { first } else { "host" })?;
    }
    Ok(!nics.is_empty())
}

impl Plan<'_> {
    fn new<'a>(
        context: &Context,
        endpoint: &'a Endpoint,
        edit: impl Fn(&Endpoint, &mut Policy, &Policy) -> Result<()>,
    ) -> Result<Plan<'a>> {
        let maps = targets::policy_of(context, endpoint)?;
        let confirmation = endpoint.confirmation()?;
        let before = maps.read(slot_in_force(confirmation))?;
        let kept = match confirmation {
            Confirmation::Pending(Fallback::Rules, _) => maps.read(Slot::Previous)?,
            _ => Policy::default(),
        };
        let mut after = before.clone();
        edit(endpoint, &mut after, &kept)?;
        Ok(Plan { endpoint, maps, confirmation, before, after })
    }

    fn apply(&self, deadline: Option<u64>) -> Result<()> {
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

    /// Puts back the rules, and then the clock; tells what can't be. A clock that runs for rules that
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

    fn tell(&self, confirm: Option<Duration>) -> Result<()> {
        let device = &self.endpoint.device;
        let count = |policy: &Policy| policy.rules().len();
        let rules = |number| if number == 1 { "1 rule".into() } else { format!("{number} rules") };
        output::note(&match count(&self.after) {
            now if self.before == self.after => format!("{device}: {}, as before", rules(now)),
            now => format!("{device}: {}, {} before", rules(now), count(&self.before)),
        });
        match (self.endpoint.confirmation()?, confirm) {
            (Confirmation::Pending(_, left), confirm) if self.before != self.after => {
                consent::remind(device, confirm.unwrap_or(left), self.otherwise());
            }
            (Confirmation::Over(Fallback::Rules), _) if self.before != self.after => bail!(
                "too late: the time to confirm an earlier change of {device} has run out meanwhile, \
                 and it has fallen back to the rules before that; make the change again"
            ),
            (Confirmation::Over(Fallback::Audit), _) => output::note(&format!(
                "{device} only audits, since nobody confirmed in time; attach it again to enforce"
            )),
            _ if self.endpoint.config.modes() == [Mode::Off; 2] => output::note(&format!(
                "{device} has its policy off; `cilmark attach {device} --policy audit`, or enforce, \
                 makes the rules count"
            )),
            _ => {}
        }
        Ok(())
    }

    fn otherwise(&self) -> &'static str {
        match self.confirmation {
            Confirmation::Pending(Fallback::Audit, _) => "it only audits from then on",
            Confirmation::Pending(Fallback::Rules, _) => {
                "the last rules that were confirmed come back"
            }
            _ => "the rules before this change come back",
        }
    }
}
