//! What all endpoints have counted, and how full the maps of conntrack are.

use anyhow::Result;

use crate::kernel::abi::cm_reason;
use crate::model::wire::{CM_FLOW_CLASS_NAMES, CM_FLOW_CLASSES};
use crate::state::conntrack::{Conntrack, Usage};
use crate::state::maps::{self, Metric};
use crate::state::pin::Root;

/// How many classes of flows there are: who gives way first is first.
const CLASSES: usize = CM_FLOW_CLASSES as usize;

/// Their names, each with a value.
pub fn by_class<T>(values: [T; CLASSES]) -> impl Iterator<Item = (&'static str, T)> {
    CM_FLOW_CLASS_NAMES.iter().map(|(_, name)| *name).zip(values)
}

/// The counters.
pub struct Report {
    /// By direction and reason.
    pub metrics: Vec<Metric>,
    /// Of each map of conntrack.
    pub usage: Vec<Usage>,
    /// Flows that have made room for others, by their class.
    pub displaced: [u64; CLASSES],
    /// Flows that have found no room.
    pub failed: u64,
}

/// Reads the counters.
pub fn metrics(root: &Root) -> Result<Report> {
    let metrics = maps::metrics(root)?;
    let packets = |reason: u32| -> u64 {
        metrics.iter().filter(|line| line.reason == reason).map(|line| line.sum.packets).sum()
    };
    let displaced =
        std::array::from_fn(|class| packets(cm_reason::CM_FLOW_DISPLACED.0 + class as u32));
    let failed = packets(cm_reason::CM_FLOW_FAILED.0);
    let mut usage = Vec::new();
    for maps in Conntrack::all(root)? {
        usage.extend(maps.usage()?);
    }
    Ok(Report { metrics, usage, displaced, failed })
}
