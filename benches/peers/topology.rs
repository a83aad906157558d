//! Two workloads and the router between them, for each setup and size: what one setup leaves in its
//! namespace, conntrack and hooks above all, is none of the others' business.

use std::fs::File;
use std::io::{Read, Seek};
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use cilmark::kernel::netns;
use nix::sys::socket::{setsockopt, sockopt};

use super::setups::Setup;
use crate::world::run;

/// The addresses of the workload that asks.
pub const A: [&str; 2] = ["10.0.1.10", "fd00:1::10"];
/// The addresses of the workload that is asked.
pub const B: [&str; 2] = ["10.0.2.10", "fd00:2::10"];

/// The port of `b` where packets are counted and never read.
const SINK: u16 = 5000;
/// A port that no rule allows.
const DENIED: u16 = 6000;
/// How many packets one flow sends at once.
const BURST: usize = 64;
/// With the headers 60 bytes in IPv4: what Ethernet's smallest frame has without its checksum.
const PAYLOAD: usize = 18;
/// How many flows many flows are.
const FLOWS: usize = 500;
/// How often a packet that must come is sent, and how long each is awaited.
const ATTEMPTS: u32 = 250;
const A_MOMENT: Duration = Duration::from_millis(20);
const PATIENCE: Duration = Duration::from_secs(5);

/// One setup, with one number of addresses.
pub struct Topology {
    pub setup: Setup,
    pub size: u32,
    /// The namespaces.
    pub router: String,
    pub a: String,
    pub b: String,
}

impl Topology {
    /// Makes the namespaces, and puts the setup into the router.
    pub fn new(number: usize, setup: Setup, size: u32) -> Result<Topology> {
        let [router, a, b] = ["r", "a", "b"].map(|name| format!("{name}{number}"));
        let topology = Topology { setup, size, router, a, b };
        topology.connect()?;
        setup.install(&topology)?;
        topology.check()?;
        Ok(topology)
    }

    /// Neighbours are permanent, so that no answer of theirs is awaited amid a measurement.
    fn connect(&self) -> Result<()> {
        let mut script = format!(
            "ip netns add {router}
            ip netns exec {router} sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1 \
                net.ipv6.conf.default.accept_dad=0\n",
            router = self.router
        );
        for (number, end, device) in [(1, &self.a, "va"), (2, &self.b, "vb")] {
            script += &format!(
                "ip netns add {end}
                ip netns exec {end} sysctl -qw net.ipv6.conf.default.accept_dad=0
                ip -n {router} link add {device} address 02:00:00:00:0{number}:01 type veth \
                    peer name eth0 address 02:00:00:00:0{number}:10 netns {end}
                ip -n {router} addr add 10.0.{number}.1/24 dev {device}
                ip -n {router} addr add fd00:{number}::1/64 dev {device} nodad
                ip -n {router} link set {device} up
                ip -n {end} link set lo up
                ip -n {end} addr add 10.0.{number}.10/24 dev eth0
                ip -n {end} addr add fd00:{number}::10/64 dev eth0 nodad
                ip -n {end} link set eth0 up
                ip netns exec {end} ethtool -K eth0 tx-udp-segmentation off
                for family in 10.0.{number}. fd00:{number}::; do
                    ip -n {router} neigh replace ${{family}}10 lladdr 02:00:00:00:0{number}:10 \
                        dev {device} nud permanent
                    ip -n {end} neigh replace ${{family}}1 lladdr 02:00:00:00:0{number}:01 \
                        dev eth0 nud permanent
                    ip -n {end} route add default via ${{family}}1
                done\n",
                router = self.router
            );
        }
        run(&script)
    }

    /// What the table is to say of it.
    pub fn name(&self) -> String {
        format!("{} with {} addresses", self.setup.name(), self.size)
    }

    /// Runs this in a namespace, in a thread of its own. Sockets stay where they were made.
    pub fn inside<T: Send>(
        namespace: &str,
        action: impl FnOnce() -> Result<T> + Send,
    ) -> Result<T> {
        thread::scope(|scope| {
            let thread = scope.spawn(|| {
                netns::enter(namespace)?;
                action()
            });
            thread.join().map_err(|_| anyhow!("a thread in {namespace} panicked"))?
        })
    }

    /// A UDP socket of `a` that is connected to a port of `b`.
    fn socket(&self, family: usize, port: u16) -> Result<UdpSocket> {
        Topology::inside(&self.a, || {
            let socket = UdpSocket::bind((A[family].parse::<IpAddr>()?, 0))?;
            socket.connect((B[family].parse::<IpAddr>()?, port))?;
            Ok(socket)
        })
    }

    /// Sends to the port of `b` that nobody reads, to see who gets there.
    pub fn stream(&self, family: usize, many: bool) -> Result<Stream> {
        let sink = Sink::new(self, family, SINK)?;
        let flows = if many { FLOWS } else { 1 };
        let senders = (0..flows).map(|_| self.socket(family, SINK));
        let stream = Stream { senders: senders.collect::<Result<_>>()?, sink, many };
        if !many {
            setsockopt(&stream.senders[0], sockopt::UdpGsoSegment, &(PAYLOAD as i32))?;
        }
        let before = self.frames()?;
        let sent = stream.send()?;
        let deadline = Instant::now() + PATIENCE;
        while self.frames()? < before + sent {
            ensure!(Instant::now() < deadline, "{}: packets were lost or not cut", self.name());
        }
        Ok(stream)
    }

    /// That the setup does what it is to do: what a rule allows arrives and is answered, on the way
    /// that it is to take, and nothing else arrives if there are rules.
    fn check(&self) -> Result<()> {
        for (family, address) in B.iter().enumerate() {
            let reached = |port: u16, attempts: u32| {
                let what = || format!("{}: port {port} of {address}", self.name());
                self.reaches(family, port, attempts).with_context(what)
            };
            let filters = self.setup.filters();
            ensure!(reached(SINK, ATTEMPTS)?, "{}: nothing arrives", self.name());
            let denied = !reached(DENIED, if filters { 1 } else { ATTEMPTS })?;
            ensure!(denied == filters, "{}: port {DENIED}: denied: {denied}", self.name());
            let before = self.forwarded(family)?;
            ensure!(reached(SINK, ATTEMPTS)?, "{}: nothing arrives any more", self.name());
            let past_the_stack = self.forwarded(family)? == before;
            ensure!(
                past_the_stack == (self.setup == Setup::LocalDelivery),
                "{}: not on the way it is to take",
                self.name()
            );
        }
        Ok(())
    }

    /// Whether one of some packets arrives; its answer must, too. A fresh veth loses what it is to
    /// send, until the kernel has noticed that it has a carrier.
    fn reaches(&self, family: usize, port: u16, attempts: u32) -> Result<bool> {
        let receiver = self.receiver(family, port)?;
        receiver.set_read_timeout(Some(A_MOMENT))?;
        let sender = self.socket(family, port)?;
        sender.set_read_timeout(Some(PATIENCE))?;
        for _ in 0..attempts {
            sender.send(&[0; PAYLOAD])?;
            if let Ok((_, from)) = receiver.recv_from(&mut [0; PAYLOAD]) {
                receiver.send_to(&[0], from)?;
                sender.recv(&mut [0]).context("no answer")?;
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// How many packets the router has forwarded.
    fn forwarded(&self, family: usize) -> Result<u64> {
        let names = [("Ip", "ForwDatagrams"), ("Ip6", "OutForwDatagrams")];
        Topology::inside(&self.router, || Counter::open(family, names[family])?.read())
    }

    /// How many frames `b` has received: a burst that nobody has cut would be one.
    fn frames(&self) -> Result<u64> {
        let path = "/proc/thread-self/net/dev";
        let text = Topology::inside(&self.b, || Ok(std::fs::read_to_string(path)?))?;
        let line = text.lines().find_map(|line| line.trim_start().strip_prefix("eth0:"));
        let packets = line.and_then(|line| line.split_whitespace().nth(1)?.parse().ok());
        packets.with_context(|| format!("no eth0 in {path}"))
    }

    fn receiver(&self, family: usize, port: u16) -> Result<UdpSocket> {
        let address = SocketAddr::new(B[family].parse()?, port);
        Topology::inside(&self.b, || {
            UdpSocket::bind(address).with_context(|| format!("bind {address}"))
        })
    }
}

/// A socket of `b` that is never read: once it is full, the kernel counts what comes, and drops it
/// as the last thing it does.
struct Sink {
    _socket: UdpSocket,
    packets: Counter,
}

impl Sink {
    fn new(topology: &Topology, family: usize, port: u16) -> Result<Sink> {
        let socket = topology.receiver(family, port)?;
        setsockopt(&socket, sockopt::RcvBuf, &1)?;
        let name = [("Udp", "RcvbufErrors"), ("Udp6", "RcvbufErrors")][family];
        let packets = Topology::inside(&topology.b, || Counter::open(family, name))?;
        Ok(Sink { _socket: socket, packets })
    }
}

/// A number that the kernel counts for a namespace, that in which it was opened.
struct Counter {
    file: File,
    family: usize,
    name: (&'static str, &'static str),
}

impl Counter {
    fn open(family: usize, name: (&'static str, &'static str)) -> Result<Counter> {
        let path = ["/proc/thread-self/net/snmp", "/proc/thread-self/net/snmp6"][family];
        let file = File::open(path).with_context(|| format!("open {path}"))?;
        Ok(Counter { file, family, name })
    }

    fn read(&mut self) -> Result<u64> {
        let mut text = String::new();
        self.file.rewind()?;
        self.file.read_to_string(&mut text)?;
        let number = if self.family == 0 { self.in_two_lines(&text) } else { self.in_one(&text) };
        number.with_context(|| format!("the kernel does not count {:?}", self.name))
    }

    /// For IPv4 a line of names comes before each line of numbers.
    fn in_two_lines(&self, text: &str) -> Option<u64> {
        let own = |line: &&str| line.split_once(':').is_some_and(|(group, _)| group == self.name.0);
        let mut lines = text.lines().filter(own);
        let mut pairs = lines.next()?.split(' ').zip(lines.next()?.split(' '));
        pairs.find(|(name, _)| *name == self.name.1)?.1.parse().ok()
    }

    fn in_one(&self, text: &str) -> Option<u64> {
        let name = format!("{}{}", self.name.0, self.name.1);
        let number = |line: &str| line.strip_prefix(&name)?.trim().parse().ok();
        text.lines().find_map(number)
    }
}

/// UDP from `a` to `b`, as fast as it goes.
pub struct Stream {
    senders: Vec<UdpSocket>,
    sink: Sink,
    many: bool,
}

impl Stream {
    /// How many packets have come.
    pub fn packets(&mut self) -> Result<u64> {
        self.sink.packets.read()
    }

    /// Sends a burst of one flow, or a packet of each of many; how many packets that is. The burst of
    /// one flow is cut into packets right before the device: the sender costs little, and hides
    /// little of what is measured.
    pub fn send(&self) -> Result<u64> {
        let payload = [0; BURST * PAYLOAD];
        let length = if self.many { PAYLOAD } else { payload.len() };
        for sender in &self.senders {
            sender.send(&payload[..length]).context("send")?;
        }
        Ok((self.senders.len() * length / PAYLOAD) as u64)
    }
}
