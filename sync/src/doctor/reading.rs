//! What a reader meets in a cluster's etcd, in the order in which Cilium's agents ask.

use std::path::Path;

use jiff::{SignedDuration, Timestamp};

use super::{Findings, certificate, keys_of, own};
use crate::cilium::cluster_config::{ClusterConfig, USUAL_MAX};
use crate::cilium::keys::{self, Places};
use crate::config::Config;
use crate::etcd::{Client, ClientFile, Error};

/// Readers drop a connection to an etcd whose heartbeat is older.
const HEARTBEAT_MAX: SignedDuration = SignedDuration::from_secs(120);
/// Between two clocks that are kept right there is less.
const CLOCKS_MAX: SignedDuration = SignedDuration::from_secs(10);

/// All of one cluster; its number, if that was readable.
pub async fn examine(
    findings: &mut Findings,
    config: &Config,
    name: &str,
    file: &Path,
) -> Option<u16> {
    client_file(findings, file);
    let client = match Client::new(file, &config.resolve) {
        Ok(client) => client,
        Err(error) => {
            findings.problem("client file", format!("{error:#}"), "write it as Cilium has it");
            return None;
        }
    };
    if let Err(error) = client.header().await {
        unreachable(findings, &error);
        return None;
    }
    heartbeat(findings, &client).await;
    let is_own = name == config.name;
    let there = cluster_config(findings, &client, config, name).await?;
    let (id, range) = match there.check(config.max_clusters) {
        Ok(checked) => checked,
        Err(error) => {
            let cure = "numbers and max_clusters are the same in all clusters that meet";
            findings.problem("cluster-config", format!("{error:#}"), cure);
            return None;
        }
    };
    if is_own && id != config.id {
        findings.problem(
            "cluster-config",
            format!("it says number {id}, and this host's configuration {}", config.id),
            "make them the same",
        );
        return Some(id);
    }
    findings
        .ok("cluster-config", format!("number {id}, identities {} to {}", range.first, range.last));
    let places = Places::of(name, &there.capabilities);
    canaries(findings, &client, &places).await;
    for (what, prefix) in [("nodes", &places.nodes), ("services", &places.services)] {
        match client.list(prefix, |_| ()).await {
            Ok(_) => findings.ok("list", format!("{what}: readable")),
            Err(error) => denied(findings, &format!("{what} ({prefix})"), &error),
        }
    }
    let seen = keys_of::examine(findings, config, &client, &places, name, &range).await;
    if is_own {
        own::examine(findings, config, &client, &seen).await;
    }
    Some(id)
}

fn client_file(findings: &mut Findings, file: &Path) {
    // What is wrong with it is told by whoever makes a client of it.
    let Ok(client_file) = ClientFile::read(file) else { return };
    if let Some(url) = client_file.endpoints.iter().find(|it| it.starts_with("http:")) {
        findings.warning(
            "encryption",
            format!("{url} is without TLS: whoever reaches it may say whose addresses are"),
            "give etcd certificates, and ask clients for theirs (--client-cert-auth)",
        );
    }
    for path in [&client_file.cert_file, &client_file.trusted_ca_file].into_iter().flatten() {
        certificate::examine(findings, &client_file, path);
    }
}

fn unreachable(findings: &mut Findings, error: &Error) {
    let cure = match error {
        Error::Denied(_) => "give the user that the certificate names (CN) a role that reads it",
        _ => {
            "see its endpoints, the way there, the names in [resolve], and the certificates of both sides"
        }
    };
    findings.problem("connection", error.to_string(), cure);
}

pub fn denied(findings: &mut Findings, what: &str, error: &Error) {
    let cure = match error {
        Error::Denied(_) => {
            "grant the user's role to read it, with the slash at its end; `cilmark cluster init` prints how"
        }
        _ => "ask again",
    };
    findings.problem("list", format!("{what}: {error}"), cure);
}

async fn heartbeat(findings: &mut Findings, client: &Client) {
    const CHECK: &str = "heartbeat";
    let written = match client.get(keys::HEARTBEAT).await {
        Ok((_, found)) => found.map(|it| String::from_utf8_lossy(&it.value).into_owned()),
        Err(error) => {
            return findings.problem(CHECK, error.to_string(), "grant the role to read it");
        }
    };
    let Some(written) = written else {
        let says = "there is none: Cilium's agents drop the connection every few minutes";
        let cure = "start cilmark-sync on a host of the cluster, or Cilium's operator";
        return findings.problem(CHECK, says, cure);
    };
    let Ok(time) = written.parse::<Timestamp>() else {
        let says = format!("`{written}` is no time");
        return findings.problem(CHECK, says, "nobody but cilmark-sync or Cilium writes it");
    };
    let age = Timestamp::now().duration_since(time);
    let seconds = age.as_secs();
    if age > HEARTBEAT_MAX {
        let says = format!("it is {seconds} s old: readers wait 120 s");
        let cure = "look whether who writes it runs, and whether the clocks agree";
        findings.problem(CHECK, says, cure);
    } else if age < -CLOCKS_MAX {
        let says = format!("it is {} s ahead of this host's clock", -seconds);
        findings.warning("clock", says, "keep the hosts' clocks right, by NTP");
    } else {
        findings.ok(CHECK, format!("{} s old", seconds.max(0)));
    }
}

async fn cluster_config(
    findings: &mut Findings,
    client: &Client,
    config: &Config,
    name: &str,
) -> Option<ClusterConfig> {
    const CHECK: &str = "cluster-config";
    let key = keys::cluster_config(name);
    let found = match client.get(&key).await {
        Ok((_, found)) => found,
        Err(error) => {
            findings.problem(CHECK, format!("{key}: {error}"), "grant the role to read it");
            return None;
        }
    };
    let Some(found) = found else {
        let cure = match name == config.name {
            true => "start cilmark-sync on a host that may write it",
            false => "call the client file as the cluster is called in Cilium (cluster-name)",
        };
        findings.problem(CHECK, format!("{key} is not there: nobody reads this cluster"), cure);
        return None;
    };
    match ClusterConfig::read(&found.value) {
        Ok(there) => {
            let theirs = there.capabilities.max_connected_clusters;
            if theirs != config.max_clusters && theirs > USUAL_MAX {
                findings.problem(
                    CHECK,
                    format!(
                        "its numbers are made for {theirs} clusters, this host's for {}",
                        config.max_clusters
                    ),
                    "max_clusters is the same in all clusters that meet",
                );
            }
            Some(there)
        }
        Err(error) => {
            let cure = "nobody but cilmark-sync or Cilium writes it";
            findings.problem(CHECK, format!("{key}: {error:#}"), cure);
            None
        }
    }
}

/// Where a cluster says that it has them, readers wait for them.
async fn canaries(findings: &mut Findings, client: &Client, places: &Places) {
    const CHECK: &str = "canary";
    for key in [&places.addresses_synced, &places.identities_synced].into_iter().flatten() {
        match client.get(key).await {
            Ok((_, Some(_))) => findings.ok(CHECK, key),
            Ok((_, None)) => findings.problem(
                CHECK,
                format!("{key} is not there: nothing is read before"),
                "who fills this etcd (clustermesh-apiserver, kvstoremesh) is not ready, or does not run",
            ),
            Err(error) => findings.problem(CHECK, format!("{key}: {error}"), "grant the role to read it"),
        }
    }
}
