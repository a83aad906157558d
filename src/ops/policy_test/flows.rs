//! The flows that are up: those that cilmark knows, that the kernel's conntrack knows, and that sockets of this host have.

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};

use anyhow::Result;

use super::subject::{KnownFlows, Subject};
use crate::kernel::device;
use crate::kernel::kernel_flows::{self, Answer, KernelFlow};
use crate::kernel::sockets::{self, Peer, Socket};
use crate::model::endpoint::{Role, Scope};
use crate::model::flow::Progress;
use crate::model::identity::Identity;
use crate::model::policy::live::LiveFlow;
use crate::model::prefix::PrefixTable;
use crate::model::protocol::{EPHEMERAL, TCP, UDP, has_types};
use crate::model::rule::Direction;
use crate::ops::adoption;
use crate::state::conntrack::{Conntrack, Existing, Flow, Originator};
use crate::state::pin::Root;

/// Whose a flow is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Whose {
    /// This host's, by one of its NICs.
    Host,
    /// A workload's, by its place among the subjects.
    Workload(usize),
}

/// Each flow once, whoever knows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Key {
    /// Whose it is.
    pub whose: Whose,
    /// IP protocol.
    pub protocol: u8,
    /// The endpoint's own end.
    pub local: SocketAddr,
    /// The other end.
    pub remote: SocketAddr,
}

/// What is known of a flow.
#[derive(Debug, Clone, Copy, Default)]
pub struct Known {
    /// Of its first packet, if anybody can tell.
    pub direction: Option<Direction>,
    /// A workload's, under an address of this host.
    pub masqueraded: bool,
    /// Who has begun it, as its packets have said.
    pub claimed: Option<Identity>,
    /// 1 << slot of each NIC that it has passed.
    pub passed: u16,
    /// Its endpoint has taken it over before.
    pub was_adopted: bool,
    /// Its entry counts when its endpoint enforces.
    pub is_kept: bool,
    /// The kernel knows it as one that is taken over.
    pub may_be_adopted: bool,
    /// Only the end that began it has sent.
    pub is_unanswered: bool,
    /// Who has sent what a workload receives, where that comes under another address.
    pub sender: Option<IpAddr>,
    /// Who knows it.
    pub sources: Sources,
}

/// Who knows a flow.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Sources {
    /// cilmark's own conntrack.
    pub cilmark: bool,
    /// The kernel's.
    pub kernel: bool,
    /// A socket of this host.
    pub socket: bool,
}

/// All of them.
#[derive(Default)]
pub struct Flows {
    /// What is known of each.
    pub all: HashMap<Key, Known>,
    /// The kernel's conntrack has none, or is not there.
    pub kernel_has_none: bool,
}

/// What flows are recognised by.
struct Collector {
    host: HashSet<IpAddr>,
    has_nics: bool,
    workloads: PrefixTable<Vec<usize>>,
    /// Where somebody waits for others on this host, by protocol and port.
    open: HashMap<(u8, u16), Vec<IpAddr>>,
    connected: Vec<Socket>,
    /// Flows of this host's sockets that have other ends outside.
    translated: HashSet<(u8, SocketAddr, SocketAddr)>,
    flows: HashMap<Key, Known>,
}

/// Reads them all, of the current namespace.
pub fn read(root: &Root, subjects: &[Subject]) -> Result<Flows> {
    let mut collector = Collector::new(subjects)?;
    sockets::for_each(|socket| match socket.remote {
        Peer::Anybody => {
            let at = collector.open.entry((socket.protocol, socket.local.port())).or_default();
            at.push(socket.local.ip());
        }
        Peer::One(_) => collector.connected.push(socket),
    })?;
    // The kernel's come first: it may have seen who began.
    let kernel_has_none = !kernel_flows::for_each(|answer| match answer {
        Answer::Again => collector.flows.clear(),
        Answer::One(flow) => collector.add_kernels(&flow),
    })?;
    collector.add_known(root, subjects, kernel_has_none)?;
    collector.add_sockets();
    Ok(Flows { all: collector.flows, kernel_has_none })
}

impl Collector {
    fn new(subjects: &[Subject]) -> Result<Collector> {
        let mut workloads: HashMap<_, Vec<usize>> = HashMap::new();
        for (index, subject) in subjects.iter().enumerate() {
            if subject.viewer.role == Role::Container {
                for own in &subject.addresses {
                    workloads.entry(*own).or_default().push(index);
                }
            }
        }
        Ok(Collector {
            host: device::local_addresses()?,
            has_nics: subjects.iter().any(|it| it.viewer.role == Role::Netdev),
            workloads: workloads.into_iter().collect(),
            open: HashMap::new(),
            connected: Vec::new(),
            translated: HashSet::new(),
            flows: HashMap::new(),
        })
    }

    /// Whether somebody waits for others there. A socket of IPv6 may take what comes by IPv4, too.
    fn is_open(&self, protocol: u8, end: SocketAddr) -> bool {
        let takes =
            |at: &IpAddr| *at == end.ip() || at.is_unspecified() && (at.is_ipv6() || end.is_ipv4());
        self.open.get(&(protocol, end.port())).is_some_and(|open| open.iter().any(takes))
    }

    fn is_local(&self, address: IpAddr) -> bool {
        address.is_loopback() || self.host.contains(&address)
    }

    /// The workloads that have an address, unless it is this host's, as one in a prefix of theirs may be.
    fn workloads_at(&self, address: IpAddr) -> Vec<usize> {
        match self.is_local(address) {
            true => Vec::new(),
            false => self.workloads.get(address).cloned().unwrap_or_default(),
        }
    }

    fn add_kernels(&mut self, flow: &KernelFlow) {
        let KernelFlow { original, reply, .. } = flow;
        if self.has_nics
            && let Some(existing) = adoption::of_host(flow, &self.host)
            && self.is_live(flow, &existing)
        {
            self.add_existing(Whose::Host, &existing, flow);
        }
        for index in self.workloads_at(original.source.ip()) {
            self.add_existing(Whose::Workload(index), &adoption::of_sender(flow), flow);
        }
        for index in self.workloads_at(reply.source.ip()) {
            let received = adoption::of_receiver(flow);
            let known = self.add_existing(Whose::Workload(index), &received, flow);
            let sender = original.source.ip();
            known.sender = (sender != received.remote.ip()).then_some(sender);
        }
        let is_translated =
            (original.source, original.destination) != (reply.destination, reply.source);
        let ends = [(original.source, original.destination), (reply.source, reply.destination)];
        for (own, other) in ends.into_iter().filter(|_| is_translated) {
            if self.is_local(own.ip()) {
                self.translated.insert((flow.protocol, own, other));
            }
        }
    }

    /// What somebody has sent to this host, and nobody has answered, may be nobody's: but not where somebody waits for it.
    fn is_live(&self, flow: &KernelFlow, existing: &Existing) -> bool {
        flow.is_answered
            || existing.direction == Direction::Egress
            || match flow.protocol {
                UDP => self.open.contains_key(&(UDP, existing.local.port())),
                protocol => !has_types(protocol),
            }
    }

    fn add_existing(&mut self, whose: Whose, flow: &Existing, kernels: &KernelFlow) -> &mut Known {
        let Existing { protocol, local, remote, .. } = *flow;
        let known = self.flows.entry(Key { whose, protocol, local, remote }).or_default();
        known.direction = known.direction.or(certain(flow.originator, flow.direction));
        known.masqueraded |= flow.masqueraded;
        known.may_be_adopted = kernels.may_be_adopted();
        known.is_unanswered = !kernels.is_answered;
        known.sources.kernel = true;
        known
    }

    /// `at_both_ends`: nobody translates addresses, so that what a workload knows of another the other has, too.
    fn add_known(&mut self, root: &Root, subjects: &[Subject], at_both_ends: bool) -> Result<()> {
        let mut seen: Vec<(KnownFlows, Whose)> = Vec::new();
        for (index, subject) in subjects.iter().enumerate() {
            let Some(known) = subject.known else { continue };
            let whose = match known.scope {
                Scope::NICS => Whose::Host,
                _ => Whose::Workload(index),
            };
            let place = KnownFlows { slot: None, ..known };
            if !seen.contains(&(place, whose)) {
                seen.push((place, whose));
            }
        }
        for (place, whose) in seen {
            let Some(conntrack) = Conntrack::open(root, place.owner)? else { continue };
            conntrack.for_each_flow(|flow| {
                if flow.scope == place.scope && is_up(&flow) {
                    let direction = self.add_flow(whose, &flow);
                    if at_both_ends && whose != Whose::Host {
                        self.add_at_other_end(&flow, direction);
                    }
                }
            })?;
        }
        Ok(())
    }

    /// Its direction, if anybody can tell.
    fn add_flow(&mut self, whose: Whose, flow: &Flow) -> Option<Direction> {
        let key = Key {
            whose,
            protocol: flow.protocol,
            local: SocketAddr::new(flow.local, flow.local_port),
            remote: SocketAddr::new(flow.remote, flow.remote_port),
        };
        let mut direction = certain(flow.originator, flow.direction);
        // Audit has seen some packet of it first, perhaps an answer: of TCP it would have left no entry.
        if !flow.allowed && flow.protocol != TCP {
            direction = live(&key, &Known::default()).direction_by_ports().or(direction);
        }
        let known = self.flows.entry(key).or_default();
        known.direction = known.direction.or(direction);
        known.masqueraded |= flow.masqueraded;
        known.claimed = flow.claimed;
        known.passed |= flow.passed;
        known.was_adopted = flow.adopted && flow.allowed;
        known.is_kept = flow.allowed;
        known.sources.cilmark = true;
        known.direction
    }

    /// Of the workload there, which may have no entry of it.
    fn add_at_other_end(&mut self, flow: &Flow, direction: Option<Direction>) {
        let local = SocketAddr::new(flow.remote, flow.remote_port);
        let remote = SocketAddr::new(flow.local, flow.local_port);
        for index in self.workloads_at(flow.remote) {
            let whose = Whose::Workload(index);
            let key = Key { whose, protocol: flow.protocol, local, remote };
            let known = self.flows.entry(key).or_default();
            known.direction = known.direction.or(direction.map(Direction::other));
            known.sources.cilmark = true;
        }
    }

    fn add_sockets(&mut self) {
        for socket in std::mem::take(&mut self.connected) {
            let Peer::One(remote) = socket.remote else { continue };
            let (local, protocol) = (socket.local, socket.protocol);
            if remote.ip().is_unspecified()
                || self.is_local(remote.ip())
                || self.translated.contains(&(protocol, local, remote))
            {
                continue;
            }
            if self.has_nics {
                self.add_socket(Key { whose: Whose::Host, protocol, local, remote }, local);
            }
            for index in self.workloads_at(remote.ip()) {
                let whose = Whose::Workload(index);
                self.add_socket(Key { whose, protocol, local: remote, remote: local }, local);
            }
        }
    }

    /// `end` is the one of this host.
    fn add_socket(&mut self, key: Key, end: SocketAddr) {
        let to_host = if key.local == end { Direction::Ingress } else { Direction::Egress };
        let other = if key.local == end { key.remote } else { key.local };
        // A TCP connection was begun by the end where nobody listens, even from a privileged port, as by clients of NFS.
        // But where only the other port is one that clients get, who listened here has gone.
        let by_listener = match key.protocol {
            _ if self.is_open(key.protocol, end) => Some(to_host),
            TCP if end.port() >= EPHEMERAL || other.port() < EPHEMERAL => Some(to_host.other()),
            _ => None,
        };
        let known = self.flows.entry(key).or_default();
        let by_ports = || live(&key, &Known::default()).direction_by_ports();
        known.direction = known.direction.or(by_listener).or_else(by_ports);
        known.sources.socket = true;
    }
}

fn certain(originator: Originator, direction: Direction) -> Option<Direction> {
    (originator == Originator::Known).then_some(direction)
}

/// Whether an entry is of a flow that goes on. What lets answers to a question to many in has one end only.
fn is_up(flow: &Flow) -> bool {
    let goes_on = matches!(flow.progress, Progress::Established | Progress::HalfClosed);
    goes_on && !flow.local.is_unspecified() && !flow.remote.is_unspecified()
}

/// As rules are asked about it.
pub fn live(key: &Key, known: &Known) -> LiveFlow {
    LiveFlow {
        protocol: key.protocol,
        local: key.local,
        remote: key.remote,
        direction: known.direction,
        masqueraded: known.masqueraded,
        begins_anew: false,
    }
}
