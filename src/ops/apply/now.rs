//! What there is, and who has made it.

use std::collections::BTreeMap;

use anyhow::Result;
use ipnet::IpNet;
use log::debug;

use super::change::EndpointState;
use crate::model::endpoint::EndpointId;
use crate::model::enforcement::{Confirmation, Fallback};
use crate::model::identity::{Identity, Names};
use crate::model::origin::Origin;
use crate::model::rule_list::RuleList;
use crate::model::spec::EndpointSpec;
use crate::ops::failures::all_of;
use crate::ops::rules::in_force;
use crate::ops::targets::{self, policy_of};
use crate::ops::{again, spec};
use crate::state;
use crate::state::id_rules::IdRules;
use crate::state::ipcache::Ipcache;
use crate::state::maps::Identities;
use crate::state::pin::Root;
use crate::state::policy::PolicyMaps;
use crate::state::registry::Endpoint;

/// What there is.
#[derive(Default)]
pub struct Now {
    /// The names of identities.
    pub names: BTreeMap<Identity, (String, Origin)>,
    /// The lines of the ipcache that are nobody's own addresses.
    pub lines: BTreeMap<IpNet, (Identity, Origin)>,
    /// Those that are.
    pub own_lines: BTreeMap<IpNet, (Identity, EndpointId)>,
    /// The rules of identities.
    pub rules: BTreeMap<Identity, RuleList>,
    /// The endpoints of this network namespace.
    pub endpoints: Vec<Attached>,
}

/// An endpoint of this network namespace.
pub struct Attached {
    /// What runs.
    pub endpoint: Endpoint,
    /// What it was asked to be, and its own rules.
    pub state: EndpointState,
    /// It is not what it was asked to be, or nobody knows what that was: it has to be attached again, also if nothing
    /// else is asked of it.
    pub is_due: bool,
}

impl Now {
    /// Looks.
    pub fn of(root: &Root, netns: u64) -> Result<Now> {
        let mut now = Now::default();
        if let Some(identities) = Identities::open(root)? {
            let (names, origins) = (identities.names()?, identities.origins()?);
            let origin = |identity| origins.get(&identity).copied().unwrap_or_default();
            let names = names.declared();
            let names =
                names.map(|(identity, name)| (identity, (name.to_owned(), origin(identity))));
            now.names = names.collect();
        }
        if let Some(ipcache) = Ipcache::open(root)? {
            for line in ipcache.lines()? {
                match line.owner {
                    Some(owner) => _ = now.own_lines.insert(line.prefix, (line.identity, owner)),
                    None => _ = now.lines.insert(line.prefix, (line.identity, line.origin)),
                }
            }
        }
        if let Some(rules) = IdRules::open(root)? {
            let rules = rules.all()?.into_iter();
            now.rules = rules.map(|(identity, rules)| (identity, rules.now)).collect();
        }
        let names = now.names();
        let found = targets::all(root, Some(netns))?;
        all_of(found.errors)?;
        for endpoint in found.endpoints {
            now.endpoints.push(Attached::of(root, endpoint, &names)?);
        }
        Ok(now)
    }

    /// The declared names.
    pub fn names(&self) -> Names {
        Names::new(self.names.iter().map(|(identity, (name, _))| (*identity, name.clone())))
    }
}

impl Attached {
    fn of(root: &Root, endpoint: Endpoint, names: &Names) -> Result<Attached> {
        let rules = policy_of(root, &endpoint).and_then(|maps| in_force(&maps, &endpoint));
        let rules = match rules {
            Ok(policy) => policy.own(),
            Err(error) => {
                debug!("endpoint {}: {error:#}", endpoint.id);
                PolicyMaps::pinned(root, endpoint.id)?.own()
            }
        };
        let origin = state::spec::origin(root, &endpoint).unwrap_or_default();
        let spec = spec::current(root, &endpoint, names);
        let is_due = spec.is_err()
            || endpoint.stale
            || endpoint.has_moved()
            || endpoint.confirmation()? == Confirmation::Over(Fallback::Audit)
            || !again::reasons(&endpoint)?.is_empty();
        let spec = spec.unwrap_or_else(|error| {
            debug!("{error:#}");
            EndpointSpec::new(&endpoint.device)
        });
        let identity = Identity(endpoint.config.identity);
        Ok(Attached { endpoint, state: EndpointState { spec, origin, identity, rules }, is_due })
    }
}
