//! `cilmark metrics`.

use anyhow::Result;
use serde::Serialize;

use super::Context;
use crate::model::wire::{self, CM_DIRECTION_NAMES};
use crate::ops::metrics;
use crate::output;
use crate::state::conntrack::Usage;
use crate::state::counters;

#[derive(clap::Args)]
pub struct Args {
    /// In the text format that Prometheus scrapes
    #[arg(long, conflicts_with = "json")]
    pub prometheus: bool,
}

#[derive(Serialize)]
struct Line {
    direction: &'static str,
    reason: u32,
    name: &'static str,
    packets: u64,
    bytes: u64,
}

pub fn run(context: &Context, args: Args) -> Result<()> {
    let report = metrics::metrics(&context.root)?;
    let lines: Vec<Line> = report.metrics.iter().map(line).collect();
    if context.json {
        return output::json(&lines);
    }
    if args.prometheus {
        return output::lines(&metrics::prometheus(&report));
    }
    let rows: Vec<[String; 5]> = lines
        .iter()
        .map(|line| {
            [
                line.direction.to_owned(),
                line.reason.to_string(),
                line.name.to_owned(),
                line.packets.to_string(),
                line.bytes.to_string(),
            ]
        })
        .collect();
    output::table(["DIRECTION", "REASON", "NAME", "PACKETS", "BYTES"], &rows)?;
    if report.usage.is_empty() {
        return Ok(());
    }
    let rows: Vec<[String; 9]> = report.usage.iter().map(row).collect();
    output::line("")?;
    output::table(
        [
            "MAP",
            "OF",
            "ENTRIES",
            "MAXIMUM",
            "FAILSAFE",
            "ANSWERED",
            "WAITING",
            "UNANSWERED",
            "OVER",
        ],
        &rows,
    )?;
    let displaced: u64 = report.displaced.iter().sum();
    output::line(&format!(
        "{displaced} flows gave way to new ones, {} found no room",
        report.failed
    ))
}

fn row(usage: &Usage) -> [String; 9] {
    let [over, unanswered, waiting, answered, failsafe] =
        usage.of_class.map(|count| count.to_string());
    [
        usage.map.to_owned(),
        metrics::owner_of(usage),
        usage.entries().to_string(),
        usage.max_entries.to_string(),
        failsafe,
        answered,
        waiting,
        unanswered,
        over,
    ]
}

fn line(metric: &counters::Line) -> Line {
    Line {
        direction: wire::name(CM_DIRECTION_NAMES, metric.direction).unwrap_or("?"),
        reason: metric.of.number(),
        name: metric.of.name(),
        packets: metric.sum.packets,
        bytes: metric.sum.bytes,
    }
}
