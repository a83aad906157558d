//! The steps of a program, in words.

use super::entry::{self, by};
use crate::kernel::abi::{cm_call, cm_config, cm_direction, cm_ipcache_source, cm_reason};
use crate::model::identity::{Identity, Names};
use crate::model::rule::L4;
use crate::model::wire::{self, CM_CALL_NAMES};
use crate::ops::explain::Step;

/// Words for the steps of one program.
pub struct Renderer<'a> {
    /// What it was loaded with.
    pub config: &'a cm_config,
    /// Of identities.
    pub names: &'a Names,
}

impl Renderer<'_> {
    /// The function that was called, and what it saw and said.
    pub fn words(&self, known: &Step) -> (&'static str, String) {
        let step = &known.step;
        let [a, b, c] = step.values;
        let address = known.address.map_or("no address".to_owned(), |address| address.to_string());
        let detail = match step.call {
            cm_call::CM_CALL_CHECK_SOURCE => self.source(a, &address),
            cm_call::CM_CALL_ARP_ANSWER => format!("in the name of {address}"),
            cm_call::CM_CALL_FLOW_LABEL_SET => self.label(self.config.identity.into()),
            cm_call::CM_CALL_POLICY_CLEAR_MARK => "skb->cb".to_owned(),
            cm_call::CM_CALL_POLICY_VERDICT => self.modes([a, b]),
            cm_call::CM_CALL_CT_LOOKUP => entry::words(known, self.config, b, c),
            cm_call::CM_CALL_IS_HOST_TRAFFIC => format!("from {address}: {}", yes(a)),
            cm_call::CM_CALL_IS_FOR_HOST => format!("to {address}: {}", yes(a)),
            cm_call::CM_CALL_FIB_LOOKUP => format!("{address}: {}", route(a)),
            cm_call::CM_CALL_FRAGMENT_FIND_PORTS => fragment(a, b, c),
            cm_call::CM_CALL_POLICY_CHECK => self.policy_check(known, a),
            cm_call::CM_CALL_RESOLVE_SRCID => self.sender(known, &address, a, b),
            cm_call::CM_CALL_IPCACHE_LOOKUP => self.ipcache_lookup(&address, a, b, c),
            cm_call::CM_CALL_POLICY_LOOKUP => self.policy_lookup(a, b, c),
            cm_call::CM_CALL_CT_CREATE => created(a).to_owned(),
            cm_call::CM_CALL_KEEP_MASQUERADED => {
                "not the host's own, nor for it: not policed".to_owned()
            }
            cm_call::CM_CALL_FINISH_VERDICT => finished(known, a, c),
            cm_call::CM_CALL_TO_CONTAINER => called(a, b),
            cm_call::CM_CALL_STACK_FLOW => {
                "its flow went by the stack before, and so does it".to_owned()
            }
            cm_call::CM_CALL_TRACE => "for this report only".to_owned(),
            _ => format!("{a:#x} {b:#x} {c:#x}"),
        };
        (wire::name(CM_CALL_NAMES, step.call.0).unwrap_or("?"), detail)
    }

    /// Whose rules are asked: of a NIC's those of others, too, which the flow has passed.
    fn policy_check(&self, known: &Step, a: u64) -> String {
        match &known.nic {
            None => direction(a).to_owned(),
            Some(nic) => format!("{}, by the rules of {nic}", direction(a)),
        }
    }

    fn label(&self, identity: u64) -> String {
        self.names.label(Identity(identity as u32))
    }

    fn source(&self, reason: u64, address: &str) -> String {
        let checked = self.config.has_addresses();
        match (reason, checked) {
            (0, true) => format!("{address}: may be sent"),
            (0, false) => format!("{address}: any is good, the endpoint has no addresses"),
            (reason, _) => format!("{address}: {}", reason_text(reason)),
        }
    }

    fn modes(&self, enforced: [u64; 2]) -> String {
        let mode = |direction: cm_direction| {
            let at = direction.0 as usize;
            match (self.config.policy[at].0, enforced[at]) {
                (0, _) => "off",
                (1, _) => "audit",
                (_, 0) => "audit (nobody confirmed to enforce)",
                _ => "enforce",
            }
        };
        let (ingress, egress) = (mode(cm_direction::CM_INGRESS), mode(cm_direction::CM_EGRESS));
        format!("ingress {ingress}, egress {egress}")
    }

    fn sender(&self, known: &Step, address: &str, claimed: u64, identity: u64) -> String {
        let claim = match claimed {
            0 => "nothing claimed".to_owned(),
            claimed => format!("claimed {}", self.label(claimed)),
        };
        match &known.claim {
            Some(unproven) => format!("{address}: {claim}; {}", unproven.text(self.names)),
            None => format!("{address}: {claim}, so {}", self.label(identity)),
        }
    }

    fn ipcache_lookup(&self, address: &str, identity: u64, from: u64, is_host: u64) -> String {
        let place = match cm_ipcache_source(from as u32) {
            cm_ipcache_source::CM_IPCACHE_HOSTS => "cm_ipcache",
            cm_ipcache_source::CM_IPCACHE_PREFIXES => "cm_ipcache_cidr",
            cm_ipcache_source::CM_IPCACHE_INDEX => "cm_ipcache_idx",
            _ => "not in the ipcache",
        };
        let host = if is_host != 0 { ", an address of this host" } else { "" };
        format!("{address}: {}, {place}{host}", self.label(identity))
    }

    fn policy_lookup(&self, flow: u64, peer: u64, reason: u64) -> String {
        let (protocol, number) = ((flow >> 16) as u8, flow as u16);
        let service = L4::from_parts(Some(protocol), Some((number, number)))
            .unwrap_or(L4::Protocol(protocol));
        let preposition =
            if flow >> 24 == u64::from(cm_direction::CM_EGRESS.0) { "to" } else { "from" };
        let answer = match cm_reason(reason as u32) {
            cm_reason::CM_FORWARDED => "allowed",
            cm_reason::CM_DROP_POLICY_DENY => "denied",
            _ => "no rule matches",
        };
        format!("{} {preposition} {} {service}: {answer}", direction(flow >> 24), self.label(peer))
    }
}

fn finished(known: &Step, reason: u64, enforced: u64) -> String {
    let by = by(known);
    match (reason, enforced) {
        (0, _) => format!("passes{by}"),
        (reason, 0) => format!("passes, audited: {}{by}", reason_text(reason)),
        (reason, _) => format!("dropped: {}{by}", reason_text(reason)),
    }
}

fn called(endpoint: u64, mac: u64) -> String {
    match mac {
        0 => format!("endpoint {endpoint}, whose MAC is not known yet: by the stack"),
        _ => format!("tail call into endpoint {endpoint}"),
    }
}

pub fn reason_text(reason: u64) -> String {
    format!("{} ({reason})", cm_reason(reason as u32).name())
}

fn yes(answer: u64) -> &'static str {
    if answer != 0 { "yes" } else { "no" }
}

fn direction(number: u64) -> &'static str {
    if number == u64::from(cm_direction::CM_EGRESS.0) { "egress" } else { "ingress" }
}

fn created(is_new: u64) -> &'static str {
    if is_new != 0 { "a new entry, had this not been an explanation" } else { "the entry again" }
}

fn fragment(reason: u64, ports: u64, dropped: u64) -> String {
    match (reason, dropped) {
        (0, 0) => format!("ports {} -> {}", ports >> 16, ports & 0xffff),
        (0, _) => {
            format!("ports {} -> {}, of a first one that was dropped", ports >> 16, ports & 0xffff)
        }
        (reason, _) => reason_text(reason),
    }
}

/// `BPF_FIB_LKUP_RET_…` of include/uapi/linux/bpf.h.
fn route(result: u64) -> String {
    match result as i64 {
        0 | 6 | 7 | 8 | 9 => format!("would be forwarded ({result})"),
        4 => "not forwarded: it is for this host (4)".to_owned(),
        5 => "forwarding is off (5)".to_owned(),
        other => format!("no route to forward it by ({other})"),
    }
}
