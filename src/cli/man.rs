//! `cilmark man`.

use std::path::PathBuf;

use anyhow::Result;
use clap::builder::{PathBufValueParser, TypedValueParser};

use super::guide::man;
use super::{command, guide, path_of};

#[derive(clap::Args)]
pub struct Args {
    /// Of which command, such as `policy add`; of cilmark itself if left out
    #[arg(value_name = "COMMAND")]
    of: Vec<String>,
    /// Write the pages of all commands into this directory instead, which is made if it is not there
    #[arg(
        long,
        value_name = "DIR",
        value_parser = PathBufValueParser::new().map(path_of),
        conflicts_with = "of"
    )]
    dir: Option<PathBuf>,
}

pub fn run(args: &Args) -> Result<()> {
    let pages = man::pages(command(), &guide())?;
    match &args.dir {
        Some(dir) => man::write(&pages, dir),
        None => man::print(&pages, &args.of.join(" ")),
    }
}
