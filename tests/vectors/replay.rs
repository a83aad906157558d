//! The world that vectors are about: a NIC and a workload behind it, both enforced, with a host that
//! forwards.

use std::mem;
use std::net::IpAddr;

use cilmark::kernel::device;
use cilmark::model::endpoint::Role;
use cilmark::model::enforcement::Mode;
use cilmark::program::load::{Enforcement, Features};

use super::format::{Change, PacketStep, Program, Step, Vector};
use crate::common::Fixture;
use crate::common::program::{Endpoint, Outcome, Packet};

/// The MAC of the NIC, in place of whatever it was where a vector was recorded.
const MAC: [u8; 6] = [0x02, 0, 0, 0, 0, 0x01];

/// Endpoints that are loaded, for the vectors that agree on them.
pub struct Replay<'fixture> {
    fixture: &'fixture Fixture,
    workload: Endpoint<'fixture>,
    nic: Endpoint<'fixture>,
    nic_ifindex: u32,
    host_ips: Vec<IpAddr>,
}

/// A packet's step.
pub struct Ran<'vector> {
    /// From 1.
    pub number: usize,
    pub step: &'vector PacketStep,
    pub outcome: Outcome,
    /// Nothing was decided before, or under other rules.
    pub may_be_news: bool,
}

impl Replay<'_> {
    /// Makes the world that `vector` describes, but for its rules and its ipcache.
    pub fn new<'fixture>(fixture: &'fixture Fixture, vector: &Vector) -> Replay<'fixture> {
        make_nic(fixture, &vector.host.ips);
        let policy =
            Enforcement { ingress: Mode::Enforce, egress: Mode::Enforce, ..Enforcement::default() };
        let features = Features { trust_proxy: true, trust_marks: true, ..Features::default() };
        let mut workload = fixture.container(vector.endpoint.identity).id(vector.endpoint.id);
        for address in &vector.endpoint.ips {
            workload = workload.address(*address);
            fixture.register(*address, Role::Container, true);
        }
        let mut nic = fixture.netdev(vector.host.identity);
        for address in &vector.host.ips {
            nic = nic.address(*address);
            fixture.register(*address, Role::Netdev, true);
        }
        Replay {
            fixture,
            workload: workload.policy(policy.clone()).features(features.clone()).load(),
            nic: nic.policy(policy).features(features).load(),
            nic_ifindex: device::by_name("eth0").expect("eth0").ifindex,
            host_ips: vector.host.ips.clone(),
        }
    }

    /// Runs a vector on fresh conntrack, rules and ipcache.
    pub fn run<'v>(&self, vector: &'v Vector) -> Vec<Ran<'v>> {
        self.fixture.flush_conntrack();
        self.fixture.open_ipcache().flush().expect("flush the ipcache");
        self.change(&Change {
            set_rules: Some(vector.rules.clone()),
            set_host_rules: Some(vector.host_rules.clone()),
            set_ipcache: Some(vector.ipcache.clone()),
        });
        let mut ran = Vec::new();
        let mut is_first = true;
        let mut is_changed = false;
        for (step, number) in vector.steps.iter().zip(1..) {
            match step {
                Step::Packet(step) => {
                    let may_be_news = mem::take(&mut is_first) || is_changed;
                    ran.push(Ran { number, step, outcome: self.packet(step), may_be_news });
                }
                Step::Change(change) => {
                    self.change(change);
                    is_changed = true;
                }
            }
        }
        ran
    }

    fn change(&self, change: &Change) {
        if let Some(rules) = &change.set_rules {
            self.fixture.rules(&self.workload, rules);
        }
        if let Some(rules) = &change.set_host_rules {
            self.fixture.rules(&self.nic, rules);
        }
        for (prefix, identity) in change.set_ipcache.iter().flatten() {
            match prefix.parse() {
                Ok(address) if self.host_ips.contains(&address) => {
                    self.fixture.host_address(address, *identity);
                }
                _ => self.fixture.ipcache(prefix, *identity),
            }
        }
        self.fixture.bump_generation();
    }

    fn packet(&self, step: &PacketStep) -> Outcome {
        let mut bytes = step.packet.0.clone();
        // What a NIC has received for a MAC that is not its own, no policy is asked about.
        if step.program == Program::FromNetdev && bytes[0] & 1 == 0 {
            bytes[..6].copy_from_slice(&MAC);
        }
        let packet = Packet::from(bytes).mark(step.mark.number()).came_in_by(step.ingress_ifindex);
        match step.program {
            Program::FromContainer => self.workload.from_container(packet),
            Program::ToContainer => self.workload.to_container(packet),
            Program::FromNetdev => self.nic.from_netdev(packet.on(self.nic_ifindex)),
            Program::ToNetdev => self.nic.to_netdev(packet.on(self.nic_ifindex)),
        }
    }
}

/// A NIC with the host's addresses, by which everything else is reached.
fn make_nic(fixture: &Fixture, addresses: &[IpAddr]) {
    let mac = MAC.map(|byte| format!("{byte:02x}")).join(":");
    let addresses: Vec<String> =
        addresses.iter().map(|ip| format!("ip addr add {ip} dev eth0")).collect();
    fixture.world.veth("eth0");
    fixture.world.sh(&format!(
        "ip link set eth0 address {mac}
         {}
         ip route add default dev eth0
         ip -6 route add default dev eth0
         sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1",
        addresses.join("\n")
    ));
}
