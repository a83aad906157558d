use clap::Command;

use super::kinds::kind;
use super::line::Line;
use crate::cli::command;
use crate::cli::guide::complete::{is_asked, value_of};
use crate::state::pin::Root;

/// All arguments whose values clap does not know, with their commands.
fn asked(command: &Command, path: &str, found: &mut Vec<(String, String, String)>) {
    for argument in command.get_arguments().filter(|it| is_asked(it)) {
        found.push((path.to_owned(), argument.get_id().to_string(), value_of(argument)));
    }
    for it in command.get_subcommands() {
        asked(it, format!("{path} {}", it.get_name()).trim_start(), found);
    }
}

#[test]
fn it_is_known_of_every_argument_what_it_takes() {
    let mut found = Vec::new();
    asked(&command(), "", &mut found);
    assert!(found.len() > 50, "{found:?}");
    found.retain(|(path, id, value)| kind(path, id, value).is_none());
    assert_eq!(found, [], "name them in kinds.rs");
}

fn line(words: &str) -> Line {
    let words = words.split(' ').map(str::to_owned).collect();
    Line::of(Root::new("/default".into()), words)
}

#[test]
fn the_line_itself_says_where_the_pins_are() {
    for (words, root) in [
        ("c status ", "/default"),
        ("c --bpffs /a status ", "/a"),
        ("c status --bpffs=/a --bpffs /b ", "/b"),
        ("c status --bpffs /a", "/default"),
        ("c status --bpffs relative ", "/default"),
    ] {
        assert_eq!(line(words).root.path().to_str(), Some(root), "{words}");
    }
}

#[test]
fn the_command_stands_behind_global_options() {
    for (words, command) in [
        ("c ", None),
        ("c cluster", None),
        ("c cluster ", Some("cluster")),
        ("c --netns cluster ", None),
        ("c -v --netns x --json cluster st", Some("cluster")),
    ] {
        assert_eq!(line(words).command(), command, "{words}");
    }
}
