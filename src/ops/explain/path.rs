//! How a packet comes to a program, as far as its source address tells.

use std::net::IpAddr;

use anyhow::Result;

use crate::kernel::abi::cm_role;
use crate::kernel::device::{self, Route};
use crate::kernel::netns;
use crate::kernel::sys::Hook;
use crate::model::endpoint::{EndpointId, Role};
use crate::model::identity::Identity;
use crate::model::mark::Mark;
use crate::state::endpoints::Endpoints;
use crate::state::pin::Root;
use crate::state::registry::Endpoint;

/// Any other device will do: what counts is whether there was one.
const ANOTHER_DEVICE: u32 = 1;

/// What the stack knows of a packet besides its bytes.
pub struct Path {
    /// The device that it came in by; 0: this host sends it.
    pub ingress_ifindex: u32,
    /// What the program of the device that it came in by has written.
    pub mark: Mark,
    /// From what that follows; `None` where there is no choice.
    pub because: Option<String>,
}

impl Path {
    /// The way to a hook that a packet with this source takes in the endpoint's namespace.
    pub fn of(root: &Root, endpoint: &Endpoint, hook: Hook, packet: &[u8]) -> Result<Path> {
        let config = &endpoint.config;
        if hook == Hook::Ingress {
            let ingress_ifindex = config.ifindex;
            return Ok(Path { ingress_ifindex, mark: Mark(0), because: None });
        }
        let source = source_of(packet, config.l3_device == 0);
        if let Some(source) = source
            && let Some(path) = Path::of_workload(root, endpoint, source)?
        {
            return Ok(path);
        }
        let route = match source {
            Some(source) => netns::within(config.netns, || device::route_to(source))?.flatten(),
            None => None,
        };
        let because = |words| source.map(|source| format!("{source} {words}"));
        let (ingress_ifindex, because) = match (route, endpoint.role()) {
            (Some(Route::Here), _) => (0, because("is an address of this host")),
            // What leaves by a NIC from anybody else is told apart by --ingress-ifindex.
            (_, Some(Role::Netdev)) => (0, None),
            (Some(Route::By(ifindex)), _) if ifindex != config.ifindex => {
                (ifindex, because("is routed there"))
            }
            _ => (ANOTHER_DEVICE, because("is not an address of this host")),
        };
        Ok(Path { ingress_ifindex, mark: Mark(0), because })
    }

    /// That of an attached workload of the same namespace.
    fn of_workload(root: &Root, endpoint: &Endpoint, source: IpAddr) -> Result<Option<Path>> {
        let Some(endpoints) = Endpoints::open(root)? else { return Ok(None) };
        let Some(sender) = endpoints.get(source)? else { return Ok(None) };
        let is_local = u32::from(sender.role) == cm_role::CM_ROLE_CONTAINER.0
            && sender.netns == endpoint.config.netns;
        let id = EndpointId::new(sender.endpoint_id).filter(|id| is_local && *id != endpoint.id);
        let Some(id) = id else { return Ok(None) };
        let identity = Identity(Endpoint::read(root, id)?.config.identity);
        Ok(Some(Path {
            ingress_ifindex: sender.ifindex,
            mark: Mark::encode(identity)?,
            because: Some(format!("{source} is an address of endpoint {id}")),
        }))
    }
}

/// The source address of an IP packet; `None` where it has none, or tags before it.
fn source_of(packet: &[u8], has_ethernet: bool) -> Option<IpAddr> {
    let ip = if has_ethernet { packet.get(14..)? } else { packet };
    let is_ip = |ethertype: [u8; 2]| !has_ethernet || packet.get(12..14) == Some(&ethertype);
    let of = |at: usize, length: usize| ip.get(at..at + length);
    match ip.first()? >> 4 {
        4 if is_ip([0x08, 0x00]) => Some(<[u8; 4]>::try_from(of(12, 4)?).ok()?.into()),
        6 if is_ip([0x86, 0xdd]) => Some(<[u8; 16]>::try_from(of(8, 16)?).ok()?.into()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::frame::Frame;
    use crate::model::protocol::UDP;

    #[test]
    fn the_source_is_read_of_both_families_with_ethernet_and_without() {
        for (source, destination) in [("10.1.0.10", "10.2.0.10"), ("fd00::1", "fd00::2")] {
            let source: IpAddr = source.parse().unwrap();
            for macs in [None, Some([[2; 6]; 2])] {
                let destination = destination.parse().unwrap();
                let (protocol, sport, dport) = (UDP, 1, 2);
                let (tcp_flags, icmp_type) = (0, 0);
                let frame = Frame {
                    macs,
                    source,
                    destination,
                    protocol,
                    sport,
                    dport,
                    tcp_flags,
                    icmp_type,
                };
                let bytes = frame.bytes().unwrap();
                assert_eq!(source_of(&bytes, macs.is_some()), Some(source));
                assert_eq!(source_of(&bytes[..20], true), None, "cut off");
            }
        }
        assert_eq!(source_of(&[0; 60], true), None);
        assert_eq!(source_of(&[], false), None);
    }
}
