//! The clocks that the datapath goes by.

use std::io;
use std::os::fd::AsFd;
use std::ptr;

use libbpf_sys as bpf;
use nix::sys::time::TimeValLike;
use nix::time::ClockId;

use super::{LICENSE, owned, test_run};
use crate::kernel::abi::__sk_buff;

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
