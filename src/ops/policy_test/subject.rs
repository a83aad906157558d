//! An endpoint whose flows are judged, as it is going to be.

use std::collections::HashSet;
use std::time::Duration;

use anyhow::Result;
use ipnet::{IpNet, Ipv6Net};

use crate::kernel::{device, sys};
use crate::model::endpoint::{EndpointId, Role, Scope};
use crate::model::enforcement::{Mode, Modes};
use crate::model::identity::Identity;
use crate::model::policy::Policy;
use crate::model::policy::effect::Setting;
use crate::model::rule_list::RuleList;
use crate::model::spec::{EndpointSpec, IdentityRef};
use crate::ops::attach::{self, Machine, Terms};
use crate::ops::peers::Viewer;
use crate::state::pin::Root;
use crate::state::registry::Endpoint;

/// What is judged.
pub struct Subject {
    /// Its device.
    pub device: String,
    /// Who others are to it.
    pub viewer: Viewer,
    /// Who it is to others.
    pub identity: Identity,
    /// A workload's addresses and prefixes, or a NIC's addresses.
    pub addresses: Vec<IpNet>,
    /// From where it believes flow labels.
    pub flow_labels: Option<Ipv6Net>,
    /// What stands before its rules. A direction that is judged enforces.
    pub setting: Setting,
    /// Its rules.
    pub policy: Policy,
    /// Flows that the kernel's conntrack knows are taken over when it begins to enforce.
    pub adopts: bool,
    /// For how long connections are taken over by the sockets of this host, each by a packet of it.
    pub adopts_by_socket: Option<Duration>,
    /// Of what another NIC has taken over it asks its own rules.
    pub asks_about_adopted: bool,
    /// Proxies of this host may send in others' names.
    pub trusts_proxies: bool,
    /// What it has known of flows so far.
    pub known: Option<KnownFlows>,
    /// Of a NIC: the numbers of the devices whose packets pass it.
    pub carries: HashSet<u32>,
}

/// Where the flows of an endpoint are that runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KnownFlows {
    /// Whose maps; `None`: those that all share.
    pub owner: Option<EndpointId>,
    /// Whose flows.
    pub scope: Scope,
    /// Of a NIC, its place among them.
    pub slot: Option<u8>,
}

impl Subject {
    /// Whether a flow is known to have passed it, as a NIC.
    pub fn has_passed(&self, passed: u16) -> bool {
        let slot = self.known.and_then(|known| known.slot);
        slot.is_some_and(|slot| passed >> slot & 1 != 0)
    }
}

/// What an endpoint is asked to be.
pub struct Asked<'a> {
    /// But for its rules.
    pub spec: &'a EndpointSpec,
    /// Who it is.
    pub identity: Identity,
    /// What runs on its device.
    pub running: Option<&'a Endpoint>,
    /// Its own rules.
    pub own: &'a RuleList,
    /// Those of its identity.
    pub of_identity: &'a RuleList,
    /// Of which directions it is asked.
    pub judged: Modes,
}

impl Subject {
    /// What would come of attaching it so. Nothing is attached.
    pub fn of(root: &Root, asked: &Asked<'_>, login_port: Option<u16>) -> Result<Subject> {
        let spec = EndpointSpec {
            id: Some(IdentityRef::Number(asked.identity)),
            policy: asked.judged,
            rules: None,
            ..asked.spec.clone()
        };
        let terms = Terms { login_port, ..Terms::default() };
        let machine = Machine::of(&spec)?;
        let plan = attach::resolve(root, &spec, &terms, &machine, asked.running)?;
        let config = plan.resolved.config();
        let role = plan.resolved.role;
        // Without a policy local delivery alone keeps something, and of no flow whether it is up.
        let runs = asked.running.filter(|it| it.config.has_policy() && !it.stale);
        let nothing = Policy::default();
        Ok(Subject {
            viewer: Viewer { role, netns: machine.netns, by_address: spec.by_address },
            identity: asked.identity,
            addresses: plan.resolved.addresses,
            flow_labels: spec.trust_flow_label,
            setting: Setting {
                role,
                modes: asked.judged.each(),
                failsafe: plan.resolved.policy.failsafe,
                refuses_host: config.setting().is_some_and(|it| it.refuses_host),
                is_router: spec.router,
                has_addresses: config.has_addresses(),
            },
            policy: nothing.made_of(asked.own, asked.of_identity, &nothing),
            adopts: plan.adopts,
            adopts_by_socket: Some(config.adopt_until_ns.saturating_sub(sys::coarse_ns()))
                .filter(|left| role == Role::Netdev && *left != 0)
                .map(Duration::from_nanos),
            asks_about_adopted: role == Role::Netdev && config.adopt_until_ns == 0,
            trusts_proxies: spec.trust_proxy,
            known: runs.map(|it| KnownFlows {
                owner: it.owns_flows(),
                scope: it.config.scope(),
                slot: it.config.nic_slot(),
            }),
            carries: match role {
                Role::Netdev => device::on_top_of(&machine.device)?,
                Role::Container => HashSet::new(),
            },
            device: machine.device.name,
        })
    }
}

/// The directions of a policy that are asked about: audit is there to be enforced. One that has none at all is asked
/// as if it enforced both.
pub fn judged(modes: Modes) -> Modes {
    let enforce = |mode| if mode == Mode::Off { Mode::Off } else { Mode::Enforce };
    match modes.are_off() {
        true => Modes::both(Mode::Enforce),
        false => Modes { ingress: enforce(modes.ingress), egress: enforce(modes.egress) },
    }
}
