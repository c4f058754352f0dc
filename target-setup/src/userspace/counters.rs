//! What a target counts. What commands count is written by one thread alone, on cache lines of its own.

use crate::driver::{CommandKind, ErrorClass, ErrorTotals, FaultTotals, IoTotals};
use nvferry_io::tally::{Counter, Latencies};
use nvferry_wire::Status;
use std::sync::atomic::{AtomicU64, Ordering};

/// What went through one queue, or through one namespace on one reactor.
#[derive(Debug, Default)]
#[repr(align(128))]
pub(crate) struct IoCounters {
    pub(crate) reads: Counter,
    pub(crate) writes: Counter,
    pub(crate) flushes: Counter,
    pub(crate) read_bytes: Counter,
    pub(crate) written_bytes: Counter,
    errors: [[Counter; ErrorClass::ALL.len()]; CommandKind::ALL.len()],
}

impl IoCounters {
    /// A command ended with this status, which is none of success.
    pub(crate) fn failed(&self, kind: CommandKind, status: Status) {
        self.errors[kind as usize][ErrorClass::of(status) as usize].add(1);
    }

    pub(crate) fn totals(&self) -> IoTotals {
        let errors = self.errors.each_ref().map(|classes| classes.each_ref().map(Counter::get));
        IoTotals {
            reads: self.reads.get(),
            writes: self.writes.get(),
            flushes: self.flushes.get(),
            read_bytes: self.read_bytes.get(),
            written_bytes: self.written_bytes.get(),
            errors: ErrorTotals(errors),
        }
    }
}

/// One namespace on one reactor.
#[derive(Debug, Default)]
#[repr(align(128))]
pub(crate) struct LaneCounters {
    pub(crate) io: IoCounters,
    /// From the turn that took a command to the turn that ended it: reads, writes, flushes.
    pub(crate) latencies: [Latencies; 3],
    /// Commands under way or waiting.
    pub(crate) in_flight: Counter,
    /// Commands that wait for a buffer or for the engine.
    pub(crate) waiting: Counter,
}

/// Rare things, counted by any thread.
#[derive(Debug, Default)]
pub(crate) struct FaultCounters {
    pub(crate) accepted_connections: AtomicU64,
    pub(crate) created_controllers: AtomicU64,
    pub(crate) refused_connections: AtomicU64,
    pub(crate) refused_hosts: AtomicU64,
    pub(crate) protocol_errors: AtomicU64,
    pub(crate) digest_errors: AtomicU64,
    pub(crate) timeouts: AtomicU64,
}

impl FaultCounters {
    pub(crate) fn totals(&self) -> FaultTotals {
        FaultTotals {
            accepted_connections: self.accepted_connections.load(Ordering::Relaxed),
            created_controllers: self.created_controllers.load(Ordering::Relaxed),
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
