//! Errors pass with what they are about, and to nobody else.

use nix::sys::socket::SockProtocol;

use super::icmp::{Message, TAIL, arrived, attach_red, got, in_fragments, routed, tunnel};
use super::trailers::raw;
use super::{HOST, OPEN, RED, WIRE, honest, host, inside};
use crate::common::packet::Frame;
use crate::common::traffic::{Connection, listen, udp};
use crate::common::wire::with_options;

#[test]
fn an_error_passes_only_to_who_has_sent_what_it_quotes() {
    let Some((world, red, wire, _open)) = routed() else { return };
    world.workload("blue", 2);
    let blue = inside(&world, "blue");
    let _open_too = udp(&world, "blue", &format!("[::]:{OPEN}"));
    attach_red(&world);
    for (own, [out, _]) in RED.into_iter().zip(WIRE) {
        let is_ipv4 = own.contains('.');
        let (protocol, unreachable) = if is_ipv4 { (1, [3, 1]) } else { (58, [1, 0]) };
        let error = |ends: [&str; 2], quoted: Frame, name: &str| {
            let header = [unreachable[0], unreachable[1], 0, 0, 0, 0, 0, 0];
            let quote = &quoted.bytes()[14..];
            let body = [&header, quote, name.as_bytes(), &TAIL].concat();
            vec![(
                name.to_owned(),
                Frame::between(ends[0], ends[1]).protocol(protocol, body).bytes(),
            )]
        };
        let known = || Frame::between(own, out).datagram(5000, OPEN, "the flow");
        red.send(known());
        wire.before("the flow");
        let ends = [out, own];
        // A router in between may say it, too: here another workload, as nobody has attached it.
        let router = if is_ipv4 { "10.2.0.10" } else { "fd00:2::10" };
        for (from, source) in [(&wire, out), (&blue, router)] {
            let known = error([source, own], known(), "<known>");
            from.send(known[0].1.clone());
            wire.send(honest(ends));
            assert_eq!(arrived(&red, &known), ["<known>"], "from {source}");
        }
        for (quoted, name) in [
            (Frame::between(own, out).datagram(5001, OPEN, ""), "<another port>"),
            (Frame::between(own, out).stream([5000, OPEN], "A", [1, 1], ""), "<tcp>"),
            (Frame::between(out, own).datagram(OPEN, 5000, ""), "<its answer>"),
            (Frame::between(own, router).datagram(5000, OPEN, ""), "<to another>"),
        ] {
            let unknown = error(ends, quoted, name);
            assert_eq!(tunnel(&wire, &red, ends, &unknown), [""; 0]);
        }
        // From the workload it goes to who has sent that, and not to an accomplice.
        let answer = Frame::between(out, own).datagram(OPEN, 5000, "hello");
        let to_sender = error([own, out], answer.clone(), "<to its sender>");
        assert_eq!(tunnel(&red, &wire, [own, out], &to_sender), ["<to its sender>"]);
        let elsewhere = error([own, router], answer, "<to another>");
        assert_eq!(tunnel(&red, &blue, [own, router], &elsewhere), [""; 0]);
        // In fragments nobody can tell.
        for named in [0, 1] {
            let cut = in_fragments(&error(ends, known(), "<known, in fragments>"), named);
            assert_eq!(tunnel(&wire, &red, ends, &cut), [""; 0]);
        }
        // With options before it, it is the same.
        if !is_ipv4 {
            let known = error(ends, known(), "<behind options>");
            wire.send(with_options(&known[0].1, 1));
            wire.send(honest(ends));
            assert_eq!(arrived(&red, &known), ["<behind options>"]);
        }
    }
}

/// Errors from a stranger to the host about these packets of its own: unreachable.
fn about(ends: [&str; 2], quoted: &[(&str, Frame)]) -> Vec<Message> {
    let (protocol, kind) = if ends[0].contains('.') { (1, [3, 1]) } else { (58, [1, 0]) };
    let error = |(name, quoted): &(&str, Frame)| {
        let header = [kind[0], kind[1], 0, 0, 0, 0, 0, 0];
        let quote = quoted.clone().bytes()[14..].to_vec();
        let body = [&header, quote.as_slice(), name.as_bytes(), &TAIL].concat();
        let frame = Frame::between(ends[0], ends[1]).protocol(protocol, body);
        ((*name).to_owned(), frame.bytes())
    };
    quoted.iter().map(error).collect()
}

#[test]
fn a_host_hears_of_what_its_sockets_have_sent() {
    let Some((world, wire)) = host() else { return };
    let _datagrams = udp(&world, HOST, "[::]:5000");
    let server = listen(&world, HOST, 5001);
    let connections = WIRE.map(|[_, here]| Connection::open(&world, "wire", &server, here));
    for failsafe in ["none", "tcp/22"] {
        let modes = format!("--policy enforce --failsafe {failsafe} --adopt 0 --yes");
        world.cilmark_ok(&format!("attach wire --role netdev {modes}"));
        for echo in ["icmp/8", "icmp6/128"] {
            world.cilmark_ok(&format!("policy add wire allow ingress from any {echo} --yes"));
        }
        for ([out, here], connection) in WIRE.into_iter().zip(&connections) {
            let port = connection.client.local_addr().expect("an address").port();
            let sent = || Frame::between(here, out);
            let segment = |ports| sent().stream(ports, "A", [1, 1], "");
            let messages = about(
                [out, here],
                &[
                    ("<of a socket>", sent().datagram(5000, 7777, "")),
                    ("<of none>", sent().datagram(5009, 7777, "")),
                    ("<of a connection>", segment([5001, port])),
                    ("<of a server, to nobody>", segment([5001, port ^ 1])),
                    ("<of a port that stays open>", segment([22, 7777])),
                ],
            );
            let socket = raw(
                here,
                if here.contains('.') { SockProtocol::Icmp } else { SockProtocol::IcmpV6 },
            );
            messages.iter().for_each(|(_, frame)| wire.send(frame.clone()));
            let (protocol, kind) = if here.contains('.') { (1, 8) } else { (58, 128) };
            let echo = [[kind, 0, 0, 0, 7, 7, 0, 1].as_slice(), b"honest"].concat();
            wire.send(Frame::between(out, here).protocol(protocol, echo));
            let mut expected = vec!["<of a socket>", "<of a connection>"];
            if failsafe != "none" {
                expected.push("<of a port that stays open>");
            }
            assert_eq!(got(&socket, &messages, "honest"), expected, "to {here}");
        }
    }
}
