//! One I/O queue pair as a state machine: slices go in, come out as NVMe commands, and end, whatever happens.
//!
//! It outlives its connections: slices wait here while there is none, and what was under way on a connection that
//! broke is sent again on the next. No threads, sockets or clocks inside; whoever drives it brings the stream and the
//! time.
//!
//! ```text
//! Down --connecting--> Establishing --Connect succeeded--> Ready
//!  ^                        |                                |
//!  '------- any error ------'----------- any error ----------'
//! ```
//!
//! - [`lanes`]: what waits for each file, and fair shares of the slots.
//! - [`pump`]: waiting jobs become commands.
//! - [`settle`]: ended commands become ended slices, or are tried again; [`retry`] decides.
//! - [`deadlines`]: what ends because its time is over.

mod deadlines;
mod lanes;
mod pump;
mod retry;
mod settle;

pub(crate) use retry::backoff;

use super::link::{Ended, Link, LinkError, MAX_SLOTS, ReceiveState, SendState};
use super::namespaces::{HostNamespace, NamespaceTable};
use crate::edges::{BlockPlace, EdgeId, EdgeWrites};
use crate::host::failed;
use crate::split::{CutRules, cut};
use lanes::{Job, LaneId, LaneState, Lanes};
use nvferry_engine::{Failure, Operation, Slice};
use nvferry_io::stream::Stream;
use nvferry_io::vector::IoVecs;
use nvferry_io::{AlignedBuf, BufferPool};
use nvferry_wire::pdu::Digests;
use nvferry_wire::{ControllerId, HostId, Nqn, QueueId};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The time that a connection has from its first byte to the answer to Connect.
pub(crate) const ESTABLISH_TIME: Duration = Duration::from_secs(5);

/// Bytes of the buffer that small payloads and headers are received into.
const RECEIVE_BUFFER_BYTES: usize = 256 << 10;

/// What a queue pair needs to know to connect.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QueueParams {
    /// The queue to be.
    pub qid: QueueId,
    /// Entries that it shall have.
    pub entries: u32,
    /// The controller that it belongs to.
    pub cntlid: ControllerId,
    /// The controller's subsystem.
    pub subnqn: Nqn,
    /// This host's name.
    pub host_nqn: Nqn,
    /// This host's id.
    pub host_id: HostId,
    /// Digests to ask for.
    pub digests: Digests,
    /// The most in-capsule data of an I/O command.
    pub in_capsule_bytes: u32,
    /// The longest transfer of one command.
    pub max_transfer_bytes: u32,
}

/// Scratch that all queue pairs of a worker share. It holds nothing between calls.
#[derive(Debug)]
pub struct Scratch {
    pub(crate) buffer: AlignedBuf,
    pub(crate) vecs: Vecs,
    pub(crate) ended: Vec<Ended<Op>>,
}

/// [`IoVecs`] that can be shown.
#[derive(Default)]
pub(crate) struct Vecs(pub(crate) IoVecs);

impl std::fmt::Debug for Vecs {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Vecs")
    }
}

impl Scratch {
    /// Fresh scratch.
    #[must_use]
    pub fn new() -> Self {
        Self { buffer: AlignedBuf::pages(RECEIVE_BUFFER_BYTES), vecs: Vecs(IoVecs::new()), ended: Vec::with_capacity(256) }
    }
}

impl Default for Scratch {
    fn default() -> Self {
        Self::new()
    }
}

/// What went through a queue pair, counted from its start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct QueueCounters {
    /// Slices read, edges of writes not counted.
    pub reads: u64,
    /// Slices written.
    pub writes: u64,
    /// Bytes of slices read.
    pub read_bytes: u64,
    /// Bytes of slices written.
    pub written_bytes: u64,
    /// Bytes that went through a bounce buffer.
    pub bounced_bytes: u64,
    /// Commands sent again, on the same connection or another.
    pub retries: u64,
    /// Slices that timed out.
    pub timeouts: u64,
    /// Slices that failed otherwise.
    pub failures: u64,
    /// Digests that did not match.
    pub digest_errors: u64,
    /// Connections that were made.
    pub connects: u64,
    /// Connections that broke, or were not made.
    pub disconnects: u64,
    /// System calls, or their like, that sent.
    pub sends: u64,
    /// System calls, or their like, that received.
    pub receives: u64,
}

/// A command's purpose.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Op {
    /// The Connect that makes the connection a queue.
    Connect,
    /// Moves a slice.
    Slice { lane: LaneId, attempts: u8 },
    /// Reads a block that is to be written in part.
    EdgeRead { lane: LaneId, edge: EdgeId, attempts: u8 },
    /// Writes a merged block.
    EdgeWrite { lane: LaneId, edge: EdgeId, attempts: u8 },
}

/// Where the queue pair stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// There is no connection.
    Down,
    /// The connection is being made: until when it must stand.
    Establishing { step: Step, until: Instant },
    /// Commands flow.
    Ready,
}

/// What a new connection waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    /// That the stream stands.
    Stream,
    /// For ICResp.
    Initialize,
    /// For the answer to Connect.
    Connect,
}

/// A job that is tried again later.
#[derive(Debug)]
struct Delayed {
    at: Instant,
    lane: LaneId,
    job: Job,
}

/// What driving a queue pair left to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Driven {
    /// There may be more to receive: drive it again after others had their turn.
    pub more: bool,
    /// The stream takes no more: drive it again when it does.
    pub blocked: bool,
}

/// One I/O queue pair.
#[derive(Debug)]
pub struct QueuePair {
    /// The target, for people.
    target: Arc<str>,
    state: State,
    link: Option<Link<Op>>,
    params: Option<Arc<QueueParams>>,
    table: Arc<NamespaceTable>,
    lanes: Lanes,
    edges: EdgeWrites,
    delayed: Vec<Delayed>,
    pool: BufferPool,
    /// Why there is no connection.
    last_error: Option<LinkError>,
    /// No slice's deadline and no delayed job is before this.
    check_at: Option<Instant>,
    trust_short_receives: bool,
    counters: QueueCounters,
}

impl QueuePair {
    /// A queue pair to `target` (named for people) without a connection. `pool` lends the buffers for blocks that
    /// are written in part.
    #[must_use]
    pub fn new(target: Arc<str>, table: Arc<NamespaceTable>, pool: BufferPool) -> Self {
        Self {
            target,
            state: State::Down,
            link: None,
            params: None,
            table,
            lanes: Lanes::default(),
            edges: EdgeWrites::default(),
            delayed: Vec::new(),
            pool,
            last_error: None,
            check_at: None,
            trust_short_receives: true,
            counters: QueueCounters::default(),
        }
    }

    /// For streams of which a short receive does not mean that nothing more is there, as those in memory.
    pub fn distrust_short_receives(&mut self) {
        self.trust_short_receives = false;
    }

    /// Whether commands flow.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.state == State::Ready
    }

    /// Whether a connection is wanted and nobody makes one.
    #[must_use]
    pub fn is_down(&self) -> bool {
        self.state == State::Down
    }

    /// Whether no slice is waiting or under way.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        let under_way = self.link.as_ref().is_some_and(|link| link.in_flight() > 0);
        !under_way && !self.lanes.any_waiting() && self.delayed.is_empty() && self.edges.is_empty()
    }

    /// What went through it.
    #[must_use]
    pub fn counters(&self) -> QueueCounters {
        let link = self.link.as_ref().map(Link::stats).unwrap_or_default();
        QueueCounters {
            digest_errors: self.counters.digest_errors + link.digest_errors,
            sends: self.counters.sends + link.sends,
            receives: self.counters.receives + link.receives,
            ..self.counters
        }
    }

    /// Takes a slice. It ends by itself, by its deadline at the latest.
    pub fn submit(&mut self, slice: Slice) {
        let Some(lane) = self.lanes.find(slice.file, &self.table) else {
            return self.fail(slice, "the target does not offer this file");
        };
        let namespace = match self.lanes.get(lane).state {
            LaneState::Present(namespace) | LaneState::Awaited(namespace) => namespace,
            LaneState::Gone => return self.fail(slice, "the target has withdrawn this file"),
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
            // Cut before it was sent here, but the target has changed its limits since.
            let mut parts = Vec::new();
            cut(slice, rules, |part| parts.push(part));
            parts.into_iter().for_each(|part| self.enqueue(lane, part, rules));
        }
    }

    /// What one command moves. Before the target's limit is known there is none: it is heeded when commands are made.
    fn rules(&self, namespace: &HostNamespace) -> CutRules {
        let max_transfer = self.params.as_ref().map_or(u32::MAX, |params| params.max_transfer_bytes);
        CutRules { block_bytes: namespace.block_bytes(), max_bytes: namespace.max_command_bytes(max_transfer) }
    }

    /// Lets a slice that one command, or the change of one block, can move wait for its turn.
    fn enqueue(&mut self, lane: LaneId, slice: Slice, rules: CutRules) {
        if slice.op == Operation::Read || rules.is_whole(slice.offset, slice.len()) {
            self.lanes.push_back(lane, Job::Slice(slice, 0));
        } else {
            let place = BlockPlace::around(lane.0, slice.offset, rules.block_bytes);
            let step = self.edges.add(place, slice);
            self.edge_step(lane, step);
        }
    }

    /// The namespaces have changed.
    pub fn set_namespaces(&mut self, table: Arc<NamespaceTable>) {
        self.lanes.update(&table);
        self.table = table;
        for id in self.lanes.ids() {
            if self.lanes.get(id).state == LaneState::Gone {
                for job in std::mem::take(&mut self.lanes.get_mut(id).waiting) {
                    self.fail_job(id, job, |queue, slice| failed(slice, &queue, "the target has withdrawn this file"));
                }
            }
        }
    }

    /// A stream is being made. It has [`ESTABLISH_TIME`] from now on to become a queue.
    pub fn connecting(&mut self, params: Arc<QueueParams>, now: Instant) {
        self.params = Some(params);
        self.state = State::Establishing { step: Step::Stream, until: now + ESTABLISH_TIME };
    }

    /// The stream stands. Drive it.
    pub fn connected(&mut self, now: Instant) {
        let Some(params) = &self.params else { return };
        // One entry of a queue always stays empty.
        let commands = (params.entries.saturating_sub(1) as usize).clamp(1, MAX_SLOTS);
        let mut link = Link::new(commands, params.digests, params.max_transfer_bytes.max(1 << 20));
        if !self.trust_short_receives {
            link.distrust_short_receives();
        }
        self.link = Some(link);
        self.state = State::Establishing { step: Step::Initialize, until: now + ESTABLISH_TIME };
    }

    /// Receives (if `readable`), ends what has ended, sends what can be sent.
    ///
    /// # Errors
    /// Why the connection has to end; [`Self::lost`] has been called then, and the stream is to be dropped.
    pub fn drive(
        &mut self,
        stream: &mut dyn Stream,
        scratch: &mut Scratch,
        now: Instant,
        readable: bool,
    ) -> Result<Driven, LinkError> {
        let driven = self.try_drive(stream, scratch, now, readable);
        if let Err(error) = &driven {
            // What had ended before has been settled.
            self.lost(error.clone(), Some(stream), scratch, now);
        }
        driven
    }

    fn try_drive(
        &mut self,
        stream: &mut dyn Stream,
        scratch: &mut Scratch,
        now: Instant,
        readable: bool,
    ) -> Result<Driven, LinkError> {
        let mut driven = Driven { more: false, blocked: false };
        if readable && let Some(link) = &mut self.link {
            let received = link.receive(stream, &mut scratch.vecs.0, &mut scratch.buffer);
            self.settle(&mut scratch.ended, now)?;
            driven.more = received? == ReceiveState::More;
        }
        loop {
            self.advance(now)?;
            let pumped = self.pump(now);
            let Some(link) = &mut self.link else { return Ok(driven) };
            let sent = link.flush(stream, &mut scratch.vecs.0);
            // Commands whose completion had come before their last data had left.
            self.settle(&mut scratch.ended, now)?;
            driven.blocked = sent? == SendState::Blocked;
            if driven.blocked || !pumped {
                return Ok(driven);
            }
        }
    }

    /// The connection is no more, or was not made. What was under way waits for the next one; what may not, ends.
    pub fn lost(&mut self, error: LinkError, stream: Option<&mut dyn Stream>, scratch: &mut Scratch, now: Instant) {
        self.state = State::Down;
        self.counters.disconnects += 1;
        let Some(mut link) = self.link.take() else {
            self.last_error = Some(error);
            return;
        };
        // In case the link was given up between two drives.
        link.take_ended(&mut scratch.ended);
        if let Err(nested) = self.settle(&mut scratch.ended, now) {
            tracing::debug!(target: "nvferry::host", error = %nested, "while ending a connection");
        }
        let under_way = link.dismantle(&error, stream, &mut scratch.vecs.0);
        let stats = link.stats();
        self.counters.digest_errors += stats.digest_errors;
        self.counters.sends += stats.sends;
        self.counters.receives += stats.receives;
        self.last_error = Some(error);
        // The oldest shall be the first again.
        for (op, payload) in under_way.into_iter().rev() {
            self.requeue(op, payload, now);
        }
    }

    /// Ends everything that waits or is under way. The stream is to be dropped before, or with the next call.
    pub fn close(&mut self, scratch: &mut Scratch, now: Instant, why: impl Fn(&Slice) -> Failure) {
        self.lost(LinkError::GivenUp("it is no longer used".into()), None, scratch, now);
        for id in self.lanes.ids() {
            for job in std::mem::take(&mut self.lanes.get_mut(id).waiting) {
                self.fail_job(id, job, |_, slice| why(slice));
            }
        }
        for Delayed { lane, job, .. } in std::mem::take(&mut self.delayed) {
            self.fail_job(lane, job, |_, slice| why(slice));
        }
        // Edges whose read or write stood in neither: none is left, but no slice may be forgotten.
        self.edges.give_up(|slice| Some(why(slice)));
    }

    fn fail(&mut self, slice: Slice, why: impl std::fmt::Display) {
        self.counters.failures += 1;
        let failure = failed(&slice, &self.target, why);
        slice.fail(failure);
    }
}
