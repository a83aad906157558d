//! What an `attach` takes away from an endpoint: its flags state the whole configuration, so that what is left out ends.

use std::collections::HashSet;

use ipnet::IpNet;

use crate::kernel::abi::{cm_config, cm_role};
use crate::kernel::hooks::PRIORITY_FIRST;
use crate::model::endpoint::Role;
use crate::model::enforcement::Mode;
use crate::model::identity::{Identity, Names};
use crate::model::mac::Mac;
use crate::model::policy::Policy;
use crate::model::prefix::list;
use crate::model::rule::Rule;
use crate::ops::options::{self, Options};

/// Each loss between two configurations, as a clause about the device.
pub fn losses(before: &cm_config, after: &cm_config, names: &Names) -> Vec<String> {
    let mut lost = Vec::new();
    if before.role != after.role {
        lost.push(format!("it was a {} and is a {} now", role(before), role(after)));
    }
    if before.identity != after.identity {
        let label = |config: &cm_config| names.label(Identity(config.identity));
        lost.push(format!("its identity was {} and is {} now", label(before), label(after)));
    }
    lost.extend(of_source_check(before, after));
    lost.extend(of_policy(before, after));
    let words = Options::of(after).words();
    let gone = Options::of(before).words().into_iter().filter(|word| !words.contains(word));
    lost.extend(gone.map(|word| format!("--{word} is off now")));
    if before.tc_priority == PRIORITY_FIRST && after.tc_priority != PRIORITY_FIRST {
        lost.push("--first is off now".to_owned());
    }
    lost
}

/// The rules that go, in a clause; none if all stay.
pub fn of_rules(before: &Policy, after: &Policy, names: &Names) -> Option<String> {
    // Of a thousand, the first ones tell what has happened.
    const MOST: usize = 20;
    let after: HashSet<Rule> = after.rules().iter().map(|listed| listed.rule).collect();
    let gone = before.rules().iter().filter(|listed| !after.contains(&listed.rule));
    let mut gone: Vec<String> =
        gone.map(|listed| format!("`{}`", listed.rule.text(names))).collect();
    let more = gone.len().saturating_sub(MOST);
    gone.truncate(MOST);
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    match gone.len() {
        0 => None,
        1 => Some(format!("its rule {} is gone", gone[0])),
        _ => Some(format!("its rules {}{more} are gone", gone.join(", "))),
    }
}

fn role(config: &cm_config) -> Role {
    if is_container(config) { Role::Container } else { Role::Netdev }
}

fn is_container(config: &cm_config) -> bool {
    config.role == cm_role::CM_ROLE_CONTAINER
}

/// Losses of addresses: of a workload's source check, and of those that a NIC counts as the host's.
fn of_source_check(before: &cm_config, after: &cm_config) -> Vec<String> {
    let (had, has) = (before.addresses(), after.addresses());
    if had.is_empty() {
        return Vec::new();
    }
    match (is_container(before), is_container(after)) {
        (true, true) if !has.is_empty() => {
            let mac = before.workload_mac().filter(|_| after.workload_mac().is_none());
            let mac = mac.map(|mac| {
                format!("it may send from any MAC now, and might from {} only", Mac(mac))
            });
            gone(&had, &has).into_iter().chain(mac).collect()
        }
        (true, _) => {
            vec![format!("the source check ({}) is off now; --ip keeps it", list(&had))]
        }
        (false, false) => gone(&had, &has).into_iter().collect(),
        (false, true) => Vec::new(),
    }
}

fn gone(had: &[IpNet], has: &[IpNet]) -> Option<String> {
    let is_left = |own: &&IpNet| has.iter().any(|prefix| prefix.contains(*own));
    let gone: Vec<IpNet> = had.iter().filter(|own| !is_left(own)).copied().collect();
    let verb = if gone.len() == 1 { "is" } else { "are" };
    (!gone.is_empty()).then(|| format!("{} {verb} not among its addresses any more", list(&gone)))
}

fn of_policy(before: &cm_config, after: &cm_config) -> Vec<String> {
    let mut lost = Vec::new();
    let modes = before.modes().into_iter().zip(after.modes());
    for (direction, (was, is)) in ["ingress", "egress"].iter().zip(modes) {
        if is < was {
            let kept = match is {
                Mode::Off => {
                    format!("; the rules are kept, and --policy {was} keeps them in force")
                }
                _ => String::new(),
            };
            lost.push(format!("the {direction} policy was {was} and is {is} now{kept}"));
        }
    }
    if let (Some(was), Some(is)) = (options::failsafe(before), options::failsafe(after)) {
        let [was, is] = [was, is].map(|ports| options::words_of(&ports));
        let closed = was.iter().filter(|port| !is.contains(port));
        lost.extend(closed.map(|port| format!("{port} is no failsafe port now")));
        let opened = is.iter().filter(|port| !was.contains(port));
        lost.extend(
            opened.map(|port| format!("{port} is a failsafe port now, which no rule closes")),
        );
    }
    lost
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::abi::cm_policy_mode;

    fn container() -> cm_config {
        cm_config {
            role: cm_role::CM_ROLE_CONTAINER,
            identity: 300,
            ipv4_count: 2,
            ipv4: [[10, 0, 0, 1], [10, 0, 0, 2], [0; 4], [0; 4], [0; 4], [0; 4], [0; 4], [0; 4]]
                .map(u32::from_ne_bytes),
            source_mac: [2, 0, 0, 0, 0, 1],
            policy: [cm_policy_mode::CM_POLICY_ENFORCE, cm_policy_mode::CM_POLICY_AUDIT],
            policy_verdict_log: 3,
            ..cm_config::default()
        }
    }

    fn lost(before: &cm_config, after: &cm_config) -> Vec<String> {
        losses(before, after, &Names::default())
    }

    #[test]
    fn the_same_configuration_takes_nothing_away_nor_does_one_that_has_more() {
        let before = container();
        let more = cm_config { arp_responder: 1, policy: [before.policy[0]; 2], ..before };
        assert!(lost(&before, &before).is_empty() && lost(&before, &more).is_empty());
    }

    #[test]
    fn each_loss_is_named() {
        let mut before = container();
        before.ipv4_count = 2;
        let one = cm_config { ipv4_count: 1, ..before };
        let off = cm_policy_mode::CM_POLICY_OFF;
        let all = |words: &[&str]| words.iter().map(|it| it.to_string()).collect::<Vec<_>>();
        for (after, told) in [
            (
                cm_config { identity: 7, ..before },
                "its identity was 300 and is 7 (kube-apiserver) now",
            ),
            (one, "10.0.0.2 is not among its addresses any more"),
            (
                cm_config { ipv4_count: 0, source_mac: [0; 6], ..before },
                "the source check (10.0.0.1 10.0.0.2) is off now; --ip keeps it",
            ),
            (
                cm_config { source_mac: [0; 6], ..before },
                "it may send from any MAC now, and might from 02:00:00:00:00:01 only",
            ),
            (
                cm_config { policy: [before.policy[1]; 2], ..before },
                "the ingress policy was enforce and is audit now",
            ),
            (
                cm_config { policy: [before.policy[0], off], ..before },
                "the egress policy was audit and is off now; the rules are kept, and --policy audit \
                 keeps them in force",
            ),
        ] {
            assert_eq!(lost(&before, &after), all(&[told]));
        }
        let every = cm_config {
            arp_responder: 1,
            trust_proxy: 1,
            flow_label: 1,
            stamp_remote: 1,
            local_delivery: 1,
            router: 1,
            by_address: 1,
            trust_marks: 1,
            ct_local: 1,
            policy_verdict_log: 1,
            tc_priority: PRIORITY_FIRST,
            ..before
        };
        let told = lost(&every, &before);
        for flag in [
            "arp-responder",
            "trust-proxy",
            "flow-label",
            "stamp-remote",
            "local-delivery",
            "router",
            "by-address",
            "trust-marks",
            "ct=local",
            "policy-verdict-log=ingress",
            "first",
        ] {
            assert!(told.contains(&format!("--{flag} is off now")), "{flag}: {told:?}");
        }
        assert_eq!(told.len(), 11);
    }

    #[test]
    fn a_role_takes_the_source_check_along_and_failsafe_ports_count_both_ways() {
        let before = container();
        let mut nic = cm_config { role: cm_role::CM_ROLE_NETDEV, ..before };
        let told = lost(&before, &nic);
        assert_eq!(told[0], "it was a container and is a netdev now");
        assert!(told[1].starts_with("the source check (10.0.0.1 10.0.0.2) is off now"), "{told:?}");
        nic.failsafe_count = [1, 0];
        nic.failsafe_ingress[0].protocol = 6;
        nic.failsafe_ingress[0].port = 22_u16.to_be();
        let mut other = nic;
        other.failsafe_ingress[0].port = 2222_u16.to_be();
        assert_eq!(
            lost(&nic, &other),
            [
                "tcp/22 is no failsafe port now",
                "tcp/2222 is a failsafe port now, which no rule closes"
            ]
        );
    }
}
