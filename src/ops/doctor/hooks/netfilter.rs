//! Chains of nftables on the hooks of our devices, which are others than TC's: a packet that comes in meets them behind
//! ours, and one that goes out before.

use anyhow::Result;

use crate::model::finding::{Finding, Findings};
use crate::model::marks::ruleset::{Chain, Hook};
use crate::ops::doctor::Host;
use crate::state::registry::Endpoint;

const NFTABLES: &str = "nftables hook";

/// Of all devices that have some. What of the rules can't be read is said where marks are.
pub fn examine(host: &Host<'_>, live: &[&Endpoint]) -> Result<Vec<Finding>> {
    let mut found = Vec::new();
    for namespace in &host.namespaces {
        let here: Vec<&&Endpoint> = live.iter().filter(|it| it.netns == *namespace).collect();
        if here.is_empty() {
            continue;
        }
        let Some(others) = host.others(*namespace)? else { continue };
        for endpoint in here {
            let mut findings = Findings::of(&host.name_of(endpoint));
            let all = others.ruleset.chains().iter();
            let of_device = all.filter(|chain| chain.devices.contains(&endpoint.device));
            of_device.filter_map(says).for_each(|says| findings.ok(NFTABLES, says));
            found.extend(findings.all);
        }
    }
    Ok(found)
}

fn says(chain: &Chain) -> Option<String> {
    let Chain { table, name, hook, .. } = chain;
    match hook {
        Some(Hook::Ingress) => Some(format!(
            "{table} chain {name} runs behind cilmark on ingress: what cilmark passes it may drop, send elsewhere or mark \
             anew"
        )),
        Some(Hook::Egress) => Some(format!(
            "{table} chain {name} runs before cilmark on egress: cilmark does not see packets that it drops or sends elsewhere"
        )),
        _ => None,
    }
}
