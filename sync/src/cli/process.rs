//! The process around a command: its arguments, its log, how it ends.

use std::future::Future;
use std::io::{self, Write as _};
use std::process::ExitCode;
use std::{env, iter};

use anyhow::{Context as _, Error, Result};
use cilmark::model::text::visible;
use cilmark::output;
use log::LevelFilter;
use tokio::runtime;
use tokio::task::LocalSet;

use super::{parse, run};

/// Runs the command line. Exit status: 0 done, 1 failed, or a problem that `doctor` has found, 2 usage.
pub fn main() -> ExitCode {
    let cli = parse(env::args_os()).unwrap_or_else(|error| error.exit());
    let is_service = cli.command.is_none();
    start_logging(is_service, cli.global.verbose);
    match run(cli) {
        Ok(status) => status,
        // The reader of our output has seen enough: `cilmark cluster list | head`.
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            let name = if is_service { "cilmark-sync" } else { "cilmark" };
            output::note(&format!("{name}: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

/// What is logged goes to stderr, each line with its level. A service says what it does, a command only what is wrong.
fn start_logging(is_service: bool, verbose: u8) {
    let levels = [LevelFilter::Warn, LevelFilter::Info, LevelFilter::Debug, LevelFilter::Trace];
    let level = usize::from(is_service) + usize::from(verbose);
    // Others than cilmark tell of each frame.
    let of_others = levels[level.saturating_sub(1).min(2)];
    env_logger::Builder::new()
        .filter_level(of_others)
        .filter_module("cilmark", levels[level.min(3)])
        .parse_default_env()
        .format(|to, record| {
            let message = record.args().to_string();
            message
                .lines()
                .chain(iter::once("").filter(|_| message.is_empty()))
                .try_for_each(|line| writeln!(to, "[{:<5}] {}", record.level(), visible(line)))
        })
        .init();
}

fn is_broken_pipe(error: &Error) -> bool {
    error.chain().any(|cause| {
        cause.downcast_ref::<io::Error>().is_some_and(|it| it.kind() == io::ErrorKind::BrokenPipe)
    })
}

/// Does what waits for etcd.
pub fn wait_for<T>(what: impl Future<Output = Result<T>>) -> Result<T> {
    let runtime = runtime::Builder::new_current_thread().enable_all().build();
    LocalSet::new().block_on(&runtime.context("start")?, what)
}
