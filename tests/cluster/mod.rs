//! Hosts that share identities and addresses through a real etcd.

mod certificates;
mod checker;
mod client;
mod documents;
mod edge;
mod faults;
mod fixtures;
mod history;
mod host;
mod lab;
mod sharing;
mod store;

use std::time::{Duration, Instant};

use crate::common::world::wait_for;

/// Waits for something, so long at most; then fails with what it says that it lacks.
fn within(time: Duration, what: &str, condition: impl Fn() -> Result<(), String>) {
    let deadline = Instant::now() + time;
    wait_for(what, || match condition() {
        Ok(()) => true,
        Err(lack) => {
            assert!(Instant::now() < deadline, "after {time:?} still: {lack}");
            false
        }
    });
}
