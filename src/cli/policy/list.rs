//! Rules and what they have decided about.

use anyhow::Result;
use serde::Serialize;

use crate::cli::{Context, time};
use crate::kernel::abi::cm_metrics;
use crate::model::enforcement::{Confirmation, Fallback};
use crate::model::identity::{Identity, Names};
use crate::model::rule::Rule;
use crate::model::spec::IdentityRef;
use crate::ops::rules;
use crate::ops::targets::{self, Targets};
use crate::output;

#[derive(Serialize)]
struct Line {
    rule: String,
    packets: u64,
    bytes: u64,
    /// The endpoint's own have none.
    #[serde(skip_serializing_if = "Option::is_none")]
    identity: Option<Identity>,
    /// What a cluster says who the rule is about.
    #[serde(skip_serializing_if = "Option::is_none")]
    peer_labels: Option<String>,
}

impl Line {
    fn of(rule: String, counted: &cm_metrics, identity: Option<Identity>) -> Line {
        let (packets, bytes) = (counted.packets, counted.bytes);
        Line { rule, packets, bytes, identity, peer_labels: None }
    }

    /// For people.
    fn text(&self) -> String {
        match &self.peer_labels {
            Some(labels) => format!("{} ({labels})", self.rule),
            None => self.rule.clone(),
        }
    }
}

/// The rules of endpoints.
pub fn of_endpoints(context: &Context, targets: &Targets, names: &Names) -> Result<()> {
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
    let others = list.others.iter().filter(|(_, counted)| counted.packets > 0);
    let others = others.map(|(words, counted)| Line::of(format!("({words})"), counted, None));
    print(context, &list.rules, others.collect(), names)
}

/// The rules of an identity itself, with what they have decided about wherever it is.
pub fn of_identity(context: &Context, identity: &IdentityRef, names: &Names) -> Result<()> {
    let identity = targets::resolve(&context.root, identity)?;
    let list = rules::list::of_identity(&context.root, identity)?;
    let name = rules::at(identity, names);
    if let Some(left) = list.time_left {
        output::note(&format!("{name}: {} to confirm", time::text(left)));
    }
    if !list.lacking.is_empty() {
        output::note(&format!(
            "{} carry {name} and have not got all of these rules, since a change was interrupted: the same command \
             again completes it",
            list.lacking.join(", ")
        ));
    }
    print(context, &list.rules, Vec::new(), names)
}

fn print(
    context: &Context,
    rules: &[rules::list::Line],
    others: Vec<Line>,
    names: &Names,
) -> Result<()> {
    let line = |it: &rules::list::Line| Line {
        peer_labels: names.labels(it.rule.peer).filter(|_| it.rule.peer != Rule::ANY),
        ..Line::of(it.rule.text(names), &it.counted, it.identity)
    };
    let rules: Vec<Line> = rules.iter().map(line).collect();
    if context.json {
        return output::json(&rules);
    }
    let of_identities = rules.iter().any(|line| line.identity.is_some());
    let cells = |line: Line| [line.text(), line.packets.to_string(), line.bytes.to_string()];
    let lines = rules.into_iter().chain(others);
    if of_identities {
        let row = |line: Line| {
            let of = line.identity.map(|identity| rules::at(identity, names)).unwrap_or_default();
            let [rule, packets, bytes] = cells(line);
            [rule, packets, bytes, of]
        };
        return output::table(
            ["RULE", "PACKETS", "BYTES", "OF"],
            &lines.map(row).collect::<Vec<_>>(),
        );
    }
    output::table(["RULE", "PACKETS", "BYTES"], &lines.map(cells).collect::<Vec<_>>())
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
