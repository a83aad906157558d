//! From what stands in files to what is asked for: names are looked up, rules and prefixes read.

use std::collections::{BTreeMap, HashMap};
use std::rc::Rc;

use anyhow::{Context, Result, bail, ensure};
use ipnet::IpNet;

use super::{Births, Documents, Located, Pattern, Place};
use crate::model::identity::{Identity, Names};
use crate::model::prefix::{format_prefix, parse_ipcache, parse_prefix};
use crate::model::rule::Rule;
use crate::model::spec::EndpointSpec;

/// Where prefixes stand.
pub type Places = HashMap<IpNet, Rc<str>>;

/// What files ask for.
#[derive(Debug, Default)]
pub struct Wanted {
    /// Names of identities.
    pub names: BTreeMap<Identity, String>,
    /// Identities of prefixes.
    pub lines: BTreeMap<IpNet, Identity>,
    /// Where each of these stands.
    pub line_places: Places,
    /// Rules of identities.
    pub rules: BTreeMap<Identity, Vec<Rule>>,
    /// What is said of all births.
    pub births: Births,
    /// Endpoints.
    pub endpoints: Vec<Endpoint>,
}

/// An endpoint, or with a pattern as its device several.
#[derive(Debug, Clone)]
pub struct Endpoint {
    /// Where it stands.
    pub place: Place,
    /// What it shall be. Rules are read.
    pub spec: EndpointSpec,
    /// Its rules; `None` says nothing of them.
    pub rules: Option<Vec<Rule>>,
}

impl Wanted {
    /// Reads everything. `names` are those that there are; `lines` is the text of each file with lines of the ipcache,
    /// and what messages call it.
    pub fn of(documents: &Documents, names: &Names, lines: &[(String, String)]) -> Result<Wanted> {
        let declared = declared(documents)?;
        let known = names.declared().filter(|(identity, name)| {
            !declared.contains_key(identity) && !documents.identities.contains_key(*name)
        });
        let known = known.map(|(identity, name)| (identity, name.to_owned()));
        let of_file = declared.iter().map(|(identity, name)| (*identity, name.clone()));
        let names = Names::new(known.chain(of_file));
        let (lines, line_places) = ipcache(documents, &names, lines)?;
        Ok(Wanted {
            lines,
            line_places,
            rules: rules(documents, &names)?,
            births: births(documents, &names)?,
            endpoints: endpoints(documents, &names)?,
            names: declared,
        })
    }

    /// What is asked of a device: by its name, else by the one pattern that it matches.
    pub fn of_device(&self, device: &str) -> Result<Option<&Endpoint>> {
        if let Some(named) = self.endpoints.iter().find(|it| it.spec.device == device) {
            return Ok(Some(named));
        }
        let is_meant = |it: &&Endpoint| {
            let pattern = Pattern(&it.spec.device);
            pattern.is_wild() && pattern.matches(device)
        };
        let mut patterns = self.endpoints.iter().filter(is_meant);
        let (first, second) = (patterns.next(), patterns.next());
        if let (Some(first), Some(second)) = (first, second) {
            bail!(
                "{}: `{}` stands for {device}, as `{}` at {} does; give {device} an endpoint of its own, by its name",
                second.place,
                second.spec.device,
                first.spec.device,
                first.place
            );
        }
        Ok(first)
    }
}

fn declared(documents: &Documents) -> Result<BTreeMap<Identity, String>> {
    let mut names: BTreeMap<Identity, String> = BTreeMap::new();
    for (name, Located { value, place }) in &documents.identities {
        let identity = Identity(*value);
        Names::default().check_declaration(identity, name).with_context(|| place.to_string())?;
        ensure!(
            identity != Identity::UNKNOWN,
            "{place}: identity 0 means unknown, and has no name"
        );
        if let Some(other) = names.insert(identity, name.clone()) {
            let there = &documents.identities[&other].place;
            bail!("{place}: identity {identity} is called `{other}` already, at {there}");
        }
    }
    Ok(names)
}

fn ipcache(
    documents: &Documents,
    names: &Names,
    files: &[(String, String)],
) -> Result<(BTreeMap<IpNet, Identity>, Places)> {
    let mut lines = BTreeMap::new();
    let mut places = Places::new();
    for (text, Located { value, place }) in &documents.ipcache {
        let line = parse_prefix(text).and_then(|prefix| Ok((prefix, value.resolve(names)?)));
        let (prefix, identity) = line.with_context(|| place.to_string())?;
        ensure!(identity != Identity::UNKNOWN, "{place}: identity 0 means unknown");
        if let Some(there) = places.insert(prefix, place.to_string().into()) {
            bail!("{place}: prefix {} stands at {there}, too", format_prefix(&prefix));
        }
        lines.insert(prefix, identity);
    }
    for (name, text) in files {
        let name: Rc<str> = name.as_str().into();
        for (prefix, identity) in parse_ipcache(text, names).with_context(|| name.to_string())? {
            if lines.insert(prefix, identity).is_some() {
                let there = places.get(&prefix).unwrap_or(&name);
                bail!(
                    "{name}: prefix {} stands there twice, or at {there}, too",
                    format_prefix(&prefix)
                );
            }
            places.insert(prefix, Rc::clone(&name));
        }
    }
    Ok((lines, places))
}

fn rules(documents: &Documents, names: &Names) -> Result<BTreeMap<Identity, Vec<Rule>>> {
    let (mut all, mut places) = (BTreeMap::new(), HashMap::new());
    for (text, Located { value, place }) in &documents.rules {
        let identity = names.parse(text).with_context(|| place.to_string())?;
        ensure!(
            identity != Identity::UNKNOWN,
            "{place}: identity 0 means unknown, and nobody has it"
        );
        if let Some(there) = places.insert(identity, place) {
            bail!("{place}: rules of identity {identity} stand at {there}, too");
        }
        let rules = value
            .iter()
            .map(|rule| Rule::parse(&rule.value, names).with_context(|| rule.place.to_string()));
        all.insert(identity, rules.collect::<Result<_>>()?);
    }
    Ok(all)
}

fn births(documents: &Documents, names: &Names) -> Result<Births> {
    let Some(Located { value: births, place }) = &documents.births else {
        return Ok(Births::default());
    };
    if let Some(id) = &births.default {
        let identity = id.resolve(names).with_context(|| format!("{place}: [births]"))?;
        names.check_workload(identity).with_context(|| format!("{place}: [births]"))?;
    }
    Ok(births.clone())
}

fn endpoints(documents: &Documents, names: &Names) -> Result<Vec<Endpoint>> {
    let read = |(located, places): &(Located<EndpointSpec>, Vec<Place>)| {
        let Located { value: spec, place } = located;
        if let Some(id) = &spec.id {
            id.resolve(names).with_context(|| format!("{place}: `{}`", spec.device))?;
        }
        let rules = spec.rules.as_ref().map(|rules| {
            let rules = rules.iter().zip(places);
            let rules = rules
                .map(|(text, place)| Rule::parse(text, names).with_context(|| place.to_string()));
            rules.collect::<Result<Vec<_>>>()
        });
        Ok(Endpoint { place: place.clone(), spec: spec.clone(), rules: rules.transpose()? })
    };
    documents.endpoints.iter().map(read).collect()
}
