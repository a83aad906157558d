//! Why a NIC has to be attached again: what its programs were told of the device is no longer so.

use std::net::IpAddr;

use anyhow::Result;

use crate::kernel::abi::cm_config;
use crate::kernel::device::{self, Device};
use crate::kernel::netns;
use crate::model::endpoint::Role;
use crate::model::identity::Identity;
use crate::model::mac::Mac;
use crate::model::prefix::hosts;
use crate::state::registry::Endpoint;

/// Each reason in a clause about the device; none for a workload, of which nothing is asked, and for what
/// is stale.
pub fn reasons(endpoint: &Endpoint) -> Result<Vec<String>> {
    if endpoint.stale || endpoint.role() != Some(Role::Netdev) {
        return Ok(Vec::new());
    }
    let now = netns::within(endpoint.netns, || {
        let Some(device) = device::by_index(endpoint.ifindex)? else { return Ok(None) };
        let addresses = device::lasting_addresses(&device)?;
        Ok(Some((device, addresses)))
    })?;
    let Some((device, addresses)) = now.flatten() else { return Ok(Vec::new()) };
    let mut reasons = of_links(&endpoint.config, &device);
    if hangs_on_addresses(&endpoint.config) {
        reasons.extend(of_addresses(&endpoint.config, &addresses));
    }
    Ok(reasons)
}

/// As a line about the device.
pub fn line(device: &str, reasons: &[String]) -> Option<String> {
    let why = reasons.join(", and ");
    (!reasons.is_empty()).then(|| format!("{device}: it has to be attached again, since {why}"))
}

fn of_links(config: &cm_config, device: &Device) -> Vec<String> {
    let bridge = match (config.bridge_port != 0, device.bridge_mac) {
        (false, Some(_)) => Some("it has become a port of a bridge".to_owned()),
        (true, None) => Some("it is no longer a port of a bridge".to_owned()),
        (true, Some(mac)) if mac != config.bridge_mac => {
            Some(format!("its bridge has got another MAC, {}", Mac(mac)))
        }
        _ => None,
    };
    let vrf = match (config.in_vrf != 0, device.in_vrf) {
        (false, true) => Some("it has come into a VRF"),
        (true, false) => Some("it has left its VRF"),
        _ => None,
    };
    let accepts = match (config.accept_local != 0, device.accepts_local) {
        (false, true) => Some("accept_local has been switched on"),
        (true, false) => Some("accept_local has been switched off"),
        _ => None,
    };
    bridge.into_iter().chain(vrf.into_iter().chain(accepts).map(str::to_owned)).collect()
}

/// Whether verdicts follow from the addresses that the programs were told of, and not from the routing tables: these know
/// what the device has got since, as by DHCP after it was attached at boot.
fn hangs_on_addresses(config: &cm_config) -> bool {
    let listed = config.host_addresses_listed != 0 || config.bridge_port != 0 || config.in_vrf != 0;
    config.given_addresses == 0 && (listed || config.identity != Identity::HOST.0)
}

/// Temporary addresses come and go, and so does nothing of them count here.
fn of_addresses(config: &cm_config, now: &[IpAddr]) -> Vec<String> {
    let known: Vec<IpAddr> = hosts(&config.addresses()).collect();
    let holds = config.ipv4.len();
    // A configuration that is full need not have all that were there.
    let is_full =
        |ip: &IpAddr| known.iter().filter(|it| it.is_ipv4() == ip.is_ipv4()).count() == holds;
    let got = now.iter().filter(|ip| !known.contains(ip) && !is_full(ip));
    let lost = known.iter().filter(|ip| !now.iter().any(|it| it == *ip || same_network(it, ip)));
    let list = |verb: &str, addresses: Vec<&IpAddr>| {
        let text: Vec<String> = addresses.iter().map(|ip| ip.to_string()).collect();
        (!text.is_empty()).then(|| format!("it has {verb} {}", text.join(" ")))
    };
    list("got", got.collect()).into_iter().chain(list("lost", lost.collect())).collect()
}

/// Of IPv6, where a host has more than one address of a network and changes them.
fn same_network(one: &IpAddr, other: &IpAddr) -> bool {
    match (one, other) {
        (IpAddr::V6(one), IpAddr::V6(other)) => one.segments()[..4] == other.segments()[..4],
        _ => false,
    }
}
