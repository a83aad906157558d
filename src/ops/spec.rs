//! What endpoints were asked to be, as it is kept with them.

use anyhow::{Context as _, Result};

use super::rules;
use super::targets::policy_of;
use crate::kernel::{device, netns};
use crate::model::identity::{Identity, Names};
use crate::model::spec::{EndpointSpec, IdentityRef};
use crate::state::devices::Devices;
use crate::state::pin::Root;
use crate::state::policy::PolicyMaps;
use crate::state::registry::Endpoint;
use crate::state::spec;

/// Of the endpoint on a device of this namespace, for whoever attaches it again. The rules stay where they are.
pub fn kept(root: &Root, name: &str) -> Result<EndpointSpec> {
    let (device, netns) = (device::by_name(name)?, netns::current()?);
    let endpoints = Endpoint::concerning(root, &Devices::read(root)?, netns, &device)?;
    let endpoints = endpoints.into_iter().map(|it| it.believed_on(&device, netns));
    let mut here = endpoints.filter(|it| it.is_on(&device, netns) && !it.has_moved());
    let endpoint = here.next().with_context(|| {
        format!("{name} is not attached, so that there is nothing to keep: attach it with all its flags, without --keep")
    })?;
    current(root, &endpoint, &super::identities::names(root)?)
}

/// With the identity that it has: a name may have become another number's, or nobody's.
pub fn current(root: &Root, endpoint: &Endpoint, names: &Names) -> Result<EndpointSpec> {
    let spec = spec::read(root, endpoint)?;
    let identity = Identity(endpoint.config.identity);
    let is_still = |id: &IdentityRef| id.resolve(names).is_ok_and(|resolved| resolved == identity);
    let id = spec.id.map(|id| match id {
        IdentityRef::Labels(_) => IdentityRef::Labels(identity),
        id if is_still(&id) => id,
        _ => IdentityRef::Number(identity),
    });
    Ok(EndpointSpec { id, ..spec })
}

/// Complete: attached by this, an endpoint is what it is now, under the name that its device has now, with its own
/// rules in force.
pub fn export(root: &Root, endpoint: &Endpoint) -> Result<EndpointSpec> {
    let names = super::identities::names(root)?;
    let spec = current(root, endpoint, &names)?;
    let rules = match endpoint.stale {
        true => PolicyMaps::pinned(root, endpoint.id)?,
        false => rules::in_force(&policy_of(root, endpoint)?, endpoint)?,
    };
    let rules = rules.own().rules().map(|rule| rule.text(&names)).collect();
    Ok(EndpointSpec { device: endpoint.device.clone(), rules: Some(rules), ..spec })
}
