//! `cilmark doctor`.

use std::process::ExitCode;

use anyhow::Result;
use clap::builder::{PossibleValuesParser, TypedValueParser};

use super::Context;
use crate::model::finding::{Finding, Level};
use crate::ops::doctor;
use crate::output;

/// The arguments.
#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    shown: Shown,
}

/// Which findings to print, of any doctor.
#[derive(clap::Args)]
pub struct Shown {
    /// Show only findings that are at least so bad; status and counts are of all
    #[arg(long, value_name = "LEVEL", default_value = "ok", value_parser = levels())]
    level: Level,
}

fn levels() -> impl TypedValueParser<Value = Level> {
    PossibleValuesParser::new(["ok", "warning", "problem"]).map(|level| match level.as_str() {
        "problem" => Level::Problem,
        "warning" => Level::Warning,
        _ => Level::Ok,
    })
}

impl Shown {
    /// Prints them. Status 1 if there is a problem, shown or not.
    pub fn print(&self, findings: &[Finding], as_json: bool) -> Result<ExitCode> {
        output::findings(findings, self.level, as_json)
    }
}

/// Status 1 if there is a problem.
pub fn run(context: &Context, args: Args) -> Result<ExitCode> {
    args.shown.print(&doctor::examine(&context.root, context.netns), context.json)
}
