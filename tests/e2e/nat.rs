//! A host that translates addresses, as container engines set it up: `red` is its NIC, `blue` a
//! container without a port of its own in the world.

use crate::common::World;
use crate::common::traffic::{
    Connection, HOST, any, arrives, cannot_connect, is_lost, is_refused, is_unanswered, listen,
    ping, tcp, udp,
};

/// Port 8080 of the host is port 80 of the container, whose own connections leave under the host's
/// addresses; the host's policy has no rules.
pub fn translating() -> Option<World> {
    let world = World::new()?;
    world.workload("red", 1);
    world.workload("blue", 2);
    // Nobody out there knows the way to the container.
    world.sh("ip -n red route del default; ip -n red -6 route del default");
    world.sh("nft -f - <<'END'
         table inet docker {
             chain prerouting {
                 type nat hook prerouting priority dstnat;
                 fib daddr type local tcp dport 8080 meta nfproto ipv4 dnat ip to 10.2.0.10:80
                 fib daddr type local tcp dport 8080 meta nfproto ipv6 dnat ip6 to [fd00:2::10]:80
             }
             chain postrouting {
                 type nat hook postrouting priority srcnat;
                 ip saddr 10.2.0.0/24 oifname != blue masquerade
                 ip6 saddr fd00:2::/64 oifname != blue masquerade
             }
         }
END");
    Some(world)
}

const NIC: &str = "attach red --role netdev --policy enforce --failsafe none --adopt 0 --yes";

#[test]
fn a_published_port_is_covered_by_the_host_policy_under_its_own_number() {
    let Some(world) = translating() else { return };
    let server = listen(&world, "blue", 80);
    let hosts = ["10.1.0.1", "fd00:1::1", "10.2.0.1", "fd00:2::1"];
    world.sh(
        "ip -n red route add 10.2.0.1 via 10.1.0.1; ip -n red route add fd00:2::1 via fd00:1::1",
    );
    Connection::published(&world, "red", &server, hosts[0], 8080).works();
    world.cilmark_ok(NIC);
    for address in hosts {
        cannot_connect(&world, "red", address, 8080);
    }
    world.cilmark_ok("policy add red allow ingress from any tcp/80 --yes");
    for address in hosts {
        cannot_connect(&world, "red", address, 8080);
    }
    world.cilmark_ok("policy add red allow ingress from any tcp/8080 --yes");
    let mut open = Vec::new();
    for address in hosts {
        open.push(Connection::published(&world, "red", &server, address, 8080));
        open.last().unwrap().works();
    }
    world.cilmark_ok("policy del red allow ingress from any tcp/8080 --yes");
    for connection in open {
        connection.is_cut();
    }
}

#[test]
fn masqueraded_workloads_get_their_replies_without_a_rule_of_the_host() {
    for attached in [false, true] {
        let claim = move || {
            let Some(world) = translating() else { return };
            world.cilmark_ok(NIC);
            if attached {
                world.cilmark_ok("attach blue --id 199472 --ip 10.2.0.10 fd00:2::10");
            }
            for (address, host) in [("10.1.0.10", "10.1.0.1"), ("fd00:1::10", "fd00:1::1")] {
                tcp(&world, "blue", "red", address);
                ping(&world, "blue", &format!("-s 4000 {address}"));
                let (blue, red) =
                    (udp(&world, "blue", any(address)), udp(&world, "red", any(address)));
                let seen = arrives(&blue, &red, address);
                assert_eq!(seen.ip().to_string(), host, "it is masqueraded");
                red.send_to(b"hello", seen).unwrap();
                let mut bytes = [0; 16];
                assert_eq!(blue.recv(&mut bytes).expect("the reply arrives"), 5);
                is_refused(&blue, address, 9);
                // The host itself may do nothing of this, and nobody may begin.
                let here = udp(&world, HOST, any(address));
                is_lost(&here, &red, address);
                is_unanswered(&world, HOST, address);
                is_lost(&red, &here, host);
                is_unanswered(&world, "red", host);
            }
        };
        std::thread::spawn(claim).join().unwrap_or_else(|_| panic!("attached: {attached}"));
    }
}

#[test]
fn behind_nat_a_workload_is_who_it_is_by_now() {
    let Some(world) = World::new() else { return };
    world.workload("red", 1);
    world.workload("blue", 2);
    world.sh("nft -f - <<'END'
         table inet nat {
             chain postrouting {
                 type nat hook postrouting priority srcnat;
                 oifname blue meta nfproto ipv4 masquerade
                 oifname blue meta nfproto ipv6 masquerade
             }
         }
END");
    world.cilmark_ok("attach blue --id 199472 --ip 10.2.0.10 fd00:2::10 --policy enforce");
    for (address, router) in [("10.2.0.10", "10.2.0.1"), ("fd00:2::10", "fd00:2::1")] {
        let (red, blue) = (udp(&world, "red", any(address)), udp(&world, "blue", any(address)));
        let attach = |identity: u32| {
            world.cilmark_ok(&format!("attach red --id {identity} --ip 10.1.0.10 fd00:1::10"));
        };
        world.cilmark_ok("policy add blue allow ingress from 300");
        attach(300);
        let seen = arrives(&red, &blue, address);
        assert_eq!(seen.ip().to_string(), router);
        attach(301);
        is_lost(&red, &blue, address);
        attach(300);
        assert_eq!(arrives(&red, &blue, address), seen);
        world.cilmark_ok("detach red");
        is_lost(&red, &blue, address);
        world.cilmark_ok("policy flush blue");
        world.cilmark_ok("policy add blue allow ingress from world");
        assert_eq!(arrives(&red, &blue, address), seen);
        attach(301);
        is_lost(&red, &blue, address);
        world.cilmark_ok("detach red");
        assert_eq!(arrives(&red, &blue, address), seen);
        world.cilmark_ok("policy flush blue");
    }
}

/// The proof beside the mark stays.
#[test]
fn a_flow_goes_on_whose_mark_another_program_takes_away() {
    let Some(world) = World::new() else { return };
    world.workload("red", 1);
    world.workload("blue", 2);
    world.sh("nft -f - <<'END'
         table inet marks {
             chain postrouting {
                 type filter hook postrouting priority mangle;
                 oifname blue ct state established meta mark set 0
             }
         }
END");
    world.cilmark_ok("attach red --id 300 --ip 10.1.0.10 fd00:1::10");
    world.cilmark_ok("attach blue --id 199472 --ip 10.2.0.10 fd00:2::10 --policy enforce");
    world.cilmark_ok("policy add blue allow ingress from 300");
    let server = listen(&world, "blue", 80);
    for address in ["10.2.0.10", "fd00:2::10"] {
        Connection::open(&world, "red", &server, address).works();
    }
}
