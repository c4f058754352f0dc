//! One thread's lane: its memory, its batches, and the loop that keeps its requests outstanding.
//!
//! A lane submits new requests as old ones end, so that `queue_depth` of them stay outstanding all the time. Requests
//! go into an engine batch until that is full, then into a second one while the first one's last requests end.

use crate::blocks::{BenchFile, Block};
use crate::cli::Direction;
use crate::pattern::DataPattern;
use crate::signals::StopSignal;
use crate::totals::Totals;
use crate::workload::Workload;
use anyhow::{Context, Result};
use nvferry_engine::{Batch, Deadline, Memory, Operation, Request, SegmentId, TransferEngine, TransferState};
use nvferry_io::RegisteredMemory;
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// What a poisoned block is filled with before a verified read: bytes that a read must replace.
const POISON: u8 = 0x5a;

/// What all lanes of a run share.
pub(crate) struct Shared<'r> {
    /// The engine that moves the bytes.
    pub(crate) engine: &'r TransferEngine,
    /// The segment that they move from or to.
    pub(crate) segment: SegmentId,
    /// Its files.
    pub(crate) files: &'r [BenchFile],
    /// What to do.
    pub(crate) workload: &'r Workload,
    /// Tells whether a person wants the run to end.
    pub(crate) signal: &'r StopSignal,
    /// Set when a request has failed: no lane submits anything more then.
    pub(crate) stop: AtomicBool,
}

impl Shared<'_> {
    fn is_stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed) || self.signal.is_set()
    }
}

/// What others see of a lane while it runs: requests that have ended well. Clones count the same.
#[derive(Clone)]
pub(crate) struct Live {
    requests: Arc<AtomicU64>,
    /// By file, where somebody watches them; else empty.
    by_file: Arc<[AtomicU64]>,
}

impl Live {
    /// Counts each of so many files, too; 0 counts only the sum.
    pub(crate) fn new(watched_files: usize) -> Self {
        let by_file = (0..watched_files).map(|_| AtomicU64::new(0)).collect();
        Self { requests: Arc::default(), by_file }
    }

    /// So many more.
    fn add(&self, requests: u64) {
        self.requests.fetch_add(requests, Ordering::Relaxed);
    }

    /// One more of this file, for those who watch files.
    fn add_to_file(&self, file: usize) {
        if let Some(count) = self.by_file.get(file) {
            count.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// How many since the run began.
    pub(crate) fn requests(&self) -> u64 {
        self.requests.load(Ordering::Relaxed)
    }

    /// How many of this file since the run began; 0 where files are not watched.
    pub(crate) fn requests_of_file(&self, file: usize) -> u64 {
        self.by_file.get(file).map_or(0, |count| count.load(Ordering::Relaxed))
    }
}

/// When a phase ends.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Span {
    /// After the last block.
    Blocks,
    /// After a time. What ends before `from` does not count.
    Time {
        /// When measuring begins.
        from: Instant,
        /// How long it takes.
        duration: Duration,
    },
}

/// What a phase does with each block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Task {
    /// Reads it and looks at nothing.
    Read,
    /// Reads it and compares it with the pattern.
    ReadAndCheck,
    /// Writes what the memory happens to hold.
    Write,
    /// Writes the pattern.
    WritePattern,
}

impl Task {
    /// The timed phase's.
    pub(crate) fn timed(workload: &Workload) -> Self {
        match (workload.direction, workload.verify) {
            (Direction::Read, false) => Self::Read,
            (Direction::Read, true) => Self::ReadAndCheck,
            (Direction::Write, false) => Self::Write,
            (Direction::Write, true) => Self::WritePattern,
        }
    }

    fn operation(self) -> Operation {
        match self {
            Self::Read | Self::ReadAndCheck => Operation::Read,
            Self::Write | Self::WritePattern => Operation::Write,
        }
    }
}

/// What came of one submit.
enum Submitted {
    /// As many blocks as one call may hold, or as there were slots for.
    All,
    /// Nothing: both batches are full, and the older one has not drained.
    NoRoom,
    /// There are no more blocks, or the submit failed.
    NoMore,
}

/// A request that is outstanding.
struct Flight {
    /// Its number in its batch.
    request: usize,
    /// The memory that it uses.
    slot: usize,
    block: Block,
    submitted: Instant,
}

/// An engine batch and its outstanding requests, oldest first.
struct Filling {
    batch: Batch,
    flights: VecDeque<Flight>,
    /// Requests that have ended and were taken out of `flights`.
    collected: usize,
}

/// One thread's memory and batches.
pub(crate) struct Lane {
    slots: Vec<Memory>,
    free: Vec<usize>,
    /// Empty, or still draining; never submitted to.
    older: Filling,
    /// Where requests go in.
    newer: Filling,
    /// How many requests to wait for at a time.
    lot: usize,
}

impl Lane {
    /// Registers the lane's memory, with data in it, and makes its batches.
    pub(crate) fn new(shared: &Shared<'_>) -> Result<Self> {
        let workload = shared.workload;
        let depth = workload.queue_depth as usize;
        let mut slots = Vec::with_capacity(depth);
        for slot in 0..depth {
            let mut memory = RegisteredMemory::allocate(workload.block_len());
            let data = DataPattern::new(workload.seed, shared.files[0].id);
            data.fill(slot as u64 * workload.block_bytes, memory.bytes().context("cannot fill fresh memory")?);
            slots.push(shared.engine.register_memory(memory).context("cannot register memory")?);
        }
        let capacity = (workload.batch_size as usize).max(4 * depth);
        let filling = || -> Result<Filling> {
            let batch = shared.engine.batch(capacity).context("cannot make a batch")?;
            let batch = batch.with_request_timeout(workload.timeout);
            Ok(Filling { batch, flights: VecDeque::with_capacity(depth), collected: 0 })
        };
        Ok(Self { slots, free: (0..depth).collect(), older: filling()?, newer: filling()?, lot: (depth / 4).max(1) })
    }

    /// Runs one phase: moves `blocks` until the span ends, then waits for what is outstanding.
    pub(crate) fn run(
        &mut self,
        shared: &Shared<'_>,
        task: Task,
        blocks: &mut dyn Iterator<Item = Block>,
        span: Span,
        live: &Live,
        written: &mut dyn FnMut(Block),
    ) -> Totals {
        let workload = shared.workload;
        let mut totals = Totals::new(shared.files.len(), workload.latency);
        // What ends during the warm-up does not count, except where it fails or is compared.
        let mut counting_since = matches!(span, Span::Blocks).then(Instant::now);
        let mut submitting = true;
        loop {
            let now = Instant::now();
            let was_submitting = submitting;
            submitting &= !shared.is_stopped();
            if let Span::Time { from, duration } = span
                && submitting
                && now >= from
            {
                submitting = now - *counting_since.get_or_insert(now) < duration;
            }
            // Blocks can only run out in a phase that moves each once.
            submitting = submitting && self.fill_up(shared, task, blocks, now, &mut totals);
            if was_submitting && !submitting && matches!(span, Span::Time { .. }) {
                // What was outstanding at the end is waited for and does not count either.
                totals.took = counting_since.take().map_or(Duration::ZERO, |since| now - since);
            }
            let done = self.outstanding() == 0;
            if !done {
                self.collect(shared, task, counting_since.is_some(), live, &mut totals, written);
            }
            if totals.failed > 0 {
                shared.stop.store(true, Ordering::Relaxed);
            }
            if done {
                break;
            }
        }
        if let Some(since) = counting_since {
            totals.took = since.elapsed();
        }
        totals
    }

    fn outstanding(&self) -> usize {
        self.older.flights.len() + self.newer.flights.len()
    }

    /// Submits until no slot is free, in calls of at most a batch size. False when there are no more blocks, or one
    /// could not be submitted.
    fn fill_up(
        &mut self,
        shared: &Shared<'_>,
        task: Task,
        blocks: &mut dyn Iterator<Item = Block>,
        now: Instant,
        totals: &mut Totals,
    ) -> bool {
        while !self.free.is_empty() {
            match self.submit(shared, task, blocks, now, totals) {
                Submitted::All => {}
                Submitted::NoRoom => return true,
                Submitted::NoMore => return false,
            }
        }
        true
    }

    /// Submits once.
    fn submit(
        &mut self,
        shared: &Shared<'_>,
        task: Task,
        blocks: &mut dyn Iterator<Item = Block>,
        now: Instant,
        totals: &mut Totals,
    ) -> Submitted {
        if self.newer.batch.submitted() == self.newer.batch.capacity() {
            if self.older.flights.is_empty() {
                if let Err(error) = self.older.start_again() {
                    totals.fail(|| error.to_string());
                    return Submitted::NoMore;
                }
                std::mem::swap(&mut self.older, &mut self.newer);
            } else {
                // Both are full: go on when the older one has drained.
                return Submitted::NoRoom;
            }
        }
        let room = self.newer.batch.capacity() - self.newer.batch.submitted();
        let count = self.free.len().min(room).min(shared.workload.batch_size as usize);
        let mut chosen = Vec::with_capacity(count);
        while chosen.len() < count {
            let Some(block) = blocks.next() else { break };
            // `count` is at most the number of free slots.
            let Some(slot) = self.free.pop() else { break };
            chosen.push((slot, block));
        }
        let more = chosen.len() == count;
        for (slot, block) in &chosen {
            if let Err(error) = self.prepare(shared, task, *slot, *block) {
                totals.fail(|| format!("{error:#}"));
                return Submitted::NoMore;
            }
        }
        let request = |&(slot, block): &(usize, Block)| {
            let memory = &self.slots[slot];
            let (file, offset) = (shared.files[block.file].id, block.number * shared.workload.block_bytes);
            match task.operation() {
                Operation::Read => Request::read(memory, 0..memory.len(), shared.segment, file, offset),
                Operation::Write => Request::write(memory, 0..memory.len(), shared.segment, file, offset),
            }
        };
        let requests: Vec<_> = chosen.iter().map(request).collect();
        match self.newer.batch.submit(&requests) {
            Ok(numbers) => {
                let flights = numbers.zip(chosen);
                let flights = flights.map(|(request, (slot, block))| Flight { request, slot, block, submitted: now });
                self.newer.flights.extend(flights);
                if more { Submitted::All } else { Submitted::NoMore }
            }
            Err(error) => {
                self.free.extend(chosen.iter().map(|(slot, _)| *slot));
                totals.fail(|| error.to_string());
                Submitted::NoMore
            }
        }
    }

    /// Brings a slot's memory into the state that the task needs before it is submitted.
    fn prepare(&mut self, shared: &Shared<'_>, task: Task, slot: usize, block: Block) -> Result<()> {
        if matches!(task, Task::Read | Task::Write) {
            return Ok(());
        }
        let bytes = self.slots[slot].bytes().context("the memory of a request that has ended is still in use")?;
        if task == Task::WritePattern {
            let pattern = DataPattern::new(shared.workload.seed, shared.files[block.file].id);
            pattern.fill(block.number * shared.workload.block_bytes, bytes);
        } else {
            bytes.fill(POISON);
        }
        Ok(())
    }

    /// Waits until some requests have ended, and takes them in.
    fn collect(
        &mut self,
        shared: &Shared<'_>,
        task: Task,
        counting: bool,
        live: &Live,
        totals: &mut Totals,
        written: &mut dyn FnMut(Block),
    ) {
        let filling = if self.older.flights.is_empty() { &mut self.newer } else { &mut self.older };
        let lot = self.lot.min(filling.flights.len());
        // Requests end by their own deadlines: this wait needs none but as a net under that promise.
        let net = Deadline::after(shared.workload.timeout * 2);
        let ended = match filling.batch.wait_any(filling.collected + lot - 1, net) {
            Ok(ended) => ended,
            Err(error) => {
                totals.fail(|| format!("requests did not end by their deadline: {error}"));
                filling.batch.cancel();
                filling.batch.ended()
            }
        };
        let now = Instant::now();
        let (mut left, mut good) = (ended - filling.collected, 0);
        let mut index = 0;
        while left > 0 && index < filling.flights.len() {
            let request = filling.flights[index].request;
            let status = match filling.batch.status(request) {
                Ok(status) if !status.state.is_terminal() => {
                    index += 1;
                    continue;
                }
                status => status,
            };
            let Some(flight) = filling.flights.remove(index) else { break };
            (left, filling.collected) = (left - 1, filling.collected + 1);
            self.free.push(flight.slot);
            match status {
                Ok(status) if status.state == TransferState::Completed => {}
                Ok(status) => {
                    totals.fail(|| match status.error {
                        Some(error) => error.to_string(),
                        None => format!("request ended as {:?}", status.state),
                    });
                    continue;
                }
                Err(error) => {
                    totals.fail(|| error.to_string());
                    continue;
                }
            }
            good += 1;
            let (file, block_bytes) = (flight.block.file, shared.workload.block_bytes);
            live.add_to_file(file);
            if task == Task::ReadAndCheck {
                match self.slots[flight.slot].bytes() {
                    Ok(bytes) => {
                        let pattern = DataPattern::new(shared.workload.seed, shared.files[file].id);
                        totals.compare(file, pattern.check(flight.block.number * block_bytes, bytes));
                    }
                    Err(error) => totals.fail(|| error.to_string()),
                }
            }
            if task == Task::WritePattern {
                written(flight.block);
            }
            if counting {
                totals.requests += 1;
                totals.file_bytes[file] += block_bytes;
                totals.record(now - flight.submitted);
            }
        }
        live.add(good);
    }
}

impl Filling {
    /// Makes room for new requests; all have ended.
    fn start_again(&mut self) -> Result<()> {
        self.batch.reset().context("cannot use a batch again")?;
        self.collected = 0;
        Ok(())
    }
}
