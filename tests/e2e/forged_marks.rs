//! Marks that nobody of us has set: they change no verdict.

use std::io::{Read, Write};
use std::net::UdpSocket;

use nix::sys::socket::{setsockopt, sockopt};

use super::red_and_blue;
use crate::common::World;
use crate::common::process::PATIENCE;
use crate::common::traffic::{
    Connection, HOST, any, arrives, is_lost, is_refused, listen, ping, udp,
};
use crate::common::world::wait_for;

/// The friend 1234, this host, and proxies in the friend's name.
const FORGED: [u32; 4] = [0x04d2_0f00, 0x0c00, 0x04d2_0a00, 0x04d2_0b00];

const BOTH: [(&str, &str); 2] = [("0.0.0.0:0", "10.1.0.10"), ("[::]:0", "fd00:1::10")];

fn mark(socket: &UdpSocket, mark: u32) {
    setsockopt(socket, sockopt::Mark, &mark).expect("set SO_MARK");
}

#[test]
fn a_process_of_the_host_is_the_host_to_a_workload() {
    let Some(world) = red_and_blue("--policy enforce") else { return };
    world.cilmark_ok("policy add red allow ingress from 1234 allow ingress from 199472");
    for (any, address) in BOTH {
        let (host, red) = (udp(&world, HOST, any), udp(&world, "red", any));
        for forged in FORGED {
            mark(&host, forged);
            is_lost(&host, &red, address);
        }
        world.cilmark_ok("policy add red allow ingress from host");
        for forged in FORGED {
            mark(&host, forged);
            arrives(&host, &red, address);
        }
        world.cilmark_ok("policy del red allow ingress from host");
    }
}

#[test]
fn a_process_of_the_host_is_the_host_to_its_nic() {
    let Some(world) = World::new() else { return };
    world.workload("red", 1);
    world.cilmark_ok("attach red --role netdev --policy enforce --failsafe none --adopt 0 --yes");
    for (any, address) in BOTH {
        let (host, red) = (udp(&world, HOST, any), udp(&world, "red", any));
        for forged in FORGED {
            mark(&host, forged);
            is_lost(&host, &red, address);
        }
    }
}

/// Its connections are no masqueraded ones, which nobody here waits for.
#[test]
fn what_a_trusted_proxy_asks_is_answered() {
    let Some(world) = World::new() else { return };
    world.workload("red", 1);
    let nic = "attach red --role netdev --policy enforce --failsafe none --adopt 0 --yes";
    world.cilmark_ok(&format!("{nic} --trust-proxy"));
    for ((any, address), own) in BOTH.into_iter().zip(["10.1.0.1", "fd00:1::1"]) {
        let (host, red) = (udp(&world, HOST, any), udp(&world, "red", any));
        is_lost(&red, &host, own);
        mark(&host, FORGED[2]);
        arrives(&host, &red, address);
        arrives(&red, &host, own);
    }
}

/// As wg-quick's, whose bits 8 to 11 are a proxy's.
#[test]
fn another_softwares_mark_is_no_trusted_proxys() {
    let Some(world) = World::new() else { return };
    world.workload("red", 1);
    let nic = "attach red --role netdev --policy enforce --failsafe none --adopt 0 --yes";
    world.cilmark_ok(&format!("{nic} --trust-proxy"));
    for (any, address) in BOTH {
        let (host, red) = (udp(&world, HOST, any), udp(&world, "red", any));
        mark(&host, 0xca6c);
        is_lost(&host, &red, address);
        mark(&host, FORGED[2]);
        arrives(&host, &red, address);
    }
}

#[test]
fn a_workload_is_itself_whatever_it_marks() {
    for way in ["", "--local-delivery"] {
        let claim = move || {
            let Some(world) = red_and_blue(&format!("--policy enforce {way}")) else { return };
            world.cilmark_ok("policy add blue allow egress to any");
            world.cilmark_ok("policy add red allow ingress from 1234 allow ingress from host");
            for (any, address) in BOTH {
                let (blue, red) = (udp(&world, "blue", any), udp(&world, "red", any));
                for forged in FORGED {
                    mark(&blue, forged);
                    is_lost(&blue, &red, address);
                }
                world.cilmark_ok("policy add red allow ingress from 199472");
                arrives(&blue, &red, address);
                world.cilmark_ok("policy del red allow ingress from 199472");
            }
        };
        std::thread::spawn(claim).join().unwrap_or_else(|_| panic!("with `{way}`"));
    }
}

/// net.ipv4.fwmark_reflect and the like: what the kernel itself answers has the mark of what has asked, and so has a socket
/// that was accepted.
fn gives_marks_back(world: &World, asker: &str) {
    world.sh(&format!(
        "sysctl -qw net.ipv4.fwmark_reflect=1 net.ipv6.fwmark_reflect=1 net.ipv4.tcp_fwmark_accept=1
         nft 'table inet t {{ counter given_back {{ }}; chain o {{ type filter hook output priority 0;
             meta mark & 0xffff0fff == {asker} counter name given_back; }}; }}'"
    ));
}

/// By both families: the host answers, refuses and serves, and speaks first once its rules have changed.
fn host_answers(world: &World, asker: &str, addresses: [&str; 2], change: &str) {
    let server = listen(world, HOST, 5000);
    for address in addresses {
        let given_back = || world.sh("nft list counter inet t given_back");
        let before = given_back();
        ping(world, asker, address);
        is_refused(&udp(world, asker, any(address)), address, 5001);
        let connection = Connection::open(world, asker, &server, address);
        connection.works();
        assert_ne!(given_back(), before, "no mark comes back");
        world.cilmark_ok(&format!("policy add {change}"));
        (&connection.server).write_all(b"first").expect("send");
        let mut bytes = [0; 5];
        connection.client.set_read_timeout(Some(PATIENCE)).expect("set a timeout");
        (&connection.client).read_exact(&mut bytes).expect("it arrives");
        world.cilmark_ok(&format!("policy del {change}"));
    }
}

#[test]
fn marks_that_the_kernel_gives_back_to_their_workload_change_no_verdict() {
    for way in ["", "--local-delivery", "--trust-marks"] {
        let claim = move || {
            let Some(world) = red_and_blue(&format!("--policy enforce {way}")) else { return };
            world.cilmark_ok("policy add red allow egress to host");
            gives_marks_back(&world, "0x04d20f00");
            host_answers(&world, "red", ["10.1.0.1", "fd00:1::1"], "red allow egress to any tcp/9");
        };
        std::thread::spawn(claim).join().unwrap_or_else(|_| panic!("with `{way}`"));
    }
}

#[test]
fn marks_that_the_kernel_gives_back_to_the_wire_change_no_verdict() {
    let Some(world) = World::new() else { return };
    world.workload("wire", 1);
    world.cilmark_ok("ipcache set 10.1.0.10 1234");
    world.cilmark_ok("ipcache set fd00:1::10 1234");
    world.cilmark_ok("attach wire --role netdev --policy enforce --stamp-remote --yes");
    world.cilmark_ok("policy add wire allow ingress from 1234 --yes");
    gives_marks_back(&world, "0x04d20f00");
    let change = "wire allow egress to any tcp/9 --yes";
    host_answers(&world, "wire", ["10.1.0.1", "fd00:1::1"], change);
}

/// A wire that keeps marks: the neighbour's end of it is in the same namespace as the NIC.
fn send_by_wire(world: &World, mark: u32) {
    let mac = world.sh("cat /sys/class/net/nic/address");
    let mut address = mac.trim().split(':').map(|byte| u8::from_str_radix(byte, 16).unwrap());
    let mut frame = Vec::new();
    etherparse::PacketBuilder::ethernet2(
        [2, 0, 0, 0, 0, 9],
        std::array::from_fn(|_| address.next().unwrap()),
    )
    .ipv4([192, 0, 2, 9], [10, 1, 0, 10], 64)
    .udp(4000, 5000)
    .write(&mut frame, b"hello")
    .unwrap();
    std::fs::write("/run/netns/frame", frame).unwrap();
    world.sh(&format!(
        "socat -u OPEN:/run/netns/frame INTERFACE:nic-peer,setsockopt-int=1:36:{mark}"
    ));
}

#[test]
fn a_mark_from_the_wire_does_not_survive_the_nic() {
    let Some(world) = World::new() else { return };
    world.workload("red", 1);
    world.veth("nic");
    world.sh("ip addr add 192.0.2.1/24 dev nic");
    world.cilmark_ok("attach red --id 1234 --ip 10.1.0.10 --policy enforce --trust-marks");
    world.cilmark_ok("policy add red allow ingress from 1234 allow ingress from host");
    let red = udp(&world, "red", "0.0.0.0:5000");
    for forged in &FORGED[..2] {
        send_by_wire(&world, *forged);
        assert_eq!(red.recv(&mut [0; 16]).expect("nobody has cleared the mark"), 5);
    }
    world.cilmark_ok("attach nic --role netdev");
    for forged in FORGED {
        let before = world.status("red")["drops"].as_u64().unwrap();
        send_by_wire(&world, forged);
        wait_for("the drop", || world.status("red")["drops"] == before + 1);
    }
}
