//! `cilmark metrics`.

use std::fmt::Write;

use anyhow::Result;
use serde::Serialize;

use super::Context;
use crate::kernel::abi::{cm_direction, cm_flow_class, cm_reason};
use crate::model::drop_reason;
use crate::output;
use crate::state::conntrack::{Conntrack, Usage};
use crate::state::maps::{self, Metric};

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
    let metrics = maps::metrics(&context.root)?;
    let lines: Vec<Line> = metrics.iter().map(line).collect();
    if context.json {
        return output::json(&lines);
    }
    let usage = conntrack_usage(context)?;
    if args.prometheus {
        return output::lines(&prometheus(&lines, &usage, &metrics));
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
    if usage.is_empty() {
        return Ok(());
    }
    let rows: Vec<[String; 9]> = usage.iter().map(row).collect();
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
    let (displaced, failed) = (displaced(&metrics), failed(&metrics));
    let displaced: u64 = displaced.iter().sum();
    output::line(&format!("{displaced} flows gave way to new ones, {failed} found no room"))
}

/// The classes of flows, by `enum cm_flow_class`: who gives way first is first.
const CLASSES: [&str; cm_flow_class::CM_FLOW_CLASSES.0 as usize] =
    ["over", "unanswered", "waiting", "answered", "failsafe"];

fn row(usage: &Usage) -> [String; 9] {
    let [over, unanswered, waiting, answered, failsafe] =
        usage.of_class.map(|count| count.to_string());
    [
        usage.map.to_owned(),
        whose(usage),
        usage.entries().to_string(),
        usage.max_entries.to_string(),
        failsafe,
        answered,
        waiting,
        unanswered,
        over,
    ]
}

/// How full the maps of conntrack are.
fn conntrack_usage(context: &Context) -> Result<Vec<Usage>> {
    let mut all = Vec::new();
    for maps in Conntrack::all(&context.root)? {
        all.extend(maps.usage()?);
    }
    Ok(all)
}

/// Flows that have made room for others, by their class.
fn displaced(metrics: &[Metric]) -> [u64; CLASSES.len()] {
    std::array::from_fn(|class| packets(metrics, cm_reason::CM_FLOW_DISPLACED.0 + class as u32))
}

/// Flows that have found no room.
fn failed(metrics: &[Metric]) -> u64 {
    packets(metrics, cm_reason::CM_FLOW_FAILED.0)
}

fn packets(metrics: &[Metric], reason: u32) -> u64 {
    metrics.iter().filter(|line| line.reason == reason).map(|line| line.sum.packets).sum()
}

fn whose(usage: &Usage) -> String {
    usage.owner.map_or("all".to_owned(), |id| format!("id:{id}"))
}

fn line(metric: &Metric) -> Line {
    Line {
        direction: if metric.direction == cm_direction::CM_INGRESS.0 {
            "ingress"
        } else {
            "egress"
        },
        reason: metric.reason,
        name: drop_reason::name(metric.reason),
        packets: metric.sum.packets,
        bytes: metric.sum.bytes,
    }
}

fn prometheus(lines: &[Line], usage: &[Usage], metrics: &[Metric]) -> String {
    let mut text = String::new();
    for (name, what, value) in [
        ("cilmark_packets_total", "Packets", (|line| line.packets) as fn(&Line) -> u64),
        ("cilmark_bytes_total", "Bytes", |line| line.bytes),
    ] {
        begin(&mut text, name, "counter", &format!("{what} by direction and fate."));
        for line in lines {
            let Line { direction, name: fate, reason, .. } = line;
            let labels =
                format!("direction=\"{direction}\",reason=\"{fate}\",reason_code=\"{reason}\"");
            let _ = writeln!(text, "{name}{{{labels}}} {}", value(line));
        }
    }
    if usage.is_empty() {
        return text;
    }
    let name = "cilmark_conntrack_entries";
    begin(&mut text, name, "gauge", "Flows that have not expired.");
    for usage in usage {
        for (class, entries) in CLASSES.iter().zip(usage.of_class) {
            let _ = writeln!(text, "{name}{{{},class=\"{class}\"}} {entries}", table_of(usage));
        }
    }
    let name = "cilmark_conntrack_entries_max";
    begin(&mut text, name, "gauge", "The most flows.");
    for usage in usage {
        let _ = writeln!(text, "{name}{{{}}} {}", table_of(usage), usage.max_entries);
    }
    let name = "cilmark_conntrack_displaced_total";
    begin(&mut text, name, "counter", "Flows that made room for others.");
    for (class, count) in CLASSES.iter().zip(displaced(metrics)) {
        let _ = writeln!(text, "{name}{{class=\"{class}\"}} {count}");
    }
    let name = "cilmark_conntrack_failed_total";
    begin(&mut text, name, "counter", "Flows that found no room.");
    let _ = writeln!(text, "{name} {}", failed(metrics));
    text
}

/// The lines in front of a metric's.
fn begin(text: &mut String, name: &str, kind: &str, help: &str) {
    let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}");
}

/// The labels of a table of flows.
fn table_of(usage: &Usage) -> String {
    format!("map=\"{}\",of=\"{}\"", usage.map, whose(usage))
}
