//! A change of rules, asked about and reported.

use anyhow::{Result, bail};

use crate::cli::Context;
use crate::cli::prompt::{self, Prompt};
use crate::kernel::abi::cm_config;
use crate::model::identity::Names;
use crate::model::policy::Policy;
use crate::model::policy::effect::{Void, void};
use crate::model::rule::Rule;
use crate::model::shell::word;
use crate::ops;
use crate::ops::rules::{self, Edit, OfIdentity, Otherwise, Report, Request, Standing, at};
use crate::ops::targets::Targets;
use crate::output;
use crate::state::registry::Endpoint;

/// Changes the rules of endpoints.
pub fn run(context: &Context, targets: &Targets, prompt: &Prompt, edit: Edit) -> Result<()> {
    let root = &context.root;
    let request = Request { targets, netns: context.netns, edit, grace: prompt.grace() };
    // Nobody else shall have to wait for the answer.
    let risk = rules::risk(root, &request)?;
    if let [first, others @ ..] = &risk.nics[..] {
        let words = format!("{} drops what no rule allows", risk.nics.join(" and "));
        let whose = match targets {
            Targets::Identity(identity) => &format!("@{identity}"),
            _ if others.is_empty() => first,
            _ => "host",
        };
        prompt.obtain(&words, whose)?;
    }
    let _lock = match targets {
        // Its rules may be the first thing here.
        Targets::Identity(_) => Some(ops::prepare(root, false)?),
        _ => ops::lock(root)?,
    };
    let names = context.names()?;
    let reports = rules::change(root, &request, &risk)?;
    for report in &reports.identities {
        print_identity(report, &names);
    }
    for report in &reports.endpoints {
        let of_identity = at(report.identity, &names);
        for rule in &report.had {
            let rule = rule.text(&names);
            output::note(&format!("{}: `{rule}` is there already", report.device));
        }
        for rule in &report.of_identity {
            let rule = rule.text(&names);
            output::note(&format!(
                "{}: `{rule}` is there by its identity, {of_identity}, too",
                report.device
            ));
        }
    }
    reports.endpoints.iter().try_for_each(|report| print(report, &names))
}

fn print_identity(report: &OfIdentity, names: &Names) {
    let OfIdentity { before, after, .. } = report;
    let whose = at(report.identity, names);
    for rule in &report.had {
        output::note(&format!("{whose}: `{}` is there already", rule.text(names)));
    }
    // Of a thousand, the first ones tell who it is.
    const MOST: usize = 5;
    let carriers = match (report.carriers.as_slice(), report.carriers.len().saturating_sub(MOST)) {
        ([], _) => "no endpoint carries it now".to_owned(),
        (all, 0) => format!("on {}", all.join(", ")),
        (all, more) => format!("on {} and {more} more", all[..MOST].join(", ")),
    };
    let changed = match report.is_changed {
        true => format!("{before} before"),
        false => "as before".to_owned(),
    };
    output::note(&format!("{whose}: {}, {changed}; {carriers}", count(*after)));
    if let Some(left) = report.time_left {
        prompt::remind(&whose, left, "the last rules that were confirmed come back");
    }
}

/// So many rules.
pub fn count(rules: usize) -> String {
    if rules == 1 { "1 rule".to_owned() } else { format!("{rules} rules") }
}

fn print(report: &Report, names: &Names) -> Result<()> {
    let Report { device, before, after, .. } = report;
    if !report.is_by_identity {
        let rules = count(*after);
        output::note(&match report.is_changed {
            true => format!("{device}: {rules}, {before} before"),
            false => format!("{device}: {rules}, as before"),
        });
    }
    print_void(device, &report.void, names);
    match report.standing {
        Standing::InForce => {}
        Standing::Pending(..) if report.is_by_identity => {}
        Standing::Pending(left, otherwise) => {
            let whose = at(report.identity, names);
            let whose = if report.confirms_identity { &whose } else { device };
            prompt::remind(whose, left, words(otherwise));
        }
        Standing::TooLate => bail!(
            "too late: the time to confirm an earlier change of {device} has run out meanwhile, \
             and it has fallen back to the rules before that; make the change again"
        ),
        Standing::FellBackToAudit => output::note(&format!(
            "{device} only audits, since nobody confirmed in time; attach it again to enforce"
        )),
        Standing::Off if report.is_by_identity => {}
        Standing::Off => print_off(device),
    }
    Ok(())
}

fn print_off(device: &str) {
    output::note(&format!(
        "{device} has its policy off; `cilmark attach {} --policy audit`, or enforce, makes the rules count",
        word(device)
    ));
}

fn words(otherwise: Otherwise) -> &'static str {
    match otherwise {
        Otherwise::Audit => "it only audits from then on",
        Otherwise::Confirmed => "the last rules that were confirmed come back",
        Otherwise::Before => "the rules before this change come back",
    }
}

fn print_void(device: &str, void: &[(Rule, Void)], names: &Names) {
    // Of a thousand, the first ones tell what has happened.
    const MOST: usize = 20;
    for (rule, why) in void.iter().take(MOST) {
        output::note(&format!("note: {device}: {}", why.text(rule, names)));
    }
    if let Some(more @ 1..) = void.len().checked_sub(MOST) {
        output::note(&format!("note: {device}: and {more} more rules of these kinds"));
    }
}

/// Reports which rules that an attachment has brought do not do what they say.
pub fn report_void(device: &str, rules: &[Rule], config: &cm_config, names: &Names) {
    if rules.is_empty() {
        return;
    }
    match config.setting() {
        Some(setting) if config.has_policy() => {
            let none = Policy::default();
            print_void(device, &void(none.replaced_by(rules, &none).rules(), &setting), names);
        }
        _ => print_off(device),
    }
}

/// Reports rules that do nothing since an attachment with another configuration than before.
pub fn report_void_since(
    context: &Context,
    before: &Endpoint,
    after: &cm_config,
    names: &Names,
) -> Result<()> {
    print_void(&before.device, &rules::void_since(&context.root, before, after)?, names);
    Ok(())
}
