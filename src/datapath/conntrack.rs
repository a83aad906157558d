//! Reading, filling and emptying `cm_ct4` and `cm_ct6`: those that all share, and endpoints' own.

mod adopt;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};
use libbpf_rs::MapCore;
use plain::Plain;
use serde::Serialize;

pub use adopt::{Existing, Originator};

use super::abi::{cm_ct_entry, cm_ct4_key, cm_ct6_key, cm_direction, cm_event, cm_reason};
use super::maps::{self, Metric, TypedMap};
use super::pin::Root;
use super::sys;
use crate::model::endpoint::EndpointId;
use crate::model::frame::{ICMP, ICMP6};
use crate::model::rule::Direction;

/// `enum cm_ct_state`.
const ESTABLISHED: u8 = 1 << 0;
const FIN_ORIGINATOR: u8 = 1 << 1;
const FIN_REPLY: u8 = 1 << 2;
const CLOSING: u8 = 1 << 3;

/// How far a flow has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Progress {
    /// TCP: no more than a SYN was seen.
    Syn,
    /// Both ends may send; protocols other than TCP are so from the start.
    Established,
    /// TCP: one end has sent FIN.
    HalfClosed,
    /// TCP: both have, or one has sent RST.
    Closing,
}

/// An entry of conntrack.
#[derive(Debug, Clone)]
pub struct Flow {
    /// The container whose flow it is; `None` for those of all NICs.
    pub scope: Option<EndpointId>,
    /// IP protocol.
    pub protocol: u8,
    /// The endpoint's own end.
    pub local: IpAddr,
    /// Of `local`; of an echo its identifier, if that end asks.
    pub local_port: u16,
    /// The other end.
    pub remote: IpAddr,
    /// Of `remote`.
    pub remote_port: u16,
    /// Of the first packet.
    pub direction: Direction,
    /// How far it has come.
    pub progress: Progress,
    /// What decided, `enum cm_rule_number`.
    pub rule: u32,
    /// What the policy said when it was asked last.
    pub allowed: bool,
    /// Under which epoch that was.
    epoch: u32,
    /// It was up before its policy.
    pub adopted: bool,
    /// A workload's, under an address of this host.
    pub masqueraded: bool,
    /// From now on, unless a packet comes.
    pub expires: Duration,
}

impl Flow {
    /// Whether the next packet asks the rules again: rules, ipcache or endpoints have changed, of which
    /// this is the generation, or its endpoint has fallen back. `policy_epoch()` of the datapath.
    pub fn is_stale(&self, generation: u32, fell_back: bool) -> bool {
        self.epoch != generation << 2 | u32::from(fell_back) << 1 | 1
    }
}

/// What an entry says of whom its flow was begun by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seen {
    /// Of the first packet.
    pub direction: Direction,
    /// What the policy said last. What audit has left of a flow that is denied is nothing once the rules are
    /// enforced: of what is not TCP, nobody knows who began.
    pub allowed: bool,
}

/// A pair of maps, one for each family.
pub struct Conntrack {
    /// Whose they are; `None` if endpoints share them.
    pub owner: Option<EndpointId>,
    v4: TypedMap<cm_ct4_key, cm_ct_entry>,
    v6: TypedMap<cm_ct6_key, cm_ct_entry>,
}

/// How full a map is.
#[derive(Debug, Clone, Copy)]
pub struct Usage {
    /// `cm_ct4` or `cm_ct6`.
    pub map: &'static str,
    /// Whose it is; `None` if endpoints share it.
    pub owner: Option<EndpointId>,
    /// Expired ones included, which make room when it is needed.
    pub entries: usize,
    /// The most.
    pub max_entries: u32,
}

impl Conntrack {
    /// All that there are.
    pub fn all(root: &Root) -> Result<Vec<Conntrack>> {
        let mut all = Vec::from_iter(Conntrack::open(root, None)?);
        for id in root.endpoints()? {
            all.extend(Conntrack::open(root, Some(id))?);
        }
        Ok(all)
    }

    /// `None` if nobody has made the maps.
    pub fn open(root: &Root, owner: Option<EndpointId>) -> Result<Option<Conntrack>> {
        let path = |name: &str| -> PathBuf {
            match owner {
                Some(id) => root.endpoint(id).map(name),
                None => root.map(name),
            }
        };
        let v4 = TypedMap::open_at(&path("cm_ct4"))?;
        let v6 = TypedMap::open_at(&path("cm_ct6"))?;
        Ok(v4.zip(v6).map(|(v4, v6)| Conntrack { owner, v4, v6 }))
    }

    /// The flows that have not expired.
    pub fn flows(&self) -> Result<Vec<Flow>> {
        let now = sys::jiffies().context("read the kernel's jiffies")?;
        let rate = sys::jiffies_per_second();
        let v4 = self.v4.entries()?.into_iter();
        let v6 = self.v6.entries()?.into_iter();
        let v4 = v4.filter_map(|(key, entry)| flow(parts_of_v4(&key), &entry, now, rate));
        let v6 = v6.filter_map(|(key, entry)| flow(parts_of_v6(&key), &entry, now, rate));
        let mut flows: Vec<Flow> = v4.chain(v6).collect();
        flows.sort_by_key(|flow| {
            (flow.scope, flow.local, flow.remote, flow.protocol, flow.local_port, flow.remote_port)
        });
        Ok(flows)
    }

    /// Forgets all flows, or those of one scope, and tells how many; expired ones as well.
    pub fn flush(&self, root: &Root, scope: Option<Option<EndpointId>>) -> Result<usize> {
        let wanted = |of: u16| scope.is_none_or(|scope| EndpointId::new(of) == scope);
        let v4 = flush(&self.v4, |key| wanted(key.scope))?;
        let count = v4 + flush(&self.v6, |key| wanted(key.scope))?;
        if self.owner.is_none() {
            maps::count(root, cm_reason::CM_CT_FLUSHED, count as u64)?;
        }
        Ok(count)
    }

    /// The flows that shared maps have dropped to make room for others, since they were made:
    /// nobody tells, but an entry that was created and not flushed is there or evicted.
    /// `None` if there are no shared maps in `usage`, which is to be read after `metrics`: what comes
    /// in between must not look evicted.
    pub fn evicted(metrics: &[Metric], usage: &[Usage]) -> Option<u64> {
        let shared: Vec<&Usage> = usage.iter().filter(|usage| usage.owner.is_none()).collect();
        if shared.is_empty() {
            return None;
        }
        let there: usize = shared.iter().map(|usage| usage.entries).sum();
        let sum = |reason: cm_reason| -> u64 {
            let lines = metrics.iter().filter(|line| line.reason == reason.0);
            lines.map(|line| line.sum.packets).sum()
        };
        let gone = sum(cm_reason::CM_CT_CREATED).saturating_sub(sum(cm_reason::CM_CT_FLUSHED));
        Some(gone.saturating_sub(there as u64))
    }

    /// What there is of the flow that an event's packet belongs to; `None` if no entry is alive at `now`,
    /// in jiffies. `scope` is a container's number, 0 for a NIC.
    pub fn seen(&self, event: &cm_event, scope: u16, now: u32) -> Result<Option<Seen>> {
        let (Some(source), Some(destination)) = (event.source.to_ip(), event.destination.to_ip())
        else {
            return Ok(None);
        };
        let (mut sport, mut dport) = (u16::from_be(event.sport), u16::from_be(event.dport));
        match (event.protocol, event.icmp_type, source.is_ipv4()) {
            (ICMP, 8, true) | (ICMP6, 128, false) => dport = sport.wrapping_add(1),
            (ICMP, 0, true) | (ICMP6, 129, false) => sport = dport.wrapping_add(1),
            _ => {}
        }
        let (local, local_port, remote, remote_port) = match event.direction {
            cm_direction::CM_EGRESS => (source, sport, destination, dport),
            _ => (destination, dport, source, sport),
        };
        let parts =
            Parts { scope, protocol: event.protocol, local, local_port, remote, remote_port };
        let entry = match parts.key() {
            Some(Key::V4(key)) => self.v4.get(&key)?,
            Some(Key::V6(key)) => self.v6.get(&key)?,
            None => None,
        };
        let alive = entry.filter(|entry| (entry.expires as u32).wrapping_sub(now) as i32 > 0);
        let seen = |entry| Seen { direction: direction(&entry), allowed: entry.verdict & 1 == 1 };
        Ok(alive.map(seen))
    }

    /// How full the maps are.
    pub fn usage(&self) -> Result<[Usage; 2]> {
        let usage =
            |map, entries, max_entries| Usage { map, owner: self.owner, entries, max_entries };
        Ok([
            usage("cm_ct4", self.v4.entries()?.len(), self.v4.handle().max_entries()),
            usage("cm_ct6", self.v6.entries()?.len(), self.v6.handle().max_entries()),
        ])
    }
}

fn flush<K: Plain + Default>(
    map: &TypedMap<K, cm_ct_entry>,
    wanted: impl Fn(&K) -> bool,
) -> Result<usize> {
    let mut count = 0;
    for (key, _) in map.entries()? {
        count += usize::from(wanted(&key) && map.delete(&key)?);
    }
    Ok(count)
}

/// What both kinds of key say.
struct Parts {
    scope: u16,
    protocol: u8,
    local: IpAddr,
    local_port: u16,
    remote: IpAddr,
    remote_port: u16,
}

/// Of either map.
enum Key {
    V4(cm_ct4_key),
    V6(cm_ct6_key),
}

impl Parts {
    /// `None` if the two ends are of different families.
    fn key(&self) -> Option<Key> {
        let Parts { scope, protocol, .. } = *self;
        let (local_port, remote_port) = (self.local_port.to_be(), self.remote_port.to_be());
        match (self.local, self.remote) {
            (IpAddr::V4(local), IpAddr::V4(remote)) => Some(Key::V4(cm_ct4_key {
                local: u32::from_ne_bytes(local.octets()),
                remote: u32::from_ne_bytes(remote.octets()),
                local_port,
                remote_port,
                scope,
                protocol,
                pad: 0,
            })),
            (IpAddr::V6(local), IpAddr::V6(remote)) => Some(Key::V6(cm_ct6_key {
                local: local.into(),
                remote: remote.into(),
                local_port,
                remote_port,
                scope,
                protocol,
                pad: 0,
            })),
            _ => None,
        }
    }
}

fn parts_of_v4(key: &cm_ct4_key) -> Parts {
    Parts {
        scope: key.scope,
        protocol: key.protocol,
        local: Ipv4Addr::from(key.local.to_ne_bytes()).into(),
        local_port: u16::from_be(key.local_port),
        remote: Ipv4Addr::from(key.remote.to_ne_bytes()).into(),
        remote_port: u16::from_be(key.remote_port),
    }
}

fn parts_of_v6(key: &cm_ct6_key) -> Parts {
    Parts {
        scope: key.scope,
        protocol: key.protocol,
        local: Ipv6Addr::from(key.local).into(),
        local_port: u16::from_be(key.local_port),
        remote: Ipv6Addr::from(key.remote).into(),
        remote_port: u16::from_be(key.remote_port),
    }
}

/// The ports of a flow, local and remote. Of an echo the one that is made of its identifier is none.
fn ports(key: &Parts) -> (u16, u16) {
    let (local, remote) = (key.local_port, key.remote_port);
    let is_echo = key.protocol == if key.local.is_ipv4() { ICMP } else { ICMP6 };
    match is_echo {
        true if remote == local.wrapping_add(1) => (local, 0),
        true if local == remote.wrapping_add(1) => (0, remote),
        _ => (local, remote),
    }
}

/// `None` if it has expired. No entry lives as long as half a round of `now` takes.
fn flow(key: Parts, entry: &cm_ct_entry, now: u32, rate: u32) -> Option<Flow> {
    let left = (entry.expires as u32).wrapping_sub(now) as i32;
    if left <= 0 {
        return None;
    }
    let (local_port, remote_port) = ports(&key);
    Some(Flow {
        scope: EndpointId::new(key.scope),
        protocol: key.protocol,
        local: key.local,
        local_port,
        remote: key.remote,
        remote_port,
        direction: direction(entry),
        progress: progress(entry.state),
        rule: entry.verdict as u32 >> 1,
        allowed: entry.verdict & 1 == 1,
        epoch: (entry.verdict >> 32) as u32,
        adopted: entry.adopted != 0,
        masqueraded: entry.masqueraded != 0,
        expires: Duration::from_secs_f64(f64::from(left) / f64::from(rate)),
    })
}

fn direction(entry: &cm_ct_entry) -> Direction {
    match cm_direction(entry.direction.into()) {
        cm_direction::CM_INGRESS => Direction::Ingress,
        _ => Direction::Egress,
    }
}

fn progress(state: u8) -> Progress {
    if state & CLOSING != 0 {
        Progress::Closing
    } else if state & (FIN_ORIGINATOR | FIN_REPLY) != 0 {
        Progress::HalfClosed
    } else if state & ESTABLISHED != 0 {
        Progress::Established
    } else {
        Progress::Syn
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_verdict_counts_for_one_generation_with_the_fallback_or_without() {
        let of_epoch = |epoch: u64| {
            let key = cm_ct4_key::default();
            let entry = cm_ct_entry { verdict: epoch << 32 | 1, expires: 2, ..Default::default() };
            flow(parts_of_v4(&key), &entry, 1, 250).unwrap()
        };
        let asked = of_epoch(5 << 2 | 1);
        let stale =
            [(5, false), (5, true), (6, false)].map(|(now, fell)| asked.is_stale(now, fell));
        assert_eq!(stale, [false, true, true]);
        assert!(!of_epoch(5 << 2 | 3).is_stale(5, true));
        assert!(of_epoch(0).is_stale(0, false), "never asked");
    }

    #[test]
    fn the_constants_are_those_of_the_header() {
        let header = include_str!("../bpf/abi.h");
        for (name, bit) in [
            ("CM_CT_ESTABLISHED", ESTABLISHED),
            ("CM_CT_FIN_ORIGINATOR", FIN_ORIGINATOR),
            ("CM_CT_FIN_REPLY", FIN_REPLY),
            ("CM_CT_CLOSING", CLOSING),
        ] {
            let line = format!("\t{name} = 1 << {},", bit.trailing_zeros());
            assert!(header.contains(&line), "{line}");
        }
    }

    fn entry(expires: u64) -> cm_ct_entry {
        cm_ct_entry { expires, ..cm_ct_entry::default() }
    }

    fn seconds_left(expires: u64, now: u32) -> Option<f64> {
        let key = parts_of_v4(&cm_ct4_key::default());
        flow(key, &entry(expires), now, 250).map(|flow| flow.expires.as_secs_f64())
    }

    #[test]
    fn what_is_left_is_right_also_when_the_lower_half_of_jiffies_wraps() {
        assert_eq!(seconds_left(1500, 1000), Some(2.0));
        assert_eq!(seconds_left((1 << 32) + 250, u32::MAX - 249), Some(2.0));
        assert_eq!(seconds_left((7 << 32) - 250, 0), None);
        assert_eq!(seconds_left(1000, 1000), None);
    }
}
