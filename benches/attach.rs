//! How long endpoints take to come, to change and to go, with none, a hundred and a thousand there, and
//! what they take of memory.
//!
//! In turns: all in this process, one by one through the binary, and the kernel alone with programs
//! that do nothing, each on a device that nobody has used. The size is the number of endpoints that
//! are there when the last one comes. What the kernel takes by TCX is waiting, and differs much from
//! one time to the next; CPU is the time of all CPUs together, without what the kernel does later.

mod kernel;
mod memory;

use std::ops::Range;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use cilmark::kernel::hooks::HookKind;
use cilmark::kernel::{log, sys};
use cilmark::model::enforcement::Mode;
use cilmark::state::pin::Root;
use kernel::{Kernel, Took};

use crate::endpoints::{self, Wanted, attach_by_binary, cilmark};
use crate::figures::{self, Figure};
use crate::samples::{Cost, Samples, cost_of};
use crate::world::private_root;

const SIZES: [u32; 3] = [1, 100, 1000];
const ROUNDS: usize = 8;
/// A round takes four devices that nobody has used.
const DEVICES: u32 = 2 * (1000 + 3 * 4 * ROUNDS as u32);
/// No further round of a size begins after this.
const LONGEST_ROUNDS: Duration = Duration::from_secs(4);

/// Measures, prints, and gives the figures.
pub fn measure() -> Result<Vec<Figure>> {
    log::forward_libbpf();
    let root = private_root()?;
    endpoints::make_devices(DEVICES)?;
    // Or the shared maps would come and go with the first endpoint.
    cilmark(["identity", "set", "1234", "web"])?;
    let mut bench = Bench { root, devices: 0..DEVICES, samples: Samples::default() };
    if sys::has_tcx() {
        bench.measure(HookKind::Tcx)?;
    }
    bench.measure(HookKind::Clsact)?;
    let figures = bench.samples.figures();
    figures::print(&figures)?;
    Ok(figures)
}

/// With TCX the kernel waits some 20 ms for each endpoint that comes, and for each that goes. On a
/// machine that is busy with other things a fill ends here, and the size says how far it came.
fn longest_fill(kind: HookKind) -> Duration {
    Duration::from_secs(match kind {
        HookKind::Tcx => 30,
        HookKind::Clsact => 10,
    })
}

struct Bench {
    root: Root,
    /// Those that nobody has used.
    devices: Range<u32>,
    samples: Samples,
}

impl Bench {
    fn measure(&mut self, kind: HookKind) -> Result<()> {
        let kernel = Kernel::load(&self.root, kind)?;
        let mut there = 0;
        for size in SIZES {
            there += self.fill(kind, size - 1 - there, there)?;
            eprintln!("{kind}: one more than {there} endpoints");
            let start = Instant::now();
            for _ in 0..ROUNDS {
                if start.elapsed() < LONGEST_ROUNDS {
                    self.round(&kernel, kind, there + 1)?;
                }
            }
            for _ in 0..3 {
                let cost = cost_of(|| cilmark(["status"]))?.0;
                self.samples.add("status", &kind.to_string(), there.into(), "ms", cost.ms);
            }
        }
        eprintln!("{kind}: detach --all of {there} endpoints");
        let cost = cost_of(|| cilmark(["detach", "--all"]))?.0;
        let each = cost.ms / f64::from(there);
        self.samples.add("detach --all, each", &kind.to_string(), there.into(), "ms", each);
        ensure!(self.root.endpoints()?.is_empty(), "endpoints are left");
        Ok(())
    }

    /// Attaches so many in this process, beside those that are there; how many it were in the end.
    fn fill(&mut self, kind: HookKind, wanted: u32, there: u32) -> Result<u32> {
        eprintln!("{kind}: {wanted} endpoints more than {there}");
        let start = Instant::now();
        let mut costs = Vec::new();
        while costs.len() < wanted as usize && start.elapsed() < longest_fill(kind) {
            let endpoint = self.next(kind, Mode::Off);
            costs.push(cost_of(|| endpoints::attach_here(&self.root, &endpoint))?.0);
        }
        let more = costs.len() as u32;
        let subject = format!("{kind}, off, one process, all till then");
        for cost in costs {
            self.add("attach", "attach, CPU", &subject, there + more, cost);
        }
        Ok(more)
    }

    fn next(&mut self, kind: HookKind, mode: Mode) -> Wanted {
        let device = self.devices.next().expect("enough devices are made");
        Wanted { device, kind, mode }
    }

    /// One endpoint comes, changes and goes: through the kernel alone, here, and through the binary.
    fn round(&mut self, kernel: &Kernel, kind: HookKind, size: u32) -> Result<()> {
        let alone = self.next(kind, Mode::Off);
        let mut kernels = vec![kernel.round(&alone)?];
        let mut ours = Vec::new();
        for mode in [Mode::Off, Mode::Enforce] {
            let endpoint = self.next(kind, mode);
            ours.push((format!("{kind}, {mode}, one process"), self.here(&endpoint, size)?));
        }
        let endpoint = self.next(kind, Mode::Off);
        ours.push((format!("{kind}, off, one by one"), by_binary(&endpoint)?));
        kernels.push(kernel.round(&alone)?);

        let floor = (kernels[0].attach.ms + kernels[1].attach.ms) / 2.0;
        for (subject, took) in ours {
            let own = took.attach.ms - floor;
            self.samples.add("attach, own share", &subject, size.into(), "ms", own);
            self.add_all(&subject, size, took);
        }
        for took in kernels {
            self.add_all(&format!("{kind}, kernel alone"), size, took);
        }
        Ok(())
    }

    fn here(&mut self, endpoint: &Wanted, size: u32) -> Result<Took> {
        let root = &self.root;
        let (attach, (id, loaded)) = cost_of(|| endpoints::attach_here(root, endpoint))?;
        let (replace, _) = cost_of(|| endpoints::replace_here(root, endpoint))?;
        let subject = format!("{}, {}", endpoint.kind, endpoint.mode);
        // How many others are there makes no difference to these.
        if size == 1 {
            let load = (loaded.open_time + loaded.load_time).as_secs_f64() * 1e3;
            self.samples.add("attach, of it load", &subject, 1, "ms", load);
            for (measure, what, kib) in memory::of_endpoint(root, id)? {
                self.samples.add(measure, &format!("{subject}, {what}"), 1, "KiB", kib);
            }
        }
        let (detach, ()) = cost_of(|| endpoints::detach_here(root, id))?;
        Ok(Took { attach, replace, detach })
    }

    fn add_all(&mut self, subject: &str, size: u32, took: Took) {
        self.add("attach", "attach, CPU", subject, size, took.attach);
        self.add("replace", "replace, CPU", subject, size, took.replace);
        self.add("detach", "detach, CPU", subject, size, took.detach);
    }

    fn add(&mut self, wall: &'static str, cpu: &'static str, subject: &str, size: u32, cost: Cost) {
        self.samples.add(wall, subject, size.into(), "ms", cost.ms);
        self.samples.add(cpu, subject, size.into(), "ms", cost.cpu_ms);
    }
}

fn by_binary(endpoint: &Wanted) -> Result<Took> {
    let (attach, ()) = cost_of(|| attach_by_binary(endpoint, &[]))?;
    let (replace, ()) = cost_of(|| attach_by_binary(endpoint, &[]))?;
    let (detach, ()) = cost_of(|| cilmark(["detach", &endpoint.device_name()]))?;
    Ok(Took { attach, replace, detach })
}
