//! Two CPUs at the same flows.

use std::collections::HashSet;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::Barrier;
use std::thread;

use cilmark::datapath::sys::Hook;
use serde_json::Value;

use super::policing::*;
use super::*;
use crate::common::Lab;
use crate::common::machine::repetitions;
use crate::common::many::{End, Many, Numbers, OnCpu};
use crate::common::packet::Frame;
use crate::common::program::{Endpoint, Packet};

/// The first of many.
const PEERS: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::new(100, 0, 0, 0)),
    IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb9, 0, 0, 0, 0, 0, 1)),
];

/// Datagrams of a workload to peers of these numbers; a datagram's flow is under way with its first packet.
fn datagrams(workload: &Endpoint<'_>, family: usize, numbers: Numbers) -> Many {
    let own = [IpAddr::from(OWN4), IpAddr::from(OWN6)][family];
    let packet = Packet::from(Frame::ip(own, PEERS[family]).udp(4000, 53));
    workload.many(Hook::Ingress, &packet, End::Destination, numbers)
}

#[test]
fn two_cpus_that_begin_the_same_flows_at_once_leave_one_entry_of_each() {
    const COUNT: u64 = 1024;
    const AT_ONCE: u32 = 16;
    let Some(lab) = Lab::new() else { return };
    let setup = lab.container(ID).policy(enforcing()).conntrack_entries(4 * COUNT as u32);
    let workload = setup.untraced().load();
    lab.rules(&workload, &["allow egress to any"]);
    let rounds = repetitions(COUNT / u64::from(AT_ONCE));
    let barrier = Barrier::new(2);
    for family in [0, 1] {
        let writers = [0, 1].map(|_| datagrams(&workload, family, Numbers::from(0)));
        thread::scope(|scope| {
            for (cpu, writer) in writers.iter().enumerate() {
                let barrier = &barrier;
                scope.spawn(move || {
                    let _stay = OnCpu::number(cpu);
                    for _ in 0..rounds {
                        barrier.wait();
                        writer.run(AT_ONCE);
                    }
                });
            }
        });
    }
    let list = lab.world.cilmark_json("conntrack list");
    let list: Vec<&Value> = list.as_array().expect("a list").iter().collect();
    let remotes: HashSet<&str> = list.iter().filter_map(|line| line["remote"].as_str()).collect();
    let begun = 2 * rounds as usize * AT_ONCE as usize;
    assert_eq!((list.len(), remotes.len()), (begun, begun));
}
