//! The calls that libbpf-rs does not wrap. Here: program info by descriptor, BTF, test runs.

mod affinity;
mod array;
mod batch;
mod clock;
mod elements;
mod memory;
mod object;
mod pin;
mod process;
mod tcx;

use std::ffi::CStr;
use std::io;
use std::mem::{offset_of, size_of};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::ptr;
use std::time::Duration;

use libbpf_sys as bpf;

pub use affinity::spawn_on_another_cpu;
pub use array::fill_array;
pub use batch::{for_each_batch, for_each_batch_locked};
pub use clock::{coarse_ns, jiffies, jiffies_per_second, jiffies64};
pub use elements::{delete_elements, read_element, write_elements};
pub use memory::SharedValue;
pub use object::{bind_map, load_program, map_number, object_btf, prepare_object, program_code};
pub use pin::{is_link, is_map, open_pin, pin};
pub use process::detach_a_child;
pub use tcx::{OnTcx, create_tcx_link, detach_link, has_tcx, on_tcx, update_link};

use crate::kernel::abi::__sk_buff;
use crate::model::text;

pub use crate::model::hook::Hook;

/// Of every program: it may call what the kernel keeps for the GPL.
const LICENSE: &CStr = c"Dual BSD/GPL";

/// What user space may know of a program.
#[derive(Debug, Clone)]
pub struct ProgramFacts {
    /// The kernel's number of the program.
    pub id: u32,
    /// Its name, of which the kernel keeps 15 bytes.
    pub name: String,
    /// The maps that it uses.
    pub map_ids: Vec<u32>,
    /// Instructions after the verifier has removed what is never reached.
    pub instructions: u32,
    /// Instructions that the verifier walked.
    pub verified_instructions: u32,
    /// Bytes of machine code, of its functions together; 0 where the kernel interprets.
    pub compiled_bytes: u32,
}

/// The outcome of [`test_run`].
#[derive(Debug)]
pub struct TestRun {
    /// What the program returned, a `TC_ACT_…`.
    pub action: i32,
    /// Of one run, on average.
    pub duration: Duration,
    /// The packet afterwards.
    pub packet: Vec<u8>,
}

fn check(result: i32) -> io::Result<i32> {
    if result < 0 { Err(io::Error::from_raw_os_error(-result)) } else { Ok(result) }
}

fn owned(result: i32) -> io::Result<OwnedFd> {
    // SAFETY: libbpf returned a descriptor that nobody else has seen.
    check(result).map(|fd| unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Opens a program by the kernel's number.
pub fn open_program(id: u32) -> io::Result<OwnedFd> {
    // SAFETY: takes a number, gives a descriptor or an error.
    owned(unsafe { bpf::bpf_prog_get_fd_by_id(id) })
}

/// Opens BTF by the kernel's number, with the numbers that structs of these names have in it.
pub fn open_btf<const N: usize>(id: u32, structs: [&CStr; N]) -> io::Result<(OwnedFd, [u32; N])> {
    // SAFETY: takes a number, gives a descriptor or an error.
    let btf = owned(unsafe { bpf::bpf_btf_get_fd_by_id(id) })?;
    // SAFETY: takes a number, gives a copy that is freed below, or null with errno set.
    let copy = unsafe { bpf::btf__load_from_kernel_by_id(id) };
    if copy.is_null() {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the copy is not freed yet, and the name is a zero-terminated string.
    let numbers = structs.map(|name| unsafe {
        bpf::btf__find_by_name_kind(copy, name.as_ptr(), bpf::BTF_KIND_STRUCT)
    });
    // SAFETY: nobody has freed it or looks at it any more.
    unsafe { bpf::btf__free(copy) };
    let mut found = [0; N];
    for (found, number) in found.iter_mut().zip(numbers) {
        *found = check(number)? as u32;
    }
    Ok((btf, found))
}

/// Fills up to 256 bytes, of which getrandom(2) gives all or none.
pub fn random(bytes: &mut [u8]) -> io::Result<()> {
    // SAFETY: as many bytes as are said, which nobody else uses meanwhile.
    let given = unsafe { nix::libc::getrandom(bytes.as_mut_ptr().cast(), bytes.len(), 0) };
    match usize::try_from(given) {
        Ok(given) if given == bytes.len() => Ok(()),
        Ok(_) => Err(io::ErrorKind::UnexpectedEof.into()),
        Err(_) => Err(io::Error::last_os_error()),
    }
}

/// Reads what the kernel tells of a program.
pub fn program_facts(program: BorrowedFd<'_>) -> io::Result<ProgramFacts> {
    let mut map_ids = vec![0u32; 64];
    let mut info = bpf::bpf_prog_info {
        nr_map_ids: map_ids.len() as u32,
        map_ids: map_ids.as_mut_ptr() as u64,
        ..Default::default()
    };
    let mut length = size_of::<bpf::bpf_prog_info>() as u32;
    // SAFETY: `info` says where `map_ids` lies and how many fit; all outlive the call.
    check(unsafe { bpf::bpf_prog_get_info_by_fd(program.as_raw_fd(), &mut info, &mut length) })?;
    map_ids.truncate(info.nr_map_ids as usize);
    let name = info.name.map(|byte| byte as u8);
    let name = name.split(|byte| *byte == 0).next().unwrap_or_default();
    Ok(ProgramFacts {
        id: info.id,
        name: text::from_bytes(name),
        map_ids,
        instructions: info.xlated_prog_len / size_of::<bpf::bpf_insn>() as u32,
        verified_instructions: info.verified_insns,
        compiled_bytes: info.jited_prog_len,
    })
}

/// Runs a program on a packet (`BPF_PROG_TEST_RUN`) without sending anything. `context` holds
/// mark, cb, ingress_ifindex and ifindex before, mark and cb afterwards. `packet` has an Ethernet
/// header. `repeat` is for measuring: the packet and the mark are not reset in between.
pub fn test_run(
    program: BorrowedFd<'_>,
    packet: &[u8],
    context: &mut __sk_buff,
    repeat: u32,
) -> io::Result<TestRun> {
    let mut packet_out = vec![0; packet.len() + 256];
    let mut context_out = __sk_buff::default();
    let mut options = bpf::bpf_test_run_opts {
        sz: size_of::<bpf::bpf_test_run_opts>() as _,
        data_in: packet.as_ptr().cast(),
        data_size_in: packet.len() as u32,
        data_out: packet_out.as_mut_ptr().cast(),
        data_size_out: packet_out.len() as u32,
        ctx_in: ptr::from_ref(context).cast(),
        // The rest has padding, which the kernel wants zero and which Rust does not keep so.
        ctx_size_in: offset_of!(__sk_buff, tstamp_type) as u32,
        ctx_out: ptr::from_mut(&mut context_out).cast(),
        ctx_size_out: size_of::<__sk_buff>() as u32,
        repeat: repeat as i32,
        ..Default::default()
    };
    // SAFETY: every pointer comes with its length and outlives the call.
    check(unsafe { bpf::bpf_prog_test_run_opts(program.as_raw_fd(), &mut options) })?;
    *context = context_out;
    packet_out.truncate(options.data_size_out as usize);
    Ok(TestRun {
        action: options.retval as i32,
        duration: Duration::from_nanos(options.duration.into()),
        packet: packet_out,
    })
}
