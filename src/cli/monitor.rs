//! `cilmark monitor`.

mod hint;
mod losses;

use std::collections::HashMap;
use std::time::{Duration, SystemTime};

use anyhow::Result;
use clap::ValueEnum;
use hint::Hints;
use jiff::Timestamp;
use losses::Losses;
use serde::Serialize;

use super::claim::{Claim, Owners};
use super::decision::{Rules, has_decided};
use super::{Context, until_interrupted};
use crate::kernel::abi::{
    cm_address, cm_direction, cm_event, cm_event_type, cm_program, cm_reason,
};
use crate::model::drop_reason;
use crate::model::endpoint::EndpointId;
use crate::model::identity::{Identity, Names};
use crate::model::mark::Mark;
use crate::output;
use crate::state::events::{Events, Heard, monotonic_ns};
use crate::state::generations::Generations;
use crate::state::registry::Endpoint;

#[derive(clap::Args)]
pub struct Args {
    /// What to show; `trace` and `policy-verdict` are only reported while somebody asks for them
    #[arg(long = "type", value_enum, value_delimiter = ',', default_value = "drop")]
    types: Vec<EventType>,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
enum EventType {
    /// Packets that were dropped, and why; also those that only pass because a policy is in audit
    Drop,
    /// Packets that passed
    Trace,
    /// What the rules said of new flows
    PolicyVerdict,
}

#[derive(Serialize)]
struct Line {
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

/// Events of an endpoint that nobody has got, and that no line of an event tells of.
#[derive(Serialize)]
struct LostLine {
    time: Timestamp,
    #[serde(rename = "type")]
    event_type: &'static str,
    device: String,
    endpoint_id: u32,
    lost: u64,
}

#[derive(Serialize)]
struct Reason {
    code: u32,
    name: &'static str,
}

pub fn run(context: &Context, args: Args) -> Result<()> {
    let go_on = until_interrupted()?;
    let reading = context.root.lock_events()?;
    context.repair();
    let events = Events::open(&context.root, reading)?;
    let mut printer = Printer::new(context)?;
    let wants = |event_type| args.types.contains(&event_type);
    events.read(
        wants(EventType::Trace) || wants(EventType::PolicyVerdict),
        |heard| {
            let shown = |event: &cm_event| {
                wants(event_type(event)) || (event.audited != 0 && wants(EventType::Drop))
            };
            printer.hear(heard, shown).map(|()| true)
        },
        go_on,
    )
}

/// Prints events, with the names that identities and devices have when they are first seen.
pub struct Printer<'a> {
    context: &'a Context,
    names: Names,
    devices: HashMap<u32, String>,
    rules: Rules,
    hints: Hints,
    owners: Option<Owners>,
    changes: Option<u32>,
    lost: Losses,
}

impl Printer<'_> {
    /// Reads the names of identities.
    pub fn new(context: &Context) -> Result<Printer<'_>> {
        Ok(Printer {
            context,
            names: context.names()?,
            devices: HashMap::new(),
            rules: Rules::default(),
            hints: Hints::default(),
            owners: None,
            changes: None,
            lost: Losses::default(),
        })
    }

    /// Prints an event if it is to be shown, and what was lost in any case.
    pub fn hear(
        &mut self,
        heard: Heard<'_>,
        is_shown: impl FnOnce(&cm_event) -> bool,
    ) -> Result<()> {
        let event = match heard {
            Heard::Event(event) => event,
            Heard::Silence => {
                let lost = self.lost.at_rest(&self.context.root)?;
                return lost.into_iter().try_for_each(|(id, lost)| self.report_lost(id, lost));
            }
        };
        let lost = self.lost.before(event);
        if !is_shown(event) {
            return self.report_lost(event.endpoint_id, lost);
        }
        self.warn_of_lost(event.endpoint_id, lost);
        let mut line = line(event, self.device(event.endpoint_id));
        line.lost = lost;
        self.explain(event, &mut line);
        if self.context.json {
            output::json_line(&line)
        } else {
            output::line(&text(&line, &self.names))
        }
    }

    /// Tells of lost events where there is no line of an event that could.
    fn report_lost(&mut self, endpoint_id: u32, lost: u64) -> Result<()> {
        self.warn_of_lost(endpoint_id, lost);
        if lost == 0 || !self.context.json {
            return Ok(());
        }
        let device = self.device(endpoint_id);
        let time = Timestamp::now();
        output::json_line(&LostLine { time, event_type: "lost", device, endpoint_id, lost })
    }

    fn warn_of_lost(&mut self, endpoint_id: u32, lost: u64) {
        let words = match lost {
            0 => return,
            1 => "1 event was".to_owned(),
            lost => format!("{lost} events were"),
        };
        output::note(&format!("{}: {words} lost", self.device(endpoint_id)));
    }

    /// Adds what decided, who was claimed, and what would have to be said for the packet to pass.
    fn explain(&mut self, event: &cm_event, line: &mut Line) {
        let may_be_claimed = event.direction == cm_direction::CM_INGRESS
            && Identity(event.source_identity) == Identity::WORLD;
        let is_refused = event.reason != cm_reason::CM_FORWARDED;
        if !has_decided(event) && !is_refused && !may_be_claimed {
            return;
        }
        // Numbers, addresses and flows are an endpoint's own only until something changes.
        let generations = Generations::open(&self.context.root).ok().flatten();
        let changes = generations.map(|generations| generations.changes());
        if changes != self.changes {
            self.changes = changes;
            self.rules.forget();
            self.hints.forget();
            self.owners = None;
        }
        let id = u16::try_from(event.endpoint_id).ok().and_then(EndpointId::new);
        let Some(id) = id else { return };
        if has_decided(event) {
            line.rule = self.rules.words(self.context, &[id], event.rule, &self.names);
        }
        if may_be_claimed {
            line.claimed = self.claimed(id, event);
        }
        if is_refused && line.claimed.is_some() {
            // To let the whole world in is nobody's wish.
            line.hint = Some(Claim::HINT.to_owned());
        } else if is_refused {
            line.hint = self.hints.about(self.context, id, event, &self.names);
        }
    }

    fn claimed(&mut self, id: EndpointId, event: &cm_event) -> Option<Claim> {
        let root = &self.context.root;
        let config = &self.hints.known(self.context, id)?.endpoint.config;
        if self.owners.is_none() {
            self.owners = Owners::open(root);
        }
        let source = event.source.to_ip()?;
        self.owners.as_ref()?.unproven(root, config, source, Identity(event.source_identity))
    }

    /// The device of an endpoint, or `id:N` where that is gone.
    fn device(&mut self, endpoint: u32) -> String {
        let root = &self.context.root;
        let look = || {
            let id = EndpointId::new(endpoint.try_into().ok()?)?;
            let device = Endpoint::read(root, id).ok()?.device;
            (!device.is_empty()).then_some(device)
        };
        let known = self.devices.entry(endpoint);
        known.or_insert_with(|| look().unwrap_or_else(|| format!("id:{endpoint}"))).clone()
    }
}

fn event_type(event: &cm_event) -> EventType {
    match event.r#type {
        cm_event_type::CM_EVENT_TRACE => EventType::Trace,
        cm_event_type::CM_EVENT_POLICY_VERDICT => EventType::PolicyVerdict,
        _ => EventType::Drop,
    }
}

fn line(event: &cm_event, device: String) -> Line {
    let reason = (event.reason != cm_reason::CM_FORWARDED)
        .then(|| Reason { code: event.reason.0, name: drop_reason::name(event.reason.0) });
    Line {
        time: wall_clock(event.time_ns),
        event_type: event_type(event),
        program: program(event),
        device,
        endpoint_id: event.endpoint_id,
        ifindex: event.ifindex,
        reason,
        rule: None,
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
        lost: 0,
        claimed: None,
        hint: None,
    }
}

fn text(line: &Line, names: &Names) -> String {
    let fate = match (&line.reason, line.event_type) {
        (Some(reason), _) if line.audited => {
            format!("audit: would drop ({}, {})", reason.name, reason.code)
        }
        (Some(reason), _) => format!("drop ({}, {})", reason.name, reason.code),
        (None, EventType::PolicyVerdict) => "allowed".to_owned(),
        (None, _) => "pass".to_owned(),
    };
    let rule = line.rule.as_ref().map(|rule| format!(", by {rule}")).unwrap_or_default();
    let claimed = line.claimed.as_ref().map(|claim| format!("; it {}", claim.text(names)));
    let hint = line.hint.as_ref().filter(|_| claimed.is_none()).map(|hint| format!("; {hint}"));
    let said = claimed.or(hint).unwrap_or_default();
    let end = |address: &Option<String>, port: u16, identity: Identity| {
        let address = socket(address.as_deref().unwrap_or("?"), port);
        match identity {
            Identity::UNKNOWN => address,
            identity => format!("{address} [{}]", names.label(identity)),
        }
    };
    let mark = match (line.mark_in, line.mark_out) {
        (Mark(0), Mark(0)) => String::new(),
        (before, after) if before == after => format!(", mark {after}"),
        (before, after) => format!(", mark {before} -> {after}"),
    };
    format!(
        "{} {} {}: {fate} {} {} -> {}{mark}, {} bytes{rule}{said}",
        line.time.strftime("%H:%M:%S%.6f"),
        line.device,
        line.program,
        line.protocol,
        end(&line.source, line.sport, line.source_identity),
        end(&line.destination, line.dport, line.destination_identity),
        line.length
    )
}

/// An address with its port, if it has one.
pub fn socket(address: &str, port: u16) -> String {
    match port {
        0 => address.to_owned(),
        port if address.contains(':') => format!("[{address}]:{port}"),
        port => format!("{address}:{port}"),
    }
}

pub fn address(address: cm_address) -> Option<String> {
    address.to_ip().map(|ip| ip.to_string())
}

/// Host byte order; 0 for ICMP, where the identifier of an echo stands in its place.
fn port(event: &cm_event, port: u16) -> u16 {
    if matches!(event.protocol, 1 | 58) { 0 } else { u16::from_be(port) }
}

fn program(event: &cm_event) -> &'static str {
    match event.program {
        cm_program::CM_FROM_CONTAINER => "from_container",
        cm_program::CM_TO_CONTAINER => "to_container",
        cm_program::CM_FROM_NETDEV => "from_netdev",
        cm_program::CM_TO_NETDEV => "to_netdev",
        _ => "?",
    }
}

/// `tcp`, `icmp/8`, `proto/47`, `arp`, `ethertype 0x88cc`; a later fragment has no more than this.
pub fn protocol(event: &cm_event) -> String {
    let name = match (u16::from_be(event.ethertype), event.protocol) {
        (0x0806, _) => "arp".to_owned(),
        (0x0800 | 0x86dd, 1) => format!("icmp/{}", event.icmp_type),
        (0x0800 | 0x86dd, 58) => format!("icmp6/{}", event.icmp_type),
        (0x0800 | 0x86dd, 6) => "tcp".to_owned(),
        (0x0800 | 0x86dd, 17) => "udp".to_owned(),
        (0x0800 | 0x86dd, 132) => "sctp".to_owned(),
        (0x0800 | 0x86dd, number) => format!("proto/{number}"),
        (ethertype, _) => format!("ethertype {ethertype:#06x}"),
    };
    if event.fragment != 0 { format!("{name} fragment") } else { name }
}

fn wall_clock(monotonic: u64) -> Timestamp {
    let ago = Duration::from_nanos(monotonic_ns().saturating_sub(monotonic));
    Timestamp::try_from(SystemTime::now() - ago).unwrap_or_default()
}
