//! On a device's hooks and off again: TCX links where the kernel has them, clsact filters where not.

use std::fmt;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use anyhow::{Context, Result, ensure};
use libbpf_rs::{TC_EGRESS, TC_INGRESS, TcHook, TcHookBuilder};
use log::{debug, warn};
use serde::Serialize;

use super::abi::cm_config;
use super::load::Loaded;
use super::pin::{self, EndpointPins};
use super::sys::{self, Hook};

/// Of our clsact filters, so that none of another tool's is taken for ours.
pub(super) const FILTER_HANDLE: u32 = 0xc11;

/// Both hooks of a device.
pub const HOOKS: [Hook; 2] = [Hook::Ingress, Hook::Egress];

/// Which of the kernel's two ways to put a program on a hook.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum HookKind {
    /// Linux 6.6: links, in an order of their own, before clsact.
    Tcx,
    /// A filter on the clsact qdisc.
    Clsact,
}

impl fmt::Display for HookKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            HookKind::Tcx => "tcx",
            HookKind::Clsact => "clsact",
        })
    }
}

/// Of our clsact filters: behind those to which the kernel gives priorities, which count down from
/// 49152, or before all others.
const PRIORITY_LAST: u32 = 50_000;
/// Of one that is to run before others.
pub const PRIORITY_FIRST: u32 = 1;

/// Where on which device.
#[derive(Debug, Clone, Copy)]
pub struct Place {
    /// TCX or clsact.
    pub kind: HookKind,
    /// The device, in the current namespace.
    pub ifindex: u32,
    /// Before the programs that are there already.
    pub first: bool,
}

impl Place {
    /// The priority of a clsact filter, the lowest first; 0 with TCX.
    pub fn tc_priority(&self) -> u32 {
        match (self.kind, self.first) {
            (HookKind::Tcx, _) => 0,
            (HookKind::Clsact, true) => PRIORITY_FIRST,
            (HookKind::Clsact, false) => PRIORITY_LAST,
        }
    }
}

/// What to go back to if replacing fails, and what to take off when it has succeeded.
pub struct Previous {
    /// What the programs were loaded with.
    pub config: cm_config,
    /// Which hook gets its new program first: the one whose policy relaxes, so that no packet meets
    /// more policy than before or after.
    pub order: [Hook; 2],
    /// TCX or clsact.
    pub kind: HookKind,
    /// The priority of the clsact filter.
    pub tc_priority: u32,
    /// Nothing runs before it on either hook.
    pub is_first: bool,
    /// The programs on ingress and egress, as far as they run.
    pub programs: [Option<OwnedFd>; 2],
}

impl Previous {
    /// The kernel moves no link: one that is to be the first is made anew, unless it is that.
    fn is_at(&self, place: Place) -> bool {
        let has_to_move = place.kind == HookKind::Tcx && place.first && !self.is_first;
        self.kind == place.kind && self.tc_priority == place.tc_priority() && !has_to_move
    }
}

/// Puts loaded programs on both hooks and pins them, after `before`; on an error nothing has changed. What was
/// decided about the endpoint without them is stale then.
pub fn attach(
    place: Place,
    pins: &EndpointPins,
    loaded: &Loaded,
    before: impl FnOnce() -> Result<()>,
) -> Result<()> {
    let generations = loaded.generations()?;
    pins.create()?;
    // The configuration first: it tells whoever cleans up after a killed command where to look.
    let result = pin::replace(loaded.config.as_fd(), &pins.config())
        .and_then(|()| before())
        .and_then(|()| put_on_hooks(place, pins, loaded));
    let undone = if result.is_err() {
        debug!("undoing the attachment");
        pins.remove()
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
pub fn replace(
    place: Place,
    pins: &EndpointPins,
    loaded: &Loaded,
    previous: &Previous,
) -> Result<()> {
    let generations = loaded.generations()?;
    let result = put_in_place(place, pins, loaded, previous);
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
    let result = previous
        .order
        .iter()
        .try_for_each(|hook| replace_hook(*hook, loaded.program(*hook)))
        .and_then(|()| pin::replace(loaded.config.as_fd(), &pins.config()));
    if result.is_err() {
        debug!("putting the previous programs back");
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
    for path in [pins.hook(Hook::Ingress), pins.hook(Hook::Egress), pins.config()] {
        match sys::open_pin(&path) {
            Ok(pinned) => kept.push((pinned, path)),
            Err(error) => debug!("nothing to go back to at {}: {error}", path.display()),
        }
    }
    let maps = loaded.map_ids()?;
    let result = put_on_hooks(place, pins, loaded)
        .and_then(|()| pin::replace(loaded.config.as_fd(), &pins.config()))
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

/// Takes our filters off a device's hooks: those that use one of our maps. The clsact qdisc stays,
/// since removing it loses packets. With the priority of TCX, 0, there are none.
pub fn take_off_filters(ifindex: u32, tc_priority: u32, our_maps: &[u32]) -> Result<()> {
    for hook in HOOKS {
        let mut filter = filter(ifindex, hook, tc_priority, None);
        if filter_maps(&mut filter)?.is_some_and(|maps| share_one(&maps, our_maps)) {
            filter
                .detach()
                .with_context(|| format!("take the clsact filter off its {hook} hook"))?;
        }
    }
    Ok(())
}

/// The same wherever one may be: a command that was killed while it changed the kind of hook or the
/// priority has left filters that no configuration tells of.
pub fn take_off_all_filters(ifindex: u32, our_maps: &[u32]) -> Result<()> {
    [PRIORITY_FIRST, PRIORITY_LAST]
        .iter()
        .try_for_each(|priority| take_off_filters(ifindex, *priority, our_maps))
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

/// The kernel's number of the program in our filter; `None` if there is no such filter.
pub fn filter_program(ifindex: u32, hook: Hook, tc_priority: u32) -> Option<u32> {
    filter(ifindex, hook, tc_priority, None).query().ok()
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

/// What is to be pinned: the link, or the program in the filter.
fn put_on_hook(place: Place, hook: Hook, program: BorrowedFd<'_>) -> Result<OwnedFd> {
    let on = || format!("put a program on its {hook} hook by {}", place.kind);
    match place.kind {
        HookKind::Tcx => {
            sys::create_tcx_link(program, place.ifindex, hook, place.first).with_context(on)
        }
        HookKind::Clsact => {
            let mut filter = filter(place.ifindex, hook, place.tc_priority(), Some(program));
            filter.create().context("create the clsact qdisc (needs the module sch_ingress)")?;
            check_own_hook(place, hook)?;
            let replace = may_replace(&mut filter, program)?;
            filter.replace(replace);
            filter.attach().with_context(on)?;
            Ok(program.try_clone_to_owned()?)
        }
    }
}

/// The qdisc `ingress` takes filters for egress too, and runs them on ingress.
fn check_own_hook(place: Place, hook: Hook) -> Result<()> {
    let on = |hook| filter_program(place.ifindex, hook, place.tc_priority());
    ensure!(
        hook == Hook::Ingress || on(hook).is_none() || on(hook) != on(Hook::Ingress),
        "the device has a qdisc `ingress`, which is in the way of clsact; `tc qdisc del … ingress` \
         removes it with its filters"
    );
    Ok(())
}

/// A filter that stands in our place is ours if it uses our maps: an endpoint's that is being
/// replaced, or what an interrupted command left. A stranger's is not touched.
fn may_replace(filter: &mut TcHook, program: BorrowedFd<'_>) -> Result<bool> {
    let Some(maps) = filter_maps(filter)? else {
        return Ok(false);
    };
    ensure!(
        share_one(&maps, &sys::program_facts(program)?.map_ids),
        "filter {FILTER_HANDLE:#x} of priority {} is there already and belongs to somebody else, \
         another --bpffs for one; --first takes a place before it, and `tc filter del` removes it",
        filter.get_priority()
    );
    Ok(true)
}

/// The maps of the program in a filter; `None` if there is no such filter.
fn filter_maps(filter: &mut TcHook) -> Result<Option<Vec<u32>>> {
    let Ok(id) = filter.query() else { return Ok(None) };
    let program = match sys::open_program(id) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        program => program.context("open the program of a clsact filter")?,
    };
    Ok(Some(sys::program_facts(program.as_fd()).context("read a filter's program")?.map_ids))
}

fn share_one(these: &[u32], those: &[u32]) -> bool {
    these.iter().any(|id| those.contains(id))
}

/// Our filter is found again by priority and handle; the program matters when it is attached.
fn filter(ifindex: u32, hook: Hook, priority: u32, program: Option<BorrowedFd<'_>>) -> TcHook {
    let nobody = std::io::stderr();
    let program = program.unwrap_or(nobody.as_fd());
    let mut builder = TcHookBuilder::new(program);
    builder.ifindex(ifindex as i32).handle(FILTER_HANDLE).priority(priority);
    builder.hook(match hook {
        Hook::Ingress => TC_INGRESS,
        Hook::Egress => TC_EGRESS,
    })
}
