//! `cilmark doctor`.

use std::process::ExitCode;

use anyhow::Result;
use clap::builder::{PossibleValuesParser, TypedValueParser};

use super::Context;
use crate::model::finding::Level;
use crate::ops::doctor;
use crate::output;

#[derive(clap::Args)]
pub struct Args {
    /// Show only findings that are at least so bad; status and counts are of all
    #[arg(long, value_name = "LEVEL", default_value = "ok",
          value_parser = PossibleValuesParser::new(Level::NAMES).try_map(|it| it.parse::<Level>()))]
    level: Level,
}

/// Status 1 if there is a problem.
pub fn run(context: &Context, args: Args) -> Result<ExitCode> {
    output::findings(&doctor::examine(&context.root, context.netns), args.level, context.json)
}
