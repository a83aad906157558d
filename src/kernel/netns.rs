//! Network namespaces, known by the inode of their file in nsfs.

use std::collections::HashSet;
use std::ffi::OsString;
use std::fs::{self, File};
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use anyhow::{Context, Result, anyhow};
use log::debug;
use nix::sched::{CloneFlags, setns};

use crate::model::text;

/// Where `ip netns add` puts names.
const NAMED: &str = "/run/netns";

/// Set before the first thread leaves it.
static HOME: OnceLock<u64> = OnceLock::new();

/// The inode of the calling thread's network namespace.
pub fn current() -> Result<u64> {
    let own = fs::metadata("/proc/thread-self/ns/net").context("read the own network namespace")?;
    Ok(own.ino())
}

/// The inode of the namespace in which this process began: that of the shell that has started it.
pub fn home() -> Result<u64> {
    HOME.get().copied().map_or_else(current, Ok)
}

/// The calling thread's network namespace, to be asked about from another one.
pub fn open() -> Result<File> {
    File::open("/proc/thread-self/ns/net").context("open the own network namespace")
}

/// Moves the calling thread into a namespace: a name of `ip netns`, or a path. Mounts stay as they
/// are, so that bpffs is where it was; `ip netns exec` would hide it.
pub fn enter(name_or_path: &str) -> Result<()> {
    enter_path(&path_of(name_or_path)).map_err(|error| {
        anyhow!("network namespace `{name_or_path}`: {error:#}; `ip netns` lists the names")
    })
}

/// The path to a namespace: of a name of `ip netns`, or a path itself.
pub fn path_of(name_or_path: &str) -> PathBuf {
    let name = OsString::from_vec(text::to_bytes(name_or_path));
    if name_or_path.contains('/') { name.into() } else { Path::new(NAMED).join(name) }
}

fn enter_path(path: &Path) -> Result<()> {
    let namespace = File::open(path).with_context(|| format!("open {}", path.display()))?;
    let home = current()?;
    HOME.get_or_init(|| home);
    setns(namespace, CloneFlags::CLONE_NEWNET)
        .with_context(|| format!("enter {}", path.display()))?;
    Ok(())
}

/// The names of `ip netns`, as far as they can be read.
pub fn names() -> Vec<String> {
    let entries = fs::read_dir(NAMED).into_iter().flatten().flatten();
    entries.map(|entry| text::from_bytes(entry.file_name().as_bytes())).collect()
}

/// The name that `ip netns` has for the namespace with this inode, if it has one.
pub fn name_of(inode: u64) -> Option<String> {
    let is_it = |name: &String| fs::metadata(path_of(name)).is_ok_and(|file| file.ino() == inode);
    names().into_iter().find(is_it)
}

/// A path to the namespace with this inode that others may use, too.
pub fn path_to(inode: u64) -> Option<PathBuf> {
    find(inode).ok().flatten()
}

/// Paths to the namespaces that a name or a process keeps; to most of them more than one.
fn paths() -> Result<impl Iterator<Item = PathBuf>> {
    let entries = |directory: &str| match fs::read_dir(directory) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(error).context(format!("read {directory}"))
        }
        entries => Ok(entries.into_iter().flatten().flatten().map(|entry| entry.path())),
    };
    let of_processes = entries("/proc")?.map(|process| process.join("ns/net"));
    Ok(entries(NAMED)?.chain(of_processes))
}

/// A path to the namespace with this inode, if a name or a process keeps it.
fn find(inode: u64) -> Result<Option<PathBuf>> {
    Ok(paths()?.find(|path| fs::metadata(path).is_ok_and(|file| file.ino() == inode)))
}

/// Whether anybody can look into the namespace with this inode.
pub fn is_there(inode: u64) -> Result<bool> {
    Ok(inode == current()? || find(inode)?.is_some())
}

/// The first namespace in which `action` finds something, with that.
pub fn search<T>(mut action: impl FnMut() -> Result<Option<T>>) -> Result<Option<(u64, T)>> {
    let mut seen = HashSet::new();
    for path in paths()? {
        let Ok(file) = fs::metadata(&path) else { continue };
        if !seen.insert(file.ino()) {
            continue;
        }
        match inside(&path, &mut action) {
            Ok(Some(found)) => return Ok(Some((file.ino(), found))),
            Ok(None) => {}
            // The process that kept it has ended.
            Err(error) if !path.exists() => debug!("{}: {error:#}", path.display()),
            Err(error) => return Err(error),
        }
    }
    Ok(None)
}

/// Runs `action` inside the namespace with this inode and comes back. `None` if it is gone.
pub fn within<T>(inode: u64, action: impl FnOnce() -> Result<T>) -> Result<Option<T>> {
    if inode == current()? {
        return action().map(Some);
    }
    find(inode)?.map(|path| inside(&path, action)).transpose()
}

/// Runs `action` inside the namespace at a path and comes back.
pub fn inside<T>(path: &Path, action: impl FnOnce() -> Result<T>) -> Result<T> {
    let home = open()?;
    enter_path(path)?;
    let result = action();
    setns(home, CloneFlags::CLONE_NEWNET).context("return to the own network namespace")?;
    result
}
