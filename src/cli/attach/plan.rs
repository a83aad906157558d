//! What `attach` is going to do, decided before anything is changed.

use std::collections::BTreeSet;
use std::net::IpAddr;

use anyhow::{Context as _, Result, bail, ensure};
use log::{debug, warn};

use super::Args;
use crate::kernel::device::{self, Device, Framing};
use crate::kernel::hooks::{HookKind, Place};
use crate::kernel::{netns, sys};
use crate::model::endpoint::{EndpointId, Role, Scope};
use crate::model::enforcement::Mode;
use crate::model::identity::{Identity, Names};
use crate::model::mac::WorkloadMac;
use crate::model::spec::{HookChoice, HostAddresses};
use crate::output;
use crate::program::load;
use crate::program::load::Enforcement;
use crate::state::nics;
use crate::state::pin::Root;
use crate::state::registry::Endpoint;

/// The role, and a sentence that says why it was chosen; an empty one if `--role` was given.
pub fn role(args: &Args, device: &Device) -> Result<(Role, String)> {
    let name = &device.name;
    ensure!(
        device.framing.is_some(),
        "{name} has link type {}; cilmark knows Ethernet devices, tun, WireGuard and IP tunnels",
        device.link_type
    );
    let (role, why) = match args.role {
        Some(role) => (role, "as --role says"),
        None if !(device.is_veth() || device.is_tap()) => {
            (Role::Netdev, "since it is neither a veth nor a tap")
        }
        None if device::carries_default_route(device)? => {
            (Role::Netdev, "since a default route leaves by it")
        }
        None => (Role::Container, "since it is a veth or tap without a default route"),
    };
    let reason = match args.role {
        Some(_) => String::new(),
        None => format!("{name}: taken for a {role}, {why} (--role says otherwise)"),
    };
    let kind = device.kind.as_deref().unwrap_or_default();
    let stacked = device::shares_its_parents_hooks(kind);
    match role {
        Role::Container if stacked => bail!(
            "{name} is a {kind}, whose hooks see the workload's packets the wrong way round or not \
             at all; attach to its parent device as a netdev, or connect the workload by a veth or \
             a tap"
        ),
        Role::Container => {}
        Role::Netdev => {
            if let Some(bridge) = &device.bridge {
                output::note(&format!(
                    "{name} is a port of the bridge {bridge}, which is the better place for the policy of \
                     this host: what its other ports send meets none here"
                ));
            }
            for child in device::stacked_on(device)? {
                warn!(
                    "{name} carries the {} {}: what that sends looks as if this host had sent it, and what \
                     is sent to its MAC may meet no policy of {name}; attach it too, as a netdev",
                    child.kind.as_deref().unwrap_or_default(),
                    child.name
                );
            }
        }
    }
    for (given, flag, needs) in [
        (args.arp_responder, "--arp-responder", Role::Container),
        (args.flow_label, "--flow-label", Role::Container),
        (args.workload_mac.is_some(), "--workload-mac", Role::Container),
        (args.router, "--router", Role::Container),
        (args.trust_marks, "--trust-marks", Role::Container),
        (args.stamp_remote, "--stamp-remote", Role::Netdev),
        (args.trust_flow_label.is_some(), "--trust-flow-label", Role::Netdev),
        (args.host_addresses == HostAddresses::Listed, "--host-addresses", Role::Netdev),
    ] {
        ensure!(!given || role == needs, "{flag} is for the role {needs}, and {name} is a {role}");
    }
    if let Some(WorkloadMac::Only(_)) = args.workload_mac {
        ensure!(
            device.framing == Some(Framing::Ethernet),
            "--workload-mac is for Ethernet, and packets of {name} have no such header; leave it out for \
             this device"
        );
        ensure!(
            !args.ip.is_empty(),
            "--workload-mac is a part of the source check, which begins with --ip ADDR"
        );
    }
    if args.local_delivery {
        check_local_delivery(device, role)?;
        if role == Role::Container && args.ip.is_empty() {
            warn!("{name} delivers to others, but without --ip nobody delivers to it");
        }
    }
    Ok((role, reason))
}

/// Local delivery redirects whole frames: it takes Ethernet on both sides, and a device to redirect into.
fn check_local_delivery(device: &Device, role: Role) -> Result<()> {
    let name = &device.name;
    ensure!(
        device.framing == Some(Framing::Ethernet),
        "--local-delivery is for Ethernet, and packets of {name} have no such header; leave it out \
         for this device"
    );
    let has_way_in = device.is_tap() || (device.is_veth() && device.parent_is_elsewhere);
    ensure!(
        role == Role::Netdev || has_way_in,
        "--local-delivery is for a tap, or a veth with its other end in another network namespace, \
         and {name} is neither; leave it out for this device"
    );
    Ok(())
}

/// How and where to attach.
pub fn place(args: &Args, device: &Device) -> Result<Place> {
    let kind = match args.hook {
        HookChoice::Clsact => HookKind::Clsact,
        HookChoice::Tcx if !sys::has_tcx() => {
            bail!("this kernel has no TCX (Linux 6.6 has); leave out --hook, or say --hook clsact")
        }
        HookChoice::Tcx => HookKind::Tcx,
        HookChoice::Auto if sys::has_tcx() => HookKind::Tcx,
        HookChoice::Auto => HookKind::Clsact,
    };
    Ok(Place { kind, ifindex: device.ifindex, first: args.first })
}

/// The endpoint's number: as `--endpoint-id` says, as before if it is replaced, or the lowest free one.
pub fn endpoint_id(args: &Args, root: &Root, replaced: Option<&Endpoint>) -> Result<EndpointId> {
    match (args.endpoint_id, replaced) {
        (Some(wanted), Some(endpoint)) => {
            ensure!(
                endpoint.id == wanted,
                "{} is attached as endpoint {}; `cilmark detach {}` first, to change the number",
                endpoint.device,
                endpoint.id,
                endpoint.device
            );
            Ok(wanted)
        }
        (Some(wanted), None) => {
            if root.endpoints()?.contains(&wanted) {
                let taken = Endpoint::read(root, wanted)?;
                bail!(
                    "endpoint {wanted} is {}{}; take another number, or `cilmark detach \
                     id:{wanted}`",
                    taken.device,
                    if taken.stale { ", which is gone" } else { "" }
                );
            }
            Ok(wanted)
        }
        (None, Some(endpoint)) => Ok(endpoint.id),
        (None, None) => EndpointId::lowest_free(root.endpoints()?)
            .context("all 65535 endpoint numbers are taken"),
    }
}

/// The slot of a NIC with a policy among those of its root.
pub fn nic_slot(
    root: &Root,
    id: EndpointId,
    role: Role,
    policy: &Enforcement,
    device: &Device,
) -> Result<u8> {
    match role {
        Role::Netdev if [policy.ingress, policy.egress] != [Mode::Off; 2] => {
            nics::slot_for(root, id, device, netns::current()?)
        }
        _ => Ok(0),
    }
}

/// Whose its flows are: those of its own that it has already, or nobody's yet.
pub fn scope(role: Role, replaced: Option<&Endpoint>) -> Result<Scope> {
    Ok(match (role, replaced) {
        (Role::Netdev, _) => Scope::NICS,
        (Role::Container, Some(endpoint))
            if endpoint.role() == Some(role) && endpoint.has_a_program_there()? =>
        {
            endpoint.config.scope()
        }
        (Role::Container, _) => Scope::NOBODY,
    })
}

/// The identity. It must fit into the mark, and with `--flow-label` into a flow label.
pub fn identity(args: &Args, role: Role, names: &Names) -> Result<Identity> {
    let identity = match (&args.id, role) {
        (Some(text), _) => names.parse(text)?,
        (None, Role::Netdev) => Identity::HOST,
        (None, Role::Container) => bail!("a container needs an identity: --id ID"),
    };
    ensure!(
        role == Role::Netdev || identity != Identity::HOST,
        "--id 1 is this host, and a workload with it would pass for the host"
    );
    ensure!(
        identity <= Identity::STAMPABLE_MAX,
        "--id {identity} does not fit into a mark: {} is the largest",
        Identity::STAMPABLE_MAX
    );
    ensure!(
        !args.flow_label || identity <= Identity::FLOW_LABEL_MAX,
        "--id {identity} does not fit into a flow label: {} is the largest; leave out --flow-label",
        Identity::FLOW_LABEL_MAX
    );
    Ok(identity)
}

/// The addresses of `--ip`; of a NIC without that, those that it has.
pub fn addresses(args: &Args, device: &Device, role: Role) -> Result<Vec<IpAddr>> {
    let mut addresses = match role {
        Role::Netdev if args.ip.is_empty() => device::addresses(device)?,
        _ => args.ip.clone(),
    };
    let mut seen = BTreeSet::new();
    addresses.retain(|address| seen.insert(*address));
    for address in &args.ip {
        ensure!(is_of_a_host(address), "--ip {address} is not an address that a host sends from");
    }
    for (family, count) in [
        ("IPv4", addresses.iter().filter(|address| address.is_ipv4()).count()),
        ("IPv6", addresses.iter().filter(|address| address.is_ipv6()).count()),
    ] {
        // A NIC's addresses are in the ipcache, too, so that some may not fit; a workload's source check needs all.
        ensure!(
            role == Role::Netdev || count <= load::max_addresses(),
            "{count} {family} addresses for one workload; {} are the most",
            load::max_addresses()
        );
    }
    Ok(addresses)
}

/// The host's addresses on other devices. Link-local ones come last, since there may be too many for the configuration.
pub fn others(own: &[IpAddr]) -> Result<Vec<IpAddr>> {
    let is_link_local = |ip: &IpAddr| matches!(ip, IpAddr::V6(v6) if v6.is_unicast_link_local());
    let mut others: Vec<IpAddr> = device::local_addresses()?.into_iter().collect();
    others.retain(|ip| !ip.is_loopback() && !own.contains(ip));
    others.sort_by_key(|ip| (is_link_local(ip), *ip));
    Ok(others)
}

/// The only MAC that a workload may send from: that of `--workload-mac`, or of its veth's other end as it is now.
/// `None` if any may be used, as always without addresses.
pub fn source_mac(
    args: &Args,
    device: &Device,
    role: Role,
    addresses: &[IpAddr],
) -> Option<[u8; 6]> {
    match args.workload_mac {
        _ if role == Role::Netdev || addresses.is_empty() => None,
        Some(WorkloadMac::Any) => None,
        Some(WorkloadMac::Only(mac)) => Some(mac.0),
        None => device::peer_mac(device).unwrap_or_else(|error| {
            debug!("{}: the MAC of its other end: {error:#}", device.name);
            None
        }),
    }
}

fn is_of_a_host(address: &IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => !v4.is_broadcast() && !is_special(address),
        IpAddr::V6(v6) => v6.to_ipv4_mapped().is_none() && !is_special(address),
    }
}

fn is_special(address: &IpAddr) -> bool {
    address.is_unspecified() || address.is_multicast() || address.is_loopback()
}

/// Takes the text of an identity. Only *unknown* (0) is refused here; names are resolved later.
pub fn parse_id(text: &str) -> Result<String> {
    let known = Names::default().parse(text);
    ensure!(
        !known.is_ok_and(|identity| identity == Identity::UNKNOWN),
        "it means unknown, and can't be anybody's identity"
    );
    Ok(text.to_owned())
}

/// Reads an address. The error explains the two usual mistakes: DEV behind `--ip`, which takes all words that
/// follow it, and a prefix as `ip addr` prints it.
pub fn parse_address(text: &str) -> Result<IpAddr> {
    text.parse().ok().with_context(|| match text.split_once('/') {
        Some((address, _)) if address.parse::<IpAddr>().is_ok() => {
            format!("`{text}` is a prefix; the address alone is {address}")
        }
        _ => format!("`{text}` is not an IP address; DEV goes before --ip"),
    })
}
