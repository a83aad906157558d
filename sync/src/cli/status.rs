//! `cilmark cluster status`.

use anyhow::Result;
use cilmark::output;
use jiff::Timestamp;
use serde::Serialize;

use super::Context;
use super::state::{age, is_running, read, rest};
use crate::service::state::{Cluster, Connection, Own, Phase, State};

/// With whether the process answers: what is shown is as old as `written`.
#[derive(Serialize)]
struct Shown<'a> {
    is_running: bool,
    #[serde(flatten)]
    state: &'a State,
}

pub fn run(context: &Context) -> Result<()> {
    let state = read(context)?;
    let is_running = is_running(&context.root);
    if context.json {
        return output::json(&Shown { is_running, state: &state });
    }
    let now = Timestamp::now();
    if !is_running {
        output::note(&format!(
            "cilmark-sync does not run; this is as it was {} ago. What clusters said stays in the ipcache, and what this \
             host says goes when its leases end.",
            age(state.written, now)
        ));
    }
    clusters(&state, now)?;
    own(&state.own, now)
}

fn clusters(state: &State, now: Timestamp) -> Result<()> {
    let rows: Vec<[String; 10]> = state.clusters.iter().map(|it| row(it, now)).collect();
    output::table(
        [
            "CLUSTER",
            "ID",
            "STATE",
            "ETCD",
            "REVISION",
            "ADDRESSES",
            "IDENTITIES",
            "STALE",
            "HELD",
            "REFUSED",
        ],
        &rows,
    )?;
    for cluster in &state.clusters {
        trouble(cluster, now).into_iter().for_each(|line| output::note(&line));
    }
    if let Some(trouble) = &state.trouble {
        output::note(&format!("the ipcache does not have all of it: {trouble}"));
    }
    Ok(())
}

fn row(cluster: &Cluster, now: Timestamp) -> [String; 10] {
    let own = if cluster.is_own { " (own)" } else { "" };
    let state = match &cluster.phase {
        Phase::Waiting(_) => "waits",
        Phase::Listing => "reads",
        Phase::Ready => "ready",
        Phase::Refused(_) => "refused",
    };
    let etcd = match &cluster.connection {
        Connection::Connected { since } => format!("for {}", age(*since, now)),
        Connection::Away { since, .. } => format!("away for {}", age(*since, now)),
    };
    let number = |number: usize| number.to_string();
    [
        format!("{}{own}", cluster.name),
        cluster.id.map_or("?".to_owned(), |id| id.to_string()),
        state.to_owned(),
        etcd,
        cluster.revision.to_string(),
        number(cluster.addresses),
        number(cluster.identities),
        number(cluster.stale.count),
        number(cluster.held.count),
        number(cluster.refused.values().sum()),
    ]
}

/// What somebody should know, and what helps.
fn trouble(cluster: &Cluster, now: Timestamp) -> Vec<String> {
    let mut lines = Vec::new();
    let name = &cluster.name;
    let mut tell = |line: String| lines.push(format!("{name}: {line}"));
    match (&cluster.connection, &cluster.phase) {
        (Connection::Away { since, error }, _) => {
            let since = age(*since, now);
            tell(format!("etcd is away for {since}, and all stays as it was: {error}"));
        }
        (_, Phase::Waiting(what)) => tell(format!("waits for {what}")),
        (_, Phase::Refused(why)) => tell(format!("is not read: {why}")),
        (_, Phase::Listing | Phase::Ready) => {}
    }
    if cluster.held.count > 0 {
        tell(format!(
            "{} lines would have gone at once and are held; `cilmark cluster list {name} --held` shows them, \
             `cilmark cluster sweep {name}` lets them go",
            cluster.held.count
        ));
    }
    if let Some(first) = cluster.stale.named.iter().map(|it| it.until).min() {
        tell(format!(
            "{} lines are stale, since their publishers were cut off; the first goes in {}",
            cluster.stale.count,
            rest(first, now)
        ));
    }
    if cluster.shadowed > 0 {
        tell(format!("{} addresses are another cluster's, too, which wins", cluster.shadowed));
    }
    for (reason, count) in &cluster.refused {
        tell(format!("{count} refused, {}: {reason}", reason.name()));
    }
    lines
}

fn own(own: &Own, now: Timestamp) -> Result<()> {
    let publishes = match own.is_publishing {
        true => format!("{} addresses published", own.published.len()),
        false => "publishes nothing".to_owned(),
    };
    let leases: Vec<String> = own
        .leases
        .iter()
        .map(|it| format!("{:x} ({} keys, ends in {})", it.id, it.keys, rest(it.until, now)))
        .collect();
    let mut line = format!("\nThis host is {}: {publishes}", own.node);
    if !leases.is_empty() {
        line += &format!("; leases: {}", leases.join(", "));
    }
    output::lines(&line)?;
    if !own.allocated.is_empty() {
        let rows: Vec<[String; 3]> = own
            .allocated
            .iter()
            .map(|it| {
                let identity = it.identity.map_or("?".to_owned(), |it| it.to_string());
                [it.labels.clone(), identity, it.endpoints.to_string()]
            })
            .collect();
        output::table(["LABELS", "IDENTITY", "ENDPOINTS"], &rows)?;
    }
    if let Some(trouble) = &own.trouble {
        output::note(&format!("this host publishes nothing: {trouble}"));
    }
    for it in &own.allocated {
        if let Some(trouble) = &it.trouble {
            output::note(&format!("{}: {trouble}", it.labels));
        }
    }
    for it in &own.conflicts {
        let node = it.their_node.as_deref().unwrap_or("somebody who does not say his name");
        output::note(&format!(
            "{} of {}: {node} says that it is {}, for {}; of two hosts the newer endpoint has an address",
            it.address,
            it.device,
            it.their_identity,
            age(it.since, now)
        ));
    }
    for it in &own.unpublished {
        output::note(&format!("{} ({}) is not published: {}", it.device, it.identity, it.why));
    }
    Ok(())
}
