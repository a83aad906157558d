//! `/etc/cilmark/cluster.toml`: which cluster this host is in, and whom it reads.

mod remotes;

use std::fmt::Display;
use std::fs;
use std::io::ErrorKind;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use anyhow::{Context, Error, Result, ensure};
use serde::Deserialize;
use toml::Spanned;

use cilmark::model::file::Place;
use cilmark::model::spec::Entries;
use cilmark::model::time::Time;

use crate::cilium::accept::Limits;
use crate::cilium::cluster_config::{LARGEST_MAX, USUAL_MAX};
use crate::cilium::name;
use crate::etcd::Resolve;

pub use remotes::Remotes;

/// Where it is unless said otherwise.
pub const DEFAULT_FILE: &str = "/etc/cilmark/cluster.toml";

const LEASE: Duration = Duration::from_secs(15 * 60);
/// Shorter ones end while a busy host is about to keep them.
const SHORTEST_LEASE: Duration = Duration::from_secs(10);
/// As Cilium has it: what is dead must go some day.
const LONGEST_LEASE: Duration = Duration::from_secs(24 * 3600);
const STALE: Duration = Duration::from_secs(3600);
const SWEEP: Sweep = Sweep { share: 30, lines: 100 };
/// The largest blocks that registries have given to anybody: what is wider is a mistake, or an attack.
const LIMITS: Limits = Limits { ipv4: 8, ipv6: 16 };
const NODE_MAX: usize = 253;

/// What it says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// The name of the own cluster: 1 to 32 of a-z, 0-9 and -.
    pub name: String,
    /// Its number, 1 to `max_clusters`.
    pub id: u16,
    /// How many clusters the mesh may have: 255 or 511.
    pub max_clusters: u16,
    /// This host's name in it; else the host's own.
    pub node: String,
    /// The client file of the own cluster's etcd.
    pub etcd: PathBuf,
    /// A directory of client files, one for each other cluster, called as that is.
    pub remotes: Option<PathBuf>,
    /// Whether to publish endpoints.
    pub publish: bool,
    /// Whether to publish the addresses of NICs, too, as remote-node (6).
    pub publish_host: bool,
    /// The node's address in what is published: with it, Cilium's nodes in tunnel mode send there. Usually none.
    pub host_ip: Option<IpAddr>,
    /// How long what nobody keeps stays until the others forget it.
    pub lease: Duration,
    /// How long a line stays whose publisher was cut off.
    pub stale: Duration,
    /// How much may go at once.
    pub sweep: Sweep,
    /// The shortest prefixes that count.
    pub limits: Limits,
    /// How many addresses the ipcache takes, if this process makes it.
    pub ipcache_entries: Option<u32>,
    /// Whether to collect unused identities: not where Cilium's operator does it.
    pub collect_garbage: bool,
    /// Addresses of names.
    pub resolve: Resolve,
}

/// More than both may not go at once without a word from the operator.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sweep {
    /// Percents of what the cluster has.
    pub share: u8,
    /// So many lines.
    pub lines: usize,
}

/// As it stands in the file.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Toml {
    name: Spanned<String>,
    id: Spanned<u16>,
    max_clusters: Option<Spanned<u16>>,
    node: Option<Spanned<String>>,
    etcd: Spanned<String>,
    remotes: Option<Spanned<String>>,
    publish: Option<bool>,
    publish_host: Option<bool>,
    host_ip: Option<IpAddr>,
    lease: Option<Spanned<Time>>,
    stale: Option<Time>,
    sweep_share: Option<Spanned<u8>>,
    sweep_lines: Option<usize>,
    shortest_ipv4: Option<Spanned<u8>>,
    shortest_ipv6: Option<Spanned<u8>>,
    ipcache_entries: Option<Entries<1>>,
    collect_garbage: Option<bool>,
    #[serde(default)]
    resolve: Resolve,
}

impl Config {
    /// Reads a file; mistakes by line and column. Relative paths in it are relative to it.
    pub fn read(file: &Path) -> Result<Config> {
        let text = fs::read_to_string(file).map_err(|error| match error.kind() {
            ErrorKind::NotFound => Error::msg(format!(
                "there is no {}: this host is in no cluster; `cilmark cluster init` writes it",
                file.display()
            )),
            _ => Error::new(error).context(format!("read {}", file.display())),
        })?;
        Config::parse(file, &text, host_name)
    }

    /// What a text says that is to be read from a file.
    pub fn parse(
        file: &Path,
        text: &str,
        host_name: impl Fn() -> Result<String>,
    ) -> Result<Config> {
        let name: Rc<str> = file.display().to_string().into();
        let at = |offset| Place::of(&name, text, offset);
        let toml: Toml = toml::from_str(text).map_err(|error| {
            let place = at(error.span().map_or(0, |span| span.start));
            Error::msg(format!("{place}: {}", error.message().trim_end()))
        })?;
        toml.check(Document { name: &name, text })?.resolve(file, host_name)
    }
}

/// A text, for messages about places in it.
struct Document<'a> {
    name: &'a Rc<str>,
    text: &'a str,
}

impl Document<'_> {
    /// Fails at a value's place.
    fn ensure<T>(&self, value: &Spanned<T>, is: bool, message: impl Display) -> Result<()> {
        ensure!(is, "{}: {message}", Place::of(self.name, self.text, value.span().start));
        Ok(())
    }

    fn among(&self, name: &str, value: &Option<Spanned<u8>>, most: u8) -> Result<()> {
        let Some(value) = value else { return Ok(()) };
        let number = *value.get_ref();
        self.ensure(value, number <= most, format!("{name} is {number}; expected 0 to {most}"))
    }
}

impl Toml {
    fn max_clusters(&self) -> u16 {
        self.max_clusters.as_ref().map_or(USUAL_MAX, |it| *it.get_ref())
    }

    /// What values must be, beyond their types.
    fn check(self, document: Document<'_>) -> Result<Toml> {
        if let Err(error) = name::check(self.name.get_ref()) {
            document.ensure(&self.name, false, error)?;
        }
        let (id, most) = (*self.id.get_ref(), self.max_clusters());
        if let Some(value) = &self.max_clusters {
            document.ensure(
                value,
                [USUAL_MAX, LARGEST_MAX].contains(&most),
                format!(
                    "max_clusters is {most}; expected {USUAL_MAX} or {LARGEST_MAX}, the same in all clusters of a mesh"
                ),
            )?;
        }
        let cure = match most {
            USUAL_MAX => "; with max_clusters = 511 there are more",
            _ => "",
        };
        document.ensure(
            &self.id,
            (1..=most).contains(&id),
            format!(
                "id is {id}; expected a number from 1 to {most} that no other cluster has{cure}"
            ),
        )?;
        if let Some(node) = &self.node
            && let Err(error) = check_node(node.get_ref())
        {
            document.ensure(node, false, error)?;
        }
        for path in [Some(&self.etcd), self.remotes.as_ref()].into_iter().flatten() {
            document.ensure(path, !path.get_ref().is_empty(), "expected a path")?;
        }
        if let Some(lease) = &self.lease {
            let is = (SHORTEST_LEASE..=LONGEST_LEASE).contains(&lease.get_ref().get());
            document.ensure(lease, is, "lease takes 10s to 24h; 15m is usual")?;
        }
        document.among("sweep_share", &self.sweep_share, 100)?;
        document.among("shortest_ipv4", &self.shortest_ipv4, 32)?;
        document.among("shortest_ipv6", &self.shortest_ipv6, 128)?;
        Ok(self)
    }

    fn resolve(self, file: &Path, host_name: impl Fn() -> Result<String>) -> Result<Config> {
        let directory = file.parent().unwrap_or(Path::new(""));
        let bits = |value: Option<Spanned<u8>>, usual| value.map_or(usual, Spanned::into_inner);
        let node = match self.node {
            Some(ref node) => node.get_ref().clone(),
            None => host_name().with_context(|| {
                format!("{}: say in it what this host is called: node = \"…\"", file.display())
            })?,
        };
        Ok(Config {
            max_clusters: self.max_clusters(),
            name: self.name.into_inner(),
            id: self.id.into_inner(),
            node,
            etcd: directory.join(self.etcd.into_inner()),
            remotes: self.remotes.map(|path| directory.join(path.into_inner())),
            publish: self.publish.unwrap_or(true),
            publish_host: self.publish_host.unwrap_or(false),
            host_ip: self.host_ip,
            lease: self.lease.map_or(LEASE, |lease| lease.get_ref().get()),
            stale: self.stale.map_or(STALE, Time::get),
            sweep: Sweep {
                share: bits(self.sweep_share, SWEEP.share),
                lines: self.sweep_lines.unwrap_or(SWEEP.lines),
            },
            limits: Limits {
                ipv4: bits(self.shortest_ipv4, LIMITS.ipv4),
                ipv6: bits(self.shortest_ipv6, LIMITS.ipv6),
            },
            ipcache_entries: self.ipcache_entries.map(Entries::get),
            collect_garbage: self.collect_garbage.unwrap_or(true),
            resolve: self.resolve,
        })
    }
}

/// Fails for what cannot be a host's name in a cluster: it is part of keys.
pub fn check_node(node: &str) -> Result<()> {
    let is_allowed = |it: u8| it.is_ascii_alphanumeric() || matches!(it, b'-' | b'_' | b'.');
    ensure!(
        (1..=NODE_MAX).contains(&node.len())
            && node.bytes().all(is_allowed)
            && node.bytes().any(|it| it.is_ascii_alphanumeric()),
        "`{node}` is no name of a host in a cluster: it takes letters, digits, -, _ and ."
    );
    ensure!(
        !node.eq_ignore_ascii_case("localhost"),
        "`{node}` is what many hosts are called, and in a cluster each has a name of its own"
    );
    Ok(())
}

/// What the host is called, where it can be its name in a cluster.
pub fn host_name() -> Result<String> {
    let name = fs::read_to_string("/proc/sys/kernel/hostname").context("read the host's name")?;
    let name = name.trim_end();
    check_node(name)?;
    Ok(name.to_owned())
}

#[cfg(test)]
mod tests;
