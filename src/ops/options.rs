//! What an endpoint was attached with, as `status` shows it and as `attach` names what it takes away.

use serde::Serialize;

use crate::kernel::abi::{cm_config, cm_failsafe, cm_role, verdict_log};
use crate::kernel::sys;
use crate::model::enforcement::{Failsafe, FailsafePort, VerdictLog};
use crate::model::mac::Mac;
use crate::model::prefix::format_prefix;

/// The flags of `attach`, but for what has a column of its own.
#[derive(Serialize)]
pub struct Options {
    arp_responder: bool,
    trust_proxy: bool,
    flow_label: bool,
    trust_flow_label: Option<String>,
    stamp_remote: bool,
    local_delivery: bool,
    router: bool,
    by_address: bool,
    trust_marks: bool,
    /// `--host-addresses listed`.
    host_addresses_listed: bool,
    /// What other workloads may have, too.
    shared_ip: Vec<String>,
    /// `--ct local`.
    ct_local: bool,
    policy_verdict_log: &'static str,
    /// Ports that no rule closes; `null` where no policy could.
    failsafe: Option<Vec<String>>,
    /// The host's end, as it answers ARP and delivers locally.
    mac: String,
    /// Seconds for which flows that were up may still go on.
    adopt: Option<u64>,
}

impl Options {
    /// All fields are named, so that a new one is either an option or said to be none.
    pub fn of(config: &cm_config) -> Options {
        let cm_config {
            adopt_until_ns,
            mac,
            arp_responder,
            trust_proxy,
            flow_label,
            trust_flow_label: _,
            stamp_remote,
            local_delivery,
            ct_local,
            router,
            by_address,
            trust_marks,
            host_addresses_listed,
            failsafe_count: _,
            failsafe_ingress: _,
            failsafe_egress: _,
            flow_label_prefix: _,
            flow_label_mask: _,
            policy_verdict_log,
            // Columns of their own.
            endpoint_id: _,
            role: _,
            identity: _,
            identity_nb: _,
            ifindex: _,
            tc_priority: _,
            device: _,
            policy: _,
            source_mac: _,
            given_addresses: _,
            ipv4_count: _,
            ipv6_count: _,
            ipv4: _,
            ipv6: _,
            ipv4_net_count: _,
            ipv6_net_count: _,
            ipv4_nets: _,
            ipv6_nets: _,
            shared_ipv4: _,
            shared_ipv6: _,
            shared_ipv4_nets: _,
            shared_ipv6_nets: _,
            // Found out about the device and the kernel, or following from what is said above.
            netns: _,
            l3_device: _,
            bridge_port: _,
            bridge_mac: _,
            accept_local: _,
            in_vrf: _,
            other_ipv4_count: _,
            other_ipv6_count: _,
            jiffies_per_second: _,
            link_local_by_mac: _,
            ipv4_nodeport: _,
            ipv6_nodeport: _,
            delivery: _,
            events_per_second: _,
            explain: _,
            program: _,
            masqueraded_lifetime: _,
            weakly_ordered: _,
            flow_seed: _,
            flow_buckets: _,
            scope: _,
            pad_behind: _,
            nic_slot: _,
        } = config;
        let left = adopt_until_ns.saturating_sub(sys::coarse_ns()).div_ceil(1_000_000_000);
        Options {
            arp_responder: *arp_responder != 0,
            trust_proxy: *trust_proxy != 0,
            flow_label: *flow_label != 0,
            trust_flow_label: config.trusted_flow_labels().map(|prefix| prefix.to_string()),
            stamp_remote: *stamp_remote != 0,
            local_delivery: *local_delivery != 0,
            router: *router != 0,
            by_address: *by_address != 0,
            trust_marks: *trust_marks != 0,
            host_addresses_listed: *host_addresses_listed != 0,
            shared_ip: config.shared().iter().map(format_prefix).collect(),
            ct_local: *ct_local != 0,
            policy_verdict_log: log_name(*policy_verdict_log),
            failsafe: failsafe(config).map(|ports| words_of(&ports)),
            mac: Mac(*mac).to_string(),
            adopt: (left > 0).then_some(left),
        }
    }

    /// What differs from the default, as the flags of `attach` name it.
    pub fn words(&self) -> Vec<String> {
        let prefix = self.trust_flow_label.as_ref();
        let log = Some(self.policy_verdict_log).filter(|log| *log != "both");
        let flags = [
            (self.arp_responder, "arp-responder"),
            (self.trust_proxy, "trust-proxy"),
            (self.flow_label, "flow-label"),
            (self.stamp_remote, "stamp-remote"),
            (self.local_delivery, "local-delivery"),
            (self.router, "router"),
            (self.by_address, "by-address"),
            (self.trust_marks, "trust-marks"),
            (self.host_addresses_listed, "host-addresses=listed"),
            (self.ct_local, "ct=local"),
        ];
        let flags = flags.into_iter().filter(|(is_on, _)| *is_on).map(|(_, flag)| flag.to_owned());
        flags
            .chain(prefix.map(|prefix| format!("trust-flow-label={prefix}")))
            .chain(self.shared_ip.iter().map(|own| format!("shared-ip={own}")))
            .chain(log.map(|log| format!("policy-verdict-log={log}")))
            .collect()
    }

    /// The same with what no two attachments have in common.
    pub fn all_words(&self) -> Vec<String> {
        let standard = words_of(&Failsafe::standard());
        let ports = self.failsafe.as_ref().filter(|ports| **ports != standard);
        let failsafe = ports.map(|ports| match ports.is_empty() {
            true => vec!["none".to_owned()],
            false => ports.clone(),
        });
        let failsafe = failsafe.into_iter().flatten().map(|port| format!("failsafe={port}"));
        let adopt = self.adopt.map(|left| format!("adopt={left}s"));
        self.words().into_iter().chain(failsafe).chain(adopt).collect()
    }
}

/// The ports that no rule of a NIC closes; `None` where no policy could.
pub fn failsafe(config: &cm_config) -> Option<Failsafe> {
    let ports = |ports: &[cm_failsafe], direction: usize| -> Vec<FailsafePort> {
        let count = config.failsafe_count[direction] as usize;
        let port =
            |it: &cm_failsafe| FailsafePort { protocol: it.protocol, port: u16::from_be(it.port) };
        ports.iter().take(count).map(port).collect()
    };
    let is_policed = config.role == cm_role::CM_ROLE_NETDEV && config.has_policy();
    is_policed.then(|| Failsafe {
        ingress: ports(&config.failsafe_ingress, 0),
        egress: ports(&config.failsafe_egress, 1),
    })
}

/// As `--failsafe` takes them.
pub fn words_of(failsafe: &Failsafe) -> Vec<String> {
    let ingress = failsafe.ingress.iter().map(FailsafePort::to_string);
    ingress.chain(failsafe.egress.iter().map(|port| format!("egress:{port}"))).collect()
}

fn log_name(bits: u32) -> &'static str {
    let log = VerdictLog::ALL.iter().find(|log| verdict_log(**log) == bits);
    log.copied().unwrap_or(VerdictLog::None).name()
}
