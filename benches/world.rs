//! The namespaces that a section runs in; they go with its process.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use cilmark::state::pin::Root;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};

/// Gives this thread, and those that it starts from now on, a mount and a network namespace of its
/// own, with a BPF file system and room for named network namespaces.
pub fn private_root() -> Result<Root> {
    let isolate = || -> nix::Result<()> {
        unshare(CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWNET)?;
        let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
        mount(None::<&str>, "/", None::<&str>, private, None::<&str>)?;
        mount(Some("sysfs"), "/sys", Some("sysfs"), MsFlags::empty(), None::<&str>)?;
        mount(Some("bpf"), "/sys/fs/bpf", Some("bpf"), MsFlags::empty(), None::<&str>)?;
        mount(Some("tmpfs"), "/run", Some("tmpfs"), MsFlags::empty(), None::<&str>)
    };
    isolate().context("make a namespace to measure in; it takes root")?;
    let root = Root::new("/sys/fs/bpf/cilmark".into());
    root.prepare(false)?;
    Ok(root)
}

/// Runs a shell script that must succeed.
pub fn run(script: &str) -> Result<()> {
    let status = Command::new("sh").args(["-ec", script]).status().context("start sh")?;
    ensure!(status.success(), "{status}: {script}");
    Ok(())
}

/// Compiles a BPF program of the benchmark. The object's file lies where nobody else sees it.
pub fn compile_bpf(source: &str) -> Result<Vec<u8>> {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let object = "/run/compiled.bpf.o";
    let compiler = std::env::var("CLANG").unwrap_or_else(|_| "clang".to_owned());
    let status = Command::new(&compiler)
        .args(["-target", "bpf", "-mcpu=v3", "-O2", "-g", "-Wall", "-Wextra", "-Werror"])
        .args(["-I".as_ref(), here.join("vmlinux").as_os_str()])
        .args(["-I".as_ref(), here.join("src/bpf").as_os_str()])
        .args(["-o", object, "-c"])
        .arg(here.join(source))
        .status()
        .with_context(|| format!("start {compiler}"))?;
    ensure!(status.success(), "{compiler} could not compile {source}");
    fs::read(object).with_context(|| format!("read {object}"))
}
