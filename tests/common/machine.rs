//! The machine under test: what it lacks, which skips the tests about it by name, and how slow it is.

use std::io::{self, Write};
use std::panic::resume_unwind;
use std::sync::LazyLock;
use std::thread::{self, Builder};
use std::time::Duration;

use cilmark::kernel::sys;
use nix::unistd::geteuid;

/// Tells that this test is skipped, by its name, past the harness, which keeps what a test that
/// passes prints to itself.
pub fn skip(reason: &str) {
    let thread = thread::current();
    let line = format!("SKIPPED {}: {reason}\n", thread.name().unwrap_or("a test"));
    // One write, so that the lines of tests that run at once stay whole.
    io::stderr().write_all(line.as_bytes()).expect("write to stderr");
}

/// Whether the test runs as root; skips it if not.
pub fn is_root() -> bool {
    let is_root = geteuid().is_root();
    if !is_root {
        skip("needs root");
    }
    is_root
}

/// Whether the kernel has TCX; skips the test if not.
pub fn has_tcx() -> bool {
    let has_tcx = sys::has_tcx();
    if !has_tcx {
        skip("this kernel has no TCX");
    }
    has_tcx
}

/// The kinds of hook that the kernel has, as the command names them; the one that it takes by itself
/// first.
pub fn hooks() -> &'static [&'static str] {
    if sys::has_tcx() { &["tcx", "clsact"] } else { &["clsact"] }
}

/// Checks a claim by each kind of hook that the kernel has, each time in a world of its own.
pub fn by_each_hook(claim: impl Fn(&'static str) + Sync) {
    if !is_root() {
        return;
    }
    // Of the same name, by which a test is skipped.
    let name = thread::current().name().unwrap_or("a test").to_owned();
    for hook in hooks() {
        let checked = thread::scope(|scope| {
            let thread = Builder::new().name(name.clone()).spawn_scoped(scope, || claim(hook));
            thread.expect("start a thread").join()
        });
        checked.unwrap_or_else(|panic| {
            eprintln!("by {hook}");
            resume_unwind(panic)
        });
    }
}

/// How many times slower it is than one of today's: an emulated one may be 10.
static SLOWDOWN: LazyLock<u32> = LazyLock::new(|| match std::env::var("CILMARK_TEST_SLOWDOWN") {
    Ok(times) => times.parse().ok().filter(|times| *times > 0).expect("CILMARK_TEST_SLOWDOWN"),
    Err(_) => 1,
});

/// How often to repeat what is repeated to be surer: less often on a slow machine.
pub fn repetitions(usual: u64) -> u64 {
    (usual / u64::from(*SLOWDOWN)).max(1)
}

/// How long to give what must be done within a time: longer on a slow machine.
pub fn time_for(usual: Duration) -> Duration {
    usual * *SLOWDOWN
}
