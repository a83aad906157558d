//! A workload sends as itself.

use serde_json::Value;

use super::{drops, red_and_blue};
use crate::common::World;
use crate::common::traffic::{arrives, is_lost, ping, udp};
use crate::common::world::wait_for;

#[test]
fn a_spoofed_source_is_dropped_and_seen_with_its_reason() {
    for (own, spoofed, bind, to) in [
        ("10.1.0.10", "10.1.0.99", "0.0.0.0:0", "10.2.0.10"),
        ("fd00:1::10", "fd00:1::99", "[::]:0", "fd00:2::10"),
    ] {
        let claim = move || {
            let Some(world) = red_and_blue("") else { return };
            world.sh(&format!(
                "ip -n red addr add {spoofed} dev eth0 nodad 2>&1 ||
                               ip -n red addr add {spoofed} dev eth0"
            ));
            let blue = udp(&world, "blue", bind);
            let with_port =
                |ip: &str| if ip.contains(':') { format!("[{ip}]:0") } else { format!("{ip}:0") };
            let honest = udp(&world, "red", &with_port(own));
            let spoofer = udp(&world, "red", &with_port(spoofed));
            assert_eq!(arrives(&honest, &blue, to).ip().to_string(), own);
            let before = drops(&world, 132);
            is_lost(&spoofer, &blue, to);
            assert!(drops(&world, 132) > before);
            let monitor = world.start("monitor --json");
            let line = monitor.stdout_line(|line| line.contains("\"udp\""));
            let line: Value = serde_json::from_str(&line).unwrap();
            assert_eq!(line["reason"]["code"], 132);
            assert_eq!((&line["source"], &line["destination"]), (&spoofed.into(), &to.into()));
            assert_eq!(line["sport"], spoofer.local_addr().unwrap().port());
            assert_eq!(line["dport"], blue.local_addr().unwrap().port());
            assert_eq!(line["source_identity"], 1234);
            assert_eq!(world.status("blue")["drops"], 0);
        };
        std::thread::spawn(claim).join().unwrap_or_else(|_| panic!("{spoofed}"));
    }
}

#[test]
fn without_addresses_there_is_no_check() {
    let Some(world) = red_and_blue("") else { return };
    world.cilmark_ok("attach red --id 1234");
    world.sh("ip -n red addr add 10.1.0.99 dev eth0");
    let (spoofer, blue) = (udp(&world, "red", "10.1.0.99:0"), udp(&world, "blue", "0.0.0.0:0"));
    arrives(&spoofer, &blue, "10.2.0.10");
}

#[test]
fn a_workload_without_an_address_may_ask_for_one_by_dhcp_and_nothing_else() {
    let Some(world) = red_and_blue("") else { return };
    // The server side, which is the router itself.
    let server = std::net::UdpSocket::bind("0.0.0.0:67").unwrap();
    server.set_read_timeout(Some(crate::common::process::PATIENCE)).unwrap();
    world.sh("ip -n red addr flush dev eth0");
    let send = |from: u16, to: u16| {
        world.sh(&format!(
            "printf hello | ip netns exec red socat -u - \
             UDP4-DATAGRAM:255.255.255.255:{to},broadcast,so-bindtodevice=eth0,bind=:{from}"
        ));
    };
    let before = drops(&world, 132);
    send(68, 67);
    let (_, from) = server.recv_from(&mut [0; 16]).expect("the request arrives");
    assert_eq!(from.to_string(), "0.0.0.0:68");
    assert_eq!(drops(&world, 132), before);
    send(69, 67);
    assert_eq!(drops(&world, 132), before + 1);
}

#[test]
fn a_tagged_frame_is_checked_and_stamped_like_any_other() {
    use cilmark::kernel::sys::Hook;
    let Some(world) = red_and_blue("--workload-mac any") else { return };
    // Only what is sent here is to be counted.
    world.sh("ip netns exec red sysctl -qw net.ipv6.conf.all.disable_ipv6=1");
    let third_party = crate::common::third_party::ThirdParty::behind("red", Hook::Ingress);
    for (tags, source, passes) in [
        (&[5][..], [10, 1, 0, 10], true),
        (&[5], [10, 1, 0, 99], false),
        (&[5, 6], [10, 1, 0, 10], true),
        (&[5, 6], [10, 1, 0, 99], false),
    ] {
        let (stamped, dropped) = (third_party.packets(super::RED), drops(&world, 132));
        world.send_frame("red", "eth0", &frame(tags, source));
        wait_for("the frame", || {
            (third_party.packets(super::RED), drops(&world, 132)) != (stamped, dropped)
        });
        assert_eq!(
            third_party.packets(super::RED) - stamped,
            u64::from(passes),
            "{tags:?} {source:?}"
        );
        assert_eq!(drops(&world, 132) - dropped, u64::from(!passes), "{tags:?} {source:?}");
    }
}

#[test]
fn a_workload_does_not_advertise_itself_as_a_router() {
    let Some(world) = red_and_blue("--workload-mac any") else { return };
    let link_local = [0xfe, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x10];
    let all_nodes = [0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
    let advertisement =
        etherparse::PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], [0x33, 0x33, 0, 0, 0, 1])
            .ipv6(link_local, all_nodes, 255)
            .icmpv6_raw(134, 0, [64, 0, 7, 8]);
    let mut bytes = Vec::new();
    advertisement.write(&mut bytes, &[0; 8]).unwrap();
    world.sh("sysctl -qw net.ipv6.conf.red.accept_ra=2");
    world.send_frame("red", "eth0", &bytes);
    wait_for("the drop", || drops(&world, 176) == 1);
    assert_eq!(world.sh("ip -6 route show default"), "");
}

/// A UDP datagram inside VLAN tags.
fn frame(tags: &[u16], source: [u8; 4]) -> Vec<u8> {
    let mut bytes = Vec::new();
    etherparse::PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2])
        .ipv4(source, [10, 2, 0, 10], 64)
        .udp(1, 2)
        .write(&mut bytes, b"hello")
        .unwrap();
    let inner: Vec<u8> =
        tags.iter().flat_map(|tag| [[0x81, 0], tag.to_be_bytes()].concat()).collect();
    bytes.splice(12..12, inner);
    bytes
}

#[test]
fn what_was_found_of_a_process_is_all_that_its_workload_may_send_from() {
    let Some(world) = World::new() else { return };
    world.workload("red", 1);
    world.workload("blue", 2);
    let process = world.spawn("ip netns exec red sleep 1000");
    wait_for("the process", || world.sh("ip netns pids red").trim() == process.pid().to_string());
    world.cilmark_ok(&format!("attach --pid {} --id 1234 --policy enforce", process.pid()));
    world.cilmark_ok("policy add red allow egress to any udp allow ingress from any icmp/8");
    world.sh(
        "ip -n red addr add 10.1.0.99/24 dev eth0; ip -n red addr add fd00:1::99/64 dev eth0 nodad",
    );
    let blue = udp(&world, "blue", "[::]:0");
    for (own, foreign, to) in [
        ("10.1.0.10:0", "10.1.0.99:0", "10.2.0.10"),
        ("[fd00:1::10]:0", "[fd00:1::99]:0", "fd00:2::10"),
    ] {
        let before = drops(&world, 132);
        arrives(&udp(&world, "red", own), &blue, to);
        assert_eq!(drops(&world, 132), before);
        is_lost(&udp(&world, "red", foreign), &blue, to);
        assert!(drops(&world, 132) > before, "{foreign}");
    }
    ping(&world, crate::common::traffic::HOST, "10.1.0.10");
    world.sh("ip -n red link set eth0 address 02:00:00:00:00:99");
    let before = drops(&world, 132);
    is_lost(&udp(&world, "red", "10.1.0.10:0"), &blue, "10.2.0.10");
    assert!(drops(&world, 132) > before);
}
