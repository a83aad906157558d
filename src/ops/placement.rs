//! Where a NIC's policy would stand better: devices that share their packets with the one that is attached, in words for
//! `attach` and `doctor`.

use anyhow::Result;

use crate::kernel::device::{self, Device};

/// What is, in a clause about the device that begins with a verb, and what to do.
pub struct Remark {
    /// The condition, in a word or two that stay the same.
    pub check: &'static str,
    /// What is, and what it means.
    pub says: String,
    /// What to do.
    pub cure: String,
}

impl Remark {
    /// As a line about the device.
    pub fn line(&self, device: &str) -> String {
        format!("{device} {}; {}", self.says, self.cure)
    }
}

/// If a NIC is a part of another device, by which this host's packets go.
pub fn better_place(device: &Device) -> Result<Option<Remark>> {
    let master = device.master.map(device::by_index).transpose()?.flatten();
    Ok(master.and_then(|master| of_master(device, &master)))
}

fn of_master(device: &Device, master: &Device) -> Option<Remark> {
    let (name, kind) = (&master.name, master.kind.as_deref()?);
    let (says, cure) = match kind {
        "bridge" => (
            format!(
                "is a port of the bridge {name}, which is the better place for the policy of this host: what its other \
                 ports send meets none here"
            ),
            format!("attach {name}"),
        ),
        "bond" | "team" => (
            format!(
                "is a member of the {kind} {name}, which is the better place for the policy of this host: what its other \
                 members receive, and those to come, meets none here"
            ),
            format!("attach {name}"),
        ),
        // Its datapath takes all that a port receives (net/openvswitch/vport-netdev.c, netdev_frame_hook), and its
        // internal ports, which have the host's addresses, are of the same kind.
        "openvswitch" => (
            "is a port of Open vSwitch: what it receives is for this host only by way of an internal port, which is the \
             better place for the policy of this host"
                .to_owned(),
            "attach the internal port that has the address".to_owned(),
        ),
        _ => return None,
    };
    let (says, cure) = match device.is_veth() || device.is_tap() {
        false => (says, cure),
        true => (
            format!("{says}; as a veth or tap it looks like the host's side of a workload"),
            format!("{cure}, and {} as a container, with --id, if it is one", device.name),
        ),
    };
    Some(Remark { check: "better place", says, cure })
}

/// What sends and receives by a NIC as if it were this host, and is none of these.
pub fn children(device: &Device, is_known: impl Fn(&Device) -> bool) -> Result<Option<Remark>> {
    let stacked = device::stacked_on(device)?;
    let name = |child: &Device| {
        format!("the {} {}", child.kind.as_deref().unwrap_or_default(), child.name)
    };
    let names: Vec<String> = stacked.iter().filter(|it| !is_known(it)).map(name).collect();
    let (them, that, its) = match names.len() {
        0 => return Ok(None),
        1 => ("it", "that sends", "its MAC"),
        _ => ("them", "those send", "their MACs"),
    };
    Ok(Some(Remark {
        check: "macvlan",
        says: format!(
            "carries {}: what {that} looks as if this host had sent it, and what is sent to {its} may meet no policy of {}",
            names.join(", "),
            device.name
        ),
        cure: format!("attach {them}, too, as a netdev"),
    }))
}

/// If hardly anything of what others send to this host goes by a device.
pub fn sees_little(device: &Device) -> Option<Remark> {
    let (says, cure) = match device.kind.as_deref() {
        Some("dummy") => ("receives nothing", "attach the device by which the packets come"),
        Some("vrf") => (
            "is a VRF: its own hooks see next to nothing of what its devices send and receive",
            "attach these",
        ),
        _ if device.is_loopback() => (
            "carries only traffic between programs of this host",
            "attach the device by which the packets of others come",
        ),
        _ => return None,
    };
    Some(Remark { check: "sees little", says: says.to_owned(), cure: cure.to_owned() })
}
