//! What to do about drops that no rule is about.

use std::net::IpAddr;

use crate::kernel::abi::{cm_event, cm_program, cm_reason};
use crate::model::endpoint::EndpointId;
use crate::model::prefix::{any_contains, hosts, list};
use crate::model::protocol::{ICMP6, UDP, icmp6};
use crate::state::endpoints::Endpoints;
use crate::state::pin::Root;
use crate::state::registry::Endpoint;

/// `None` where nothing is known that helps.
pub fn about(root: &Root, endpoint: &Endpoint, event: &cm_event) -> Option<String> {
    match event.reason {
        cm_reason::CM_DROP_INVALID_SOURCE => Some(source(endpoint, event)),
        cm_reason::CM_DROP_FORBIDDEN_ICMP6 => Some(match event.program {
            cm_program::CM_FROM_CONTAINER => {
                "a workload sends router advertisements and redirects only if it is attached with --router"
                    .to_owned()
            }
            _ => "no rule allows it: a NIC passes such messages only where their link needs them, unchanged \
                  by any router"
                .to_owned(),
        }),
        cm_reason::CM_DROP_FRAGMENT_NOT_FOUND => Some(
            "the fragment with its ports has not passed here before it: it was denied, got lost, or comes later \
             or another way; a rule helps only if it was denied, packets below the MTU always do"
                .to_owned(),
        ),
        cm_reason::CM_DROP_MISSED_TAIL_CALL => missed(root, event.destination.to_ip()?),
        _ => None,
    }
}

/// Which row of the source check refused it.
fn source(endpoint: &Endpoint, event: &cm_event) -> String {
    if event.program != cm_program::CM_FROM_CONTAINER {
        return "nobody on a wire is this host: no rule allows it; where the address has left this host, \
                attach the NIC that had it again"
            .to_owned();
    }
    let config = &endpoint.config;
    let addresses = config.addresses();
    let dport = u16::from_be(event.dport);
    if event.protocol == UDP && matches!(dport, 68 | 546) && config.router == 0 {
        return "a workload offers leases only if it is attached with --router".to_owned();
    }
    match event.source.to_ip() {
        Some(source) if addresses.is_empty() => {
            format!("{source} is this host's own; a workload may not send from it")
        }
        // In a prefix it belongs to whoever has the address itself, or a longer prefix.
        Some(source) if any_contains(&addresses, source) && !hosts(&addresses).any(|it| it == source) => {
            format!(
                "{source} is another's, for all that it is in {}: this host's, or a workload's whose own address or longer \
                 prefix it is in; or it comes from another MAC than the workload's",
                list(&addresses)
            )
        }
        Some(source) if !any_contains(&addresses, source) && !source.is_unspecified() => format!(
            "if {source} is the workload's, attach it again with that behind --ip, beside {}",
            list(&addresses)
        ),
        _ if event.protocol == ICMP6 && matches!(
                event.icmp_type,
                icmp6::NEIGHBOUR_SOLICITATION | icmp6::NEIGHBOUR_ADVERTISEMENT
            ) => {
            "it speaks for an address that is not the workload's, or from another MAC than --workload-mac"
                .to_owned()
        }
        _ => "it comes from another MAC than the workload's, which --workload-mac tells, or speaks for an \
              address that is not the workload's"
            .to_owned(),
    }
}

/// The endpoint whose program should have been called.
fn missed(root: &Root, destination: IpAddr) -> Option<String> {
    let owner = Endpoints::open(root).ok()??.get(destination).ok()??;
    let id = EndpointId::new(owner.endpoint_id)?;
    let device = Endpoint::read(root, id).map(|owner| owner.device).unwrap_or_default();
    Some(format!(
        "{destination} belongs to endpoint {id} ({device}), whose device or program is gone; attach that \
         again, or leave its packets to the stack: cilmark detach id:{id}"
    ))
}
