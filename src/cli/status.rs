//! `cilmark status`.

mod line;

use anyhow::Result;
use line::{Line, line, options, policy};

use super::{Context, all_of, before};
use crate::model::endpoint::Selector;
use crate::model::identity::Names;
use crate::ops::again;
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
    let mut add = |endpoint: &Endpoint| match line(&context.root, endpoint, &names) {
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
