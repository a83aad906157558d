//! The steps of a program as a tree that people read.

use anyhow::Result;
use serde::Serialize;

use super::{monitor, parsed};
use crate::cli::claim::Owners;
use crate::cli::decision;
use crate::kernel::abi::{
    cm_address, cm_call, cm_config, cm_ct_seen, cm_direction, cm_ipcache_source, cm_reason,
    cm_rule_number, cm_step,
};
use crate::model::drop_reason;
use crate::model::identity::{Identity, Names};
use crate::model::mark::Mark;
use crate::model::policy::Policy;
use crate::model::policy::RuleNumber;
use crate::model::rule::L4;
use crate::program::explain::{Answer, Fate};
use crate::state::conntrack;
use crate::state::nics;
use crate::state::pin::Root;
use crate::state::policy::{PolicyMaps, Slot};
use crate::state::registry::Endpoint;

/// A line of the tree.
#[derive(Debug, Serialize)]
pub struct Step {
    /// 0 for the program itself.
    pub depth: u32,
    /// The function.
    pub call: &'static str,
    /// What it saw and said.
    pub detail: String,
}

/// Who knows what the numbers in an endpoint's steps stand for.
pub struct Renderer<'a> {
    root: &'a Root,
    /// Who has which address.
    owners: Option<Owners>,
    /// What its program was loaded with.
    pub config: &'a cm_config,
    names: &'a Names,
    /// The rules in force, and those that an unconfirmed change falls back to.
    policies: [Policy; 2],
    /// The names of NICs, by their slots.
    nics: Vec<Option<String>>,
}

impl<'a> Renderer<'a> {
    /// That of an endpoint, a copy of whose programs ran with a configuration.
    pub fn of(
        root: &'a Root,
        endpoint: &Endpoint,
        config: &'a cm_config,
        names: &'a Names,
    ) -> Result<Renderer<'a>> {
        let maps = PolicyMaps::of(root, endpoint.id, endpoint.map_ids())?;
        let policies = [maps.read(Slot::Current)?, maps.read(Slot::Previous)?];
        let nics = nics::names(root)?;
        Ok(Renderer { root, owners: Owners::open(root), config, names, policies, nics })
    }

    /// A rule by its number; `None` if none decided.
    pub fn rule(&self, number: u32) -> Option<String> {
        if number == cm_rule_number::CM_RULE_NONE.0 {
            return None;
        }
        if let Some(word) = decision::beside_the_rules(number) {
            return Some(word.to_owned());
        }
        let number = RuleNumber(number);
        Some(match self.policies.iter().find_map(|policy| policy.get(number)) {
            Some(rule) => rule.text(self.names),
            None => format!("rule {number}, which is gone"),
        })
    }
}

/// What the programs called, from the parsing of the packet to its end. The first renderer is that of
/// the endpoint that was asked for, the last that of whom it delivers to.
pub fn steps(answer: &Answer, renderers: &[Renderer<'_>], names: &Names) -> Vec<Step> {
    let mut steps: Vec<Step> = Vec::new();
    if let Some(event) = &answer.event {
        steps.push(Step { depth: 1, call: "parse_packet", detail: parsed(event) });
    }
    for (index, part) in answer.parts.iter().enumerate() {
        let renderer = &renderers[index.min(renderers.len() - 1)];
        // The third: what was called has sent the packet to its own hook.
        let is_on_hook = index == 2;
        if is_on_hook {
            let detail = format!("on the hook of endpoint {}", renderer.config.endpoint_id);
            steps.push(Step { depth: 1, call: "to_container", detail });
        }
        for step in in_order_of_calls(&part.steps) {
            let (call, detail) = renderer.report(&step);
            steps.push(Step { depth: step.depth + u32::from(is_on_hook), call, detail });
        }
    }
    steps.push(last(answer, names));
    steps
}

/// As they were called: a call stands before its callees, of which it has told later. What is asked again only for the
/// report has been seen.
fn in_order_of_calls(steps: &[cm_step]) -> Vec<cm_step> {
    let mut ordered: Vec<cm_step> = Vec::new();
    for step in steps {
        let at = ordered.len().saturating_sub(step.callees as usize);
        for callee in &mut ordered[at..] {
            callee.depth += 1;
        }
        ordered.insert(at, *step);
    }
    let trace = ordered.iter().position(|step| step.call == cm_call::CM_CALL_TRACE);
    let report = ordered.split_off(trace.unwrap_or(ordered.len()));
    let is_new = |step: &cm_step| !ordered.iter().any(|seen| is_same(seen, step));
    let new: Vec<cm_step> = report.into_iter().filter(is_new).collect();
    if new.len() > 1 {
        ordered.extend(new);
    }
    ordered
}

fn is_same(a: &cm_step, b: &cm_step) -> bool {
    (a.call, a.address.bytes, a.values) == (b.call, b.address.bytes, b.values)
}

fn last(answer: &Answer, names: &Names) -> Step {
    let reason = answer.event.as_ref().map_or(0, |event| event.reason.0);
    let (call, detail) = match answer.fate {
        Fate::Forward => ("accept", describe_mark(Mark(answer.mark), names)),
        Fate::Drop => ("drop", reason_text(u64::from(reason))),
        Fate::Redirect => ("redirect", String::new()),
    };
    Step { depth: 1, call, detail }
}

fn describe_mark(mark: Mark, names: &Names) -> String {
    let identity = mark.identity().map(|identity| format!(", identity {}", names.label(identity)));
    match mark.magic() {
        Some(magic) => format!("mark {mark}: {magic}{}", identity.unwrap_or_default()),
        None => format!("mark {mark}"),
    }
}

impl Renderer<'_> {
    fn report(&self, step: &cm_step) -> (&'static str, String) {
        let [a, b, c] = step.values;
        let address = monitor::address(step.address).unwrap_or_else(|| "no address".to_owned());
        match step.call {
            cm_call::CM_CALL_CHECK_SOURCE => ("check_source", self.source(a, &address)),
            cm_call::CM_CALL_ARP_ANSWER => ("arp_answer", format!("in the name of {address}")),
            cm_call::CM_CALL_FLOW_LABEL_SET => {
                ("flow_label_set", self.label(self.config.identity.into()))
            }
            cm_call::CM_CALL_POLICY_CLEAR_MARK => ("policy_clear_mark", "skb->cb".to_owned()),
            cm_call::CM_CALL_POLICY_VERDICT => ("policy_verdict", self.modes([a, b])),
            cm_call::CM_CALL_CT_LOOKUP => ("ct_lookup", self.entry(a, b, c)),
            cm_call::CM_CALL_IS_HOST_TRAFFIC => {
                ("is_host_traffic", format!("from {address}: {}", yes(a)))
            }
            cm_call::CM_CALL_IS_FOR_HOST => ("is_for_host", format!("to {address}: {}", yes(a))),
            cm_call::CM_CALL_FIB_LOOKUP => ("fib_lookup", format!("{address}: {}", route(a))),
            cm_call::CM_CALL_FRAGMENT_FIND_PORTS => ("fragment_find_ports", fragment(a, b, c)),
            cm_call::CM_CALL_POLICY_CHECK => ("policy_check", self.asking(a, b)),
            cm_call::CM_CALL_RESOLVE_SRCID => {
                ("resolve_srcid", self.sender(step.address, &address, a, b))
            }
            cm_call::CM_CALL_IPCACHE_LOOKUP => ("ipcache_lookup", self.known(&address, a, b, c)),
            cm_call::CM_CALL_POLICY_LOOKUP => ("policy_lookup", self.asked(a, b, c)),
            cm_call::CM_CALL_CT_CREATE => ("ct_create", created(a).to_owned()),
            cm_call::CM_CALL_KEEP_MASQUERADED => {
                ("keep_masqueraded", "not the host's own, nor for it: not policed".to_owned())
            }
            cm_call::CM_CALL_FINISH_VERDICT => ("finish_verdict", self.concluded(a, b, c)),
            cm_call::CM_CALL_TO_CONTAINER => ("to_container", called(a, b)),
            cm_call::CM_CALL_STACK_FLOW => {
                ("stack_flow", "its flow went by the stack before, and so does it".to_owned())
            }
            cm_call::CM_CALL_TRACE => ("trace", "for this report only".to_owned()),
            _ => ("?", format!("{a:#x} {b:#x} {c:#x}")),
        }
    }

    /// Whose rules are asked: of a NIC's those of others, too, which the flow has passed.
    fn asking(&self, a: u64, nic: u64) -> String {
        let other = u8::try_from(nic).ok().and_then(|nic| nic.checked_sub(1));
        match other {
            None => direction(a).to_owned(),
            Some(slot) => format!("{}, by the rules of {}", direction(a), self.nic(slot)),
        }
    }

    /// The NIC of a slot.
    fn nic(&self, slot: u8) -> String {
        self.nics.get(usize::from(slot)).cloned().flatten().unwrap_or(format!("slot {slot}"))
    }

    fn label(&self, identity: u64) -> String {
        self.names.label(Identity(identity as u32))
    }

    /// `, rule: …`, if one decided.
    fn by(&self, rule: u32) -> String {
        self.rule(rule).map(|rule| format!(", rule: {rule}")).unwrap_or_default()
    }

    fn source(&self, reason: u64, address: &str) -> String {
        let checked = self.config.ipv4_count + self.config.ipv6_count > 0;
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

    fn entry(&self, rule: u64, flags: u64, left: u64) -> String {
        let seen = |flag: cm_ct_seen| flags & u64::from(flag.0) != 0;
        if !seen(cm_ct_seen::CM_CT_SEEN_ENTRY) {
            return "no entry".to_owned();
        }
        let denied = seen(cm_ct_seen::CM_CT_SEEN_DENIED);
        let allowed = if denied { "denied" } else { "allowed" };
        let (nic, number) = conntrack::split_rule(rule as u32);
        let by = match self.config.nic_slot() {
            Some(own) if own != nic => format!(" by {}", self.nic(nic)),
            _ => self.by(number),
        };
        let mut words = vec![format!("{allowed}{by}")];
        let mut say = |text: &str| words.push(text.to_owned());
        match seen(cm_ct_seen::CM_CT_SEEN_REPLY) {
            true => say("this is a reply"),
            false => say("this is its direction"),
        }
        if seen(cm_ct_seen::CM_CT_SEEN_STALE) {
            say("decided under older rules");
        }
        if seen(cm_ct_seen::CM_CT_SEEN_ANOTHER) {
            say("decided about another sender");
        }
        if seen(cm_ct_seen::CM_CT_SEEN_PICKED_UP) {
            say("adopted");
        }
        if seen(cm_ct_seen::CM_CT_SEEN_MASQUERADED) {
            say("masqueraded");
        }
        if !seen(cm_ct_seen::CM_CT_SEEN_VALID) {
            say("over, or begun anew by this packet");
        } else {
            let jiffies = u64::from(self.config.jiffies_per_second.max(1));
            words.push(format!("{} s left", left / jiffies));
        }
        format!("an entry: {}", words.join(", "))
    }

    fn sender(&self, source: cm_address, address: &str, claimed: u64, identity: u64) -> String {
        let claim = match claimed {
            0 => "nothing claimed".to_owned(),
            claimed => format!("claimed {}", self.label(claimed)),
        };
        let unproven = source.to_ip().and_then(|source| {
            self.owners.as_ref()?.unproven(
                self.root,
                self.config,
                source,
                Identity(identity as u32),
            )
        });
        match unproven {
            Some(unproven) => format!("{address}: {claim}; {}", unproven.text(self.names)),
            None => format!("{address}: {claim}, so {}", self.label(identity)),
        }
    }

    fn known(&self, address: &str, identity: u64, from: u64, is_host: u64) -> String {
        let place = match cm_ipcache_source(from as u32) {
            cm_ipcache_source::CM_IPCACHE_HOSTS => "cm_ipcache",
            cm_ipcache_source::CM_IPCACHE_PREFIXES => "cm_ipcache_cidr",
            cm_ipcache_source::CM_IPCACHE_INDEX => "cm_ipcache_idx",
            _ => "not in the ipcache",
        };
        let host = if is_host != 0 { ", an address of this host" } else { "" };
        format!("{address}: {}, {place}{host}", self.label(identity))
    }

    fn asked(&self, flow: u64, peer: u64, reason: u64) -> String {
        let (protocol, number) = ((flow >> 16) as u8, flow as u16);
        let service = match protocol {
            6 | 17 | 132 => L4::Ports { protocol, first: number, last: number },
            1 | 58 => L4::IcmpType { protocol, kind: number as u8 },
            protocol => L4::Protocol(protocol),
        };
        let preposition =
            if flow >> 24 == u64::from(cm_direction::CM_EGRESS.0) { "to" } else { "from" };
        let answer = match cm_reason(reason as u32) {
            cm_reason::CM_FORWARDED => "allowed",
            cm_reason::CM_DROP_POLICY_DENY => "denied",
            _ => "no rule matches",
        };
        format!("{} {preposition} {} {service}: {answer}", direction(flow >> 24), self.label(peer))
    }

    fn concluded(&self, reason: u64, rule: u64, enforced: u64) -> String {
        let by = self.by(rule as u32);
        match (reason, enforced) {
            (0, _) => format!("passes{by}"),
            (reason, 0) => format!("passes, audited: {}{by}", reason_text(reason)),
            (reason, _) => format!("dropped: {}{by}", reason_text(reason)),
        }
    }
}

fn called(endpoint: u64, mac: u64) -> String {
    match mac {
        0 => format!("endpoint {endpoint}, whose MAC is not known yet: by the stack"),
        _ => format!("tail call into endpoint {endpoint}"),
    }
}

fn reason_text(reason: u64) -> String {
    format!("{} ({reason})", drop_reason::name(reason as u32))
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
