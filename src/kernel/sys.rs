//! The libbpf calls that libbpf-rs does not wrap: TCX links, program info by descriptor, BTF,
//! test runs.

mod affinity;
mod array;
mod object;
mod pin;

use std::ffi::{CStr, c_void};
use std::io;
use std::mem::{offset_of, size_of};
use std::num::NonZeroUsize;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use libbpf_rs::{MapCore, MapHandle};
use libbpf_sys as bpf;
use nix::errno::Errno;
use nix::sys::mman::{MapFlags, ProtFlags, mmap, munmap};
use nix::sys::time::TimeValLike;
use nix::time::ClockId;

pub use affinity::spawn_on_another_cpu;
pub use array::fill_array;
pub use object::{bind_map, load_program, map_number, object_btf, prepare_object, program_code};
pub use pin::{is_link, is_map, open_pin, pin};

use crate::kernel::abi::__sk_buff;
use crate::model::text;

pub use crate::model::hook::Hook;

/// Of every program: it may call what the kernel keeps for the GPL.
const LICENSE: &CStr = c"Dual BSD/GPL";

/// Entries that [`for_each_batch`] asks for first.
const FIRST_BATCH: usize = 512;

fn tcx_type(hook: Hook) -> u32 {
    match hook {
        Hook::Ingress => bpf::BPF_TCX_INGRESS,
        Hook::Egress => bpf::BPF_TCX_EGRESS,
    }
}

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

/// CONFIG_HZ of the running kernel: the coarse clocks advance once a jiffy (`posix_get_coarse_res` in
/// kernel/time/posix-timers.c), and say so as their resolution.
pub fn jiffies_per_second() -> u32 {
    let tick = ClockId::CLOCK_MONOTONIC_COARSE.res().map_or(0, |tick| tick.num_nanoseconds());
    let nanoseconds = 1_000_000_000;
    u32::try_from((nanoseconds + tick / 2).checked_div(tick).unwrap_or(0)).unwrap_or(0).max(1)
}

/// The coarse monotonic clock in ns, by which the datapath measures deadlines.
pub fn coarse_ns() -> u64 {
    let now = ClockId::CLOCK_MONOTONIC_COARSE.now().expect("every Linux has it");
    now.num_nanoseconds() as u64
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

/// The lower half of the kernel's jiffies, which no file tells.
pub fn jiffies() -> io::Result<u32> {
    jiffies_from(0)
}

/// The kernel's jiffies.
pub fn jiffies64() -> io::Result<u64> {
    loop {
        let (high, low) = (jiffies_from(32)?, jiffies_from(0)?);
        if jiffies_from(32)? == high {
            return Ok(u64::from(high) << 32 | u64::from(low));
        }
    }
}

/// The 32 bits of them from this one on: a program of three instructions reads them.
fn jiffies_from(bit: i32) -> io::Result<u32> {
    let mut program = [bpf::bpf_insn::default(); 3];
    program[0].code = (bpf::BPF_JMP | bpf::BPF_CALL) as u8;
    program[0].imm = bpf::BPF_FUNC_jiffies64 as i32;
    program[1].code = (bpf::BPF_ALU64 | bpf::BPF_RSH | bpf::BPF_K) as u8;
    program[1].imm = bit;
    program[2].code = (bpf::BPF_JMP | bpf::BPF_EXIT) as u8;
    // SAFETY: three instructions, as said; no name, the license and no options are what it takes.
    let program = owned(unsafe {
        bpf::bpf_prog_load(
            bpf::BPF_PROG_TYPE_SCHED_CLS,
            ptr::null(),
            LICENSE.as_ptr(),
            program.as_ptr(),
            program.len() as _,
            ptr::null_mut(),
        )
    })?;
    let run = test_run(program.as_fd(), &[0; 64], &mut __sk_buff::default(), 1)?;
    Ok(run.action as u32)
}

/// The memory of a map with one value (`BPF_F_MMAPABLE`), as .bss is. The datapath and other commands
/// read and write beside us: words are written one by one, none is copied back.
pub struct SharedValue {
    memory: NonNull<c_void>,
    length: NonZeroUsize,
}

impl SharedValue {
    /// Maps it into this process.
    pub fn of(map: &MapHandle) -> io::Result<SharedValue> {
        let length = NonZeroUsize::new(map.value_size() as usize)
            .ok_or_else(|| io::Error::from_raw_os_error(Errno::EINVAL as i32))?;
        let access = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        // SAFETY: a new mapping at an address of the kernel's choice; only atomics look at it.
        let memory = unsafe { mmap(None, length, access, MapFlags::MAP_SHARED, map.as_fd(), 0) }?;
        Ok(SharedValue { memory, length })
    }

    /// The word of four bytes at this offset.
    pub fn u32_at(&self, offset: usize) -> &AtomicU32 {
        // SAFETY: in the mapping and aligned, as `at` asserts; an atomic may be shared.
        unsafe { self.at::<AtomicU32>(offset).as_ref() }
    }

    /// Sets or clears bits of the word of four bytes at this offset.
    pub fn set_bits(&self, offset: usize, bits: u32, on: bool) {
        let word = self.u32_at(offset);
        match on {
            true => word.fetch_or(bits, Ordering::SeqCst),
            false => word.fetch_and(!bits, Ordering::SeqCst),
        };
    }

    /// The word of eight bytes at this offset.
    pub fn u64_at(&self, offset: usize) -> &AtomicU64 {
        // SAFETY: as above.
        unsafe { self.at::<AtomicU64>(offset).as_ref() }
    }

    fn at<T>(&self, offset: usize) -> NonNull<T> {
        assert!(offset.is_multiple_of(align_of::<T>()));
        assert!(offset + size_of::<T>() <= self.length.get());
        // SAFETY: within the mapping.
        unsafe { self.memory.byte_add(offset) }.cast()
    }
}

impl Drop for SharedValue {
    fn drop(&mut self) {
        // SAFETY: mapped by `of`, and no reference outlives `self`. Nothing can be done if it fails.
        let _ = unsafe { munmap(self.memory, self.length.get()) };
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

/// Reads a whole map in batches: the bytes of up to `most` keys and of their values at a time, the
/// first time of fewer, since most maps are small. libbpf-rs has this as an iterator, which takes a
/// batch that is not quite full for the last one; a hash map gives whole buckets only.
pub fn for_each_batch(
    map: &MapHandle,
    most: usize,
    handle: impl FnMut(&[u8], &[u8]),
) -> io::Result<()> {
    batches(map, most, 0, handle)
}

/// The same of an array whose values have a lock: each is read under it.
pub fn for_each_batch_locked(
    map: &MapHandle,
    most: usize,
    handle: impl FnMut(&[u8], &[u8]),
) -> io::Result<()> {
    batches(map, most, bpf::BPF_F_LOCK.into(), handle)
}

fn batches(
    map: &MapHandle,
    most: usize,
    elem_flags: u64,
    mut handle: impl FnMut(&[u8], &[u8]),
) -> io::Result<()> {
    let options = bpf::bpf_map_batch_opts {
        sz: size_of::<bpf::bpf_map_batch_opts>() as _,
        elem_flags,
        ..Default::default()
    };
    let (key_size, value_size) = (map.key_size() as usize, map.value_size() as usize);
    let mut count = most.min(FIRST_BATCH);
    let mut keys = vec![0u8; count * key_size];
    let mut values = vec![0u8; count * value_size];
    // Where the kernel is: a bucket number in a hash map, a key in a trie.
    let mut position = vec![0u8; key_size.max(size_of::<u32>())];
    let mut first = true;
    loop {
        let mut read = count as u32;
        let from = if first { ptr::null_mut() } else { position.as_mut_ptr().cast() };
        // SAFETY: the buffers hold `count` keys and values of the map's own sizes, the position
        // what the kernel keeps there, and all outlive the call.
        let result = unsafe {
            bpf::bpf_map_lookup_batch(
                map.as_fd().as_raw_fd(),
                from,
                position.as_mut_ptr().cast(),
                keys.as_mut_ptr().cast(),
                values.as_mut_ptr().cast(),
                &mut read,
                &options,
            )
        };
        let end = match check(result) {
            Ok(_) => false,
            Err(error) if error.raw_os_error() == Some(Errno::ENOENT as i32) => true,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            // The next bucket holds more than that; the position stays before it.
            Err(error) if error.kind() == io::ErrorKind::StorageFull && count < most => {
                read = 0;
                false
            }
            Err(error) => return Err(error),
        };
        let read = read as usize;
        handle(&keys[..read * key_size], &values[..read * value_size]);
        if end {
            return Ok(());
        }
        first = false;
        count = most.min(count * 4);
        keys.resize(count * key_size, 0);
        values.resize(count * value_size, 0);
    }
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
