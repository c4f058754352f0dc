//! A point in time by which something must have ended.

use nvferry_io::clock;
use std::time::{Duration, Instant};

/// By when a call returns, or a request ends. Every wait in the engine has one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Deadline(Instant);

/// What stands for "no limit": far enough for every wait, and near enough for every clock and count of nanoseconds.
const A_YEAR: Duration = Duration::from_secs(365 * 24 * 3600);

impl Deadline {
    /// This long from now, and at most a year.
    #[must_use]
    pub fn after(duration: Duration) -> Self {
        Self(clock::now() + duration.min(A_YEAR))
    }

    /// At this instant.
    #[must_use]
    pub fn at(instant: Instant) -> Self {
        Self(instant)
    }

    /// The instant.
    #[must_use]
    pub fn instant(self) -> Instant {
        self.0
    }

    /// How long is left; zero when it has passed.
    #[must_use]
    pub fn remaining(self) -> Duration {
        self.0.saturating_duration_since(clock::now())
    }

    /// Halfway from now: for the first of two steps, so that the second has time, too.
    #[must_use]
    pub(crate) fn halfway(self) -> Self {
        Self::after(self.remaining() / 2)
    }

    /// Whether it has passed.
    #[must_use]
    pub fn has_passed(self) -> bool {
        self.remaining().is_zero()
    }
}

impl From<Instant> for Deadline {
    fn from(instant: Instant) -> Self {
        Self(instant)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_duration_is_a_deadline_too() {
        for longest in [Duration::MAX, Duration::from_millis(u64::MAX)] {
            let deadline = Deadline::after(longest);
            assert!(!deadline.has_passed());
            assert!(deadline.remaining() > Duration::from_secs(3600) && deadline.remaining() <= A_YEAR);
        }
    }

    #[test]
    fn a_past_instant_has_passed() {
        let deadline = Deadline::at(Instant::now());
        assert!(deadline.has_passed());
        assert_eq!(deadline.remaining(), Duration::ZERO);
    }
}
