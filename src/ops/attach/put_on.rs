//! The transaction: loads, registers, attaches; undoes what it did if one of them fails.

use std::collections::HashSet;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use log::{debug, info, warn};

use super::Plan;
use crate::kernel::abi::{cm_config, cm_fallback};
use crate::kernel::hooks::HOOKS;
use crate::kernel::sys;
use crate::model::policy::{Listed, Policy};
use crate::model::rule::{Action, Rule};
use crate::model::rule_list::IdentityRules;
use crate::model::shell::word;
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
        rules.are_there
            || plan.confirm.fallback != cm_fallback::CM_FALLBACK_RULES
            || plan.waits_for_identity(),
        "{name}: nobody has confirmed the last change of its rules yet, and they would get another place, where nothing \
         goes back by itself: `cilmark confirm {}` first; nothing has changed",
        word(&resolved.device.name),
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
            let put_rules = || match rules_last {
                true => rules.put().and_then(|()| rules.finish()),
                false => rules.finish(),
            };
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
    /// Nothing is attached yet.
    is_first: bool,
    /// Where others read them, too: what is to be there again if the programs do not come.
    before: Option<[Policy; 2]>,
    /// Until the programs are there that carry another identity: no more than both lists let pass.
    meanwhile: Option<Policy>,
    after: Policy,
    /// What comes back if nobody confirms, if that is another list than now.
    previous: Option<Policy>,
}

impl Rules {
    fn of(root: &Root, plan: &Plan, replaced: Option<&Endpoint>, loaded: &Loaded) -> Result<Rules> {
        let maps = || PolicyMaps::of(root, plan.resolved.id, loaded.map_ids()?);
        let Some(endpoint) = replaced else {
            let none = Policy::default();
            let has_rules = plan.rules.as_ref().is_some_and(|rules| !rules.is_empty())
                || plan.identity_rules != IdentityRules::default();
            let change = match has_rules {
                true => {
                    let change = Change::new(plan, maps()?, [none.clone(), none]);
                    Some(Change { is_first: true, ..change })
                }
                false => None,
            };
            return Ok(Rules { are_there: false, change });
        };
        let maps = maps()?;
        let elsewhere = rules_elsewhere(root, endpoint, &maps)?;
        let are_there = elsewhere.is_none();
        let now = match elsewhere {
            Some(rules) => [rules, Policy::default()],
            None => [maps.read(Slot::Current)?, maps.read(Slot::Previous)?],
        };
        let mut change = Change::new(plan, maps, now.clone());
        let is_another = endpoint.config.identity != plan.resolved.identity.0;
        change.meanwhile = (are_there && is_another).then(|| both(&now[0], &change.after));
        let is_change = match are_there {
            true => now[0] != change.after || change.previous.is_some(),
            false => !change.after.rules().is_empty() || change.previous.is_some(),
        };
        change.before = are_there.then_some(now);
        Ok(Rules { are_there, change: is_change.then_some(change) })
    }

    /// What is to be there before the programs.
    fn put(&self) -> Result<()> {
        let Some(change) = &self.change else { return Ok(()) };
        if let Some(previous) = &change.previous {
            change.maps.put_previous(previous)?;
        }
        match change.is_first {
            true => change.maps.swap_unseen(&change.after),
            false => change.maps.swap(change.meanwhile.as_ref().unwrap_or(&change.after)),
        }
    }

    /// What is to be there when they are.
    fn finish(&self) -> Result<()> {
        match &self.change {
            Some(change) if change.meanwhile.is_some() => change.maps.swap(&change.after),
            _ => Ok(()),
        }
    }

    fn put_back(&self) -> Result<()> {
        match &self.change {
            Some(Change { maps, before: Some([before, kept]), previous, .. }) => {
                maps.swap(before)?;
                previous.as_ref().map_or(Ok(()), |_| maps.put_previous(kept))
            }
            _ => Ok(()),
        }
    }
}

impl Change {
    /// From what the endpoint has now, and what it falls back to.
    fn new(plan: &Plan, maps: PolicyMaps, [now, kept]: [Policy; 2]) -> Change {
        let numbered =
            Policy::of([&kept, &now].into_iter().flat_map(Policy::rules).copied().collect());
        let goes_back = plan.confirm.fallback == cm_fallback::CM_FALLBACK_RULES;
        let after = plan.rules_after(&now, if goes_back { &numbered } else { &kept });
        let previous = goes_back.then(|| {
            let own = match plan.waits_for_identity() {
                true => plan.own_rules(&now),
                false => kept.own(),
            };
            kept.made_of(&own, plan.identity_rules.fallback(), &after)
        });
        let previous = previous.filter(|previous| *previous != kept);
        Change { maps, is_first: false, before: None, meanwhile: None, after, previous }
    }
}

/// No more than either list lets pass: what both allow, and what one denies.
fn both(before: &Policy, after: &Policy) -> Policy {
    let there: HashSet<Rule> = after.rules().iter().map(|listed| listed.rule).collect();
    let had: HashSet<Rule> = before.rules().iter().map(|listed| listed.rule).collect();
    let stays = |listed: &&Listed, in_other: bool| in_other || listed.rule.action == Action::Deny;
    let of_before =
        before.rules().iter().filter(|it| stays(it, false) && !there.contains(&it.rule));
    let of_after = after.rules().iter().filter(|it| stays(it, had.contains(&it.rule)));
    Policy::of(of_after.chain(of_before).copied().collect())
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
