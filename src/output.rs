//! The only writer of stdout: tables and JSON. Messages go to stderr, by `note`.

use std::io::{self, Write};

use anyhow::Result;
use serde::Serialize;

/// Writes one JSON document and a newline.
pub fn json(value: &impl Serialize) -> Result<()> {
    let mut text = serde_json::to_string_pretty(value)?;
    text.push('\n');
    raw(&text)
}

/// Writes one JSON object on a line of its own, for streams.
pub fn json_line(value: &impl Serialize) -> Result<()> {
    let mut text = serde_json::to_string(value)?;
    text.push('\n');
    raw(&text)
}

/// Writes columns wide enough for their longest cell; nothing but the heading if there are no rows.
pub fn table<const N: usize>(heading: [&str; N], rows: &[[String; N]]) -> Result<()> {
    let heading = heading.map(str::to_owned);
    let width = |column: usize| {
        let cells = rows.iter().chain([&heading]).map(|row| row[column].chars().count());
        cells.max().unwrap_or(0)
    };
    let widths: [usize; N] = std::array::from_fn(width);
    let mut text = String::new();
    for row in [&heading].into_iter().chain(rows) {
        let cells: Vec<String> =
            row.iter().zip(widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        text.push_str(cells.join("  ").trim_end());
        text.push('\n');
    }
    raw(&text)
}

/// Writes a line.
pub fn line(text: &str) -> Result<()> {
    raw(&format!("{text}\n"))
}

/// Writes text as it is.
pub fn raw(text: &str) -> Result<()> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(text.as_bytes())?;
    Ok(stdout.flush()?)
}

/// Tells the person at the terminal.
pub fn note(text: &str) {
    // Nobody is left to be told that stderr is closed.
    let _ = writeln!(io::stderr(), "{text}");
}
