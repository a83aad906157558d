//! `cilmark cluster doctor`.

use std::process::ExitCode;

use anyhow::Result;
use cilmark::model::finding::Level;
use cilmark::output;
use clap::builder::{PossibleValuesParser, TypedValueParser};

use super::process::wait_for;
use super::{Context, state};
use crate::doctor::{Asked, examine};

#[derive(clap::Args)]
pub struct Args {
    /// Only this cluster
    cluster: Option<String>,
    /// Show only findings that are at least so bad; status and counts are of all
    #[arg(long, value_name = "LEVEL", default_value = "ok",
          value_parser = PossibleValuesParser::new(Level::NAMES).try_map(|it| it.parse::<Level>()))]
    level: Level,
}

/// Status 1 if there is a problem.
pub fn run(context: &Context, args: Args) -> Result<ExitCode> {
    let asked = Asked {
        config: &context.config,
        root: &context.root,
        only: args.cluster.as_deref(),
        is_running: state::is_running(&context.root),
    };
    let findings = wait_for(examine(&asked))?;
    output::findings(&findings, args.level, context.json)
}
