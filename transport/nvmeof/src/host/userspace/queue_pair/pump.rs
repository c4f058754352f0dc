//! Waiting jobs become commands, as long as there are slots and room to send.

use super::super::connect;
use super::super::link::{Flow, LinkError, Payload};
use super::{Op, QueuePair, State, Step};
use crate::host::namespaces::HostNamespace;
use crate::intake::edges::BlockPlace;
use crate::intake::lanes::{Job, LaneId};
use nvferry_engine::{Failure, Operation, Slice};
use nvferry_io::fast_paths::Path;
use nvferry_wire::fabrics::{Connect, ConnectData};
use nvferry_wire::nvm::{NvmOpcode, ReadWrite};
use nvferry_wire::{BlockCount, CommandId, Lba, SglDescriptor, Sqe};
use std::time::Instant;

/// A command, ready to be submitted to the link.
type Command = (Sqe, Flow, Payload, Op);

impl QueuePair {
    /// Takes the connection's own next step, if there is one.
    pub(super) fn advance(&mut self) -> Result<(), LinkError> {
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
        let begun_us = self.intake.micros(now);
        while let Some(link) = &self.link
            && link.has_room()
        {
            let Some((lane, namespace, job)) = self.intake.next_job(link.free_slots(), now) else { break };
            let Some((sqe, flow, payload, op)) = self.command(lane, &namespace, job, begun_us) else { continue };
            self.intake.lanes.get_mut(lane).in_flight += 1;
            let Some(link) = &mut self.link else { break };
            match link.submit(sqe, flow, payload, op) {
                Ok(_) => {
                    self.taken.add(Path::Commands, 1);
                    self.taken.add(Path::InCapsule, matches!(flow, Flow::InCapsule(_)).into());
                    issued = true;
                }
                Err((op, payload)) => {
                    debug_assert!(false, "the link had room");
                    self.requeue(op, payload, now);
                    break;
                }
            }
        }
        issued
    }

    /// Makes a job a command.
    fn command(&mut self, lane: LaneId, namespace: &HostNamespace, job: Job, begun_us: u32) -> Option<Command> {
        match job {
            Job::Slice(slice, attempts) => {
                let purpose = Op::Slice { lane, attempts, op: slice.op, begun_us };
                Some(self.slice_command(namespace, slice, purpose))
            }
            Job::EdgeRead(edge, attempts) => {
                let BlockPlace { start, len, .. } = self.intake.edges.place(edge);
                let Some(buf) = self.pool.get(len as usize) else {
                    let why = "no bounce buffer is left for the unaligned edge of this write";
                    self.intake.fail_job(lane, job, || Failure::failed(why));
                    return None;
                };
                let sqe = read_write(namespace, NvmOpcode::Read, start, len);
                Some((sqe, Flow::ToHost(len), Payload::Bounce { buf, len }, Op::EdgeRead { lane, edge, attempts }))
            }
            Job::EdgeWrite(edge, attempts) => {
                let BlockPlace { start, len, .. } = self.intake.edges.place(edge);
                let Some(buf) = self.intake.edges.take_merged(edge) else {
                    debug_assert!(false, "a block to be written has been merged");
                    self.intake.fail_job(lane, job, || Failure::failed("its merged block was lost"));
                    return None;
                };
                let sqe = read_write(namespace, NvmOpcode::Write, start, len);
                Some((sqe, self.write_flow(len), Payload::Bounce { buf, len }, Op::EdgeWrite { lane, edge, attempts }))
            }
        }
    }

    fn slice_command(&self, namespace: &HostNamespace, slice: Slice, purpose: Op) -> Command {
        let mask = u64::from(namespace.block_bytes()) - 1;
        let first = slice.offset & !mask;
        let end = (slice.offset + slice.len() as u64 + mask) & !mask;
        // A job fits one command, which fits 32 bits.
        let (skip, len) = ((slice.offset - first) as u32, (end - first) as u32);
        let (opcode, flow) = match slice.op {
            Operation::Read => (NvmOpcode::Read, Flow::ToHost(len)),
            Operation::Write => (NvmOpcode::Write, self.write_flow(len)),
        };
        let sqe = read_write(namespace, opcode, first, len);
        (sqe, flow, Payload::Slice { slice, skip }, purpose)
    }

    /// In the capsule, if it may be that long.
    fn write_flow(&self, len: u32) -> Flow {
        let in_capsule = self.params.as_ref().map_or(0, |params| params.in_capsule_bytes);
        if len <= in_capsule && !self.paths.in_capsule.is_off() { Flow::InCapsule(len) } else { Flow::OnDemand(len) }
    }
}

fn read_write(namespace: &HostNamespace, opcode: NvmOpcode, first: u64, len: u32) -> Sqe {
    let blocks = BlockCount(len >> namespace.block_shift);
    let command = ReadWrite::new(namespace.nsid, Lba(first >> namespace.block_shift), blocks);
    // The link fills in the identifier and the data pointer.
    command.sqe(opcode, CommandId(0), SglDescriptor::Transport { length: 0 })
}
