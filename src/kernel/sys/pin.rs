//! Pins: paths in bpffs that keep programs, maps and links.

use std::ffi::CString;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::{fs, io};

use libbpf_sys as bpf;

use super::{check, owned};

/// Pins a program, map or link.
pub fn pin(object: BorrowedFd<'_>, path: &Path) -> io::Result<()> {
    let path = c_path(path)?;
    // SAFETY: the descriptor is open and the path a zero-terminated string for the call's time.
    check(unsafe { bpf::bpf_obj_pin(object.as_raw_fd(), path.as_ptr()) })?;
    Ok(())
}

/// Opens a pinned program, map or link.
pub fn open_pin(path: &Path) -> io::Result<OwnedFd> {
    let path = c_path(path)?;
    // SAFETY: the path is a zero-terminated string for the time of the call.
    owned(unsafe { bpf::bpf_obj_get(path.as_ptr()) })
}

/// Whether it is a link: pinned links, programs and maps open by the same call, and what came shows in
/// the name.
pub fn is_link(object: BorrowedFd<'_>) -> io::Result<bool> {
    Ok(object_name(object)?.contains("bpf_link") || object_name(object)?.contains("bpf-link"))
}

/// Whether it is a map.
pub fn is_map(object: BorrowedFd<'_>) -> io::Result<bool> {
    Ok(object_name(object)?.contains("bpf-map"))
}

fn object_name(object: BorrowedFd<'_>) -> io::Result<String> {
    let name = fs::read_link(format!("/proc/self/fd/{}", object.as_raw_fd()))?;
    Ok(name.to_string_lossy().into_owned())
}

fn c_path(path: &Path) -> io::Result<CString> {
    CString::new(path.as_os_str().as_bytes())
        .map_err(|_| io::Error::new(io::ErrorKind::InvalidInput, "path has a zero byte"))
}
