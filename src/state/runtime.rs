//! The variables that are written while programs run: those in the `.bss` of an endpoint's programs, until when to
//! trace, the clock of a confirmation, and what local delivery has learned; and of a NIC the clock in `cm_nics`.

use std::mem::offset_of;
use std::sync::atomic::Ordering;

use anyhow::{Context, Result, ensure};
use libbpf_rs::MapCore;

use crate::kernel::abi::{bss, cm_confirm};
use crate::kernel::sys::SharedValue;
use crate::model::enforcement::{Confirmation, Fallback, Mode};
use crate::state::clock::Clock;
use crate::state::generations::{self, Generations};
use crate::state::nics;
use crate::state::registry::{Endpoint, Running};

impl Endpoint {
    /// Makes the programs report what passes until a moment of CLOCK_MONOTONIC, in ns.
    pub fn trace_until(&self, until_ns: u64) -> Result<()> {
        for bss in self.bss()? {
            bss.u64_at(offset_of!(bss, trace_until_ns)).store(until_ns, Ordering::Relaxed);
        }
        Ok(())
    }

    /// How its last change stands.
    pub fn confirmation(&self) -> Result<Confirmation> {
        let mut stands = Confirmation::None;
        self.for_each_clock(|clock| {
            if stands == Confirmation::None {
                stands = clock.get();
            }
        })?;
        Ok(stands)
    }

    /// Until when it waits to be confirmed, or did: a moment of the coarse monotonic clock, in ns.
    pub fn confirmed_by(&self) -> Result<u64> {
        let mut until_ns = 0;
        self.for_each_clock(|clock| until_ns = until_ns.max(clock.until_ns()))?;
        Ok(until_ns)
    }

    /// Makes the programs go back by themselves at a moment of the coarse monotonic clock, in ns;
    /// `None` never.
    pub fn confirm_by(&self, deadline: Option<(u64, Fallback)>) -> Result<()> {
        let confirm = deadline.map(|(until_ns, to)| cm_confirm {
            until_ns,
            fallback: to.into(),
            ..cm_confirm::default()
        });
        let confirm = confirm.unwrap_or_default();
        let generations = self.own_map(generations::NAME).as_ref().map(Generations::of);
        let generations = generations.transpose()?;
        self.for_each_clock(|clock| match clock.runs {
            Some(_) => nics::set_clock(&clock, confirm, generations.as_ref()),
            None => clock.set(confirm),
        })
    }

    /// What its policy really does to it and from it.
    pub fn modes_in_force(&self) -> Result<[Mode; 2]> {
        let confirmation = self.confirmation()?;
        Ok(self.config.modes().map(|mode| confirmation.in_force(mode)))
    }

    fn for_each_clock(&self, mut action: impl FnMut(Clock<'_>)) -> Result<()> {
        if let Some((slot, nics)) = self.config.nic_slot().zip(self.own_map(nics::NICS)) {
            let memory = SharedValue::of(&nics).with_context(|| format!("map {}", nics::NICS))?;
            action(nics::clock(&memory, slot));
            return Ok(());
        }
        for memory in self.bss()? {
            action(Clock { memory: &memory, at: offset_of!(bss, confirm), runs: None });
        }
        Ok(())
    }

    /// The variables of its programs; both have the same, unless a command died between them.
    fn bss(&self) -> Result<Vec<SharedValue>> {
        let of = |running: &Running| {
            let map = running.map(".bss")?.context("its program has no .bss")?;
            ensure!(
                map.value_size() as usize >= offset_of!(bss, confirm) + size_of::<cm_confirm>(),
                "another version of cilmark has attached {}; detach it, and attach it again",
                self.device
            );
            SharedValue::of(&map).context("map the .bss of its program")
        };
        self.programs.iter().flatten().map(of).collect()
    }

    /// What local delivery has learned, if the programs' `.bss` is like ours.
    pub(super) fn variable(&self, offset: usize) -> Option<u64> {
        let bss = self.bss().ok()?.into_iter().next()?;
        Some(bss.u64_at(offset).load(Ordering::Relaxed))
    }
}
