//! Ending commands: completions, data to the host, requests for data, events.

use super::admin::Reply;
use super::command::Work;
use super::connection::{Connection, Phase, Stage};
use super::core::{Core, LentPages};
use super::counters::{IoCounters, LaneCounters};
use super::lane::LaneId;
use super::send::Payload;
use crate::driver::CommandKind;
use nvferry_io::Stream;
use nvferry_io::fast_paths::Path;
use nvferry_wire::admin::Abort;
use nvferry_wire::digest::{DIGEST_LEN, crc32c};
use nvferry_wire::nvm::ReadWrite;
use nvferry_wire::pdu::{CapsuleResp, DataEnd, DataPdu, R2t};
use nvferry_wire::{CommandId, Cqe, QueueId, Sqe, Status, StatusCode, TransferTag};

impl<S: Stream> Connection<S> {
    /// What completions say of the submission queue's head.
    pub(crate) fn sqhd(&self) -> u16 {
        self.queue.as_ref().and_then(|queue| queue.sqhd).unwrap_or(0)
    }

    /// Sends a completion.
    pub(crate) fn respond(&mut self, core: &mut Core, cqe: Cqe) {
        if !matches!(self.phase, Phase::Opened | Phase::Live) {
            return;
        }
        let framing = self.framing;
        self.sending.push(Payload::Nothing, None, |out| CapsuleResp { cqe }.encode(&framing, out));
        core.has_to_send(self.key.index);
    }

    /// Sends data of a command, all of it, and its completion: within the data PDU where the host allows that.
    fn send_data(&mut self, core: &mut Core, cid: CommandId, payload: Payload, result: u64) {
        let may_go_without = self.queue.as_ref().is_some_and(|queue| queue.sqhd.is_none());
        let without_response = result == 0 && may_go_without && !core.paths.success_flag.is_off();
        core.taken.add(Path::SuccessFlag, without_response.into());
        let end = if without_response { DataEnd::LastWithSuccess } else { DataEnd::Last };
        // Pages are not taken where a digest is wanted.
        let digest: Option<[u8; DIGEST_LEN]> =
            self.framing.digests.data.then(|| crc32c(payload.as_slice()).to_le_bytes());
        // A transfer has at most MAX_TRANSFER_BYTES, 1 MiB.
        let datal = payload.len() as u32;
        let pdu = DataPdu { cccid: cid, ttag: TransferTag(0), datao: 0, datal, end };
        let framing = self.framing;
        self.sending.push(payload, digest, |out| pdu.encode_c2h(&framing, out));
        core.has_to_send(self.key.index);
        if !without_response {
            self.respond(core, Cqe::success(cid, self.sqhd(), result));
        }
    }

    /// Answers an admin command.
    pub(crate) fn reply(&mut self, core: &mut Core, sqe: &Sqe, reply: Reply) {
        if let Some(data) = reply.data {
            self.send_data(core, sqe.cid(), Payload::Bytes(data), reply.result);
            return;
        }
        if !reply.status.is_success()
            && let Some(queue) = &self.queue
        {
            queue.controller.note_failure(queue.qid, sqe.cid(), reply.status, sqe.nsid(), 0);
        }
        self.respond(core, Cqe { result: reply.result, ..Cqe::new(sqe.cid(), self.sqhd(), reply.status) });
    }

    /// Reports what has happened, as far as the host has asked to be told.
    pub(crate) fn report_events(&mut self, core: &mut Core) {
        while let Some(queue) = &mut self.queue {
            if queue.events.is_empty() {
                return;
            }
            let Some(event) = queue.controller.next_event() else { return };
            let cid = queue.events.remove(0);
            self.respond(core, Cqe::success(cid, self.sqhd(), event.to_dword().into()));
        }
    }

    /// Aborts an Asynchronous Event Request, if that is what the command asks.
    pub(crate) fn abort_event(&mut self, core: &mut Core, sqe: &Sqe) -> bool {
        let abort = Abort::decode(sqe);
        let Some(queue) = &mut self.queue else { return false };
        let Some(at) = queue.events.iter().position(|&cid| cid == abort.cid) else { return false };
        if abort.sqid != QueueId::ADMIN {
            return false;
        }
        queue.events.remove(at);
        self.respond(core, Cqe::new(abort.cid, self.sqhd(), StatusCode::AbortRequested));
        true
    }

    /// Asks the host for all of a command's data, for which there is a buffer.
    pub(crate) fn ask(&mut self, core: &mut Core, index: u16) {
        let slot = &mut self.slots[usize::from(index)];
        slot.stage = Stage::Asked;
        self.asked += 1;
        core.taken.add(Path::Solicited, 1);
        let pdu = R2t { cccid: slot.sqe.cid(), ttag: TransferTag(index), r2to: 0, r2tl: slot.data_bytes };
        let framing = self.framing;
        self.sending.push(Payload::Nothing, None, |out| pdu.encode(&framing, out));
        core.has_to_send(self.key.index);
    }

    /// Ends a read whose data is pages of its file.
    pub(crate) fn complete_with_pages(&mut self, core: &mut Core, index: u16, pages: LentPages) {
        core.taken.add(Path::Pages, 1);
        let slot = &self.slots[usize::from(index)];
        let (cid, data_bytes) = (slot.sqe.cid(), slot.data_bytes);
        self.account(core, slot.lane, Kind::Read, Status::SUCCESS, data_bytes, slot.begun_us);
        self.free_slot(core, index);
        self.send_data(core, cid, Payload::Pages(pages, data_bytes as usize), 0);
    }

    /// Ends a command: sends what it has to say, and gives back what it holds.
    pub(crate) fn complete(&mut self, core: &mut Core, index: u16, status: Status, result: u64) {
        let slot = &self.slots[usize::from(index)];
        let (sqe, data_bytes) = (slot.sqe, slot.data_bytes);
        let kind = Kind::of(&slot.work);
        self.account(core, slot.lane, kind, status, data_bytes, slot.begun_us);
        let slot = &mut self.slots[usize::from(index)];
        if status.is_success() && kind == Kind::Read {
            // The buffer goes to the send queue: it is no longer the namespace's.
            if let Some((buffer, pool)) = slot.buffer.take() {
                core.buffer_left(slot.lane, pool, buffer.len());
                self.free_slot(core, index);
                self.send_data(core, sqe.cid(), Payload::Pool(buffer, data_bytes as usize), 0);
                return;
            }
        }
        if kind != Kind::Other {
            self.note_failure(&sqe, status);
        }
        self.free_slot(core, index);
        self.respond(core, Cqe { result, ..Cqe::new(sqe.cid(), self.sqhd(), status) });
    }

    /// Counts the end of a command that was taken at `begun_us`.
    pub(super) fn account(
        &self,
        core: &Core,
        lane: Option<LaneId>,
        kind: Kind,
        status: Status,
        data_bytes: u32,
        begun_us: u64,
    ) {
        if let Some(queue) = &self.queue {
            kind.count(&queue.counters, status, data_bytes);
        }
        if let Some(lane) = lane.and_then(|lane| core.lanes.get(lane)) {
            kind.count(&lane.counters.io, status, data_bytes);
            kind.note(&lane.counters, core.now_us.saturating_sub(begun_us));
        }
    }

    /// Puts a command on an I/O queue into the error log if it has failed.
    pub(super) fn note_failure(&self, sqe: &Sqe, status: Status) {
        if !status.is_success()
            && let Some(queue) = &self.queue
        {
            let lba = ReadWrite::decode(sqe).slba.0;
            queue.controller.note_failure(queue.qid, sqe.cid(), status, sqe.nsid(), lba);
        }
    }
}

/// What a command counts as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Read,
    Compare,
    Write,
    Change,
    Flush,
    Other,
}

impl Kind {
    fn of(work: &Work) -> Self {
        match work {
            Work::Read { .. } => Self::Read,
            Work::Compare { .. } => Self::Compare,
            Work::Modify { change: super::command::Change::Write, .. } => Self::Write,
            Work::Modify { .. } | Work::Ranges { .. } => Self::Change,
            Work::Flush { .. } => Self::Flush,
            Work::Connect | Work::AuthSend => Self::Other,
        }
    }

    /// Notes how long it took.
    fn note(self, counters: &LaneCounters, took_us: u64) {
        let class = match self {
            Self::Read | Self::Compare => 0,
            Self::Write | Self::Change => 1,
            Self::Flush => 2,
            Self::Other => return,
        };
        counters.latencies[class].note(took_us);
    }

    fn count(self, counters: &IoCounters, status: Status, data_bytes: u32) {
        if !status.is_success() {
            let kind = match self {
                Self::Read | Self::Compare => CommandKind::Read,
                Self::Write | Self::Change => CommandKind::Write,
                Self::Flush => CommandKind::Flush,
                Self::Other => return,
            };
            return counters.failed(kind, status);
        }
        match self {
            Self::Read => {
                counters.reads.add(1);
                counters.read_bytes.add(data_bytes.into());
            }
            Self::Compare => counters.reads.add(1),
            Self::Write => {
                counters.writes.add(1);
                counters.written_bytes.add(data_bytes.into());
            }
            Self::Change => counters.writes.add(1),
            Self::Flush => counters.flushes.add(1),
            Self::Other => {}
        }
    }
}
