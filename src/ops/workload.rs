//! The workload of a network namespace: the device of this host that it is behind, and what it sends from.

use std::fmt;
use std::fs;
use std::net::IpAddr;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use ipnet::IpNet;

use crate::kernel::device::{self, Device, Peer};
use crate::kernel::netns;
use crate::model::endpoint::Role;
use crate::model::mac::{Mac, WorkloadMac};
use crate::model::spec::EndpointSpec;

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
    /// The addresses there that it sends from, without link-local ones.
    addresses: Vec<IpAddr>,
    /// Its MAC; `None` where the device is a port of something that has a MAC of its own.
    mac: Option<Mac>,
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
    let (veth, peer, addresses) = netns::inside(&path, || {
        let veth = named(ifname)?;
        check_kind(&veth)?;
        let peer = device::peer(&veth, &home)?;
        let addresses = device::workload_addresses(&veth)?;
        Ok((veth, peer, addresses))
    })
    .with_context(|| namespace.to_string())?;
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
    Ok(Workload { device, inside, addresses, mac })
}

impl Workload {
    /// Fills in what a spec leaves to the workload.
    pub fn complete(&self, spec: &mut EndpointSpec) -> Result<()> {
        self.claim(spec)?;
        if spec.ip.is_empty() {
            ensure!(
                !self.addresses.is_empty(),
                "{} has no address but perhaps a link-local one; attach when it has, or say --ip ADDR",
                self.inside
            );
            spec.ip = self.addresses.iter().copied().map(IpNet::from).collect();
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
