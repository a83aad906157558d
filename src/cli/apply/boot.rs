//! `apply --boot`: nobody is there to be asked, and the host must neither stay open nor be cut off.

use anyhow::{Error, Result, bail};
use log::warn;

use super::{Args, planned, report};
use crate::cli::Context;
use crate::model::enforcement::Grace;
use crate::ops;
use crate::ops::apply::files::{Beside, Files, Standing, devices_named};
use crate::ops::apply::{carry_out, close_nics};
use crate::output;

pub fn run(context: &Context, args: &Args) -> Result<()> {
    let _lock = ops::prepare(&context.root, args.mount_bpffs)?;
    let beside = Beside::of(&args.path);
    let wrong = match beside.standing() {
        Ok(Standing::Waits(_)) => {
            output::note("an apply waits to be confirmed; nothing has changed");
            return Ok(());
        }
        Ok(Standing::Over) => Error::msg(format!(
            "{} was applied with --confirm last, and nobody has confirmed it: apply it again",
            args.path.display()
        )),
        Ok(Standing::Settled) => {
            match Files::read(&args.path).and_then(|files| make(context, args, &files)) {
                Ok(()) => return Ok(()),
                Err(error) => error,
            }
        }
        Err(error) => error,
    };
    match beside.confirmed() {
        Ok(Some(confirmed)) => match make(context, args, &confirmed) {
            Ok(()) => {
                return Err(
                    wrong.context("what was confirmed last is in force, since the file can't be")
                );
            }
            Err(error) => warn!("what was confirmed last: {error:#}"),
        },
        Ok(None) => {}
        Err(error) => warn!("what was confirmed last: {error:#}"),
    }
    let devices = devices_named(&args.path);
    let closed = close_nics(&context.root, &devices, args.device.as_deref())?;
    if closed.is_empty() {
        bail!(wrong);
    }
    Err(wrong.context(format!(
        "{} let in and out what their failsafe ports are for, and nothing else, since the file can't be applied and nothing \
         was confirmed before",
        closed.join(" ")
    )))
}

fn make(context: &Context, args: &Args, files: &Files) -> Result<()> {
    let plan = planned(context, args, files)?;
    report::tell(&plan);
    report::announce(&plan);
    carry_out(&context.root, &plan, Grace::Permanent)
}
