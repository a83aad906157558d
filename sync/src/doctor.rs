//! Whether all is as Cilium and cilmark take it: a finding for each condition.

mod certificate;
mod keys_of;
mod own;
mod process;
mod reading;

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Result, bail};
use cilmark::model::finding::{Finding, Findings};
use cilmark::state::pin::Root;

use crate::config::Config;

/// What is to be examined.
pub struct Asked<'a> {
    /// The configuration.
    pub config: &'a Path,
    /// The root whose process tells how it is.
    pub root: &'a Root,
    /// Only this cluster.
    pub only: Option<&'a str>,
    /// Whether the process answers.
    pub is_running: bool,
}

/// Asks the clusters' etcds; nothing is changed. An error is one of the configuration.
pub async fn examine(asked: &Asked<'_>) -> Result<Vec<Finding>> {
    let config = Config::read(asked.config)?;
    let remotes = config.remotes()?;
    if let Some(only) = asked.only
        && only != config.name
        && !remotes.files.contains_key(only)
    {
        let known: Vec<&str> = [config.name.as_str()]
            .into_iter()
            .chain(remotes.files.keys().map(String::as_str))
            .collect();
        bail!("cluster `{only}` is not configured; these are: {}", known.join(", "));
    }
    let is_asked = |name: &str| asked.only.is_none_or(|only| only == name);
    let mut findings = process::examine(asked, &config, &remotes);
    let mut numbers = BTreeMap::new();
    let own = std::iter::once((&config.name, &config.etcd));
    for (name, file) in own.chain(&remotes.files).filter(|(name, _)| is_asked(name)) {
        let mut of = Findings::of(name);
        let number = reading::examine(&mut of, &config, name, file).await;
        if let Some(id) = number
            && let Some(other) = numbers.insert(id, name.clone())
        {
            of.problem(
                "number",
                format!("it has number {id}, as cluster {other} has"),
                "give one of them another number; until then the second one is not read",
            );
        }
        findings.extend(of.all);
    }
    Ok(findings)
}
