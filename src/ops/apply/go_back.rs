//! What was applied under `--confirm`, and nobody has confirmed.

use std::thread;
use std::time::Duration;

use anyhow::Result;
use log::warn;

use super::carry_out::carry_out;
use super::files::{Beside, Standing};
use super::plan::Plan;
use crate::kernel::sys;
use crate::model::enforcement::Grace;
use crate::ops;
use crate::state::pin::Root;

/// Makes the changes of a plan after this time, unless what lies beside the files says that somebody has confirmed. A process
/// of its own does it, which the end of this one, of its terminal and its session leave alone. If it is killed, modes and
/// rules of endpoints go back all the same: the datapath has their clocks.
pub fn go_back_after(root: &Root, undone: Plan, time: Duration, beside: Beside) -> Result<()> {
    if !sys::detach_a_child()? {
        return Ok(());
    }
    thread::sleep(time);
    let go_back = || -> Result<()> {
        let Some(_lock) = ops::lock(root)? else { return beside.end_trial() };
        match beside.standing()? {
            Standing::Waits => {}
            Standing::Settled | Standing::Over => return Ok(()),
        }
        beside.end_trial()?;
        carry_out(root, &undone, Grace::Permanent)
    };
    if let Err(error) = go_back() {
        warn!("go back: {error:#}");
    }
    std::process::exit(0);
}
