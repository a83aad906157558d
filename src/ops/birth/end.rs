//! A workload ends: its endpoints go by its owner, also if their devices, their names and its data are gone already.

use std::collections::BTreeSet;

use anyhow::{Error, Result};
use log::warn;

use crate::kernel::{device, netns};
use crate::model::birth::{Birth, Hook};
use crate::model::endpoint::EndpointId;
use crate::model::origin::Origin;
use crate::model::owner::Owner;
use crate::ops::attach::{self, Report, Terms};
use crate::ops::failures::all_of;
use crate::ops::{self, detach, identities};
use crate::state::conntrack::Conntrack;
use crate::state::devices::Devices;
use crate::state::layout;
use crate::state::pin::Root;
use crate::state::registry::Endpoint;
use crate::state::spec;

/// Who has ended.
pub struct End<'a> {
    /// The workload.
    pub owner: &'a Owner,
    /// By which hook that is told.
    pub hook: Hook,
    /// Only this device of it, by its name inside.
    pub ifname: Option<&'a str>,
    /// The directory of its bundle, if that is told: another one's is another workload.
    pub bundle: Option<&'a str>,
}

/// Takes off what a workload had; nothing to do is no error. Goes on past a failure. Holds the root's lock.
pub fn end(root: &Root, end: &End<'_>) -> Result<()> {
    end_those(root, |_, owner, birth| {
        let is_ifname = end.ifname.is_none() || birth.ifname.as_deref() == end.ifname;
        let is_bundle = birth.bundle.as_deref().zip(end.bundle).is_none_or(|(one, it)| one == it);
        let owners = [owner].into_iter().filter(|_| is_bundle).chain(&birth.sharers);
        let is_meant = is_ifname && birth.hook.shares_owners_with(end.hook);
        let mut owners = owners.filter(|it| is_meant && *it == end.owner);
        owners.next().cloned()
    })
}

/// The same for one device of a workload, by its name on this host: two workloads may have one name where a runtime has
/// several places for them.
pub fn end_device(root: &Root, owner: &Owner, hook: Hook, device: &str) -> Result<()> {
    end_those(root, |id, of, birth| {
        let is_meant = of == owner && birth.hook == hook;
        let told = is_meant.then(|| spec::told(root, id).ok().flatten()).flatten();
        told.filter(|spec| spec.device == device).map(|_| of.clone())
    })
}

/// Takes off what CNI has attached to a network, but for these: owner, and name of the device inside. Goes on past a failure.
/// Holds the root's lock.
pub fn keep_only(root: &Root, network: &str, alive: &[(String, String)]) -> Result<()> {
    end_those(root, |_, owner, birth| {
        let is_alive = |(of, ifname): &(String, String)| {
            of == owner.get() && birth.ifname.as_ref() == Some(ifname)
        };
        // An OCI hook that was called later, for the same container, keeps the network.
        let is_meant = birth.network.as_deref() == Some(network);
        (is_meant && !alive.iter().any(is_alive)).then(|| owner.clone())
    })
}

/// Of each endpoint that was born takes off the owner that is chosen.
fn end_those(
    root: &Root,
    choose: impl Fn(EndpointId, &Owner, &Birth) -> Option<Owner>,
) -> Result<()> {
    ops::check_room()?;
    let Some(_lock) = ops::lock(root)? else { return Ok(()) };
    let mut errors = Vec::new();
    for id in root.endpoints()? {
        match spec::born(root, id) {
            Ok(Some((owner, birth))) => {
                if let Some(ended) = choose(id, &owner, &birth) {
                    let all = [vec![owner], birth.sharers].concat();
                    errors.extend(end_one(root, id, &ended, all).err());
                }
            }
            Ok(None) => {}
            // Somebody else's, perhaps of another version.
            Err(error) => warn!("{error:#}"),
        }
    }
    errors.extend(remove_what_is_gone(root).err());
    errors.extend(detach::remove_unused_root(root).err());
    all_of(errors)
}

/// The endpoint goes with the last of those who share it, or with its device.
fn end_one(root: &Root, id: EndpointId, ended: &Owner, owners: Vec<Owner>) -> Result<()> {
    let endpoint = Endpoint::read(root, id)?;
    let mut left = owners.into_iter().filter(|owner| owner != ended);
    let Some(heir) = left.next().filter(|_| !endpoint.stale) else {
        return remove(root, &endpoint);
    };
    let mut spec = ops::spec::current(root, &endpoint, &identities::names(root)?)?;
    spec.owner = Some(heir);
    if let Some(birth) = &mut spec.birth {
        birth.sharers = left.collect();
        birth.bundle = None;
        // What CNI lists as valid is what it has attached, and not who lives on in its network.
        birth.network = None;
    }
    let terms = Terms { origin: Origin::Hook, ifindex: Some(endpoint.ifindex), ..Terms::default() };
    attach::attach(root, &spec, &terms).map(|_| ())
}

/// Takes off endpoints that were born on devices that are gone, whose addresses others may have now, and what is left of
/// those whose end was killed. The caller holds the root's lock.
pub fn remove_what_is_gone(root: &Root) -> Result<()> {
    let here = netns::current()?;
    finish_removals(root)?;
    for (id, at) in Devices::read(root)?.iter() {
        let Some(at) = at.filter(|at| at.netns == here) else { continue };
        if device::by_index(at.ifindex)?.is_none() && matches!(spec::born(root, id), Ok(Some(_))) {
            let endpoint = Endpoint::read(root, id)?;
            if endpoint.is_gone {
                remove(root, &endpoint)?;
            }
        }
    }
    Ok(())
}

/// Removes what is left of endpoints whose removal was killed. The spec is the first pin that goes, after the programs:
/// without either nobody can tell any more whose an endpoint was, and nothing of it does anything. The caller holds the
/// root's lock.
pub fn finish_removals(root: &Root) -> Result<()> {
    root.endpoints()?.into_iter().try_for_each(|id| finish_removal(root, id))
}

fn finish_removal(root: &Root, id: EndpointId) -> Result<()> {
    if root.endpoint(id).spec().exists() || layout::check_endpoint(root, id).is_err() {
        return Ok(());
    }
    let endpoint = Endpoint::read(root, id)?;
    if endpoint.has_a_program_there()? { Ok(()) } else { remove(root, &endpoint) }
}

/// Takes off what has just been attached, since the rest can't be; tells what can't be undone.
pub fn undo<'a>(root: &Root, reports: impl Iterator<Item = &'a Report>) {
    for report in reports {
        let id = report.plan.resolved.id;
        let removed = Endpoint::read(root, id).and_then(|endpoint| remove(root, &endpoint));
        if let Err(error) = removed {
            warn!("detach endpoint {id} again: {error:#}");
        }
    }
}

fn remove(root: &Root, endpoint: &Endpoint) -> Result<(), Error> {
    detach::detach(root, endpoint)?;
    let scopes: BTreeSet<_> = detach::own_scope(endpoint).into_iter().collect();
    Conntrack::forget(root, &scopes)
}
