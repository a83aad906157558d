//! When endpoints or addresses of this host may have changed.

use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use cilmark::ops::cluster::endpoints::Changes;
use log::{debug, warn};
use nix::errno::Errno;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::time::{Instant, sleep_until, timeout_at};

/// A command that attaches pins several files: it is waited for so long after the last of them.
const QUIET: Duration = Duration::from_millis(50);

/// But no longer than that after the first.
const AT_MOST: Duration = Duration::from_millis(150);

/// Without any sign all is looked at that often: what happens in other network namespaces gives none.
const UNASKED: Duration = Duration::from_secs(10);

/// Files that come, go or are replaced.
const EVENTS: AddWatchFlags = AddWatchFlags::IN_CREATE
    .union(AddWatchFlags::IN_DELETE)
    .union(AddWatchFlags::IN_MOVED_TO)
    .union(AddWatchFlags::IN_MOVED_FROM)
    .union(AddWatchFlags::IN_DELETE_SELF)
    .union(AddWatchFlags::IN_ONLYDIR);

/// Looks at the directories of endpoints, and at devices.
pub struct Watcher {
    root: PathBuf,
    files: Option<AsyncFd<Files>>,
    devices: Option<AsyncFd<Changes>>,
    next_unasked: Instant,
}

struct Files(Inotify);

impl AsRawFd for Files {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_fd().as_raw_fd()
    }
}

impl Watcher {
    /// Of a root, which need not be there. What can't be watched is but seen later. Inside a runtime of tokio.
    pub fn new(root: &Path) -> Watcher {
        let files = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC);
        let files = files.map_err(io::Error::from).and_then(|files| readable(Files(files)));
        let devices = Changes::open().and_then(|changes| Ok(readable(changes)?));
        let mut watcher = Watcher {
            root: root.to_owned(),
            files: files
                .inspect_err(|error| warn!("endpoints are seen late: make an inotify: {error}"))
                .ok(),
            devices: devices
                .inspect_err(|error| warn!("devices that go are seen late: {error:#}"))
                .ok(),
            next_unasked: Instant::now() + UNASKED,
        };
        watcher.arm();
        watcher
    }

    /// Waits until there may be something new. Whoever looks then sees all that has happened before this returned; what
    /// happens later makes the next call return. Whether there was a sign; else it is time to look at everything.
    pub async fn changed(&mut self) -> bool {
        let is_sign = self.sign(self.next_unasked).await;
        let end = Instant::now() + AT_MOST;
        if is_sign {
            while self.sign(end.min(Instant::now() + QUIET)).await && Instant::now() < end {}
        } else {
            self.next_unasked = Instant::now() + UNASKED;
        }
        self.arm();
        is_sign
    }

    /// Whether there is a sign until then.
    async fn sign(&self, until: Instant) -> bool {
        let of_file = async {
            match &self.files {
                Some(files) => next(files, |it| drain(&it.0)).await,
                None => std::future::pending().await,
            }
        };
        let of_device = async {
            match &self.devices {
                Some(devices) => next(devices, |it| it.take().unwrap_or(true)).await,
                None => std::future::pending().await,
            }
        };
        let either = async {
            tokio::select! {
                () = of_file => {}
                () = of_device => {}
            }
        };
        match until <= Instant::now() {
            // An inotify that is always ready shall not keep others from their turn.
            true => {
                sleep_until(until).await;
                false
            }
            false => timeout_at(until, either).await.is_ok(),
        }
    }

    /// Watches the directories that are there now. One that is watched already stays so.
    fn arm(&mut self) {
        let Some(files) = &self.files else { return };
        let inotify = &files.get_ref().0;
        let endpoints = self.root.join("endpoints");
        let mut directories = vec![self.root.clone(), endpoints.clone()];
        if let Ok(entries) = fs::read_dir(&endpoints) {
            directories.extend(entries.flatten().map(|entry| entry.path()));
        }
        if !self.root.exists() {
            directories.extend(self.root.ancestors().find(|it| it.exists()).map(Path::to_owned));
        }
        for directory in directories {
            match inotify.add_watch(&directory, EVENTS) {
                Ok(_) | Err(Errno::ENOENT | Errno::ENOTDIR) => {}
                Err(error) => {
                    debug!("changes of {} are seen late: {error}", directory.display());
                    return;
                }
            }
        }
    }
}

#[expect(
    deprecated,
    reason = "its successor is unsafe; both kinds keep their descriptor as long as they live"
)]
fn readable<T: AsRawFd>(inner: T) -> io::Result<AsyncFd<T>> {
    AsyncFd::with_interest(inner, Interest::READABLE)
}

/// Waits until `take` finds something.
async fn next<T: AsRawFd>(files: &AsyncFd<T>, take: impl Fn(&T) -> bool) {
    loop {
        let Ok(mut ready) = files.readable().await else { return std::future::pending().await };
        let found = take(files.get_ref());
        ready.clear_ready();
        if found {
            return;
        }
    }
}

/// Forgets all events, and tells whether there were any: whoever is told looks himself.
fn drain(inotify: &Inotify) -> bool {
    let mut found = false;
    while inotify.read_events().is_ok_and(|events| !events.is_empty()) {
        found = true;
    }
    found
}

#[cfg(test)]
mod tests {
    use std::future::Future;

    use super::*;

    /// Runs with the clock of the machine: what the kernel tells comes in its time.
    fn run(test: impl Future<Output = ()>) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.unwrap().block_on(test);
    }

    fn fresh(name: &str) -> PathBuf {
        let directory = format!("cilmark-watcher-{name}-{}", std::process::id());
        let directory = std::env::temp_dir().join(directory);
        let _ = fs::remove_dir_all(&directory);
        fs::create_dir(&directory).unwrap();
        directory
    }

    /// Whether a change is seen long before all is looked at unasked.
    async fn is_seen(watcher: &mut Watcher, change: impl FnOnce()) -> bool {
        let begun = Instant::now();
        change();
        watcher.changed().await && begun.elapsed() < UNASKED / 2
    }

    #[test]
    fn each_pin_that_comes_goes_or_is_replaced_is_seen_also_in_a_root_that_comes_later() {
        run(async {
            let above = fresh("pins");
            let root = above.join("root");
            let mut watcher = Watcher::new(&root);
            let endpoint = root.join("endpoints/7");
            let pin = endpoint.join("config");
            assert!(is_seen(&mut watcher, || fs::create_dir_all(&endpoint).unwrap()).await);
            assert!(is_seen(&mut watcher, || fs::write(&pin, "").unwrap()).await);
            let next = || {
                fs::write(root.join("next"), "").unwrap();
                fs::rename(root.join("next"), &pin).unwrap();
            };
            assert!(is_seen(&mut watcher, next).await);
            assert!(is_seen(&mut watcher, || fs::remove_file(&pin).unwrap()).await);
            assert!(is_seen(&mut watcher, || fs::remove_dir_all(&root).unwrap()).await);
            assert!(is_seen(&mut watcher, || fs::create_dir_all(&endpoint).unwrap()).await);
            assert!(is_seen(&mut watcher, || fs::write(&pin, "").unwrap()).await);
            fs::remove_dir_all(&above).unwrap();
        });
    }

    #[test]
    fn many_changes_are_one_and_without_end_they_are_seen_all_the_same() {
        run(async {
            let root = fresh("many");
            fs::create_dir(root.join("endpoints")).unwrap();
            let mut watcher = Watcher::new(&root);
            for number in 0..100 {
                fs::create_dir(root.join(format!("endpoints/{number}"))).unwrap();
            }
            watcher.changed().await;
            assert!(!watcher.sign(Instant::now() + QUIET).await);
            let file = root.join("endpoints/1/config");
            let without_end = async {
                loop {
                    fs::write(&file, "").unwrap();
                    fs::remove_file(&file).unwrap();
                    tokio::time::sleep(QUIET / 10).await;
                }
            };
            let begun = Instant::now();
            tokio::select! {
                _ = watcher.changed() => {}
                () = without_end => {}
            }
            assert!(begun.elapsed() < UNASKED / 2);
            fs::remove_dir_all(&root).unwrap();
        });
    }
}
