//! What all endpoints have counted, and how full the maps of conntrack are.

mod prometheus;

use anyhow::Result;
pub use prometheus::text as prometheus;

use crate::kernel::abi::cm_counter;
use crate::model::wire::{
    CM_COUNTER_DISPLACED_OVER, CM_COUNTER_FLOW_FAILED, CM_FLOW_CLASS_NAMES, CM_FLOW_CLASSES,
};
use crate::state::conntrack::{Conntrack, Usage};
use crate::state::counters::{self, Counted, Line};
use crate::state::pin::Root;

/// How many classes of flows there are: who gives way first is first.
const CLASSES: usize = CM_FLOW_CLASSES as usize;

/// Their names, each with a value.
pub fn by_class<T>(values: [T; CLASSES]) -> impl Iterator<Item = (&'static str, T)> {
    CM_FLOW_CLASS_NAMES.iter().map(|(_, name)| *name).zip(values)
}

/// The counters.
pub struct Report {
    /// By direction, and by reason or counter.
    pub metrics: Vec<Line>,
    /// Of each map of conntrack.
    pub usage: Vec<Usage>,
    /// Flows that have made room for others, by their class.
    pub displaced: [u64; CLASSES],
    /// Flows that have found no room.
    pub failed: u64,
}

/// Reads the counters.
pub fn metrics(root: &Root) -> Result<Report> {
    let metrics = counters::read(root)?;
    let count = |counter: u32| -> u64 {
        let of = Counted::Counter(cm_counter(counter));
        metrics.iter().filter(|line| line.of == of).map(|line| line.sum.packets).sum()
    };
    let displaced = std::array::from_fn(|class| count(CM_COUNTER_DISPLACED_OVER + class as u32));
    let failed = count(CM_COUNTER_FLOW_FAILED);
    let mut usage = Vec::new();
    for maps in Conntrack::all(root)? {
        usage.extend(maps.usage()?);
    }
    Ok(Report { metrics, usage, displaced, failed })
}

/// Whose flows they are: `all`, or `id:` and an endpoint's number.
pub fn owner_of(usage: &Usage) -> String {
    usage.owner.map_or("all".to_owned(), |id| format!("id:{id}"))
}
