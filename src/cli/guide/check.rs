//! Whether a guide and the commands belong together, for tests.

use std::collections::BTreeSet;

use clap::{ArgMatches, Command};

use super::man::Page;
use super::{Guide, under};
use crate::model::shell;

/// The widest line of an example that help does not break.
const WIDEST: usize = 98;

/// What is wrong: a command without an example, an example that clap refuses, or that is about another command; nothing if all
/// is well. `programs` are the names by which this program is called.
pub fn faults(mut command: Command, guide: &Guide, programs: &[&str]) -> Vec<String> {
    command.build();
    let mut faults: Vec<String> =
        guide.wrong().iter().map(|line| format!("`{line}` is below nothing")).collect();
    let paths = paths(&command);
    for path in guide.paths().filter(|path| !paths.contains(*path)) {
        faults.push(format!("[{path}] is no command"));
    }
    for path in &paths {
        let mut called = false;
        for line in guide.of(path).examples.iter().flat_map(|example| &example.lines) {
            if line.chars().count() > WIDEST {
                faults.push(format!("[{path}] `{line}` is wider than help"));
            }
            match calls(&command, line, programs) {
                Ok(calls) => {
                    let within = |it: &String| {
                        path.is_empty() || format!("{it} ").starts_with(&format!("{path} "))
                    };
                    called |= calls.iter().any(within);
                }
                Err(error) => faults.push(format!("[{path}] `{line}`: {error}")),
            }
        }
        if !called {
            faults.push(format!("[{path}] has no example that calls it"));
        }
    }
    faults
}

/// The paths of a command and of all below it.
pub fn paths(command: &Command) -> BTreeSet<String> {
    let mut paths = BTreeSet::new();
    collect(command, "", &mut paths);
    paths
}

fn collect(command: &Command, path: &str, paths: &mut BTreeSet<String>) {
    paths.insert(path.to_owned());
    let below = command.get_subcommands().filter(|it| it.get_name() != "help");
    below.for_each(|it| collect(it, &under(path, it.get_name()), paths));
}

/// The paths of the commands that a line calls.
fn calls(command: &Command, line: &str, programs: &[&str]) -> Result<Vec<String>, clap::Error> {
    let mut paths = Vec::new();
    for words in shell::commands(line) {
        let Some(first) = words.iter().position(|word| programs.contains(&word.as_str())) else {
            continue;
        };
        // What another command prints is a number.
        let word =
            |word: &String| if word.starts_with("$(") { "1".to_owned() } else { word.clone() };
        match command.clone().try_get_matches_from(words[first..].iter().map(word)) {
            Ok(matches) => paths.push(path_of(&matches)),
            Err(error) => return Err(error),
        }
    }
    Ok(paths)
}

fn path_of(matches: &ArgMatches) -> String {
    match matches.subcommand() {
        Some((name, matches)) => under(name, &path_of(matches)).trim_end().to_owned(),
        None => String::new(),
    }
}

/// What a page does not have: a section, an option, a value, a command below its own.
pub fn lacks(command: &Command, page: &Page) -> Vec<String> {
    let text = page.text.replace("\\-", "-").replace("\\*(Aq", "'");
    let it = page.path.split_whitespace().fold(command, |it, name| {
        it.find_subcommand(name).unwrap_or_else(|| panic!("{} is no command", page.path))
    });
    let mut wanted: Vec<String> = ["NAME", "SYNOPSIS", "DESCRIPTION", "OPTIONS", "EXIT STATUS"]
        .iter()
        .chain(&["ENVIRONMENT", "FILES", "EXAMPLES", "SEE ALSO"])
        .map(|heading| match heading.contains(' ') {
            true => format!("\n.SH \"{heading}\"\n"),
            false => format!("\n.SH {heading}\n"),
        })
        .collect();
    for argument in it.get_arguments() {
        let help = argument.get_long_help().or(argument.get_help());
        wanted.extend(help.map(|help| help.to_string()));
        wanted.extend(argument.get_long().map(|long| format!("\\fB--{long}\\fR")));
        let names = argument.get_value_names().unwrap_or_default();
        if argument.get_num_args().is_some_and(|number| number.takes_values()) {
            wanted.extend(names.iter().map(|name| name.to_string()));
            let values = argument.get_possible_values();
            wanted.extend(values.iter().map(|value| value.get_name().to_owned()));
        }
    }
    for below in it.get_subcommands().filter(|below| below.get_name() != "help") {
        wanted.extend(below.get_display_name().map(|name| format!("\n\\fB{name}\\fR(8)\n")));
    }
    wanted.retain(|wanted| !text.contains(wanted.as_str()));
    wanted
}
