//! The commands, one file each: its arguments and what it does with them.

mod apply;
mod attach;
mod before;
mod cluster;
mod cni;
mod completions;
mod confirm;
mod conntrack;
mod context;
mod detach;
mod doctor;
mod event;
mod explain;
mod export;
mod file;
pub mod guide;
mod hook;
mod identity;
mod ipcache;
mod man;
mod mark;
mod metrics;
mod monitor;
mod oci;
mod policy;
mod process;
mod prompt;
mod status;
mod time;
mod values;

use std::process::ExitCode;

use anyhow::Result;
use clap::builder::{PathBufValueParser, TypedValueParser};
use clap::{Args, CommandFactory, Parser, Subcommand};
use context::{Context, Descriptors, parse_root, path_of};
use guide::Guide;
pub use process::main;
use process::until_interrupted;

use crate::kernel::netns;
use crate::ops::failures::all_of;
use crate::state::pin::Root;

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
    Attach(Box<attach::Args>),
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
    /// Make a change under --confirm permanent
    Confirm(confirm::Args),
    /// Make this host have what a file asks for
    Apply(apply::Args),
    /// Print what this host has, as a file that asks for it
    Export(export::Args),
    /// The flows that policies know
    #[command(subcommand)]
    Conntrack(conntrack::Command),
    /// Packets and bytes by direction and fate
    Metrics(metrics::Args),
    /// Show drops, and what passes, as it happens
    Monitor(monitor::Args),
    /// What becomes of one packet, and why; nothing is sent and nothing changed
    Explain(explain::Args),
    /// What on this host keeps cilmark from doing what you think it does
    Doctor(doctor::Args),
    /// Share identities and addresses with other hosts, and with Cilium, through etcd
    Cluster(cluster::Args),
    /// The layout of the packet mark, both ways
    #[command(subcommand)]
    Mark(mark::Command),
    /// Plugin of the Container Network Interface: a runtime calls it
    Cni(cni::Args),
    /// Identities for containers of Docker, Podman and other OCI runtimes
    #[command(subcommand)]
    Oci(oci::Command),
    /// What libvirt and LXC call when a workload starts and ends
    Hook(hook::Args),
    /// Print a man page, or write those of all commands
    Man(man::Args),
    /// Print the script by which a shell completes cilmark's command lines
    Completions(completions::Args),
}

/// What help and man pages say beside what stands here.
fn guide() -> Guide {
    Guide::read(include_str!("guide/cilmark.txt"))
}

/// All commands, with what the guide says of them.
fn command() -> clap::Command {
    guide::with_guide(Cli::command(), &guide())
}

/// Exit status of `explain` for a packet that is dropped.
const DROPPED: u8 = 3;

/// Exit status of `apply --dry-run` if something would change.
const DIFFERS: u8 = 4;

/// Exit status of `policy test` if a rule denies a flow that is up, or none allows it.
const WOULD_CUT: u8 = 4;

fn run(cli: Cli, descriptors: Descriptors) -> Result<ExitCode> {
    if let Some(name) = &cli.global.netns {
        netns::enter(name)?;
    }
    let context = Context {
        root: cli.global.bpffs,
        json: cli.global.json,
        descriptors,
        netns: cli.global.netns.map(|_| netns::current()).transpose()?,
    };
    match cli.command {
        Command::Attach(args) => attach::run(&context, *args),
        Command::Detach(args) => detach::run(&context, args),
        Command::Status(args) => status::run(&context, args),
        Command::Ipcache(command) => ipcache::run(&context, command),
        Command::Identity(command) => identity::run(&context, command),
        Command::Policy(command) => return policy::run(&context, command),
        Command::Confirm(args) => confirm::run(&context, args),
        Command::Apply(args) => return apply::run(&context, args),
        Command::Export(args) => export::run(&context, args),
        Command::Conntrack(command) => conntrack::run(&context, command),
        Command::Metrics(args) => metrics::run(&context, args),
        Command::Monitor(args) => monitor::run(&context, args),
        Command::Doctor(args) => return doctor::run(&context, args),
        Command::Explain(args) => return explain::run(&context, args),
        Command::Cluster(args) => cluster::run(&context, args, cli.global.verbose),
        Command::Hook(args) => hook::run(&context, args),
        Command::Mark(command) => mark::run(&context, command),
        Command::Cni(args) => return cni::run(&context, args),
        Command::Man(args) => man::run(&args),
        Command::Completions(args) => completions::run(&args),
        Command::Oci(command) => oci::run(&context, command),
    }
    .map(|()| ExitCode::SUCCESS)
}
