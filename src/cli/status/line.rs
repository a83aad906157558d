//! What is shown of an endpoint.

use anyhow::Result;
use log::debug;
use serde::Serialize;

use crate::cli::{policy::describe, time};
use crate::kernel::hooks::HookKind;
use crate::kernel::order::Other;
use crate::model::birth::Birth;
use crate::model::endpoint::{EndpointId, Role};
use crate::model::enforcement::{Confirmation, Mode};
use crate::model::identity::{Identity, Names};
use crate::model::labels::Labels;
use crate::model::mac::Mac;
use crate::model::owner::Owner;
use crate::model::prefix::format_prefix;
use crate::model::spec::EndpointSpec;
use crate::ops::again;
use crate::ops::options::Options;
use crate::state::pin::Root;
use crate::state::registry::Endpoint;
use crate::state::spec;

#[derive(Serialize)]
pub struct Line {
    pub device: String,
    pub ifindex: u32,
    pub role: Option<Role>,
    /// As `attach --owner` has said it.
    pub owner: Option<Owner>,
    /// How it came about, if a runtime's hook has attached it.
    pub birth: Option<Birth>,
    pub labels: Labels,
    pub endpoint_id: EndpointId,
    pub identity: Identity,
    pub name: Option<String>,
    /// What a cluster says who that is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub identity_labels: Option<String>,
    pub ips: Vec<String>,
    pub hook: HookKind,
    pub ingress_policy: Mode,
    pub egress_policy: Mode,
    /// Seconds that are left; 0 when nobody confirmed in time.
    pub confirm_deadline: Option<u64>,
    #[serde(skip)]
    pub confirmation: Confirmation,
    pub stale: bool,
    /// To another network namespace; what is attached there goes on.
    pub moved: bool,
    pub packets: u64,
    pub drops: u64,
    /// The only MAC that a workload may send from, if there is but one.
    pub workload_mac: Option<String>,
    #[serde(flatten)]
    pub options: Options,
    #[serde(skip)]
    pub place: (HookKind, u32),
    /// Of others, on the same hooks.
    pub programs_before: Vec<Other>,
    /// Why it has to be attached again.
    pub attach_again: Vec<String>,
}

pub fn policy(line: &Line) -> String {
    let modes = format!("{}/{}", line.ingress_policy, line.egress_policy);
    match describe(line.confirmation) {
        Some(words) => format!("{modes} ({words})"),
        None => modes,
    }
}

/// Whose it is, what differs from the default, and what a workload may send from.
pub fn options(line: &Line) -> String {
    let is_checked = line.role == Some(Role::Container) && !line.ips.is_empty();
    let mac = match &line.workload_mac {
        Some(mac) => Some(format!("workload-mac={mac}")),
        None => is_checked.then(|| "workload-mac=any".to_owned()),
    };
    let owner = line.owner.as_ref().map(|owner| format!("owner={}", owner.short()));
    let labels = line.labels.0.iter().map(|(key, value)| format!("label:{key}={value}"));
    let words = owner.into_iter().chain(line.birth.iter().flat_map(born)).chain(labels);
    let words = words.chain(mac).chain(line.options.all_words());
    let words: Vec<String> = words.collect();
    if words.is_empty() { "-".to_owned() } else { words.join(",") }
}

/// Which runtime has attached it, and who has said what it is.
fn born(birth: &Birth) -> Vec<String> {
    let runtime = match &birth.network {
        Some(network) => format!("runtime={}:{network}", birth.runtime),
        None => format!("runtime={}", birth.runtime),
    };
    let rules = birth.rules_from.iter().map(|from| format!("rules-from={from}"));
    let sharers = birth.sharers.iter().map(|owner| format!("shared-with={}", owner.short()));
    [runtime, format!("id-from={}", birth.id_from)]
        .into_iter()
        .chain(rules)
        .chain(sharers)
        .collect()
}

/// Reads it.
pub fn line(root: &Root, endpoint: &Endpoint, names: &Names) -> Result<Line> {
    let (forwarded, dropped) = endpoint.counters()?;
    let identity = Identity(endpoint.config.identity);
    let [ingress_policy, egress_policy] = endpoint.modes_in_force()?;
    let confirmation = endpoint.confirmation()?;
    let told = spec::told(root, endpoint.id).unwrap_or_else(|error| {
        debug!("what was asked of endpoint {}: {error:#}", endpoint.id);
        None
    });
    let EndpointSpec { owner, birth, labels, .. } =
        told.unwrap_or_else(|| EndpointSpec::new(&endpoint.device));
    Ok(Line {
        device: endpoint.device.clone(),
        ifindex: endpoint.ifindex,
        role: endpoint.role(),
        owner,
        birth,
        labels,
        endpoint_id: endpoint.id,
        identity,
        name: names.name(identity).map(str::to_owned),
        identity_labels: names.labels(identity),
        ips: endpoint.addresses().iter().map(format_prefix).collect(),
        hook: endpoint.kind,
        ingress_policy,
        egress_policy,
        confirm_deadline: match confirmation {
            Confirmation::None => None,
            Confirmation::Pending(_, left) => Some(time::seconds(left)),
            Confirmation::Over(_) => Some(0),
        },
        confirmation,
        stale: endpoint.stale,
        moved: endpoint.has_moved(),
        packets: forwarded.packets + dropped.packets,
        drops: dropped.packets,
        workload_mac: endpoint.config.workload_mac().map(|mac| Mac(mac).to_string()),
        options: Options::of(&endpoint.config),
        place: (endpoint.kind, endpoint.config.tc_priority),
        programs_before: endpoint.programs_before()?,
        attach_again: again::reasons(endpoint)?,
    })
}
