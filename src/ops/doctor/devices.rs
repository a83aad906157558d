//! Devices whose packets are seen better, or only, on another one.

mod doors;

use anyhow::Result;

use super::Host;
use crate::kernel::device::{self, Device};
use crate::kernel::netns;
use crate::model::endpoint::Role;
use crate::model::enforcement::Mode;
use crate::model::finding::{Finding, Findings};
use crate::ops::placement::{self, Remark};
use crate::state::registry::Endpoint;

/// Findings of this part.
pub fn examine(host: &Host<'_>) -> Result<Vec<Finding>> {
    let mut found = Vec::new();
    let live: Vec<&Endpoint> = host.endpoints.iter().filter(|it| !it.stale).collect();
    for endpoint in &live {
        let of_device = netns::within(endpoint.netns, || {
            let Some(device) = device::by_index(endpoint.ifindex)? else { return Ok(Vec::new()) };
            let mut findings = Findings::of(&host.name_in(endpoint.netns, &device.name));
            match endpoint.role() {
                Some(Role::Container) => as_container(host, &mut findings, endpoint, &device)?,
                Some(Role::Netdev) => as_nic(host, &mut findings, &live, endpoint, &device)?,
                None => {}
            }
            Ok(findings.all)
        })?;
        found.extend(of_device.unwrap_or_default());
    }
    found.extend(doors::examine(host)?);
    if found.is_empty() && !live.is_empty() && host.is_whole {
        let mut findings = Findings::of_this_host();
        findings.ok("devices", "what is attached are the devices by which the packets go");
        return Ok(findings.all);
    }
    Ok(found)
}

fn as_container(
    host: &Host<'_>,
    findings: &mut Findings,
    endpoint: &Endpoint,
    device: &Device,
) -> Result<()> {
    let cure = format!(
        "attach it as a NIC: note what `{}` shows, since its policy and rules go with `{}`; then `{}`, with `--policy` and a \
         `--rule` for each that is to stay",
        host.command("status", endpoint, "--spec"),
        host.command("detach", endpoint, ""),
        host.attach(endpoint, "--role netdev")
    );
    if device::carries_default_route(device)? {
        let says = "is attached as a container, and a default route leaves by it: all that this host sends there counts \
                    as sent to a workload";
        findings.warning("role", says, &cure);
    } else if !(device.is_veth() || device.is_tap()) {
        let kind = device.kind.as_deref().unwrap_or("hardware");
        let says = format!(
            "is attached as a container, and is no host side of one ({kind}, neither veth nor tap): what others send by \
             it counts as one workload's"
        );
        findings.warning("role", says, &cure);
    }
    Ok(())
}

/// Without a policy, a NIC's place hardly matters.
fn as_nic(
    host: &Host<'_>,
    findings: &mut Findings,
    live: &[&Endpoint],
    endpoint: &Endpoint,
    device: &Device,
) -> Result<()> {
    let has_policy = |it: &Endpoint| Ok::<_, anyhow::Error>(it.modes_in_force()? != [Mode::Off; 2]);
    if !has_policy(endpoint)? {
        return Ok(());
    }
    let at =
        |ifindex: u32| live.iter().find(|it| (it.netns, it.ifindex) == (endpoint.netns, ifindex));
    let warn = |findings: &mut Findings, it: Remark| findings.warning(it.check, it.says, &it.cure);
    if let Some(remark) = placement::better_place(device)? {
        match device.master.and_then(at) {
            Some(master) if has_policy(master)? => findings.warning(
                "better place",
                format!(
                    "is attached with a policy, and so is {}, of which it is a part: what goes by both needs the rules \
                     of both",
                    master.device
                ),
                &format!(
                    "`{}`, if the rules of {} are enough",
                    host.command("detach", endpoint, ""),
                    master.device
                ),
            ),
            _ => warn(findings, remark),
        }
    }
    let is_attached = |child: &Device| {
        live.iter().any(|it| (&it.device, it.ifindex) == (&child.name, child.ifindex))
    };
    if let Some(remark) = placement::children(device, is_attached)? {
        warn(findings, remark);
    }
    if let Some(remark) = placement::sees_little(device) {
        warn(findings, remark);
    }
    for vlan in device::vlans_on(device)? {
        findings.ok(
            "VLAN",
            match at(vlan.ifindex) {
                Some(it) if has_policy(it)? => format!(
                    "{} is on it and has a policy, too: what goes by that needs the rules of both",
                    vlan.name
                ),
                _ => {
                    format!("its policy counts for what goes by {}, too, which is on it", vlan.name)
                }
            },
        );
    }
    Ok(())
}
