//! Programs of others on the hooks of our devices.
//!
//! The kernel's order: what a device receives meets XDP, TCX, clsact and the chains of nftables' ingress hook; what it
//! sends meets the chains of the egress hook, TCX and clsact (net/core/dev.c, `__netif_receive_skb_core` and
//! `__dev_queue_xmit`).

mod lost;
mod netfilter;

use anyhow::Result;

use super::Host;
use super::commands::tool_in;
use crate::kernel::device::{self, Device};
use crate::kernel::hooks::HOOKS;
use crate::kernel::netns;
use crate::kernel::order::Other;
use crate::kernel::sys::Hook;
use crate::kernel::xdp::{self, XdpProgram};
use crate::model::endpoint::Role;
use crate::model::enforcement::Mode;
use crate::model::finding::{Finding, Findings};
use crate::ops::order::{self, they_run};
use crate::state::registry::Endpoint;

const BEFORE: &str = "program before";
const BEHIND: &str = "program behind";
const XDP: &str = "XDP program";
const CILIUM: &str = "Cilium";

/// Findings of this part.
pub fn examine(host: &Host<'_>) -> Result<Vec<Finding>> {
    let mut found = Vec::new();
    let live: Vec<&Endpoint> = host.endpoints.iter().filter(|it| !it.stale).collect();
    for endpoint in &live {
        found.extend(of_endpoint(host, endpoint)?);
    }
    found.extend(netfilter::examine(host, &live)?);
    found.extend(lost::examine(host)?);
    if found.is_empty() && !live.is_empty() && host.is_whole {
        let mut findings = Findings::of_this_host();
        findings.ok("hooks", "no program of others is on a hook of what is attached");
        return Ok(findings.all);
    }
    Ok(found)
}

fn of_endpoint(host: &Host<'_>, endpoint: &Endpoint) -> Result<Vec<Finding>> {
    let mut findings = Findings::of(&host.name_of(endpoint));
    let (before, behind) = (endpoint.programs_before()?, endpoint.programs_behind()?);
    let (ciliums, behind): (Vec<Other>, Vec<Other>) = behind.into_iter().partition(is_ciliums);
    let all = before.iter().filter(|it| is_ciliums(it)).chain(&ciliums);
    let names: Vec<&str> = all.map(|it| it.name.as_str()).collect();
    if !names.is_empty() {
        findings.warning(
            CILIUM,
            format!(
                "Cilium's agent has {} here: two datapaths on one device, of which each takes the other's marks for \
                 its own",
                names.join(" and ")
            ),
            &format!("leave the device to one of them; `{}`", host.command("detach", endpoint, "")),
        );
    }
    let place = (endpoint.kind, endpoint.config.tc_priority);
    for it in order::before(place, &before) {
        let redirects = redirects(endpoint, &before, it.hook)?;
        let Some(guard) = guard(endpoint, it.hook)? else {
            findings.ok(BEFORE, format!("{}{redirects}", it.says));
            continue;
        };
        findings.warning(
            BEFORE,
            format!("{}, and {guard} is not asked about them{redirects}", it.says),
            &format!(
                "`{}` goes before {}",
                host.attach(endpoint, &format!("--keep {}", it.flags)),
                it.them
            ),
        );
    }
    for hook in HOOKS {
        let here: Vec<&Other> = behind.iter().filter(|it| it.hook == hook).collect();
        if let Some((they_run, is_one)) = they_run(&here) {
            let it = if is_one { "it" } else { "they" };
            findings.ok(
                BEHIND,
                format!(
                    "{they_run} behind cilmark on {hook}: what cilmark passes {it} may drop, redirect or mark anew"
                ),
            );
        }
    }
    for (device, program) in
        netns::within(endpoint.netns, || with_xdp(endpoint))?.unwrap_or_default()
    {
        of_xdp(&mut findings, endpoint, &device, &program)?;
    }
    Ok(findings.all)
}

/// What is asked about each packet on this hook and may drop it; `None` if nothing does.
fn guard(endpoint: &Endpoint, hook: Hook) -> Result<Option<&'static str>> {
    let is_nic = endpoint.role() == Some(Role::Netdev);
    let mode = endpoint.confirmation()?.in_force(endpoint.config.mode_on(hook));
    let checks_source = !is_nic && hook == Hook::Ingress && !endpoint.addresses().is_empty();
    Ok(match (mode, checks_source) {
        (Mode::Enforce, _) => Some("the policy that enforces"),
        (_, true) => Some("the source check"),
        _ => None,
    })
}

/// Where filters on a hook are known to send packets.
fn redirects(endpoint: &Endpoint, before: &[Other], hook: Hook) -> Result<String> {
    let name = |ifindex| -> Result<String> {
        let device = netns::within(endpoint.netns, || device::by_index(ifindex))?.flatten();
        Ok(device.map_or_else(|| format!("device {ifindex}"), |device| device.name))
    };
    let mut text = String::new();
    for it in before.iter().filter(|it| it.hook == hook) {
        if let Some(ifindex) = it.redirects_to {
            text.push_str(&format!("; {} redirects to {}", it.name, name(ifindex)?));
        }
    }
    Ok(text)
}

/// bpf/bpf_host.c, bpf_lxc.c, bpf_overlay.c and bpf_xdp.c of Cilium name all entry points so.
fn is_ciliums(program: &Other) -> bool {
    program.name.starts_with("cil_")
}

/// The XDP programs of a device, and of those below that it gets its packets from.
fn with_xdp(endpoint: &Endpoint) -> Result<Vec<(Device, XdpProgram)>> {
    let Some(device) = device::by_index(endpoint.ifindex)? else { return Ok(Vec::new()) };
    let below =
        if endpoint.role() == Some(Role::Netdev) { device::below(&device)? } else { Vec::new() };
    let all = [device].into_iter().chain(below);
    Ok(all
        .flat_map(|device| {
            xdp::programs(&device.xdp).into_iter().map(move |program| (device.clone(), program))
        })
        .collect())
}

fn of_xdp(
    findings: &mut Findings,
    endpoint: &Endpoint,
    device: &Device,
    program: &XdpProgram,
) -> Result<()> {
    let XdpProgram { name, mode, is_held, has_sockets, has_devices } = program;
    let place = match device.ifindex == endpoint.ifindex {
        true => String::new(),
        false => format!(" on {}", device.name),
    };
    let runs = format!("{name} runs by XDP ({mode}){place}, before all hooks");
    let past = match (has_sockets, has_devices) {
        (true, _) => "gives packets to sockets of AF_XDP",
        (_, true) => "sends packets on to other devices",
        _ => {
            findings.ok(
                XDP,
                format!("{runs}: what it drops, sends back or redirects cilmark does not see"),
            );
            return Ok(());
        }
    };
    match guard(endpoint, Hook::Ingress)? {
        None => findings.ok(XDP, format!("{runs}, and {past}, which cilmark does not see")),
        Some(guard) => findings.warning(
            XDP,
            format!("{runs}, and {past}: {guard} is not asked about these"),
            &match is_held {
                true => "nothing of cilmark goes before it; end what has put it there (a BPF link keeps it: `bpftool \
                         link` shows whose)"
                    .to_owned(),
                false => format!(
                    "nothing of cilmark goes before it; `{}` takes it off",
                    tool_in(
                        endpoint.netns,
                        &["ip", "link", "set", "dev", &device.name, mode.of_ip_link(), "off"]
                    )
                ),
            },
        ),
    }
    Ok(())
}
