//! What values may be, from what is there at this moment. What can't be read is not offered.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::kinds::{Kind, kind};
use super::line::Line;
use super::rules;
use crate::cli::command;
use crate::cli::context::Descriptors;
use crate::cli::event::FLAGS;
use crate::cli::guide::complete::{self, Ask, Asked, Offer, Paths, Value};
use crate::kernel::{device, log as kernel_log, netns};
use crate::model::endpoint::Role;
use crate::model::identity::{Identity, Names};
use crate::model::prefix::format_prefix;
use crate::model::protocol;
use crate::ops::{identities, targets};
use crate::state::pin::Root;
use crate::state::registry::Endpoint;
use crate::state::spec;

impl Line {
    /// What answers for it.
    pub fn asks(self) -> Arc<Ask> {
        Arc::new(move |asked: &Asked<'_>| match kind(asked.path, asked.id, asked.value) {
            Some(kind) => self.offer(kind, asked),
            None => Offer::default(),
        })
    }

    fn offer(&self, kind: Kind, asked: &Asked<'_>) -> Offer {
        let words = |words: &[&str]| words.iter().map(|word| Value::plain(*word)).collect();
        let values = match kind {
            Kind::Devices => self.devices(),
            Kind::Endpoints => self.endpoints(&self.all()),
            Kind::Targets => self.targets(),
            Kind::Workloads => self.identities(&self.all(), Identity::FIRST_OF_WORKLOADS),
            Kind::Identities => self.identities(&self.all(), Identity::UNKNOWN),
            Kind::Named => named(&self.names()),
            Kind::Owners => self.owners(),
            Kind::Namespaces => netns::names().into_iter().map(Value::plain).collect(),
            Kind::Addresses => self.addresses(),
            Kind::Rules => rules::values(self, asked.path, asked.current),
            Kind::Commands => complete::commands(&command(), &self.words),
            Kind::Words(of) => words(of),
            Kind::Protocols => words(&protocol::names()),
            Kind::Flags => words(&FLAGS),
            Kind::Files | Kind::Directories | Kind::Free => Vec::new(),
        };
        let paths = match kind {
            Kind::Directories => Paths::Directories,
            Kind::Files => Paths::Files,
            _ if asked.value.contains("PATH") || asked.value.contains("FILE") => Paths::Files,
            _ => Paths::None,
        };
        Offer { values, paths }
    }

    /// Goes where the line wants to go; `None` if it can't.
    fn enter(&self) -> Option<Option<u64>> {
        kernel_log::forward_libbpf();
        let Some(name) = &self.namespace else { return Some(None) };
        netns::enter(name).and_then(|()| netns::current()).ok().map(Some)
    }

    /// The root, and the namespace that is meant.
    pub fn place(&self) -> Option<(&Root, Option<u64>)> {
        Some((&self.root, self.enter()?))
    }

    /// The names of identities.
    pub fn names(&self) -> Names {
        kernel_log::forward_libbpf();
        identities::names(&self.root).unwrap_or_default()
    }

    fn all(&self) -> Vec<Endpoint> {
        // Each has some open.
        Descriptors::raise();
        let found = self.enter().map(|netns| targets::all(&self.root, netns));
        found.and_then(Result::ok).map(|found| found.endpoints).unwrap_or_default()
    }

    fn devices(&self) -> Vec<Value> {
        let names = self.enter().and_then(|_| device::names().ok());
        names.unwrap_or_default().into_iter().map(Value::plain).collect()
    }

    fn endpoints(&self, all: &[Endpoint]) -> Vec<Value> {
        let names = self.names();
        let device = |it: &Endpoint| {
            let stale = if it.stale { ", stale" } else { "" };
            let identity = names.label(Identity(it.config.identity));
            Value::with(&it.device, format!("endpoint {}, {identity}{stale}", it.id))
        };
        let number = |it: &Endpoint| Value::with(format!("id:{}", it.id), &it.device);
        all.iter().map(device).chain(all.iter().map(number)).collect()
    }

    fn targets(&self) -> Vec<Value> {
        let all = self.all();
        let mut values = self.endpoints(&all);
        if all.iter().any(|it| it.role() == Some(Role::Netdev)) {
            values.push(Value::with("host", "all NICs"));
        }
        let at = |value: Value| Value { text: format!("@{}", value.text), ..value };
        values.extend(self.identities(&all, Identity::FIRST_OF_WORKLOADS).into_iter().map(at));
        values
    }

    /// Names, and the numbers that endpoints carry; none below the least.
    fn identities(&self, all: &[Endpoint], least: Identity) -> Vec<Value> {
        let names = self.names();
        let reserved = Identity::reserved().filter(|(identity, _)| *identity >= least);
        let mut values: Vec<Value> = named(&names);
        values.extend(reserved.map(|(identity, name)| Value::with(name, identity.to_string())));
        let mut seen = BTreeSet::new();
        for it in all {
            let identity = Identity(it.config.identity);
            if identity >= least && seen.insert(identity) {
                let about = names.name(identity).unwrap_or(&it.device);
                values.push(Value::with(identity.to_string(), about));
            }
        }
        values
    }

    /// Who may be the peer of a rule.
    pub fn peers(&self) -> Vec<Value> {
        let mut values = vec![Value::with("any", "everybody")];
        values.extend(self.identities(&self.all(), Identity::HOST));
        values
    }

    fn owners(&self) -> Vec<Value> {
        let owner = |it: &Endpoint| {
            let owner = spec::owner(&self.root, it).ok()??;
            Some(Value::with(owner.get(), &it.device))
        };
        self.all().iter().filter_map(owner).collect()
    }

    fn addresses(&self) -> Vec<Value> {
        let of = |it: &Endpoint| -> Vec<Value> {
            let value = |net| Value::with(format_prefix(&net), &it.device);
            it.addresses().into_iter().map(value).collect()
        };
        self.all().iter().flat_map(of).collect()
    }
}

fn named(names: &Names) -> Vec<Value> {
    names.declared().map(|(identity, name)| Value::with(name, identity.to_string())).collect()
}
