//! `cilmark conntrack list|flush`.

mod choice;

use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::net::{IpAddr, SocketAddr};

use anyhow::Result;
use choice::{Choice, Owner, Owners};
use clap::Subcommand;
use serde::{Serialize, Serializer};

use super::Context;
use super::decision::Rules;
use super::targets::{self, Targets};
use crate::model::endpoint::{EndpointId, Role, Scope};
use crate::model::flow::Progress;
use crate::model::identity::Names;
use crate::model::rule::{Direction, L4};
use crate::ops;
use crate::output::{self, JsonList, Table};
use crate::state::conntrack::{Conntrack, Epoch, Flow};
use crate::state::generations::Generations;
use crate::state::nics::Nics;
use crate::state::registry::shared;

#[derive(Subcommand)]
pub enum Command {
    /// Show the flows that the policy knows
    List(choice::Args),
    /// Forget flows; what goes on is taken for new, and the rules are asked again
    Flush(choice::Args),
}

#[derive(Serialize)]
struct Line<'a> {
    /// Of a container, or a NIC with maps of its own; NICs share their other flows.
    device: Option<&'a str>,
    /// It was a container's that is no longer attached.
    gone: bool,
    #[serde(serialize_with = "as_text")]
    protocol: L4,
    local: IpAddr,
    local_port: u16,
    remote: IpAddr,
    remote_port: u16,
    direction: Direction,
    state: Progress,
    allowed: bool,
    /// Of the host's: those that it has passed on its originator's way, and whose rules have to allow it.
    #[serde(skip_serializing_if = "Option::is_none")]
    nics: Option<Vec<&'a str>>,
    /// Something has changed: the next packet asks the rules again, and `rule` is not known.
    stale: bool,
    rule: Option<&'a str>,
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
            let _lock = ops::lock(&context.root)?;
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
    let mut json = context.json.then(JsonList::default);
    let mut table = Table::new([
        "DEVICE",
        "PROTOCOL",
        "LOCAL",
        "REMOTE",
        "DIRECTION",
        "STATE",
        "VERDICT",
        "EXPIRES",
    ]);
    for Place { maps, scope } in places(context, args.device.as_ref())? {
        let flows = maps.flows_where(|flow| {
            scope.is_none_or(|scope| flow.scope == scope)
                && (choice.takes_all() || choice.takes(flow, &owners.of(flow, maps.owner)))
        })?;
        for flows in flows.chunk_by(|one, other| one.scope == other.scope) {
            let whose = owners.of(&flows[0], maps.owner);
            let mut of = lister.of(&whose, flows[0].scope, maps.owner.is_none());
            for flow in flows {
                let line = lister.line(flow, &mut of);
                match &mut json {
                    Some(json) => json.push(&line)?,
                    None => push(&mut table, &line),
                }
            }
        }
    }
    match json {
        Some(json) => json.end(),
        None => table.print(),
    }
}

/// What the lines of flows are told by.
struct Lister<'a> {
    context: &'a Context,
    names: Names,
    generations: Option<Generations>,
    /// By their slots.
    nics: Vec<Option<EndpointId>>,
    nics_fallen_back: u32,
    rules: Rules,
}

/// Whose flows they are.
struct Of<'a> {
    /// `None` of what NICs share, and of what is gone.
    device: Option<&'a str>,
    is_gone: bool,
    /// From what nobody has confirmed.
    fell_back: bool,
    /// Whose rules have decided; of NICs each numbers its own, and a flow tells which.
    ids: Option<Vec<EndpointId>>,
    /// The NICs that share them, and their slots.
    nics: Vec<(u8, &'a str)>,
    /// What rules' numbers mean, by the slot of the NIC whose rule it is.
    words: HashMap<(u8, u32), Option<String>>,
}

impl<'a> Lister<'a> {
    fn new(context: &'a Context) -> Result<Lister<'a>> {
        let nics = Nics::open(&context.root)?;
        Ok(Lister {
            nics_fallen_back: nics.as_ref().map_or(0, Nics::fallen_back),
            nics: nics.map(|nics| nics.owners()).transpose()?.unwrap_or_default(),
            context,
            names: context.names()?,
            generations: Generations::open(&context.root)?,
            rules: Rules::default(),
        })
    }

    /// Of a scope and these owners, in the maps that all share or not.
    fn of<'o>(&self, whose: &[&'o Owner], scope: Scope, is_in_shared: bool) -> Of<'o> {
        let is_nics = scope == Scope::NICS;
        // A NIC with maps of its own has no neighbours there.
        let is_shared = is_nics && is_in_shared;
        let device = whose.first().filter(|_| !is_shared).map(|owner| owner.device.as_str());
        let slot = |owner: &Owner| self.nics.iter().position(|nic| *nic == Some(owner.id));
        Of {
            device,
            is_gone: device.is_none() && !is_shared,
            fell_back: whose.iter().any(|owner| owner.fell_back),
            ids: (!is_nics).then(|| whose.iter().map(|owner| owner.id).collect()),
            nics: (whose.iter())
                .filter_map(|owner| Some((slot(owner)? as u8, owner.device.as_str())))
                .collect(),
            words: HashMap::new(),
        }
    }

    /// What its verdict has to be of to count; `None` of what is gone.
    fn epoch(&self, flow: &Flow, of: &Of<'_>) -> Option<Epoch> {
        let generation =
            |workload| self.generations.as_ref().map(|it| it.of_flow(flow.remote, workload));
        match &of.ids {
            None => Some(Epoch::of_nics(generation(None)?, self.nics_fallen_back)),
            Some(ids) => Some(Epoch::of_workload(generation(Some(*ids.first()?))?, of.fell_back)),
        }
    }

    fn line<'l>(&mut self, flow: &Flow, of: &'l mut Of<'_>) -> Line<'l> {
        let stale = self.epoch(flow, of).is_none_or(|epoch| flow.is_stale(epoch));
        let key = (flow.nic, flow.rule);
        if !stale && !of.words.contains_key(&key) {
            let words = self.read_words(flow, of);
            of.words.insert(key, words);
        }
        let has_passed = |nic: &&(u8, &'l str)| flow.passed >> nic.0 & 1 != 0;
        let nics = of.nics.iter().filter(has_passed).map(|nic| nic.1);
        Line {
            gone: of.is_gone,
            device: of.device,
            protocol: L4::Protocol(flow.protocol),
            local: flow.local,
            local_port: flow.local_port,
            remote: flow.remote,
            remote_port: flow.remote_port,
            direction: flow.direction,
            state: flow.progress,
            allowed: flow.allowed,
            nics: of.ids.is_none().then(|| nics.collect()),
            stale,
            // The number of a stale one may be another rule's by now.
            rule: of.words.get(&key).and_then(Option::as_deref).filter(|_| !stale),
            adopted: flow.adopted,
            masqueraded: flow.masqueraded,
            expires: targets::seconds(flow.expires),
        }
    }

    /// What a rule's number means.
    fn read_words(&mut self, flow: &Flow, of: &Of<'_>) -> Option<String> {
        let nic = self.nics.get(usize::from(flow.nic)).copied().flatten();
        let ids = of.ids.clone().unwrap_or_else(|| Vec::from_iter(nic));
        self.rules.words(self.context, &ids, flow.rule, &self.names)
    }
}

fn push(table: &mut Table<8>, line: &Line<'_>) {
    let verdict = if line.allowed { "allowed" } else { "denied" };
    let why = match line.rule {
        Some(_) => ": ",
        None if line.stale => ", to be asked again",
        None => "",
    };
    table.push([
        &line.device.unwrap_or(if line.gone { "(gone)" } else { "host" }),
        &line.protocol,
        &End(line.local, line.local_port),
        &End(line.remote, line.remote_port),
        &line.direction,
        &line.state,
        &format_args!("{verdict}{why}{}", line.rule.unwrap_or_default()),
        &format_args!("{} s", line.expires),
    ]);
}

/// An address and a port, if there is one.
struct End(IpAddr, u16);

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            End(address, 0) => address.fmt(f),
            End(address, port) => SocketAddr::new(address, port).fmt(f),
        }
    }
}

fn as_text<S: Serializer>(value: &impl fmt::Display, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(value)
}
