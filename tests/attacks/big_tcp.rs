//! What bounding everything by the packet's own length must not cost: packets of more than 64 KiB, which
//! stay within a host and say 0 (BIG TCP).

use netlink_packet_core::{NLM_F_ACK, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{LinkAttribute, LinkMessage};
use netlink_sys::protocols::NETLINK_ROUTE;
use netlink_sys::{Socket, SocketAddr};

use super::path_mtu::upload;
use super::{OPEN, allow};
use crate::common::World;
use crate::common::machine::skip;
use crate::common::traffic::{Connection, HOST, listen};

const SIZE: u32 = 200_000;

/// Lets a device send such packets, of one family or of both; whether the kernel can. One that knows no such
/// attribute takes it in silence, so that the device is asked afterwards.
fn allow_large(
    world: &World,
    namespace: &str,
    device: &str,
    attributes: [LinkAttribute; 2],
) -> bool {
    world.inside(namespace, || {
        let mut link = LinkMessage::default();
        link.header.index = nix::net::if_::if_nametoindex(device).expect("the device");
        let get = RouteNetlinkMessage::GetLink(link.clone());
        link.attributes.extend(attributes.clone());
        let set = RouteNetlinkMessage::SetLink(link);
        let NetlinkPayload::Error(error) = exchange(set, NLM_F_ACK) else { return false };
        let NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewLink(link)) = exchange(get, 0)
        else {
            return false;
        };
        error.code.is_none() && attributes.iter().all(|it| link.attributes.contains(it))
    })
}

/// The kernel's answer.
fn exchange(message: RouteNetlinkMessage, flags: u16) -> NetlinkPayload<RouteNetlinkMessage> {
    let mut message = NetlinkMessage::from(message);
    message.header.flags = NLM_F_REQUEST | flags;
    message.finalize();
    let mut bytes = vec![0; message.buffer_len()];
    message.serialize(&mut bytes);
    let socket = Socket::new(NETLINK_ROUTE).expect("a netlink socket");
    socket.send_to(&bytes, &SocketAddr::new(0, 0), 0).expect("ask");
    let (answer, _) = socket.recv_from_full().expect("an answer");
    NetlinkMessage::<RouteNetlinkMessage>::deserialize(&answer).expect("an answer").payload
}

/// Transfers between `red` and the host, in both directions, with packets that are larger than they can
/// say; by a workload's programs, and by a NIC's.
fn transfers(addresses: [&str; 2], attributes: impl Fn() -> [LinkAttribute; 2]) {
    for role in ["container", "netdev"] {
        let Some(world) = World::new() else { return };
        world.workload("red", 1);
        // A router in between would find them too large: of IPv6 they have one more header by then.
        for (namespace, device) in [(HOST, "red"), ("red", "eth0")] {
            if !allow_large(&world, namespace, device, attributes()) {
                return skip("this kernel has no BIG TCP of this family");
            }
        }
        let count = "nft 'add table inet t
            add chain inet t i { type filter hook input priority 0; }
            add rule inet t i meta length > 70000 counter'";
        for namespace in [HOST, "red"] {
            world.inside(namespace, || world.sh(count));
        }
        let flags = match role {
            "container" => "--id 1234 --ip 10.1.0.10 fd00:1::10",
            _ => "--failsafe none --adopt 0 --yes",
        };
        world.cilmark_ok(&format!("attach red --role {role} {flags} --policy enforce"));
        allow(&world, "red", "egress to any");
        allow(&world, "red", "ingress from any");
        for (from, to, address) in [("red", HOST, addresses[0]), (HOST, "red", addresses[1])] {
            let server = listen(&world, to, OPEN);
            let Connection { client, server } = Connection::open(&world, from, &server, address);
            upload(client, server, 16 << 20);
            let rules = world.inside(to, || world.sh("nft list chain inet t i"));
            assert!(!rules.contains("packets 0 "), "there was none for {to}: {rules}");
        }
        assert_eq!(world.status("red")["drops"], 0, "{role}");
    }
}

#[test]
fn a_packet_too_large_to_say_its_length_has_its_headers() {
    transfers(["10.1.0.1", "10.1.0.10"], || {
        [LinkAttribute::GsoIpv4MaxSize(SIZE), LinkAttribute::GroIpv4MaxSize(SIZE)]
    });
}

#[test]
fn so_has_one_of_ipv6() {
    transfers(["fd00:1::1", "fd00:1::10"], || {
        [LinkAttribute::GsoMaxSize(SIZE), LinkAttribute::GroMaxSize(SIZE)]
    });
}
