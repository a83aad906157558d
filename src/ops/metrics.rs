//! What all endpoints have counted, and how full the maps of conntrack are.

use anyhow::Result;

use crate::kernel::abi::{cm_flow_class, cm_reason};
use crate::state::conntrack::{Conntrack, Usage};
use crate::state::maps::{self, Metric};
use crate::state::pin::Root;

/// The classes of flows, by `enum cm_flow_class`: who gives way first is first.
pub const CLASSES: [&str; cm_flow_class::CM_FLOW_CLASSES.0 as usize] =
    ["over", "unanswered", "waiting", "answered", "failsafe"];

/// The counters.
pub struct Report {
    /// By direction and reason.
    pub metrics: Vec<Metric>,
    /// Of each map of conntrack.
    pub usage: Vec<Usage>,
    /// Flows that have made room for others, by their class.
    pub displaced: [u64; CLASSES.len()],
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
