//! What this host's process tells of itself.

use super::{Asked, Finding, Findings};
use crate::config::{Config, Remotes};
use crate::service::state::{Phase, State};

const CHECK: &str = "service";

/// From its file, and from the configuration.
pub fn examine(asked: &Asked<'_>, config: &Config, remotes: &Remotes) -> Vec<Finding> {
    let mut findings = Findings::of("this host");
    findings
        .ok("configuration", format!("{} in cluster {} ({})", config.node, config.name, config.id));
    for (path, why) in &remotes.ignored {
        let says = format!("{} is left out: {why}", path.display());
        findings.warning("remotes", says, "a client file is called as its cluster");
    }
    if let (Some(directory), true) = (&config.remotes, remotes.files.is_empty()) {
        let says = format!("no client file is in {}", directory.display());
        findings.warning(
            "remotes",
            says,
            "put one there for each cluster that is to be read, called as that is",
        );
    }
    match State::read(asked.root) {
        _ if !asked.is_running => findings.problem(
            CHECK,
            "it does not run: the ipcache stays as it is, and what this host says goes when its leases end",
            "systemctl start cilmark-sync",
        ),
        Ok(None) => findings.problem(CHECK, "it runs, and has written no state yet", "ask again"),
        Err(error) => findings.problem(CHECK, format!("{error:#}"), "systemctl restart cilmark-sync"),
        Ok(Some(state)) => running(&mut findings, asked, &state),
    }
    findings.all
}

fn running(findings: &mut Findings, asked: &Asked<'_>, state: &State) {
    findings.ok(CHECK, format!("it runs, as process {}", state.pid));
    let is_asked = |name: &str| asked.only.is_none_or(|only| only == name);
    for cluster in state.clusters.iter().filter(|it| is_asked(&it.name)) {
        let name = &cluster.name;
        match &cluster.phase {
            Phase::Ready => {}
            Phase::Refused(why) => {
                findings.problem(
                    "read",
                    format!("{name} is not read: {why}"),
                    "see the cluster's own lines",
                );
            }
            Phase::Waiting(what) => {
                let says = format!("{name} is not read yet: it waits for {what}");
                findings.warning("read", says, "see the cluster's own lines");
            }
            Phase::Listing => findings.ok("read", format!("{name} is being read")),
        }
        if cluster.held.count > 0 {
            findings.warning(
                "held",
                format!("{} lines of {name} would have gone at once", cluster.held.count),
                &format!("look whether they should, then cilmark cluster sweep {name}"),
            );
        }
    }
    if let Some(trouble) = &state.trouble {
        findings.problem("ipcache", "it does not have all that clusters say", trouble);
    }
    if let Some(trouble) = &state.own.trouble {
        findings.problem("published", "nothing is", trouble);
    }
    for it in &state.own.conflicts {
        let node = it.their_node.as_deref().unwrap_or("somebody");
        findings.warning(
            "conflict",
            format!("{} of {} is {node}'s, too", it.address, it.device),
            "one of the two endpoints has a wrong address",
        );
    }
    for it in &state.own.unpublished {
        findings.warning("published", format!("{} is not", it.device), &it.why);
    }
}
