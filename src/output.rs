//! The only writer of stdout: tables and JSON. Messages go to stderr, by `note`. What comes from outside
//! does nothing to a terminal on this way.

use std::borrow::Cow;
use std::fmt::{Display, Write as _};
use std::io::{self, BufWriter, StdoutLock, Write};
use std::process::ExitCode;

use anyhow::{Context as _, Result};
use serde::Serialize;

use crate::model::finding::{Finding, Level};
use crate::model::text::{is_byte, is_hidden, visible};

/// Writes one JSON document and a newline.
pub fn json(value: &impl Serialize) -> Result<()> {
    write(&(escaped(&serde_json::to_string_pretty(value)?) + "\n"))
}

/// Writes one JSON object on a line of its own, for streams.
pub fn json_line(value: &impl Serialize) -> Result<()> {
    write(&(escaped(&serde_json::to_string(value)?) + "\n"))
}

/// One JSON document, a list of very many, each on a line of its own.
#[derive(Default)]
pub struct JsonList {
    out: Stdout,
    has_any: bool,
    text: Vec<u8>,
}

impl JsonList {
    /// Writes one more.
    pub fn push(&mut self, value: &impl Serialize) -> Result<()> {
        self.out.write(if self.has_any { ",\n" } else { "[\n" })?;
        self.has_any = true;
        self.text.clear();
        serde_json::to_writer(&mut self.text, value)?;
        self.out.write(&escaped(std::str::from_utf8(&self.text)?))
    }

    /// Writes its end, and a newline.
    pub fn end(mut self) -> Result<()> {
        self.out.write(if self.has_any { "\n]\n" } else { "[]\n" })?;
        self.out.end()
    }
}

/// Columns wide enough for their longest cell.
pub struct Table<const N: usize> {
    /// All cells, one behind the other, and how many bytes each has.
    text: String,
    lengths: Vec<u32>,
    widths: [usize; N],
}

impl<const N: usize> Table<N> {
    /// With a heading.
    pub fn new(heading: [&str; N]) -> Table<N> {
        let mut table = Table { text: String::new(), lengths: Vec::new(), widths: [0; N] };
        table.push(heading.each_ref().map(|cell| cell as &dyn Display));
        table
    }

    /// One more row.
    pub fn push(&mut self, row: [&dyn Display; N]) {
        for (cell, width) in row.into_iter().zip(&mut self.widths) {
            let begin = self.text.len();
            let _ = write!(self.text, "{cell}");
            let written = &self.text[begin..];
            if !is_plain(written) {
                let seen = visible(written).into_owned();
                self.text.replace_range(begin.., &seen);
            }
            *width = (*width).max(columns(&self.text[begin..]));
            self.lengths.push((self.text.len() - begin) as u32);
        }
    }

    /// Writes it; nothing but the heading if there are no rows.
    pub fn print(self) -> Result<()> {
        let mut out = Stdout::default();
        let mut line = String::new();
        let gaps = " ".repeat(self.widths.into_iter().max().unwrap_or(0) + 2);
        let mut rest = self.text.as_str();
        for lengths in self.lengths.chunks_exact(N) {
            line.clear();
            for (length, width) in lengths.iter().zip(self.widths) {
                let (cell, behind) = rest.split_at(*length as usize);
                line.push_str(cell);
                line.push_str(&gaps[..width - columns(cell) + 2]);
                rest = behind;
            }
            line.truncate(line.trim_end().len());
            line.push('\n');
            out.write(&line)?;
        }
        out.end()
    }
}

/// Writes columns wide enough for their longest cell; nothing but the heading if there are no rows.
pub fn table<const N: usize>(heading: [&str; N], rows: &[[String; N]]) -> Result<()> {
    let mut table = Table::new(heading);
    for row in rows {
        table.push(row.each_ref().map(|cell| cell as &dyn Display));
    }
    table.print()
}

/// Writes what a doctor has found that is at least so bad, one line each, and how many findings there are of each level.
/// Status 1 if there is a problem.
pub fn findings(findings: &[Finding], at_least: Level, as_json: bool) -> Result<ExitCode> {
    let shown = findings.iter().filter(|it| it.level >= at_least);
    let count = |level| findings.iter().filter(|it| it.level == level).count();
    if as_json {
        json(&shown.collect::<Vec<_>>())?;
    } else {
        let rows: Vec<[String; 4]> = shown
            .map(|it| {
                let cure = it.cure.as_deref().map(|cure| format!("; {cure}")).unwrap_or_default();
                let says = format!("{}{cure}", it.says);
                [it.level.to_string(), it.of.clone(), it.check.to_owned(), says]
            })
            .collect();
        table(["", "OF", "CHECK", "FOUND"], &rows)?;
        let of = |count, word| format!("{count} {word}{}", if count == 1 { "" } else { "s" });
        let (problems, warnings) = (count(Level::Problem), count(Level::Warning));
        note(&format!(
            "{}, {}, {} ok",
            of(problems, "problem"),
            of(warnings, "warning"),
            count(Level::Ok)
        ));
    }
    Ok(if count(Level::Problem) > 0 { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// Of a text that has been made visible.
fn columns(text: &str) -> usize {
    if text.is_ascii() { text.len() } else { text.chars().count() }
}

/// Whether a text is seen as it stands, which is quickly told of most.
fn is_plain(text: &str) -> bool {
    text.bytes().all(|byte| (b' '..=b'~').contains(&byte))
}

/// Writes much, piece by piece.
struct Stdout(BufWriter<StdoutLock<'static>>);

impl Default for Stdout {
    fn default() -> Stdout {
        Stdout(BufWriter::with_capacity(1 << 16, io::stdout().lock()))
    }
}

impl Stdout {
    fn write(&mut self, text: &str) -> Result<()> {
        self.0.write_all(text.as_bytes()).context(TO_STDOUT)
    }

    fn end(mut self) -> Result<()> {
        self.0.flush().context(TO_STDOUT)
    }
}

const TO_STDOUT: &str = "write to stdout";

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

/// Writes for a program what has been looked through already.
pub fn as_it_is(text: &str) -> Result<()> {
    write(text)
}

fn write(text: &str) -> Result<()> {
    let mut out = Stdout::default();
    out.write(text)?;
    out.end()
}

/// JSON leaves some characters as they are that a terminal obeys, and there are none outside of its
/// strings. What stands for a byte has no number there, and is spelled as a person sees it.
fn escaped(json: &str) -> Cow<'_, str> {
    if is_plain(json) {
        return Cow::Borrowed(json);
    }
    let mut text = String::with_capacity(json.len());
    for c in json.chars() {
        match c {
            '\n' => text.push('\n'),
            c if is_byte(c) => text.push_str(&visible(&c.to_string()).replace('\\', "\\\\")),
            c if is_hidden(c) => text.push_str(&format!("\\u{:04x}", u32::from(c))),
            c => text.push(c),
        }
    }
    Cow::Owned(text)
}

/// Tells the person at the terminal.
pub fn note(text: &str) {
    // Nobody is left to be told that stderr is closed.
    let _ = writeln!(io::stderr(), "{}", visible(text));
}
