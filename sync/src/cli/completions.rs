//! `cilmark-sync completions`, which cilmark asks, too, for lines of `cilmark cluster`.

use std::path::Path;
use std::sync::Arc;

use anyhow::Result;
use cilmark::cli::guide::complete::shell::Shell;
use cilmark::cli::guide::complete::{Ask, Asked, Offer, Paths, Value, complete};
use cilmark::output;
use cilmark::state::pin::Root;

use super::command;
use crate::service::state::State;

#[derive(clap::Args)]
pub struct Args {
    /// The shell that the script is for
    shell: Shell,
    /// What the script asks with: a line, whose last word may become what is printed then
    #[arg(last = true, value_name = "LINE")]
    line: Vec<String>,
}

/// Prints the script; or, if that asks, what the last word of the line may be, and nothing where that can't be told.
pub fn run(root: &Root, args: &Args) -> Result<()> {
    if args.line.is_empty() {
        return output::lines(&args.shell.script("cilmark-sync"));
    }
    let words = args.shell.words(&args.line);
    let offer = complete(command(), &words, &asks(root.path()));
    output::as_it_is(&args.shell.answer(&args.line, &offer))
}

fn asks(root: &Path) -> Arc<Ask> {
    let root = root.to_owned();
    Arc::new(move |asked: &Asked<'_>| offer(&root, asked))
}

fn offer(root: &Path, asked: &Asked<'_>) -> Offer {
    let values = match asked.value {
        "CLUSTER" => clusters(root),
        "COMMAND" => command().get_subcommands().map(|it| Value::plain(it.get_name())).collect(),
        _ => Vec::new(),
    };
    let paths = match asked.value {
        "FILE" => Paths::Files,
        "DIR" => Paths::Directories,
        _ => Paths::None,
    };
    Offer { values, paths }
}

/// Those that are read.
fn clusters(root: &Path) -> Vec<Value> {
    let state = State::read(&Root::new(root.to_owned())).ok().flatten();
    let clusters = state.map(|state| state.clusters).unwrap_or_default();
    clusters.into_iter().map(|it| Value::plain(it.name)).collect()
}
