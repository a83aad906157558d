//! What programs count for the whole host: packets by what became of them (`cm_metrics`), and what else happens
//! (`cm_stats`).

use anyhow::Result;
use libbpf_rs::{MapCore, MapFlags, MapHandle};

use crate::kernel::abi::{
    bytes_of, cm_counter, cm_direction, cm_metrics, cm_reason, from_bytes, u32_key,
};
use crate::state::pin::{self, Root};

/// What a line counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Counted {
    /// Packets with this fate.
    Fate(cm_reason),
    /// What is no packet's fate.
    Counter(cm_counter),
}

/// A line, all CPUs together.
#[derive(Debug, Clone, Copy)]
pub struct Line {
    /// `CM_INGRESS` or `CM_EGRESS`.
    pub direction: u32,
    /// What was counted.
    pub of: Counted,
    /// How often; bytes of packets alone.
    pub sum: cm_metrics,
}

impl Counted {
    /// As output shows it; no reason has the number of a counter.
    pub fn number(self) -> u32 {
        match self {
            Counted::Fate(reason) => reason.0,
            Counted::Counter(counter) => counter.0,
        }
    }

    /// As output shows it.
    pub fn name(self) -> &'static str {
        match self {
            Counted::Fate(reason) => reason.name(),
            Counted::Counter(counter) => counter.name(),
        }
    }
}

/// What has been counted, by direction and number, without the zeros.
pub fn read(root: &Root) -> Result<Vec<Line>> {
    let mut lines = Vec::new();
    if let Some(fates) = pin::open_map(&root.map("cm_metrics"))? {
        for index in 0..fates.max_entries() {
            let (direction, reason) = parts(index, cm_reason::CM_REASONS.0);
            let sum = sum_of_cpus(&fates, index)?;
            lines.push(Line { direction, of: Counted::Fate(cm_reason(reason)), sum });
        }
    }
    if let Some(counters) = pin::open_map(&root.map("cm_stats"))? {
        for index in 0..counters.max_entries() {
            let (direction, counter) = parts(index, cm_counter::CM_COUNTERS.0);
            let sum = cm_metrics { packets: count_of_cpus(&counters, index)?, bytes: 0 };
            lines.push(Line { direction, of: Counted::Counter(cm_counter(counter)), sum });
        }
    }
    lines.retain(|line| line.sum.packets > 0);
    lines.sort_by_key(|line| (line.direction, line.of.number()));
    Ok(lines)
}

/// How many events no reader got, of all endpoints that there have been.
pub fn lost_events(root: &Root) -> Result<u64> {
    let Some(counters) = pin::open_map(&root.map("cm_stats"))? else { return Ok(0) };
    let lost = [cm_direction::CM_INGRESS, cm_direction::CM_EGRESS].map(|direction| {
        let index = direction.0 * cm_counter::CM_COUNTERS.0 + cm_counter::CM_COUNTER_EVENT_LOST.0;
        count_of_cpus(&counters, index)
    });
    lost.into_iter().sum()
}

/// Direction and number of an index.
fn parts(index: u32, numbers: u32) -> (u32, u32) {
    (index / numbers, index % numbers)
}

/// An element of an array of `cm_metrics`; zeros where the array is shorter.
pub(super) fn sum_of_cpus(map: &MapHandle, index: u32) -> Result<cm_metrics> {
    let mut sum = cm_metrics::default();
    for bytes in of_cpus(map, index)? {
        let of_cpu: cm_metrics = from_bytes(&bytes)?;
        sum.packets += of_cpu.packets;
        sum.bytes += of_cpu.bytes;
    }
    Ok(sum)
}

fn count_of_cpus(map: &MapHandle, index: u32) -> Result<u64> {
    of_cpus(map, index)?.iter().map(|bytes| from_bytes::<u64>(bytes)).sum()
}

fn of_cpus(map: &MapHandle, index: u32) -> Result<Vec<Vec<u8>>> {
    Ok(map.lookup_percpu(bytes_of(&u32_key(index)), MapFlags::ANY)?.unwrap_or_default())
}
