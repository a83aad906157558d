//! How many events were lost that nobody has reported.
//!
//! An endpoint counts them on each CPU until an event of its gets through there, which carries the count.
//! That one may come late or never, so the counts are looked at as well, and what was reported from there is
//! not reported again when the event comes.

use std::collections::HashMap;

use anyhow::Result;

use crate::kernel::abi::cm_event;
use crate::state::counters;
use crate::state::events::monotonic_ns;
use crate::state::pin::Root;
use crate::state::registry::Found;

/// What was reported, by endpoint.
#[derive(Default)]
pub struct Losses {
    reported: HashMap<u32, Reported>,
    /// Of all endpoints, when they were looked at last.
    of_all: Option<u64>,
}

/// What no event has carried yet.
#[derive(Default, Clone, Copy)]
struct Reported {
    count: u64,
    /// CLOCK_MONOTONIC.
    at_ns: u64,
}

impl Losses {
    /// Those that this event carries, without those that were reported.
    pub fn before(&mut self, event: &cm_event) -> u64 {
        let lost = u64::from(event.lost);
        match self.reported.get_mut(&event.endpoint_id) {
            Some(reported) if reported.at_ns <= event.time_ns => {
                let new = lost.saturating_sub(reported.count);
                reported.count = reported.count.saturating_sub(lost);
                new
            }
            // It has taken its count with it before the counts were looked at.
            _ => lost,
        }
    }

    /// Those that no event has carried, by endpoint. All events that there were have been read.
    pub fn at_rest(&mut self, root: &Root) -> Result<Vec<(u32, u64)>> {
        let of_all = Some(counters::lost_events(root)?);
        let mut new = Vec::new();
        if of_all != self.of_all {
            self.of_all = of_all;
            for endpoint in Found::all(root)?.endpoints {
                let (id, at_ns) = (endpoint.id.get().into(), monotonic_ns());
                new.extend(self.look(id, endpoint.lost_events()?, at_ns).map(|lost| (id, lost)));
            }
        }
        Ok(new)
    }

    fn look(&mut self, id: u32, count: u64, at_ns: u64) -> Option<u64> {
        let reported = self.reported.insert(id, Reported { count, at_ns }).unwrap_or_default();
        count.checked_sub(reported.count).filter(|new| *new > 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_told_is_not_told_again_and_nothing_is_left_out() {
        let mut losses = Losses::default();
        let event =
            |lost, time_ns| cm_event { endpoint_id: 7, lost, time_ns, ..Default::default() };
        assert_eq!(losses.before(&event(5, 1)), 5);
        assert_eq!(losses.look(7, 100, 10), Some(100));
        assert_eq!(losses.look(7, 100, 20), None);
        assert_eq!(losses.look(7, 130, 30), Some(30));
        assert_eq!(losses.before(&event(3, 29)), 3, "lost before the others");
        assert_eq!(losses.before(&event(80, 31)), 0);
        assert_eq!(losses.before(&event(75, 32)), 25, "on another CPU");
        assert_eq!(losses.before(&event(1, 33)), 1);
        assert_eq!(losses.look(7, 2, 40), Some(2));
    }
}
