//! What cilmark keeps in bpffs, and whether it is all that is there.
//!
//! A newer version may keep more, which follows from what an older one writes: an index beside a trie,
//! say. So whoever finds something that he does not know leaves everything as it is.

use std::fs;
use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use libbpf_rs::{MapCore, MapHandle, MapInfo, MapType};

use crate::kernel::abi::{
    cm_address, cm_config, cm_device, cm_endpoint, cm_flow_table, cm_flows4, cm_flows6,
    cm_frag_ports, cm_frag4_key, cm_frag6_key, cm_generations, cm_id_labels, cm_id_rule_key,
    cm_identity, cm_ipcache_entry, cm_metrics, cm_nics, cm_policy_entry, cm_prefix,
    cm_prefix_owner, cm_stack_flow, u32_key,
};
use crate::kernel::sys;
use crate::model::endpoint::EndpointId;
use crate::state::devices;
use crate::state::generations;
use crate::state::id_labels;
use crate::state::pin::{self, Root};

/// A pinned map.
pub struct Layout {
    /// Its name and its pin's.
    pub name: &'static str,
    kind: MapType,
    key: usize,
    value: usize,
}

/// The maps that endpoints share: what goes from a root with the last of them.
pub const SHARED: [Layout; 22] = [
    of::<cm_address, cm_ipcache_entry>("cm_ipcache", MapType::Hash),
    of::<cm_prefix, cm_ipcache_entry>("cm_ipcache_cidr", MapType::LpmTrie),
    of::<u32_key, u32_key>("cm_ipcache_idx", MapType::ArrayOfMaps),
    of::<cm_address, cm_endpoint>("cm_endpoints", MapType::Hash),
    of::<cm_prefix, cm_prefix_owner>("cm_endpoint_net", MapType::LpmTrie),
    of::<u32_key, cm_device>(devices::NAME, MapType::Hash),
    of::<u32_key, cm_identity>("cm_identities", MapType::Hash),
    of::<u32_key, cm_id_labels>(id_labels::NAME, MapType::Hash),
    of::<cm_id_rule_key, cm_policy_entry>("cm_id_rules", MapType::Hash),
    of::<u32_key, cm_flow_table>("cm_flow_table", MapType::Array),
    of::<u32_key, cm_flows4>("cm_flows4", MapType::Array),
    of::<u32_key, cm_flows6>("cm_flows6", MapType::Array),
    of::<cm_frag4_key, cm_frag_ports>("cm_frags4", MapType::LruHash),
    of::<cm_frag6_key, cm_frag_ports>("cm_frags6", MapType::LruHash),
    of::<u32_key, cm_nics>("cm_nics", MapType::Array),
    of::<u32_key, u32_key>("cm_nic_policies", MapType::ArrayOfMaps),
    of::<u32_key, cm_metrics>("cm_metrics", MapType::PercpuArray),
    of::<u32_key, u64>("cm_stats", MapType::PercpuArray),
    of::<(), ()>("cm_events", MapType::RingBuf),
    of::<u32_key, u32_key>("cm_policy_call", MapType::ProgArray),
    of::<cm_stack_flow, u32_key>("cm_path_flows", MapType::LruHash),
    of::<u32_key, cm_generations>(generations::NAME, MapType::Array),
];

/// What every root has and programs hold, so that no removed pin takes it away. By these a filter is known for
/// ours.
pub const HELD_BY_ALL: [&str; 10] = [
    "cm_metrics",
    "cm_stats",
    "cm_ipcache",
    "cm_ipcache_cidr",
    "cm_ipcache_idx",
    "cm_endpoints",
    "cm_endpoint_net",
    "cm_identities",
    "cm_generations",
    "cm_events",
];

/// Names under which earlier versions have pinned what has another layout now, and so another name.
pub const FORMER: [&str; 6] =
    ["cm_ct4", "cm_ct6", "cm_frag4", "cm_frag6", "cm_stack_flows", "cm_generation"];

/// What lies in the directory of an endpoint.
const OF_ENDPOINT: [&str; 7] =
    ["config", "spec", "cm_policy", "cm_flows4", "cm_flows6", "ingress", "egress"];

const fn of<K, V>(name: &'static str, kind: MapType) -> Layout {
    Layout { name, kind, key: size_of::<K>(), value: size_of::<V>() }
}

/// Whether the pin of a map is missing that is made with the first endpoint, or that is made together
/// with others that are there.
pub fn lacks_pins(root: &Root) -> bool {
    let there = |name: &&str| root.map(name).exists();
    let of_policies = ["cm_flows4", "cm_flows6", "cm_frags4", "cm_frags6"];
    let of_nics = ["cm_nics", "cm_nic_policies"];
    let count = |names: &[&str]| names.iter().filter(|name| there(name)).count();
    let lacks_some = |names: &[&str]| (1..names.len()).contains(&count(names));
    let keeps_flows = count(&of_policies) > 0 || there(&"cm_path_flows");
    !HELD_BY_ALL.iter().all(there)
        || lacks_some(&of_policies)
        || lacks_some(&of_nics)
        || (keeps_flows && !there(&"cm_flow_table"))
}

/// Removes what older versions have pinned, once none of their programs is left: with the flows that they have
/// decided about, whose verdicts count by other numbers here.
pub fn remove_former(root: &Root) -> Result<()> {
    let former: Vec<PathBuf> = FORMER.iter().map(|name| root.map(name)).collect();
    if !former.iter().any(|pin| pin.exists()) {
        return Ok(());
    }
    let flows = ["cm_flows4", "cm_flows6"].map(|name| root.map(name));
    former.iter().chain(&flows).try_for_each(|pin| {
        pin::remove_file(pin).with_context(|| format!("remove {}", pin.display()))
    })
}

/// Removes the shared maps' pins, and the directory unless it is a mount point or somebody else
/// keeps something there.
pub fn remove(root: &Root) -> Result<()> {
    let remove = || -> io::Result<()> {
        for map in SHARED.iter().map(|layout| layout.name).chain(FORMER) {
            pin::remove_file(&root.map(map))?;
        }
        fs::remove_dir(root.path().join("endpoints"))?;
        // What is refused here is somebody else's.
        let _ = fs::remove_dir(root.path());
        Ok(())
    };
    match remove() {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("remove {}", root.path().display()))
        }
        _ => Ok(()),
    }
}

/// Fails if one of the shared pins is not known, or not what it is known for. Names of others, which do
/// not begin with `cm_`, are theirs.
pub fn check(root: &Root) -> Result<()> {
    for name in names(root.path())?.iter().filter(|name| name.starts_with("cm_")) {
        let pin = root.map(name);
        ensure!(
            !FORMER.contains(&name.as_str()),
            "{} is an older cilmark's, whose endpoints this one can't change; nothing has changed: use that \
             one, or `cilmark detach --all` with it and then with this one, and attach again",
            pin.display()
        );
        let Some(layout) = SHARED.iter().find(|layout| layout.name == name) else {
            bail!(
                "{} is nothing that this cilmark knows: a newer one keeps there what a change by this \
                 one would make untrue; nothing has changed: use that one, or `cilmark detach --all` \
                 and remove it",
                pin.display()
            );
        };
        layout.check(&pin)?;
    }
    Ok(())
}

/// The same for what is an endpoint's own.
pub fn check_endpoint(root: &Root, id: EndpointId) -> Result<()> {
    let pins = root.endpoint(id);
    for name in names(pins.path())? {
        // What `pin::replace` has left when it was killed.
        let known = name.strip_suffix("-new").unwrap_or(&name);
        ensure!(
            OF_ENDPOINT.contains(&known),
            "{} is nothing that this cilmark knows: a newer one has attached endpoint {id}; nothing has \
             changed: use that one, or `cilmark detach id:{id}`",
            pins.map(&name).display()
        );
    }
    ensure!(
        !is_of_another_version(root, id),
        "{} is not as this cilmark writes it: another version has attached endpoint {id}; nothing has \
         changed: use that one, or `cilmark detach id:{id}` with it",
        pins.config().display()
    );
    Ok(())
}

/// Whether an endpoint's configuration has another size than here.
fn is_of_another_version(root: &Root, id: EndpointId) -> bool {
    let config = MapHandle::from_pinned_path(root.endpoint(id).config());
    config.is_ok_and(|config| config.value_size() as usize != size_of::<cm_config>())
}

impl Layout {
    fn check(&self, pin: &Path) -> Result<()> {
        let hint = "another version made it, or another program; nothing has changed: remove it, and the \
                    map that programs use is pinned there again, or name another directory with --bpffs";
        let pinned = sys::open_pin(pin).with_context(|| format!("open {}", pin.display()))?;
        ensure!(sys::is_map(pinned.as_fd())?, "{} is no map: {hint}", pin.display());
        let map =
            MapInfo::new(pinned.as_fd()).with_context(|| format!("read {}", pin.display()))?;
        let there = (map.map_type(), map.info.key_size as usize, map.info.value_size as usize);
        ensure!(
            there == (self.kind, self.key, self.value),
            "{} is a map of another layout, {:?} of {} to {} bytes and not {:?} of {} to {}: {hint}",
            pin.display(),
            there.0,
            there.1,
            there.2,
            self.kind,
            self.key,
            self.value
        );
        Ok(())
    }
}

/// The names in a directory; none if it is not there.
fn names(directory: &Path) -> Result<Vec<String>> {
    let context = || format!("read {}", directory.display());
    let entries = match fs::read_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.with_context(context)?,
    };
    let name = |entry: io::Result<fs::DirEntry>| {
        Ok(entry.with_context(context)?.file_name().to_string_lossy().into_owned())
    };
    entries.map(name).collect()
}

#[cfg(test)]
mod tests {
    use std::mem::MaybeUninit;

    use libbpf_rs::skel::{OpenSkel, SkelBuilder};

    use super::*;
    use crate::kernel::skel::CilmarkSkelBuilder;

    #[test]
    fn the_layouts_are_those_of_the_programs_maps() {
        let mut storage = MaybeUninit::uninit();
        let open = CilmarkSkelBuilder::default().open(&mut storage).expect("the object");
        for layout in SHARED {
            let map = open.open_object().maps().find(|map| map.name() == layout.name);
            let map = map.unwrap_or_else(|| panic!("no map {}", layout.name));
            let known = (map.map_type(), map.key_size() as usize, map.value_size() as usize);
            assert_eq!(known, (layout.kind, layout.key, layout.value), "{}", layout.name);
        }
    }

    #[test]
    fn nothing_but_the_configuration_is_constant() {
        let mut storage = MaybeUninit::uninit();
        let open = CilmarkSkelBuilder::default().open(&mut storage).expect("the object");
        assert_eq!(open.maps.rodata.value_size() as usize, size_of::<cm_config>());
    }
}
