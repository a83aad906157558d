//! Flows that were up before a policy: those of an endpoint, of all that the kernel's conntrack knows.

use std::collections::HashSet;
use std::net::{IpAddr, SocketAddr};

use anyhow::{Context, Result};
use ipnet::IpNet;
use log::{info, warn};

use crate::kernel::device;
use crate::kernel::kernel_flows::{self, KernelFlow};
use crate::model::endpoint::{Role, Scope};
use crate::model::prefix::any_contains;
use crate::model::rule::Direction;
use crate::program::load::Resolved;
use crate::state::conntrack::{Conntrack, Existing, Originator};
use crate::state::pin::Root;

/// Enters the flows that an endpoint has already into the maps that its programs were loaded with, under the
/// scope that they have there.
pub fn adopt(root: &Root, resolved: &Resolved, scope: Scope) -> Result<()> {
    if resolved.role == Role::Container && resolved.addresses.is_empty() {
        warn!(
            "{}: --adopt finds a workload's flows by its addresses; give them with --ip",
            resolved.device.name
        );
        return Ok(());
    }
    let owner = resolved.policy.ct_local.then_some(resolved.id);
    let conntrack = Conntrack::open(root, owner)?.context("the maps of flows are not pinned")?;
    let known = kernel_flows::read()?;
    if known.is_empty() {
        return Ok(());
    }
    let mut flows: Vec<Existing> = match resolved.role {
        Role::Container => {
            // A prefix may have addresses of this host in it.
            let host = device::local_addresses()?;
            let own = known.iter().flat_map(|flow| of_workload(flow, &resolved.addresses));
            own.filter(|flow| !host.contains(&flow.local.ip())).collect()
        }
        Role::Netdev => {
            let host = device::local_addresses()?;
            known.iter().filter_map(|flow| of_host(flow, &host)).collect()
        }
    };
    // What a workload sends makes its entry anew: if there is no room for all, let it be for the others.
    flows.sort_by_key(|flow| flow.masqueraded);
    let adopted = conntrack.adopt(scope, resolved.nic_slot, &flows)?;
    let device = &resolved.device.name;
    info!(
        "{device}: {} flows were taken over of {} that the kernel knows",
        adopted.entered,
        known.len()
    );
    if adopted.no_room > 0 {
        warn!(
            "{device}: {} flows that are up were not taken over, since the maps of flows are full; their \
             size counts when they are made (--ct-entries)",
            adopted.no_room
        );
    }
    Ok(())
}

/// As a NIC of the host sees it: what the host sends is translated already, and what it receives not yet.
pub(super) fn of_host(flow: &KernelFlow, host: &HashSet<IpAddr>) -> Option<Existing> {
    let is_local = |end: SocketAddr| end.ip().is_loopback() || host.contains(&end.ip());
    let KernelFlow { original, reply, .. } = flow;
    match (is_local(original.source), is_local(original.destination)) {
        // From the host to itself: by no NIC.
        (true, true) => None,
        (true, false) => {
            Some(existing(flow, Direction::Egress, reply.destination, reply.source, false))
        }
        (false, true) => {
            Some(existing(flow, Direction::Ingress, original.destination, original.source, false))
        }
        (false, false) if is_local(reply.destination) => {
            Some(existing(flow, Direction::Egress, reply.destination, reply.source, true))
        }
        (false, false) => None,
    }
}

/// As a workload itself sees it: what it sends is not translated yet, and what it receives is already.
/// It may be both ends, by the host's address.
fn of_workload(flow: &KernelFlow, own: &[IpNet]) -> impl Iterator<Item = Existing> + use<> {
    let KernelFlow { original, reply, .. } = flow;
    let sent = any_contains(own, original.source.ip());
    let received = any_contains(own, reply.source.ip());
    let sent = sent.then(|| of_sender(flow));
    let received = received.then(|| of_receiver(flow));
    sent.into_iter().chain(received)
}

/// As the workload sees it that has begun it.
pub(super) fn of_sender(flow: &KernelFlow) -> Existing {
    existing(flow, Direction::Egress, flow.original.source, flow.original.destination, false)
}

/// As the workload sees it that answers.
pub(super) fn of_receiver(flow: &KernelFlow) -> Existing {
    existing(flow, Direction::Ingress, flow.reply.source, flow.reply.destination, false)
}

fn existing(
    flow: &KernelFlow,
    direction: Direction,
    local: SocketAddr,
    remote: SocketAddr,
    masqueraded: bool,
) -> Existing {
    Existing {
        protocol: flow.protocol,
        local,
        remote,
        direction,
        originator: if flow.midstream { Originator::Unknown } else { Originator::Known },
        masqueraded,
        seconds_left: flow.seconds_left,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::kernel_flows::Tuple;
    use crate::model::protocol::UDP;

    const HOST: &str = "192.0.2.1";
    const WORKLOAD: &str = "10.0.0.2";
    const OTHER: &str = "198.51.100.7";

    fn tuple(source: &str, destination: &str) -> Tuple {
        let end = |text: &str| text.parse().expect("an address and a port");
        Tuple { source: end(source), destination: end(destination) }
    }

    fn flow(original: Tuple, reply: Tuple) -> KernelFlow {
        KernelFlow {
            protocol: UDP,
            original,
            reply,
            midstream: false,
            is_answered: true,
            seconds_left: None,
        }
    }

    fn told(flow: &Existing) -> String {
        let masqueraded = if flow.masqueraded { ", masqueraded" } else { "" };
        format!("{} {} {}{masqueraded}", flow.direction, flow.local, flow.remote)
    }

    /// As the host sees it, and as the workload does.
    fn seen(original: Tuple, reply: Tuple) -> [String; 2] {
        let flow = flow(original, reply);
        let [host, own] = [HOST, WORKLOAD].map(|ip| ip.parse::<IpAddr>().unwrap());
        let (host, own) = (HashSet::from([host]), [IpNet::from(own)]);
        let of_workload: Vec<String> = of_workload(&flow, &own).map(|flow| told(&flow)).collect();
        [of_host(&flow, &host).as_ref().map(told).unwrap_or_default(), of_workload.join("; ")]
    }

    #[test]
    fn the_hosts_own_flows_are_those_of_its_nics() {
        let (host, other) = (&format!("{HOST}:1"), &format!("{OTHER}:2"));
        let plain = seen(tuple(host, other), tuple(other, host));
        assert_eq!(plain, ["egress 192.0.2.1:1 198.51.100.7:2", ""]);
        let plain = seen(tuple(other, host), tuple(host, other));
        assert_eq!(plain, ["ingress 192.0.2.1:1 198.51.100.7:2", ""]);
        // Under another port, to another server than it thinks.
        let translated = seen(tuple(host, "203.0.113.1:53"), tuple(other, &format!("{HOST}:1024")));
        assert_eq!(translated, ["egress 192.0.2.1:1024 198.51.100.7:2", ""]);
    }

    #[test]
    fn what_the_host_sends_to_itself_leaves_by_no_nic() {
        let host = &format!("{HOST}:1");
        assert_eq!(seen(tuple(host, "127.0.0.53:53"), tuple("127.0.0.53:53", host)), ["", ""]);
    }

    #[test]
    fn a_masqueraded_flow_is_one_of_the_host_and_another_of_its_workload() {
        let (workload, other) = (&format!("{WORKLOAD}:1"), &format!("{OTHER}:2"));
        assert_eq!(
            seen(tuple(workload, other), tuple(other, &format!("{HOST}:1024"))),
            [
                "egress 192.0.2.1:1024 198.51.100.7:2, masqueraded",
                "egress 10.0.0.2:1 198.51.100.7:2"
            ]
        );
    }

    #[test]
    fn a_published_port_has_the_hosts_number_outside_and_the_workloads_own_inside() {
        let (workload, other) = (&format!("{WORKLOAD}:80"), &format!("{OTHER}:2"));
        assert_eq!(
            seen(tuple(other, &format!("{HOST}:8080")), tuple(workload, other)),
            ["ingress 192.0.2.1:8080 198.51.100.7:2", "ingress 10.0.0.2:80 198.51.100.7:2"]
        );
    }

    #[test]
    fn a_workload_that_asks_itself_by_the_hosts_address_has_two_flows() {
        let there = tuple(&format!("{WORKLOAD}:1"), &format!("{HOST}:8080"));
        let back = tuple(&format!("{WORKLOAD}:80"), &format!("{HOST}:1024"));
        let [_, workload] = seen(there, back);
        let both = "egress 10.0.0.2:1 192.0.2.1:8080; ingress 10.0.0.2:80 192.0.2.1:1024";
        assert_eq!(workload, both);
    }

    #[test]
    fn what_the_host_only_forwards_is_none_of_its_flows() {
        let (workload, other) = (&format!("{WORKLOAD}:1"), &format!("{OTHER}:2"));
        assert_eq!(
            seen(tuple(workload, other), tuple(other, workload)),
            ["", "egress 10.0.0.2:1 198.51.100.7:2"]
        );
    }
}
