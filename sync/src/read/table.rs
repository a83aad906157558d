//! Who says which address is whose, and what the ipcache is to say therefore. Without I/O, and without a clock: who calls
//! tells how long the process runs.
//!
//! A cluster is known by its number, and what it says of a prefix is a claim. Nearly every prefix has one claim, which lies
//! in a map of its family; what others say of the same lies in `more`. A million addresses of IPv4 take 36 MB, and half as
//! much again while the map grows.

mod claim;
mod family;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::mem;
use std::time::Duration;

use cilmark::model::identity::Identity;
use cilmark::ops::cluster::lines::ClusterChange;
use ipnet::IpNet;

use self::claim::{Claim, State};
use self::family::Families;
use crate::cilium::range::{FIRST_OF_CLUSTERS, Range};
use crate::config::Sweep;

/// A cluster's number: from 1 on.
pub type Number = u16;

/// Of a line that was found in the ipcache, of which nobody knows whose it is.
const UNKNOWN: Number = 0;

/// What is missing in a complete list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Missing {
    /// Was deleted: the list is of the same store as what was known, at no lower revision.
    IsGone,
    /// May be written again: the list is of another store.
    IsStale,
}

/// How a line ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum How {
    /// Somebody has deleted it.
    OnPurpose,
    /// Its publisher has not been heard of for as long as its lease.
    CutOff,
}

/// What a cluster has.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// All of its lines.
    pub lines: usize,
    /// Those whose publishers were cut off.
    pub stale: usize,
    /// Those that would have gone, but for the guard.
    pub held: usize,
    /// Those that another cluster says, too, which wins.
    pub shadowed: usize,
}

/// The table.
pub struct Table {
    own: Number,
    max_clusters: u16,
    stale: Duration,
    sweep: Sweep,
    families: Families,
    /// Claims that lose, of prefixes that have several.
    more: HashMap<IpNet, Vec<Claim>>,
    clusters: BTreeMap<Number, Cluster>,
    /// What becomes stale for good, by the second. Some of it has come back since.
    due: BTreeMap<u32, BTreeSet<(Number, IpNet)>>,
}

/// What is known of a cluster.
#[derive(Default)]
struct Cluster {
    /// Of the list that has begun last.
    mark: u32,
    counts: [usize; State::COUNT],
    /// What was deleted since the last flush. Some of it has come back since.
    going: Vec<IpNet>,
    /// The same of what the guard holds.
    held: BTreeSet<IpNet>,
}

impl Cluster {
    fn count(&self, state: State) -> usize {
        self.counts[state as usize]
    }

    fn lines(&self) -> usize {
        self.counts.iter().sum()
    }

    /// Whether so many may not go at once.
    fn guards(&self, sweep: Sweep, going: usize) -> bool {
        going > sweep.lines && going * 100 > self.lines() * usize::from(sweep.share)
    }
}

impl Table {
    /// Of a host in the cluster with this number. What is stale stays so long.
    pub fn new(own: Number, max_clusters: u16, stale: Duration, sweep: Sweep) -> Table {
        Table {
            own,
            max_clusters,
            stale,
            sweep,
            families: Families::default(),
            more: HashMap::new(),
            clusters: BTreeMap::new(),
            due: BTreeMap::new(),
        }
    }

    /// A line that was in the ipcache at the start: of the cluster that has its identity, or of any if all may have it.
    pub fn adopt(&mut self, prefix: IpNet, identity: Identity) {
        let cluster = self.cluster_of(identity);
        if self.families.get(&prefix).is_none() {
            self.families.insert(&prefix, Claim::adopted(cluster, identity));
            self.cluster(cluster).counts[State::Live as usize] += 1;
        }
    }

    /// Whose identity it is; 0 if all may have it.
    pub fn cluster_of(&self, identity: Identity) -> Number {
        let numbers = 1..=self.max_clusters;
        match identity.0 {
            reserved if reserved < FIRST_OF_CLUSTERS => UNKNOWN,
            number => {
                let bits = Range::of(1, self.max_clusters).first.trailing_zeros();
                let cluster = Number::try_from(number >> bits).unwrap_or(UNKNOWN);
                if numbers.contains(&cluster) { cluster } else { UNKNOWN }
            }
        }
    }

    /// A complete list begins: [`Table::upsert`] tells what is in it.
    pub fn begin(&mut self, cluster: Number) {
        self.cluster(cluster).mark += 1;
    }

    /// A complete list ends.
    pub fn end(&mut self, cluster: Number, missing: Missing, now: Duration) {
        let (sweep, mark) = (self.sweep, self.cluster(cluster).mark);
        let is_missing = |claim: &Claim| claim.cluster == cluster && claim.is_unseen(mark);
        let lines = self.find(is_missing);
        let state = match missing {
            Missing::IsStale => State::Stale,
            Missing::IsGone if self.cluster(cluster).guards(sweep, lines.len()) => State::Held,
            Missing::IsGone => State::Nobody,
        };
        lines.iter().for_each(|prefix| self.become_(cluster, prefix, state, now));
    }

    /// All clusters that are read have listed what they have: what nobody has claimed of what was found in the ipcache, and
    /// no one of these could, is as missing as in a list.
    pub fn end_adopted(&mut self, read: &BTreeSet<Number>, missing: Missing, now: Duration) {
        let others: Vec<Number> =
            self.clusters.keys().copied().filter(|cluster| !read.contains(cluster)).collect();
        let state = match missing {
            Missing::IsGone => State::Nobody,
            Missing::IsStale => State::Stale,
        };
        for cluster in others {
            let lines = self.find(|claim| claim.cluster == cluster && claim.is_unseen(u32::MAX));
            lines.iter().for_each(|prefix| self.become_(cluster, prefix, state, now));
        }
    }

    /// A cluster says that a prefix has this identity: in a list, or from now on.
    pub fn upsert(&mut self, cluster: Number, prefix: IpNet, identity: Identity) {
        let new = Claim::live(cluster, identity, self.cluster(cluster).mark);
        if self.families.put_new(&prefix, new) {
            self.cluster(cluster).counts[State::Live as usize] += 1;
            return;
        }
        self.change(&prefix, |claims, count| {
            claims.retain(|it| {
                // Nobody who is there says what these say.
                let stays =
                    it.cluster != cluster && it.cluster != UNKNOWN && it.state != State::Stale;
                if !stays {
                    count(it.cluster, it.state, -1);
                }
                stays
            });
            count(cluster, State::Live, 1);
            claims.push(new);
        });
    }

    /// A cluster no longer says anything of a prefix.
    pub fn delete(&mut self, cluster: Number, prefix: IpNet, how: How, now: Duration) {
        match how {
            How::OnPurpose => self.become_(cluster, &prefix, State::Going, now),
            How::CutOff => self.become_(cluster, &prefix, State::Stale, now),
        }
    }

    /// Before a flush: what was deleted goes, or is held if it is too much at once, and so does what has been stale for too
    /// long.
    pub fn settle(&mut self, now: Duration) {
        let sweep = self.sweep;
        let numbers: Vec<Number> = self.clusters.keys().copied().collect();
        for number in numbers {
            let cluster = self.cluster(number);
            if cluster.going.is_empty() {
                continue;
            }
            let (going, count) = (mem::take(&mut cluster.going), cluster.count(State::Going));
            let is_held = cluster.guards(sweep, count);
            let state = if is_held { State::Held } else { State::Nobody };
            for prefix in going {
                if self.state(number, &prefix) == Some(State::Going) {
                    self.become_(number, &prefix, state, now);
                }
            }
        }
        let seconds = seconds(now);
        while let Some(first) = self.due.first_entry().filter(|first| *first.key() <= seconds) {
            for (cluster, prefix) in first.remove() {
                let claim = self.claim(cluster, &prefix);
                if claim.is_some_and(|it| it.state == State::Stale && it.word <= seconds) {
                    self.become_(cluster, &prefix, State::Nobody, now);
                }
            }
        }
        self.families.shrink();
    }

    /// When something stale is over next.
    pub fn next_due(&self) -> Option<Duration> {
        self.due.keys().next().map(|second| Duration::from_secs((*second).into()))
    }

    /// The operator's word: what the guard holds goes. How many lines that are.
    pub fn sweep(&mut self, cluster: Number) -> usize {
        let held = mem::take(&mut self.cluster(cluster).held);
        let mut count = 0;
        for prefix in held {
            if self.state(cluster, &prefix) == Some(State::Held) {
                self.become_(cluster, &prefix, State::Nobody, Duration::ZERO);
                count += 1;
            }
        }
        count
    }

    /// Nobody can tell any more what a cluster says: all that it has said is stale.
    pub fn cut_off(&mut self, cluster: Number, now: Duration) {
        let is_said = |claim: &Claim| {
            claim.cluster == cluster && matches!(claim.state, State::Live | State::Going)
        };
        let lines = self.find(is_said);
        lines.iter().for_each(|prefix| self.become_(cluster, prefix, State::Stale, now));
    }

    /// A cluster is read no longer: all that it says goes at once.
    pub fn drain(&mut self, cluster: Number) {
        let lines = self.find(|claim| claim.cluster == cluster);
        lines
            .iter()
            .for_each(|prefix| self.become_(cluster, prefix, State::Nobody, Duration::ZERO));
        self.clusters.remove(&cluster);
    }

    /// What a cluster has.
    pub fn counts(&self, cluster: Number) -> Counts {
        let Some(of) = self.clusters.get(&cluster) else { return Counts::default() };
        let shadowed = self.more.values().flatten().filter(|it| it.cluster == cluster).count();
        Counts {
            lines: of.lines(),
            stale: of.count(State::Stale),
            held: of.count(State::Held),
            shadowed,
        }
    }

    /// Whether lines are stale that are a cluster's, or may be.
    pub fn has_stale(&self, cluster: Number) -> bool {
        let of = |cluster| self.clusters.get(&cluster).map_or(0, |of| of.count(State::Stale));
        of(cluster) + of(UNKNOWN) > 0
    }

    /// Lines of a cluster that are stale, those that go first before others, each with when that is.
    pub fn stale_lines(&self, cluster: Number) -> impl Iterator<Item = (IpNet, Duration)> {
        let of_cluster = self.due.iter().flat_map(|(second, lines)| {
            lines.iter().map(move |(cluster, prefix)| (*second, *cluster, *prefix))
        });
        of_cluster.filter_map(move |(second, of, prefix)| {
            let claim = self.claim(of, &prefix)?;
            let is_stale = claim.state == State::Stale && claim.word == second;
            (of == cluster && is_stale).then(|| (prefix, Duration::from_secs(u64::from(second))))
        })
    }

    /// Lines of a cluster that the guard holds.
    pub fn held_lines(&self, cluster: Number) -> impl Iterator<Item = IpNet> {
        let held = self.clusters.get(&cluster).into_iter().flat_map(|it| &it.held);
        let is_held = move |prefix: &IpNet| self.state(cluster, prefix) == Some(State::Held);
        held.copied().filter(is_held)
    }

    /// The identity that a prefix is to have, and the cluster that says so.
    pub fn get(&self, prefix: &IpNet) -> Option<(Number, Identity)> {
        let claim = self.families.get(prefix)?;
        (claim.state != State::Nobody).then_some((claim.cluster, Identity(claim.identity)))
    }

    /// How many prefixes are to have an identity.
    pub fn len(&self) -> usize {
        self.families.len()
    }

    /// Whether none is.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many prefixes are to be changed in the ipcache.
    pub fn changed(&self) -> usize {
        self.families.changed()
    }

    /// Whether the ipcache is to be changed.
    pub fn has_changes(&self) -> bool {
        !self.families.are_clean()
    }

    /// How many prefixes that are no addresses are to be changed.
    pub fn changed_nets(&self) -> usize {
        self.families.changed_nets()
    }

    /// What has changed since it was asked for last: at most so many addresses, each once.
    pub fn take_changes(&mut self, most: usize) -> Vec<ClusterChange> {
        self.families.take_addresses(most)
    }

    /// The same of prefixes that are no addresses.
    pub fn take_net_changes(&mut self, most: usize) -> Vec<ClusterChange> {
        self.families.take_nets(most)
    }

    /// What was taken has not come into the ipcache, or may be another line there: it is told again.
    pub fn tell_again(&mut self, prefix: &IpNet) {
        if self.families.get(prefix).is_none() {
            self.families.insert(prefix, Claim::NOBODY);
        }
        self.families.mark_changed(prefix);
    }

    /// The same of all.
    pub fn tell_all_again(&mut self) {
        self.families.mark_all_changed();
    }

    /// The same of those in a prefix.
    pub fn tell_again_within(&mut self, around: &IpNet) {
        self.find_prefixes(|prefix, _| around.contains(prefix))
            .iter()
            .for_each(|prefix| self.families.mark_changed(prefix));
    }

    fn cluster(&mut self, number: Number) -> &mut Cluster {
        self.clusters.entry(number).or_default()
    }

    fn claim(&self, cluster: Number, prefix: &IpNet) -> Option<Claim> {
        let first = self.families.get(prefix).filter(|it| it.state != State::Nobody)?;
        if first.cluster == cluster {
            return Some(first);
        }
        self.more.get(prefix)?.iter().copied().find(|it| it.cluster == cluster)
    }

    fn state(&self, cluster: Number, prefix: &IpNet) -> Option<State> {
        self.claim(cluster, prefix).map(|claim| claim.state)
    }

    /// The prefixes of claims.
    fn find(&self, wanted: impl Fn(&Claim) -> bool) -> Vec<IpNet> {
        self.find_prefixes(|_, claim| wanted(claim))
    }

    fn find_prefixes(&self, wanted: impl Fn(&IpNet, &Claim) -> bool) -> Vec<IpNet> {
        let mut found = Vec::new();
        self.families.for_each(|prefix, claim| {
            if claim.state != State::Nobody && wanted(&prefix, claim) {
                found.push(prefix);
            }
        });
        let more =
            self.more.iter().flat_map(|(prefix, claims)| claims.iter().map(move |it| (prefix, it)));
        found.extend(more.filter(|(prefix, it)| wanted(prefix, it)).map(|(prefix, _)| *prefix));
        found
    }

    /// Gives a cluster's claim another state, if there is one for which that means anything.
    fn become_(&mut self, cluster: Number, prefix: &IpNet, state: State, now: Duration) {
        let until = seconds(now + self.stale) + 1;
        let mut became = None;
        self.change(prefix, |claims, count| {
            let others_live = claims.iter().any(|it| it.cluster != cluster && it.is_said());
            let Some(at) = claims.iter().position(|it| it.cluster == cluster) else { return };
            let claim = &mut claims[at];
            let after = match (claim.state, state) {
                // What is held or stale is so already; what another one claims has nothing to wait for.
                (State::Stale, State::Stale | State::Going)
                | (State::Held, State::Stale | State::Going | State::Held)
                | (State::Going, State::Going) => return,
                (_, State::Stale) if others_live => State::Nobody,
                (_, state) => state,
            };
            count(cluster, claim.state, -1);
            if after == State::Nobody {
                claims.swap_remove(at);
                return;
            }
            count(cluster, after, 1);
            claim.state = after;
            if after == State::Stale {
                claim.word = until;
            }
            became = Some(after);
        });
        match became {
            Some(State::Stale) => _ = self.due.entry(until).or_default().insert((cluster, *prefix)),
            Some(State::Going) => self.cluster(cluster).going.push(*prefix),
            Some(State::Held) => _ = self.cluster(cluster).held.insert(*prefix),
            _ => {}
        }
    }

    /// Changes the claims of a prefix; who wins then says what the ipcache is to say.
    fn change(
        &mut self,
        prefix: &IpNet,
        change: impl FnOnce(&mut Vec<Claim>, &mut dyn FnMut(Number, State, isize)),
    ) {
        let first = self.families.get(prefix);
        let before = first.filter(|it| it.state != State::Nobody);
        let mut claims: Vec<Claim> = before.into_iter().collect();
        if first.is_some_and(|it| it.has_more()) {
            claims.extend(self.more.remove(prefix).unwrap_or_default());
        }
        let clusters = &mut self.clusters;
        change(&mut claims, &mut |cluster, state, by| {
            let counts = &mut clusters.entry(cluster).or_default().counts;
            let count = &mut counts[state as usize];
            *count = count.saturating_add_signed(by);
        });
        let own = self.own;
        claims.sort_by_key(|claim| claim.rank(own));
        let mut rest = claims.into_iter();
        let winner = rest.next();
        let has_more = rest.len() > 0;
        if has_more {
            self.more.insert(*prefix, rest.collect());
        }
        if winner.is_none() && first.is_none() {
            return;
        }
        let after = winner.unwrap_or(Claim::NOBODY);
        let is_changed = before.map(|it| it.identity) != winner.map(|it| it.identity);
        self.families.put(prefix, after, has_more, is_changed);
    }
}

/// Whole seconds.
fn seconds(time: Duration) -> u32 {
    u32::try_from(time.as_secs()).unwrap_or(u32::MAX - 1)
}
