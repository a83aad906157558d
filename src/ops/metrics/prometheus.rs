//! Metrics in the text format that Prometheus scrapes.

use std::fmt::Write;

use super::{Report, by_class, owner_of};
use crate::model::wire::{self, CM_DIRECTION_NAMES};
use crate::state::conntrack::Usage;
use crate::state::counters::Line;

/// The counters, and how full the maps of conntrack are.
pub fn text(report: &Report) -> String {
    let Report { metrics: lines, usage, .. } = report;
    let mut text = String::new();
    for (name, what, value) in [
        ("cilmark_packets_total", "Packets", (|line| line.sum.packets) as fn(&Line) -> u64),
        ("cilmark_bytes_total", "Bytes", |line| line.sum.bytes),
    ] {
        begin(&mut text, name, "counter", &format!("{what} by direction and fate."));
        for line in lines {
            let direction = wire::name(CM_DIRECTION_NAMES, line.direction).unwrap_or("?");
            let (fate, reason) = (line.of.name(), line.of.number());
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
        for (class, entries) in by_class(usage.of_class) {
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
    for (class, count) in by_class(report.displaced) {
        let _ = writeln!(text, "{name}{{class=\"{class}\"}} {count}");
    }
    let name = "cilmark_conntrack_failed_total";
    begin(&mut text, name, "counter", "Flows that found no room.");
    let _ = writeln!(text, "{name} {}", report.failed);
    text
}

/// The lines in front of a metric's.
fn begin(text: &mut String, name: &str, kind: &str, help: &str) {
    let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}");
}

/// The labels of a table of flows.
fn table_of(usage: &Usage) -> String {
    format!("map=\"{}\",of=\"{}\"", usage.map, owner_of(usage))
}
