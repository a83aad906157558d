//! The flows that policies know.

mod choice;
mod lister;
mod owners;

use std::collections::BTreeSet;

use anyhow::Result;
use choice::Choice;
use lister::Lister;
use owners::Owners;

use super::targets::{self, Targets};
use crate::model::endpoint::{Role, Scope};
use crate::model::flow::Filter;
use crate::model::identity::Names;
use crate::state::conntrack::{Conntrack, Flow};
use crate::state::pin::Root;
use crate::state::registry::shared;

/// Which flows.
#[derive(Default)]
pub struct Request<'a> {
    /// Whose; `host` are those that NICs share.
    pub targets: Option<&'a Targets>,
    /// Only of what is in this namespace.
    pub netns: Option<u64>,
    /// Only those that it takes.
    pub filter: Filter,
}

/// A flow, and whose it is.
pub struct Report<'a> {
    /// As conntrack has it.
    pub flow: &'a Flow,
    /// Of a container, or a NIC with maps of its own; NICs share their other flows.
    pub device: Option<&'a str>,
    /// It was a container's that is no longer attached.
    pub gone: bool,
    /// Of the host's: those that it has passed on its originator's way, and whose rules have to allow it.
    pub nics: Option<Vec<&'a str>>,
    /// Something has changed: the next packet asks the rules again, and `rule` is not known.
    pub stale: bool,
    /// What has decided.
    pub rule: Option<&'a str>,
}

/// Where to look, and for whose flows.
struct Place {
    maps: Conntrack,
    scope: Option<Scope>,
}

/// Reports each flow, map by map: there may be millions.
pub fn list(
    root: &Root,
    request: &Request<'_>,
    names: &Names,
    mut report: impl FnMut(&Report<'_>) -> Result<()>,
) -> Result<()> {
    let (owners, mut lister) = (Owners::read(root)?, Lister::new(root, names)?);
    let choice = Choice::new(root, request.filter.clone(), &owners)?;
    for Place { maps, scope } in places(root, request)? {
        let flows = maps.flows_where(|flow| {
            scope.is_none_or(|scope| flow.scope == scope)
                && (choice.takes_all() || choice.takes(flow, &owners.of(flow, maps.owner)))
        })?;
        for flows in flows.chunk_by(|one, other| one.scope == other.scope) {
            let whose = owners.of(&flows[0], maps.owner);
            let mut of = lister.of(&whose, flows[0].scope, maps.owner.is_none());
            for flow in flows {
                report(&lister.report(flow, &mut of))?;
            }
        }
    }
    Ok(())
}

/// Forgets flows, and how many: what goes on is taken for new, and the rules are asked again.
pub fn flush(root: &Root, request: &Request<'_>) -> Result<usize> {
    shared::check_all(root)?;
    let owners = Owners::read(root)?;
    let choice = Choice::new(root, request.filter.clone(), &owners)?;
    let mut count = 0;
    for Place { maps, scope } in places(root, request)? {
        let is_in = |flow: &Flow| scope.is_none_or(|scope| flow.scope == scope);
        let wanted = |flow: &Flow| is_in(flow) && choice.takes(flow, &owners.of(flow, maps.owner));
        count += match choice.takes_all() {
            true => maps.flush(scope)?,
            false => maps.flush_some(wanted)?,
        };
    }
    Ok(count)
}

/// The maps of an endpoint, or all; those that all share as well, where it may have left flows.
fn places(root: &Root, request: &Request<'_>) -> Result<Vec<Place>> {
    let Some(targets) = request.targets else {
        let all = Conntrack::all(root)?.into_iter();
        return Ok(all.map(|maps| Place { maps, scope: None }).collect());
    };
    let mut places = BTreeSet::new();
    let endpoints = match targets {
        Targets::Host => {
            places.insert((None, Scope::NICS));
            let mut found = targets::all(root, request.netns)?;
            found.endpoints.retain(|endpoint| endpoint.role() == Some(Role::Netdev));
            found.endpoints
        }
        Targets::One(_) | Targets::Identity(_) => targets.select(root, request.netns)?,
    };
    // Of one without a configuration nobody can tell whose its flows are.
    for endpoint in endpoints.iter().filter(|endpoint| endpoint.role().is_some()) {
        let scope = endpoint.config.scope();
        places.extend([(endpoint.owns_flows(), scope), (None, scope)]);
    }
    let open = |(owner, scope)| {
        let maps = Conntrack::open(root, owner)?;
        Ok(maps.map(|maps| Place { maps, scope: Some(scope) }))
    };
    places.into_iter().filter_map(|place| open(place).transpose()).collect()
}
