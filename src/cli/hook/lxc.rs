//! `cilmark hook lxc`.

use std::env;
use std::path::Path;

use anyhow::{Context as _, Result};
use log::warn;

use super::is_of_a_user;
use crate::cli::Context;
use crate::model::birth::Hook;
use crate::model::lxc::Event;
use crate::model::owner::Owner;
use crate::model::text;
use crate::model::wish::Said;
use crate::ops::birth::{self, Birth, PATIENCE, lxc};
use crate::state::pin::Root;

#[derive(clap::Args)]
pub struct Args {
    /// What LXC adds; with lxc.hook.version = 1 the environment says it
    #[arg(allow_hyphen_values = true, trailing_var_arg = true)]
    told: Vec<String>,
}

pub fn run(context: &Context, file: &Path, args: Args) -> Result<()> {
    let variable = |name: &str| Some(text::from_bytes(env::var_os(name)?.as_encoded_bytes()));
    let event = Event::read(variable, &args.told)?;
    let root = context.root.with_patience(PATIENCE);
    let done = if event.is_up { up(&root, file, &event) } else { down(&root, &event) };
    done.with_context(|| format!("container {}", event.name))
}

fn up(root: &Root, file: &Path, event: &Event) -> Result<()> {
    let owner: Owner = event.name.parse()?;
    attach(root, file, event, owner.clone()).inspect_err(|_| {
        let given_up = if is_of_a_user() { Ok(()) } else { lxc::give_up(root, event, &owner) };
        if let Err(error) = given_up {
            warn!("container {}: {error:#}", event.name);
        }
    })
}

fn attach(root: &Root, file: &Path, event: &Event, owner: Owner) -> Result<()> {
    let config = lxc::config(&event.config)?;
    if is_of_a_user() && config.wish.is_empty() {
        return Ok(());
    }
    let network = lxc::network(event, &config);
    let birth = Birth {
        hook: Hook::Lxc,
        runtime: "lxc".to_owned(),
        owner,
        network: None,
        bundle: None,
        said: vec![Said::by("lxc-config", config.wish)],
        options: None,
        file,
    };
    birth::attach(root, &birth, network)?;
    Ok(())
}

fn down(root: &Root, event: &Event) -> Result<()> {
    let Some(device) = event.device.as_ref().filter(|_| !is_of_a_user()) else { return Ok(()) };
    birth::end_device(root, &event.name.parse()?, Hook::Lxc, device)
}
