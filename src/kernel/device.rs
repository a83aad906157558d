//! Network devices of the current namespace, by rtnetlink (include/uapi/linux/if_link.h).

mod addresses;
mod changes;
mod peer;
mod routes;

use std::collections::HashSet;
use std::fs;
use std::io;
use std::path::PathBuf;

use anyhow::{Context, Error, Result, anyhow, bail, ensure};
use log::debug;
use netlink_packet_core::{NLM_F_ACK, NLM_F_DUMP};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{
    InfoKind, LinkAttribute, LinkFlags, LinkInfo, LinkLayerType, LinkMessage, LinkXdp,
};
use nix::errno::Errno;

pub use addresses::{addresses, lasting_addresses, local_addresses, workload_addresses};
pub use changes::Changes;
pub use peer::{Peer, peer};
pub use routes::{
    Route, carries_default_route, has_route_to_just, route_between, route_to, with_default_route,
};

use crate::kernel::rtnetlink::{name_attribute, request};
use crate::kernel::{masquerade, netns, xdp};
use crate::model::text;

/// ALTIFNAMSIZ without the final zero: an alternative name may be longer than a device's own.
const NAME_MAX: usize = 127;

/// What a device sends and receives packets with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    /// An Ethernet header.
    Ethernet,
    /// None: packets start with the IP header (tun, WireGuard, IP tunnels, PPP). A PPP device's own header is written
    /// behind the egress hook and removed before the ingress hook (drivers/net/ppp/ppp_generic.c).
    Ip,
}

/// A network device.
#[derive(Debug, Clone)]
pub struct Device {
    /// Its name, as [`text::from_bytes`] makes it.
    pub name: String,
    /// Its index in this namespace.
    pub ifindex: u32,
    /// `veth`, `tun`, `macvlan`, …, as `ip -d link` shows it; none for most hardware.
    pub kind: Option<String>,
    /// Its hardware address, zero without one.
    pub mac: [u8; 6],
    /// None for what cilmark can't parse; the name of its type stands beside it.
    pub framing: Option<Framing>,
    /// The link type (`ARPHRD_…`), for messages.
    pub link_type: String,
    /// Whether its parent, or the other end of a veth, is in another network namespace.
    pub parent_is_elsewhere: bool,
    /// The hardware address of the bridge that it is a port of.
    pub bridge_mac: Option<[u8; 6]>,
    /// Whether it is in a VRF, or a port of a bridge that is.
    pub in_vrf: bool,
    /// Whether the kernel takes what arrives by it under an address of this host (`accept_local`).
    pub accepts_local: bool,
    /// The kernel's numbers of its XDP programs.
    pub xdp: Vec<(xdp::Mode, u32)>,
    /// How long what this namespace masquerades may be known, in seconds.
    pub masqueraded: masquerade::Lifetimes,
    /// What it is a part of: a bridge, a bond, a VRF.
    pub master: Option<u32>,
    parent: Option<u32>,
    /// Of the parent, as this namespace numbers it; `None` if it is here.
    parent_netns: Option<i32>,
    is_up: bool,
    is_loopback: bool,
}

impl Device {
    /// A tap, which the kernel calls `tun` as well, has an Ethernet header.
    pub fn is_tap(&self) -> bool {
        self.kind.as_deref() == Some("tun") && self.framing == Some(Framing::Ethernet)
    }

    /// A port of a bridge, or in a bond or a VRF: what it sends may have another's MAC.
    pub fn has_master(&self) -> bool {
        self.master.is_some()
    }

    /// The bridge, bond or VRF that it is in, and what that is in.
    pub fn masters(&self) -> Result<Vec<Device>> {
        let mut masters = Vec::new();
        let mut next = self.master;
        while let Some(index) = next {
            let Some(master) = by_index(index)? else { break };
            next = master.master.filter(|index| *index != self.ifindex && masters.len() < 8);
            masters.push(master);
        }
        Ok(masters)
    }

    /// Somebody has set it up.
    pub fn is_up(&self) -> bool {
        self.is_up
    }

    /// `lo`.
    pub fn is_loopback(&self) -> bool {
        self.is_loopback
    }

    /// One end of a veth pair.
    pub fn is_veth(&self) -> bool {
        self.kind.as_deref() == Some("veth")
    }

    /// Of the same veth pair, as far as the devices themselves tell.
    pub fn is_the_other_end_of(&self, veth: &Device) -> bool {
        self.is_veth() && self.parent == Some(veth.ifindex) && veth.parent == Some(self.ifindex)
    }

    fn from_message(message: &LinkMessage) -> Device {
        let mut device = Device {
            name: String::new(),
            ifindex: message.header.index,
            kind: None,
            mac: [0; 6],
            framing: match message.header.link_layer_type {
                LinkLayerType::Ether | LinkLayerType::Loopback => Some(Framing::Ethernet),
                LinkLayerType::None
                | LinkLayerType::Rawip
                | LinkLayerType::Ppp
                | LinkLayerType::Tunnel
                | LinkLayerType::Tunnel6
                | LinkLayerType::Sit => Some(Framing::Ip),
                _ => None,
            },
            link_type: message.header.link_layer_type.to_string(),
            parent_is_elsewhere: false,
            bridge_mac: None,
            in_vrf: false,
            accepts_local: false,
            xdp: Vec::new(),
            masqueraded: masquerade::Lifetimes::default(),
            parent: None,
            parent_netns: None,
            is_up: message.header.flags.contains(LinkFlags::Up),
            is_loopback: message.header.flags.contains(LinkFlags::Loopback),
            master: None,
        };
        for attribute in &message.attributes {
            match attribute {
                LinkAttribute::IfName(name) => device.name.clone_from(name),
                LinkAttribute::Address(bytes) => {
                    device.mac = bytes.as_slice().try_into().unwrap_or_default();
                }
                LinkAttribute::LinkNetNsId(id) => {
                    device.parent_is_elsewhere = true;
                    device.parent_netns = Some(*id);
                }
                LinkAttribute::Link(ifindex) => device.parent = Some(*ifindex),
                LinkAttribute::Controller(ifindex) => device.master = Some(*ifindex),
                LinkAttribute::Xdp(facts) => {
                    device.xdp.extend(facts.iter().filter_map(|fact| match fact {
                        LinkXdp::DrvProgId(id) => Some((xdp::Mode::Native, *id)),
                        LinkXdp::SkbProgId(id) => Some((xdp::Mode::Generic, *id)),
                        LinkXdp::HwProgId(id) => Some((xdp::Mode::Offloaded, *id)),
                        _ => None,
                    }));
                }
                LinkAttribute::LinkInfo(infos) => {
                    device.kind = infos.iter().find_map(|info| match info {
                        LinkInfo::Kind(kind) => Some(InfoKind::to_string(kind)),
                        _ => None,
                    });
                }
                _ => {}
            }
        }
        device
    }
}

/// The device with this name, or this alternative one.
pub fn by_name(name: &str) -> Result<Device> {
    if let Some((name, _)) = name.split_once('@') {
        bail!("`{name}@…` is how `ip link` shows a device and its peer; its name is `{name}`");
    }
    let length = text::to_bytes(name).len();
    ensure!(length <= NAME_MAX, "device name `{name}` has {length} bytes; {NAME_MAX} are the most");
    let mut query = LinkMessage::default();
    query.attributes.push(name_attribute(name));
    one_link(query)
        .map_err(|error| anyhow!("device `{name}`: {error:#}; `ip link` lists what is there"))
}

/// The same; `None` if there is none.
pub fn find(name: &str) -> Result<Option<Device>> {
    if text::to_bytes(name).len() > NAME_MAX {
        return Ok(None);
    }
    let mut query = LinkMessage::default();
    query.attributes.push(name_attribute(name));
    match one_link(query) {
        Ok(device) => Ok(Some(device)),
        Err(error) if is_no_device(&error) => Ok(None),
        Err(error) => Err(error).context(format!("device `{name}`")),
    }
}

/// The names of all devices of this namespace.
pub fn names() -> Result<Vec<String>> {
    let links = links()?;
    Ok(links.iter().map(|link| Device::from_message(link).name).collect())
}

/// All devices of this namespace, as far as a list tells of them: without what follows from a master or from settings.
pub fn all() -> Result<Vec<Device>> {
    Ok(links()?.iter().map(Device::from_message).collect())
}

/// The numbers of all devices of this namespace.
pub fn numbers() -> Result<HashSet<u32>> {
    Ok(links()?.iter().map(|link| link.header.index).collect())
}

fn links() -> Result<Vec<LinkMessage>> {
    let answers = request(RouteNetlinkMessage::GetLink(LinkMessage::default()), NLM_F_DUMP)?;
    let link = |message| match message {
        RouteNetlinkMessage::NewLink(link) => Some(link),
        _ => None,
    };
    Ok(answers.into_iter().filter_map(link).collect())
}

/// The device with this index; `None` if there is none.
pub fn by_index(ifindex: u32) -> Result<Option<Device>> {
    let mut query = LinkMessage::default();
    query.header.index = ifindex;
    match one_link(query) {
        Ok(device) => Ok(Some(device)),
        Err(error) if is_no_device(&error) => Ok(None),
        Err(error) => Err(error).context(format!("device {ifindex}")),
    }
}

fn is_no_device(error: &Error) -> bool {
    let errno = error.downcast_ref::<io::Error>().and_then(io::Error::raw_os_error);
    errno == Some(Errno::ENODEV as i32)
}

/// What the other end of a veth sends from, in whichever namespace that is. `None` where nobody can tell:
/// it is down, so that its MAC may still be set, or a port of something that has a MAC of its own.
pub fn peer_mac(device: &Device) -> Result<Option<[u8; 6]>> {
    let Some(ifindex) = device.parent.filter(|_| device.is_veth()) else { return Ok(None) };
    let peer = linked(ifindex, device.parent_netns)?;
    let settled = peer.is_veth() && peer.is_up && !peer.has_master();
    Ok(Some(peer.mac).filter(|mac| settled && *mac != [0; 6]))
}

/// The devices that this one gets its packets from: the members of a bond, the ports of a bridge, what a VLAN is on.
pub fn below(device: &Device) -> Result<Vec<Device>> {
    let is_vlan = device.kind.as_deref() == Some("vlan") && !device.parent_is_elsewhere;
    let mut all = all()?;
    all.retain(|it| {
        it.master == Some(device.ifindex) || (is_vlan && device.parent == Some(it.ifindex))
    });
    Ok(all)
}

/// The VLAN devices of this namespace on top of this one.
pub fn vlans_on(device: &Device) -> Result<Vec<Device>> {
    let mut all = all()?;
    all.retain(|it| {
        it.kind.as_deref() == Some("vlan")
            && !it.parent_is_elsewhere
            && it.parent == Some(device.ifindex)
    });
    Ok(all)
}

/// macvlan, macvtap and ipvlan devices on top of this one, also in namespaces that can be looked into, as
/// those of containers are.
pub fn stacked_on(device: &Device) -> Result<Vec<Device>> {
    let home = netns::current()?;
    let mut stacked = Vec::new();
    for_each_stacked(|child| {
        if child.parent_netns.is_none() && child.parent == Some(device.ifindex) {
            stacked.push(child);
        }
        Ok(())
    })?;
    let found: Result<Option<(u64, ())>> = netns::search(|| {
        if netns::current()? == home {
            return Ok(None);
        }
        for_each_stacked(|child| {
            // The other namespace has a number for this one, under which it is asked for the parent.
            let parent = child.parent.filter(|parent| *parent == device.ifindex);
            let (Some(parent), Some(_)) = (parent, child.parent_netns) else { return Ok(()) };
            let parent = linked(parent, child.parent_netns)?;
            if parent.name == device.name && parent.mac == device.mac {
                stacked.push(child);
            }
            Ok(())
        })?;
        Ok(None)
    });
    if let Err(error) = found {
        debug!("look for devices on {} elsewhere: {error:#}", device.name);
    }
    Ok(stacked)
}

/// The numbers of the devices of this namespace whose packets pass the hooks of a device in the clear: its own, and what
/// it is a port of or carries.
pub fn on_top_of(device: &Device) -> Result<HashSet<u32>> {
    let all: Vec<Device> = links()?.iter().map(Device::from_message).collect();
    let is_carried = |it: &Device| {
        let kind = it.kind.as_deref().unwrap_or_default();
        it.parent_netns.is_none() && (kind == "vlan" || shares_its_parents_hooks(kind))
    };
    let mut found = HashSet::from([device.ifindex]);
    loop {
        let masters = all.iter().filter(|it| found.contains(&it.ifindex));
        let masters = masters.filter_map(|it| it.master);
        let carried = all
            .iter()
            .filter(|it| is_carried(it))
            .filter_map(|it| it.parent.filter(|parent| found.contains(parent)).map(|_| it.ifindex));
        let more: Vec<u32> = masters.chain(carried).collect();
        let before = found.len();
        found.extend(more);
        if found.len() == before {
            return Ok(found);
        }
    }
}

fn for_each_stacked(mut handle: impl FnMut(Device) -> Result<()>) -> Result<()> {
    for message in request(RouteNetlinkMessage::GetLink(LinkMessage::default()), NLM_F_DUMP)? {
        if let RouteNetlinkMessage::NewLink(link) = message {
            let device = Device::from_message(&link);
            if shares_its_parents_hooks(device.kind.as_deref().unwrap_or_default()) {
                handle(device)?;
            }
        }
    }
    Ok(())
}

/// A device of another namespace, by the number that this one has for that.
fn linked(ifindex: u32, netns: Option<i32>) -> Result<Device> {
    let mut query = LinkMessage::default();
    query.header.index = ifindex;
    // The number under which Linux 4.20 knows it as IFLA_TARGET_NETNSID.
    query.attributes.extend(netns.map(LinkAttribute::IfNetnsId));
    for message in request(RouteNetlinkMessage::GetLink(query), NLM_F_ACK)? {
        if let RouteNetlinkMessage::NewLink(link) = message {
            return Ok(Device::from_message(&link));
        }
    }
    bail!("the kernel gave no answer")
}

/// Kinds whose traffic runs through the parent's hooks as if the host had sent it.
pub fn shares_its_parents_hooks(kind: &str) -> bool {
    matches!(kind, "macvlan" | "macvtap" | "ipvlan" | "ipvtap")
}

fn one_link(query: LinkMessage) -> Result<Device> {
    for message in request(RouteNetlinkMessage::GetLink(query), NLM_F_ACK)? {
        if let RouteNetlinkMessage::NewLink(link) = message {
            let mut device = Device::from_message(&link);
            let master = device.master.map(by_index).transpose()?.flatten();
            let is_in = |kind| master.as_ref().filter(|it| it.kind.as_deref() == Some(kind));
            device.bridge_mac = is_in("bridge").map(|it| it.mac);
            device.in_vrf = is_in("vrf").is_some() || master.as_ref().is_some_and(|it| it.in_vrf);
            // The stack takes what a port or a slave receives for its master's.
            device.accepts_local =
                accepts_local(&device.name) || master.is_some_and(|it| it.accepts_local);
            device.masqueraded = masquerade::lifetimes();
            return Ok(device);
        }
    }
    bail!("the kernel gave no answer")
}

/// Whether any device of this namespace forwards a family. One alone forwards IPv6 since Linux 6.17 only.
pub fn any_forwards(is_ipv6: bool) -> bool {
    let is_on = |path: PathBuf| fs::read_to_string(path).is_ok_and(|value| value.trim() != "0");
    let of_devices = |family: &str, setting: &str| {
        let devices = fs::read_dir(format!("/proc/sys/net/{family}/conf")).into_iter().flatten();
        // What is said for devices to come says nothing of those that are there.
        let mut devices = devices.flatten().filter(|device| device.file_name() != "default");
        devices.any(|device| is_on(device.path().join(setting)))
    };
    match is_ipv6 {
        false => of_devices("ipv4", "forwarding"),
        true => {
            is_on("/proc/sys/net/ipv6/conf/all/forwarding".into())
                || of_devices("ipv6", "force_forwarding")
        }
    }
}

/// `IN_DEV_ACCEPT_LOCAL` of include/linux/inetdevice.h. What can't be read counts as off, which drops more.
fn accepts_local(device: &str) -> bool {
    // Of the namespace of the thread that reads, as is all below /proc/sys/net.
    ["all", device].iter().any(|name| {
        let value = fs::read_to_string(format!("/proc/sys/net/ipv4/conf/{name}/accept_local"));
        value.is_ok_and(|value| value.trim() != "0")
    })
}
