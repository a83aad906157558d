//! Times, as people read them.

use std::time::Duration;

/// `42 s`; rounded up, so that nothing is left only when nothing is.
pub fn text(time: Duration) -> String {
    format!("{} s", seconds(time))
}

/// Whole seconds, rounded up.
pub fn seconds(time: Duration) -> u64 {
    time.as_millis().div_ceil(1000) as u64
}
