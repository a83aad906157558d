//! Which endpoints an operation is about.

use std::slice;
use std::str::FromStr;

use anyhow::{Error, Result, anyhow, ensure};

use super::failures::all_of;
use crate::model::endpoint::{Role, Selector};
use crate::model::identity::Identity;
use crate::model::spec::IdentityRef;
use crate::state::maps::names;
use crate::state::pin::Root;
use crate::state::policy::PolicyMaps;
use crate::state::registry::{Endpoint, Found};

/// An endpoint, all NICs as `host`, or an identity with all endpoints that carry it.
#[derive(Debug, Clone)]
pub enum Targets {
    /// Every NIC.
    Host,
    /// This one, and so all that carry it.
    Identity(IdentityRef),
    /// This one.
    One(Selector),
}

impl FromStr for Targets {
    type Err = Error;

    fn from_str(text: &str) -> Result<Targets> {
        match text.strip_prefix('@') {
            Some(identity) => {
                ensure!(
                    !identity.is_empty(),
                    "an identity is missing behind the @: a number or a name"
                );
                let identity = identity
                    .parse()
                    .map_err(|error| anyhow!("identity `{identity}`: {error:#}"))?;
                Ok(Targets::Identity(identity))
            }
            None if text == "host" => Ok(Targets::Host),
            None => Ok(Targets::One(text.parse()?)),
        }
    }
}

impl Targets {
    /// The endpoints, at least one; only those of a namespace, if one is given. Of an identity all that carry it and are not
    /// stale, wherever they are, if there are any.
    pub fn select(&self, root: &Root, netns: Option<u64>) -> Result<Vec<Endpoint>> {
        let mut endpoints = match self {
            Targets::One(selector) => {
                let found = named(root, netns, slice::from_ref(selector))?;
                let id = found.select(selector)?.id;
                let mut endpoints = found.endpoints;
                endpoints.retain(|endpoint| endpoint.id == id);
                endpoints
            }
            Targets::Host => {
                let found = all(root, netns)?;
                // One that can't be read may be a NIC, and all are meant.
                all_of(found.errors)?;
                found.endpoints
            }
            Targets::Identity(identity) => {
                let identity = resolve(root, identity)?;
                return Ok(alive(root)?.into_iter().filter(|it| it.carries(identity)).collect());
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

    /// The same. Fails if one of them is dead: what would be said of its rules would be true of no packet.
    pub fn select_alive(&self, root: &Root, netns: Option<u64>) -> Result<Vec<Endpoint>> {
        let endpoints = self.select(root, netns)?;
        endpoints.iter().try_for_each(Endpoint::check_alive)?;
        Ok(endpoints)
    }
}

/// Who that is. An error if no endpoint can carry it.
pub fn resolve(root: &Root, identity: &IdentityRef) -> Result<Identity> {
    let identity = identity.resolve(&names(root)?)?;
    ensure!(
        identity != Identity::UNKNOWN && identity <= Identity::STAMPABLE_MAX,
        "no endpoint can carry identity {identity}: those of endpoints are 1 to {}",
        Identity::STAMPABLE_MAX
    );
    Ok(identity)
}

/// All endpoints of a root that are not stale, wherever they are. Fails if one can't be read.
pub fn alive(root: &Root) -> Result<Vec<Endpoint>> {
    let found = Found::all(root)?;
    all_of(found.errors)?;
    Ok(found.endpoints.into_iter().filter(|endpoint| !endpoint.stale).collect())
}

/// All endpoints; only those of a namespace, if one is given.
pub fn all(root: &Root, netns: Option<u64>) -> Result<Found> {
    Ok(narrowed(Found::all(root)?, netns))
}

/// Those that have these names, and perhaps some more; only those of a namespace, if one is given.
pub fn named(root: &Root, netns: Option<u64>, selectors: &[Selector]) -> Result<Found> {
    Ok(narrowed(Found::named(root, selectors)?, netns))
}

fn narrowed(mut found: Found, netns: Option<u64>) -> Found {
    if let Some(netns) = netns {
        found.narrow(netns);
    }
    found
}

/// The maps of an endpoint's rules.
pub fn policy_of(root: &Root, endpoint: &Endpoint) -> Result<PolicyMaps> {
    PolicyMaps::of(root, endpoint.id, endpoint.map_ids())
}
