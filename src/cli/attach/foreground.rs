//! `--foreground`: events until Ctrl-C, and then a detachment.

use anyhow::{Context as _, Result};

use crate::cli::{Context, monitor};
use crate::model::endpoint::EndpointId;
use crate::ops::attach::Report;
use crate::ops::detach;
use crate::output;
use crate::state::events::Events;
use crate::state::pin::Lock;
use crate::state::registry::Endpoint;

/// What it goes on with.
pub struct Attached {
    device: String,
    id: EndpointId,
    ifindex: u32,
    netns: u64,
    /// Keeps other readers of events out.
    events: Option<Lock>,
}

impl Attached {
    /// By what was reported.
    pub fn of(report: &Report, events: Option<Lock>) -> Attached {
        let resolved = &report.plan.resolved;
        Attached {
            device: resolved.device.name.clone(),
            id: resolved.id,
            ifindex: resolved.device.ifindex,
            netns: resolved.netns,
            events,
        }
    }

    /// Shows events, and detaches when it is told to end.
    pub fn stream(mut self, context: &Context, go_on: impl Fn() -> bool) -> Result<()> {
        let Some(events) = self.events.take() else { return Ok(()) };
        let streamed = Events::open(&context.root, events).and_then(|events| {
            let mut printer = monitor::Printer::new(context)?;
            events.read(false, |heard| printer.hear(heard, |_| true).map(|()| true), go_on)
        });
        let detached = self.detach(context).with_context(|| format!("detach {}", self.device))?;
        let by = if detached { "" } else { " by another command" };
        output::note(&format!("detached {}{by}", self.device));
        streamed
    }

    /// Whether it was still there. Another device may have got the number since.
    fn detach(&self, context: &Context) -> Result<bool> {
        let Some(_lock) = context.root.lock()? else { return Ok(false) };
        let endpoint = Endpoint::read(&context.root, self.id)?;
        if (endpoint.config.netns, endpoint.config.ifindex) != (self.netns, self.ifindex) {
            return Ok(false);
        }
        detach::detach(&context.root, &endpoint)?;
        detach::remove_unused_root(&context.root)?;
        Ok(true)
    }
}
