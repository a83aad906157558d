//! The words in the `.bss` of an endpoint's programs, which are written while these run: until when to
//! trace, the clock of a confirmation, and what local delivery has learned.

use std::mem::offset_of;
use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use libbpf_rs::MapCore;

use super::abi::{bss, cm_confirm, cm_fallback};
use super::registry::{Endpoint, Running};
use super::sys::{self, SharedValue};
use crate::model::policing::{Confirmation, Fallback, Mode};

const UNTIL: usize = offset_of!(bss, confirm) + offset_of!(cm_confirm, until_ns);
const FALLBACK: usize = offset_of!(bss, confirm) + offset_of!(cm_confirm, fallback);

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
        for bss in self.bss()? {
            let fallback = match cm_fallback(bss.u32_at(FALLBACK).load(Ordering::Acquire)) {
                cm_fallback::CM_FALLBACK_AUDIT => Fallback::Audit,
                cm_fallback::CM_FALLBACK_RULES => Fallback::Rules,
                _ => continue,
            };
            let until = bss.u64_at(UNTIL).load(Ordering::Relaxed);
            return Ok(match until.saturating_sub(sys::coarse_ns()) {
                0 => Confirmation::Over(fallback),
                left => Confirmation::Pending(fallback, Duration::from_nanos(left)),
            });
        }
        Ok(Confirmation::None)
    }

    /// Makes the programs go back by themselves at a moment of the coarse monotonic clock, in ns;
    /// `None` never. The word that says to what comes last: whoever dies half way has changed
    /// nothing, or no more than the time.
    pub fn confirm_by(&self, deadline: Option<(u64, Fallback)>) -> Result<()> {
        let (until_ns, to) = match deadline {
            Some((until_ns, to)) => (until_ns, cm_fallback::from(to)),
            None => (0, cm_fallback::CM_FALLBACK_NONE),
        };
        for bss in self.bss()? {
            let fallback = bss.u32_at(FALLBACK);
            if fallback.load(Ordering::Relaxed) != to.0 {
                fallback.store(cm_fallback::CM_FALLBACK_NONE.0, Ordering::SeqCst);
            }
            bss.u64_at(UNTIL).store(until_ns, Ordering::SeqCst);
            fallback.store(to.0, Ordering::SeqCst);
        }
        Ok(())
    }

    /// What its policy really does to it and from it.
    pub fn modes_in_force(&self) -> Result<[Mode; 2]> {
        let confirmation = self.confirmation()?;
        Ok(self.config.modes().map(|mode| confirmation.in_force(mode)))
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
