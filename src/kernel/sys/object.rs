//! What libbpf does to an object, up to its programs: maps, BTF, and programs joined with what they
//! call. The kernel gets the programs from here.

use std::ffi::{CStr, c_char};
use std::io;
use std::mem::{size_of, transmute};
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::{ptr, slice};

use libbpf_rs::{AsRawLibbpf, Map, MapHandle, OpenMapMut, OpenObject, OpenProgram};
use libbpf_sys as bpf;
use log::debug;

use super::{LICENSE, check, owned};
use crate::kernel::insn::{Code, Insn};

/// What the verifier has to say about a program; libbpf begins with as much.
const LOG_SIZE: usize = 16 << 20;

/// Makes the maps of an object and joins its programs with the functions that they call. The maps,
/// without those that are left out.
pub fn prepare_object(object: &mut OpenObject) -> io::Result<Vec<MapHandle>> {
    // SAFETY: libbpf's object, which `object` owns and nobody else uses meanwhile.
    check(unsafe { bpf::bpf_object__prepare(object.as_libbpf_object().as_ptr()) })?;
    let made = object.maps().filter(|map| map.autocreate());
    made.map(|map| {
        // SAFETY: libbpf's map, of an object that stays open; prepared, it has a descriptor.
        let map = Map::new(unsafe { map.as_libbpf_object().as_ref() });
        MapHandle::try_from(&map).map_err(io::Error::other)
    })
    .collect()
}

/// How instructions name a map of a prepared object: its descriptor there. `None` if it was left out.
pub fn map_number(map: &OpenMapMut<'_>) -> Option<i32> {
    // SAFETY: libbpf's map, of an object that is open.
    let number = unsafe { bpf::bpf_map__fd(map.as_libbpf_object().as_ptr()) };
    (number >= 0).then_some(number)
}

/// The BTF of a prepared object; `None` if the kernel takes none.
pub fn object_btf(object: &OpenObject) -> Option<BorrowedFd<'_>> {
    // SAFETY: libbpf's object, which lives as long as what is borrowed from it here.
    let btf = unsafe { bpf::bpf_object__btf(object.as_libbpf_object().as_ptr()) };
    // SAFETY: null, or the object's own BTF, which has a descriptor or a negative number.
    let fd = if btf.is_null() { -1 } else { unsafe { bpf::btf__fd(btf) } };
    // SAFETY: a descriptor that the object keeps open.
    (fd >= 0).then(|| unsafe { BorrowedFd::borrow_raw(fd) })
}

/// A program of a prepared object.
pub fn program_code(program: &OpenProgram<'_>) -> Code {
    let program = program.as_libbpf_object().as_ptr();
    // SAFETY: libbpf's program, of an object that is open; each array has as many elements as libbpf
    // says, or is null, and stays as it is during the call.
    unsafe {
        let instructions =
            array(bpf::bpf_program__insns(program), bpf::bpf_program__insn_cnt(program) as usize);
        let functions = array(
            bpf::bpf_program__func_info(program),
            bpf::bpf_program__func_info_cnt(program) as _,
        );
        let lines = array(
            bpf::bpf_program__line_info(program),
            bpf::bpf_program__line_info_cnt(program) as _,
        );
        Code {
            instructions: instructions.iter().map(Insn::from).collect(),
            functions: functions.to_vec(),
            lines: lines.to_vec(),
        }
    }
}

/// # Safety
/// `first` is null, or the first of `count` elements that live and stay as they are for `'a`.
unsafe fn array<'a, T>(first: *const T, count: usize) -> &'a [T] {
    match first.is_null() {
        true => &[],
        // SAFETY: as the caller says.
        false => unsafe { slice::from_raw_parts(first, count) },
    }
}

/// Has the kernel verify and compile a program for a TC hook. If it refuses, it is asked again, to
/// tell the log why.
pub fn load_program(name: &CStr, code: &Code, btf: Option<BorrowedFd<'_>>) -> io::Result<OwnedFd> {
    let instructions: Vec<_> = code.instructions.iter().map(bpf::bpf_insn::from).collect();
    let mut options = bpf::bpf_prog_load_opts {
        sz: size_of::<bpf::bpf_prog_load_opts>() as _,
        ..Default::default()
    };
    if let Some(btf) = btf {
        options.prog_btf_fd = btf.as_raw_fd() as u32;
        options.func_info = code.functions.as_ptr().cast();
        options.func_info_cnt = code.functions.len() as u32;
        options.func_info_rec_size = size_of::<bpf::bpf_func_info>() as u32;
        options.line_info = code.lines.as_ptr().cast();
        options.line_info_cnt = code.lines.len() as u32;
        options.line_info_rec_size = size_of::<bpf::bpf_line_info>() as u32;
    }
    let load = |options: &mut bpf::bpf_prog_load_opts| {
        // SAFETY: the strings end with a zero; all arrays outlive the call, as long as said.
        owned(unsafe {
            bpf::bpf_prog_load(
                bpf::BPF_PROG_TYPE_SCHED_CLS,
                name.as_ptr(),
                LICENSE.as_ptr(),
                instructions.as_ptr(),
                instructions.len() as _,
                options,
            )
        })
    };
    let refused = match load(&mut options) {
        Ok(program) => return Ok(program),
        Err(refused) => refused,
    };
    let mut log = vec![0u8; LOG_SIZE];
    options.log_buf = log.as_mut_ptr().cast::<c_char>();
    options.log_size = log.len() as u32;
    options.log_level = 1;
    let again = load(&mut options);
    let log = CStr::from_bytes_until_nul(&log).unwrap_or_default().to_string_lossy();
    debug!(target: "libbpf", "{}: {refused}\n{log}", name.to_string_lossy());
    again.map_err(|_| refused)
}

/// Makes a program hold a map that its instructions need not name (Linux 5.10).
pub fn bind_map(program: BorrowedFd<'_>, map: BorrowedFd<'_>) -> io::Result<()> {
    let (program, map) = (program.as_raw_fd(), map.as_raw_fd());
    // SAFETY: two descriptors that live, and no options.
    check(unsafe { bpf::bpf_prog_bind_map(program, map, ptr::null()) })?;
    Ok(())
}

// The registers as a byte, since bindgen's accessors go bit by bit. The object is one of little-endian machines.
impl From<&bpf::bpf_insn> for Insn {
    fn from(raw: &bpf::bpf_insn) -> Insn {
        // SAFETY: eight bytes without padding.
        let [code, registers, ..] = unsafe { transmute::<bpf::bpf_insn, [u8; 8]>(*raw) };
        Insn { code, dst: registers & 0xf, src: registers >> 4, off: raw.off, imm: raw.imm }
    }
}

impl From<&Insn> for bpf::bpf_insn {
    fn from(insn: &Insn) -> bpf::bpf_insn {
        let [a, b] = insn.off.to_le_bytes();
        let [c, d, e, f] = insn.imm.to_le_bytes();
        let bytes = [insn.code, insn.dst | insn.src << 4, a, b, c, d, e, f];
        // SAFETY: eight bytes without padding, of which any are an instruction.
        unsafe { transmute::<[u8; 8], bpf::bpf_insn>(bytes) }
    }
}
