//! What the kernel lets this process do.

use anyhow::{Context as _, Result, ensure};
use libbpf_rs::{MapType, ProgramType};

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
