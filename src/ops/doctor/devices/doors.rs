//! Devices by which others reach this host past a NIC that enforces: another uplink, a tunnel.

use std::collections::{BTreeSet, HashSet};
use std::net::IpAddr;

use anyhow::Result;

use crate::kernel::device::{self, Device, Framing};
use crate::kernel::{netns, sockets};
use crate::model::endpoint::Role;
use crate::model::enforcement::Mode;
use crate::model::finding::{Finding, Findings};
use crate::model::identity::Identity;
use crate::model::policy::{Decision, Policy, decide};
use crate::model::protocol::TCP;
use crate::model::rule::Direction;
use crate::ops::doctor::Host;
use crate::ops::doctor::commands::attach_in;
use crate::ops::targets::policy_of;
use crate::ops::{options, rules};
use crate::state::registry::Endpoint;

const DOOR: &str = "door";

/// How many ports are named.
const NAMED: usize = 5;

/// Of all namespaces in which a NIC enforces. Who has attached a device without a policy knows of it.
pub fn examine(host: &Host<'_>) -> Result<Vec<Finding>> {
    let mut found = Vec::new();
    for namespace in &host.namespaces {
        let live = host.endpoints.iter().filter(|it| !it.stale && it.netns == *namespace);
        let live: Vec<&Endpoint> = live.collect();
        let mut guards = Vec::new();
        for nic in live.iter().filter(|it| it.role() == Some(Role::Netdev)) {
            if nic.modes_in_force()?[0] == Mode::Enforce {
                guards.push(Guard {
                    nic,
                    policy: rules::in_force(&policy_of(host.root, nic)?, nic)?,
                });
            }
        }
        let look = || of_namespace(host, *namespace, &live, &guards);
        if !guards.is_empty() {
            found.extend(netns::within(*namespace, look)?.unwrap_or_default());
        }
    }
    Ok(found)
}

/// A NIC that enforces, and what it lets in.
struct Guard<'a> {
    nic: &'a Endpoint,
    policy: Policy,
}

impl Guard<'_> {
    /// Whether nobody unknown gets to this port of TCP by its NIC.
    fn closes(&self, port: u16) -> bool {
        let failsafe = options::failsafe(&self.nic.config).unwrap_or_default();
        let is_failsafe = failsafe.ingress.iter().any(|it| (it.protocol, it.port) == (TCP, port));
        let decision = decide(self.policy.rules(), Direction::Ingress, Identity::WORLD, TCP, port);
        !is_failsafe && !matches!(decision, Decision::Allow(_))
    }
}

fn of_namespace(
    host: &Host<'_>,
    netns: u64,
    live: &[&Endpoint],
    guards: &[Guard<'_>],
) -> Result<Vec<Finding>> {
    let all = device::all()?;
    let mut known: HashSet<u32> = live.iter().map(|it| it.ifindex).collect();
    for guard in guards {
        if let Some(device) = all.iter().find(|it| it.ifindex == guard.nic.ifindex) {
            known.extend(device::on_top_of(device)?);
        }
    }
    let mut found = Vec::new();
    for device in all.iter().filter(|it| it.is_up() && !known.contains(&it.ifindex)) {
        let addresses = device::addresses(device)?;
        if !addresses.is_empty() {
            let name = host.name_in(netns, &device.name);
            let attach = |flags: &str| attach_in(netns, &device.name, flags);
            let cure = |guard: &str| {
                format!(
                    "`{}`, with the rules of {guard}, and then enforce; or `{}` to leave it open on purpose",
                    attach("--policy audit"),
                    attach("")
                )
            };
            let findings = Findings::of(&name);
            found.extend(of_device(findings, device, &addresses, &all, guards, cure)?);
        }
    }
    Ok(found)
}

fn of_device(
    mut findings: Findings,
    device: &Device,
    addresses: &[IpAddr],
    all: &[Device],
    guards: &[Guard<'_>],
    cure: impl Fn(&str) -> String,
) -> Result<Vec<Finding>> {
    let Some(guard) = guards.first() else { return Ok(Vec::new()) };
    let guard_name = &guard.nic.device;
    let tunnel = match is_tunnel(device) {
        true => format!("; {guard_name} sees only the outer packets of this tunnel"),
        false => String::new(),
    };
    let cure = cure(guard_name);
    if device::carries_default_route(device)? {
        let says = format!(
            "carries a default route and is not attached, while {guard_name} enforces: what others send by it meets no \
             rule{tunnel}"
        );
        findings.warning(DOOR, says, &cure);
        return Ok(findings.all);
    }
    if is_inside(device, all) {
        return Ok(Vec::new());
    }
    let open = open_ports(addresses, guards);
    match open.is_empty() {
        true => findings.ok(
            DOOR,
            format!(
                "is not attached, and nothing listens there that {guard_name} would close{tunnel}"
            ),
        ),
        false => {
            let mut ports: Vec<String> =
                open.iter().take(NAMED).map(|port| format!("tcp/{port}")).collect();
            if open.len() > NAMED {
                ports.push(format!("{} more", open.len() - NAMED));
            }
            let says = format!(
                "is not attached, while {guard_name} enforces: hosts behind it reach {}, which {guard_name} closes{tunnel}",
                ports.join(", ")
            );
            findings.warning(DOOR, says, &cure);
        }
    }
    Ok(findings.all)
}

/// Ports of this host that are reached under one of these addresses, and that a NIC closes.
fn open_ports(addresses: &[IpAddr], guards: &[Guard<'_>]) -> BTreeSet<u16> {
    let is_reached = |ip: IpAddr| ip.is_unspecified() || addresses.contains(&ip.to_canonical());
    let listeners = sockets::listeners();
    let reached = listeners.iter().filter(|it| is_reached(it.local.ip()));
    let ports = reached.map(|it| it.local.port());
    ports.filter(|port| guards.iter().any(|guard| guard.closes(*port))).collect()
}

/// Behind it are workloads of this host, or nobody: the host's side of a veth or tap, a bridge of such.
fn is_inside(device: &Device, all: &[Device]) -> bool {
    let is_workloads =
        |it: &Device| it.is_veth() || it.is_tap() || it.kind.as_deref() == Some("netkit");
    match device.kind.as_deref() {
        Some("bridge") => {
            all.iter().filter(|it| it.master == Some(device.ifindex)).all(is_workloads)
        }
        // A VRF has its addresses for itself; what comes to them comes by its devices.
        Some("dummy" | "vrf" | "ifb") => true,
        _ => device.is_loopback() || is_workloads(device),
    }
}

/// Whether its packets travel in others of this host.
fn is_tunnel(device: &Device) -> bool {
    let kind = device.kind.as_deref().unwrap_or_default();
    let by_ethernet = ["vxlan", "geneve", "gretap", "ip6gretap", "l2tp", "bareudp"];
    device.framing == Some(Framing::Ip) || by_ethernet.contains(&kind)
}
