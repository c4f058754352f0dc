//! One request's state: a word that changes by compare and exchange, and what the request was about.
//!
//! The word holds how many slices have not ended, the state, and the verdict: the state that the request ends in
//! when the last slice does. From `Pending`, exactly one thread moves a slot to a terminal state: the one that ends the
//! last slice, or whoever gives the request up (deadline, cancel) before that.

use crate::ids::{FileBufferId, Operation, SegmentId, TransferState};
use std::sync::atomic::{AtomicI32, AtomicU32, AtomicU64, Ordering};

/// What a request is about; kept for its error and its deadline.
#[derive(Debug, Clone, Copy)]
pub(super) struct About {
    pub(super) operation: Operation,
    pub(super) segment: SegmentId,
    pub(super) file: FileBufferId,
    pub(super) offset: u64,
    pub(super) len_bytes: u64,
    /// Since the batch's epoch.
    pub(super) deadline_ns: u64,
}

/// One cache line, so that workers that end neighbours do not disturb each other.
#[derive(Default)]
#[repr(align(64))]
pub(super) struct Slot {
    word: AtomicU64,
    /// Moved so far; kept only for requests of more than one slice.
    moved_bytes: AtomicU64,
    len_bytes: AtomicU64,
    offset: AtomicU64,
    deadline_ns: AtomicU64,
    file: AtomicU32,
    segment: AtomicI32,
    is_write: AtomicU32,
}

const STATE_SHIFT: u32 = 32;
const VERDICT_SHIFT: u32 = 40;

fn word(state: TransferState, remaining: u32) -> u64 {
    (state as u64) << STATE_SHIFT | u64::from(remaining)
}

fn state_at(word: u64, shift: u32) -> TransferState {
    match (word >> shift) & 0xff {
        1 => TransferState::Pending,
        2 => TransferState::Invalid,
        3 => TransferState::Canceled,
        4 => TransferState::Completed,
        5 => TransferState::Timeout,
        6 => TransferState::Failed,
        _ => TransferState::Waiting,
    }
}

impl Slot {
    /// Prepares it for a request; `remaining` slices are about to be handed out, or none yet for one that waits.
    pub(super) fn start(&self, about: &About, state: TransferState, remaining: u32) {
        self.moved_bytes.store(0, Ordering::Relaxed);
        self.len_bytes.store(about.len_bytes, Ordering::Relaxed);
        self.offset.store(about.offset, Ordering::Relaxed);
        self.deadline_ns.store(about.deadline_ns, Ordering::Relaxed);
        self.file.store(about.file.0, Ordering::Relaxed);
        self.segment.store(about.segment.0, Ordering::Relaxed);
        self.is_write.store(u32::from(about.operation == Operation::Write), Ordering::Relaxed);
        self.word.store(word(state, remaining), Ordering::Release);
    }

    pub(super) fn about(&self) -> About {
        let is_write = self.is_write.load(Ordering::Relaxed) != 0;
        About {
            operation: if is_write { Operation::Write } else { Operation::Read },
            segment: SegmentId(self.segment.load(Ordering::Relaxed)),
            file: FileBufferId(self.file.load(Ordering::Relaxed)),
            offset: self.offset.load(Ordering::Relaxed),
            len_bytes: self.len_bytes.load(Ordering::Relaxed),
            deadline_ns: self.deadline_ns.load(Ordering::Relaxed),
        }
    }

    pub(super) fn deadline_ns(&self) -> u64 {
        self.deadline_ns.load(Ordering::Relaxed)
    }

    pub(super) fn state(&self) -> TransferState {
        state_at(self.word.load(Ordering::Acquire), STATE_SHIFT)
    }

    /// Bytes moved so far.
    pub(super) fn bytes(&self) -> u64 {
        if self.state() == TransferState::Completed {
            self.len_bytes.load(Ordering::Relaxed)
        } else {
            self.moved_bytes.load(Ordering::Relaxed)
        }
    }

    /// Counts a slice's end, with the state that its failure asks for. Returns the request's state when it
    /// ended by this.
    pub(super) fn end_slice(&self, len_bytes: u64, failure: Option<TransferState>) -> Option<TransferState> {
        if failure.is_none() && len_bytes != self.len_bytes.load(Ordering::Relaxed) {
            self.moved_bytes.fetch_add(len_bytes, Ordering::Relaxed);
        }
        let mut now = self.word.load(Ordering::Relaxed);
        loop {
            debug_assert!(now as u32 > 0, "a slice ended twice");
            let mut next = now - 1;
            if let Some(verdict) = failure
                && state_at(now, VERDICT_SHIFT) == TransferState::Waiting
            {
                next |= (verdict as u64) << VERDICT_SHIFT;
            }
            let mut end = None;
            if next as u32 == 0 && state_at(now, STATE_SHIFT) == TransferState::Pending {
                let state = match state_at(next, VERDICT_SHIFT) {
                    TransferState::Waiting => TransferState::Completed,
                    verdict => verdict,
                };
                next = word(state, 0);
                end = Some(state);
            }
            match self.word.compare_exchange_weak(now, next, Ordering::AcqRel, Ordering::Relaxed) {
                Ok(_) => return end,
                Err(newer) => now = newer,
            }
        }
    }

    /// Starts one that waited, with this many slices. Returns false when it was given up meanwhile.
    pub(super) fn begin(&self, slices: u32) -> bool {
        let waiting = word(TransferState::Waiting, 0);
        let pending = word(TransferState::Pending, slices);
        self.word.compare_exchange(waiting, pending, Ordering::AcqRel, Ordering::Relaxed).is_ok()
    }

    /// Completes one that has begun and has no slices. Returns whether this ended it.
    pub(super) fn complete_empty(&self) -> bool {
        let (pending, completed) = (word(TransferState::Pending, 0), word(TransferState::Completed, 0));
        self.word.compare_exchange(pending, completed, Ordering::AcqRel, Ordering::Relaxed).is_ok()
    }

    /// Gives the request up in this state (or that of its first failure), whatever its slices do later.
    /// Returns whether this ended it.
    pub(super) fn give_up(&self, state: TransferState) -> bool {
        let mut now = self.word.load(Ordering::Relaxed);
        loop {
            if state_at(now, STATE_SHIFT).is_terminal() {
                return false;
            }
            let state = match state_at(now, VERDICT_SHIFT) {
                TransferState::Waiting => state,
                verdict => verdict,
            };
            let next = word(state, now as u32);
            match self.word.compare_exchange_weak(now, next, Ordering::AcqRel, Ordering::Relaxed) {
                Ok(_) => return true,
                Err(newer) => now = newer,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn started(slices: u32) -> Slot {
        let about = About {
            operation: Operation::Write,
            segment: SegmentId(3),
            file: FileBufferId(7),
            offset: 11,
            len_bytes: 100,
            deadline_ns: 13,
        };
        let slot = Slot::default();
        assert_eq!(slot.state(), TransferState::Waiting);
        slot.start(&about, TransferState::Pending, slices);
        slot
    }

    #[test]
    fn it_is_one_cache_line() {
        assert_eq!(size_of::<Slot>(), 64);
    }

    #[test]
    fn the_last_slice_completes_it() {
        let slot = started(2);
        assert_eq!(slot.end_slice(60, None), None);
        assert_eq!((slot.state(), slot.bytes()), (TransferState::Pending, 60));
        assert_eq!(slot.end_slice(40, None), Some(TransferState::Completed));
        assert_eq!((slot.state(), slot.bytes()), (TransferState::Completed, 100));
    }

    #[test]
    fn the_first_failure_decides_but_the_last_slice_ends_it() {
        let slot = started(3);
        assert_eq!(slot.end_slice(10, Some(TransferState::Timeout)), None);
        assert_eq!(slot.end_slice(10, Some(TransferState::Failed)), None);
        assert_eq!(slot.state(), TransferState::Pending);
        assert_eq!(slot.end_slice(80, None), Some(TransferState::Timeout));
        assert_eq!((slot.state(), slot.bytes()), (TransferState::Timeout, 80));
    }

    #[test]
    fn one_that_was_given_up_stays_so_whatever_comes_late() {
        let slot = started(2);
        assert!(slot.give_up(TransferState::Canceled));
        assert!(!slot.give_up(TransferState::Timeout));
        assert_eq!(slot.end_slice(50, None), None);
        assert_eq!(slot.end_slice(50, Some(TransferState::Failed)), None);
        assert_eq!(slot.state(), TransferState::Canceled);
    }

    #[test]
    fn one_that_waits_begins_unless_it_was_given_up() {
        let about = started(1).about();
        let slot = Slot::default();
        slot.start(&about, TransferState::Waiting, 0);
        assert!(slot.begin(2));
        assert!(!slot.begin(2));
        assert_eq!(slot.state(), TransferState::Pending);
        slot.start(&about, TransferState::Waiting, 0);
        assert!(slot.give_up(TransferState::Timeout));
        assert!(!slot.begin(1));
        assert_eq!(slot.state(), TransferState::Timeout);
    }

    #[test]
    fn it_remembers_what_it_is_about() {
        let about = started(1).about();
        assert_eq!(about.operation, Operation::Write);
        assert_eq!((about.segment, about.file), (SegmentId(3), FileBufferId(7)));
        assert_eq!((about.offset, about.len_bytes, about.deadline_ns), (11, 100, 13));
    }
}
