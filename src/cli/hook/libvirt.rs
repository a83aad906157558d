//! `cilmark hook libvirt`. libvirt takes what some of its hooks write to stdout for the guest's new XML: this one writes
//! nothing there.

use std::io::{IsTerminal as _, Read as _, stdin};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use log::warn;

use super::{is_of_a_user, log};
use crate::cli::Context;
use crate::model::birth::Hook;
use crate::model::libvirt::Domain;
use crate::model::owner::Owner;
use crate::model::wish::Said;
use crate::ops::birth::{self, Birth, End, PATIENCE, libvirt};
use crate::state::pin::Root;

/// libvirt ends a guest whose hook fails when libvirt comes back: no lock is held for so long.
const PATIENCE_FOR_RUNNING: Duration = Duration::from_secs(60);

#[derive(clap::Args)]
pub struct Args {
    /// The name of the guest
    #[arg(allow_hyphen_values = true)]
    guest: String,
    /// What happens to it: `start` and `reconnect` attach, `stopped` and `release` detach, all else does nothing
    operation: String,
    /// `begin` or `end`
    #[arg(allow_hyphen_values = true)]
    suboperation: String,
    /// What else libvirt says; it is ignored, and so is an option that stands here
    #[arg(allow_hyphen_values = true)]
    extra: Vec<String>,
}

pub fn run(context: &Context, file: &Path, args: Args) -> Result<()> {
    let root = context.root.with_patience(PATIENCE);
    let xml = xml();
    let result = match (args.operation.as_str(), args.suboperation.as_str()) {
        ("start", "begin") => xml.and_then(|xml| start(&root, file, &args.guest, &xml)),
        ("reconnect", "begin") => {
            let root = root.with_patience(PATIENCE_FOR_RUNNING);
            xml.and_then(|xml| reconnect(&root, file, &args.guest, &xml))
        }
        ("stopped" | "release", "end") if !is_of_a_user() => end(&root, &args.guest),
        _ => Ok(()),
    };
    result.with_context(|| format!("guest {}", args.guest))
}

fn start(root: &Root, file: &Path, guest: &str, xml: &str) -> Result<()> {
    let domain = Domain::read(xml)?;
    if is_of_a_user() && domain.wish.is_empty() {
        return Ok(());
    }
    let network = libvirt::network(guest, &domain);
    birth::attach(root, &birth(file, guest, domain)?, network)?;
    Ok(())
}

/// The guest runs: what it has is left as it is, and if it has all that it needs nothing else counts.
fn reconnect(root: &Root, file: &Path, guest: &str, xml: &str) -> Result<()> {
    let attach = || {
        let domain = Domain::read(xml)?;
        if is_of_a_user() && domain.wish.is_empty() {
            return Ok(Vec::new());
        }
        let network = libvirt::network(guest, &domain);
        birth::attach_missing(root, &birth(file, guest, domain)?, network)
    };
    let Err(error) = attach() else { return Ok(()) };
    ensure!(libvirt::has_all(root, &guest.parse()?, xml).is_ok_and(|has_all| has_all), error);
    let text = format!("guest {guest} keeps what it has: {error:#}");
    warn!("{text}");
    log(&text);
    Ok(())
}

fn end(root: &Root, guest: &str) -> Result<()> {
    let owner: Owner = guest.parse()?;
    birth::end(root, &End { owner: &owner, hook: Hook::Libvirt, ifname: None, bundle: None })
}

fn birth<'a>(file: &'a Path, guest: &str, domain: Domain) -> Result<Birth<'a>> {
    Ok(Birth {
        hook: Hook::Libvirt,
        runtime: "libvirt".to_owned(),
        owner: guest.parse()?,
        network: None,
        bundle: None,
        said: vec![Said::by("metadata", domain.wish)],
        options: None,
        file,
    })
}

/// The domain's XML. It is read always, so that whoever writes it can.
fn xml() -> Result<String> {
    let mut xml = String::new();
    if !stdin().is_terminal() {
        stdin().read_to_string(&mut xml).context("read the domain's XML from stdin")?;
    }
    Ok(xml)
}
