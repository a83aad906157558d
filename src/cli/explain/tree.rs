//! A report as a tree that people read.

use serde::Serialize;

use super::words::{Renderer, reason_text};
use crate::cli::event;
use crate::model::identity::Names;
use crate::model::mark::Mark;
use crate::ops::explain::Report;
use crate::program::explain::Fate;

/// A line of the tree.
#[derive(Debug, Serialize)]
pub struct Line {
    /// 0 for the program itself.
    pub depth: u32,
    /// The function.
    pub call: &'static str,
    /// What it saw and said.
    pub detail: String,
}

/// The program, and what was called, from the parsing of the packet to its end.
pub fn lines(report: &Report, names: &Names) -> Vec<Line> {
    let mut lines = vec![first(report)];
    if let Some(event) = &report.event {
        lines.push(Line { depth: 1, call: "parse_packet", detail: event::parsed(event) });
    }
    for (index, part) in report.parts.iter().enumerate() {
        // The third: what was called has sent the packet to its own hook.
        let is_on_hook = index == 2;
        if is_on_hook {
            let detail = format!("on the hook of endpoint {}", part.config.endpoint_id);
            lines.push(Line { depth: 1, call: "to_container", detail });
        }
        let renderer = Renderer { config: &part.config, names };
        for known in &part.steps {
            let (call, detail) = renderer.words(known);
            lines.push(Line { depth: known.step.depth + u32::from(is_on_hook), call, detail });
        }
    }
    lines.push(last(report, names));
    lines
}

fn first(report: &Report) -> Line {
    let arrival = &report.arrival;
    let from = match arrival.ingress_ifindex {
        0 => "sent by this host".to_owned(),
        index => format!("came in by device {index}"),
    };
    let assumed = match &arrival.because {
        Some(because) => format!(" (assumed, since {because})"),
        None => String::new(),
    };
    let detail = format!("mark {}, {from}{assumed}, {} bytes", arrival.mark, arrival.length);
    Line { depth: 0, call: arrival.program, detail }
}

fn last(report: &Report, names: &Names) -> Line {
    let reason = report.event.as_ref().map_or(0, |event| event.reason.0);
    let (call, detail) = match report.fate {
        Fate::Forward => ("accept", describe_mark(report.mark, names)),
        Fate::Drop => ("drop", reason_text(u64::from(reason))),
        Fate::Redirect => ("redirect", String::new()),
    };
    Line { depth: 1, call, detail }
}

fn describe_mark(mark: Mark, names: &Names) -> String {
    let identity = mark.identity().map(|identity| format!(", identity {}", names.label(identity)));
    match mark.magic() {
        Some(magic) => format!("mark {mark}: {magic}{}", identity.unwrap_or_default()),
        None => format!("mark {mark}"),
    }
}
