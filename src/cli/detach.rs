//! `cilmark detach`.

use anyhow::Result;

use super::{Context, all_of};
use crate::model::endpoint::Selector;
use crate::ops::detach::{self, Request};
use crate::output;

#[derive(clap::Args)]
pub struct Args {
    /// Names of attached devices, or id:N
    #[arg(value_name = "DEV", required_unless_present = "all")]
    devices: Vec<Selector>,
    /// Everything; with --netns, everything there
    #[arg(long, conflicts_with = "devices")]
    all: bool,
}

pub fn run(context: &Context, args: Args) -> Result<()> {
    let request = if args.all { Request::All } else { Request::Named(&args.devices) };
    let report = detach::detach_all(&context.root, &request, context.netns)?;
    if let Some(nothing) = report.nothing {
        output::note(&nothing);
    }
    for device in report.detached {
        output::note(&format!("detached {device}"));
    }
    all_of(report.errors)
}
