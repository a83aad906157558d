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

/// The help of commands that the whole line `--help` shows has their examples, too.
pub fn with_examples(command: Command, guide: &Guide) -> Command {
    add_examples(command, guide, "")
}

fn add_examples(command: Command, guide: &Guide, path: &str) -> Command {
    let examples = guide.of(path).examples;
    let command = match examples.is_empty() {
        true => command,
        false => {
            let style = *command.get_styles().get_header();
            let mut text = format!("{style}Examples:{style:#}");
            for example in examples {
                text += &format!("\n  # {}", example.does);
                example.lines.iter().for_each(|line| text += &format!("\n  {line}"));
            }
            command.after_long_help(text)
        }
    };
    command.mut_subcommands(|it| {
        let path = under(path, it.get_name());
        add_examples(it, guide, &path)
    })
}

/// The path of a subcommand, such as `policy add`.
fn under(path: &str, name: &str) -> String {
    if path.is_empty() { name.to_owned() } else { format!("{path} {name}") }
}
