//! What threads count while they run, and the sum of it.

use crate::pattern::Mismatch;
use hdrhistogram::Histogram;
use std::time::Duration;

/// Latencies are kept to this many significant digits.
const LATENCY_DIGITS: u8 = 3;
/// The longest latency that is kept as it is; longer ones count as this.
const LONGEST: Duration = Duration::from_secs(3600);

/// What one thread, or all of them, moved in one phase.
#[derive(Debug, Clone)]
pub(crate) struct Totals {
    /// Requests that ended well.
    pub(crate) requests: u64,
    /// Their bytes, by file.
    pub(crate) file_bytes: Vec<u64>,
    /// Their latencies in nanoseconds, where recorded.
    pub(crate) latency_ns: Option<Histogram<u64>>,
    /// Requests that did not end well.
    pub(crate) failed: u64,
    /// The first of those: what was attempted, on what, why not.
    pub(crate) first_failure: Option<String>,
    /// Blocks that were compared with the pattern.
    pub(crate) verified: u64,
    /// Blocks that were not what they must be.
    pub(crate) mismatched: u64,
    /// The first of those, and its file's index.
    pub(crate) first_mismatch: Option<(usize, Mismatch)>,
    /// How long the phase was for this thread; of several threads the longest.
    pub(crate) took: Duration,
}

impl Totals {
    /// Nothing yet, over so many files.
    pub(crate) fn new(files: usize, latency: bool) -> Self {
        Self {
            requests: 0,
            file_bytes: vec![0; files],
            // Fails only for bounds that are not in order, or more than 5 digits.
            latency_ns: latency.then(|| Histogram::new_with_bounds(1, as_ns(LONGEST), LATENCY_DIGITS).ok()).flatten(),
            failed: 0,
            first_failure: None,
            verified: 0,
            mismatched: 0,
            first_mismatch: None,
            took: Duration::ZERO,
        }
    }

    /// Adds another thread's.
    pub(crate) fn add(&mut self, other: &Self) {
        self.requests += other.requests;
        for (sum, bytes) in self.file_bytes.iter_mut().zip(&other.file_bytes) {
            *sum += bytes;
        }
        if let (Some(sum), Some(other)) = (&mut self.latency_ns, &other.latency_ns) {
            // Both have the same bounds: adding cannot fail.
            let _ = sum.add(other);
        }
        self.failed += other.failed;
        self.verified += other.verified;
        self.mismatched += other.mismatched;
        self.first_failure = self.first_failure.take().or_else(|| other.first_failure.clone());
        self.first_mismatch = self.first_mismatch.take().or_else(|| other.first_mismatch.clone());
        self.took = self.took.max(other.took);
    }

    /// Bytes of all files.
    pub(crate) fn bytes(&self) -> u64 {
        self.file_bytes.iter().sum()
    }

    /// A request took so long.
    pub(crate) fn record(&mut self, latency: Duration) {
        if let Some(recorded) = &mut self.latency_ns {
            recorded.saturating_record(as_ns(latency));
        }
    }

    /// A request failed.
    pub(crate) fn fail(&mut self, why: impl FnOnce() -> String) {
        self.failed += 1;
        if self.first_failure.is_none() {
            self.first_failure = Some(why());
        }
    }

    /// A block was compared.
    pub(crate) fn compare(&mut self, file: usize, result: Result<(), Mismatch>) {
        self.verified += 1;
        if let Err(mismatch) = result {
            self.mismatched += 1;
            self.first_mismatch.get_or_insert((file, mismatch));
        }
    }
}

fn as_ns(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_keep_the_first_failure_and_mismatch_and_the_longest_time() {
        let mut sum = Totals::new(2, true);
        let mut one = Totals::new(2, true);
        one.requests = 3;
        one.file_bytes = vec![10, 20];
        one.record(Duration::from_micros(100));
        one.took = Duration::from_secs(2);
        let mut two = one.clone();
        two.took = Duration::from_secs(1);
        two.fail(|| "first".into());
        two.fail(|| "second".into());
        let mismatch = Mismatch { offset: 8, expected: vec![1], got: vec![2] };
        two.compare(1, Err(mismatch.clone()));
        two.compare(1, Ok(()));
        sum.add(&one);
        sum.add(&two);
        assert_eq!((sum.requests, sum.bytes(), sum.failed, sum.verified, sum.mismatched), (6, 60, 2, 2, 1));
        assert_eq!(sum.first_failure.as_deref(), Some("first"));
        assert_eq!(sum.first_mismatch, Some((1, mismatch)));
        let latencies = sum.latency_ns.unwrap();
        assert_eq!((latencies.len(), latencies.min() / 1000, latencies.max() / 1000), (2, 99, 100));
        assert_eq!(sum.took, Duration::from_secs(2));
    }
}
