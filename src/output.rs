//! The only writer of stdout: tables and JSON. Messages go to stderr, by `note`. What comes from outside
//! does nothing to a terminal on this way.

use std::fmt::Write as _;
use std::io::{self, Write};

use anyhow::{Context as _, Result};
use serde::Serialize;

use crate::model::text::{is_byte, is_hidden, visible};

/// Writes one JSON document and a newline.
pub fn json(value: &impl Serialize) -> Result<()> {
    write(&(escaped(&serde_json::to_string_pretty(value)?) + "\n"))
}

/// Writes one JSON object on a line of its own, for streams.
pub fn json_line(value: &impl Serialize) -> Result<()> {
    write(&(escaped(&serde_json::to_string(value)?) + "\n"))
}

/// Writes columns wide enough for their longest cell; nothing but the heading if there are no rows.
pub fn table<const N: usize>(heading: [&str; N], rows: &[[String; N]]) -> Result<()> {
    let heading = heading.map(str::to_owned);
    let seen = |row: &[String; N]| std::array::from_fn(|column| visible(&row[column]).into_owned());
    let rows: Vec<[String; N]> = rows.iter().map(seen).collect();
    let width = |column: usize| {
        let cells = rows.iter().chain([&heading]).map(|row| row[column].chars().count());
        cells.max().unwrap_or(0)
    };
    let widths: [usize; N] = std::array::from_fn(width);
    let mut text = String::new();
    for row in [&heading].into_iter().chain(&rows) {
        let cells: Vec<String> =
            row.iter().zip(widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        text.push_str(cells.join("  ").trim_end());
        text.push('\n');
    }
    write(&text)
}

/// Writes a line.
pub fn line(text: &str) -> Result<()> {
    write(&format!("{}\n", visible(text)))
}

/// Writes lines.
pub fn lines(text: &str) -> Result<()> {
    let mut seen = String::new();
    for line in text.lines() {
        writeln!(seen, "{}", visible(line))?;
    }
    write(&seen)
}

fn write(text: &str) -> Result<()> {
    let mut stdout = io::stdout().lock();
    let written = stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush());
    written.context("write to stdout")
}

/// JSON leaves some characters as they are that a terminal obeys, and there are none outside of its
/// strings. What stands for a byte has no number there, and is spelled as a person sees it.
fn escaped(json: &str) -> String {
    let mut text = String::with_capacity(json.len());
    for c in json.chars() {
        match c {
            '\n' => text.push('\n'),
            c if is_byte(c) => text.push_str(&visible(&c.to_string()).replace('\\', "\\\\")),
            c if is_hidden(c) => text.push_str(&format!("\\u{:04x}", u32::from(c))),
            c => text.push(c),
        }
    }
    text
}

/// Tells the person at the terminal.
pub fn note(text: &str) {
    // Nobody is left to be told that stderr is closed.
    let _ = writeln!(io::stderr(), "{}", visible(text));
}
