//! `cilmark conntrack list|flush`.

mod choice;

use std::collections::BTreeSet;
use std::net::IpAddr;

use anyhow::Result;
use choice::{Choice, Owner, Owners};
use clap::Subcommand;
use serde::Serialize;

use super::Context;
use super::decision::Rules;
use super::targets::{self, Targets};
use crate::datapath::conntrack::{Conntrack, Epoch, Flow};
use crate::datapath::maps;
use crate::datapath::nics::Nics;
use crate::datapath::registry::shared;
use crate::model::endpoint::{EndpointId, Role, Scope};
use crate::model::flow::Progress;
use crate::model::identity::Names;
use crate::model::rule::{Direction, L4};
use crate::output;

#[derive(Subcommand)]
pub enum Command {
    /// Show the flows that the policy knows
    List(choice::Args),
    /// Forget flows; what goes on is taken for new, and the rules are asked again
    Flush(choice::Args),
}

#[derive(Serialize)]
struct Line {
    /// Of a container, or a NIC with maps of its own; NICs share their other flows.
    device: Option<String>,
    /// It was a container's that is no longer attached.
    gone: bool,
    protocol: String,
    local: IpAddr,
    local_port: u16,
    remote: IpAddr,
    remote_port: u16,
    direction: Direction,
    state: Progress,
    allowed: bool,
    /// Of the host's: those that it has passed on its originator's way, and whose rules have to allow it.
    #[serde(skip_serializing_if = "Option::is_none")]
    nics: Option<Vec<String>>,
    /// Something has changed: the next packet asks the rules again, and `rule` is not known.
    stale: bool,
    rule: Option<String>,
    adopted: bool,
    masqueraded: bool,
    /// Seconds.
    expires: u64,
}

/// Where to look, and for whose flows.
struct Place {
    maps: Conntrack,
    scope: Option<Scope>,
}

pub fn run(context: &Context, command: Command) -> Result<()> {
    match command {
        Command::List(args) => {
            // Flows in a map that has lost its pin are there, too.
            context.repair();
            list(context, &args)
        }
        Command::Flush(args) => {
            let _lock = context.lock()?;
            shared::check_all(&context.root)?;
            let count = flush(context, &args)?;
            let entries = if count == 1 { "entry" } else { "entries" };
            output::note(&format!("removed {count} {entries}"));
            Ok(())
        }
    }
}

fn flush(context: &Context, args: &choice::Args) -> Result<usize> {
    let owners = Owners::read(context)?;
    let choice = Choice::new(context, args.filter(&context.names()?)?, &owners)?;
    let mut count = 0;
    for Place { maps, scope } in places(context, args.device.as_ref())? {
        let is_in = |flow: &Flow| scope.is_none_or(|scope| flow.scope == scope);
        let wanted = |flow: &Flow| is_in(flow) && choice.takes(flow, &owners.of(flow, maps.owner));
        count += match choice.takes_all() {
            true => maps.flush(scope)?,
            false => maps.flush_some(wanted)?,
        };
    }
    Ok(count)
}

/// The maps of an endpoint, or all; those that all share as well, where it may have left flows.
fn places(context: &Context, device: Option<&Targets>) -> Result<Vec<Place>> {
    let root = &context.root;
    let Some(targets) = device else {
        let all = Conntrack::all(root)?.into_iter();
        return Ok(all.map(|maps| Place { maps, scope: None }).collect());
    };
    let mut places = BTreeSet::new();
    let endpoints = match targets {
        Targets::Host => {
            places.insert((None, Scope::NICS));
            let mut found = context.endpoints()?;
            found.endpoints.retain(|endpoint| endpoint.role() == Some(Role::Netdev));
            found.endpoints
        }
        Targets::One(_) => targets.select(context)?,
    };
    // Of one without a configuration nobody can tell whose its flows are.
    for endpoint in endpoints.iter().filter(|endpoint| endpoint.role().is_some()) {
        let owner = (endpoint.config.ct_local != 0).then_some(endpoint.id);
        let scope = endpoint.config.scope();
        places.extend([(owner, scope), (None, scope)]);
    }
    let open = |(owner, scope)| {
        let maps = Conntrack::open(root, owner)?;
        Ok(maps.map(|maps| Place { maps, scope: Some(scope) }))
    };
    places.into_iter().filter_map(|place| open(place).transpose()).collect()
}

fn list(context: &Context, args: &choice::Args) -> Result<()> {
    let (owners, mut lister) = (Owners::read(context)?, Lister::new(context)?);
    let choice = Choice::new(context, args.filter(&lister.names)?, &owners)?;
    let mut lines = Vec::new();
    for Place { maps, scope } in places(context, args.device.as_ref())? {
        for flow in maps.flows()? {
            let whose = owners.of(&flow, maps.owner);
            if scope.is_none_or(|scope| flow.scope == scope) && choice.takes(&flow, &whose) {
                lines.push(lister.line(&flow, &whose, maps.owner.is_none()));
            }
        }
    }
    if context.json {
        return output::json(&lines);
    }
    let rows: Vec<[String; 8]> = lines.into_iter().map(row).collect();
    output::table(
        ["DEVICE", "PROTOCOL", "LOCAL", "REMOTE", "DIRECTION", "STATE", "VERDICT", "EXPIRES"],
        &rows,
    )
}

/// What the lines of flows are told by.
struct Lister<'a> {
    context: &'a Context,
    names: Names,
    generation: u32,
    /// By their slots.
    nics: Vec<Option<EndpointId>>,
    nics_fallen_back: u32,
    rules: Rules,
}

impl<'a> Lister<'a> {
    fn new(context: &'a Context) -> Result<Lister<'a>> {
        let nics = Nics::open(&context.root)?;
        Ok(Lister {
            nics_fallen_back: nics.as_ref().map_or(0, Nics::fallen_back),
            nics: nics.map(|nics| nics.owners()).transpose()?.unwrap_or_default(),
            context,
            names: context.names()?,
            generation: maps::generation(&context.root)?.unwrap_or_default(),
            rules: Rules::default(),
        })
    }

    /// A flow, of these owners, in the maps that all share or not.
    fn line(&mut self, flow: &Flow, whose: &[&Owner], is_in_shared: bool) -> Line {
        // A NIC with maps of its own has no neighbours there.
        let is_shared = flow.scope == Scope::NICS && is_in_shared;
        let is_nics = flow.scope == Scope::NICS;
        let epoch = match is_nics {
            true => Epoch::of_nics(self.generation, self.nics_fallen_back),
            false => Epoch::of_workload(self.generation, whose.iter().any(|owner| owner.fell_back)),
        };
        let fresh = !flow.is_stale(epoch);
        let nic = |slot: u8| self.nics.get(usize::from(slot)).copied().flatten();
        // Of NICs each numbers its own rules.
        let ids: Vec<EndpointId> = match is_nics {
            true => Vec::from_iter(nic(flow.nic)),
            false => whose.iter().map(|owner| owner.id).collect(),
        };
        let has_passed = |owner: &&&Owner| {
            let slot = self.nics.iter().position(|nic| *nic == Some(owner.id));
            slot.is_some_and(|slot| flow.passed >> slot & 1 != 0)
        };
        let nics = whose.iter().filter(has_passed).map(|owner| owner.device.clone());
        let nics = is_nics.then(|| nics.collect());
        let device = whose.first().filter(|_| !is_shared).map(|owner| owner.device.clone());
        // The number of a stale one may be another rule's by now.
        let rule = match fresh {
            true => self.rules.words(self.context, &ids, flow.rule, &self.names),
            false => None,
        };
        Line {
            gone: device.is_none() && !is_shared,
            device,
            protocol: L4::Protocol(flow.protocol).to_string(),
            local: flow.local,
            local_port: flow.local_port,
            remote: flow.remote,
            remote_port: flow.remote_port,
            direction: flow.direction,
            state: flow.progress,
            allowed: flow.allowed,
            nics,
            stale: !fresh,
            rule,
            adopted: flow.adopted,
            masqueraded: flow.masqueraded,
            expires: targets::seconds(flow.expires),
        }
    }
}

fn row(line: Line) -> [String; 8] {
    let end = |address: IpAddr, port: u16| match (address, port) {
        (address, 0) => address.to_string(),
        (IpAddr::V4(address), port) => format!("{address}:{port}"),
        (IpAddr::V6(address), port) => format!("[{address}]:{port}"),
    };
    let verdict = if line.allowed { "allowed" } else { "denied" };
    let state = serde_json::to_value(line.state).ok();
    [
        line.device.unwrap_or_else(|| if line.gone { "(gone)" } else { "host" }.to_owned()),
        line.protocol,
        end(line.local, line.local_port),
        end(line.remote, line.remote_port),
        line.direction.to_string(),
        state.as_ref().and_then(|state| state.as_str()).unwrap_or_default().to_owned(),
        match line.rule {
            Some(rule) => format!("{verdict}: {rule}"),
            None if line.stale => format!("{verdict}, to be asked again"),
            None => verdict.to_owned(),
        },
        format!("{} s", line.expires),
    ]
}
