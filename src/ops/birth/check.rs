//! Whether a workload has what it would get now, and whether what is said of all would count.

use std::collections::BTreeSet;

use anyhow::{Context as _, Result, ensure};
use ipnet::IpNet;

use super::born::Born;
use super::{Birth, Decision, Network, specs};
use crate::model::identity::{Identity, Names};
use crate::model::rule::Rule;
use crate::model::spec::EndpointSpec;
use crate::model::wish;
use crate::ops::targets::policy_of;
use crate::ops::workload::Workload;
use crate::ops::{identities, rules, spec};
use crate::state::pin::Root;
use crate::state::registry::Endpoint;

/// Fails if an interface of a workload has not what [`super::attach`] would give it. Changes nothing.
pub fn check(root: &Root, birth: &Birth<'_>, network: Network) -> Result<()> {
    for (workload, spec) in specs(root, birth, network)? {
        if let Some(spec) = spec {
            check_one(root, birth, &workload, &spec)
                .with_context(|| workload.device.name.clone())?;
        }
    }
    Ok(())
}

/// Fails if nobody could get what is said here: an identity that is not known or no workload's, rules that are none.
pub fn check_words(root: &Root, birth: &Birth<'_>) -> Result<()> {
    let decision = Decision::of(root, birth)?;
    let options = birth.options.iter().map(|options| (options.id.as_ref(), options.rules.as_ref()));
    let said = birth.said.iter().map(|said| (said.wish.id.as_ref(), said.wish.rules.as_ref()));
    for (id, rules) in said.chain(options) {
        id.map(|id| decision.identity(id)).transpose()?;
        for rule in rules.into_iter().flatten() {
            Rule::parse(rule, &decision.names)?;
        }
    }
    Ok(())
}

fn check_one(
    root: &Root,
    birth: &Birth<'_>,
    workload: &Workload,
    wanted: &EndpointSpec,
) -> Result<()> {
    let born = Born::on(root, &workload.device)?.context(
        "it has no endpoint of a hook: somebody has detached it, or attached it by hand; start the workload anew",
    )?;
    let is_left = born.is_left_to(birth);
    let Born { endpoint: there, owner, birth: born } = born;
    let id = there.id;
    ensure!(
        !there.stale,
        "endpoint {id} lacks one of its two programs, which somebody has taken off the device; start the workload anew"
    );
    ensure!(
        owner == birth.owner || born.sharers.contains(&birth.owner),
        "endpoint {id} is {owner}'s, not {}'s; start the workload anew",
        birth.owner
    );
    // Another workload of the network, or another hook, may have said what counts for both.
    let is_own = owner == birth.owner;
    let by_default = wanted.birth.as_ref().is_some_and(|birth| birth.id_from == wish::BY_DEFAULT);
    let is_anothers = match is_own {
        true => is_left || by_default && born.id_from != wish::BY_DEFAULT,
        false => !birth.names_identity(),
    };
    if is_anothers {
        return Ok(());
    }
    let names = identities::names(root)?;
    let identity = wanted.id.as_ref().map_or(Ok(Identity::UNKNOWN), |id| id.resolve(&names))?;
    ensure!(
        there.carries(identity),
        "endpoint {id} has identity {}, and would get {}; start the workload anew",
        names.label(Identity(there.config.identity)),
        names.label(identity)
    );
    if !is_own {
        return Ok(());
    }
    check_rules(root, &there, wanted)?;
    check_addresses(root, &there, wanted, &names)
}

fn check_rules(root: &Root, there: &Endpoint, wanted: &EndpointSpec) -> Result<()> {
    let (id, [ingress, egress]) = (there.id, there.modes_in_force()?);
    let modes = wanted.policy;
    ensure!(
        (ingress, egress) == (modes.ingress, modes.egress),
        "the modes of endpoint {id} are {ingress} for ingress and {egress} for egress, and would be {} and {}; start the \
         workload anew",
        modes.ingress,
        modes.egress
    );
    let in_force = rules::in_force(&policy_of(root, there)?, there)?;
    let has: BTreeSet<String> =
        in_force.own().rules().map(|rule| rule.text(&Names::default())).collect();
    let wanted: BTreeSet<String> = wanted.rules.iter().flatten().cloned().collect();
    differ(&has, &wanted)
        .map_or(Ok(()), |how| Err(how.context(format!("the rules of endpoint {id}"))))
}

fn check_addresses(
    root: &Root,
    there: &Endpoint,
    wanted: &EndpointSpec,
    names: &Names,
) -> Result<()> {
    let texts = |addresses: Vec<IpNet>| -> BTreeSet<String> {
        addresses.iter().map(IpNet::to_string).collect()
    };
    let has = texts(spec::current(root, there, names)?.addresses());
    let wanted = texts(wanted.addresses());
    differ(&has, &wanted)
        .map_or(Ok(()), |how| Err(how.context(format!("the addresses of endpoint {}", there.id))))
}

fn differ(has: &BTreeSet<String>, wanted: &BTreeSet<String>) -> Option<anyhow::Error> {
    let list = |these: &BTreeSet<String>, those: &BTreeSet<String>| {
        these.difference(those).map(|it| format!("`{it}`")).collect::<Vec<_>>().join(", ")
    };
    let (missing, more) = (list(wanted, has), list(has, wanted));
    let parts = [("missing", missing), ("there and not wanted", more)];
    let parts: Vec<String> = parts
        .into_iter()
        .filter(|(_, what)| !what.is_empty())
        .map(|(how, what)| format!("{how}: {what}"))
        .collect();
    match parts.is_empty() {
        true => None,
        false => Some(anyhow::anyhow!("{}; start the workload anew", parts.join("; "))),
    }
}
