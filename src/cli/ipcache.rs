//! `cilmark ipcache set|get|del|list|load|flush`.

use std::io::{self, IsTerminal, Write};
use std::net::IpAddr;
use std::path::PathBuf;

use anyhow::{Context as _, Result, bail};
use clap::Subcommand;
use serde::Serialize;

use super::{Context, file, path_of, until_interrupted};
use crate::model::identity::{Identity, Names};
use crate::model::prefix::{format_prefix, parse_ipcache, parse_prefix};
use crate::ops::{self, ipcache};
use crate::output;
use crate::state::ipcache::IpcacheLine;

#[derive(Subcommand)]
pub enum Command {
    /// Give an address or a prefix an identity
    Set {
        /// Such as 10.0.0.1 or fd00::/64
        prefix: String,
        /// A number or a name
        #[arg(value_name = "ID")]
        identity: String,
    },
    /// Show which entry decides for an address
    Get {
        /// The address
        address: IpAddr,
    },
    /// Forget an address or a prefix
    Del {
        /// As it was set
        prefix: String,
    },
    /// Show all entries
    List,
    /// Read `PREFIX ID` lines from a file; `#` begins a comment. All lines count, or none
    Load {
        /// The file; `-` for stdin
        file: PathBuf,
        /// Size of the maps, if this makes them: of the one for hosts, and of that for prefixes
        #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
        ipcache_entries: Option<u32>,
    },
    /// Forget everything but the addresses of attached endpoints
    Flush,
}

#[derive(Serialize)]
struct Line<'a> {
    prefix: String,
    identity: Identity,
    name: Option<&'a str>,
    /// As a cluster tells them.
    #[serde(skip_serializing_if = "Option::is_none")]
    labels: Option<String>,
}

pub fn run(context: &Context, command: Command) -> Result<()> {
    let names = context.names()?;
    let root = &context.root;
    match command {
        Command::Set { prefix, identity } => {
            let (prefix, identity) = (parse_prefix(&prefix)?, names.parse(&identity)?);
            let _lock = ops::prepare(root, false)?;
            ipcache::set(root, &prefix, identity)
        }
        Command::Get { address } => print(context, &names, &[ipcache::get(root, address)?]),
        Command::Del { prefix } => {
            let prefix = parse_prefix(&prefix)?;
            let _lock = ops::lock(root)?;
            ipcache::delete(root, &prefix)
        }
        Command::List => print(context, &names, &ipcache::list(root)?),
        Command::Load { file, ipcache_entries } => {
            let path = path_of(file);
            let lines = parse_ipcache(&file::read(&path)?, &names)
                .with_context(|| path.display().to_string())?;
            let _lock = ops::prepare(root, false)?;
            let progress = progress(lines.len(), until_interrupted()?);
            ipcache::load(root, &lines, ipcache_entries, progress)?;
            output::note(&format!("loaded {} from {}", entries(lines.len()), path.display()));
            Ok(())
        }
        Command::Flush => {
            let _lock = ops::lock(root)?;
            output::note(&format!("removed {}", entries(ipcache::flush(root)?)));
            Ok(())
        }
    }
}

fn entries(count: usize) -> String {
    if count == 1 { "1 entry".to_owned() } else { format!("{count} entries") }
}

fn print(context: &Context, names: &Names, lines: &[IpcacheLine]) -> Result<()> {
    let lines: Vec<Line<'_>> = lines
        .iter()
        .map(|line| Line {
            prefix: format_prefix(&line.prefix),
            identity: line.identity,
            name: names.name(line.identity),
            labels: names.labels(line.identity),
        })
        .collect();
    if context.json {
        return output::json(&lines);
    }
    let rows: Vec<[String; 3]> = lines
        .into_iter()
        .map(|line| {
            let name = line.name.map(str::to_owned).or(line.labels).unwrap_or_default();
            [line.prefix, line.identity.to_string(), name]
        })
        .collect();
    output::table(["PREFIX", "IDENTITY", "NAME"], &rows)
}

/// Counts up on a terminal, is silent elsewhere; an error if the user has seen enough.
fn progress(total: usize, go_on: impl Fn() -> bool) -> impl FnMut(usize) -> Result<()> {
    let mut stderr = io::stderr();
    let shown = stderr.is_terminal();
    let mut done = 0;
    move |step| {
        done += step;
        if shown {
            let end = if done == total { "\n" } else { "" };
            let _ = write!(stderr, "\r{done} of {total}{end}");
        }
        if done < total && !go_on() {
            bail!("interrupted, and nothing has changed");
        }
        Ok(())
    }
}
