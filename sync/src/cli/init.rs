//! `cilmark cluster init`.

use std::path::PathBuf;

use anyhow::{Context as _, Result};
use cilmark::output;
use serde_json::json;

use super::Context;
use super::process::wait_for;
use crate::cilium::cluster_config::USUAL_MAX;
use crate::setup::{self, Found, Wish, roles};

#[derive(clap::Args)]
pub struct Args {
    /// Name of the cluster: 1 to 32 of a-z, 0-9 and -
    name: String,
    /// Number of the cluster (Cilium's cluster ID), which no other cluster has that it meets
    #[arg(long, value_name = "N")]
    id: u16,
    /// Client file of its etcd, as Cilium has them: endpoints, trusted-ca-file, cert-file, key-file
    #[arg(long, value_name = "FILE")]
    etcd: PathBuf,
    /// Name of this host in the cluster, instead of the host's own
    #[arg(long, value_name = "NAME")]
    node: Option<String>,
    /// Directory of client files of other clusters to read, each named as its cluster
    #[arg(long, value_name = "DIR")]
    remotes: Option<PathBuf>,
    /// How many clusters may meet: 255 or 511, the same in all of them
    #[arg(long, value_name = "N", default_value_t = USUAL_MAX)]
    max_clusters: u16,
}

pub fn run(context: &Context, args: Args) -> Result<()> {
    let absolute = |path: PathBuf| {
        std::path::absolute(&path).with_context(|| format!("find {}", path.display()))
    };
    let wish = Wish {
        name: args.name,
        id: args.id,
        etcd: absolute(args.etcd)?,
        node: args.node,
        remotes: args.remotes.map(absolute).transpose()?,
        max_clusters: args.max_clusters,
    };
    let report = wait_for(setup::init(&wish, &context.config))?;
    let roles = roles::commands(&wish.name, &report.node);
    if context.json {
        return output::json(&json!({
            "config": context.config,
            "is_new": report.is_new,
            "node": report.node,
            "cluster_config": report.cluster_config,
            "commands": roles,
        }));
    }
    let file = context.config.display();
    let written = if report.is_new { "is written" } else { "is there, and says the same" };
    output::line(&format!("{file} {written}."))?;
    output::line(match report.cluster_config {
        Found::Written => "The cluster is new: its configuration is in etcd.",
        Found::There => "The cluster's configuration is in etcd already.",
        Found::Denied => {
            "The cluster's configuration is missing, and this host's user may not write it: a host that may has to."
        }
    })?;
    output::lines(&format!(
        "\nUsers and roles of etcd, as its root; a user is the common name (CN) of a certificate.\n\
         Once for the cluster:\n{}\n\
         For this host:\n{}\n",
        roles.cluster.join("\n"),
        roles.host.join("\n"),
    ))?;
    output::lines("\nNext: systemctl enable --now cilmark-sync, then `cilmark cluster doctor`.")
}
