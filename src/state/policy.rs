//! An endpoint's rules in the kernel: two sets, each a hash map `cm_policy` that is written once and then only
//! replaced, and `cm_rule_stats`, what each rule has decided. The sets of NICs with a policy lie in
//! `cm_nic_policies`, those of another endpoint in a map of maps of its own, `cm_policy_sets`.

mod encoding;
mod put;

use std::collections::HashMap;
use std::os::fd::AsRawFd;
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use libbpf_rs::{MapCore, MapFlags, MapHandle, MapType};
use libbpf_sys as bpf;

use crate::kernel::abi::{self, cm_metrics, cm_policy_entry, cm_policy_key, cm_role, u32_key};
use crate::kernel::sys;
use crate::model::endpoint::EndpointId;
use crate::model::policy::{Listed, Policy, RuleNumber};
use crate::model::rule::Rule;
use crate::state::config;
use crate::state::counters;
use crate::state::generations::{self, Generations};
use crate::state::maps::TypedMap;
use crate::state::nics;
use crate::state::pin::{self, Root};
use crate::state::rule_set::set_of;

pub(super) use encoding::{of_made, to_made};
use put::{Put, put_all};
pub use put::{put_all_previous, swap_all};

pub use crate::state::rule_set::Slot;

/// Entries of a policy that nobody gave a size: 64 KiB of counters on each CPU.
pub const ENTRIES: u32 = 1 << 12;

type RuleSet = TypedMap<cm_policy_key, cm_policy_entry>;

/// The policy maps of one endpoint.
pub struct PolicyMaps {
    root: Root,
    id: EndpointId,
    /// Whose verdicts these rules give: a workload's, or those of all NICs.
    workload: Option<EndpointId>,
    sets: MapHandle,
    /// Where in `sets` the endpoint's lie, if others have some there, too.
    nic_slot: Option<u8>,
    counters: MapHandle,
    generations: Generations,
}

impl PolicyMaps {
    /// Finds the maps among those that the endpoint's programs use.
    pub fn of(
        root: &Root,
        id: EndpointId,
        map_ids: impl IntoIterator<Item = u32>,
    ) -> Result<PolicyMaps> {
        let (mut sets, mut of_nics, mut counters) = (None, None, None);
        let (mut generations, mut config) = (None, None);
        for map_id in map_ids {
            let map = MapHandle::from_map_id(map_id)
                .with_context(|| format!("open map {map_id} of endpoint {id}"))?;
            match map.name().to_str() {
                Some("cm_policy_sets") => sets = Some(map),
                Some(nics::POLICIES) => of_nics = Some(map),
                Some("cm_rule_stats") => counters = Some(map),
                Some(generations::NAME) => generations = Some(map),
                Some(name) if name.ends_with(".rodata") => config = Some(map),
                _ => {}
            }
        }
        let hint =
            || format!("the programs of endpoint {id} know no rules; attach its device again");
        let config = config::read_config(&config.with_context(hint)?)?;
        let of_nics = of_nics.zip(config.nic_slot()).map(|(sets, slot)| (sets, Some(slot)));
        let sets = of_nics.or(sets.map(|sets| (sets, None)));
        let (sets, nic_slot) = sets.with_context(hint)?;
        Ok(PolicyMaps {
            root: root.clone(),
            id,
            workload: (config.role == cm_role::CM_ROLE_CONTAINER).then_some(id),
            sets,
            nic_slot,
            counters: counters.with_context(hint)?,
            generations: Generations::of(&generations.with_context(hint)?)?,
        })
    }

    /// Whether these lie where those do, of other programs of the endpoint.
    pub fn are_those_of(&self, others: &PolicyMaps) -> Result<bool> {
        let number = |maps: &PolicyMaps| Ok::<_, anyhow::Error>(maps.sets.info()?.info.id);
        Ok(number(self)? == number(others)? && self.nic_slot == others.nic_slot)
    }

    /// The rules that were in force when they were changed last, by their pin: it outlives the programs.
    pub fn pinned(root: &Root, id: EndpointId) -> Result<Policy> {
        match TypedMap::open_at(&root.endpoint(id).map("cm_policy"))? {
            Some(set) => read_set(id, &set),
            None => Ok(Policy::default()),
        }
    }

    /// The rules in a slot; none if it is empty.
    pub fn read(&self, slot: Slot) -> Result<Policy> {
        match self.set(slot)? {
            Some(set) => read_set(self.id, &set),
            None => Ok(Policy::default()),
        }
    }

    /// Replaces the current rules in one step. What fails has changed nothing. The caller holds the
    /// root's lock.
    pub fn swap(&self, policy: &Policy) -> Result<()> {
        swap_all(&[(self, policy)]).map_err(|(_, error)| error)
    }

    /// Fails if these rules, in the place of others, do not fit.
    pub fn check(&self, policy: &Policy, before: &Policy) -> Result<()> {
        self.check_room(policy, encoding::encode(policy).len(), before)
    }

    /// Makes these the previous rules, where what is current knows their numbers: its counters go on.
    pub fn put_previous(&self, policy: &Policy) -> Result<()> {
        put_all_previous(&[(self, policy)]).map_err(|(_, error)| error)
    }

    /// Keeps the current rules as the previous ones.
    pub fn keep(&self) -> Result<()> {
        self.put(Slot::Previous, self.set(Slot::Current)?.as_ref())
    }

    /// Gives the previous rules up.
    pub fn forget(&self) -> Result<()> {
        self.put(Slot::Previous, None)
    }

    /// Makes the previous rules the current ones, too; none, if there were none when they were kept.
    /// The caller holds the root's lock.
    pub fn revert(&self) -> Result<()> {
        match self.set(Slot::Previous)? {
            Some(previous) => self.install(&previous, self.set(Slot::Current)?.as_ref()),
            None => self.swap(&Policy::default()),
        }
    }

    /// What a rule has decided about, or one of `enum cm_rule_number`; all CPUs together. Zeros
    /// where the endpoint has no policy in force.
    pub fn counter(&self, number: RuleNumber) -> Result<cm_metrics> {
        counters::sum_of_cpus(&self.counters, number.0)
            .with_context(|| format!("read cm_rule_stats of endpoint {}", self.id))
    }

    /// Entries that a set of rules may have. The counters have the size that was asked for, but
    /// for an endpoint without a policy in force, which has none.
    fn capacity(&self) -> u32 {
        match self.counters.max_entries() {
            1 => ENTRIES,
            entries => entries,
        }
    }

    /// How many entries rules come to, and how many these maps take.
    pub fn used(&self, policy: &Policy) -> (u64, u64) {
        let entries = encoding::encode(policy).len();
        (entries.max(numbers(policy)) as u64, self.capacity().into())
    }

    fn set(&self, slot: Slot) -> Result<Option<RuleSet>> {
        let key = u32_key(set_of(self.nic_slot, slot));
        // A map of maps takes descriptors and gives numbers.
        let id = self.sets.lookup(abi::bytes_of(&key), MapFlags::ANY);
        let Some(id) = id.with_context(|| self.failed("look up", slot))? else {
            return Ok(None);
        };
        let id: u32_key = abi::from_bytes(&id)?;
        let set = MapHandle::from_map_id(id.0).with_context(|| self.failed("open", slot))?;
        let sizes = (set.key_size() as usize, set.value_size() as usize);
        ensure!(
            sizes == (size_of::<cm_policy_key>(), size_of::<cm_policy_entry>()),
            "the rules of endpoint {} are of another layout; another version of cilmark wrote them: use \
             that one, or attach its device again after a detach",
            self.id
        );
        Ok(Some(TypedMap::of(set)))
    }

    fn put(&self, slot: Slot, set: Option<&RuleSet>) -> Result<()> {
        put_all(&[Put { maps: self, slot, set }]).map_err(|(_, error)| error)
    }

    fn failed(&self, what: &str, slot: Slot) -> String {
        let slot = if slot == Slot::Current { "current" } else { "previous" };
        format!("{what} the {slot} rules of endpoint {}", self.id)
    }

    fn pin(&self) -> PathBuf {
        self.root.endpoint(self.id).map("cm_policy")
    }

    fn install(&self, new: &RuleSet, before: Option<&RuleSet>) -> Result<()> {
        self.put(Slot::Current, Some(new))?;
        let finished = pin::replace(new.handle(), &self.pin());
        if finished.is_err() {
            self.put(Slot::Current, before)?;
        }
        finished
    }

    /// Checks that rules fit, and makes a set of them.
    fn make(&self, policy: &Policy, before: &Policy) -> Result<RuleSet> {
        let entries = encoding::encode(policy);
        self.check_room(policy, entries.len(), before)?;
        self.create_set(&entries)
    }

    /// With the types of the program's own BTF, so that other tools can name the fields.
    fn create_set(&self, entries: &[(cm_policy_key, cm_policy_entry)]) -> Result<RuleSet> {
        let create = || -> Result<RuleSet> {
            let btf_id = self.counters.info()?.info.btf_id;
            let (btf, [key, value]) =
                sys::open_btf(btf_id, [c"cm_policy_key", c"cm_policy_entry"])?;
            let options = bpf::bpf_map_create_opts {
                sz: size_of::<bpf::bpf_map_create_opts>() as _,
                btf_fd: btf.as_raw_fd() as u32,
                btf_key_type_id: key,
                btf_value_type_id: value,
                ..Default::default()
            };
            let set = MapHandle::create(
                MapType::Hash,
                Some("cm_policy"),
                size_of::<cm_policy_key>() as u32,
                size_of::<cm_policy_entry>() as u32,
                entries.len() as u32,
                &options,
            )?;
            let set = TypedMap::of(set);
            set.set_all(entries, |_| Ok(()))?;
            Ok(set)
        };
        create().with_context(|| format!("make a map for the rules of endpoint {}", self.id))
    }

    fn check_room(&self, policy: &Policy, entries: usize, before: &Policy) -> Result<()> {
        let capacity = self.capacity() as usize;
        let needed = entries.max(numbers(policy));
        ensure!(
            needed <= capacity,
            "{} rules need {needed} entries, and the policy of endpoint {} takes {capacity}, of \
             which {} are free; attach its device again with --policy-entries {needed} or more \
             (ranges of ports cost up to 104 entries each, those like 4096-8191 one)",
            policy.rules().len(),
            self.id,
            capacity.saturating_sub(encoding::encode(before).len()),
        );
        Ok(())
    }

    /// Rules that are new begin at zero, whoever had their number before.
    fn reset_counters(&self, policy: &Policy, before: &Policy) -> Result<()> {
        let before: HashMap<RuleNumber, Rule> =
            before.rules().iter().map(|listed| (listed.number, listed.rule)).collect();
        let new = policy.rules().iter().filter(|new| before.get(&new.number) != Some(&new.rule));
        let zero = abi::bytes_of(&cm_metrics::default()).to_vec();
        let zeros = vec![zero; libbpf_rs::num_possible_cpus()?];
        // An endpoint without a policy in force counts nothing.
        for Listed { number, .. } in new.filter(|new| new.number.0 < self.counters.max_entries()) {
            self.counters
                .update_percpu(abi::bytes_of(&u32_key(number.0)), &zeros, MapFlags::ANY)
                .with_context(|| format!("reset the counters of endpoint {}", self.id))?;
        }
        Ok(())
    }
}

/// A rule's number indexes its counters, and some numbers below are nobody's.
fn numbers(policy: &Policy) -> usize {
    policy.rules().iter().map(|listed| listed.number.0 as usize + 1).max().unwrap_or(0)
}

fn read_set(id: EndpointId, set: &RuleSet) -> Result<Policy> {
    let rules = encoding::decode(&set.entries()?).with_context(|| {
        format!(
            "the rules of endpoint {id} are malformed; another version of cilmark wrote them, or \
             another program: attach its device again after a detach"
        )
    })?;
    Ok(Policy::of(rules))
}
