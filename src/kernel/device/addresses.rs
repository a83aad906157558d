//! The addresses of devices.

use std::collections::HashSet;
use std::net::IpAddr;

use anyhow::Result;
use netlink_packet_core::NLM_F_DUMP;
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::address::{
    AddressAttribute, AddressHeaderFlags, AddressMessage, AddressScope,
};

use super::Device;
use crate::kernel::rtnetlink::request;

/// Nobody may send from these yet, or ever.
const NOT_YET: AddressHeaderFlags =
    AddressHeaderFlags::Tentative.union(AddressHeaderFlags::Dadfailed);

/// The device's addresses, primary ones first, without link-local and tentative ones.
pub fn addresses(device: &Device) -> Result<Vec<IpAddr>> {
    let (mut primary, mut secondary) = both_addresses(device, NOT_YET)?;
    primary.append(&mut secondary);
    Ok(primary)
}

/// The same of a workload's device in its namespace, tentative ones too: it has them a second later.
pub fn workload_addresses(device: &Device) -> Result<Vec<IpAddr>> {
    let (mut primary, mut secondary) = both_addresses(device, AddressHeaderFlags::Dadfailed)?;
    primary.append(&mut secondary);
    Ok(primary)
}

/// The same without temporary ones of IPv6 (RFC 8981), which the kernel calls secondary.
pub fn lasting_addresses(device: &Device) -> Result<Vec<IpAddr>> {
    let (mut primary, mut secondary) = both_addresses(device, NOT_YET)?;
    secondary.retain(IpAddr::is_ipv4);
    primary.append(&mut secondary);
    Ok(primary)
}

/// Primary and secondary ones, without link-local ones and those with one of these flags.
fn both_addresses(
    device: &Device,
    without: AddressHeaderFlags,
) -> Result<(Vec<IpAddr>, Vec<IpAddr>)> {
    let mut query = AddressMessage::default();
    query.header.index = device.ifindex;
    let mut primary = Vec::new();
    let mut secondary = Vec::new();
    for message in request(RouteNetlinkMessage::GetAddress(query), NLM_F_DUMP)? {
        let RouteNetlinkMessage::NewAddress(address) = message else {
            continue;
        };
        let flags = address.header.flags;
        let skip = address.header.index != device.ifindex
            || address.header.scope == AddressScope::Link
            || flags.intersects(without);
        match own_address(&address) {
            Some(ip) if !skip && flags.contains(AddressHeaderFlags::Secondary) => {
                secondary.push(ip)
            }
            Some(ip) if !skip => primary.push(ip),
            _ => {}
        }
    }
    Ok((primary, secondary))
}

/// All addresses of this namespace, whatever they are on.
pub fn local_addresses() -> Result<HashSet<IpAddr>> {
    let answers = request(RouteNetlinkMessage::GetAddress(AddressMessage::default()), NLM_F_DUMP)?;
    let own = answers.iter().filter_map(|message| match message {
        RouteNetlinkMessage::NewAddress(address) => own_address(address),
        _ => None,
    });
    Ok(own.collect())
}

/// IFA_LOCAL is the own address of a point-to-point link, IFA_ADDRESS the peer's.
fn own_address(address: &AddressMessage) -> Option<IpAddr> {
    let local = address.attributes.iter().find_map(|attribute| match attribute {
        AddressAttribute::Local(ip) => Some(*ip),
        _ => None,
    });
    let any = address.attributes.iter().find_map(|attribute| match attribute {
        AddressAttribute::Address(ip) => Some(*ip),
        _ => None,
    });
    local.or(any)
}
