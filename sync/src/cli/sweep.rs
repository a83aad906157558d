//! `cilmark cluster sweep`.

use anyhow::{Result, bail};
use cilmark::model::cluster::{Answer, Request};
use cilmark::ops::cluster::number::ask;
use cilmark::output;

use super::Context;

#[derive(clap::Args)]
pub struct Args {
    /// Name of the cluster
    cluster: String,
}

pub fn run(context: &Context, args: &Args) -> Result<()> {
    match ask(&context.root, &Request::Sweep(args.cluster.clone()))? {
        Answer::Done(lines) if context.json => output::json(&serde_json::json!({ "gone": lines })),
        Answer::Done(lines) => output::line(&format!("{lines} lines of {} are gone", args.cluster)),
        Answer::Error(why) => bail!("{why}"),
        Answer::Identity(_) => bail!("cilmark-sync is of another version: start it again"),
    }
}
