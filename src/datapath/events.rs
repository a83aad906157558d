//! Reading `cm_events`.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use libbpf_rs::{MapHandle, RingBufferBuilder};
use nix::errno::Errno;
use nix::time::{ClockId, clock_gettime};

use super::abi::{self, cm_event};
use super::pin::{Lock, Root};
use super::registry::Found;

/// How far ahead tracing is switched on. A reader that dies leaves it on no longer than this.
const TRACE_AHEAD: Duration = Duration::from_secs(3);
const POLL: Duration = Duration::from_millis(500);

/// The one reader of a root's events.
pub struct Events<'root> {
    root: &'root Root,
    map: MapHandle,
    lock: Lock,
}

impl<'root> Events<'root> {
    /// The lock is that of [`Root::lock_events`].
    pub fn open(root: &'root Root, lock: Lock) -> Result<Events<'root>> {
        let path = root.map("cm_events");
        let map = MapHandle::from_pinned_path(&path)
            .with_context(|| format!("open {}", path.display()))?;
        Ok(Events { root, map, lock })
    }

    /// Hands over each event until `handle` or `go_on` says stop, or fails once the map is gone. With `trace`, what passes is
    /// reported too, for as long as this runs.
    pub fn read(
        &self,
        trace: bool,
        mut handle: impl FnMut(&cm_event) -> Result<bool>,
        go_on: impl Fn() -> bool,
    ) -> Result<()> {
        let mut outcome = Ok(true);
        {
            let mut builder = RingBufferBuilder::new();
            builder.add(&self.map, |bytes| {
                outcome = abi::from_bytes(bytes).and_then(|event| handle(&event));
                if matches!(outcome, Ok(true)) { 0 } else { -(Errno::ECANCELED as i32) }
            })?;
            let ring = builder.build().context("read cm_events")?;
            while go_on() {
                ensure!(
                    self.root.has_events_of(&self.lock),
                    "there are no more events: everything has been detached"
                );
                if trace {
                    self.trace_for(TRACE_AHEAD);
                }
                let result = ring.poll_raw(POLL);
                if result < 0 && result != -(Errno::EINTR as i32) {
                    break;
                }
            }
        }
        if trace {
            self.trace_for(Duration::ZERO);
        }
        outcome.map(|_| ())
    }

    /// Endpoints come and go while a reader runs, so each time all are asked anew.
    fn trace_for(&self, ahead: Duration) {
        let until = if ahead.is_zero() { 0 } else { monotonic_ns() + ahead.as_nanos() as u64 };
        let found = Found::all(self.root).map(|found| found.endpoints);
        for endpoint in found.unwrap_or_default() {
            if let Err(error) = endpoint.trace_until(until) {
                log::debug!("trace endpoint {}: {error:#}", endpoint.id);
            }
        }
    }
}

/// CLOCK_MONOTONIC, the clock of events.
pub fn monotonic_ns() -> u64 {
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC).expect("every Linux has CLOCK_MONOTONIC");
    now.tv_sec() as u64 * 1_000_000_000 + now.tv_nsec() as u64
}
