//! A worker: the connections of one reactor, and what they share.
//!
//! It is driven from outside: its reactor (or a simulation) says which stream or engine is ready and what time it is,
//! then calls [`Worker::settle`], which does everything that can be done and leaves the rest for the next event.

use super::command::{After, OperationBuffer};
use super::connection::{Connection, Ends, Phase, Pool, Stage};
use super::core::{Core, LentPages};
use super::counters::count;
use super::lane::{CommandKey, LaneId};
use super::limits;
use super::mailbox::{ConnectionKey, Letter, Mailbox};
use super::placement::Placement;
use super::subsystem::Subsystem;
use nvferry_io::engine::InlineStats;
use nvferry_io::fast_paths::{Force, Path};
use nvferry_io::vector::IoVecs;
use nvferry_io::{AlignedBuf, IoBuf, IoCompletion, IoEngine, IoRequest, Stream, clock};
use nvferry_wire::{Status, StatusCode};
use std::sync::Arc;
use std::time::Instant;

/// Memory that a worker uses for one receive or send at a time.
pub(crate) struct Scratch {
    pub(crate) buffer: AlignedBuf,
    pub(crate) iovecs: IoVecs,
    /// Pipes that have been emptied.
    pub(crate) empty_pages: Vec<LentPages>,
}

/// One reactor's connections, and what they share.
pub(crate) struct Worker<S> {
    pub(crate) core: Core,
    scratch: Scratch,
    connections: Vec<Option<Box<Connection<S>>>>,
    generations: Vec<u32>,
    free: Vec<u32>,
    done: Vec<IoCompletion>,
    /// An empty list whose room is used again.
    spare: Vec<u32>,
    /// Queues that are to live on other reactors.
    departures: Vec<(usize, Box<Connection<S>>)>,
    /// No connection has a deadline before this.
    next_deadline: Option<Instant>,
    /// Connections whose readiness may interest the reactor in another way than before.
    touched: Vec<u32>,
    /// What may begin before what has ended is sent.
    round: Round,
}

/// What is left of a round: the reads that begin between two sends. A host that gets the first data early has something
/// to do while the rest is read; more rounds than that only cost system calls and wake-ups.
#[derive(Debug, Clone, Copy, Default)]
struct Round {
    commands: usize,
    bytes: usize,
}

impl Round {
    /// The first of a turn that finds so many commands waiting.
    fn of(waiting: usize, force: Force) -> Self {
        match force {
            Force::Auto => {}
            Force::On => return Self { commands: 1, bytes: limits::ROUND_BYTES },
            Force::Off => return Self { commands: usize::MAX, bytes: usize::MAX },
        }
        let few = waiting <= 2 * limits::SHORT_ROUND_COMMANDS;
        let commands = if few { limits::SHORT_ROUND_COMMANDS } else { limits::LONG_ROUND_COMMANDS };
        Self { commands, bytes: limits::ROUND_BYTES }
    }

    fn is_over(self) -> bool {
        self.commands == 0 || self.bytes == 0
    }

    fn take(&mut self, bytes: usize) {
        self.commands = self.commands.saturating_sub(1);
        self.bytes = self.bytes.saturating_sub(bytes);
    }
}

impl<S: Stream> Worker<S> {
    pub(crate) fn new(
        index: usize,
        subsystem: Arc<Subsystem>,
        placement: Arc<Placement>,
        mailbox: Arc<Mailbox>,
        engine: Box<dyn IoEngine>,
    ) -> Self {
        Self {
            core: Core::new(index, subsystem, placement, mailbox, engine),
            scratch: Scratch {
                buffer: AlignedBuf::pages(limits::RECEIVE_BUFFER_BYTES),
                iovecs: IoVecs::new(),
                empty_pages: Vec::new(),
            },
            connections: Vec::new(),
            generations: Vec::new(),
            free: Vec::new(),
            done: Vec::new(),
            spare: Vec::new(),
            departures: Vec::new(),
            next_deadline: None,
            touched: Vec::new(),
            round: Round::default(),
        }
    }

    /// Takes a new connection. Returns its place.
    pub(crate) fn accept(&mut self, stream: S, ends: Ends, now: Instant) -> u32 {
        let key = self.new_key();
        let connection = Box::new(Connection::new(stream, ends, key, now));
        self.put(connection);
        self.meet(key);
        key.index
    }

    /// A connection is a stranger's. Where there are too many, the oldest is closed.
    fn meet(&mut self, key: ConnectionKey) {
        let Some(oldest) = self.core.strangers.enter(key) else { return };
        self.with(oldest.index, |connection, core, _| {
            tracing::debug!(target: "nvferry::target", peer = connection.ends.peer(), "closing a connection for a newer one");
            count(&core.subsystem.faults.refused_connections);
            connection.ends_because("too many connected that did not show who they are");
            connection.close(core);
        });
    }

    /// Takes a queue that was connected on another worker. Returns its place.
    pub(crate) fn adopt(&mut self, mut connection: Box<Connection<S>>, now: Instant) -> u32 {
        let key = self.new_key();
        connection.key = key;
        connection.moving_to = None;
        connection.touched = false;
        if let Some(qid) = connection.queue.as_ref().map(|queue| queue.qid) {
            connection.settle_here(&mut self.core, qid);
        }
        self.core.tick(now);
        connection.resume(&mut self.core, now);
        self.core.has_to_send(key.index);
        let is_stranger = connection.is_stranger() && connection.phase != Phase::Closed;
        self.put(connection);
        if is_stranger {
            self.meet(key);
        }
        key.index
    }

    fn new_key(&mut self) -> ConnectionKey {
        let index = self.free.pop().unwrap_or_else(|| {
            self.connections.push(None);
            self.generations.push(0);
            // Far fewer: connections are bounded.
            (self.connections.len() - 1) as u32
        });
        ConnectionKey { index, generation: self.generations[index as usize] }
    }

    fn put(&mut self, mut connection: Box<Connection<S>>) {
        let index = connection.key.index;
        if let Some(deadline) = connection.deadline() {
            self.next_deadline = Some(self.next_deadline.map_or(deadline, |next| next.min(deadline)));
        }
        if !std::mem::replace(&mut connection.touched, true) {
            self.touched.push(index);
        }
        self.connections[index as usize] = Some(connection);
    }

    /// The connection at a place.
    pub(crate) fn connection(&self, index: u32) -> Option<&Connection<S>> {
        self.connections.get(index as usize)?.as_deref()
    }

    /// The places that connections have, or had.
    #[cfg(any(test, feature = "simulation"))]
    pub(crate) fn places(&self) -> std::ops::Range<u32> {
        0..self.connections.len() as u32
    }

    /// Lets `act` change a connection, if it is there.
    fn with(&mut self, index: u32, act: impl FnOnce(&mut Connection<S>, &mut Core, &mut Scratch)) {
        if let Some(mut connection) = self.connections.get_mut(index as usize).and_then(Option::take) {
            act(&mut connection, &mut self.core, &mut self.scratch);
            self.put(connection);
        }
    }

    /// Something can be read from a stream.
    pub(crate) fn on_readable(&mut self, index: u32, now: Instant) {
        self.core.tick(now);
        self.core.lanes.refresh(&self.core.subsystem.namespaces);
        self.with(index, |connection, core, scratch| connection.receive(core, scratch, now));
    }

    /// A stream takes more.
    pub(crate) fn on_writable(&mut self, index: u32, now: Instant) {
        self.with(index, |connection, core, scratch| connection.flush(core, scratch, now));
    }

    /// Letters may have come.
    pub(crate) fn on_mail(&mut self, now: Instant) {
        for letter in self.core.mailbox.take() {
            match letter {
                Letter::CloseQueue(key) if self.is_current(key) => {
                    self.with(key.index, |connection, core, _| {
                        connection.ends_because("its controller ended, or was shut down or reset by the host, or the host connected this queue anew");
                        connection.close(core);
                    });
                }
                Letter::AsyncEvents(key) if self.is_current(key) => {
                    self.with(key.index, |connection, core, _| connection.report_events(core));
                }
                Letter::AuthTaken(key) if self.is_current(key) => {
                    self.with(key.index, |connection, core, _| connection.auth_taken(core, now));
                }
                Letter::OrphanEnded => self.core.lanes.orphan_ended(),
                Letter::CloseQueue(_) | Letter::AsyncEvents(_) | Letter::AuthTaken(_) | Letter::Refresh => {}
            }
        }
    }

    fn is_current(&self, key: ConnectionKey) -> bool {
        self.connection(key.index).is_some_and(|connection| connection.key == key)
    }

    /// The next moment at which [`Self::on_time`] has something to do.
    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        [self.next_deadline, self.core.decay_at].into_iter().flatten().min()
    }

    /// Does what is due by now.
    pub(crate) fn on_time(&mut self, now: Instant) {
        self.core.decay_buffers(now);
        if self.next_deadline.is_none_or(|deadline| deadline > now) {
            return;
        }
        self.next_deadline = None;
        for index in 0..self.connections.len() as u32 {
            self.with(index, |connection, core, _| connection.on_time(core, now));
        }
    }

    /// Does everything that can be done now: starts commands, ends them, sends.
    pub(crate) fn settle(&mut self, now: Instant) {
        self.core.tick(now);
        self.core.lanes.refresh(&self.core.subsystem.namespaces);
        let round = Round::of(self.core.lanes.waiting(), self.core.paths.rounds);
        loop {
            self.round = round;
            self.run_lanes();
            let ended = self.end_operations();
            self.resume_paused(now);
            self.send(now);
            let released = std::mem::take(&mut self.core.released);
            if released {
                for lane in std::mem::take(&mut self.core.blocked) {
                    self.core.lanes.queue(lane);
                }
            }
            let again = ended > 0 || self.core.lanes.turns() > 0 || (released && !self.core.resumable.is_empty());
            if !again {
                break;
            }
        }
        self.core.watch_buffers(now);
        if self.core.subsystem.is_draining() {
            self.close_idle();
        }
        self.bury();
        self.part();
    }

    /// Gives each lane that has something to do its turn, as far as the round goes.
    fn run_lanes(&mut self) {
        for _ in 0..self.core.lanes.turns() {
            if self.round.is_over() {
                break;
            }
            let Some(lane) = self.core.lanes.next_turn() else { break };
            if !(self.run_ready(lane) & self.run_waiting(lane)) {
                self.core.blocked.push(lane);
            }
            if let Some(lane) = self.core.lanes.get(lane) {
                lane.counters.waiting.set((lane.waiting.len() + lane.ready.len() + lane.held_up.len()) as u64);
            }
        }
    }

    /// Starts the lane's commands that have all they need. Tells whether none is left.
    fn run_ready(&mut self, id: LaneId) -> bool {
        loop {
            let Some(lane) = self.core.lanes.get_mut(id) else { return true };
            let Some(&key) = lane.ready.front() else { return true };
            let in_engine = lane.in_engine;
            if !self.core.engine_has_room(in_engine) {
                return false;
            }
            if let Some(lane) = self.core.lanes.get_mut(id) {
                lane.ready.pop_front();
            }
            if !self.start(id, key) {
                return false;
            }
        }
    }

    /// Gives the lane's commands the buffers that they wait for. Tells whether none is left, but for the next round.
    fn run_waiting(&mut self, id: LaneId) -> bool {
        // What is sent meanwhile makes more of it, of which the next turn knows.
        let mut left = self.core.data_left();
        loop {
            let Some(lane) = self.core.lanes.get_mut(id) else { return true };
            let Some(&key) = lane.waiting.front() else { return true };
            if self.round.is_over() {
                self.core.taken.add(Path::CutRounds, 1);
                self.core.lanes.queue(id);
                return true;
            }
            let held = lane.data_bytes;
            let Some(connection) = self.connections.get_mut(key.connection as usize).and_then(Option::as_mut) else {
                lane.waiting.pop_front();
                continue;
            };
            let slot = &mut connection.slots[usize::from(key.slot)];
            let need = slot.data_bytes as usize;
            self.round.take(need);
            if held > 0 && held + need > left {
                return false;
            }
            let unsent = connection.sending.held_bytes();
            if unsent > 0 && unsent + need > left {
                // The host does not take what it asked for: others go first.
                lane.waiting.pop_front();
                slot.stage = Stage::Parked;
                connection.parked.push(key.slot);
                continue;
            }
            if let super::command::Work::Read { offset } = slot.work
                && slot.data_bytes >= self.core.paths.pages.from_bytes(limits::MIN_PAGES_BYTES)
                && !connection.framing.digests.data
                && offset + need as u64 <= lane.namespace().info.size_bytes
                && let Some(pages) = self.core.pages(id, offset, need)
            {
                if let Some(lane) = self.core.lanes.get_mut(id) {
                    lane.waiting.pop_front();
                }
                connection.complete_with_pages(&mut self.core, key.slot, pages);
                continue;
            }
            let Some(buffer) = self.core.data_pool.get(need) else { return false };
            let Some(lane) = self.core.lanes.get_mut(id) else { return true };
            lane.waiting.pop_front();
            lane.data_bytes += buffer.len();
            left = left.saturating_sub(buffer.len());
            slot.buffer = Some((buffer, Pool::Data));
            if matches!(slot.work, super::command::Work::Read { .. }) {
                slot.stage = Stage::Ready;
                lane.ready.push_back(key);
                if !self.run_ready(id) {
                    return false;
                }
            } else {
                connection.ask(&mut self.core, key.slot);
            }
        }
    }

    /// Hands a command's next operation to the engine; ends the command when there is none. Tells whether the engine
    /// took it.
    fn start(&mut self, id: LaneId, key: CommandKey) -> bool {
        let Some(connection) = self.connections.get_mut(key.connection as usize).and_then(Option::as_mut) else {
            return true;
        };
        let core = &mut self.core;
        let Some(lane) = core.lanes.get_mut(id) else { return true };
        let slot = &mut connection.slots[usize::from(key.slot)];
        if let Some(changes) = slot.work.changes()
            && lane.namespace().orphans.hold_up(&changes, &core.mailbox)
        {
            // Others go on, which change other bytes.
            lane.held_up.push(key);
            return true;
        }
        let own = slot.buffer.as_mut().map(|(buffer, _)| buffer);
        let Some(operation) = slot.work.operation(&lane.files, slot.data_bytes, own) else {
            connection.complete(core, key.slot, Status::SUCCESS, 0);
            return true;
        };
        let buf = match operation.buffer {
            OperationBuffer::None => IoBuf::None,
            OperationBuffer::Own(len) => match slot.buffer.take() {
                Some((buffer, pool)) => {
                    slot.lent = Some(pool);
                    IoBuf::Pool(buffer, len)
                }
                None => IoBuf::None,
            },
            OperationBuffer::Extra(len) => match core.data_pool.get(len) {
                Some(buffer) => IoBuf::Pool(buffer, len),
                None => {
                    // Waiting with one buffer for another could block for ever; Compare is rare, and can be repeated.
                    connection.complete(core, key.slot, Status::new(StatusCode::CommandInterrupted), 0);
                    return true;
                }
            },
        };
        let request = IoRequest {
            token: key.to_token(),
            file: operation.file,
            kind: operation.kind,
            offset: operation.offset,
            buf,
        };
        match core.engine.submit(request) {
            Ok(()) => {
                slot.stage = Stage::InEngine;
                lane.in_engine += 1;
                connection.in_engine += 1;
                true
            }
            Err(request) => {
                // Full after all: the command keeps its turn.
                if let (Some(pool), IoBuf::Pool(buffer, _)) = (slot.lent.take(), request.buf) {
                    slot.buffer = Some((buffer, pool));
                }
                slot.stage = Stage::Ready;
                lane.ready.push_front(key);
                false
            }
        }
    }

    /// Takes in what the engine has ended. Tells how many operations that were.
    fn end_operations(&mut self) -> usize {
        if self.core.engine.in_flight() == 0 {
            return 0;
        }
        if let Err(error) = self.core.engine.flush() {
            tracing::error!(target: "nvferry::target", %error, "the I/O engine cannot hand operations to the system");
        }
        let mut done = std::mem::take(&mut self.done);
        self.core.engine.reap(&mut done);
        let count = done.len();
        if count > 0 {
            // One look at the clock for all that ended together.
            self.core.tick(clock::now());
        }
        for completion in done.drain(..) {
            self.operation_ended(completion);
        }
        self.done = done;
        let InlineStats { inline, passed_on } = self.core.engine.inline_stats();
        self.core.taken.set(Path::Inline, inline);
        self.core.taken.set(Path::Queued, passed_on);
        count
    }

    fn operation_ended(&mut self, completion: IoCompletion) {
        let key = CommandKey::from_token(completion.token);
        let core = &mut self.core;
        core.released = true;
        let Some(connection) = self.connections.get_mut(key.connection as usize).and_then(Option::as_mut) else {
            return;
        };
        connection.in_engine -= 1;
        let slot = &mut connection.slots[usize::from(key.slot)];
        let mut extra = None;
        match (slot.lent.take(), completion.buf) {
            (Some(pool), IoBuf::Pool(buffer, _)) => slot.buffer = Some((buffer, pool)),
            (None, IoBuf::Pool(buffer, _)) => extra = Some(buffer),
            _ => {}
        }
        let Some((id, lane)) = slot.lane.and_then(|id| core.lanes.get_mut(id).map(|lane| (id, lane))) else {
            return;
        };
        lane.in_engine -= 1;
        slot.stage = Stage::Ready;
        if matches!(connection.phase, Phase::Closed | Phase::Lingering) {
            // Nobody waits for it any more, but for those who change the same bytes.
            if let Some(changes) = slot.orphan.take() {
                lane.namespace().orphans.remove(&changes);
            }
            connection.free_slot(core, key.slot);
            if connection.is_finished() {
                core.ended.push(key.connection);
            }
            return;
        }
        let own = slot.buffer.as_mut().map(|(buffer, _)| buffer);
        let after =
            slot.work.operation_ended(lane.namespace(), slot.data_bytes, completion.result, own, extra.as_deref());
        match after {
            After::Continue => core.lanes.ready(id, key),
            After::NextLane(next) => {
                slot.lane = Some(next);
                core.lanes.leave(id);
                core.lanes.ready(next, key);
            }
            After::Done(status) => connection.complete(core, key.slot, status, 0),
        }
    }

    /// Lets connections go on that had to pause.
    fn resume_paused(&mut self, now: Instant) {
        for _ in 0..self.core.resumable.len() {
            let Some(key) = self.core.resumable.pop_front() else { break };
            if !self.is_current(key) {
                continue;
            }
            self.with(key.index, |connection, core, _| connection.resume(core, now));
            if self.core.resumable.back() == Some(&key) {
                // Paused again for want of a buffer: those behind have to wait, too.
                break;
            }
        }
    }

    /// Sends what connections have to send.
    fn send(&mut self, now: Instant) {
        let mut list = std::mem::replace(&mut self.core.sending, std::mem::take(&mut self.spare));
        for index in list.drain(..) {
            self.with(index, |connection, core, scratch| {
                if !connection.send_blocked {
                    connection.flush(core, scratch, now);
                }
            });
        }
        self.spare = list;
    }

    /// The target stops: closes what has nothing under way.
    fn close_idle(&mut self) {
        for index in 0..self.connections.len() as u32 {
            self.with(index, |connection, core, _| {
                let done = match &connection.queue {
                    None => true,
                    Some(queue) if queue.qid.is_admin() => !queue.controller.has_io_queues(),
                    Some(_) => true,
                };
                if done && !connection.is_busy() {
                    connection.ends_because("the target stops");
                    connection.close(core);
                }
            });
        }
    }

    /// Forgets connections of which nothing is left.
    fn bury(&mut self) {
        for index in std::mem::take(&mut self.core.ended) {
            let place = &mut self.connections[index as usize];
            if !place.as_ref().is_some_and(|connection| connection.is_finished()) {
                continue;
            }
            let Some(mut connection) = place.take() else { continue };
            connection.unregister(&self.core.subsystem);
            if let Some(reactor) = connection.placed_on {
                self.core.placement.leave(reactor);
            }
            self.vacate(index);
        }
    }

    fn vacate(&mut self, index: u32) {
        let generation = &mut self.generations[index as usize];
        *generation = generation.wrapping_add(1);
        self.free.push(index);
    }

    /// Lets queues go that are to live elsewhere.
    fn part(&mut self) {
        for index in std::mem::take(&mut self.core.leaving) {
            let place = &mut self.connections[index as usize];
            let to = place.as_ref().filter(|connection| connection.phase == Phase::Live).and_then(|it| it.moving_to);
            if let (Some(to), Some(connection)) = (to, place.take_if(|_| to.is_some())) {
                self.core.strangers.leave(connection.key);
                self.vacate(index);
                self.departures.push((to, connection));
            }
        }
    }

    /// Queues that are to live on other workers.
    pub(crate) fn departures(&mut self) -> Vec<(usize, Box<Connection<S>>)> {
        std::mem::take(&mut self.departures)
    }

    /// Connections that may be interested in their stream in another way than before. Some may have gone.
    pub(crate) fn touched(&mut self, into: &mut Vec<u32>) {
        for &index in &self.touched {
            if let Some(connection) = &mut self.connections[index as usize] {
                connection.touched = false;
            }
        }
        into.append(&mut self.touched);
    }

    /// Connections, those included of which only operations are left.
    pub(crate) fn len(&self) -> usize {
        self.connections.iter().flatten().count()
    }

    /// Commands that are under way.
    pub(crate) fn busy(&self) -> usize {
        self.connections.iter().flatten().map(|connection| connection.slots.len() - connection.free_slots.len()).sum()
    }

    /// Closes everything at once, and lets go of all namespaces.
    pub(crate) fn close_all(&mut self) {
        for index in 0..self.connections.len() as u32 {
            self.with(index, |connection, core, _| {
                connection.ends_because("the target stopped");
                connection.close(core);
            });
        }
        for connection in self.connections.iter_mut().filter_map(Option::take) {
            let mut connection = connection;
            connection.unregister(&self.core.subsystem);
        }
        self.core.lanes.clear();
    }
}
