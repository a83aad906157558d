//! `cm_ipcache` and `cm_ipcache_cidr` as one table from prefixes to identities, with `cm_ipcache_idx`
//! beside it.

mod index;

use std::collections::HashMap;
use std::net::IpAddr;

use anyhow::{Result, bail, ensure};
use ipnet::IpNet;

pub use index::LEAST_PREFIXES;
use index::{Change, Index};

use crate::kernel::abi::{self, cm_address, cm_ipcache_entry, cm_prefix};
use crate::model::endpoint::EndpointId;
use crate::model::identity::Identity;
use crate::model::prefix::{format_prefix, is_host};
use crate::state::generations::{Generations, Remotes};
use crate::state::maps::TypedMap;
use crate::state::pin::Root;

/// What gives the maps their size.
const SIZE_FLAG: &str = "--ipcache-entries N of the first `attach` or `ipcache load`";

/// The table: hosts in the hash map, all else in the trie. Whatever changes it makes stale what was decided about the
/// addresses that it is about, also where it fails.
pub struct Ipcache {
    /// `None` where no program decides anything.
    generations: Option<Generations>,
    hosts: TypedMap<cm_address, cm_ipcache_entry>,
    prefixes: TypedMap<cm_prefix, cm_ipcache_entry>,
    index: Option<Index>,
    least_prefixes: usize,
}

/// A line of the ipcache.
#[derive(Debug, Clone)]
pub struct IpcacheLine {
    /// A /32 or /128 for a host.
    pub prefix: IpNet,
    /// Whose addresses these are.
    pub identity: Identity,
    /// Who added it: an endpoint's attach, or the operator.
    pub owner: Option<EndpointId>,
}

impl Ipcache {
    /// `None` if nobody has made the maps yet.
    pub fn open(root: &Root) -> Result<Option<Ipcache>> {
        let hosts = TypedMap::open(root, "cm_ipcache")?;
        let prefixes = TypedMap::open(root, "cm_ipcache_cidr")?;
        let index = Index::open(root)?;
        let generations = Generations::open(root)?;
        Ok(hosts.zip(prefixes).map(|(hosts, prefixes)| Ipcache {
            generations,
            hosts,
            prefixes,
            index,
            least_prefixes: LEAST_PREFIXES,
        }))
    }

    /// The same table, in which a load gives a family an index from so many prefixes on.
    pub fn indexed_from(self, least_prefixes: usize) -> Ipcache {
        Ipcache { least_prefixes, ..self }
    }

    /// Every line, sorted by prefix.
    pub fn lines(&self) -> Result<Vec<IpcacheLine>> {
        let hosts = self
            .hosts
            .entries()?
            .into_iter()
            .filter_map(|(key, entry)| Some(line(IpNet::from(key.to_ip()?), &entry)));
        let prefixes = self.prefixes.entries()?.into_iter();
        let prefixes = prefixes.filter_map(|(key, entry)| Some(line(key.to_net()?, &entry)));
        let mut lines: Vec<IpcacheLine> = hosts.chain(prefixes).collect();
        lines.sort_by_key(|line| line.prefix);
        Ok(lines)
    }

    /// The line that decides for an address: the longest prefix.
    pub fn resolve(&self, address: IpAddr) -> Result<Option<IpcacheLine>> {
        if let Some(entry) = self.hosts.get(&address.into())? {
            return Ok(Some(line(address.into(), &entry)));
        }
        let lines = self.prefixes.entries()?.into_iter();
        Ok(lines
            .filter_map(|(key, entry)| Some(line(key.to_net()?, &entry)))
            .filter(|line| line.prefix.contains(&address))
            .max_by_key(|line| line.prefix.prefix_len()))
    }

    /// The line of exactly this prefix.
    pub fn get(&self, prefix: &IpNet) -> Result<Option<IpcacheLine>> {
        let entry = if is_host(prefix) {
            self.hosts.get(&prefix.addr().into())?
        } else {
            // A trie answers with the longest match, not with the key.
            let lines = self.prefixes.entries()?.into_iter();
            lines.filter(|(key, _)| key.to_net() == Some(*prefix)).map(|(_, entry)| entry).next()
        };
        Ok(entry.map(|entry| line(*prefix, &entry)))
    }

    /// Gives a prefix an identity, in the operator's name. What an endpoint's attach added is its
    /// own; saying the same again changes nothing.
    pub fn set(&self, prefix: &IpNet, identity: Identity) -> Result<()> {
        match self.owned_by_endpoint(prefix, identity)? {
            true => Ok(()),
            false => self.write(prefix, &entry(identity, None, false)),
        }
    }

    /// The same for many, all or none. `progress` gets the number of entries of each step; its error
    /// ends the load.
    pub fn load(
        &self,
        lines: &[(IpNet, Identity)],
        mut progress: impl FnMut(usize) -> Result<()>,
    ) -> Result<()> {
        let (hosts, mut prefixes): (Vec<_>, Vec<&(IpNet, Identity)>) =
            lines.iter().partition(|(prefix, _)| is_host(prefix));
        // Neighbours in the trie one after the other, so that the way to the next one is still in the
        // CPU's cache; stable, so that of two lines for one prefix the last one counts.
        prefixes.sort_by_key(|line| line.0);
        let hosts_before = self.hosts.entries()?;
        let prefixes_before = self.prefixes.entries()?;
        let mut hosts = keyed(&hosts, |prefix| prefix.addr().into());
        let prefixes = keyed(&prefixes, |prefix| cm_prefix::from(prefix));
        self.leave_owned(&mut hosts, &hosts_before)?;
        self.hosts.check_room(&hosts, &hosts_before, SIZE_FLAG)?;
        self.prefixes.check_room(&prefixes, &prefixes_before, SIZE_FLAG)?;

        let index = self.index.as_ref().filter(|_| !prefixes.is_empty());
        index.map_or(Ok(()), Index::clear)?;
        let written = self
            .hosts
            .set_all_at_once(&hosts, &mut progress)
            .and_then(|()| self.prefixes.set_all(&prefixes, &mut progress));
        let restored = match &written {
            Ok(()) => Ok(()),
            Err(_) => self
                .hosts
                .restore(&hosts, &hosts_before)
                .and_then(|()| self.prefixes.restore(&prefixes, &prefixes_before)),
        };
        // Also what is undone has been there. Before the index is, which takes a second for a million prefixes.
        let is_named = prefixes.is_empty();
        self.bump(&if is_named {
            Remotes::of(hosts.iter().map(|(address, _)| *address))
        } else {
            Remotes::all()
        });
        restored?;
        if let Some(index) = index {
            let new = if written.is_ok() { prefixes.as_slice() } else { &[] };
            index.fill(prefixes_before.iter().chain(new), self.least_prefixes);
        }
        written
    }

    /// Forgets a prefix, and tells whether it was there. What an endpoint's attach added goes with the
    /// endpoint.
    pub fn delete(&self, prefix: &IpNet) -> Result<bool> {
        if !is_host(prefix) {
            let key = cm_prefix::from(prefix);
            let around = self.around(prefix)?;
            return self.change_prefix(prefix, Change::Gone(around), || self.prefixes.delete(&key));
        }
        if let Some(IpcacheLine { owner: Some(owner), .. }) = self.get(prefix)? {
            let prefix = format_prefix(prefix);
            bail!("{prefix} belongs to endpoint {owner}, and goes when that is detached");
        }
        self.delete_host(prefix.addr())
    }

    /// Forgets all lines but those of endpoints, and tells how many.
    pub fn flush(&self) -> Result<usize> {
        let mut hosts = self.hosts.entries()?;
        hosts.retain(|(_, entry)| entry.endpoint_id == 0);
        let mut count = 0;
        let deleted: Result<()> = hosts.iter().try_for_each(|(key, _)| {
            count += usize::from(self.hosts.delete(key)?);
            Ok(())
        });
        self.bump(&Remotes::of(hosts.iter().map(|(address, _)| *address)));
        deleted?;
        if self.prefixes.is_empty() {
            return Ok(count);
        }
        self.index.as_ref().map_or(Ok(()), Index::clear)?;
        let deleted = self.prefixes.delete_all(|_, _| true);
        self.bump(&Remotes::all());
        Ok(count + deleted?)
    }

    /// Whether nothing is in it.
    pub fn is_empty(&self) -> bool {
        self.hosts.is_empty() && self.prefixes.is_empty()
    }

    /// Adds an endpoint's own address; the identity that an operator's line gave it until now, if
    /// that was another one. A line that says the same stays the operator's.
    pub fn add_own(
        &self,
        address: IpAddr,
        identity: Identity,
        owner: EndpointId,
        is_host: bool,
    ) -> Result<Option<Identity>> {
        let own = entry(identity, Some(owner), is_host);
        let operators = self.hosts.get(&address.into())?.filter(|entry| entry.endpoint_id == 0);
        let (entry, lost) = match operators {
            Some(there) if there.identity == identity.0 => {
                (cm_ipcache_entry { endpoint_id: 0, ..own }, None)
            }
            Some(there) => (own, Some(Identity(there.identity))),
            None => (own, None),
        };
        self.set_host(address, &entry)?;
        Ok(lost)
    }

    /// Removes an address if it is this endpoint's own.
    pub fn remove_own(&self, address: IpAddr, owner: EndpointId) -> Result<()> {
        if let Some(entry) = self.hosts.get(&address.into())?
            && entry.endpoint_id == owner.get()
        {
            self.delete_host(address)?;
        }
        Ok(())
    }

    /// Makes a line what it was, whoever owns it now.
    pub fn put_back(&self, line: &IpcacheLine) -> Result<()> {
        self.write(&line.prefix, &entry(line.identity, line.owner, false))
    }

    fn write(&self, prefix: &IpNet, entry: &cm_ipcache_entry) -> Result<()> {
        if is_host(prefix) {
            self.set_host(prefix.addr(), entry)
        } else {
            let key = cm_prefix::from(prefix);
            let change = Change::Set(entry.identity);
            self.change_prefix(prefix, change, || self.prefixes.set(&key, entry))
        }
    }

    fn set_host(&self, address: IpAddr, entry: &cm_ipcache_entry) -> Result<()> {
        let set = self.hosts.set(&address.into(), entry);
        self.bump(&Remotes::one(address));
        set
    }

    /// Whether there was anything to delete.
    fn delete_host(&self, address: IpAddr) -> Result<bool> {
        let deleted = self.hosts.delete(&address.into());
        self.bump(&Remotes::one(address));
        deleted
    }

    fn bump(&self, remotes: &Remotes) {
        if let Some(generations) = &self.generations {
            generations.bump_remotes(remotes);
        }
    }

    /// Where this fails half way, the index has the trie asked. At no time does it say what that has neither before nor
    /// after.
    fn change_prefix<T>(
        &self,
        prefix: &IpNet,
        change: Change,
        in_trie: impl FnOnce() -> Result<T>,
    ) -> Result<T> {
        let edit = self.index.as_ref().map(|index| index.begin(prefix, change)).transpose()?;
        let changed = in_trie();
        self.bump(&Remotes::all());
        if let (Some(edit), Ok(_)) = (edit, &changed) {
            edit.finish();
        }
        changed
    }

    /// The identity of the longest prefix around this one.
    fn around(&self, prefix: &IpNet) -> Result<Option<u32>> {
        if prefix.prefix_len() == 0 {
            return Ok(None);
        }
        let mut key = cm_prefix::from(prefix);
        // A trie answers with the longest match of as many bits.
        key.prefixlen -= 1;
        Ok(self.prefixes.get(&key)?.map(|entry| entry.identity))
    }

    fn owned_by_endpoint(&self, prefix: &IpNet, identity: Identity) -> Result<bool> {
        if !is_host(prefix) {
            return Ok(false);
        }
        match self.hosts.get(&prefix.addr().into())? {
            Some(entry) if entry.endpoint_id != 0 => {
                check_same_identity(prefix.addr(), &entry, identity.0).map(|()| true)
            }
            _ => Ok(false),
        }
    }

    fn leave_owned(
        &self,
        hosts: &mut Vec<(cm_address, cm_ipcache_entry)>,
        before: &[(cm_address, cm_ipcache_entry)],
    ) -> Result<()> {
        let owned: HashMap<&[u8], cm_ipcache_entry> = before
            .iter()
            .filter(|(_, entry)| entry.endpoint_id != 0)
            .map(|(key, entry)| (abi::bytes_of(key), *entry))
            .collect();
        for (key, entry) in hosts.iter() {
            if let (Some(own), Some(address)) = (owned.get(abi::bytes_of(key)), key.to_ip()) {
                check_same_identity(address, own, entry.identity)?;
            }
        }
        hosts.retain(|(key, _)| !owned.contains_key(abi::bytes_of(key)));
        Ok(())
    }
}

fn line(prefix: IpNet, entry: &cm_ipcache_entry) -> IpcacheLine {
    IpcacheLine {
        prefix,
        identity: Identity(entry.identity),
        owner: EndpointId::new(entry.endpoint_id),
    }
}

fn entry(identity: Identity, owner: Option<EndpointId>, is_host: bool) -> cm_ipcache_entry {
    cm_ipcache_entry {
        identity: identity.0,
        endpoint_id: owner.map_or(0, EndpointId::get),
        is_host: is_host.into(),
        pad: 0,
    }
}

fn keyed<K>(lines: &[&(IpNet, Identity)], key: impl Fn(&IpNet) -> K) -> Vec<(K, cm_ipcache_entry)> {
    lines.iter().map(|(prefix, identity)| (key(prefix), entry(*identity, None, false))).collect()
}

fn check_same_identity(address: IpAddr, own: &cm_ipcache_entry, identity: u32) -> Result<()> {
    ensure!(
        own.identity == identity,
        "{address} is an address of endpoint {} with identity {}; attach that again with another \
         --id instead",
        own.endpoint_id,
        own.identity
    );
    Ok(())
}
