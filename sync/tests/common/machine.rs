//! The machine under test: what it lacks, which skips the tests by name, and a network of its own for each of them.

use std::io::{self, Write};
use std::panic::resume_unwind;
use std::process::Command;
use std::thread::{self, Builder};
use std::time::Duration;

use nix::sched::{CloneFlags, unshare};
use nix::unistd::geteuid;
use tokio::runtime;
use tokio::task::LocalSet;
use tokio::time::{Instant, sleep};

/// How long a test waits for what must happen; enough for an emulated machine.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// Tells that this test is skipped, by its name, past the harness, which keeps what a test that passes prints to itself.
fn skip(reason: &str) {
    let thread = thread::current();
    let line = format!("SKIPPED {}: {reason}\n", thread.name().unwrap_or("a test"));
    // One write, so that the lines of tests that run at once stay whole.
    io::stderr().write_all(line.as_bytes()).expect("write to stderr");
}

/// Runs a test in a network namespace with nothing but loopback, if this machine can, and the tier is asked for.
pub fn alone(test: impl AsyncFnOnce() + Send) {
    if std::env::var("CILMARK_CLUSTER").as_deref() != Ok("1") {
        return skip("starts a real etcd: `make test-cluster` does");
    }
    if !geteuid().is_root() {
        return skip("needs root");
    }
    for program in ["etcd", "etcdctl"] {
        if Command::new(program).arg("--help").output().is_err() {
            return skip(&format!("no {program}; apt-get install etcd-server etcd-client"));
        }
    }
    let name = thread::current().name().unwrap_or("a test").to_owned();
    // A thread that has left its namespace does not come back.
    let done = thread::scope(|scope| {
        let thread = Builder::new().name(name).spawn_scoped(scope, || {
            unshare(CloneFlags::CLONE_NEWNET).expect("unshare");
            run(Command::new("ip").args(["link", "set", "lo", "up"]));
            let runtime = runtime::Builder::new_current_thread().enable_all().build();
            let runtime = runtime.expect("make a runtime");
            LocalSet::new().block_on(&runtime, test());
        });
        thread.expect("start a thread").join()
    });
    done.unwrap_or_else(|panic| resume_unwind(panic));
}

/// Runs a command that must succeed; its stdout.
pub fn run(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {stderr}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Waits until something is so.
pub async fn until(what: &str, mut is_so: impl AsyncFnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !is_so().await {
        assert!(Instant::now() < end, "in vain: {what}");
        sleep(Duration::from_millis(20)).await;
    }
}
