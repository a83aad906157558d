//! Several NICs of one root, which share the flows of the host.

use cilmark::kernel::abi::{cm_confirm, cm_rule_number};
use cilmark::model::endpoint::EndpointId;
use cilmark::state::nics::Nics;

use super::verdicts::*;
use super::*;
use crate::common::Fixture;
use crate::common::packet::Frame;
use crate::common::program::{Endpoint, Outcome, Packet};

/// What an event names if another NIC's rules have decided.
const ANOTHER: u32 = cm_rule_number::CM_RULE_ANOTHER_NIC.0;
const FAILSAFE: u32 = cm_rule_number::CM_RULE_FAILSAFE.0;

const WEB: &str = "allow ingress from any tcp/80";
/// Destination unreachable, of each family.
const UNREACHABLE: [[u8; 2]; 2] = [[3, 1], [1, 3]];
const OTHER: &str = "allow ingress from any tcp/81";

fn auditing() -> Enforcement {
    Enforcement { ingress: Mode::Audit, egress: Mode::Audit, ..Enforcement::default() }
}

/// Open at a port whatever the rules say.
fn with_failsafe(port: &str) -> Enforcement {
    let ports = vec![port.parse().expect("a port")];
    Enforcement { failsafe: Failsafe { ingress: ports, egress: Vec::new() }, ..enforcing() }
}

/// A NIC on which the host has the same addresses as on the others.
fn nic(fixture: &Fixture, slot: u8, policy: Enforcement) -> Endpoint<'_> {
    let nic = fixture.netdev(1).id(u16::from(slot) + 1).slot(slot);
    nic.address(OWN4).address(OWN6).policy(policy).load()
}

fn nics(fixture: &Fixture, [first, second]: [Enforcement; 2]) -> [Endpoint<'_>; 2] {
    [nic(fixture, 0, first), nic(fixture, 1, second)]
}

/// What somebody else sends to a port of the host.
fn received(peer: IpAddr, own: IpAddr, port: u16, flags: &str) -> Packet {
    Frame::ip(peer, own).segment(4000, port, flags).forwarded()
}

/// The answer.
fn sent(peer: IpAddr, own: IpAddr, port: u16, flags: &str) -> Packet {
    Frame::ip(own, peer).segment(port, 4000, flags).into()
}

/// As detaching does.
fn detach(fixture: &Fixture, nic: &Endpoint<'_>) {
    let nics = Nics::open(&fixture.world.root()).expect("open").expect("the NICs");
    nics.leave(nic.id, None).expect("leave");
}

fn rule(outcome: &Outcome) -> u32 {
    outcome.event().rule
}

#[test]
fn the_rules_of_one_are_not_those_of_another() {
    let Some(fixture) = Fixture::new() else { return };
    let [first, second] = nics(&fixture, [enforcing(), enforcing()]);
    fixture.rules(&first, &[WEB]);
    fixture.rules(&second, &[OTHER]);
    for (peer, own) in PEER_TO_OWN {
        for (nic, open, closed) in [(&first, 80, 81), (&second, 81, 80)] {
            nic.from_netdev(received(peer, own, closed, "S")).is_dropped(POLICY);
            nic.from_netdev(received(peer, own, open, "S")).passes();
            fixture.flush_conntrack();
        }
    }
}

#[test]
fn an_answer_passes_by_another_and_no_rule_there_has_decided() {
    let Some(fixture) = Fixture::new() else { return };
    let [first, second] = nics(&fixture, [enforcing(), enforcing()]);
    // Its number is that of the rule which decides.
    fixture.rules(&second, &["deny ingress from any tcp/80"]);
    for (peer, own) in PEER_TO_OWN {
        fixture.rules(&first, &[WEB]);
        second.to_netdev(sent(peer, own, 80, "SA")).is_dropped(POLICY);
        first.from_netdev(received(peer, own, 80, "S")).passes();
        for flags in ["SA", "A", "A"] {
            let answer = second.to_netdev(sent(peer, own, 80, flags));
            assert_eq!(rule(answer.passes()), ANOTHER);
            let next = first.from_netdev(received(peer, own, 80, "A"));
            assert!(rule(next.passes()) >= cm_rule_number::CM_RULE_FIRST.0);
        }
        // Also where nothing of it is fresh.
        fixture.bump_generation();
        assert_eq!(rule(second.to_netdev(sent(peer, own, 80, "A")).passes()), ANOTHER);
        let [flow] = &fixture.flows()[..] else { panic!("not one flow") };
        assert_eq!(flow.verdict as u32, 1 << 16, "it has passed the first alone");
        fixture.flush_conntrack();
    }
}

#[test]
fn on_its_way_a_flow_needs_the_rules_of_each_that_it_comes_to() {
    let Some(fixture) = Fixture::new() else { return };
    let [first, second] = nics(&fixture, [enforcing(), enforcing()]);
    fixture.rules(&first, &[WEB, OTHER]);
    fixture.rules(&second, &[WEB]);
    for (peer, own) in PEER_TO_OWN {
        for nic in [&first, &second, &first, &second] {
            nic.from_netdev(received(peer, own, 80, "S")).passes();
        }
        for flags in ["S", "A", "A"] {
            first.from_netdev(received(peer, own, 81, flags)).passes();
            let dropped = second.from_netdev(received(peer, own, 81, flags));
            assert_eq!(rule(dropped.is_dropped(POLICY)), 0);
        }
        // As if it had come to the other one by mistake, or by somebody who lies: it goes on.
        second.to_netdev(sent(peer, own, 81, "A")).passes();
    }
    fixture.rules(&second, &["deny ingress from any tcp/80", WEB]);
    for (peer, own) in PEER_TO_OWN {
        first.from_netdev(received(peer, own, 80, "A")).passes();
        second.from_netdev(received(peer, own, 80, "A")).is_dropped(POLICY_DENY);
        for nic in [&first, &second] {
            nic.to_netdev(sent(peer, own, 80, "A")).is_dropped(POLICY_DENY);
        }
    }
}

#[test]
fn who_only_audits_drops_nothing_and_changes_nothing_for_others() {
    let Some(fixture) = Fixture::new() else { return };
    let [audits, enforces] = nics(&fixture, [auditing(), enforcing()]);
    fixture.rules(&enforces, &[WEB]);
    for (peer, own) in PEER_TO_OWN {
        // Each of them first: what one keeps is not the other's verdict.
        for [first, second] in [[&audits, &enforces], [&enforces, &audits]] {
            for flags in ["S", "A", "A"] {
                first.from_netdev(received(peer, own, 80, flags)).passes();
                second.from_netdev(received(peer, own, 80, flags)).passes();
                for nic in [first, second] {
                    nic.to_netdev(sent(peer, own, 80, "A")).passes();
                }
            }
            let told = audits.from_netdev(received(peer, own, 80, "A"));
            assert_eq!(told.event().audited, 1, "{told:?}");
            let told = enforces.from_netdev(received(peer, own, 80, "A"));
            assert_eq!(told.event().audited, 0, "{told:?}");
            fixture.flush_conntrack();
        }
        for flags in ["S", "A"] {
            audits.from_netdev(received(peer, own, 81, flags)).passes();
            enforces.from_netdev(received(peer, own, 81, flags)).is_dropped(POLICY);
        }
        // What audit lets pass is answered by whichever way.
        for nic in [&audits, &enforces] {
            nic.to_netdev(sent(peer, own, 81, "A")).passes();
            fixture.bump_generation();
            nic.to_netdev(sent(peer, own, 81, "A")).passes();
        }
        fixture.flush_conntrack();
    }
}

#[test]
fn without_its_rule_there_a_flow_ends_also_for_answers_elsewhere() {
    let Some(fixture) = Fixture::new() else { return };
    let [first, second] = nics(&fixture, [enforcing(), enforcing()]);
    let audits = nic(&fixture, 2, auditing());
    for (peer, own) in PEER_TO_OWN {
        fixture.rules(&first, &[WEB]);
        first.from_netdev(received(peer, own, 80, "S")).passes();
        second.to_netdev(sent(peer, own, 80, "SA")).passes();
        fixture.rules(&second, &[OTHER]);
        second.to_netdev(sent(peer, own, 80, "A")).passes();
        fixture.rules(&first, &[OTHER]);
        let ended = second.to_netdev(sent(peer, own, 80, "A"));
        assert_eq!(rule(ended.is_dropped(POLICY)), ANOTHER);
        let told = audits.to_netdev(sent(peer, own, 80, "A"));
        assert_eq!(told.passes().event().audited, 1);
        first.from_netdev(received(peer, own, 80, "A")).is_dropped(POLICY);
        fixture.rules(&first, &[WEB]);
        second.to_netdev(sent(peer, own, 80, "A")).passes();
        fixture.flush_conntrack();
    }
}

#[test]
fn a_flow_ends_elsewhere_too_when_its_peer_becomes_somebody_else() {
    let Some(fixture) = Fixture::new() else { return };
    let [first, second] = nics(&fixture, [enforcing(), enforcing()]);
    fixture.rules(&first, &["allow egress to 300", "allow ingress from 300"]);
    for (peer, own) in PEER_TO_OWN {
        fixture.ipcache(&peer.to_string(), 300);
        first.from_netdev(received(peer, own, 80, "S")).passes();
        second.to_netdev(sent(peer, own, 80, "SA")).passes();
        first.to_netdev(Frame::ip(own, peer).segment(4001, 80, "S")).passes();
        let answer = || Frame::ip(peer, own).segment(80, 4001, "SA").forwarded();
        second.from_netdev(answer()).passes();
        fixture.ipcache(&peer.to_string(), 301);
        second.to_netdev(sent(peer, own, 80, "A")).is_dropped(POLICY);
        second.from_netdev(answer()).is_dropped(POLICY);
    }
}

#[test]
fn nothing_passes_by_the_rules_of_one_that_is_gone() {
    let Some(fixture) = Fixture::new() else { return };
    let [first, second] = nics(&fixture, [enforcing(), enforcing()]);
    for (peer, own) in PEER_TO_OWN {
        let first = if peer.is_ipv4() { &first } else { &nic(&fixture, 0, enforcing()) };
        fixture.rules(first, &[WEB]);
        first.from_netdev(received(peer, own, 80, "S")).passes();
        second.to_netdev(sent(peer, own, 80, "SA")).passes();
        detach(&fixture, first);
        second.to_netdev(sent(peer, own, 80, "A")).is_dropped(POLICY);
        // What has passed another one as well is that one's.
        fixture.flush_conntrack();
    }
}

/// The device that had it goes on where it was; another one has nothing to do with its flows.
#[test]
fn the_next_nic_of_a_slot_lets_no_flow_pass_that_it_has_not_seen() {
    let Some(fixture) = Fixture::new() else { return };
    let second = nic(&fixture, 1, enforcing());
    for (ifindex, goes_on) in [(1, true), (77, false)] {
        for (peer, own) in PEER_TO_OWN {
            let first = nic(&fixture, 0, enforcing());
            fixture.rules(&first, &[WEB]);
            first.from_netdev(received(peer, own, 80, "S")).passes();
            second.to_netdev(sent(peer, own, 80, "SA")).passes();
            detach(&fixture, &first);
            let next = fixture.netdev(1).id(9).slot(0).tune(move |config| config.ifindex = ifindex);
            let next = next.address(OWN4).address(OWN6).policy(enforcing()).load();
            fixture.rules(&next, &["allow ingress from any"]);
            let answer = second.to_netdev(sent(peer, own, 80, "A"));
            match goes_on {
                true => answer.passes(),
                false => answer.is_dropped(POLICY),
            };
            detach(&fixture, &next);
            fixture.flush_conntrack();
        }
    }
}

#[test]
fn what_has_passed_others_as_well_stays_when_one_of_them_goes() {
    let Some(fixture) = Fixture::new() else { return };
    let [first, second] = nics(&fixture, [enforcing(), enforcing()]);
    for nic in [&first, &second] {
        fixture.rules(nic, &[WEB]);
    }
    for (peer, own) in PEER_TO_OWN {
        for nic in [&first, &second] {
            nic.from_netdev(received(peer, own, 80, "S")).passes();
        }
    }
    detach(&fixture, &first);
    let third = fixture.netdev(1).id(9).slot(0).tune(|config| config.ifindex = 77);
    let _third = third.address(OWN4).address(OWN6).policy(enforcing()).load();
    for (peer, own) in PEER_TO_OWN {
        // Its own rule is the one that is left.
        let answer = second.to_netdev(sent(peer, own, 80, "A"));
        assert!(rule(answer.passes()) >= cm_rule_number::CM_RULE_FIRST.0);
        second.from_netdev(received(peer, own, 80, "A")).passes();
    }
    assert!(fixture.flows().iter().all(|flow| flow.verdict as u32 == 2 << 16));
}

#[test]
fn a_failsafe_port_is_open_where_it_is_one() {
    let Some(fixture) = Fixture::new() else { return };
    let [first, second] = nics(&fixture, [with_failsafe("tcp/22"), enforcing()]);
    for (peer, own) in PEER_TO_OWN {
        second.from_netdev(received(peer, own, 22, "S")).is_dropped(POLICY);
        assert_eq!(rule(first.from_netdev(received(peer, own, 22, "S")).passes()), FAILSAFE);
        second.from_netdev(received(peer, own, 22, "S")).is_dropped(POLICY);
        for _ in 0..2 {
            assert_eq!(rule(second.to_netdev(sent(peer, own, 22, "A")).passes()), ANOTHER);
            fixture.bump_generation();
        }
    }
    // It is none there any more.
    let first = nic(&fixture, 0, enforcing());
    for (peer, own) in PEER_TO_OWN {
        second.to_netdev(sent(peer, own, 22, "A")).is_dropped(POLICY);
        first.from_netdev(received(peer, own, 22, "A")).is_dropped(POLICY);
    }
    // Here an answer needs nobody.
    let second = nic(&fixture, 1, with_failsafe("tcp/22"));
    for (peer, own) in PEER_TO_OWN {
        assert_eq!(rule(second.to_netdev(sent(peer, own, 22, "A")).passes()), FAILSAFE);
    }
}

#[test]
fn a_masqueraded_flow_is_answered_by_whichever_nic() {
    let Some(fixture) = Fixture::new() else { return };
    fixture.router();
    let [first, second] = nics(&fixture, [enforcing(), enforcing()]);
    let request = || Frame::ip(OWN4, PEER4).segment(4001, 80, "S").forwarded();
    let answer = || Frame::ip(PEER4, OWN4).segment(80, 4001, "SA").forwarded();
    second.from_netdev(answer()).is_dropped(POLICY);
    first.to_netdev(request()).passes();
    second.from_netdev(answer()).passes();
    fixture.bump_generation();
    second.from_netdev(answer()).passes();
    second.to_netdev(request()).passes();
    fixture.rules(&first, &[WEB]);
    first.from_netdev(answer()).passes();
}

#[test]
fn an_error_about_a_flow_of_another_nic_passes_as_long_as_that_allows_it() {
    let Some(fixture) = Fixture::new() else { return };
    fixture.router();
    let [first, second] = nics(&fixture, [enforcing(), enforcing()]);
    let egress = "allow egress to any tcp/80";
    for (peer, own) in PEER_TO_OWN {
        fixture.rules(&first, &[egress]);
        let request = Frame::ip(own, peer).segment(4001, 80, "S");
        let error =
            || super::icmp::error(own, UNREACHABLE[usize::from(own.is_ipv6())], request.clone());
        let error = || error().forwarded();
        second.from_netdev(error()).is_dropped(POLICY);
        first.to_netdev(request.clone()).passes();
        for _ in 0..2 {
            second.from_netdev(error()).passes();
            fixture.bump_generation();
        }
        fixture.rules(&first, &[WEB]);
        second.from_netdev(error()).is_dropped(POLICY);
        fixture.flush_conntrack();
    }
}

#[test]
fn an_error_of_this_host_is_judged_in_its_own_direction_where_the_flows_is_only_audited() {
    let Some(fixture) = Fixture::new() else { return };
    fixture.router();
    let audits_ingress = Enforcement { ingress: Mode::Audit, ..enforcing() };
    let [first, second] = nics(&fixture, [enforcing(), audits_ingress]);
    for (peer, own) in PEER_TO_OWN {
        fixture.rules(&first, &[WEB]);
        let request = Frame::ip(peer, own).segment(4000, 80, "S");
        first.from_netdev(request.clone().forwarded()).passes();
        let kind = UNREACHABLE[usize::from(own.is_ipv6())];
        let error = || super::icmp::error(peer, kind, request.clone());
        second.to_netdev(error()).passes();
        fixture.rules(&first, &[OTHER]);
        second.to_netdev(error()).is_dropped(POLICY);
        fixture.flush_conntrack();
    }
}

#[test]
fn what_audit_let_pass_there_is_nothing_once_it_is_enforced() {
    let Some(fixture) = Fixture::new() else { return };
    let [_audits, second] = nics(&fixture, [auditing(), enforcing()]);
    fixture.rules(&second, &["allow egress to any udp/4000"]);
    for (peer, own) in PEER_TO_OWN {
        let request = Frame::ip(peer, own).udp(4000, 9000).forwarded();
        let answer = || Frame::ip(own, peer).udp(9000, 4000);
        nic(&fixture, 0, auditing()).from_netdev(request).passes();
        fixture.bump_generation();
        assert_eq!(rule(second.to_netdev(answer()).passes()), ANOTHER);
        // As an answer it is none now, and as what begins a flow it is allowed.
        nic(&fixture, 0, enforcing());
        fixture.bump_generation();
        assert!(rule(second.to_netdev(answer()).passes()) >= cm_rule_number::CM_RULE_FIRST.0);
    }
}

#[test]
fn who_takes_over_no_flows_asks_its_own_rules_about_those_that_another_has_taken_over() {
    let Some(fixture) = Fixture::new() else { return };
    let adopts = Enforcement { adopt_until_ns: 1, ..enforcing() };
    let [first, second] = nics(&fixture, [adopts.clone(), enforcing()]);
    let also_adopts = nic(&fixture, 2, adopts);
    for (peer, own) in PEER_TO_OWN {
        fixture.rules(&first, &[WEB]);
        first.from_netdev(received(peer, own, 80, "S")).passes();
        fixture.change_flows(|flow| flow.picked_up = 2);
        fixture.rules(&first, &[OTHER]);
        first.from_netdev(received(peer, own, 80, "A")).passes();
        second.from_netdev(received(peer, own, 80, "A")).is_dropped(POLICY);
        second.to_netdev(sent(peer, own, 80, "A")).passes();
        also_adopts.from_netdev(received(peer, own, 80, "A")).passes();
        fixture.rules(&first, &["deny ingress from any tcp/80"]);
        second.to_netdev(sent(peer, own, 80, "A")).is_dropped(POLICY_DENY);
        fixture.flush_conntrack();
    }
}

#[test]
fn the_sixteenth_is_asked_like_the_first() {
    let Some(fixture) = Fixture::new() else { return };
    let [first, last] = [0, 15].map(|slot| nic(&fixture, slot, enforcing()));
    for (peer, own) in PEER_TO_OWN {
        fixture.rules(&last, &[WEB]);
        last.from_netdev(received(peer, own, 80, "S")).passes();
        first.to_netdev(sent(peer, own, 80, "SA")).passes();
        fixture.bump_generation();
        first.to_netdev(sent(peer, own, 80, "A")).passes();
        fixture.rules(&last, &[OTHER]);
        first.to_netdev(sent(peer, own, 80, "A")).is_dropped(POLICY);
    }
}

#[test]
fn of_sixteen_that_a_flow_has_passed_each_has_to_allow_its_answers() {
    let Some(fixture) = Fixture::new() else { return };
    let nics: Vec<Endpoint<'_>> = (0..16).map(|slot| nic(&fixture, slot, enforcing())).collect();
    nics.iter().for_each(|nic| _ = fixture.rules(nic, &[WEB]));
    for (peer, own) in PEER_TO_OWN {
        let pass = |nic: &Endpoint<'_>| {
            nic.from_netdev(received(peer, own, 80, "S")).passes();
        };
        nics.iter().for_each(pass);
        for without in [0, 7, 15] {
            nics[3].to_netdev(sent(peer, own, 80, "A")).passes();
            fixture.rules(&nics[without], &[OTHER]);
            nics[3].to_netdev(sent(peer, own, 80, "A")).is_dropped(POLICY);
            fixture.rules(&nics[without], &[WEB]);
        }
        nics[3].to_netdev(sent(peer, own, 80, "A")).passes();
    }
}

#[test]
fn what_is_known_of_a_nic_is_not_what_it_was_loaded_with_but_for_others() {
    let Some(fixture) = Fixture::new() else { return };
    let [first, second] = nics(&fixture, [enforcing(), enforcing()]);
    let nics = Nics::open(&fixture.world.root()).expect("open").expect("the NICs");
    fixture.rules(&first, &[WEB]);
    for (peer, own) in PEER_TO_OWN {
        first.from_netdev(received(peer, own, 80, "S")).passes();
        fixture.rules(&first, &[OTHER]);
        second.to_netdev(sent(peer, own, 80, "A")).is_dropped(POLICY);
        // A NIC that audits from now on.
        let mut config = first.config;
        config.policy = [Mode::Audit.into(); 2];
        nics.enter(&config, cm_confirm::default(), true).expect("enter");
        second.to_netdev(sent(peer, own, 80, "A")).passes();
        nics.enter(&first.config, cm_confirm::default(), true).expect("enter");
        second.to_netdev(sent(peer, own, 80, "A")).is_dropped(POLICY);
        fixture.rules(&first, &[WEB]);
    }
    assert_eq!(nics.owners().expect("read")[1], EndpointId::new(2));
}

/// Which whoever is there can send, under the peer's address.
#[test]
fn a_syn_that_one_only_audits_ends_no_flow_of_another() {
    let Some(fixture) = Fixture::new() else { return };
    fixture.router();
    let [audits, enforces] = nics(&fixture, [auditing(), enforcing()]);
    fixture.rules(&enforces, &["allow egress to any tcp/80"]);
    for (peer, own) in PEER_TO_OWN {
        let sent = |flags: &str| Frame::ip(own, peer).segment(4000, 80, flags);
        let received = |flags: &str| Frame::ip(peer, own).segment(80, 4000, flags).forwarded();
        enforces.to_netdev(sent("S")).passes();
        enforces.from_netdev(received("SA")).passes();
        enforces.to_netdev(sent("A")).passes();
        for forged in [&["S"][..], &["R", "S"], &["FA", "S"]] {
            for flags in forged {
                audits.from_netdev(received(flags)).passes();
            }
            enforces.to_netdev(sent("A")).passes();
            enforces.from_netdev(received("A")).passes();
        }
    }
    // A workload's, which left by the very NIC that audits.
    fixture.flush_conntrack();
    let request = |flags: &str| Frame::ip(OWN4, PEER4).segment(4001, 80, flags).forwarded();
    let answer = |flags: &str| Frame::ip(PEER4, OWN4).segment(80, 4001, flags).forwarded();
    audits.to_netdev(request("S")).passes();
    enforces.from_netdev(answer("SA")).passes();
    audits.to_netdev(request("A")).passes();
    audits.from_netdev(answer("S")).passes();
    enforces.from_netdev(answer("A")).passes();
}

/// As one that takes over what another one has seen begin is told by its rule.
#[test]
fn what_one_has_taken_over_is_nothing_to_the_next_nic_of_its_slot() {
    const ADOPTED: u32 = cm_rule_number::CM_RULE_PICKED_UP.0;
    let Some(fixture) = Fixture::new() else { return };
    let [first, second] = nics(&fixture, [enforcing(), enforcing()]);
    fixture.rules(&first, &[WEB]);
    for (peer, own) in PEER_TO_OWN {
        first.from_netdev(received(peer, own, 80, "S")).passes();
        second.to_netdev(sent(peer, own, 80, "SA")).passes();
    }
    fixture.change_flows(|flow| {
        flow.verdict = 3 << 16;
        flow.second_rule = 1 << 12 | ADOPTED as u16;
    });
    for (peer, own) in PEER_TO_OWN {
        for nic in [&second, &first] {
            nic.from_netdev(received(peer, own, 80, "A")).passes();
        }
        assert_eq!(rule(&second.from_netdev(received(peer, own, 80, "A"))), ADOPTED);
        fixture.bump_generation();
        assert_eq!(rule(&second.from_netdev(received(peer, own, 80, "A"))), ADOPTED);
    }
    fixture.rules(&second, &["deny ingress from any tcp/80"]);
    for (peer, own) in PEER_TO_OWN {
        second.from_netdev(received(peer, own, 80, "A")).is_dropped(POLICY_DENY);
    }
    detach(&fixture, &second);
    let next = fixture.netdev(1).id(9).slot(1).tune(|config| config.ifindex = 77);
    let next = next.address(OWN4).address(OWN6).policy(enforcing()).load();
    for (peer, own) in PEER_TO_OWN {
        fixture.rules(&next, &[WEB]);
        next.from_netdev(received(peer, own, 80, "A")).passes();
        fixture.rules(&next, &[OTHER]);
        next.from_netdev(received(peer, own, 80, "A")).is_dropped(POLICY);
    }
}
