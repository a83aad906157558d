//! `cilmark explain`.

mod packet;
mod path;
mod tree;

use std::process::ExitCode;

use anyhow::{Context as _, Result};
use clap::ValueEnum;
use serde::Serialize;

use super::{Context, DROPPED, decision, monitor, values};
use crate::kernel::abi::{
    cm_call, cm_config, cm_confirm, cm_ct_seen, cm_direction, cm_event, cm_fallback,
    cm_policy_mode, cm_reason, cm_rule_number, cm_step,
};
use crate::kernel::sys::Hook;
use crate::model::drop_reason;
use crate::model::endpoint::{Role, Selector};
use crate::model::enforcement::Mode;
use crate::model::frame::Frame;
use crate::model::identity::{Identity, Names};
use crate::model::mark::Mark;
use crate::output;
use crate::program::explain::{self, Answer, Fate, Original, Part, Question};
use crate::state::pin::Root;
use crate::state::registry::Endpoint;

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

impl Direction {
    fn program(self, role: Option<Role>) -> &'static str {
        match (self, role) {
            (Direction::From, Some(Role::Netdev)) => "from_netdev",
            (Direction::To, Some(Role::Netdev)) => "to_netdev",
            (Direction::From, _) => "from_container",
            (Direction::To, _) => "to_container",
        }
    }

    fn hook(self) -> Hook {
        match self {
            Direction::From => Hook::Ingress,
            Direction::To => Hook::Egress,
        }
    }
}

#[derive(Serialize)]
#[serde(rename_all = "lowercase")]
enum Verdict {
    Forward,
    Drop,
    Redirect,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Conntrack {
    New,
    Established,
    Reply,
    Related,
    None,
}

#[derive(Serialize)]
struct Report {
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
    steps: Vec<tree::Step>,
}

#[derive(Serialize)]
struct Reason {
    code: u32,
    name: &'static str,
}

pub fn run(context: &Context, args: Args) -> Result<ExitCode> {
    let found = context.named(std::slice::from_ref(&args.device))?;
    let endpoint = found.select(&args.device)?;
    endpoint.check_alive()?;
    let program = args.direction.program(endpoint.role());
    let packet = args.packet.bytes(endpoint, args.direction == Direction::From)?;
    let usual = path::Path::of(&context.root, endpoint, args.direction.hook(), &packet)?;
    let mark = match (args.mark, args.ingress_ifindex) {
        (Some(mark), _) => mark,
        (None, None) => usual.mark,
        // A mark belongs to the way that it came.
        (None, Some(given)) if given == usual.ingress_ifindex => usual.mark,
        (None, Some(_)) => Mark(0),
    };
    let ingress_ifindex = args.ingress_ifindex.unwrap_or(usual.ingress_ifindex);
    let question = Question {
        hook: args.direction.hook(),
        packet: &packet,
        mark: mark.0,
        ingress_ifindex,
        mode: args.mode,
    };
    let original = Original::of(endpoint, question.hook)?;
    let answer = explain::explain(&context.root, original, &question)?;
    let names = context.names()?;
    let mut renderers =
        vec![tree::Renderer::of(&context.root, endpoint, &answer.parts[0].config, &names)?];
    if let Some(Part { config, .. }) = answer.parts.get(1) {
        let id = config.endpoint().context("a destination without a number")?;
        let destination = Endpoint::read(&context.root, id)?;
        renderers.push(tree::Renderer::of(&context.root, &destination, config, &names)?);
    }
    let mut steps = tree::steps(&answer, &renderers, &names);
    let from = match ingress_ifindex {
        0 => "sent by this host".to_owned(),
        index => format!("came in by device {index}"),
    };
    let assumed = match (args.ingress_ifindex, &usual.because) {
        (None, Some(because)) => format!(" (assumed, since {because})"),
        _ => String::new(),
    };
    let detail = format!("mark {mark}, {from}{assumed}, {} bytes", packet.len());
    steps.insert(0, tree::Step { depth: 0, call: program, detail });
    let reported_by = |renderer: &&tree::Renderer<'_>| {
        answer.event.as_ref().is_some_and(|event| event.endpoint_id == renderer.config.endpoint_id)
    };
    let reporter = renderers.iter().find(reported_by).unwrap_or(&renderers[0]);
    let report = report(&answer, program, mark, steps, reporter);
    if context.json {
        output::json(&report)?;
    } else {
        output::lines(&text(&report, &names))?;
    }
    Ok(match answer.fate {
        Fate::Drop => ExitCode::from(DROPPED),
        Fate::Forward | Fate::Redirect => ExitCode::SUCCESS,
    })
}

/// What the rules would say, were they enforced, about a flow that begins with a packet which an endpoint's
/// hook meets: the event of that. A direction whose policy is off asks none. `None` where nobody can tell.
pub fn verdict_on(
    root: &Root,
    endpoint: &Endpoint,
    hook: Hook,
    frame: &Frame,
) -> Result<Option<cm_event>> {
    let is_received = hook == Hook::Ingress;
    let packet = Frame { macs: packet::macs(endpoint, is_received)?, ..frame.clone() }.bytes()?;
    let path = path::Path::of(root, endpoint, hook, &packet)?;
    let mut original = Original::of(endpoint, hook)?;
    for mode in &mut original.config.policy {
        if *mode == cm_policy_mode::CM_POLICY_AUDIT {
            *mode = cm_policy_mode::CM_POLICY_ENFORCE;
        }
    }
    if original.inherited.confirm.fallback == cm_fallback::CM_FALLBACK_AUDIT {
        original.inherited.confirm = cm_confirm::default();
    }
    let (mark, ingress_ifindex) = (path.mark.0, path.ingress_ifindex);
    let question = Question { hook, packet: &packet, mark, ingress_ifindex, mode: None };
    Ok(explain::explain(root, original, &question)?.event)
}

fn report(
    answer: &Answer,
    program: &'static str,
    mark_in: Mark,
    steps: Vec<tree::Step>,
    reporter: &tree::Renderer<'_>,
) -> Report {
    let event = answer.event.as_ref();
    let reason = event.map_or(cm_reason::CM_FORWARDED, |event| event.reason);
    let rule = event.filter(|event| decision::has_decided(event)).map(|event| event.rule);
    let is_audited = |step: &cm_step| {
        let [reason, _, is_enforced] = step.values;
        step.call == cm_call::CM_CALL_FINISH_VERDICT && reason != 0 && is_enforced == 0
    };
    let [source_identity, destination_identity] = identities(answer, reporter.config);
    Report {
        program,
        verdict: match answer.fate {
            Fate::Forward => Verdict::Forward,
            Fate::Drop => Verdict::Drop,
            Fate::Redirect => Verdict::Redirect,
        },
        drop_reason: (answer.fate == Fate::Drop)
            .then(|| Reason { code: reason.0, name: drop_reason::name(reason.0) }),
        mark_in,
        mark_out: Mark(answer.mark),
        source_identity,
        destination_identity,
        conntrack: conntrack(answer),
        rule: rule.and_then(|rule| reporter.rule(rule)),
        // By any of them: enforcement would have ended its way there.
        audited: answer.fate != Fate::Drop && steps_of(answer).any(is_audited),
        steps,
    }
}

fn steps_of(answer: &Answer) -> impl Iterator<Item = &cm_step> {
    answer.parts.iter().flat_map(|part| &part.steps)
}

/// Of both ends, as far as the program asked for them. What a policy drops is the endpoint's own at
/// the end that nobody asked about.
fn identities(answer: &Answer, reporter: &cm_config) -> [Option<Identity>; 2] {
    let Some(event) = &answer.event else { return [None; 2] };
    let was_policed = steps_of(answer).any(|step| step.call == cm_call::CM_CALL_FINISH_VERDICT);
    let mut identities = [event.source_identity, event.destination_identity];
    let own = usize::from(event.direction == cm_direction::CM_INGRESS);
    if was_policed && identities[own] == 0 {
        identities[own] = reporter.identity;
    }
    identities.map(|identity| (identity != 0).then_some(Identity(identity)))
}

/// What the packet is to its flow. `new`, also if nothing is kept of it since it is dropped.
fn conntrack(answer: &Answer) -> Conntrack {
    let called = |call: cm_call| steps_of(answer).filter(|step| step.call == call).last();
    let rule = answer.event.as_ref().map(|event| event.rule);
    if rule == Some(cm_rule_number::CM_RULE_RELATED.0) {
        return Conntrack::Related;
    }
    let Some(lookup) = called(cm_call::CM_CALL_CT_LOOKUP) else { return Conntrack::None };
    let seen = |flag: cm_ct_seen| lookup.values[1] & u64::from(flag.0) != 0;
    if seen(cm_ct_seen::CM_CT_SEEN_VALID) {
        return match seen(cm_ct_seen::CM_CT_SEEN_REPLY) {
            true => Conntrack::Reply,
            false => Conntrack::Established,
        };
    }
    let refused = called(cm_call::CM_CALL_FINISH_VERDICT).is_some_and(|step| step.values[0] != 0);
    match called(cm_call::CM_CALL_CT_CREATE).is_some() || refused {
        true => Conntrack::New,
        false => Conntrack::None,
    }
}

fn text(report: &Report, names: &Names) -> String {
    let width = |step: &tree::Step| 2 * step.depth as usize + step.call.len();
    let widest = report.steps.iter().map(width).max().unwrap_or(0);
    let mut text = String::new();
    for step in &report.steps {
        let call = format!("{:indent$}{}", "", step.call, indent = 2 * step.depth as usize);
        text.push_str(format!("{call:<widest$}  {}", step.detail).trim_end());
        text.push('\n');
    }
    text.push_str(&verdict(report, names));
    text.push('\n');
    text
}

fn verdict(report: &Report, names: &Names) -> String {
    let fate = match (&report.verdict, &report.drop_reason) {
        (Verdict::Drop, Some(reason)) => format!("drop ({}, {})", reason.name, reason.code),
        (Verdict::Drop, None) => "drop".to_owned(),
        (Verdict::Forward, _) => "forward".to_owned(),
        (Verdict::Redirect, _) => "redirect".to_owned(),
    };
    let audited = if report.audited { " (audited)" } else { "" };
    let rule = match &report.rule {
        Some(rule) => format!(", rule: {rule}"),
        None => String::new(),
    };
    let end = |identity: Option<Identity>| {
        identity.map_or("?".to_owned(), |identity| names.label(identity))
    };
    let ends = match (report.source_identity, report.destination_identity) {
        (None, None) => String::new(),
        (from, to) => format!(", {} -> {}", end(from), end(to)),
    };
    let mark = match report.mark_in == report.mark_out {
        true => format!(", mark {}", report.mark_in),
        false => format!(", mark {} -> {}", report.mark_in, report.mark_out),
    };
    format!("{fate}{audited}{rule}{ends}{mark}")
}

/// What the program made of the packet.
fn parsed(event: &cm_event) -> String {
    let (Some(source), Some(destination)) =
        (monitor::address(event.source), monitor::address(event.destination))
    else {
        return monitor::protocol(event);
    };
    let flags = match event.protocol {
        6 => format!(" {}", packet::flag_names(event.tcp_flags)),
        _ => String::new(),
    };
    format!(
        "{}{flags} {} -> {}",
        monitor::protocol(event),
        monitor::socket(&source, u16::from_be(event.sport)),
        monitor::socket(&destination, u16::from_be(event.dport))
    )
}
