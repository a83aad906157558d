//! How commands are told of: the examples in their help, and their man pages. cilmark and cilmark-sync have them from
//! here, each from a text of its own.

pub mod check;
pub mod complete;
pub mod man;
mod notes;
#[cfg(test)]
mod tests;

pub use notes::{Guide, Notes};

use clap::Command;

/// Columns of a comment: with what stands before it, it fits a terminal of 80.
const COMMENT: usize = 76;

/// Commands whose `--help` has what the guide says of them, and examples.
pub fn with_guide(command: Command, guide: &Guide) -> Command {
    add(command, guide, "")
}

fn add(mut command: Command, guide: &Guide, path: &str) -> Command {
    let Notes { text, examples, .. } = guide.of(path);
    if !text.is_empty() {
        let about = command.get_about().map(ToString::to_string).unwrap_or_default();
        command = command.long_about(format!("{about}\n\n{}", text.join("\n\n")));
    }
    if !examples.is_empty() {
        let style = *command.get_styles().get_header();
        let mut text = format!("{style}Examples:{style:#}");
        for example in examples {
            comment(example.does).iter().for_each(|line| text += &format!("\n  # {line}"));
            example.lines.iter().for_each(|line| text += &format!("\n  {line}"));
        }
        command = command.after_long_help(text);
    }
    command.mut_subcommands(|it| {
        let path = under(path, it.get_name());
        add(it, guide, &path)
    })
}

/// The lines of a comment. clap would wrap a long one where a terminal ends, and begin the next line as a command.
fn comment(text: &str) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in text.split(' ') {
        match lines.last_mut() {
            Some(line) if line.chars().count() + 1 + word.chars().count() <= COMMENT => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines
}

/// The path of a subcommand, such as `policy add`.
fn under(path: &str, name: &str) -> String {
    if path.is_empty() { name.to_owned() } else { format!("{path} {name}") }
}
