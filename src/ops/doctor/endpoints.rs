//! What is attached, and no longer does what it was asked for.

mod forwarding;
mod interrupted;
mod rules;
mod ssh;

use anyhow::Result;
pub(super) use rules::in_force as rules_in_force;

use super::commands::attach_in;
use super::{Host, unread};
use crate::model::finding::{Finding, Findings};
use crate::ops::again;
use crate::state::registry::Endpoint;
use crate::state::spec;

/// A check of each endpoint: its name, what looks, and what is said once if it finds nothing bad.
type Check = (&'static str, fn(&Host<'_>, &Endpoint, &mut Findings) -> Result<()>, &'static str);

const CHECKS: [Check; 9] = [
    ("stale", stale, "each endpoint has its device, and its programs are on both hooks"),
    ("moved", moved, "each device is in the network namespace in which it was attached"),
    ("attach again", attach_again, "what NICs were told of their devices is still so"),
    ("interrupted", interrupted::look, "no command has left an endpoint half way"),
    ("labels", labels, "no workload waits for the number of its labels"),
    (
        "confirmation",
        rules::confirmation,
        "no change waits to be confirmed, and none has gone back",
    ),
    ("rules", rules::look, "each policy that enforces has rules, and each rule has an effect"),
    ("proof", proof, "workloads are known by what their programs have marked"),
    ("forwarding", forwarding::look, "no rule lets somebody in who is not forwarded"),
];

/// Findings of this part.
pub fn examine(host: &Host<'_>) -> Result<Vec<Finding>> {
    let mut of_host = Findings::of_this_host();
    if host.endpoints.is_empty() {
        if host.is_whole {
            of_host.ok("endpoints", "nothing is attached that can be seen from here");
        }
        return Ok(of_host.all);
    }
    let mut all = Vec::new();
    for (check, look, fine) in CHECKS {
        let mut found = Vec::new();
        for endpoint in &host.endpoints {
            let mut of_endpoint = Findings::of(&host.name_of(endpoint));
            look(host, endpoint, &mut of_endpoint).unwrap_or_else(|error| {
                let says = format!("can't be examined: {error:#}");
                of_endpoint.problem(check, says, "`cilmark -v doctor` shows more");
            });
            found.extend(of_endpoint.all);
        }
        if found.is_empty() && host.is_whole {
            of_host.ok(check, fine);
        }
        all.append(&mut of_host.all);
        all.append(&mut found);
    }
    all.extend(interrupted::shared(host).unwrap_or_else(|error| unread("interrupted", error)));
    all.extend(ssh::examine(host).unwrap_or_else(|error| unread("ssh", error)));
    Ok(all)
}

fn stale(host: &Host<'_>, endpoint: &Endpoint, findings: &mut Findings) -> Result<()> {
    let id = endpoint.id;
    if !endpoint.stale {
        return Ok(());
    }
    if !endpoint.is_gone {
        findings.problem(
            "stale",
            "one or both of its programs are missing on the hooks: packets in that direction get no identity and meet no rule",
            &match spec::read(host.root, endpoint) {
                Ok(_) => format!("`{}` puts it back", host.attach(endpoint, "--keep")),
                // There is nothing to keep.
                Err(_) => format!("`{}` again, with all its flags", host.attach(endpoint, "")),
            },
        );
    } else if endpoint.config.endpoint().is_none() {
        findings.warning(
            "stale",
            "an `attach` has died before it was on a device, and what it had made is left",
            &format!("`cilmark detach id:{id}` removes it"),
        );
    } else if endpoint.has_double {
        let attach = attach_in(endpoint.config.netns, &endpoint.device, "--keep");
        findings.problem(
            "stale",
            "both its programs are missing on the hooks: packets get no identity and meet no rule",
            &format!("`{attach}` puts them back"),
        );
    } else {
        let says = match endpoint.addresses().is_empty() {
            true => "its device is gone, and its rules and counters are left",
            false => "its device is gone, and whoever gets one of its addresses has its identity",
        };
        let cure = format!("`cilmark detach id:{id}` removes what is left of it");
        findings.warning("stale", says, &cure);
    }
    Ok(())
}

fn moved(host: &Host<'_>, endpoint: &Endpoint, findings: &mut Findings) -> Result<()> {
    if !endpoint.stale && endpoint.has_moved() {
        let (id, attach) = (endpoint.id, host.attach(endpoint, ""));
        findings.warning(
            "moved",
            "its device is in another network namespace, and its programs still use what they were told in the old one",
            // There `--keep` finds nothing to keep.
            &format!(
                "`{attach}` with the flags that `cilmark status id:{id} --spec` shows; or \
                 `cilmark detach id:{id}`"
            ),
        );
    }
    Ok(())
}

fn attach_again(host: &Host<'_>, endpoint: &Endpoint, findings: &mut Findings) -> Result<()> {
    let reasons = again::reasons(endpoint)?;
    if !reasons.is_empty() {
        let says = format!("its programs do not know that {}", reasons.join(", and that "));
        let cure = format!("`{}` tells them", host.attach(endpoint, "--keep"));
        findings.warning("attach again", says, &cure);
    }
    Ok(())
}

/// A workload whose labels have no number yet, since etcd is away.
fn labels(host: &Host<'_>, endpoint: &Endpoint, findings: &mut Findings) -> Result<()> {
    // One that can't be read is told by another finding.
    let told = spec::told(host.root, endpoint.id).ok().flatten();
    let (Some(role), Some(spec)) = (endpoint.role(), told) else { return Ok(()) };
    if spec.waits_for_number(role) {
        let says = format!(
            "the labels {} have no number yet: it is 5 (init), and passes what rules of that allow",
            spec.labels
        );
        findings.warning("labels", says, "`cilmark cluster doctor` tells why etcd does not answer");
    }
    Ok(())
}

/// What the operator has asked for counts as right, and is said.
fn proof(_: &Host<'_>, endpoint: &Endpoint, findings: &mut Findings) -> Result<()> {
    if endpoint.config.by_address != 0 {
        let says = "it believes addresses (--by-address): whoever forges a workload's address is taken for that workload";
        findings.ok("proof", says);
    }
    if endpoint.config.trust_marks != 0 {
        let says = "it believes marks (--trust-marks): whoever may set one on this host chooses an identity";
        findings.ok("proof", says);
    }
    Ok(())
}
