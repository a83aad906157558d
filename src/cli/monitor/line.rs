//! A line about an event.

use std::time::{Duration, SystemTime};

use clap::ValueEnum;
use jiff::Timestamp;
use serde::Serialize;

use crate::cli::event::{address, port, program, protocol, socket};
use crate::kernel::abi::{cm_event, cm_event_type, cm_reason};
use crate::model::identity::{Identity, Names};
use crate::model::mark::Mark;
use crate::ops::claim::Claim;
use crate::ops::monitor::Report;
use crate::state::events::monotonic_ns;

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum EventType {
    /// Packets that were dropped, and why; also those that only pass because a policy is in audit
    Drop,
    /// Packets that passed
    Trace,
    /// What the rules said of new flows
    PolicyVerdict,
}

/// An event.
#[derive(Serialize)]
pub struct Line {
    time: Timestamp,
    #[serde(rename = "type")]
    event_type: EventType,
    program: &'static str,
    device: String,
    endpoint_id: u32,
    ifindex: u32,
    reason: Option<Reason>,
    rule: Option<String>,
    audited: bool,
    source: Option<String>,
    destination: Option<String>,
    protocol: String,
    sport: u16,
    dport: u16,
    source_identity: Identity,
    destination_identity: Identity,
    mark_in: Mark,
    mark_out: Mark,
    length: u32,
    lost: u64,
    /// Whose address the packet came from without the proof that it is theirs.
    claimed: Option<Claim>,
    /// What would let the packet pass.
    hint: Option<String>,
}

#[derive(Serialize)]
struct Reason {
    code: u32,
    name: &'static str,
}

impl EventType {
    /// That of an event.
    pub fn of(event: &cm_event) -> EventType {
        match event.r#type {
            cm_event_type::CM_EVENT_TRACE => EventType::Trace,
            cm_event_type::CM_EVENT_POLICY_VERDICT => EventType::PolicyVerdict,
            _ => EventType::Drop,
        }
    }
}

impl Line {
    /// With what is known beside the event.
    pub fn of(event: &cm_event, report: Report<'_>) -> Line {
        let reason = (event.reason != cm_reason::CM_FORWARDED)
            .then(|| Reason { code: event.reason.0, name: event.reason.name() });
        Line {
            time: wall_clock(event.time_ns),
            event_type: EventType::of(event),
            program: program(event),
            device: report.device,
            endpoint_id: event.endpoint_id,
            ifindex: event.ifindex,
            reason,
            rule: report.rule,
            audited: event.audited != 0,
            source: address(event.source),
            destination: address(event.destination),
            protocol: protocol(event),
            sport: port(event, event.sport),
            dport: port(event, event.dport),
            source_identity: Identity(event.source_identity),
            destination_identity: Identity(event.destination_identity),
            mark_in: Mark(event.mark_in),
            mark_out: Mark(event.mark_out),
            length: event.length,
            lost: report.lost,
            claimed: report.claim,
            hint: report.hint,
        }
    }

    /// For people.
    pub fn text(&self, names: &Names) -> String {
        let fate = match (&self.reason, self.event_type) {
            (Some(reason), _) if self.audited => {
                format!("audit: would drop ({}, {})", reason.name, reason.code)
            }
            (Some(reason), _) => format!("drop ({}, {})", reason.name, reason.code),
            (None, EventType::PolicyVerdict) => "allowed".to_owned(),
            (None, _) => "pass".to_owned(),
        };
        let rule = self.rule.as_ref().map(|rule| format!(", by {rule}")).unwrap_or_default();
        let claimed = self.claimed.as_ref().map(|claim| format!("; it {}", claim.text(names)));
        let hint = self.hint.as_ref().filter(|_| claimed.is_none()).map(|hint| format!("; {hint}"));
        let said = claimed.or(hint).unwrap_or_default();
        let end = |address: &Option<String>, port: u16, identity: Identity| {
            let address = socket(address.as_deref().unwrap_or("?"), port);
            match identity {
                Identity::UNKNOWN => address,
                identity => format!("{address} [{}]", names.label(identity)),
            }
        };
        let mark = match (self.mark_in, self.mark_out) {
            (Mark(0), Mark(0)) => String::new(),
            (before, after) if before == after => format!(", mark {after}"),
            (before, after) => format!(", mark {before} -> {after}"),
        };
        format!(
            "{} {} {}: {fate} {} {} -> {}{mark}, {} bytes{rule}{said}",
            self.time.strftime("%H:%M:%S%.6f"),
            self.device,
            self.program,
            self.protocol,
            end(&self.source, self.sport, self.source_identity),
            end(&self.destination, self.dport, self.destination_identity),
            self.length
        )
    }
}

fn wall_clock(monotonic: u64) -> Timestamp {
    let ago = Duration::from_nanos(monotonic_ns().saturating_sub(monotonic));
    Timestamp::try_from(SystemTime::now() - ago).unwrap_or_default()
}
