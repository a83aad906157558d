//! Loaded programs on a device's hooks and off again, with their pins.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

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
    let id = loaded.id()?;
    let pins = root.endpoint(id);
    devices::putting_on(root, &loaded.configured, None, || {
        // The configuration first: it tells whoever cleans up after a killed command where to look.
        let result = pins
            .create()
            .and_then(|()| pin::replace(loaded.config.as_fd(), &pins.config()))
            .and_then(|()| pin_spec(&pins, loaded))
            .and_then(|()| before())
            .and_then(|()| put_on_hooks(place, &pins, loaded).map(drop));
        if result.is_err() {
            debug!("undoing the attachment");
            devices::remove(root, id)?;
        }
        result
    })
}

/// Puts other programs where an endpoint's programs run. Packets meet the old or the new one,
/// never none and, if the kind of hook stays, never both; on an error, also of `after`, the old ones run on. What was
/// decided about the endpoint is stale then.
pub fn replace(
    root: &Root,
    place: Place,
    loaded: &Loaded,
    previous: &Previous,
    after: impl FnOnce() -> Result<()>,
) -> Result<()> {
    let pins = root.endpoint(loaded.id()?);
    let put = || put_in_place(place, &pins, loaded, previous, after);
    devices::putting_on(root, &loaded.configured, Some(&previous.config), put)
}

fn put_in_place(
    place: Place,
    pins: &EndpointPins,
    loaded: &Loaded,
    previous: &Previous,
    after: impl FnOnce() -> Result<()>,
) -> Result<()> {
    if !previous.is_at(place) || previous.programs.iter().any(Option::is_none) {
        return move_hooks(place, pins, loaded, previous, after);
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
        .and_then(|()| after())
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
    after: impl FnOnce() -> Result<()>,
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
    let mut put = Vec::new();
    let result = put_on_hooks(place, pins, loaded)
        .and_then(|on_hooks| {
            put = on_hooks;
            pin::replace(loaded.config.as_fd(), &pins.config())
        })
        .and_then(|()| after())
        .and_then(|()| pin_spec(pins, loaded))
        .and_then(|()| match previous.tc_priority == place.tc_priority() {
            true => Ok(()),
            false => take_off_filters(place.ifindex, previous.tc_priority, &maps),
        });
    if result.is_ok() {
        detach(kept.iter().map(|(pinned, _)| pinned.as_fd()));
    } else {
        debug!("putting the previous pins back");
        for (pinned, path) in kept {
            if let Err(error) = pin::replace(pinned, &path) {
                debug!("put it back: {error:#}");
            }
        }
        take_off_hooks(place, &put, loaded);
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

/// Takes the programs of an endpoint's links off their hooks, before their pins go.
pub fn detach_links(pins: &EndpointPins) {
    for hook in HOOKS {
        match sys::open_pin(&pins.hook(hook)) {
            Ok(pinned) => detach([pinned.as_fd()].into_iter()),
            Err(error) => debug!("detach the link on the {hook} hook: {error:#}"),
        }
    }
}

/// What is on both hooks, its links or its programs. Nothing is pinned before both are there, and on an error they are off
/// again.
fn put_on_hooks(place: Place, pins: &EndpointPins, loaded: &Loaded) -> Result<Vec<OwnedFd>> {
    let mut put = Vec::new();
    let result = HOOKS
        .iter()
        .try_for_each(|hook| {
            put_on_hook(place, *hook, loaded.program(*hook)).map(|on_hook| put.push(on_hook))
        })
        .and_then(|()| {
            HOOKS
                .iter()
                .zip(&put)
                .try_for_each(|(hook, put)| pin::replace(put.as_fd(), &pins.hook(*hook)))
        });
    match result {
        Ok(()) => Ok(put),
        Err(error) => {
            take_off_hooks(place, &put, loaded);
            Err(error)
        }
    }
}

/// Takes off what was put on hooks just now.
fn take_off_hooks(place: Place, put: &[OwnedFd], loaded: &Loaded) {
    detach(put.iter().map(AsFd::as_fd));
    let undone = loaded
        .map_ids()
        .and_then(|maps| take_off_filters(place.ifindex, place.tc_priority(), &maps));
    if let Err(error) = undone {
        warn!("take the new programs off: {error:#}");
    }
}

/// Detaches those of them that are links: of one that nobody holds any more the kernel lets go some time later.
fn detach<'a>(pinned: impl Iterator<Item = BorrowedFd<'a>>) {
    for link in pinned.filter(|it| sys::is_link(*it).unwrap_or(false)) {
        if let Err(error) = sys::detach_link(link) {
            debug!("detach a link: {error:#}");
        }
    }
}
