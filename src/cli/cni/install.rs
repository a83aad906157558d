//! `cilmark cni install`.

use std::path::PathBuf;

use anyhow::Result;
use clap::builder::{PathBufValueParser, TypedValueParser};

use super::NAME;
use crate::cli::path_of;
use crate::ops::plugin::{self, Link};
use crate::output;

/// A network whose workloads enforce their rules, once something gives them an identity.
const NETWORK: &str = include_str!("network.conflist");

#[derive(clap::Args)]
pub struct Args {
    /// Where the runtime looks for plugins
    #[arg(
        long,
        value_name = "DIR",
        value_parser = PathBufValueParser::new().map(path_of),
        default_value = "/opt/cni/bin"
    )]
    dir: PathBuf,
    /// Take the link away again
    #[arg(long)]
    undo: bool,
}

pub fn run(args: &Args) -> Result<()> {
    let path = args.dir.join(NAME);
    let at = path.display();
    if args.undo {
        let said = if plugin::remove(&path)? { "removed" } else { "there is no" };
        output::note(&format!("{said} {at}"));
        return Ok(());
    }
    match plugin::link(&path)? {
        Link::Made(binary) => output::note(&format!("linked {at} to {}", binary.display())),
        Link::WasThere(binary) => {
            output::note(&format!("{at} was linked to {} before", binary.display()));
        }
    }
    output::note("a network with it, such as /etc/cni/net.d/10-cilmark.conflist:");
    output::lines(NETWORK)
}
