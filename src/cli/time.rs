//! Times, as people read them.

use std::time::Duration;

/// `42 s`; rounded up, so that nothing is left only when nothing is.
pub fn text(time: Duration) -> String {
    format!("{} s", seconds(time))
}

/// Whole seconds, rounded up.
pub fn seconds(time: Duration) -> u64 {
    time.as_nanos().div_ceil(1_000_000_000) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_left_only_when_nothing_is() {
        for (nanoseconds, expected) in
            [(0, 0), (1, 1), (999_999, 1), (1_000_000_000, 1), (1_000_000_001, 2)]
        {
            assert_eq!(seconds(Duration::from_nanos(nanoseconds)), expected, "{nanoseconds}");
        }
    }
}
