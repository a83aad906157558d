//! What the kernel lets this process do, and what it can; found out by trying, never by its version.

use std::ffi::CStr;
use std::os::fd::{AsFd as _, OwnedFd};

use anyhow::{Context as _, Result, ensure};
use libbpf_rs::{MapType, ProgramType};
use libbpf_sys as bpf;
use nix::errno::Errno;

use super::abi::__sk_buff;
use super::insn::{ALU64, BY_REGISTER, CALL, Code, EXIT, Insn, MEM, MOV, MOV64_IMM, ST};
use super::sys;

/// Fails if no program for a network device can be loaded, or no map made: the kernel has no BPF, or allows it to others
/// only. It tries the smallest of each, which takes less than a millisecond.
pub fn check_bpf() -> Result<()> {
    let program =
        ProgramType::SchedCls.is_supported().context("load a program of type sched_cls")?;
    ensure!(program, "the kernel loads no program of type sched_cls: {RIGHTS}");
    let map = MapType::RingBuf.is_supported().context("make a ring buffer")?;
    ensure!(map, "the kernel makes no ring buffer: {RIGHTS}");
    Ok(())
}

const RIGHTS: &str = "that takes Linux 6.1 or newer with BPF, and root, or CAP_BPF, CAP_NET_ADMIN, CAP_PERFMON and CAP_SYS_ADMIN";

/// Whether the kernel compiles programs. One that does not interprets them.
pub fn has_jit() -> Result<bool> {
    let program = load(&[Insn { code: MOV64_IMM, ..NOTHING }, RETURN])?;
    let facts = sys::program_facts(program.as_fd()).context("read a program")?;
    Ok(facts.compiled_bytes > 0)
}

/// Whether `bpf_fib_lookup()` takes a mark, on which routes may depend (Linux 6.10). It is asked about a family that there
/// is not, so that no routing table is looked at; unknown flags are refused before that (net/core/filter.c).
pub fn routes_by_mark() -> Result<bool> {
    const LENGTH: i32 = size_of::<bpf::bpf_fib_lookup>() as i32;
    const DOUBLE_WORD: u8 = 0x18;
    let set = |dst: u8, imm: i32| Insn { code: MOV64_IMM, dst, imm, ..NOTHING };
    let zero = |at: i32| Insn { code: ST | MEM | DOUBLE_WORD, dst: 10, off: -at as i16, ..NOTHING };
    let mut code: Vec<Insn> = (1..=LENGTH / 8).map(|word| zero(word * 8)).collect();
    code.extend([
        Insn { code: ALU64 | MOV | BY_REGISTER, dst: 2, src: 10, ..NOTHING },
        Insn { code: ALU64, dst: 2, imm: -LENGTH, ..NOTHING },
        set(3, LENGTH),
        set(4, bpf::BPF_FIB_LOOKUP_MARK as i32),
        Insn { code: CALL, imm: bpf::BPF_FUNC_fib_lookup as i32, ..NOTHING },
        RETURN,
    ]);
    let program = load(&code)?;
    let run = sys::test_run(program.as_fd(), &[0; 64], &mut __sk_buff::default(), 1);
    Ok(run.context("run a program")?.action != -(Errno::EINVAL as i32))
}

const NOTHING: Insn = Insn { code: 0, dst: 0, src: 0, off: 0, imm: 0 };
const RETURN: Insn = Insn { code: EXIT, ..NOTHING };
const NAME: &CStr = c"cm_try";

fn load(instructions: &[Insn]) -> Result<OwnedFd> {
    let code = Code { instructions: instructions.to_vec(), ..Code::default() };
    sys::load_program(NAME, &code, None).context("load a program")
}
