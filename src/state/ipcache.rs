//! `cm_ipcache` and `cm_ipcache_cidr` as one table from prefixes to identities, with `cm_ipcache_idx`
//! beside it.

mod cluster;
mod index;

use std::cmp::Reverse;
use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;

use anyhow::{Context, Result, bail, ensure};
use ipnet::IpNet;
use plain::Plain;

pub use cluster::{Applied, ClusterChange};
pub use index::LEAST_PREFIXES;
use index::{Change, Index, Said};

use crate::kernel::abi::{self, cm_address, cm_ipcache_entry, cm_prefix};
use crate::model::endpoint::EndpointId;
use crate::model::identity::Identity;
use crate::model::origin::Origin;
use crate::model::prefix::{format_prefix, is_host};
use crate::state::generations::Remotes;
use crate::state::maps::TypedMap;
use crate::state::pin::Root;
use crate::state::verdict_map::VerdictMap;

/// What gives the maps their size.
const SIZE_FLAG: &str = "--ipcache-entries N of the first `attach` or `ipcache load`";

/// The table: hosts in the hash map, all else in the trie. Whatever changes it makes stale what was decided about the
/// addresses that it is about, also where it fails.
pub struct Ipcache {
    hosts: VerdictMap<cm_address, cm_ipcache_entry>,
    prefixes: VerdictMap<cm_prefix, cm_ipcache_entry>,
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
    /// The endpoint whose attach added it.
    pub owner: Option<EndpointId>,
    /// Who else has made it.
    pub origin: Origin,
}

/// What the ipcache is to say, and no longer to say.
#[derive(Debug, Default)]
pub struct Rewrite {
    /// These prefixes have these identities, as somebody's.
    pub set: Vec<(IpNet, Identity, Origin)>,
    /// These prefixes have none.
    pub gone: Vec<IpNet>,
}

/// As many changes of prefixes are made one by one beside an index. More take longer than a new index.
const FEW_PREFIXES: usize = 32;

impl Ipcache {
    /// `None` if nobody has made the maps yet.
    pub fn open(root: &Root) -> Result<Option<Ipcache>> {
        let hosts = VerdictMap::open(root, "cm_ipcache")?;
        let prefixes = VerdictMap::open(root, "cm_ipcache_cidr")?;
        let index = Index::open(root)?;
        Ok(hosts.zip(prefixes).map(|(hosts, prefixes)| Ipcache {
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

    /// The identities of all lines.
    pub fn identities(&self) -> Result<BTreeSet<Identity>> {
        let hosts = self.hosts.entries()?.into_iter().map(|(_, entry)| entry);
        let prefixes = self.prefixes.entries()?.into_iter().map(|(_, entry)| entry);
        Ok(hosts.chain(prefixes).map(|entry| Identity(entry.identity)).collect())
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
            self.prefixes.get_exactly(&prefix.into())?
        };
        Ok(entry.map(|entry| line(*prefix, &entry)))
    }

    /// Which identity an address has, and who has added the line.
    pub fn known(&self, address: IpAddr) -> Result<Option<(Identity, Option<EndpointId>)>> {
        let own = self.hosts.get(&address.into())?;
        let entry = own.map_or_else(|| self.prefix_of(address), |entry| Ok(Some(entry)))?;
        Ok(entry.map(|it| (Identity(it.identity), EndpointId::new(it.endpoint_id))))
    }

    /// Gives a prefix an identity, in the operator's name. What an endpoint's attach added is its
    /// own; saying the same again changes nothing.
    pub fn set(&self, prefix: &IpNet, identity: Identity) -> Result<()> {
        match self.owned_by_endpoint(prefix, identity)? {
            true => Ok(()),
            false => self.write_in_any_case(prefix, &entry(identity, None, Origin::Command)),
        }
    }

    /// The same for many, all or none. Meanwhile each address has what it had before or has afterwards. `progress` gets
    /// the number of entries of each step; its error ends the load.
    pub fn load(
        &self,
        lines: &[(IpNet, Identity)],
        progress: impl FnMut(usize) -> Result<()>,
    ) -> Result<()> {
        let of_command =
            |(prefix, identity): &(IpNet, Identity)| (*prefix, *identity, Origin::Command);
        let set = lines.iter().map(of_command).collect();
        self.change(&Rewrite { set, gone: Vec::new() }, 0, progress)
    }

    /// The same, and forgets others. What an endpoint's attach added stays.
    pub fn rewrite(
        &self,
        rewrite: &Rewrite,
        progress: impl FnMut(usize) -> Result<()>,
    ) -> Result<()> {
        self.change(rewrite, FEW_PREFIXES, progress)
    }

    /// With more than `few` prefixes the index is made anew.
    fn change(
        &self,
        rewrite: &Rewrite,
        few: usize,
        mut progress: impl FnMut(usize) -> Result<()>,
    ) -> Result<()> {
        let (hosts_gone, mut gone): (Vec<&IpNet>, Vec<&IpNet>) =
            rewrite.gone.iter().partition(|prefix| is_host(prefix));
        // What is around it last says what an address has afterwards: so that goes first.
        gone.sort_by_key(|prefix| prefix.prefix_len());
        let (hosts, mut prefixes): (Vec<_>, Vec<&(IpNet, Identity, Origin)>) =
            rewrite.set.iter().partition(|(prefix, ..)| is_host(prefix));
        prefixes.sort_by_cached_key(|line| inner_first(&line.0));
        // Of two lines for one prefix the last one counts.
        prefixes.reverse();
        prefixes.dedup_by_key(|line| line.0);
        prefixes.reverse();
        let hosts_before = self.hosts.entries()?;
        let prefixes_before = self.prefixes.entries()?;
        let mut hosts = keyed(&hosts, |prefix| prefix.addr().into());
        let mut prefixes = keyed(&prefixes, |prefix| cm_prefix::from(prefix));
        leave_owned(&mut hosts, &hosts_before, |key| key.to_ip().map(IpNet::from))?;
        leave_owned(&mut prefixes, &prefixes_before, |key| key.to_net())?;
        let known = by_key(&prefixes_before);
        let is_owned = |prefix: &&IpNet| {
            let before = known.get(abi::bytes_of(&cm_prefix::from(*prefix)));
            before.is_some_and(|entry| entry.endpoint_id != 0)
        };
        gone.retain(|prefix| !is_owned(prefix));
        let named = prefixes.len() + gone.len();
        leave_same(&mut hosts, &hosts_before);
        leave_same(&mut prefixes, &prefixes_before);
        self.hosts.check_room(&hosts, &hosts_before, SIZE_FLAG)?;
        self.prefixes.check_room(&prefixes, &prefixes_before, SIZE_FLAG)?;
        match rewrite.set.len() - hosts.len() - prefixes.len() {
            0 => {}
            left_out => progress(left_out)?,
        }
        self.hosts.settle();

        let index = self.index.as_ref().filter(|_| named > few);
        index.map_or(Ok(()), Index::clear)?;
        let changes_answers = |(key, new): &(cm_prefix, cm_ipcache_entry)| {
            !known.get(abi::bytes_of(key)).is_some_and(|before| answer_the_same(before, new))
        };
        let all = match gone.is_empty() && !prefixes.iter().any(changes_answers) {
            true => Remotes::none(),
            false => Remotes::all(),
        };
        let written = self.set_hosts(&hosts, &hosts_before, &mut progress).and_then(|()| {
            if index.is_none() && self.index.is_some() {
                for (key, entry) in &prefixes {
                    self.write(&key.to_net().context("a prefix")?, entry)?;
                }
                gone.iter().try_for_each(|prefix| self.delete(prefix).map(|_| ()))?;
            } else if prefixes.len() + gone.len() > 0 {
                self.prefixes.change(&all, |map| {
                    map.set_all(&prefixes, &mut progress)?;
                    gone.iter()
                        .try_for_each(|prefix| map.delete(&cm_prefix::from(*prefix)).map(|_| ()))
                })?;
            }
            hosts_gone.iter().try_for_each(|prefix| self.delete(prefix).map(|_| ()))
        });
        if written.is_err() {
            self.restore(rewrite, &hosts_before, &prefixes_before)?;
        }
        if let Some(index) = index.or(self.index.as_ref().filter(|_| written.is_err())) {
            let now = self.prefixes.entries()?;
            index.fill(now.iter(), self.least_prefixes);
        }
        written
    }

    fn set_hosts(
        &self,
        hosts: &[(cm_address, cm_ipcache_entry)],
        before: &[(cm_address, cm_ipcache_entry)],
        progress: impl FnMut(usize) -> Result<()>,
    ) -> Result<()> {
        let before = by_key(before);
        let concerns = |(key, new): &&(cm_address, cm_ipcache_entry)| {
            !before.get(abi::bytes_of(key)).is_some_and(|before| answer_the_same(before, new))
        };
        let named = Remotes::of(hosts.iter().filter(concerns).map(|(address, _)| *address));
        match hosts.is_empty() {
            true => Ok(()),
            false => self.hosts.change(&named, |map| map.set_all_at_once(hosts, progress)),
        }
    }

    /// Makes it what it was before a rewrite that failed. Also what is undone has been there.
    fn restore(
        &self,
        rewrite: &Rewrite,
        hosts_before: &[(cm_address, cm_ipcache_entry)],
        prefixes_before: &[(cm_prefix, cm_ipcache_entry)],
    ) -> Result<()> {
        let touched = rewrite.set.iter().map(|(prefix, ..)| prefix).chain(&rewrite.gone);
        let (hosts, mut prefixes): (Vec<&IpNet>, Vec<&IpNet>) =
            touched.partition(|prefix| is_host(prefix));
        prefixes.sort_by_cached_key(|prefix| inner_first(prefix));
        let nothing = cm_ipcache_entry::default();
        let hosts: Vec<_> = hosts.into_iter().map(|host| (host.addr().into(), nothing)).collect();
        let prefixes: Vec<_> =
            prefixes.into_iter().map(|prefix| (cm_prefix::from(prefix), nothing)).collect();
        if !prefixes.is_empty() {
            // What one change beside the index has left undone is asked of the trie.
            self.index.as_ref().map_or(Ok(()), Index::clear)?;
            self.prefixes.change(&Remotes::all(), |map| map.restore(&prefixes, prefixes_before))?;
        }
        let named = Remotes::of(hosts.iter().map(|(address, _)| *address));
        self.hosts.change(&named, |map| map.restore(&hosts, hosts_before))
    }

    /// Forgets a prefix, and tells whether it was there. What an endpoint's attach added goes with the
    /// endpoint.
    pub fn delete(&self, prefix: &IpNet) -> Result<bool> {
        if let Some((owner, _)) = self.owner(prefix)? {
            let prefix = format_prefix(prefix);
            bail!("{prefix} belongs to endpoint {owner}, and goes when that is detached");
        }
        self.erase(prefix)
    }

    /// Whether there was anything to delete.
    fn erase(&self, prefix: &IpNet) -> Result<bool> {
        if is_host(prefix) {
            return self.delete_host(prefix.addr());
        }
        let around = self.around(prefix)?;
        let change = Change::Gone(around.as_ref().map_or(Said::Nobody, said));
        self.change_prefix(prefix, around, change, |map, key| map.delete(key))
    }

    /// Forgets all lines but those of endpoints, and tells how many. Meanwhile each address has what it had before, or
    /// nothing.
    pub fn flush(&self) -> Result<usize> {
        let mut count = 0;
        if !self.prefixes.is_empty() {
            self.index.as_ref().map_or(Ok(()), Index::clear)?;
            let mut prefixes = self.prefixes.entries()?;
            prefixes.retain(|(_, entry)| entry.endpoint_id == 0);
            prefixes.sort_by_key(|(key, _)| key.prefixlen);
            count += self.prefixes.change(&Remotes::all(), |map| {
                prefixes.iter().try_fold(0, |sum, (key, _)| {
                    Ok::<_, anyhow::Error>(sum + usize::from(map.delete(key)?))
                })
            })?;
        }
        let mut hosts = self.hosts.entries()?;
        hosts.retain(|(_, entry)| entry.endpoint_id == 0);
        let named = Remotes::of(hosts.iter().map(|(address, _)| *address));
        let is_operators = |_: &cm_address, entry: &cm_ipcache_entry| entry.endpoint_id == 0;
        Ok(count + self.hosts.change(&named, |map| map.delete_all(is_operators))?)
    }

    /// Whether nothing is in it.
    pub fn is_empty(&self) -> bool {
        self.hosts.is_empty() && self.prefixes.is_empty()
    }

    /// Adds an endpoint's own address or prefix; the identity that another line gave it until now, if that was another
    /// one. A line that says the same stays whose it is, but for a cluster's, which goes when the cluster says so.
    pub fn add_own(
        &self,
        prefix: impl Into<IpNet>,
        identity: Identity,
        owner: EndpointId,
        is_host: bool,
    ) -> Result<Option<Identity>> {
        let prefix = &prefix.into();
        let own = cm_ipcache_entry {
            is_host: is_host.into(),
            ..entry(identity, Some(owner), Origin::default())
        };
        let (entry, lost) = match self.get(prefix)?.filter(|line| line.owner.is_none()) {
            Some(there) if there.origin == Origin::Cluster => {
                (own, Some(there.identity).filter(|lost| *lost != identity))
            }
            Some(there) if there.identity == identity => {
                let origin = entry(identity, None, there.origin).origin;
                (cm_ipcache_entry { endpoint_id: 0, origin, ..own }, None)
            }
            Some(there) => (own, Some(there.identity)),
            None => (own, None),
        };
        self.write_in_any_case(prefix, &entry)?;
        Ok(lost)
    }

    /// Removes an address or a prefix if it is this endpoint's own.
    pub fn remove_own(&self, prefix: impl Into<IpNet>, owner: EndpointId) -> Result<()> {
        let prefix = &prefix.into();
        match self.owner(prefix)? {
            Some((there, _)) if there == owner => self.erase(prefix).map(|_| ()),
            _ => Ok(()),
        }
    }

    /// Makes the line of an endpoint that of another one with the same address or prefix, if it is its own.
    pub fn hand_on(&self, prefix: &IpNet, owner: EndpointId, heir: EndpointId) -> Result<()> {
        match self.get(prefix)? {
            Some(line) if line.owner == Some(owner) => {
                self.write(prefix, &entry(line.identity, Some(heir), line.origin))
            }
            _ => Ok(()),
        }
    }

    /// Makes a line what it was, whoever owns it now.
    pub fn put_back(&self, line: &IpcacheLine) -> Result<()> {
        let entry = entry(line.identity, line.owner, line.origin);
        self.write_in_any_case(&line.prefix, &entry)
    }

    /// In a full ipcache a cluster's line makes room: what others say must not keep this host's workloads from being born.
    fn write_in_any_case(&self, prefix: &IpNet, entry: &cm_ipcache_entry) -> Result<()> {
        let written = self.write(prefix, entry);
        match written {
            Err(_) if self.drop_a_clusters(is_host(prefix))? => self.write(prefix, entry),
            written => written,
        }
    }

    fn write(&self, prefix: &IpNet, entry: &cm_ipcache_entry) -> Result<()> {
        if is_host(prefix) {
            self.set_host(prefix.addr(), entry)
        } else {
            let change = Change::Set(said(entry));
            self.change_prefix(prefix, Some(*entry), change, |map, key| map.set(key, entry))
        }
    }

    fn set_host(&self, address: IpAddr, entry: &cm_ipcache_entry) -> Result<()> {
        let key = address.into();
        let there = self.hosts.get(&key)?;
        if there.is_some_and(|there| are_same(Some(there), Some(*entry))) {
            self.hosts.settle();
            return Ok(());
        }
        let before = there.map_or_else(|| self.prefix_of(address), |there| Ok(Some(there)))?;
        let concerned = concerned(before, Some(*entry), || Remotes::one(address));
        self.hosts.change(&concerned, |map| map.set(&key, entry))
    }

    /// Whether there was anything to delete.
    fn delete_host(&self, address: IpAddr) -> Result<bool> {
        let key = address.into();
        let Some(before) = self.hosts.get(&key)? else {
            self.hosts.settle();
            return Ok(false);
        };
        let after = self.prefix_of(address)?;
        let concerned = concerned(Some(before), after, || Remotes::one(address));
        self.hosts.change(&concerned, |map| map.delete(&key))
    }

    /// Makes the addresses of a prefix that no longer one has what they are `after` that. Where this fails half way, the
    /// index has the trie asked. At no time does it say what that has neither before nor after.
    fn change_prefix<T>(
        &self,
        prefix: &IpNet,
        after: Option<cm_ipcache_entry>,
        change: Change,
        in_trie: impl FnOnce(&TypedMap<cm_prefix, cm_ipcache_entry>, &cm_prefix) -> Result<T>,
    ) -> Result<T> {
        let key = cm_prefix::from(prefix);
        let before = self.prefixes.get(&key)?;
        let edit = self.index.as_ref().map(|index| index.begin(prefix, change)).transpose()?;
        let concerned = concerned(before, after, Remotes::all);
        let changed = self.prefixes.change(&concerned, |map| in_trie(map, &key));
        if let (Some(edit), Ok(_)) = (edit, &changed) {
            edit.finish();
        }
        changed
    }

    /// What the longest prefix around this one says.
    fn around(&self, prefix: &IpNet) -> Result<Option<cm_ipcache_entry>> {
        if prefix.prefix_len() == 0 {
            return Ok(None);
        }
        let mut key = cm_prefix::from(prefix);
        // A trie answers with the longest match of as many bits.
        key.prefixlen -= 1;
        self.prefixes.get(&key)
    }

    /// What the longest prefix of an address says.
    fn prefix_of(&self, address: IpAddr) -> Result<Option<cm_ipcache_entry>> {
        self.prefixes.get(&cm_prefix::from(&IpNet::from(address)))
    }

    fn owned_by_endpoint(&self, prefix: &IpNet, identity: Identity) -> Result<bool> {
        match self.owner(prefix)? {
            Some((owner, there)) => {
                check_same_identity(prefix, owner, there, identity).map(|()| true)
            }
            None => Ok(false),
        }
    }

    /// The endpoint whose line this is, and the identity there.
    fn owner(&self, prefix: &IpNet) -> Result<Option<(EndpointId, Identity)>> {
        // Of most the longest prefix tells that they are nobody's, which spares looking at all.
        let longest = match is_host(prefix) {
            true => self.hosts.get(&prefix.addr().into())?,
            false => self.prefixes.get(&prefix.into())?,
        };
        if longest.is_none_or(|entry| entry.endpoint_id == 0) {
            return Ok(None);
        }
        let line = self.get(prefix)?;
        Ok(line.and_then(|line| Some((line.owner?, line.identity))))
    }
}

/// Leaves out what endpoints own and has the same identity; of any other that is an error.
fn leave_owned<K: Plain>(
    lines: &mut Vec<(K, cm_ipcache_entry)>,
    before: &[(K, cm_ipcache_entry)],
    prefix: impl Fn(&K) -> Option<IpNet>,
) -> Result<()> {
    let owned: HashMap<&[u8], cm_ipcache_entry> = before
        .iter()
        .filter(|(_, entry)| entry.endpoint_id != 0)
        .map(|(key, entry)| (abi::bytes_of(key), *entry))
        .collect();
    for (key, entry) in lines.iter() {
        if let Some(own) = owned.get(abi::bytes_of(key))
            && let Some((prefix, owner)) = prefix(key).zip(EndpointId::new(own.endpoint_id))
        {
            let [there, identity] = [own, entry].map(|entry| Identity(entry.identity));
            check_same_identity(&prefix, owner, there, identity)?;
        }
    }
    lines.retain(|(key, _)| !owned.contains_key(abi::bytes_of(key)));
    Ok(())
}

/// An order in which a prefix comes behind all that are in it: while they are written in this order, no address gets what
/// one prefix says before it gets what a longer one says. Neighbours in the trie come one after the other, so that the way
/// to the next one is still in the CPU's cache.
fn inner_first(prefix: &IpNet) -> (bool, u128, Reverse<u8>) {
    let last = match prefix.broadcast() {
        IpAddr::V4(v4) => v4.to_bits().into(),
        IpAddr::V6(v6) => v6.to_bits(),
    };
    (prefix.addr().is_ipv6(), last, Reverse(prefix.prefix_len()))
}

/// Whom a change concerns: nobody, if what is known is the same as before.
fn concerned(
    before: Option<cm_ipcache_entry>,
    after: Option<cm_ipcache_entry>,
    remotes: impl FnOnce() -> Remotes,
) -> Remotes {
    let answers_the_same = match (before, after) {
        (Some(before), Some(after)) => answer_the_same(&before, &after),
        (before, after) => before.is_none() && after.is_none(),
    };
    if answers_the_same { Remotes::none() } else { remotes() }
}

/// Whether packets meet the same, whoever has made it.
fn answer_the_same(one: &cm_ipcache_entry, other: &cm_ipcache_entry) -> bool {
    let [one, other] = [one, other].map(|entry| cm_ipcache_entry { origin: 0, ..*entry });
    abi::bytes_of(&one) == abi::bytes_of(&other)
}

/// Leaves out what is there already, and is made by the same or says what a command would only repeat. What a cluster has
/// made goes when the cluster says so: a command makes it its own.
fn leave_same<K: Plain>(new: &mut Vec<(K, cm_ipcache_entry)>, before: &[(K, cm_ipcache_entry)]) {
    let before = by_key(before);
    new.retain(|(key, new)| {
        let there = before.get(abi::bytes_of(key));
        !there.is_some_and(|there| {
            let [is_command, is_cluster] = [(new, Origin::Command), (there, Origin::Cluster)]
                .map(|(entry, origin)| entry.origin == origin.number());
            let stays = there.origin == new.origin || (is_command && !is_cluster);
            answer_the_same(there, new) && stays
        })
    });
}

fn by_key<K: Plain>(entries: &[(K, cm_ipcache_entry)]) -> HashMap<&[u8], cm_ipcache_entry> {
    entries.iter().map(|(key, entry)| (abi::bytes_of(key), *entry)).collect()
}

fn are_same(one: Option<cm_ipcache_entry>, other: Option<cm_ipcache_entry>) -> bool {
    one.as_ref().map(abi::bytes_of) == other.as_ref().map(abi::bytes_of)
}

fn line(prefix: IpNet, entry: &cm_ipcache_entry) -> IpcacheLine {
    IpcacheLine {
        prefix,
        identity: Identity(entry.identity),
        owner: EndpointId::new(entry.endpoint_id),
        origin: Origin::of_number(entry.origin),
    }
}

fn entry(identity: Identity, owner: Option<EndpointId>, origin: Origin) -> cm_ipcache_entry {
    cm_ipcache_entry {
        identity: identity.0,
        endpoint_id: owner.map_or(0, EndpointId::get),
        is_host: 0,
        origin: origin.number(),
    }
}

fn keyed<K>(
    lines: &[&(IpNet, Identity, Origin)],
    key: impl Fn(&IpNet) -> K,
) -> Vec<(K, cm_ipcache_entry)> {
    let entry = |(prefix, identity, origin): &&(IpNet, Identity, Origin)| {
        (key(prefix), entry(*identity, None, *origin))
    };
    lines.iter().map(entry).collect()
}

/// What the index says of it. It knows no owner, so that what an endpoint has is asked in the trie.
fn said(entry: &cm_ipcache_entry) -> Said {
    match entry.endpoint_id {
        0 => Said::Identity(entry.identity),
        _ => Said::AskTrie,
    }
}

fn check_same_identity(
    prefix: &IpNet,
    owner: EndpointId,
    there: Identity,
    identity: Identity,
) -> Result<()> {
    ensure!(
        there == identity,
        "{} is {} of endpoint {owner} with identity {there}; attach that again with another --id instead",
        format_prefix(prefix),
        if is_host(prefix) { "an address" } else { "a prefix" }
    );
    Ok(())
}
