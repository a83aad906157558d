//! The devices of a libvirt guest, as its domain names them.

use std::fs;
use std::io::ErrorKind;
use std::net::IpAddr;
use std::path::Path;

use anyhow::{Context as _, Result, ensure};

use super::Network;
use super::born::Born;
use crate::kernel::device;
use crate::model::libvirt::{Domain, Interface, read_interfaces, static_lease};
use crate::model::mac::Mac;
use crate::model::owner::Owner;
use crate::ops::workload::{Told, Workload};
use crate::state::pin::Root;

/// Where libvirt keeps what its networks hand out (src/network/bridge_driver.c). It can't be asked for it: it waits for
/// its hooks.
const LEASES: &str = "/var/lib/libvirt/dnsmasq";

/// What a guest has of the network: its taps, which libvirt makes before it calls its hook.
pub fn network(guest: &str, domain: &Domain) -> Network {
    let (mut interfaces, mut others) = (Vec::new(), Vec::new());
    for interface in &domain.interfaces {
        match workload(guest, interface) {
            Ok(workload) => interfaces.push(workload),
            Err(error) => others.push(format!("{error:#}")),
        }
    }
    Network::Own { interfaces, others, is_incomplete: false }
}

/// Whether each tap of a guest has what was attached for it, whatever its metadata say now.
pub fn has_all(root: &Root, guest: &Owner, xml: &str) -> Result<bool> {
    let interfaces = read_interfaces(xml)?;
    for interface in &interfaces {
        let born = Born::on(root, &device::by_name(interface.tap()?)?)?;
        let is_its = |born: &Born| born.owner == *guest && !born.endpoint.stale;
        if !born.as_ref().is_some_and(is_its) {
            return Ok(false);
        }
    }
    Ok(!interfaces.is_empty())
}

fn workload(guest: &str, interface: &Interface) -> Result<Workload> {
    let device = device::by_name(interface.tap()?)?;
    ensure!(
        device.is_tap() || device.is_veth(),
        "{} is no tap of this host but {}; connect the guest by type `network` or `bridge`",
        device.name,
        device.kind.as_deref().map_or("hardware".to_owned(), |kind| format!("a {kind}"))
    );
    let addresses = lease(interface)?.into_iter().collect();
    let told = Told { ifname: None, mac: interface.mac, addresses, said_ip: interface.ip.clone() };
    Ok(Workload::behind(device, &format!("guest {guest}"), told))
}

/// The address that its network gives to it and to nobody else.
fn lease(interface: &Interface) -> Result<Option<IpAddr>> {
    let (Some(network), Some(mac)) = (&interface.network, interface.mac) else { return Ok(None) };
    lease_in(&Path::new(LEASES).join(format!("{network}.hostsfile")), mac)
}

fn lease_in(path: &Path, mac: Mac) -> Result<Option<IpAddr>> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(static_lease(&text, mac)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| format!("read {}", path.display())),
    }
}
