//! Ended commands become ended slices, or are tried again.

use super::super::auth::{Authentication, Command, Next, Secrets};
use super::super::connect;
use super::super::link::{DataFault, Ended, LinkError, Payload};
use super::{Op, QueuePair, State, Step, retry};
use crate::intake::lanes::{Job, LaneId, LaneState, WITHDRAWN};
use nvferry_engine::{Failure, Slice};
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
    ///
    /// # Errors
    /// Why the connection has to end: Connect was refused.
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
            self.has_worked |= trouble.is_none() && matches!(self.state, State::Ready);
            match context {
                Op::Connect => result = self.connect_answered(cqe),
                Op::Authenticate => result = self.auth_answered(cqe, &payload, fault),
                Op::Slice { lane, attempts, op, begun_us } => {
                    self.intake.note_took(op, begun_us, now);
                    self.intake.lanes.get_mut(lane).in_flight -= 1;
                    match (payload, trouble) {
                        (Payload::Slice { slice, .. }, None) => self.intake.complete(slice, now),
                        (Payload::Slice { slice, .. }, Some(trouble)) => {
                            self.slice_trouble(lane, attempts, slice, trouble, now);
                        }
                        // Its slice has ended already.
                        _ => {}
                    }
                }
                Op::EdgeRead { lane, edge, attempts } => {
                    self.intake.lanes.get_mut(lane).in_flight -= 1;
                    match (payload, trouble) {
                        (Payload::Bounce { buf, .. }, None) => {
                            let (step, merged_bytes) = self.intake.edges.read(edge, buf);
                            self.intake.counters.bounced_bytes += merged_bytes as u64;
                            self.intake.edge_step(lane, step);
                        }
                        (_, Some(trouble)) => {
                            let job = Job::EdgeRead(edge, attempts.saturating_add(1));
                            self.edge_trouble(lane, job, attempts, trouble, now);
                        }
                        (_, None) => debug_assert!(false, "an edge's buffer is never given up"),
                    }
                }
                Op::EdgeWrite { lane, edge, attempts } => {
                    self.intake.lanes.get_mut(lane).in_flight -= 1;
                    let Some(trouble) = trouble else {
                        self.intake.edge_written(lane, edge, now);
                        continue;
                    };
                    if let Payload::Bounce { buf, .. } = payload {
                        self.intake.edges.put_merged(edge, buf);
                    }
                    let job = Job::EdgeWrite(edge, attempts.saturating_add(1));
                    self.edge_trouble(lane, job, attempts, trouble, now);
                }
            }
        }
        result
    }

    fn slice_trouble(&mut self, lane: LaneId, attempts: u8, slice: Slice, trouble: Trouble, now: Instant) {
        match self.retry_delay(lane, trouble, attempts) {
            Some(delay) if now + delay < slice.deadline => {
                self.intake.try_again(lane, Job::Slice(slice, attempts.saturating_add(1)), delay, now);
            }
            _ => {
                self.intake.fail_with(slice, failure_of(trouble));
            }
        }
    }

    /// Reading or writing a block that is changed in part has failed.
    fn edge_trouble(&mut self, lane: LaneId, job: Job, attempts: u8, trouble: Trouble, now: Instant) {
        match self.retry_delay(lane, trouble, attempts) {
            Some(delay) => self.intake.try_again(lane, job, delay, now),
            None => self.intake.fail_job(lane, job, || failure_of(trouble)),
        }
    }

    /// Whether, and after which wait, a command is sent again.
    fn retry_delay(&self, lane: LaneId, trouble: Trouble, attempts: u8) -> Option<Duration> {
        match trouble {
            Trouble::Data(_) => retry::after_damage(attempts),
            // The target restarted and does not offer the file yet: the job waits in its lane, however long.
            Trouble::Status(status)
                if status.code == StatusCode::InvalidNamespace
                    && matches!(self.intake.lanes.get(lane).state, LaneState::Awaited(_)) =>
            {
                Some(Duration::ZERO)
            }
            Trouble::Status(status) => retry::after_status(status, attempts),
        }
    }

    /// Its connection was lost: it is sent again on the next one. All commands are idempotent.
    pub(super) fn requeue(&mut self, op: Op, payload: Payload, now: Instant) {
        let (lane, edge) = match op {
            Op::Connect | Op::Authenticate => return,
            Op::Slice { lane, attempts, .. } => {
                self.intake.lanes.get_mut(lane).in_flight -= 1;
                let Payload::Slice { slice, .. } = payload else { return };
                if slice.deadline <= now {
                    let why = self.why_late();
                    self.intake.time_out(slice, why);
                } else {
                    // The connection's end is not the command's fault: it keeps its tries.
                    self.intake.try_again(lane, Job::Slice(slice, attempts), Duration::ZERO, now);
                }
                return;
            }
            Op::EdgeRead { lane, edge, .. } | Op::EdgeWrite { lane, edge, .. } => (lane, edge),
        };
        self.intake.lanes.get_mut(lane).in_flight -= 1;
        self.intake.counters.retries += 1;
        let step = self.intake.edges.restart(edge);
        self.intake.edge_step(lane, step);
    }

    /// The answer to Connect.
    fn connect_answered(&mut self, cqe: Cqe) -> Result<(), LinkError> {
        let connected = connect::accepted("Connect of an I/O queue", cqe)?;
        debug_assert!(matches!(self.state, State::Establishing { step: Step::Connect, .. }));
        let Some(params) = &self.params else { return Ok(()) };
        let secrets = Secrets {
            host: &params.host_nqn,
            subsystem: &params.subnqn,
            secret: params.secret.as_ref(),
            controller_secret: params.controller_secret.as_ref(),
        };
        match Authentication::begin(connected, secrets)? {
            Some((authentication, command)) => {
                self.authentication = Some(authentication);
                self.send_auth(command);
            }
            None => self.is_connected(),
        }
        Ok(())
    }

    /// The answer to a part of the authentication.
    fn auth_answered(&mut self, cqe: Cqe, payload: &Payload, fault: Option<DataFault>) -> Result<(), LinkError> {
        if fault.is_some() {
            return Err(LinkError::GivenUp("an authentication message was damaged on its way".into()));
        }
        let Some(authentication) = &mut self.authentication else { return Ok(()) };
        let data: &[u8] = if let Payload::Bytes(bytes) = payload { bytes } else { &[] };
        match authentication.answered(cqe, data)? {
            Next::Submit(command) => self.send_auth(command),
            Next::Done => self.is_connected(),
        }
        Ok(())
    }

    fn send_auth(&mut self, (sqe, flow, payload): Command) {
        let Some(link) = &mut self.link else { return };
        let submitted = link.submit(sqe, flow, payload, Op::Authenticate);
        debug_assert!(submitted.is_ok(), "a fresh link has room");
    }

    /// Commands may flow.
    fn is_connected(&mut self) {
        self.authentication = None;
        self.state = State::Ready;
        self.last_error = None;
        self.intake.counters.connects += 1;
    }
}

/// How a slice fails because of this.
fn failure_of(trouble: Trouble) -> Failure {
    let why = match trouble {
        Trouble::Status(status) => {
            let (sct, sc) = status.code.to_raw();
            let message = match status.code {
                StatusCode::InvalidNamespace => format!("{status}: {WITHDRAWN}"),
                _ => status.to_string(),
            };
            let device_status = Some(u16::from(sct) << 8 | u16::from(sc));
            return Failure { device_status, ..Failure::failed(message) };
        }
        Trouble::Data(DataFault::Digest) => "the data was damaged on its way (data digest), again and again",
        Trouble::Data(DataFault::Short) => "the target sent less data than was asked for",
    };
    Failure::failed(why)
}
