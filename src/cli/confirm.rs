//! `cilmark confirm`.

use anyhow::{Context as _, Result, bail, ensure};

use super::targets::{self, Targets};
use super::{Context, all_of};
use crate::model::policing::{Confirmation, Fallback};
use crate::output;
use crate::state::registry::Endpoint;

#[derive(clap::Args)]
pub struct Args {
    /// An attached device, id:N, or `host` for all NICs that wait for it
    #[arg(value_name = "DEV")]
    device: Targets,
}

pub fn run(context: &Context, args: Args) -> Result<()> {
    let _lock = context.lock()?.context("nothing is attached")?;
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
        match confirm(endpoint) {
            Ok(()) => output::note(&format!("confirmed {}", endpoint.device)),
            Err(error) => failures.push(error),
        }
    }
    all_of(failures)
}

fn confirm(endpoint: &Endpoint) -> Result<()> {
    let device = &endpoint.device;
    match endpoint.confirmation()? {
        Confirmation::Pending(..) => endpoint.confirm_by(None),
        Confirmation::None => bail!("{device} has nothing to confirm"),
        Confirmation::Over(Fallback::Audit) => bail!(
            "too late: {device} has fallen back and only audits; `cilmark attach {device} --policy \
             enforce --confirm 60s …` tries again"
        ),
        Confirmation::Over(Fallback::Rules) => bail!(
            "too late: {device} has fallen back to the rules before the last change, which \
             `cilmark policy list {device}` shows; make the change again"
        ),
    }
}
