//! Spans of time, as people write them.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use jiff::SignedDuration;

use super::serial::as_text;

/// At most a week; a number without a unit is seconds: `30`, `60s`, `5m`, `1h30m`, `0`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Time(Duration);

impl Time {
    const MOST: Duration = Duration::from_secs(7 * 86_400);

    /// `None` for more than a week.
    pub fn new(time: Duration) -> Option<Time> {
        (time <= Time::MOST).then_some(Time(time))
    }

    /// The time.
    pub fn get(self) -> Duration {
        self.0
    }
}

impl FromStr for Time {
    type Err = String;

    fn from_str(text: &str) -> Result<Time, String> {
        let seconds = text.parse().map(Duration::from_secs).ok();
        let parsed =
            seconds.or_else(|| Duration::try_from(text.parse::<SignedDuration>().ok()?).ok());
        let within_reason = parsed.and_then(Time::new);
        within_reason.ok_or_else(|| format!("`{text}` is no time up to a week; write 60s or 5m"))
    }
}

impl fmt::Display for Time {
    /// In the largest unit that leaves no fraction.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let nanoseconds = self.0.as_nanos();
        let units = [("m", 60_000_000_000), ("s", 1_000_000_000), ("ms", 1_000_000), ("us", 1000)];
        let fits = |(_, size): &&(&str, u128)| nanoseconds.is_multiple_of(*size);
        match units.iter().find(fits) {
            _ if nanoseconds == 0 => f.write_str("0s"),
            Some((unit, size)) => write!(f, "{}{unit}", nanoseconds / size),
            None => write!(f, "{nanoseconds}ns"),
        }
    }
}

as_text!(Time);

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn times_have_units_or_are_seconds() {
        for (text, seconds) in [
            ("0", 0.0),
            ("30", 30.0),
            ("60s", 60.0),
            ("5m", 300.0),
            ("300ms", 0.3),
            ("168h", 604_800.0),
        ] {
            let time = text.parse().map(|time: Time| time.get().as_secs_f64());
            assert_eq!(time, Ok(seconds), "{text}");
        }
        for text in ["", "x", "-5s", "169h", "5 parsecs", "18446744073709551615"] {
            assert!(text.parse::<Time>().is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn every_time_reads_back(nanoseconds in 0..604_800_000_000_000_u64, coarse in 0..10_u32) {
            let unit = 10_u64.pow(coarse);
            let time = Time::new(Duration::from_nanos(nanoseconds / unit * unit)).unwrap();
            prop_assert_eq!(time.to_string().parse(), Ok(time));
        }
    }
}
