//! The clock of a confirmation, wherever it stands.

use std::mem::offset_of;
use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::kernel::abi::{cm_confirm, cm_fallback};
use crate::kernel::sys::{self, SharedValue};
use crate::model::enforcement::{Confirmation, Fallback};

/// A pending confirmation, `struct cm_confirm`, in memory that programs read.
pub(super) struct Clock<'a> {
    pub(super) memory: &'a SharedValue,
    /// Where it stands there.
    pub(super) at: usize,
    /// The word, and the bit of it, that tells whether it stands there.
    pub(super) runs: Option<(usize, u32)>,
}

impl Clock<'_> {
    pub(super) fn get(&self) -> Confirmation {
        let fallback = self.memory.u32_at(self.at + offset_of!(cm_confirm, fallback));
        let fallback = match cm_fallback(fallback.load(Ordering::Acquire)) {
            cm_fallback::CM_FALLBACK_AUDIT => Fallback::Audit,
            cm_fallback::CM_FALLBACK_RULES => Fallback::Rules,
            _ => return Confirmation::None,
        };
        match self.until_ns().saturating_sub(sys::coarse_ns()) {
            0 => Confirmation::Over(fallback),
            left => Confirmation::Pending(fallback, Duration::from_nanos(left)),
        }
    }

    /// The moment that it is set to, whether it stands there for anything or not.
    pub(super) fn until_ns(&self) -> u64 {
        let until = self.memory.u64_at(self.at + offset_of!(cm_confirm, until_ns));
        until.load(Ordering::Relaxed)
    }

    /// The word that says to what comes last: whoever dies half way has changed nothing, or no more than
    /// the time.
    pub(super) fn set(&self, cm_confirm { until_ns, fallback: to, .. }: cm_confirm) {
        let fallback = self.memory.u32_at(self.at + offset_of!(cm_confirm, fallback));
        if fallback.load(Ordering::Relaxed) != to.0 {
            fallback.store(cm_fallback::CM_FALLBACK_NONE.0, Ordering::SeqCst);
        }
        let until = self.memory.u64_at(self.at + offset_of!(cm_confirm, until_ns));
        until.store(until_ns, Ordering::SeqCst);
        let runs = to != cm_fallback::CM_FALLBACK_NONE;
        // Set as long as anybody has to look.
        if let (true, Some((at, bit))) = (runs, self.runs) {
            self.memory.set_bits(at, bit, true);
        }
        fallback.store(to.0, Ordering::SeqCst);
        if let (false, Some((at, bit))) = (runs, self.runs) {
            self.memory.set_bits(at, bit, false);
        }
    }
}
