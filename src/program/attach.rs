//! Loaded programs on a device's hooks and off again, with their pins.

use std::os::fd::{AsFd, BorrowedFd};

use anyhow::{Context, Result};
use log::{debug, warn};

use crate::kernel::hooks::{HOOKS, HookKind, Place, put_on_hook, take_off_filters};
use crate::kernel::sys::{self, Hook};
use crate::program::load::Loaded;
use crate::state::devices;
use crate::state::pin::{self, EndpointPins, Root};
use crate::state::registry::Previous;

/// Puts loaded programs on both hooks and pins them, after `before`; on an error nothing has changed. What was
/// decided about the endpoint without them is stale then.
pub fn attach(
    root: &Root,
    place: Place,
    loaded: &Loaded,
    before: impl FnOnce() -> Result<()>,
) -> Result<()> {
    let generations = loaded.generations()?;
    let id = loaded.id()?;
    let pins = root.endpoint(id);
    pins.create()?;
    // The configuration first: it tells whoever cleans up after a killed command where to look.
    let pin = || pin::replace(loaded.config.as_fd(), &pins.config());
    let result = devices::changing(root, &loaded.configured, pin)
        .and_then(|()| pin_spec(&pins, loaded))
        .and_then(|()| before())
        .and_then(|()| put_on_hooks(place, &pins, loaded));
    let undone = if result.is_err() {
        debug!("undoing the attachment");
        devices::remove(root, id)
    } else {
        Ok(())
    };
    // Also if it was undone: they may have been on a hook.
    generations.bump_endpoint(&loaded.configured);
    undone.and(result)
}

/// Puts other programs where an endpoint's programs run. Packets meet the old or the new one,
/// never none and, if the kind of hook stays, never both; on an error the old ones run on. What was decided about
/// the endpoint is stale then.
pub fn replace(root: &Root, place: Place, loaded: &Loaded, previous: &Previous) -> Result<()> {
    let generations = loaded.generations()?;
    let pins = root.endpoint(loaded.id()?);
    let put = || put_in_place(place, &pins, loaded, previous);
    let result = devices::changing(root, &loaded.configured, put);
    generations.bump_endpoint(&previous.config);
    generations.bump_endpoint(&loaded.configured);
    result
}

fn put_in_place(
    place: Place,
    pins: &EndpointPins,
    loaded: &Loaded,
    previous: &Previous,
) -> Result<()> {
    if !previous.is_at(place) || previous.programs.iter().any(Option::is_none) {
        return move_hooks(place, pins, loaded, previous);
    }
    let replace_hook = |hook: Hook, program: BorrowedFd<'_>| match place.kind {
        HookKind::Tcx => {
            let link = sys::open_pin(&pins.hook(hook))
                .with_context(|| format!("open {}", pins.hook(hook).display()))?;
            sys::update_link(link.as_fd(), program)
                .with_context(|| format!("replace the program on its {hook} hook"))
        }
        HookKind::Clsact => {
            let program = put_on_hook(place, hook, program)?;
            pin::replace(program, &pins.hook(hook))
        }
    };
    let config = sys::open_pin(&pins.config());
    let result = previous
        .order
        .iter()
        .try_for_each(|hook| replace_hook(*hook, loaded.program(*hook)))
        .and_then(|()| pin::replace(loaded.config.as_fd(), &pins.config()))
        .and_then(|()| pin_spec(pins, loaded));
    if result.is_err() {
        debug!("putting the previous programs back");
        if let Ok(config) = config
            && let Err(error) = pin::replace(config, &pins.config())
        {
            debug!("pin the previous configuration again: {error:#}");
        }
        for (hook, program) in HOOKS.iter().zip(&previous.programs) {
            if let Some(program) = program
                && let Err(error) = replace_hook(*hook, program.as_fd())
            {
                debug!("put the previous program back on the {hook} hook: {error:#}");
            }
        }
    }
    result
}

/// The same, if the kind of hook changes or the place on it, or a program is gone from its hook: the new
/// programs go on beside the old ones.
fn move_hooks(
    place: Place,
    pins: &EndpointPins,
    loaded: &Loaded,
    previous: &Previous,
) -> Result<()> {
    // A link without its pin lives on with its descriptor.
    let mut kept = Vec::new();
    for path in [pins.hook(Hook::Ingress), pins.hook(Hook::Egress), pins.config(), pins.spec()] {
        match sys::open_pin(&path) {
            Ok(pinned) => kept.push((pinned, path)),
            Err(error) => debug!("nothing to go back to at {}: {error}", path.display()),
        }
    }
    let maps = loaded.map_ids()?;
    let result = put_on_hooks(place, pins, loaded)
        .and_then(|()| pin::replace(loaded.config.as_fd(), &pins.config()))
        .and_then(|()| pin_spec(pins, loaded))
        .and_then(|()| match previous.is_at(place) {
            true => Ok(()),
            false => take_off_filters(place.ifindex, previous.tc_priority, &maps),
        });
    if result.is_ok() {
        // The kernel does it as well when the last descriptor goes, but some time later.
        for (pinned, path) in &kept {
            if sys::is_link(pinned.as_fd()).unwrap_or(false)
                && let Err(error) = sys::detach_link(pinned.as_fd())
            {
                debug!("detach what was pinned at {}: {error:#}", path.display());
            }
        }
    } else {
        debug!("putting the previous pins back");
        for (pinned, path) in kept {
            if let Err(error) = pin::replace(pinned, &path) {
                debug!("put it back: {error:#}");
            }
        }
        if let Err(error) = take_off_filters(place.ifindex, place.tc_priority(), &maps) {
            warn!("take the new programs off: {error:#}");
        }
    }
    result
}

/// The last of the pins: what it says counts with the configuration that it was made for.
fn pin_spec(pins: &EndpointPins, loaded: &Loaded) -> Result<()> {
    match &loaded.spec {
        Some(spec) => pin::replace(spec.as_fd(), &pins.spec()),
        None => pins.remove_map("spec"),
    }
}

/// Takes the programs of an endpoint's links off their hooks. Removing the pins does that as well,
/// but some time later, when the kernel gets to it.
pub fn detach_links(pins: &EndpointPins) {
    for hook in HOOKS {
        let detached =
            sys::open_pin(&pins.hook(hook)).and_then(|link| sys::detach_link(link.as_fd()));
        if let Err(error) = detached {
            debug!("detach the link on the {hook} hook: {error:#}");
        }
    }
}

/// Nothing is pinned before both are on their hooks, and on an error they are off again.
fn put_on_hooks(place: Place, pins: &EndpointPins, loaded: &Loaded) -> Result<()> {
    let result =
        put_on_hook(place, Hook::Ingress, loaded.program(Hook::Ingress)).and_then(|ingress| {
            let egress = put_on_hook(place, Hook::Egress, loaded.program(Hook::Egress))?;
            pin::replace(ingress, &pins.hook(Hook::Ingress))?;
            pin::replace(egress, &pins.hook(Hook::Egress))
        });
    if result.is_err() {
        let undone = take_off_filters(place.ifindex, place.tc_priority(), &loaded.map_ids()?);
        if let Err(error) = undone {
            warn!("undoing the attachment: {error:#}");
        }
    }
    result
}
