//! A NIC and two workloads with answered flows, and floods that ask for the place of these in conntrack.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::thread;

use cilmark::model::enforcement::{Failsafe, Mode};
use cilmark::program::load::Enforcement;
use serde_json::Value;

use super::Fixture;
use super::flow::{By, Flow, KINDS, Kind, OPENING, RULES, Step};
use super::many::{End, Many, Numbers, OnCpu};
use super::packet::Frame;
use super::program::{Endpoint, Verdict};

/// The first port of who begins a flow that is to stay.
const FIRST_PORT: u16 = 20_000;
/// Those of who comes through a failsafe port meanwhile: so few that all have room.
const FAILSAFE_PORTS: std::ops::Range<u16> = 40_000..40_200;
/// The port of who floods.
const FLOOD_PORT: u16 = 10_000;
const CPUS: usize = 2;
/// Packets of a kind in a row.
const ROUND: u32 = 500;

/// Where the far ends of flows are that are to stay, and the first of those who flood.
const REMOTES: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)),
    IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, 1)),
];
const FLOODERS: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::new(100, 0, 0, 0)),
    IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb9, 0, 0, 0, 0, 0, 1)),
];

/// The endpoints: the host's NIC, a workload that floods and is flooded, and another one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Who {
    Nic = 0,
    Flooder = 1,
    Neighbour = 2,
}

const ALL: [Who; 3] = [Who::Nic, Who::Flooder, Who::Neighbour];

impl Who {
    /// Its address, in each family.
    fn addresses(self) -> [IpAddr; 2] {
        let number = 1 + self as u8;
        [
            Ipv4Addr::new(10, 1, 0, number).into(),
            Ipv6Addr::new(0xfd00, 1, 0, 0, 0, 0, 0, number.into()).into(),
        ]
    }
}

/// The endpoints, and the flows that are to stay.
pub struct Scene<'fixture> {
    endpoints: [Endpoint<'fixture>; 3],
    flows: Vec<(Who, Flow)>,
}

/// What came of a flood.
#[derive(Debug, Default)]
pub struct Toll {
    /// Packets of the flood.
    pub packets: usize,
    /// Answered flows that there were before.
    pub answered: usize,
    /// And those that were gone afterwards.
    pub ended: usize,
    /// These by whose they are, what they are, and whether they were idle meanwhile.
    by_kind: BTreeMap<String, usize>,
    /// Connections through failsafe ports that were tried meanwhile.
    pub connections: usize,
    /// Those that did not come about.
    pub refused: usize,
}

impl<'fixture> Scene<'fixture> {
    /// With so many flows of each kind in each direction, of each endpoint and family. Without a number of
    /// entries conntrack is as large as it is by default.
    pub fn new(fixture: &'fixture Fixture, entries: Option<u32>, of_each: u16) -> Scene<'fixture> {
        let endpoints = ALL.map(|who| endpoint(fixture, who, entries));
        let flows = ALL.into_iter().flat_map(|who| {
            let of_families = who.addresses().into_iter().zip(REMOTES);
            of_families.flat_map(move |(local, remote)| {
                KINDS.into_iter().flat_map(move |kind| {
                    [true, false].into_iter().flat_map(move |begun_here| {
                        let ports = (0..of_each).map(|number| FIRST_PORT + number);
                        ports.map(move |port| (who, Flow { kind, begun_here, local, remote, port }))
                    })
                })
            })
        });
        let scene = Scene { endpoints, flows: flows.collect() };
        for (who, flow) in &scene.flows {
            for step in flow.opening() {
                assert!(scene.of(*who).lets_pass(flow, *step), "{step:?} of {flow:?}");
            }
        }
        scene
    }

    fn of(&self, who: Who) -> &Endpoint<'fixture> {
        &self.endpoints[who as usize]
    }

    /// First packets: of TCP each twice, of UDP, and echo requests; from the wire to all endpoints, and from
    /// one of the workloads.
    pub fn first_packets(&self, packets: usize) -> Toll {
        let of_cpu = |cpu: u32| {
            let mut all = Vec::new();
            for (kind, family) in KINDS.into_iter().flat_map(|kind| [(kind, 0), (kind, 1)]) {
                let each = if kind == Kind::Tcp { 2 } else { 1 };
                let numbers = Numbers { each, ..Numbers::from(cpu << 23) };
                let flood = |who, begun_here| {
                    let flow = flood(who, kind, family, begun_here);
                    vec![self.many(who, &flow, Step::First, numbers)]
                };
                all.extend(ALL.map(|who| flood(who, false)));
                all.push(flood(Who::Flooder, true));
            }
            all
        };
        self.endure([of_cpu(0), of_cpu(1)], packets, |_| true)
    }

    /// Handshakes of a workload with a partner of its own, in both directions. Of the flows that are to stay
    /// only those of others count.
    pub fn handshakes(&self, packets: usize) -> Toll {
        let of_cpu = |cpu: u32| {
            let kinds = [(true, 0), (true, 1), (false, 0), (false, 1)];
            let handshakes = kinds.map(|(begun_here, family)| {
                let flow = flood(Who::Flooder, Kind::Tcp, family, begun_here);
                let numbers = Numbers::from(cpu << 23);
                OPENING.map(|step| self.many(Who::Flooder, &flow, step, numbers)).into()
            });
            handshakes.into()
        };
        self.endure([of_cpu(0), of_cpu(1)], packets, |who| who != Who::Flooder)
    }

    /// Such a packet of many flows, each with another far end.
    fn many(&self, who: Who, flow: &Flow, step: Step, numbers: Numbers) -> Many {
        let is_sent = flow.is_sent(step);
        let (hook, packet) = self.of(who).passage(is_sent, flow.frame(step));
        let end = if is_sent { End::Destination } else { End::Source };
        self.of(who).many(hook, &packet, end, numbers)
    }

    /// Lets the generators of each CPU have their turns until there were so many packets; a generator's programs
    /// get the same packets one after the other. Meanwhile half of the flows that are to stay go on, and
    /// connections through failsafe ports begin.
    fn endure(
        &self,
        generators: [Vec<Vec<Many>>; CPUS],
        packets: usize,
        counts: impl Fn(Who) -> bool,
    ) -> Toll {
        let mut toll = Toll::default();
        let (sent, running) = (AtomicUsize::new(0), AtomicUsize::new(CPUS));
        let flood = |cpu: usize| {
            let _stay = OnCpu::number(cpu);
            for programs in generators[cpu].iter().cycle() {
                programs.iter().for_each(|program| program.run(ROUND));
                let now = programs.len() * ROUND as usize;
                if sent.fetch_add(now, Relaxed) + now >= packets {
                    break;
                }
            }
            running.fetch_sub(1, Relaxed);
        };
        thread::scope(|scope| {
            let flood = &flood;
            (0..CPUS).for_each(|cpu| drop(scope.spawn(move || flood(cpu))));
            let mut busy = self.flows.iter().step_by(2).cycle();
            let mut ports = FAILSAFE_PORTS;
            while running.load(Relaxed) > 0 || toll.connections == 0 {
                for (who, flow) in busy.by_ref().take(8) {
                    self.of(*who).lets_pass(flow, Step::Next(By::Other));
                }
                if let Some(port) = ports.next() {
                    toll.connections += 1;
                    toll.refused += usize::from(!self.connects_through_failsafe(port));
                }
            }
        });
        toll.packets = sent.into_inner();
        for (number, (who, flow)) in self.flows.iter().enumerate() {
            if !counts(*who) {
                continue;
            }
            toll.answered += 1;
            if !self.of(*who).lets_go_on(flow) {
                toll.ended += 1;
                let begun = if flow.begun_here { "here" } else { "there" };
                let meanwhile = ["busy", "idle"][number % 2];
                let kind = format!("{who:?}, {:?} begun {begun}, {meanwhile}", flow.kind);
                *toll.by_kind.entry(kind).or_default() += 1;
            }
        }
        toll
    }

    /// Whether somebody gets through to the host's SSH, and the host to a name server, in both families.
    fn connects_through_failsafe(&self, port: u16) -> bool {
        let nic = self.of(Who::Nic);
        let passes = |is_sent, frame| {
            let (hook, packet) = nic.passage(is_sent, frame);
            nic.verdict(hook, packet) == Verdict::Pass
        };
        Who::Nic.addresses().into_iter().zip(REMOTES).all(|(own, peer)| {
            let request = |flags| passes(false, Frame::ip(peer, own).segment(port, 22, flags));
            let answer = |flags| passes(true, Frame::ip(own, peer).segment(22, port, flags));
            request("S")
                && answer("SA")
                && request("A")
                && answer("A")
                && passes(true, Frame::ip(own, peer).udp(port, 53))
                && passes(false, Frame::ip(peer, own).udp(53, port))
        })
    }

    /// How many of the flows that are to stay are in a list of conntrack's flows.
    pub fn listed(&self, list: &Value) -> usize {
        let ports = u64::from(FIRST_PORT)..u64::from(FAILSAFE_PORTS.start);
        let is_ours = |line: &&Value| {
            let begun_here = line["direction"] == "egress";
            let port = &line[if begun_here { "local_port" } else { "remote_port" }];
            let remote = line["remote"].as_str().and_then(|text| text.parse().ok());
            remote.is_some_and(|remote| REMOTES.contains(&remote))
                && port.as_u64().is_some_and(|port| ports.contains(&port))
        };
        list.as_array().expect("a list").iter().filter(is_ours).count()
    }

    /// How many flows are to stay.
    pub fn flows(&self) -> usize {
        self.flows.len()
    }
}

fn endpoint<'fixture>(
    fixture: &'fixture Fixture,
    who: Who,
    entries: Option<u32>,
) -> Endpoint<'fixture> {
    let enforcing =
        Enforcement { ingress: Mode::Enforce, egress: Mode::Enforce, ..Enforcement::default() };
    let setup = match who {
        Who::Nic => {
            fixture.netdev(1).policy(Enforcement { failsafe: Failsafe::standard(), ..enforcing })
        }
        Who::Flooder | Who::Neighbour => fixture.container(300).policy(enforcing),
    };
    let setup = who.addresses().into_iter().fold(setup, |setup, own| setup.address(own));
    let setup = entries.into_iter().fold(setup, |setup, entries| setup.conntrack_entries(entries));
    let endpoint = setup.id(7 + who as u16).untraced().load();
    fixture.rules(&endpoint, &RULES);
    endpoint
}

/// One of a flood's flows.
fn flood(who: Who, kind: Kind, family: usize, begun_here: bool) -> Flow {
    let (local, remote) = (who.addresses()[family], FLOODERS[family]);
    Flow { kind, begun_here, local, remote, port: FLOOD_PORT }
}

impl Toll {
    /// No answered flow has ended.
    #[track_caller]
    pub fn ends_none(&self) -> &Toll {
        assert!(self.answered > 0, "nothing was tried: {self:?}");
        assert_eq!(self.ended, 0, "{self:#?}");
        self
    }

    /// Every connection through a failsafe port has come about.
    #[track_caller]
    pub fn refuses_nobody(&self) -> &Toll {
        assert!(self.connections > 0, "nothing was tried: {self:?}");
        assert_eq!(self.refused, 0, "{self:#?}");
        self
    }
}
