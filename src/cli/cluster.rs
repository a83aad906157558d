//! `cilmark cluster`: becomes `cilmark-sync cluster`, which alone talks to etcd.

use std::env;
use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process;

use anyhow::{Context as _, Result, anyhow};

use super::Context;
use crate::model::text;

/// The program beside this one, in another package, since hosts of no cluster need none of it.
const PROGRAM: &str = "cilmark-sync";

// That program has the help of these commands, too.
#[derive(clap::Args)]
#[command(disable_help_flag = true)]
pub struct Args {
    /// A command of `cilmark-sync cluster`, and what it takes; --help shows all
    #[arg(
        value_name = "COMMAND",
        trailing_var_arg = true,
        allow_hyphen_values = true,
        num_args = 0..
    )]
    arguments: Vec<String>,
}

/// Runs in its place; `verbose` is how often `-v` was given.
pub fn run(context: &Context, args: Args, verbose: u8) -> Result<()> {
    let program = find()?;
    context.descriptors.restore()?;
    let mut command = process::Command::new(&program);
    // So its help says `cilmark cluster`.
    command.arg0("cilmark");
    command.arg("--bpffs").arg(context.root.path());
    command.args(context.json.then_some("--json"));
    command.args((0..verbose).map(|_| "--verbose"));
    command.arg("cluster");
    command.args(args.arguments.iter().map(|it| OsString::from_vec(text::to_bytes(it))));
    Err(anyhow!("run {}: {}", program.display(), command.exec()))
}

/// Beside this program first, since that is of the same version.
pub fn find() -> Result<PathBuf> {
    let own = env::current_exe().context("find the directory of cilmark")?;
    let directories = env::var_os("PATH").unwrap_or_default();
    own.parent()
        .map(Path::to_owned)
        .into_iter()
        // An empty PATH means the working directory, which may be anybody's.
        .chain(env::split_paths(&directories).filter(|it| it.is_absolute()))
        .map(|directory| directory.join(PROGRAM))
        .find(|path| is_program(path))
        .with_context(|| {
            format!(
                "{PROGRAM} is neither beside {} nor in PATH: the commands of clusters are its; install it",
                own.display()
            )
        })
}

fn is_program(path: &Path) -> bool {
    path.metadata().is_ok_and(|it| it.is_file() && it.permissions().mode() & 0o111 != 0)
}
