//! A change of rules, asked about and told of.

use std::collections::HashSet;
use std::time::Duration;

use anyhow::{Result, bail, ensure};

use crate::cli::Context;
use crate::cli::prompt::{self, Prompt};
use crate::cli::targets::{self, Targets};
use crate::kernel::abi::cm_config;
use crate::model::enforcement::{Confirmation, Fallback, Mode};
use crate::model::identity::Names;
use crate::model::policy::Policy;
use crate::model::policy::effect::{Setting, Void, void};
use crate::model::rule::Rule;
use crate::ops;
use crate::ops::rules::{self, Change};
use crate::output;
use crate::state::layout;
use crate::state::policy::Slot;
use crate::state::registry::{Endpoint, shared};

/// What is to become of one endpoint's rules, and the names to tell it by.
struct Plan<'a> {
    change: Change<'a>,
    names: &'a Names,
}

/// Changes the rules of endpoints: `edit` gets the endpoint, the rules in force, and rules whose
/// numbers are taken.
pub fn run(
    context: &Context,
    targets: &Targets,
    prompt: &Prompt,
    names: &Names,
    edit: impl Fn(&Endpoint, &mut Policy, &Policy) -> Result<()>,
) -> Result<()> {
    // Nobody else shall have to wait for the answer.
    let asked = ask(&targets.select(context)?, prompt)?;
    let _lock = ops::lock(&context.root)?;
    let endpoints = targets.select(context)?;
    targets::check_alive(&endpoints)?;
    let mut changes = Vec::new();
    for endpoint in &endpoints {
        layout::check_endpoint(&context.root, endpoint.id)?;
        shared::check(&context.root, endpoint)?;
        ensure!(
            asked || !endpoint.is_enforcing_nic()?,
            "{} has begun to enforce its policy meanwhile; nothing has changed",
            endpoint.device
        );
        changes.push(Change::plan(&context.root, endpoint, &edit)?);
    }
    rules::apply(&changes, prompt.deadline())?;
    changes.into_iter().try_for_each(|change| Plan { change, names }.report(prompt.confirm))
}

/// Whether the user was asked, or had answered before.
fn ask(endpoints: &[Endpoint], prompt: &Prompt) -> Result<bool> {
    targets::check_alive(endpoints)?;
    let (mut nics, mut enforces) = (Vec::new(), false);
    for endpoint in endpoints {
        enforces |= endpoint.enforces()?;
        if endpoint.is_enforcing_nic()? {
            nics.push(endpoint.device.as_str());
        }
    }
    ensure!(
        enforces || prompt.confirm.is_none(),
        "--confirm is for rules that are enforced, and {} enforces none",
        endpoints[0].device
    );
    if let Some(first) = nics.first() {
        let risk = format!("{} drops what no rule allows", nics.join(" and "));
        prompt.obtain(&risk, if nics.len() == 1 { first } else { "host" })?;
    }
    Ok(!nics.is_empty())
}

/// Tells of rules that do not do what they say, and did before or were not there.
fn report_void(device: &str, before: &[(Rule, Void)], after: &[(Rule, Void)], names: &Names) {
    // Of a thousand, the first ones tell what has happened.
    const MOST: usize = 20;
    let before: HashSet<Rule> = before.iter().map(|(rule, _)| *rule).collect();
    let new: Vec<_> = after.iter().filter(|(rule, _)| !before.contains(rule)).collect();
    for (rule, why) in new.iter().take(MOST) {
        output::note(&format!("note: {device}: {}", why.text(rule, names)));
    }
    if let Some(more @ 1..) = new.len().checked_sub(MOST) {
        output::note(&format!("note: {device}: and {more} more rules of these kinds"));
    }
}

/// The same after an attachment with another configuration than before, whose modes have been told.
pub fn report_void_since(
    context: &Context,
    before: &Endpoint,
    after: &cm_config,
    names: &Names,
) -> Result<()> {
    let (Some(old), Some(new)) = (before.config.setting(), after.setting()) else { return Ok(()) };
    let endpoint = Endpoint::read(&context.root, before.id)?;
    let policy = targets::policy_of(context, &endpoint)?.read(Slot::Current)?;
    let not_off = |setting: &Setting| -> Vec<(Rule, Void)> {
        let voids = void(policy.rules(), setting).into_iter();
        voids.filter(|(_, why)| !matches!(why, Void::Off(_))).collect()
    };
    let [old, new] = [old, new].map(|setting| not_off(&setting));
    report_void(&endpoint.device, &old, &new, names);
    Ok(())
}

impl Plan<'_> {
    fn report(&self, confirm: Option<Duration>) -> Result<()> {
        let device = &self.change.endpoint.device;
        let count = |policy: &Policy| policy.rules().len();
        let rules = |number| if number == 1 { "1 rule".into() } else { format!("{number} rules") };
        output::note(&match count(&self.change.after) {
            now if self.change.before == self.change.after => {
                format!("{device}: {}, as before", rules(now))
            }
            now => format!("{device}: {}, {} before", rules(now), count(&self.change.before)),
        });
        self.report_void_rules();
        match (self.change.endpoint.confirmation()?, confirm) {
            (Confirmation::Pending(_, left), confirm)
                if self.change.before != self.change.after =>
            {
                prompt::remind(device, confirm.unwrap_or(left), self.otherwise());
            }
            (Confirmation::Over(Fallback::Rules), _) if self.change.before != self.change.after => {
                bail!(
                    "too late: the time to confirm an earlier change of {device} has run out meanwhile, \
                 and it has fallen back to the rules before that; make the change again"
                )
            }
            (Confirmation::Over(Fallback::Audit), _) => output::note(&format!(
                "{device} only audits, since nobody confirmed in time; attach it again to enforce"
            )),
            _ if self.change.endpoint.config.modes() == [Mode::Off; 2] => output::note(&format!(
                "{device} has its policy off; `cilmark attach {device} --policy audit`, or enforce, \
                 makes the rules count"
            )),
            _ => {}
        }
        Ok(())
    }

    /// That all of them are off is told once.
    fn report_void_rules(&self) {
        let modes = self.change.endpoint.config.modes();
        if let Some(setting) =
            self.change.endpoint.config.setting().filter(|_| modes != [Mode::Off; 2])
        {
            let [before, after] = [&self.change.before, &self.change.after]
                .map(|policy| void(policy.rules(), &setting));
            report_void(&self.change.endpoint.device, &before, &after, self.names);
        }
    }

    fn otherwise(&self) -> &'static str {
        match self.change.confirmation {
            Confirmation::Pending(Fallback::Audit, _) => "it only audits from then on",
            Confirmation::Pending(Fallback::Rules, _) => {
                "the last rules that were confirmed come back"
            }
            _ => "the rules before this change come back",
        }
    }
}
