//! Ended commands become ended slices, or are tried again.

use super::super::connect;
use super::super::link::{DataFault, Ended, LinkError, Payload};
use super::lanes::{Job, LaneId, LaneState};
use super::{Delayed, Op, QueuePair, State, Step, retry};
use crate::edges::EdgeId;
use crate::host::{failed, sentence};
use nvferry_engine::{Failure, Operation, Slice};
use nvferry_io::PoolBuf;
use nvferry_wire::{Cqe, Status, StatusCode};
use std::time::{Duration, Instant};

/// Why a command did not do what it should.
#[derive(Debug, Clone, Copy)]
enum Trouble {
    /// The controller says so.
    Status(Status),
    /// It did, but the data did not arrive as it left.
    Data(DataFault),
}

impl QueuePair {
    /// Acts on all commands that have ended.
    pub(super) fn settle(&mut self, ended: &mut Vec<Ended<Op>>, now: Instant) -> Result<(), LinkError> {
        if let Some(link) = &mut self.link {
            link.take_ended(ended);
        }
        let mut result = Ok(());
        for Ended { context, payload, cqe, fault } in ended.drain(..) {
            let trouble = match (cqe.status.is_success(), fault) {
                (false, _) => Some(Trouble::Status(cqe.status)),
                (true, Some(fault)) => Some(Trouble::Data(fault)),
                (true, None) => None,
            };
            match context {
                Op::Connect => result = self.connect_answered(cqe),
                Op::Slice { lane, attempts } => {
                    self.lanes.get_mut(lane).in_flight -= 1;
                    // Without payload it had been given up.
                    if let Payload::Slice { slice, .. } = payload {
                        self.slice_ended(lane, attempts, slice, trouble, now);
                    }
                }
                Op::EdgeRead { lane, edge, attempts } => {
                    self.lanes.get_mut(lane).in_flight -= 1;
                    if let (Payload::Bounce { buf, .. }, None) = (payload, trouble) {
                        self.edge_was_read(lane, edge, buf);
                    } else if let Some(trouble) = trouble {
                        self.edge_trouble(lane, Job::EdgeRead(edge, attempts.saturating_add(1)), attempts, trouble, now);
                    }
                }
                Op::EdgeWrite { lane, edge, attempts } => {
                    self.lanes.get_mut(lane).in_flight -= 1;
                    match (payload, trouble) {
                        (_, None) => {
                            let step = self.edges.written(edge);
                            self.edge_step(lane, step);
                        }
                        (Payload::Bounce { buf, .. }, Some(trouble)) => {
                            self.edges.put_merged(edge, buf);
                            let job = Job::EdgeWrite(edge, attempts.saturating_add(1));
                            self.edge_trouble(lane, job, attempts, trouble, now);
                        }
                        (_, Some(trouble)) => {
                            let job = Job::EdgeWrite(edge, attempts.saturating_add(1));
                            self.edge_trouble(lane, job, attempts, trouble, now);
                        }
                    }
                }
            }
        }
        result
    }

    fn slice_ended(&mut self, lane: LaneId, attempts: u8, slice: Slice, trouble: Option<Trouble>, now: Instant) {
        let Some(trouble) = trouble else {
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
            return;
        };
        match self.retry_delay(lane, trouble, attempts) {
            Some(delay) if now + delay < slice.deadline => {
                self.try_again(lane, Job::Slice(slice, attempts.saturating_add(1)), delay, now);
            }
            _ => {
                self.counters.failures += 1;
                let failure = failure_of(&slice, &self.target, trouble);
                slice.fail(failure);
            }
        }
    }

    fn edge_was_read(&mut self, lane: LaneId, edge: EdgeId, buf: PoolBuf) {
        let (step, merged_bytes) = self.edges.read(edge, buf);
        self.counters.bounced_bytes += merged_bytes as u64;
        self.edge_step(lane, step);
    }

    /// Reading or writing a block that is changed in part has failed.
    fn edge_trouble(&mut self, lane: LaneId, job: Job, attempts: u8, trouble: Trouble, now: Instant) {
        match self.retry_delay(lane, trouble, attempts) {
            Some(delay) => self.try_again(lane, job, delay, now),
            None => self.fail_job(lane, job, |target, slice| failure_of(slice, target, trouble)),
        }
    }

    /// Whether, and after which wait, a command is sent again.
    fn retry_delay(&self, lane: LaneId, trouble: Trouble, attempts: u8) -> Option<Duration> {
        match trouble {
            Trouble::Data(_) => retry::after_damage(attempts),
            // The target restarted and does not offer the file yet: the job waits in its lane, however long.
            Trouble::Status(status)
                if status.code == StatusCode::InvalidNamespace
                    && matches!(self.lanes.get(lane).state, LaneState::Awaited(_)) =>
            {
                Some(Duration::ZERO)
            }
            Trouble::Status(status) => retry::after_status(status, attempts),
        }
    }

    fn try_again(&mut self, lane: LaneId, job: Job, delay: Duration, now: Instant) {
        self.counters.retries += 1;
        if delay.is_zero() {
            self.lanes.push_front(lane, job);
        } else {
            self.check_by(now + delay);
            self.delayed.push(Delayed { at: now + delay, lane, job });
        }
    }

    /// Its connection was lost: it is sent again on the next one. All commands are idempotent.
    pub(super) fn requeue(&mut self, op: Op, payload: Payload, now: Instant) {
        match op {
            Op::Connect => {}
            Op::Slice { lane, attempts } => {
                self.lanes.get_mut(lane).in_flight -= 1;
                let Payload::Slice { slice, .. } = payload else { return };
                if slice.deadline <= now {
                    self.time_out(slice);
                } else {
                    self.counters.retries += 1;
                    // The connection's end is not the command's fault: it keeps its tries.
                    self.lanes.push_front(lane, Job::Slice(slice, attempts));
                }
            }
            Op::EdgeRead { lane, edge, .. } | Op::EdgeWrite { lane, edge, .. } => {
                self.lanes.get_mut(lane).in_flight -= 1;
                self.counters.retries += 1;
                let step = self.edges.restart(edge);
                self.edge_step(lane, step);
            }
        }
    }

    /// Ends the slices of a job.
    pub(super) fn fail_job(&mut self, lane: LaneId, job: Job, mut why: impl FnMut(&str, &Slice) -> Failure) {
        let target = &self.target;
        match job {
            Job::Slice(slice, _) => {
                self.counters.failures += 1;
                let failure = why(target, &slice);
                slice.fail(failure);
            }
            Job::EdgeRead(edge, _) | Job::EdgeWrite(edge, _) => {
                let failures = &mut self.counters.failures;
                let step = self.edges.failed(edge, |slice| {
                    *failures += 1;
                    why(target, slice)
                });
                self.edge_step(lane, step);
            }
        }
    }

    /// The answer to Connect.
    fn connect_answered(&mut self, cqe: Cqe) -> Result<(), LinkError> {
        connect::accepted("Connect of an I/O queue", cqe)?;
        debug_assert!(matches!(self.state, State::Establishing { step: Step::Connect, .. }));
        self.state = State::Ready;
        self.last_error = None;
        self.counters.connects += 1;
        Ok(())
    }
}

/// How a slice fails because of this.
fn failure_of(slice: &Slice, target: &str, trouble: Trouble) -> Failure {
    let why = match trouble {
        Trouble::Status(status) => {
            let (sct, sc) = status.code.to_raw();
            let message = match status.code {
                StatusCode::InvalidNamespace => sentence(slice, target, format_args!("{status}: the target has withdrawn this file")),
                _ => sentence(slice, target, status),
            };
            let device_status = Some(u16::from(sct) << 8 | u16::from(sc));
            return Failure { device_status, ..Failure::failed(message) };
        }
        Trouble::Data(DataFault::Digest) => "the data was damaged on its way (data digest), again and again",
        Trouble::Data(DataFault::Short) => "the target sent less data than was asked for",
    };
    failed(slice, target, why)
}
