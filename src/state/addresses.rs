//! The addresses of endpoints, in `cm_endpoints` (whose they are) and `cm_ipcache` (which identity).

use std::net::IpAddr;

use anyhow::{Context, Result, bail, ensure};
use ipnet::IpNet;
use log::{info, warn};

use crate::kernel::abi::{cm_config, cm_endpoint, cm_role};
use crate::model::endpoint::{EndpointId, Role};
use crate::model::identity::Identity;
use crate::state::endpoints::Endpoints;
use crate::state::ipcache::{Ipcache, IpcacheLine};
use crate::state::pin::Root;
use crate::state::registry::{Endpoint, Found};

/// Both maps of a root.
pub struct Addresses<'a> {
    root: &'a Root,
    ipcache: Ipcache,
    endpoints: Endpoints,
}

impl Addresses<'_> {
    /// `None` if nobody has made the maps yet.
    pub fn open(root: &Root) -> Result<Option<Addresses<'_>>> {
        let (ipcache, endpoints) = (Ipcache::open(root)?, Endpoints::open(root)?);
        let both = ipcache.zip(endpoints);
        Ok(both.map(|(ipcache, endpoints)| Addresses { root, ipcache, endpoints }))
    }

    /// Enters an endpoint's addresses. Fails if one of them is another endpoint's that runs, but
    /// for two NICs of one namespace, which may carry the same one.
    pub fn register(&self, config: &cm_config, addresses: &[IpAddr]) -> Result<()> {
        let is_host = config.role == cm_role::CM_ROLE_NETDEV;
        let id = u16::try_from(config.endpoint_id).ok().and_then(EndpointId::new);
        let id = id.context("an endpoint without a number")?;
        for address in addresses {
            if let Some(there) = self.endpoints.get(*address)?
                && there.endpoint_id != id.get()
            {
                let same_role = u32::from(there.role) == config.role.0;
                if is_host && same_role && there.netns == config.netns {
                    continue;
                }
                self.check_free(*address, &there, config.netns)?;
            }
            let endpoint = cm_endpoint {
                netns: config.netns,
                ifindex: config.ifindex,
                endpoint_id: id.get(),
                role: config.role.0 as u8,
                delivery: config.delivery.0 as u8,
            };
            // In this order, so that `forget` finds whatever was entered.
            self.endpoints.set(*address, &endpoint)?;
            let identity = Identity(config.identity);
            if let Some(lost) = self.ipcache.add_own(*address, identity, id, is_host)? {
                warn!("{address} had identity {lost} in the ipcache, and now has {identity}");
            }
        }
        Ok(())
    }

    /// An address has one owner and one identity in a root, whatever namespace it is in. What is left
    /// of an endpoint that is gone owns nothing, nor does one that has moved: its device left them behind.
    fn check_free(&self, address: IpAddr, there: &cm_endpoint, netns: u64) -> Result<()> {
        let Some(id) = EndpointId::new(there.endpoint_id) else { return Ok(()) };
        let owner = Endpoint::read(self.root, id)?;
        if owner.stale || owner.has_moved() {
            info!("{address} was an address of endpoint {id}, which is stale or has moved");
            return Ok(());
        }
        let device = &owner.device;
        ensure!(
            there.netns == netns,
            "{address} is already an address of endpoint {id} ({device}) in another network \
             namespace; what has the same addresses in two namespaces takes a root of its own for \
             one of them: --bpffs DIR"
        );
        bail!(
            "{address} is already an address of endpoint {id} ({device}); `cilmark detach id:{id}` \
             frees it"
        );
    }

    /// What the operator says of these addresses, which [`Addresses::register`] may overwrite.
    pub fn operators_lines(&self, addresses: &[IpAddr]) -> Result<Vec<IpcacheLine>> {
        let lines = addresses.iter().map(|address| self.ipcache.get(&IpNet::from(*address)));
        let lines: Vec<Option<IpcacheLine>> = lines.collect::<Result<_>>()?;
        Ok(lines.into_iter().flatten().filter(|line| line.owner.is_none()).collect())
    }

    /// Puts the operator's lines back in place of what [`Addresses::register`] wrote.
    pub fn put_back(&self, lines: &[IpcacheLine]) -> Result<()> {
        lines.iter().try_for_each(|line| self.ipcache.put_back(line))
    }

    /// Removes an endpoint's addresses, but those in `keep`.
    pub fn forget(&self, id: EndpointId, keep: &[IpAddr]) -> Result<()> {
        for address in self.endpoints.addresses_of(id)? {
            if !keep.contains(&address) {
                self.ipcache.remove_own(address, id)?;
                self.endpoints.remove(address)?;
            }
        }
        Ok(())
    }

    /// Removes all addresses of an endpoint that is gone. One that another NIC of the host has as
    /// well is handed on to that.
    pub fn hand_on(&self, id: EndpointId) -> Result<()> {
        self.forget(id, &[])?;
        let others = Found::all(self.root)?;
        for error in &others.errors {
            warn!("addresses that two NICs share: {error:#}");
        }
        for other in &others.endpoints {
            if other.role() == Some(Role::Netdev) && !other.stale && !other.has_moved() {
                self.register(&other.config, &other.addresses())
                    .with_context(|| format!("register the addresses of {} again", other.device))?;
            }
        }
        Ok(())
    }
}
