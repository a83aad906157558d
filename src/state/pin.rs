//! Where everything lies in bpffs, and who may change it.
//!
//! ```text
//! /sys/fs/bpf/cilmark/
//!   cm_ipcache  cm_ipcache_cidr  cm_ipcache_idx  cm_endpoints  cm_endpoint_net  cm_identities
//!   cm_metrics  cm_events  cm_generations  cm_devices  cm_stats
//!   cm_flows4  cm_flows6  cm_frags4  cm_frags6    once there is a policy
//!   cm_nics  cm_nic_policies                      once a NIC has one
//!   cm_id_rules                           once an identity has rules
//!   cm_id_labels                          once a cluster has told the labels of one
//!   cm_policy_call                        once there is local delivery
//!   cm_path_flows                         once somebody takes local delivery
//!   cm_flow_table                         once there is either
//!   endpoints/<endpoint id>/
//!     config             the programs' .rodata
//!     spec               cm_spec: what the endpoint was asked to be
//!     cm_policy          the rules; cm_flows4 and cm_flows6, if they are the endpoint's own
//!     ingress  egress    the links (TCX), or the programs (clsact)
//! ```

use std::fmt;
use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use libbpf_rs::MapHandle;
use log::{info, warn};
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use nix::mount::{MsFlags, mount};
use nix::sys::statfs::{BPF_FS_MAGIC, statfs};
use nix::unistd::geteuid;

use crate::kernel::sys::{self, Hook};
use crate::model::endpoint::EndpointId;

/// The directory of bpffs in which everything of cilmark lies.
#[derive(Debug, Clone)]
pub struct Root {
    path: PathBuf,
    patience: Option<Duration>,
}

/// How many times its patience somebody waits at most, while others come and go.
const TURNS: u32 = 15;

/// Held while a command changes something below a [`Root`].
pub struct Lock {
    file: Flock<File>,
}

/// Others have held the lock for as long as this one could wait.
#[derive(Debug)]
pub struct Busy {
    path: PathBuf,
    waited: Duration,
}

impl fmt::Display for Busy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "other commands have changed what is pinned in {} for {} s; nothing has changed",
            self.path.display(),
            self.waited.as_secs()
        )
    }
}

impl std::error::Error for Busy {}

impl Root {
    /// Any path; whether it can be used shows when it is.
    pub fn new(path: PathBuf) -> Root {
        Root { path, patience: None }
    }

    /// The same, for whoever waits for other commands only so long, unless endpoints come and go meanwhile: whatever is
    /// to be started at once then takes its turn.
    pub fn with_patience(&self, patience: Duration) -> Root {
        Root { patience: Some(patience), ..self.clone() }
    }

    /// The directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The pin of a map that all endpoints share.
    pub fn map(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// The directory of an endpoint.
    pub fn endpoint(&self, id: EndpointId) -> EndpointPins {
        EndpointPins { directory: self.path.join("endpoints").join(id.to_string()) }
    }

    /// The endpoints that have a directory, in order.
    pub fn endpoints(&self) -> Result<Vec<EndpointId>> {
        let directory = self.path.join("endpoints");
        let entries = match fs::read_dir(&directory) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(error).context(format!("read {}", directory.display())),
        };
        let mut ids: Vec<EndpointId> = entries
            .flatten()
            .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
            .collect();
        ids.sort();
        Ok(ids)
    }

    /// Makes the directory usable: on bpffs, which is mounted only if `mount_bpffs`.
    pub fn prepare(&self, mount_bpffs: bool) -> Result<()> {
        if !self.on_bpffs()? {
            let mount_point = self.mount_point();
            ensure!(mount_bpffs, self.lack_of_bpffs());
            mount_at(mount_point)?;
            info!("mounted a BPF file system at {}", mount_point.display());
        }
        let directory = self.path.join("endpoints");
        let mut builder = DirBuilder::new();
        builder.recursive(true).mode(0o700).create(&directory).with_context(|| {
            let has_dot = self.path.as_os_str().as_encoded_bytes().contains(&b'.');
            let hint = if has_dot { " (BPF file systems take no dot in a name)" } else { "" };
            format!("create {}{hint}", directory.display())
        })?;
        self.check_owner()
    }

    /// Fails if the directory is somebody's who could detach what is attached.
    pub fn check_owner(&self) -> Result<()> {
        let directories = [self.path.clone(), self.path.join("endpoints")];
        directories.iter().filter(|it| it.exists()).try_for_each(|it| check_owner(it))
    }

    /// Fails if the directory could not be made there, for want of a BPF file system.
    pub fn check_bpffs(&self) -> Result<()> {
        ensure!(self.on_bpffs()?, self.lack_of_bpffs());
        Ok(())
    }

    fn mount_point(&self) -> &Path {
        self.path.parent().unwrap_or(&self.path)
    }

    fn lack_of_bpffs(&self) -> String {
        format!("{} is not on a BPF file system; {}", self.path.display(), self.way_to_bpffs())
    }

    /// What to do where the directory is not on a BPF file system.
    pub fn way_to_bpffs(&self) -> String {
        let mount_point = self.mount_point();
        let hint = match mount_point.exists() {
            true if is_empty(mount_point) => format!(
                "mount one (`mount -t bpf bpf {}`, or attach with --mount-bpffs), or ",
                mount_point.display()
            ),
            true => String::new(),
            false => "attach with --mount-bpffs, or ".to_owned(),
        };
        format!("{hint}name another directory with --bpffs")
    }

    /// Why an empty answer may be wrong: without a BPF file system here, pins that are elsewhere can't be seen.
    pub fn blindness(&self) -> Result<Option<String>> {
        let path = self.path.display();
        Ok((!self.on_bpffs()?).then(|| {
            format!(
                "{path} is not on a BPF file system: what is attached can't be seen from here (`ip netns exec` \
                 hides it; --netns does not)"
            )
        }))
    }

    /// Whether the nearest directory that exists is on bpffs.
    fn on_bpffs(&self) -> Result<bool> {
        let existing = self.path.ancestors().find(|path| path.exists()).unwrap_or(Path::new("/"));
        let file_system =
            statfs(existing).with_context(|| format!("look at {}", existing.display()))?;
        Ok(file_system.filesystem_type() == BPF_FS_MAGIC)
    }

    /// Waits until no other command changes anything here, and keeps others out. `None` if the
    /// directory is not there; an error if it is not on bpffs, since what lies there is not ours to
    /// remove.
    pub fn lock(&self) -> Result<Option<Lock>> {
        loop {
            let Some(lock) = self.wait_for_lock()? else {
                return Ok(None);
            };
            ensure!(
                self.on_bpffs()?,
                "{} is not on a BPF file system; --bpffs names a directory on one",
                self.path.display()
            );
            // The holder before us may have removed the directory, and a third made it anew.
            let still_there = fs::metadata(&self.path).ok().map(|metadata| metadata.ino());
            if still_there == Some(lock.file.metadata()?.ino()) {
                return Ok(Some(lock));
            }
        }
    }

    fn wait_for_lock(&self) -> Result<Option<Lock>> {
        let Some(patience) = self.patience else {
            return lock_directory(&self.path, FlockArg::LockExclusive);
        };
        // The kernel has those who wait take turns.
        let (sender, receiver) = mpsc::channel();
        let path = self.path.clone();
        thread::spawn(move || sender.send(lock_directory(&path, FlockArg::LockExclusive)));
        let begin = Instant::now();
        let mut endpoints = self.changed();
        loop {
            match receiver.recv_timeout(patience) {
                Ok(locked) => return locked,
                Err(RecvTimeoutError::Disconnected) => bail!("lock {}", self.path.display()),
                Err(RecvTimeoutError::Timeout) => {}
            }
            let now = self.changed();
            let goes_on = now != endpoints && begin.elapsed() < patience * TURNS;
            ensure!(goes_on, Busy { path: self.path.clone(), waited: begin.elapsed() });
            endpoints = now;
        }
    }

    /// When an endpoint has come or gone last.
    fn changed(&self) -> Option<(i64, i64)> {
        let endpoints = fs::metadata(self.path.join("endpoints")).ok()?;
        Some((endpoints.mtime(), endpoints.mtime_nsec()))
    }

    /// Keeps other readers of events out: a ring buffer gives each record to one reader only.
    pub fn lock_events(&self) -> Result<Lock> {
        let directory = self.path.join("endpoints");
        match lock_directory(&directory, FlockArg::LockExclusiveNonblock) {
            Ok(Some(lock)) => Ok(lock),
            Ok(None) => bail!("nothing is attached: {} is not there", directory.display()),
            Err(error) if error.downcast_ref() == Some(&Errno::EWOULDBLOCK) => bail!(
                "events have one reader at a time, and another `cilmark monitor` (or `attach \
                 --foreground`) is reading them; stop it first"
            ),
            Err(error) => Err(error),
        }
    }

    /// Whether what a reader has locked by [`Root::lock_events`] is still what is there.
    pub fn has_events_of(&self, lock: &Lock) -> bool {
        let there = fs::metadata(self.path.join("endpoints")).map(|metadata| metadata.ino());
        let locked = lock.file.metadata().map(|metadata| metadata.ino());
        matches!((there, locked), (Ok(there), Ok(locked)) if there == locked)
    }

    /// Takes back what [`Root::prepare`] made, unless something has come there.
    pub fn remove_if_empty(&self) {
        let removed = fs::remove_dir(self.path.join("endpoints"));
        // What is refused here is somebody's.
        let _ = removed.and_then(|()| fs::remove_dir(&self.path));
    }
}

/// Whoever owns a directory may remove what is pinned there, and so detach it. A BPF file system
/// mounted by hand lets everybody make directories.
fn check_owner(directory: &Path) -> Result<()> {
    let at = directory.display();
    let owner = fs::metadata(directory).with_context(|| format!("look at {at}"))?.uid();
    ensure!(
        owner == 0 || owner == geteuid().as_raw(),
        "{at} belongs to user {owner}, who could detach whatever is attached; remove it, or \
         name another directory with --bpffs"
    );
    Ok(())
}

/// Whether a mount here would hide nothing.
fn is_empty(directory: &Path) -> bool {
    fs::read_dir(directory).is_ok_and(|mut entries| entries.next().is_none())
}

fn mount_at(mount_point: &Path) -> Result<()> {
    let at = mount_point.display();
    fs::create_dir_all(mount_point).with_context(|| format!("create the mount point {at}"))?;
    ensure!(
        is_empty(mount_point),
        "mount a BPF file system at {at}: the directory is not empty, and would be hidden"
    );
    mount(Some("bpf"), mount_point, Some("bpf"), MsFlags::empty(), Some("mode=0700"))
        .with_context(|| format!("mount a BPF file system at {at}"))?;
    if has_own_mounts() {
        warn!(
            "{at} is mounted in a mount namespace of this command's own, and goes with it; use \
             --netns instead of `ip netns exec`"
        );
    }
    Ok(())
}

/// Whether this process sees other mounts than the machine's first one, as under `ip netns exec`.
pub fn has_own_mounts() -> bool {
    let namespace = |process: &str| fs::read_link(format!("/proc/{process}/ns/mnt")).ok();
    namespace("self") != namespace("1")
}

fn lock_directory(path: &Path, how: FlockArg) -> Result<Option<Lock>> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error).context(format!("open {}", path.display())),
    };
    match Flock::lock(file, how) {
        Ok(file) => Ok(Some(Lock { file })),
        Err((_, errno)) => Err(errno).context(format!("lock {}", path.display())),
    }
}

/// The pins of one endpoint.
#[derive(Debug, Clone)]
pub struct EndpointPins {
    directory: PathBuf,
}

impl EndpointPins {
    /// Where they lie.
    pub fn path(&self) -> &Path {
        &self.directory
    }

    /// The link or program of a hook.
    pub fn hook(&self, hook: Hook) -> PathBuf {
        self.directory.join(match hook {
            Hook::Ingress => "ingress",
            Hook::Egress => "egress",
        })
    }

    /// A map of the endpoint's own.
    pub fn map(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    /// Lets go of a map of the endpoint's own, if there is one.
    pub fn remove_map(&self, name: &str) -> Result<()> {
        let path = self.map(name);
        remove_file(&path).with_context(|| format!("remove {}", path.display()))
    }

    /// The configuration.
    pub fn config(&self) -> PathBuf {
        self.directory.join("config")
    }

    /// What it was asked to be.
    pub fn spec(&self) -> PathBuf {
        self.directory.join("spec")
    }

    /// Makes the directory.
    pub fn create(&self) -> Result<()> {
        fs::create_dir_all(&self.directory)
            .with_context(|| format!("create {}", self.directory.display()))
    }

    /// Removes the directory with all pins; what the links held detaches. Only `devices` does, which lists it.
    pub(super) fn remove(&self) -> Result<()> {
        // What is left if the rest is interrupted shall not pass for what was asked for.
        self.remove_map("spec")?;
        remove_tree(&self.directory)
    }
}

/// Pins an object where another may be pinned: a reader finds the one or the other.
pub fn replace(object: impl AsFd, path: &Path) -> Result<()> {
    let beside = path
        .with_file_name(format!("{}-new", path.file_name().unwrap_or_default().to_string_lossy()));
    let pin = || -> io::Result<()> {
        remove_file(&beside)?;
        sys::pin(object.as_fd(), &beside)?;
        fs::rename(&beside, path)
    };
    pin().with_context(|| format!("pin {}", path.display()))
}

/// Opens the map that is pinned there; `None` if nobody has made it yet.
pub(super) fn open_map(path: &Path) -> Result<Option<MapHandle>> {
    if !path.try_exists().with_context(|| format!("look at {}", path.display()))? {
        return Ok(None);
    }
    let map = MapHandle::from_pinned_path(path);
    map.map(Some).with_context(|| format!("open {}; it takes root", path.display()))
}

/// Removes a file, if there is one.
pub fn remove_file(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn remove_tree(path: &Path) -> Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("remove {}", path.display()))
        }
        _ => Ok(()),
    }
}
