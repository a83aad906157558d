//! `cilmark detach`.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Result, ensure};

use super::{Context, all_of};
use crate::model::endpoint::Selector;
use crate::ops;
use crate::ops::detach;
use crate::output;
use crate::state::conntrack::Conntrack;
use crate::state::layout;
use crate::state::registry::shared;

#[derive(clap::Args)]
pub struct Args {
    /// Names of attached devices, or id:N
    #[arg(value_name = "DEV", required_unless_present = "all")]
    devices: Vec<Selector>,
    /// Everything; with --netns, everything there
    #[arg(long, conflicts_with = "devices")]
    all: bool,
}

pub fn run(context: &Context, args: Args) -> Result<()> {
    let root = &context.root;
    ops::check_room()?;
    let Some(_lock) = root.lock()? else {
        ensure!(args.all, "nothing is attached: {} is not there", root.path().display());
        output::note(root.blindness()?.as_deref().unwrap_or("nothing is attached"));
        return Ok(());
    };
    // To detach everything is a cure.
    let known = layout::check(root).and_then(|()| shared::restore(root));
    if !args.all {
        known?;
    }
    let mut found = if args.all { context.endpoints() } else { context.named(&args.devices) }?;
    let mut errors = std::mem::take(&mut found.errors);
    let mut chosen = BTreeMap::new();
    if args.all {
        chosen.extend(found.endpoints.iter().map(|endpoint| (endpoint.id, endpoint)));
    }
    for selector in &args.devices {
        match found.select(selector) {
            Ok(endpoint) => _ = chosen.insert(endpoint.id, endpoint),
            Err(error) => errors.push(error),
        }
    }
    if !args.all {
        detach::check_others(root, &chosen)?;
    }
    let mut scopes = BTreeSet::new();
    for endpoint in chosen.into_values() {
        match detach::detach(root, endpoint) {
            Ok(()) => {
                output::note(&format!("detached {}", endpoint.device));
                scopes.extend(detach::own_scope(endpoint));
            }
            Err(error) => errors.push(error.context(format!("detach {}", endpoint.device))),
        }
    }
    if let Err(error) = detach::remove_unused_root(root) {
        errors.push(error);
    }
    if let Err(error) = Conntrack::forget(root, &scopes) {
        errors.push(error.context("forget the flows of what is detached"));
    }
    all_of(errors)
}
