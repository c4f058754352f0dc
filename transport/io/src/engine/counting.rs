//! Counting what passes through an engine.

use super::{IoCompletion, IoEngine, IoKind, IoRequest};
use crate::file::IoFile;
use std::io;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// What has passed through an engine since it was made.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct IoCounts {
    /// Reads that ended well.
    pub reads: u64,
    /// Writes that ended well.
    pub writes: u64,
    /// Everything else that ended well: flushes, zeroing, giving space back.
    pub others: u64,
    /// Operations of any kind that ended with an error.
    pub errors: u64,
    /// Bytes read.
    pub read_bytes: u64,
    /// Bytes written.
    pub written_bytes: u64,
    /// Operations that were refused because the engine was full.
    pub refused: u64,
    /// Operations under way now.
    pub in_flight: u64,
    /// The most operations that were ever under way at once.
    pub peak_in_flight: u64,
}

/// The counts of an engine, to be read from any thread.
#[derive(Debug, Clone, Default)]
pub struct IoCounters {
    counters: Arc<Counters>,
}

/// Written by the engine's thread alone, so that relaxed loads and stores do.
#[derive(Debug, Default)]
struct Counters {
    reads: AtomicU64,
    writes: AtomicU64,
    others: AtomicU64,
    errors: AtomicU64,
    read_bytes: AtomicU64,
    written_bytes: AtomicU64,
    refused: AtomicU64,
    in_flight: AtomicU64,
    peak_in_flight: AtomicU64,
}

/// Adds without a locked instruction: there is one writer.
fn add(counter: &AtomicU64, n: u64) {
    counter.store(counter.load(Ordering::Relaxed).wrapping_add(n), Ordering::Relaxed);
}

impl IoCounters {
    /// The counts now. Each is right; together they may be of slightly different moments.
    #[must_use]
    pub fn snapshot(&self) -> IoCounts {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let c = &*self.counters;
        IoCounts {
            reads: get(&c.reads),
            writes: get(&c.writes),
            others: get(&c.others),
            errors: get(&c.errors),
            read_bytes: get(&c.read_bytes),
            written_bytes: get(&c.written_bytes),
            refused: get(&c.refused),
            in_flight: get(&c.in_flight),
            peak_in_flight: get(&c.peak_in_flight),
        }
    }
}

/// An engine that counts what passes through.
#[derive(Debug)]
pub struct Counting<E> {
    inner: E,
    counters: IoCounters,
    /// What kind each operation under way is, by the token that the inner engine knows it by.
    under_way: super::slots::Slots<(u64, IoKind)>,
    scratch: Vec<IoCompletion>,
}

impl<E: IoEngine> Counting<E> {
    /// Counts what passes through `inner`.
    #[must_use]
    pub fn new(inner: E) -> Self {
        let capacity = u32::try_from(inner.capacity()).unwrap_or(u32::MAX);
        Self {
            inner,
            counters: IoCounters::default(),
            under_way: super::slots::Slots::new(capacity),
            scratch: Vec::new(),
        }
    }

    /// Where the counts can be read, also from other threads.
    #[must_use]
    pub fn counters(&self) -> IoCounters {
        self.counters.clone()
    }

    fn count(&self, kind: IoKind, result: &io::Result<usize>) {
        let c = &*self.counters.counters;
        match (kind, result) {
            (_, Err(_)) => add(&c.errors, 1),
            (IoKind::Read, Ok(bytes)) => {
                add(&c.reads, 1);
                add(&c.read_bytes, *bytes as u64);
            }
            (IoKind::Write, Ok(bytes)) => {
                add(&c.writes, 1);
                add(&c.written_bytes, *bytes as u64);
            }
            (IoKind::SyncData | IoKind::WriteZeroes { .. } | IoKind::Deallocate { .. }, Ok(_)) => add(&c.others, 1),
        }
    }

    fn note_depth(&self) {
        let c = &*self.counters.counters;
        let depth = self.inner.in_flight() as u64;
        c.in_flight.store(depth, Ordering::Relaxed);
        if depth > c.peak_in_flight.load(Ordering::Relaxed) {
            c.peak_in_flight.store(depth, Ordering::Relaxed);
        }
    }
}

impl<E: IoEngine> IoEngine for Counting<E> {
    fn name(&self) -> &'static str {
        self.inner.name()
    }

    fn capacity(&self) -> usize {
        self.inner.capacity()
    }

    fn in_flight(&self) -> usize {
        self.inner.in_flight()
    }

    fn submit(&mut self, request: IoRequest) -> Result<(), IoRequest> {
        let token = request.token;
        let Ok(index) = self.under_way.insert((token, request.kind)) else {
            add(&self.counters.counters.refused, 1);
            return Err(request);
        };
        let submitted = self.inner.submit(IoRequest { token: u64::from(index), ..request });
        submitted.map_err(|request| {
            self.under_way.remove(index);
            add(&self.counters.counters.refused, 1);
            IoRequest { token, ..request }
        })?;
        self.note_depth();
        Ok(())
    }

    fn write_now(&mut self, file: &IoFile, offset: u64, bytes: &[u8]) -> Option<io::Result<usize>> {
        let result = self.inner.write_now(file, offset, bytes)?;
        self.count(IoKind::Write, &result);
        Some(result)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }

    fn reap(&mut self, done: &mut Vec<IoCompletion>) {
        let mut ended = std::mem::take(&mut self.scratch);
        self.inner.reap(&mut ended);
        for completion in ended.drain(..) {
            if let Some((token, kind)) = self.under_way.remove(completion.token as u32) {
                self.count(kind, &completion.result);
                done.push(IoCompletion { token, ..completion });
            }
        }
        self.scratch = ended;
        self.note_depth();
    }

    fn wake_fd(&self) -> BorrowedFd<'_> {
        self.inner.wake_fd()
    }

    fn wait(&mut self, timeout: Option<Duration>) -> io::Result<()> {
        self.inner.wait(timeout)
    }
}
