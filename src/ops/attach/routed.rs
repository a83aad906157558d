//! Whether the routing rules of this host take an identity's mark for one of their own.

use std::collections::HashSet;

use anyhow::Result;

use super::Machine;
use super::resolve::identity;
use crate::kernel::ip_rules::{self, IpRule};
use crate::model::endpoint::Role;
use crate::model::identity::{Identity, Names};
use crate::model::mark::Mark;
use crate::model::spec::EndpointSpec;
use crate::ops::identities;
use crate::state::pin::Root;
use crate::state::registry::Found;

/// Those that an operator chooses by himself: 128 to 255, and the local ones.
const CHOICE: std::ops::RangeInclusive<u32> = 128..=65535;

/// A warning, if a rule treats what has the mark of the identity otherwise than what has none.
pub fn warning(root: &Root, spec: &EndpointSpec, machine: &Machine) -> Result<Option<String>> {
    let names = identities::names(root)?;
    let identity = identity(spec, machine.role, &names)?;
    // What this host itself sends is left as it is.
    if machine.role == Role::Netdev && identity == Identity::HOST {
        return Ok(None);
    }
    let mark = Mark::encode(identity)?;
    let rules = ip_rules::with_marks();
    let telling: Vec<String> =
        rules.iter().filter(|rule| rule.tells_apart(mark)).map(IpRule::to_string).collect();
    if telling.is_empty() {
        return Ok(None);
    }
    let hint = match free(root, identity, &rules, &names)? {
        Some(free) => format!("if that is not meant, take another identity: {free} is free of it"),
        None => "no identity is free of it".to_owned(),
    };
    Ok(Some(format!(
        "identity {}: its mark {mark} means something to {}, by which packets of {} may be routed; {hint}",
        names.label(identity),
        telling.join(", "),
        machine.device.name
    )))
}

/// The next identity that no rule knows and nobody has.
fn free(
    root: &Root,
    identity: Identity,
    rules: &[IpRule],
    names: &Names,
) -> Result<Option<Identity>> {
    let endpoints = Found::all(root)?.endpoints;
    let taken: HashSet<u32> = endpoints.iter().map(|endpoint| endpoint.config.identity).collect();
    let behind = CHOICE.filter(|number| *number > identity.0);
    let mut choice = behind.chain(CHOICE).map(Identity);
    Ok(choice.find(|it| {
        let is_routed =
            Mark::encode(*it).is_ok_and(|mark| rules.iter().any(|rule| rule.tells_apart(mark)));
        !is_routed && !taken.contains(&it.0) && names.name(*it).is_none()
    }))
}
