//! `cilmark confirm`.

use anyhow::{Context as _, Result};

use super::{Context, all_of};
use crate::ops::targets::Targets;
use crate::ops::{self, confirm};
use crate::output;

#[derive(clap::Args)]
pub struct Args {
    /// An attached device, id:N, `host` for all NICs that wait for it, or @ID for the rules of an identity
    #[arg(value_name = "DEV")]
    device: Targets,
}

pub fn run(context: &Context, args: Args) -> Result<()> {
    let _lock = ops::lock(&context.root)?.context("nothing is attached")?;
    let report = confirm::confirm(&context.root, &args.device, context.netns)?;
    for device in report.confirmed {
        output::note(&format!("confirmed {device}"));
    }
    all_of(report.errors)
}
