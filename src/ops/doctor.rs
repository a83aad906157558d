//! What on this host keeps cilmark from doing what people think it does: a finding for each condition. Nothing is
//! changed.

mod commands;
mod devices;
mod endpoints;
mod first;
mod hooks;
mod kernel;
mod maps;
mod marks;

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::time::Duration;

use anyhow::{Error, Result};

use super::marks::Others;
use super::{identities, targets};
use crate::kernel::tool::Tools;
use crate::kernel::{netns, rights};
use crate::model::finding::{Finding, Findings, Level};
use crate::model::identity::Names;
use crate::state::pin::{Lock, Root};
use crate::state::registry::Endpoint;

/// Servers that let operators in.
const SSH_SERVERS: [&str; 2] = ["sshd", "dropbear"];

/// How long a command may be at work before it counts as what is.
const PATIENCE: Duration = Duration::from_secs(5);

/// What is examined.
struct Host<'a> {
    root: &'a Root,
    /// What is attached, as far as it can be read; with `--netns`, what is there.
    endpoints: Vec<Endpoint>,
    /// All of it could be read: that there is nothing bad can be said only then.
    is_whole: bool,
    names: Names,
    /// The network namespaces, by their inodes: the current one, and those of the endpoints.
    namespaces: Vec<u64>,
    /// Held while no other command may change anything.
    lock: Option<Lock>,
    /// Other programs, which have one time for all that is asked.
    tools: Tools,
    /// What these have said of each namespace.
    others: RefCell<HashMap<u64, Rc<Others>>>,
}

/// One of the parts: its name, what examines it, and whether a command that is at work makes it look bad.
type Part = (&'static str, fn(&Host<'_>) -> Result<Vec<Finding>>, bool);

const PARTS: [Part; 7] = [
    ("kernel", kernel::examine, true),
    ("endpoints", endpoints::examine, true),
    ("hooks", hooks::examine, true),
    ("devices", devices::examine, true),
    ("maps", maps::examine, true),
    ("marks", marks::examine, false),
    ("first enforcement", first::examine, false),
];

/// Examines this host; with `--netns`, only endpoints of that namespace. What can't be read is a finding, too.
pub fn examine(root: &Root, netns: Option<u64>) -> Vec<Finding> {
    let (host, mut unread) = Host::read(root, netns, None);
    let mut parts = PARTS.map(|part| host.part(part));
    let is_suspect = |findings: &[Finding]| findings.iter().any(|it| it.level != Level::Ok);
    let is_half = |((name, _, suffers), findings): (&Part, &Vec<Finding>)| {
        let is_unread = findings.iter().any(|it| it.check == *name && it.level == Level::Problem);
        is_unread || *suffers && is_suspect(findings)
    };
    // What a command has done by half is no trouble. Who may not wait for it has only the first look.
    if (is_suspect(&unread) || PARTS.iter().zip(&parts).any(is_half))
        && let Ok(lock) = root.with_patience(PATIENCE).lock()
    {
        let (host, unread_now) = Host::read(root, netns, lock);
        let again = is_suspect(&unread);
        unread = unread_now;
        for (part, findings) in PARTS.into_iter().zip(&mut parts) {
            if again || is_half((&part, findings)) {
                *findings = host.part(part);
            }
        }
    }
    unread.into_iter().chain(parts.into_iter().flatten()).collect()
}

fn unread(part: &'static str, error: Error) -> Vec<Finding> {
    let mut findings = Findings::of_this_host();
    let cure = match rights::missing() {
        Ok(missing) if missing.is_empty() => "`cilmark -v doctor` shows more",
        _ => "run it as root",
    };
    findings.problem(part, format!("can't be examined: {error:#}"), cure);
    findings.all
}

impl<'a> Host<'a> {
    /// With what could not be read.
    fn read(root: &'a Root, netns: Option<u64>, lock: Option<Lock>) -> (Host<'a>, Vec<Finding>) {
        let mut errors = Vec::new();
        let mut endpoints = Vec::new();
        match targets::all(root, netns) {
            Ok(found) => {
                endpoints = found.endpoints;
                errors.extend(found.errors);
            }
            Err(error) => errors.push(error),
        }
        let names = identities::names(root).unwrap_or_else(|error| {
            errors.push(error);
            Names::default()
        });
        let of_endpoints = endpoints.iter().map(|endpoint| endpoint.netns).filter(|it| *it != 0);
        let mut namespaces: Vec<u64> = netns::current().into_iter().collect();
        for netns in of_endpoints {
            if !namespaces.contains(&netns) {
                namespaces.push(netns);
            }
        }
        let has_rights = rights::missing().is_ok_and(|missing| missing.is_empty());
        let is_whole = errors.is_empty() && has_rights;
        let unread = errors.into_iter().flat_map(|error| unread("endpoints", error)).collect();
        let (tools, others) = Default::default();
        (Host { root, endpoints, is_whole, names, namespaces, lock, tools, others }, unread)
    }

    fn part(&self, (name, examine, _): Part) -> Vec<Finding> {
        examine(self).unwrap_or_else(|error| unread(name, error))
    }

    /// The rules of others in a namespace, read once; `None` if it is gone.
    fn others(&self, namespace: u64) -> Result<Option<Rc<Others>>> {
        if let Some(known) = self.others.borrow().get(&namespace) {
            return Ok(Some(Rc::clone(known)));
        }
        let read = netns::within(namespace, || Ok(Rc::new(Others::read(&self.tools))))?;
        if let Some(read) = &read {
            self.others.borrow_mut().insert(namespace, Rc::clone(read));
        }
        Ok(read)
    }

    /// The root's lock, unless it is held for the whole examination.
    fn lock(&self) -> Result<Option<Lock>> {
        if self.lock.is_some() { Ok(None) } else { self.root.with_patience(PATIENCE).lock() }
    }
}
