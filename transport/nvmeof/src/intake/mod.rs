//! Where slices come in to a device: bounds, cutting, alignment, turns and deadlines, the same for every host driver.
//!
//! In go slices of any alignment. Out come [`Job`]s, each of which is one operation of the device, when the driver has a
//! slot for one. What the driver does with a job, and what memory it uses for it, is its own business; when a slice
//! cannot be moved in time, or not at all, it ends here.
//!
//! - [`split`]: cutting into what one operation moves.
//! - [`edges`]: read, merge, write, for partly covered blocks.
//! - [`lanes`]: what waits for each file, and fair shares of the slots.

pub(crate) mod edges;
pub(crate) mod lanes;
pub(crate) mod split;

use crate::host::namespaces::{HostNamespace, NamespaceTable};
use crate::status::{CommandLatencies, Counters};
use edges::{BlockPlace, EdgeStep, EdgeWrites};
use lanes::{Job, LaneId, LaneState, Lanes};
use nvferry_engine::{Failure, Operation, Slice};
use split::{CutRules, cut};
use std::fmt::Display;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A job that is tried again later.
#[derive(Debug)]
struct Delayed {
    at: Instant,
    lane: LaneId,
    job: Job,
}

/// The slices of one device that are not under way.
#[derive(Debug)]
pub(crate) struct Intake {
    pub(crate) lanes: Lanes,
    pub(crate) edges: EdgeWrites,
    pub(crate) counters: Counters,
    /// How long the device's operations and slices took.
    pub(crate) latencies: Arc<CommandLatencies>,
    /// The first time that was told.
    first: Option<Instant>,
    table: Arc<NamespaceTable>,
    /// The longest operation, once it is known.
    max_transfer_bytes: u32,
    delayed: Vec<Delayed>,
    /// No slice's deadline and no delayed job is before this.
    check_at: Option<Instant>,
}

impl Intake {
    pub(crate) fn new(table: Arc<NamespaceTable>) -> Self {
        Self {
            lanes: Lanes::default(),
            edges: EdgeWrites::default(),
            counters: Counters::default(),
            latencies: Arc::default(),
            first: None,
            table,
            max_transfer_bytes: u32::MAX,
            delayed: Vec::new(),
            check_at: None,
        }
    }

    /// No operation may be longer from now on. What was cut before is cut again when its turn comes.
    pub(crate) fn set_max_transfer(&mut self, bytes: u32) {
        self.max_transfer_bytes = bytes;
    }

    /// What one operation on this file moves.
    pub(crate) fn rules(&self, namespace: &HostNamespace) -> CutRules {
        CutRules {
            block_bytes: namespace.block_bytes(),
            max_bytes: namespace.max_command_bytes(self.max_transfer_bytes),
        }
    }

    /// Takes a slice. It ends by itself, by its deadline at the latest.
    pub(crate) fn submit(&mut self, slice: Slice) {
        let Some(lane) = self.lanes.find(slice.file, &self.table) else {
            return self.fail(slice, "the target does not offer this file");
        };
        let state = self.lanes.get(lane).state;
        let (LaneState::Present(namespace) | LaneState::Awaited(namespace)) = state else {
            return self.fail(slice, state.why_gone().unwrap_or_default());
        };
        let end = slice.offset.checked_add(slice.len() as u64);
        if end.is_none_or(|end| end > namespace.capacity_bytes()) {
            let capacity = namespace.capacity_bytes();
            return self.fail(slice, format_args!("it reaches beyond the {capacity} bytes that the target offers"));
        }
        if slice.is_empty() {
            return slice.complete();
        }
        self.check_by(slice.deadline);
        let rules = self.rules(&namespace);
        if rules.fits(&slice) {
            self.enqueue(lane, slice, rules);
        } else {
            // It came uncut, or the target has other limits than when it was cut.
            let mut parts = Vec::new();
            cut(slice, rules, |part| parts.push(part));
            parts.into_iter().for_each(|part| self.enqueue(lane, part, rules));
        }
    }

    /// Lets a slice that one operation, or the change of one block, can move wait for its turn.
    fn enqueue(&mut self, lane: LaneId, slice: Slice, rules: CutRules) {
        if slice.op == Operation::Read || rules.is_whole(slice.offset, slice.len()) {
            self.lanes.push_back(lane, Job::Slice(slice, 0));
        } else {
            let place = BlockPlace::around(lane.0, slice.offset, rules.block_bytes);
            let step = self.edges.add(place, slice);
            self.edge_step(lane, step);
        }
    }

    /// The next job that may have one of `free` slots, with its file. What cannot be done any more ends instead.
    pub(crate) fn next_job(&mut self, free: usize, now: Instant) -> Option<(LaneId, HostNamespace, Job)> {
        while let Some((lane, job)) = self.lanes.next(free) {
            let state = self.lanes.get(lane).state;
            let LaneState::Present(namespace) = state else {
                // What is awaited takes no slot.
                let why = state.why_gone().unwrap_or_default();
                self.fail_job(lane, job, || Failure::failed(why.as_str()));
                continue;
            };
            match job {
                Job::Slice(slice, _) if slice.deadline <= now => {
                    self.time_out(slice, "the deadline passed before its turn came")
                }
                Job::Slice(slice, attempts) => {
                    let rules = self.rules(&namespace);
                    let is_one = slice.op == Operation::Read || rules.is_whole(slice.offset, slice.len());
                    if rules.fits(&slice) && is_one {
                        return Some((lane, namespace, Job::Slice(slice, attempts)));
                    }
                    // The target has other limits than when it was cut.
                    self.submit(slice);
                }
                Job::EdgeRead(edge, _) | Job::EdgeWrite(edge, _) if !self.edges.is_wanted(edge) => {
                    // All its slices have timed out, and nothing of it is under way.
                    let step = self.edges.failed(edge, |_| Failure::failed("it had ended before"));
                    self.edge_step(lane, step);
                }
                Job::EdgeRead(edge, _) | Job::EdgeWrite(edge, _)
                    if self.edges.place(edge).len != namespace.block_bytes() =>
                {
                    let why = "the file was replaced by one with another block size";
                    self.fail_job(lane, job, || Failure::failed(why));
                }
                // It had been read over a connection that was lost before the write was sent.
                Job::EdgeWrite(edge, attempts) if self.edges.is_to_be_read(edge) => {
                    return Some((lane, namespace, Job::EdgeRead(edge, attempts)));
                }
                Job::EdgeRead(..) | Job::EdgeWrite(..) => return Some((lane, namespace, job)),
            }
        }
        None
    }

    /// Queues what an edge needs next.
    pub(crate) fn edge_step(&mut self, lane: LaneId, step: EdgeStep) {
        match step {
            EdgeStep::Read(edge) => self.lanes.push_back(lane, Job::EdgeRead(edge, 0)),
            // A half-done change goes first: others wait for its block.
            EdgeStep::Write(edge) => self.lanes.push_front(lane, Job::EdgeWrite(edge, 0)),
            EdgeStep::Done => {}
        }
    }

    /// The files have changed.
    pub(crate) fn set_namespaces(&mut self, table: Arc<NamespaceTable>) {
        self.lanes.update(&table);
        self.table = table;
        for id in self.lanes.ids() {
            if let Some(why) = self.lanes.get(id).state.why_gone() {
                for job in self.lanes.drain(id) {
                    self.fail_job(id, job, || Failure::failed(why.as_str()));
                }
            }
        }
    }

    /// Jobs that wait, now or for later.
    pub(crate) fn waiting(&self) -> usize {
        self.lanes.waiting() + self.delayed.len()
    }

    /// Whether no slice is here.
    pub(crate) fn is_empty(&self) -> bool {
        self.waiting() == 0 && self.edges.is_empty()
    }

    /// A job is to be tried again.
    pub(crate) fn try_again(&mut self, lane: LaneId, job: Job, delay: Duration, now: Instant) {
        self.counters.retries += 1;
        if delay.is_zero() {
            self.lanes.push_front(lane, job);
        } else {
            self.check_by(now + delay);
            self.delayed.push(Delayed { at: now + delay, lane, job });
        }
    }

    /// The time in microseconds from a first one. It comes round after an hour, which is longer than operations take.
    pub(crate) fn micros(&mut self, now: Instant) -> u32 {
        now.saturating_duration_since(*self.first.get_or_insert(now)).as_micros() as u32
    }

    /// An operation that moves a slice, begun then, has ended.
    pub(crate) fn note_took(&mut self, op: Operation, begun_us: u32, now: Instant) {
        let took_us = self.micros(now).wrapping_sub(begun_us);
        self.latencies.operations[op as usize].note(took_us.into());
    }

    /// A slice was moved.
    pub(crate) fn complete(&mut self, slice: Slice, now: Instant) {
        note_slice(&self.latencies, &slice, now);
        let bytes = slice.len() as u64;
        match slice.op {
            Operation::Read => {
                self.counters.reads += 1;
                self.counters.read_bytes += bytes;
            }
            Operation::Write => {
                self.counters.writes += 1;
                self.counters.written_bytes += bytes;
            }
        }
        slice.complete();
    }

    /// A slice cannot be moved.
    pub(crate) fn fail(&mut self, slice: Slice, why: impl Display) {
        self.fail_with(slice, Failure::failed(why.to_string()));
    }

    /// A slice cannot be moved.
    pub(crate) fn fail_with(&mut self, slice: Slice, failure: Failure) {
        self.counters.failures += 1;
        slice.fail(failure);
    }

    /// A slice's deadline has passed, and nothing touches its memory any more.
    pub(crate) fn time_out(&mut self, slice: Slice, why: impl Display) {
        self.counters.timeouts += 1;
        slice.fail(Failure::timed_out(why.to_string()));
    }

    /// Ends the slices of a job.
    pub(crate) fn fail_job(&mut self, lane: LaneId, job: Job, why: impl Fn() -> Failure) {
        match job {
            Job::Slice(slice, _) => self.fail_with(slice, why()),
            Job::EdgeRead(edge, _) | Job::EdgeWrite(edge, _) => {
                let failures = &mut self.counters.failures;
                let step = self.edges.failed(edge, |_| {
                    *failures += 1;
                    why()
                });
                self.edge_step(lane, step);
            }
        }
    }

    /// The block of an edge was written: its slices are.
    pub(crate) fn edge_written(&mut self, lane: LaneId, edge: edges::EdgeId, now: Instant) {
        let (counters, latencies) = (&mut self.counters, &self.latencies);
        let step = self.edges.written(edge, |slice| {
            note_slice(latencies, slice, now);
            counters.writes += 1;
            counters.written_bytes += slice.len() as u64;
        });
        self.edge_step(lane, step);
    }

    /// When [`Self::expire`] is to be called next; nothing while nothing waits.
    pub(crate) fn next_check(&self) -> Option<Instant> {
        self.check_at
    }

    /// Something is to be looked at by then.
    pub(crate) fn check_by(&mut self, at: Instant) {
        self.check_at = Some(self.check_at.map_or(at, |before| before.min(at)));
    }

    /// If the time has come to look at deadlines: ends what waits too long and queues what is due. Tells whether it
    /// was time; the driver then looks at what is under way, and says [`Self::check_by`] for the rest of that.
    pub(crate) fn expire(&mut self, now: Instant, why: impl FnOnce() -> String) -> bool {
        if self.check_at.is_none_or(|at| at > now) {
            return false;
        }
        self.check_at = None;
        let why = why();
        self.resume_delayed(now, &why);
        let mut next: Option<Instant> = None;
        let mut is_over = |slice: &Slice| {
            if slice.deadline > now {
                next = Some(next.map_or(slice.deadline, |next| next.min(slice.deadline)));
            }
            slice.deadline <= now
        };
        let over = self.lanes.take_slices(&mut is_over);
        next.into_iter().for_each(|next| self.check_by(next));
        over.into_iter().for_each(|slice| self.time_out(slice, &why));
        // Merged bytes are copies: slices of edges can end at any time. Their blocks stay locked.
        let timeouts = &mut self.counters.timeouts;
        self.edges.give_up(|slice| {
            (slice.deadline <= now).then(|| {
                *timeouts += 1;
                Failure::timed_out(why.as_str())
            })
        });
        self.edges.next_deadline().into_iter().for_each(|next| self.check_by(next));
        true
    }

    fn resume_delayed(&mut self, now: Instant, why: &str) {
        let mut i = 0;
        while i < self.delayed.len() {
            let delayed = &self.delayed[i];
            let deadline = match &delayed.job {
                Job::Slice(slice, _) => Some(slice.deadline),
                Job::EdgeRead(..) | Job::EdgeWrite(..) => None,
            };
            let over = deadline.is_some_and(|deadline| deadline <= now);
            if !over && delayed.at > now {
                let next = deadline.map_or(delayed.at, |deadline| deadline.min(delayed.at));
                self.check_by(next);
                i += 1;
                continue;
            }
            let Delayed { lane, job, .. } = self.delayed.swap_remove(i);
            match job {
                Job::Slice(slice, _) if over => self.time_out(slice, why),
                job => self.lanes.push_front(lane, job),
            }
        }
    }

    /// Takes all slices that are here, as they came.
    pub(crate) fn evict(&mut self) -> Vec<Slice> {
        let mut slices = self.lanes.take_slices(|_| true);
        for Delayed { lane, job, .. } in std::mem::take(&mut self.delayed) {
            match job {
                Job::Slice(slice, _) => slices.push(slice),
                job => self.lanes.push_front(lane, job),
            }
        }
        self.edges.evict(&mut slices);
        slices
    }

    /// Ends all slices that are here.
    pub(crate) fn close(&mut self, why: impl Fn() -> Failure) {
        for slice in self.evict() {
            self.fail_with(slice, why());
        }
    }
}

/// A slice has been moved, by now.
fn note_slice(latencies: &CommandLatencies, slice: &Slice, now: Instant) {
    if let Some(begun) = slice.begun {
        latencies.slices[slice.op as usize].note(now.saturating_duration_since(begun).as_micros() as u64);
    }
}
