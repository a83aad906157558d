//! Endpoints to measure, the packets' paths through them, and the packets.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::BorrowedFd;

use anyhow::{Context, Result, bail};
use cilmark::kernel::sys::Hook;
use cilmark::kernel::{device, netns};
use cilmark::model::endpoint::{EndpointId, Role, Scope};
use cilmark::model::enforcement::{Failsafe, Mode};
use cilmark::model::identity::{Identity, Names};
use cilmark::model::policy::Policy;
use cilmark::model::rule::Rule;
use cilmark::program::load::{self, Enforcement, Features, Loaded, Resolved, Sizes};
use cilmark::state::pin::Root;
use cilmark::state::policy::PolicyMaps;
use cilmark::state::registry::Inherited;
use etherparse::PacketBuilder;

use super::keys;

pub const PEER_IPV6: Ipv6Addr = Ipv6Addr::new(0xfd00, 2, 0, 0, 0, 0, 0, 0x20);

/// The first port that rules of the table are about; each is about another one.
pub const FIRST_PORT: u16 = 10_000;
/// A port that is open to anybody.
pub const OPEN_PORT: u16 = 8080;
/// What the other end has for a port.
pub const OTHER_PORT: u16 = 40000;

/// A packet's way through one of the four programs.
#[derive(Debug, Clone, Copy)]
pub struct Path {
    pub program: &'static str,
    pub role: Role,
    pub hook: Hook,
    /// The endpoint is the sender.
    pub sends: bool,
    /// 0 for what the host itself sends.
    pub ingress_ifindex: u32,
}

pub const FROM_CONTAINER: Path = Path {
    program: "from_container",
    role: Role::Container,
    hook: Hook::Ingress,
    sends: true,
    ingress_ifindex: 1,
};
pub const TO_CONTAINER: Path =
    Path { program: "to_container", hook: Hook::Egress, sends: false, ..FROM_CONTAINER };
pub const FROM_NETDEV: Path =
    Path { program: "from_netdev", role: Role::Netdev, sends: false, ..FROM_CONTAINER };
pub const TO_NETDEV: Path = Path {
    program: "to_netdev",
    role: Role::Netdev,
    hook: Hook::Egress,
    sends: true,
    ingress_ifindex: 0,
};
pub const PATHS: [Path; 4] = [FROM_CONTAINER, TO_CONTAINER, FROM_NETDEV, TO_NETDEV];

/// The address of the peer of packets that do not vary.
pub fn peer(family: u8) -> IpAddr {
    if family == 4 { Ipv4Addr::new(10, 0, 2, 20).into() } else { PEER_IPV6.into() }
}

/// An address of this host's that no endpoint was told of.
pub fn host(family: u8) -> IpAddr {
    if family == 4 {
        Ipv4Addr::new(10, 0, 3, 1).into()
    } else {
        Ipv6Addr::new(0xfd00, 3, 0, 0, 0, 0, 0, 1).into()
    }
}

/// A role's own address.
pub fn local(role: Role, family: u8) -> IpAddr {
    match (role, family) {
        (Role::Container, 4) => Ipv4Addr::new(10, 0, 1, 10).into(),
        (Role::Container, _) => Ipv6Addr::new(0xfd00, 1, 0, 0, 0, 0, 0, 0x10).into(),
        (Role::Netdev, 4) => Ipv4Addr::new(192, 0, 2, 1).into(),
        (Role::Netdev, _) => Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1).into(),
    }
}

/// What an endpoint is, beside its role.
#[derive(Debug, Clone)]
pub struct Kind<'a> {
    pub mode: Mode,
    pub rules: Option<&'a Policy>,
    pub stamp_remote: bool,
    pub sizes: Sizes,
}

/// A container and a NIC of the same kind.
pub struct Pair {
    container: Loaded,
    nic: Loaded,
}

impl Pair {
    /// Numbers the container, and the NIC after it.
    pub fn load(root: &Root, number: u16, kind: &Kind<'_>) -> Result<Pair> {
        Ok(Pair {
            container: load_endpoint(root, Role::Container, number, kind)?,
            nic: load_endpoint(root, Role::Netdev, number + 1, kind)?,
        })
    }

    /// The program on a path.
    pub fn program(&self, path: &Path) -> BorrowedFd<'_> {
        let loaded = if path.role == Role::Container { &self.container } else { &self.nic };
        loaded.program(path.hook)
    }
}

/// The identity is not 1, so that to_netdev has to find out what is the host's own traffic.
pub fn load_endpoint(root: &Root, role: Role, number: u16, kind: &Kind<'_>) -> Result<Loaded> {
    let device = device::by_name("lo")?;
    let failsafe = Failsafe::standard();
    let spec = Resolved {
        id: EndpointId::new(number).context("no endpoint number")?,
        role,
        identity: Identity(1234),
        scope: Scope::of(if role == Role::Container { number.into() } else { 0 }),
        netns: netns::current()?,
        source_mac: None,
        mac: device.mac,
        others: Vec::new(),
        addresses: vec![local(role, 4).into(), local(role, 6).into()],
        shared: Vec::new(),
        tc_priority: 0,
        nic_slot: (number / 2 % 16) as u8,
        features: Features { stamp_remote: kind.stamp_remote, ..Features::default() },
        policy: Enforcement {
            ingress: kind.mode,
            egress: kind.mode,
            failsafe,
            ..Enforcement::default()
        },
        device,
    };
    let loaded = load::load(root, role, &spec.config(), &kind.sizes, &Inherited::default())?;
    if let Some(rules) = kind.rules {
        root.endpoint(spec.id).create()?;
        PolicyMaps::of(root, spec.id, loaded.map_ids()?)?.swap(rules)?;
    }
    Ok(loaded)
}

/// Of each direction half: one that allows anybody one port, and all others a peer and a port of its
/// own.
pub fn rules(count: u32) -> Result<Policy> {
    parsed(rule_texts(count))
}

/// The same, and one that tells this host from the rest of the world, so that an egress verdict looks a
/// route up.
pub fn rules_that_name_the_host(count: u32) -> Result<Policy> {
    parsed(rule_texts(count).chain(["allow egress to host tcp/22".to_owned()]))
}

fn rule_texts(count: u32) -> impl Iterator<Item = String> {
    let others = (0..count / 2 - 1).flat_map(|place| {
        let (identity, port) = (keys::identity(place), u32::from(FIRST_PORT) + place);
        [
            format!("allow ingress from {identity} tcp/{port}"),
            format!("allow egress to {identity} tcp/{port}"),
        ]
    });
    let open = [
        format!("allow ingress from any tcp/{OPEN_PORT}"),
        format!("allow egress to any tcp/{OPEN_PORT}"),
    ];
    others.chain(open)
}

fn parsed(texts: impl Iterator<Item = String>) -> Result<Policy> {
    let rules = texts.map(|text| Rule::parse(&text, &Names::default()));
    let rules: Vec<Rule> = rules.collect::<Result<_>>()?;
    Ok(Policy::default().replaced_by(&rules, &Policy::default()))
}

/// The flags of a segment.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Flags {
    Ack,
    Syn,
    /// After which conntrack takes what comes for another flow.
    SynRst,
}

/// To the loopback device's own MAC, on which test runs are. The ports are those of the two ends.
pub fn packet(ends: (IpAddr, IpAddr), ports: (u16, u16), flags: Flags) -> Result<Vec<u8>> {
    let builder = PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], [0; 6]);
    let builder = match ends {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            builder.ipv4(source.octets(), destination.octets(), 64)
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            builder.ipv6(source.octets(), destination.octets(), 64)
        }
        (source, destination) => bail!("{source} and {destination} are of two families"),
    };
    let builder = builder.tcp(ports.0, ports.1, 1, 64000);
    let builder = match flags {
        Flags::Ack => builder.ack(1),
        Flags::Syn => builder.syn(),
        Flags::SynRst => builder.syn().rst(),
    };
    let mut packet = Vec::new();
    builder.write(&mut packet, &[0; 64])?;
    Ok(packet)
}

impl Path {
    /// The path of packets in the other direction.
    pub fn back(&self) -> Path {
        let is_back = |path: &&Path| path.role == self.role && path.sends != self.sends;
        *PATHS.iter().find(is_back).expect("each role sends and receives")
    }

    /// The packet's ends, for a peer.
    pub fn ends(&self, family: u8, peer: IpAddr) -> (IpAddr, IpAddr) {
        let local = local(self.role, family);
        if self.sends { (local, peer) } else { (peer, local) }
    }
}
