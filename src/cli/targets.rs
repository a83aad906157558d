//! DEV of the commands that change or show a policy: an endpoint, or all NICs as `host`.

use std::str::FromStr;
use std::time::Duration;

use anyhow::{Error, Result, ensure};

use super::{Context, all_of};
use crate::model::endpoint::{Role, Selector};
use crate::state::policy::PolicyMaps;
use crate::state::registry::Endpoint;

/// Which endpoints.
#[derive(Debug, Clone)]
pub enum Targets {
    /// Every NIC.
    Host,
    /// This one.
    One(Selector),
}

impl FromStr for Targets {
    type Err = Error;

    fn from_str(text: &str) -> Result<Targets> {
        match text {
            "host" => Ok(Targets::Host),
            _ => Ok(Targets::One(text.parse()?)),
        }
    }
}

impl Targets {
    /// The endpoints, one at least.
    pub fn select(&self, context: &Context) -> Result<Vec<Endpoint>> {
        let mut endpoints = match self {
            Targets::One(selector) => {
                let found = context.named(std::slice::from_ref(selector))?;
                let id = found.select(selector)?.id;
                let mut endpoints = found.endpoints;
                endpoints.retain(|endpoint| endpoint.id == id);
                endpoints
            }
            Targets::Host => {
                let found = context.endpoints()?;
                // One that can't be read may be a NIC, and all are meant.
                all_of(found.errors)?;
                found.endpoints
            }
        };
        if matches!(self, Targets::Host) {
            endpoints.retain(|nic| nic.role() == Some(Role::Netdev) && !nic.stale);
        }
        ensure!(
            !endpoints.is_empty(),
            "`host` is every NIC that is attached as a netdev, and there is none"
        );
        Ok(endpoints)
    }
}

/// Fails if one of them is dead: what would be said of its rules would be true of no packet.
pub fn check_alive(endpoints: &[Endpoint]) -> Result<()> {
    endpoints.iter().try_for_each(Endpoint::check_alive)
}

/// The rules of an endpoint.
pub fn policy_of(context: &Context, endpoint: &Endpoint) -> Result<PolicyMaps> {
    PolicyMaps::of(&context.root, endpoint.id, endpoint.map_ids())
}

/// `42 s`, as people read it; rounded up, so that nothing is left only when nothing is.
pub fn time(time: Duration) -> String {
    format!("{} s", seconds(time))
}

/// Whole seconds, rounded up.
pub fn seconds(time: Duration) -> u64 {
    time.as_millis().div_ceil(1000) as u64
}
