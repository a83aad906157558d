//! The maps that endpoints share: taken from their pins or, where a pin is gone, from programs that use
//! them; else made and pinned.

use std::cell::{OnceCell, RefCell};
use std::fs;
use std::mem::MaybeUninit;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use libbpf_rs::skel::{OpenSkel, SkelBuilder};
use libbpf_rs::{MapCore, MapHandle, MapType, OpenMapMut};

use super::Sizes;
use crate::kernel::abi::{cm_config, cm_delivery};
use crate::kernel::skel::{CilmarkSkelBuilder, OpenCilmarkSkel};
use crate::kernel::sys;
use crate::model::endpoint::Scope;
use crate::program::object;
use crate::state::conntrack as flows;
use crate::state::flow_table::FlowTable;
use crate::state::pin::Root;
use crate::state::registry::shared::{self, Lost};
use crate::state::scopes;

/// Where maps are shared.
pub struct Shared<'a> {
    /// The directory of their pins.
    pub root: &'a Root,
    /// What is made gets a pin; but for a private copy, which leaves nothing behind.
    pub pins_new: bool,
    /// The pins of what will be made.
    pub new: RefCell<Vec<PathBuf>>,
    lost: OnceCell<Lost>,
}

impl<'a> Shared<'a> {
    /// Of the endpoints of a root.
    pub fn of(root: &'a Root, pins_new: bool) -> Shared<'a> {
        Shared { root, pins_new, new: RefCell::default(), lost: OnceCell::new() }
    }

    /// The map of a pin that is missing, if programs use it. Only then are they looked at.
    fn lost(&self, pin: &Path) -> Result<Option<&MapHandle>> {
        let lost = match self.lost.get() {
            Some(lost) => lost,
            None => {
                let lost = shared::lost(self.root)?;
                self.lost.get_or_init(|| lost)
            }
        };
        Ok(lost.get(pin))
    }

    /// Removes the pins of maps that were made for a program which the kernel then refused.
    pub fn take_back(&self) {
        for pin in self.new.borrow().iter() {
            // Not there if the maps could not be made.
            let _ = fs::remove_file(pin);
        }
    }
}

/// Takes the pinned maps where there are any; the others get their pins at load.
pub fn share_maps(
    open: &mut OpenCilmarkSkel<'_>,
    shared: &Shared<'_>,
    sizes: &Sizes,
) -> Result<()> {
    let maps = &mut open.maps;
    share_map(&mut maps.cm_ipcache, shared, sizes.ipcache)?;
    share_map(&mut maps.cm_ipcache_cidr, shared, sizes.ipcache)?;
    share_map(&mut maps.cm_ipcache_idx, shared, None)?;
    share_map(&mut maps.cm_endpoints, shared, None)?;
    share_map(&mut maps.cm_endpoint_net, shared, None)?;
    share_map(&mut maps.cm_identities, shared, None)?;
    if shared.pins_new {
        share_map(&mut maps.cm_devices, shared, None)?;
    } else {
        maps.cm_devices.set_autocreate(false).context("leave out the devices")?;
    }
    maps.cm_id_labels.set_autocreate(false).context("leave out the labels of identities")?;
    maps.cm_id_rules.set_autocreate(false).context("leave out the rules of identities")?;
    share_map(&mut maps.cm_metrics, shared, None)?;
    share_map(&mut maps.cm_stats, shared, None)?;
    share_map(&mut maps.cm_generations, shared, None)?;
    share_map(&mut maps.cm_events, shared, None)
}

/// The table is there before the programs whose configuration has its secret, and a scope from it. A copy has
/// what its original has; the secret also without that, to find the flows of others.
pub fn share_flow_table(
    open: &mut OpenCilmarkSkel<'_>,
    shared: &Shared<'_>,
    config: &mut cm_config,
) -> Result<()> {
    let map = &mut open.maps.cm_flow_table;
    let is_copy = config.explain != 0;
    if config.keeps_flows() && !is_copy {
        let table = flow_table(shared)?;
        config.flow_seed = if config.has_policy() { table.seed()? } else { [0; 8] };
        if config.scope() == Scope::NOBODY {
            config.scope = scopes::next(&table, shared.root)?.get();
        }
        return share_map(map, shared, None);
    }
    if config.has_policy() && config.flow_seed == [0; 8] {
        let table = FlowTable::open(shared.root)?;
        config.flow_seed = table.map(|table| table.seed()).transpose()?.unwrap_or_default();
    }
    map.set_autocreate(false).context("leave out the table of flows")
}

/// What the flows of all endpoints have in common; made if it is not there.
fn flow_table(shared: &Shared<'_>) -> Result<FlowTable> {
    let table = match FlowTable::open(shared.root)? {
        Some(table) => table,
        None => FlowTable::of(make_alone(shared, "cm_flow_table")?),
    };
    table.fill()?;
    Ok(table)
}

/// Makes one of the maps and nothing else of the object.
pub fn make_alone(shared: &Shared<'_>, name: &str) -> Result<MapHandle> {
    let mut storage = MaybeUninit::uninit();
    let mut open = CilmarkSkelBuilder::default().open(&mut storage).context("open the object")?;
    object::select(&mut open, &[]);
    for mut map in open.open_object_mut().maps_mut() {
        match map.name() == name {
            true => share_map(&mut map, shared, None)?,
            false => map.set_autocreate(false)?,
        }
    }
    let made = sys::prepare_object(open.open_object_mut())
        .with_context(|| format!("make {name}; it takes root or CAP_BPF"))?;
    made.into_iter().next().with_context(|| format!("the object has no {name}"))
}

/// What went by the stack is remembered only for whom local delivery is.
pub fn share_stack_flows(
    open: &mut OpenCilmarkSkel<'_>,
    shared: &Shared<'_>,
    config: &cm_config,
) -> Result<()> {
    let flows = &mut open.maps.cm_path_flows;
    if config.delivery == cm_delivery::CM_DELIVERY_NONE {
        return flows.set_autocreate(false).context("leave out the flows of the stack");
    }
    share_map(flows, shared, None)
}

/// The array of programs exists only where somebody delivers.
pub fn share_policy_calls(
    open: &mut OpenCilmarkSkel<'_>,
    shared: &Shared<'_>,
    config: &cm_config,
) -> Result<()> {
    let calls = &mut open.maps.cm_policy_call;
    if config.local_delivery == 0 {
        return calls.set_autocreate(false).context("leave out the policy calls");
    }
    if config.explain != 0 {
        // An array of its own: the programs in the shared one would change things.
        return Ok(());
    }
    share_map(calls, shared, None)
}

/// The maps of conntrack, which cost megabytes, exist only where somebody has a policy.
pub fn share_policy_maps(
    open: &mut OpenCilmarkSkel<'_>,
    shared: &Shared<'_>,
    config: &cm_config,
    sizes: &Sizes,
) -> Result<()> {
    open.maps.cm_forwarded.set_autocreate(config.remembers_forwarded())?;
    if !config.has_policy() {
        return leave_out_policy_maps(open);
    }
    let maps = &mut open.maps;
    for map in [&mut maps.cm_flows4, &mut maps.cm_flows6] {
        let name = map.name().to_string_lossy().into_owned();
        let path = match config.endpoint() {
            Some(id) if config.ct_local != 0 => shared.root.endpoint(id).map(&name),
            _ => shared.root.map(&name),
        };
        map.set_max_entries(flows::buckets(sizes.ct.unwrap_or(flows::ENTRIES)))
            .with_context(|| format!("size {name}"))?;
        share_map_at(map, &path, sizes.ct.map(flows::buckets), shared)?;
    }
    share_map(&mut maps.cm_frags4, shared, None)?;
    share_map(&mut maps.cm_frags6, shared, None)
}

/// What NICs with a policy know of each other, each other's rules among it, exists only for them.
pub fn share_nics(
    open: &mut OpenCilmarkSkel<'_>,
    shared: &Shared<'_>,
    config: &cm_config,
) -> Result<()> {
    let maps = &mut open.maps;
    if config.nic_slot().is_none() {
        let leave_out = |map: &mut OpenMapMut<'_>| map.set_autocreate(false);
        leave_out(&mut maps.cm_nics)
            .and_then(|()| leave_out(&mut maps.cm_nic_policies))
            .context("leave out the other NICs")?;
        return Ok(());
    }
    // A copy may have another mode than what it is one of.
    if config.explain == 0 {
        share_map(&mut maps.cm_nics, shared, None)?;
    }
    share_map(&mut maps.cm_nic_policies, shared, None)
}

/// Leaves out the policy maps while no endpoint has a policy.
pub fn leave_out_policy_maps(open: &mut OpenCilmarkSkel<'_>) -> Result<()> {
    let maps = &mut open.maps;
    let flows =
        [&mut maps.cm_flows4, &mut maps.cm_flows6, &mut maps.cm_frags4, &mut maps.cm_frags6];
    for map in flows.into_iter().chain([&mut maps.cm_frag_dropped, &mut maps.cm_quoted]) {
        map.set_autocreate(false).context("leave out a map")?;
    }
    Ok(())
}

fn share_map(map: &mut OpenMapMut<'_>, shared: &Shared<'_>, entries: Option<u32>) -> Result<()> {
    let path = shared.root.map(&map.name().to_string_lossy());
    share_map_at(map, &path, entries, shared)
}

fn share_map_at(
    map: &mut OpenMapMut<'_>,
    path: &Path,
    entries: Option<u32>,
    shared: &Shared<'_>,
) -> Result<()> {
    if !path.exists() {
        if let Some(lost) = shared.lost(path)? {
            if shared.pins_new {
                shared::pin_again(shared.root, path, lost)?;
            }
            return reuse(map, path, lost, entries);
        }
        if let Some(entries) = entries {
            let name = map.name().to_string_lossy().into_owned();
            map.set_max_entries(entries)
                .with_context(|| format!("give {name} {entries} entries"))?;
        }
        if !shared.pins_new {
            return Ok(());
        }
        shared.new.borrow_mut().push(path.to_owned());
        return map.set_pin_path(path).with_context(|| format!("pin {}", path.display()));
    }

    let pinned = MapHandle::from_pinned_path(path)
        .with_context(|| format!("open the pinned map {}", path.display()))?;
    reuse(map, path, &pinned, entries)
}

fn reuse(
    map: &mut OpenMapMut<'_>,
    path: &Path,
    pinned: &MapHandle,
    entries: Option<u32>,
) -> Result<()> {
    ensure!(
        pinned.map_type() == map.map_type()
            && pinned.key_size() == map.key_size()
            && pinned.value_size() == map.value_size(),
        "{} is a map of another layout, made by another version or another program; remove it, or \
         name another directory with --bpffs",
        path.display()
    );
    if let Some(entries) = entries
        && entries != pinned.max_entries()
    {
        let of_flows = map.map_type() == MapType::Array;
        let told = |entries| if of_flows { flows::entries(entries) } else { entries };
        bail!(
            "{} has {} entries and can't get {}: sizes count when a map is made, and it \
             stays as it is until nothing is attached, named or in the ipcache",
            path.display(),
            told(pinned.max_entries()),
            told(entries)
        );
    }
    map.reuse_fd(pinned.as_fd()).with_context(|| format!("use {}", path.display()))
}
