//! `cm_devices`: where each endpoint is attached, of all of them in one system call. It repeats what their pinned
//! configurations say, which take several calls each.
//!
//! A line goes before the endpoint's configuration changes and comes back after that. So a command that was killed leaves
//! a line too few, never one that is not true; of an endpoint without a line the configuration is read.

use std::collections::BTreeMap;

use anyhow::Result;
use log::debug;

use crate::kernel::abi::{cm_config, cm_device, string_of, u32_key};
use crate::model::endpoint::EndpointId;
use crate::state::config::pinned_config;
use crate::state::generations::Generations;
use crate::state::maps::TypedMap;
use crate::state::pin::Root;

/// Its name.
pub const NAME: &str = "cm_devices";

type Map = TypedMap<u32_key, cm_device>;

/// The endpoints of a root, each with the device that it was attached to.
pub struct Devices {
    /// `None` if nobody has made it yet.
    map: Option<Map>,
    of: BTreeMap<EndpointId, Option<cm_device>>,
    /// Those of which the configuration was read.
    unlisted: Vec<EndpointId>,
    /// Lines of endpoints that are not there.
    left: Vec<u32_key>,
}

impl Devices {
    /// Reads all of them.
    pub fn read(root: &Root) -> Result<Devices> {
        let map = Map::open(root, NAME)?;
        let lines = map.as_ref().map_or(Ok(Vec::new()), Map::entries)?;
        let mut lines: BTreeMap<u32, cm_device> =
            lines.into_iter().map(|(key, device)| (key.0, device)).collect();
        let mut devices =
            Devices { map, of: BTreeMap::new(), unlisted: Vec::new(), left: Vec::new() };
        for id in root.endpoints()? {
            let listed = lines.remove(&id.get().into());
            if listed.is_none() {
                devices.unlisted.push(id);
            }
            let device = listed.or_else(|| pinned_config(root, id).map(|config| device(&config)));
            devices.of.insert(id, device);
        }
        devices.left = lines.into_keys().map(u32_key).collect();
        Ok(devices)
    }

    /// Each endpoint with its device; `None` if nobody can tell.
    pub fn iter(&self) -> impl Iterator<Item = (EndpointId, Option<&cm_device>)> {
        self.of.iter().map(|(id, device)| (*id, device.as_ref()))
    }

    /// Adds the lines that are missing and removes those of endpoints that somebody removed by hand. The caller holds
    /// the root's lock since before they were read.
    pub fn mend(&self) -> Result<()> {
        let Some(map) = &self.map else { return Ok(()) };
        for key in &self.left {
            map.delete(key)?;
        }
        for id in &self.unlisted {
            if let Some(Some(device)) = self.of.get(id) {
                enter(map, *id, device);
            }
        }
        Ok(())
    }
}

impl cm_device {
    /// Its name when it was attached.
    pub fn name(&self) -> String {
        string_of(&self.name)
    }
}

/// Puts an endpoint's programs on their hooks, or others in place of those of another configuration, and pins this one.
/// What was decided by and about either is stale then, also where it fails: they may have been there. The caller holds
/// the root's lock.
pub fn putting_on(
    root: &Root,
    config: &cm_config,
    previous: Option<&cm_config>,
    put_on: impl FnOnce() -> Result<()>,
) -> Result<()> {
    let (map, id) = (Map::open(root, NAME)?, config.endpoint());
    let generations = Generations::open(root)?;
    if let Some((map, id)) = map.as_ref().zip(id) {
        map.delete(&key(id))?;
    }
    let done = put_on();
    if let Some(generations) = generations {
        previous.into_iter().chain([config]).for_each(|config| generations.bump_endpoint(config));
    }
    done?;
    if let Some((map, id)) = map.zip(id) {
        enter(&map, id, &device(config));
    }
    Ok(())
}

/// Takes the programs of an endpoint off its hooks: its packets come without its mark then. The caller holds the root's
/// lock.
pub fn taking_off<T>(
    root: &Root,
    config: &cm_config,
    take_off: impl FnOnce() -> Result<T>,
) -> Result<T> {
    let generations = Generations::open(root)?;
    let done = take_off();
    if let Some(generations) = generations {
        generations.bump_endpoint(config);
    }
    done
}

/// Removes the directory of an endpoint with all pins. The caller holds the root's lock.
pub fn remove(root: &Root, id: EndpointId) -> Result<()> {
    if let Some(map) = Map::open(root, NAME)? {
        map.delete(&key(id))?;
    }
    root.endpoint(id).remove()
}

/// Without its line things are but slower.
fn enter(map: &Map, id: EndpointId, device: &cm_device) {
    if let Err(error) = map.set(&key(id), device) {
        debug!("endpoint {id} is not listed: {error:#}");
    }
}

fn key(id: EndpointId) -> u32_key {
    u32_key(id.get().into())
}

fn device(config: &cm_config) -> cm_device {
    let cm_config { netns, ifindex, device, .. } = *config;
    cm_device { netns, ifindex, name: device, pad: 0 }
}
