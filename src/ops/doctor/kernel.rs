//! What the kernel lets us do, found out by trying.

mod boot;
mod root;

use anyhow::Result;

use super::{Host, unread};
use crate::kernel::{features, ip_rules, netns, rights, sys};
use crate::model::endpoint::Role;
use crate::model::finding::{Finding, Findings};
use crate::state::registry::Endpoint;

/// Findings of this part.
pub fn examine(host: &Host<'_>) -> Result<Vec<Finding>> {
    let mut findings = Findings::of_this_host();
    let missing = rights::missing()?;
    if missing.is_empty() {
        findings.ok("capabilities", "this process may do what cilmark does");
        programs(&mut findings);
    } else {
        let says = format!(
            "this process lacks {}: it can attach nothing, and cannot look at all that is attached",
            missing.join(" and ")
        );
        findings.problem("capabilities", says, "run it as root");
    }
    root::examine(host, &mut findings);
    boot::examine(host, &mut findings);
    let mut all = findings.all;
    if missing.is_empty() {
        all.extend(marked_routes(host).unwrap_or_else(|error| unread("marked routes", error)));
    }
    Ok(all)
}

/// What every program needs, and what it runs by.
fn programs(findings: &mut Findings) {
    if let Err(error) = features::check_bpf() {
        let cure = "run cilmark on a kernel with BPF, as root of the host and not of a container";
        return findings.problem("bpf", format!("{error:#}"), cure);
    }
    findings.ok("bpf", "the kernel loads programs for devices, and makes their maps");
    match sys::has_tcx() {
        true => findings.ok("tcx", "the kernel has TCX, which `attach` uses"),
        false => findings.ok(
            "tcx",
            "the kernel has no TCX (Linux 6.6 has): `attach` uses clsact filters, in the order of their priorities, \
             and `--first` comes before those of others",
        ),
    }
    jit(features::has_jit(), findings);
}

fn jit(has_jit: Result<bool>, findings: &mut Findings) {
    match has_jit {
        Ok(true) => findings.ok("jit", "the kernel compiles programs"),
        Ok(false) => findings.warning(
            "jit",
            "the kernel interprets programs, and each packet takes several times as long",
            "`sysctl net.core.bpf_jit_enable=1` compiles what is attached from then on",
        ),
        Err(error) => findings.problem(
            "jit",
            format!("a program of two instructions can't be loaded: {error:#}"),
            "`cilmark -v doctor` shows what the kernel says to it",
        ),
    }
}

/// A NIC's policy asks the routing tables what is for this host. Only from Linux 6.10 on they can be asked with a mark.
fn marked_routes(host: &Host<'_>) -> Result<Vec<Finding>> {
    let mut findings = Findings::of_this_host();
    if features::routes_by_mark()? {
        findings.ok("marked routes", "programs can ask for the route of a packet with its mark");
        return Ok(findings.all);
    }
    let mut all = Vec::new();
    for nic in host.endpoints.iter().filter(|it| asks_routes(it)) {
        let rules = netns::within(nic.netns, || Ok(ip_rules::with_marks()))?.unwrap_or_default();
        let Some(first) = rules.first() else { continue };
        let mut of_nic = Findings::of(&host.name_of(nic));
        of_nic.warning(
            "marked routes",
            format!(
                "its policy asks for routes without the mark of the packet (Linux 6.10 takes it), and {first} depends \
                 on that: it may take for this host's what is forwarded, or the other way round"
            ),
            &format!("`{}`", host.attach(nic, "--keep --host-addresses listed")),
        );
        all.extend(of_nic.all);
    }
    if all.is_empty() {
        findings.ok(
            "marked routes",
            "programs can't ask for the route of a packet with its mark (Linux 6.10 lets them), and no rule of `ip rule` \
             makes a difference to a NIC's policy",
        );
    }
    all.extend(findings.all);
    Ok(all)
}

fn asks_routes(endpoint: &Endpoint) -> bool {
    let config = &endpoint.config;
    let has_policy = config.nic_slot().is_some();
    let is_nic = endpoint.role() == Some(Role::Netdev) && !endpoint.stale;
    is_nic && has_policy && config.host_addresses_listed == 0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::finding::Level;

    #[test]
    fn a_kernel_that_interprets_is_warned_of_with_the_switch() {
        let level = |has_jit| {
            let mut findings = Findings::of_this_host();
            jit(has_jit, &mut findings);
            let [finding] = &findings.all[..] else { panic!("{findings:?}") };
            (finding.level, finding.cure.clone().unwrap_or_default())
        };
        assert_eq!(level(Ok(true)), (Level::Ok, String::new()));
        let (warning, cure) = level(Ok(false));
        assert!(warning == Level::Warning && cure.contains("net.core.bpf_jit_enable=1"), "{cure}");
        assert_eq!(level(Err(anyhow::anyhow!("refused"))).0, Level::Problem);
    }
}
