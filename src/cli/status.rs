//! `cilmark status`.

use anyhow::Result;
use serde::Serialize;

use super::policy::describe;
use super::{Context, again, all_of, before, time};
use crate::kernel::hooks::HookKind;
use crate::kernel::order::Before;
use crate::model::endpoint::{EndpointId, Role, Selector};
use crate::model::enforcement::{Confirmation, Mode};
use crate::model::identity::{Identity, Names};
use crate::model::mac::Mac;
use crate::ops::options::Options;
use crate::ops::spec;
use crate::output;
use crate::state::registry::Endpoint;

#[derive(clap::Args)]
pub struct Args {
    /// Only this one: the name of its device, or id:N
    #[arg(value_name = "DEV")]
    device: Option<Selector>,
    /// What DEV was asked to be, complete, with its rules, as JSON in any case
    #[arg(long, requires = "device")]
    spec: bool,
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
    /// To another network namespace; what is attached there goes on.
    moved: bool,
    packets: u64,
    drops: u64,
    /// The only MAC that a workload may send from, if there is but one.
    workload_mac: Option<String>,
    #[serde(flatten)]
    options: Options,
    #[serde(skip)]
    place: (HookKind, u32),
    /// Of others, on the same hooks.
    programs_before: Vec<Before>,
    /// Why it has to be attached again.
    attach_again: Vec<String>,
}

pub fn run(context: &Context, args: Args) -> Result<()> {
    if let (true, Some(selector)) = (args.spec, &args.device) {
        let found = context.named(std::slice::from_ref(selector))?;
        return output::json(&spec::export(&context.root, found.select(selector)?)?);
    }
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
    if lines.is_empty()
        && let Some(blindness) = context.root.blindness()?
    {
        output::note(&blindness);
    }
    print(context, lines, &names)?;
    all_of(errors)
}

fn print(context: &Context, lines: Vec<Line>, names: &Names) -> Result<()> {
    if context.json {
        return output::json(&lines);
    }
    let notes: Vec<String> = lines
        .iter()
        .flat_map(|line| {
            let before = before::lines(&line.device, line.place, &line.programs_before);
            before.into_iter().chain(again::line(&line.device, &line.attach_again))
        })
        .collect();
    let rows: Vec<[String; 10]> = lines
        .into_iter()
        .map(|line| {
            let state = match (line.stale, line.moved) {
                (true, _) => " (stale)",
                (false, true) => " (moved to another namespace, still filters)",
                (false, false) => "",
            };
            [
                format!("{}{state}", line.device),
                line.role.map_or("?".to_owned(), |role| role.to_string()),
                line.endpoint_id.to_string(),
                names.label(line.identity),
                line.hook.to_string(),
                policy(&line),
                line.packets.to_string(),
                line.drops.to_string(),
                options(&line),
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
            "OPTIONS",
            "ADDRESSES",
        ],
        &rows,
    )?;
    notes.iter().for_each(|note| output::note(note));
    Ok(())
}

fn policy(line: &Line) -> String {
    let modes = format!("{}/{}", line.ingress_policy, line.egress_policy);
    match describe(line.confirmation) {
        Some(words) => format!("{modes} ({words})"),
        None => modes,
    }
}

/// What differs from the default, and what a workload may send from.
fn options(line: &Line) -> String {
    let is_checked = line.role == Some(Role::Container) && !line.ips.is_empty();
    let mac = match &line.workload_mac {
        Some(mac) => Some(format!("workload-mac={mac}")),
        None => is_checked.then(|| "workload-mac=any".to_owned()),
    };
    let words: Vec<String> = mac.into_iter().chain(line.options.all_words()).collect();
    if words.is_empty() { "-".to_owned() } else { words.join(",") }
}

fn line(endpoint: &Endpoint, names: &Names) -> Result<Line> {
    let (forwarded, dropped) = endpoint.counters()?;
    let identity = Identity(endpoint.config.identity);
    let [ingress_policy, egress_policy] = endpoint.modes_in_force()?;
    let confirmation = endpoint.confirmation()?;
    Ok(Line {
        device: endpoint.device.clone(),
        ifindex: endpoint.ifindex,
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
            Confirmation::Pending(_, left) => Some(time::seconds(left)),
            Confirmation::Over(_) => Some(0),
        },
        confirmation,
        stale: endpoint.stale,
        moved: endpoint.has_moved(),
        packets: forwarded.packets + dropped.packets,
        drops: dropped.packets,
        workload_mac: endpoint.config.workload_mac().map(|mac| Mac(mac).to_string()),
        options: Options::of(&endpoint.config),
        place: (endpoint.kind, endpoint.config.tc_priority),
        programs_before: endpoint.programs_before()?,
        attach_again: again::reasons(endpoint)?,
    })
}
