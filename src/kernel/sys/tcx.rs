//! Links on TCX hooks (Linux 6.6).

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::ptr;

use libbpf_sys as bpf;
use nix::errno::Errno;

use super::{check, owned};
use crate::model::hook::Hook;

fn tcx_type(hook: Hook) -> u32 {
    match hook {
        Hook::Ingress => bpf::BPF_TCX_INGRESS,
        Hook::Egress => bpf::BPF_TCX_EGRESS,
    }
}

/// Whether the kernel has TCX (Linux 6.6). Asks on the loopback device, which every namespace has.
pub fn has_tcx() -> bool {
    let mut options = bpf::bpf_prog_query_opts {
        sz: size_of::<bpf::bpf_prog_query_opts>() as _,
        ..Default::default()
    };
    // SAFETY: `options` outlives the call and says its own size; no arrays are asked for.
    unsafe { bpf::bpf_prog_query_opts(1, bpf::BPF_TCX_INGRESS, &mut options) == 0 }
}

/// The kernel's numbers of a program on a TCX hook, and of its link; 0 if it has none.
#[derive(Debug, Clone, Copy)]
pub struct OnTcx {
    /// Of the program.
    pub program: u32,
    /// Of the link.
    pub link: u32,
}

/// What is on a TCX hook, in the order in which it runs; nothing if the device is gone.
pub fn on_tcx(ifindex: u32, hook: Hook) -> io::Result<Vec<OnTcx>> {
    // BPF_MPROG_MAX of the kernel. It tells of links only where it may tell of programs.
    let mut programs = [0u32; 64];
    let mut links = [0u32; 64];
    let mut options = bpf::bpf_prog_query_opts {
        sz: size_of::<bpf::bpf_prog_query_opts>() as _,
        prog_ids: programs.as_mut_ptr(),
        link_ids: links.as_mut_ptr(),
        ..Default::default()
    };
    options.__bindgen_anon_1.count = links.len() as u32;
    // SAFETY: `options` says its own size and that of both arrays; all outlive the call.
    match check(unsafe { bpf::bpf_prog_query_opts(ifindex as i32, tcx_type(hook), &mut options) }) {
        Err(error) if error.raw_os_error() == Some(Errno::ENODEV as i32) => return Ok(Vec::new()),
        result => result?,
    };
    // SAFETY: both fields of the union are the same u32.
    let count = unsafe { options.__bindgen_anon_1.count };
    let both = programs.into_iter().zip(links).take(count as usize);
    Ok(both.map(|(program, link)| OnTcx { program, link }).collect())
}

/// Attaches a program to a TCX hook: behind what is there, or before it if `first`.
/// The link detaches when its last descriptor and pin are gone.
pub fn create_tcx_link(
    program: BorrowedFd<'_>,
    ifindex: u32,
    hook: Hook,
    first: bool,
) -> io::Result<OwnedFd> {
    let options = bpf::bpf_link_create_opts {
        sz: size_of::<bpf::bpf_link_create_opts>() as _,
        flags: if first { bpf::BPF_F_BEFORE } else { 0 },
        ..Default::default()
    };
    // SAFETY: `options` outlives the call and says its own size.
    owned(unsafe {
        bpf::bpf_link_create(program.as_raw_fd(), ifindex as i32, tcx_type(hook), &options)
    })
}

/// Puts another program behind a link; packets see the one or the other, never none.
pub fn update_link(link: BorrowedFd<'_>, program: BorrowedFd<'_>) -> io::Result<()> {
    let no_options = ptr::null();
    // SAFETY: both descriptors are open for the time of the call; null options are the defaults.
    check(unsafe { bpf::bpf_link_update(link.as_raw_fd(), program.as_raw_fd(), no_options) })?;
    Ok(())
}

/// Takes a link's program off its hook; the kernel is done with it on return.
pub fn detach_link(link: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: the descriptor is open for the time of the call.
    check(unsafe { bpf::bpf_link_detach(link.as_raw_fd()) })?;
    Ok(())
}
