//! How a plan is told.

use anyhow::Result;
use serde::Serialize;

use crate::cli::Context;
use crate::ops::apply::{Effect, Line, Plan, Sign};
use crate::output;

/// Of as many lines of the ipcache a person reads each.
const MOST_LINES: usize = 20;

/// And of what is left so many.
const MOST_LEFT: usize = 5;

#[derive(Serialize)]
struct Told<'a> {
    changes: Vec<Line>,
    absent: &'a [String],
    left: &'a [String],
    notes: &'a [String],
}

/// What would change, as data.
pub fn print(context: &Context, plan: &Plan) -> Result<()> {
    let changes = lines(plan);
    if context.json {
        let Plan { absent, left, notes, .. } = plan;
        return output::json(&Told { changes, absent, left, notes });
    }
    output::lines(&changes.iter().map(told).collect::<Vec<_>>().join("\n"))
}

/// What is going to change, for the person at the terminal.
pub fn announce(plan: &Plan) {
    let (lines, others): (Vec<Line>, Vec<Line>) =
        lines(plan).into_iter().partition(|line| line.kind == "ipcache");
    others.iter().chain(lines.iter().take(MOST_LINES)).for_each(|line| output::note(&told(line)));
    if lines.len() > MOST_LINES {
        let more = lines.len() - MOST_LINES;
        output::note(&format!("and {more} more lines of the ipcache, which --dry-run shows"));
    }
}

/// What else there is to know.
pub fn tell(plan: &Plan) {
    plan.notes.iter().for_each(|note| output::note(note));
    for device in &plan.absent {
        output::note(&format!("{device} is not there, and is left for later"));
    }
    if plan.left.is_empty() {
        return;
    }
    let (first, more) = plan.left.split_at(plan.left.len().min(MOST_LEFT));
    let more = if more.is_empty() { String::new() } else { format!(" and {} more", more.len()) };
    output::note(&format!(
        "the file has made {}{more} and no longer asks for that; --prune removes it",
        first.join(", ")
    ));
}

fn lines(plan: &Plan) -> Vec<Line> {
    plan.changes.iter().flat_map(|change| change.lines(&plan.names)).collect()
}

fn told(line: &Line) -> String {
    let sign = match line.sign {
        Sign::Add => '+',
        Sign::Change => '~',
        Sign::Remove => '-',
    };
    let effect = match line.effect {
        Some(Effect::Opens) => "  (opens)",
        Some(Effect::Closes) => "  (closes)",
        None => "",
    };
    format!("{sign} {} {}: {}{effect}", line.kind, line.name, line.text)
}
