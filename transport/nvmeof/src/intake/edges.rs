//! Writes of parts of blocks: read, merge, write, one at a time on each block.
//!
//! All writes to one block that wait when its read ends are merged into one write. The block stays locked until the
//! device has really ended that write, also when the slices have timed out meanwhile: a late write would undo what
//! came after it. The host drivers issue the reads and writes; this keeps the locks, merges, and ends the slices.

use nvferry_engine::{Failure, Slice};
use nvferry_io::PoolBuf;
use std::collections::HashMap;
use std::time::Instant;

/// A block that is being changed in part.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct EdgeId(u32);

/// Where a block is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct BlockPlace {
    /// The file, by its driver's number.
    pub(crate) file: u32,
    /// The block's first byte in the file.
    pub(crate) start: u64,
    /// Bytes that the block has.
    pub(crate) len: u32,
}

impl BlockPlace {
    /// The block of `len` bytes, a power of two, that holds the byte at `offset`.
    pub(crate) fn around(file: u32, offset: u64, len: u32) -> Self {
        Self { file, start: offset & !(u64::from(len) - 1), len }
    }
}

/// How far the change of a block is.
#[derive(Debug, PartialEq, Eq)]
enum Phase {
    /// Nobody writes to the block; the entry may be used for another.
    Free,
    /// It is to be read, or is being read: slices that come are merged, too.
    Reading,
    /// It is to be written, or is being written: slices that come wait for the next round.
    Writing,
}

#[derive(Debug)]
struct Edge {
    place: BlockPlace,
    phase: Phase,
    /// The merged block, until the driver takes it to write it.
    merged: Option<PoolBuf>,
    /// The slices of this round; those that ended early are gone.
    slices: Vec<Slice>,
    next_round: Vec<Slice>,
}

/// What the driver is to do next with a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum EdgeStep {
    /// Read it.
    Read(EdgeId),
    /// Write it: [`EdgeWrites::take_merged`] has the bytes.
    Write(EdgeId),
    /// Nothing.
    Done,
}

/// All blocks of one worker's device that are being changed in part.
#[derive(Debug, Default)]
pub(crate) struct EdgeWrites {
    edges: Vec<Edge>,
    free: Vec<EdgeId>,
    by_place: HashMap<BlockPlace, EdgeId>,
}

impl EdgeWrites {
    /// Takes a write that lies within one block.
    pub(crate) fn add(&mut self, place: BlockPlace, slice: Slice) -> EdgeStep {
        if let Some(&id) = self.by_place.get(&place) {
            let edge = &mut self.edges[id.0 as usize];
            let round = if edge.phase == Phase::Reading { &mut edge.slices } else { &mut edge.next_round };
            round.push(slice);
            return EdgeStep::Done;
        }
        let id = self.free.pop().unwrap_or_else(|| {
            let (slices, next_round) = (Vec::new(), Vec::new());
            self.edges.push(Edge { place, phase: Phase::Free, merged: None, slices, next_round });
            EdgeId(self.edges.len() as u32 - 1)
        });
        let edge = &mut self.edges[id.0 as usize];
        (edge.place, edge.phase) = (place, Phase::Reading);
        edge.slices.push(slice);
        self.by_place.insert(place, id);
        EdgeStep::Read(id)
    }

    /// Where a block is.
    pub(crate) fn place(&self, id: EdgeId) -> BlockPlace {
        self.edges[id.0 as usize].place
    }

    /// Whether a slice still waits for this round.
    pub(crate) fn is_wanted(&self, id: EdgeId) -> bool {
        !self.edges[id.0 as usize].slices.is_empty()
    }

    /// The block was read: the slices' bytes go into it. Returns the next step and how many bytes were merged.
    pub(crate) fn read(&mut self, id: EdgeId, mut block: PoolBuf) -> (EdgeStep, usize) {
        let edge = &mut self.edges[id.0 as usize];
        if edge.slices.is_empty() {
            return (self.round_over(id), 0);
        }
        let mut bytes = 0;
        for slice in &edge.slices {
            let at = (slice.offset - edge.place.start) as usize;
            slice.memory.copy_to(0, &mut block[at..at + slice.len()]);
            bytes += slice.len();
        }
        edge.phase = Phase::Writing;
        edge.merged = Some(block);
        (EdgeStep::Write(id), bytes)
    }

    /// The bytes to write, which the driver takes along.
    pub(crate) fn take_merged(&mut self, id: EdgeId) -> Option<PoolBuf> {
        self.edges[id.0 as usize].merged.take()
    }

    /// The bytes could not be written yet.
    pub(crate) fn put_merged(&mut self, id: EdgeId, block: PoolBuf) {
        self.edges[id.0 as usize].merged = Some(block);
    }

    /// The connection was lost: what was read over it is merged no more. Others may have changed the blocks since, or the
    /// target may have lost what they held.
    pub(crate) fn unmerge(&mut self) {
        for edge in self.edges.iter_mut().filter(|edge| edge.merged.is_some()) {
            (edge.merged, edge.phase) = (None, Phase::Reading);
            edge.slices.append(&mut edge.next_round);
        }
    }

    /// Whether the block is to be read before it can be written.
    pub(crate) fn is_to_be_read(&self, id: EdgeId) -> bool {
        self.edges[id.0 as usize].phase == Phase::Reading
    }

    /// The write has ended well. `each` sees the slices before they end.
    pub(crate) fn written(&mut self, id: EdgeId, mut each: impl FnMut(&Slice)) -> EdgeStep {
        for slice in self.edges[id.0 as usize].slices.drain(..) {
            each(&slice);
            slice.complete();
        }
        self.round_over(id)
    }

    /// Reading or writing failed for good.
    pub(crate) fn failed(&mut self, id: EdgeId, mut why: impl FnMut(&Slice) -> Failure) -> EdgeStep {
        for slice in self.edges[id.0 as usize].slices.drain(..) {
            let failure = why(&slice);
            slice.fail(failure);
        }
        self.round_over(id)
    }

    /// The connection was lost: the round begins again. Slices that wait for the next round join it.
    pub(crate) fn restart(&mut self, id: EdgeId) -> EdgeStep {
        let edge = &mut self.edges[id.0 as usize];
        edge.slices.append(&mut edge.next_round);
        edge.merged = None;
        if edge.slices.is_empty() {
            return self.round_over(id);
        }
        edge.phase = Phase::Reading;
        EdgeStep::Read(id)
    }

    fn round_over(&mut self, id: EdgeId) -> EdgeStep {
        let edge = &mut self.edges[id.0 as usize];
        edge.merged = None;
        edge.slices.append(&mut edge.next_round);
        if edge.slices.is_empty() {
            edge.phase = Phase::Free;
            self.by_place.remove(&edge.place);
            self.free.push(id);
            return EdgeStep::Done;
        }
        edge.phase = Phase::Reading;
        EdgeStep::Read(id)
    }

    /// Ends the slices that `give_up` has a reason for. Merged bytes are a copy, so none of them is touched any more.
    pub(crate) fn give_up(&mut self, mut give_up: impl FnMut(&Slice) -> Option<Failure>) {
        if self.by_place.is_empty() {
            return;
        }
        for edge in self.edges.iter_mut().filter(|edge| edge.phase != Phase::Free) {
            for round in [&mut edge.slices, &mut edge.next_round] {
                let mut i = 0;
                while i < round.len() {
                    if let Some(failure) = give_up(&round[i]) {
                        round.remove(i).fail(failure);
                    } else {
                        i += 1;
                    }
                }
            }
        }
    }

    /// Takes all slices. Blocks that are being read or written stay locked until that has ended.
    pub(crate) fn evict(&mut self, into: &mut Vec<Slice>) {
        for edge in &mut self.edges {
            into.append(&mut edge.slices);
            into.append(&mut edge.next_round);
        }
    }

    /// The earliest deadline of all slices.
    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        if self.by_place.is_empty() {
            return None;
        }
        let slices = |edge: &'_ Edge| edge.slices.iter().chain(&edge.next_round).map(|slice| slice.deadline).min();
        self.edges.iter().filter_map(slices).min()
    }

    /// Whether no block is being changed.
    pub(crate) fn is_empty(&self) -> bool {
        self.by_place.is_empty()
    }
}

#[cfg(test)]
impl EdgeId {
    pub(crate) fn for_test(id: u32) -> Self {
        Self(id)
    }
}
