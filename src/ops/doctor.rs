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

use anyhow::{Error, Result};

use super::{identities, targets};
use crate::kernel::{netns, rights};
use crate::model::finding::{Finding, Findings};
use crate::model::identity::Names;
use crate::state::pin::Root;
use crate::state::registry::Endpoint;

/// Servers that let operators in.
const SSH_SERVERS: [&str; 2] = ["sshd", "dropbear"];

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
}

/// One of the parts: its name, and what examines it.
type Part = (&'static str, fn(&Host<'_>) -> Result<Vec<Finding>>);

const PARTS: [Part; 7] = [
    ("kernel", kernel::examine),
    ("endpoints", endpoints::examine),
    ("hooks", hooks::examine),
    ("devices", devices::examine),
    ("maps", maps::examine),
    ("marks", marks::examine),
    ("first enforcement", first::examine),
];

/// Examines this host; with `--netns`, only endpoints of that namespace. What can't be read is a finding, too.
pub fn examine(root: &Root, netns: Option<u64>) -> Vec<Finding> {
    let mut errors = Vec::new();
    let host = Host::read(root, netns, &mut errors);
    let mut findings: Vec<Finding> =
        errors.into_iter().flat_map(|error| unread("endpoints", error)).collect();
    for (name, examine) in PARTS {
        findings.extend(examine(&host).unwrap_or_else(|error| unread(name, error)));
    }
    findings
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
    fn read(root: &'a Root, netns: Option<u64>, errors: &mut Vec<Error>) -> Host<'a> {
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
        Host { root, endpoints, is_whole, names, namespaces }
    }
}
