//! What a first enforcement would cut off: of NICs that audit, or have rules and no policy yet, so that somebody is about
//! to enforce them. What they lack is asked of the rules that are in force.

mod needs;

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use anyhow::Result;
use needs::{Need, needs};

use super::Host;
use super::endpoints::rules_in_force;
use crate::kernel::device::{self, Device, Route};
use crate::kernel::netns;
use crate::model::endpoint::Role;
use crate::model::enforcement::Mode;
use crate::model::finding::{Finding, Findings};
use crate::model::identity::{Identity, Names};
use crate::model::policy::live::Kind;
use crate::model::rule::{Action, Direction, L4, Rule};
use crate::ops::policy_test::{self, Flows, Outcome, Stop};
use crate::state::registry::Endpoint;

/// Findings of this part.
pub fn examine(host: &Host<'_>) -> Result<Vec<Finding>> {
    let (mut all, mut flows) = (Vec::new(), HashMap::new());
    for endpoint in host.endpoints.iter().filter(|it| it.role() == Some(Role::Netdev)) {
        if endpoint.stale || !is_about_to_enforce(host, endpoint)? {
            continue;
        }
        let of_nic = || of_nic(host, endpoint, &mut flows);
        all.extend(netns::within(endpoint.netns, of_nic)?.unwrap_or_default());
    }
    if all.is_empty() && host.is_whole {
        let mut findings = Findings::of_this_host();
        findings
            .ok("first enforcement", "no NIC audits, and none has rules while its policy is off");
        return Ok(findings.all);
    }
    Ok(all)
}

fn is_about_to_enforce(host: &Host<'_>, nic: &Endpoint) -> Result<bool> {
    let modes = nic.modes_in_force()?;
    Ok(modes.contains(&Mode::Audit)
        || (modes == [Mode::Off; 2] && !rules_in_force(host, nic)?.rules().is_empty()))
}

/// The flows of NICs, by their namespace and whether cilmark itself has been asked for them. There may be millions.
type FlowsOf = HashMap<(u64, bool), Flows>;

fn of_nic(host: &Host<'_>, nic: &Endpoint, flows: &mut FlowsOf) -> Result<Vec<Finding>> {
    let name = &nic.device;
    let mut findings = Findings::of(&host.name_of(nic));
    let test = policy_test::of_running(host.root, nic)?;
    let flows = match flows.entry((nic.netns, test.has_known_flows())) {
        Entry::Occupied(known) => known.into_mut(),
        Entry::Vacant(place) => place.insert(test.flows(host.root)?),
    };
    let mut outcome = test.run_on(flows)?;
    connections(name, &outcome, &mut findings);
    let Some(device) = device::by_index(nic.ifindex)? else { return Ok(findings.all) };
    let mut is_fine = true;
    for need in needs()? {
        if !goes_by(&need, &device)? {
            continue;
        }
        let (says, cure) = match stops(&need, &mut outcome) {
            None => continue,
            Some(Stop::Lacks(rule)) => (
                format!("{}, and no rule of {name} allows it", need.says),
                format!("`{}`{}", host.command("policy add", nic, &rule), need.hint),
            ),
            Some(Stop::Denies { rule, of }) => (
                format!("{}, and a rule of {name} denies it", need.says),
                match of {
                    None => format!("`{}`", host.command("policy del", nic, &rule)),
                    Some(identity) => format!("`cilmark policy del @{identity} {rule}`"),
                },
            ),
        };
        findings.warning(need.check, says, &cure);
        is_fine = false;
    }
    if is_fine {
        findings.ok(
            "host traffic",
            "nothing of remote storage, routing protocols, SSH by tunnels or cloud metadata is in use that its rules would cut",
        );
    }
    Ok(findings.all)
}

fn connections(nic: &str, outcome: &Outcome, findings: &mut Findings) {
    let of = |kind| outcome.counts[&kind];
    let (denied, without) = (of(Kind::Deny), of(Kind::NoRule));
    let all: usize = outcome.counts.values().sum();
    if denied + without == 0 {
        let says = match all {
            0 => "no connection is up".to_owned(),
            1 => "the one connection that is up may go on when it enforces".to_owned(),
            all => format!("the {all} connections that are up may go on when it enforces"),
        };
        return findings.ok("connections", says);
    }
    findings.warning(
        "connections",
        format!(
            "{}: the rules deny {denied}, and {without} have no rule. When {nic} enforces, these are cut, or only new ones \
             like them are refused",
            if all == 1 { "1 flow is up".to_owned() } else { format!("{all} flows are up") }
        ),
        "`cilmark export --all | cilmark policy test - --only deny,no-rule` shows them, with the rules that they lack",
    );
}

/// Whether the packets of what is needed pass a NIC.
fn goes_by(need: &Need, nic: &Device) -> Result<bool> {
    let carried = device::on_top_of(nic)?;
    if need.tunnel.is_some_and(|tunnel| carried.contains(&tunnel)) {
        return Ok(false);
    }
    if let Some(devices) = &need.devices {
        for name in devices {
            if device::find(name)?.is_some_and(|it| carried.contains(&it.ifindex)) {
                return Ok(true);
            }
        }
        return Ok(false);
    }
    let Some(server) = need.flow.as_ref().map(|flow| flow.remote.ip()) else { return Ok(true) };
    Ok(match device::route_to(server)? {
        Some(Route::By(ifindex)) => carried.contains(&ifindex),
        Some(Route::Here) | None => false,
    })
}

/// What is missing for it, or denies it; `None` if it passes.
fn stops(need: &Need, outcome: &mut Outcome) -> Option<Stop> {
    if let Some(flow) = &need.flow
        && let Some(stop) = outcome.stops(flow)
    {
        return Some(stop);
    }
    let is_open = |(direction, l4): &(Direction, L4)| outcome.opens(*direction, *l4);
    let missing = match need.any_will_do {
        true if need.kinds.iter().any(is_open) => None,
        true => need.kinds.first(),
        false => need.kinds.iter().find(|kind| !is_open(kind)),
    };
    missing.map(|(direction, l4)| {
        let l4 = match (l4, need.port) {
            (L4::Protocol(protocol), Some(port)) => {
                L4::Ports { protocol: *protocol, first: port, last: port }
            }
            (l4, _) => *l4,
        };
        let (action, peer) = (Action::Allow, Identity::WORLD);
        Stop::Lacks(Rule { action, direction: *direction, peer, l4 }.text(&Names::default()))
    })
}
