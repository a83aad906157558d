//! Flows: what passes because of what passed before it, and what does not.

use cilmark::kernel::abi::{cm_counter, cm_ct_picked_up, cm_ct_state, cm_direction, cm_reason};
use cilmark::kernel::sys;
use cilmark::state::conntrack::Conntrack;
use cilmark::state::counters::{self, Counted};

use cilmark::model::enforcement::VerdictLog;

use super::verdicts::*;
use super::*;
use crate::common::Fixture;
use crate::common::fixture::{now, ticks};
use crate::common::machine::repetitions;
use crate::common::packet::Frame;
use crate::common::program::{Packet, Verdict};

const WEB: &str = "allow egress to any tcp/80";

const CLOSING: u8 = cm_ct_state::CM_CT_CLOSING.0 as u8;
const RESET: u8 = cm_ct_state::CM_CT_RESET.0 as u8;

fn sent(own: IpAddr, peer: IpAddr, flags: &str) -> Frame {
    Frame::ip(own, peer).segment(4000, 80, flags)
}

fn answer(own: IpAddr, peer: IpAddr, flags: &str) -> Packet {
    Frame::ip(peer, own).segment(80, 4000, flags).forwarded()
}

#[test]
fn a_reply_passes_without_a_rule_of_its_own() {
    let Some(fixture) = Fixture::new() else { return };
    let workload = fixture.container(ID).policy(enforcing()).load();
    fixture.rules(&workload, &[WEB]);
    for (own, peer) in OWN_TO_PEER {
        workload.to_container(answer(own, peer, "SA")).is_dropped(POLICY);
        workload.from_container(sent(own, peer, "S")).passes();
        workload.to_container(answer(own, peer, "SA")).passes();
        workload.from_container(sent(own, peer, "A")).passes();
        workload.to_container(answer(own, peer, "A")).passes();
        let other_port = Frame::ip(peer, own).segment(80, 4001, "SA").forwarded();
        workload.to_container(other_port).is_dropped(POLICY);
    }
}

/// Who begins before the policy is there, or by another way, is a stranger to it: the answer that passes by other rules
/// allows nothing that comes back.
#[test]
fn an_answer_to_what_was_not_seen_begins_nothing() {
    let Some(fixture) = Fixture::new() else { return };
    let workload = fixture.container(ID).policy(enforcing()).load();
    fixture.rules(&workload, &["allow egress to any"]);
    for (own, peer) in OWN_TO_PEER {
        for flags in ["SA", "R", "RA"] {
            workload.from_container(sent(own, peer, flags)).passes();
            assert!(fixture.flows().is_empty(), "{flags}");
            workload.to_container(answer(own, peer, "A")).is_dropped(POLICY);
        }
        let later = Frame::ip(own, peer).protocol(6, [7; 16]).fragment(24, false);
        workload.from_container(sent(own, peer, "SA").fragment(0, true)).passes();
        workload.from_container(later).passes();
        workload.to_container(answer(own, peer, "A")).is_dropped(POLICY);
    }
}

/// Whether the answer finds the flow: where nearly all entries are in use, the LRU gives up the newest of
/// those that nobody has looked up, which a SYN's would be.
#[test]
fn an_answer_passes_though_conntrack_is_full_of_flows_in_use() {
    const ENTRIES: u32 = 1024;
    const OPEN_AT_A_TIME: u64 = 50;
    let Some(fixture) = Fixture::new() else { return };
    let sender = fixture.container(ID).policy(enforcing()).conntrack_entries(ENTRIES).load();
    let receiver = fixture.container(300).id(8).policy(enforcing()).load();
    fixture.rules(&sender, &[WEB]);
    fixture.rules(&receiver, &["allow ingress from any tcp/80"]);
    let exchange = |port, request, answer| {
        let sent = Frame::ip(OWN4, PEER4).segment(port, 80, request);
        let answered = Frame::ip(PEER4, OWN4).segment(80, port, answer);
        sender.from_container(sent.clone()).passes();
        receiver.to_container(sent.forwarded()).passes();
        receiver.from_container(answered.clone()).passes();
        sender.to_container(answered.forwarded()).passes();
    };
    for batch in 0..repetitions(60) {
        let ports = || (0..OPEN_AT_A_TIME).map(|port| (1 + batch * OPEN_AT_A_TIME + port) as u16);
        // One entry without another, since the kernel makes room for an even number at a time.
        sender.from_container(Frame::ip(OWN4, OWN4).segment(batch as u16, 80, "S")).passes();
        ports().for_each(|port| exchange(port, "S", "SA"));
        ports().for_each(|port| exchange(port, "A", "A"));
        ports().for_each(|port| exchange(port, "FA", "FA"));
    }
}

#[test]
fn a_permission_to_send_is_not_the_neighbours_to_receive() {
    let Some(fixture) = Fixture::new() else { return };
    let sender = fixture.container(ID).policy(enforcing()).load();
    let receiver = fixture.container(300).id(8).policy(enforcing()).load();
    fixture.rules(&sender, &["allow egress to any"]);
    fixture.rules(&receiver, &["allow egress to any"]);
    for (own, peer) in OWN_TO_PEER {
        sender.from_container(sent(own, peer, "S")).passes();
        receiver.to_container(sent(own, peer, "S").forwarded()).is_dropped(POLICY);
    }
}

#[test]
fn a_dropped_packet_leaves_no_flow() {
    let Some(fixture) = Fixture::new() else { return };
    let workload = fixture.container(ID).policy(enforcing()).load();
    for (own, peer) in OWN_TO_PEER {
        workload.from_container(sent(own, peer, "S")).is_dropped(POLICY);
        workload.from_container(Frame::ip(own, peer).udp(1, 53)).is_dropped(POLICY);
    }
    assert!(fixture.flows().is_empty());
}

#[test]
fn without_its_rule_a_flow_ends_in_both_directions() {
    let Some(fixture) = Fixture::new() else { return };
    let workload = fixture.container(ID).policy(enforcing()).load();
    for (own, peer) in OWN_TO_PEER {
        fixture.rules(&workload, &[WEB]);
        workload.from_container(sent(own, peer, "S")).passes();
        workload.to_container(answer(own, peer, "SA")).passes();
        workload.from_container(sent(own, peer, "A")).passes();
        fixture.rules(&workload, &["allow egress to any tcp/81"]);
        workload.to_container(answer(own, peer, "A")).is_dropped(POLICY);
        workload.from_container(sent(own, peer, "A")).is_dropped(POLICY);
        fixture.rules(&workload, &[WEB, "deny egress to any tcp/80-90"]);
        workload.from_container(sent(own, peer, "A")).is_dropped(POLICY_DENY);
        workload.to_container(answer(own, peer, "A")).is_dropped(POLICY_DENY);
    }
}

#[test]
fn a_flow_ends_when_its_peer_becomes_somebody_else() {
    let Some(fixture) = Fixture::new() else { return };
    let workload = fixture.container(ID).policy(enforcing()).load();
    fixture.rules(&workload, &["allow egress to 300", "allow ingress from 300"]);
    for (own, peer) in OWN_TO_PEER {
        fixture.ipcache(&peer.to_string(), 300);
        workload.from_container(sent(own, peer, "S")).passes();
        workload.to_container(Frame::ip(peer, own).tcp(5, 6).forwarded()).passes();
        fixture.ipcache(&peer.to_string(), 301);
        workload.to_container(answer(own, peer, "SA")).is_dropped(POLICY);
        workload.from_container(sent(own, peer, "A")).is_dropped(POLICY);
        let reply = Frame::ip(own, peer).segment(6, 5, "SA");
        workload.from_container(reply).is_dropped(POLICY);
    }
}

#[test]
fn a_reply_does_not_vouch_for_the_senders_identity() {
    let Some(fixture) = Fixture::new() else { return };
    let workload =
        fixture.container(ID).policy(enforcing()).feature(|on| on.trust_marks = true).load();
    fixture.rules(&workload, &["allow ingress from 300"]);
    let marked = |own, peer, flags, mark| Frame::ip(peer, own).segment(5, 80, flags).mark(mark);
    for (own, peer) in OWN_TO_PEER {
        workload.to_container(marked(own, peer, "S", 0x012c_0f00).forwarded()).passes();
        fixture.bump_generation();
        workload.from_container(Frame::ip(own, peer).segment(80, 5, "SA")).passes();
        let other = workload.to_container(marked(own, peer, "A", 0x012d_0f00).forwarded());
        assert_eq!(other.verdict, Verdict::Drop);
        other.comes_from(301);
    }
}

#[test]
fn a_verdict_is_no_other_senders_who_comes_from_the_same_address() {
    let Some(fixture) = Fixture::new() else { return };
    let workload =
        fixture.container(ID).policy(enforcing()).feature(|on| on.trust_marks = true).load();
    fixture.rules(&workload, &["allow ingress from 300"]);
    const MARK: u32 = 0x012c_0f00;
    const OTHER: u32 = 0x012d_0f00;
    for (own, peer) in OWN_TO_PEER {
        let from = |mark, flags| {
            let frame = Frame::ip(peer, own).segment(5, 80, flags);
            workload.to_container(frame.mark(mark).forwarded())
        };
        for (begun, flags) in [("S", ["S", "A", "PA", "FA"]), ("A", ["A", "R", "RA", "S"])] {
            from(MARK, begun).passes();
            for flags in flags {
                assert_eq!(from(OTHER, flags).verdict, Verdict::Drop, "{flags}");
                from(0, flags).is_dropped(POLICY);
                // Whose flow it is goes on with it.
                from(MARK, "A").passes();
            }
            workload.from_container(Frame::ip(own, peer).segment(80, 5, "A")).passes();
            // What this host sends in its name, a reset say, is a part of it.
            workload.to_container(Frame::ip(peer, own).segment(5, 80, "RA")).passes();
            fixture.flush_conntrack();
        }
        let fragment = |mark| {
            let first = Frame::ip(peer, own).udp(5, 53).fragment(0, true);
            workload.to_container(first.mark(mark).forwarded())
        };
        fragment(MARK).passes();
        assert_eq!(fragment(OTHER).verdict, Verdict::Drop);
        fixture.flush_conntrack();
    }
}

#[test]
fn a_sender_without_an_identity_gets_none_that_another_had() {
    let Some(fixture) = Fixture::new() else { return };
    let workload =
        fixture.container(ID).policy(enforcing()).feature(|on| on.trust_marks = true).load();
    fixture.rules(&workload, &["allow ingress from world"]);
    for (own, peer) in OWN_TO_PEER {
        let frame = || Frame::ip(peer, own).udp(5, 53);
        workload.to_container(frame().forwarded()).passes();
        let other = workload.to_container(frame().mark(0x012c_0f00).forwarded());
        assert_eq!(other.verdict, Verdict::Drop);
        workload.to_container(frame().forwarded()).passes();
        // Nor the other way round, and a mark that is somebody else's says nothing.
        workload.to_container(frame().mark(0x0000_0d00).forwarded()).passes();
    }
}

#[test]
fn an_echo_is_answered_by_its_identifier_only() {
    let Some(fixture) = Fixture::new() else { return };
    let workload = fixture.container(ID).policy(enforcing()).load();
    fixture.rules(&workload, &["allow egress to any icmp/8", "allow egress to any icmp6/128"]);
    let echo4 = |kind, id: u8| [kind, 0, 0, 0, 0, id, 0, 1];
    let run = |kind, id| Frame::ip(OWN4, PEER4).protocol(1, echo4(kind, id));
    let back = |kind, id| Frame::ip(PEER4, OWN4).protocol(1, echo4(kind, id)).forwarded();
    workload.from_container(run(8, 1)).passes();
    workload.to_container(back(0, 1)).passes();
    workload.to_container(back(0, 2)).is_dropped(POLICY);
    // Who is pinged may not ping back.
    workload.to_container(back(8, 1)).is_dropped(POLICY);
    let run = |id| Frame::ip(OWN6, PEER6).icmp6(128, &[0, id, 0, 1]);
    let back = |kind, id| Frame::ip(PEER6, OWN6).icmp6(kind, &[0, id, 0, 1]).forwarded();
    workload.from_container(run(1)).passes();
    workload.to_container(back(129, 1)).passes();
    workload.to_container(back(129, 2)).is_dropped(POLICY);
    workload.to_container(back(128, 1)).is_dropped(POLICY);
}

#[test]
fn who_is_pinged_with_identifier_0_may_not_ping_back_either() {
    let Some(fixture) = Fixture::new() else { return };
    let workload = fixture.container(ID).policy(enforcing()).load();
    fixture.rules(&workload, &["allow egress to any icmp/8", "allow egress to any icmp6/128"]);
    for (own, peer) in OWN_TO_PEER {
        workload.from_container(echo(own, peer, true, 0)).passes();
        workload.to_container(echo(peer, own, false, 0).forwarded()).passes();
        workload.to_container(echo(peer, own, true, 0).forwarded()).is_dropped(POLICY);
    }
}

#[test]
fn an_echo_reply_that_nobody_asked_for_begins_no_flow() {
    let Some(fixture) = Fixture::new() else { return };
    let workload = fixture.container(ID).policy(enforcing()).load();
    fixture.rules(&workload, &["allow egress to any icmp/0", "allow egress to any icmp6/129"]);
    for (own, peer) in OWN_TO_PEER {
        workload.from_container(echo(own, peer, false, 7)).passes();
        workload.to_container(echo(peer, own, true, 7).forwarded()).is_dropped(POLICY);
    }
    assert_eq!(fixture.flows().len(), 0);
}

#[test]
fn the_fragments_of_an_echo_are_judged_by_its_type() {
    let Some(fixture) = Fixture::new() else { return };
    let workload = fixture.container(ID).policy(enforcing()).load();
    fixture.rules(&workload, &["allow egress to any icmp/8", "allow egress to any icmp6/128"]);
    for (own, peer) in OWN_TO_PEER {
        let protocol = if own.is_ipv4() { 1 } else { 58 };
        let later = |from, to| Frame::ip(from, to).protocol(protocol, [7; 16]).fragment(1, false);
        workload.from_container(echo(own, peer, true, 9).fragment(0, true)).passes();
        // Its entry is stale: the rules are asked once more.
        fixture.bump_generation();
        workload.from_container(later(own, peer)).passes();
        workload.to_container(echo(peer, own, false, 9).fragment(0, true).forwarded()).passes();
        fixture.bump_generation();
        workload.to_container(later(peer, own).forwarded()).passes();
    }
}

/// A request, or an answer to one.
fn echo(source: IpAddr, destination: IpAddr, is_request: bool, identifier: u8) -> Frame {
    let types = if source.is_ipv4() { [0, 8] } else { [129, 128] };
    let message = [types[usize::from(is_request)], 0, 0, 0, 0, identifier, 0, 1];
    let protocol = if source.is_ipv4() { 1 } else { 58 };
    Frame::ip(source, destination).protocol(protocol, message)
}

#[test]
fn later_fragments_go_the_way_of_the_first() {
    let Some(fixture) = Fixture::new() else { return };
    let workload = fixture.container(ID).policy(enforcing()).load();
    fixture.rules(&workload, &["allow egress to any udp/53"]);
    for (own, peer) in OWN_TO_PEER {
        let first = Frame::ip(own, peer).udp(4000, 53).fragment(0, true);
        let later = Frame::ip(own, peer).protocol(17, [7; 16]).fragment(16, false);
        workload.from_container(later.clone()).is_dropped(FRAGMENT_NOT_FOUND);
        workload.from_container(first).passes();
        workload.from_container(later).passes();
        // The answer's fragments, which have another identification's ports.
        let first = Frame::ip(peer, own).udp(53, 4000).fragment(0, true);
        let later = Frame::ip(peer, own).protocol(17, [7; 16]).fragment(16, false);
        workload.to_container(later.clone().forwarded()).is_dropped(FRAGMENT_NOT_FOUND);
        workload.to_container(first.forwarded()).passes();
        workload.to_container(later.forwarded()).passes();
    }
}

#[test]
fn nobody_puts_fragments_together_before_they_are_parted_again() {
    let Some(fixture) = Fixture::new() else { return };
    let workload = fixture.container(ID).policy(enforcing()).load();
    fixture.rules(&workload, &["allow egress to any udp/53"]);
    for (own, peer) in OWN_TO_PEER {
        let first = Frame::ip(own, peer).udp(4000, 53).fragment(0, true);
        let later = Frame::ip(own, peer).protocol(17, [7; 16]).fragment(16, false);
        workload.from_container(first.clone().mark(0).of_segments()).is_dropped(134);
        workload.from_container(first).passes();
        workload.from_container(later.mark(0).of_segments()).is_dropped(134);
    }
}

#[test]
fn nothing_is_kept_of_a_first_fragment_that_could_not_be_read() {
    let Some(fixture) = Fixture::new() else { return };
    let audit = Enforcement { ingress: Mode::Audit, egress: Mode::Audit, ..Enforcement::default() };
    let audited = fixture.container(2).policy(audit).load();
    // Too short for the header of TCP (RFC 1858).
    let short = Frame::ipv4(PEER4, OWN4).protocol(6, [7; 8]).fragment(0, true);
    audited.to_container(short.forwarded()).passes();
    assert_eq!((fixture.fragments(), fixture.flows().len()), (0, 0));
}

#[test]
fn protocols_without_ports_have_flows_too() {
    let Some(fixture) = Fixture::new() else { return };
    let workload = fixture.container(ID).policy(enforcing()).load();
    // GRE, and AH, whose header says that TCP follows.
    for (protocol, bytes) in [(47, [0; 24]), (51, [6; 24])] {
        fixture.rules(&workload, &[format!("allow egress to any proto/{protocol}")]);
        for (own, peer) in OWN_TO_PEER {
            let answer = Frame::ip(peer, own).protocol(protocol, bytes).forwarded();
            workload.to_container(answer.clone()).is_dropped(POLICY);
            workload.from_container(Frame::ip(own, peer).protocol(protocol, bytes)).passes();
            workload.to_container(answer).passes();
            workload.from_container(Frame::ip(own, peer).protocol(50, [0; 8])).is_dropped(POLICY);
        }
    }
}

#[test]
fn a_rule_for_ports_opens_nothing_behind_an_authentication_header() {
    let Some(fixture) = Fixture::new() else { return };
    let nic = fixture.netdev(1).address(OWN4).address(OWN6).policy(enforcing()).load();
    fixture.rules(&nic, &["allow ingress from any tcp", "allow ingress from any udp"]);
    for (own, peer) in OWN_TO_PEER {
        let ah = Frame::ip(peer, own).authentication(12);
        nic.from_netdev(ah.clone().tcp(4000, 80)).is_dropped(POLICY);
        nic.from_netdev(ah.udp(4000, 53)).is_dropped(POLICY);
    }
    fixture.rules(&nic, &["allow ingress from any proto/51", "deny ingress from any tcp"]);
    fixture.bump_generation();
    for (own, peer) in OWN_TO_PEER {
        nic.from_netdev(Frame::ip(peer, own).authentication(12).tcp(4000, 80)).passes();
    }
}

#[test]
fn an_expired_flow_is_none() {
    let Some(fixture) = Fixture::new() else { return };
    let workload = fixture.container(ID).policy(enforcing()).load();
    fixture.rules(&workload, &[WEB]);
    for (own, peer) in OWN_TO_PEER {
        workload.from_container(sent(own, peer, "S")).passes();
        workload.from_container(sent(own, peer, "A")).passes();
        fixture.change_flows(|flow| flow.expires = 1);
        workload.to_container(answer(own, peer, "A")).is_dropped(POLICY);
    }
}

fn assert_near(seconds: u32, wanted: u32) {
    assert!(seconds.abs_diff(wanted) <= 2, "{seconds} and not {wanted}");
}

#[test]
fn a_flow_lives_by_what_was_seen_of_it() {
    let Some(fixture) = Fixture::new() else { return };
    let workload = fixture.container(ID).policy(enforcing()).load();
    fixture.rules(&workload, &["allow egress to any"]);
    for (own, peer) in OWN_TO_PEER {
        // In seconds.
        let lifetime = |sent_flags: &[&str], answered: &[&str]| {
            fixture.flush_conntrack();
            sent_flags
                .iter()
                .for_each(|flags| drop(workload.from_container(sent(own, peer, flags))));
            answered.iter().for_each(|flags| drop(workload.to_container(answer(own, peer, flags))));
            let [flow] = fixture.flows().try_into().expect("a flow");
            // It is a tick more, for it to be as long at least; and some may have gone by.
            let left = f64::from(flow.expires - now()) * 64.0;
            (left / f64::from(sys::jiffies_per_second())).round() as u32
        };
        assert_near(lifetime(&["S"], &["SA"]), 60);
        assert_near(lifetime(&["S", "A"], &["A"]), 21600);
        assert_near(lifetime(&["S", "A", "FA"], &["A"]), 21600);
        assert_near(lifetime(&["S", "A", "FA"], &["FA"]), 10);
        // Anybody may have sent it.
        assert_near(lifetime(&["S"], &["R"]), 60);
        assert_near(lifetime(&["S", "R"], &[]), 10);
    }
}

#[test]
fn datagrams_that_are_answered_for_two_seconds_are_a_stream() {
    let Some(fixture) = Fixture::new() else { return };
    let workload = fixture.container(ID).policy(enforcing()).load();
    fixture.rules(&workload, &["allow egress to any"]);
    for (own, peer) in OWN_TO_PEER {
        fixture.flush_conntrack();
        let asks = || _ = workload.from_container(Frame::ip(own, peer).udp(9, 53)).passes();
        let left = || (fixture.flows()[0].expires - now()) * 64 / sys::jiffies_per_second();
        let grows_older =
            || fixture.change_flows(|flow| flow.born = flow.born.wrapping_sub(ticks(3) as u16));
        asks();
        grows_older();
        asks();
        assert_near(left(), 30);
        fixture.flush_conntrack();
        asks();
        workload.to_container(Frame::ip(peer, own).udp(53, 9).forwarded()).passes();
        asks();
        assert_near(left(), 30);
        grows_older();
        asks();
        assert_near(left(), 120);
    }
}

#[test]
fn each_packet_of_an_established_flow_pushes_its_end_back() {
    let Some(fixture) = Fixture::new() else { return };
    let workload = fixture.container(ID).policy(enforcing()).load();
    fixture.rules(&workload, &[WEB, "allow egress to any udp"]);
    for (own, peer) in OWN_TO_PEER {
        fixture.flush_conntrack();
        workload.from_container(sent(own, peer, "S")).passes();
        workload.to_container(answer(own, peer, "SA")).passes();
        workload.from_container(sent(own, peer, "A")).passes();
        workload.from_container(Frame::ip(own, peer).udp(9, 9)).passes();
        let segment = |is_answer: bool| match is_answer {
            true => answer(own, peer, "A"),
            false => sent(own, peer, "A").into(),
        };
        let datagram = |is_answer: bool| match is_answer {
            true => Frame::ip(peer, own).udp(9, 9).forwarded(),
            false => Frame::ip(own, peer).udp(9, 9).into(),
        };
        for is_answer in [false, true] {
            let before: Vec<u32> = fixture.flows().iter().map(|flow| flow.expires).collect();
            fixture.change_flows(|flow| flow.expires -= ticks(20));
            for packet in [segment(is_answer), datagram(is_answer)] {
                match is_answer {
                    true => workload.to_container(packet).passes(),
                    false => workload.from_container(packet).passes(),
                };
            }
            let after: Vec<u32> = fixture.flows().iter().map(|flow| flow.expires).collect();
            assert!(before.iter().zip(&after).all(|(before, after)| before <= after));
        }
    }
}

#[test]
fn a_connection_from_the_other_side_is_a_new_flow() {
    let Some(fixture) = Fixture::new() else { return };
    let workload = fixture.container(ID).policy(enforcing()).load();
    fixture.rules(&workload, &[WEB]);
    for (own, peer) in OWN_TO_PEER {
        workload.from_container(sent(own, peer, "S")).passes();
        // Both ends open at once.
        workload.to_container(answer(own, peer, "S")).passes();
        workload.from_container(sent(own, peer, "A")).passes();
        workload.to_container(answer(own, peer, "S")).is_dropped(POLICY);
        workload.to_container(answer(own, peer, "A")).passes();
    }
}

#[test]
fn a_flow_that_began_with_its_end_is_no_connection_that_opens() {
    let Some(fixture) = Fixture::new() else { return };
    let workload = fixture.container(ID).policy(enforcing()).load();
    fixture.rules(&workload, &["allow ingress from any"]);
    for (own, peer) in OWN_TO_PEER {
        workload.to_container(answer(own, peer, "FA")).passes();
        workload.from_container(sent(own, peer, "A")).passes();
        workload.from_container(sent(own, peer, "S")).is_dropped(POLICY);
    }
}

#[test]
fn a_reset_that_nobody_meant_does_not_shorten_a_flow() {
    let Some(fixture) = Fixture::new() else { return };
    let workload = fixture.container(ID).policy(enforcing()).load();
    fixture.rules(&workload, &[WEB]);
    for (own, peer) in OWN_TO_PEER {
        fixture.flush_conntrack();
        workload.from_container(sent(own, peer, "S")).passes();
        workload.from_container(sent(own, peer, "A")).passes();
        workload.to_container(answer(own, peer, "R")).passes();
        let reset = fixture.flows()[0];
        assert_eq!((reset.state & RESET, reset.state & CLOSING), (RESET, 0));
        workload.to_container(answer(own, peer, "A")).passes();
        let goes_on = fixture.flows()[0];
        assert_eq!(goes_on.state & RESET, 0);
        assert!(reset.expires + ticks(3600) > goes_on.expires);
    }
}

#[test]
fn a_direction_without_a_policy_allows_its_flows_and_their_replies() {
    let Some(fixture) = Fixture::new() else { return };
    let policy = Enforcement { ingress: Mode::Off, ..enforcing() };
    let workload = fixture.container(ID).policy(policy).load();
    for (own, peer) in OWN_TO_PEER {
        workload.from_container(sent(own, peer, "S")).is_dropped(POLICY);
        workload.to_container(Frame::ip(peer, own).tcp(5, 80).forwarded()).passes();
        workload.from_container(Frame::ip(own, peer).segment(80, 5, "SA")).passes();
    }
}

#[test]
fn audit_lets_pass_and_tells_what_it_would_have_dropped() {
    let Some(fixture) = Fixture::new() else { return };
    let audit = Enforcement { ingress: Mode::Audit, egress: Mode::Audit, ..Enforcement::default() };
    let workload = fixture.container(ID).policy(audit).load();
    fixture.rules(&workload, &["deny egress to any tcp/80"]);
    for (own, peer) in OWN_TO_PEER {
        for (port, reason) in [(80, POLICY_DENY), (81, POLICY)] {
            let frame = Frame::ip(own, peer).segment(4000, port, "S");
            let run = workload.from_container(frame);
            run.passes_with_mark(ID_MARK);
            let verdict = run.policy_verdict.expect("a verdict");
            assert_eq!((verdict.reason.0, verdict.audited), (reason, 1));
            // Once for each flow.
            let frame = Frame::ip(own, peer).segment(4000, port, "A");
            let run = workload.from_container(frame);
            assert!(run.passes().policy_verdict.is_none());
        }
    }
    assert_eq!(fixture.metric(cm_direction::CM_EGRESS, cm_counter::CM_COUNTER_AUDITED.0).0, 8);
    let counted = counters::read(&fixture.world.root()).expect("read the counters");
    let fates = counted.iter().filter_map(|line| match line.of {
        Counted::Fate(reason) => Some(reason),
        Counted::Counter(_) => None,
    });
    assert_eq!(fates.collect::<Vec<_>>(), [cm_reason::CM_FORWARDED], "a counter is no fate");
    // What audit has let pass, enforcing does not take for allowed.
    let workload = fixture.container(ID).policy(enforcing()).load();
    for (own, peer) in OWN_TO_PEER {
        workload.from_container(sent(own, peer, "A")).is_dropped(POLICY);
    }
}

/// Flows whose first packets went by before there was a policy: as attach takes them over from the kernel.
fn adopt(fixture: &Fixture, adopted: cm_ct_picked_up) {
    fixture.change_flows(|flow| {
        flow.picked_up = adopted.0 as u8;
        flow.claimed_identity = 0;
        flow.verdict = 1 << 16;
    });
}

#[test]
fn flows_older_than_their_policy_go_on_unless_both_directions_deny_them() {
    let Some(fixture) = Fixture::new() else { return };
    let workload = fixture.container(ID).policy(enforcing()).load();
    for (own, peer) in OWN_TO_PEER {
        fixture.rules(&workload, &["allow egress to any"]);
        workload.from_container(sent(own, peer, "S")).passes();
        workload.from_container(sent(own, peer, "A")).passes();
        adopt(&fixture, cm_ct_picked_up::CM_CT_PICKED_UP_UNKNOWN);
        fixture.rules(&workload, &["allow egress to any tcp/22"]);
        workload.from_container(sent(own, peer, "A")).passes();
        workload.to_container(answer(own, peer, "A")).passes();
        // It is new as soon as it says so.
        workload.from_container(sent(own, peer, "S")).is_dropped(POLICY);
        workload.to_container(answer(own, peer, "A")).passes();
        fixture.rules(&workload, &["deny ingress from any tcp/4000"]);
        workload.to_container(answer(own, peer, "A")).is_dropped(POLICY_DENY);
        // Either direction may allow it.
        fixture.rules(&workload, &["deny ingress from any tcp/4000", WEB]);
        workload.to_container(answer(own, peer, "A")).passes();
        fixture.flush_conntrack();
    }
}

#[test]
fn of_an_older_flow_whose_originator_is_known_only_the_rules_of_its_direction_count() {
    let Some(fixture) = Fixture::new() else { return };
    let workload = fixture.container(ID).policy(enforcing()).load();
    for (own, peer) in OWN_TO_PEER {
        fixture.rules(&workload, &["allow egress to any"]);
        workload.from_container(sent(own, peer, "S")).passes();
        adopt(&fixture, cm_ct_picked_up::CM_CT_PICKED_UP_KNOWN);
        fixture.rules(&workload, &["deny ingress from any"]);
        workload.to_container(answer(own, peer, "A")).passes();
        fixture.rules(&workload, &["deny egress to any", "allow ingress from any"]);
        workload.to_container(answer(own, peer, "A")).is_dropped(POLICY_DENY);
        fixture.flush_conntrack();
    }
}

#[test]
fn nobody_believes_a_segment_whose_connection_the_kernel_does_not_know() {
    let Some(fixture) = Fixture::new() else { return };
    let policy = Enforcement { adopt_until_ns: u64::MAX, ..enforcing() };
    let workload = fixture.container(ID).policy(policy.clone()).load();
    let nic = fixture.netdev(1).address(OWN4).address(OWN6).policy(policy).load();
    for (own, peer) in OWN_TO_PEER {
        workload.from_container(sent(own, peer, "A")).is_dropped(POLICY);
        nic.from_netdev(answer(own, peer, "A")).is_dropped(POLICY);
        nic.to_netdev(sent(own, peer, "A")).is_dropped(POLICY);
    }
}

#[test]
fn audit_does_not_guess_who_began_a_connection() {
    let Some(fixture) = Fixture::new() else { return };
    let audit = Enforcement { ingress: Mode::Audit, egress: Mode::Audit, ..Enforcement::default() };
    for (own, peer) in OWN_TO_PEER {
        let audited = fixture.container(ID).policy(audit.clone()).load();
        fixture.rules(&audited, &[WEB]);
        let run = audited.to_container(answer(own, peer, "A"));
        assert_eq!(run.passes().policy_verdict.expect("a verdict").audited, 1);
        let workload = fixture.container(ID).policy(enforcing()).load();
        fixture.rules(&workload, &[WEB]);
        workload.from_container(sent(own, peer, "A")).passes();
        workload.to_container(answer(own, peer, "A")).passes();
        // Nor a datagram's flow.
        let question = Frame::ip(own, peer).udp(4000, 53);
        let reply = Frame::ip(peer, own).udp(53, 4000).forwarded();
        fixture.rules(&audited, &["allow egress to any udp/53"]);
        audited.to_container(reply.clone()).passes();
        fixture.rules(&workload, &["allow egress to any udp/53"]);
        workload.to_container(reply.clone()).is_dropped(POLICY);
        workload.from_container(question).passes();
        workload.to_container(reply).passes();
    }
}

#[test]
fn an_adopted_flows_peer_is_who_it_says_when_it_sends() {
    let Some(fixture) = Fixture::new() else { return };
    let workload = fixture.container(ID).policy(enforcing()).load();
    for (own, peer) in OWN_TO_PEER {
        fixture.rules(&workload, &["allow egress to any"]);
        workload.from_container(sent(own, peer, "S")).passes();
        workload.from_container(sent(own, peer, "A")).passes();
        adopt(&fixture, cm_ct_picked_up::CM_CT_PICKED_UP_UNKNOWN);
        fixture.rules(&workload, &["deny egress to any", "allow ingress from host"]);
        workload.from_container(sent(own, peer, "A")).is_dropped(POLICY_DENY);
        // This host sends, and a rule allows it to begin.
        workload.to_container(Frame::ip(peer, own).segment(80, 4000, "A")).passes();
        workload.from_container(sent(own, peer, "A")).passes();
        fixture.rules(&workload, &["deny egress to any", "allow ingress from world"]);
        workload.from_container(sent(own, peer, "A")).is_dropped(POLICY_DENY);
        adopt(&fixture, cm_ct_picked_up::CM_CT_PICKED_UP_UNKNOWN);
        workload.from_container(sent(own, peer, "A")).passes();
        fixture.flush_conntrack();
    }
}

#[test]
fn a_verdict_is_news_once_for_each_generation() {
    let Some(fixture) = Fixture::new() else { return };
    let workload = fixture.container(ID).policy(enforcing()).load();
    fixture.rules(&workload, &["allow egress to any udp/53"]);
    for (own, peer) in OWN_TO_PEER {
        let is_news = || {
            let run = workload.from_container(Frame::ip(own, peer).udp(1000, 53));
            run.passes().policy_verdict.is_some()
        };
        assert_eq!([is_news(), is_news()], [true, false]);
        fixture.bump_generation();
        assert_eq!([is_news(), is_news()], [true, false]);
    }
}

#[test]
fn flows_that_end_are_not_taken_for_displaced() {
    let Some(fixture) = Fixture::new() else { return };
    let root = fixture.world.root();
    let workload = fixture.container(ID).policy(enforcing()).load();
    fixture.rules(&workload, &["allow egress to any"]);
    let send = || {
        for (own, peer) in OWN_TO_PEER {
            for port in 1..=10 {
                workload.from_container(Frame::ip(own, peer).udp(9, port)).passes();
            }
        }
    };
    let flows = || Conntrack::open(&root, None).expect("open").expect("the shared tables");
    let there = || flows().usage().expect("count").map(|usage| usage.entries());
    send();
    assert_eq!(there(), [10, 10]);
    fixture.change_flows(|flow| flow.expires = 1);
    assert_eq!(there(), [0, 0]);
    send();
    assert_eq!(flows().flush(None).expect("flush"), 20);
    send();
    assert_eq!(there(), [10, 10]);
    let counted = counters::read(&root).expect("read the metrics");
    let is_counter = |line: &counters::Line| matches!(line.of, Counted::Counter(_));
    assert!(!counted.iter().any(is_counter), "{counted:?}");
}

#[test]
fn verdicts_are_told_of_the_directions_that_were_asked_for() {
    let Some(fixture) = Fixture::new() else { return };
    for (log, told) in [
        (VerdictLog::None, (false, false)),
        (VerdictLog::Ingress, (true, false)),
        (VerdictLog::Egress, (false, true)),
        (VerdictLog::Both, (true, true)),
    ] {
        let policy = Enforcement { verdict_log: log, ..enforcing() };
        let workload = fixture.container(ID).policy(policy).load();
        for (own, peer) in OWN_TO_PEER {
            fixture.rules(&workload, &["allow ingress from any", "allow egress to any"]);
            let received = workload.to_container(Frame::ip(peer, own).tcp(1, 2).forwarded());
            let sent = workload.from_container(Frame::ip(own, peer).tcp(3, 4));
            let verdicts = [&received, &sent].map(|run| run.passes().policy_verdict.is_some());
            assert_eq!((verdicts[0], verdicts[1]), told, "{log:?}");
        }
    }
}
