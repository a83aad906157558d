//! `cilmark cluster doctor`.

use std::process::ExitCode;

use anyhow::Result;
use cilmark::cli::doctor::Shown;

use super::process::wait_for;
use super::{Context, state};
use crate::doctor::{Asked, examine};

#[derive(clap::Args)]
pub struct Args {
    /// Only this cluster
    cluster: Option<String>,
    #[command(flatten)]
    shown: Shown,
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
    args.shown.print(&findings, context.json)
}
