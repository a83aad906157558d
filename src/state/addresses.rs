//! The addresses and prefixes of endpoints, in `cm_endpoints` and `cm_endpoint_net` (whose they are), and in the ipcache
//! (which identity).

use anyhow::{Context, Result, ensure};
use ipnet::IpNet;
use log::{info, warn};

use crate::kernel::abi::{cm_config, cm_delivery, cm_endpoint, cm_role};
use crate::model::endpoint::{EndpointId, Role};
use crate::model::identity::Identity;
use crate::model::prefix::{format_prefix, is_host};
use crate::state::endpoints::{Endpoints, is_shared};
use crate::state::ipcache::{Ipcache, IpcacheLine};
use crate::state::pin::Root;
use crate::state::registry::{Endpoint, Found};

/// These tables of a root.
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

    /// Enters an endpoint's addresses and prefixes. Fails if one of them is another endpoint's that runs, but for two
    /// NICs of one namespace, and for two workloads of one identity that both share it.
    pub fn register(&self, config: &cm_config, addresses: &[IpNet]) -> Result<()> {
        let is_host = config.role == cm_role::CM_ROLE_NETDEV;
        let id = u16::try_from(config.endpoint_id).ok().and_then(EndpointId::new);
        let id = id.context("an endpoint without a number")?;
        let shared = config.shared();
        for own in addresses {
            if let Some(there) = self.endpoints.get(*own)? {
                let same_role = u32::from(there.role) == config.role.0;
                let is_anothers = there.endpoint_id != id.get();
                if is_anothers && is_host && same_role && there.netns == config.netns {
                    continue;
                }
                let others = self.others(own, &there, id)?;
                for other in &others {
                    check_shared(own, other, config, shared.contains(own))?;
                }
                if others.iter().any(|other| other.id.get() == there.endpoint_id) {
                    continue;
                }
            }
            // In this order, so that `forget` finds whatever was entered.
            self.endpoints.set(*own, &entry(config, id, shared.contains(own)))?;
            let identity = Identity(config.identity);
            if let Some(lost) = self.ipcache.add_own(*own, identity, id, is_host)? {
                warn!(
                    "{} had identity {lost} in the ipcache, and now has {identity}",
                    format_prefix(own)
                );
            }
        }
        Ok(())
    }

    /// Who else runs and has an address or a prefix. What is left of an endpoint that is gone owns nothing, nor does one
    /// that has moved: its device left them behind.
    fn others(&self, own: &IpNet, there: &cm_endpoint, id: EndpointId) -> Result<Vec<Endpoint>> {
        let mut others = match EndpointId::new(there.endpoint_id) {
            // Of those that share it the entry names one.
            _ if is_shared(there) => {
                let all = Found::all(self.root)?;
                for error in &all.errors {
                    warn!("who shares {}: {error:#}", format_prefix(own));
                }
                all.endpoints
            }
            Some(other) if other != id => vec![Endpoint::read(self.root, other)?],
            _ => Vec::new(),
        };
        let names_it = |other: &Endpoint| {
            other.id.get() == there.endpoint_id || other.addresses().contains(own)
        };
        others.retain(|other| other.id != id && names_it(other));
        let (gone, others): (Vec<_>, Vec<_>) =
            others.into_iter().partition(|other| other.stale || other.has_moved());
        for other in gone {
            let own = format_prefix(own);
            info!("{own} was an address of endpoint {}, which is stale or has moved", other.id);
        }
        Ok(others)
    }

    /// What the operator says of these addresses, which [`Addresses::register`] may overwrite.
    pub fn operators_lines(&self, addresses: &[IpNet]) -> Result<Vec<IpcacheLine>> {
        let lines = addresses.iter().map(|address| self.ipcache.get(address));
        let lines: Vec<Option<IpcacheLine>> = lines.collect::<Result<_>>()?;
        Ok(lines.into_iter().flatten().filter(|line| line.owner.is_none()).collect())
    }

    /// Puts the operator's lines back in place of what [`Addresses::register`] wrote.
    pub fn put_back(&self, lines: &[IpcacheLine]) -> Result<()> {
        lines.iter().try_for_each(|line| self.ipcache.put_back(line))
    }

    /// Removes an endpoint's addresses and prefixes, but those in `keep`. What another one shares is that one's then.
    pub fn forget(&self, id: EndpointId, keep: &[IpNet]) -> Result<()> {
        for own in self.endpoints.addresses_of(id)? {
            if keep.contains(&own) {
                continue;
            }
            let there = self.endpoints.get(own)?.filter(is_shared);
            let heirs = there.map_or(Ok(Vec::new()), |there| self.others(&own, &there, id))?;
            if let Some(heir) = heirs.first() {
                // In this order, so that it has somebody at each moment.
                self.ipcache.hand_on(&own, id, heir.id)?;
                self.endpoints.set(own, &entry(&heir.config, heir.id, true))?;
            } else {
                self.ipcache.remove_own(own, id)?;
                self.endpoints.remove(own)?;
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

fn entry(config: &cm_config, id: EndpointId, is_shared: bool) -> cm_endpoint {
    let delivery = if is_shared { cm_delivery::CM_DELIVERY_SHARED } else { config.delivery };
    cm_endpoint {
        netns: config.netns,
        ifindex: config.ifindex,
        endpoint_id: id.get(),
        role: config.role.0 as u8,
        delivery: delivery.0 as u8,
    }
}

/// An address has one owner and one identity in a root, whatever namespace it is in, unless those that have it share it
/// in one namespace.
fn check_shared(own: &IpNet, other: &Endpoint, config: &cm_config, is_shared: bool) -> Result<()> {
    let Endpoint { id, device, .. } = other;
    let what = if is_host(own) { "an address" } else { "a prefix" };
    let own_text = format_prefix(own);
    ensure!(
        other.config.netns == config.netns,
        "{own_text} is already {what} of endpoint {id} ({device}) in another network namespace; what has the \
         same addresses in two namespaces takes a root of its own for one of them: --bpffs DIR"
    );
    let are_workloads = [other.config.role, config.role] == [cm_role::CM_ROLE_CONTAINER; 2];
    ensure!(
        are_workloads,
        "{own_text} is already {what} of endpoint {id} ({device}); `cilmark detach id:{id}` frees it"
    );
    ensure!(
        is_shared && other.config.shared().contains(own),
        "{own_text} is already {what} of endpoint {id} ({device}); `cilmark detach id:{id}` frees it, and if both \
         are to have it, attach each with --shared-ip {own_text}"
    );
    ensure!(
        other.config.identity == config.identity,
        "{own_text} is shared with endpoint {id} ({device}), whose identity is {}, and this one's would be {}; an \
         address has one identity: give both the same, or each an address of its own",
        other.config.identity,
        config.identity
    );
    Ok(())
}
