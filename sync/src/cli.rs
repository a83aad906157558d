//! The command line of `cilmark-sync`, and of `cilmark cluster`, which runs it.

mod completions;
mod doctor;
mod init;
mod leave;
mod list;
mod man;
mod process;
mod state;
mod status;
mod sweep;

use std::ffi::OsString;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, Result, ensure};
use clap::builder::{PathBufValueParser, TypedValueParser};
use clap::{Args, CommandFactory, FromArgMatches, Parser, Subcommand};

use cilmark::cli::guide::{self, Guide};
use cilmark::state::pin::Root;

use crate::config::DEFAULT_FILE;
use crate::service;

pub use process::main;

/// Shares cilmark's identities and addresses with other hosts, and with Cilium, through etcd
///
/// Without a command it is the service: it reads clusters into the ipcache, publishes this host's endpoints, and answers
/// `cilmark attach --labels`.
#[derive(Parser)]
#[command(version, max_term_width = 100, infer_subcommands = false)]
struct Cli {
    #[command(flatten)]
    global: Global,
    /// Serve metrics for Prometheus at this address; a port alone means 127.0.0.1
    #[arg(long, value_name = "ADDR:PORT|PORT", value_parser = parse_listen)]
    listen: Option<SocketAddr>,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Args)]
struct Global {
    /// File that says which cluster this host is in
    #[arg(long, global = true, value_name = "FILE", default_value = DEFAULT_FILE)]
    config: PathBuf,
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
    /// Print data as JSON
    #[arg(long, global = true)]
    json: bool,
    /// Log more to stderr; twice for still more
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    verbose: u8,
}

#[derive(Subcommand)]
enum Command {
    /// Share identities and addresses with other hosts, and with Cilium, through etcd
    // Cilmark runs it, and so it is called by that name.
    #[command(subcommand, display_name = "cilmark-cluster", bin_name = "cilmark cluster")]
    Cluster(Cluster),
    /// Print a man page, or write those of all commands
    Man(man::Args),
    /// Print the script by which a shell completes command lines of cilmark-sync
    Completions(completions::Args),
}

/// What help and man pages say beside what stands here.
fn guide() -> Guide {
    Guide::read(include_str!("cli/guide.txt"))
}

/// All commands, with what the guide says of them.
fn command() -> clap::Command {
    guide::with_guide(Cli::command(), &guide())
}

#[derive(Subcommand)]
enum Cluster {
    /// Make this host one of a cluster: check its etcd, and write the configuration
    Init(init::Args),
    /// Show how each cluster is, and what this host publishes
    Status,
    /// List the addresses of clusters, or what is stale, held or refused
    List(list::Args),
    /// Check the etcd of each cluster as Cilium's agents do, and what this host may write
    Doctor(doctor::Args),
    /// Withdraw what this host has published, and end the service
    Leave,
    /// Let the held lines of a cluster go: those of which too many would have gone at once
    Sweep(sweep::Args),
}

/// What every command gets.
struct Context {
    config: PathBuf,
    root: Root,
    json: bool,
}

fn run(cli: Cli) -> Result<ExitCode> {
    let Global { config, bpffs: root, json, .. } = cli.global;
    let command = match cli.command {
        Some(Command::Cluster(command)) => command,
        Some(Command::Man(args)) => return man::run(&args).map(|()| ExitCode::SUCCESS),
        Some(Command::Completions(args)) => {
            return completions::run(&root, &args).map(|()| ExitCode::SUCCESS);
        }
        None => {
            let options = service::Options { config, root, listen: cli.listen };
            return service::run(options).map(|()| ExitCode::SUCCESS);
        }
    };
    let context = Context { config, root, json };
    match command {
        Cluster::Init(args) => init::run(&context, args),
        Cluster::Status => status::run(&context),
        Cluster::List(args) => list::run(&context, args),
        Cluster::Doctor(args) => return doctor::run(&context, args),
        Cluster::Leave => leave::run(&context),
        Cluster::Sweep(args) => sweep::run(&context, &args),
    }
    .map(|()| ExitCode::SUCCESS)
}

fn parse_root(path: PathBuf) -> Result<Root> {
    ensure!(path.is_absolute(), "not an absolute path");
    Ok(Root::new(path))
}

fn parse_listen(text: &str) -> Result<SocketAddr> {
    match text.parse() {
        Ok(port) => Ok(SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port)),
        Err(_) => text.parse().context("expected a port, such as 9965, or an address with one"),
    }
}

/// The command line; an error is one of usage.
fn parse(arguments: impl Iterator<Item = OsString>) -> Result<Cli, clap::Error> {
    let mut command = command();
    let matches = command.try_get_matches_from_mut(arguments)?;
    let cli = Cli::from_arg_matches(&matches).map_err(|error| error.format(&mut command))?;
    if let (Some(_), Some(_)) = (&cli.listen, &cli.command) {
        return Err(clap::Error::raw(
            clap::error::ErrorKind::ArgumentConflict,
            "the argument '--listen' is for the service, and cannot be used with a command\n",
        ));
    }
    Ok(cli)
}

#[cfg(test)]
mod tests {
    use cilmark::cli::guide::check;

    use super::*;

    #[test]
    fn every_command_has_examples_and_clap_takes_them() {
        assert_eq!(check::faults(command(), &guide(), &["cilmark", "cilmark-sync"]), [""; 0]);
    }

    #[test]
    fn every_command_has_a_page_with_all_that_it_takes() {
        let mut command = command();
        command.build();
        let pages = man::pages().unwrap();
        assert_eq!(pages.len() + 1, check::paths(&command).len(), "cilmark has that of `cluster`");
        for page in pages {
            assert_eq!(check::lacks(&command, &page), [""; 0], "{}", page.name);
        }
    }

    #[test]
    fn a_port_alone_is_of_loopback() {
        for (text, address) in [
            ("9965", "127.0.0.1:9965"),
            ("192.0.2.1:9965", "192.0.2.1:9965"),
            ("[::]:80", "[::]:80"),
        ] {
            assert_eq!(parse_listen(text).unwrap().to_string(), address);
        }
        for text in ["", "65536", "localhost:80", "192.0.2.1", ":80", "::1"] {
            assert!(parse_listen(text).is_err(), "{text}");
        }
    }
}
