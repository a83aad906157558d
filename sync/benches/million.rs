//! What cilmark-sync costs with a million addresses in a real etcd: the first list, a restart without a change, and 5,000
//! changes a second. As root: `cargo bench -p cilmark-sync`; `ADDRESSES=` and `SECONDS=` make it smaller.

use std::fs;
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use cilmark::ops::cluster::lines::Lines;
use cilmark::program::load::{self, Sizes};
use cilmark::state::pin::Root;
use cilmark_sync::cilium::cluster_config::ClusterConfig;
use cilmark_sync::cilium::keys;
use cilmark_sync::cilium::pair::Pair;
use cilmark_sync::etcd::{Client, Op, Resolve};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use tokio::runtime::{Builder, Runtime};

const CHANGES: u32 = 5_000; // a second
/// etcd takes 128.
const IN_A_TRANSACTION: u32 = 100;
const FIRST: u32 = 0x0a00_0000;
const IDENTITIES: u32 = 50_000;
const LONGEST: Duration = Duration::from_secs(600);

fn main() -> Result<()> {
    let of = |name: &str, usual: u32| {
        std::env::var(name).ok().map_or(Ok(usual), |text| text.parse()).context("a number")
    };
    let (addresses, seconds) = (of("ADDRESSES", 1_000_000)?, of("SECONDS", 60)?);
    leave_the_host()?;
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let _etcd = start_etcd()?;
    let file = Path::new("/run/client.yaml");
    fs::write(file, "endpoints: ['http://127.0.0.1:2379']\n")?;
    let client = Client::new(file, &Resolve::new())?;
    eprintln!("{addresses} addresses into etcd");
    fill(&runtime, &client, addresses)?;

    let config =
        "name = \"edge\"\nid = 2\netcd = \"/run/client.yaml\"\npublish = false\nnode = \"n1\"\n";
    fs::write("/run/cluster.toml", config)?;
    let root = Root::new(PathBuf::from("/sys/fs/bpf/million"));
    root.prepare(false)?;
    let sizes = Sizes { ipcache: Some(addresses + 1024), ..Sizes::default() };
    load::create_maps(&root, &sizes)?;

    let lines = Lines::of(&root);
    let sync = Sync::start(&root)?;
    sync.wait_for(&lines, addresses)?;
    sync.tell("first list")?;
    let (begin, cpu) = (Instant::now(), sync.cpu()?);
    sleep(Duration::from_secs(10));
    eprintln!("at rest: {:.2} % of a core", share(sync.cpu()? - cpu, begin.elapsed()));
    let changes = lines.changes()?;
    drop(sync);

    let sync = Sync::start(&root)?;
    sync.wait_until_ready()?;
    sleep(Duration::from_secs(2));
    sync.tell("restart without a change")?;
    ensure!(lines.changes()? == changes, "a restart without a change has made verdicts stale");

    let (begin, cpu) = (Instant::now(), sync.cpu()?);
    let made = change(&runtime, &client, addresses, Duration::from_secs(seconds.into()))?;
    let passed = begin.elapsed();
    eprintln!(
        "{:.0} changes a second for {} s: {:.2} % of a core",
        f64::from(made) / passed.as_secs_f64(),
        passed.as_secs(),
        share(sync.cpu()? - cpu, passed)
    );
    sync.tell("all of it")
}

fn share(cpu: Duration, of: Duration) -> f64 {
    100.0 * cpu.as_secs_f64() / of.as_secs_f64()
}

/// Nothing of the host is changed.
fn leave_the_host() -> Result<()> {
    unshare(CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWNET).context("this takes root")?;
    let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
    mount(None::<&str>, "/", None::<&str>, private, None::<&str>)?;
    for (kind, at) in [("tmpfs", "/run"), ("tmpfs", "/var/lib"), ("bpf", "/sys/fs/bpf")] {
        mount(Some(kind), at, Some(kind), MsFlags::empty(), None::<&str>)?;
    }
    let up = Command::new("ip").args(["link", "set", "lo", "up"]).status()?;
    ensure!(up.success(), "ip link set lo up");
    Ok(())
}

/// A process that ends with this guard.
struct Ends(Child);

impl Drop for Ends {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn start_etcd() -> Result<Ends> {
    let child = Command::new("setpriv")
        .args(["--pdeathsig=KILL", "etcd", "--data-dir=/run/etcd", "--log-level=error"])
        .args(["--logger=zap", "--unsafe-no-fsync"])
        .args(["--quota-backend-bytes=8589934592", "--snapshot-count=10000"])
        .stdin(Stdio::null())
        .spawn()
        .context("run etcd (apt-get install etcd-server)")?;
    Ok(Ends(child))
}

fn put(number: u32, identity: u32) -> Op {
    let ip = IpAddr::from(Ipv4Addr::from_bits(FIRST + number));
    let id = (2 << 16) + identity % IDENTITIES;
    let metadata = format!("cilium-global:default:node-{}:{number}", number % 100).into();
    let pair = Pair { ip, mask: None, host_ip: None, id, key: 0, metadata };
    Op::Put(keys::address(ip), pair.write().into_bytes(), None)
}

fn fill(runtime: &Runtime, client: &Client, addresses: u32) -> Result<()> {
    runtime.block_on(async {
        let begin = Instant::now();
        while client.header().await.is_err() {
            ensure!(begin.elapsed() < LONGEST, "etcd does not answer");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        let config = ClusterConfig::of(2, 255).write();
        client.put(&keys::cluster_config("edge"), config, None).await?;
        for first in (0..addresses).step_by(IN_A_TRANSACTION as usize) {
            let last = (first + IN_A_TRANSACTION).min(addresses);
            let puts = (first..last).map(|number| put(number, number)).collect();
            client.transact(Vec::new(), puts, Vec::new()).await?;
        }
        Ok(())
    })
}

/// Other identities for addresses all over the table, at an even pace. How many.
fn change(runtime: &Runtime, client: &Client, addresses: u32, time: Duration) -> Result<u32> {
    let begin = Instant::now();
    let mut made = 0_u32;
    runtime.block_on(async {
        while begin.elapsed() < time {
            // Far from each other, and each there once.
            let place = |number: u32| (u64::from(number) * 7919 % u64::from(addresses)) as u32;
            let numbers = made..made + IN_A_TRANSACTION / 2;
            let puts = numbers.map(|number| put(place(number), number + 7)).collect();
            client.transact(Vec::new(), puts, Vec::new()).await?;
            made += IN_A_TRANSACTION / 2;
            let due = Duration::from_secs_f64(f64::from(made) / f64::from(CHANGES));
            tokio::time::sleep(due.saturating_sub(begin.elapsed())).await;
        }
        Ok(made)
    })
}

/// cilmark-sync itself.
struct Sync {
    process: Ends,
    begun: Instant,
    root: Root,
}

impl Sync {
    fn start(root: &Root) -> Result<Sync> {
        let child = Command::new(env!("CARGO_BIN_EXE_cilmark-sync"))
            .args(["--config", "/run/cluster.toml", "--bpffs"])
            .arg(root.path())
            .spawn()
            .context("run cilmark-sync")?;
        Ok(Sync { process: Ends(child), begun: Instant::now(), root: root.clone() })
    }

    fn proc(&self, file: &str) -> Result<String> {
        Ok(fs::read_to_string(format!("/proc/{}/{file}", self.process.0.id()))?)
    }

    /// Of all of its threads.
    fn cpu(&self) -> Result<Duration> {
        let stat = self.proc("stat")?;
        let fields = stat.rsplit_once(')').context("a stat")?.1;
        let ticks = fields.split_whitespace().skip(11).take(2);
        let ticks = ticks.map(str::parse::<u64>).sum::<Result<u64, _>>()?;
        Ok(Duration::from_millis(10 * ticks))
    }

    fn tell(&self, what: &str) -> Result<()> {
        let status = self.proc("status")?;
        let peak = status.lines().find(|line| line.starts_with("VmHWM")).context("a peak")?;
        let peak: u64 = peak.split_whitespace().nth(1).context("a number")?.parse()?;
        eprintln!(
            "{what}: {:.2} s of CPU, {:.1} s, at most {} MB of memory",
            self.cpu()?.as_secs_f64(),
            self.begun.elapsed().as_secs_f64(),
            peak / 1024
        );
        Ok(())
    }

    fn wait_until_ready(&self) -> Result<()> {
        use cilmark_sync::service::state::{Phase, State};
        loop {
            let state = State::read(&self.root).ok().flatten();
            let is_this = |state: &State| state.pid == self.process.0.id();
            let own = state.as_ref().filter(|state| is_this(state)).and_then(State::own_cluster);
            if own.is_some_and(|own| own.phase == Phase::Ready) {
                return Ok(());
            }
            ensure!(self.begun.elapsed() < LONGEST, "cilmark-sync is not ready");
            sleep(Duration::from_millis(100));
        }
    }

    fn wait_for(&self, lines: &Lines, count: u32) -> Result<()> {
        self.wait_until_ready()?;
        loop {
            let mut found = 0;
            lines.for_each(|_, _| found += 1)?;
            if found == count {
                return Ok(());
            }
            ensure!(self.begun.elapsed() < LONGEST, "the ipcache has {found} lines");
            sleep(Duration::from_millis(200));
        }
    }
}
