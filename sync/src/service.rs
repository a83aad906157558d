//! The process: one thread that runs the readers and the publisher, answers commands, and tells systemd, the state file and
//! Prometheus how it is.

pub mod metrics;
mod prometheus;
pub mod renumber;
pub mod socket;
pub mod state;
pub mod systemd;

use std::fs::{self, File};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use cilmark::model::cluster::{Answer, Request};
use cilmark::model::identity::Identity;
use cilmark::model::labels::Labels;
use cilmark::ops;
use cilmark::ops::cluster::number::socket as socket_of;
use cilmark::ops::cluster::{memory, run_directory};
use cilmark::state::pin::Root;
use jiff::Timestamp;
use log::{info, warn};
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use tokio::runtime;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::Notify;
use tokio::task::LocalSet;
use tokio::time::{Instant, interval};

use crate::config::Config;
use crate::etcd::Client;
use crate::identities::allocator::{Allocator, NoNumber};
use crate::identities::garbage;
use crate::publish::Publisher;
use crate::read::{self, Reading};
use state::{Own, State};

/// How often the state file is written, if something has changed.
const WRITTEN: Duration = Duration::from_secs(1);
/// How often it is written in any case, so that its age shows whether the process lives.
const ALIVE: Duration = Duration::from_secs(10);
/// How often it is asked whether the process is ready.
const LOOKED_AT: Duration = Duration::from_millis(100);
/// How long whoever waits for the process waits for etcd.
const READY: Duration = Duration::from_secs(90);

/// What the process is started with.
#[derive(Debug, Clone)]
pub struct Options {
    /// The configuration.
    pub config: PathBuf,
    /// Where everything is pinned.
    pub root: Root,
    /// Where Prometheus finds it.
    pub listen: Option<SocketAddr>,
}

/// Runs until a signal, or a command to leave.
pub fn run(options: Options) -> Result<()> {
    let config = Config::read(&options.config)?;
    options.root.check_bpffs()?;
    let _only = be_the_only_one(&run_directory(&options.root))?;
    let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
    let ended = LocalSet::new().block_on(&runtime, serve(options, config));
    systemd::stopping();
    // What waits for a command of this host is not waited for.
    runtime.shutdown_background();
    ended
}

async fn serve(options: Options, config: Config) -> Result<()> {
    let service = Rc::new(Service::new(options, config)?);
    let root = &service.options.root;
    let (mut interrupted, mut terminated) =
        (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    let listener = socket::listen(&socket_of(root))?;
    if let Some(address) = service.options.listen {
        let listener = metrics::listen(address).await?;
        let service = service.clone();
        tokio::task::spawn_local(metrics::serve(listener, move || service.metrics()));
    }
    let answering = service.clone();
    tokio::task::spawn_local(socket::serve(listener, move |request| {
        answering.clone().answer(request)
    }));
    tokio::select! {
        () = service.clone().work() => bail!("the service has ended by itself"),
        () = service.tell_state() => bail!("the state is told no more"),
        () = service.tell_ready() => bail!("the service has ended by itself"),
        () = systemd::watchdog() => bail!("the watchdog has ended"),
        _ = interrupted.recv() => {}
        _ = terminated.recv() => {}
        () = service.left.notified() => {}
    }
    service.write_state(&mut None);
    Ok(())
}

/// All parts of the process.
struct Service {
    options: Options,
    config: Config,
    started: Timestamp,
    reading: Rc<Reading>,
    publisher: Publisher,
    allocator: Rc<Allocator>,
    /// Somebody has asked this host to leave, and it has left.
    left: Notify,
}

impl Service {
    fn new(options: Options, config: Config) -> Result<Service> {
        let root = &options.root;
        // Each knows of which store it knows something.
        let client = || Client::new(&config.etcd, &config.resolve);
        Ok(Service {
            reading: Reading::new(Rc::new(config.clone()), root),
            publisher: Publisher::new(&config, root, client()?)?,
            allocator: Rc::new(Allocator::new(&config, root, client()?)?),
            started: Timestamp::now(),
            left: Notify::new(),
            options,
            config,
        })
    }

    async fn work(self: Rc<Service>) {
        let here = || self.publisher.here();
        tokio::join!(
            read::run(self.reading.clone()),
            self.publisher.run(),
            self.allocator.run(here()),
            self.collect_garbage(),
            renumber::run(self.options.root.clone(), self.allocator.clone(), here()),
        );
    }

    async fn collect_garbage(&self) {
        if !self.config.collect_garbage {
            return;
        }
        match Client::new(&self.config.etcd, &self.config.resolve) {
            Ok(client) => _ = garbage::collect(&self.config, &client, garbage::INTERVAL).await,
            Err(error) => warn!("nobody collects numbers here: {error:#}"),
        }
    }

    async fn answer(self: Rc<Service>, request: Request) -> Answer {
        match request {
            Request::Allocate(labels) => self.allocate(&labels).await,
            Request::Sweep(cluster) => match self.reading.sweep(&cluster) {
                Ok(lines) => Answer::Done(lines),
                Err(error) => Answer::Error(format!("{error:#}")),
            },
            Request::Leave => match self.leave().await {
                Ok(keys) => Answer::Done(keys),
                Err(error) => Answer::Error(format!("{error:#}")),
            },
        }
    }

    /// While etcd is away, labels get the number that they had last here, or 5 (init): whoever starts a workload waits.
    async fn allocate(&self, labels: &Labels) -> Answer {
        match self.allocator.allocate(labels).await {
            Ok(number) => Answer::Identity(number),
            Err(NoNumber::NotYet(why)) => {
                let last = self.allocator.last(labels);
                let number = last.unwrap_or(Identity::INIT);
                warn!("labels {labels} get {number} until their number is known: {why}");
                Answer::Identity(number)
            }
            Err(NoNumber::Never(error)) => Answer::Error(format!("{error:#}")),
        }
    }

    /// Takes back what this host has published; the process ends behind that.
    async fn leave(&self) -> Result<usize> {
        let left = async {
            let keys = self.publisher.withdraw().await? + self.allocator.withdraw().await?;
            memory::forget(&self.options.root)?;
            Ok(keys)
        };
        let left = left.await;
        match &left {
            Ok(_) => self.left.notify_one(),
            // It goes on as before, with all that was withdrawn by then.
            Err(_) => {
                self.publisher.stay();
                self.allocator.stay();
            }
        }
        left
    }

    async fn tell_ready(&self) {
        let limit = Instant::now() + READY;
        let mut ticks = interval(LOOKED_AT);
        while !self.reading.is_ready() {
            if limit <= ticks.tick().await {
                warn!("etcd has not told all yet; what was in the ipcache stays meanwhile");
                break;
            }
        }
        systemd::ready();
        info!("ready");
        std::future::pending().await
    }

    async fn tell_state(&self) {
        let mut before = None;
        let mut ticks = interval(WRITTEN);
        loop {
            ticks.tick().await;
            self.write_state(&mut before);
        }
    }

    fn state(&self) -> State {
        let mut own = Own::default();
        self.publisher.fill(&mut own);
        self.allocator.fill(&mut own);
        State {
            written: Timestamp::now(),
            pid: std::process::id(),
            started: self.started,
            config: self.options.config.clone(),
            max_clusters: self.config.max_clusters,
            trouble: self.reading.trouble(),
            own,
            clusters: self.reading.clusters(),
        }
    }

    /// Unless it was written a moment ago and nothing has changed.
    fn write_state(&self, before: &mut Option<State>) {
        let state = self.state();
        let is_news = before.as_ref().is_none_or(|before| {
            let is_old = state.written.duration_since(before.written).unsigned_abs() >= ALIVE;
            is_old || State { written: before.written, ..state.clone() } != *before
        });
        if !is_news {
            return;
        }
        systemd::status(&prometheus::summary(&state));
        match state.write(&self.options.root) {
            Ok(()) => *before = Some(state),
            Err(error) => warn!("{error:#}"),
        }
    }

    fn metrics(&self) -> Result<String> {
        let datapath = ops::metrics::metrics(&self.options.root)?;
        Ok(format!("{}{}", prometheus::text(&self.state()), ops::metrics::prometheus(&datapath)))
    }
}

/// Two processes of one root would write against each other.
fn be_the_only_one(directory: &Path) -> Result<Flock<File>> {
    let path = directory.join("sync.lock");
    let open = || -> std::io::Result<File> {
        fs::create_dir_all(directory)?;
        File::create(&path)
    };
    let file = open().with_context(|| format!("open {}", path.display()))?;
    match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
        Ok(lock) => Ok(lock),
        Err((_, Errno::EWOULDBLOCK)) => bail!(
            "another cilmark-sync runs for this root already ({} is locked); `systemctl stop cilmark-sync`, or name another root \
             by --bpffs",
            path.display()
        ),
        Err((_, errno)) => Err(errno).with_context(|| format!("lock {}", path.display())),
    }
}
