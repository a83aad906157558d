//! The sections of a man page that are written here.

use clap::Command;
use clap_mangen::roff::{Roff, bold, roman};

use super::SECTION;
use crate::cli::guide::Notes;

/// Such as `cilmark-policy-add`.
pub fn name(command: &Command) -> &str {
    command.get_display_name().unwrap_or_else(|| command.get_name())
}

/// As help has it.
pub fn synopsis(command: &Command) -> Roff {
    let mut roff = Roff::new();
    roff.control("SH", ["SYNOPSIS"]);
    let usage = command.clone().render_usage().to_string();
    let called = command.get_bin_name().unwrap_or_else(|| command.get_name());
    for (number, line) in usage.lines().enumerate() {
        let line = line.trim_start_matches("Usage:").trim();
        if number > 0 {
            roff.control("br", []);
        }
        match line.strip_prefix(called) {
            Some(rest) => roff.text([bold(called), roman(rest)]),
            None => roff.text([roman(line)]),
        };
    }
    roff
}

/// Those below it, each with its page.
pub fn subcommands(command: &Command) -> Roff {
    let mut roff = Roff::new();
    if command.has_subcommands() {
        roff.control("SH", ["SUBCOMMANDS"]);
    }
    for it in command.get_subcommands() {
        roff.control("TP", []).text([bold(name(it)), roman(format!("({SECTION})"))]);
        roff.text([roman(it.get_about().map(|about| about.to_string()).unwrap_or_default())]);
    }
    roff
}

/// What clap does not know.
pub fn of_notes(notes: &Notes) -> Roff {
    let mut roff = Roff::new();
    let sections = [
        ("EXIT STATUS", &notes.exit),
        ("ENVIRONMENT", &notes.environment),
        ("FILES", &notes.files),
    ];
    for (heading, lines) in sections {
        if !lines.is_empty() {
            roff.control("SH", [heading]);
        }
        for (what, text) in lines {
            roff.control("TP", []).text([bold(*what)]).text([roman(sentence(text))]);
        }
    }
    roff.control("SH", ["EXAMPLES"]);
    for (number, example) in notes.examples.iter().enumerate() {
        if number > 0 {
            roff.control("PP", []);
        }
        roff.text([roman(format!("{}:", example.does))]);
        // As it stands, to be pasted.
        roff.control("RS", ["4"]).control("nf", []);
        example.lines.iter().for_each(|line| _ = roff.text([bold(*line)]));
        roff.control("fi", []).control("RE", []);
    }
    roff
}

fn sentence(text: &str) -> String {
    let mut letters = text.chars();
    letters.next().into_iter().flat_map(char::to_uppercase).chain(letters).collect()
}

/// The pages around it and below it, and those of others.
pub fn see_also(command: &Command, around: &[&str], notes: &Notes) -> Roff {
    let below = command.get_subcommands().map(name);
    let pages = around.iter().copied().chain(below).map(|name| format!("{name}({SECTION})"));
    let pages: Vec<String> = pages.chain(notes.see.iter().map(|page| (*page).to_owned())).collect();
    let mut roff = Roff::new();
    roff.control("SH", ["SEE ALSO"]);
    for (number, page) in pages.iter().enumerate() {
        let (name, section) = page.split_once('(').unwrap_or((page, ""));
        let comma = if number + 1 < pages.len() { "," } else { "" };
        roff.text([bold(name), roman(format!("({section}{comma}"))]);
    }
    roff
}
