//! `apply --boot`: nobody is there to be asked, and the host must neither stay open nor be cut off.

use anyhow::{Error, Result, bail};
use log::warn;

use super::{Args, planned, report};
use crate::cli::{Context, all_of};
use crate::kernel::device;
use crate::model::enforcement::Grace;
use crate::ops;
use crate::ops::apply::files::{Beside, Files, Standing, devices_named};
use crate::ops::apply::{carry_out, close_nics, is_called};
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
            let files = Files::read(&args.path, args.device.is_none());
            match files.and_then(|files| Ok((make(context, args, &files)?, files))) {
                Ok((made, files)) => {
                    args.keep(&files);
                    return all_of(made.failed);
                }
                Err(error) => error,
            }
        }
        Err(error) => error,
    };
    match beside.confirmed() {
        Ok(Some(confirmed)) => match make(context, args, &confirmed) {
            Ok(made) if made.is_nothing() && args.device.is_some() => return Ok(()),
            Ok(Made { failed, .. }) => {
                failed.iter().for_each(|error| warn!("{error:#}"));
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
    if args.device.is_some() && !names_the_device(&devices, args)? {
        return Ok(());
    }
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

/// What has come of it.
struct Made {
    had_changes: bool,
    /// Why devices are not what was asked for, which has kept nobody from the rest.
    failed: Vec<Error>,
}

impl Made {
    fn is_nothing(&self) -> bool {
        !self.had_changes && self.failed.is_empty()
    }
}

/// Of devices that can't be what is asked for NICs are closed.
fn make(context: &Context, args: &Args, files: &Files) -> Result<Made> {
    let mut plan = planned(context, args, files)?;
    report::tell(&plan);
    report::announce(&plan);
    let mut failed = std::mem::take(&mut plan.failed);
    failed.extend(carry_out(&context.root, &plan, Grace::Permanent)?);
    let devices: Vec<(String, bool)> =
        failed.iter().map(|(device, _)| (device.clone(), false)).collect();
    let mut failed: Vec<Error> = failed.into_iter().map(|(_, error)| error).collect();
    if !devices.is_empty() {
        let closed = close_nics(&context.root, &devices, None)?;
        let closed = (!closed.is_empty()).then(|| closed.join(" "));
        failed
            .extend(closed.map(|closed| Error::msg(format!("{closed} pass only failsafe ports"))));
    }
    Ok(Made { had_changes: !plan.is_empty(), failed })
}

/// Whether a file that can't be read says anything of the device that has come.
fn names_the_device(devices: &[(String, bool)], args: &Args) -> Result<bool> {
    let Some(name) = &args.device else { return Ok(true) };
    let device = device::find(name)?;
    Ok(device.is_some_and(|device| devices.iter().any(|(text, _)| is_called(&device, text))))
}
