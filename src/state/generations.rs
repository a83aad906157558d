//! `cm_generations`: counters that grow with whatever verdicts follow from, so that an entry of conntrack that
//! was decided before is asked about again. Whoever writes a map, or puts programs on a hook, adds to them.

use std::array;
use std::cell::RefCell;
use std::collections::BTreeSet;
use std::mem::offset_of;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, Result, ensure};
use libbpf_rs::{MapCore, MapHandle};

use crate::kernel::abi::{cm_address, cm_config, cm_family, cm_generations, cm_role};
use crate::kernel::sys::SharedValue;
use crate::model::endpoint::EndpointId;
use crate::model::prefix::{hosts, is_host};
use crate::state::pin::{self, Root};

/// Its name.
pub const NAME: &str = "cm_generations";

/// How many counters of remote ends there are.
const REMOTES: usize = {
    let bytes = offset_of!(cm_generations, policies) - offset_of!(cm_generations, remotes);
    bytes / size_of::<u32>()
};

/// The counter of those that nobody can name: unspecified addresses, and link-local ones of IPv6.
const UNNAMED: usize = 0;

/// The counters, in memory that the programs read.
pub struct Generations {
    memory: SharedValue,
}

impl Generations {
    /// Those of a root; `None` if nobody has made them yet.
    pub fn open(root: &Root) -> Result<Option<Generations>> {
        pin::open_map(&root.map(NAME))?.as_ref().map(Generations::of).transpose()
    }

    /// Those that a program uses.
    pub fn of(map: &MapHandle) -> Result<Generations> {
        ensure!(
            map.value_size() as usize == size_of::<cm_generations>(),
            "{NAME} is a map of another layout; another version of cilmark made it"
        );
        let memory = SharedValue::of(map).with_context(|| format!("map {NAME}"))?;
        Ok(Generations { memory })
    }

    /// What a verdict on a flow counts for: `generation_of()` of the datapath. It is a workload's, or one that NICs
    /// share.
    pub fn of_flow(&self, remote: IpAddr, workload: Option<EndpointId>) -> u32 {
        let remote = self.at(remote_at(slot(&remote.into())));
        remote.wrapping_add(self.at(policy_at(workload)))
    }

    /// Grows with any of them.
    pub fn changes(&self) -> u32 {
        self.at(offset_of!(cm_generations, changes))
    }

    /// Whether somebody changes a workload's rules, or those of a NIC, or was killed while he did.
    pub fn is_policy_changing(&self, workload: Option<EndpointId>) -> bool {
        self.at(policy_at(workload)) & 1 == 1
    }

    /// The same of what remote ends are known for.
    pub fn is_remote_changing(&self) -> bool {
        self.writing().load(Ordering::SeqCst) != 0
    }

    /// Makes stale what was decided about flows with these at their other end: the ipcache or the endpoints say
    /// something else of them.
    pub fn bump_remotes(&self, remotes: &Remotes) {
        if held(|held| held.remotes.add(remotes)) {
            return;
        }
        let mut slots = remotes.slots().peekable();
        if slots.peek().is_some() {
            slots.for_each(|slot| self.add(remote_at(slot)));
            self.add(offset_of!(cm_generations, changes));
        }
    }

    /// From here to `end_remotes` something is written that remotes follow from. The caller holds the root's lock.
    pub(super) fn begin_remotes(&self) {
        if held(|_| ()) {
            return;
        }
        self.settle_remotes();
        self.writing().store(1, Ordering::SeqCst);
    }

    /// It is written, and concerns these.
    pub(super) fn end_remotes(&self, remotes: &Remotes) {
        self.bump_remotes(remotes);
        if !held(|_| ()) {
            self.writing().store(0, Ordering::SeqCst);
        }
    }

    /// Whoever died while he wrote has told nobody whom it concerns.
    pub(super) fn settle_remotes(&self) {
        if !held(|_| ()) && self.writing().load(Ordering::SeqCst) != 0 {
            self.end_remotes(&Remotes::all());
        }
    }

    fn writing(&self) -> &AtomicU32 {
        self.memory.u32_at(offset_of!(cm_generations, writing))
    }

    /// Makes stale what the policy of a workload has decided, or that of any NIC: its rules or its configuration
    /// are others. So whatever a command has begun that was killed is over.
    pub(super) fn bump_policy(&self, workload: Option<EndpointId>) {
        if held(|held| _ = held.policies.insert(workload)) {
            return;
        }
        self.set_policy(workload, |counter| counter.wrapping_add(2) & !1);
    }

    /// From here to `bump_policy` each packet asks the rules: whoever changes them may be killed before the kernel
    /// returns, when programs see the new ones already.
    pub(super) fn begin_policy(&self, workload: Option<EndpointId>) {
        if held(|held| _ = held.policies.insert(workload)) {
            return;
        }
        self.set_policy(workload, |counter| counter.wrapping_add(1) | 1);
    }

    fn set_policy(&self, workload: Option<EndpointId>, next: impl Fn(u32) -> u32) {
        let counter = self.memory.u32_at(policy_at(workload));
        let next = |value| Some(next(value));
        _ = counter.fetch_update(Ordering::SeqCst, Ordering::SeqCst, next);
        self.add(offset_of!(cm_generations, changes));
    }

    /// Makes stale what has to do with an endpoint that has come, has changed or has gone: what it has decided
    /// itself, and what others have decided about it.
    pub(super) fn bump_endpoint(&self, config: &cm_config) {
        let is_container = config.role == cm_role::CM_ROLE_CONTAINER;
        self.bump_policy(config.endpoint().filter(|_| is_container));
        self.bump_remotes(&Remotes::of_endpoint(config));
    }

    fn at(&self, offset: usize) -> u32 {
        self.memory.u32_at(offset).load(Ordering::SeqCst)
    }

    // No entry of conntrack lives long enough for a sum to come again.
    fn add(&self, offset: usize) {
        self.memory.u32_at(offset).fetch_add(1, Ordering::SeqCst);
    }
}

/// What grows when several changes have been made that count as one.
struct Held {
    remotes: Remotes,
    policies: BTreeSet<Option<EndpointId>>,
}

thread_local! {
    static HELD: RefCell<Option<Held>> = const { RefCell::new(None) };
}

/// Whether changes are held together; what to do then.
fn held(note: impl FnOnce(&mut Held)) -> bool {
    HELD.with_borrow_mut(|held| held.as_mut().map(note).is_some())
}

/// Makes many changes count as one: until the last one is made, what was decided before goes on to count, and then all that
/// they concern is stale. Who dies in between leaves that to whoever changes something next. The caller holds the root's
/// lock; changes are made in this thread.
pub fn at_once<T>(root: &Root, changes: impl FnOnce() -> T) -> Result<T> {
    let Some(generations) = Generations::open(root)? else { return Ok(changes()) };
    // Whom somebody's changes concern who has died while he made them is told at the end, too.
    let remotes = match generations.writing().swap(1, Ordering::SeqCst) {
        0 => Remotes::none(),
        _ => Remotes::all(),
    };
    let together = Together(generations);
    HELD.set(Some(Held { remotes, policies: BTreeSet::new() }));
    let done = changes();
    drop(together);
    Ok(done)
}

/// Lets them count, also where one panics.
struct Together(Generations);

impl Drop for Together {
    fn drop(&mut self) {
        let Some(held) = HELD.take() else { return };
        held.policies.iter().for_each(|workload| self.0.bump_policy(*workload));
        self.0.end_remotes(&held.remotes);
    }
}

/// Counters of remote ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Remotes([bool; REMOTES]);

impl Remotes {
    /// Of whatever address: a prefix has changed, or something of which nobody can name the addresses.
    pub fn all() -> Remotes {
        Remotes([true; REMOTES])
    }

    /// Of no address: nothing that anybody decides by is another.
    pub fn none() -> Remotes {
        Remotes([false; REMOTES])
    }

    /// Of one address.
    pub fn one(address: IpAddr) -> Remotes {
        Remotes::of([address.into()])
    }

    /// Of some addresses.
    pub(super) fn of(addresses: impl IntoIterator<Item = cm_address>) -> Remotes {
        let mut remotes = [false; REMOTES];
        addresses.into_iter().for_each(|address| remotes[slot(&address)] = true);
        Remotes(remotes)
    }

    /// Whom an endpoint may be for others, under whose identity they decide: a container has the addresses that it
    /// was given, and from those that nobody can name it asks for a lease. Without addresses, and with prefixes, it may have any. A NIC
    /// stands between this host and everybody: it stamps what it receives, and its own addresses are the host's.
    fn of_endpoint(config: &cm_config) -> Remotes {
        let addresses = config.addresses();
        let is_known = !addresses.is_empty() && addresses.iter().all(is_host);
        if config.role != cm_role::CM_ROLE_CONTAINER || !is_known {
            return Remotes::all();
        }
        let mut remotes = Remotes::of(hosts(&addresses).map(cm_address::from));
        remotes.0[UNNAMED] = true;
        remotes
    }

    fn add(&mut self, others: &Remotes) {
        others.slots().for_each(|slot| self.0[slot] = true);
    }

    fn slots(&self) -> impl Iterator<Item = usize> {
        self.0.iter().enumerate().filter(|(_, is_in)| **is_in).map(|(slot, _)| slot)
    }
}

/// Which counter an address has: `remote_slot()` of the datapath.
fn slot(address: &cm_address) -> usize {
    let words: [u32; 4] = array::from_fn(|word| {
        let bytes = &address.bytes[4 * word..][..4];
        u32::from_ne_bytes(bytes.try_into().expect("four bytes"))
    });
    if address.family == cm_family::CM_IPV6 && words[0] == 0xfe80_0000_u32.to_be() {
        return UNNAMED;
    }
    let xor = words.iter().fold(0, |xor, word| xor ^ word);
    (xor.wrapping_mul(0x9e37_79b1) >> (32 - REMOTES.ilog2())) as usize
}

fn remote_at(slot: usize) -> usize {
    offset_of!(cm_generations, remotes) + slot * size_of::<u32>()
}

fn policy_at(workload: Option<EndpointId>) -> usize {
    let index = usize::from(workload.map_or(0, EndpointId::get));
    offset_of!(cm_generations, policies) + index * size_of::<u32>()
}
