//! Rules that decide about no packet, whatever comes: what stands before the rules has its say first.

use std::collections::HashMap;

use crate::model::endpoint::Role;
use crate::model::enforcement::{Failsafe, FailsafePort, Mode};
use crate::model::identity::{Identity, Names};
use crate::model::policy::Listed;
use crate::model::protocol::{ICMP6, UDP, icmp6};
use crate::model::rule::{Action, Direction, L4, Rule};

/// Of an endpoint, what stands before its rules.
#[derive(Debug, Clone)]
pub struct Setting {
    /// A workload, or a NIC.
    pub role: Role,
    /// What its policy does, ingress first.
    pub modes: [Mode; 2],
    /// Ports that no rule closes.
    pub failsafe: Failsafe,
    /// What comes from the wire as this host is refused.
    pub refuses_host: bool,
    /// The workload may advertise routers and offer leases.
    pub is_router: bool,
    /// The workload has addresses, and its sources are checked.
    pub has_addresses: bool,
}

/// Why a rule does not do what it says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Void {
    /// Its direction has no policy.
    Off(Direction),
    /// It is about ports of the failsafe list.
    Failsafe,
    /// A NIC passes these messages of ICMPv6 where their link needs them, and no others of the kind.
    Link,
    /// A NIC neither passes nor takes these messages of ICMPv6.
    Forbidden,
    /// A workload does not send these messages of ICMPv6.
    Router,
    /// A workload does not send what a DHCP server does.
    Lease,
    /// Nobody on a wire is this host.
    Host,
    /// A deny matches all of it.
    Denied(Rule),
    /// It counts, but not for what the link needs: that passes in any case.
    NotOfLink,
}

/// Neighbours and routers, and listeners and multicast routers: `is_neighbour_message()` and
/// `is_listener_message()` of the datapath.
fn keeps_link_up(kind: u8) -> bool {
    matches!(
        kind,
        icmp6::LISTENER_QUERY..=icmp6::NEIGHBOUR_ADVERTISEMENT
            | icmp6::INVERSE_SOLICITATION..=icmp6::LISTENER_REPORT
            | icmp6::PATH_SOLICITATION
            | icmp6::PATH_ADVERTISEMENT
            | icmp6::MULTICAST_ADVERTISEMENT..=icmp6::MULTICAST_TERMINATION
    )
}

/// `icmp_is_forbidden()`: errors and echoes are asked about.
fn is_asked_about_at_nic(kind: u8) -> bool {
    matches!(
        kind,
        icmp6::UNREACHABLE..=icmp6::PARAMETER_PROBLEM | icmp6::ECHO_REQUEST | icmp6::ECHO_REPLY
    )
}

/// Router advertisements and redirects: `is_routers()`.
fn is_routers(kind: u8) -> bool {
    matches!(kind, icmp6::ROUTER_ADVERTISEMENT | icmp6::REDIRECT)
}

/// The rules of a list that are void, each with the reason, in their order.
pub fn void(rules: &[Listed], setting: &Setting) -> Vec<(Rule, Void)> {
    let denies = Denies::of(rules);
    let reason = |rule: &Rule| {
        let denied = || denies.covers(rule).map(Void::Denied);
        setting.reason(rule).or_else(denied).or_else(|| setting.limit(rule))
    };
    rules.iter().filter_map(|listed| Some((listed.rule, reason(&listed.rule)?))).collect()
}

impl Setting {
    /// Why no packet asks for a rule.
    fn reason(&self, rule: &Rule) -> Option<Void> {
        let is_nic = self.role == Role::Netdev;
        let sends = rule.direction == Direction::Egress;
        match rule.l4 {
            _ if self.modes[usize::from(sends)] == Mode::Off => Some(Void::Off(rule.direction)),
            _ if !sends && self.refuses_host && rule.peer == Identity::HOST => Some(Void::Host),
            L4::Ports { protocol, first, last }
                if self.is_failsafe(rule.direction, protocol, first..=last) =>
            {
                Some(Void::Failsafe)
            }
            L4::Ports { protocol: UDP, first, last }
                if first == last
                    && sends
                    && matches!(first, 68 | 546)
                    && !is_nic
                    && !self.is_router
                    && self.has_addresses =>
            {
                Some(Void::Lease)
            }
            L4::IcmpType { protocol: ICMP6, kind } if is_nic && keeps_link_up(kind) => {
                Some(Void::Link)
            }
            L4::IcmpType { protocol: ICMP6, kind } if is_nic && !is_asked_about_at_nic(kind) => {
                Some(Void::Forbidden)
            }
            L4::IcmpType { protocol: ICMP6, kind }
                if !is_nic && sends && is_routers(kind) && !self.is_router =>
            {
                Some(Void::Router)
            }
            _ => None,
        }
    }

    /// Why a rule does less than it says.
    fn limit(&self, rule: &Rule) -> Option<Void> {
        match rule.l4 {
            L4::IcmpType { protocol: ICMP6, kind }
                if rule.action == Action::Deny && keeps_link_up(kind) =>
            {
                Some(Void::NotOfLink)
            }
            _ => None,
        }
    }

    fn is_failsafe(
        &self,
        direction: Direction,
        protocol: u8,
        mut ports: impl Iterator<Item = u16>,
    ) -> bool {
        let list = match direction {
            Direction::Ingress => &self.failsafe.ingress,
            Direction::Egress => &self.failsafe.egress,
        };
        // Ends at the first that is not: the list is short.
        ports.all(|port| list.contains(&FailsafePort { protocol, port }))
    }
}

/// The denies of a list, to be searched: there may be as many as allows.
#[derive(Default)]
struct Denies {
    /// By direction and peer.
    of: HashMap<(Direction, Identity), OfPeer>,
}

#[derive(Default)]
struct OfPeer {
    any: Option<Rule>,
    protocols: HashMap<u8, Rule>,
    /// By protocol in the order of their first ports: and of all up to this one, that with the last port.
    ranges: HashMap<u8, Vec<(u16, u16, Rule)>>,
}

impl Denies {
    fn of(rules: &[Listed]) -> Denies {
        let mut denies = Denies::default();
        for rule in rules.iter().map(|listed| listed.rule) {
            if rule.action != Action::Deny {
                continue;
            }
            let of_peer = denies.of.entry((rule.direction, rule.peer)).or_default();
            match (rule.l4.protocol(), rule.l4.range()) {
                (None, _) => of_peer.any = Some(rule),
                (Some(protocol), None) => drop(of_peer.protocols.insert(protocol, rule)),
                (Some(protocol), Some((first, last))) => {
                    of_peer.ranges.entry(protocol).or_default().push((first, last, rule));
                }
            }
        }
        for ranges in denies.of.values_mut().flat_map(|of_peer| of_peer.ranges.values_mut()) {
            ranges.sort_by_key(|(first, ..)| *first);
            for at in 1..ranges.len() {
                if ranges[at - 1].1 > ranges[at].1 {
                    (ranges[at].1, ranges[at].2) = (ranges[at - 1].1, ranges[at - 1].2);
                }
            }
        }
        denies
    }

    /// One that matches all that a rule allows.
    fn covers(&self, rule: &Rule) -> Option<Rule> {
        if rule.action != Action::Allow {
            return None;
        }
        [Rule::ANY, rule.peer].into_iter().find_map(|peer| {
            let of_peer = self.of.get(&(rule.direction, peer))?;
            of_peer.any.or_else(|| of_peer.covers(rule.l4))
        })
    }
}

impl OfPeer {
    fn covers(&self, l4: L4) -> Option<Rule> {
        let protocol = l4.protocol()?;
        if let Some(deny) = self.protocols.get(&protocol) {
            return Some(*deny);
        }
        let ((first, last), ranges) = (l4.range()?, self.ranges.get(&protocol)?);
        let until = ranges.partition_point(|(begin, ..)| *begin <= first);
        let (_, end, deny) = ranges.get(until.checked_sub(1)?)?;
        (*end >= last).then_some(*deny)
    }
}

impl Void {
    /// What to tell of a rule.
    pub fn text(&self, rule: &Rule, names: &Names) -> String {
        let text = rule.text(names);
        let allows = rule.action == Action::Allow;
        let why = match self {
            Void::NotOfLink => {
                return format!(
                    "`{text}` does not stop what a link needs: such messages with the hop limit that they have \
                     on a link always pass"
                );
            }
            Void::Off(direction) => format!("the policy of {direction} is off"),
            Void::Failsafe if allows => {
                format!("{} is on the failsafe list, and open without a rule", rule.l4)
            }
            Void::Failsafe => format!(
                "{} is on the failsafe list, which no rule closes; `attach --failsafe` gives another list",
                rule.l4
            ),
            Void::Link => {
                "a NIC always passes such messages where their link needs them, and drops all \
                           others, whatever rules say"
                    .to_owned()
            }
            Void::Forbidden => {
                "such messages are forbidden at a NIC, in either direction, whatever rules say"
                    .to_owned()
            }
            Void::Router => {
                "a workload sends router advertisements and redirects only if it is attached with \
                             --router"
                    .to_owned()
            }
            Void::Lease => {
                "a workload offers leases only if it is attached with --router".to_owned()
            }
            Void::Host => {
                "nobody on a wire is this host; what comes from its address is dropped".to_owned()
            }
            Void::Denied(deny) => format!("`{}` beats it", deny.text(names)),
        };
        format!("`{text}` has no effect: {why}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::policy::tests::policy;
    use crate::model::policy::{Decision, Policy, decide};
    use crate::model::rule::tests::any_rule;
    use proptest::prelude::*;

    fn nic() -> Setting {
        Setting {
            role: Role::Netdev,
            modes: [Mode::Enforce; 2],
            failsafe: Failsafe::standard(),
            refuses_host: true,
            is_router: false,
            has_addresses: true,
        }
    }

    fn workload() -> Setting {
        let failsafe = Failsafe::default();
        Setting { role: Role::Container, refuses_host: false, failsafe, ..nic() }
    }

    fn of(rule: &str, setting: &Setting) -> Option<Void> {
        void(policy(&[rule]).rules(), setting).first().map(|(_, why)| *why)
    }

    #[test]
    fn what_stands_before_the_rules_makes_them_void() {
        let router = Setting { is_router: true, ..workload() };
        let nowhere = Setting { has_addresses: false, ..workload() };
        let trusting = Setting { refuses_host: false, ..nic() };
        let half = Setting { modes: [Mode::Audit, Mode::Off], ..workload() };
        for (rule, setting, why) in [
            ("deny ingress from 9 tcp/22", nic(), Some(Void::Failsafe)),
            ("allow egress to any udp/53", nic(), Some(Void::Failsafe)),
            ("deny egress to any tcp/22", nic(), None),
            ("deny ingress from any udp/22", nic(), None),
            ("deny ingress from any tcp/22-23", nic(), None),
            ("deny ingress from any tcp/0-65535", nic(), None),
            ("deny ingress from any tcp", nic(), None),
            ("deny ingress from 9 tcp/22", workload(), None),
            ("deny ingress from any icmp6/134", nic(), Some(Void::Link)),
            ("allow ingress from any icmp6/137", nic(), Some(Void::Forbidden)),
            ("allow ingress from any icmp6/128", nic(), None),
            ("allow ingress from any icmp6/1", nic(), None),
            ("allow ingress from any icmp/137", nic(), None),
            ("allow egress to any icmp6/137", workload(), Some(Void::Router)),
            ("allow egress to any icmp6/137", router.clone(), None),
            ("allow ingress from any icmp6/137", workload(), None),
            ("deny ingress from any icmp6/134", workload(), Some(Void::NotOfLink)),
            ("allow ingress from any icmp6/134", workload(), None),
            ("allow egress to any udp/68", workload(), Some(Void::Lease)),
            ("allow egress to any udp/68", router, None),
            ("allow egress to any udp/68", nowhere, None),
            ("allow egress to any udp/67", workload(), None),
            ("allow ingress from host", nic(), Some(Void::Host)),
            ("allow ingress from host", trusting, None),
            ("allow egress to host", nic(), None),
            ("allow egress to any", half.clone(), Some(Void::Off(Direction::Egress))),
            ("allow ingress from any", half, None),
        ] {
            assert_eq!(of(rule, &setting), why, "{rule} at {setting:?}");
        }
    }

    #[test]
    fn an_allow_within_a_deny_is_void() {
        for (deny, allow, is_void) in [
            ("deny ingress from any", "allow ingress from 9 tcp/80", true),
            ("deny ingress from 9", "allow ingress from any", false),
            ("deny ingress from 9 tcp", "allow ingress from 9 tcp/80", true),
            ("deny ingress from 9 tcp/80-90", "allow ingress from 9 tcp/85-90", true),
            ("deny ingress from 9 tcp/80-90", "allow ingress from 9 tcp/85-91", false),
            ("deny ingress from 9 tcp/80-90", "allow ingress from 9 tcp", false),
            ("deny egress to any", "allow ingress from 9 tcp/80", false),
            ("deny ingress from any icmp/8", "allow ingress from 9 icmp/8", true),
        ] {
            let policy = policy(&[allow, deny]);
            let voids = void(policy.rules(), &workload());
            let [allow, deny] = [0, 1].map(|at| policy.rules()[at].rule);
            let wanted = if is_void { vec![(allow, Void::Denied(deny))] } else { vec![] };
            assert_eq!(voids, wanted);
        }
    }

    proptest! {
        #[test]
        fn a_rule_that_is_denied_decides_nothing_and_the_others_may(
            rules in prop::collection::vec(any_rule(&[0, 1, 9], (0u16..40, 0u16..40)), 0..12)
        ) {
            let policy = Policy::default().replaced_by(&rules, &Policy::default());
            let denied: Vec<Rule> = void(policy.rules(), &workload())
                .into_iter()
                .filter(|(_, why)| matches!(why, Void::Denied(_)))
                .map(|(rule, _)| rule)
                .collect();
            for rule in &rules {
                let by_one = |other: &Listed| other.rule.action == Action::Deny && other.rule.covers(rule);
                let is_covered = rule.action == Action::Allow && policy.rules().iter().any(by_one);
                // A reason of its own comes first.
                if workload().reason(rule).is_none() {
                    prop_assert_eq!(denied.contains(rule), is_covered, "{:?}", rule);
                }
            }
            for peer in [1, 9, 10] {
                for direction in [Direction::Ingress, Direction::Egress] {
                    for (protocol, service) in (0..40).map(|port| (6, port)).chain([(1, 8), (47, 0)]) {
                        let decision =
                            decide(policy.rules(), direction, Identity(peer), protocol, service);
                        if let Decision::Allow(number) = decision {
                            prop_assert!(!denied.contains(&policy.get(number).unwrap()));
                        }
                    }
                }
            }
        }
    }
}
