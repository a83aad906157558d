//! Changes rules: of all endpoints or of none, and if there is a deadline with a way back.

pub mod list;
mod plan;

use std::collections::HashSet;
use std::time::Duration;

use anyhow::{Result, bail, ensure};
use plan::{Plan, apply};
pub use plan::{in_force, settle};

use super::identities;
use super::targets::{Targets, policy_of};
use crate::kernel::abi::cm_config;
use crate::kernel::sys;
use crate::model::enforcement::{Confirmation, Fallback, Grace, Mode};
use crate::model::policy::Policy;
use crate::model::policy::effect::{Setting, Void, void};
use crate::model::rule::Rule;
use crate::state::layout;
use crate::state::pin::Root;
use crate::state::policy::Slot;
use crate::state::registry::{Endpoint, shared};

/// Whose rules change, and how.
pub struct Request<'a> {
    /// Whose.
    pub targets: &'a Targets,
    /// Only what is in this namespace.
    pub netns: Option<u64>,
    /// How.
    pub edit: Edit,
    /// Where rules are enforced.
    pub grace: Grace,
}

/// What becomes of the rules.
#[derive(Debug, Clone)]
pub enum Edit {
    /// These come behind those that are there.
    Add(Vec<Rule>),
    /// These go; each has to be there.
    Remove(Vec<Rule>),
    /// All go.
    Flush,
}

/// Who may be cut off by a change.
#[derive(Debug, Default)]
pub struct Risk {
    /// NICs that drop what no rule allows.
    pub nics: Vec<String>,
}

/// What has come of the change of an endpoint's rules.
#[derive(Debug)]
pub struct Report {
    /// Its device.
    pub device: String,
    /// How many rules it had.
    pub before: usize,
    /// How many it has.
    pub after: usize,
    /// Whether any is another one.
    pub is_changed: bool,
    /// Rules to be added that it had already.
    pub had: Vec<Rule>,
    /// Rules that do not do what they say, and did before or were not there.
    pub void: Vec<(Rule, Void)>,
    /// Whether the rules count.
    pub standing: Standing,
}

/// Whether rules that were just changed count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// They do, as far as the endpoint's modes say.
    InForce,
    /// For so long, unless somebody confirms them.
    Pending(Duration, Otherwise),
    /// An earlier change that nobody has confirmed has taken this one with it.
    TooLate,
    /// The endpoint only audits, since nobody confirmed in time.
    FellBackToAudit,
    /// The endpoint has its policy off.
    Off,
}

/// What comes back if nobody confirms.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Otherwise {
    /// The endpoint only audits.
    Audit,
    /// The last rules that were confirmed.
    Confirmed,
    /// The rules before this change.
    Before,
}

/// What a change risks, for who has to agree to it before anything is locked.
pub fn risk(root: &Root, request: &Request<'_>) -> Result<Risk> {
    let endpoints = request.targets.select_alive(root, request.netns)?;
    let (mut risk, mut enforces) = (Risk::default(), false);
    for endpoint in &endpoints {
        enforces |= endpoint.enforces()?;
        if endpoint.is_enforcing_nic()? {
            risk.nics.push(endpoint.device.clone());
        }
    }
    ensure!(
        enforces || request.grace == Grace::Permanent,
        "--confirm is for rules that are enforced, and {} enforces none",
        endpoints[0].device
    );
    Ok(risk)
}

/// Changes the rules. Fails if a NIC has begun to enforce them since somebody looked at a risk that was none.
pub fn change(root: &Root, request: &Request<'_>, risk: &Risk) -> Result<Vec<Report>> {
    let endpoints = request.targets.select_alive(root, request.netns)?;
    let (mut plans, mut had) = (Vec::new(), Vec::new());
    for endpoint in &endpoints {
        layout::check_endpoint(root, endpoint.id)?;
        shared::check(root, endpoint)?;
        ensure!(
            !risk.nics.is_empty() || !endpoint.is_enforcing_nic()?,
            "{} has begun to enforce its policy meanwhile; nothing has changed",
            endpoint.device
        );
        plans.push(Plan::new(root, endpoint, |policy, kept| {
            had.push(request.edit.apply(root, &endpoint.device, policy, kept)?);
            Ok(())
        })?);
    }
    apply(&plans, until_ns(request.grace))?;
    plans.iter().zip(had).map(|(plan, had)| Report::of(plan, had, request.grace)).collect()
}

impl Edit {
    /// Which rules were there already.
    fn apply(
        &self,
        root: &Root,
        device: &str,
        policy: &mut Policy,
        kept: &Policy,
    ) -> Result<Vec<Rule>> {
        match self {
            Edit::Add(rules) => Ok(policy.add(rules, kept)),
            Edit::Remove(rules) => {
                let missing = policy.remove(rules);
                if missing.is_empty() {
                    return Ok(Vec::new());
                }
                let names = identities::names(root)?;
                let missing: Vec<String> =
                    missing.iter().map(|rule| format!("`{}`", rule.text(&names))).collect();
                bail!(
                    "{device} has no rule {}; `cilmark policy list {device}` shows those that it has, and \
                     nothing has changed",
                    missing.join(", ")
                )
            }
            Edit::Flush => {
                *policy = Policy::default();
                Ok(Vec::new())
            }
        }
    }
}

impl Report {
    fn of(plan: &Plan<'_>, had: Vec<Rule>, grace: Grace) -> Result<Report> {
        let modes = plan.endpoint.config.modes();
        // That all of them are off is told once.
        let setting = plan.endpoint.config.setting().filter(|_| modes != [Mode::Off; 2]);
        let void = setting.map(|setting| {
            let [before, after] =
                [&plan.before, &plan.after].map(|policy| void(policy.rules(), &setting));
            new_void(&before, after)
        });
        let is_changed = plan.before != plan.after;
        Ok(Report {
            device: plan.endpoint.device.clone(),
            before: plan.before.rules().len(),
            after: plan.after.rules().len(),
            is_changed,
            had,
            void: void.unwrap_or_default(),
            standing: match plan.endpoint.confirmation()? {
                Confirmation::Pending(_, left) if is_changed => {
                    let time = match grace {
                        Grace::Permanent => left,
                        Grace::Within(time) => time,
                    };
                    Standing::Pending(time, Otherwise::of(plan.confirmation))
                }
                Confirmation::Over(Fallback::Rules) if is_changed => Standing::TooLate,
                Confirmation::Over(Fallback::Audit) => Standing::FellBackToAudit,
                _ if modes == [Mode::Off; 2] => Standing::Off,
                _ => Standing::InForce,
            },
        })
    }
}

impl Otherwise {
    /// By what had been to confirm before.
    fn of(before: Confirmation) -> Otherwise {
        match before {
            Confirmation::Pending(Fallback::Audit, _) => Otherwise::Audit,
            Confirmation::Pending(Fallback::Rules, _) => Otherwise::Confirmed,
            _ => Otherwise::Before,
        }
    }
}

/// Rules that do nothing since an attachment with another configuration than before, whose modes have been told.
pub fn void_since(root: &Root, before: &Endpoint, after: &cm_config) -> Result<Vec<(Rule, Void)>> {
    let (Some(old), Some(new)) = (before.config.setting(), after.setting()) else {
        return Ok(Vec::new());
    };
    let endpoint = Endpoint::read(root, before.id)?;
    let policy = policy_of(root, &endpoint)?.read(Slot::Current)?;
    let not_off = |setting: &Setting| -> Vec<(Rule, Void)> {
        let voids = void(policy.rules(), setting).into_iter();
        voids.filter(|(_, why)| !matches!(why, Void::Off(_))).collect()
    };
    Ok(new_void(&not_off(&old), not_off(&new)))
}

fn new_void(before: &[(Rule, Void)], mut after: Vec<(Rule, Void)>) -> Vec<(Rule, Void)> {
    let before: HashSet<Rule> = before.iter().map(|(rule, _)| *rule).collect();
    after.retain(|(rule, _)| !before.contains(rule));
    after
}

/// When a change that is made now goes back by itself, by the coarse monotonic clock (ns).
fn until_ns(grace: Grace) -> Option<u64> {
    match grace {
        Grace::Permanent => None,
        Grace::Within(time) => Some(sys::coarse_ns().saturating_add(time.as_nanos() as u64)),
    }
}
