//! `cilmark apply`.

mod boot;
mod report;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use clap::builder::{PathBufValueParser, TypedValueParser};

use super::attach::ssh_server_port;
use super::prompt::{self, Prompt};
use super::time;
use super::{Context, DIFFERS, file, path_of};
use crate::kernel::sys;
use crate::model::enforcement::Grace;
use crate::model::file::DEFAULT_FILE;
use crate::model::shell::word;
use crate::ops::apply::files::{Beside, Files, Standing};
use crate::ops::apply::{self, Plan, Request, carry_out, plan};
use crate::ops::{self, confirm};
use crate::output;

#[derive(clap::Args)]
pub struct Args {
    /// The file, or a directory of files *.toml that add up; `-` for stdin
    #[arg(
        value_name = "FILE|DIR",
        value_parser = PathBufValueParser::new().map(path_of),
        default_value = DEFAULT_FILE
    )]
    path: PathBuf,
    /// Only tell what would change; status 4 if something would
    #[arg(long)]
    dry_run: bool,
    /// Remove what the file has made and no longer asks for
    #[arg(long)]
    prune: bool,
    #[command(flatten)]
    prompt: Prompt,
    /// Only the endpoint of this device, and the names that it needs
    #[arg(long, value_name = "DEV", conflicts_with_all = ["prune", "confirm"])]
    device: Option<String>,
    /// For units at boot: ask nobody. If the file is wrong, or nobody confirmed its last `--confirm`, apply what was confirmed
    /// last; if nothing was, let the NICs that it names enforce with their failsafe ports alone
    #[arg(long, conflicts_with_all = ["dry_run", "confirm"])]
    boot: bool,
    /// Mount a BPF file system if there is none
    #[arg(long)]
    mount_bpffs: bool,
}

impl Args {
    /// The path, for another directory.
    fn told_path(&self) -> String {
        std::path::absolute(&self.path).unwrap_or_else(|_| self.path.clone()).display().to_string()
    }

    /// Keeps what counts for good now.
    fn keep(&self, files: &Files) {
        if self.device.is_some() {
            return;
        }
        if let Err(error) = Beside::of(&self.path).keep(files) {
            log::warn!("a boot with a wrong file will not find this one: {error:#}");
        }
    }
}

pub fn run(context: &Context, args: Args) -> Result<ExitCode> {
    if args.boot {
        return boot::run(context, &args).map(|()| ExitCode::SUCCESS);
    }
    let files = match args.path.as_os_str() == "-" {
        true => Files::of_text("stdin", file::read(&args.path)?)?,
        false => Files::read(&args.path, args.device.is_none())?,
    };
    let plan = planned(context, &args, &files)?;
    if let (Some(device), [_, ..]) = (&args.device, plan.absent.as_slice()) {
        bail!("there is no device {device} here; `ip link` shows those that there are");
    }
    report::tell(&plan);
    if args.dry_run {
        report::print(context, &plan)?;
        return Ok(if plan.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(DIFFERS) });
    }
    let was_left = check_nothing_waits(&args, &Beside::of(&args.path))?;
    if !context.json {
        report::announce(&plan);
    }
    if !plan.risks.is_empty() {
        args.prompt.obtain(&plan.risks.join("; "), &args.told_path())?;
    }
    match plan.is_empty() && !was_left {
        true => output::note("nothing to change"),
        false => make(context, &args, &files, &plan)?,
    }
    // Where nothing changes nobody is cut off, and there is nothing to confirm.
    if plan.is_empty() || args.prompt.grace() == Grace::Permanent {
        args.keep(&files);
    }
    if context.json {
        report::print(context, &plan)?;
    }
    Ok(ExitCode::SUCCESS)
}

/// What differs from what files ask for.
fn planned(context: &Context, args: &Args, files: &Files) -> Result<Plan> {
    let wanted = files.wanted(&context.names()?)?;
    let device = args.device.as_deref();
    let request = Request {
        wanted: &wanted,
        prune: args.prune,
        device,
        login_port: ssh_server_port(),
        goes_on: args.boot,
    };
    plan(&context.root, &request)
}

/// Makes it so, unless something has changed since somebody agreed to it.
fn make(context: &Context, args: &Args, files: &Files, agreed: &Plan) -> Result<()> {
    let beside = Beside::of(&args.path);
    let until = |time: Duration| sys::coarse_ns().saturating_add(time.as_nanos() as u64);
    let (plan, on_trial) = {
        let _lock = ops::prepare(&context.root, args.mount_bpffs)?;
        let was_left = check_nothing_waits(args, &beside)?;
        let plan = planned(context, args, files)?;
        if plan.changes != agreed.changes {
            // Flags answer whatever it is; a person has answered what he was told.
            ensure!(
                args.prompt.has_answered() || plan.risks.is_empty(),
                "something has changed meanwhile, so that other things were to be done; nothing has changed by this"
            );
            report::announce(&plan);
        }
        let time = args.prompt.confirm.filter(|_| !plan.is_empty());
        let on_trial = time.map(|time| (time, until(time)));
        let mut grace = Grace::Permanent;
        if let Some((time, until_ns)) = on_trial {
            beside
                .try_out(files, &plan.concerned(), until_ns, false)
                .context("--confirm keeps what is on trial beside the file")?;
            grace = Grace::Within(time.saturating_add(apply::slack(&plan)));
        }
        let done = carry_out(&context.root, &plan, grace);
        if done.is_err() && on_trial.is_some() {
            beside.remove_trial()?;
        }
        done?;
        match on_trial {
            Some((_, until_ns)) => beside.try_out(files, &plan.concerned(), until_ns, true)?,
            None if was_left && args.device.is_none() => {
                confirm::stop_clocks_of_file(&context.root)?;
            }
            None => {}
        }
        (plan, on_trial)
    };
    if let Some((time, until_ns)) = on_trial {
        apply::go_back_at(&context.root, plan.undone(), until_ns, &beside)?;
        prompt::remind(&args.told_path(), time, "all of it goes back");
    }
    Ok(())
}

/// Another apply would leave nobody to put the first one back. Whether one was that nobody has confirmed.
fn check_nothing_waits(args: &Args, beside: &Beside) -> Result<bool> {
    let standing = beside.standing()?;
    if let Standing::Waits(left) = standing {
        bail!(
            "{} was applied with --confirm and waits: `cilmark confirm {}` makes that permanent, or it goes back by \
             itself in {}; then apply again; nothing has changed",
            args.told_path(),
            word(&args.told_path()),
            time::text(left)
        );
    }
    Ok(matches!(standing, Standing::Over))
}
