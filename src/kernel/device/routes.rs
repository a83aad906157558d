//! Where routes lead.

use std::collections::BTreeSet;
use std::io;
use std::net::{IpAddr, Ipv4Addr};

use anyhow::Result;
use netlink_packet_core::{NLM_F_ACK, NLM_F_DUMP};
use netlink_packet_route::route::{RouteAddress, RouteAttribute, RouteMessage, RouteType};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};

use super::{Device, by_index};
use crate::kernel::rtnetlink::request;

/// Whether a default route of either family leaves by the device.
pub fn carries_default_route(device: &Device) -> Result<bool> {
    for family in [AddressFamily::Inet, AddressFamily::Inet6] {
        let mut query = RouteMessage::default();
        query.header.address_family = family;
        query.attributes.push(RouteAttribute::Oif(device.ifindex));
        for message in request(RouteNetlinkMessage::GetRoute(query), NLM_F_DUMP)? {
            if let RouteNetlinkMessage::NewRoute(route) = message
                && route.header.destination_prefix_length == 0
                && route.header.kind == RouteType::Unicast
                && leaves_by(&route, device.ifindex)
            {
                return Ok(true);
            }
        }
    }
    Ok(false)
}

/// The devices by which default routes of either family leave, in the order of their numbers.
pub fn with_default_route() -> Result<Vec<Device>> {
    let mut found = BTreeSet::new();
    for family in [AddressFamily::Inet, AddressFamily::Inet6] {
        let mut query = RouteMessage::default();
        query.header.address_family = family;
        for message in request(RouteNetlinkMessage::GetRoute(query), NLM_F_DUMP)? {
            if let RouteNetlinkMessage::NewRoute(route) = message
                && route.header.destination_prefix_length == 0
                && route.header.kind == RouteType::Unicast
            {
                route.attributes.iter().for_each(|attribute| match attribute {
                    RouteAttribute::Oif(oif) => found.extend([*oif]),
                    RouteAttribute::MultiPath(hops) => {
                        found.extend(hops.iter().map(|hop| hop.interface_index));
                    }
                    _ => {}
                });
            }
        }
    }
    let devices = found.into_iter().map(by_index);
    Ok(devices.collect::<Result<Vec<_>>>()?.into_iter().flatten().collect())
}

/// Where the routing tables of this namespace lead to an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Route {
    /// It is this host's own.
    Here,
    /// By the device of this index.
    By(u32),
}

/// The way to an address; `None` if there is none.
pub fn route_to(address: IpAddr) -> Result<Option<Route>> {
    route(address, None)
}

/// The way that this host's packets take from one of its addresses to another's; `None` if there is none.
pub fn route_between(own: IpAddr, other: IpAddr) -> Result<Option<Route>> {
    route(other, Some(own))
}

fn route(address: IpAddr, source: Option<IpAddr>) -> Result<Option<Route>> {
    let mut query = RouteMessage::default();
    let wanted = |address| match address {
        IpAddr::V4(v4) => (32, RouteAddress::Inet(v4)),
        IpAddr::V6(v6) => (128, RouteAddress::Inet6(v6)),
    };
    query.header.address_family = match address {
        IpAddr::V4(_) => AddressFamily::Inet,
        IpAddr::V6(_) => AddressFamily::Inet6,
    };
    let (bits, address) = wanted(address);
    query.header.destination_prefix_length = bits;
    query.attributes.push(RouteAttribute::Destination(address));
    if let Some((bits, source)) = source.map(wanted) {
        query.header.source_prefix_length = bits;
        query.attributes.push(RouteAttribute::Source(source));
    }
    let answers = match request(RouteNetlinkMessage::GetRoute(query), NLM_F_ACK) {
        Ok(answers) => answers,
        // No route, or one that says so.
        Err(error) if error.is::<io::Error>() => return Ok(None),
        Err(error) => return Err(error),
    };
    Ok(answers.iter().find_map(|message| {
        let RouteNetlinkMessage::NewRoute(route) = message else { return None };
        if route.header.kind == RouteType::Local {
            return Some(Route::Here);
        }
        route.attributes.iter().find_map(|attribute| match attribute {
            RouteAttribute::Oif(oif) => Some(Route::By(*oif)),
            _ => None,
        })
    }))
}

/// Whether some table has a route to just this address that is not this host's own.
pub fn has_route_to_just(address: Ipv4Addr) -> Result<bool> {
    let mut query = RouteMessage::default();
    query.header.address_family = AddressFamily::Inet;
    let wanted = RouteAttribute::Destination(RouteAddress::Inet(address));
    let answers = request(RouteNetlinkMessage::GetRoute(query), NLM_F_DUMP)?;
    Ok(answers.iter().any(|message| match message {
        RouteNetlinkMessage::NewRoute(route) => {
            route.header.destination_prefix_length == 32
                && route.header.kind == RouteType::Unicast
                && route.attributes.contains(&wanted)
        }
        _ => false,
    }))
}

fn leaves_by(route: &RouteMessage, ifindex: u32) -> bool {
    route.attributes.iter().any(|attribute| match attribute {
        RouteAttribute::Oif(oif) => *oif == ifindex,
        RouteAttribute::MultiPath(hops) => hops.iter().any(|hop| hop.interface_index == ifindex),
        _ => false,
    })
}
