//! What a hook has attached before, when another workload, or another hook, comes to the same network.

use anyhow::{Result, ensure};

use super::Birth;
use crate::kernel::device::Device;
use crate::kernel::netns;
use crate::model::birth;
use crate::model::identity::Identity;
use crate::model::owner::Owner;
use crate::model::shell::word;
use crate::model::spec::EndpointSpec;
use crate::model::wish;
use crate::ops::{self, identities};
use crate::state::devices::Devices;
use crate::state::pin::Root;
use crate::state::registry::Endpoint;
use crate::state::spec;

/// An endpoint that a hook has attached.
pub(super) struct Born {
    pub endpoint: Endpoint,
    pub owner: Owner,
    pub birth: birth::Birth,
}

impl Born {
    /// That on a device of this namespace, if there is one.
    pub(super) fn on(root: &Root, device: &Device) -> Result<Option<Born>> {
        let netns = netns::current()?;
        for endpoint in Endpoint::concerning(root, &Devices::read(root)?, netns, device)? {
            if endpoint.is_on(device, netns)
                && !endpoint.has_moved()
                && let Some((owner, birth)) = spec::born(root, endpoint.id)?
            {
                return Ok(Some(Born { endpoint, owner, birth }));
            }
        }
        Ok(None)
    }

    /// Of two hooks that are told of a workload the one counts to which that itself says something.
    pub(super) fn is_left_to(&self, birth: &Birth<'_>) -> bool {
        let says_nothing = birth.said.first().is_none_or(|said| said.wish.is_empty());
        says_nothing && self.birth.hook != birth.hook
    }

    /// Whether it is whole, and has the identity that a spec says.
    pub(super) fn is_as_wanted(&self, root: &Root, spec: &EndpointSpec) -> Result<bool> {
        let names = identities::names(root)?;
        let identity = spec.id.as_ref().map_or(Ok(Identity::UNKNOWN), |id| id.resolve(&names))?;
        Ok(self.endpoint.carries(identity) && !self.endpoint.stale)
    }

    /// What it is to be when one more workload is in its network: of two that name an identity both name the same, and
    /// whoever names one is before whoever has it by default. Rules and modes are those of the first that says any, so that
    /// nobody runs without who has said them. `None` if it is that already.
    pub(super) fn shared(
        self,
        root: &Root,
        birth: &Birth<'_>,
        spec: Option<EndpointSpec>,
    ) -> Result<Option<EndpointSpec>> {
        let Born { endpoint, owner, birth: born } = self;
        let names = identities::names(root)?;
        let named = spec.filter(|_| birth.names_identity());
        let identity = named.as_ref().and_then(|spec| spec.id.as_ref());
        let identity = identity.map(|id| id.resolve(&names)).transpose()?;
        let is_same = identity.is_none_or(|identity| endpoint.carries(identity));
        ensure!(
            is_same || born.id_from == wish::BY_DEFAULT,
            "its network is that of {owner} too, whose identity is {}, not {}; two workloads that share a network have \
             one identity; if {owner} has ended, and nobody has told, `cilmark detach --owner {}`",
            names.label(Identity(endpoint.config.identity)),
            names.label(identity.unwrap_or(Identity::UNKNOWN)),
            word(owner.get())
        );
        let current = ops::spec::current(root, &endpoint, &names)?;
        let has_rules = born.rules_from.is_some() || !current.policy.are_off();
        let rules = named.clone().filter(|spec| is_same && !has_rules && says_rules(spec));
        if is_same && rules.is_none() && born.sharers.contains(&birth.owner) {
            return Ok(None);
        }
        // Whoever is in the network may have given it addresses since.
        let (ip, shared_ip) = (current.ip.clone(), current.shared_ip.clone());
        let spec = if is_same { current } else { named.unwrap_or(current) };
        let mut spec = EndpointSpec { ip, shared_ip, ..spec };
        let mut sharers = born.sharers.clone();
        sharers.retain(|sharer| *sharer != birth.owner);
        sharers.push(birth.owner.clone());
        let now = if is_same { born.clone() } else { spec.birth.take().unwrap_or(born.clone()) };
        // By these the owner is found again.
        let birth::Birth { network, bundle, .. } = born;
        let mut now = birth::Birth { sharers, network, bundle, ..now };
        if let Some(EndpointSpec { rules, policy, birth, .. }) = rules {
            (spec.rules, spec.policy) = (rules, policy);
            now.rules_from = birth.and_then(|birth| birth.rules_from);
        }
        spec.birth = Some(now);
        spec.owner = Some(owner);
        Ok(Some(spec))
    }
}

/// Whether anything is said of rules, or of what they do.
fn says_rules(spec: &EndpointSpec) -> bool {
    !spec.policy.are_off() || spec.birth.as_ref().is_some_and(|birth| birth.rules_from.is_some())
}
