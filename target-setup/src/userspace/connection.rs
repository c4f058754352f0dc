//! A connection: one queue pair of one host, as a state machine over a byte stream.
//!
//! It reads no clock, starts no thread and opens no socket: its worker tells it what is ready and what time it is. So
//! the same code serves real sockets and a simulation.
//!
//! This file has its parts and its end; [`receive`](super::receive) takes PDUs in, [`dispatch`](super::dispatch)
//! takes commands, [`complete`](super::complete) ends them.

use super::auth::QueueAuth;
use super::command::Work;
use super::controller::{Controller, ControllerKind};
use super::core::Core;
use super::counters::{IoCounters, count};
use super::lane::{CommandKey, LaneId};
use super::limits;
use super::mailbox::ConnectionKey;
use super::receive::Receiving;
use super::send::{Payload, SendQueue, Sent};
use super::subsystem::Subsystem;
use super::worker::Scratch;
use nvferry_io::{PoolBuf, Stream};
use nvferry_wire::pdu::{Framing, MAX_HEADER_BYTES, PduRules, Role, TERM_REQ_MAX_LEN, TermReq};
use nvferry_wire::{CommandId, QueueId, Sqe};
use std::net::SocketAddr;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;
use tracing::field::DisplayValue;

/// How far a connection has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Nothing has been agreed on yet.
    Opening,
    /// ICReq and ICResp have passed; Connect has not.
    Opened,
    /// It is a queue.
    Live,
    /// It has said goodbye, and waits for the host to see it.
    Lingering,
    /// The stream is gone; operations may still be under way.
    Closed,
}

/// The queue that a connection has become.
pub(crate) struct Queue {
    pub(crate) controller: Arc<Controller>,
    pub(crate) qid: QueueId,
    pub(crate) counters: Arc<IoCounters>,
    pub(crate) entries: u32,
    /// Position of the head of the submission queue; nothing where the host does without flow control.
    pub(crate) sqhd: Option<u16>,
    /// Asynchronous Event Requests that wait for something to happen.
    pub(crate) events: Vec<CommandId>,
    /// What the host has to prove, if anything.
    pub(crate) auth: Option<QueueAuth>,
    /// When the host will have been silent for too long.
    pub(crate) keep_alive: Option<Instant>,
}

/// Where a command stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stage {
    /// No command is here.
    Free,
    /// Its in-capsule data arrives.
    Capsule,
    /// It waits for a buffer.
    Waiting,
    /// It has its buffer, and the host has been asked for its data.
    Asked,
    /// It waits for the engine.
    Ready,
    /// The engine works on it.
    InEngine,
    /// It waits for the host to take what was sent to it before.
    Parked,
    /// The authentication message that it brought is being taken in.
    Proving,
}

/// Which pool a buffer is from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pool {
    Data,
    Capsule,
}

/// A command on its way. Its place among the connection's slots is its transfer tag.
pub(crate) struct Slot {
    pub(crate) stage: Stage,
    pub(crate) sqe: Sqe,
    pub(crate) work: Work,
    pub(crate) lane: Option<LaneId>,
    pub(crate) buffer: Option<(PoolBuf, Pool)>,
    /// The engine has the buffer, which is from this pool.
    pub(crate) lent: Option<Pool>,
    /// When it was taken, on its core's clock.
    pub(crate) begun_us: u64,
    /// Bytes of the command's data, in whichever direction.
    pub(crate) data_bytes: u32,
    /// Bytes of it that the host has sent.
    pub(crate) received: u32,
    /// A data digest did not match.
    pub(crate) corrupt: bool,
    /// Its connection has ended while the engine changes these bytes for it.
    pub(crate) orphan: Option<Range<u64>>,
}

/// The two ends of a connection, where they have addresses.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Ends {
    pub(crate) peer: Option<SocketAddr>,
    pub(crate) local: Option<SocketAddr>,
}

impl Ends {
    /// The host's address as events tell it.
    pub(crate) fn peer(&self) -> Option<DisplayValue<SocketAddr>> {
        self.peer.map(tracing::field::display)
    }
}

/// One connection.
pub(crate) struct Connection<S> {
    pub(crate) key: ConnectionKey,
    pub(crate) ends: Ends,
    pub(crate) stream: Option<S>,
    pub(crate) phase: Phase,
    /// What the host may send.
    pub(crate) rules: PduRules,
    /// How PDUs to the host are built.
    pub(crate) framing: Framing,
    pub(crate) receiving: Receiving,
    /// The beginning of a header, or of a data digest, that has not wholly arrived.
    pub(crate) carry: [u8; MAX_HEADER_BYTES],
    pub(crate) carry_bytes: usize,
    /// The length of the last capsule that was taken whole, with its data; 1 before the first.
    pub(crate) capsule_bytes: usize,
    /// Received and not yet looked at: the connection is paused, or moves to another reactor.
    pub(crate) leftover: Vec<u8>,
    /// Looks at nothing for now: there is no buffer for in-capsule data, or too much waits to be sent.
    pub(crate) paused: bool,
    pub(crate) sending: SendQueue,
    pub(crate) send_blocked: bool,
    pub(crate) queue: Option<Queue>,
    pub(crate) slots: Vec<Slot>,
    pub(crate) free_slots: Vec<u16>,
    /// Operations in the engine.
    pub(crate) in_engine: usize,
    /// Commands whose data the host has been asked for.
    pub(crate) asked: usize,
    /// Commands that wait for the host to take what was sent.
    pub(crate) parked: Vec<u16>,
    /// The reactor that this I/O queue was given.
    pub(crate) placed_on: Option<usize>,
    /// The same, until it has moved there.
    pub(crate) moving_to: Option<usize>,
    /// Among those whose readiness may interest the reactor in another way than before.
    pub(crate) touched: bool,
    /// The handshake, or lingering, ends by then.
    pub(crate) phase_deadline: Option<Instant>,
    /// Why it ends, once that is known; the first reason counts.
    pub(crate) ending: Option<&'static str>,
    /// The host owes bytes, and must send enough of them by then.
    pub(crate) receive_deadline: Option<Instant>,
    /// Received since that was set.
    pub(crate) receive_progress: usize,
    /// Bytes wait for the host to take them, and it must take enough of them by then.
    pub(crate) send_deadline: Option<Instant>,
    /// Sent since that was set.
    pub(crate) send_progress: usize,
}

impl<S: Stream> Connection<S> {
    pub(crate) fn new(stream: S, ends: Ends, key: ConnectionKey, now: Instant) -> Self {
        Self {
            key,
            ends,
            stream: Some(stream),
            phase: Phase::Opening,
            rules: PduRules::initial(Role::Controller),
            framing: Framing::default(),
            receiving: Receiving::Header,
            carry: [0; MAX_HEADER_BYTES],
            carry_bytes: 0,
            capsule_bytes: 1,
            leftover: Vec::new(),
            paused: false,
            sending: SendQueue::default(),
            send_blocked: false,
            queue: None,
            slots: Vec::new(),
            free_slots: Vec::new(),
            in_engine: 0,
            asked: 0,
            parked: Vec::new(),
            placed_on: None,
            moving_to: None,
            touched: false,
            phase_deadline: Some(now + limits::HANDSHAKE_TIMEOUT),
            ending: None,
            receive_deadline: None,
            receive_progress: 0,
            send_deadline: None,
            send_progress: 0,
        }
    }

    pub(crate) fn command_key(&self, slot: u16) -> CommandKey {
        CommandKey { connection: self.key.index, slot }
    }

    /// Whether the worker should read from the stream.
    pub(crate) fn wants_read(&self) -> bool {
        self.stream.is_some() && !self.paused && self.moving_to.is_none() && !self.has_backlog()
    }

    /// Whether so much waits to be sent that nothing more may be begun.
    pub(crate) fn has_backlog(&self) -> bool {
        self.sending.waiting_bytes() > limits::SEND_BACKLOG_BYTES
    }

    /// Whether the worker should say when the stream takes more.
    pub(crate) fn wants_write(&self) -> bool {
        self.stream.is_some() && self.send_blocked
    }

    /// Whether commands are under way (events that wait for something to happen are not).
    pub(crate) fn is_busy(&self) -> bool {
        self.slots.len() > self.free_slots.len() || !self.sending.is_empty()
    }

    /// Whether nothing is left of it.
    pub(crate) fn is_finished(&self) -> bool {
        self.phase == Phase::Closed && self.in_engine == 0
    }

    /// How many commands the host may have under way.
    pub(crate) fn max_slots(&self) -> usize {
        self.queue.as_ref().map_or(1, |queue| queue.entries as usize)
    }

    /// Whether the host may have one more command under way.
    pub(crate) fn has_room(&self) -> bool {
        !self.free_slots.is_empty() || self.slots.len() < self.max_slots()
    }

    /// A place for a command; nothing when the host has filled its queue.
    pub(crate) fn take_slot(&mut self, slot: Slot) -> Option<u16> {
        if let Some(index) = self.free_slots.pop() {
            self.slots[usize::from(index)] = slot;
            return Some(index);
        }
        if !self.has_room() {
            return None;
        }
        self.slots.push(slot);
        // A queue has at most MAX_QUEUE_ENTRIES, 1024.
        Some((self.slots.len() - 1) as u16)
    }

    /// Gives a command's place back, with everything it holds.
    pub(crate) fn free_slot(&mut self, core: &mut Core, index: u16) {
        let slot = &mut self.slots[usize::from(index)];
        if slot.stage == Stage::Free {
            return;
        }
        if slot.stage == Stage::Asked {
            self.asked -= 1;
        }
        let was_auth = matches!(slot.work, Work::AuthSend);
        slot.stage = Stage::Free;
        let lane = slot.lane.take();
        if let Work::Flush { rest } = &mut slot.work {
            for other in rest.drain(..) {
                core.lanes.leave(other);
            }
        }
        if let Some((buffer, pool)) = slot.buffer.take() {
            core.buffer_left(lane, pool, buffer.len());
        }
        if let Some(lane) = lane {
            core.lanes.leave(lane);
        }
        self.free_slots.push(index);
        if was_auth {
            self.auth_send_ended(index);
        }
    }

    /// Sends what waits, as far as the stream takes it.
    pub(crate) fn flush(&mut self, core: &mut Core, scratch: &mut Scratch, now: Instant) {
        let Some(stream) = &mut self.stream else { return };
        if self.sending.is_empty() {
            return;
        }
        match self.sending.send(stream, &mut scratch.iovecs, &mut scratch.empty_pages) {
            Ok((taken, sent)) => {
                core.take_back_pipes(&mut scratch.empty_pages);
                self.send_blocked = sent == Sent::Blocked;
                self.send_progress += taken;
                let enough = self.send_progress >= limits::MIN_PROGRESS_BYTES;
                if enough || !self.send_blocked || self.send_deadline.is_none() {
                    self.send_deadline = self.send_blocked.then(|| now + limits::SEND_STALL_TIMEOUT);
                    self.send_progress = 0;
                }
                if taken > 0 {
                    core.released = true;
                    self.unpark(core);
                    if self.paused && !self.has_backlog() {
                        core.resumable.push_back(self.key);
                    }
                }
                self.note_debts(now);
            }
            Err(error) => {
                tracing::debug!(target: "nvferry::target", peer = self.ends.peer(), %error, "connection ended while sending");
                self.ends_because("the connection broke while sending");
                self.close(core);
            }
        }
    }

    /// Lets commands go on that waited for the host to take what was sent.
    fn unpark(&mut self, core: &mut Core) {
        for index in std::mem::take(&mut self.parked) {
            let key = self.command_key(index);
            let slot = &mut self.slots[usize::from(index)];
            if let (Stage::Parked, Some(lane)) = (slot.stage, slot.lane) {
                slot.stage = Stage::Waiting;
                core.lanes.wait(lane, key);
            }
        }
    }

    /// Ends the connection because the host broke the protocol; tells it why. `header` is what offended.
    pub(crate) fn terminate(&mut self, core: &mut Core, reason: TermReq, header: &[u8], now: Instant) {
        tracing::warn!(target: "nvferry::target", peer = self.ends.peer(), reason = %reason.fes, fei = reason.fei, "a host broke the protocol; ending its connection");
        count(&core.subsystem.faults.protocol_errors);
        self.ends_because("the host broke the protocol");
        self.abandon(core);
        let mut pdu = [0; TERM_REQ_MAX_LEN];
        let len = reason.encode(Role::Controller, header, &mut pdu);
        self.sending.push(Payload::Bytes(pdu[..len].into()), None, |_| 0);
        self.linger(core, now);
    }

    /// Goes on just long enough for the host to read what was sent to it.
    pub(crate) fn linger(&mut self, core: &mut Core, now: Instant) {
        self.abandon(core);
        self.phase = Phase::Lingering;
        self.phase_deadline = Some(now + limits::TERMINATE_LINGER);
        core.has_to_send(self.key.index);
    }

    /// Whether nobody has shown who is there.
    pub(crate) fn is_stranger(&self) -> bool {
        self.queue.as_ref().is_none_or(|queue| {
            queue.controller.kind == ControllerKind::Discovery || queue.auth.as_ref().is_some_and(|it| !it.is_proved())
        })
    }

    /// It is no stranger any more.
    pub(crate) fn becomes_known(&mut self, core: &mut Core) {
        core.strangers.leave(self.key);
        core.subsystem.known_connections.fetch_add(1, Ordering::Relaxed);
    }

    /// Ends the connection at once. What the engine still does goes on until it ends by itself.
    pub(crate) fn close(&mut self, core: &mut Core) {
        if self.phase == Phase::Closed {
            return;
        }
        self.abandon(core);
        self.phase = Phase::Closed;
        self.stream = None;
        self.sending.clear();
        self.send_blocked = false;
        self.phase_deadline = None;
        core.strangers.leave(self.key);
        core.released = true;
        core.ended.push(self.key.index);
    }

    /// Gives up all commands but those that the engine works on, and the controller where this is its admin queue.
    fn abandon(&mut self, core: &mut Core) {
        for index in 0..self.slots.len() as u16 {
            let key = self.command_key(index);
            let slot = &mut self.slots[usize::from(index)];
            match slot.stage {
                Stage::Free => {}
                Stage::InEngine => {
                    if slot.orphan.is_none()
                        && let Some(changes) = slot.work.changes()
                        && let Some(lane) = slot.lane.and_then(|lane| core.lanes.get(lane))
                    {
                        slot.orphan = Some(changes.clone());
                        lane.namespace().orphans.add(changes);
                    }
                }
                Stage::Waiting | Stage::Ready => {
                    if let Some(lane) = slot.lane {
                        core.lanes.forget(lane, key);
                    }
                    self.free_slot(core, index);
                }
                Stage::Capsule | Stage::Asked | Stage::Parked | Stage::Proving => self.free_slot(core, index),
            }
        }
        self.parked.clear();
        self.leftover = Vec::new();
        self.paused = false;
        self.receiving = Receiving::Header;
        self.carry_bytes = 0;
        self.receive_deadline = None;
        self.send_deadline = None;
        if let Some(queue) = &mut self.queue {
            queue.events.clear();
            queue.keep_alive = None;
            if queue.qid.is_admin() {
                core.subsystem.remove_controller(&queue.controller);
            } else {
                queue.controller.io_queue_closed(queue.qid);
            }
        }
    }

    /// Says why it is about to end. Those who come later only tell what follows from that.
    pub(crate) fn ends_because(&mut self, reason: &'static str) {
        self.ending.get_or_insert(reason);
    }

    /// The last of a connection: it no longer counts, and its queue no longer belongs to the controller.
    pub(crate) fn unregister(&mut self, subsystem: &Subsystem) {
        subsystem.connections.fetch_sub(1, Ordering::Relaxed);
        if !self.is_stranger() {
            subsystem.known_connections.fetch_sub(1, Ordering::Relaxed);
        }
        let Some(queue) = self.queue.take() else { return };
        let (controller, qid) = (&queue.controller, queue.qid);
        tracing::info!(
            target: "nvferry::target", peer = self.ends.peer(), host = %controller.host, cntlid = controller.id.0,
            qid = qid.0, reason = self.ending.unwrap_or("the target ended it"), "queue disconnected"
        );
        if !qid.is_admin() {
            controller.remove_io_queue(qid);
        }
    }

    /// The next moment at which time matters.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        let keep_alive = self.queue.as_ref().and_then(|queue| queue.keep_alive);
        [self.phase_deadline, keep_alive, self.receive_deadline, self.send_deadline].into_iter().flatten().min()
    }

    /// Does what is due by now.
    pub(crate) fn on_time(&mut self, core: &mut Core, now: Instant) {
        let due = |deadline: Option<Instant>| deadline.is_some_and(|deadline| deadline <= now);
        let reason = if due(self.phase_deadline) {
            if self.phase == Phase::Lingering {
                self.close(core);
                return;
            }
            if self.phase == Phase::Live {
                count(&core.subsystem.faults.refused_hosts);
                "it did not authenticate in time"
            } else {
                "it did not connect a queue in time"
            }
        } else if let Some(queue) = self.queue.as_ref().filter(|queue| due(queue.keep_alive)) {
            queue.controller.fail();
            "its keep-alive timeout passed"
        } else if due(self.receive_deadline) && self.wants_read() {
            "it did not send what it owed"
        } else if due(self.send_deadline) {
            "it did not take what was sent to it"
        } else {
            return;
        };
        tracing::warn!(target: "nvferry::target", peer = self.ends.peer(), reason, "closing a host's connection");
        count(&core.subsystem.faults.timeouts);
        self.ends_because(reason);
        self.close(core);
    }
}
