//! `cilmark status`.

use anyhow::Result;
use serde::Serialize;

use super::policy::describe;
use super::{Context, all_of, targets};
use crate::datapath::attach::HookKind;
use crate::datapath::registry::Endpoint;
use crate::model::endpoint::{EndpointId, Role, Selector};
use crate::model::identity::{Identity, Names};
use crate::model::policing::{Confirmation, Mode};
use crate::output;

#[derive(clap::Args)]
pub struct Args {
    /// Only this one: the name of its device, or id:N
    #[arg(value_name = "DEV")]
    device: Option<Selector>,
}

#[derive(Serialize)]
struct Line {
    device: String,
    ifindex: u32,
    role: Option<Role>,
    endpoint_id: EndpointId,
    identity: Identity,
    name: Option<String>,
    ips: Vec<String>,
    hook: HookKind,
    ingress_policy: Mode,
    egress_policy: Mode,
    /// Seconds that are left; 0 when nobody confirmed in time.
    confirm_deadline: Option<u64>,
    #[serde(skip)]
    confirmation: Confirmation,
    stale: bool,
    packets: u64,
    drops: u64,
}

pub fn run(context: &Context, args: Args) -> Result<()> {
    let mut found = match &args.device {
        Some(selector) => context.named(std::slice::from_ref(selector))?,
        None => context.endpoints()?,
    };
    let mut errors = std::mem::take(&mut found.errors);
    let names = context.names()?;
    let mut lines = Vec::new();
    let mut add = |endpoint: &Endpoint| match line(endpoint, &names) {
        Ok(line) => lines.push(line),
        Err(error) => errors.push(error.context(format!("read endpoint {}", endpoint.id))),
    };
    match &args.device {
        Some(selector) => match found.select(selector) {
            Ok(endpoint) => add(endpoint),
            Err(error) => {
                errors.push(error);
                return all_of(errors);
            }
        },
        None => found.endpoints.iter().for_each(add),
    }
    print(context, lines, &names)?;
    all_of(errors)
}

fn print(context: &Context, lines: Vec<Line>, names: &Names) -> Result<()> {
    if context.json {
        return output::json(&lines);
    }
    let rows: Vec<[String; 9]> = lines
        .into_iter()
        .map(|line| {
            let stale = if line.stale { " (stale)" } else { "" };
            [
                format!("{}{stale}", line.device),
                line.role.map_or("?".to_owned(), |role| role.to_string()),
                line.endpoint_id.to_string(),
                names.label(line.identity),
                line.hook.to_string(),
                policy(&line),
                line.packets.to_string(),
                line.drops.to_string(),
                line.ips.join(" "),
            ]
        })
        .collect();
    output::table(
        [
            "DEVICE",
            "ROLE",
            "ENDPOINT",
            "IDENTITY",
            "HOOK",
            "POLICY",
            "PACKETS",
            "DROPS",
            "ADDRESSES",
        ],
        &rows,
    )
}

fn policy(line: &Line) -> String {
    let modes = format!("{}/{}", line.ingress_policy, line.egress_policy);
    match describe(line.confirmation) {
        Some(words) => format!("{modes} ({words})"),
        None => modes,
    }
}

fn line(endpoint: &Endpoint, names: &Names) -> Result<Line> {
    let (forwarded, dropped) = endpoint.counters()?;
    let identity = Identity(endpoint.config.identity);
    let [ingress_policy, egress_policy] = endpoint.modes_in_force()?;
    let confirmation = endpoint.confirmation()?;
    Ok(Line {
        device: endpoint.device.clone(),
        ifindex: endpoint.config.ifindex,
        role: endpoint.role(),
        endpoint_id: endpoint.id,
        identity,
        name: names.name(identity).map(str::to_owned),
        ips: endpoint.addresses().iter().map(ToString::to_string).collect(),
        hook: endpoint.kind,
        ingress_policy,
        egress_policy,
        confirm_deadline: match confirmation {
            Confirmation::None => None,
            Confirmation::Pending(_, left) => Some(targets::seconds(left)),
            Confirmation::Over(_) => Some(0),
        },
        confirmation,
        stale: endpoint.stale,
        packets: forwarded.packets + dropped.packets,
        drops: dropped.packets,
    })
}
