//! A device's two hooks: TCX links where the kernel has them, clsact filters where not.

use std::fmt;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use anyhow::{Context, Result, ensure};
use libbpf_rs::{TC_EGRESS, TC_INGRESS, TcHook, TcHookBuilder};
use serde::Serialize;

use crate::kernel::sys::{self, Hook};

/// Of our clsact filters, so that none of another tool's is taken for ours.
pub const FILTER_HANDLE: u32 = 0xc11;

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
pub const PRIORITY_LAST: u32 = 50_000;
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

/// The kernel's number of the program in our filter; `None` if there is no such filter.
pub fn filter_program(ifindex: u32, hook: Hook, tc_priority: u32) -> Option<u32> {
    filter(ifindex, hook, tc_priority, None).query().ok()
}

/// What is to be pinned: the link, or the program in the filter.
pub fn put_on_hook(place: Place, hook: Hook, program: BorrowedFd<'_>) -> Result<OwnedFd> {
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
/// replaced, or what an interrupted command left. Another's is not touched.
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
