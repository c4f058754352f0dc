//! Counters that cost nothing to keep: each is written by one thread alone, on a cache line of its own, and read by any.

use crate::driver::IoTotals;
use std::sync::atomic::{AtomicU64, Ordering};

/// A number that one thread counts up and others read.
#[derive(Debug, Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    /// Adds, by the one thread that writes this counter.
    pub(crate) fn add(&self, n: u64) {
        // One writer: a load and a store lose nothing, and need no locked instruction.
        self.0.store(self.0.load(Ordering::Relaxed).wrapping_add(n), Ordering::Relaxed);
    }

    /// Subtracts, likewise.
    pub(crate) fn sub(&self, n: u64) {
        self.0.store(self.0.load(Ordering::Relaxed).wrapping_sub(n), Ordering::Relaxed);
    }

    pub(crate) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// What went through one queue, or through one namespace on one reactor.
#[derive(Debug, Default)]
#[repr(align(128))]
pub(crate) struct IoCounters {
    pub(crate) reads: Counter,
    pub(crate) writes: Counter,
    pub(crate) flushes: Counter,
    pub(crate) read_bytes: Counter,
    pub(crate) written_bytes: Counter,
    pub(crate) errors: Counter,
    /// Commands under way or waiting.
    pub(crate) in_flight: Counter,
}

impl IoCounters {
    pub(crate) fn totals(&self) -> IoTotals {
        IoTotals {
            reads: self.reads.get(),
            writes: self.writes.get(),
            flushes: self.flushes.get(),
            read_bytes: self.read_bytes.get(),
            written_bytes: self.written_bytes.get(),
            errors: self.errors.get(),
        }
    }
}

/// Rare things, counted by any thread.
#[derive(Debug, Default)]
pub(crate) struct FaultCounters {
    pub(crate) refused_connections: AtomicU64,
    pub(crate) refused_hosts: AtomicU64,
    pub(crate) protocol_errors: AtomicU64,
    pub(crate) digest_errors: AtomicU64,
    pub(crate) timeouts: AtomicU64,
}

impl FaultCounters {
    pub(crate) fn totals(&self) -> crate::driver::FaultTotals {
        crate::driver::FaultTotals {
            refused_connections: self.refused_connections.load(Ordering::Relaxed),
            refused_hosts: self.refused_hosts.load(Ordering::Relaxed),
            protocol_errors: self.protocol_errors.load(Ordering::Relaxed),
            digest_errors: self.digest_errors.load(Ordering::Relaxed),
            timeouts: self.timeouts.load(Ordering::Relaxed),
        }
    }
}

/// Counts one more, by any thread.
pub(crate) fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}
