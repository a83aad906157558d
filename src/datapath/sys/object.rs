//! What libbpf does to an object that is open and not loaded yet.

use std::ffi::OsString;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::{ptr, slice};

use libbpf_rs::{AsRawLibbpf, OpenMap, OpenObject, OpenProgramMut};
use libbpf_sys as bpf;

use super::check;

/// Makes the maps of an object without loading a program, which loading the object then does: the
/// maps by their names, without those that are left out.
pub fn prepare_object(object: &mut OpenObject) -> io::Result<Vec<(OsString, OwnedFd)>> {
    // SAFETY: libbpf's object, which `object` owns and nobody else uses meanwhile.
    check(unsafe { bpf::bpf_object__prepare(object.as_libbpf_object().as_ptr()) })?;
    let made = object.maps().filter(OpenMap::autocreate);
    made.map(|map| {
        // SAFETY: libbpf's map, of an object that is open; prepared, it has a descriptor.
        let fd =
            unsafe { BorrowedFd::borrow_raw(bpf::bpf_map__fd(map.as_libbpf_object().as_ptr())) };
        Ok((map.name().to_owned(), fd.try_clone_to_owned()?))
    })
    .collect()
}

/// Changes instructions of a program in place, before libbpf joins it with what it calls.
pub fn change_instructions(
    program: &mut OpenProgramMut<'_>,
    change: impl FnOnce(&mut [bpf::bpf_insn]),
) -> io::Result<()> {
    let program = program.as_libbpf_object().as_ptr();
    // SAFETY: libbpf's program, which `program` borrows alone; they lie there until they are set.
    let mut instructions = unsafe {
        let count = bpf::bpf_program__insn_cnt(program) as usize;
        slice::from_raw_parts(bpf::bpf_program__insns(program), count).to_vec()
    };
    change(&mut instructions);
    let count = instructions.len() as _;
    // SAFETY: as above; libbpf copies them.
    check(unsafe { bpf::bpf_program__set_insns(program, instructions.as_mut_ptr(), count) })?;
    Ok(())
}

/// Makes a program hold a map that its instructions need not name (Linux 5.10).
pub fn bind_map(program: BorrowedFd<'_>, map: BorrowedFd<'_>) -> io::Result<()> {
    let (program, map) = (program.as_raw_fd(), map.as_raw_fd());
    // SAFETY: two descriptors that live, and no options.
    check(unsafe { bpf::bpf_prog_bind_map(program, map, ptr::null()) })?;
    Ok(())
}
