//! Endpoints whose labels have got a number, or another one.

use anyhow::{Context as _, Result};

use crate::kernel::netns;
use crate::model::endpoint::EndpointId;
use crate::model::identity::Identity;
use crate::model::labels::Labels;
use crate::model::spec::{EndpointSpec, IdentityRef};
use crate::ops::attach::{self, Consent, Terms};
use crate::ops::identities;
use crate::state::pin::Root;
use crate::state::registry::Endpoint;
use crate::state::spec;

/// Attaches an endpoint again with the number that its labels have, as it is else. Whether it was to be done: its labels make
/// its identity, are these, and it has not this number yet. The caller holds the root's lock.
pub fn renumber(root: &Root, id: EndpointId, labels: &Labels, identity: Identity) -> Result<bool> {
    let endpoint = Endpoint::read(root, id)?;
    let kept = crate::ops::spec::current(root, &endpoint, &identities::names(root)?)?;
    let is_meant = kept.has_identity_by_labels() && kept.labels == *labels;
    if endpoint.stale || endpoint.carries(identity) || !is_meant {
        return Ok(false);
    }
    let spec = EndpointSpec { id: Some(IdentityRef::Labels(identity)), ..kept };
    let terms = Terms {
        consent: Consent::Everything,
        keeps_clock: true,
        origin: spec::origin(root, &endpoint)?,
        ifindex: Some(endpoint.ifindex),
        ..Terms::default()
    };
    let attached = netns::within(endpoint.netns, || attach::attach(root, &spec, &terms));
    let attached = attached.with_context(|| format!("give {} its identity", endpoint.device))?;
    Ok(attached.is_some())
}
