//! Takes endpoints off their devices, and what nobody needs any more with the last of them.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Error, Result, bail, ensure};
use log::warn;

use super::{check_room, targets};
use crate::kernel::{hooks, netns};
use crate::model::endpoint::{EndpointId, Role, Scope, Selector};
use crate::model::owner::Owner;
use crate::program::attach;
use crate::state::addresses::Addresses;
use crate::state::conntrack::Conntrack;
use crate::state::delivery;
use crate::state::devices;
use crate::state::id_labels::IdLabels;
use crate::state::id_rules::IdRules;
use crate::state::ipcache::Ipcache;
use crate::state::layout;
use crate::state::maps::Identities;
use crate::state::nics::Nics;
use crate::state::pin::Root;
use crate::state::registry::{Endpoint, Found, shared};
use crate::state::spec;

/// What to take off.
pub enum Request<'a> {
    /// Everything.
    All,
    /// These.
    Named(&'a [Selector]),
    /// All of an owner, stale ones, too.
    Of(&'a Owner),
    /// What is stale: its device is gone, or lacks a program.
    Stale,
}

/// What has come of it.
#[derive(Default)]
pub struct Report {
    /// That nothing was there, or why it can't be seen.
    pub nothing: Option<String>,
    /// The devices that are free now.
    pub detached: Vec<String>,
    /// Why others are not.
    pub errors: Vec<Error>,
}

/// Takes endpoints off their devices; only those of a namespace, if one is given. It holds the lock itself, since
/// to detach everything helps, also against what this version does not know. Goes on past a failure.
pub fn detach_all(root: &Root, request: &Request<'_>, netns: Option<u64>) -> Result<Report> {
    check_room()?;
    let Some(_lock) = root.lock()? else {
        let is_fine = matches!(request, Request::All | Request::Stale);
        ensure!(is_fine, "nothing is attached: {} is not there", root.path().display());
        let nothing = root.blindness()?.unwrap_or_else(|| "nothing is attached".to_owned());
        return Ok(Report { nothing: Some(nothing), ..Report::default() });
    };
    let known = layout::check(root).and_then(|()| shared::restore(root));
    let mut found = match request {
        Request::All => targets::all(root, netns)?,
        Request::Named(selectors) => {
            known?;
            targets::named(root, netns, selectors)?
        }
        Request::Of(_) | Request::Stale => {
            known?;
            targets::all(root, netns)?
        }
    };
    let mut report = Report { errors: std::mem::take(&mut found.errors), ..Report::default() };
    let chosen = report.choose(root, request, &found);
    match request {
        Request::All => {}
        Request::Of(owner) if chosen.is_empty() && report.errors.is_empty() => {
            bail!(
                "nothing is attached for the owner `{owner}`; `cilmark status` shows whose what is"
            )
        }
        Request::Stale if chosen.is_empty() => report.nothing = Some("nothing is stale".to_owned()),
        _ => check_others(root, &chosen)?,
    }
    report.detach(root, chosen.into_values());
    Ok(report)
}

impl Report {
    /// Those that are meant.
    fn choose<'a>(
        &mut self,
        root: &Root,
        request: &Request<'_>,
        found: &'a Found,
    ) -> BTreeMap<EndpointId, &'a Endpoint> {
        let is_meant = |endpoint: &Endpoint| -> Result<bool> {
            Ok(match request {
                Request::All => true,
                Request::Stale => endpoint.stale,
                Request::Of(owner) => {
                    spec::owner(root, endpoint)?.is_some_and(|it| it.is_meant_by(owner))
                }
                Request::Named(_) => false,
            })
        };
        let mut chosen = BTreeMap::new();
        if let Request::Named(selectors) = request {
            for selector in *selectors {
                match found.select(selector) {
                    Ok(endpoint) => _ = chosen.insert(endpoint.id, endpoint),
                    Err(error) => self.errors.push(error),
                }
            }
        }
        for endpoint in &found.endpoints {
            match is_meant(endpoint) {
                Ok(true) => _ = chosen.insert(endpoint.id, endpoint),
                Ok(false) => {}
                Err(error) => self.errors.push(error),
            }
        }
        chosen
    }

    fn detach<'a>(&mut self, root: &Root, endpoints: impl Iterator<Item = &'a Endpoint>) {
        let mut scopes = BTreeSet::new();
        for endpoint in endpoints {
            match detach(root, endpoint) {
                Ok(()) => {
                    self.detached.push(endpoint.device.clone());
                    scopes.extend(own_scope(endpoint));
                }
                Err(error) => {
                    self.errors.push(error.context(format!("detach {}", endpoint.device)));
                }
            }
        }
        self.errors.extend(remove_unused_root(root).err());
        let forgotten = Conntrack::forget(root, &scopes);
        let context = "forget the flows of what is detached";
        self.errors.extend(forgotten.map_err(|error| error.context(context)).err());
    }
}

/// Takes an endpoint off its device and forgets its addresses; also what is left of a stale one.
pub fn detach(root: &Root, endpoint: &Endpoint) -> Result<()> {
    // What can't be opened fails before anything has changed.
    let addresses = Addresses::open(root)?;
    let nics = Nics::open(root)?;
    devices::taking_off(root, &endpoint.config, || {
        attach::detach_links(&root.endpoint(endpoint.id));
        netns::within(endpoint.netns, || {
            hooks::take_off_all_filters(endpoint.ifindex, &endpoint.map_ids())
        })
    })?;
    // The pins last: they are where another detach finds what a killed one has left.
    match (addresses, endpoint.role()) {
        (None, _) => {}
        (Some(addresses), Some(Role::Container)) => addresses.forget(endpoint.id, &[])?,
        (Some(addresses), _) => addresses.hand_on(endpoint.id)?,
    }
    delivery::set_callee(root, endpoint.id, None)?;
    if let Some(nics) = nics {
        nics.leave(endpoint.id, None)?;
    }
    devices::remove(root, endpoint.id)
}

/// The shared maps go with the last endpoint, unless they hold something that the operator put there.
pub fn remove_unused_root(root: &Root) -> Result<()> {
    let has_endpoints = !root.endpoints()?.is_empty();
    if !has_endpoints {
        layout::remove_former(root)?;
    }
    let used = has_endpoints
        || Ipcache::open(root)?.is_some_and(|ipcache| !ipcache.is_empty())
        || IdRules::open(root)?
            .map_or(Ok(true), |rules| rules.is_empty())
            .map(|is_empty| !is_empty)?
        || IdLabels::open(root)?.is_some_and(|labels| !labels.is_empty())
        || match Identities::open(root)? {
            Some(identities) => identities.names()?.declared().next().is_some(),
            None => false,
        };
    if used { Ok(()) } else { layout::remove(root) }
}

/// A command that failed leaves no maps that it made.
pub fn leave_nothing_of_a_failure<T>(root: &Root, result: Result<T>) -> Result<T> {
    if result.is_err()
        && let Err(error) = remove_unused_root(root)
    {
        warn!("clean up {}: {error:#}", root.path().display());
    }
    result
}

/// Whose flows are a container's alone; those of NICs are all NICs'.
pub fn own_scope(endpoint: &Endpoint) -> Option<Scope> {
    (endpoint.role() == Some(Role::Container)).then(|| endpoint.config.scope())
}

/// Fails if others would go on believing in the addresses of these.
fn check_others(root: &Root, chosen: &BTreeMap<EndpointId, &Endpoint>) -> Result<()> {
    if chosen.values().any(|endpoint| shared::check(root, endpoint).is_err()) {
        return Ok(());
    }
    shared::check_one(root, &chosen.keys().copied().collect())
}
