//! The XDP programs of a device, which run before all else that sees its packets (include/uapi/linux/if_link.h,
//! IFLA_XDP).

use std::collections::HashSet;
use std::fmt;
use std::os::fd::AsFd;

use libbpf_rs::query::LinkInfoIter;
use libbpf_rs::{MapCore, MapHandle};
use libbpf_sys as bpf;

use crate::kernel::order::program_name;
use crate::kernel::sys;

/// Where it runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// In the driver.
    Native,
    /// In the stack, before TC.
    Generic,
    /// On the device.
    Offloaded,
}

impl Mode {
    /// What `ip link set dev DEV … off` takes off one that runs so: without it, what the driver runs if it can run any.
    pub fn of_ip_link(self) -> &'static str {
        match self {
            Mode::Native => "xdpdrv",
            Mode::Generic => "xdpgeneric",
            Mode::Offloaded => "xdpoffload",
        }
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Mode::Native => "native",
            Mode::Generic => "generic",
            Mode::Offloaded => "offloaded",
        })
    }
}

/// One of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct XdpProgram {
    /// Its name, or its number.
    pub name: String,
    /// Where it runs.
    pub mode: Mode,
    /// A BPF link keeps it there: only who has made that takes it off.
    pub is_held: bool,
    /// Its maps have sockets of AF_XDP, which get packets past the stack.
    pub has_sockets: bool,
    /// Its maps have devices that it may send packets to.
    pub has_devices: bool,
}

/// Those with these numbers, as the kernel tells them of a device.
pub fn programs(numbers: &[(Mode, u32)]) -> Vec<XdpProgram> {
    if numbers.is_empty() {
        return Vec::new();
    }
    let of_links: HashSet<u32> = LinkInfoIter::default().map(|link| link.prog_id).collect();
    let program = |(mode, id): &(Mode, u32)| {
        let kinds = map_kinds(*id);
        let has = |some: &[u32]| kinds.iter().any(|kind| some.contains(kind));
        XdpProgram {
            name: program_name(*id),
            mode: *mode,
            is_held: of_links.contains(id),
            has_sockets: has(&[bpf::BPF_MAP_TYPE_XSKMAP]),
            has_devices: has(&[bpf::BPF_MAP_TYPE_DEVMAP, bpf::BPF_MAP_TYPE_DEVMAP_HASH]),
        }
    };
    numbers.iter().map(program).collect()
}

/// Of what can't be opened, none.
fn map_kinds(program: u32) -> Vec<u32> {
    let facts = sys::open_program(program).and_then(|it| sys::program_facts(it.as_fd()));
    let maps = facts.map(|facts| facts.map_ids).unwrap_or_default().into_iter();
    let map = |id| MapHandle::from_map_id(id).ok();
    maps.filter_map(map).map(|map| map.map_type() as u32).collect()
}
