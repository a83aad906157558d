//! `cilmark detach`.

use anyhow::Result;

use super::{Context, all_of};
use crate::model::endpoint::Selector;
use crate::model::owner::Owner;
use crate::ops::detach::{self, Request};
use crate::output;

#[derive(clap::Args)]
pub struct Args {
    /// Names of attached devices, or id:N
    #[arg(value_name = "DEV", required_unless_present_any = ["all", "owner", "stale"])]
    devices: Vec<Selector>,
    /// Everything; with --netns, everything there
    #[arg(long, conflicts_with_all = ["devices", "owner", "stale"])]
    all: bool,
    /// All that was attached with this --owner, stale or not
    #[arg(long, value_name = "TEXT", conflicts_with_all = ["devices", "stale"])]
    owner: Option<Owner>,
    /// All that `status` calls stale: its device is gone, or lacks a program
    #[arg(long, conflicts_with = "devices")]
    stale: bool,
}

pub fn run(context: &Context, args: Args) -> Result<()> {
    let request = match &args.owner {
        Some(owner) => Request::Of(owner),
        None if args.all => Request::All,
        None if args.stale => Request::Stale,
        None => Request::Named(&args.devices),
    };
    let report = detach::detach_all(&context.root, &request, context.netns)?;
    if let Some(nothing) = report.nothing {
        output::note(&nothing);
    }
    for device in report.detached {
        output::note(&format!("detached {device}"));
    }
    all_of(report.errors)
}
