//! Rules for others than this host, on a host that forwards nothing.

use std::net::IpAddr;

use anyhow::Result;

use super::super::Host;
use super::super::commands::{is_here, tool_in};
use super::rules::in_force;
use crate::kernel::{device, netns};
use crate::model::endpoint::Role;
use crate::model::enforcement::Mode;
use crate::model::finding::Findings;
use crate::model::identity::Identity;
use crate::model::prefix::hosts;
use crate::model::rule::{Action, Direction};
use crate::state::registry::Endpoint;

/// A routed workload that lets the world in, of which nothing ever arrives. Not where it may come otherwise: by a bridge, past
/// the stack, or from a transparent proxy.
pub fn look(host: &Host<'_>, endpoint: &Endpoint, findings: &mut Findings) -> Result<()> {
    let config = &endpoint.config;
    let comes_otherwise = config.local_delivery != 0 || config.trust_proxy != 0;
    let is_asked = config.modes()[0] != Mode::Off;
    if endpoint.stale || endpoint.role() != Some(Role::Container) || comes_otherwise || !is_asked {
        return Ok(());
    }
    let policy = in_force(host, endpoint)?;
    let for_world = policy.rules().iter().map(|listed| listed.rule).find(|rule| {
        let is_allowed = rule.action == Action::Allow && rule.direction == Direction::Ingress;
        is_allowed && rule.peer == Identity::WORLD
    });
    let Some(rule) = for_world else { return Ok(()) };
    let addresses: Vec<IpAddr> = hosts(&endpoint.addresses()).collect();
    let lacking = netns::within(endpoint.netns, || {
        let routed = device::by_index(endpoint.ifindex)?.is_some_and(|it| it.bridge_mac.is_none());
        let has = |is_ipv6| addresses.iter().any(|address| address.is_ipv6() == is_ipv6);
        let lacks = |is_ipv6: &bool| routed && has(*is_ipv6) && !device::any_forwards(*is_ipv6);
        Ok([false, true].into_iter().filter(lacks).collect::<Vec<_>>())
    })?;
    for is_ipv6 in lacking.unwrap_or_default() {
        let (family, setting) = match is_ipv6 {
            false => ("IPv4", "net.ipv4.ip_forward"),
            true => ("IPv6", "net.ipv6.conf.all.forwarding"),
        };
        findings.warning(
            "forwarding",
            format!(
                "`{}` lets nobody in by {family}, since no device here forwards that",
                rule.text(&host.names)
            ),
            &match tool_in(endpoint.netns, &["sysctl", &format!("{setting}=1")]) {
                here if is_here(endpoint.netns) => {
                    format!("`{here}`; for the next boot in /etc/sysctl.d/")
                }
                there => format!("`{there}`"),
            },
        );
    }
    Ok(())
}
