//! `cilmark conntrack list|flush`.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use anyhow::Result;
use clap::Subcommand;
use ipnet::IpNet;
use serde::{Serialize, Serializer};

use super::{Context, time, values};
use crate::model::flow::{Filter, Ports, Progress};
use crate::model::identity::Names;
use crate::model::prefix::parse_prefix;
use crate::model::rule::{Direction, L4};
use crate::ops;
use crate::ops::conntrack::{self, Report, Request};
use crate::ops::targets::Targets;
use crate::output::{self, JsonList, Table};

#[derive(Subcommand)]
pub enum Command {
    /// Show the flows that the policy knows
    List(Args),
    /// Forget flows; what goes on is taken for new, and the rules are asked again
    Flush(Args),
}

/// The flags; a flow has to be all that they say.
#[derive(clap::Args)]
pub struct Args {
    /// Only those of this device, id:N or @ID; NICs share theirs, which are those of `host`
    #[arg(value_name = "DEV")]
    device: Option<Targets>,
    /// Only those with this identity, a number or a name, at either end
    #[arg(long, value_name = "ID")]
    identity: Option<String>,
    /// Only those with this address, or one in this prefix, at either end
    #[arg(long, value_name = "PREFIX", value_parser = parse_prefix)]
    address: Option<IpNet>,
    /// Only those with this port at either end: 443, 8000-8080, udp/53
    #[arg(long, value_name = "PORT")]
    port: Option<Ports>,
    /// Only those that have come so far
    #[arg(long, value_parser = values::progress())]
    state: Option<Progress>,
    /// Only those whose first packet went this way
    #[arg(long, value_parser = values::direction())]
    direction: Option<Direction>,
}

impl Args {
    fn request(&self, context: &Context, names: &Names) -> Result<Request<'_>> {
        let filter = Filter {
            identity: self.identity.as_ref().map(|text| names.parse(text)).transpose()?,
            address: self.address,
            ports: self.port,
            progress: self.state,
            direction: self.direction,
        };
        Ok(Request { targets: self.device.as_ref(), netns: context.netns, filter })
    }
}

#[derive(Serialize)]
struct Line<'a> {
    device: Option<&'a str>,
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
    #[serde(skip_serializing_if = "Option::is_none")]
    nics: Option<&'a [&'a str]>,
    stale: bool,
    rule: Option<&'a str>,
    adopted: bool,
    masqueraded: bool,
    /// Seconds.
    expires: u64,
}

pub fn run(context: &Context, command: Command) -> Result<()> {
    let names = context.names()?;
    match command {
        Command::List(args) => {
            // Flows in a map that has lost its pin are there, too.
            context.repair();
            list(context, &args.request(context, &names)?, &names)
        }
        Command::Flush(args) => {
            let _lock = ops::lock(&context.root)?;
            let count = conntrack::flush(&context.root, &args.request(context, &names)?)?;
            let entries = if count == 1 { "entry" } else { "entries" };
            output::note(&format!("removed {count} {entries}"));
            Ok(())
        }
    }
}

fn list(context: &Context, request: &Request<'_>, names: &Names) -> Result<()> {
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
    conntrack::list(&context.root, request, names, |report| {
        let line = Line::of(report);
        match &mut json {
            Some(json) => json.push(&line)?,
            None => push(&mut table, &line),
        }
        Ok(())
    })?;
    match json {
        Some(json) => json.end(),
        None => table.print(),
    }
}

impl<'a> Line<'a> {
    fn of(report: &'a Report<'_>) -> Line<'a> {
        let flow = report.flow;
        Line {
            device: report.device,
            gone: report.gone,
            protocol: L4::Protocol(flow.protocol),
            local: flow.local,
            local_port: flow.local_port,
            remote: flow.remote,
            remote_port: flow.remote_port,
            direction: flow.direction,
            state: flow.progress,
            allowed: flow.allowed,
            nics: report.nics.as_deref(),
            stale: report.stale,
            rule: report.rule,
            adopted: flow.adopted,
            masqueraded: flow.masqueraded,
            expires: time::seconds(flow.expires),
        }
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
pub struct End(pub IpAddr, pub u16);

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
