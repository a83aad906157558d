//! `cilmark policy add|del|list|flush`.

mod change;

use anyhow::Result;
pub use change::{report_void, report_void_since};
use clap::Subcommand;
use serde::Serialize;

use super::prompt::Prompt;
use super::{Context, time};
use crate::kernel::abi::cm_metrics;
use crate::model::enforcement::{Confirmation, Fallback};
use crate::model::identity::Names;
use crate::model::rule::Rule;
use crate::ops::rules::{self, Edit};
use crate::ops::targets::Targets;
use crate::output;

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
            change::run(context, &device, &prompt, Edit::Add(parse(&rules, &names)?))
        }
        Command::Del(Change { device, rules, prompt }) => {
            change::run(context, &device, &prompt, Edit::Remove(parse(&rules, &names)?))
        }
        Command::Flush { device, prompt } => change::run(context, &device, &prompt, Edit::Flush),
        Command::List { device } => list(context, &device, &names),
    }
}

fn parse(arguments: &[String], names: &Names) -> Result<Vec<Rule>> {
    split(arguments).iter().map(|rule| Rule::parse(rule, names)).collect()
}

/// Each rule, however the shell has cut them into words: it begins with `allow` or `deny`, but where a peer stands.
pub fn split(arguments: &[String]) -> Vec<String> {
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
    rules.iter().map(|words| words.join(" ")).collect()
}

fn list(context: &Context, targets: &Targets, names: &Names) -> Result<()> {
    let list = rules::list::list(&context.root, targets, context.netns)?;
    for endpoint in &list.endpoints {
        // Where they are to be had again from.
        if let Some(error) = &endpoint.dead {
            output::note(&format!("these rules count nowhere: {error:#}"));
        }
        if let Some(words) = describe(endpoint.confirmation) {
            output::note(&format!("{}: {words}", endpoint.device));
        }
    }
    let line = |rule: String, counted: &cm_metrics| Line {
        rule,
        packets: counted.packets,
        bytes: counted.bytes,
    };
    let rules = list.rules.iter().map(|(rule, counted)| line(rule.text(names), counted));
    if context.json {
        return output::json(&rules.collect::<Vec<_>>());
    }
    let others = list.others.iter().filter(|(_, counted)| counted.packets > 0);
    let others = others.map(|(words, counted)| line(format!("({words})"), counted));
    let row = |line: Line| [line.rule, line.packets.to_string(), line.bytes.to_string()];
    let rows: Vec<[String; 3]> = rules.chain(others).map(row).collect();
    output::table(["RULE", "PACKETS", "BYTES"], &rows)
}

/// How an endpoint's last change stands, in words; nothing if it is for good.
pub fn describe(confirmation: Confirmation) -> Option<String> {
    match confirmation {
        Confirmation::None => None,
        Confirmation::Pending(_, left) => Some(format!("{} to confirm", time::text(left))),
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
