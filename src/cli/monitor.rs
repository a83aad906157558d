//! `cilmark monitor`.

use std::collections::HashMap;
use std::time::{Duration, SystemTime};

use anyhow::Result;
use clap::ValueEnum;
use jiff::Timestamp;
use serde::Serialize;

use super::{Context, until_interrupted};
use crate::datapath::abi::{cm_address, cm_event, cm_event_type, cm_program, cm_reason};
use crate::datapath::events::{Events, monotonic_ns};
use crate::datapath::registry::Endpoint;
use crate::model::drop_reason;
use crate::model::endpoint::EndpointId;
use crate::model::identity::{Identity, Names};
use crate::model::mark::Mark;
use crate::output;

#[derive(clap::Args)]
pub struct Args {
    /// What to show; `trace` is what passes, and is only reported while somebody asks for it
    #[arg(long = "type", value_enum, value_delimiter = ',', default_value = "drop")]
    types: Vec<EventType>,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
enum EventType {
    /// Packets that were dropped, and why
    Drop,
    /// Packets that passed
    Trace,
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
    lost: u32,
}

#[derive(Serialize)]
struct Reason {
    code: u32,
    name: &'static str,
}

pub fn run(context: &Context, args: Args) -> Result<()> {
    let go_on = until_interrupted()?;
    let events = Events::open(&context.root, context.root.lock_events()?)?;
    let mut printer = Printer::new(context)?;
    let trace = args.types.contains(&EventType::Trace);
    events.read(
        trace,
        |event| {
            if args.types.contains(&event_type(event)) {
                printer.print(event)?;
            }
            Ok(true)
        },
        go_on,
    )
}

/// Prints events, with the names that identities and devices have when they are first seen.
pub struct Printer<'a> {
    context: &'a Context,
    names: Names,
    devices: HashMap<u32, String>,
}

impl Printer<'_> {
    /// Reads the names of identities.
    pub fn new(context: &Context) -> Result<Printer<'_>> {
        Ok(Printer { context, names: context.names()?, devices: HashMap::new() })
    }

    /// Prints one event.
    pub fn print(&mut self, event: &cm_event) -> Result<()> {
        let line = line(event, self.device(event.endpoint_id));
        if line.lost > 0 {
            output::note(&format!("{}: {} events were lost", line.device, line.lost));
        }
        if self.context.json {
            output::json_line(&line)
        } else {
            output::line(&text(&line, &self.names))
        }
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
        lost: event.lost,
    }
}

fn text(line: &Line, names: &Names) -> String {
    let fate = match &line.reason {
        Some(reason) => format!("drop ({}, {})", reason.name, reason.code),
        None => "pass".to_owned(),
    };
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
        "{} {} {}: {fate} {} {} -> {}{mark}, {} bytes",
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
        port if address.contains(':') => format!("{address}.{port}"),
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
