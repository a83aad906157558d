//! `cilmark hook`: what libvirt and LXC call when a workload starts and ends.

mod libvirt;
mod lxc;

use std::path::PathBuf;

use anyhow::Result;
use clap::builder::{PathBufValueParser, TypedValueParser};
use nix::unistd::geteuid;

use super::{Context, path_of};
use crate::kernel::syslog;
use crate::model::file::DEFAULT_FILE;
use crate::model::text::visible;

#[derive(clap::Args)]
pub struct Args {
    /// The file whose endpoints and [births] count for what nobody else says; it need not be there. Stands before libvirt or lxc
    #[arg(
        long,
        value_name = "FILE|DIR",
        value_parser = PathBufValueParser::new().map(path_of),
        default_value = DEFAULT_FILE
    )]
    file: PathBuf,
    #[command(subcommand)]
    command: Command,
}

#[derive(clap::Subcommand)]
enum Command {
    /// The hook of libvirt for guests of QEMU: a script in /etc/libvirt/hooks/qemu.d calls it
    Libvirt(libvirt::Args),
    /// The hook of LXC: lxc.net.N.script.up and lxc.net.N.script.down are set to it
    Lxc(lxc::Args),
}

pub fn run(context: &Context, args: Args) -> Result<()> {
    let done = match args.command {
        Command::Libvirt(of) => libvirt::run(context, &args.file, of),
        Command::Lxc(of) => lxc::run(context, &args.file, of),
    };
    done.inspect_err(|error| log(&format!("{error:#}")))
}

/// Whether it is the workload of an ordinary user, whose hooks run as he. He may not attach anything; so what says nothing of
/// cilmark is left alone.
fn is_of_a_user() -> bool {
    !geteuid().is_root()
}

/// Says it in the system's log, too: LXC hides what its scripts say, and libvirt what those say that succeed.
fn log(text: &str) {
    syslog::error(&visible(text));
}
