//! `cilmark cluster doctor`.

use std::process::ExitCode;

use anyhow::Result;
use cilmark::output;

use super::process::wait_for;
use super::{Context, state};
use crate::doctor::{Asked, Verdict, examine};

#[derive(clap::Args)]
pub struct Args {
    /// Only this cluster
    cluster: Option<String>,
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
    if context.json {
        output::json(&findings)?;
    } else {
        let rows: Vec<[String; 4]> = findings
            .iter()
            .map(|it| {
                let cure = it.cure.as_deref().map(|cure| format!("; {cure}")).unwrap_or_default();
                let says = format!("{}{cure}", it.says);
                [it.verdict.to_string(), it.of.clone(), it.check.to_owned(), says]
            })
            .collect();
        output::table(["", "OF", "CHECK", "FOUND"], &rows)?;
    }
    let has_problem = findings.iter().any(|it| it.verdict == Verdict::Problem);
    Ok(if has_problem { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}
