//! One I/O queue pair as a state machine: slices go in, become NVMe commands, and end, whatever happens.
//!
//! It outlives its connections: slices wait while there is none, and what was under way on a connection that broke
//! is sent again on the next. No threads, sockets or clocks inside; whoever drives it brings the stream and the time.
//!
//! ```text
//! Down --connecting--> Establishing --Connect succeeded--> Ready
//!  ^                        |                                |
//!  '------- any error ------'----------- any error ----------'
//! ```
//!
//! - [`crate::intake`]: cutting, alignment, turns: what slices go through before and between commands.
//! - [`pump`]: jobs become commands.
//! - [`settle`]: ended commands become ended slices, or are tried again; [`retry`] decides.
//! - [`deadlines`]: what ends because its time is over.

mod deadlines;
mod pump;
mod retry;
mod settle;
#[cfg(test)]
mod tests;

pub(crate) use retry::backoff;

use super::auth::Authentication;
use super::link::{Ended, Link, LinkError, MAX_SLOTS, ReceiveState, SendState};
use crate::host::namespaces::NamespaceTable;
use crate::intake::Intake;
use crate::intake::edges::EdgeId;
use crate::intake::lanes::LaneId;
use crate::status::{CommandLatencies, Counters};
use nvferry_auth::Secret;
use nvferry_engine::{Failure, Operation, Slice};
use nvferry_io::fast_paths::{FastPaths, PathCounters};
use nvferry_io::stream::Stream;
use nvferry_io::vector::IoVecs;
use nvferry_io::{AlignedBuf, BufferPool};
use nvferry_wire::pdu::Digests;
use nvferry_wire::{ControllerId, HostId, Nqn, QueueId};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The time that a connection has from its first byte to the answer to Connect.
const ESTABLISH_TIME: Duration = Duration::from_secs(5);

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
    /// What this host proves to know, where the target asks.
    pub secret: Option<Secret>,
    /// What the target has to prove to know.
    pub controller_secret: Option<Secret>,
}

/// Scratch that all queue pairs of a worker share. It holds nothing between calls.
#[derive(Debug)]
pub struct Scratch {
    buffer: AlignedBuf,
    vecs: Vecs,
    ended: Vec<Ended<Op>>,
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
        Self {
            buffer: AlignedBuf::pages(RECEIVE_BUFFER_BYTES),
            vecs: Vecs(IoVecs::new()),
            ended: Vec::with_capacity(256),
        }
    }
}

impl Default for Scratch {
    fn default() -> Self {
        Self::new()
    }
}

/// A command's purpose.
#[derive(Debug, Clone, Copy)]
enum Op {
    /// The Connect that makes the connection a queue.
    Connect,
    /// A part of the authentication that follows it.
    Authenticate,
    /// Moves a slice.
    Slice { lane: LaneId, attempts: u8, op: Operation, begun_us: u32 },
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
    intake: Intake,
    state: State,
    link: Option<Link<Op>>,
    params: Option<Arc<QueueParams>>,
    authentication: Option<Authentication>,
    pool: BufferPool,
    /// Why there is no connection.
    last_error: Option<LinkError>,
    /// When to look whether the target is still there, if commands are under way then.
    peer_check: Option<Instant>,
    trust_short_receives: bool,
    /// A command was carried out on this connection, or on the last one while there is none.
    has_worked: bool,
    /// What tests force.
    paths: FastPaths,
    taken: Arc<PathCounters>,
}

impl QueuePair {
    /// A queue pair without a connection. `pool` lends the buffers for blocks that
    /// are written in part.
    #[must_use]
    pub fn new(table: Arc<NamespaceTable>, pool: BufferPool) -> Self {
        let paths = FastPaths::of_this_process();
        Self {
            intake: Intake::new(table),
            state: State::Down,
            link: None,
            params: None,
            authentication: None,
            pool,
            last_error: None,
            peer_check: None,
            trust_short_receives: !paths.drained.is_off(),
            has_worked: false,
            paths,
            taken: Arc::default(),
        }
    }

    /// For streams of which a short receive does not mean that nothing more is there, as those in memory.
    pub fn distrust_short_receives(&mut self) {
        self.trust_short_receives = false;
    }

    /// Notes there how long commands take.
    pub fn note_latencies_in(&mut self, latencies: Arc<CommandLatencies>) {
        self.intake.latencies = latencies;
    }

    /// Counts there which paths data takes.
    pub fn count_paths_in(&mut self, taken: Arc<PathCounters>) {
        self.taken = taken;
    }

    /// Slices, or parts of slices, that wait.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.intake.waiting()
    }

    /// Whether commands flow.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.state == State::Ready
    }

    /// Whether there is no connection, and none is being made.
    #[must_use]
    pub fn is_down(&self) -> bool {
        self.state == State::Down
    }

    /// Whether a command was carried out on its connection, or on its last one while it has none.
    #[must_use]
    pub fn has_worked(&self) -> bool {
        self.has_worked
    }

    /// Commands under way, those included that nobody waits for any more.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.link.as_ref().map_or(0, Link::in_flight)
    }

    /// Slices, or parts of slices, that wait or are under way.
    #[must_use]
    pub fn load(&self) -> usize {
        self.intake.waiting() + self.in_flight()
    }

    /// Whether no slice is here.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.in_flight() == 0 && self.intake.is_empty()
    }

    /// The digests in use.
    #[must_use]
    pub fn digests(&self) -> Digests {
        self.link.as_ref().map(Link::digests).unwrap_or_default()
    }

    /// What went through it.
    #[must_use]
    pub fn counters(&self) -> Counters {
        let mut counters = self.intake.counters;
        if let Some(link) = &self.link {
            counters += link.stats();
        }
        counters
    }

    /// Takes a slice. It ends by itself, by its deadline at the latest.
    pub fn submit(&mut self, slice: Slice) {
        self.intake.submit(slice);
    }

    /// The namespaces have changed.
    pub fn set_namespaces(&mut self, table: Arc<NamespaceTable>) {
        self.intake.set_namespaces(table);
    }

    /// A stream is being made. It has a limited time from now on to become a queue.
    pub fn connecting(&mut self, params: Arc<QueueParams>, now: Instant) {
        self.intake.set_max_transfer(params.max_transfer_bytes);
        self.params = Some(params);
        self.has_worked = false;
        self.state = State::Establishing { step: Step::Stream, until: now + ESTABLISH_TIME };
    }

    /// The target could not even be asked for a connection.
    pub fn unreachable(&mut self, error: LinkError) {
        self.last_error = Some(error);
    }

    /// The stream stands. Drive it.
    pub fn connected(&mut self, now: Instant) {
        let Some(params) = &self.params else { return };
        // One entry of a queue always stays empty.
        let commands = (params.entries.saturating_sub(1) as usize).clamp(1, MAX_SLOTS);
        let mut link = Link::new(commands, params.digests, params.max_transfer_bytes);
        if !self.trust_short_receives {
            link.distrust_short_receives();
        }
        link.count_paths_in(Arc::clone(&self.taken));
        self.link = Some(link);
        self.peer_check = Some(now + deadlines::PEER_CHECK);
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
            self.advance()?;
            let pumped = self.pump(now);
            let Some(link) = &mut self.link else { return Ok(driven) };
            let had_room = link.has_room();
            let sent = link.flush(stream, &mut scratch.vecs.0);
            // Commands whose completion had come before their last data had left.
            self.settle(&mut scratch.ended, now)?;
            driven.blocked = sent? == SendState::Blocked;
            // What has been sent makes room, of which no event would tell: what was sent may never be answered.
            let has_more_room = !had_room && self.link.as_ref().is_some_and(Link::has_room);
            if driven.blocked || !(pumped || has_more_room) {
                return Ok(driven);
            }
        }
    }

    /// The connection is no more, or was not made. What was under way waits for the next one; what is too late ends.
    pub fn lost(&mut self, error: LinkError, stream: Option<&mut dyn Stream>, scratch: &mut Scratch, now: Instant) {
        self.state = State::Down;
        self.peer_check = None;
        self.intake.counters.disconnects += 1;
        self.last_error = Some(error.clone());
        let Some(mut link) = self.link.take() else { return };
        // What had ended before has been settled, but for the rest of a batch that was cut short by an error.
        link.take_ended(&mut scratch.ended);
        let unsettled = scratch.ended.drain(..).map(|ended| (ended.context, ended.payload));
        let mut under_way: Vec<_> = unsettled.collect();
        under_way.extend(link.dismantle(&error, stream, &mut scratch.vecs.0));
        self.intake.counters += link.stats();
        self.intake.edges.unmerge();
        // Each goes before the others: the oldest shall be the first again.
        for (op, payload) in under_way.into_iter().rev() {
            self.requeue(op, payload, now);
        }
    }

    /// Takes all slices that are here, to be submitted elsewhere. The stream is to be dropped.
    pub fn evict(&mut self, scratch: &mut Scratch, now: Instant) -> Vec<Slice> {
        self.lost(LinkError::GivenUp("it is no longer used".into()), None, scratch, now);
        self.intake.evict()
    }

    /// Ends everything that waits or is under way. The stream is to be dropped.
    pub fn close(&mut self, scratch: &mut Scratch, now: Instant, why: impl Fn() -> Failure) {
        self.lost(LinkError::GivenUp("it is no longer used".into()), None, scratch, now);
        self.intake.close(why);
    }
}
