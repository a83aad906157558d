//! `cilmark man`.

use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Result, anyhow};
use clap::builder::{PathBufValueParser, TypedValueParser};

use super::guide::man;
use super::{cluster, command, guide, path_of};

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
    if let [first, _, ..] = args.of.as_slice()
        && first == "cluster"
    {
        return of_clusters(args);
    }
    let pages = man::pages(command(), &guide())?;
    match &args.dir {
        Some(dir) => man::write(&pages, dir),
        None => man::print(&pages, &args.of.join(" ")),
    }
}

/// Those are another program's, which prints them in the place of this one.
fn of_clusters(args: &Args) -> Result<()> {
    let program = cluster::find()?;
    let error = Command::new(&program).arg("man").args(&args.of).exec();
    Err(anyhow!("run {}: {error}", program.display()))
}
