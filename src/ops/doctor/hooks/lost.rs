//! Filters of cilmark that no command knows of: those of clsact stay when their pins go (a bpffs that was unmounted, a
//! directory that was removed), and with them the policy that they enforce. A TCX link goes with its pin.

use std::collections::HashSet;
use std::fs;

use anyhow::Result;

use crate::kernel::device::{self, Device};
use crate::kernel::hooks::{FILTER_HANDLE, HOOKS};
use crate::kernel::netns;
use crate::kernel::order::{self, OurFilter};
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
    let known = known(host);
    for namespace in &host.namespaces {
        let of_devices = netns::within(*namespace, || {
            let all = device::all()?.into_iter();
            all.map(|device| Ok((filters(&device, &known)?, device))).collect::<Result<Vec<_>>>()
        })?;
        for (filters, device) in of_devices.unwrap_or_default() {
            let names: Vec<&str> = filters.iter().map(|it| it.program.name.as_str()).collect();
            if names.is_empty() {
                continue;
            }
            let remove = |it: &OurFilter| {
                let (hook, priority) = (it.program.hook.to_string(), it.priority.to_string());
                let handle = format!("{FILTER_HANDLE:#x}");
                let filter = ["tc", "filter", "del", "dev", &device.name, &hook];
                let of = ["pref", &priority, "handle", &handle, "bpf"];
                tool_in(*namespace, &[&filter[..], &of].concat())
            };
            let remove: Vec<String> = filters.iter().map(remove).collect();
            let mut findings = Findings::of(&host.name_in(*namespace, &device.name));
            findings.warning(
                "lost filter",
                format!(
                    "{} of cilmark on it, by clsact, belong to no endpoint: they go on with the policy and the rules that they \
                     had, and no other command shows or changes them",
                    names.join(" and ")
                ),
                &format!("`{}` takes them off", remove.join(" && ")),
            );
            found.extend(findings.all);
        }
    }
    Ok(found)
}

fn filters(device: &Device, known: &HashSet<u32>) -> Result<Vec<OurFilter>> {
    let mut found: Vec<OurFilter> = Vec::new();
    for hook in HOOKS {
        for filter in order::our_filters(device.ifindex, hook)? {
            let id = filter.program.program_id;
            // The qdisc `ingress` lists a filter of ingress for egress, too.
            let is_listed = found.iter().any(|it| it.program.program_id == id);
            if is_cilmarks(&filter.program)
                && !id.is_some_and(|id| known.contains(&id))
                && !is_listed
            {
                found.push(filter);
            }
        }
    }
    Ok(found)
}

/// The programs of this root's endpoints, and of those of the roots beside it.
fn known(host: &Host<'_>) -> HashSet<u32> {
    let own = host.endpoints.iter().flat_map(Endpoint::program_ids);
    let beside = host.root.path().parent().and_then(|it| fs::read_dir(it).ok());
    let roots = beside.into_iter().flatten().flatten().map(|entry| Root::new(entry.path()));
    let others = roots.filter(|it| it.path() != host.root.path()).flat_map(|root| {
        let ids = root.endpoints().unwrap_or_default().into_iter();
        let endpoints = ids.filter_map(|id| Endpoint::read(&root, id).ok());
        endpoints.flat_map(|it| it.program_ids()).collect::<Vec<u32>>()
    });
    own.chain(others).collect()
}
