//! What there is on this host to be published.
//!
//! All of it is read without the root's lock: a pinned configuration never changes, and is replaced in one step. While a
//! command attaches, the spec may be that of the configuration before for some milliseconds; whoever watches the
//! directory reads it again when that changes, too.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::fs;
use std::io;
use std::net::IpAddr;
use std::os::unix::fs::MetadataExt;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result};
use ipnet::IpNet;
use log::debug;

pub use crate::kernel::device::Changes;
use crate::kernel::{device, netns};
use crate::model::endpoint::{EndpointId, Role};
use crate::model::identity::Identity;
use crate::model::labels::Labels;
use crate::model::prefix::{hosts, is_host};
use crate::model::spec::EndpointSpec;
use crate::state::pin::Root;
use crate::state::registry::Endpoint;
use crate::state::spec;

/// An endpoint that runs, as others may know it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LocalEndpoint {
    /// Its number.
    pub id: EndpointId,
    /// Another one than that of any endpoint before on this host since it has booted; an `attach` in its place leaves it.
    pub birth: u64,
    /// The name of its device.
    pub device: String,
    /// What the device is.
    pub role: Role,
    /// What its packets are stamped with.
    pub identity: Identity,
    /// Its addresses, each once.
    pub hosts: Vec<IpAddr>,
    /// Its prefixes.
    pub prefixes: Vec<IpNet>,
    /// Its labels.
    pub labels: Labels,
    /// Its labels make its identity: nobody has named a number.
    pub is_by_labels: bool,
    /// Of a NIC: those that the kernel has on it now, without link-local and temporary ones.
    pub on_device: Vec<IpAddr>,
    /// The inode of the network namespace that it is in; 0 if nobody can tell.
    pub netns: u64,
    /// The number of its device there.
    pub ifindex: u32,
}

/// Endpoints as they were read last, so that only those are read again that have changed.
#[derive(Debug, Default)]
pub struct Reader {
    known: BTreeMap<EndpointId, (Stamp, Option<LocalEndpoint>)>,
    /// Devices of this network namespace.
    devices: HashSet<u32>,
    netns: u64,
    everything: bool,
}

/// What changes with the files in a directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stamp {
    /// bpffs counts them, and a directory lives as long as its endpoint.
    inode: u64,
    written: SystemTime,
}

/// The clock by which directories are stamped stands still for so long (a tick, and some to spare).
const TICK: Duration = Duration::from_millis(50);

impl Reader {
    /// Begins a look; the endpoints that there are. Those that are as they were by what this network namespace and their
    /// directories tell are not read again, unless `everything` is.
    pub fn begin(&mut self, root: &Root, everything: bool) -> Result<Vec<EndpointId>> {
        let ids = root.endpoints()?;
        self.devices = device::numbers()?;
        self.netns = netns::current()?;
        self.everything = everything;
        let there: BTreeSet<EndpointId> = ids.iter().copied().collect();
        self.known.retain(|id, _| there.contains(id));
        Ok(ids)
    }

    /// An endpoint of this look. One that can't be read just now is as it was.
    pub fn read(&mut self, root: &Root, id: EndpointId) -> Option<LocalEndpoint> {
        let stamp = stamp(root, id).ok().flatten();
        let known = self.known.get(&id);
        if let Some((before, endpoint)) = known
            && Some(*before) == stamp
            && !self.everything
            && endpoint.as_ref().is_none_or(|it| self.is_untouched(it))
        {
            return endpoint.clone();
        }
        let endpoint = read(root, id).unwrap_or_else(|error| {
            debug!("{error:#}");
            known.and_then(|(_, endpoint)| endpoint.clone())
        });
        // What is written in the same tick leaves the stamp as it is.
        let is_old = |stamp: &Stamp| stamp.written.elapsed().is_ok_and(|age| age > TICK);
        match stamp.filter(is_old) {
            Some(stamp) => _ = self.known.insert(id, (stamp, endpoint.clone())),
            None => _ = self.known.remove(&id),
        }
        endpoint
    }

    /// Whether its device is there; of a NIC the addresses may be others.
    fn is_untouched(&self, endpoint: &LocalEndpoint) -> bool {
        let is_here = endpoint.netns == self.netns;
        endpoint.role == Role::Container && (!is_here || self.devices.contains(&endpoint.ifindex))
    }
}

/// An endpoint; `None` if there is none, or nothing of it runs: its device is gone or lies in another namespace than its
/// addresses.
pub fn read(root: &Root, id: EndpointId) -> Result<Option<LocalEndpoint>> {
    let Some(Stamp { inode: birth, .. }) = stamp(root, id)? else { return Ok(None) };
    let endpoint = Endpoint::read(root, id)?;
    let Some(role) = endpoint.role().filter(|_| !endpoint.is_gone && !endpoint.has_moved()) else {
        return Ok(None);
    };
    let own = endpoint.addresses();
    let on_device = match role {
        Role::Netdev => addresses_in(endpoint.netns, endpoint.ifindex)
            .with_context(|| format!("read the addresses of {}", endpoint.device))?,
        Role::Container => Vec::new(),
    };
    let told = spec::told(root, id)?;
    let is_by_labels = told.as_ref().is_some_and(EndpointSpec::has_identity_by_labels);
    let labels = told.map(|spec| spec.labels).unwrap_or_default();
    Ok(Some(LocalEndpoint {
        id,
        birth,
        role,
        identity: Identity(endpoint.config.identity),
        hosts: hosts(&own).collect(),
        prefixes: own.into_iter().filter(|own| !is_host(own)).collect(),
        is_by_labels,
        labels,
        on_device,
        netns: endpoint.netns,
        ifindex: endpoint.ifindex,
        device: endpoint.device,
    }))
}

fn stamp(root: &Root, id: EndpointId) -> Result<Option<Stamp>> {
    let pins = root.endpoint(id);
    let look = fs::metadata(pins.path());
    match look.and_then(|it| Ok(Stamp { inode: it.ino(), written: it.modified()? })) {
        Ok(stamp) => Ok(Some(stamp)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| format!("look at {}", pins.path().display())),
    }
}

fn addresses_in(netns: u64, ifindex: u32) -> Result<Vec<IpAddr>> {
    let read = || match device::by_index(ifindex)? {
        Some(device) => device::lasting_addresses(&device),
        None => Ok(Vec::new()),
    };
    Ok(netns::within(netns, read)?.unwrap_or_default())
}

/// The addresses of this host for others: of its NICs that are attached as the host itself, each with the endpoint. Where
/// none is, those on the devices of this network namespace that have a default route.
pub fn of_nics(endpoints: &[LocalEndpoint]) -> Result<BTreeMap<IpAddr, Option<EndpointId>>> {
    let is_hosts = |it: &&LocalEndpoint| it.role == Role::Netdev && it.identity == Identity::HOST;
    let attached: BTreeMap<IpAddr, Option<EndpointId>> = endpoints
        .iter()
        .filter(is_hosts)
        .flat_map(|nic| nic.on_device.iter().map(|address| (*address, Some(nic.id))))
        .collect();
    if !attached.is_empty() {
        return Ok(attached);
    }
    let mut found = BTreeMap::new();
    for device in device::with_default_route()? {
        found.extend(device::lasting_addresses(&device)?.into_iter().map(|it| (it, None)));
    }
    Ok(found)
}

/// The addresses of this host and of its endpoints, about which no cluster is believed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct OwnAddresses {
    hosts: HashSet<IpAddr>,
    prefixes: Vec<IpNet>,
}

impl OwnAddresses {
    /// Those of endpoints, and what the kernel has on any device of this network namespace and of those of attached
    /// NICs. A namespace that nobody can look into any more has none.
    pub fn of(endpoints: &[LocalEndpoint]) -> Result<OwnAddresses> {
        let mut hosts = device::local_addresses().context("read the addresses of this host")?;
        let nics = endpoints.iter().filter(|it| it.role == Role::Netdev);
        let others: BTreeSet<u64> = nics.map(|it| it.netns).filter(|netns| *netns != 0).collect();
        for netns in others {
            hosts.extend(netns::within(netns, device::local_addresses)?.unwrap_or_default());
        }
        hosts.extend(endpoints.iter().flat_map(|endpoint| &endpoint.hosts));
        let mut prefixes: Vec<IpNet> =
            endpoints.iter().flat_map(|endpoint| endpoint.prefixes.iter().copied()).collect();
        prefixes.sort();
        prefixes.dedup();
        Ok(OwnAddresses { hosts, prefixes })
    }

    /// The same, of all endpoints of a root as far as they can be read.
    pub fn read(root: &Root) -> Result<OwnAddresses> {
        let endpoints = root.endpoints()?.into_iter().filter_map(|id| read(root, id).ok()?);
        OwnAddresses::of(&endpoints.collect::<Vec<_>>())
    }

    /// The addresses.
    pub fn hosts(&self) -> &HashSet<IpAddr> {
        &self.hosts
    }

    /// The prefixes of endpoints.
    pub fn prefixes(&self) -> &[IpNet] {
        &self.prefixes
    }

    /// Whether an address is one of them, or a prefix lies in one of an endpoint. A shorter prefix says nothing of the
    /// addresses in it that are named.
    pub fn contain(&self, prefix: &IpNet) -> bool {
        is_host(prefix) && self.hosts.contains(&prefix.addr())
            || self.prefixes.iter().any(|own| own.contains(prefix))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_around_own_addresses_is_not_own() {
        let own = OwnAddresses {
            hosts: HashSet::from(["10.0.0.1".parse().unwrap(), "fd00::1".parse().unwrap()]),
            prefixes: vec!["10.7.0.0/16".parse().unwrap()],
        };
        for (prefix, is_own) in [
            ("10.0.0.1/32", true),
            ("10.0.0.0/32", false),
            ("10.0.0.0/24", false),
            ("fd00::1/128", true),
            ("10.7.3.4/32", true),
            ("10.7.3.0/24", true),
            ("10.7.0.0/16", true),
            ("10.0.0.0/8", false),
        ] {
            assert_eq!(own.contain(&prefix.parse().unwrap()), is_own, "{prefix}");
        }
    }
}
