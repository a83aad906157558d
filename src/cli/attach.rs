//! `cilmark attach`.

mod enforcement;
mod losses;
mod plan;

use std::collections::BTreeSet;
use std::net::IpAddr;

use anyhow::{Context as _, Result, ensure};
use ipnet::Ipv6Net;
use log::debug;
use losses::losses;

use super::{Context, before, monitor, policy, prompt, until_interrupted, values};
use crate::kernel::abi::cm_config;
use crate::kernel::device::{self, Device};
use crate::kernel::hooks::HookKind;
use crate::kernel::netns;
use crate::model::endpoint::{EndpointId, Role};
use crate::model::enforcement::{Confirmation, Fallback, Mode};
use crate::model::identity::Names;
use crate::model::mac::{Mac, WorkloadMac};
use crate::model::prefix::parse_ipv6_prefix;
use crate::model::spec::{HookChoice, HostAddresses};
use crate::ops;
use crate::ops::attach::{self, Gone, Request};
use crate::ops::detach;
use crate::output;
use crate::program::load::{self, Features, Sizes, Spec};
use crate::state::events::Events;
use crate::state::pin::{Lock, Root};
use crate::state::registry::{Endpoint, shared};

#[derive(clap::Args)]
pub struct Args {
    /// The device
    #[arg(value_name = "DEV")]
    device: String,
    /// The identity, a number or a name; for a NIC 1 (host) if left out
    #[arg(long, value_name = "ID", required_if_eq("role", "container"), value_parser = plan::parse_id)]
    id: Option<String>,
    /// What the device is; by default container for a veth or tap without a default route
    #[arg(long, value_parser = values::role())]
    role: Option<Role>,
    /// The workload's addresses, which it then can't change; a NIC's own if left out
    #[arg(long, value_name = "ADDR", value_delimiter = ',', num_args = 1.., value_parser = plan::parse_address)]
    ip: Vec<IpAddr>,
    /// The MAC that the ARP responder answers with, instead of the device's
    #[arg(long)]
    mac: Option<Mac>,
    /// The only MAC that the workload may send from, if not its veth's own; `any` checks none
    #[arg(long, value_name = "MAC|any")]
    workload_mac: Option<WorkloadMac>,
    /// The endpoint's number, 1 to 65535; the lowest free one if left out
    #[arg(long, value_name = "N")]
    endpoint_id: Option<EndpointId>,
    /// Answer the workload's ARP requests
    #[arg(long)]
    arp_responder: bool,
    /// Believe the identity in marks of a proxy on this host
    #[arg(long)]
    trust_proxy: bool,
    /// Write the identity into the flow label of the workload's IPv6 packets
    #[arg(long)]
    flow_label: bool,
    /// Read identities from the flow labels of senders in this IPv6 prefix
    #[arg(long, value_name = "PREFIX", value_parser = parse_ipv6_prefix)]
    trust_flow_label: Option<Ipv6Net>,
    /// Mark what a NIC receives with the identity of its sender
    #[arg(long)]
    stamp_remote: bool,
    /// Deliver to workloads on this host past its routing and its nftables, if they have this too
    #[arg(long)]
    local_delivery: bool,
    /// Let the workload send router advertisements, redirects and DHCP offers
    #[arg(long)]
    router: bool,
    /// Let an address alone prove a workload of this host: whoever spoofs it is taken for it
    #[arg(long)]
    by_address: bool,
    /// Believe identity marks that nftables or any other program of this host has set
    #[arg(long)]
    trust_marks: bool,
    /// Which addresses are this host's to a NIC: what the routing tables keep here, or only its own, those of
    /// other NICs that are attached, and those that the ipcache calls host
    #[arg(long, value_parser = values::host_addresses(), default_value = "routed")]
    host_addresses: HostAddresses,
    /// How to attach: tcx (Linux 6.6) or clsact; auto takes tcx where the kernel has it
    #[arg(long, value_parser = values::hook(), default_value = "auto")]
    hook: HookChoice,
    /// Run before the programs that are on the hook already
    #[arg(long)]
    first: bool,
    #[command(flatten)]
    enforcement: enforcement::Args,
    /// Size of the ipcache's maps, if this makes them: of the one for hosts, and of that for prefixes
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=load::MAX_ENTRIES))]
    ipcache_entries: Option<u32>,
    /// Mount a BPF file system if there is none
    #[arg(long)]
    mount_bpffs: bool,
    /// Show events until Ctrl-C, then detach
    #[arg(long)]
    foreground: bool,
}

/// What `--foreground` goes on with.
struct Attached {
    id: EndpointId,
    ifindex: u32,
    netns: u64,
    /// Keeps other readers of events out.
    events: Option<Lock>,
}

pub fn run(context: &Context, args: Args) -> Result<()> {
    // From the start, so that Ctrl-C during the attachment ends in a detachment.
    let go_on = args.foreground.then(until_interrupted).transpose()?;
    let mut attached = attach_device(context, &args)?;
    let (Some(go_on), Some(events)) = (go_on, attached.events.take()) else { return Ok(()) };

    let streamed = Events::open(&context.root, events).and_then(|events| {
        let mut printer = monitor::Printer::new(context)?;
        events.read(false, |heard| printer.hear(heard, |_| true).map(|()| true), go_on)
    });
    let detached = detach_again(context, &attached);
    let detached = detached.with_context(|| format!("detach {}", args.device))?;
    let by = if detached { "" } else { " by another command" };
    output::note(&format!("detached {}{by}", args.device));
    streamed
}

/// Whether it was still there. Another device may have got the number since.
fn detach_again(context: &Context, attached: &Attached) -> Result<bool> {
    let Some(_lock) = context.root.lock()? else { return Ok(false) };
    let endpoint = Endpoint::read(&context.root, attached.id)?;
    let ours = (attached.netns, attached.ifindex);
    if (endpoint.config.netns, endpoint.config.ifindex) != ours {
        return Ok(false);
    }
    detach::detach(&context.root, &endpoint)?;
    detach::remove_unused_root(&context.root)?;
    Ok(true)
}

fn attach_device(context: &Context, args: &Args) -> Result<Attached> {
    let root = &context.root;
    let device = device::by_name(&args.device)?;
    let (role, reason) = plan::role(args, &device)?;
    args.enforcement.check(&device.name, role)?;
    let agreed = ask(context, args, &device, role)?;
    let (ifindex, netns) = (device.ifindex, netns::current()?);
    let _lock = ops::prepare(&context.root, args.mount_bpffs)?;
    // Before anything is replaced, which the end of a failed --foreground would take off.
    let events = args.foreground.then(|| root.lock_events()).transpose();
    let attached = events.and_then(|events| {
        let id = attach_locked(context, args, device, role, &reason, &agreed)?;
        Ok(Attached { id, ifindex, netns, events })
    });
    detach::leave_nothing_of_a_failure(root, attached)
}

fn attach_locked(
    context: &Context,
    args: &Args,
    device: Device,
    role: Role,
    reason: &str,
    agreed: &[String],
) -> Result<EndpointId> {
    let root = &context.root;
    let netns = netns::current()?;
    let names = context.names()?;
    let (endpoints, gone) = attach::clean_stale(root, &device, netns)?;
    gone.iter().for_each(report_gone);
    let (has_come, replaced) = attach::here(&endpoints, &device, netns);
    if replaced.is_none() {
        shared::check_one(root, &BTreeSet::new())?;
    }
    let place = plan::place(args, &device)?;
    let spec = plan_spec(args, root, device, role, replaced, &names)?;
    let config = spec.config();
    let taken = taken_from(has_come.iter().copied().chain(replaced), &config, &names)?;
    ensure!(
        taken.iter().all(|it| agreed.contains(it)) || args.enforcement.may_relax(),
        "{} has changed meanwhile, and would be relaxed: {}; nothing has changed",
        spec.device.name,
        taken.join("; ")
    );
    let confirmation = replaced.map(Endpoint::confirmation).transpose()?;
    let request = Request {
        spec: &spec,
        place,
        sizes: Sizes { ipcache: args.ipcache_entries, ..args.enforcement.sizes() },
        confirm: args.enforcement.confirmation(),
        adopts: args.enforcement.adopts(role, replaced),
    };
    attach::put_on(root, &request, replaced)?;
    for endpoint in &has_come {
        let rules = attach::count_rules(root, endpoint);
        detach::detach(root, endpoint)?;
        output::note(&format!(
            "{}: it has come from another namespace with the programs of endpoint {}, which is detached now, \
             and its rules ({rules}) are gone",
            endpoint.device, endpoint.id
        ));
    }
    if replaced.is_some_and(|endpoint| endpoint.stale) {
        output::note(&format!(
            "{}: its programs were not all there; it has the rules that it had",
            spec.device.name
        ));
    }
    if replaced.is_none() && !reason.is_empty() {
        output::note(reason);
    }
    output::note(&describe(&spec, place.kind, replaced.is_some(), &names));
    args.enforcement.report(&spec);
    let left = gone
        .iter()
        .map(|gone| &gone.endpoint)
        .filter(|endpoint| endpoint.device == spec.device.name && endpoint.role().is_some());
    let had = replaced.into_iter().chain(has_come.iter().copied()).chain(left);
    for lost in had.flat_map(|had| losses(&had.config, &config, &names)) {
        output::note(&format!("{}: {lost}", spec.device.name));
    }
    if let Some(replaced) = replaced {
        policy::report_void_since(context, replaced, &spec.config(), &names)?;
    }
    let programs_before = Endpoint::read(root, spec.id)?.programs_before()?;
    before::lines(&spec.device.name, (place.kind, spec.tc_priority), &programs_before)
        .iter()
        .for_each(|line| output::note(line));
    if let Some(Confirmation::Pending(Fallback::Rules, _)) = confirmation {
        output::note(&format!(
            "{}: nobody had confirmed the last change of its rules, and this makes it permanent",
            spec.device.name
        ));
    }
    Ok(spec.id)
}

/// What the device has now, asked before anything is locked: nobody else shall have to wait for the
/// answer. What this takes from a NIC that enforces, to which the user has agreed.
fn ask(context: &Context, args: &Args, device: &Device, role: Role) -> Result<Vec<String>> {
    let look = || -> Result<(Vec<String>, bool)> {
        let (root, names, netns) = (&context.root, context.names()?, netns::current()?);
        let endpoints = Endpoint::concerning(root, netns, device)?;
        let (has_come, replaced) = attach::here(&endpoints, device, netns);
        let spec = plan_spec(args, root, device.clone(), role, replaced, &names)?;
        let is_known = replaced.is_some_and(|endpoint| endpoint.role() == Some(role));
        let endpoints = has_come.into_iter().chain(replaced);
        Ok((taken_from(endpoints, &spec.config(), &names)?, is_known))
    };
    // What is wrong is told by the one who changes something, and so nothing is agreed to.
    let (taken, is_known) = look().unwrap_or_else(|error| {
        debug!("look at what is attached: {error:#}");
        Default::default()
    });
    // What a workload behind macvlan or ipvlan names as its other end is the NIC of its host.
    if role == Role::Container
        && args.role.is_some()
        && !is_known
        && device::carries_default_route(device)?
    {
        args.enforcement.prompt_for_role(&format!(
            "a default route leaves by {}, so that it looks like a NIC of this host; as a container, \
             whatever comes by it would count as sent by one workload",
            device.name
        ))?;
    }
    args.enforcement.prompt(&device.name, role, &taken)?;
    Ok(taken)
}

/// What NICs lose that enforce their policy now.
fn taken_from<'a>(
    endpoints: impl Iterator<Item = &'a Endpoint>,
    config: &cm_config,
    names: &Names,
) -> Result<Vec<String>> {
    let mut taken = Vec::new();
    for endpoint in endpoints {
        if !endpoint.stale && prompt::is_enforcing_nic(endpoint)? {
            taken.extend(losses(&endpoint.config, config, names));
        }
    }
    Ok(taken)
}

fn plan_spec(
    args: &Args,
    root: &Root,
    device: Device,
    role: Role,
    replaced: Option<&Endpoint>,
    names: &Names,
) -> Result<Spec> {
    let netns = netns::current()?;
    let place = plan::place(args, &device)?;
    let addresses = plan::addresses(args, &device, role)?;
    let id = plan::endpoint_id(args, root, replaced)?;
    let policy = args.enforcement.plan(role, replaced)?;
    Ok(Spec {
        id,
        role,
        identity: plan::identity(args, role, names)?,
        scope: plan::scope(role, replaced)?,
        netns,
        mac: args.mac.map_or(device.mac, |mac| mac.0),
        tc_priority: place.tc_priority(),
        nic_slot: plan::nic_slot(root, id, role, &policy, &device)?,
        features: Features {
            arp_responder: args.arp_responder,
            trust_proxy: args.trust_proxy,
            flow_label: args.flow_label,
            trust_flow_label: args.trust_flow_label,
            stamp_remote: args.stamp_remote,
            local_delivery: args.local_delivery,
            router: args.router,
            by_address: args.by_address,
            trust_marks: args.trust_marks,
            host_addresses_listed: matches!(args.host_addresses, HostAddresses::Listed),
            given_addresses: !args.ip.is_empty(),
        },
        source_mac: plan::source_mac(args, &device, role, &addresses),
        others: plan::others(&addresses)?,
        addresses,
        policy,
        device,
    })
}

fn describe(spec: &Spec, kind: HookKind, replaced: bool, names: &Names) -> String {
    let addresses: Vec<String> = spec.addresses.iter().map(IpAddr::to_string).collect();
    let policy = match (spec.policy.ingress, spec.policy.egress) {
        (Mode::Off, Mode::Off) => String::new(),
        (ingress, egress) => format!(", policy {ingress}/{egress}"),
    };
    format!(
        "{} {}: endpoint {}, {}, identity {}, {kind}, {}{policy}",
        if replaced { "replaced" } else { "attached" },
        spec.device.name,
        spec.id,
        spec.role,
        names.label(spec.identity),
        match (spec.role, addresses.is_empty()) {
            (_, false) => addresses.join(" "),
            (Role::Container, true) => "any source address".to_owned(),
            (Role::Netdev, true) => "no address".to_owned(),
        }
    )
}

fn report_gone(gone: &Gone) {
    if let rules @ 1.. = gone.rules {
        output::note(&format!(
            "{}: endpoint {} of another device of this name is gone, and its rules ({rules}) with it",
            gone.endpoint.device, gone.endpoint.id
        ));
    }
}
