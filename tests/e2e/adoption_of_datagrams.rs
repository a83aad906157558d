//! Flows that the kernel's conntrack knows when a policy begins: datagrams, and what is translated.

use std::net::{IpAddr, SocketAddr, UdpSocket};

use cilmark::kernel::kernel_flows;
use serde_json::Value;

use super::nat::translating;
use crate::common::World;
use crate::common::traffic::{Connection, HOST, any, arrives, is_lost, listen, udp};
use crate::common::world::wait_for;

const NIC: &str = "attach red --role netdev --failsafe none --yes";
const WORKLOAD: &str = "attach red --id 1234 --ip 10.1.0.10 fd00:1::10";

/// Questions and answers between two sockets, under one address of the one who answers.
pub struct Talk {
    pub asker: UdpSocket,
    pub answerer: UdpSocket,
    pub address: &'static str,
    /// The asker, as the answerer sees it.
    pub seen: SocketAddr,
}

impl Talk {
    pub fn begin(world: &World, from: &str, to: &str, address: &'static str) -> Talk {
        let (asker, answerer) = (udp(world, from, any(address)), udp(world, to, any(address)));
        let seen = arrives(&asker, &answerer, address);
        let talk = Talk { asker, answerer, address, seen };
        talk.is_answered();
        talk
    }

    pub fn is_answered(&self) {
        self.answerer.send_to(b"hello", self.seen).expect("answer");
        let mut bytes = [0; 16];
        assert_eq!(self.asker.recv(&mut bytes).expect("the answer arrives"), 5);
    }

    pub fn goes_on(&self) {
        self.is_answered();
        assert_eq!(arrives(&self.asker, &self.answerer, self.address), self.seen);
    }

    pub fn is_cut(&self) {
        is_lost(&self.asker, &self.answerer, self.address);
        let port = self.asker.local_addr().expect("an address").port();
        let silent = self.answerer.send_to(b"hello", (self.seen.ip(), port));
        assert!(silent.is_err() || self.hears_nothing(), "an answer came through");
    }

    fn hears_nothing(&self) -> bool {
        self.asker.set_nonblocking(true).expect("set it");
        let heard = self.asker.recv(&mut [0; 16]);
        self.asker.set_nonblocking(false).expect("set it back");
        heard.is_err()
    }
}

/// A host that tracks connections, with `red` on a device of this name.
fn tracking() -> Option<World> {
    let world = World::new()?;
    world.workload("red", 1);
    track(&world);
    Some(world)
}

pub fn track(world: &World) {
    world.sh("nft 'table inet tracking { chain input { type filter hook input priority 0;
              ct state established counter; }; }'");
}

/// One in each direction, by both families.
fn talks(world: &World) -> Vec<Talk> {
    let ends = [("red", HOST, "10.1.0.1", "fd00:1::1"), (HOST, "red", "10.1.0.10", "fd00:1::10")];
    let talks = ends.map(|(from, to, v4, v6)| [v4, v6].map(|ip| Talk::begin(world, from, to, ip)));
    talks.into_iter().flatten().collect()
}

/// The flows of conntrack, which are those of `red` or of the host.
fn flows(world: &World) -> Vec<Value> {
    world.cilmark_json("conntrack list").as_array().expect("a list").clone()
}

#[test]
fn datagrams_go_on_when_their_nic_begins_to_enforce() {
    let Some(world) = tracking() else { return };
    let talks = talks(&world);
    world.cilmark_ok(&format!("{NIC} --policy enforce"));
    talks.iter().for_each(Talk::goes_on);
    // What begins now is none of them.
    for (from, to, address) in [("red", HOST, "10.1.0.1"), (HOST, "red", "fd00:1::10")] {
        let (from, to) = (udp(&world, from, any(address)), udp(&world, to, any(address)));
        is_lost(&from, &to, address);
    }
    world.cilmark_ok("policy add red deny ingress from any udp --yes");
    world.cilmark_ok("policy add red deny egress to any udp --yes");
    talks.iter().for_each(Talk::is_cut);
}

#[test]
fn datagrams_go_on_where_their_nic_gets_the_slot_of_another_one() {
    for off_before in [false, true] {
        let Some(world) = tracking() else { return };
        world.veth("former");
        // Or nothing is left of it.
        world.cilmark_ok("ipcache set 10.9.9.9 300");
        world.cilmark_ok("attach former --role netdev --policy enforce --failsafe none --yes");
        world.cilmark_ok("detach former");
        if off_before {
            world.cilmark_ok("attach red --role netdev");
        }
        let talks = talks(&world);
        world.cilmark_ok(&format!("{NIC} --policy enforce"));
        talks.iter().for_each(Talk::goes_on);
    }
}

#[test]
fn datagrams_go_on_when_their_workload_begins_to_enforce_if_that_is_wanted() {
    for (adopt, goes_on) in [("", false), ("--adopt 30s", true), ("--adopt 0", false)] {
        let claim = move || {
            let Some(world) = tracking() else { return };
            let talks = talks(&world);
            world.cilmark_ok(&format!("{WORKLOAD} --policy enforce {adopt}"));
            talks.iter().for_each(if goes_on { Talk::goes_on } else { Talk::is_cut });
        };
        std::thread::spawn(claim).join().unwrap_or_else(|_| panic!("`{adopt}`"));
    }
}

#[test]
fn datagrams_need_a_rule_without_adoption_and_where_the_kernel_tracks_none() {
    for (tracked, flags) in [(true, "--adopt 0"), (false, "")] {
        let claim = move || {
            let Some(world) = World::new() else { return };
            world.workload("red", 1);
            if tracked {
                track(&world);
            }
            let talks = talks(&world);
            world.cilmark_ok(&format!("{NIC} --policy enforce {flags}"));
            talks.iter().for_each(Talk::is_cut);
            assert!(flows(&world).iter().all(|flow| flow["adopted"] == false));
        };
        std::thread::spawn(claim).join().unwrap_or_else(|_| panic!("`{flags}`"));
    }
}

#[test]
fn what_audit_would_have_dropped_goes_on_when_it_is_enforced() {
    let Some(world) = tracking() else { return };
    world.cilmark_ok(&format!("{NIC} --policy audit"));
    let talks = talks(&world);
    assert!(flows(&world).iter().any(|flow| flow["allowed"] == false));
    world.cilmark_ok(&format!("{NIC} --policy enforce"));
    talks.iter().for_each(Talk::goes_on);
}

#[test]
fn audit_tells_of_what_is_up_unless_that_is_to_be_adopted() {
    for (adopt, allowed) in [("", false), ("--adopt 30s", true)] {
        let claim = move || {
            let Some(world) = tracking() else { return };
            let talk = Talk::begin(&world, "red", HOST, "10.1.0.1");
            world.cilmark_ok(&format!("{NIC} --policy audit {adopt}"));
            talk.goes_on();
            let flows = flows(&world);
            assert!(flows.iter().all(|flow| flow["allowed"] == allowed), "{flows:?}");
        };
        std::thread::spawn(claim).join().unwrap_or_else(|_| panic!("`{adopt}`"));
    }
}

#[test]
fn a_policy_that_is_in_force_adopts_nothing_more() {
    let Some(world) = tracking() else { return };
    world.cilmark_ok(&format!("{NIC} --policy enforce"));
    world.cilmark_ok("policy add red allow ingress from any --yes");
    let talk = Talk::begin(&world, "red", HOST, "10.1.0.1");
    world.cilmark_ok("conntrack flush");
    world.cilmark_ok("policy flush red --yes");
    world.cilmark_ok(&format!("{NIC} --policy enforce --adopt 60s"));
    talk.is_cut();
}

#[test]
fn what_is_known_of_a_flow_is_kept() {
    let Some(world) = tracking() else { return };
    world.cilmark_ok(&format!("{NIC} --ingress-policy audit"));
    world.cilmark_ok("policy add red allow ingress from any udp");
    let _talk = Talk::begin(&world, "red", HOST, "10.1.0.1");
    world.cilmark_ok(&format!("{NIC} --policy enforce"));
    let flows = flows(&world);
    assert_eq!(flows.len(), 1, "{flows:?}");
    assert_eq!(flows[0]["adopted"], false);
}

#[test]
fn conntrack_lists_them_with_who_began() {
    let Some(world) = tracking() else { return };
    let talk = Talk::begin(&world, "red", HOST, "10.1.0.1");
    let server = listen(&world, "red", 5001);
    let connection = Connection::open(&world, HOST, &server, "fd00:1::10");
    connection.works();
    world.cilmark_ok(&format!("{NIC} --policy enforce"));
    let flows = flows(&world);
    let of = |protocol: &str| {
        let mut found = flows.iter().filter(|flow| flow["protocol"] == protocol);
        found.next().unwrap_or_else(|| panic!("no {protocol} in {flows:?}"))
    };
    let udp = of("udp");
    assert_eq!((&udp["direction"], &udp["local"]), (&"ingress".into(), &"10.1.0.1".into()));
    assert_eq!(udp["remote_port"], talk.seen.port());
    assert!((1..=120).contains(&udp["expires"].as_u64().unwrap()), "{udp}");
    let tcp = of("tcp");
    assert_eq!((&tcp["direction"], &tcp["remote"]), (&"egress".into(), &"fd00:1::10".into()));
    assert_eq!((&tcp["remote_port"], &tcp["state"]), (&5001.into(), &"established".into()));
    assert!((21590..=21600).contains(&tcp["expires"].as_u64().unwrap()), "{tcp}");
    for flow in &flows {
        assert_eq!((&flow["adopted"], &flow["stale"]), (&true.into(), &true.into()), "{flow}");
        assert_eq!((&flow["allowed"], &flow["masqueraded"]), (&true.into(), &false.into()));
    }
}

#[test]
fn flows_without_room_in_the_maps_are_told() {
    let Some(world) = tracking() else { return };
    // Four more than a bucket has room for.
    let _talks = [(); 12].map(|()| Talk::begin(&world, "red", HOST, "10.1.0.1"));
    let run = world.cilmark(&format!("{NIC} --policy enforce --ct-entries 2"));
    assert_eq!(run.status, Some(0), "{run:?}");
    let words = "red: 4 flows that are up were not taken over, since the maps of flows are full";
    assert!(run.stderr.contains(words), "{run:?}");
}

#[test]
fn a_workloads_flows_are_found_by_its_addresses() {
    let Some(world) = tracking() else { return };
    let talk = Talk::begin(&world, "red", HOST, "10.1.0.1");
    let run = world.cilmark("attach red --id 1234 --policy enforce --adopt 30s");
    assert!(run.stderr.contains("--adopt finds a workload's flows by its addresses"), "{run:?}");
    talk.is_cut();
}

#[test]
fn of_a_connection_that_the_kernel_saw_late_nobody_knows_who_began() {
    let Some(world) = World::new() else { return };
    world.workload("red", 1);
    let server = listen(&world, HOST, 5001);
    let early = Connection::open(&world, "red", &server, "10.1.0.1");
    track(&world);
    let late = Connection::open(&world, "red", &server, "10.1.0.1");
    let [early, late] = [early, late].map(|connection| {
        connection.works();
        let port = connection.client.local_addr().expect("an address").port();
        let mut found = Vec::new();
        // Until the last acknowledgement has been seen.
        wait_for("the flow", || {
            found = kernel_flows::read().expect("the kernel's flows");
            found.retain(|flow| {
                [flow.original.source.port(), flow.original.destination.port()].contains(&port)
            });
            !found.is_empty()
        });
        found[0].midstream
    });
    assert_eq!([early, late], [true, false]);
}

#[test]
fn masqueraded_and_published_flows_go_on_when_their_nic_begins_to_enforce() {
    let Some(world) = translating() else { return };
    let blue = listen(&world, "blue", 80);
    let red = listen(&world, "red", 5001);
    let mut connections = Vec::new();
    let mut talks = Vec::new();
    for (host, there) in [("10.1.0.1", "10.1.0.10"), ("fd00:1::1", "fd00:1::10")] {
        connections.push(Connection::published(&world, "red", &blue, host, 8080));
        connections.push(Connection::open(&world, "blue", &red, there));
        talks.push(Talk::begin(&world, "blue", "red", there));
    }
    for talk in &talks {
        assert!(
            ["10.1.0.1", "fd00:1::1"]
                .map(|ip| ip.parse::<IpAddr>().unwrap())
                .contains(&talk.seen.ip())
        );
    }
    world.cilmark_ok(&format!("{NIC} --policy enforce"));
    let masqueraded = |flow: &&Value| flow["masqueraded"] == true;
    assert_eq!(flows(&world).iter().filter(masqueraded).count(), 4, "{:?}", flows(&world));
    // The answers come first, before the workload says anything.
    talks.iter().for_each(Talk::goes_on);
    connections.iter().for_each(Connection::works);
    for host in ["10.1.0.1", "fd00:1::1"] {
        is_lost(&udp(&world, "red", any(host)), &udp(&world, HOST, any(host)), host);
    }
}

#[test]
fn a_workloads_flows_go_on_as_it_sees_them_whatever_is_translated() {
    let Some(world) = translating() else { return };
    let blue = listen(&world, "blue", 80);
    let red = listen(&world, "red", 5001);
    let mut connections = Vec::new();
    for (host, there) in [("10.1.0.1", "10.1.0.10"), ("fd00:1::1", "fd00:1::10")] {
        connections.push(Connection::published(&world, "red", &blue, host, 8080));
        connections.push(Connection::open(&world, "blue", &red, there));
    }
    world.cilmark_ok("attach blue --id 7 --ip 10.2.0.10 fd00:2::10 --policy enforce --adopt 30s");
    let seen: Vec<_> = flows(&world)
        .iter()
        .map(|flow| {
            [&flow["direction"], &flow["local"], &flow["remote"]]
                .map(|it| it.as_str().unwrap().to_owned())
        })
        .collect();
    for wanted in [
        ["egress", "10.2.0.10", "10.1.0.10"],
        ["egress", "fd00:2::10", "fd00:1::10"],
        ["ingress", "10.2.0.10", "10.1.0.10"],
        ["ingress", "fd00:2::10", "fd00:1::10"],
    ] {
        assert!(seen.iter().any(|flow| flow == &wanted), "no {wanted:?} in {seen:?}");
    }
    connections.iter().for_each(Connection::works);
}
