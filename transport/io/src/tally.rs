//! Figures that cost nothing to keep: each is written by one thread alone, and read by any.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// A number that one thread changes and others read.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds, by the one thread that writes this counter.
    #[inline]
    pub fn add(&self, n: u64) {
        // One writer: a load and a store lose nothing, and need no locked instruction.
        self.set(self.get().wrapping_add(n));
    }

    /// Subtracts, likewise.
    #[inline]
    pub fn sub(&self, n: u64) {
        self.set(self.get().wrapping_sub(n));
    }

    /// Sets, likewise.
    #[inline]
    pub fn set(&self, n: u64) {
        self.0.store(n, Ordering::Relaxed);
    }

    /// The number now.
    #[must_use]
    #[inline]
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// The bound of the first class of [`Latencies`], in microseconds, as a power of two.
const FIRST_BOUND_BITS: u32 = 3;
/// Classes with a bound; beyond them is one without.
const BOUNDS: usize = 22;

/// How long things took, in classes: up to 8 µs, up to 16 µs, and so on up to 16.8 s, and longer. One thread notes,
/// others read.
#[derive(Debug, Default)]
pub struct Latencies {
    counts: [Counter; BOUNDS + 1],
    sum_us: Counter,
}

/// What [`Latencies`] held.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LatencyTotals {
    counts: [u64; BOUNDS + 1],
    /// All of them together, in microseconds.
    pub sum_us: u64,
}

impl Latencies {
    /// Notes one, by the one thread that writes these.
    #[inline]
    pub fn note(&self, us: u64) {
        let bits = u64::BITS - us.saturating_sub(1).leading_zeros();
        let class = (bits.saturating_sub(FIRST_BOUND_BITS) as usize).min(BOUNDS);
        self.counts[class].add(1);
        self.sum_us.add(us);
    }

    /// What was noted so far.
    #[must_use]
    pub fn totals(&self) -> LatencyTotals {
        LatencyTotals { counts: std::array::from_fn(|i| self.counts[i].get()), sum_us: self.sum_us.get() }
    }
}

impl LatencyTotals {
    /// How many there were.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// Each class: its bound, which belongs to it (none for the last), and how many were in it.
    pub fn classes(&self) -> impl Iterator<Item = (Option<Duration>, u64)> + '_ {
        let bound =
            |class: usize| (class < BOUNDS).then(|| Duration::from_micros(1 << (class as u32 + FIRST_BOUND_BITS)));
        self.counts.iter().enumerate().map(move |(class, &count)| (bound(class), count))
    }
}

impl std::ops::AddAssign for LatencyTotals {
    fn add_assign(&mut self, other: Self) {
        for (count, more) in self.counts.iter_mut().zip(other.counts) {
            *count += more;
        }
        self.sum_us += other.sum_us;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_latency_is_in_the_first_class_whose_bound_it_does_not_exceed() {
        for us in (0..100).chain([1 << 20, (1 << 20) + 1, 1 << 24, (1 << 24) + 1, u64::MAX / 2]) {
            let latencies = Latencies::default();
            latencies.note(us);
            let totals = latencies.totals();
            assert_eq!((totals.count(), totals.sum_us), (1, us));
            let expected = totals.classes().position(|(bound, _)| bound.is_none_or(|it| it.as_micros() >= us.into()));
            assert_eq!(totals.classes().position(|(_, count)| count == 1), expected, "{us} µs");
        }
        let bounds: Vec<_> = LatencyTotals::default().classes().filter_map(|(bound, _)| bound).collect();
        assert_eq!((bounds[0], bounds[21]), (Duration::from_micros(8), Duration::from_micros(16_777_216)));
    }

    #[test]
    fn totals_add_up_class_by_class() {
        let (a, b) = (Latencies::default(), Latencies::default());
        a.note(5);
        b.note(6);
        b.note(1000);
        let mut sum = a.totals();
        sum += b.totals();
        assert_eq!((sum.count(), sum.sum_us), (3, 1011));
        assert_eq!(sum.classes().next(), Some((Some(Duration::from_micros(8)), 2)));
    }
}
