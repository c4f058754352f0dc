//! Looking for completions for a short while before going to sleep, as long as that pays.

use std::time::Duration;

/// Times that spinning may be in vain before it is given up for a while.
const MAX_FAILURES: u32 = 8;
/// Sleeps without spinning before it is tried again.
const REST: u32 = 64;

/// Decides how long to look again before a sleep; knows its own rate of success.
#[derive(Debug)]
pub struct AdaptiveSpin {
    limit: Duration,
    failures: u32,
    rest: u32,
}

impl AdaptiveSpin {
    /// Spins for `limit` at most; not at all if that is zero.
    #[must_use]
    pub fn new(limit: Duration) -> Self {
        Self { limit, failures: 0, rest: 0 }
    }

    /// How long to spin now.
    pub fn budget(&mut self) -> Duration {
        if self.rest > 0 {
            self.rest -= 1;
            return Duration::ZERO;
        }
        self.limit
    }

    /// Something came while spinning, or nothing did.
    pub fn ended(&mut self, found: bool) {
        if found {
            self.failures = 0;
        } else {
            self.failures += 1;
            if self.failures >= MAX_FAILURES {
                (self.failures, self.rest) = (0, REST);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_stops_where_it_does_not_pay_and_tries_again_later() {
        let mut spin = AdaptiveSpin::new(Duration::from_micros(20));
        let mut spins = 0;
        for _ in 0..10 * REST {
            if !spin.budget().is_zero() {
                spins += 1;
                spin.ended(false);
            }
        }
        assert!((MAX_FAILURES..=10 * MAX_FAILURES).contains(&spins), "{spins}");
        while spin.budget().is_zero() {}
        for _ in 0..1000 {
            assert!(!spin.budget().is_zero(), "it pays");
            spin.ended(true);
        }
    }

    #[test]
    fn no_limit_means_no_spinning() {
        assert_eq!(AdaptiveSpin::new(Duration::ZERO).budget(), Duration::ZERO);
    }
}
