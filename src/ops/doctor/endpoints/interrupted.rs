//! What a killed command has left half way.

use std::collections::{BTreeMap, HashSet};

use anyhow::Result;

use super::super::Host;
use super::rules::in_force;
use crate::model::endpoint::Role;
use crate::model::finding::{Finding, Findings};
use crate::model::identity::Identity;
use crate::model::rule::Rule;
use crate::ops::rules;
use crate::state::generations::Generations;
use crate::state::id_rules::IdRules;
use crate::state::registry::Endpoint;
use crate::state::spec;

/// Something is there that only a command that is at work, or one that was killed, leaves. The root's lock tells which.
pub fn look(host: &Host<'_>, endpoint: &Endpoint, findings: &mut Findings) -> Result<()> {
    if is_whole(host, endpoint)? {
        return Ok(());
    }
    let _lock = host.lock()?;
    // It may be gone by now.
    let Ok(endpoint) = Endpoint::read(host.root, endpoint.id) else { return Ok(()) };
    if rules_change(host, &endpoint)? {
        findings.warning(
            "interrupted",
            "a change of its rules has died half way: each packet asks them, and no verdict is kept",
            &format!("`{}` ends it", host.attach(&endpoint, "--keep")),
        );
    }
    if let Err(error) = spec::read(host.root, &endpoint)
        && !endpoint.is_gone
    {
        let text = format!("{error:#}");
        // Its own hint does not know from where it is read.
        let says = text.rsplit_once(": ").map_or(text.as_str(), |(says, _)| says);
        let cure = format!("`{}` again, with all its flags", host.attach(&endpoint, ""));
        findings.warning("interrupted", says, &cure);
    }
    Ok(())
}

fn is_whole(host: &Host<'_>, endpoint: &Endpoint) -> Result<bool> {
    let has_spec = endpoint.is_gone || spec::read(host.root, endpoint).is_ok();
    Ok(has_spec && !rules_change(host, endpoint)?)
}

fn rules_change(host: &Host<'_>, endpoint: &Endpoint) -> Result<bool> {
    let workload = (endpoint.role() == Some(Role::Container)).then_some(endpoint.id);
    let generations = Generations::open(host.root)?;
    Ok(generations.is_some_and(|it| it.is_policy_changing(workload)) && !endpoint.stale)
}

/// The same of what no endpoint has alone: rules of identities, and whom addresses belong to.
pub fn shared(host: &Host<'_>) -> Result<Vec<Finding>> {
    let mut findings = Findings::of_this_host();
    let is_writing = || -> Result<bool> {
        Ok(Generations::open(host.root)?
            .is_some_and(|generations| generations.is_remote_changing()))
    };
    if !is_writing()? && lacking(host)?.is_empty() {
        return Ok(findings.all);
    }
    let _lock = host.lock()?;
    if is_writing()? {
        let known = host.endpoints.iter().find(|it| !it.stale && !it.addresses().is_empty());
        let cure = match known {
            Some(endpoint) => format!("`{}` ends it", host.attach(endpoint, "--keep")),
            None => "the same command again ends it".to_owned(),
        };
        findings.warning(
            "interrupted",
            "a change of the ipcache or of endpoints has died half way: for flows that are up, what was known of \
             their other ends before may go on to count",
            &cure,
        );
    }
    for (whose, endpoints) in lacking(host)? {
        let devices: Vec<String> = endpoints.iter().map(|it| host.name_of(it)).collect();
        let says = format!(
            "a change of the rules of {whose} has died half way: {} has not all of them",
            devices.join(", ")
        );
        let cure = format!("`{}`", host.attach(endpoints[0], "--keep"));
        findings.warning("interrupted", says, &cure);
    }
    Ok(findings.all)
}

/// Identities, each with those that carry it and have not all of its rules.
fn lacking<'a>(host: &'a Host<'_>) -> Result<BTreeMap<String, Vec<&'a Endpoint>>> {
    let mut found: BTreeMap<String, Vec<&Endpoint>> = BTreeMap::new();
    let Some(map) = IdRules::open(host.root)? else { return Ok(found) };
    let all = map.all()?;
    for endpoint in host.endpoints.iter().filter(|endpoint| !endpoint.stale) {
        let identity = Identity(endpoint.config.identity);
        let Some(its) = all.get(&identity).filter(|_| endpoint.carries(identity)) else { continue };
        let there: HashSet<Rule> = in_force(host, endpoint)?.of_identity().collect();
        if its.now.rules().any(|rule| !there.contains(&rule)) {
            let whose = rules::at(identity, &host.names);
            found.entry(whose).or_default().push(endpoint);
        }
    }
    Ok(found)
}
