//! The arguments, and the spec that they come to.

mod named;
mod own;
mod rules;
mod sizes;
mod target;
mod who;

use std::collections::BTreeSet;

use anyhow::{Result, ensure};
use ipnet::Ipv6Net;

use crate::cli::prompt::Prompt;
use crate::cli::values;
use crate::model::endpoint::{EndpointId, Role};
use crate::model::enforcement::{FailsafeList, Mode, Modes, VerdictLog};
use crate::model::mac::{Mac, WorkloadMac};
use crate::model::prefix::parse_ipv6_prefix;
use crate::model::spec::{CtScope, EndpointSpec, HookChoice, HostAddresses};
use crate::model::time::Time;

#[derive(clap::Args)]
pub struct Flags {
    #[command(flatten)]
    pub target: target::Target,
    #[command(flatten)]
    who: who::Who,
    /// What the device is; by default container for a veth or tap without a default route
    #[arg(long, value_parser = values::role())]
    role: Option<Role>,
    #[command(flatten)]
    own: own::Own,
    /// The MAC that the ARP responder answers with, instead of the device's
    #[arg(long)]
    mac: Option<Mac>,
    /// The only MAC that the workload may send from, if not its veth's own; `any` checks none
    #[arg(long, value_name = "MAC|any")]
    workload_mac: Option<WorkloadMac>,
    /// The endpoint's number, 1 to 65535; if left out the one that it has, else the lowest free one
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
    /// What the rules do, in both directions; `off` if left out
    #[arg(long, value_name = "MODE", value_parser = values::mode())]
    policy: Option<Mode>,
    /// The same for what is sent to it
    #[arg(long, value_name = "MODE", value_parser = values::mode())]
    ingress_policy: Option<Mode>,
    /// The same for what it sends
    #[arg(long, value_name = "MODE", value_parser = values::mode())]
    egress_policy: Option<Mode>,
    #[command(flatten)]
    pub rules: rules::Rules,
    #[command(flatten)]
    pub prompt: Prompt,
    /// Let flows go on that the kernel's conntrack knows, and for this long TCP connections of a NIC's
    /// host that are up; by default 30s when a NIC begins to enforce
    #[arg(long, value_name = "TIME")]
    adopt: Option<Time>,
    /// Ports of a NIC that no rule closes: `none`, or such as tcp/22,egress:udp/53. A direction that is
    /// not named keeps its own: SSH, DHCP, DNS, NTP
    #[arg(long, value_name = "LIST")]
    failsafe: Option<FailsafeList>,
    /// Directions whose verdicts `monitor --type policy-verdict` reports
    #[arg(long, value_name = "DIRECTION", value_parser = values::verdict_log(), default_value = "both")]
    policy_verdict_log: VerdictLog,
    /// Share the flows with other endpoints, or keep them in maps of its own
    #[arg(long, value_parser = values::ct_scope(), default_value = "global")]
    ct: CtScope,
    #[command(flatten)]
    sizes: sizes::Sizes,
    /// Keep every option of the attachment that is not named here; without this, options that are not named end. To
    /// switch a flag off, leave out --keep and name the rest
    #[arg(long)]
    pub keep: bool,
    /// Mount a BPF file system if there is none
    #[arg(long)]
    pub mount_bpffs: bool,
    /// Show events until Ctrl-C, then detach
    #[arg(long, conflicts_with = "keep")]
    pub foreground: bool,
}

/// The flags, and which of them stand on the command line.
pub struct Args {
    pub flags: Flags,
    named: BTreeSet<String>,
}

impl Args {
    /// Whether the time to adopt flows is named.
    pub fn names_adopt(&self) -> bool {
        self.flags.adopt.is_some()
    }

    /// What a spec becomes, for a device, with what is named here.
    pub fn spec(&self, device: &str, base: EndpointSpec) -> EndpointSpec {
        let flags = &self.flags;
        let mode = |one: Option<Mode>, before| one.or(flags.policy).unwrap_or(before);
        EndpointSpec {
            device: device.to_owned(),
            owner: flags.who.owner.clone().or(base.owner),
            birth: base.birth,
            labels: flags.who.labels.clone().unwrap_or(base.labels),
            role: flags.role.or(base.role),
            id: flags.who.id.clone().or(base.id),
            endpoint_id: flags.endpoint_id.or(base.endpoint_id),
            ip: own::over(&flags.own.ip, base.ip.listed).into(),
            shared_ip: own::over(&flags.own.shared_ip, base.shared_ip),
            mac: flags.mac.or(base.mac),
            workload_mac: flags.workload_mac.or(base.workload_mac),
            arp_responder: flags.arp_responder || base.arp_responder,
            trust_proxy: flags.trust_proxy || base.trust_proxy,
            flow_label: flags.flow_label || base.flow_label,
            trust_flow_label: flags.trust_flow_label.or(base.trust_flow_label),
            stamp_remote: flags.stamp_remote || base.stamp_remote,
            local_delivery: flags.local_delivery || base.local_delivery,
            router: flags.router || base.router,
            by_address: flags.by_address || base.by_address,
            trust_marks: flags.trust_marks || base.trust_marks,
            host_addresses: self.named("host_addresses", flags.host_addresses, base.host_addresses),
            hook: self.named("hook", flags.hook, base.hook),
            first: flags.first || base.first,
            policy: Modes {
                ingress: mode(flags.ingress_policy, base.policy.ingress),
                egress: mode(flags.egress_policy, base.policy.egress),
            },
            adopt: flags.adopt.or(base.adopt),
            failsafe: FailsafeList::over(flags.failsafe.clone(), base.failsafe),
            policy_verdict_log: self.named(
                "policy_verdict_log",
                flags.policy_verdict_log,
                base.policy_verdict_log,
            ),
            ct: self.named("ct", flags.ct, base.ct),
            ct_entries: flags.sizes.ct_entries.or(base.ct_entries),
            policy_entries: flags.sizes.policy_entries.or(base.policy_entries),
            ipcache_entries: flags.sizes.ipcache_entries.or(base.ipcache_entries),
            rules: base.rules,
        }
    }

    /// Of two values the one of a flag with a default, if it is named.
    fn named<T>(&self, flag: &str, value: T, before: T) -> T {
        if self.named.contains(flag) { value } else { before }
    }

    /// Refuses flags that do not go with the policy.
    pub fn check(&self, spec: &EndpointSpec) -> Result<()> {
        let asks = !spec.policy.are_off();
        for (given, flag) in
            [(self.flags.failsafe.is_some(), "--failsafe"), (self.flags.adopt.is_some(), "--adopt")]
        {
            ensure!(asks || !given, "{flag} is for a policy, and this one is off");
        }
        Ok(())
    }
}
