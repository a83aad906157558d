//! Puts an endpoint on its device as a spec asks for it, in the place of what is there already.

mod enforcement;
mod losses;
mod put_on;
mod resolve;
mod routed;

use std::collections::BTreeSet;
use std::fmt;
use std::time::Duration;

use anyhow::{Result, bail, ensure};
use log::{debug, info, warn};
use losses::losses;
use put_on::put_on;
pub use resolve::{Machine, Plan, resolve};

use super::targets::policy_of;
use super::{detach, rules};
use crate::kernel::abi::{self, cm_config, cm_fallback};
use crate::kernel::device;
use crate::kernel::order::Other;
use crate::kernel::sys;
use crate::model::endpoint::Role;
use crate::model::enforcement::{Confirmation, Fallback, Grace, Modes};
use crate::model::identity::Identity;
use crate::model::origin::Origin;
use crate::model::policy::Policy;
use crate::model::spec::EndpointSpec;
use crate::program::load::Loaded;
use crate::state::conntrack::Conntrack;
use crate::state::devices::Devices;
use crate::state::pin::Root;
use crate::state::policy::{PolicyMaps, Slot};
use crate::state::registry::{Endpoint, shared};
use crate::state::spec;

/// How to go about it, which is no part of what is wanted.
#[derive(Debug, Default)]
pub struct Terms {
    /// Whether it goes back by itself.
    pub grace: Grace,
    /// If it does not, a clock that runs for an earlier change goes on.
    pub keeps_clock: bool,
    /// What may be taken from a NIC that enforces.
    pub consent: Consent,
    /// The port of the SSH server by which the operator has come: a NIC keeps it open, unless the spec says which are.
    pub login_port: Option<u16>,
    /// What the spec was made of, if that was the endpoint's own: it has to be so still.
    pub kept: Option<EndpointSpec>,
    /// The time in which flows may be adopted begins anew, also if the endpoint has had the same before.
    pub adopts_anew: bool,
    /// Who makes it. The rules of the spec are his; a command's leave nobody else's beside them.
    pub origin: Origin,
    /// The index of the device that was found under the spec's name: it has to be that one still.
    pub ifindex: Option<u32>,
}

/// What may be taken from a NIC that enforces its policy.
#[derive(Debug, Default)]
pub enum Consent {
    /// Nothing.
    #[default]
    Nothing,
    /// What this tells, and no more.
    To(Outlook),
    /// Whatever it is.
    Everything,
}

/// What an attachment would do, told before anything is locked or changed, for whoever has somebody to ask.
#[derive(Debug)]
pub struct Outlook {
    /// The device's name.
    pub device: String,
    /// What it would be.
    pub role: Role,
    /// It would drop what no rule allows, for this host.
    pub enforces: bool,
    /// It does so already, in the same directions.
    pub enforced: bool,
    /// It is to be a container, and looks like a NIC of this host.
    pub looks_like_a_nic: bool,
    /// Nothing would change for any packet: the same configuration, rules and modes in force.
    pub is_as_before: bool,
    /// What it takes from a NIC that enforces, a clause each.
    pub taken: Vec<String>,
    /// What the operator may not have thought of, a sentence each.
    pub notes: Vec<String>,
    /// What he should be warned of.
    pub warnings: Vec<String>,
}

/// What has come of it.
pub struct Report {
    /// What the endpoint is now, and where.
    pub plan: Plan,
    /// Its programs.
    pub loaded: Loaded,
    /// Why it has its role, if nobody has said.
    pub reason: Option<String>,
    /// What was there before.
    pub replaced: Option<Endpoint>,
    /// Endpoints of devices that are gone and had this one's name.
    pub gone: Vec<Gone>,
    /// Endpoints that the device has brought from another namespace, which are detached now.
    pub moved: Vec<Gone>,
    /// What the device had and has no more, a clause each.
    pub lost: Vec<String>,
    /// Programs of others that get its packets first.
    pub programs_before: Vec<Other>,
    /// How long it has to be confirmed, if it has to be.
    pub time_left: Duration,
    /// Nobody had confirmed the last change of its rules, which this makes permanent.
    pub confirms_rules: bool,
}

/// An endpoint of which nothing is left.
pub struct Gone {
    /// As it was.
    pub endpoint: Endpoint,
    /// How many it had.
    pub rules: usize,
}

impl fmt::Display for Gone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Gone { endpoint, rules } = self;
        write!(
            f,
            "{}: endpoint {} of another device of this name is gone, and its rules ({rules}) with it",
            endpoint.device, endpoint.id
        )
    }
}

impl Consent {
    /// Fails if something is taken that nobody has agreed to.
    fn check(&self, machine: &Machine, taken: &[String]) -> Result<()> {
        let name = &machine.device.name;
        let relaxed = || {
            let taken = taken.join("; ");
            format!("and would be relaxed: {taken}; nothing has changed")
        };
        match self {
            Consent::Everything => Ok(()),
            Consent::Nothing if taken.is_empty() => Ok(()),
            Consent::Nothing => bail!("{name} enforces its policy for this host, {}", relaxed()),
            Consent::To(outlook) => {
                ensure!(
                    outlook.role == machine.role,
                    "{name} has changed meanwhile, and would be a {} now; nothing has changed",
                    machine.role
                );
                ensure!(
                    taken.iter().all(|it| outlook.taken.contains(it)),
                    "{name} has changed meanwhile, {}",
                    relaxed()
                );
                Ok(())
            }
        }
    }
}

/// Tells what [`attach`] would do. What is wrong with the spec or the device is an error; what is wrong with an
/// endpoint that is there, [`attach`] tells.
pub fn examine(root: &Root, spec: &EndpointSpec, terms: &Terms) -> Result<Outlook> {
    let machine = Machine::of(spec)?;
    check(spec, terms, &machine)?;
    let look = || -> Result<(Vec<String>, bool, bool, bool)> {
        let devices = Devices::read(root)?;
        let endpoints = concerning(root, &devices, &machine, terms)?;
        let (moved, replaced) = here(endpoints, &machine);
        let plan = resolve(root, spec, terms, &machine, replaced.as_ref())?;
        let taken = taken_from(root, moved.iter().chain(&replaced), &plan)?;
        let is_known = replaced.as_ref().is_some_and(|it| it.role() == Some(machine.role));
        let modes = match replaced.as_ref().filter(|it| is_known && !it.stale) {
            Some(endpoint) => endpoint.modes_in_force()?,
            None => Modes::default().each(),
        };
        let enforced = modes == spec.policy.each();
        Ok((taken, is_known, enforced, is_as_before(root, &plan, replaced.as_ref())?))
    };
    let (taken, is_known, enforced, is_as_before) = look().unwrap_or_else(|error| {
        debug!("look at what is attached: {error:#}");
        Default::default()
    });
    let (notes, mut warnings) = machine.remarks(spec)?;
    // What is wrong with the identity, the attachment tells.
    warnings.extend(routed::warning(root, spec, &machine).ok().flatten());
    let Machine { device, role, .. } = machine;
    // What a workload behind macvlan or ipvlan names as its other end is the NIC of its host.
    let looks_like_a_nic = role == Role::Container
        && spec.role.is_some()
        && !is_known
        && device::carries_default_route(&device)?;
    Ok(Outlook {
        device: device.name,
        role,
        enforces: role == Role::Netdev && spec.policy.enforce(),
        enforced,
        looks_like_a_nic,
        is_as_before,
        taken,
        notes,
        warnings,
    })
}

/// Puts the endpoint on its device; if a step fails, all are undone. The caller holds the root's lock.
pub fn attach(root: &Root, spec: &EndpointSpec, terms: &Terms) -> Result<Report> {
    let attached = Machine::of(spec).and_then(|machine| {
        check(spec, terms, &machine)?;
        let (endpoints, gone) = clean_stale(root, &machine, terms)?;
        let left = gone.iter().filter(|gone| gone.rules > 0);
        let left: Vec<String> = left.map(Gone::to_string).collect();
        let attached = attach_to(root, spec, terms, machine, (endpoints, gone));
        if attached.is_err() {
            left.iter().for_each(|gone| warn!("{gone}"));
        }
        attached
    });
    detach::leave_nothing_of_a_failure(root, attached)
}

fn attach_to(
    root: &Root,
    spec: &EndpointSpec,
    terms: &Terms,
    machine: Machine,
    (endpoints, gone): (Vec<Endpoint>, Vec<Gone>),
) -> Result<Report> {
    let (moved, replaced) = here(endpoints, &machine);
    if replaced.is_none() {
        shared::check_one(root, &BTreeSet::new())?;
    }
    rules::restore(root, replaced.as_slice())?;
    let plan = resolve(root, spec, terms, &machine, replaced.as_ref())?;
    let taken = taken_from(root, moved.iter().chain(&replaced), &plan)?;
    terms.consent.check(&machine, &taken)?;
    check_kept(root, terms, &plan, replaced.as_ref())?;
    let was_on_trial = replaced.as_ref().map(|endpoint| has_own_rules_on_trial(root, endpoint));
    let was_on_trial = was_on_trial.transpose()?.unwrap_or(false);
    let rules_lost = replaced.as_ref().map(|endpoint| rules_lost_by(root, endpoint, &plan));
    let rules_lost = rules_lost.transpose()?.flatten();
    let owner_lost = replaced.as_ref().and_then(|endpoint| owner_lost(root, endpoint, spec));
    let loaded = put_on(root, &plan, replaced.as_ref())?;
    let take_off = |endpoint: Endpoint| -> Result<Gone> {
        let rules = count_rules(root, &endpoint);
        detach::detach(root, &endpoint)?;
        Ok(Gone { endpoint, rules })
    };
    let moved: Vec<Gone> = moved.into_iter().map(take_off).collect::<Result<_>>()?;
    let left = gone.iter().map(|gone| &gone.endpoint).filter(|endpoint| {
        endpoint.device == plan.resolved.device.name && endpoint.role().is_some()
    });
    let config = plan.resolved.config();
    let had = replaced.iter().chain(moved.iter().map(|moved| &moved.endpoint)).chain(left);
    let lost = had
        .flat_map(|had| losses(&had.config, &config, &plan.names))
        .chain(rules_lost)
        .chain(owner_lost);
    let lost = lost.collect();
    Ok(Report {
        programs_before: Endpoint::read(root, plan.resolved.id)?.programs_before()?,
        confirms_rules: was_on_trial && plan.confirm.fallback == cm_fallback::CM_FALLBACK_NONE,
        time_left: match terms.grace {
            Grace::Within(time) if plan.identity_rules.before.is_none() => time,
            _ => Duration::from_nanos(plan.confirm.until_ns.saturating_sub(sys::coarse_ns())),
        },
        reason: machine.reason.filter(|_| replaced.is_none()),
        loaded,
        plan,
        replaced,
        gone,
        moved,
        lost,
    })
}

/// Refuses what can't be, before anything changes.
fn check(spec: &EndpointSpec, terms: &Terms, machine: &Machine) -> Result<()> {
    ensure!(
        terms.grace == Grace::Permanent || spec.policy.enforce(),
        "--confirm is for --policy enforce: nothing else may cut anybody off"
    );
    ensure!(
        terms.ifindex.is_none_or(|ifindex| ifindex == machine.device.ifindex),
        "{} is another device now; nothing has changed",
        machine.device.name
    );
    enforcement::text(spec, terms, machine.role).map(|_| ())
}

/// Fails if somebody else has attached the device since its spec was read, or what nobody was asked about is no more.
fn check_kept(root: &Root, terms: &Terms, plan: &Plan, replaced: Option<&Endpoint>) -> Result<()> {
    let Some(kept) = &terms.kept else { return Ok(()) };
    let now =
        replaced.map(|endpoint| super::spec::current(root, endpoint, &plan.names)).transpose()?;
    let is_so = match &terms.consent {
        Consent::To(outlook) => !outlook.is_as_before || is_as_before(root, plan, replaced)?,
        _ => true,
    };
    ensure!(
        now.as_ref() == Some(kept) && is_so,
        "{} has changed meanwhile; nothing has changed by this",
        plan.resolved.device.name
    );
    Ok(())
}

/// Whether no packet would meet anything else than now.
fn is_as_before(root: &Root, plan: &Plan, replaced: Option<&Endpoint>) -> Result<bool> {
    let Some(endpoint) = replaced.filter(|endpoint| !endpoint.stale) else { return Ok(false) };
    if matches!(endpoint.confirmation()?, Confirmation::Over(_)) {
        return Ok(false);
    }
    let before = &endpoint.config;
    let config = cm_config {
        // What loading finds out.
        flow_seed: before.flow_seed,
        flow_buckets: before.flow_buckets,
        weakly_ordered: before.weakly_ordered,
        scope: before.scope,
        ..plan.resolved.config()
    };
    let maps = policy_of(root, endpoint)?;
    let now = maps.read(Slot::Current)?;
    let are_same = plan.rules_after(&now, &Policy::default()).has_the_rules_of(&now);
    Ok(are_same && abi::bytes_of(&config) == abi::bytes_of(before))
}

/// What NICs lose that enforce their policy now.
fn taken_from<'a>(
    root: &Root,
    endpoints: impl Iterator<Item = &'a Endpoint>,
    plan: &Plan,
) -> Result<Vec<String>> {
    let (config, mut taken) = (plan.resolved.config(), Vec::new());
    for endpoint in endpoints {
        if !endpoint.stale && endpoint.is_enforcing_nic()? {
            taken.extend(losses(&endpoint.config, &config, &plan.names));
            taken.extend(rules_lost_by(root, endpoint, plan)?);
        }
    }
    Ok(taken)
}

/// Whose an endpoint was, if it is somebody else's now.
fn owner_lost(root: &Root, endpoint: &Endpoint, now: &EndpointSpec) -> Option<String> {
    let before = spec::owner(root, endpoint).ok()??;
    match &now.owner {
        Some(owner) if *owner == before => None,
        Some(owner) => Some(format!("its owner was {before} and is {owner} now")),
        None => Some(format!("its owner was {before}, and it has none now; --owner keeps it")),
    }
}

/// The rules in force that an endpoint loses, if it gets others.
fn rules_lost_by(root: &Root, endpoint: &Endpoint, plan: &Plan) -> Result<Option<String>> {
    let identity = Identity(endpoint.config.identity);
    if plan.rules.is_none() && identity == plan.resolved.identity {
        return Ok(None);
    }
    let before = match policy_of(root, endpoint) {
        Ok(maps) => rules::in_force(&maps, endpoint)?,
        // Without programs it has those that are pinned.
        Err(error) => {
            debug!("endpoint {}: {error:#}", endpoint.id);
            PolicyMaps::pinned(root, endpoint.id)?
        }
    };
    let after = plan.rules_after(&before, &Policy::default());
    Ok(losses::of_rules(&before, &after, &plan.names))
}

/// Whether nobody has confirmed a change of an endpoint's own rules yet.
fn has_own_rules_on_trial(root: &Root, endpoint: &Endpoint) -> Result<bool> {
    if !matches!(endpoint.confirmation()?, Confirmation::Pending(Fallback::Rules, _)) {
        return Ok(false);
    }
    let maps = policy_of(root, endpoint)?;
    Ok(maps.read(Slot::Current)?.own() != maps.read(Slot::Previous)?.own())
}

/// Removes what is left of endpoints whose device is gone, if it had this one's name; the others
/// that have to do with this device. One that is of this device has its rules still, also if its
/// programs are gone.
fn clean_stale(
    root: &Root,
    machine: &Machine,
    terms: &Terms,
) -> Result<(Vec<Endpoint>, Vec<Gone>)> {
    let Machine { device, netns, .. } = machine;
    let (mut others, mut gone) = (Vec::new(), Vec::new());
    let all = Devices::read(root)?;
    all.mend()?;
    for endpoint in concerning(root, &all, machine, terms)? {
        let same = endpoint.config.netns == *netns
            && (endpoint.device == device.name || endpoint.config.ifindex == device.ifindex);
        let is_left = endpoint.stale && !endpoint.is_on(device, *netns);
        if is_left && (same || endpoint.role().is_none()) {
            info!("endpoint {} ({}) is stale, cleaning up", endpoint.id, endpoint.device);
            let rules = count_rules(root, &endpoint);
            detach::detach(root, &endpoint)?;
            Conntrack::forget(root, &detach::own_scope(&endpoint).into_iter().collect())?;
            gone.push(Gone { endpoint, rules });
        } else {
            others.push(endpoint);
        }
    }
    Ok((others, gone))
}

/// Endpoints that have to do with the device. Who keeps what it had says that it is the same still.
fn concerning(
    root: &Root,
    all: &Devices,
    machine: &Machine,
    terms: &Terms,
) -> Result<Vec<Endpoint>> {
    let Machine { device, netns, .. } = machine;
    let mut endpoints = Endpoint::concerning(root, all, *netns, device)?;
    if terms.kept.is_some() {
        let here = endpoints.into_iter().map(|endpoint| endpoint.believed_on(device, *netns));
        endpoints = here.collect();
    }
    Ok(endpoints)
}

/// Endpoints that the device has brought from another namespace, and the one that is to be replaced.
fn here(endpoints: Vec<Endpoint>, machine: &Machine) -> (Vec<Endpoint>, Option<Endpoint>) {
    let is_here = |endpoint: &Endpoint| endpoint.is_on(&machine.device, machine.netns);
    let here = endpoints.into_iter().filter(is_here);
    let (moved, replaced): (Vec<_>, Vec<_>) = here.partition(Endpoint::has_moved);
    (moved, replaced.into_iter().next())
}

/// How many rules of its own are pinned for an endpoint.
fn count_rules(root: &Root, endpoint: &Endpoint) -> usize {
    PolicyMaps::pinned(root, endpoint.id).map_or(0, |policy| policy.own().len())
}
