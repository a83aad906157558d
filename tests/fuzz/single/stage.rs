//! Two endpoints of a host, as the kernel has them and as the model does.

use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr};

use cilmark::kernel::abi::{cm_config, cm_role};
use cilmark::model::endpoint::EndpointId;
use cilmark::model::enforcement::{Failsafe, FailsafePort, Mode as Policed};
use cilmark::model::identity::Identity;
use cilmark::program::load::{Enforcement, Folding};
use cilmark::state::addresses::Addresses;
use ipnet::IpNet;

use crate::common::Fixture;
use crate::common::packet::Frame;
use crate::common::program;
use crate::common::random::Random;
use crate::fuzz::generate::{Scene, policy};
use crate::fuzz::model::{
    Arrival, Endpoint, Judgement, Line, Machine, Mode, Must, Owner, Program, Switches, delivery,
};

/// Of the devices: what frames are for.
const MACS: [[u8; 6]; 2] = [[2, 0, 0, 0, 0, 0xb1], [2, 0, 0, 0, 0, 0xb2]];
/// Who sends to NICs, and the workloads.
const SENDERS: [[u8; 6]; 2] = [[2, 0, 0, 0, 0, 0xa1], [2, 0, 0, 0, 0, 0xa2]];
pub const NODE_MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
const BRIDGE_MAC: [u8; 6] = [2, 0, 0, 0, 0, 0xbf];
const DEVICES: [&str; 2] = ["one", "two"];
const IDENTITY: [u32; 2] = [1234, 199_472];

/// Of the host, by device; the second of each is not listed anywhere.
const HOSTS: [[&str; 4]; 2] = [
    ["10.1.0.10", "10.1.0.11", "fd00:1::10", "fd00:1::11"],
    ["10.9.0.10", "10.9.0.11", "fd00:9::10", "fd00:9::11"],
];
/// Of the workloads, by device.
const WORKLOADS: [[&str; 2]; 2] = [["10.4.0.10", "fd00:4::10"], ["10.5.0.10", "fd00:5::10"]];
/// Others in their networks.
const INSIDE: [[&str; 2]; 2] = [["10.4.0.77", "fd00:4::77"], ["10.5.0.77", "fd00:5::77"]];
/// Of them, with addresses of the hosts, the strangers and each other in the wider ones.
const NETWORKS: [[&[&str]; 2]; 2] = [
    [&["10.4.0.0/24", "fd00:4::/64"], &["10.0.0.0/8", "fd00::/16", "10.5.0.8/29", "fd00:5::/124"]],
    [&["10.5.0.0/24", "fd00:5::/64"], &["0.0.0.0/1", "8000::/1", "10.4.0.8/29", "::/3"]],
];
const STRANGERS: [&str; 6] =
    ["10.2.0.1", "10.2.0.2", "10.3.0.10", "fd00:2::1", "fd00:2::2", "fd00:3::10"];
const ODD: [&str; 17] = [
    "0.0.0.0",
    "255.255.255.255",
    "224.0.0.251",
    "127.0.0.1",
    "10.1.0.255",
    "10.9.0.255",
    "10.99.0.1",
    "::",
    "::1",
    "ff02::1",
    "ff02::16",
    "ff05::fb",
    "fe80::77",
    "fe80::78",
    // What the senders' MACs make.
    "fe80::ff:fe00:a1",
    "fe80::ff:fe00:a2",
    "fd00:99::1",
];
const PREFIXES: [&str; 12] = [
    "0.0.0.0/0",
    "10.2.0.0/24",
    "10.2.0.1/32",
    "10.2.0.2/32",
    "10.3.0.0/16",
    "10.9.0.11/32",
    "::/0",
    "fd00:2::/64",
    "fd00:2::1/128",
    "fd00:2::2/128",
    "fd00:3::/64",
    "fd00:9::11/128",
];
const PORTS: [u16; 9] = [0, 22, 53, 67, 68, 80, 443, 546, 547];
const PROTOCOLS: [u8; 13] = [6, 6, 6, 17, 17, 17, 1, 1, 58, 58, 132, 47, 2];

/// How endpoints are made.
#[derive(Clone, Copy, PartialEq)]
pub enum Making {
    /// As the model knows them.
    Modelled,
    /// With whatever configuration there is, folded or not.
    Compared(Folding),
}

/// An endpoint under test.
pub struct Subject<'fixture> {
    pub loaded: program::Endpoint<'fixture>,
    pub model: Endpoint,
    pub scene: Scene,
    pub ingress_ifindexes: Vec<u32>,
}

pub struct Stage<'fixture> {
    fixture: &'fixture Fixture,
    pub subjects: Vec<Subject<'fixture>>,
    pub machine: Machine,
    /// That workloads have sent from.
    pub macs: HashSet<[u8; 6]>,
    prefixes: Vec<IpNet>,
    /// Lines that attaching has entered; no operator's.
    own_lines: Vec<Line>,
    /// Beside NICs: the workloads' networks are theirs, and not their addresses alone.
    owns_networks: bool,
}

fn addresses(texts: &[&str]) -> Vec<IpAddr> {
    texts.iter().map(|text| text.parse().expect("an address")).collect()
}

fn networks(texts: &[&str]) -> Vec<IpNet> {
    texts.iter().map(|text| text.parse().expect("a prefix")).collect()
}

fn own4(texts: &[&str]) -> Ipv4Addr {
    texts[0].parse().expect("an IPv4 address")
}

/// A host between two networks, that knows a way to everybody.
pub fn network(fixture: &Fixture) {
    for (device, (mac, hosts)) in DEVICES.iter().zip(["b1", "b2"].iter().zip(HOSTS)) {
        let [v4, other4, v6, other6] = hosts;
        fixture.world.sh(&format!(
            "ip link add {device} address 02:00:00:00:00:{mac} type veth peer name {device}-peer
             ip link set {device} addrgenmode none up
             ip link set {device}-peer addrgenmode none up
             ip addr add {v4}/24 dev {device}
             ip addr add {other4}/24 dev {device}
             ip addr add {v6}/64 dev {device} nodad
             ip addr add {other6}/64 dev {device} nodad"
        ));
    }
    fixture.world.sh("ip addr add fe80::77/64 dev one nodad
         ip addr add fe80::177/64 dev two nodad
         ip route add default via 10.1.0.1
         ip -6 route add default via fd00:1::1 dev one");
}

impl<'fixture> Stage<'fixture> {
    /// Loads two containers, or two NICs, of a random configuration.
    pub fn new(
        fixture: &'fixture Fixture,
        random: &mut Random,
        of_containers: bool,
        making: Making,
    ) -> Stage<'fixture> {
        let forwards = !random.once_in(6);
        let value = u8::from(forwards);
        fixture.world.sh(&format!(
            "sysctl -qw net.ipv4.ip_forward={value} net.ipv6.conf.all.forwarding={value}"
        ));
        let local = HOSTS.iter().flat_map(|hosts| addresses(hosts));
        // The networks' broadcast addresses, and those of any of their routers (RFC 4291, 2.6.1).
        let others = addresses(&["10.1.0.255", "10.9.0.255", "fe80::77", "fe80::177"]);
        let anycast: &[&str] = if forwards { &["fd00:1::", "fd00:9::", "fe80::"] } else { &[] };
        let others = others.into_iter().chain(addresses(anycast));
        let mut stage = Stage {
            fixture,
            subjects: Vec::new(),
            own_lines: Vec::new(),
            owns_networks: random.once_in(3),
            macs: SENDERS.into_iter().collect(),
            machine: Machine::new(forwards, local.chain(others).collect()),
            prefixes: PREFIXES.iter().map(|text| text.parse().expect("a prefix")).collect(),
        };
        for which in 0..2 {
            let model = random_endpoint(random, which, of_containers);
            let subject = load(fixture, random, model, which, making);
            stage.subjects.push(subject);
        }
        stage.register();
        stage.report_nics();
        stage
    }

    /// Tells the model of the NICs that judge each other's flows.
    fn report_nics(&mut self) {
        let nics = self.subjects.iter().map(|subject| &subject.model);
        let nics = nics.filter(|model| !model.is_container && model.has_policy());
        self.machine.nics = nics.map(|model| (model.id, model.clone())).collect();
    }

    /// Tells the datapath and the model whose the workloads' addresses are.
    fn register(&mut self) {
        let root = self.fixture.world.root();
        let registered = Addresses::open(&root).expect("open").expect("the maps");
        for id in [7, 8, 17, 18] {
            registered.forget(EndpointId::new(id).expect("not 0"), &[]).expect("forget");
        }
        for (which, texts) in WORKLOADS.iter().enumerate() {
            let subject = &self.subjects[which];
            let model = &subject.model;
            let (ifindex, identity) = (model.ifindex, IDENTITY[which]);
            let mut own: Vec<IpNet> = match model.is_container {
                true => model.addresses.iter().copied().map(IpNet::from).collect(),
                false => addresses(texts).into_iter().map(IpNet::from).collect(),
            };
            own.extend(&model.prefixes);
            if !model.is_container && self.owns_networks {
                own.extend(networks(NETWORKS[which][0]));
            }
            if own.is_empty() {
                continue;
            }
            if model.switches.local_delivery {
                self.fixture.enter(&subject.loaded);
                let mut frame = Frame::arp_request(own4(texts), own4(texts)).bytes();
                frame[6..12].copy_from_slice(&SENDERS[which]);
                subject.loaded.from_container(frame).passes();
            } else {
                let mut config = subject.loaded.config;
                config.role = cm_role::CM_ROLE_CONTAINER;
                config.identity = identity;
                if !model.is_container {
                    config.endpoint_id += 10;
                }
                registered.register(&config, &own).expect("register");
            }
            for prefix in own {
                let owner = Owner { id: model.id, ifindex, is_container: true, is_here: true };
                match prefix.prefix_len() == prefix.max_prefix_len() {
                    true => _ = self.machine.owners.insert(prefix.addr(), owner),
                    false => _ = self.machine.prefix_owners.insert(prefix, owner),
                }
                self.own_lines.push(Line { prefix, identity, is_host: false });
            }
        }
    }

    /// Begins anew, without flows.
    pub fn forget(&mut self) {
        self.machine.forget();
        if self.fixture.world.root().map("cm_flows4").exists() {
            self.fixture.flush_conntrack();
        }
    }

    /// Other rules for all, and another ipcache.
    pub fn change_all(&mut self, random: &mut Random) {
        self.change_ipcache(random);
        for which in 0..self.subjects.len() {
            self.change_rules(random, which);
        }
        self.bump();
    }

    /// One of them.
    pub fn change(&mut self, random: &mut Random) {
        match random.below(4) {
            0 => self.change_ipcache(random),
            // Nothing, but nobody knows.
            1 => {}
            _ => {
                let which = random.below(self.subjects.len());
                self.change_rules(random, which);
            }
        }
        self.bump();
    }

    fn bump(&mut self) {
        self.fixture.bump_generation();
        self.machine.epoch += 1;
    }

    fn change_ipcache(&mut self, random: &mut Random) {
        let ipcache = self.fixture.open_ipcache();
        ipcache.flush().expect("flush");
        self.machine.ipcache.clone_from(&self.own_lines);
        for line in policy::ipcache(random, &self.prefixes) {
            if self.own_lines.iter().all(|own| own.prefix != line.prefix) {
                ipcache.set(&line.prefix, Identity(line.identity)).expect("set");
                self.machine.ipcache.push(line);
            }
        }
    }

    fn change_rules(&mut self, random: &mut Random, which: usize) {
        let subject = &mut self.subjects[which];
        if !subject.model.has_policy() {
            return;
        }
        subject.model.rules = policy::rules(random, &PORTS);
        let texts: Vec<String> = subject.model.rules.iter().map(ToString::to_string).collect();
        self.fixture.rules(&subject.loaded, &texts);
        self.report_nics();
    }

    /// What becomes of a frame that its sender's program lets pass and delivers.
    pub fn deliver(
        &self,
        from: &Subject<'_>,
        program: Program,
        arrival: &Arrival<'_>,
        sent: &Judgement,
    ) -> Option<Judgement> {
        if sent.must != Must::Pass || program != Program::FromContainer {
            return None;
        }
        let to = self.subjects.iter().find(|to| {
            to.model.is_container && delivery::is_delivered(&from.model, &to.model, arrival)
        })?;
        let arrival = Arrival { mark: sent.mark, is_delivered: true, ..arrival.clone() };
        let mut judgement = self.machine.judge(&to.model, Program::ToContainer, &arrival);
        if judgement.must == Must::Pass {
            judgement.must = Must::Redirect;
        }
        // The first fragment's type is known: of a neighbour message it is left to the stack.
        if delivery::is_later_fragment6(&arrival) {
            judgement.must = Must::Either;
        }
        Some(judgement)
    }

    pub fn describe(&self) -> String {
        let machine = &self.machine;
        let all: Vec<String> = self.subjects.iter().map(Subject::describe).collect();
        let (forwards, ipcache) = (machine.forwards, &machine.ipcache);
        format!("forwards {forwards}, ipcache {ipcache:?}\n  of:\n  {}", all.join("\n  "))
    }
}

impl Subject<'_> {
    pub fn describe(&self) -> String {
        let rules: Vec<String> = self.model.rules.iter().map(ToString::to_string).collect();
        format!("{:?}\n  {rules:?}", Endpoint { rules: Vec::new(), ..self.model.clone() })
    }
}

fn random_endpoint(random: &mut Random, which: usize, is_container: bool) -> Endpoint {
    let on = |random: &mut Random| random.once_in(4);
    let hosts = addresses(&HOSTS[which]);
    let own = match random.below(4) {
        0 if is_container => Vec::new(),
        _ if is_container => addresses(&WORKLOADS[which]),
        _ => vec![hosts[0], hosts[2]],
    };
    let prefixes = match random.below(4) {
        width @ 0..2 if is_container => networks(NETWORKS[which][width]),
        _ => Vec::new(),
    };
    let (ingress, egress) = (policy::mode(random), policy::mode(random));
    let has_ethernet = !random.once_in(8);
    let has_failsafe = !is_container && !random.once_in(3);
    Endpoint {
        is_container,
        id: 7 + which as u16,
        identity: if is_container || random.once_in(3) { IDENTITY[which] } else { 1 },
        ifindex: 0,
        mac: MACS[which],
        has_ethernet,
        ingress,
        egress,
        rules: Vec::new(),
        failsafe_ingress: if has_failsafe { vec![(6, 22), (17, 68)] } else { Vec::new() },
        failsafe_egress: if has_failsafe { vec![(17, 53)] } else { Vec::new() },
        workload_mac: (is_container && random.once_in(3)).then_some(SENDERS[which]),
        bridge: (!is_container && random.once_in(8)).then_some(BRIDGE_MAC),
        trusted_labels: (!is_container && on(random)).then(|| "fd00:2::/64".parse().unwrap()),
        switches: Switches {
            arp_responder: is_container && on(random),
            trust_proxy: on(random),
            flow_label: is_container && on(random),
            stamp_remote: !is_container && on(random),
            local_delivery: is_container && has_ethernet && !own.is_empty() && random.once_in(2),
            router: is_container && on(random),
            by_address: on(random),
            trust_marks: on(random),
        },
        addresses: own,
        prefixes,
    }
}

/// What the model does not know, or takes for granted.
fn configure_more(config: &mut cm_config, random: &mut Random) {
    let mut on = |value: &mut u8| *value = u8::from(random.once_in(4));
    on(&mut config.accept_local);
    on(&mut config.in_vrf);
    config.policy_verdict_log = random.below(4) as u32;
    if config.role == cm_role::CM_ROLE_NETDEV {
        config.local_delivery = random.once_in(2).into();
    }
    // None is lost, however many there are in a second.
    config.events_per_second = u32::MAX;
}

fn load<'fixture>(
    fixture: &'fixture Fixture,
    random: &mut Random,
    mut model: Endpoint,
    which: usize,
    making: Making,
) -> Subject<'fixture> {
    let policed = |mode| match mode {
        Mode::Off => Policed::Off,
        Mode::Audit => Policed::Audit,
        Mode::Enforce => Policed::Enforce,
    };
    let ports = |ports: &[(u8, u16)]| {
        ports.iter().map(|&(protocol, port)| FailsafePort { protocol, port }).collect()
    };
    let setup = if model.is_container {
        fixture.container(model.identity)
    } else {
        fixture.netdev(model.identity)
    };
    let setup = if model.is_container { setup } else { setup.slot(which as u8) };
    let enforcement = Enforcement {
        ingress: policed(model.ingress),
        egress: policed(model.egress),
        failsafe: Failsafe {
            ingress: ports(&model.failsafe_ingress),
            egress: ports(&model.failsafe_egress),
        },
        adopt_until_ns: if random.once_in(2) { u64::MAX } else { 0 },
        ..Enforcement::default()
    };
    let switches = model.switches.clone();
    let labels = model.trusted_labels;
    let mut setup = setup
        .id(model.id)
        .conntrack_entries(4096)
        .device(DEVICES[which])
        .policy(enforcement)
        .feature(|on| {
            on.arp_responder = switches.arp_responder;
            on.trust_proxy = switches.trust_proxy;
            on.flow_label = switches.flow_label;
            on.stamp_remote = switches.stamp_remote;
            on.local_delivery = switches.local_delivery;
            on.router = switches.router;
            on.by_address = switches.by_address;
            on.trust_marks = switches.trust_marks;
            on.trust_flow_label = labels;
        });
    for address in &model.addresses {
        setup = setup.address(*address);
    }
    for prefix in &model.prefixes {
        setup = setup.own(&prefix.to_string());
    }
    if !model.has_ethernet {
        setup = setup.without_ethernet();
    }
    let (bridge, workload_mac) = (model.bridge, model.workload_mac);
    let seed = (making != Making::Modelled).then(|| random.number());
    setup = setup.tune(move |config| {
        config.bridge_port = bridge.is_some().into();
        config.bridge_mac = bridge.unwrap_or_default();
        config.source_mac = workload_mac.unwrap_or_default();
        if let Some(seed) = seed {
            configure_more(config, &mut Random(seed));
        }
    });
    if making == Making::Compared(Folding::Off) {
        setup = setup.unfolded();
    }
    if random.once_in(2) {
        setup = setup.untraced();
    }
    let loaded = setup.load();
    model.ifindex = loaded.ifindex;
    let own = match model.is_container {
        true => addresses(&[WORKLOADS[which], INSIDE[which]].concat()),
        // What comes by one NIC may have the other's address.
        false if random.once_in(2) => addresses(&HOSTS.concat()),
        false => addresses(&HOSTS[which]),
    };
    let scene = Scene {
        mac: MACS[which],
        sender: SENDERS[which],
        has_ethernet: model.has_ethernet,
        takes_jumbo: false,
        own,
        peers: addresses(
            &[STRANGERS.as_slice(), &WORKLOADS[1 - which], &INSIDE[1 - which]].concat(),
        ),
        odd: addresses(&[ODD.as_slice(), HOSTS.concat().as_slice()].concat()),
        ports: PORTS.to_vec(),
        protocols: PROTOCOLS.to_vec(),
    };
    let ingress_ifindexes = vec![0, 0, model.ifindex, model.ifindex ^ 1, 4711];
    Subject { loaded, model, scene, ingress_ifindexes }
}
