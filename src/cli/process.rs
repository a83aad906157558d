//! The process around a command: its arguments, its log, how it ends.

use std::env;
use std::io::{self, Write as _};
use std::os::unix::ffi::OsStrExt;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context as _, Error, Result};
use clap::FromArgMatches;
use clap::error::ErrorKind;
use log::LevelFilter;
use nix::unistd::geteuid;

use super::{Cli, Command, Descriptors, cni, command, completions, metrics, run};
use crate::kernel::log as kernel_log;
use crate::model::text::{self, visible};
use crate::ops::failures::Failures;
use crate::output;

/// Runs the command line. Exit status: 0 done, 1 failed, 2 usage, 3 `explain` says drop.
pub fn main() -> ExitCode {
    let cli = parse();
    if let Command::Completions(args) = &cli.command
        && args.is_asked()
    {
        completions::answer(&cli.global, args);
        return ExitCode::SUCCESS;
    }
    let descriptors = Descriptors::raise();
    start_logging(cli.global.verbose);
    kernel_log::forward_libbpf();
    // A workload starts if its hook succeeds, and nobody reads what that prints.
    let is_a_hook = matches!(cli.command, Command::Cni(_) | Command::Oci(_) | Command::Hook(_));
    match run(cli, descriptors) {
        Ok(status) => status,
        // The reader of our output has seen enough: `cilmark … | head`.
        Err(error) if !is_a_hook && is_kind(&error, io::ErrorKind::BrokenPipe) => ExitCode::SUCCESS,
        Err(error) => {
            report(&error);
            ExitCode::FAILURE
        }
    }
}

/// What is logged goes to stderr, each line of a message with its level and where it comes from.
fn start_logging(verbose: u8) {
    let level = match verbose {
        0 => LevelFilter::Warn,
        1 => LevelFilter::Info,
        2 => LevelFilter::Debug,
        _ => LevelFilter::Trace,
    };
    env_logger::Builder::new()
        .filter_level(level)
        .parse_default_env()
        .format(|to, record| {
            let style = to.default_level_style(record.level());
            let (level, target) = (record.level(), record.target());
            write!(to, "[{style}{level:<5}{style:#} {target}]")?;
            // The verifier has many.
            let message = record.args().to_string();
            message.lines().try_for_each(|line| writeln!(to, " {}", visible(line)))
        })
        .init();
}

/// The command line; it ends the process with status 2 if there is something wrong with it.
fn parse() -> Cli {
    // In a text each byte has its place, and so no argument is refused for its bytes.
    let mut arguments: Vec<String> =
        env::args_os().map(|argument| text::from_bytes(argument.as_bytes())).collect();
    if arguments.first().is_some_and(|name| cni::is_plugin(name)) {
        arguments.insert(1, "cni".to_owned());
    }
    let cli = read(&arguments).unwrap_or_else(|error| {
        // Told once more, of arguments that a terminal may have.
        let shown: Vec<String> =
            arguments.iter().map(|argument| visible(argument).into_owned()).collect();
        read(&shown).err().unwrap_or(error).exit()
    });
    // A conflict with a global flag is noticed only where that stands behind the subcommand.
    if let (true, Command::Metrics(metrics::Args { prometheus: true })) =
        (cli.global.json, &cli.command)
    {
        let message = "the argument '--json' cannot be used with '--prometheus'";
        command().error(ErrorKind::ArgumentConflict, message).exit();
    }
    cli
}

fn read(arguments: &[String]) -> Result<Cli, clap::Error> {
    let mut command = command();
    let matches = command.try_get_matches_from_mut(arguments)?;
    Cli::from_arg_matches(&matches).map_err(|error| error.format(&mut command))
}

/// Tells the person at the terminal what went wrong.
fn report(error: &Error) {
    match error.downcast_ref() {
        Some(Failures(failures)) => {
            output::note(&format!("cilmark: {} failures:", failures.len()));
            failures.iter().for_each(|error| output::note(&format!("  {error:#}")));
        }
        None => output::note(&format!("cilmark: {error:#}")),
    }
    if is_kind(error, io::ErrorKind::PermissionDenied) && !geteuid().is_root() {
        output::note(
            "cilmark: this takes root, or CAP_NET_ADMIN, CAP_SYS_ADMIN and access to bpffs",
        );
    }
}

fn is_kind(error: &Error, kind: io::ErrorKind) -> bool {
    error.chain().any(|cause| {
        let of_io = cause.downcast_ref::<io::Error>().map(io::Error::kind);
        let of_nix = cause.downcast_ref::<nix::Error>().map(|errno| io::Error::from(*errno).kind());
        let of_bpf = cause.downcast_ref::<libbpf_rs::Error>().is_some_and(|error| {
            kind == io::ErrorKind::PermissionDenied
                && error.kind() == libbpf_rs::ErrorKind::PermissionDenied
        });
        of_io == Some(kind) || of_nix == Some(kind) || of_bpf
    })
}

/// Turns Ctrl-C and SIGTERM into a question that loops can ask: whether to go on.
pub fn until_interrupted() -> Result<impl Fn() -> bool> {
    let interrupted = Arc::new(AtomicBool::new(false));
    let flag = Arc::clone(&interrupted);
    ctrlc::set_handler(move || flag.store(true, Ordering::Relaxed)).context("catch Ctrl-C")?;
    Ok(move || !interrupted.load(Ordering::Relaxed))
}
