//! What the kernel takes by itself: two programs that do nothing, on both hooks and off again.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use anyhow::{Context, Result};
use cilmark::kernel::abi::cm_config;
use cilmark::kernel::device;
use cilmark::kernel::hooks::{HOOKS, HookKind};
use cilmark::kernel::sys::{self, Hook};
use cilmark::model::endpoint::Role;
use cilmark::program::load::{self, Loaded, Sizes};
use cilmark::state::pin::Root;
use cilmark::state::registry::Inherited;
use libbpf_rs::{TC_EGRESS, TC_INGRESS, TcHook, TcHookBuilder};

use crate::endpoints::Wanted;
use crate::samples::{Cost, cost_of};

/// What one endpoint took.
pub struct Took {
    /// To come.
    pub attach: Cost,
    /// To get other programs.
    pub replace: Cost,
    /// To go.
    pub detach: Cost,
}

/// The template twice: its configuration was never written, so that it is a handful of instructions.
pub struct Kernel {
    kind: HookKind,
    programs: [Loaded; 2],
}

impl Kernel {
    /// Loads what is put on hooks.
    pub fn load(root: &Root, kind: HookKind) -> Result<Kernel> {
        let load = || {
            let config = cm_config::default();
            load::load(root, Role::Container, &config, &Sizes::default(), &Inherited::default())
        };
        Ok(Kernel { kind, programs: [load()?, load()?] })
    }

    /// Attaches, replaces and detaches.
    pub fn round(&self, on: &Wanted) -> Result<Took> {
        let ifindex = device::by_name(&on.device_name())?.ifindex;
        match self.kind {
            HookKind::Tcx => self.links(ifindex),
            HookKind::Clsact => self.filters(ifindex),
        }
    }

    fn links(&self, ifindex: u32) -> Result<Took> {
        let [first, second] = &self.programs;
        let create = |hook| sys::create_tcx_link(first.program(hook), ifindex, hook, false);
        let (attach, links) = cost_of(|| Ok([create(HOOKS[0])?, create(HOOKS[1])?]))?;
        let each = |action: &dyn Fn(&OwnedFd, Hook) -> std::io::Result<()>| {
            links.iter().zip(HOOKS).try_for_each(|(link, hook)| action(link, hook))
        };
        let (replace, ()) = cost_of(|| {
            Ok(each(&|link, hook| sys::update_link(link.as_fd(), second.program(hook)))?)
        })?;
        let (detach, ()) = cost_of(|| Ok(each(&|link, _| sys::detach_link(link.as_fd()))?))?;
        Ok(Took { attach, replace, detach })
    }

    fn filters(&self, ifindex: u32) -> Result<Took> {
        let [first, second] = &self.programs;
        let put_on = |programs: &Loaded, replace: bool| -> Result<()> {
            for hook in HOOKS {
                let mut filter = filter(ifindex, hook, programs.program(hook));
                if !replace {
                    filter.create().context("create the clsact qdisc")?;
                }
                filter.replace(replace).attach().context("attach a filter")?;
            }
            Ok(())
        };
        let (attach, ()) = cost_of(|| put_on(first, false))?;
        let (replace, ()) = cost_of(|| put_on(second, true))?;
        let (detach, ()) = cost_of(|| {
            for hook in HOOKS {
                filter(ifindex, hook, second.program(hook))
                    .detach()
                    .context("take a filter off")?;
            }
            Ok(())
        })?;
        Ok(Took { attach, replace, detach })
    }
}

fn filter(ifindex: u32, hook: Hook, program: BorrowedFd<'_>) -> TcHook {
    let mut builder = TcHookBuilder::new(program);
    builder.ifindex(ifindex as i32).handle(1).priority(1);
    builder.hook(match hook {
        Hook::Ingress => TC_INGRESS,
        Hook::Egress => TC_EGRESS,
    })
}
