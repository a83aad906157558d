//! Policies that do not do what somebody thinks they do, or soon will not.

use std::path::Path;

use anyhow::Result;

use super::super::Host;
use crate::model::enforcement::{Confirmation, Fallback, Mode};
use crate::model::finding::Findings;
use crate::model::identity::Identity;
use crate::model::origin::Origins;
use crate::model::policy::effect::{Void, void};
use crate::model::policy::{Listed, Policy};
use crate::model::rule::Action;
use crate::model::shell::word;
use crate::model::time::Time;
use crate::ops::apply::files::{Beside, Standing};
use crate::ops::rules;
use crate::ops::targets::policy_of;
use crate::state::registry::Endpoint;
use crate::state::spec;

/// What boots apply.
const FILE: &str = "/etc/cilmark/cilmark.toml";

/// A change that waits for somebody, or has gone back.
pub fn confirmation(host: &Host<'_>, endpoint: &Endpoint, findings: &mut Findings) -> Result<()> {
    match endpoint.confirmation()? {
        _ if endpoint.stale => {}
        Confirmation::None => {}
        Confirmation::Pending(fallback, left) => {
            let seconds = left.as_secs() + 1;
            let what = match fallback {
                Fallback::Audit => "it goes back to audit",
                Fallback::Rules => "the rules before the last change come back",
            };
            let cuts = match takes_nothing_over(host, endpoint) {
                true => "; connections that were up before are cut (--adopt 0)",
                false => "",
            };
            let says = format!("not confirmed yet: in {seconds} s {what}{cuts}");
            let cure = format!("`cilmark confirm {}`", whose(host, endpoint)?);
            findings.warning("confirmation", says, &cure);
        }
        Confirmation::Over(Fallback::Audit) => findings.problem(
            "confirmation",
            "nobody has confirmed in time, and it only audits",
            &format!(
                "`{}` enforces again; `{}` leaves it at audit",
                host.attach(endpoint, "--keep --confirm 60s"),
                host.attach(endpoint, "--keep --policy audit")
            ),
        ),
        Confirmation::Over(Fallback::Rules) => findings.warning(
            "confirmation",
            "nobody has confirmed the last change of its rules in time, and those before are in force",
            &format!(
                "make the change again and confirm it; `{}` leaves it as it is",
                host.attach(endpoint, "--keep --yes")
            ),
        ),
    }
    Ok(())
}

fn takes_nothing_over(host: &Host<'_>, endpoint: &Endpoint) -> bool {
    let adopt = spec::told(host.root, endpoint.id).ok().flatten().and_then(|spec| spec.adopt);
    adopt.is_some_and(|time| Time::get(time).is_zero())
}

/// Who is to be confirmed: a file that was applied, an identity whose rules are on trial, or the endpoint.
fn whose(host: &Host<'_>, endpoint: &Endpoint) -> Result<String> {
    let beside = Beside::of(Path::new(FILE));
    let of_file = || -> Result<bool> {
        let waits = matches!(beside.standing()?, Standing::Waits(_));
        Ok(waits && beside.concerned()?.devices.contains(&endpoint.device))
    };
    if of_file().unwrap_or(false) {
        return Ok(FILE.to_owned());
    }
    let identity = Identity(endpoint.config.identity);
    let deadline = rules::of_identity(host.root, identity)?.deadline();
    Ok(match deadline {
        Some(until_ns) if until_ns == endpoint.confirmed_by()? => {
            word(&rules::at(identity, &host.names))
        }
        _ => host.word_for(endpoint),
    })
}

/// A policy without rules, rules without a policy, and rules that something else comes before.
pub fn look(host: &Host<'_>, endpoint: &Endpoint, findings: &mut Findings) -> Result<()> {
    let Some(setting) = endpoint.config.setting().filter(|_| !endpoint.stale) else {
        return Ok(());
    };
    let policy = in_force(host, endpoint)?;
    let is_own = |listed: &&Listed| listed.origins != Origins::NONE;
    if policy.rules().is_empty() {
        let waits = setting.modes == [Mode::Enforce; 2]
            && Identity(endpoint.config.identity) == Identity::INIT;
        if endpoint.enforces()? && !waits {
            findings.warning(
                "rules",
                "its policy enforces and has no rules: only answers and what is always allowed passes",
                &format!(
                    "`{}`; `cilmark monitor` proposes them",
                    host.command("policy add", endpoint, "RULE")
                ),
            );
        }
        return Ok(());
    }
    if setting.modes == [Mode::Off; 2] {
        let own = policy.rules().iter().filter(is_own).count();
        if own > 0 {
            findings.warning(
                "rules",
                format!("its policy is off, so {} no effect", own_rules_have(own)),
                &format!(
                    "`{}`, or `{}`",
                    host.attach(endpoint, "--keep --policy audit"),
                    host.command("policy flush", endpoint, "")
                ),
            );
        }
        return Ok(());
    }
    let mut voids = void(policy.rules(), &setting);
    voids.retain(|(rule, why)| {
        // What it allows passes in any case, and what its identity has may be meant for others.
        let passes = matches!(why, Void::Failsafe | Void::Link) && rule.action == Action::Allow;
        let own = policy.rules().iter().filter(is_own).any(|listed| listed.rule == *rule);
        !passes && own
    });
    if let Some((rule, why)) = voids.first() {
        let more = match voids.len() {
            1 => String::new(),
            2 => "; 1 more rule has none either".to_owned(),
            many => format!("; {} more rules have none either", many - 1),
        };
        let says = format!("{}{more}", why.text(rule, &host.names));
        let or = match why {
            Void::Denied(_) => ", or change the rule that beats it",
            Void::Off(_) => ", or give that direction a policy",
            _ => "",
        };
        let rule = format!("'{}'", rule.text(&host.names));
        let cure = format!("`{}`{or}", host.command("policy del", endpoint, &rule));
        findings.warning("rules", says, &cure);
    }
    Ok(())
}

/// The rules that count; none of one whose programs know of none.
pub fn in_force(host: &Host<'_>, endpoint: &Endpoint) -> Result<Policy> {
    match policy_of(host.root, endpoint) {
        Ok(maps) => rules::in_force(&maps, endpoint),
        Err(_) => Ok(Policy::default()),
    }
}

fn own_rules_have(count: usize) -> String {
    if count == 1 { "its own rule has".to_owned() } else { format!("its own {count} rules have") }
}
