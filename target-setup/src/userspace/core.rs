//! What the connections of a worker share: buffers, the I/O engine, lanes, and lists of who has something to do.

use super::connection::Pool;
use super::lane::{LaneId, Lanes};
use super::limits;
use super::mailbox::{ConnectionKey, Mailbox};
use super::placement::Placement;
use super::strangers::Strangers;
use super::subsystem::Subsystem;
use nvferry_io::fast_paths::{FastPaths, PathCounters};
use nvferry_io::pool::PoolConfig;
use nvferry_io::{BufferPool, IoEngine, Pages, PoolBuf};
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

/// What a worker's connections share.
pub(crate) struct Core {
    /// The worker's number among its target's.
    pub(crate) index: usize,
    pub(crate) subsystem: Arc<Subsystem>,
    pub(crate) placement: Arc<Placement>,
    pub(crate) mailbox: Arc<Mailbox>,
    /// What tests force.
    pub(crate) paths: FastPaths,
    /// Which paths were taken.
    pub(crate) taken: Arc<PathCounters>,
    pub(crate) lanes: Lanes,
    pub(crate) strangers: Strangers,
    pub(crate) engine: Box<dyn IoEngine>,
    pub(crate) data_pool: BufferPool,
    pub(crate) capsule_pool: BufferPool,
    /// The time of this turn, in microseconds from the first one.
    pub(crate) now_us: u64,
    first_turn: Option<Instant>,
    /// When to look which of their idle buffers were not needed; none while there are few.
    pub(super) decay_at: Option<Instant>,
    /// Pipes for pages of files; without them everything is copied.
    pipes: Option<Pipes>,
    /// Paused connections that may perhaps go on: a buffer or room in their send queue may have become free.
    pub(crate) resumable: VecDeque<ConnectionKey>,
    /// Buffers or places in the engine have become free.
    pub(crate) released: bool,
    /// Connections that have something to send.
    pub(super) sending: Vec<u32>,
    /// Connections that have ended.
    pub(crate) ended: Vec<u32>,
    /// Connections that are to live on another worker.
    pub(crate) leaving: Vec<u32>,
    /// Lanes that could not go on.
    pub(super) blocked: Vec<LaneId>,
}

/// A buffer, if there is one.
pub(crate) enum CoreBuffer {
    Lent(PoolBuf),
    /// None is free; one will be.
    Later,
    /// None for this namespace, which has taken its share.
    Refused,
}

/// Pages of a file that are to be sent.
pub(crate) struct LentPages {
    pub(crate) pages: Pages,
    /// Counts the pipe as lent.
    _token: Arc<()>,
}

/// A bounded number of pipes.
#[derive(Default)]
struct Pipes {
    idle: Vec<Pages>,
    /// Each that is lent has a clone.
    token: Arc<()>,
}

impl Pipes {
    fn lend(&mut self) -> Option<LentPages> {
        let token = Arc::clone(&self.token);
        let pages = match self.idle.pop() {
            Some(pages) => pages,
            None if Arc::strong_count(&token) - 2 < limits::MAX_PIPES => Pages::new().ok()?,
            None => return None,
        };
        Some(LentPages { pages, _token: token })
    }
}

impl Core {
    pub(crate) fn new(
        index: usize,
        subsystem: Arc<Subsystem>,
        placement: Arc<Placement>,
        mailbox: Arc<Mailbox>,
        engine: Box<dyn IoEngine>,
    ) -> Self {
        let data = PoolConfig {
            max_bytes: limits::DATA_POOL_BYTES,
            max_idle_bytes: limits::DATA_POOL_BYTES,
            ..PoolConfig::default()
        };
        // 4, 16 and 64 KiB: in-capsule data has no more.
        let capsule = PoolConfig {
            tiers: 3,
            max_bytes: limits::CAPSULE_POOL_BYTES,
            max_idle_bytes: limits::CAPSULE_POOL_BYTES,
            ..PoolConfig::default()
        };
        Self {
            index,
            subsystem,
            strangers: Strangers::new(placement.reactors()),
            placement,
            mailbox,
            paths: FastPaths::of_this_process(),
            taken: Arc::default(),
            lanes: Lanes::default(),
            engine,
            data_pool: BufferPool::new(data),
            capsule_pool: BufferPool::new(capsule),
            now_us: 0,
            first_turn: None,
            decay_at: None,
            pipes: None,
            resumable: VecDeque::new(),
            released: false,
            sending: Vec::new(),
            ended: Vec::new(),
            leaving: Vec::new(),
            blocked: Vec::new(),
        }
    }

    /// Takes note of the time. It never goes back.
    pub(crate) fn tick(&mut self, now: Instant) {
        let first = *self.first_turn.get_or_insert(now);
        let now_us = now.saturating_duration_since(first).as_micros() as u64;
        self.now_us = self.now_us.max(now_us);
    }

    /// From now on reads of what is in memory send pages of their files.
    pub(crate) fn send_pages(&mut self) {
        self.pipes.get_or_insert_default();
    }

    /// The bytes of a read as pages of its lane's file, if they are in memory.
    pub(crate) fn pages(&mut self, lane: LaneId, offset: u64, len: usize) -> Option<LentPages> {
        let (pipes, file) = (self.pipes.as_mut()?, self.lanes.get(lane)?.namespace().pages.as_ref()?);
        let mut lent = pipes.lend()?;
        match lent.pages.take(file, offset, len) {
            Ok(true) => Some(lent),
            Ok(false) => {
                pipes.idle.push(lent.pages);
                None
            }
            Err(_) => None,
        }
    }

    /// Takes back what pages were in.
    pub(crate) fn take_back_pipes(&mut self, empty: &mut Vec<LentPages>) {
        let lent = empty.drain(..).map(|lent| lent.pages);
        match &mut self.pipes {
            Some(pipes) => pipes.idle.extend(lent),
            None => drop(lent),
        }
    }

    /// Notes that a connection has something to send.
    pub(crate) fn has_to_send(&mut self, index: u32) {
        if self.sending.last() != Some(&index) {
            self.sending.push(index);
        }
    }

    /// A buffer for in-capsule data. A namespace gets no more than what is left for others.
    pub(crate) fn capsule_buffer(&mut self, lane: Option<LaneId>, bytes: usize) -> CoreBuffer {
        let left = limits::CAPSULE_POOL_BYTES.saturating_sub(self.capsule_pool.stats().in_use_bytes);
        let held = lane.and_then(|lane| self.lanes.get(lane)).map_or(0, |lane| lane.capsule_bytes);
        if held > left {
            return CoreBuffer::Refused;
        }
        let Some(buffer) = self.capsule_pool.get(bytes) else { return CoreBuffer::Later };
        if let Some(lane) = lane.and_then(|lane| self.lanes.get_mut(lane)) {
            lane.capsule_bytes += buffer.len();
        }
        CoreBuffer::Lent(buffer)
    }

    /// A command no longer holds a buffer of this size.
    pub(crate) fn buffer_left(&mut self, lane: Option<LaneId>, pool: Pool, bytes: usize) {
        self.released = true;
        if let Some(lane) = lane.and_then(|lane| self.lanes.get_mut(lane)) {
            match pool {
                Pool::Data => lane.data_bytes -= bytes,
                Pool::Capsule => lane.capsule_bytes -= bytes,
            }
        }
    }

    /// Whether more buffers are idle than an idle reactor keeps.
    fn has_spare_buffers(&self) -> bool {
        self.data_pool.stats().free_bytes > limits::DATA_POOL_IDLE_BYTES
            || self.capsule_pool.stats().free_bytes > limits::CAPSULE_POOL_IDLE_BYTES
    }

    /// Sees to it that spare buffers are looked after.
    pub(super) fn watch_buffers(&mut self, now: Instant) {
        if self.decay_at.is_none() && self.has_spare_buffers() {
            self.decay_at = Some(now + limits::POOL_DECAY);
        }
    }

    /// Gives back what was not needed of late, if that is due.
    pub(super) fn decay_buffers(&mut self, now: Instant) {
        if self.decay_at.is_some_and(|at| at <= now) {
            self.data_pool.decay(limits::DATA_POOL_IDLE_BYTES);
            self.capsule_pool.decay(limits::CAPSULE_POOL_IDLE_BYTES);
            self.decay_at = None;
            self.watch_buffers(now);
        }
    }

    /// Bytes of data buffers that nobody holds.
    pub(super) fn data_left(&self) -> usize {
        limits::DATA_POOL_BYTES.saturating_sub(self.data_pool.stats().in_use_bytes)
    }

    /// Whether a lane with `in_engine` operations in the engine may have one more.
    pub(super) fn engine_has_room(&self, in_engine: usize) -> bool {
        let left = self.engine.capacity().saturating_sub(self.engine.in_flight());
        left > 0 && (in_engine == 0 || in_engine < left)
    }
}
