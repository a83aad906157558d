//! Puts an endpoint on its device, in the place of what is there already; if a step fails, all are undone.

use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use log::{debug, info, warn};

use super::{adoption, detach, rules};
use crate::kernel::abi::cm_confirm;
use crate::kernel::device::Device;
use crate::kernel::hooks::{HOOKS, Place};
use crate::kernel::sys;
use crate::model::policy::Policy;
use crate::program::attach;
use crate::program::load::{self, Loaded, Sizes, Spec};
use crate::state::addresses::Addresses;
use crate::state::conntrack::Conntrack;
use crate::state::delivery;
use crate::state::nics::Nics;
use crate::state::pin::Root;
use crate::state::policy::{PolicyMaps, Slot};
use crate::state::registry::Endpoint;

/// What is to be on a device, and how it gets there.
pub struct Request<'a> {
    /// What its programs are loaded with.
    pub spec: &'a Spec,
    /// Where they go.
    pub place: Place,
    /// Of maps, if this makes them.
    pub sizes: Sizes,
    /// What the programs wait for from their first packet on.
    pub confirm: cm_confirm,
    /// Flows that are up are taken over from the kernel's conntrack.
    pub adopts: bool,
}

/// An endpoint of which nothing is left.
pub struct Gone {
    /// As it was.
    pub endpoint: Endpoint,
    /// How many it had.
    pub rules: usize,
}

/// Loads, registers, attaches; undoes what it did if one of them fails.
pub fn put_on(root: &Root, request: &Request<'_>, replaced: Option<&Endpoint>) -> Result<Loaded> {
    let (spec, place) = (request.spec, request.place);
    let pins = root.endpoint(spec.id);
    let start = Instant::now();
    let mut inherited = replaced.map(Endpoint::inherited).transpose()?.unwrap_or_default();
    inherited.confirm = request.confirm;
    if let Some(endpoint) = replaced {
        rules::settle(root, endpoint)?;
    }
    let config = spec.config();
    let loaded = load::load(root, spec.role, &config, &request.sizes, &inherited)?;

    let nics = Nics::open(root)?;
    if request.adopts {
        if let Some(nics) = &nics {
            nics.take_from_others(&config);
        }
        if let Err(error) = adoption::adopt(root, spec, loaded.scope) {
            warn!("{}: flows that are up already are not taken over: {error:#}", spec.device.name);
        }
    }

    let addresses = Addresses::open(root)?.context("the maps of addresses are not pinned")?;
    let before = addresses.operators_lines(&spec.addresses)?;
    let callee = loaded.callee();
    let callee_before = delivery::callee(root, spec.id)?;
    let left = replaced.map(|endpoint| rules_elsewhere(root, endpoint, &loaded)).transpose()?;
    let is_same = matches!(left, Some(None));
    let left = left.flatten().unwrap_or_default();
    let slot = config.nic_slot().filter(|_| is_same);
    let nic_before = nics.as_ref().zip(slot).map(|(nics, slot)| nics.get(slot)).transpose()?;
    // The program first: whoever finds an address calls it.
    let register = || {
        if let Some(nics) = &nics {
            nics.enter(&config, inherited.confirm, is_same)?;
        }
        if !left.rules().is_empty() {
            PolicyMaps::of(root, spec.id, loaded.map_ids()?)?.swap(&left)?;
        }
        if callee.is_some() {
            delivery::set_callee(root, spec.id, callee)?;
        }
        addresses.register(&config, &spec.addresses)
    };
    let attached = match replaced {
        Some(endpoint) => register()
            .and_then(|()| attach::replace(place, &pins, &loaded, &endpoint.previous(&config)?)),
        None => attach::attach(place, &pins, &loaded, register),
    };
    if let Err(error) = attached {
        let keep = replaced.map(Endpoint::addresses).unwrap_or_default();
        addresses.forget(spec.id, &keep)?;
        addresses.put_back(&before)?;
        if let Some(endpoint) = replaced {
            addresses.register(&endpoint.config, &keep)?;
        }
        let callee_before = callee_before.as_ref().map(AsFd::as_fd);
        delivery::set_callee(root, spec.id, callee_before)?;
        if let Some((nics, slot)) = nics.zip(config.nic_slot()) {
            nics.restore(slot, &nic_before.unwrap_or_default())?;
        }
        return Err(error.context(format!("attach {}", spec.device.name)));
    }
    if let Some(nics) = nics {
        nics.settle(spec.id, &config, inherited.confirm)?;
    }
    addresses.forget(spec.id, &spec.addresses)?;
    delivery::set_callee(root, spec.id, callee)?;
    if !spec.policy.ct_local {
        pins.remove_map("cm_flows4")?;
        pins.remove_map("cm_flows6")?;
    }
    log_costs(&spec.device.name, &loaded, start.elapsed())?;
    Ok(loaded)
}

/// The rules that new programs do not find where they look, of an endpoint that has become a NIC with a policy,
/// or is none any more; by their pin those of an endpoint without programs. `None`: they find them.
fn rules_elsewhere(root: &Root, replaced: &Endpoint, loaded: &Loaded) -> Result<Option<Policy>> {
    let here = PolicyMaps::of(root, replaced.id, loaded.map_ids()?)?;
    Ok(match PolicyMaps::of(root, replaced.id, replaced.map_ids()) {
        Ok(there) if here.are_those_of(&there)? => None,
        Ok(there) => Some(there.read(Slot::Current)?),
        Err(error) => {
            debug!("endpoint {}: {error:#}", replaced.id);
            Some(PolicyMaps::pinned(root, replaced.id)?)
        }
    })
}

fn log_costs(device: &str, loaded: &Loaded, all: Duration) -> Result<()> {
    for hook in HOOKS {
        let facts = sys::program_facts(loaded.program(hook))?;
        info!(
            "{device}: the program on its {hook} hook has {} instructions, {} walked by the verifier",
            facts.instructions, facts.verified_instructions
        );
    }
    let ms = |duration: Duration| duration.as_secs_f64() * 1e3;
    info!(
        "{device}: open {:.2} ms, load {:.2} ms, attach {:.2} ms",
        ms(loaded.open_time),
        ms(loaded.load_time),
        ms(all - loaded.open_time - loaded.load_time)
    );
    Ok(())
}

/// Removes what is left of endpoints whose device is gone, if it had this one's name; the others
/// that have to do with this device. One that is of this device has its rules still, also if its
/// programs are gone.
pub fn clean_stale(root: &Root, device: &Device, netns: u64) -> Result<(Vec<Endpoint>, Vec<Gone>)> {
    let (mut others, mut gone) = (Vec::new(), Vec::new());
    for endpoint in Endpoint::concerning(root, netns, device)? {
        let same = endpoint.config.netns == netns
            && (endpoint.device == device.name || endpoint.config.ifindex == device.ifindex);
        let is_left = endpoint.stale && !endpoint.is_on(device, netns);
        if is_left && (same || endpoint.role().is_none()) {
            info!("endpoint {} ({}) is stale, cleaning up", endpoint.id, endpoint.device);
            let rules = count_rules(root, &endpoint);
            detach::detach(root, &endpoint)?;
            Conntrack::forget(root, &detach::own_scope(&endpoint).into_iter().collect())?;
            gone.push(Gone { endpoint, rules });
        } else {
            others.push(endpoint);
        }
    }
    Ok((others, gone))
}

/// Endpoints that the device has brought from another namespace, and the one that is to be replaced.
pub fn here<'a>(
    endpoints: &'a [Endpoint],
    device: &Device,
    netns: u64,
) -> (Vec<&'a Endpoint>, Option<&'a Endpoint>) {
    let is_here = |endpoint: &&Endpoint| endpoint.is_on(device, netns);
    let (has_come, replaced): (Vec<_>, Vec<_>) =
        endpoints.iter().filter(is_here).partition(|endpoint| endpoint.has_moved());
    (has_come, replaced.first().copied())
}

/// How many rules are pinned for an endpoint.
pub fn count_rules(root: &Root, endpoint: &Endpoint) -> usize {
    PolicyMaps::pinned(root, endpoint.id).map_or(0, |policy| policy.rules().len())
}
