//! The NICs of a root that have a policy, each under its slot: `cm_nics`, by which their programs judge the
//! flows that have passed another one, and with their rules in `cm_nic_policies`.

use std::mem::offset_of;
use std::sync::atomic::Ordering;

use anyhow::{Context, Result, bail};
use libbpf_rs::{MapCore, MapFlags, MapHandle};
use log::warn;

use crate::kernel::abi::{self, cm_config, cm_confirm, cm_fallback, cm_nic, cm_nics, u32_key};
use crate::kernel::device::Device;
use crate::kernel::sys::SharedValue;
use crate::model::endpoint::EndpointId;
use crate::model::enforcement::Confirmation;
use crate::model::wire::CM_NICS;
use crate::state::clock::Clock;
use crate::state::config;
use crate::state::conntrack;
use crate::state::generations::Generations;
use crate::state::pin::{self, Root};
use crate::state::rule_set::{Slot, set_of};

/// The name of the map.
pub const NICS: &str = "cm_nics";
/// That of their rules.
pub(super) const POLICIES: &str = "cm_nic_policies";

const COUNT: u8 = CM_NICS as u8;

/// The slots, which only the holder of the root's lock changes. Whatever changes makes stale what NICs have decided, also
/// where it fails.
pub struct Nics {
    root: Root,
    /// `None` where no program decides anything.
    generations: Option<Generations>,
    memory: SharedValue,
    policies: MapHandle,
}

/// A word of `cm_nics` with a bit for each slot.
#[derive(Clone, Copy)]
enum Bits {
    Taken = offset_of!(cm_nics, taken) as isize,
    Clocks = offset_of!(cm_nics, clocks) as isize,
    Used = offset_of!(cm_nics, used) as isize,
}

impl Nics {
    /// `None` if nobody has made the maps yet.
    pub fn open(root: &Root) -> Result<Option<Nics>> {
        let open = |name: &str| pin::open_map(&root.map(name));
        let Some((nics, policies)) = open(NICS)?.zip(open(POLICIES)?) else { return Ok(None) };
        let memory = SharedValue::of(&nics).with_context(|| format!("map {NICS}"))?;
        let generations = Generations::open(root)?;
        Ok(Some(Nics { root: root.clone(), generations, memory, policies }))
    }

    /// What is known of the NIC of a slot; all zero if nobody has it.
    pub fn get(&self, slot: u8) -> Result<cm_nic> {
        let words = (0..size_of::<cm_nic>()).step_by(4);
        let word = |at| self.memory.u32_at(offset(slot) + at).load(Ordering::Acquire);
        abi::from_bytes(&words.flat_map(|at| word(at).to_ne_bytes()).collect::<Vec<u8>>())
    }

    /// Makes known what a NIC's programs are going to be loaded with, before they are on its hooks. A clock that
    /// has run out goes on until they are, so that those before do not enforce once more; any other is the new
    /// one from now on. Whoever had the slot before leaves nothing, unless that is the same NIC.
    pub fn enter(&self, config: &cm_config, confirm: cm_confirm, is_same: bool) -> Result<()> {
        let Some(slot) = config.nic_slot() else { return Ok(()) };
        if !is_same {
            self.clear(slot)?;
            self.forget_others(slot, (config.ifindex, config.netns));
        }
        let is_new = confirm.fallback != cm_fallback::CM_FALLBACK_NONE;
        if is_new && !matches!(self.clock(slot).get(), Confirmation::Over(_)) {
            self.set_clock(slot, confirm);
        }
        self.set_bit(Bits::Used, slot, true);
        self.write(slot, &nic(config));
        self.bump();
        Ok(())
    }

    /// Lets flows forget whoever had a slot before, where another device gets it: before this one's flows are taken over
    /// under it. If nothing more comes, the next one finds that this device had it.
    pub fn take_from_others(&self, config: &cm_config) {
        let Some(slot) = config.nic_slot() else { return };
        self.forget_others(slot, (config.ifindex, config.netns));
        self.set_bit(Bits::Used, slot, true);
    }

    /// How many have gone back to what was before, since nobody confirmed in time.
    pub fn fallen_back(&self) -> u32 {
        let over = |slot: &u8| matches!(self.clock(*slot).get(), Confirmation::Over(_));
        (0..COUNT).filter(over).count() as u32
    }

    /// Whose the slots are.
    pub fn owners(&self) -> Result<Vec<Option<EndpointId>>> {
        (0..COUNT).map(|slot| self.owner(slot)).collect()
    }

    fn owner(&self, slot: u8) -> Result<Option<EndpointId>> {
        let number = self.get(slot)?.endpoint_id;
        Ok(u16::try_from(number).ok().and_then(EndpointId::new))
    }

    /// Ends that when they are on them. The endpoint gives up any other slot that it had.
    pub fn settle(&self, id: EndpointId, config: &cm_config, confirm: cm_confirm) -> Result<()> {
        if let Some(slot) = config.nic_slot() {
            self.set_clock(slot, confirm);
        }
        self.leave(id, config.nic_slot())
    }

    /// Puts back what was known before, if they are not; all zero: the slot is free.
    pub fn restore(&self, slot: u8, before: &cm_nic) -> Result<()> {
        if before.endpoint_id == 0 {
            return self.clear(slot);
        }
        self.set_clock(slot, before.confirm);
        self.write(slot, before);
        self.bump();
        Ok(())
    }

    /// Gives up the slots of an endpoint but this one.
    pub fn leave(&self, id: EndpointId, but: Option<u8>) -> Result<()> {
        for slot in (0..COUNT).filter(|slot| Some(*slot) != but) {
            if self.get(slot)?.endpoint_id == u32::from(id.get()) {
                self.clear(slot)?;
            }
        }
        Ok(())
    }

    fn clear(&self, slot: u8) -> Result<()> {
        let cleared = self.clear_words(slot);
        // No flow counts as allowed by whoever had the slot.
        self.bump();
        cleared
    }

    fn clear_words(&self, slot: u8) -> Result<()> {
        self.set_bit(Bits::Taken, slot, false);
        self.set_clock(slot, cm_confirm::default());
        let cm_nic { ifindex, netns, .. } = self.get(slot)?;
        self.write(slot, &cm_nic { ifindex, netns, ..cm_nic::default() });
        for set in [Slot::Current, Slot::Previous] {
            let key = u32_key(set_of(Some(slot), set));
            match self.policies.delete(abi::bytes_of(&key)) {
                Err(error) if error.kind() != libbpf_rs::ErrorKind::NotFound => {
                    return Err(error).with_context(|| format!("empty slot {slot} of {POLICIES}"));
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Lets flows forget whoever had a slot before, unless it was the same device: its flows go on, if its rules still
    /// allow them.
    fn forget_others(&self, slot: u8, device: (u32, u64)) {
        let last = self.get(slot).unwrap_or_default();
        if (last.ifindex, last.netns) == device {
            return;
        }
        if self.bits(Bits::Used) >> slot & 1 != 0
            && let Err(error) = conntrack::forget_nic(&self.root, slot)
        {
            // Its own rules will be asked about them.
            warn!("flows still know the NIC that had slot {slot}: {error:#}");
            return;
        }
        let (ifindex, netns) = device;
        self.write(slot, &cm_nic { ifindex, netns, ..last });
    }

    /// All but the clock, and last that somebody has the slot.
    fn write(&self, slot: u8, nic: &cm_nic) {
        let words =
            abi::bytes_of(nic).chunks_exact(4).enumerate().skip(size_of::<cm_confirm>() / 4);
        for (index, word) in words {
            let word = u32::from_ne_bytes(word.try_into().expect("a chunk of four"));
            self.memory.u32_at(offset(slot) + index * 4).store(word, Ordering::SeqCst);
        }
        self.set_bit(Bits::Taken, slot, nic.endpoint_id != 0);
    }

    fn bits(&self, which: Bits) -> u32 {
        self.memory.u32_at(which as usize).load(Ordering::SeqCst)
    }

    fn set_bit(&self, which: Bits, slot: u8, on: bool) {
        self.memory.set_bits(which as usize, 1 << slot, on);
    }

    /// The clock of its confirmation.
    fn clock(&self, slot: u8) -> Clock<'_> {
        clock(&self.memory, slot)
    }

    fn set_clock(&self, slot: u8, confirm: cm_confirm) {
        set_clock(&self.clock(slot), confirm, self.generations.as_ref());
    }

    fn bump(&self) {
        if let Some(generations) = &self.generations {
            generations.bump_policy(None);
        }
    }
}

/// Sets the clock of a NIC. How many have fallen back may be less then, as it has been before: so what was decided then is
/// made stale before this, and behind it what another one that has fallen back meanwhile has left.
pub(super) fn set_clock(clock: &Clock<'_>, confirm: cm_confirm, generations: Option<&Generations>) {
    let bump = || {
        if let Some(generations) = generations {
            generations.bump_policy(None);
        }
    };
    bump();
    clock.set(confirm);
    bump();
}

/// The clock of a slot, in the memory of `cm_nics`.
pub(super) fn clock(memory: &SharedValue, slot: u8) -> Clock<'_> {
    Clock { memory, at: clock_offset(slot), runs: Some((Bits::Clocks as usize, 1 << slot)) }
}

/// The slot that an endpoint has, else that which its device had last, else the lowest of those that nobody has: an endpoint
/// of which a killed command has left no directory is nobody.
pub fn slot_for(root: &Root, id: EndpointId, device: &Device, netns: u64) -> Result<u8> {
    let Some(nics) = Nics::open(root)? else { return Ok(0) };
    let (mut owners, there) = (nics.owners()?, root.endpoints()?);
    for owner in &mut owners {
        *owner = owner.filter(|id| there.contains(id));
    }
    let free = || (0..COUNT).filter(|slot| owners[usize::from(*slot)].is_none());
    let was_its = |slot: &u8| {
        let last = nics.get(*slot).map(|nic| (nic.ifindex, nic.netns));
        last.is_ok_and(|last| last == (device.ifindex, netns))
    };
    let own = owners.iter().position(|owner| *owner == Some(id)).map(|slot| slot as u8);
    if let Some(slot) = own.or_else(|| free().find(was_its)).or_else(|| free().next()) {
        return Ok(slot);
    }
    let name = |id: &EndpointId| config::device_name(root, *id).unwrap_or(format!("id:{id}"));
    let names: Vec<String> = owners.iter().flatten().map(name).collect();
    bail!(
        "{0} can't have a policy: {COUNT} NICs of one root may, and {1} have one; `cilmark detach` or \
         `attach --policy off` for one of these makes room, or attach {0} with another --bpffs; nothing \
         has changed",
        device.name,
        names.join(", ")
    )
}

/// The names that the NICs had when they were attached, by their slots.
pub fn names(root: &Root) -> Result<Vec<Option<String>>> {
    let owners = Nics::open(root)?.map(|nics| nics.owners()).transpose()?.unwrap_or_default();
    let name = |id: EndpointId| config::device_name(root, id).unwrap_or(format!("id:{id}"));
    Ok(owners.into_iter().map(|owner| owner.map(name)).collect())
}

/// What of a configuration other NICs have to know.
pub fn nic(config: &cm_config) -> cm_nic {
    cm_nic {
        endpoint_id: config.endpoint_id,
        policy: config.policy,
        failsafe_count: config.failsafe_count,
        failsafe: [config.failsafe_ingress, config.failsafe_egress],
        ifindex: config.ifindex,
        netns: config.netns,
        ..cm_nic::default()
    }
}

/// Of the maps of a private copy those that others have, too, but for the copy's own slot.
pub fn copy(
    from: Option<&MapHandle>,
    to: &MapHandle,
    config: &cm_config,
    confirm: cm_confirm,
) -> Result<()> {
    let Some(slot) = config.nic_slot() else { return Ok(()) };
    let key = u32_key(0);
    let key = abi::bytes_of(&key);
    let there = from.map(|map| map.lookup(key, MapFlags::ANY)).transpose()?.flatten();
    let mut nics: cm_nics =
        there.map(|bytes| abi::from_bytes(&bytes)).transpose()?.unwrap_or_default();
    nics.nics[usize::from(slot)] = cm_nic { confirm, ..nic(config) };
    nics.taken |= 1 << slot;
    nics.clocks |= 1 << slot;
    Ok(to.update(key, abi::bytes_of(&nics), MapFlags::ANY)?)
}

/// Where the clock of a slot stands in `cm_nics`.
pub(super) fn clock_offset(slot: u8) -> usize {
    offset(slot) + offset_of!(cm_nic, confirm)
}

fn offset(slot: u8) -> usize {
    offset_of!(cm_nics, nics) + usize::from(slot) * size_of::<cm_nic>()
}
