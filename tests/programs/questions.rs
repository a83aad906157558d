//! Questions to many, by multicast and broadcast: who answers them was not asked, and passes all the same.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use cilmark::kernel::abi::cm_rule_number;
use cilmark::state::nics::Nics;

use super::verdicts::*;
use super::*;
use crate::common::Fixture;
use crate::common::fixture::{now, ticks};
use crate::common::packet::Frame;
use crate::common::program::{Endpoint, Outcome, Packet};

const RELATED: u32 = cm_rule_number::CM_RULE_RELATED.0;

const GROUP4: IpAddr = IpAddr::V4(Ipv4Addr::new(239, 255, 255, 250));
const GROUP6: IpAddr = IpAddr::V6(Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 0xc));
const ALL: IpAddr = IpAddr::V4(Ipv4Addr::BROADCAST);
/// Of the peer's network.
const NETWORK: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 2, 0, 255));
/// Whom each may ask, from whom, and who answers.
const ASKED: [(IpAddr, IpAddr, IpAddr); 4] = [
    (IpAddr::V4(OWN4), GROUP4, IpAddr::V4(PEER4)),
    (IpAddr::V4(OWN4), ALL, IpAddr::V4(PEER4)),
    (IpAddr::V4(OWN4), NETWORK, IpAddr::V4(PEER4)),
    (IpAddr::V6(OWN6), GROUP6, IpAddr::V6(PEER6)),
];

const SSDP: u16 = 1900;
const PORT: u16 = 40000;
const ASKS: &str = "allow egress to any udp/1900";
const IS_ASKED: &str = "allow ingress from any udp/1900";

/// An endpoint of either role that enforces.
struct End<'fixture> {
    endpoint: Endpoint<'fixture>,
    is_nic: bool,
}

impl End<'_> {
    fn sends(&self, packet: impl Into<Packet>) -> Outcome {
        match self.is_nic {
            true => self.endpoint.to_netdev(packet),
            false => self.endpoint.from_container(packet),
        }
    }

    fn receives(&self, packet: impl Into<Packet>) -> Outcome {
        let packet = packet.into().forwarded();
        match self.is_nic {
            true => self.endpoint.from_netdev(packet),
            false => self.endpoint.to_container(packet),
        }
    }
}

fn end<'fixture>(fixture: &'fixture Fixture, is_nic: bool, rules: &[&str]) -> End<'fixture> {
    let setup = if is_nic { fixture.netdev(1) } else { fixture.container(ID) };
    let endpoint = setup.address(OWN4).address(OWN6).policy(enforcing()).load();
    fixture.rules(&endpoint, rules);
    End { endpoint, is_nic }
}

/// Each role, with a claim of its own.
fn each(rules: &[&str], claim: impl Fn(&Fixture, &End<'_>)) {
    for is_nic in [true, false] {
        let Some(fixture) = Fixture::new() else { return };
        claim(&fixture, &end(&fixture, is_nic, rules));
    }
}

/// In a frame to a group, or to all.
fn to_many(frame: Frame) -> Vec<u8> {
    let mut bytes = frame.bytes();
    bytes[..6].copy_from_slice(&[0xff; 6]);
    bytes
}

fn question(own: IpAddr, to: IpAddr) -> Vec<u8> {
    to_many(Frame::ip(own, to).udp(PORT, SSDP))
}

fn answer(from: IpAddr, own: IpAddr) -> Frame {
    Frame::ip(from, own).udp(SSDP, PORT)
}

fn is_related(outcome: &Outcome) {
    assert_eq!(outcome.passes().event().rule, RELATED);
}

#[test]
fn who_asks_many_is_answered_by_each_of_them() {
    each(&[ASKS], |fixture, end| {
        for (own, to, peer) in ASKED {
            end.receives(answer(peer, own)).is_dropped(POLICY);
            end.sends(question(own, to)).passes();
            let another = match peer {
                IpAddr::V4(_) => Ipv4Addr::new(10, 2, 0, 77).into(),
                IpAddr::V6(_) => Ipv6Addr::new(0xfd00, 3, 0, 0, 0, 0, 0, 1).into(),
            };
            for from in [peer, another, peer] {
                is_related(&end.receives(answer(from, own)));
            }
            assert_eq!(fixture.flows().len(), 2, "nothing that an answer has left");
            fixture.flush_conntrack();
        }
    });
}

#[test]
fn nothing_else_is_an_answer() {
    each(&[ASKS], |_, end| {
        for (own, to, peer) in ASKED {
            end.sends(question(own, to)).passes();
            for frame in [
                Frame::ip(peer, own).udp(SSDP, PORT + 1),
                Frame::ip(peer, own).udp(SSDP + 1, PORT),
                Frame::ip(peer, own).segment(SSDP, PORT, "SA"),
                Frame::ip(peer, own).sctp(SSDP, PORT),
                Frame::ip(peer, to).udp(SSDP, PORT),
            ] {
                end.receives(frame).is_dropped(POLICY);
            }
            // Another address of its own has not asked.
            let sibling: IpAddr = match own {
                IpAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
                IpAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
            };
            if end.is_nic {
                end.receives(answer(peer, sibling)).is_dropped(POLICY);
            }
        }
    });
}

#[test]
fn a_question_to_one_is_answered_by_him_alone() {
    each(&[ASKS], |_, end| {
        for (own, _, peer) in ASKED {
            let another: IpAddr = match own {
                IpAddr::V4(_) => Ipv4Addr::new(10, 2, 0, 11).into(),
                IpAddr::V6(_) => Ipv6Addr::new(0xfd00, 2, 0, 0, 0, 0, 0, 0x11).into(),
            };
            end.sends(Frame::ip(own, peer).udp(PORT, SSDP)).passes();
            end.receives(answer(another, own)).is_dropped(POLICY);
            // In a frame to all it is still to one.
            end.sends(question(own, peer)).passes();
            end.receives(answer(another, own)).is_dropped(POLICY);
        }
    });
}

#[test]
fn whom_a_network_has_asked_answers_from_there() {
    each(&[ASKS], |_, end| {
        let own = OWN4.into();
        end.sends(question(own, NETWORK)).passes();
        for (from, is_there) in [
            ([10, 2, 0, 1], true),
            ([10, 2, 0, 254], true),
            ([10, 2, 1, 1], false),
            ([10, 3, 0, 1], false),
        ] {
            let outcome = end.receives(answer(IpAddr::from(from), own));
            if is_there {
                outcome.passes()
            } else {
                outcome.is_dropped(POLICY)
            };
        }
    });
}

#[test]
fn an_answer_comes_in_time_or_not_at_all() {
    each(&[ASKS], |fixture, end| {
        for (own, to, peer) in ASKED {
            end.sends(question(own, to)).passes();
            fixture.change_flows(|flow| flow.expires -= ticks(4));
            end.receives(answer(peer, own)).passes();
            fixture.change_flows(|flow| flow.expires -= ticks(2));
            end.receives(answer(peer, own)).is_dropped(POLICY);
            fixture.flush_conntrack();
        }
    });
}

/// When the entry ends that lets answers in: before the question's own.
fn end_of_answers(fixture: &Fixture) -> u32 {
    fixture.flows().iter().map(|flow| flow.expires).min().expect("an entry")
}

#[test]
fn who_goes_on_asking_is_answered_for_longer_and_looked_at_once_a_second() {
    each(&[ASKS], |fixture, end| {
        for (own, to, peer) in ASKED {
            end.sends(question(own, to)).passes();
            let before = end_of_answers(fixture) - ticks(2);
            fixture.change_flows(|flow| {
                if flow.expires == before + ticks(2) {
                    flow.expires = before;
                }
            });
            end.sends(question(own, to)).passes();
            assert_eq!(end_of_answers(fixture), before, "within the second");
            fixture.change_flows(|flow| flow.expires -= ticks(2));
            end.sends(question(own, to)).passes();
            assert!(end_of_answers(fixture) > now() + ticks(4), "behind it");
            is_related(&end.receives(answer(peer, own)));
            fixture.flush_conntrack();
        }
    });
}

#[test]
fn what_comes_from_nobody_keeps_no_question_open() {
    each(&[ASKS], |fixture, end| {
        for (own, to, nobody) in [
            (IpAddr::V4(OWN4), GROUP4, IpAddr::V4(Ipv4Addr::UNSPECIFIED)),
            (OWN6.into(), GROUP6, Ipv6Addr::UNSPECIFIED.into()),
        ] {
            end.sends(question(own, to)).passes();
            let before: Vec<_> = fixture.flows().iter().map(|flow| flow.expires).collect();
            fixture.change_flows(|flow| flow.expires -= ticks(2));
            end.receives(answer(nobody, own));
            let after: Vec<_> = fixture.flows().iter().map(|flow| flow.expires).collect();
            let sooner: Vec<_> = before.iter().map(|expires| expires - ticks(2)).collect();
            assert_eq!(after, sooner);
            fixture.flush_conntrack();
        }
    });
}

#[test]
fn a_question_from_no_port_wants_no_answer() {
    each(&[ASKS], |fixture, end| {
        for (own, to, peer) in ASKED {
            end.sends(to_many(Frame::ip(own, to).udp(0, SSDP))).passes();
            end.receives(Frame::ip(peer, own).udp(SSDP, 0)).is_dropped(POLICY);
            assert_eq!(fixture.flows().len(), 1);
            fixture.flush_conntrack();
        }
    });
}

#[test]
fn what_a_rule_denies_is_no_answer() {
    each(&[ASKS, "deny ingress from any udp/40000"], |_, end| {
        for (own, to, peer) in ASKED {
            end.sends(question(own, to)).passes();
            end.receives(answer(peer, own)).is_dropped(POLICY_DENY);
        }
    });
}

#[test]
fn what_no_rule_lets_out_lets_no_answer_in() {
    each(&["deny egress to any udp/1900"], |_, end| {
        for (own, to, peer) in ASKED {
            end.sends(question(own, to)).is_dropped(POLICY_DENY);
            end.receives(answer(peer, own)).is_dropped(POLICY);
        }
    });
}

#[test]
fn without_the_rule_that_let_it_out_a_question_has_no_answers_any_more() {
    each(&[ASKS], |fixture, end| {
        for (own, to, peer) in ASKED {
            fixture.rules(&end.endpoint, &[ASKS]);
            end.sends(question(own, to)).passes();
            is_related(&end.receives(answer(peer, own)));
            fixture.rules(&end.endpoint, &["allow egress to any udp/53"]);
            end.receives(answer(peer, own)).is_dropped(POLICY);
            end.sends(question(own, to)).is_dropped(POLICY);
            end.receives(answer(peer, own)).is_dropped(POLICY);
        }
    });
}

#[test]
fn after_a_change_of_the_ipcache_the_next_question_is_answered_again() {
    each(&[ASKS], |fixture, end| {
        for (own, to, peer) in ASKED {
            end.sends(question(own, to)).passes();
            fixture.bump_generation();
            end.receives(answer(peer, own)).is_dropped(POLICY);
            end.sends(question(own, to)).passes();
            is_related(&end.receives(answer(peer, own)));
        }
    });
}

#[test]
fn audit_reports_the_answers_that_enforcement_would_drop() {
    let audit = Enforcement { ingress: Mode::Audit, egress: Mode::Audit, ..Enforcement::default() };
    let Some(fixture) = Fixture::new() else { return };
    let nic = fixture.netdev(1).address(OWN4).address(OWN6).policy(audit).load();
    let is_audited = |outcome: &Outcome| outcome.passes().event().audited == 1;
    for (own, to, peer) in ASKED {
        fixture.rules(&nic, &["allow egress to any udp/53"]);
        assert!(is_audited(&nic.to_netdev(question(own, to))));
        assert_eq!(fixture.flows().len(), 1, "the question's own");
        assert!(is_audited(&nic.from_netdev(answer(peer, own).forwarded())));
        fixture.flush_conntrack();
        fixture.rules(&nic, &[ASKS]);
        assert!(!is_audited(&nic.to_netdev(question(own, to))));
        let answered = nic.from_netdev(answer(peer, own).forwarded());
        assert!(!is_audited(&answered));
        is_related(&answered);
        fixture.flush_conntrack();
    }
}

#[test]
fn an_answer_comes_by_whichever_nic_as_long_as_the_one_is_there_that_asked() {
    let Some(fixture) = Fixture::new() else { return };
    let nic = |slot: u8| {
        let setup = fixture.netdev(1).id(u16::from(slot) + 1).slot(slot);
        setup.address(OWN4).address(OWN6).policy(enforcing()).load()
    };
    for (own, to, peer) in ASKED {
        let [asks, another] = [nic(0), nic(1)];
        fixture.rules(&asks, &[ASKS]);
        fixture.rules(&another, &["allow egress to any udp/53"]);
        another.to_netdev(question(own, to)).is_dropped(POLICY);
        another.from_netdev(answer(peer, own).forwarded()).is_dropped(POLICY);
        asks.to_netdev(question(own, to)).passes();
        another.from_netdev(answer(peer, own).forwarded()).passes();
        let nics = Nics::open(&fixture.world.root()).expect("open").expect("the NICs");
        nics.leave(asks.id, None).expect("leave");
        another.from_netdev(answer(peer, own).forwarded()).is_dropped(POLICY);
        fixture.flush_conntrack();
    }
}

#[test]
fn a_workloads_question_is_not_its_neighbours() {
    let Some(fixture) = Fixture::new() else { return };
    let red = end(&fixture, false, &[ASKS]);
    // With the same address, as the next one may have it.
    let blue = fixture.container(ID).id(8).address(OWN4).address(OWN6).policy(enforcing()).load();
    fixture.rules(&blue, &[ASKS]);
    for (own, to, peer) in ASKED {
        red.sends(question(own, to)).passes();
        blue.to_container(answer(peer, own).forwarded()).is_dropped(POLICY);
        red.receives(answer(peer, own)).passes();
    }
}

#[test]
fn what_is_hidden_from_the_host_may_be_answered_by_others() {
    let Some(fixture) = Fixture::new() else { return };
    fixture.world.sh("sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1");
    let workload = end(&fixture, false, &["allow egress to world udp/1900"]);
    for (own, to, peer) in [ASKED[0], ASKED[1], ASKED[3]] {
        workload.receives(answer(peer, own)).is_dropped(POLICY);
        workload.sends(question(own, to)).passes();
        is_related(&workload.receives(answer(peer, own)));
        assert_eq!(
            fixture.flows().len(),
            1,
            "not the question's own, or the host would get it next"
        );
        fixture.flush_conntrack();
    }
}

#[test]
fn who_is_asked_among_many_may_answer() {
    each(&[IS_ASKED], |fixture, end| {
        for (own, to, peer) in ASKED {
            // Its own network's.
            let to = if to == NETWORK { IpAddr::from([10, 1, 0, 255]) } else { to };
            let answers = |port: u16, to: IpAddr| Frame::ip(own, to).udp(port, PORT);
            let asked = to_many(Frame::ip(peer, to).udp(PORT, SSDP));
            end.sends(answers(SSDP, peer)).is_dropped(POLICY);
            end.receives(asked).passes();
            is_related(&end.sends(answers(SSDP, peer)));
            assert_eq!(fixture.flows().len(), 2, "nothing that an answer has left");
            let another: IpAddr = match peer {
                IpAddr::V4(_) => Ipv4Addr::new(10, 2, 0, 77).into(),
                IpAddr::V6(_) => Ipv6Addr::new(0xfd00, 3, 0, 0, 0, 0, 0, 1).into(),
            };
            end.sends(answers(SSDP + 1, peer)).is_dropped(POLICY);
            end.sends(answers(SSDP, another)).is_dropped(POLICY);
            fixture.change_flows(|flow| flow.expires -= ticks(6));
            end.sends(answers(SSDP, peer)).is_dropped(POLICY);
            fixture.flush_conntrack();
        }
    });
}

#[test]
fn a_workload_that_asks_and_asks_ends_nobody_elses_question() {
    let Some(fixture) = Fixture::new() else { return };
    let setup = fixture.netdev(1).address(OWN4).policy(enforcing()).conntrack_entries(64);
    let nic = setup.load();
    fixture.rules(&nic, &[ASKS]);
    let workload = fixture.container(ID).id(8).address(PEER4).policy(enforcing()).load();
    fixture.rules(&workload, &[ASKS]);
    nic.to_netdev(question(OWN4.into(), GROUP4)).passes();
    for port in 1..3000 {
        let question = to_many(Frame::ip(PEER4, GROUP4).udp(port, SSDP));
        workload.from_container(question).passes();
    }
    is_related(&nic.from_netdev(answer(PEER4.into(), OWN4.into()).forwarded()));
}
