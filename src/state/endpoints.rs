//! `cm_endpoints`: whose the attached addresses are.

use std::net::IpAddr;

use anyhow::Result;

use crate::kernel::abi::{self, cm_address, cm_endpoint};
use crate::model::endpoint::EndpointId;
use crate::state::generations::Remotes;
use crate::state::pin::Root;
use crate::state::verdict_map::VerdictMap;

/// The map.
pub struct Endpoints {
    map: VerdictMap<cm_address, cm_endpoint>,
}

impl Endpoints {
    /// `None` if nobody has made the map yet.
    pub fn open(root: &Root) -> Result<Option<Endpoints>> {
        Ok(VerdictMap::open(root, "cm_endpoints")?.map(|map| Endpoints { map }))
    }

    /// The endpoint that an address belongs to.
    pub fn get(&self, address: IpAddr) -> Result<Option<cm_endpoint>> {
        self.map.get(&address.into())
    }

    /// Registers an address. Verdicts about it are stale then, if it was another's.
    pub fn set(&self, address: IpAddr, endpoint: &cm_endpoint) -> Result<()> {
        let there = self.get(address)?;
        if there.is_some_and(|there| abi::bytes_of(&there) == abi::bytes_of(endpoint)) {
            self.map.settle();
            return Ok(());
        }
        self.map.change(&Remotes::one(address), |map| map.set(&address.into(), endpoint))
    }

    /// An endpoint's addresses.
    pub fn addresses_of(&self, id: EndpointId) -> Result<Vec<IpAddr>> {
        let entries = self.map.entries()?.into_iter();
        let own = entries.filter(|(_, entry)| entry.endpoint_id == id.get());
        Ok(own.filter_map(|(key, _)| key.to_ip()).collect())
    }

    /// Removes an address. Verdicts about it are stale then, if it was anybody's.
    pub fn remove(&self, address: IpAddr) -> Result<()> {
        if self.get(address)?.is_none() {
            self.map.settle();
            return Ok(());
        }
        let remove = self.map.change(&Remotes::one(address), |map| map.delete(&address.into()));
        remove.map(|_| ())
    }
}
