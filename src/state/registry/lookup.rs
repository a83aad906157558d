//! Endpoints by the names that commands give them.

use std::collections::BTreeMap;

use anyhow::{Error, Result, bail};

use super::Endpoint;
use crate::kernel::abi::cm_device;
use crate::kernel::{device, netns};
use crate::model::endpoint::{EndpointId, Selector};
use crate::model::text::visible;
use crate::state::devices::Devices;
use crate::state::pin::Root;

/// Endpoints, and what was wrong with those that could not be read.
pub struct Found {
    /// In the order of their numbers.
    pub endpoints: Vec<Endpoint>,
    /// Each says which endpoint it is about.
    pub errors: Vec<Error>,
    unread: Vec<EndpointId>,
    /// The namespace that it is narrowed to.
    netns: Option<u64>,
}

impl Found {
    /// All endpoints of a root, as far as they can be read.
    pub fn all(root: &Root) -> Result<Found> {
        Ok(Found::read(root, root.endpoints()?))
    }

    /// Those that one of these names may mean, or all if that leaves a name without its endpoint. Of
    /// the others only the line in `cm_devices` is read.
    pub fn named(root: &Root, selectors: &[Selector]) -> Result<Found> {
        let wanted = Wanted::new(selectors);
        let ids = wanted.choose(root)?;
        let found = Found::read(root, ids);
        match selectors.iter().all(|selector| found.select(selector).is_ok()) {
            true => Ok(found),
            false => Found::all(root),
        }
    }

    fn read(root: &Root, ids: Vec<EndpointId>) -> Found {
        let mut found =
            Found { endpoints: Vec::new(), errors: Vec::new(), unread: Vec::new(), netns: None };
        for id in ids {
            match Endpoint::read(root, id) {
                Ok(endpoint) => found.endpoints.push(endpoint),
                Err(error) => {
                    found.errors.push(error);
                    found.unread.push(id);
                }
            }
        }
        found
    }

    /// Leaves those of a namespace only: what is there, what was attached there and has moved, and what a
    /// killed `attach` has left before it was in any.
    pub fn narrow(&mut self, netns: u64) {
        self.netns = Some(netns);
        self.endpoints.retain(|endpoint| {
            [endpoint.netns, endpoint.config.netns].contains(&netns)
                || endpoint.config.endpoint().is_none()
        });
    }

    /// The one that a command names.
    pub fn select(&self, selector: &Selector) -> Result<&Endpoint> {
        let mut matching: Vec<&Endpoint> = self
            .endpoints
            .iter()
            .filter(|endpoint| match selector {
                // Also as it was shown, if it is no text.
                Selector::Device(name) => {
                    endpoint.device == *name || visible(&endpoint.device) == *name
                }
                Selector::Id(id) => endpoint.id == *id,
            })
            .collect();
        if let Selector::Device(name) = selector
            && matching.iter().all(|endpoint| endpoint.is_gone)
        {
            matching.extend(self.by_alternative_name(name));
        }
        if let (Some(netns), 2..) = (self.netns, matching.len())
            && matching.iter().filter(|endpoint| endpoint.netns == netns).count() == 1
        {
            matching.retain(|endpoint| endpoint.netns == netns);
        }
        match matching[..] {
            [endpoint] => Ok(endpoint),
            [] if self.may_be_unread(selector) => {
                bail!("`{selector}` is not among the endpoints that can be read")
            }
            [] => bail!("`{selector}` is not attached; `cilmark status` lists what is"),
            _ => {
                let ids: Vec<String> = matching.iter().map(|e| format!("id:{}", e.id)).collect();
                bail!(
                    "`{selector}` is the name of several devices: {}; say which, or narrow it \
                     with --netns",
                    ids.join(", ")
                )
            }
        }
    }

    /// Those whose device has this name beside its own (`ip link property add … altname`).
    fn by_alternative_name(&self, name: &str) -> Vec<&Endpoint> {
        let mut devices = BTreeMap::new();
        let mut found = Vec::new();
        for endpoint in self.endpoints.iter().filter(|endpoint| !endpoint.is_gone) {
            let device = devices.entry(endpoint.netns).or_insert_with(|| {
                let device = netns::within(endpoint.netns, || device::find(name));
                device.ok().flatten().flatten().map(|device| device.ifindex)
            });
            if *device == Some(endpoint.ifindex) && endpoint.device != name {
                found.push(endpoint);
            }
        }
        found
    }

    fn may_be_unread(&self, selector: &Selector) -> bool {
        match selector {
            Selector::Device(_) => !self.unread.is_empty(),
            Selector::Id(id) => self.unread.contains(id),
        }
    }
}

/// What is looked for, and where devices of these names are now.
struct Wanted<'a> {
    ids: Vec<EndpointId>,
    names: Vec<&'a str>,
    /// By namespace the devices of these names; `None` where nobody can look.
    devices: BTreeMap<u64, Option<Vec<u32>>>,
}

impl Wanted<'_> {
    fn new(selectors: &[Selector]) -> Wanted<'_> {
        let mut wanted = Wanted { ids: Vec::new(), names: Vec::new(), devices: BTreeMap::new() };
        for selector in selectors {
            match selector {
                Selector::Device(name) => wanted.names.push(name),
                Selector::Id(id) => wanted.ids.push(*id),
            }
        }
        wanted
    }

    fn choose(mut self, root: &Root) -> Result<Vec<EndpointId>> {
        if self.names.is_empty() {
            let mut chosen = root.endpoints()?;
            chosen.retain(|id| self.ids.contains(id));
            return Ok(chosen);
        }
        let all = Devices::read(root)?;
        let mut chosen = Vec::new();
        for (id, at) in all.iter() {
            if self.ids.contains(&id) || at.is_none_or(|at| self.may_have_a_name(at)) {
                chosen.push(id);
            }
        }
        Ok(chosen)
    }

    /// A device has the name that it was attached under, or has got another since.
    fn may_have_a_name(&mut self, attached: &cm_device) -> bool {
        if self.names.contains(&attached.name().as_str()) {
            return true;
        }
        let names = &self.names;
        let devices = self.devices.entry(attached.netns).or_insert_with(|| {
            let indices = || -> Result<Vec<u32>> {
                let devices = names.iter().map(|name| device::find(name));
                let devices: Vec<_> = devices.collect::<Result<_>>()?;
                Ok(devices.into_iter().flatten().map(|device| device.ifindex).collect())
            };
            netns::within(attached.netns, indices).map(Option::unwrap_or_default).ok()
        });
        devices.as_ref().is_none_or(|indices| indices.contains(&attached.ifindex))
    }
}
