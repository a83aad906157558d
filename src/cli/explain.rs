//! `cilmark explain`.

mod entry;
mod packet;
mod tree;
mod words;

use std::process::ExitCode;

use anyhow::Result;
use clap::ValueEnum;
use serde::Serialize;

use super::{Context, DROPPED, values};
use crate::kernel::abi::cm_reason;
use crate::kernel::sys::Hook;
use crate::model::endpoint::Selector;
use crate::model::enforcement::Mode;
use crate::model::identity::{Identity, Names};
use crate::model::mark::Mark;
use crate::ops::explain::{self, Conntrack, Report, Request};
use crate::output;
use crate::program::explain::Fate;

#[derive(clap::Args)]
pub struct Args {
    /// The attached device, or id:N
    #[arg(value_name = "DEV")]
    device: Selector,
    /// from: what a workload sends, or a NIC receives; to: what a workload receives, or leaves by a
    /// NIC
    #[arg(value_enum)]
    direction: Direction,
    #[command(flatten)]
    packet: packet::Args,
    /// The mark that the packet comes with; by default that of the attached workload that has the source
    /// address, with `to`, or none
    #[arg(long, value_name = "MARK")]
    mark: Option<Mark>,
    /// The device that the packet came in by, 0 for what this host sends; by default the device
    /// itself with `from`; with `to`, what the source address tells: this host for one of its own, an
    /// attached workload's device, or the one that the routing tables name
    #[arg(long, value_name = "N")]
    ingress_ifindex: Option<u32>,
    /// As if both directions had this mode
    #[arg(long, value_parser = values::mode())]
    mode: Option<Mode>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Direction {
    From,
    To,
}

#[derive(Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Verdict {
    Forward,
    Drop,
    Redirect,
}

#[derive(Serialize)]
struct Document {
    program: &'static str,
    verdict: Verdict,
    drop_reason: Option<Reason>,
    mark_in: Mark,
    mark_out: Mark,
    source_identity: Option<Identity>,
    destination_identity: Option<Identity>,
    conntrack: Conntrack,
    rule: Option<String>,
    audited: bool,
    steps: Vec<tree::Line>,
}

#[derive(Serialize)]
struct Reason {
    code: u32,
    name: &'static str,
}

pub fn run(context: &Context, args: Args) -> Result<ExitCode> {
    let request = Request {
        endpoint: &args.device,
        netns: context.netns,
        hook: match args.direction {
            Direction::From => Hook::Ingress,
            Direction::To => Hook::Egress,
        },
        packet: args.packet.packet()?,
        mark: args.mark,
        ingress_ifindex: args.ingress_ifindex,
        mode: args.mode,
    };
    let report = explain::explain(&context.root, &request)?;
    let names = context.names()?;
    let document = document(&report, &names);
    if context.json {
        output::json(&document)?;
    } else {
        output::lines(&text(&document, &names))?;
    }
    Ok(match report.fate {
        Fate::Drop => ExitCode::from(DROPPED),
        Fate::Forward | Fate::Redirect => ExitCode::SUCCESS,
    })
}

fn document(report: &Report, names: &Names) -> Document {
    let reason = report.event.as_ref().map_or(cm_reason::CM_FORWARDED, |event| event.reason);
    Document {
        program: report.arrival.program,
        verdict: match report.fate {
            Fate::Forward => Verdict::Forward,
            Fate::Drop => Verdict::Drop,
            Fate::Redirect => Verdict::Redirect,
        },
        drop_reason: (report.fate == Fate::Drop)
            .then(|| Reason { code: reason.0, name: reason.name() }),
        mark_in: report.arrival.mark,
        mark_out: report.mark,
        source_identity: report.source_identity,
        destination_identity: report.destination_identity,
        conntrack: report.conntrack,
        rule: report.rule.clone(),
        audited: report.audited,
        steps: tree::lines(report, names),
    }
}

fn text(document: &Document, names: &Names) -> String {
    let width = |step: &tree::Line| 2 * step.depth as usize + step.call.len();
    let widest = document.steps.iter().map(width).max().unwrap_or(0);
    let mut text = String::new();
    for step in &document.steps {
        let call = format!("{:indent$}{}", "", step.call, indent = 2 * step.depth as usize);
        text.push_str(format!("{call:<widest$}  {}", step.detail).trim_end());
        text.push('\n');
    }
    text.push_str(&verdict(document, names));
    text.push('\n');
    text
}

fn verdict(document: &Document, names: &Names) -> String {
    let fate = match (&document.verdict, &document.drop_reason) {
        (Verdict::Drop, Some(reason)) => format!("drop ({}, {})", reason.name, reason.code),
        (Verdict::Drop, None) => "drop".to_owned(),
        (Verdict::Forward, _) => "forward".to_owned(),
        (Verdict::Redirect, _) => "redirect".to_owned(),
    };
    let audited = if document.audited { " (audited)" } else { "" };
    let rule = match &document.rule {
        Some(rule) => format!(", rule: {rule}"),
        None => String::new(),
    };
    let end = |identity: Option<Identity>| {
        identity.map_or("?".to_owned(), |identity| names.label(identity))
    };
    let ends = match (document.source_identity, document.destination_identity) {
        (None, None) => String::new(),
        (from, to) => format!(", {} -> {}", end(from), end(to)),
    };
    let mark = match document.mark_in == document.mark_out {
        true => format!(", mark {}", document.mark_in),
        false => format!(", mark {} -> {}", document.mark_in, document.mark_out),
    };
    format!("{fate}{audited}{rule}{ends}{mark}")
}
