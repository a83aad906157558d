//! `cm_endpoints` and `cm_endpoint_net`: whose the attached addresses are, and the prefixes of workloads.

use std::net::IpAddr;

use anyhow::Result;
use ipnet::IpNet;
use plain::Plain;

use crate::kernel::abi::{
    self, cm_address, cm_delivery, cm_endpoint, cm_prefix, cm_prefix_owner, cm_role,
};
use crate::model::endpoint::EndpointId;
use crate::model::prefix::is_host;
use crate::state::generations::Remotes;
use crate::state::pin::Root;
use crate::state::verdict_map::VerdictMap;

/// Both maps as one table. What is written of a prefix is a workload, which is delivered to by the stack.
pub struct Endpoints {
    hosts: VerdictMap<cm_address, cm_endpoint>,
    prefixes: VerdictMap<cm_prefix, cm_prefix_owner>,
}

impl Endpoints {
    /// `None` if nobody has made the maps yet.
    pub fn open(root: &Root) -> Result<Option<Endpoints>> {
        let hosts = VerdictMap::open(root, "cm_endpoints")?;
        let prefixes = VerdictMap::open(root, "cm_endpoint_net")?;
        Ok(hosts.zip(prefixes).map(|(hosts, prefixes)| Endpoints { hosts, prefixes }))
    }

    /// The endpoint that exactly this address or prefix belongs to.
    pub fn get(&self, own: impl Into<IpNet>) -> Result<Option<cm_endpoint>> {
        let own = own.into();
        match is_host(&own) {
            true => self.hosts.get(&own.addr().into()),
            false => Ok(self.prefixes.get_exactly(&(&own).into())?.map(|it| of_prefix(&it))),
        }
    }

    /// The endpoint that has an address, itself or by the longest prefix.
    pub fn owner(&self, address: IpAddr) -> Result<Option<cm_endpoint>> {
        if let Some(endpoint) = self.hosts.get(&address.into())? {
            return Ok(Some(endpoint));
        }
        let longest = self.prefixes.get(&cm_prefix::from(&IpNet::from(address)))?;
        Ok(longest.map(|it| of_prefix(&it)))
    }

    /// Registers an address or a prefix. Verdicts about it are stale then, if it was another's.
    pub fn set(&self, own: impl Into<IpNet>, endpoint: &cm_endpoint) -> Result<()> {
        let own = own.into();
        if is_host(&own) {
            return put(&self.hosts, own.addr().into(), endpoint, || Remotes::one(own.addr()));
        }
        let owner = cm_prefix_owner {
            netns: endpoint.netns,
            ifindex: endpoint.ifindex,
            endpoint_id: endpoint.endpoint_id,
            length: own.prefix_len(),
            is_shared: is_shared(endpoint).into(),
        };
        put(&self.prefixes, cm_prefix::from(&own), &owner, Remotes::all)
    }

    /// An endpoint's addresses and prefixes.
    pub fn addresses_of(&self, id: EndpointId) -> Result<Vec<IpNet>> {
        let hosts = self.hosts.entries()?.into_iter();
        let hosts = hosts.filter(|(_, entry)| entry.endpoint_id == id.get());
        let hosts = hosts.filter_map(|(key, _)| key.to_ip().map(IpNet::from));
        let prefixes = self.prefixes.entries()?.into_iter();
        let prefixes = prefixes.filter(|(_, entry)| entry.endpoint_id == id.get());
        Ok(hosts.chain(prefixes.filter_map(|(key, _)| key.to_net())).collect())
    }

    /// Removes an address or a prefix. Verdicts about it are stale then, if it was anybody's.
    pub fn remove(&self, own: impl Into<IpNet>) -> Result<()> {
        let own = own.into();
        match is_host(&own) {
            true => take(&self.hosts, own.addr().into(), || Remotes::one(own.addr())),
            false => take(&self.prefixes, cm_prefix::from(&own), Remotes::all),
        }
    }
}

/// Whether others may have the address, too, and this is one of them.
pub fn is_shared(endpoint: &cm_endpoint) -> bool {
    u32::from(endpoint.delivery) == cm_delivery::CM_DELIVERY_SHARED.0
}

fn of_prefix(owner: &cm_prefix_owner) -> cm_endpoint {
    let delivery = match owner.is_shared {
        0 => cm_delivery::CM_DELIVERY_NONE,
        _ => cm_delivery::CM_DELIVERY_SHARED,
    };
    cm_endpoint {
        netns: owner.netns,
        ifindex: owner.ifindex,
        endpoint_id: owner.endpoint_id,
        role: cm_role::CM_ROLE_CONTAINER.0 as u8,
        delivery: delivery.0 as u8,
    }
}

fn put<K: Plain + Default, V: Plain + Default>(
    map: &VerdictMap<K, V>,
    key: K,
    value: &V,
    concerned: impl FnOnce() -> Remotes,
) -> Result<()> {
    let is_there =
        |there: Option<V>| there.is_some_and(|there| abi::bytes_of(&there) == abi::bytes_of(value));
    // Of a trie the answer may be a shorter prefix's, which has another length.
    if is_there(map.get(&key)?) {
        map.settle();
        return Ok(());
    }
    map.change(&concerned(), |map| map.set(&key, value))
}

fn take<K: Plain + Default, V: Plain + Default>(
    map: &VerdictMap<K, V>,
    key: K,
    concerned: impl FnOnce() -> Remotes,
) -> Result<()> {
    if map.get(&key)?.is_none() {
        map.settle();
        return Ok(());
    }
    map.change(&concerned(), |map| map.delete(&key)).map(|_| ())
}
