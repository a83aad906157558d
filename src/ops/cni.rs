//! What the plugin of the Container Network Interface does for each of its commands.

mod status;

use std::path::{Path, PathBuf};

use anyhow::Error as AnyError;
use log::warn;
use serde_json::Value;

use super::birth::{self, Birth, End, Network, PATIENCE};
use super::workload::{self, Namespace};
use crate::model::birth::Hook;
use crate::model::cni::{
    self, Attachment, Call, Code, Configuration, Error, Valid, Version, Where,
};
use crate::model::file::DEFAULT_FILE;
use crate::model::owner::Owner;
use crate::model::wish::Said;
use crate::state::pin::{Busy, Root};

/// Who calls, as `status` shows it: a plugin is not told its runtime.
const RUNTIME: &str = "cni";

/// Does what is asked; what goes to stdout, if anything does. The configuration may name another root than this.
pub fn serve(root: &Root, call: &Call, config: &[u8]) -> Result<Option<Value>, Error> {
    match call {
        Call::Add(at) => add(root, at, config).map(Some),
        Call::Del(at) => del(root, at, config).map(|()| None),
        Call::Check(at) => check(root, at, config).map(|()| None),
        Call::Status => status::check(root, config).map(|()| None),
        Call::Gc => gc(root, config).map(|()| None),
        Call::Version => Ok(Some(cni::versions(config))),
    }
}

fn add(root: &Root, at: &Where, config: &[u8]) -> Result<Value, Error> {
    let config = Configuration::parse(config)?;
    let network = network(at, &config)?;
    let attached =
        birth::attach(&root_of(root, config.bpffs.as_ref()), &birth_at(at, &config), network);
    attached.map_err(|error| failure(Code::Attach, at.attachment.to_string(), error))?;
    Ok(config.previous.map(|previous| previous.json()).unwrap_or_default())
}

fn check(root: &Root, at: &Where, config: &[u8]) -> Result<(), Error> {
    let config = Configuration::parse(config)?;
    config.version.check_has("CHECK", Version::V0_4_0)?;
    let network = network(at, &config)?;
    let checked =
        birth::check(&root_of(root, config.bpffs.as_ref()), &birth_at(at, &config), network);
    checked.map_err(|error| failure(Code::Check, at.attachment.to_string(), error))
}

/// A mistake in the configuration must not keep the plugin from cleaning up, and is told only then.
fn del(root: &Root, at: &Attachment, config: &[u8]) -> Result<(), Error> {
    let end = End { owner: &at.container, hook: Hook::Cni, ifname: Some(&at.ifname), bundle: None };
    let ended = clean_up(root, config, |root| birth::end(root, &end));
    ended.map_err(|error| failure(Code::Detach, at.to_string(), error))?;
    cni::check_readable(config)?;
    if let Err(Error { msg, details, .. }) = Configuration::parse(config) {
        warn!("{msg}: {details}");
    }
    Ok(())
}

fn gc(root: &Root, config: &[u8]) -> Result<(), Error> {
    let Valid { network, attachments } = Valid::of(config)?;
    let kept = clean_up(root, config, |root| birth::keep_only(root, &network, &attachments));
    kept.map_err(|error| failure(Code::Detach, format!("network {network}"), error))
}

/// Cleans up where the configuration says that the pins lie; after a reboot there may be no BPF file system any more.
fn clean_up(
    root: &Root,
    config: &[u8],
    clean: impl FnOnce(&Root) -> Result<(), AnyError>,
) -> Result<(), AnyError> {
    let root = root_of(root, cni::bpffs(config).as_ref());
    match root.blindness()? {
        None => clean(&root),
        Some(why) => {
            warn!("{why}");
            Ok(())
        }
    }
}

/// The root that a configuration names, or else this; a runtime does not wait for long.
fn root_of(root: &Root, named: Option<&PathBuf>) -> Root {
    let root = named.map_or_else(|| root.clone(), |path| Root::new(path.clone()));
    root.with_patience(PATIENCE)
}

/// The device that the plugin before has made.
fn network(at: &Where, config: &Configuration) -> Result<Network, Error> {
    let Configuration { network, previous, version, .. } = config;
    let ifname = &at.attachment.ifname;
    let wrong = |details: String| {
        Error::new(Code::InvalidConfiguration, format!("network {network}"), details)
    };
    let Some(previous) = previous else {
        return Err(wrong(format!(
            "it has no `prevResult`, so that no plugin has made a device before this: cilmark-cni stands in a list behind the \
             one that does, such as {{\"cniVersion\": \"{version}\", \"name\": \"{network}\", \"plugins\": [{{\"type\": \
             \"bridge\", …}}, {{\"type\": \"cilmark-cni\"}}]}}"
        )));
    };
    let namespace = Namespace::At(at.netns.clone());
    let details = match namespace.is_here() {
        Ok(false) => None,
        Ok(true) => {
            Some("it is the network namespace of the plugin: a container has its own".to_owned())
        }
        Err(error) => Some(format!("{error:#}; the runtime makes it before it calls a plugin")),
    };
    if let Some(details) = details {
        return Err(Error::new(
            Code::InvalidEnvironment,
            format!("CNI_NETNS {}", at.netns),
            details,
        ));
    }
    let addresses =
        previous.addresses_of(ifname).map_err(|error| wrong(format!("`prevResult`: {error:#}")))?;
    let found = workload::find(&namespace, ifname);
    Ok(Network::one(found.map(|workload| workload.expecting(addresses))))
}

fn birth_at<'a>(at: &Where, config: &'a Configuration) -> Birth<'a> {
    birth_of(at.attachment.container.clone(), config, said(at, config))
}

fn birth_of(owner: Owner, config: &Configuration, said: Vec<Said>) -> Birth<'_> {
    Birth {
        hook: Hook::Cni,
        runtime: RUNTIME.to_owned(),
        owner,
        network: Some(config.network.clone()),
        bundle: None,
        said,
        options: config.options.clone(),
        file: config.file.as_deref().unwrap_or(Path::new(DEFAULT_FILE)),
    }
}

/// The workload's own words, and the configuration's. The first speaks for the workload, and so a word that says nothing
/// stands there only if none of them does.
fn said(at: &Where, config: &Configuration) -> Vec<Said> {
    let words = [vec![at.said.clone()], config.words.clone()].concat();
    let mut said: Vec<Said> = words.into_iter().filter(|word| !word.wish.is_empty()).collect();
    if said.is_empty() {
        said.push(at.said.clone());
    }
    said.push(config.said.clone());
    said
}

fn failure(code: Code, about: String, error: AnyError) -> Error {
    let code = if error.downcast_ref::<Busy>().is_some() { Code::TryAgainLater } else { code };
    Error::new(code, about, format_args!("{error:#}"))
}
