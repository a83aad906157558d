//! The state as metrics, in the text format that Prometheus scrapes, and as a line for `systemctl status`.

use std::fmt::Write;

use jiff::Timestamp;

use super::state::{Cluster, Connection, Phase, State};

/// The metrics.
pub fn text(state: &State) -> String {
    let mut text = String::new();
    let seconds = |since: Timestamp| state.written.duration_since(since).as_secs_f64().max(0.0);
    let flag = |is_so: bool| f64::from(u8::from(is_so));
    type Value<'a> = Box<dyn Fn(&Cluster) -> Option<f64> + 'a>;
    let of_clusters: [(&str, &str, Value<'_>); 10] = [
        (
            "connected",
            "Whether the cluster's etcd answers.",
            Box::new(|it| Some(flag(matches!(it.connection, Connection::Connected { .. })))),
        ),
        (
            "away_seconds",
            "For how long the cluster's etcd has not answered.",
            Box::new(|it| match it.connection {
                Connection::Connected { .. } => Some(0.0),
                Connection::Away { since, .. } => Some(seconds(since)),
            }),
        ),
        (
            "ready",
            "Whether all that the cluster says is in the ipcache.",
            Box::new(|it| Some(flag(it.phase == Phase::Ready))),
        ),
        ("revision", "The revision that is read.", Box::new(|it| Some(it.revision as f64))),
        (
            "heartbeat_age_seconds",
            "The age of the cluster's heartbeat.",
            Box::new(|it| it.heartbeat.map(seconds)),
        ),
        (
            "addresses",
            "Lines that count, stale, held and shadowed ones among them.",
            Box::new(|it| Some(it.addresses as f64)),
        ),
        ("identities", "Identities with labels.", Box::new(|it| Some(it.identities as f64))),
        (
            "shadowed",
            "Lines whose address another cluster claims, too, and wins.",
            Box::new(|it| Some(it.shadowed as f64)),
        ),
        ("stale", "Lines whose publisher was cut off.", Box::new(|it| Some(it.stale.count as f64))),
        ("held", "Lines that the guard holds.", Box::new(|it| Some(it.held.count as f64))),
    ];
    for (name, help, value) in &of_clusters {
        let name = format!("cilmark_cluster_{name}");
        begin(&mut text, &name, help);
        for cluster in &state.clusters {
            if let Some(value) = value(cluster) {
                let _ = writeln!(text, "{name}{{cluster=\"{}\"}} {value}", cluster.name);
            }
        }
    }
    begin(&mut text, "cilmark_cluster_refused", "Keys that do not count, by reason.");
    for cluster in &state.clusters {
        for (reason, count) in &cluster.refused {
            let labels = format!("cluster=\"{}\",reason=\"{}\"", cluster.name, reason.name());
            let _ = writeln!(text, "cilmark_cluster_refused{{{labels}}} {count}");
        }
    }
    let own = &state.own;
    for (name, help, value) in [
        ("published", "Addresses of this host in etcd.", own.published.len()),
        ("conflicts", "Addresses of this host that another one has in etcd.", own.conflicts.len()),
        (
            "unpublished",
            "Endpoints of this host, or addresses of them, that can't be published.",
            own.unpublished.len(),
        ),
        ("allocated", "Sets of labels of this host that have a number.", {
            own.allocated.iter().filter(|it| it.identity.is_some()).count()
        }),
        ("leases", "Leases of what this host has published.", own.leases.len()),
    ] {
        let name = format!("cilmark_cluster_own_{name}");
        begin(&mut text, &name, help);
        let _ = writeln!(text, "{name} {value}");
    }
    text
}

/// The lines in front of a metric's.
fn begin(text: &mut String, name: &str, help: &str) {
    let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} gauge");
}

/// Which clusters are read, and what this host has published.
pub fn summary(state: &State) -> String {
    let of = |cluster: &Cluster| {
        let how = match (&cluster.connection, &cluster.phase) {
            (Connection::Away { .. }, _) => "etcd away",
            (_, Phase::Waiting(_)) => "waiting",
            (_, Phase::Listing) => "listing",
            (_, Phase::Ready) => "ready",
            (_, Phase::Refused(_)) => "refused",
        };
        format!("{} {how}, {} addresses", cluster.name, cluster.addresses)
    };
    let clusters: Vec<String> = state.clusters.iter().map(of).collect();
    format!("{}; {} published", clusters.join("; "), state.own.published.len())
}
