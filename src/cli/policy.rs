//! `cilmark policy add|del|list|flush|test`.

mod change;
mod list;
mod test;

use std::process::ExitCode;

use anyhow::Result;
pub use change::{count, report_void, report_void_since};
use clap::Subcommand;
pub use list::describe;

use super::Context;
use super::prompt::Prompt;
use crate::model::identity::Names;
use crate::model::rule::Rule;
use crate::ops::rules::Edit;
use crate::ops::targets::Targets;

#[derive(Subcommand)]
pub enum Command {
    /// Add rules behind those that are there
    Add(Change),
    /// Remove rules, written as `list` shows them or in any other way
    Del(Change),
    /// Show the rules, and the packets that each has decided about
    List {
        /// An attached device, id:N, `host` for all NICs, or @ID for all endpoints that carry an identity
        #[arg(value_name = "DEV")]
        device: Targets,
    },
    /// Remove all rules; where the policy is enforced, nothing is allowed then
    Flush {
        /// An attached device, id:N, `host` for all NICs, or @ID for all endpoints that carry an identity
        #[arg(value_name = "DEV")]
        device: Targets,
        #[command(flatten)]
        prompt: Prompt,
    },
    /// Which connections that are up now rules would cut, before they are enforced; nothing is changed. Status 4 if a rule
    /// denies one or none allows it
    Test(test::Args),
}

#[derive(clap::Args)]
pub struct Change {
    /// An attached device, id:N, `host` for all NICs, or @ID for all endpoints that carry an identity
    #[arg(value_name = "DEV")]
    device: Targets,
    /// Such as `allow ingress from 1234 tcp/443` or `deny egress to world`; more than one may follow
    #[arg(value_name = "RULE", required = true)]
    rules: Vec<String>,
    #[command(flatten)]
    prompt: Prompt,
}

pub fn run(context: &Context, command: Command) -> Result<ExitCode> {
    let names = context.names()?;
    match command {
        Command::Add(Change { device, rules, prompt }) => {
            change::run(context, &device, &prompt, Edit::Add(parse(&rules, &names)?))
        }
        Command::Del(Change { device, rules, prompt }) => {
            change::run(context, &device, &prompt, Edit::Remove(parse(&rules, &names)?))
        }
        Command::Flush { device, prompt } => change::run(context, &device, &prompt, Edit::Flush),
        Command::List { device: Targets::Identity(identity) } => {
            list::of_identity(context, &identity, &names)
        }
        Command::List { device } => list::of_endpoints(context, &device, &names),
        Command::Test(args) => return test::run(context, args),
    }
    .map(|()| ExitCode::SUCCESS)
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
