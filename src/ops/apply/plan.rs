//! What differs between what there is and what is asked for.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context as _, Error, Result, bail, ensure};

use super::change::{Change, EndpointChange, EndpointState};
use super::files::Concerned;
use super::now::{Attached, Now};
use crate::kernel::device::{self, Device};
use crate::kernel::netns;
use crate::model::endpoint::{EndpointId, Role};
use crate::model::enforcement::{Failsafe, FailsafeList};
use crate::model::file::{self, Pattern, Wanted};
use crate::model::identity::{Identity, Names};
use crate::model::origin::Origin;
use crate::model::prefix::{format_prefix, is_host};
use crate::model::rule_list::RuleList;
use crate::model::shell::word;
use crate::model::spec::{EndpointSpec, IdentityRef};
use crate::ops::attach::{self, Machine, Terms};
use crate::ops::cluster::number::Numbers;
use crate::ops::rules::at;
use crate::state::pin::Root;
use crate::state::registry::Endpoint;

/// What is asked for.
pub struct Request<'a> {
    /// What files ask for.
    pub wanted: &'a Wanted,
    /// What the files have made and no longer ask for goes.
    pub prune: bool,
    /// Only the endpoint of this device.
    pub device: Option<&'a str>,
    /// The port of the SSH server by which the operator has come.
    pub login_port: Option<u16>,
    /// What is wrong with a device keeps nobody from the rest: at boot, where nobody is there to mend it.
    pub goes_on: bool,
}

/// What is to be done.
#[derive(Default)]
pub struct Plan {
    /// What differs, in no order.
    pub changes: Vec<Change>,
    /// Devices that are not there: left for later.
    pub absent: Vec<String>,
    /// Devices that can't be what is asked for, and why, if that keeps nobody from the rest.
    pub failed: Vec<(String, Error)>,
    /// What fails while the changes are made keeps nobody from the rest either.
    pub goes_on: bool,
    /// What the files have made and no longer ask for, and stays.
    pub left: Vec<String>,
    /// What others have made that the operator may not have thought of, a sentence each.
    pub notes: Vec<String>,
    /// What may cut somebody off or let somebody in, a clause each: NICs that enforce, or are going to.
    pub risks: Vec<String>,
    /// Names of identities, as they are going to be.
    pub names: Names,
    /// Where the endpoints of devices stand, for whoever tells what is wrong with them.
    pub places: BTreeMap<String, String>,
    /// The port of the SSH server by which the operator has come.
    pub login_port: Option<u16>,
}

impl Plan {
    /// The way back.
    pub fn undone(&self) -> Plan {
        let changes = self.changes.iter().map(Change::undone).collect();
        Plan { changes, login_port: self.login_port, ..Plan::default() }
    }

    /// What it changes that has a clock.
    pub fn concerned(&self) -> Concerned {
        let mut concerned = Concerned::default();
        for change in &self.changes {
            match change {
                Change::Rules(identity, ..) => concerned.identities.push(identity.0),
                Change::Endpoint(change) => concerned.devices.push(change.device.clone()),
                Change::Name(..) | Change::Line(..) => {}
            }
        }
        concerned
    }

    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.changes.is_empty()
    }
}

/// Compares. Whatever is wrong with what is asked for is an error, and nothing has changed.
pub fn plan(root: &Root, request: &Request<'_>) -> Result<Plan> {
    let now = Now::of(root, netns::current()?)?;
    let (login_port, goes_on) = (request.login_port, request.goes_on);
    let mut plan = Plan { login_port, goes_on, ..Plan::default() };
    plan.add_names(request, &now);
    plan.names = plan.names_after(&now);
    if request.device.is_none() {
        plan.add_lines(request, &now)?;
        plan.add_rules(request, &now);
    }
    plan.add_endpoints(root, request, now)?;
    Ok(plan)
}

impl Plan {
    fn add_names(&mut self, request: &Request<'_>, now: &Now) {
        let wanted = &request.wanted.names;
        let taken: BTreeSet<&String> = wanted.values().collect();
        for (identity, name) in wanted {
            let before = now.names.get(identity).cloned();
            let after = Some((name.clone(), Origin::File));
            self.add(before != after, Change::Name(*identity, before, after));
        }
        for (identity, before) in &now.names {
            if wanted.contains_key(identity) {
                continue;
            }
            // Two identities can't have one name: what the file says counts.
            if taken.contains(&before.0)
                || self.goes(request, before.1, || format!("the name {}", before.0))
            {
                self.changes.push(Change::Name(*identity, Some(before.clone()), None));
            }
        }
    }

    fn names_after(&self, now: &Now) -> Names {
        let mut names: BTreeMap<Identity, String> =
            now.names.iter().map(|(identity, (name, _))| (*identity, name.clone())).collect();
        for change in &self.changes {
            match change {
                Change::Name(identity, _, Some((name, _))) => {
                    _ = names.insert(*identity, name.clone())
                }
                Change::Name(identity, _, None) => _ = names.remove(identity),
                _ => {}
            }
        }
        Names::new(names)
    }

    fn add_lines(&mut self, request: &Request<'_>, now: &Now) -> Result<()> {
        let wanted = &request.wanted.lines;
        for (prefix, identity) in wanted {
            if let Some((own, owner)) = now.own_lines.get(prefix) {
                let is_going =
                    |it: &Attached| it.endpoint.id == *owner && it.state.origin == Origin::File;
                let place = &request.wanted.line_places[prefix];
                ensure!(
                    own == identity || now.endpoints.iter().any(is_going),
                    "{place}: {} is an address of endpoint {owner} with identity {own}, and the file says {identity}; nothing has \
                     changed",
                    format_prefix(prefix)
                );
                if own == identity {
                    continue;
                }
            }
            let before = now.lines.get(prefix).copied();
            let after = Some((*identity, Origin::File));
            self.add(before != after, Change::Line(*prefix, before, after));
        }
        for (prefix, before) in &now.lines {
            if !wanted.contains_key(prefix)
                && self.goes(request, before.1, || format!("the line {}", format_prefix(prefix)))
            {
                self.changes.push(Change::Line(*prefix, Some(*before), None));
            }
        }
        Ok(())
    }

    fn add_rules(&mut self, request: &Request<'_>, now: &Now) {
        let wanted = &request.wanted.rules;
        let none = RuleList::default();
        for (identity, rules) in wanted {
            let before = now.rules.get(identity).unwrap_or(&none);
            let mut after = before.clone();
            after.replace(Origin::File, rules);
            let name = at(*identity, &self.names);
            self.tell_others(&name, &after);
            self.add(*before != after, Change::Rules(*identity, before.clone(), after));
        }
        for (identity, before) in &now.rules {
            let mut after = before.clone();
            after.replace(Origin::File, &[]);
            if !wanted.contains_key(identity) && after != *before {
                let name = at(*identity, &self.names);
                if self.goes(request, Origin::File, || format!("rules of {name}")) {
                    self.changes.push(Change::Rules(*identity, before.clone(), after));
                }
            }
        }
    }

    fn add_endpoints(&mut self, root: &Root, request: &Request<'_>, now: Now) -> Result<()> {
        let devices = devices(request.wanted, request.device, &now)?;
        let mut numbers = Numbers::of(root);
        let mut ids: BTreeMap<EndpointId, &str> = BTreeMap::new();
        let (mut seen, mut there) = (BTreeMap::new(), now.endpoints);
        for (name, wish) in &devices {
            let Some(device) = device::find(name)? else {
                self.absent.push(name.clone());
                continue;
            };
            let place = &wish.place;
            if let Some(other) = seen.insert(device.ifindex, &wish.place) {
                bail!(
                    "{place}: `{name}` is the device {}, whose endpoint stands at {other}",
                    device.name
                );
            }
            if let Some(id) = wish.spec.endpoint_id
                && let Some(other) = ids.insert(id, name)
            {
                bail!("{place}: endpoint {id} is to be {other} already");
            }
            let at = there
                .iter()
                .position(|it| !it.endpoint.stale && it.endpoint.ifindex == device.ifindex);
            let attached = at.map(|at| there.swap_remove(at));
            self.places.insert(device.name.clone(), place.to_string());
            let mut spec = asked_of(wish, &device);
            let completed = numbers.complete(&mut spec);
            let added = completed
                .and_then(|()| self.add_endpoint(root, (wish, spec), &device, attached))
                .with_context(|| format!("{place}: {name}"));
            match added {
                Err(error) if request.goes_on => self.failed.push((device.name.clone(), error)),
                added => added?,
            }
        }
        if request.device.is_some() {
            return Ok(());
        }
        for attached in there {
            let Attached { endpoint, state, .. } = attached;
            // One whose device is gone is left as it is if its device is to come again.
            if endpoint.stale && devices.contains_key(&endpoint.device) {
                continue;
            }
            if self.goes(request, state.origin, || format!("the endpoint of {}", endpoint.device)) {
                self.risk(
                    &endpoint.device,
                    endpoint.is_enforcing_nic()?,
                    false,
                    "would be detached",
                );
                let device = endpoint.device;
                let change =
                    EndpointChange { device, before: Some(state), after: None, attaches: false };
                self.changes.push(Change::Endpoint(Box::new(change)));
            }
        }
        Ok(())
    }

    fn add_endpoint(
        &mut self,
        root: &Root,
        (wish, spec): (&file::Endpoint, EndpointSpec),
        device: &Device,
        attached: Option<Attached>,
    ) -> Result<()> {
        let name = &device.name;
        let rules = wish.rules.clone().unwrap_or_default();
        let (endpoint, before, is_due) = match attached {
            Some(Attached { endpoint, state, is_due }) => (Some(endpoint), Some(state), is_due),
            None => (None, None, true),
        };
        let enforced = endpoint.as_ref().map_or(Ok(false), Endpoint::is_enforcing_nic)?;
        if let Some(state) = before.as_ref().filter(|state| state.origin == Origin::Hook) {
            let origin = state.origin;
            self.notes.push(format!("{name} is a {origin}'s, and stays as it is"));
            return Ok(());
        }
        if wish.spec.ip.from_netns {
            self.notes.push(format!(
                "{name} has addresses that only the hook of its runtime knows, and is attached when its workload starts"
            ));
            return Ok(());
        }
        let mut list = before.as_ref().map(|state| state.rules.clone()).unwrap_or_default();
        list.replace(Origin::File, &rules);
        self.tell_others(name, &list);
        let identity = match &spec.id {
            Some(id) => id.resolve(&self.names)?,
            None => Identity::HOST,
        };
        // A name may have become another number's.
        let is_same = before
            .as_ref()
            .is_some_and(|state| state.identity == identity && asks_the_same(&state.spec, &spec));
        let is_files = before.as_ref().is_some_and(|state| state.origin == Origin::File);
        let attaches = is_due || !is_same || !is_files;
        let rules_change = before.as_ref().is_none_or(|state| state.rules != list);
        if !attaches && !rules_change {
            return Ok(());
        }
        if attaches {
            // Names and lines that are still to come do not matter to whether the device can be what is asked for.
            let id = spec.id.as_ref().map(|id| match id {
                IdentityRef::Labels(_) => id.clone(),
                _ => IdentityRef::Number(identity),
            });
            let known = EndpointSpec { id, ..spec.clone() };
            let terms =
                Terms { origin: Origin::File, login_port: self.login_port, ..Terms::default() };
            let outlook = attach::examine(root, &known, &terms)?;
            // Whatever is wrong with it is told before anything changes.
            attach::resolve(root, &known, &terms, &Machine::of(&known)?, endpoint.as_ref())?;
            self.notes.extend(outlook.notes);
            self.notes.extend(outlook.warnings);
            let enforces = outlook.role == Role::Netdev && spec.policy.enforce();
            self.risk(name, enforced, enforces, &outlook.taken.join("; "));
            if outlook.looks_like_a_nic {
                self.risks.push(format!(
                    "a default route leaves by {name}, so that it looks like a NIC of this host; as a {}, whatever comes \
                     by it would count as sent by one workload",
                    outlook.role
                ));
            }
        } else {
            self.risk(name, enforced, enforced, "");
        }
        let after = Some(EndpointState { spec, origin: Origin::File, identity, rules: list });
        let change = EndpointChange { device: name.clone(), before, after, attaches };
        self.changes.push(Change::Endpoint(Box::new(change)));
        Ok(())
    }

    fn risk(&mut self, device: &str, did: bool, does: bool, taken: &str) {
        let also = if taken.is_empty() { String::new() } else { format!(" ({taken})") };
        match (did, does) {
            (_, true) => self.risks.push(format!(
                "{device} is going to drop what no rule and no failsafe port allows{also}"
            )),
            (true, false) => self.risks.push(format!(
                "{device} enforces its policy for this host, and would be relaxed{also}"
            )),
            (false, false) => {}
        }
    }

    fn add(&mut self, differs: bool, change: Change) {
        if differs {
            self.changes.push(change);
        }
    }

    /// Whether something that is not asked for goes.
    fn goes(&mut self, request: &Request<'_>, origin: Origin, what: impl Fn() -> String) -> bool {
        if origin != Origin::File || request.device.is_some() {
            return false;
        }
        if !request.prune {
            self.left.push(what());
        }
        request.prune
    }

    fn tell_others(&mut self, whose: &str, rules: &RuleList) {
        let others = rules.made().iter().filter(|made| !made.origins.contain(Origin::File)).count();
        if others > 0 {
            self.notes.push(format!(
                "{whose} has {others} more {} than the file says; `cilmark policy list {}` shows all",
                if others == 1 { "rule" } else { "rules" },
                word(whose)
            ));
        }
    }
}

/// What is asked of a device, but for its rules.
pub fn asked_of(wish: &file::Endpoint, device: &Device) -> EndpointSpec {
    let mut spec = EndpointSpec { device: device.name.clone(), rules: None, ..wish.spec.clone() };
    if Pattern(&wish.spec.device).is_wild() {
        // All that match have these prefixes, and have to share them.
        let (prefixes, hosts) = spec.ip.listed.into_iter().partition(|ip| !is_host(ip));
        (spec.ip.listed, spec.shared_ip) = (hosts, [spec.shared_ip, prefixes].concat());
    }
    spec
}

/// The devices that files ask something of, by name; `only` is one of them.
pub fn devices<'a>(
    wanted: &'a Wanted,
    only: Option<&str>,
    now: &Now,
) -> Result<BTreeMap<String, &'a file::Endpoint>> {
    let mut devices = BTreeMap::new();
    if let Some(name) = only {
        devices.extend(of_one(wanted, name)?.map(|wish| (name.to_owned(), wish)));
        return Ok(devices);
    }
    let (patterns, named): (Vec<&file::Endpoint>, Vec<_>) =
        wanted.endpoints.iter().partition(|it| Pattern(&it.spec.device).is_wild());
    devices.extend(named.into_iter().map(|it| (it.spec.device.clone(), it)));
    if patterns.is_empty() {
        return Ok(devices);
    }
    let known =
        now.endpoints.iter().filter(|it| !it.endpoint.stale).map(|it| it.endpoint.device.clone());
    for name in device::names()?.into_iter().chain(known).collect::<BTreeSet<String>>() {
        if !devices.contains_key(&name)
            && let Some(wish) = wanted.of_device(&name)?
        {
            devices.insert(name, wish);
        }
    }
    Ok(devices)
}

/// Whether a device goes by this text: its name, an alternative one, or a pattern, which stands for its own name.
pub fn is_called(device: &Device, text: &str) -> bool {
    match Pattern(text).is_wild() {
        true => Pattern(text).matches(&device.name),
        false if text == device.name => true,
        false => matches!(device::find(text), Ok(Some(found)) if found.ifindex == device.ifindex),
    }
}

/// What files ask of one device, by whichever of its names.
fn of_one<'a>(wanted: &'a Wanted, name: &str) -> Result<Option<&'a file::Endpoint>> {
    let Some(device) = device::find(name)? else { return wanted.of_device(name) };
    let endpoints = || wanted.endpoints.iter().filter(|it| !Pattern(&it.spec.device).is_wild());
    let named = endpoints()
        .find(|it| [&device.name, name].contains(&it.spec.device.as_str()))
        .or_else(|| endpoints().find(|it| is_called(&device, &it.spec.device)));
    named.map_or_else(|| wanted.of_device(&device.name), |named| Ok(Some(named)))
}

/// Whether an endpoint has been asked to be just that, whoever it is: what the machine fills in counts as asked for.
fn asks_the_same(kept: &EndpointSpec, wanted: &EndpointSpec) -> bool {
    let failsafe = match (&wanted.failsafe, &kept.failsafe) {
        (None, Some(list)) if is_usual(list) => kept.failsafe.clone(),
        (wanted, _) => wanted.clone(),
    };
    let filled = EndpointSpec {
        device: kept.device.clone(),
        role: wanted.role.or(kept.role),
        id: kept.id.clone(),
        endpoint_id: wanted.endpoint_id.or(kept.endpoint_id),
        failsafe,
        rules: kept.rules.clone(),
        ..wanted.clone()
    };
    wanted.id.is_some() == kept.id.is_some() && filled == *kept
}

/// Whether a list says what counts without one, beside the port by which an operator has come.
fn is_usual(list: &FailsafeList) -> bool {
    let (list, usual) = (list.clone().or(Failsafe::standard()), Failsafe::standard());
    let more = list.ingress.iter().filter(|port| !usual.ingress.contains(port)).count();
    more <= 1
        && list.egress == usual.egress
        && usual.ingress.iter().all(|port| list.ingress.contains(port))
}
