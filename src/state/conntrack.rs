//! Reading, filling and emptying the table of flows: that which all share, and endpoints' own.

mod adopt;
mod edit;

use std::collections::BTreeSet;
use std::env::consts::ARCH;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use libbpf_rs::{MapCore, MapHandle};
use plain::Plain;

pub use adopt::{Existing, Originator};
use edit::Editor;

use crate::kernel::abi::{
    self, cm_config, cm_ct_picked_up, cm_ct_state, cm_ct4_key, cm_ct6_key, cm_direction, cm_event,
    cm_family, cm_flow, cm_flow_class, cm_flow_edit, cm_flow_edit_kind, cm_flow_edited,
    cm_flow_size, cm_flow_ways, cm_flows4, cm_flows6,
};
use crate::kernel::sys;
use crate::model::endpoint::{EndpointId, Scope};
use crate::model::flow::Progress;
use crate::model::identity::Identity;
use crate::model::protocol;
use crate::model::rule::Direction;
use crate::state::flow_table::FlowTable;
use crate::state::pin::{self, Root};

const ESTABLISHED: u8 = cm_ct_state::CM_CT_ESTABLISHED.0 as u8;
const FIN_ORIGINATOR: u8 = cm_ct_state::CM_CT_FIN_ORIGINATOR.0 as u8;
const FIN_REPLY: u8 = cm_ct_state::CM_CT_FIN_REPLY.0 as u8;
const CLOSING: u8 = cm_ct_state::CM_CT_CLOSING.0 as u8;
const ANSWERED: u8 = cm_ct_state::CM_CT_ANSWERED.0 as u8;
const RESET: u8 = cm_ct_state::CM_CT_RESET.0 as u8;
const CONFIRMED: u8 = cm_ct_state::CM_CT_CONFIRMED.0 as u8;

/// Flows of a family that there is room for if nobody gives a number.
pub const ENTRIES: u32 = 1 << 16;

/// Buckets that one batch call reads.
const BATCH: usize = 1 << 10;

const NIC_SHIFT: u32 = cm_flow_size::CM_FLOW_NIC_SHIFT.0;
const WAYS: u32 = cm_flow_size::CM_FLOW_WAYS.0;
/// In the place of UDP: what lets answers come to a question to many.
const QUESTION: u8 = cm_flow_size::CM_FLOW_QUESTION.0 as u8;
const LOAD_PERCENT: u64 = cm_flow_size::CM_FLOW_LOAD_PERCENT.0 as u64;

/// Buckets for so many flows: at this load hardly one in a hundred thousand finds no room.
pub fn buckets(entries: u32) -> u32 {
    (u64::from(entries) * 100).div_ceil(u64::from(WAYS) * LOAD_PERCENT) as u32
}

/// Flows for which so many buckets are.
pub fn entries(buckets: u32) -> u32 {
    (u64::from(buckets) * u64::from(WAYS) * LOAD_PERCENT / 100) as u32
}

/// What a program has to know of the table beside its secret, in its configuration.
pub fn configure(config: cm_config, buckets: [u32; 2]) -> cm_config {
    // Where reads and writes are seen in their order (Documentation/memory-barriers.txt).
    let strongly_ordered = ["x86", "x86_64", "s390x"].contains(&ARCH);
    cm_config { flow_buckets: buckets, weakly_ordered: (!strongly_ordered).into(), ..config }
}

/// Ticks of the datapath, in which it tells ages.
fn ticks(seconds: u32) -> u32 {
    let jiffies = u64::from(seconds) * u64::from(sys::jiffies_per_second());
    (jiffies >> cm_flow_size::CM_FLOW_TICK_SHIFT.0) as u32 + 1
}

/// Now, in ticks.
fn now() -> Result<u32> {
    let jiffies = sys::jiffies64().context("read the kernel's jiffies")?;
    Ok((jiffies >> cm_flow_size::CM_FLOW_TICK_SHIFT.0) as u32)
}

/// An entry of conntrack.
#[derive(Debug, Clone)]
pub struct Flow {
    /// Whose it is.
    pub scope: Scope,
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
    /// Who has begun it, as its mark or flow label said.
    pub claimed: Option<Identity>,
    /// What decided, `enum cm_rule_number`.
    pub rule: u32,
    /// Of the host's: the slot of the NIC whose rule that is.
    pub nic: u8,
    /// 1 << slot of each NIC that it has passed on its originator's way.
    pub passed: u16,
    /// What the policy said when it was asked last.
    pub allowed: bool,
    /// Under which epoch that was.
    epoch: u32,
    /// It was up before its policy.
    pub adopted: bool,
    /// Whether `direction` is certain: of what was up before nobody may have seen the first packet.
    pub originator: Originator,
    /// A workload's, under an address of this host.
    pub masqueraded: bool,
    /// From now on, unless a packet comes.
    pub expires: Duration,
}

impl Flow {
    /// Whether the next packet asks the rules again: they were asked in another epoch than this.
    pub fn is_stale(&self, epoch: Epoch) -> bool {
        self.epoch != epoch.0
    }
}

/// What the verdicts that count on flows with one remote end have in common: `policy_epoch()` of the datapath. It is of
/// the generation, [`crate::state::generations::Generations::of_flow`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Epoch(u32);

impl Epoch {
    /// Of a workload, which may have fallen back.
    pub fn of_workload(generation: u32, fell_back: bool) -> Epoch {
        Epoch(generation << 2 | u32::from(fell_back) << 1 | 1)
    }

    /// Of NICs, of which so many have.
    pub fn of_nics(generation: u32, fallen_back: u32) -> Epoch {
        Epoch(generation << 6 | fallen_back << 1 | 1)
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
    /// Of the host's: 1 << slot of each NIC that it has passed.
    pub passed: u16,
}

/// A pair of tables, one for each family.
pub struct Conntrack {
    /// Whose they are; `None` if endpoints share them.
    pub owner: Option<EndpointId>,
    /// Of their hash.
    seed: [u64; 8],
    v4: Table<cm_flows4>,
    v6: Table<cm_flows6>,
}

/// How full a table is.
#[derive(Debug, Clone, Copy)]
pub struct Usage {
    /// `cm_flows4` or `cm_flows6`.
    pub map: &'static str,
    /// Whose it is; `None` if endpoints share it.
    pub owner: Option<EndpointId>,
    /// Flows that have not expired, by `enum cm_flow_class`.
    pub of_class: [u64; cm_flow_class::CM_FLOW_CLASSES.0 as usize],
    /// For how many it was made. A flow may find no room before, and there may be more.
    pub max_entries: u32,
}

impl Usage {
    /// All of them.
    pub fn entries(&self) -> u64 {
        self.of_class.iter().sum()
    }
}

/// One of them: an array of buckets.
struct Table<B> {
    handle: MapHandle,
    bucket: std::marker::PhantomData<B>,
}

/// What a table's values are.
trait Bucket: Plain + Default {
    fn ways(&self) -> &cm_flow_ways;
    fn flow(&self, way: usize) -> (Parts, &cm_flow);
}

impl Bucket for cm_flows4 {
    fn ways(&self) -> &cm_flow_ways {
        &self.ways
    }

    fn flow(&self, way: usize) -> (Parts, &cm_flow) {
        (parts_of_v4(&self.slots[way].key), &self.slots[way].flow)
    }
}

impl Bucket for cm_flows6 {
    fn ways(&self) -> &cm_flow_ways {
        &self.ways
    }

    fn flow(&self, way: usize) -> (Parts, &cm_flow) {
        (parts_of_v6(&self.slots[way].key), &self.slots[way].flow)
    }
}

impl<B: Bucket> Table<B> {
    fn open(path: &Path) -> Result<Option<Table<B>>> {
        let Some(handle) = pin::open_map(path)? else { return Ok(None) };
        ensure!(
            handle.value_size() as usize == size_of::<B>(),
            "{} is a map of another layout; another version of cilmark made it",
            path.display()
        );
        Ok(Some(Table { handle, bucket: std::marker::PhantomData }))
    }

    /// Every flow that has not expired at `now`: its key, what is known of it, its end, and its class. Each bucket is read
    /// under its lock.
    fn for_each(&self, now: u32, mut handle: impl FnMut(Parts, &cm_flow, u32, u8)) -> Result<()> {
        let mut malformed = Ok(());
        sys::for_each_batch_locked(&self.handle, BATCH, |_, buckets| {
            for bytes in buckets.chunks_exact(size_of::<B>()) {
                match abi::from_bytes::<B>(bytes) {
                    Ok(bucket) => {
                        let ways = bucket.ways();
                        for way in 0..WAYS as usize {
                            let left = ways.expires[way].wrapping_sub(now) as i32;
                            if ways.tag[way] != 0 && left > 0 {
                                let (parts, flow) = bucket.flow(way);
                                handle(parts, flow, left as u32, ways.class[way]);
                            }
                        }
                    }
                    Err(error) => malformed = Err(error),
                }
            }
        })
        .context("read the table of flows")?;
        malformed
    }
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

    /// `None` if nobody has made the tables.
    pub fn open(root: &Root, owner: Option<EndpointId>) -> Result<Option<Conntrack>> {
        let path = |name: &str| -> PathBuf {
            match owner {
                Some(id) => root.endpoint(id).map(name),
                None => root.map(name),
            }
        };
        let v4 = Table::open(&path("cm_flows4"))?;
        let v6 = Table::open(&path("cm_flows6"))?;
        let Some((v4, v6)) = v4.zip(v6) else { return Ok(None) };
        let seed =
            FlowTable::open(root)?.context("the secret of the table of flows is not pinned")?;
        Ok(Some(Conntrack { owner, seed: seed.seed()?, v4, v6 }))
    }

    fn for_each(&self, mut handle: impl FnMut(Parts, &cm_flow, u32, u8)) -> Result<()> {
        let now = now()?;
        self.v4.for_each(now, &mut handle)?;
        self.v6.for_each(now, &mut handle)
    }

    /// The flows that have not expired.
    pub fn flows(&self) -> Result<Vec<Flow>> {
        self.flows_where(|_| true)
    }

    /// Each of them, in no order: there may be millions.
    pub fn for_each_flow(&self, mut handle: impl FnMut(Flow)) -> Result<()> {
        let rate = sys::jiffies_per_second();
        self.for_each(|parts, entry, left, _| handle(flow(&parts, entry, left, rate)))
    }

    /// Those of them that are wanted.
    pub fn flows_where(&self, wanted: impl Fn(&Flow) -> bool) -> Result<Vec<Flow>> {
        let rate = sys::jiffies_per_second();
        let mut flows = Vec::new();
        self.for_each(|parts, entry, left, _| {
            flows.extend(Some(flow(&parts, entry, left, rate)).filter(&wanted));
        })?;
        let bits = |address| match address {
            IpAddr::V4(address) => u128::from(address.to_bits()),
            IpAddr::V6(address) => address.to_bits(),
        };
        // A million take a third of the time that they take by their addresses, and by moving each.
        flows.sort_by_cached_key(|flow| {
            let ends = (bits(flow.local), bits(flow.remote));
            (flow.scope, ends, flow.protocol, flow.local_port, flow.remote_port)
        });
        Ok(flows)
    }

    /// Forgets all flows, or those of one scope, and tells how many.
    pub fn flush(&self, scope: Option<Scope>) -> Result<usize> {
        self.delete(|parts, _, _| scope.is_none_or(|scope| parts.scope == scope))
    }

    /// Forgets the flows of endpoints that are gone, which would hold their places for as long as they live.
    pub fn forget(root: &Root, scopes: &BTreeSet<Scope>) -> Result<()> {
        match Conntrack::open(root, None)? {
            Some(shared) if !scopes.is_empty() => {
                shared.delete(|parts, _, _| scopes.contains(&parts.scope)).map(|_| ())
            }
            _ => Ok(()),
        }
    }

    /// Forgets the flows that are wanted, and tells how many.
    pub fn flush_some(&self, wanted: impl Fn(&Flow) -> bool) -> Result<usize> {
        let rate = sys::jiffies_per_second();
        self.delete(|parts, entry, left| wanted(&flow(parts, entry, left, rate)))
    }

    fn delete(&self, wanted: impl Fn(&Parts, &cm_flow, u32) -> bool) -> Result<usize> {
        let mut edits = Vec::new();
        self.for_each(|parts, entry, left, _| {
            if wanted(&parts, entry, left) {
                edits.extend(parts.edit(cm_flow_edit_kind::CM_FLOW_EDIT_DELETE));
            }
        })?;
        let done = self.editor()?.run(&edits)?;
        Ok(done.iter().filter(|edit| edit.edited == cm_flow_edited::CM_FLOW_DONE).count())
    }

    /// Takes the slot of a NIC that is gone out of what flows have passed. Those that have passed no other are over.
    fn forget_nic(&self, slot: u8) -> Result<()> {
        let mut edits = Vec::new();
        self.for_each(|parts, flow, _, _| {
            if flow.verdict >> (16 + slot) & 1 != 0 {
                let edit = parts.edit(cm_flow_edit_kind::CM_FLOW_EDIT_LEAVE);
                let flow = cm_flow { rule: u32::from(slot) << NIC_SHIFT, ..cm_flow::default() };
                edits.extend(edit.map(|edit| cm_flow_edit { flow, ..edit }));
            }
        })?;
        if !edits.is_empty() {
            self.editor()?.run(&edits)?;
        }
        Ok(())
    }

    fn editor(&self) -> Result<Editor> {
        Editor::load(self.seed, [&self.v4.handle, &self.v6.handle])
    }

    /// Who can look up single flows.
    pub fn finder(&self) -> Result<Finder> {
        Ok(Finder { editor: self.editor()? })
    }

    /// How full the tables are.
    pub fn usage(&self) -> Result<[Usage; 2]> {
        let now = now()?;
        let usage = |map, max_entries| Usage {
            map,
            owner: self.owner,
            of_class: Default::default(),
            max_entries: entries(max_entries),
        };
        let mut v4 = usage("cm_flows4", self.v4.handle.max_entries());
        let mut v6 = usage("cm_flows6", self.v6.handle.max_entries());
        let count = |usage: &mut Usage, class: u8| {
            if let Some(count) = usage.of_class.get_mut(usize::from(class)) {
                *count += 1;
            }
        };
        self.v4.for_each(now, |_, _, _, class| count(&mut v4, class))?;
        self.v6.for_each(now, |_, _, _, class| count(&mut v6, class))?;
        Ok([v4, v6])
    }
}

/// Lets the flows that NICs share forget the one that had a slot.
pub(super) fn forget_nic(root: &Root, slot: u8) -> Result<()> {
    match Conntrack::open(root, None)? {
        Some(conntrack) => conntrack.forget_nic(slot),
        None => Ok(()),
    }
}

/// Looks single flows up.
pub struct Finder {
    editor: Editor,
}

impl Finder {
    /// What there is of the flow that an event's packet belongs to; `None` if it has expired, or never was.
    /// `scope` is that of the event's endpoint.
    pub fn seen(&self, event: &cm_event, scope: Scope) -> Result<Option<Seen>> {
        let (Some(source), Some(destination)) = (event.source.to_ip(), event.destination.to_ip())
        else {
            return Ok(None);
        };
        let (mut sport, mut dport) = (u16::from_be(event.sport), u16::from_be(event.dport));
        let (request, reply) = protocol::echo_of(source.is_ipv4());
        match event.icmp_type {
            _ if event.protocol != protocol::icmp_of(source.is_ipv4()) => {}
            kind if kind == request => dport = sport.wrapping_add(1),
            kind if kind == reply => sport = dport.wrapping_add(1),
            _ => {}
        }
        let (local, local_port, remote, remote_port) = match event.direction {
            cm_direction::CM_EGRESS => (source, sport, destination, dport),
            _ => (destination, dport, source, sport),
        };
        let parts =
            Parts { scope, protocol: event.protocol, local, local_port, remote, remote_port };
        let Some(edit) = parts.edit(cm_flow_edit_kind::CM_FLOW_EDIT_FIND) else { return Ok(None) };
        let now = now()?;
        let found = self.editor.run(&[edit])?;
        let alive = found.iter().find(|found| {
            found.edited == cm_flow_edited::CM_FLOW_THERE
                && found.expires.wrapping_sub(now) as i32 > 0
        });
        Ok(alive.map(|found| Seen {
            direction: direction(&found.flow),
            allowed: is_allowed(&found.flow),
            passed: passed(&found.flow),
        }))
    }
}

/// What both kinds of key say.
struct Parts {
    scope: Scope,
    protocol: u8,
    local: IpAddr,
    local_port: u16,
    remote: IpAddr,
    remote_port: u16,
}

impl Parts {
    /// What the datapath is asked to do with this flow; `None` if the two ends are of different families.
    fn edit(&self, kind: cm_flow_edit_kind) -> Option<cm_flow_edit> {
        let Parts { scope, protocol, .. } = *self;
        let words = |address: Ipv4Addr| {
            let mut words = [0; 4];
            words[0] = u32::from_ne_bytes(address.octets());
            abi::cm_ipv6 { words }
        };
        let (family, local, remote) = match (self.local, self.remote) {
            (IpAddr::V4(local), IpAddr::V4(remote)) => {
                (cm_family::CM_IPV4, words(local), words(remote))
            }
            (IpAddr::V6(local), IpAddr::V6(remote)) => {
                (cm_family::CM_IPV6, local.into(), remote.into())
            }
            _ => return None,
        };
        let (local_port, remote_port) = (self.local_port.to_be(), self.remote_port.to_be());
        let key = cm_ct6_key {
            local,
            remote,
            local_port,
            remote_port,
            scope: scope.low(),
            scope_high: scope.high(),
            protocol,
        };
        Some(cm_flow_edit { kind, family, key, ..Default::default() })
    }
}

fn parts_of_v4(key: &cm_ct4_key) -> Parts {
    Parts {
        scope: Scope::of_key(key.scope, key.scope_high),
        protocol: key.protocol,
        local: Ipv4Addr::from(key.local.to_ne_bytes()).into(),
        local_port: u16::from_be(key.local_port),
        remote: Ipv4Addr::from(key.remote.to_ne_bytes()).into(),
        remote_port: u16::from_be(key.remote_port),
    }
}

fn parts_of_v6(key: &cm_ct6_key) -> Parts {
    Parts {
        scope: Scope::of_key(key.scope, key.scope_high),
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
    let is_echo = key.protocol == protocol::icmp_of(key.local.is_ipv4());
    match is_echo {
        true if remote == local.wrapping_add(1) => (local, 0),
        true if local == remote.wrapping_add(1) => (0, remote),
        _ => (local, remote),
    }
}

/// `left` in ticks, of which `rate` jiffies are a second.
/// The slot of a NIC and the number of its rule, of what an entry says has decided.
pub fn split_rule(rule: u32) -> (u8, u32) {
    ((rule >> NIC_SHIFT) as u8, rule & ((1 << NIC_SHIFT) - 1))
}

fn passed(entry: &cm_flow) -> u16 {
    (entry.verdict >> 16) as u16
}

fn flow(key: &Parts, entry: &cm_flow, left: u32, rate: u32) -> Flow {
    let (local_port, remote_port) = ports(key);
    let (nic, rule) = split_rule(entry.rule);
    let jiffies = u64::from(left) << cm_flow_size::CM_FLOW_TICK_SHIFT.0;
    Flow {
        scope: key.scope,
        protocol: if key.protocol == QUESTION { protocol::UDP } else { key.protocol },
        local: key.local,
        local_port,
        remote: key.remote,
        remote_port,
        direction: direction(entry),
        progress: progress(entry.state),
        claimed: Some(Identity(entry.claimed_identity)).filter(|it| *it != Identity::UNKNOWN),
        rule,
        nic,
        passed: passed(entry),
        allowed: is_allowed(entry),
        epoch: (entry.verdict >> 32) as u32,
        adopted: entry.picked_up != 0,
        originator: match cm_ct_picked_up(entry.picked_up.into()) {
            cm_ct_picked_up::CM_CT_PICKED_UP_UNKNOWN => Originator::Unknown,
            _ => Originator::Known,
        },
        masqueraded: entry.masqueraded != 0,
        // Less than a tick more than it was given.
        expires: Duration::from_secs(jiffies / u64::from(rate)),
    }
}

/// Whether no rule that was asked has denied it.
fn is_allowed(entry: &cm_flow) -> bool {
    entry.verdict & 0xffff == 0
}

fn direction(entry: &cm_flow) -> Direction {
    match cm_direction(entry.direction.into()) {
        cm_direction::CM_INGRESS => Direction::Ingress,
        _ => Direction::Egress,
    }
}

fn progress(state: u8) -> Progress {
    if state & CLOSING != 0 {
        Progress::Closing
    } else if state & RESET != 0 {
        Progress::Reset
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
            let entry = cm_flow { verdict: epoch << 32 | 1 << 16, ..Default::default() };
            flow(&parts_of_v4(&key), &entry, 1, 250)
        };
        let epoch = Epoch::of_workload(5, false);
        let asked = of_epoch(u64::from(epoch.0));
        let later = [epoch, Epoch::of_workload(5, true), Epoch::of_workload(6, false)];
        assert_eq!(later.map(|now| asked.is_stale(now)), [false, true, true]);
        assert!(of_epoch(0).is_stale(Epoch::of_workload(0, false)), "never asked");
    }

    #[test]
    fn with_each_nic_that_falls_back_what_all_have_said_is_stale_and_never_comes_back() {
        let mut seen = std::collections::BTreeSet::new();
        for generation in 0..3 {
            for fallen_back in 0..=16 {
                assert!(seen.insert(Epoch::of_nics(generation, fallen_back).0));
            }
        }
    }

    #[test]
    fn there_is_room_for_as_many_flows_as_were_asked_for() {
        for asked in [1, 100, ENTRIES, 1 << 24] {
            assert!(entries(buckets(asked)) >= asked, "{asked}");
            assert!(entries(buckets(asked) - 1) < asked, "{asked}");
        }
    }
}
