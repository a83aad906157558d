//! `cilmark-sync man`.

use std::io;
use std::path::PathBuf;

use anyhow::Result;
use cilmark::cli::guide::man::{self, Page};

use super::{command, guide};

#[derive(clap::Args)]
pub struct Args {
    /// Of which command, such as `cluster init`; of cilmark-sync itself if left out
    #[arg(value_name = "COMMAND")]
    of: Vec<String>,
    /// Write the pages of all commands into this directory instead, which is made if it is not there
    #[arg(long, value_name = "DIR", conflicts_with = "of")]
    dir: Option<PathBuf>,
}

pub fn run(args: &Args) -> Result<()> {
    match &args.dir {
        Some(dir) => man::write(&pages()?, dir),
        None => man::print(&pages()?, &args.of.join(" ")),
    }
}

/// Those of this program: the page of `cilmark cluster` itself is cilmark's.
pub fn pages() -> io::Result<Vec<Page>> {
    let mut pages = man::pages(command(), &guide())?;
    pages.retain(|page| page.path != "cluster");
    Ok(pages)
}
