//! Waiting jobs become commands, as long as there are slots and room to send.

use super::super::connect;
use super::super::link::{Flow, LinkError, Payload};
use super::super::namespaces::HostNamespace;
use super::lanes::{Job, LaneId, LaneState};
use super::{Op, QueuePair, State, Step};
use crate::edges::{BlockPlace, EdgeId, EdgeStep};
use crate::host::failed;
use nvferry_engine::{Failure, Operation, Slice};
use nvferry_wire::fabrics::{Connect, ConnectData};
use nvferry_wire::nvm::{NvmOpcode, ReadWrite};
use nvferry_wire::{BlockCount, CommandId, Lba, SglDescriptor, Sqe};
use std::time::Instant;

impl QueuePair {
    /// Takes the connection's own next step, if there is one.
    pub(super) fn advance(&mut self, _now: Instant) -> Result<(), LinkError> {
        let State::Establishing { step: Step::Initialize, until } = self.state else { return Ok(()) };
        let (Some(link), Some(params)) = (&mut self.link, &self.params) else { return Ok(()) };
        if !link.is_open() {
            return Ok(());
        }
        let command = Connect {
            qid: params.qid,
            sq_entries: params.entries,
            disable_sq_flow_control: true,
            individual_io_queue_deletion: false,
            kato_ms: 0,
        };
        let data = ConnectData {
            hostid: params.host_id,
            cntlid: params.cntlid,
            subnqn: params.subnqn.clone(),
            hostnqn: params.host_nqn.clone(),
        };
        let (sqe, flow, payload) = connect::command(&command, &data);
        let submitted = link.submit(sqe, flow, payload, Op::Connect);
        debug_assert!(submitted.is_ok(), "a fresh link has room");
        self.state = State::Establishing { step: Step::Connect, until };
        Ok(())
    }

    /// Issues what can be issued; tells whether anything was.
    pub(super) fn pump(&mut self, now: Instant) -> bool {
        if self.state != State::Ready {
            return false;
        }
        let mut issued = false;
        while let Some(link) = &self.link
            && link.has_room()
        {
            let Some((lane, job)) = self.lanes.next(link.free_slots()) else { break };
            issued |= self.issue(lane, job, now);
        }
        issued
    }

    /// Makes a job a command.
    fn issue(&mut self, lane: LaneId, job: Job, now: Instant) -> bool {
        let LaneState::Present(namespace) = self.lanes.get(lane).state else {
            self.fail_job(lane, job, |target, slice| failed(slice, target, "the target has withdrawn this file"));
            return false;
        };
        let (sqe, flow, payload, op) = match job {
            Job::Slice(slice, attempts) => {
                if slice.deadline <= now {
                    self.time_out(slice);
                    return false;
                }
                let rules = self.rules(&namespace);
                let is_one_command = slice.op == Operation::Read || rules.is_whole(slice.offset, slice.len());
                if !rules.fits(&slice) || !is_one_command {
                    // The target has other limits than when it was cut.
                    self.submit(slice);
                    return false;
                }
                self.slice_command(&namespace, slice, lane, attempts)
            }
            Job::EdgeRead(edge, attempts) => match self.edge_read(&namespace, lane, edge, attempts) {
                Some(command) => command,
                None => return false,
            },
            Job::EdgeWrite(edge, attempts) => match self.edge_write(&namespace, lane, edge, attempts) {
                Some(command) => command,
                None => return false,
            },
        };
        let Some(link) = &mut self.link else { return false };
        match link.submit(sqe, flow, payload, op) {
            Ok(_) => {
                self.lanes.get_mut(lane).in_flight += 1;
                true
            }
            Err((op, payload)) => {
                debug_assert!(false, "the caller saw room");
                self.lanes.get_mut(lane).in_flight += 1;
                self.requeue(op, payload, now);
                false
            }
        }
    }

    fn slice_command(&self, namespace: &HostNamespace, slice: Slice, lane: LaneId, attempts: u8) -> (Sqe, Flow, Payload, Op) {
        let mask = u64::from(namespace.block_bytes()) - 1;
        let first = slice.offset & !mask;
        let end = (slice.offset + slice.len() as u64 + mask) & !mask;
        // A slice fits one command, which fits 32 bits.
        let (skip, len) = ((slice.offset - first) as u32, (end - first) as u32);
        let (opcode, flow) = match slice.op {
            Operation::Read => (NvmOpcode::Read, Flow::ToHost(len)),
            Operation::Write => (NvmOpcode::Write, self.write_flow(len)),
        };
        let sqe = read_write(namespace, opcode, first, len);
        (sqe, flow, Payload::Slice { slice, skip }, Op::Slice { lane, attempts })
    }

    /// In the capsule, if it may be that long.
    fn write_flow(&self, len: u32) -> Flow {
        let in_capsule = self.params.as_ref().map_or(0, |params| params.in_capsule_bytes);
        if len <= in_capsule { Flow::InCapsule(len) } else { Flow::OnDemand(len) }
    }

    /// Reads a block that is to be written in part.
    fn edge_read(
        &mut self,
        namespace: &HostNamespace,
        lane: LaneId,
        edge: EdgeId,
        attempts: u8,
    ) -> Option<(Sqe, Flow, Payload, Op)> {
        if !self.edges.is_wanted(edge) {
            let step = self.edges.failed(edge, |_| unreachable_failure());
            self.edge_step(lane, step);
            return None;
        }
        let BlockPlace { start, len, .. } = self.edges.place(edge);
        if namespace.block_bytes() != len {
            self.fail_job(lane, Job::EdgeRead(edge, attempts), block_changed);
            return None;
        }
        let Some(buf) = self.pool.get(len as usize) else {
            self.fail_job(lane, Job::EdgeRead(edge, attempts), |target, slice| {
                failed(slice, target, "no bounce buffer is left for the unaligned edge of this write")
            });
            return None;
        };
        let sqe = read_write(namespace, NvmOpcode::Read, start, len);
        let op = Op::EdgeRead { lane, edge, attempts };
        Some((sqe, Flow::ToHost(len), Payload::Bounce { buf, len }, op))
    }

    /// Writes a merged block.
    fn edge_write(
        &mut self,
        namespace: &HostNamespace,
        lane: LaneId,
        edge: EdgeId,
        attempts: u8,
    ) -> Option<(Sqe, Flow, Payload, Op)> {
        let buf = self.edges.take_merged(edge).filter(|_| self.edges.is_wanted(edge));
        let Some(buf) = buf else {
            // All its slices have timed out before anything was written.
            let step = self.edges.failed(edge, |_| unreachable_failure());
            self.edge_step(lane, step);
            return None;
        };
        let BlockPlace { start, len, .. } = self.edges.place(edge);
        if namespace.block_bytes() != len {
            self.fail_job(lane, Job::EdgeWrite(edge, attempts), block_changed);
            return None;
        }
        let sqe = read_write(namespace, NvmOpcode::Write, start, len);
        Some((sqe, self.write_flow(len), Payload::Bounce { buf, len }, Op::EdgeWrite { lane, edge, attempts }))
    }

    /// Queues what an edge needs next.
    pub(super) fn edge_step(&mut self, lane: LaneId, step: EdgeStep) {
        match step {
            EdgeStep::Read(edge) => self.lanes.push_back(lane, Job::EdgeRead(edge, 0)),
            // A half-done change goes first: others wait for its block.
            EdgeStep::Write(edge) => self.lanes.push_front(lane, Job::EdgeWrite(edge, 0)),
            EdgeStep::Done => {}
        }
    }
}

/// For an edge of which all slices have ended: there is nobody to tell.
fn unreachable_failure() -> Failure {
    Failure::failed("the write had ended before")
}

fn block_changed(target: &str, slice: &Slice) -> Failure {
    failed(slice, target, "the file was replaced by one with another block size")
}

fn read_write(namespace: &HostNamespace, opcode: NvmOpcode, first: u64, len: u32) -> Sqe {
    let blocks = BlockCount(len >> namespace.block_shift);
    let command = ReadWrite::new(namespace.nsid, Lba(first >> namespace.block_shift), blocks);
    // The link fills in the identifier and the data pointer.
    command.sqe(opcode, CommandId(0), SglDescriptor::Transport { length: 0 })
}
