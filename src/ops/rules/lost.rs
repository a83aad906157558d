//! The rules of identities, if somebody has removed their pin: endpoints still have them.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result};
use log::warn;

use super::plan::in_force;
use crate::model::identity::Identity;
use crate::model::origin::Origin;
use crate::model::rule::Rule;
use crate::model::rule_list::{IdentityRules, RuleList};
use crate::ops::targets::{self, policy_of};
use crate::program::load;
use crate::state::id_rules::{self, IdRules};
use crate::state::pin::Root;
use crate::state::registry::Endpoint;

/// Makes the map anew of what endpoints have, if it is not there and one of these has any: else they would lose them.
pub fn restore(root: &Root, endpoints: &[Endpoint]) -> Result<()> {
    let pin = root.map(id_rules::NAME);
    if pin.exists() {
        return Ok(());
    }
    let has_any =
        |endpoint: &Endpoint| Ok::<_, anyhow::Error>(!rules_of(root, endpoint)?.is_empty());
    if !endpoints.iter().map(has_any).collect::<Result<Vec<_>>>()?.contains(&true) {
        return Ok(());
    }
    let mut found: BTreeMap<Identity, RuleList> = BTreeMap::new();
    for endpoint in targets::alive(root)? {
        let list = found.entry(Identity(endpoint.config.identity)).or_default();
        list.add(&rules_of(root, &endpoint)?, Origin::Command);
    }
    load::create_map(root, id_rules::NAME)?;
    let map = IdRules::open(root)?.with_context(|| format!("{} is not pinned", id_rules::NAME))?;
    for (identity, rules) in found {
        map.put(identity, &IdentityRules::permanent(rules))?;
    }
    warn!("{} was gone; the rules of identities are those that endpoints have", pin.display());
    Ok(())
}

/// What an endpoint has of its identity.
fn rules_of(root: &Root, endpoint: &Endpoint) -> Result<Vec<Rule>> {
    let Ok(maps) = policy_of(root, endpoint) else { return Ok(Vec::new()) };
    Ok(in_force(&maps, endpoint)?.of_identity().collect())
}
