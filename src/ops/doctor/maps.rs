//! Maps that are full, or nearly so.

use anyhow::Result;

use super::Host;
use super::endpoints::rules_in_force;
use crate::kernel::abi::cm_flow_class;
use crate::model::finding::{Finding, Findings, Level};
use crate::ops::metrics;
use crate::ops::targets::policy_of;
use crate::state::conntrack::Usage;
use crate::state::nics::Nics;
use crate::state::room;

/// A map of entries that are written one by one: its name, its check, what its entries are, and what to do where they are
/// too many.
type Counted = (&'static str, &'static str, &'static str, &'static str);

/// What makes a larger map, once nothing holds the one that there is.
const LARGER_IPCACHE: &str = "its size counts when it is made: once nothing is attached, named or in the ipcache, \
                              `--ipcache-entries` of `attach` and `ipcache load` makes a larger one";
const MORE_ROOTS: &str =
    "its size is fixed: attach some of the endpoints in another root, which `--bpffs` names";

const COUNTED: [Counted; 8] = [
    ("cm_ipcache", "ipcache", "addresses", LARGER_IPCACHE),
    ("cm_ipcache_cidr", "ipcache", "prefixes", LARGER_IPCACHE),
    ("cm_endpoints", "addresses", "addresses of endpoints", MORE_ROOTS),
    ("cm_endpoint_net", "addresses", "prefixes of endpoints", MORE_ROOTS),
    ("cm_devices", "endpoint list", "devices", MORE_ROOTS),
    (
        "cm_identities",
        "names",
        "names of identities",
        "its size is fixed: `cilmark identity list` shows them, `cilmark identity del` removes one",
    ),
    (
        "cm_id_rules",
        "identity rules",
        "rules of identities",
        "its size is fixed, and a change takes room for the list before: give rules to endpoints, or ranges of ports",
    ),
    (
        "cm_id_labels",
        "labels shown",
        "identities with their labels",
        "its size is fixed: identities that find no room are shown by their number; `cilmark cluster doctor` looks for \
         unused ones",
    ),
];

/// The first class of flows that does not give way to every new one.
const FIRST_LASTING: usize = cm_flow_class::CM_FLOW_ANSWERED.0 as usize;

/// Findings of this part.
pub fn examine(host: &Host<'_>) -> Result<Vec<Finding>> {
    let mut findings = Findings::of_this_host();
    for (name, check, entries, cure) in COUNTED {
        if let Some(used) = room::used(host.root, name)? {
            let says = format!("{} of {} {entries}", used.0, used.1);
            told(&mut findings, check, used, says, &format!("({name}) {cure}"));
        }
    }
    nics(host, &mut findings)?;
    flows(host, &mut findings)?;
    if findings.all.is_empty() && host.is_whole {
        findings.ok("maps", "none has been made yet");
    }
    let mut all = findings.all;
    all.extend(policies(host)?);
    Ok(all)
}

/// Says how full something is.
fn told(
    findings: &mut Findings,
    check: &'static str,
    (used, room): (u64, u64),
    says: String,
    cure: &str,
) {
    match fullness(used, room) {
        Level::Ok => findings.ok(check, says),
        Level::Warning => findings.warning(check, format!("{says}; it is nearly full"), cure),
        Level::Problem => {
            findings.problem(check, format!("{says}; nothing more finds room"), cure);
        }
    }
}

/// From four fifths on somebody should look, while there is time.
fn fullness(used: u64, room: u64) -> Level {
    match used {
        used if used >= room => Level::Problem,
        used if used * 5 >= room * 4 => Level::Warning,
        _ => Level::Ok,
    }
}

fn nics(host: &Host<'_>, findings: &mut Findings) -> Result<()> {
    let Some(nics) = Nics::open(host.root)? else { return Ok(()) };
    let owners = nics.owners()?;
    let (used, room) = (owners.iter().flatten().count(), owners.len());
    let cure = "detach one, attach it without a policy, or in another root, which `--bpffs` names";
    let says = format!("{used} of {room} NICs with a policy");
    told(findings, "nics", (used as u64, room as u64), says, cure);
    Ok(())
}

/// Conntrack. What gives way at once to whoever comes, as a flood leaves it, fills nothing.
fn flows(host: &Host<'_>, findings: &mut Findings) -> Result<()> {
    let report = metrics::metrics(host.root)?;
    let mut nearly_full = false;
    for usage in &report.usage {
        let (used, room) = (lasting(usage), u64::from(usage.max_entries));
        nearly_full |= fullness(used, room) != Level::Ok;
        let owner = usage.owner.map_or("shared".to_owned(), |id| format!("of id:{id}"));
        let says = format!(
            "{} ({owner}): {used} of {room} entries are answered flows; {} unanswered, which give way to new ones",
            usage.map,
            usage.entries() - used
        );
        told(findings, "flows", (used, room), says, &larger(usage));
    }
    let displaced = report.displaced[FIRST_LASTING..].iter().sum::<u64>();
    if report.failed + displaced == 0 {
        return Ok(());
    }
    let says = format!(
        "{} flows have found no room so far, and {displaced} that were answered had to give way",
        report.failed
    );
    let cure = "`cilmark metrics` counts them, and whose flows these are `cilmark conntrack list` shows; a larger \
                table has room for more (--ct-entries)";
    match nearly_full {
        true => findings.problem("flows", says, cure),
        false => findings.warning("flows", says, cure),
    }
    Ok(())
}

/// The flows that were answered, which give way last.
fn lasting(usage: &Usage) -> u64 {
    usage.of_class[FIRST_LASTING..].iter().sum()
}

fn larger(usage: &Usage) -> String {
    let entries = u64::from(usage.max_entries) * 2;
    match usage.owner {
        Some(id) => format!(
            "its size counts when it is made: `cilmark detach id:{id}`, and attach it with --ct-entries {entries}"
        ),
        None => format!(
            "its size counts when it is made: once nothing is attached, named or in the ipcache, `cilmark attach` makes \
             a larger one with --ct-entries {entries}; before that `--ct local` gives a workload one of its own"
        ),
    }
}

/// Of each endpoint: how many entries its rules come to.
fn policies(host: &Host<'_>) -> Result<Vec<Finding>> {
    let mut of_host = Findings::of_this_host();
    let (mut bad, mut count) = (Vec::new(), 0);
    for endpoint in host.endpoints.iter().filter(|endpoint| !endpoint.stale) {
        let Ok(maps) = policy_of(host.root, endpoint) else { continue };
        let (used, room) = maps.used(&rules_in_force(host, endpoint)?);
        count += 1;
        if fullness(used, room) != Level::Ok {
            let mut findings = Findings::of(&host.name_of(endpoint));
            let flags = format!("--keep --policy-entries {}", room * 2);
            let cure = format!("`{}` makes room", host.attach(endpoint, &flags));
            let says = format!("{used} of {room} entries of rules");
            told(&mut findings, "policies", (used, room), says, &cure);
            bad.extend(findings.all);
        }
    }
    if bad.is_empty() && count > 0 {
        of_host.ok("policies", "the rules of each endpoint have room");
    }
    bad.extend(of_host.all);
    Ok(bad)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn from_four_fifths_on_there_is_a_warning_and_a_full_map_is_a_problem() {
        let levels = [0, 79, 80, 99, 100, 101].map(|used| fullness(used, 100));
        let wanted =
            [Level::Ok, Level::Ok, Level::Warning, Level::Warning, Level::Problem, Level::Problem];
        assert_eq!(levels, wanted);
        assert_eq!([0, 1].map(|used| fullness(used, 1)), [Level::Ok, Level::Problem]);
    }
}
