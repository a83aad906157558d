//! Whether an operator who is logged out gets in again.

use std::collections::BTreeSet;

use anyhow::Result;

use super::super::{Host, SSH_SERVERS};
use super::rules::in_force;
use crate::kernel::{device, netns, processes, sockets};
use crate::model::endpoint::Role;
use crate::model::enforcement::{FailsafePort, Mode};
use crate::model::finding::{Finding, Findings};
use crate::model::identity::Identity;
use crate::model::policy::{Decision, Policy, decide};
use crate::model::protocol::TCP;
use crate::model::rule::{Direction, Rule};
use crate::ops::options;
use crate::state::registry::Endpoint;

/// In each namespace whose NICs enforce: the ports by which operators come, and none of these lets in. Not where there is
/// another way in, as a NIC that is not attached.
pub fn examine(host: &Host<'_>) -> Result<Vec<Finding>> {
    let mut nics = Vec::new();
    for endpoint in host.endpoints.iter().filter(|endpoint| !endpoint.stale) {
        if endpoint.role() == Some(Role::Netdev) {
            nics.push((endpoint, endpoint.modes_in_force()?[0] == Mode::Enforce));
        }
    }
    let mut all = Vec::new();
    let mut of_host = Findings::of_this_host();
    let guarded = nics.iter().filter(|(_, enforces)| *enforces).map(|(nic, _)| nic.netns);
    for netns in guarded.collect::<BTreeSet<u64>>() {
        let here = nics.iter().filter(|(nic, _)| nic.netns == netns);
        let here: Vec<(&Endpoint, bool)> = here.copied().collect();
        let ports = netns::within(netns, ports_of_operators)?.unwrap_or_default();
        for port in &ports {
            let mut shut = Vec::new();
            for (nic, enforces) in &here {
                if *enforces && !lets_in(host, nic, *port)? {
                    shut.push(*nic);
                }
            }
            let other_way = || other_way(host, netns, &shut);
            match shut.first() {
                Some(nic) if !netns::within(netns, other_way)?.unwrap_or(true) => {
                    all.extend(closed(host, nic, *port)?);
                }
                _ => {}
            }
        }
        if all.is_empty() && !ports.is_empty() {
            let ports: Vec<String> = ports.iter().map(|port| format!("tcp/{port}")).collect();
            let says = format!("operators get in by SSH ({})", ports.join(", "));
            of_host.ok("ssh", says);
        }
    }
    all.append(&mut of_host.all);
    Ok(all)
}

fn closed(host: &Host<'_>, nic: &Endpoint, port: u16) -> Result<Vec<Finding>> {
    let mut findings = Findings::of(&host.name_of(nic));
    let decision = asked(&in_force(host, nic)?, Identity::WORLD, port);
    let port = FailsafePort { protocol: TCP, port };
    let mut failsafe = options::failsafe(&nic.config).unwrap_or_default();
    failsafe.ingress.push(port);
    let failsafe: Vec<String> = failsafe.ingress.iter().map(FailsafePort::to_string).collect();
    let failsafe = host.attach(nic, &format!("--keep --failsafe {}", failsafe.join(",")));
    let (what, cure) = match decision {
        // No other rule beats it.
        Decision::Deny(_) => ("a rule denies", format!("`{failsafe}`, or remove that rule")),
        _ => {
            let rule = format!("allow ingress from any {port}");
            let add = host.command("policy add", nic, &rule);
            ("no failsafe port or rule opens", format!("`{failsafe}`, or `{add}`"))
        }
    };
    findings.warning(
        "ssh",
        format!("{what} {port}, where an SSH server listens: no new login is possible"),
        &cure,
    );
    Ok(findings.all)
}

/// Where SSH servers of this namespace listen for others than this host.
fn ports_of_operators() -> Result<BTreeSet<u16>> {
    let servers = processes::sockets_of(&SSH_SERVERS);
    let listeners = sockets::listeners().into_iter();
    let ours = listeners.filter(|it| it.local.port() == 22 || servers.contains(&it.inode));
    Ok(ours.map(|listener| listener.local.port()).collect())
}

/// By a failsafe port, or by a rule for anybody that no other beats.
fn lets_in(host: &Host<'_>, nic: &Endpoint, port: u16) -> Result<bool> {
    let failsafe = options::failsafe(&nic.config).unwrap_or_default();
    if failsafe.ingress.contains(&FailsafePort { protocol: TCP, port }) {
        return Ok(true);
    }
    let policy = in_force(host, nic)?;
    let peers = policy.rules().iter().map(|listed| listed.rule.peer);
    let mut peers = peers.filter(|peer| *peer != Rule::ANY).chain([Identity::WORLD]);
    Ok(peers.any(|peer| matches!(asked(&policy, peer, port), Decision::Allow(_))))
}

fn asked(policy: &Policy, peer: Identity, port: u16) -> Decision {
    decide(policy.rules(), Direction::Ingress, peer, TCP, port)
}

/// Whether somebody may come in by a device of this namespace that is none of these: one with an address, by which others
/// than workloads are reached.
fn other_way(host: &Host<'_>, netns: u64, shut: &[&Endpoint]) -> Result<bool> {
    for name in device::names()? {
        let Some(device) = device::find(&name)? else { continue };
        let attached = host.endpoints.iter().filter(|it| !it.stale && it.netns == netns);
        let attached = attached.into_iter().find(|it| it.ifindex == device.ifindex);
        let leads_out = match attached {
            Some(endpoint) if shut.iter().any(|nic| nic.id == endpoint.id) => false,
            Some(endpoint) => endpoint.role() == Some(Role::Netdev),
            None => {
                !matches!(device.kind.as_deref(), Some("veth" | "bridge" | "dummy")) && name != "lo"
            }
        };
        if leads_out && device.is_up() && !device::lasting_addresses(&device)?.is_empty() {
            return Ok(true);
        }
    }
    Ok(false)
}
