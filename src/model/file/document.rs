//! From texts to what stands in them.

use std::collections::{BTreeMap, HashMap};
use std::rc::Rc;

use anyhow::{Error, Result, bail, ensure};
use serde::Deserialize;
use serde::de::IgnoredAny;
use toml::Spanned;

use super::{Located, Pattern, Place};
use crate::model::endpoint::Role;
use crate::model::enforcement::Modes;
use crate::model::spec::{EndpointSpec, IdentityRef};

/// The version of the format.
const VERSION: u32 = 1;

/// One file.
pub struct Source {
    /// What messages call it.
    pub name: String,
    /// What stands in it.
    pub text: String,
}

/// Some files, which add up.
#[derive(Debug, Default)]
pub struct Documents {
    /// Names of identities.
    pub identities: BTreeMap<String, Located<u32>>,
    /// Files with lines of the ipcache, and which file names them.
    pub ipcache_files: Vec<Located<String>>,
    /// Identities of prefixes, as they are written.
    pub ipcache: BTreeMap<String, Located<IdentityRef>>,
    /// Rules of identities, as they are written.
    pub rules: BTreeMap<String, Located<Vec<Located<String>>>>,
    /// What is said of all births.
    pub births: Option<Located<Births>>,
    /// Endpoints, and where each of their rules stands.
    pub endpoints: Vec<(Located<EndpointSpec>, Vec<Place>)>,
}

/// What counts for a workload that a runtime starts, where nothing else says it.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Births {
    /// The identity; `None`: it is left alone.
    #[serde(default)]
    pub default: Option<IdentityRef>,
    /// What its rules do.
    #[serde(default)]
    pub policy: Option<Modes>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Toml {
    version: Spanned<u32>,
    #[serde(default)]
    ipcache_files: Vec<Spanned<String>>,
    #[serde(default)]
    identities: HashMap<Spanned<String>, u32>,
    #[serde(default)]
    ipcache: HashMap<Spanned<String>, IdentityRef>,
    #[serde(default)]
    rules: HashMap<Spanned<String>, Vec<Spanned<String>>>,
    births: Option<Spanned<Births>>,
    #[serde(default)]
    endpoint: Vec<Spanned<EndpointSpec>>,
}

/// The same text once more: where the parts of endpoints stand.
#[derive(Deserialize)]
struct Spans {
    #[serde(default)]
    endpoint: Vec<SpansOfEndpoint>,
}

#[derive(Deserialize)]
struct SpansOfEndpoint {
    device: Spanned<IgnoredAny>,
    #[serde(default)]
    rules: Vec<Spanned<IgnoredAny>>,
}

impl Documents {
    /// Reads files that add up.
    pub fn parse(sources: &[Source]) -> Result<Documents> {
        let mut documents = Documents::default();
        for source in sources {
            documents.add(source)?;
        }
        Ok(documents)
    }

    /// The devices that a file names which can't be read, and whether it says that they are NICs: what looks like the
    /// endpoints' lines.
    pub fn devices_of_ruin(text: &str) -> Vec<(String, bool)> {
        let value = |line: &str, key: &str| {
            let value = line.trim_start().strip_prefix(key)?.trim_start().strip_prefix('=')?;
            let (quote, value) = value.trim_start().split_at_checked(1)?;
            let (text, _) = value.split_once(quote)?;
            (["\"", "'"].contains(&quote) && !text.is_empty()).then(|| text.to_owned())
        };
        let mut devices: Vec<(String, bool)> = Vec::new();
        // Of the endpoint whose lines these are: what it says of its role may stand before its name.
        let (mut is_nic, mut first) = (false, 0);
        for line in text.lines() {
            if line.trim_start().starts_with('[') {
                (is_nic, first) = (false, devices.len());
            }
            is_nic |= value(line, "role").is_some_and(|role| role == Role::Netdev.name());
            devices.extend(value(line, "device").map(|device| (device, false)));
            devices[first..].iter_mut().for_each(|(_, is)| *is |= is_nic);
        }
        devices
    }

    fn add(&mut self, Source { name, text }: &Source) -> Result<()> {
        let file: Rc<str> = name.as_str().into();
        let at = |offset: usize| Place::of(&file, text, offset);
        let wrong = |error: toml::de::Error| -> Error {
            let place = at(error.span().map_or(0, |span| span.start));
            Error::msg(format!("{place}: {}", error.message().trim_end()))
        };
        let toml: Toml = toml::from_str(text).map_err(wrong)?;
        let spans: Spans = toml::from_str(text).map_err(wrong)?;
        ensure!(
            *toml.version.get_ref() == VERSION,
            "{}: version {} is not known; this cilmark reads version {VERSION}",
            at(toml.version.span().start),
            toml.version.get_ref()
        );
        let located = |text: Spanned<String>| {
            let place = at(text.span().start);
            Located { value: text.into_inner(), place }
        };
        self.ipcache_files.extend(toml.ipcache_files.into_iter().map(located));
        for (name, number) in toml.identities {
            enter(&mut self.identities, "identity", located(name), number)?;
        }
        for (prefix, identity) in toml.ipcache {
            enter(&mut self.ipcache, "prefix", located(prefix), identity)?;
        }
        for (identity, rules) in toml.rules {
            let rules = rules.into_iter().map(located).collect();
            enter(&mut self.rules, "rules of", located(identity), rules)?;
        }
        if let Some(births) = toml.births {
            let place = at(births.span().start);
            if let Some(known) = &self.births {
                bail!("{place}: [births] stands at {}, too", known.place);
            }
            self.births = Some(Located { value: births.into_inner(), place });
        }
        for (spec, spans) in toml.endpoint.into_iter().zip(spans.endpoint) {
            let place = at(spans.device.span().start);
            let rules = spans.rules.iter().map(|rule| at(rule.span().start)).collect();
            self.add_endpoint(Located { value: spec.into_inner(), place }, rules)?;
        }
        Ok(())
    }

    fn add_endpoint(&mut self, new: Located<EndpointSpec>, rules: Vec<Place>) -> Result<()> {
        let Located { value: spec, place } = &new;
        let device = &spec.device;
        ensure!(!device.is_empty(), "{place}: the device has no name");
        ensure!(
            spec.birth.is_none(),
            "{place}: `birth` is what a runtime's hook writes, and stands in no file"
        );
        ensure!(
            spec.endpoint_id.is_none() || !Pattern(device).is_wild(),
            "{place}: `{device}` stands for several devices, which can't all have one endpoint_id"
        );
        let known = self.endpoints.iter().find(|(known, _)| known.value.device == *device);
        if let Some((known, _)) = known {
            bail!("{place}: the endpoint of `{device}` stands at {}, too", known.place);
        }
        self.endpoints.push((new, rules));
        Ok(())
    }
}

fn enter<T>(
    all: &mut BTreeMap<String, Located<T>>,
    what: &str,
    key: Located<String>,
    value: T,
) -> Result<()> {
    let Located { value: key, place } = key;
    if let Some(known) = all.get(&key) {
        bail!("{place}: {what} `{key}` stands at {}, too", known.place);
    }
    all.insert(key, Located { value, place });
    Ok(())
}
