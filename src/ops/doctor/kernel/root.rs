//! The root of cilmark: whether it can be used, and is what this version knows.

use anyhow::{Error, Result};
use libbpf_rs::MapCore as _;

use super::super::Host;
use crate::model::finding::Findings;
use crate::ops;
use crate::state::layout;
use crate::state::pin::has_own_mounts;
use crate::state::registry::shared::{self, Lost};

/// Adds what is found out.
pub fn examine(host: &Host<'_>, findings: &mut Findings) {
    let path = host.root.path().display();
    if host.root.check_bpffs().is_err() {
        let says = format!("{path} is not on a BPF file system, so that nothing can be attached");
        let way = host.root.way_to_bpffs();
        if has_own_mounts() {
            let says =
                format!("{says}: this process has mounts of its own, as under `ip netns exec`");
            findings.problem("bpffs", says, &format!("use --netns, which hides no pins, or {way}"));
        } else {
            findings.problem("bpffs", says, &way);
        }
    } else if let Err(error) = host.root.check_owner() {
        told(findings, "bpffs", &error);
    } else {
        findings.ok("bpffs", format!("{path} is on a BPF file system"));
        pins(host, findings);
    }
    match ops::check_room() {
        Ok(()) => {
            findings.ok("limits", "a change has the descriptors and the memory that it takes")
        }
        Err(error) => {
            let says = format!("{error:#}").replace(", nothing has changed", "");
            findings.problem("limits", says, "raise it, in a unit by LimitNOFILE= or LimitAS=");
        }
    }
}

/// Whether all that is pinned is what programs use, and known.
fn pins(host: &Host<'_>, findings: &mut Findings) {
    // Who may not look there is told so by another finding.
    let Ok(endpoints) = host.root.endpoints() else { return };
    let known = || -> Result<Lost> {
        layout::check(host.root)?;
        endpoints.iter().try_for_each(|id| layout::check_endpoint(host.root, *id))?;
        shared::lost(host.root)
    };
    let lost = match known() {
        Ok(lost) => lost,
        Err(error) => return told(findings, "pins", &error),
    };
    for (pin, map) in &lost {
        let id = map.info().map(|info| info.info.id).ok();
        let user = host.endpoints.iter().find(|it| id.is_some_and(|id| it.map_ids().contains(&id)));
        let attach = match user {
            Some(endpoint) => host.attach(endpoint, "--keep"),
            None => "cilmark attach DEV --keep".to_owned(),
        };
        findings.problem(
            "pins",
            format!("{} is gone, and commands do not see what programs use", pin.display()),
            &format!("`{attach}` pins it again"),
        );
    }
    // Nothing is lost, or it would be pinned again.
    if lost.is_empty() {
        match shared::check_all(host.root) {
            Ok(()) => {
                findings.ok("pins", "this version knows all that is pinned, and programs use it");
            }
            Err(error) => told(findings, "pins", &error),
        }
    }
}

/// An error of a change, which says what to do at its end.
fn told(findings: &mut Findings, check: &'static str, error: &Error) {
    let text = format!("{error:#}").replace("; nothing has changed: ", "; ");
    let (says, cure) = text.split_once("; ").unwrap_or((&text, "`cilmark -v doctor` shows more"));
    findings.problem(check, says, cure);
}
