//! Takes endpoints off their devices, and what nobody needs any more with the last of them.

use std::collections::BTreeMap;

use anyhow::Result;
use log::warn;

use crate::kernel::{hooks, netns};
use crate::model::endpoint::{EndpointId, Role, Scope};
use crate::program::attach;
use crate::state::addresses::Addresses;
use crate::state::delivery;
use crate::state::generations::Generations;
use crate::state::ipcache::Ipcache;
use crate::state::layout;
use crate::state::maps::Identities;
use crate::state::nics::Nics;
use crate::state::pin::Root;
use crate::state::registry::{Endpoint, shared};

/// Takes an endpoint off its device and forgets its addresses; also what is left of a stale one.
pub fn detach(root: &Root, endpoint: &Endpoint) -> Result<()> {
    // What can't be opened fails before anything has changed.
    let addresses = Addresses::open(root)?;
    let nics = Nics::open(root)?;
    let generations = Generations::open(root)?;
    let pins = root.endpoint(endpoint.id);
    attach::detach_links(&pins);
    let off = netns::within(endpoint.netns, || {
        hooks::take_off_all_filters(endpoint.ifindex, &endpoint.map_ids())
    });
    // Its packets come without its mark now.
    if let Some(generations) = generations {
        generations.bump_endpoint(&endpoint.config);
    }
    off?;
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
    pins.remove()
}

/// The shared maps go with the last endpoint, unless they hold something that the operator put there.
pub fn remove_unused_root(root: &Root) -> Result<()> {
    let has_endpoints = !root.endpoints()?.is_empty();
    if !has_endpoints {
        layout::remove_former(root)?;
    }
    let used = has_endpoints
        || Ipcache::open(root)?.is_some_and(|ipcache| !ipcache.is_empty())
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
pub fn check_others(root: &Root, chosen: &BTreeMap<EndpointId, &Endpoint>) -> Result<()> {
    if chosen.values().any(|endpoint| shared::check(root, endpoint).is_err()) {
        return Ok(());
    }
    shared::check_one(root, &chosen.keys().copied().collect())
}
