//! `cilmark detach`.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Result, ensure};
use log::warn;

use super::{Context, all_of, check_room};
use crate::kernel::hooks;
use crate::kernel::netns;
use crate::model::endpoint::{EndpointId, Role, Scope, Selector};
use crate::output;
use crate::program::attach;
use crate::state::addresses::Addresses;
use crate::state::conntrack::Conntrack;
use crate::state::delivery;
use crate::state::generations::Generations;
use crate::state::ipcache::Ipcache;
use crate::state::layout;
use crate::state::maps::Identities;
use crate::state::nics::Nics;
use crate::state::pin::Root;
use crate::state::registry::{Endpoint, shared};

#[derive(clap::Args)]
pub struct Args {
    /// Names of attached devices, or id:N
    #[arg(value_name = "DEV", required_unless_present = "all")]
    devices: Vec<Selector>,
    /// Everything; with --netns, everything there
    #[arg(long, conflicts_with = "devices")]
    all: bool,
}

pub fn run(context: &Context, args: Args) -> Result<()> {
    let root = &context.root;
    check_room()?;
    let Some(_lock) = root.lock()? else {
        ensure!(args.all, "nothing is attached: {} is not there", root.path().display());
        output::note(root.blindness()?.as_deref().unwrap_or("nothing is attached"));
        return Ok(());
    };
    // To detach everything is a cure.
    let known = layout::check(root).and_then(|()| shared::restore(root));
    if !args.all {
        known?;
    }
    let mut found = if args.all { context.endpoints() } else { context.named(&args.devices) }?;
    let mut errors = std::mem::take(&mut found.errors);
    let mut chosen = BTreeMap::new();
    if args.all {
        chosen.extend(found.endpoints.iter().map(|endpoint| (endpoint.id, endpoint)));
    }
    for selector in &args.devices {
        match found.select(selector) {
            Ok(endpoint) => _ = chosen.insert(endpoint.id, endpoint),
            Err(error) => errors.push(error),
        }
    }
    if !args.all {
        check_others(root, &chosen)?;
    }
    let mut scopes = BTreeSet::new();
    for endpoint in chosen.into_values() {
        match detach(root, endpoint) {
            Ok(()) => {
                output::note(&format!("detached {}", endpoint.device));
                scopes.extend(own_scope(endpoint));
            }
            Err(error) => errors.push(error.context(format!("detach {}", endpoint.device))),
        }
    }
    if let Err(error) = remove_unused_root(root) {
        errors.push(error);
    }
    if let Err(error) = Conntrack::forget(root, &scopes) {
        errors.push(error.context("forget the flows of what is detached"));
    }
    all_of(errors)
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
        root.remove_former()?;
    }
    let used = has_endpoints
        || Ipcache::open(root)?.is_some_and(|ipcache| !ipcache.is_empty())
        || match Identities::open(root)? {
            Some(identities) => identities.names()?.declared().next().is_some(),
            None => false,
        };
    if used { Ok(()) } else { root.remove() }
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
