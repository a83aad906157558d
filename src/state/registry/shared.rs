//! The maps that endpoints share: what their programs run on is what is pinned, or nothing is written.
//!
//! A pin can be removed while programs go on with its map. A new map in its place would take what
//! commands write, and no program would see it. So a pin that is missing is made again from the map that
//! programs have, and a pin of another map is an error.

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Error, Result, anyhow, ensure};
use libbpf_rs::{MapCore, MapHandle};
use log::warn;

use super::{Endpoint, Running};
use crate::kernel::abi::{cm_config, cm_delivery};
use crate::kernel::sys;
use crate::model::endpoint::EndpointId;
use crate::state::config::{pinned_config, read_config};
use crate::state::delivery;
use crate::state::layout::{self, HELD_BY_ALL, SHARED};
use crate::state::pin::Root;

/// Hundredths of a second until the kernel has emptied an array of programs for certain.
const EMPTYING: u32 = 10;

/// The maps that programs use without a pin, by the pin that is missing.
pub type Lost = BTreeMap<PathBuf, MapHandle>;

/// Pins again what programs use, where a pin is missing. Looks at programs only if it is one that every
/// root has. The caller holds the root's lock.
pub fn restore(root: &Root) -> Result<()> {
    if layout::lacks_pins(root) && !root.endpoints()?.is_empty() {
        restore_all(root)
    } else {
        Ok(())
    }
}

fn restore_all(root: &Root) -> Result<()> {
    lost(root)?.iter().try_for_each(|(pin, map)| pin_again(root, pin, map))
}

/// What programs use without a pin. Reads the programs of all endpoints.
pub fn lost(root: &Root) -> Result<Lost> {
    let mut found: BTreeMap<PathBuf, (u32, EndpointId)> = BTreeMap::new();
    let mut reader = Reader::new(root);
    for id in root.endpoints()? {
        for (pin, map) in reader.uses_of(id)? {
            if map == NO_MAP || pin.exists() {
                continue;
            }
            let (first, by) = *found.entry(pin.clone()).or_insert((map, id));
            ensure!(
                first == map,
                "{} is gone, and the programs of endpoints {by} and {id} use different maps in its \
                 place; `cilmark detach --all`, and attach again",
                pin.display()
            );
        }
    }
    let open = |(pin, (map, _)): (PathBuf, (u32, EndpointId))| {
        let handle = MapHandle::from_map_id(map).with_context(|| format!("open map {map}"))?;
        Ok((pin, handle))
    };
    found.into_iter().map(open).collect()
}

/// Gives a map its pin back.
pub fn pin_again(root: &Root, pin: &Path, map: &MapHandle) -> Result<()> {
    sys::pin(map.as_fd(), pin).with_context(|| format!("pin {}", pin.display()))?;
    warn!("{} was gone; the map that programs use is pinned there again", pin.display());
    if pin == root.map(delivery::POLICY_CALLS) {
        // The kernel empties it when its last pin has gone, but not at once.
        for _ in 0..EMPTYING {
            enter_callees(root)?;
            thread::sleep(Duration::from_millis(10));
        }
        enter_callees(root)?;
    }
    Ok(())
}

fn enter_callees(root: &Root) -> Result<()> {
    for id in root.endpoints()? {
        let [_, egress] = Running::of_endpoint(root, id)?;
        let takes_delivery = |config: cm_config| config.delivery != cm_delivery::CM_DELIVERY_NONE;
        if let Some(running) = egress
            && pinned_config(root, id).is_some_and(takes_delivery)
        {
            delivery::set_callee(root, id, Some(running.program.as_fd()))?;
        }
    }
    Ok(())
}

/// Fails if the programs of an endpoint use another map than the one that is pinned: what is written
/// there would not count, and whoever wrote it would say that it does. The caller holds the root's lock.
pub fn check(root: &Root, endpoint: &Endpoint) -> Result<()> {
    let mut reader = Reader::new(root);
    let uses = reader.uses(endpoint.id, &endpoint.programs)?;
    reader.compare(&uses)
}

/// The same for all endpoints of a root that can be read.
pub fn check_all(root: &Root) -> Result<()> {
    let mut reader = Reader::new(root);
    for id in root.endpoints()? {
        if let Ok(uses) = reader.uses_of(id) {
            reader.compare(&uses)?;
        }
    }
    Ok(())
}

/// The same for the maps that every program holds, which shows without opening what else it has.
pub fn check_all_held(root: &Root) -> Result<()> {
    let mut reader = Reader::new(root);
    let held = HELD_BY_ALL.map(|name| reader.pinned_id(&root.map(name)));
    for id in root.endpoints()? {
        let Ok(programs) = Running::of_endpoint(root, id) else { continue };
        let holds = |running: &Running, map: &Option<u32>| {
            map.is_some_and(|map| running.facts.map_ids.contains(&map))
        };
        let all = |running: &Running| held.iter().all(|map| holds(running, map));
        if !programs.iter().flatten().all(all) {
            let uses = reader.uses(id, &programs)?;
            reader.compare(&uses)?;
        }
    }
    Ok(())
}

/// The same for one of them in place of all, which would take longer than to attach one: it is all of
/// them that a new map leaves behind.
pub fn check_one(root: &Root, except: &BTreeSet<EndpointId>) -> Result<()> {
    let mut reader = Reader::new(root);
    let others = root.endpoints()?.into_iter().filter(|id| !except.contains(id));
    let mut uses = others.filter_map(|id| reader.uses_of(id).ok()).filter(|uses| !uses.is_empty());
    match uses.next() {
        Some(uses) => Reader::new(root).compare(&uses),
        None => Ok(()),
    }
}

/// Where a map is to be pinned, and the kernel's number of the one that a program uses.
type Use = (PathBuf, u32);

/// The number of no map: the program is another version's, and lacks one that every program holds.
const NO_MAP: u32 = 0;

/// Reads what programs use, each map once.
struct Reader<'a> {
    root: &'a Root,
    /// Of those that are shared, open: the kernel empties an array of programs without a pin some time
    /// after its last descriptor is closed, also if it has a pin again by then.
    known: BTreeMap<u32, Option<(&'static str, MapHandle)>>,
    pinned: BTreeMap<PathBuf, Option<u32>>,
}

impl Reader<'_> {
    fn new(root: &Root) -> Reader<'_> {
        Reader { root, known: BTreeMap::new(), pinned: BTreeMap::new() }
    }

    fn uses_of(&mut self, id: EndpointId) -> Result<Vec<Use>> {
        let programs = Running::of_endpoint(self.root, id);
        let uses = programs.and_then(|programs| self.uses(id, &programs));
        uses.with_context(|| format!("read endpoint {id}"))
    }

    fn uses(&mut self, id: EndpointId, programs: &[Option<Running>; 2]) -> Result<Vec<Use>> {
        let mut uses = Vec::new();
        for running in programs.iter().flatten() {
            let mut lacking = HELD_BY_ALL.to_vec();
            for map in &running.facts.map_ids {
                let Some(name) = self.name(*map)? else { continue };
                lacking.retain(|held| *held != name);
                let pin = match name {
                    "cm_flows4" | "cm_flows6" if has_flows_of_its_own(running)? => {
                        self.root.endpoint(id).map(name)
                    }
                    name => self.root.map(name),
                };
                uses.push((pin, *map));
            }
            uses.extend(lacking.into_iter().map(|name| (self.root.map(name), NO_MAP)));
        }
        Ok(uses)
    }

    /// The name of a map, if endpoints share it.
    fn name(&mut self, id: u32) -> Result<Option<&'static str>> {
        if let Some(known) = self.known.get(&id) {
            return Ok(known.as_ref().map(|(name, _)| *name));
        }
        let map = MapHandle::from_map_id(id).with_context(|| format!("open map {id}"))?;
        let name = SHARED.iter().map(|layout| layout.name).find(|name| map.name() == *name);
        self.known.insert(id, name.map(|name| (name, map)));
        Ok(name)
    }

    fn compare(&mut self, uses: &[Use]) -> Result<()> {
        if uses.iter().any(|(pin, _)| !pin.exists()) {
            restore_all(self.root)?;
        }
        match uses.iter().find(|used| !self.is_pinned(used)) {
            Some((pin, _)) => Err(self.mismatch(pin)),
            None => Ok(()),
        }
    }

    fn is_pinned(&mut self, (pin, id): &Use) -> bool {
        self.pinned_id(pin) == Some(*id)
    }

    fn pinned_id(&mut self, pin: &Path) -> Option<u32> {
        let look = || Some(MapHandle::from_pinned_path(pin).ok()?.info().ok()?.info.id);
        *self.pinned.entry(pin.to_owned()).or_insert_with(look)
    }

    /// Names all that are concerned.
    fn mismatch(&mut self, pin: &Path) -> Error {
        let mut names = Vec::new();
        for id in self.root.endpoints().unwrap_or_default() {
            let mut uses = self.uses_of(id).unwrap_or_default();
            uses.retain(|used| used.0 == pin);
            if !uses.iter().all(|used| self.is_pinned(used)) {
                let config = pinned_config(self.root, id).unwrap_or_default();
                names.push(format!("{} (endpoint {id})", config.device_name()));
            }
        }
        if self.pinned_id(pin).is_none() {
            return anyhow!(
                "{} is not there, which this cilmark would change, since an older one has attached {}; nothing has \
                 changed: attach each of these again, or `cilmark detach --all` and attach",
                pin.display(),
                names.join(", ")
            );
        }
        anyhow!(
            "{} is another map than the one that the programs of {} use, which would see nothing of \
             a change; nothing has changed: attach each of these again, or `cilmark detach --all` and \
             attach",
            pin.display(),
            names.join(", ")
        )
    }
}

fn has_flows_of_its_own(running: &Running) -> Result<bool> {
    let config = running.map(".rodata")?.context("its program has no .rodata")?;
    Ok(read_config(&config)?.ct_local != 0)
}
