//! Taking commands: Connect, admin commands, I/O commands.

use super::admin::{Asked, Reply};
use super::auth::QueueAuth;
use super::command::{Data, Work};
use super::connection::{Connection, Phase, Pool, Queue, Slot, Stage};
use super::controller::QueueHandle;
use super::core::{Core, CoreBuffer};
use super::counters::IoCounters;
use super::lane::LaneId;
use super::limits;
use super::receive::{Destination, Flow};
use super::subsystem::Refusal;
use crate::driver::{CommandKind, HostProof};
use nvferry_io::Stream;
use nvferry_io::fast_paths::Path;
use nvferry_wire::admin::AdminOpcode;
use nvferry_wire::fabrics::{
    CONNECT_DATA_LEN, Connect, ConnectData, ConnectResult, Disconnect, FABRICS_OPCODE, FabricsType,
};
use nvferry_wire::nvm::NvmOpcode;
use nvferry_wire::pdu::{FatalErrorStatus, PduLayout, TermReq};
use nvferry_wire::{Cqe, Nsid, QueueId, SglDescriptor, Sqe, Status, StatusCode};
use std::sync::Arc;
use std::time::Instant;

impl<S: Stream> Connection<S> {
    /// Takes a command whose capsule brings `layout.data_bytes` of data; `behind` is what has come of that, and more.
    ///
    /// # Errors
    /// What to tell the host when the connection has to end.
    pub(crate) fn take_command(
        &mut self,
        core: &mut Core,
        sqe: &Sqe,
        layout: &PduLayout,
        behind: &[u8],
        now: Instant,
    ) -> Result<Flow, TermReq> {
        let sqhd_before = self.advance_sqhd();
        let taken = match self.queue.as_ref().map(|queue| queue.qid.is_admin()) {
            None => self.take_connect(core, sqe, layout)?,
            Some(admin) => match self.take_auth(core, sqe, layout, now)? {
                Some(taken) => taken,
                None if admin => self.take_admin(core, sqe, now),
                None => self.take_io(core, sqe, layout, behind, now)?,
            },
        };
        match taken {
            Taken::Continues => {}
            // The command has been answered; its data still has to pass.
            Taken::Ended if layout.data_bytes > 0 => self.expect_data(Destination::Nowhere, layout),
            Taken::Ended => {}
            Taken::Straight => return Ok(Flow::PastData),
            Taken::Later => {
                if let Some(queue) = &mut self.queue {
                    queue.sqhd = sqhd_before;
                }
                return Ok(Flow::Pause);
            }
        }
        Ok(if matches!(self.phase, Phase::Opened | Phase::Live) { Flow::Next } else { Flow::Stop })
    }

    /// A command leaves the submission queue. Returns where its head was.
    fn advance_sqhd(&mut self) -> Option<u16> {
        let queue = self.queue.as_mut()?;
        let before = queue.sqhd?;
        // At most MAX_QUEUE_ENTRIES, 1024.
        queue.sqhd = Some((before + 1) % queue.entries as u16);
        Some(before)
    }

    /// The first command of a connection, which must be Connect.
    fn take_connect(&mut self, core: &mut Core, sqe: &Sqe, layout: &PduLayout) -> Result<Taken, TermReq> {
        if FabricsType::of(sqe) != Ok(FabricsType::Connect) {
            self.respond(core, Cqe::new(sqe.cid(), 0, Status::permanent(StatusCode::CommandSequenceError)));
            return Ok(Taken::Ended);
        }
        let slot = self.new_slot(sqe, Work::Connect)?;
        let data_bytes = CONNECT_DATA_LEN as u32;
        match sqe.sgl() {
            Ok(sgl) if sgl.length_bytes() == data_bytes => Ok(self.take_host_data(core, slot, sgl, data_bytes, layout)),
            Ok(_) => {
                self.complete(core, slot, Status::permanent(StatusCode::SglDataLengthInvalid), 0);
                Ok(Taken::Ended)
            }
            Err(error) => {
                self.complete(core, slot, Status::permanent(error.status()), 0);
                Ok(Taken::Ended)
            }
        }
    }

    /// A command on the admin queue: all of them are answered at once, or wait for an event.
    fn take_admin(&mut self, core: &mut Core, sqe: &Sqe, now: Instant) -> Taken {
        let Some(queue) = &mut self.queue else { return Taken::Ended };
        let opcode = if sqe.opcode() == FABRICS_OPCODE { None } else { AdminOpcode::from_u8(sqe.opcode()) };
        let reply = match opcode {
            // Before CC.EN nothing but fabrics commands is taken (base specification 3.5.1).
            Some(AdminOpcode::AsyncEventRequest | AdminOpcode::KeepAlive) if !queue.controller.is_ready() => {
                Reply::from(StatusCode::CommandSequenceError)
            }
            Some(AdminOpcode::AsyncEventRequest) => {
                if queue.events.len() < limits::MAX_ASYNC_EVENTS {
                    queue.events.push(sqe.cid());
                    self.report_events(core);
                    return Taken::Ended;
                }
                Reply::from(StatusCode::AsyncEventLimitExceeded)
            }
            Some(AdminOpcode::KeepAlive) => Reply::value(0),
            _ => {
                let controller = Arc::clone(&queue.controller);
                let aborted = opcode == Some(AdminOpcode::Abort) && self.abort_event(core, sqe);
                if aborted {
                    Reply::value(0)
                } else {
                    Asked { subsystem: &core.subsystem, controller: &controller }.execute(sqe)
                }
            }
        };
        // Any admin command shows that the host is alive; one may just have changed the timeout.
        if let Some(queue) = &mut self.queue {
            queue.keep_alive = queue.controller.kato().map(|kato| now + kato);
            if !queue.controller.cc().enable() {
                // A reset ends what waited for events, without completions.
                queue.events.clear();
            }
        }
        self.reply(core, sqe, reply);
        Taken::Ended
    }

    /// A command on an I/O queue.
    fn take_io(
        &mut self,
        core: &mut Core,
        sqe: &Sqe,
        layout: &PduLayout,
        behind: &[u8],
        now: Instant,
    ) -> Result<Taken, TermReq> {
        if sqe.opcode() == FABRICS_OPCODE {
            return Ok(self.take_io_fabrics(core, sqe, now));
        }
        let mut planned = match Self::plan_io(core, sqe) {
            Ok(planned) => planned,
            Err(status) => {
                if let Some(lane) = core.lanes.find(sqe.nsid()).and_then(|lane| core.lanes.get(lane)) {
                    lane.counters.io.failed(kind_of(sqe), status);
                }
                self.fail(core, sqe, status);
                return Ok(Taken::Ended);
            }
        };
        if layout.data_bytes > 0 && self.write_straight(core, sqe, &mut planned, layout, behind) {
            return Ok(Taken::Straight);
        }
        let (lane, work, data) = planned;
        let index = self.new_slot(sqe, work)?;
        let key = self.command_key(index);
        let slot = &mut self.slots[usize::from(index)];
        slot.lane = Some(lane);
        slot.begun_us = core.now_us;
        core.taken.add(Path::Commands, 1);
        core.lanes.enter(lane);
        if let Work::Flush { rest } = &mut slot.work
            && sqe.nsid() == Nsid::ALL
        {
            rest.extend(core.lanes.all().filter(|&other| other != lane));
            for &other in rest.iter() {
                core.lanes.enter(other);
            }
        }
        match data {
            Data::FromHost(data_bytes) => {
                // Decoded once already, for the plan.
                let sgl = sqe.sgl().unwrap_or(SglDescriptor::Transport { length: data_bytes });
                return Ok(self.take_host_data(core, index, sgl, data_bytes, layout));
            }
            Data::ToHost(data_bytes) => {
                slot.data_bytes = data_bytes;
                slot.stage = Stage::Waiting;
                core.lanes.wait(lane, key);
            }
            Data::None => {
                slot.stage = Stage::Ready;
                core.lanes.ready(lane, key);
            }
        }
        Ok(Taken::Ended)
    }

    /// What an I/O command is to do, where it can be done at all.
    fn plan_io(core: &Core, sqe: &Sqe) -> Result<(LaneId, Work, Data), Status> {
        if core.subsystem.is_draining() {
            // Not executed: the host may try again elsewhere, or here when the target is back.
            return Err(Status::new(StatusCode::AbortedQueueDeleted));
        }
        let id = Self::find_lane(core, sqe).map_err(Status::permanent)?;
        let lane = core.lanes.get(id).ok_or(Status::permanent(StatusCode::InvalidNamespace))?;
        let (work, data) = Work::plan(sqe, lane.namespace()).map_err(Status::permanent)?;
        Ok((id, work, data))
    }

    /// A fabrics command on an I/O queue.
    fn take_io_fabrics(&mut self, core: &mut Core, sqe: &Sqe, now: Instant) -> Taken {
        let refused = match FabricsType::of(sqe) {
            Ok(FabricsType::Disconnect) => match Disconnect::decode(sqe) {
                Ok(Disconnect) => {
                    self.respond(core, Cqe::new(sqe.cid(), self.sqhd(), StatusCode::Success));
                    self.ends_because("the host disconnected the queue");
                    self.linger(core, now);
                    return Taken::Ended;
                }
                Err(code) => code,
            },
            Ok(FabricsType::Connect) => StatusCode::CommandSequenceError,
            _ => StatusCode::InvalidOpcode,
        };
        self.fail(core, sqe, Status::permanent(refused));
        Taken::Ended
    }

    /// The lane that a command is for; any of them for a Flush of all namespaces.
    fn find_lane(core: &Core, sqe: &Sqe) -> Result<LaneId, StatusCode> {
        if NvmOpcode::from_u8(sqe.opcode()).is_none() {
            return Err(StatusCode::InvalidOpcode);
        }
        let lane = if sqe.nsid() == Nsid::ALL && sqe.opcode() == NvmOpcode::Flush as u8 {
            core.lanes.all().next()
        } else {
            core.lanes.find(sqe.nsid())
        };
        lane.ok_or(StatusCode::InvalidNamespace)
    }

    /// Prepares for the data of a command: it comes with the capsule, or is asked for when there is a buffer.
    pub(super) fn take_host_data(
        &mut self,
        core: &mut Core,
        index: u16,
        sgl: SglDescriptor,
        data_bytes: u32,
        layout: &PduLayout,
    ) -> Taken {
        let key = self.command_key(index);
        let slot = &mut self.slots[usize::from(index)];
        slot.data_bytes = data_bytes;
        let SglDescriptor::InCapsule { .. } = sgl else {
            slot.stage = Stage::Waiting;
            match slot.lane {
                Some(lane) => core.lanes.wait(lane, key),
                // Connect and authentication: one small buffer a connection, which the pool for capsules has.
                None => match core.capsule_buffer(None, data_bytes as usize) {
                    CoreBuffer::Lent(buffer) => {
                        slot.buffer = Some((buffer, Pool::Capsule));
                        self.ask(core, index);
                    }
                    CoreBuffer::Later | CoreBuffer::Refused => {
                        self.complete(core, index, Status::new(StatusCode::ConnectControllerBusy), 0);
                    }
                },
            }
            return Taken::Ended;
        };
        if let Err(error) = sgl.in_capsule_range(layout.data_bytes) {
            self.complete(core, index, Status::permanent(error.status()), 0);
            return Taken::Ended;
        }
        match core.capsule_buffer(slot.lane, layout.data_bytes as usize) {
            CoreBuffer::Lent(buffer) => {
                slot.buffer = Some((buffer, Pool::Capsule));
                slot.stage = Stage::Capsule;
                core.taken.add(Path::InCapsule, slot.lane.is_some().into());
                self.expect_data(Destination::Slot { slot: index, at: 0 }, layout);
                Taken::Continues
            }
            CoreBuffer::Later => {
                self.free_slot(core, index);
                Taken::Later
            }
            CoreBuffer::Refused => {
                // This namespace has taken its share of the memory for data in capsules, and others need the rest.
                self.complete(core, index, Status::new(StatusCode::CommandInterrupted), 0);
                Taken::Ended
            }
        }
    }

    /// All data of a command has come.
    pub(crate) fn data_ready(&mut self, core: &mut Core, index: u16, now: Instant) {
        let key = self.command_key(index);
        let slot = &mut self.slots[usize::from(index)];
        if slot.corrupt {
            self.complete(core, index, Status::new(StatusCode::TransientTransportError), 0);
            return;
        }
        let Some((buffer, pool)) = &mut slot.buffer else { return };
        if *pool == Pool::Capsule
            && let Ok(SglDescriptor::InCapsule { offset, .. }) = slot.sqe.sgl()
            && offset > 0
        {
            // Checked against the capsule's data, which the buffer holds.
            let from = offset as usize;
            buffer.copy_within(from..from + slot.data_bytes as usize, 0);
        }
        if matches!(slot.work, Work::AuthSend) {
            self.auth_message(core, index);
            return;
        }
        let Some(lane) = slot.lane else {
            let data = ConnectData::decode(&buffer[..CONNECT_DATA_LEN]);
            self.connect(core, index, data, now);
            return;
        };
        let data = &buffer[..slot.data_bytes as usize];
        let taken = match core.lanes.get(lane) {
            Some(lane) => slot.work.take_data(lane.namespace(), data),
            None => Err(StatusCode::InvalidNamespace),
        };
        match taken {
            Ok(()) => {
                slot.stage = Stage::Ready;
                core.lanes.ready(lane, key);
            }
            Err(code) => self.complete(core, index, Status::permanent(code), 0),
        }
    }

    /// Becomes a queue.
    fn connect(
        &mut self,
        core: &mut Core,
        index: u16,
        data: Result<ConnectData, nvferry_wire::fabrics::ConnectInvalid>,
        now: Instant,
    ) {
        let sqe = self.slots[usize::from(index)].sqe;
        let counters = Arc::new(IoCounters::default());
        let connected = Connect::decode(&sqe).map_err(Refusal::from).and_then(|connect| {
            let data = data?;
            let controller = if connect.qid.is_admin() {
                core.subsystem.connect_admin(&connect, &data, self.ends)?
            } else {
                core.subsystem.connect_io(&connect, &data, &counters)?
            };
            Ok((connect, controller))
        });
        let (connect, controller) = match connected {
            Ok(connected) => connected,
            Err(Refusal { status, result }) => {
                tracing::debug!(target: "nvferry::target", peer = self.ends.peer(), %status, "refused a Connect");
                self.complete(core, index, status, result);
                return;
            }
        };
        tracing::info!(
            target: "nvferry::target", peer = self.ends.peer(), host = %controller.host, cntlid = controller.id.0, qid = connect.qid.0, "queue connected"
        );
        self.phase = Phase::Live;
        let auth = core.subsystem.auth_terms(&controller).map(QueueAuth::new);
        if auth.is_some() && connect.qid.is_admin() {
            controller.set_proof(HostProof::Due);
        }
        self.phase_deadline = auth.is_some().then(|| now + limits::AUTHENTICATION_TIMEOUT);
        let result = ConnectResult {
            cntlid: controller.id,
            authentication_required: auth.is_some(),
            secure_channel_required: false,
        };
        let sqhd = if connect.disable_sq_flow_control { None } else { Some(1) };
        let keep_alive = if connect.qid.is_admin() { controller.kato().map(|kato| now + kato) } else { None };
        self.free_slot(core, index);
        // A host that does without flow control is told so (base specification, Connect response).
        self.respond(core, Cqe::success(sqe.cid(), sqhd.unwrap_or(0xFFFF), result.to_result()));
        self.queue = Some(Queue {
            controller: Arc::clone(&controller),
            qid: connect.qid,
            counters,
            entries: connect.sq_entries,
            sqhd,
            events: Vec::new(),
            auth,
            keep_alive,
        });
        if !self.is_stranger() {
            self.becomes_known(core);
        }
        if connect.qid.is_admin() {
            controller.set_admin_queue(QueueHandle { mailbox: Arc::clone(&core.mailbox), key: self.key });
        } else {
            self.place(core, connect.qid);
        }
    }

    /// Decides which reactor this I/O queue lives on, and says so to its controller if it is this one.
    fn place(&mut self, core: &mut Core, qid: QueueId) {
        let reactor = core.placement.choose();
        self.placed_on = Some(reactor);
        if reactor == core.index {
            self.settle_here(core, qid);
        } else {
            self.moving_to = Some(reactor);
            core.leaving.push(self.key.index);
        }
    }

    /// Says to the controller that this queue lives here; closes when the controller is gone meanwhile.
    pub(crate) fn settle_here(&mut self, core: &mut Core, qid: QueueId) {
        let handle = QueueHandle { mailbox: Arc::clone(&core.mailbox), key: self.key };
        let open = self.queue.as_ref().is_some_and(|queue| queue.controller.place_io_queue(qid, handle));
        if !open {
            self.close(core);
        }
    }

    /// Answers a command on an I/O queue that was never begun.
    fn fail(&mut self, core: &mut Core, sqe: &Sqe, status: Status) {
        if let Some(queue) = &self.queue {
            queue.counters.failed(kind_of(sqe), status);
        }
        self.note_failure(sqe, status);
        self.respond(core, Cqe::new(sqe.cid(), self.sqhd(), status));
    }

    pub(super) fn new_slot(&mut self, sqe: &Sqe, work: Work) -> Result<u16, TermReq> {
        let slot = Slot {
            stage: Stage::Waiting,
            sqe: *sqe,
            work,
            lane: None,
            buffer: None,
            lent: None,
            begun_us: 0,
            data_bytes: 0,
            received: 0,
            corrupt: false,
            orphan: None,
        };
        // More commands than the queue has entries: the host has lost count.
        self.take_slot(slot).ok_or(TermReq { fes: FatalErrorStatus::PduSequenceError, fei: 0 })
    }
}

/// What a command that was never begun counts as.
fn kind_of(sqe: &Sqe) -> CommandKind {
    match NvmOpcode::from_u8(sqe.opcode()) {
        Some(NvmOpcode::Read | NvmOpcode::Compare) => CommandKind::Read,
        Some(NvmOpcode::Write | NvmOpcode::WriteZeroes | NvmOpcode::DatasetManagement) => CommandKind::Write,
        Some(NvmOpcode::Flush) => CommandKind::Flush,
        _ => CommandKind::Other,
    }
}

/// What became of a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Taken {
    /// Its data comes next.
    Continues,
    /// It has been carried out and answered, with the data behind its header.
    Straight,
    /// It has been answered, or goes on without the capsule's data.
    Ended,
    /// There is no buffer for its data now: look at it again later.
    Later,
}
