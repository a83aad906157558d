//! Sets of rules into their places: of several endpoints together, or of one that nobody runs yet.

use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::thread;

use anyhow::{Context, Error, Result};
use libbpf_rs::{MapCore, MapFlags, MapHandle};
use log::warn;

use super::{PolicyMaps, RuleSet, read_set};
use crate::kernel::abi::{self, u32_key};
use crate::model::endpoint::EndpointId;
use crate::model::policy::Policy;
use crate::state::generations::Generations;
use crate::state::pin;
use crate::state::rule_set::{Slot, set_of};

/// What is to lie in a slot of an endpoint.
pub struct Put<'a> {
    pub maps: &'a PolicyMaps,
    pub slot: Slot,
    pub set: Option<&'a RuleSet>,
}

/// An error, and at which of several it was.
pub type At = (usize, Error);

/// So many wait for the kernel at the same time.
const WAITING: usize = 32;

/// Replaces the current rules of several endpoints, those of each in one step. What fails has changed nothing. The caller
/// holds the root's lock.
pub fn swap_all(changes: &[(&PolicyMaps, &Policy)]) -> Result<(), At> {
    let make = |(at, (maps, policy)): (usize, &(&PolicyMaps, &Policy))| {
        let make = || -> Result<(Option<RuleSet>, RuleSet)> {
            let before = maps.set(Slot::Current)?;
            let rules_before = match &before {
                Some(set) => read_set(maps.id, set)?,
                None => Policy::default(),
            };
            let new = maps.make(policy, &rules_before)?;
            maps.reset_counters(policy, &rules_before)?;
            Ok((before, new))
        };
        make().map_err(|error| (at, error))
    };
    let made: Vec<(Option<RuleSet>, RuleSet)> =
        changes.iter().enumerate().map(make).collect::<Result<_, _>>()?;
    let each = || changes.iter().map(|(maps, _)| *maps).zip(&made);
    let current = |maps, set| Put { maps, slot: Slot::Current, set };
    let new: Vec<Put<'_>> = each().map(|(maps, (_, new))| current(maps, Some(new))).collect();
    let mut pinned = 0;
    let done = put_all(&new).and_then(|()| {
        each().enumerate().try_for_each(|(at, (maps, (_, new)))| {
            pin::replace(new.handle(), &maps.pin()).map_err(|error| (at, error))?;
            pinned = at + 1;
            Ok(())
        })
    });
    if done.is_err() {
        let put_back = |(maps, (before, _)): (&PolicyMaps, &(Option<RuleSet>, RuleSet))| {
            maps.put(Slot::Current, before.as_ref())
        };
        let pin_back =
            |(maps, (before, _)): (&PolicyMaps, &(Option<RuleSet>, RuleSet))| match before {
                Some(before) => pin::replace(before.handle(), &maps.pin()),
                None => maps.root.endpoint(maps.id).remove_map("cm_policy"),
            };
        let undone = each().map(put_back).chain(each().take(pinned).map(pin_back));
        undone.filter_map(Result::err).for_each(|error| warn!("put rules back: {error:#}"));
    }
    done
}

/// The same of what unconfirmed changes fall back to.
pub fn put_all_previous(changes: &[(&PolicyMaps, &Policy)]) -> Result<(), At> {
    let make = |(at, (maps, policy)): (usize, &(&PolicyMaps, &Policy))| {
        maps.make(policy, policy).map_err(|error| (at, error))
    };
    let made: Vec<RuleSet> = changes.iter().enumerate().map(make).collect::<Result<_, _>>()?;
    let puts = changes.iter().zip(&made);
    let puts = puts.map(|((maps, _), set)| Put { maps, slot: Slot::Previous, set: Some(set) });
    put_all(&puts.collect::<Vec<_>>())
}

/// The kernel returns when no program sees what was there before, which takes milliseconds however many wait for it: so
/// they do together. What these have decided is stale then, and counts for nothing from now on, in case that nobody is left
/// to say so.
pub fn put_all(puts: &[Put<'_>]) -> Result<(), At> {
    let bump = |change: fn(&Generations, Option<EndpointId>)| {
        puts.iter().for_each(|put| change(&put.maps.generations, put.maps.workload));
    };
    bump(Generations::begin_policy);
    let works: Vec<(usize, &MapHandle, u32_key, Option<RawFd>)> = puts
        .iter()
        .enumerate()
        .map(|(at, put)| {
            let key = u32_key(set_of(put.maps.nic_slot, put.slot));
            let set = put.set.map(|set| set.handle().as_fd().as_raw_fd());
            (at, &put.maps.sets, key, set)
        })
        .collect();
    let put = |work: &[(usize, &MapHandle, u32_key, Option<RawFd>)]| {
        work.iter().try_for_each(|(at, sets, key, set)| {
            put_in_slot(sets, *key, *set).map_err(|error| (*at, error))
        })
    };
    let share = works.len().div_ceil(WAITING).max(1);
    let done = match works.len() {
        0 | 1 => put(&works),
        _ => thread::scope(|scope| {
            let threads = works.chunks(share).map(|work| scope.spawn(move || put(work)));
            let threads: Vec<_> = threads.collect();
            let done = threads.into_iter().map(|thread| thread.join().expect("no panic"));
            // All of them, so that none writes on after a failure.
            done.collect::<Vec<_>>().into_iter().collect()
        }),
    };
    bump(Generations::bump_policy);
    done.map_err(|(at, error)| {
        let Put { maps, slot, .. } = puts[at];
        (at, error.context(maps.failed("replace", slot)))
    })
}

fn put_in_slot(sets: &MapHandle, key: u32_key, set: Option<RawFd>) -> Result<()> {
    let key = abi::bytes_of(&key);
    let done = match set {
        Some(descriptor) => sets.update(key, &descriptor.to_ne_bytes(), MapFlags::ANY),
        None => sets.delete(key),
    };
    match done {
        Err(error) if set.is_none() && error.kind() == libbpf_rs::ErrorKind::NotFound => Ok(()),
        done => Ok(done?),
    }
}

impl PolicyMaps {
    /// Gives rules to an endpoint whose programs are on no hook yet, without waiting for them. What fails has changed nothing
    /// but its directory. The caller holds the root's lock.
    pub fn swap_unseen(&self, policy: &Policy) -> Result<()> {
        let none = Policy::default();
        let new = self.make(policy, &none)?;
        self.reset_counters(policy, &none)?;
        self.generations.begin_policy(self.workload);
        let key = u32_key(set_of(self.nic_slot, Slot::Current));
        let done = put_unseen(&self.sets, key, new.handle());
        self.generations.bump_policy(self.workload);
        done.with_context(|| self.failed("replace", Slot::Current))?;
        pin::replace(new.handle(), &self.pin())
    }
}

/// Returns when the set is in its place: that no program sees what was there before, for which the kernel has the caller
/// wait, another thread waits for, or nobody if this process ends.
fn put_unseen(sets: &MapHandle, key: u32_key, set: &MapHandle) -> Result<()> {
    let id = |map: &MapHandle| Ok::<_, Error>(map.info()?.info.id);
    let number = id(set)?;
    let (theirs, its) = (MapHandle::from_map_id(id(sets)?)?, MapHandle::from_map_id(number)?);
    let put = move || put_in_slot(&theirs, key, Some(its.as_fd().as_raw_fd()));
    let Ok(thread) = thread::Builder::new().spawn(put) else {
        return put_in_slot(sets, key, Some(set.as_fd().as_raw_fd()));
    };
    loop {
        let there = sets.lookup(abi::bytes_of(&key), MapFlags::ANY)?;
        if there.is_some_and(|there| there == number.to_ne_bytes()) {
            return Ok(());
        }
        if thread.is_finished() {
            return thread.join().expect("no panic");
        }
        thread::yield_now();
    }
}
