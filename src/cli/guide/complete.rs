//! What may stand at the end of a line, and how the shells are told. clap's engine walks through the words; what the values
//! may be is asked of the program.

pub mod shell;

use std::ffi::OsString;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use clap::{Arg, Command};
use clap_complete::engine::{ArgValueCompleter, CompletionCandidate, complete as by_clap};

use super::under;
use crate::model::text::is_hidden;

/// A value that is asked for.
pub struct Asked<'a> {
    /// Of which command, such as `policy add`.
    pub path: &'a str,
    /// Of which of its arguments: what clap calls it.
    pub id: &'a str,
    /// What help calls its value, such as DEV.
    pub value: &'a str,
    /// What there is of it already.
    pub current: &'a str,
}

/// What may stand there.
#[derive(Default)]
pub struct Offer {
    /// Values, with what they are. Those that do not begin as what is there already are left out for it.
    pub values: Vec<Value>,
    /// Whether it may be a path, too.
    pub paths: Paths,
}

/// One value.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Value {
    /// As it is meant; a shell quotes it.
    pub text: String,
    /// What that is, for a person; empty if the value says it.
    pub about: String,
}

/// Whether the shell is to offer paths, of which it knows more.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Paths {
    /// None.
    #[default]
    None,
    /// Those of files.
    Files,
    /// Those of directories.
    Directories,
}

/// Answers what the values of an argument may be.
pub type Ask = dyn Fn(&Asked<'_>) -> Offer + Send + Sync;

impl Value {
    /// One that says what it is.
    pub fn plain(text: impl Into<String>) -> Value {
        Value { text: text.into(), about: String::new() }
    }

    /// One with a word on it.
    pub fn with(text: impl Into<String>, about: impl Into<String>) -> Value {
        Value { text: text.into(), about: about.into() }
    }
}

/// What the last of the words may be. The first is the program itself.
pub fn complete(command: Command, words: &[String], ask: &Arc<Ask>) -> Offer {
    let paths = Arc::new(AtomicU8::new(Paths::None as u8));
    let mut command = with_completers(command, "", ask, &paths);
    let Some(last) = words.last() else { return Offer::default() };
    let arguments: Vec<OsString> = words.iter().map(OsString::from).collect();
    let found = by_clap(&mut command, arguments, words.len() - 1, None).unwrap_or_default();
    let mut values = Vec::new();
    for candidate in found {
        // There are many options, and who wants one writes its dash.
        let is_option = candidate.get_id().is_some_and(|id| id.starts_with("arg::"));
        let about = candidate.get_help().map(|help| help.to_string()).unwrap_or_default();
        let text = candidate.get_value().to_string_lossy().into_owned();
        let about = about.lines().next().unwrap_or_default().to_owned();
        let value = Value { text, about };
        // What a terminal does not show as it is can't be chosen there.
        let is_seen = !value.text.contains(is_hidden) && !value.about.contains(is_hidden);
        if is_seen && (!is_option || last.starts_with('-')) && !values.contains(&value) {
            values.push(value);
        }
    }
    let paths = match paths.load(Ordering::Relaxed) {
        it if it == Paths::Files as u8 => Paths::Files,
        it if it == Paths::Directories as u8 => Paths::Directories,
        _ => Paths::None,
    };
    Offer { values, paths }
}

/// The commands below those that stand behind `man`.
pub fn commands(program: &Command, words: &[String]) -> Vec<Value> {
    let before = words.split_last().map_or(&[][..], |(_, before)| before);
    let named = before.iter().skip_while(|word| *word != "man").skip(1);
    let mut names = named.filter(|word| !word.starts_with('-'));
    let at = names.try_fold(program, |at, name| at.find_subcommand(name));
    let below = at.into_iter().flat_map(Command::get_subcommands);
    let about = |it: &Command| it.get_about().map(ToString::to_string).unwrap_or_default();
    below.map(|it| Value::with(it.get_name(), about(it))).collect()
}

fn with_completers(command: Command, path: &str, ask: &Arc<Ask>, paths: &Arc<AtomicU8>) -> Command {
    let command = command.mut_args(|argument| match is_asked(&argument) {
        true => {
            let completer = completer(&argument, path, ask, paths);
            argument.add(completer)
        }
        false => argument,
    });
    command.mut_subcommands(|it| {
        let path = under(path, it.get_name());
        with_completers(it, &path, ask, paths)
    })
}

/// Whether it takes a value, and clap does not know which.
pub fn is_asked(argument: &Arg) -> bool {
    argument.get_action().takes_values() && argument.get_possible_values().is_empty()
}

/// What help calls the value of an argument.
pub fn value_of(argument: &Arg) -> String {
    let named = argument.get_value_names().and_then(|names| names.first());
    named.map_or_else(|| argument.get_id().as_str().to_uppercase(), |name| name.to_string())
}

fn completer(
    argument: &Arg,
    path: &str,
    ask: &Arc<Ask>,
    paths: &Arc<AtomicU8>,
) -> ArgValueCompleter {
    let (ask, paths) = (Arc::clone(ask), Arc::clone(paths));
    let (path, id) = (path.to_owned(), argument.get_id().to_string());
    let value = value_of(argument);
    ArgValueCompleter::new(move |current: &std::ffi::OsStr| {
        let current = current.to_string_lossy();
        let offer = ask(&Asked { path: &path, id: &id, value: &value, current: &current });
        if offer.paths != Paths::None {
            paths.store(offer.paths as u8, Ordering::Relaxed);
        }
        let begin = |value: &Value| value.text.starts_with(&*current);
        let candidate = |value: Value| {
            let about = Some(value.about).filter(|about| !about.is_empty()).map(Into::into);
            CompletionCandidate::new(value.text).help(about)
        };
        offer.values.into_iter().filter(begin).map(candidate).collect()
    })
}
