//! Whose flows they are.

use std::collections::HashMap;

use anyhow::Result;
use log::warn;

use crate::model::endpoint::{EndpointId, Scope};
use crate::model::enforcement::Confirmation;
use crate::model::identity::Identity;
use crate::ops::peers::Viewer;
use crate::state::conntrack::Flow;
use crate::state::pin::Root;
use crate::state::registry::{Endpoint, Found};

/// An endpoint, as far as its flows show it.
pub struct Owner {
    /// Its number.
    pub id: EndpointId,
    /// Its device's name.
    pub device: String,
    /// From what nobody has confirmed.
    pub fell_back: bool,
    /// Of its flows.
    pub scope: Scope,
    /// Its own.
    pub identity: Identity,
    /// To whom others are who they are.
    pub viewer: Viewer,
}

/// The endpoints whose flows can be told.
pub struct Owners {
    pub(super) all: Vec<Owner>,
    by_scope: HashMap<Scope, Vec<usize>>,
}

impl Owners {
    /// As they are now.
    pub fn read(root: &Root) -> Result<Owners> {
        let Found { endpoints, errors, .. } = Found::all(root)?;
        errors.iter().for_each(|error| warn!("{error:#}"));
        let all: Vec<Owner> = endpoints.into_iter().filter_map(Owner::of).collect();
        let mut by_scope: HashMap<Scope, Vec<usize>> = HashMap::new();
        for (index, owner) in all.iter().enumerate() {
            by_scope.entry(owner.scope).or_default().push(index);
        }
        Ok(Owners { all, by_scope })
    }

    /// Whose a flow is: all NICs', if it is one that they share, and nobody's of what is gone. `maps_of` tells
    /// in whose maps it is; `None` for those that all share.
    pub fn of(&self, flow: &Flow, maps_of: Option<EndpointId>) -> Vec<&Owner> {
        let known = self.by_scope.get(&flow.scope).into_iter().flatten();
        let known = known.map(|index| &self.all[*index]);
        known.filter(|owner| maps_of.is_none_or(|id| owner.id == id)).collect()
    }
}

impl Owner {
    /// `None` if it has no configuration.
    fn of(endpoint: Endpoint) -> Option<Owner> {
        Some(Owner {
            viewer: Viewer::of(&endpoint)?,
            id: endpoint.id,
            scope: endpoint.config.scope(),
            identity: Identity(endpoint.config.identity),
            fell_back: matches!(endpoint.confirmation(), Ok(Confirmation::Over(_))),
            device: endpoint.device,
        })
    }
}
