//! Makes permanent what waits for somebody to confirm it.

use anyhow::{Error, Result, bail, ensure};

use super::targets::Targets;
use crate::model::enforcement::{Confirmation, Fallback};
use crate::state::pin::Root;
use crate::state::registry::Endpoint;

/// What has come of it.
pub struct Report {
    /// The devices of what is permanent now.
    pub confirmed: Vec<String>,
    /// Why others are not.
    pub errors: Vec<Error>,
}

/// Confirms an endpoint's last change; of `host` the changes of all NICs that wait for it. Goes on past a failure.
pub fn confirm(root: &Root, targets: &Targets, netns: Option<u64>) -> Result<Report> {
    let mut endpoints = targets.select_alive(root, netns)?;
    if matches!(targets, Targets::Host) {
        let mut waiting = Vec::new();
        for endpoint in endpoints {
            if endpoint.confirmation()? != Confirmation::None {
                waiting.push(endpoint);
            }
        }
        endpoints = waiting;
        ensure!(!endpoints.is_empty(), "no NIC waits to be confirmed");
    }
    let mut report = Report { confirmed: Vec::new(), errors: Vec::new() };
    for endpoint in endpoints {
        match confirm_one(&endpoint) {
            Ok(()) => report.confirmed.push(endpoint.device),
            Err(error) => report.errors.push(error),
        }
    }
    Ok(report)
}

fn confirm_one(endpoint: &Endpoint) -> Result<()> {
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
