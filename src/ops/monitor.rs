//! Events, with what they follow from and what would have to be said for the packet to pass.

mod flow;
mod hint;
mod losses;

use std::collections::HashMap;

use anyhow::Result;
use hint::Hints;
use losses::Losses;

use super::claim::{Claim, Owners};
use super::identities;
use super::rule_names::{RuleNames, names_a_rule};
use crate::kernel::abi::{cm_direction, cm_event, cm_reason};
use crate::model::endpoint::EndpointId;
use crate::model::identity::{Identity, Names};
use crate::state::events::Heard;
use crate::state::generations::Generations;
use crate::state::pin::Root;
use crate::state::registry::Endpoint;

/// Reports events, with the names that identities and devices have when they are first seen.
pub struct Monitor<'a> {
    root: &'a Root,
    /// Of identities.
    pub names: Names,
    devices: HashMap<u32, String>,
    rules: RuleNames,
    hints: Hints,
    owners: Option<Owners>,
    changes: Option<u32>,
    losses: Losses,
}

/// An event, or that some were lost.
pub struct Report<'e> {
    /// `None`: nothing but that events were lost.
    pub event: Option<&'e cm_event>,
    /// Of which endpoint.
    pub endpoint_id: u32,
    /// Its device.
    pub device: String,
    /// How many of its events nobody has got, before this one.
    pub lost: u64,
    /// The rule that matched, or what stands in its place.
    pub rule: Option<String>,
    /// Whose address the packet came from without the proof that it is theirs.
    pub claim: Option<Claim>,
    /// What would let the packet pass.
    pub hint: Option<String>,
}

impl Monitor<'_> {
    /// Reads the names of identities.
    pub fn new(root: &Root) -> Result<Monitor<'_>> {
        Ok(Monitor {
            root,
            names: identities::names(root)?,
            devices: HashMap::new(),
            rules: RuleNames::default(),
            hints: Hints::default(),
            owners: None,
            changes: None,
            losses: Losses::default(),
        })
    }

    /// Reports an event if it is wanted, and what was lost in any case.
    pub fn hear<'e>(
        &mut self,
        heard: Heard<'e>,
        is_wanted: impl FnOnce(&cm_event) -> bool,
    ) -> Result<Vec<Report<'e>>> {
        let event = match heard {
            Heard::Event(event) => event,
            Heard::Silence => {
                let lost = self.losses.at_rest(self.root)?.into_iter();
                return Ok(lost.map(|(id, lost)| self.report(None, id, lost)).collect());
            }
        };
        let lost = self.losses.before(event);
        if is_wanted(event) {
            let mut report = self.report(Some(event), event.endpoint_id, lost);
            self.explain(event, &mut report);
            return Ok(vec![report]);
        }
        let lost = (lost > 0).then(|| self.report(None, event.endpoint_id, lost));
        Ok(lost.into_iter().collect())
    }

    fn report<'e>(
        &mut self,
        event: Option<&'e cm_event>,
        endpoint_id: u32,
        lost: u64,
    ) -> Report<'e> {
        let device = self.device(endpoint_id);
        Report { event, endpoint_id, device, lost, rule: None, claim: None, hint: None }
    }

    /// Adds what matched, who was claimed, and what would have to be said for the packet to pass.
    fn explain(&mut self, event: &cm_event, report: &mut Report<'_>) {
        let may_be_claimed = event.direction == cm_direction::CM_INGRESS
            && Identity(event.source_identity) == Identity::WORLD;
        let is_refused = event.reason != cm_reason::CM_FORWARDED;
        if !names_a_rule(event) && !is_refused && !may_be_claimed {
            return;
        }
        self.forget_what_changed();
        let id = u16::try_from(event.endpoint_id).ok().and_then(EndpointId::new);
        let Some(id) = id else { return };
        if names_a_rule(event) {
            report.rule = self.rules.words(self.root, &[id], event.rule, &self.names);
        }
        if may_be_claimed {
            report.claim = self.claim(id, event);
        }
        if is_refused && report.claim.is_some() {
            // To let the whole world in is nobody's wish.
            report.hint = Some(Claim::HINT.to_owned());
        } else if is_refused {
            report.hint = self.hints.about(self.root, id, event, &self.names);
        }
    }

    /// Numbers, addresses and flows are an endpoint's own only until something changes.
    fn forget_what_changed(&mut self) {
        let generations = Generations::open(self.root).ok().flatten();
        let changes = generations.map(|generations| generations.changes());
        if changes != self.changes {
            self.changes = changes;
            self.rules.forget();
            self.hints.forget();
            self.owners = None;
        }
    }

    fn claim(&mut self, id: EndpointId, event: &cm_event) -> Option<Claim> {
        let config = &self.hints.known(self.root, id)?.endpoint.config;
        if self.owners.is_none() {
            self.owners = Owners::open(self.root);
        }
        let source = event.source.to_ip()?;
        self.owners.as_ref()?.unproven(self.root, config, source, Identity(event.source_identity))
    }

    /// The device of an endpoint, or `id:N` where that is gone.
    fn device(&mut self, endpoint: u32) -> String {
        let look = || {
            let id = EndpointId::new(endpoint.try_into().ok()?)?;
            let device = Endpoint::read(self.root, id).ok()?.device;
            (!device.is_empty()).then_some(device)
        };
        let known = self.devices.entry(endpoint);
        known.or_insert_with(|| look().unwrap_or_else(|| format!("id:{endpoint}"))).clone()
    }
}
