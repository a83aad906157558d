//! `cilmark cluster list`.

use anyhow::{Result, bail};
use cilmark::model::identity::Identity;
use cilmark::model::prefix::format_prefix;
use cilmark::ops::cluster::lines::Lines;
use cilmark::ops::identities;
use cilmark::output::{self, JsonList, Table};
use jiff::Timestamp;
use serde::Serialize;

use super::Context;
use super::state::{read, rest};
use crate::cilium::accept::Refusal;
use crate::service::state::{self, Cluster, State};

#[derive(clap::Args)]
#[command(group = clap::ArgGroup::new("which").args(["stale", "held", "refused"]))]
pub struct Args {
    /// Only of this cluster
    cluster: Option<String>,
    /// Only stale lines, whose publisher was cut off, and when they go
    #[arg(long)]
    stale: bool,
    /// Only held lines, of which too many would have gone at once
    #[arg(long)]
    held: bool,
    /// Refused keys, which do not count, and why
    #[arg(long)]
    refused: bool,
}

/// A line of the ipcache that a cluster has made. Identities below 256 are the same everywhere, and tell no cluster.
#[derive(Serialize)]
struct Address<'a> {
    prefix: String,
    identity: Identity,
    name: Option<&'a str>,
    /// As the cluster tells them.
    labels: Option<String>,
    cluster: Option<&'a str>,
}

#[derive(Serialize)]
struct Stale<'a> {
    cluster: &'a str,
    prefix: String,
    until: Timestamp,
}

#[derive(Serialize)]
struct Held<'a> {
    cluster: &'a str,
    prefix: String,
}

#[derive(Serialize)]
struct Refused<'a> {
    cluster: &'a str,
    key: &'a str,
    reason: Refusal,
}

pub fn run(context: &Context, args: Args) -> Result<()> {
    let state = read(context)?;
    let clusters = select(&state, args.cluster.as_deref())?;
    match args {
        Args { stale: true, .. } => stale(context, &clusters),
        Args { held: true, .. } => held(context, &clusters),
        Args { refused: true, .. } => refused(context, &clusters),
        Args { cluster, .. } => addresses(context, &state, cluster.as_deref()),
    }
}

fn select<'a>(state: &'a State, name: Option<&str>) -> Result<Vec<&'a Cluster>> {
    let is_asked = |it: &&Cluster| name.is_none_or(|name| it.name == name);
    let found: Vec<&Cluster> = state.clusters.iter().filter(is_asked).collect();
    if let (Some(name), true) = (name, found.is_empty()) {
        let known: Vec<&str> = state.clusters.iter().map(|it| it.name.as_str()).collect();
        bail!("cluster `{name}` is not read; these are: {}", known.join(", "));
    }
    Ok(found)
}

/// From the ipcache itself, which is what counts for packets.
fn addresses(context: &Context, state: &State, only: Option<&str>) -> Result<()> {
    let names = identities::names(&context.root)?;
    let mut lines = Vec::new();
    Lines::of(&context.root).for_each(|net, identity| lines.push((net, identity)))?;
    lines.sort_unstable();
    let cluster_of = |identity| state.cluster_of(identity).map(|it| it.name.as_str());
    lines.retain(|(_, identity)| only.is_none() || cluster_of(*identity) == only);
    let shown = lines.into_iter().map(|(net, identity)| Address {
        prefix: format_prefix(&net),
        identity,
        name: names.name(identity),
        labels: names.labels(identity),
        cluster: cluster_of(identity),
    });
    match context.json {
        true => as_json(shown),
        false => as_table(shown),
    }
}

fn as_json(lines: impl Iterator<Item: Serialize>) -> Result<()> {
    let mut list = JsonList::default();
    for line in lines {
        list.push(&line)?;
    }
    list.end()
}

fn as_table<'a>(lines: impl Iterator<Item = Address<'a>>) -> Result<()> {
    let mut table = Table::new(["PREFIX", "IDENTITY", "NAME", "CLUSTER"]);
    for Address { prefix, identity, name, labels, cluster } in lines {
        let name = name.or(labels.as_deref()).unwrap_or_default();
        table.push([&prefix, &identity, &name, &cluster.unwrap_or("-")]);
    }
    table.print()
}

fn stale(context: &Context, clusters: &[&Cluster]) -> Result<()> {
    let now = Timestamp::now();
    let lines = clusters.iter().flat_map(|cluster| {
        let of = |it: &state::Stale| Stale {
            cluster: &cluster.name,
            prefix: format_prefix(&it.net),
            until: it.until,
        };
        cluster.stale.named.iter().map(of)
    });
    if context.json {
        return as_json(lines);
    }
    let mut table = Table::new(["CLUSTER", "PREFIX", "GOES IN"]);
    for line in lines {
        table.push([&line.cluster, &line.prefix, &rest(line.until, now)]);
    }
    table.print()?;
    tell_of_more(clusters, |it| (it.stale.named.len(), it.stale.count));
    Ok(())
}

fn held(context: &Context, clusters: &[&Cluster]) -> Result<()> {
    let lines = clusters.iter().flat_map(|cluster| {
        cluster
            .held
            .named
            .iter()
            .map(|it| Held { cluster: &cluster.name, prefix: format_prefix(it) })
    });
    if context.json {
        return as_json(lines);
    }
    let mut table = Table::new(["CLUSTER", "PREFIX"]);
    for line in lines {
        table.push([&line.cluster, &line.prefix]);
    }
    table.print()?;
    tell_of_more(clusters, |it| (it.held.named.len(), it.held.count));
    Ok(())
}

fn refused<'a>(context: &Context, clusters: &[&'a Cluster]) -> Result<()> {
    let lines = clusters.iter().flat_map(|cluster| {
        let of = |it: &'a state::Refused| Refused {
            cluster: &cluster.name,
            key: &it.key,
            reason: it.reason,
        };
        cluster.refused_keys.iter().map(of)
    });
    if context.json {
        return as_json(lines);
    }
    let mut table = Table::new(["CLUSTER", "KEY", "WHY"]);
    for line in lines {
        table.push([&line.cluster, &line.key, &line.reason]);
    }
    table.print()?;
    tell_of_more(clusters, |it| (it.refused_keys.len(), it.refused.values().sum()));
    Ok(())
}

fn tell_of_more(clusters: &[&Cluster], counts: impl Fn(&Cluster) -> (usize, usize)) {
    for cluster in clusters {
        let (named, count) = counts(cluster);
        if named < count {
            output::note(&format!("{}: {named} of {count} are named", cluster.name));
        }
    }
}
