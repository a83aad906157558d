//! What a host gets whose file can't be read, and that has never had one that could.

use anyhow::Result;
use log::warn;

use super::plan::is_called;
use crate::kernel::{device, netns};
use crate::model::endpoint::Role;
use crate::model::enforcement::{Mode, Modes};
use crate::model::origin::Origin;
use crate::model::spec::EndpointSpec;
use crate::ops::attach::{Consent, Machine, Terms, attach};
use crate::ops::failures::all_of;
use crate::state::pin::Root;
use crate::state::registry::Found;

/// Lets the NICs among these, which may be patterns, and of which the file may say that they are NICs, enforce without a rule; if one is given, that alone. What is attached
/// stays as it is. Which it has closed.
pub fn close_nics(
    root: &Root,
    devices: &[(String, bool)],
    only: Option<&str>,
) -> Result<Vec<String>> {
    let mut found = Found::all(root)?;
    all_of(std::mem::take(&mut found.errors))?;
    found.narrow(netns::current()?);
    let mut closed = Vec::new();
    for name in device::names()? {
        let Some(device) = device::find(&name)? else { continue };
        let named = devices.iter().filter(|(text, _)| is_called(&device, text));
        let is_meant =
            named.clone().next().is_some() && only.is_none_or(|only| is_called(&device, only));
        // A veth that gets its default route later looks like a workload's.
        let role = named.clone().any(|(_, is_nic)| *is_nic).then_some(Role::Netdev);
        let is_attached = found.endpoints.iter().any(|it| !it.stale && it.device == name);
        let policy = Modes { ingress: Mode::Enforce, egress: Mode::Enforce };
        let spec = EndpointSpec { policy, role, ..EndpointSpec::new(&name) };
        let is_nic = || Machine::of(&spec).is_ok_and(|machine| machine.role == Role::Netdev);
        if !is_meant || is_attached || !is_nic() {
            continue;
        }
        let terms =
            Terms { consent: Consent::Everything, origin: Origin::File, ..Terms::default() };
        match attach(root, &spec, &terms) {
            Ok(_) => closed.push(name),
            Err(error) => warn!("{name}: {error:#}"),
        }
    }
    Ok(closed)
}
