//! The workload of a network namespace: the device of this host that it is behind, and what it sends from.

use std::fmt;
use std::fs::{self, File};
use std::net::IpAddr;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use ipnet::IpNet;

use crate::kernel::device::{self, Device, Peer};
use crate::kernel::netns;
use crate::model::endpoint::Role;
use crate::model::mac::{Mac, WorkloadMac};
use crate::model::spec::{EndpointSpec, OwnAddresses};

/// Which network namespace.
#[derive(Debug, Clone)]
pub enum Namespace {
    /// That of a process.
    Of(u32),
    /// That of a name of `ip netns`, or of a path.
    At(String),
}

/// What was found of a workload.
#[derive(Debug)]
pub struct Workload {
    /// The host's side of its veth, in this namespace.
    pub device: Device,
    /// Its own side, and where that is, for messages: `eth0 of process 4711`.
    inside: String,
    /// The addresses there that it sends from, without link-local ones; `None` if nobody can tell yet.
    addresses: Option<Vec<IpAddr>>,
    /// What its device is called there, if anybody can tell.
    pub ifname: Option<String>,
    /// Its MAC; `None` where the device is a port of something that has a MAC of its own.
    mac: Option<Mac>,
    /// What is said of its addresses, in the place of what is said of all that the workload has.
    pub said_ip: Option<Vec<IpNet>>,
    /// What somebody else says that it sends from.
    expected: Vec<IpAddr>,
}

/// What a runtime tells of a device that nobody can look into yet, or that it is going to change.
#[derive(Debug, Default)]
pub struct Told {
    /// What it is going to be called inside.
    pub ifname: Option<String>,
    /// Its MAC, if that is known.
    pub mac: Option<Mac>,
    /// The addresses that it is going to have; none if they are not known.
    pub addresses: Vec<IpAddr>,
    /// What is said of its addresses, in the place of what is said of all that the workload has.
    pub said_ip: Option<Vec<IpNet>>,
}

impl fmt::Display for Namespace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Namespace::Of(pid) => write!(f, "process {pid}"),
            Namespace::At(name) => write!(f, "network namespace `{name}`"),
        }
    }
}

impl Namespace {
    /// Whether it is that of this host, where the command is. An error if it is none that can be entered.
    pub fn is_here(&self) -> Result<bool> {
        let there = netns::inside(&self.path()?, netns::current);
        Ok(there.with_context(|| self.to_string())? == netns::current()?)
    }

    /// Where it can be entered.
    fn path(&self) -> Result<PathBuf> {
        match self {
            Namespace::At(name) => Ok(netns::path_of(name)),
            Namespace::Of(pid) => {
                let process = PathBuf::from(format!("/proc/{pid}"));
                ensure!(
                    process.exists(),
                    "there is no process {pid}; `docker inspect -f '{{{{.State.Pid}}}}' NAME` and `podman inspect` tell \
                     that of a container"
                );
                Ok(process.join("ns/net"))
            }
        }
    }

    /// The same, if it is another namespace than this one.
    fn other_path(&self) -> Result<PathBuf> {
        let path = self.path()?;
        let file = fs::metadata(&path).map_err(|error| match self {
            Namespace::Of(_) => anyhow!("{self}: open {}: {error}", path.display()),
            Namespace::At(_) => {
                anyhow!("{self}: open {}: {error}; `ip netns` lists the names", path.display())
            }
        })?;
        ensure!(
            file.ino() != netns::current()?,
            "{self} is no other than the network namespace of this command, as with a container on the host's network: \
             there is no veth, and what it sends is this host's; attach the NIC by its name"
        );
        Ok(path)
    }
}

/// Finds the device that a workload is behind. It has to be in this network namespace, and the other end of a veth
/// whose own end is called `ifname` there.
pub fn find(namespace: &Namespace, ifname: &str) -> Result<Workload> {
    let path = namespace.other_path()?;
    let home = netns::open()?;
    let found = netns::inside(&path, || End::of(named(ifname)?, &home));
    found.with_context(|| namespace.to_string())?.workload(namespace)
}

/// All of a namespace that can be attached, and why each other device there can't be. Of devices that are down only veths
/// count, and none that leads nowhere.
pub fn find_all(namespace: &Namespace) -> Result<(Vec<Workload>, Vec<String>)> {
    let path = namespace.other_path()?;
    let home = netns::open()?;
    let ends = netns::inside(&path, || {
        let mut ends = Vec::new();
        for name in device::names()? {
            let device = device::by_name(&name)?;
            let leads_nowhere = matches!(device.kind.as_deref(), Some("dummy" | "ifb"));
            if name != "lo" && !leads_nowhere && (device.is_veth() || device.is_up()) {
                ends.push(End::of(device, &home));
            }
        }
        Ok(ends)
    });
    let (mut workloads, mut others) = (Vec::new(), Vec::new());
    for end in ends.with_context(|| namespace.to_string())? {
        match end.and_then(|end| end.workload(namespace)) {
            Ok(workload) => workloads.push(workload),
            Err(error) => others.push(format!("{error:#}")),
        }
    }
    Ok((workloads, others))
}

/// A workload's own end of a veth.
struct End {
    veth: Device,
    peer: Peer,
    addresses: Vec<IpAddr>,
}

impl End {
    /// Of a device of the namespace that the thread is in; `home` is this host's.
    fn of(veth: Device, home: &File) -> Result<End> {
        check_kind(&veth)?;
        let peer = device::peer(&veth, home)?;
        let addresses = device::workload_addresses(&veth)?;
        Ok(End { veth, peer, addresses })
    }

    /// The workload behind it, in this host's namespace.
    fn workload(self, namespace: &Namespace) -> Result<Workload> {
        let End { veth, peer, addresses } = self;
        let inside = format!("{} of {namespace}", veth.name);
        let ifindex = match peer {
            Peer::There(ifindex) => ifindex,
            Peer::Beside => bail!(
                "the other end of {inside} is there, too: it is no way into this network namespace; --ifname names the one \
             that is"
            ),
            Peer::Elsewhere => bail!(
                "the other end of {inside} is in another network namespace than this one; --netns names where it is"
            ),
        };
        let device = device::by_index(ifindex)?
            .filter(|device| device.is_the_other_end_of(&veth))
            .with_context(|| format!("the other end of {inside} has gone meanwhile"))?;
        let mac = Some(Mac(veth.mac)).filter(|mac| !veth.has_master() && *mac != Mac([0; 6]));
        Ok(Workload {
            device,
            inside,
            addresses: Some(addresses),
            ifname: Some(veth.name),
            mac,
            said_ip: None,
            expected: Vec::new(),
        })
    }
}

impl Workload {
    /// One that its runtime tells of, behind this device of this namespace; `name` is for messages.
    pub fn behind(device: Device, name: &str, told: Told) -> Workload {
        let Told { ifname, mac, addresses, said_ip } = told;
        let addresses = Some(addresses).filter(|addresses| !addresses.is_empty());
        Workload {
            device,
            inside: name.to_owned(),
            addresses,
            ifname,
            mac,
            said_ip,
            expected: Vec::new(),
        }
    }

    /// The MAC that its device has inside.
    pub fn mac(&self) -> Option<Mac> {
        self.mac
    }

    /// The same, of which somebody else says that it sends from these addresses: an endpoint without them is none for it.
    pub fn expecting(self, expected: Vec<IpAddr>) -> Workload {
        Workload { expected, ..self }
    }

    /// Fails if a spec lacks one of the addresses that it is said to send from.
    pub fn check_expected(&self, spec: &EndpointSpec) -> Result<()> {
        let own = spec.addresses();
        for address in &self.expected {
            ensure!(
                own.iter().any(|net| net.contains(address)),
                "{} has address {address} by the runtime's word, and not by its own: what it sends from there would be \
                 dropped; give it the address, or name the address with `ip`",
                self.inside
            );
        }
        Ok(())
    }

    /// Fills in what a spec leaves to the workload.
    pub fn complete(&self, spec: &mut EndpointSpec) -> Result<()> {
        self.claim(spec)?;
        if spec.ip.listed.is_empty() || spec.ip.from_netns {
            let addresses = self.addresses.as_deref().unwrap_or_default();
            ensure!(
                self.addresses.is_some() || !spec.ip.from_netns,
                "nobody knows the addresses of {} before it runs; name them in the place of from-netns",
                self.inside
            );
            ensure!(
                self.addresses.is_none() || !addresses.is_empty(),
                "{} has no address but perhaps a link-local one; attach when it has, or name those that it is going to have",
                self.inside
            );
            let found = addresses.iter().copied().map(IpNet::from);
            let found = found.filter(|ip| !spec.ip.listed.contains(ip)).collect();
            spec.ip = OwnAddresses::from([spec.ip.listed.clone(), found].concat());
        }
        spec.workload_mac = spec.workload_mac.or(self.mac.map(WorkloadMac::Only));
        Ok(())
    }

    /// Makes a spec that of a workload, whatever its device looks like.
    pub fn claim(&self, spec: &mut EndpointSpec) -> Result<()> {
        ensure!(
            spec.role != Some(Role::Netdev),
            "{} is the other end of {}, a workload's, and its role is to be netdev, for a NIC of this host; attach \
             {0} by its name, if that is meant",
            self.device.name,
            self.inside
        );
        spec.role = Some(Role::Container);
        Ok(())
    }
}

/// The device of this name in the namespace that the thread is in.
fn named(ifname: &str) -> Result<Device> {
    if let Some(device) = device::find(ifname)? {
        return Ok(device);
    }
    let mut names = device::names()?;
    names.retain(|name| name != "lo");
    match names.as_slice() {
        [] => bail!("it has no network device but lo; its network may come later"),
        names => {
            bail!("it has no device `{ifname}`; --ifname names another one: {}", names.join(", "))
        }
    }
}

/// Fails for a device that no other one is the host's side of.
fn check_kind(device: &Device) -> Result<()> {
    let name = &device.name;
    match device.kind.as_deref() {
        Some("veth") => Ok(()),
        Some(kind) if device::shares_its_parents_hooks(kind) => bail!(
            "its {name} is a {kind}: it shares a NIC of the host, which is no device of its own to attach \
             to; connect the workload by a veth, or attach the NIC as a netdev"
        ),
        Some("tun") => bail!(
            "its {name} is a tun or tap: a process makes packets of this host of what it sends, as pasta, \
             slirp4netns and VPNs do; connect the workload by a veth, or attach the NIC as a netdev"
        ),
        kind => bail!(
            "its {name} is no veth but {}, and so has no other end here; --ifname names another device there, and \
             --netns is for attaching {name} itself, where it is",
            kind.map_or("hardware".to_owned(), |kind| format!("a {kind}"))
        ),
    }
}
