//! Whether the routing rules of this host take an identity's mark for one of their own.

use anyhow::Result;

use super::Machine;
use super::resolve::identity;
use crate::kernel::ip_rules::{self, IpRule};
use crate::kernel::tool::Tools;
use crate::model::endpoint::Role;
use crate::model::identity::Identity;
use crate::model::mark::Mark;
use crate::model::spec::EndpointSpec;
use crate::ops::identities;
use crate::ops::marks::{Others, Way, because_of, taken};
use crate::state::pin::Root;

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
    // Nftables is asked only here: each attachment would wait for it. `doctor` asks it, too, and names the same identity.
    let way = Way::of(&machine.device.name, machine.role, false);
    let others = Others::read(&Tools::default());
    let hint = match others.free(&taken(root)?, identity, &way, &names) {
        Some(free) => format!("if that is not meant, take another identity: {free} is free of it"),
        None => match others.spoiler(&way).filter(|rule| !telling.contains(rule)) {
            Some(rule) => because_of(&rule),
            None => "no identity is free of it".to_owned(),
        },
    };
    Ok(Some(format!(
        "identity {}: its mark {mark} means something to {}, by which packets of {} may be routed; {hint}",
        names.label(identity),
        telling.join(", "),
        machine.device.name
    )))
}
