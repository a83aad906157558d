//! `cilmark doctor`.

use std::process::ExitCode;

use anyhow::Result;

use super::Context;
use crate::ops::doctor;
use crate::output;

#[derive(clap::Args)]
pub struct Args {}

/// Status 1 if there is a problem.
pub fn run(context: &Context, _args: Args) -> Result<ExitCode> {
    output::findings(&doctor::examine(&context.root, context.netns), context.json)
}
