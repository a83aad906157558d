//! What a spec's policy comes to: modes, failsafe ports, existing flows, and the clock.

use std::time::Duration;

use anyhow::Result;

use super::Terms;
use crate::kernel::abi::{cm_confirm, cm_fallback};
use crate::kernel::hooks::HOOKS;
use crate::kernel::sys;
use crate::model::endpoint::Role;
use crate::model::enforcement::{
    Confirmation, Failsafe, FailsafeList, Fallback, Grace, MAX_FAILSAFE, Mode, Modes,
};
use crate::model::spec::{CtScope, EndpointSpec};
use crate::model::time::Time;
use crate::program::load::Enforcement;
use crate::state::pin::Root;
use crate::state::registry::Endpoint;
use crate::state::spec::{self, Text};

/// For how long a NIC that begins to enforce adopts connections, if nobody has said.
const ADOPT: Duration = Duration::from_secs(30);

/// The spec as it is kept: with what is not the machine's to say a second time. An error if it is too long.
pub fn text(spec: &EndpointSpec, terms: &Terms, role: Role) -> Result<Text> {
    let mut kept = EndpointSpec { role: Some(role), ..spec.clone() };
    let says = spec.failsafe.as_ref().is_some_and(FailsafeList::names_ingress);
    let ports = failsafe(spec, terms.login_port);
    let may_have_login = role == Role::Netdev && !spec.policy.are_off() && !says;
    if may_have_login && ports != failsafe(spec, None) {
        kept.failsafe = Some(kept.failsafe.unwrap_or_default().with_ingress(ports.ingress));
    }
    Text::of(&kept, terms.origin)
}

/// What the programs are loaded with.
pub fn enforcement(
    root: &Root,
    spec: &EndpointSpec,
    terms: &Terms,
    (role, replaced): (Role, Option<&Endpoint>),
) -> Enforcement {
    let adopts_on = replaced.filter(|endpoint| adopts_on(root, spec, terms, endpoint));
    let modes = match spec.waits_for_number(role) {
        true => Modes::both(Mode::Enforce),
        false => spec.policy,
    };
    Enforcement {
        ingress: modes.ingress,
        egress: modes.egress,
        failsafe: match role {
            Role::Netdev => failsafe(spec, terms.login_port),
            Role::Container => Failsafe::default(),
        },
        adopt_until_ns: match adopts_on {
            Some(endpoint) => endpoint.config.adopt_until_ns,
            None => adopt_until_ns(spec, role, replaced),
        },
        ct_local: spec.ct == CtScope::Local,
        verdict_log: spec.policy_verdict_log,
    }
}

fn failsafe(spec: &EndpointSpec, login_port: Option<u16>) -> Failsafe {
    let mut standard = Failsafe::standard();
    if let Some(port) = login_port {
        standard.open_tcp(port);
        standard.ingress.truncate(MAX_FAILSAFE);
    }
    spec.failsafe.clone().unwrap_or_default().or(standard)
}

/// Whether the time in which flows may be adopted is the one that runs: it is the same that was asked for, and no direction
/// has only begun to ask its rules.
fn adopts_on(root: &Root, spec: &EndpointSpec, terms: &Terms, endpoint: &Endpoint) -> bool {
    let has_said_so = || spec::read(root, endpoint).is_ok_and(|before| before.adopt == spec.adopt);
    spec.adopt.is_some()
        && !spec.policy.are_off()
        && !terms.adopts_anew
        && !begins(spec, Some(endpoint), Mode::Audit)
        && has_said_so()
}

/// Until when TCP connections are adopted by their sockets. Programs that enforced before know all flows already,
/// unless their conntrack was another map.
fn adopt_until_ns(spec: &EndpointSpec, role: Role, replaced: Option<&Endpoint>) -> u64 {
    let until = |time: Duration| match time {
        Duration::ZERO => 0,
        time => sys::coarse_ns().saturating_add(time.as_nanos() as u64),
    };
    if let Some(time) = spec.adopt.filter(|_| !spec.policy.are_off()) {
        return until(time.get());
    }
    if role != Role::Netdev || !spec.policy.enforce() {
        return 0;
    }
    match replaced.filter(|endpoint| has_the_same_flows(spec, endpoint)) {
        Some(endpoint) if endpoint.config.modes().contains(&Mode::Enforce) => {
            endpoint.config.adopt_until_ns
        }
        _ => until(ADOPT),
    }
}

/// Whether flows that are up are taken over from the kernel's conntrack: if a direction begins to ask its rules, so
/// that cilmark has no entries of them. Unless the spec says so only a NIC that begins to enforce does: audit is there
/// to report such flows.
pub fn adopts(spec: &EndpointSpec, role: Role, replaced: Option<&Endpoint>) -> bool {
    let least = match spec.adopt.map(Time::get) {
        Some(Duration::ZERO) => return false,
        Some(_) => Mode::Audit,
        None if role == Role::Netdev => Mode::Enforce,
        None => return false,
    };
    begins(spec, replaced, least)
}

/// Whether a direction gets this mode at least, and had a lower one, or knows no flows.
fn begins(spec: &EndpointSpec, replaced: Option<&Endpoint>, least: Mode) -> bool {
    let before = replaced.filter(|endpoint| has_the_same_flows(spec, endpoint));
    let before = before.map_or([Mode::Off; 2], |endpoint| endpoint.config.modes());
    before.iter().zip(spec.policy.each()).any(|(before, now)| *before < now && now >= least)
}

fn has_the_same_flows(spec: &EndpointSpec, endpoint: &Endpoint) -> bool {
    (endpoint.config.ct_local != 0) == (spec.ct == CtScope::Local)
}

/// With the rules of its identity, if these are on trial until then (coarse monotonic clock, ns), an endpoint goes back, too.
pub fn at_the_latest(confirm: cm_confirm, deadline: Option<u64>) -> cm_confirm {
    let Some(until_ns) = deadline else { return confirm };
    match confirm.fallback {
        cm_fallback::CM_FALLBACK_NONE => {
            cm_confirm { until_ns, fallback: Fallback::Rules.into(), ..confirm }
        }
        _ => cm_confirm { until_ns: confirm.until_ns.min(until_ns), ..confirm },
    }
}

/// The confirmation that the programs wait for from their first packet on.
pub fn confirmation(
    spec: &EndpointSpec,
    terms: &Terms,
    replaced: Option<&Endpoint>,
) -> Result<cm_confirm> {
    let pending = |endpoint: &Endpoint| -> Result<Option<cm_confirm>> {
        match endpoint.confirmation()? {
            Confirmation::Pending(..) => {
                let running = HOOKS.iter().find_map(|hook| endpoint.running(*hook).ok());
                Ok(running.map(|(_, confirm)| confirm))
            }
            Confirmation::None | Confirmation::Over(_) => Ok(None),
        }
    };
    Ok(match terms.grace {
        Grace::Within(time) => cm_confirm {
            until_ns: sys::coarse_ns().saturating_add(time.as_nanos() as u64),
            fallback: Fallback::Audit.into(),
            ..cm_confirm::default()
        },
        Grace::Permanent if terms.keeps_clock && spec.policy.enforce() => {
            replaced.map(pending).transpose()?.flatten().unwrap_or_default()
        }
        Grace::Permanent => cm_confirm::default(),
    })
}
