//! `cilmark confirm`.

use std::path::PathBuf;
use std::str::FromStr;

use anyhow::{Context as _, Error, Result};

use super::{Context, all_of, path_of};
use crate::kernel::netns;
use crate::ops::apply::files::Beside;
use crate::ops::targets::Targets;
use crate::ops::{self, confirm};
use crate::output;

#[derive(clap::Args)]
pub struct Args {
    /// An attached device, id:N, `host` for all NICs that wait for it, @ID for the rules of an identity, or the path of
    /// a file that was applied
    #[arg(value_name = "DEV|FILE")]
    what: What,
}

#[derive(Clone)]
enum What {
    Targets(Targets),
    /// No device has a slash in its name.
    Path(PathBuf),
}

impl FromStr for What {
    type Err = Error;

    fn from_str(text: &str) -> Result<What> {
        match text.contains('/') || text.ends_with(".toml") {
            true => Ok(What::Path(path_of(text.into()))),
            false => Ok(What::Targets(text.parse()?)),
        }
    }
}

pub fn run(context: &Context, args: Args) -> Result<()> {
    let _lock = ops::lock(&context.root)?.context("nothing is attached")?;
    let root = &context.root;
    let report = match &args.what {
        What::Targets(targets) => confirm::confirm(root, targets, context.netns)?,
        What::Path(path) => {
            let report = confirm::confirm_applied(root, &Beside::of(path), netns::current()?)
                .with_context(|| path.display().to_string())?;
            if report.errors.is_empty() {
                output::note(&format!("confirmed {}", path.display()));
            }
            report
        }
    };
    for device in report.confirmed {
        output::note(&format!("confirmed {device}"));
    }
    all_of(report.errors)
}
