//! What of this host's own traffic hurts most if it ends.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use anyhow::Result;

use crate::kernel::device::{self, Route};
use crate::kernel::sockets::{self, Peer, Socket};
use crate::kernel::{multicast, processes};
use crate::model::mounts;
use crate::model::policy::live::LiveFlow;
use crate::model::protocol::{TCP, UDP};
use crate::model::rule::{Direction, L4};
use crate::ops::doctor::SSH_SERVERS;

/// Something that this host can't do without.
#[derive(Default)]
pub struct Need {
    /// Of findings.
    pub check: &'static str,
    /// What there is: a clause.
    pub says: String,
    /// A flow that has to pass.
    pub flow: Option<LiveFlow>,
    /// What has to be open, whoever is at the other end: all of it, or any.
    pub kinds: Vec<(Direction, L4)>,
    /// One of `kinds` is enough.
    pub any_will_do: bool,
    /// For a rule of the first of `kinds`, if that names no port.
    pub port: Option<u16>,
    /// It goes by these devices; `None`: by that to which routes lead, or of what has no flow by any.
    pub devices: Option<Vec<String>>,
    /// It comes out of the tunnel of this number, whose own packets it is about.
    pub tunnel: Option<u32>,
    /// What to say behind the rule.
    pub hint: String,
}

const SSH: u16 = 22;
const BGP: u16 = 179;

/// Storage of others by the port of its server: IANA's, and what nbd-server(1) and Ceph's monitors (v2, v1) have.
const STORAGE: [(u16, &str); 6] = [
    (2049, "NFS"),
    (3260, "iSCSI"),
    (4420, "NVMe over TCP"),
    (10809, "NBD"),
    (3300, "Ceph"),
    (6789, "Ceph"),
];

/// Daemons that speak by protocols of their own: the protocol, its name, and the group that routers join.
const ROUTING: [(u8, &str, Ipv4Addr); 3] = [
    (112, "VRRP or CARP", Ipv4Addr::new(224, 0, 0, 18)),
    (89, "OSPF", Ipv4Addr::new(224, 0, 0, 5)),
    (103, "PIM", Ipv4Addr::new(224, 0, 0, 13)),
];

/// Kinds of tunnel devices, with the protocol and the usual port of what carries them. Of tun anything may.
const TUNNELS: [(&str, u8, Option<u16>); 13] = [
    ("wireguard", UDP, Some(51820)),
    ("tun", UDP, Some(1194)),
    ("vxlan", UDP, Some(4789)),
    ("geneve", UDP, Some(6081)),
    ("ipip", 4, None),
    ("sit", 41, None),
    ("ip6tnl", 41, None),
    ("gre", 47, None),
    ("gretap", 47, None),
    ("ip6gre", 47, None),
    ("vti", 50, None),
    ("vti6", 50, None),
    ("xfrm", 50, None),
];

/// Where clouds tell their machines who they are.
const METADATA: Ipv4Addr = Ipv4Addr::new(169, 254, 169, 254);
/// What cloud-init has found, such as `aws`; `none` and `nocloud` are no cloud's (its doc, "instance-data").
const CLOUD: &str = "/run/cloud-init/cloud-id";

/// Those of the current namespace.
pub fn needs() -> Result<Vec<Need>> {
    let mut connected = Vec::new();
    sockets::for_each(|socket| {
        if let (TCP, Peer::One(remote)) = (socket.protocol, socket.remote) {
            connected.push((socket, remote));
        }
    })?;
    let mut needs = storage(&connected);
    needs.extend(ssh_by_tunnel(&connected)?);
    needs.extend(routing(&connected));
    needs.extend(metadata()?);
    Ok(needs)
}

fn flow(protocol: u8, server: IpAddr, port: u16) -> LiveFlow {
    let nobody = match server {
        IpAddr::V4(_) => IpAddr::from([0; 4]),
        IpAddr::V6(_) => IpAddr::from([0; 16]),
    };
    LiveFlow {
        protocol,
        local: SocketAddr::new(nobody, 0),
        remote: SocketAddr::new(server, port),
        direction: Some(Direction::Egress),
        masqueraded: false,
        begins_anew: false,
    }
}

fn to_server(check: &'static str, says: String, flow: LiveFlow) -> Need {
    Need { check, says, flow: Some(flow), ..Need::default() }
}

fn storage(connected: &[(Socket, SocketAddr)]) -> Vec<Need> {
    // Of the thread: mounts are the process's own where it has a namespace for them.
    let table = fs::read_to_string("/proc/thread-self/mounts").unwrap_or_default();
    let mut servers: BTreeMap<(IpAddr, u8, u16), String> = BTreeMap::new();
    let uses = |name: &str, server: IpAddr| format!("this host uses {name} on {server}");
    for mount in mounts::remote(&table) {
        let key = (mount.server, mount.protocol, mount.port);
        let kind = mount.kind.trim_end_matches(char::is_numeric).to_uppercase();
        servers.entry(key).or_insert_with(|| {
            format!("this host uses {kind} on {}, mounted at {}", mount.server, mount.at)
        });
    }
    for (_, remote) in connected {
        if let Some((port, name)) = STORAGE.iter().find(|(port, _)| *port == remote.port()) {
            let key = (remote.ip(), TCP, *port);
            servers.entry(key).or_insert_with(|| uses(name, remote.ip()));
        }
    }
    for (address, port) in iscsi() {
        servers.entry((address, TCP, port)).or_insert_with(|| uses("iSCSI", address));
    }
    let servers = servers.into_iter();
    servers
        .map(|((server, protocol, port), says)| {
            to_server("storage", says, flow(protocol, server, port))
        })
        .collect()
}

/// The portals of sessions that are there, also of those that are just not connected.
fn iscsi() -> Vec<(IpAddr, u16)> {
    let connections = fs::read_dir("/sys/class/iscsi_connection").into_iter().flatten().flatten();
    let read = |path: PathBuf| Some(fs::read_to_string(path).ok()?.trim().to_owned());
    let portal = |connection: fs::DirEntry| {
        let address = read(connection.path().join("persistent_address"))?.parse().ok()?;
        Some((address, read(connection.path().join("persistent_port"))?.parse().ok()?))
    };
    connections.filter_map(portal).collect()
}

/// Sessions of operators that come out of a tunnel, whose own packets the NIC's rules are about.
fn ssh_by_tunnel(connected: &[(Socket, SocketAddr)]) -> Result<Vec<Need>> {
    let servers = processes::sockets_of(&SSH_SERVERS);
    let is_login = |socket: &Socket| socket.local.port() == SSH || servers.contains(&socket.inode);
    let mut tunnels = BTreeSet::new();
    for (socket, remote) in connected.iter().filter(|(socket, _)| is_login(socket)) {
        let route = device::route_between(socket.local.ip(), remote.ip())?;
        if let Some(Route::By(ifindex)) = route {
            tunnels.insert(ifindex);
        }
    }
    let mut needs = Vec::new();
    for ifindex in tunnels {
        let Some(device) = device::by_index(ifindex)? else { continue };
        let kind = device.kind.as_deref().unwrap_or_default();
        let Some((kind, protocol, port)) = TUNNELS.iter().find(|(it, ..)| *it == kind) else {
            continue;
        };
        if device.is_tap() {
            continue;
        }
        let l4 = L4::Protocol(*protocol);
        needs.push(Need {
            check: "ssh by a tunnel",
            says: format!(
                "somebody is logged in by SSH through {} ({kind}), whose packets this NIC carries as {l4}",
                device.name
            ),
            kinds: vec![(Direction::Ingress, l4), (Direction::Egress, l4)],
            any_will_do: true,
            port: *port,
            tunnel: Some(ifindex),
            hint: match port {
                Some(_) => format!(", with the port of {} and whoever is at its other end", device.name),
                None => String::new(),
            },
            ..Need::default()
        });
    }
    Ok(needs)
}

fn routing(connected: &[(Socket, SocketAddr)]) -> Vec<Need> {
    let raw = sockets::raw_protocols();
    let mut needs = Vec::new();
    for (protocol, name, group) in ROUTING {
        let members = multicast::members(group);
        if !raw.contains(&protocol) && members.is_empty() {
            continue;
        }
        let l4 = L4::Protocol(protocol);
        needs.push(Need {
            check: "routing protocols",
            says: format!("this host speaks {name} ({l4})"),
            kinds: vec![(Direction::Ingress, l4), (Direction::Egress, l4)],
            // Without a group it talks to single neighbours.
            devices: (!members.is_empty()).then_some(members),
            ..Need::default()
        });
    }
    let peers: BTreeSet<(IpAddr, bool)> = connected
        .iter()
        .filter(|(socket, remote)| [socket.local.port(), remote.port()].contains(&BGP))
        .map(|(socket, remote)| (remote.ip(), socket.local.port() == BGP))
        .collect();
    needs.extend(peers.into_iter().map(|(peer, is_server)| {
        let mut flow = flow(TCP, peer, BGP);
        if is_server {
            flow.local.set_port(BGP);
            flow.direction = Some(Direction::Ingress);
        }
        to_server("routing protocols", format!("this host speaks BGP with {peer}"), flow)
    }));
    needs
}

fn metadata() -> Result<Option<Need>> {
    let cloud = fs::read_to_string(CLOUD).unwrap_or_default();
    let is_cloud = !matches!(cloud.trim(), "" | "none" | "nocloud");
    if !is_cloud && !device::has_route_to_just(METADATA)? {
        return Ok(None);
    }
    let says = format!("this host asks its cloud at {METADATA} who it is");
    Ok(Some(to_server("cloud metadata", says, flow(TCP, METADATA.into(), 80))))
}
