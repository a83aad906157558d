//! Floods of first packets, and of whole handshakes of a workload with a partner of its own, beside answered
//! flows. The tests' scene, in full: two million packets, conntrack as large as it is by default.

use std::thread;

use anyhow::{Context, Result, anyhow, ensure};
use cilmark::output;

use crate::common::Fixture;
use crate::common::flood::{Scene, Toll};
use crate::figures::Figure;

const PACKETS: usize = 2_000_000;
/// Of each kind, in each direction, of each endpoint and family: one in seven that conntrack has room for.
const OF_EACH: u16 = 512;
/// What conntrack has room for, of each family.
const DEFAULT_ENTRIES: u64 = 1 << 16;

/// Measures, and gives the figures; fails if an answered flow has ended.
pub fn measure() -> Result<Vec<Figure>> {
    // The scene takes its thread into namespaces of its own.
    let floods = thread::spawn(|| -> Result<[Toll; 2]> {
        let fixture = Fixture::new().context("a flood takes root")?;
        output::note("a flood of first packets");
        let first_packets = Scene::new(&fixture, None, OF_EACH).first_packets(PACKETS);
        drop(fixture);
        let fixture = Fixture::new().context("a flood takes root")?;
        output::note("a flood of handshakes");
        Ok([first_packets, Scene::new(&fixture, None, OF_EACH).handshakes(PACKETS)])
    });
    let tolls = floods.join().map_err(|_| anyhow!("a flood has panicked"))??;
    let mut all = Vec::new();
    for (of, toll) in ["first packets", "handshakes"].into_iter().zip(&tolls) {
        let count = |measure, unit, count: usize| {
            Figure::of(measure, of, DEFAULT_ENTRIES, unit, &[count as f64])
        };
        all.extend([
            count("flood", "packets", toll.packets),
            count("flood, answered flows", "flows", toll.answered),
            count("flood, answered flows ended", "flows", toll.ended),
            count("flood, failsafe connections", "connections", toll.connections),
            count("flood, failsafe connections refused", "connections", toll.refused),
        ]);
    }
    Ok(all)
}

/// What must not be.
pub fn judge(figures: &[Figure]) -> Result<()> {
    let of = |measure: &str, subject: &str| {
        let found = figures.iter().find(|one| one.measure == measure && one.subject == subject);
        found.map_or(0.0, |one| one.median)
    };
    for subject in ["first packets", "handshakes"] {
        let ended = of("flood, answered flows ended", subject);
        ensure!(ended == 0.0, "a flood of {subject} has ended {ended} answered flows");
    }
    let refused = of("flood, failsafe connections refused", "first packets");
    ensure!(refused == 0.0, "{refused} connections through failsafe ports were lost in a flood");
    Ok(())
}
