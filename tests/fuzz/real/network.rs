//! The devices, addresses and neighbours, and the silence of everybody but the fuzzer.

use crate::common::World;

/// Connects the host, the stranger and the workloads, these by a bridge or each by a route of its own.
pub fn connect(world: &World, bridged: bool) {
    world.sh("sysctl -qw net.ipv6.conf.default.accept_dad=0 net.ipv4.conf.all.rp_filter=0 \
             net.ipv4.conf.default.rp_filter=0 net.ipv4.ipfrag_time=2 net.ipv6.ip6frag_time=2
         ip netns add wire
         ip netns add red
         ip netns add blue
         for n in wire red blue; do
           ip netns exec $n sysctl -qw net.ipv6.conf.default.accept_dad=0 \
             net.ipv4.conf.all.rp_filter=0 net.ipv4.conf.default.rp_filter=0 \
             net.ipv6.ip6frag_time=2 net.ipv4.ipfrag_time=2
           ip netns exec $n nft 'add table inet quiet; add chain inet quiet output \
             { type filter hook output priority 0; policy drop; }'
         done
         ip netns exec wire sysctl -qw net.ipv6.conf.all.disable_ipv6=1 \
             net.ipv6.conf.default.disable_ipv6=1
         ip link add wan address 02:00:00:00:00:b0 type veth peer name eth0 \
             address 02:00:00:00:00:a0 netns wire
         ip link add red address 02:00:00:00:00:b1 type veth peer name eth0 \
             address 02:00:00:00:00:a1 netns red
         ip link add blue address 02:00:00:00:00:b2 type veth peer name eth0 \
             address 02:00:00:00:00:a2 netns blue
         for d in wan red blue; do ip link set $d addrgenmode none mtu 9000 up; done
         for n in wire red blue; do ip -n $n link set eth0 mtu 9000 up; done
         ip addr add 10.1.0.10/24 dev wan; ip addr add fd00:1::10/64 dev wan nodad
         ip addr add 10.1.0.11/24 dev wan; ip addr add fd00:1::11/64 dev wan nodad
         ip addr add fe80::77/64 dev wan nodad
         ip link add lan type veth peer name lan-peer
         for d in lan lan-peer; do ip link set $d addrgenmode none up; done
         ip addr add 10.9.0.10/24 dev lan; ip addr add fd00:9::10/64 dev lan nodad
         ip neigh add 10.1.0.1 lladdr 02:00:00:00:00:a0 dev wan
         ip neigh add fd00:1::1 lladdr 02:00:00:00:00:a0 dev wan
         ip route add default via 10.1.0.1; ip -6 route add default via fd00:1::1 dev wan
         sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1");
    if bridged {
        world.sh("ip link add name bridge address 02:00:00:00:00:bf type bridge mcast_snooping 0
             ip link set bridge addrgenmode none up
             ip link set red master bridge; ip link set blue master bridge
             ip addr add 10.4.0.1/24 dev bridge; ip addr add fd00:4::1/64 dev bridge nodad");
        world.try_sh(
            "sysctl -qw net.bridge.bridge-nf-call-iptables=0 net.bridge.bridge-nf-call-ip6tables=0",
        );
    }
    for (name, number, mac) in [("red", 10, "a1"), ("blue", 11, "a2")] {
        let device = if bridged { "bridge" } else { name };
        if !bridged {
            world.sh(&format!(
                "ip addr add 10.4.0.1/32 dev {name}
                 ip addr add fd00:4::1/128 dev {name} nodad
                 ip route add 10.4.0.{number} dev {name}
                 ip -6 route add fd00:4::{number} dev {name}"
            ));
        }
        world.sh(&format!(
            "ip neigh add 10.4.0.{number} lladdr 02:00:00:00:00:{mac} dev {device}
             ip neigh add fd00:4::{number} lladdr 02:00:00:00:00:{mac} dev {device}
             ip -n {name} addr add 10.4.0.{number}/32 dev eth0
             ip -n {name} addr add fd00:4::{number}/128 dev eth0 nodad
             ip -n {name} route add default dev eth0
             ip -n {name} -6 route add default dev eth0"
        ));
    }
    world.sh("nft 'add table inet quiet; add chain inet quiet output \
           { type filter hook output priority 0; }; \
         add rule inet quiet output oifname { \"red\", \"blue\", \"bridge\" } drop; \
         add rule inet quiet output ip daddr { 10.1.0.0/24, 10.4.0.0/24, 10.9.0.0/24 } drop; \
         add rule inet quiet output \
           ip6 daddr { fd00:1::/64, fd00:4::/64, fd00:9::/64, fe80::/64 } drop'");
}
