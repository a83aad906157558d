//! The transaction: loads, registers, attaches; undoes what it did if one of them fails.

use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use log::{debug, info, warn};

use super::Plan;
use crate::kernel::abi::{cm_config, cm_fallback};
use crate::kernel::hooks::HOOKS;
use crate::kernel::sys;
use crate::model::policy::Policy;
use crate::ops::{adoption, rules};
use crate::program::attach;
use crate::program::load::{self, Loaded};
use crate::state::addresses::Addresses;
use crate::state::delivery;
use crate::state::nics::Nics;
use crate::state::pin::Root;
use crate::state::policy::{PolicyMaps, Slot};
use crate::state::registry::Endpoint;

/// Puts an endpoint on its device.
pub fn put_on(root: &Root, plan: &Plan, replaced: Option<&Endpoint>) -> Result<Loaded> {
    let (resolved, place) = (&plan.resolved, plan.place);
    let pins = root.endpoint(resolved.id);
    let start = Instant::now();
    let mut inherited = replaced.map(Endpoint::inherited).transpose()?.unwrap_or_default();
    inherited.confirm = plan.confirm;
    if let Some(endpoint) = replaced {
        rules::settle(root, endpoint)?;
    }
    let config = resolved.config();
    let loaded = load::load(root, resolved.role, &config, &plan.sizes, &inherited)?;
    if let Some(spec) = &loaded.spec {
        plan.spec.write(spec, &loaded.config)?;
    }

    let nics = Nics::open(root)?;
    if plan.adopts {
        if let Some(nics) = &nics {
            nics.take_from_others(&config);
        }
        if let Err(error) = adoption::adopt(root, resolved, loaded.scope) {
            warn!(
                "{}: flows that are up already are not taken over: {error:#}",
                resolved.device.name
            );
        }
    }

    let addresses = Addresses::open(root)?.context("the maps of addresses are not pinned")?;
    let before = addresses.operators_lines(&resolved.addresses)?;
    let callee = loaded.callee();
    let callee_before = delivery::callee(root, resolved.id)?;
    let rules = Rules::of(root, plan, replaced, &loaded)?;
    ensure!(
        rules.are_there || plan.confirm.fallback != cm_fallback::CM_FALLBACK_RULES,
        "{name}: nobody has confirmed the last change of its rules yet, and they would get another place, where nothing \
         goes back by itself: `cilmark confirm {name}` first; nothing has changed",
        name = resolved.device.name
    );
    // A mode that ends must not drop by the rules that come in its place.
    let rules_last = rules.are_there && replaced.is_some_and(|endpoint| relaxes(endpoint, &config));
    let slot = config.nic_slot().filter(|_| rules.are_there);
    let nic_before = nics.as_ref().zip(slot).map(|(nics, slot)| nics.get(slot)).transpose()?;
    // The program first: whoever finds an address calls it.
    let register = || {
        if let Some(nics) = &nics {
            nics.enter(&config, inherited.confirm, rules.are_there)?;
        }
        if !rules_last {
            rules.put()?;
        }
        if callee.is_some() {
            delivery::set_callee(root, resolved.id, callee)?;
        }
        addresses.register(&config, &resolved.addresses)
    };
    let attached = match replaced {
        Some(endpoint) => register().and_then(|()| {
            let put_rules = || if rules_last { rules.put() } else { Ok(()) };
            attach::replace(root, place, &loaded, &endpoint.previous(&config)?, put_rules)
        }),
        None => attach::attach(root, place, &loaded, register),
    };
    if let Err(error) = attached {
        let keep = replaced.map(Endpoint::addresses).unwrap_or_default();
        addresses.forget(resolved.id, &keep)?;
        addresses.put_back(&before)?;
        if let Some(endpoint) = replaced {
            addresses.register(&endpoint.config, &keep)?;
        }
        rules.put_back()?;
        let callee_before = callee_before.as_ref().map(AsFd::as_fd);
        delivery::set_callee(root, resolved.id, callee_before)?;
        if let Some((nics, slot)) = nics.zip(config.nic_slot()) {
            nics.restore(slot, &nic_before.unwrap_or_default())?;
        }
        return Err(error.context(format!("attach {}", resolved.device.name)));
    }
    if let Some(nics) = nics {
        nics.settle(resolved.id, &config, inherited.confirm)?;
    }
    addresses.forget(resolved.id, &resolved.addresses)?;
    delivery::set_callee(root, resolved.id, callee)?;
    if !resolved.policy.ct_local {
        pins.remove_map("cm_flows4")?;
        pins.remove_map("cm_flows6")?;
    }
    log_costs(&resolved.device.name, &loaded, start.elapsed())?;
    Ok(loaded)
}

/// Whether a direction gets a lower mode, and none a higher one.
fn relaxes(before: &Endpoint, after: &cm_config) -> bool {
    let modes = before.config.modes().into_iter().zip(after.modes());
    modes.clone().all(|(was, is)| is <= was) && modes.into_iter().any(|(was, is)| is < was)
}

/// What becomes of an endpoint's rules before its new programs are on the hooks.
struct Rules {
    /// The new programs find the old ones' rules where they look.
    are_there: bool,
    change: Option<Change>,
}

struct Change {
    maps: PolicyMaps,
    /// Where others read them, too: what is to be there again if the programs do not come.
    before: Option<Policy>,
    after: Policy,
}

impl Rules {
    fn of(root: &Root, plan: &Plan, replaced: Option<&Endpoint>, loaded: &Loaded) -> Result<Rules> {
        let maps = || PolicyMaps::of(root, plan.resolved.id, loaded.map_ids()?);
        let Some(endpoint) = replaced else {
            let (none, mut change) = (Policy::default(), None);
            if let Some(rules) = plan.rules.as_deref().filter(|rules| !rules.is_empty()) {
                let after = none.replaced_by(rules, &none);
                change = Some(Change { maps: maps()?, before: None, after });
            }
            return Ok(Rules { are_there: false, change });
        };
        let maps = maps()?;
        let elsewhere = rules_elsewhere(root, endpoint, &maps)?;
        let are_there = elsewhere.is_none();
        let (now, kept) = match elsewhere {
            Some(rules) => (rules, Policy::default()),
            None if plan.rules.is_none() => return Ok(Rules { are_there, change: None }),
            None => (maps.read(Slot::Current)?, maps.read(Slot::Previous)?),
        };
        let after = match &plan.rules {
            Some(rules) => now.replaced_by(rules, &kept),
            None => now.clone(),
        };
        let before = are_there.then_some(now);
        let is_change = match &before {
            Some(before) => *before != after,
            None => !after.rules().is_empty(),
        };
        Ok(Rules { are_there, change: is_change.then_some(Change { maps, before, after }) })
    }

    fn put(&self) -> Result<()> {
        self.change.as_ref().map_or(Ok(()), |change| change.maps.swap(&change.after))
    }

    fn put_back(&self) -> Result<()> {
        match &self.change {
            Some(Change { maps, before: Some(before), .. }) => maps.swap(before),
            _ => Ok(()),
        }
    }
}

/// The rules that new programs do not find where they look, of an endpoint that has become a NIC with a policy,
/// or is none any more; by their pin those of an endpoint without programs. `None`: they find them.
fn rules_elsewhere(root: &Root, replaced: &Endpoint, here: &PolicyMaps) -> Result<Option<Policy>> {
    Ok(match PolicyMaps::of(root, replaced.id, replaced.map_ids()) {
        Ok(there) if here.are_those_of(&there)? => None,
        Ok(there) => Some(there.read(Slot::Current)?),
        Err(error) => {
            debug!("endpoint {}: {error:#}", replaced.id);
            Some(PolicyMaps::pinned(root, replaced.id)?)
        }
    })
}

fn log_costs(device: &str, loaded: &Loaded, all: Duration) -> Result<()> {
    for hook in HOOKS {
        let facts = sys::program_facts(loaded.program(hook))?;
        info!(
            "{device}: the program on its {hook} hook has {} instructions, {} walked by the verifier",
            facts.instructions, facts.verified_instructions
        );
    }
    let ms = |duration: Duration| duration.as_secs_f64() * 1e3;
    info!(
        "{device}: open {:.2} ms, load {:.2} ms, attach {:.2} ms",
        ms(loaded.open_time),
        ms(loaded.load_time),
        ms(all - loaded.open_time - loaded.load_time)
    );
    Ok(())
}
