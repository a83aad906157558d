//! Who else uses the mark of packets, and with whom that collides.

mod collision;
mod here;
mod users;

use anyhow::Result;

use super::Host;
use crate::kernel::netns;
use crate::model::finding::{Finding, Findings};
use crate::ops::marks::Others;
use here::Here;

/// Findings of this part.
pub fn examine(host: &Host<'_>) -> Result<Vec<Finding>> {
    let mut findings = Vec::new();
    let current = netns::current()?;
    for namespace in &host.namespaces {
        let device = host.endpoints.iter().find(|it| it.netns == *namespace).map(|it| &it.device);
        let mut here = match device.filter(|_| *namespace != current) {
            Some(device) => Findings::of(&format!("the network namespace of {device}")),
            None => Findings::of_this_host(),
        };
        let Some(others) = host.others(*namespace)? else { continue };
        let examine = || examine_here(host, *namespace, &others, &mut here);
        let examined = netns::within(*namespace, examine)?;
        // Of a namespace that has just gone there is nothing to say.
        if examined.is_some() {
            findings.append(&mut here.all);
        }
    }
    Ok(findings)
}

fn examine_here(
    host: &Host<'_>,
    namespace: u64,
    others: &Others,
    findings: &mut Findings,
) -> Result<()> {
    let here = Here::read(host, namespace, others)?;
    for unread in &others.unread {
        let says = format!(
            "{} can't be read, so nobody knows whether they use the mark of packets: {}",
            unread.what, unread.why
        );
        findings.warning("unread rules", says, &unread.cure);
    }
    let users = users::of(others);
    if users.is_empty() && others.unread.is_empty() {
        findings.ok(
            "mark",
            "nobody else uses the mark of packets: no rule of `ip rule`, nftables or iptables asks for it or sets it",
        );
    }
    let met = here.met(others);
    let restored = collision::restored(others, &met);
    for user in &users {
        let found = collision::of(&here, others, user, &met, &restored);
        if found.is_empty() {
            findings.ok("mark", user.is_no_trouble());
            continue;
        }
        let words = collision::in_words(&found, here.names);
        let says = user.what().map_or(words.clone(), |what| format!("{what}: {words}"));
        let cure = collision::cure(&here, others, user, &found)?;
        match found.iter().any(|it| it.breaks) {
            true => findings.problem("mark", says, &cure),
            false => findings.warning("mark", says, &cure),
        }
    }
    if here.left_out > 0 {
        let left = here.left_out;
        findings.ok(
            "mark",
            format!("the ipcache has {left} identities more than those that were looked at"),
        );
    }
    Ok(())
}
