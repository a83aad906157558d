//! What was applied under `--confirm`, and nobody has confirmed.

use std::thread;
use std::time::Duration;

use anyhow::Result;
use log::warn;

use super::carry_out::carry_out;
use super::change::Change;
use super::files::Beside;
use super::now::Now;
use super::plan::Plan;
use crate::kernel::{netns, sys};
use crate::model::enforcement::Grace;
use crate::ops::{self, confirm};
use crate::state::pin::Root;

/// By how much the clocks of the datapath, which stand for a process that was killed, are late: until then a process that
/// lives has put everything back, in an order in which nothing opens.
pub fn slack(plan: &Plan) -> Duration {
    let attached = plan.changes.iter().filter(|it| matches!(it, Change::Endpoint(_))).count();
    Duration::from_secs(2) + Duration::from_millis(20) * attached as u32
}

/// Makes the changes of a plan at a moment of the coarse monotonic clock (ns), unless what lies beside the files says that
/// somebody has confirmed. A process of its own does it, which the end of this one, of its terminal and its session leave
/// alone. If it is killed, modes and rules of endpoints go back all the same: the datapath has their clocks.
pub fn go_back_at(root: &Root, undone: Plan, until_ns: u64, beside: &Beside) -> Result<()> {
    if !sys::detach_a_child()? {
        return Ok(());
    }
    let left = || until_ns.saturating_sub(sys::coarse_ns());
    while left() > 0 {
        thread::sleep(Duration::from_nanos(left()));
    }
    if let Err(error) = go_back(root, undone, until_ns, beside) {
        warn!("go back: {error:#}");
    }
    std::process::exit(0);
}

fn go_back(root: &Root, mut undone: Plan, until_ns: u64, beside: &Beside) -> Result<()> {
    let lock = ops::lock(root)?;
    if !beside.end_trial(until_ns)? || lock.is_none() {
        return Ok(());
    }
    leave_to_others(root, &mut undone)?;
    carry_out(root, &undone, Grace::Permanent)?;
    confirm::stop_clocks(root, &undone.concerned())
}

/// What somebody has changed since then stays.
fn leave_to_others(root: &Root, undone: &mut Plan) -> Result<()> {
    let now = Now::of(root, netns::current()?)?;
    undone.changes.retain(|change| match change {
        Change::Name(identity, before, _) => now.names.get(identity) == before.as_ref(),
        Change::Line(prefix, before, _) => now.lines.get(prefix) == before.as_ref(),
        Change::Rules(..) => true,
        Change::Endpoint(change) => {
            let is_its = |it: &super::now::Attached| {
                !it.endpoint.stale && it.endpoint.device == change.device
            };
            now.endpoints.iter().any(is_its) == change.before.is_some()
        }
    });
    Ok(())
}
