//! The commands, one file each: its arguments and what it does with them.

mod again;
mod attach;
mod before;
mod claim;
mod confirm;
mod conntrack;
mod decision;
mod detach;
mod explain;
mod identity;
mod ipcache;
mod mark;
mod metrics;
mod monitor;
mod policy;
mod prompt;
mod status;
mod targets;
mod values;

use std::ffi::OsString;
use std::io::{self, Write as _};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::{env, fmt};

use anyhow::{Context as _, Error, Result, ensure};
use clap::builder::{PathBufValueParser, TypedValueParser};
use clap::error::ErrorKind;
use clap::{Args, CommandFactory, Parser, Subcommand};
use log::{LevelFilter, warn};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::unistd::geteuid;

use crate::kernel::{log as datapath_log, netns};
use crate::model::endpoint::Selector;
use crate::model::identity::Names;
use crate::model::text::{self, visible};
use crate::ops;
use crate::output;
use crate::state::pin::Root;
use crate::state::registry::{Found, shared};

/// Cilium-style security identities for any Linux network device
#[derive(Parser)]
#[command(version, max_term_width = 100, infer_subcommands = false)]
pub struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

#[derive(Args)]
struct Global {
    /// Directory of the pins, on a BPF file system
    #[arg(
        long,
        global = true,
        value_name = "DIR",
        value_parser = PathBufValueParser::new().try_map(parse_root),
        env = "CILMARK_BPFFS",
        default_value = "/sys/fs/bpf/cilmark"
    )]
    bpffs: Root,
    /// Work in another network namespace: a name of `ip netns`, or a path
    #[arg(long, global = true, value_name = "NAME|PATH")]
    netns: Option<String>,
    /// Print data as JSON
    #[arg(long, global = true)]
    json: bool,
    /// Log more to stderr; twice for still more
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    verbose: u8,
}

#[derive(Subcommand)]
enum Command {
    /// Give a device an identity: load the programs and put them on its hooks
    Attach(attach::Args),
    /// Take the programs off again
    Detach(detach::Args),
    /// Show what is attached
    Status(status::Args),
    /// Which identity an address has
    #[command(subcommand)]
    Ipcache(ipcache::Command),
    /// Names for identities
    #[command(subcommand)]
    Identity(identity::Command),
    /// The rules of an endpoint: who may talk to it, and to whom it may
    #[command(subcommand)]
    Policy(policy::Command),
    /// Make an enforcement under --confirm permanent
    Confirm(confirm::Args),
    /// The flows that policies know
    #[command(subcommand)]
    Conntrack(conntrack::Command),
    /// Packets and bytes by direction and fate
    Metrics(metrics::Args),
    /// Show drops, and what passes, as it happens
    Monitor(monitor::Args),
    /// What becomes of one packet, and why; nothing is sent and nothing changed
    Explain(explain::Args),
    /// The layout of the packet mark, both ways
    #[command(subcommand)]
    Mark(mark::Command),
}

/// What every command gets.
struct Context {
    root: Root,
    json: bool,
    /// `--netns` was given, and the process is there now.
    in_netns: bool,
}

impl Context {
    /// The names of identities.
    fn names(&self) -> Result<Names> {
        ops::names(&self.root)
    }

    /// All endpoints; with `--netns`, those there.
    fn endpoints(&self) -> Result<Found> {
        self.narrowed(Found::all(&self.root)?)
    }

    /// Those that commands name, and perhaps some more; with `--netns`, those there.
    fn named(&self, selectors: &[Selector]) -> Result<Found> {
        self.narrowed(Found::named(&self.root, selectors)?)
    }

    fn narrowed(&self, mut found: Found) -> Result<Found> {
        if self.in_netns {
            found.narrow(netns::current()?);
        }
        Ok(found)
    }

    /// Pins again what has lost its pin, for a command that reads it. Where it can't be done, what is there
    /// is read all the same.
    fn repair(&self) {
        if let Err(error) =
            ops::lock(&self.root).and_then(|_lock| shared::check_all_held(&self.root))
        {
            warn!("{error:#}");
        }
    }
}

/// Reading a thousand endpoints takes more descriptors than a shell allows by default.
fn allow_descriptors() {
    if let Ok((_, most)) = getrlimit(Resource::RLIMIT_NOFILE) {
        // Fewer will do for fewer endpoints.
        let _ = setrlimit(Resource::RLIMIT_NOFILE, most, most);
    }
}

/// Exit status of `explain` for a packet that is dropped.
const DROPPED: u8 = 3;

/// Runs the command line. Exit status: 0 done, 1 failed, 2 usage, 3 `explain` says drop.
pub fn main() -> ExitCode {
    let cli = parse();
    allow_descriptors();
    let level = match cli.global.verbose {
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
    datapath_log::forward_libbpf();
    match run(cli) {
        Ok(status) => status,
        // The reader of our output has seen enough: `cilmark … | head`.
        Err(error) if is_kind(&error, io::ErrorKind::BrokenPipe) => ExitCode::SUCCESS,
        Err(error) => {
            match error.downcast_ref() {
                Some(Failures(failures)) => {
                    output::note(&format!("cilmark: {} failures:", failures.len()));
                    failures.iter().for_each(|error| output::note(&format!("  {error:#}")));
                }
                None => output::note(&format!("cilmark: {error:#}")),
            }
            if is_kind(&error, io::ErrorKind::PermissionDenied) && !geteuid().is_root() {
                output::note(
                    "cilmark: this takes root, or CAP_NET_ADMIN, CAP_SYS_ADMIN and access to bpffs",
                );
            }
            ExitCode::FAILURE
        }
    }
}

/// The command line; it ends the process with status 2 if there is something wrong with it.
fn parse() -> Cli {
    // In a text each byte has its place, and so no argument is refused for its bytes.
    let arguments: Vec<String> =
        env::args_os().map(|argument| text::from_bytes(argument.as_bytes())).collect();
    let cli = Cli::try_parse_from(&arguments).unwrap_or_else(|error| {
        // Told once more, of arguments that a terminal may have.
        let shown =
            Cli::try_parse_from(arguments.iter().map(|argument| visible(argument).into_owned()));
        shown.err().unwrap_or(error).exit()
    });
    // A conflict with a global flag is noticed only where that stands behind the subcommand.
    if let (true, Command::Metrics(metrics::Args { prometheus: true })) =
        (cli.global.json, &cli.command)
    {
        let message = "the argument '--json' cannot be used with '--prometheus'";
        Cli::command().error(ErrorKind::ArgumentConflict, message).exit();
    }
    cli
}

fn parse_root(path: PathBuf) -> Result<Root> {
    let path = path_of(path);
    ensure!(path.is_absolute(), "not an absolute path");
    Ok(Root::new(path))
}

/// The path that an argument names.
fn path_of(argument: PathBuf) -> PathBuf {
    match argument.to_str() {
        Some(text) => OsString::from_vec(text::to_bytes(text)).into(),
        None => argument,
    }
}

fn run(cli: Cli) -> Result<ExitCode> {
    if let Some(name) = &cli.global.netns {
        netns::enter(name)?;
    }
    let context = Context {
        root: cli.global.bpffs,
        json: cli.global.json,
        in_netns: cli.global.netns.is_some(),
    };
    match cli.command {
        Command::Attach(args) => attach::run(&context, args),
        Command::Detach(args) => detach::run(&context, args),
        Command::Status(args) => status::run(&context, args),
        Command::Ipcache(command) => ipcache::run(&context, command),
        Command::Identity(command) => identity::run(&context, command),
        Command::Policy(command) => policy::run(&context, command),
        Command::Confirm(args) => confirm::run(&context, args),
        Command::Conntrack(command) => conntrack::run(&context, command),
        Command::Metrics(args) => metrics::run(&context, args),
        Command::Monitor(args) => monitor::run(&context, args),
        Command::Explain(args) => return explain::run(&context, args),
        Command::Mark(command) => mark::run(&context, command),
    }
    .map(|()| ExitCode::SUCCESS)
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

/// One error of all that happened while a command went on.
fn all_of(mut errors: Vec<Error>) -> Result<()> {
    match errors.len() {
        0 => Ok(()),
        1 => Err(errors.remove(0)),
        _ => Err(Failures(errors).into()),
    }
}

/// More than one error, each of which gets a line.
#[derive(Debug)]
struct Failures(Vec<Error>);

impl fmt::Display for Failures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let all: Vec<String> = self.0.iter().map(|error| format!("{error:#}")).collect();
        write!(f, "{} failures: {}", all.len(), all.join("; "))
    }
}

impl std::error::Error for Failures {}

/// Turns Ctrl-C and SIGTERM into a question that loops can ask: whether to go on.
fn until_interrupted() -> Result<impl Fn() -> bool> {
    let interrupted = Arc::new(AtomicBool::new(false));
    let flag = Arc::clone(&interrupted);
    ctrlc::set_handler(move || flag.store(true, Ordering::Relaxed)).context("catch Ctrl-C")?;
    Ok(move || !interrupted.load(Ordering::Relaxed))
}
