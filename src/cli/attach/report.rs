//! What has come of an attachment, in words.

use anyhow::Result;

use crate::cli::{Context, before, policy, prompt};
use crate::kernel::abi::cm_fallback;
use crate::model::endpoint::Role;
use crate::model::enforcement::Mode;
use crate::model::prefix::format_prefix;
use crate::ops::attach::Report;
use crate::ops::rules;
use crate::output;

/// Tells it.
pub fn print(context: &Context, report: &Report) -> Result<()> {
    let resolved = &report.plan.resolved;
    let name = &resolved.device.name;
    let place = (report.plan.place.kind, resolved.tc_priority);
    report
        .gone
        .iter()
        .filter(|gone| gone.rules > 0)
        .for_each(|gone| output::note(&gone.to_string()));
    for moved in &report.moved {
        output::note(&format!(
            "{}: it has come from another namespace with the programs of endpoint {}, which is detached now, \
             and its rules ({}) are gone",
            moved.endpoint.device, moved.endpoint.id, moved.rules
        ));
    }
    if report.replaced.as_ref().is_some_and(|endpoint| endpoint.stale) {
        output::note(&format!(
            "{name}: its programs were not all there; it has the rules that it had"
        ));
    }
    report.reason.iter().for_each(|reason| output::note(reason));
    output::note(&describe(report));
    let otherwise = match report.plan.confirm.fallback {
        cm_fallback::CM_FALLBACK_AUDIT => Some("it only audits from then on"),
        cm_fallback::CM_FALLBACK_RULES => Some("the last rules that were confirmed come back"),
        _ => None,
    };
    if let Some(otherwise) = otherwise {
        let identity = rules::at(resolved.identity, &report.plan.names);
        let whose = if report.plan.waits_for_identity() { &identity } else { name };
        prompt::remind(whose, report.time_left, otherwise);
    }
    report.lost.iter().for_each(|lost| output::note(&format!("{name}: {lost}")));
    if let Some(rules) = &report.plan.rules {
        policy::report_void(name, rules, &resolved.config(), &report.plan.names);
    } else if let Some(replaced) = &report.replaced {
        policy::report_void_since(context, replaced, &resolved.config(), &report.plan.names)?;
    }
    before::lines(name, place, &report.programs_before).iter().for_each(|line| output::note(line));
    if report.confirms_rules {
        output::note(&format!(
            "{name}: nobody had confirmed the last change of its rules, and this makes it permanent"
        ));
    }
    Ok(())
}

fn describe(report: &Report) -> String {
    let (resolved, names) = (&report.plan.resolved, &report.plan.names);
    let addresses: Vec<String> = resolved.addresses.iter().map(format_prefix).collect();
    let policy = match (resolved.policy.ingress, resolved.policy.egress) {
        (Mode::Off, Mode::Off) => String::new(),
        (ingress, egress) => format!(", policy {ingress}/{egress}"),
    };
    let own = match report.plan.rules.as_ref().map(Vec::len) {
        None => String::new(),
        Some(count) => format!(", {}", policy::count(count)),
    };
    let of_identity = match report.plan.identity_rules.now.len() {
        0 => String::new(),
        count => format!(", {} of {}", policy::count(count), rules::at(resolved.identity, names)),
    };
    format!(
        "{} {}: endpoint {}, {}, identity {}, {}, {}{policy}{own}{of_identity}",
        if report.replaced.is_some() { "replaced" } else { "attached" },
        resolved.device.name,
        resolved.id,
        resolved.role,
        names.label(resolved.identity),
        report.plan.place.kind,
        match (resolved.role, addresses.is_empty()) {
            (_, false) => addresses.join(" "),
            (Role::Container, true) => "any source address".to_owned(),
            (Role::Netdev, true) => "no address".to_owned(),
        }
    )
}
