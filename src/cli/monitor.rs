//! `cilmark monitor`.

mod line;

use anyhow::Result;
use jiff::Timestamp;
use line::{EventType, Line};
use serde::Serialize;

use super::{Context, until_interrupted};
use crate::kernel::abi::cm_event;
use crate::ops::monitor::{Monitor, Report};
use crate::output;
use crate::state::events::{Events, Heard};

#[derive(clap::Args)]
pub struct Args {
    /// What to show; `trace` and `policy-verdict` are only reported while somebody asks for them
    #[arg(long = "type", value_enum, value_delimiter = ',', default_value = "drop")]
    types: Vec<EventType>,
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
            let is_wanted = |event: &cm_event| {
                wants(EventType::of(event)) || (event.audited != 0 && wants(EventType::Drop))
            };
            printer.hear(heard, is_wanted).map(|()| true)
        },
        go_on,
    )
}

/// Prints events, and how many were lost.
pub struct Printer<'a> {
    monitor: Monitor<'a>,
    json: bool,
}

impl Printer<'_> {
    /// As JSON, or for people.
    pub fn new(context: &Context) -> Result<Printer<'_>> {
        Ok(Printer { monitor: Monitor::new(&context.root)?, json: context.json })
    }

    /// Prints an event if it is wanted, and what was lost in any case.
    pub fn hear(
        &mut self,
        heard: Heard<'_>,
        is_wanted: impl FnOnce(&cm_event) -> bool,
    ) -> Result<()> {
        let reports = self.monitor.hear(heard, is_wanted)?;
        reports.into_iter().try_for_each(|report| self.print(report))
    }

    fn print(&self, report: Report<'_>) -> Result<()> {
        match report.lost {
            0 => {}
            1 => output::note(&format!("{}: 1 event was lost", report.device)),
            lost => output::note(&format!("{}: {lost} events were lost", report.device)),
        }
        match report.event {
            Some(event) if self.json => output::json_line(&Line::of(event, report)),
            Some(event) => output::line(&Line::of(event, report).text(&self.monitor.names)),
            None if self.json => output::json_line(&LostLine {
                time: Timestamp::now(),
                event_type: "lost",
                device: report.device,
                endpoint_id: report.endpoint_id,
                lost: report.lost,
            }),
            None => Ok(()),
        }
    }
}
