//! `cilmark confirm`.

use anyhow::{Context as _, Result, ensure};

use super::targets::{self, Targets};
use super::{Context, all_of};
use crate::model::enforcement::Confirmation;
use crate::ops;
use crate::ops::rules;
use crate::output;

#[derive(clap::Args)]
pub struct Args {
    /// An attached device, id:N, or `host` for all NICs that wait for it
    #[arg(value_name = "DEV")]
    device: Targets,
}

pub fn run(context: &Context, args: Args) -> Result<()> {
    let _lock = ops::lock(&context.root)?.context("nothing is attached")?;
    let mut endpoints = args.device.select(context)?;
    targets::check_alive(&endpoints)?;
    if matches!(args.device, Targets::Host) {
        let mut waiting = Vec::new();
        for endpoint in endpoints {
            if endpoint.confirmation()? != Confirmation::None {
                waiting.push(endpoint);
            }
        }
        endpoints = waiting;
        ensure!(!endpoints.is_empty(), "no NIC waits to be confirmed");
    }
    let mut failures = Vec::new();
    for endpoint in &endpoints {
        match rules::confirm(endpoint) {
            Ok(()) => output::note(&format!("confirmed {}", endpoint.device)),
            Err(error) => failures.push(error),
        }
    }
    all_of(failures)
}
