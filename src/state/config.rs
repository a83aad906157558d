//! The pinned configuration of an endpoint, which tells what it is also without its programs.

use anyhow::{Context, Result, bail, ensure};
use libbpf_rs::{MapCore, MapFlags, MapHandle, MapType};

use crate::kernel::abi::{self, cm_config, u32_key};
use crate::model::endpoint::EndpointId;
use crate::state::pin::Root;

/// An endpoint's configuration by its pin alone; `None` if there is none that is known for its own.
pub fn pinned_config(root: &Root, id: EndpointId) -> Option<cm_config> {
    let map = MapHandle::from_pinned_path(root.endpoint(id).config()).ok()?;
    let config = read_config(&map).ok()?;
    let known = config.role().is_some() && config.endpoint_id == u32::from(id.get());
    known.then_some(config)
}

/// The name that an endpoint's device had when it was attached, if the pinned configuration tells it.
pub fn device_name(root: &Root, id: EndpointId) -> Option<String> {
    pinned_config(root, id).map(|config| config.device_name())
}

/// The configuration in a map; an error if it is none, or another version's.
pub fn read_config(map: &MapHandle) -> Result<cm_config> {
    if map.map_type() != MapType::Array {
        bail!("a configuration is an array, not {:?}", map.map_type());
    }
    ensure!(
        map.value_size() as usize == size_of::<cm_config>(),
        "a configuration has {} bytes, and this one, of another version, {}",
        size_of::<cm_config>(),
        map.value_size()
    );
    let key = u32_key(0);
    let value = map.lookup(abi::bytes_of(&key), MapFlags::ANY)?.context("an empty config")?;
    abi::from_bytes(&value)
}
