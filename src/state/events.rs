//! Reading `cm_events`.

use std::cell::RefCell;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use libbpf_rs::{MapCore, MapHandle, MapType, RingBufferBuilder};
use nix::errno::Errno;
use nix::time::{ClockId, clock_gettime};

use crate::kernel::abi::{self, cm_event};
use crate::state::pin::{Lock, Root};
use crate::state::registry::Found;

/// How far ahead tracing is switched on. A reader that dies leaves it on no longer than this.
const TRACE_AHEAD: Duration = Duration::from_secs(3);
const POLL: Duration = Duration::from_millis(500);

/// What a reader hears.
pub enum Heard<'a> {
    /// An event.
    Event(&'a cm_event),
    /// That all have been read that there were, twice a second and at the end.
    Silence,
}

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
        ensure!(map.map_type() == MapType::RingBuf, "{} is no ring buffer", path.display());
        Ok(Events { root, map, lock })
    }

    /// Hands over what there is until `handle` or `go_on` says stop, or fails once the map is gone. With
    /// `trace`, what passes is reported too, for as long as this runs.
    pub fn read(
        &self,
        trace: bool,
        handle: impl FnMut(Heard<'_>) -> Result<bool>,
        go_on: impl Fn() -> bool,
    ) -> Result<()> {
        let handle = RefCell::new(handle);
        let outcome = RefCell::new(Ok(true));
        let hear = |heard: Result<Heard<'_>>| {
            let handled = heard.and_then(|heard| handle.borrow_mut()(heard));
            let goes_on = matches!(handled, Ok(true));
            *outcome.borrow_mut() = handled;
            goes_on
        };
        {
            let mut builder = RingBufferBuilder::new();
            builder.add(&self.map, |bytes| {
                let event = abi::from_bytes(bytes);
                let goes_on =
                    hear(event.as_ref().map(Heard::Event).map_err(|it| anyhow!("{it:#}")));
                if goes_on { 0 } else { -(Errno::ECANCELED as i32) }
            })?;
            let ring = builder.build().context("read cm_events")?;
            let mut silence = Instant::now();
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
                if silence.elapsed() >= POLL {
                    silence = Instant::now();
                    if !hear(Ok(Heard::Silence)) {
                        break;
                    }
                }
            }
        }
        if matches!(*outcome.borrow(), Ok(true)) {
            hear(Ok(Heard::Silence));
        }
        if trace {
            self.trace_for(Duration::ZERO);
        }
        outcome.into_inner().map(|_| ())
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
