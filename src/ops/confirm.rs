//! Makes permanent what waits for somebody to confirm it.

use anyhow::{Error, Result, bail, ensure};

use super::apply::files::{Beside, Concerned, Standing};
use super::apply::{Attached, Now};
use super::identities;
use super::rules::{self, at};
use super::targets::{self, Targets};
use crate::kernel::netns;
use crate::model::enforcement::{Confirmation, Fallback};
use crate::model::identity::Identity;
use crate::model::origin::Origin;
use crate::model::shell::word;
use crate::state::pin::Root;
use crate::state::registry::Endpoint;

/// What has come of it.
pub struct Report {
    /// The devices of what is permanent now.
    pub confirmed: Vec<String>,
    /// Why others are not.
    pub errors: Vec<Error>,
}

/// Confirms an endpoint's last change; of `host` the changes of all NICs that wait for it, of an
/// identity that of its rules. Goes on past a failure.
pub fn confirm(root: &Root, targets: &Targets, netns: Option<u64>) -> Result<Report> {
    if let Targets::Identity(identity) = targets {
        return confirm_identity(root, targets::resolve(root, identity)?);
    }
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
        report.add(confirm_one(root, &endpoint).map(|()| endpoint.device));
    }
    Ok(report)
}

/// Confirms what an apply has changed, and then what is on trial beside a file: in this order, so that it can be repeated.
/// What somebody else tries out goes on waiting.
pub fn confirm_applied(root: &Root, beside: &Beside, netns: u64) -> Result<Report> {
    match beside.standing()? {
        Standing::Waits(_) => {}
        Standing::Settled => bail!("no apply of it waits to be confirmed"),
        Standing::Over => bail!("too late: what was applied has gone back; apply it again"),
    }
    let mut report = Report { confirmed: Vec::new(), errors: Vec::new() };
    let Concerned { devices, identities } = beside.concerned()?;
    for identity in identities.into_iter().map(Identity) {
        if rules::of_identity(root, identity)?.deadline().is_some() {
            report.add(confirm_identity(root, identity).map(|_| String::new()));
        }
    }
    for endpoint in targets::alive(root)? {
        let is_concerned = endpoint.netns == netns && devices.contains(&endpoint.device);
        if is_concerned && matches!(endpoint.confirmation()?, Confirmation::Pending(..)) {
            report.add(confirm_one(root, &endpoint).map(|()| endpoint.device.clone()));
        }
    }
    if report.errors.is_empty() {
        beside.confirm()?;
    }
    Ok(report)
}

/// Stops the clocks of all that the file has made: they are of an apply that was killed, or of which nobody was left to put
/// it back.
pub fn stop_clocks_of_file(root: &Root) -> Result<()> {
    let now = Now::of(root, netns::current()?)?;
    let is_files = |it: &&Attached| it.state.origin == Origin::File && !it.endpoint.stale;
    let devices = now.endpoints.iter().filter(is_files).map(|it| it.endpoint.device.clone());
    let identities = now.rules.keys().map(|identity| identity.0);
    stop_clocks(root, &Concerned { devices: devices.collect(), identities: identities.collect() })
}

/// Stops the clocks of what has been put back, since nothing is on trial there any more.
pub fn stop_clocks(root: &Root, concerned: &Concerned) -> Result<()> {
    let Concerned { devices, identities } = concerned;
    for identity in identities {
        rules::confirm(root, Identity(*identity))?;
    }
    let netns = netns::current()?;
    for endpoint in targets::alive(root)? {
        if endpoint.netns != netns || !devices.contains(&endpoint.device) {
            continue;
        }
        match endpoint.confirmation()? {
            Confirmation::Pending(..) => endpoint.confirm_by(None)?,
            Confirmation::Over(Fallback::Rules) => {
                rules::settle(root, &endpoint)?;
                endpoint.confirm_by(None)?;
            }
            _ => {}
        }
    }
    Ok(())
}

impl Report {
    fn add(&mut self, confirmed: Result<String>) {
        match confirmed {
            Ok(device) => self.confirmed.extend(Some(device).filter(|device| !device.is_empty())),
            Err(error) => self.errors.push(error),
        }
    }
}

/// Confirms the last change of an identity's rules, on all that carry it; also what a confirmation has begun that was
/// killed.
fn confirm_identity(root: &Root, identity: Identity) -> Result<Report> {
    let name = at(identity, &identities::names(root)?);
    match rules::confirm(root, identity)? {
        true => Ok(Report { confirmed: vec![name], errors: Vec::new() }),
        false => bail!(
            "{name} has nothing to confirm; `cilmark policy list {}` shows its rules: those of a change that nobody \
             has confirmed in time are gone again",
            word(&name)
        ),
    }
}

fn confirm_one(root: &Root, endpoint: &Endpoint) -> Result<()> {
    let (device, its) = (&endpoint.device, word(&endpoint.device));
    match endpoint.confirmation()? {
        Confirmation::Pending(fallback, _) => {
            let identity = Identity(endpoint.config.identity);
            let rules = rules::of_identity(root, identity)?;
            let Some(until_ns) = rules.deadline() else { return endpoint.confirm_by(None) };
            ensure!(
                fallback != Fallback::Rules || endpoint.confirmed_by()? != until_ns,
                "what is on trial are the rules of {device}'s identity: `cilmark confirm {}` confirms them, on all \
                 that carry it",
                word(&at(identity, &identities::names(root)?))
            );
            rules::wait_for_identity(root, endpoint, &rules)
        }
        Confirmation::None => bail!("{device} has nothing to confirm"),
        Confirmation::Over(Fallback::Audit) => bail!(
            "too late: {device} has fallen back and only audits; `cilmark attach {its} --keep \
             --confirm 60s` enforces again; `cilmark attach {its} --keep --policy audit` leaves it at audit"
        ),
        Confirmation::Over(Fallback::Rules) => bail!(
            "too late: {device} has fallen back to the rules before the last change, which \
             `cilmark policy list {its}` shows; make the change again, or `cilmark attach {its} --keep --yes` leaves \
             it as it is"
        ),
    }
}
