//! `cilmark metrics`.

use std::fmt::Write;

use anyhow::Result;
use serde::Serialize;

use super::Context;
use crate::datapath::abi::cm_direction;
use crate::datapath::maps::{self, Metric};
use crate::model::drop_reason;
use crate::output;

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
    let lines: Vec<Line> = maps::metrics(&context.root)?.iter().map(line).collect();
    if context.json {
        return output::json(&lines);
    }
    if args.prometheus {
        return output::raw(&prometheus(&lines));
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
    output::table(["DIRECTION", "REASON", "NAME", "PACKETS", "BYTES"], &rows)
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

fn prometheus(lines: &[Line]) -> String {
    let mut text = String::new();
    let mut family = |name: &str, help: &str, value: fn(&Line) -> u64| {
        let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} counter");
        for line in lines {
            let _ = writeln!(
                text,
                "{name}{{direction=\"{}\",reason=\"{}\",reason_code=\"{}\"}} {}",
                line.direction,
                line.name,
                line.reason,
                value(line)
            );
        }
    };
    family("cilmark_packets_total", "Packets by direction and fate.", |line| line.packets);
    family("cilmark_bytes_total", "Bytes by direction and fate.", |line| line.bytes);
    text
}
