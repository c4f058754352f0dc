//! Many seeds, on as many threads as there are processors.

use crate::run::{Outcome, run};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

/// Seeds to run.
#[derive(Debug, Clone, Copy)]
pub struct Campaign {
    /// The first one.
    pub from: u64,
    /// How many.
    pub seeds: u64,
    /// Threads; `None` for as many as there are processors.
    pub jobs: Option<usize>,
    /// It ends early after so many failures.
    pub max_failures: u64,
}

/// What became of them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Sum {
    /// Seeds that were run.
    pub seeds: u64,
    /// Those that failed.
    pub failures: u64,
    /// Events that happened.
    pub events: u64,
    /// Requests that ended, by state's number.
    pub ended: [u64; 7],
}

impl Campaign {
    /// Runs them. `failed` is told of each failure at once.
    ///
    /// # Errors
    /// When the machine that simulates fails.
    pub fn run(&self, failed: impl Fn(&Outcome) + Sync) -> anyhow::Result<Sum> {
        let jobs = self.jobs.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from)).max(1);
        let (next, sum) = (AtomicU64::new(0), Mutex::new(Sum::default()));
        let work = || -> anyhow::Result<()> {
            loop {
                let at = next.fetch_add(1, Ordering::Relaxed);
                if at >= self.seeds {
                    return Ok(());
                }
                let outcome = run(self.from + at)?;
                // Each change is whole before anything that could panic.
                let mut sum = sum.lock().unwrap_or_else(PoisonError::into_inner);
                sum.seeds += 1;
                sum.events += outcome.events;
                sum.ended.iter_mut().zip(outcome.ended).for_each(|(sum, count)| *sum += count);
                if outcome.failure.is_some() {
                    sum.failures += 1;
                    failed(&outcome);
                    if sum.failures >= self.max_failures {
                        next.store(self.seeds, Ordering::Relaxed);
                    }
                }
            }
        };
        std::thread::scope(|scope| {
            let threads: Vec<_> = (0..jobs).map(|_| scope.spawn(work)).collect();
            threads.into_iter().try_for_each(|thread| match thread.join() {
                Ok(result) => result,
                Err(panic) => std::panic::resume_unwind(panic),
            })
        })?;
        Ok(sum.into_inner().unwrap_or_else(PoisonError::into_inner))
    }
}
