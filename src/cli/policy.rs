//! `cilmark policy add|del|list|flush`.

mod change;

use std::collections::HashMap;

use anyhow::{Result, ensure};
pub use change::report_void_since;
use clap::Subcommand;
use serde::Serialize;

use super::prompt::Prompt;
use super::targets::{self, Targets};
use super::{Context, decision};
use crate::kernel::abi::cm_metrics;
use crate::model::enforcement::{Confirmation, Fallback};
use crate::model::identity::Names;
use crate::model::policy::{Policy, RuleNumber};
use crate::model::rule::Rule;
use crate::ops::rules;
use crate::output;
use crate::state::registry::Endpoint;

#[derive(Subcommand)]
pub enum Command {
    /// Add rules behind those that are there
    Add(Change),
    /// Remove rules, written as `list` shows them or in any other way
    Del(Change),
    /// Show the rules, and the packets that each has decided about
    List {
        /// An attached device, id:N, or `host` for all NICs
        #[arg(value_name = "DEV")]
        device: Targets,
    },
    /// Remove all rules; where the policy is enforced, nothing is allowed then
    Flush {
        /// An attached device, id:N, or `host` for all NICs
        #[arg(value_name = "DEV")]
        device: Targets,
        #[command(flatten)]
        prompt: Prompt,
    },
}

#[derive(clap::Args)]
pub struct Change {
    /// An attached device, id:N, or `host` for all NICs
    #[arg(value_name = "DEV")]
    device: Targets,
    /// Such as `allow ingress from 1234 tcp/443` or `deny egress to world`; more than one may follow
    #[arg(value_name = "RULE", required = true)]
    rules: Vec<String>,
    #[command(flatten)]
    prompt: Prompt,
}

#[derive(Serialize)]
struct Line {
    rule: String,
    packets: u64,
    bytes: u64,
}

pub fn run(context: &Context, command: Command) -> Result<()> {
    let names = context.names()?;
    match command {
        Command::Add(Change { device, rules, prompt }) => {
            let rules = parse(&rules, &names)?;
            change::run(context, &device, &prompt, &names, |endpoint, policy, kept| {
                for there in policy.add(&rules, kept) {
                    let rule = there.text(&names);
                    output::note(&format!("{}: `{rule}` is there already", endpoint.device));
                }
                Ok(())
            })
        }
        Command::Del(Change { device, rules, prompt }) => {
            let rules = parse(&rules, &names)?;
            change::run(context, &device, &prompt, &names, |endpoint, policy, _| {
                let missing = policy.remove(&rules);
                let missing: Vec<String> =
                    missing.iter().map(|rule| format!("`{}`", rule.text(&names))).collect();
                ensure!(
                    missing.is_empty(),
                    "{} has no rule {}; `cilmark policy list {}` shows those that it has, and \
                     nothing has changed",
                    endpoint.device,
                    missing.join(", "),
                    endpoint.device
                );
                Ok(())
            })
        }
        Command::Flush { device, prompt } => {
            change::run(context, &device, &prompt, &names, |_, policy, _| {
                *policy = Policy::default();
                Ok(())
            })
        }
        Command::List { device } => list(context, &device.select(context)?, &names),
    }
}

/// Reads rules, however the shell has cut them into words: each begins with `allow` or `deny`, but where
/// a peer stands.
fn parse(arguments: &[String], names: &Names) -> Result<Vec<Rule>> {
    let mut rules: Vec<Vec<&str>> = Vec::new();
    for word in arguments.iter().flat_map(|argument| argument.split_whitespace()) {
        let is_peer = rules.last().is_some_and(|rule| rule.len() == 3);
        match rules.last_mut() {
            Some(rule) if is_peer || !matches!(word, "allow" | "deny") => rule.push(word),
            _ => rules.push(vec![word]),
        }
    }
    if rules.is_empty() {
        rules.push(Vec::new());
    }
    rules.iter().map(|words| Rule::parse(&words.join(" "), names)).collect()
}

/// The rules that count, of several endpoints together.
fn list(context: &Context, endpoints: &[Endpoint], names: &Names) -> Result<()> {
    let mut lines = Lines::default();
    let mut others = Lines::default();
    for endpoint in endpoints {
        // Where they are to be had again from.
        if let Err(error) = endpoint.check_alive() {
            output::note(&format!("these rules count nowhere: {error:#}"));
        }
        let maps = targets::policy_of(context, endpoint)?;
        let slot = rules::slot_in_force(endpoint.confirmation()?);
        for listed in maps.read(slot)?.rules() {
            lines.add(listed.rule.text(names), maps.counter(listed.number)?);
        }
        for (number, words) in decision::NOT_BY_A_RULE {
            others.add(format!("({words})"), maps.counter(RuleNumber(number))?);
        }
        if let Some(words) = describe(endpoint.confirmation()?) {
            output::note(&format!("{}: {words}", endpoint.device));
        }
    }
    let mut lines = lines.in_order;
    if context.json {
        return output::json(&lines);
    }
    lines.extend(others.in_order.into_iter().filter(|line| line.packets > 0));
    let rows: Vec<[String; 3]> = lines
        .into_iter()
        .map(|line| [line.rule, line.packets.to_string(), line.bytes.to_string()])
        .collect();
    output::table(["RULE", "PACKETS", "BYTES"], &rows)
}

/// Lines in the order in which their rules were met first.
#[derive(Default)]
struct Lines {
    in_order: Vec<Line>,
    places: HashMap<String, usize>,
}

impl Lines {
    fn add(&mut self, rule: String, counted: cm_metrics) {
        let place = *self.places.entry(rule.clone()).or_insert(self.in_order.len());
        if place == self.in_order.len() {
            self.in_order.push(Line { rule, packets: 0, bytes: 0 });
        }
        self.in_order[place].packets += counted.packets;
        self.in_order[place].bytes += counted.bytes;
    }
}

/// How an endpoint's last change stands, in words; nothing if it is for good.
pub fn describe(confirmation: Confirmation) -> Option<String> {
    match confirmation {
        Confirmation::None => None,
        Confirmation::Pending(_, left) => Some(format!("{} to confirm", targets::time(left))),
        Confirmation::Over(Fallback::Audit) => Some("not confirmed, fell back to audit".to_owned()),
        Confirmation::Over(Fallback::Rules) => {
            Some("not confirmed, fell back to the previous rules".to_owned())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::identity::Identity;

    #[test]
    fn rules_are_read_however_the_shell_cut_them() {
        let names = [(300, "deny"), (301, "allow")]
            .map(|(identity, name)| (Identity(identity), name.to_owned()));
        let names = Names::new(names);
        for arguments in [
            &["allow ingress from deny", "deny egress to allow tcp/1-2", "allow egress to any"][..],
            &["allow ingress from deny deny egress to allow tcp/1-2 allow egress to any"],
            &[
                "allow ingress",
                "from deny deny",
                "egress to",
                "allow tcp/1-2",
                "allow egress to any",
            ],
        ] {
            let arguments: Vec<String> = arguments.iter().map(|text| text.to_string()).collect();
            let texts: Vec<String> =
                parse(&arguments, &names).unwrap().iter().map(|rule| rule.text(&names)).collect();
            assert_eq!(
                texts,
                ["allow ingress from deny", "deny egress to allow tcp/1-2", "allow egress to any"]
            );
        }
        for bad in ["", "ingress from any", "allow ingress from any tcp/80 tcp/81"] {
            assert!(parse(&[bad.to_owned()], &names).is_err(), "{bad}");
        }
    }
}
