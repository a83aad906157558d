//! Whose address a packet came under without the proof that it is that workload's.

use std::net::IpAddr;

use serde::Serialize;

use crate::kernel::abi::{cm_config, cm_role};
use crate::model::endpoint::EndpointId;
use crate::model::identity::{Identity, Names};
use crate::state::endpoints::Endpoints;
use crate::state::ipcache::Ipcache;
use crate::state::pin::Root;
use crate::state::registry::Endpoint;

/// An attached workload, whose address somebody has sent from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Claim {
    endpoint_id: EndpointId,
    device: String,
    identity: Identity,
}

/// The tables that know whose an address is, as they are opened first.
pub struct Owners {
    endpoints: Endpoints,
    ipcache: Ipcache,
}

impl Owners {
    /// `None` if nobody has made the tables, or they can't be read.
    pub fn open(root: &Root) -> Option<Owners> {
        let endpoints = Endpoints::open(root).ok()??;
        Some(Owners { endpoints, ipcache: Ipcache::open(root).ok()?? })
    }

    /// The workload that has an address and whose identity a packet from there did not get: `wants_proof()`
    /// of the datapath. `config` is of the endpoint that has received the packet, `identity` is whom it took
    /// the sender for. Nothing if the workload has gone since.
    pub fn unproven(
        &self,
        root: &Root,
        config: &cm_config,
        source: IpAddr,
        identity: Identity,
    ) -> Option<Claim> {
        if identity != Identity::WORLD || config.by_address != 0 {
            return None;
        }
        let owner = self.endpoints.owner(source).ok()??;
        if u32::from(owner.role) != cm_role::CM_ROLE_CONTAINER.0 || owner.netns != config.netns {
            return None;
        }
        // What the operator has said of the address counts without a proof.
        let (known, line_owner) = self.ipcache.known(source).ok()??;
        line_owner.filter(|_| known != identity)?;
        let endpoint_id = EndpointId::new(owner.endpoint_id)?;
        let device = Endpoint::read(root, endpoint_id).map(|owner| owner.device);
        Some(Claim { endpoint_id, device: device.unwrap_or_default(), identity: known })
    }
}

impl Claim {
    /// What to do where the sender is whom it claims to be.
    pub const HINT: &str = "--by-address believes addresses";

    /// What to tell of it.
    pub fn text(&self, names: &Names) -> String {
        format!(
            "claims the address of endpoint {} ({}, identity {}) without proof, and counts as world; {}",
            self.endpoint_id,
            self.device,
            names.label(self.identity),
            Claim::HINT
        )
    }
}
