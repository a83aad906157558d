//! The addresses of devices.

use std::collections::HashSet;
use std::net::IpAddr;

use anyhow::Result;
use netlink_packet_core::NLM_F_DUMP;
use netlink_packet_route::address::{
    AddressAttribute, AddressHeaderFlags, AddressMessage, AddressScope,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};

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
    let mut primary = Vec::new();
    let mut secondary = Vec::new();
    for address in listed(device.ifindex)? {
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
    Ok(listed(0)?.iter().filter_map(own_address).collect())
}

/// Those of a device, or of all with 0: IPv4's first. Each family is asked for by itself, since where the kernel goes from one to the
/// next it forgets what it has noticed of changes (`rtnl_dump_all` of net/core/rtnetlink.c). And it is asked twice, since it
/// notices a change only after it is made: of more than one datagram holds, an address may be missing from the second without a
/// sign (`fib_inetaddr_event` of net/ipv4/fib_frontend.c counts it).
fn listed(ifindex: u32) -> Result<Vec<AddressMessage>> {
    let (mut found, mut seen) = (Vec::new(), HashSet::new());
    for family in [AddressFamily::Inet, AddressFamily::Inet6] {
        let mut query = AddressMessage::default();
        query.header.family = family;
        query.header.index = ifindex;
        let once = || request(RouteNetlinkMessage::GetAddress(query.clone()), NLM_F_DUMP);
        for message in once()?.into_iter().chain(once()?) {
            let RouteNetlinkMessage::NewAddress(address) = message else { continue };
            // Of a family that it does not have, the kernel lists the others.
            let is_asked = address.header.family == family;
            if is_asked && seen.insert((address.header.index, own_address(&address))) {
                found.push(address);
            }
        }
    }
    Ok(found)
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
