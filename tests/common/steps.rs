//! A command that stands still after each of its changes, so that a test can look what packets meet there, or kill it.

use std::fs;
use std::io::{Read as _, Write as _};
use std::process::{Child, Command, Stdio};

use nix::libc;
use nix::sys::ptrace::{self, Options};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

/// Of bpf(2) what changes something: maps, pins, links and filters, and programs that change a map.
const CHANGES: [i64; 11] = [2, 3, 6, 8, 9, 10, 24, 26, 27, 28, 29];

/// And other calls that do.
const CALLS: [i64; 5] = [
    libc::SYS_unlinkat,
    libc::SYS_renameat2,
    libc::SYS_mkdirat,
    libc::SYS_sendto,
    libc::SYS_sendmsg,
];

/// The same by their former names, where the machine has these.
#[cfg(target_arch = "x86_64")]
const FORMER: [i64; 4] = [libc::SYS_unlink, libc::SYS_rename, libc::SYS_mkdir, libc::SYS_rmdir];
#[cfg(not(target_arch = "x86_64"))]
const FORMER: [i64; 0] = [];

/// The command.
pub struct Steps {
    child: Child,
    end: Option<WaitStatus>,
}

impl Steps {
    /// Starts cilmark with arguments that are separated by spaces.
    pub fn start(arguments: &str) -> Steps {
        Steps::shell(&format!("{} {arguments}", env!("CARGO_BIN_EXE_cilmark")))
    }

    /// Starts a simple command of the shell.
    pub fn shell(command: &str) -> Steps {
        // Waits until it is traced.
        let script = format!("read go; exec {command}");
        let mut child = Command::new("sh")
            .args(["-c", &script])
            .env_clear()
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("run sh");
        let pid = Pid::from_raw(child.id() as i32);
        let options = Options::PTRACE_O_TRACESYSGOOD
            | Options::PTRACE_O_EXITKILL
            | Options::PTRACE_O_TRACEEXEC;
        ptrace::seize(pid, options).expect("trace it");
        child.stdin.take().expect("a pipe").write_all(b"go\n").expect("let it go");
        loop {
            match waitpid(pid, None).expect("wait") {
                WaitStatus::PtraceEvent(_, _, event) if event == libc::PTRACE_EVENT_EXEC => break,
                WaitStatus::Stopped(_, signal) => ptrace::cont(pid, signal).expect("go on"),
                status => panic!("sh: {status:?}"),
            }
        }
        Steps { child, end: None }
    }

    fn pid(&self) -> Pid {
        Pid::from_raw(self.child.id() as i32)
    }

    /// Goes on until something else has changed; false if it has ended.
    pub fn go_on(&mut self) -> bool {
        let mut changes = false;
        while self.end.is_none() {
            ptrace::syscall(self.pid(), None).expect("go on");
            match self.stop() {
                Some(true) if changes => return true,
                // As it begins the call is told, and as it ends not.
                Some(true) => changes = self.is_at_a_change(),
                Some(false) => {}
                None => break,
            }
        }
        false
    }

    /// Waits until it stops; whether that is at a call. `None`: it has ended.
    fn stop(&mut self) -> Option<bool> {
        match waitpid(self.pid(), Some(WaitPidFlag::__WALL)).expect("wait") {
            WaitStatus::PtraceSyscall(_) => Some(true),
            status @ (WaitStatus::Exited(..) | WaitStatus::Signaled(..)) => {
                self.end = Some(status);
                None
            }
            _ => Some(false),
        }
    }

    fn is_at_a_change(&self) -> bool {
        let path = format!("/proc/{}/syscall", self.pid());
        let Ok(text) = fs::read_to_string(path) else { return false };
        let mut words = text.split_whitespace();
        let number: i64 = words.next().and_then(|it| it.parse().ok()).unwrap_or(-1);
        let first = words.next().and_then(|it| i64::from_str_radix(&it[2..], 16).ok());
        let is_bpf = number == libc::SYS_bpf && first.is_some_and(|it| CHANGES.contains(&it));
        is_bpf || CALLS.contains(&number) || FORMER.contains(&number)
    }

    /// Kills it where it stands.
    pub fn kill(mut self) {
        if self.end.is_none() {
            self.child.kill().expect("kill");
        }
        while self.end.is_none() {
            self.stop();
        }
    }

    /// It has to end well.
    pub fn succeeds(self) {
        let (end, said) = self.end();
        assert!(matches!(end, WaitStatus::Exited(_, 0)), "{end:?}: {said}");
    }

    /// It has to fail, and to say why.
    pub fn fails(self, why: &str) {
        let (end, said) = self.end();
        assert!(matches!(end, WaitStatus::Exited(_, 1)) && said.contains(why), "{end:?}: {said}");
    }

    fn end(mut self) -> (WaitStatus, String) {
        while self.go_on() {}
        let mut said = String::new();
        let stderr = self.child.stderr.as_mut().expect("a pipe");
        stderr.read_to_string(&mut said).expect("what it says");
        (self.end.expect("an end"), said)
    }
}
