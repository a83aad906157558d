//! Which flows are meant: those of a filter, with who is at their ends.

use std::collections::HashMap;
use std::net::SocketAddr;

use anyhow::Result;

use super::owners::{Owner, Owners};
use crate::model::endpoint::EndpointId;
use crate::model::flow::{Filter, Traits};
use crate::ops::peers::{End, Peers, Viewer, lines};
use crate::state::conntrack::Flow;
use crate::state::pin::Root;

/// A filter, with what it takes to tell who is at the ends of a flow.
pub struct Choice {
    filter: Filter,
    peers: Option<Peers>,
}

impl Choice {
    /// Reads what is to be looked up, if the filter asks for it.
    pub fn new(root: &Root, filter: Filter, owners: &Owners) -> Result<Choice> {
        let read = || {
            let viewers: HashMap<EndpointId, Viewer> =
                owners.all.iter().map(|owner| (owner.id, owner.viewer)).collect();
            Peers::of(lines(root, |id| viewers.get(&id).copied())?, viewers.values().copied())
        };
        let peers = filter.identity.is_some().then(read);
        Ok(Choice { filter, peers: peers.transpose()? })
    }

    /// Whether it leaves nothing out.
    pub fn takes_all(&self) -> bool {
        self.filter.takes_all()
    }

    /// Whether a flow of these owners is meant.
    pub fn takes(&self, flow: &Flow, whose: &[&Owner]) -> bool {
        let traits = Traits {
            protocol: flow.protocol,
            local: SocketAddr::new(flow.local, flow.local_port),
            remote: SocketAddr::new(flow.remote, flow.remote_port),
            direction: flow.direction,
            progress: flow.progress,
        };
        self.filter.takes(&traits, |identity| {
            let end =
                End { direction: flow.direction, address: flow.remote, claimed: flow.claimed };
            let viewer = whose.first().map(|owner| &owner.viewer);
            let is_peer = |peers: &Peers| peers.at(&end, viewer) == identity;
            whose.iter().any(|owner| owner.identity == identity)
                || self.peers.as_ref().is_some_and(is_peer)
        })
    }
}
