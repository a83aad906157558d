//! The device of a container of LXC, and what its configuration says.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use log::warn;

use super::{Network, end_device};
use crate::kernel::device;
use crate::model::birth::Hook;
use crate::model::lxc::{Config, Event, Hwaddr, Included};
use crate::model::owner::Owner;
use crate::ops::failures::all_of;
use crate::ops::workload::{self, Namespace, Told, Workload};
use crate::state::pin::Root;

/// Reads a container's configuration, and what that includes, as LXC does.
pub fn config(path: &str) -> Result<Config> {
    Config::read(path, &read(Path::new(path))?, &include)
}

/// A file, or those of a directory that end in `.conf` (src/lxc/confile.c).
fn include(path: &str) -> Result<Vec<Included>> {
    let mut paths = vec![PathBuf::from(path)];
    if Path::new(path).is_dir() {
        let entries = fs::read_dir(path).with_context(|| format!("read {path}"))?;
        paths = entries.map(|entry| Ok(entry?.path())).collect::<Result<_>>()?;
        paths.retain(|path| path.extension().is_some_and(|it| it == "conf"));
    }
    paths.iter().map(|path| Ok((path.display().to_string(), read(path)?))).collect()
}

fn read(path: &Path) -> Result<String> {
    let bytes = fs::read(path).with_context(|| format!("read {}", path.display()))?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// What a container has of one network when its script is called.
pub fn network(event: &Event, config: &Config) -> Network {
    Network::one(event.device.as_deref().map_or_else(
        || {
            Err(anyhow::anyhow!(
                "a network of type `{}` has no device of its own on this host for an identity; take type veth",
                event.kind
            ))
        },
        |device| workload(event, config, device),
    ))
}

fn workload(event: &Event, config: &Config, device: &str) -> Result<Workload> {
    let net = config.net(device, event.link.as_deref())?;
    let mac = match net.hwaddr()? {
        Hwaddr::Set(mac) => Some(mac),
        Hwaddr::AsItIs => mac_inside(event, device)?,
        Hwaddr::Random => {
            warn!(
                "{device}: LXC makes a MAC of a pattern and tells nobody, so the MAC is not checked; lxc.net.N.hwaddr without \
                 an x names it"
            );
            None
        }
    };
    let told = Told {
        ifname: net.name.clone(),
        mac,
        addresses: net.addresses(),
        said_ip: net.said_ip.clone(),
    };
    Ok(Workload::behind(device::by_name(device)?, &format!("container {}", event.name), told))
}

/// The other end is in the container's namespace already, under a name that does not last.
fn mac_inside(event: &Event, device: &str) -> Result<Option<crate::model::mac::Mac>> {
    let pid = event.pid.context("LXC tells no LXC_PID")?;
    let (workloads, others) = workload::find_all(&Namespace::Of(pid))?;
    let workload = workloads.into_iter().find(|workload| workload.device.name == device);
    let workload = workload.with_context(|| {
        format!(
            "the other end of {device} is not in the container's network: {}",
            others.join("; ")
        )
    })?;
    Ok(workload.mac())
}

/// Takes off what a container has that does not start, since its script fails: LXC calls no script then.
pub fn give_up(root: &Root, event: &Event, owner: &Owner) -> Result<()> {
    let there = event.pid.map(|pid| workload::find_all(&Namespace::Of(pid))).transpose()?;
    let (workloads, _) = there.unwrap_or_default();
    let ends = workloads.iter().map(|it| end_device(root, owner, Hook::Lxc, &it.device.name));
    all_of(ends.filter_map(Result::err).collect())
}
