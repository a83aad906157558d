//! `cilmark-sync completions`, which cilmark asks, too, for lines of `cilmark cluster`.

use std::sync::Arc;

use anyhow::Result;
use cilmark::cli::guide::complete::shell::Shell;
use cilmark::cli::guide::complete::{self, Ask, Asked, Offer, Paths, Value};
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
    let offer = complete::complete(command(), &words, &asks(root, words.clone()));
    output::as_it_is(&args.shell.answer(&args.line, &offer))
}

fn asks(root: &Root, words: Vec<String>) -> Arc<Ask> {
    let root = root.clone();
    Arc::new(move |asked: &Asked<'_>| match asked.value {
        "CLUSTER" => Offer { values: clusters(&root), ..Offer::default() },
        "COMMAND" => Offer { values: complete::commands(&command(), &words), ..Offer::default() },
        "FILE" => Offer { paths: Paths::Files, ..Offer::default() },
        "DIR" => Offer { paths: Paths::Directories, ..Offer::default() },
        _ => Offer::default(),
    })
}

/// Those that are read.
fn clusters(root: &Root) -> Vec<Value> {
    let state = State::read(root).ok().flatten();
    let clusters = state.map(|state| state.clusters).unwrap_or_default();
    clusters.into_iter().map(|it| Value::plain(it.name)).collect()
}
