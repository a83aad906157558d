//! A process of its own.

use std::fs::OpenOptions;

use anyhow::{Context as _, Result};
use nix::unistd::{ForkResult, dup2_stderr, dup2_stdin, dup2_stdout, fork, setsid};

/// Makes a child that the end of this process, of its terminal and its session leave alone; whether this is the child.
/// There must be one thread only.
pub fn detach_a_child() -> Result<bool> {
    let nothing = OpenOptions::new().read(true).write(true).open("/dev/null");
    let nothing = nothing.context("open /dev/null")?;
    // SAFETY: there is no other thread whose locks the child could find taken.
    match unsafe { fork() }.context("make a process")? {
        ForkResult::Parent { .. } => Ok(false),
        ForkResult::Child => {
            setsid().context("leave the session")?;
            dup2_stdin(&nothing).context("close stdin")?;
            dup2_stdout(&nothing).context("close stdout")?;
            dup2_stderr(&nothing).context("close stderr")?;
            Ok(true)
        }
    }
}
