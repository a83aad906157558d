//! Filters of cilmark that no command knows of: those of clsact stay when their pins go (a bpffs that was unmounted, a
//! directory that was removed), and with them the policy that they enforce. A TCX link goes with its pin.

use std::cell::LazyCell;
use std::collections::HashSet;
use std::fs;

use anyhow::Result;

use crate::kernel::device::{self, Device};
use crate::kernel::hooks::{FILTER_HANDLE, HOOKS};
use crate::kernel::netns;
use crate::kernel::order::{self, OurFilter};
use crate::kernel::sys::Hook;
use crate::model::finding::{Finding, Findings};
use crate::ops::doctor::Host;
use crate::ops::doctor::commands::tool_in;
use crate::ops::order::is_cilmarks;
use crate::state::pin::Root;
use crate::state::registry::Endpoint;

/// Of all devices of the namespaces that are looked at.
pub fn examine(host: &Host<'_>) -> Result<Vec<Finding>> {
    let mut found = Vec::new();
    // Of what can't be read nobody knows whether it is an endpoint's.
    if !host.is_whole {
        return Ok(found);
    }
    let own: HashSet<u32> = host.endpoints.iter().flat_map(Endpoint::program_ids).collect();
    let beside = LazyCell::new(|| beside(host.root));
    let is_known = |id: &u32| own.contains(id) || beside.contains(id);
    for namespace in &host.namespaces {
        let devices = netns::within(*namespace, || {
            let with_filters = |device: Device| Ok((filters(&device)?, device));
            device::all()?.into_iter().map(with_filters).collect::<Result<Vec<_>>>()
        })?;
        for (mut filters, device) in devices.unwrap_or_default() {
            filters.retain(|it| !it.program.program_id.as_ref().is_some_and(is_known));
            if !filters.is_empty() {
                found.extend(finding(host, *namespace, &device, &filters));
            }
        }
    }
    Ok(found)
}

fn finding(host: &Host<'_>, netns: u64, device: &Device, filters: &[OurFilter]) -> Vec<Finding> {
    let names: Vec<&str> = filters.iter().map(|it| it.program.name.as_str()).collect();
    let remove = |it: &OurFilter| {
        let (hook, priority) = (it.program.hook.to_string(), it.priority.to_string());
        let handle = format!("{FILTER_HANDLE:#x}");
        let filter = ["tc", "filter", "del", "dev", &device.name, &hook];
        let of = ["pref", &priority, "handle", &handle, "bpf"];
        tool_in(netns, &[&filter[..], &of].concat())
    };
    let remove: Vec<String> = filters.iter().map(remove).collect();
    let mut findings = Findings::of(&host.name_in(netns, &device.name));
    findings.warning(
        "lost filter",
        format!(
            "{} of cilmark on it, by clsact, belong to no endpoint: they go on with the policy and the rules that they had, \
             and no other command shows or changes them",
            names.join(" and ")
        ),
        &format!("`{}` takes them off", remove.join(" && ")),
    );
    findings.all
}

fn filters(device: &Device) -> Result<Vec<OurFilter>> {
    let on = |hook: Hook| order::our_filters(device.ifindex, hook);
    let mut filters = HOOKS.map(on).into_iter().collect::<Result<Vec<_>>>()?.concat();
    filters.retain(|it| is_cilmarks(&it.program));
    Ok(filters)
}

/// The programs of endpoints of the roots beside this one.
fn beside(root: &Root) -> HashSet<u32> {
    let entries = root.path().parent().and_then(|it| fs::read_dir(it).ok());
    let roots = entries.into_iter().flatten().flatten().map(|entry| Root::new(entry.path()));
    let others = roots.filter(|it| it.path() != root.path());
    let endpoints = others.flat_map(|root| {
        let ids = root.endpoints().unwrap_or_default();
        ids.into_iter().filter_map(move |id| Endpoint::read(&root, id).ok())
    });
    endpoints.flat_map(|it| it.program_ids()).collect()
}
